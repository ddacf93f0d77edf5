//! The `orchwrap` program.

fn main() {}
