//! The stream: bytes and reports in, typed events out. Everything here is pure; time is an argument.

pub mod event;
pub mod signal;
