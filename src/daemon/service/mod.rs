//! What can be asked of the daemon, as plain functions on [`super::Daemon`]: the same for every surface.

mod add;
mod agents;
mod events;
pub mod offline;
mod overview;
mod seats;
mod tasks;
mod wait;

use std::fmt;

use crate::ctl::Refusal;
use crate::pty::client::CtlError;
use crate::queue::store::StoreError;

pub use add::Added;
pub(crate) use events::Sink;
pub use overview::{Overview, SeatView, damage_in_words, state_word};
pub use seats::{PoolView, SessionView};
pub use tasks::{AttemptView, Candidate, TaskView, Why};
pub use wait::{Waited, WaitedFor};

/// A refusal with its machine-readable code.
pub(crate) fn refuse(code: &str, message: impl fmt::Display) -> Refusal {
    Refusal { code: code.to_owned(), message: message.to_string() }
}

/// The request itself is wrong.
pub(crate) fn bad(message: impl fmt::Display) -> Refusal {
    refuse("bad_request", message)
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        let code = match &e {
            StoreError::NoTask(_) | StoreError::NoSession(_) | StoreError::NoPool(_) | StoreError::NoRun(_) => {
                "not_found"
            }
            StoreError::Cycle { .. } => "bad_request",
            StoreError::NotNow { .. } | StoreError::Forbidden { .. } | StoreError::Fenced(_) => "not_now",
            _ if e.is_retryable() => "retry",
            _ => "store",
        };
        refuse(code, e)
    }
}

impl From<CtlError> for Refusal {
    fn from(e: CtlError) -> Self {
        match e {
            CtlError::Refused(refusal) => refusal,
            e => refuse("run_unreachable", e),
        }
    }
}
