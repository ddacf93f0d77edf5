//! The wrapper of one run: the agent's terminal and the guard beside it, the thread that copies bytes, the journal, the
//! control socket.

pub mod client;
pub mod ctl;
pub mod feed;
pub mod follow;
mod guard;
mod handle;
mod io;
pub mod journal;
mod keys;
mod lane;
pub mod launch;
pub mod mask;
mod memo;
pub mod record;
mod run;
pub mod rundir;
pub mod session;
pub mod start;
mod tty;
mod wire;

pub use feed::{Cause, Ended, Feed, FeedReceiver, FeedSender, Next, Stream};
pub(crate) use guard::{GUARD_VERB, main as guard_main};
pub use handle::IoHandle;
pub use run::{Launch, StartError, Started, run};
