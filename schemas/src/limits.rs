//! The limits on what a payload may hold. Lengths are in bytes of UTF-8. Beyond one of them a message is refused.

/// Nested objects and arrays, the outermost included.
pub const DEPTH_MAX: usize = 64;
/// Elements of a payload that is an array.
pub const ARRAY_ITEMS_MAX: usize = 10_000;
/// Readings that one message may give.
pub const READINGS_MAX: usize = 10_000;
/// Bytes of text in all readings of one message together: bounds what repeating the device, location and attributes in
/// each reading can make of a small payload.
pub const READING_BYTES_MAX: usize = 16 << 20;
/// Measured fields of one object, those of nested objects included.
pub const FIELDS_MAX: usize = 256;
/// `device_id`.
pub const DEVICE_BYTES_MAX: usize = 256;
/// `sensor`.
pub const SENSOR_BYTES_MAX: usize = 256;
/// `metric`, and so the dotted path of a measured field.
pub const METRIC_BYTES_MAX: usize = 256;
/// `unit`.
pub const UNIT_BYTES_MAX: usize = 64;
/// `location`.
pub const LOCATION_BYTES_MAX: usize = 256;
/// A measured string.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Entries of `attributes`.
pub const ATTRIBUTES_MAX: usize = 64;
/// The name of an attribute.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 128;
/// The value of an attribute.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 4 << 10;
