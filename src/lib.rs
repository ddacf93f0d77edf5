//! orchwrap wraps coding agents in a PTY, turns their output into typed events and runs a verified task queue over them.
//!
//! ARCHITECTURE.md draws the whole; imports point one way:
//! `ids, clock < term < extract < queue, assign (pure) < pty, tmux, store < daemon < cli < main`.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "orchwrap runs on Linux only for now (kernel 5.10 or later); the OS calls live in linux.rs, so a port starts there"
);

pub mod assign;
pub mod cli;
pub mod clock;
pub mod config;
pub mod ctl;
pub mod daemon;
pub mod demo;
pub mod extract;
pub mod ids;
pub mod json;
pub mod linux;
pub mod paths;
pub mod pty;
pub mod queue;
pub mod recording;
pub mod run;
pub mod sock;
pub mod telemetry;
pub mod term;
pub mod tmux;
