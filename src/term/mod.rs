//! The terminal, pure: modes for the I/O thread, the screen and the keys for the extractor.

pub mod grid;
pub(crate) mod keys;
pub(crate) mod lines;
pub mod modes;
pub(crate) mod parse;
pub(crate) mod scanner;
pub mod screen;
pub(crate) mod words;
