//! The wrapper of one run: its terminal, its journal, its control socket.

pub mod client;
pub mod ctl;
pub mod journal;
pub mod mask;
pub mod record;
pub mod rundir;
