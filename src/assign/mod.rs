//! The assigner: which session, in which context, how a prompt gets there, and what proves the result.

pub(crate) mod child;
pub mod deliver;
pub mod env;
pub mod gate;
pub mod gate_files;
pub mod git;
pub mod inventory;
pub mod marked;
pub mod plan;
pub mod prereq;
mod provision;
pub mod score;
pub mod setup;
pub mod shadow;
pub mod verify;
pub mod worktree;
