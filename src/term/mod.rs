//! The terminal's side of the stream: modes for the I/O thread, the screen for the extractor. Pure.

pub mod modes;
pub mod screen;
