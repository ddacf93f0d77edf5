//! The queue: tasks, their states, who is next, what to do after a crash.

pub mod recover;
pub mod retry;
pub mod schedule;
pub mod store;
pub mod task;
pub mod transition;
