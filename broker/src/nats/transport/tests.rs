//! Layers against a peer that takes little at a time, so that they have to hold back.
