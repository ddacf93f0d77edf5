//! The daemon: the only writer of the queue's store; it keeps sessions running and gives tasks to them.

pub mod breaker;
