//! The assigner: which session, in which context, and how a prompt gets there.

pub mod deliver;
