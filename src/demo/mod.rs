//! The demo, and the scripted agent that stands in for real ones in it and in tests.

pub mod agent;
