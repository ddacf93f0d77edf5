//! tmux as furniture: a server of our own, one session of it for each of ours, a run in its only pane.
//!
//! It shows runs to people and is no transport: prompts never pass through it. No user text ever stands in a tmux
//! argument (T11): targets are generated (`s<session id>`, `%<pane>`), names and folders stay in our own files.

pub mod client;
pub mod command;
