//! End-to-end tests: real tmux, real git, real SQLite; each test in folders and sockets of its own.

mod a_run;
mod campaign;
mod cli;
mod ctl;
mod daemon;
mod deliver;
mod demo;
mod fake_agent;
mod faults;
mod gates;
mod journal;
mod packs;
mod pool;
mod prepare;
mod recordings;
mod seats;
mod shadow;
mod streams;
mod support;
mod tidy;
mod tmux;
mod trust;
mod worktree;
mod wrap;
