//! The terminal, pure: what it shows.

pub mod screen;
