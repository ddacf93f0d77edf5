//! A mistake to order, for the kill campaign: a campaign that does not notice it proves nothing. Debug builds only.

use super::judge::Next;
use crate::paths::StateDir;

/// The file in the state folder that orders it.
const ORDER: &str = "planted-resend";

/// Sends again what may have arrived, where the state folder orders the mistake.
pub(super) fn mistake(next: Next, state: &StateDir) -> Next {
    match next {
        Next::Review { reason, detail } if reason == "no_acceptance" && state.root().join(ORDER).exists() => {
            Next::retry(reason, detail)
        }
        next => next,
    }
}
