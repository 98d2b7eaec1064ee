//! How much an object may ask of those who read it, where it is written as where it is taken in.

/// Bytes of one regular expression.
pub const REGEX_LENGTH: usize = 1024;
/// Bytes that one may take once it is compiled.
pub const REGEX_SIZE: usize = 1 << 20;
/// Regular expressions of one object.
pub const REGEXES: usize = 256;
/// Bytes that all of one object may take together once they are compiled.
pub const REGEXES_SIZE: usize = 16 << 20;
