//! The wrapper of one run: its terminal, its journal, its control socket.

pub mod client;
pub mod ctl;
pub mod follow;
pub mod journal;
pub mod launch;
pub mod mask;
pub mod record;
pub mod rundir;
