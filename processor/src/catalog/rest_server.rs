//! Iceberg's REST catalog, reading side.
