//! The terminal, pure: modes for the I/O thread, the screen and the keys for the extractor.

pub(crate) mod keys;
pub(crate) mod lines;
pub mod modes;
pub mod screen;
