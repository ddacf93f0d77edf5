//! The end of a wrapper that does not answer, with proof: only what is known to be over may be started again.

use std::time::Duration;

use tokio::time::Instant;

use crate::extract::event::ProcId;
use crate::linux;

/// How long a process may take to obey SIGSTOP, which the kernel does for it.
const STOPS: Duration = Duration::from_secs(2);

/// How long a guard may take to end what its killed wrapper left (F9).
const SWEEPS: Duration = Duration::from_secs(15);

const LOOK: Duration = Duration::from_millis(20);

/// Ends a wrapper, and waits until its guard has ended the agent and all that it started. False where any of that is not
/// known to be gone: it hangs in the kernel, on a disk that does not answer.
pub async fn end(wrapper: ProcId) -> bool {
    use nix::libc::{SIGKILL, SIGSTOP};
    // Stopped first, so that it starts nothing between the look and the end.
    if linux::signal(wrapper, SIGSTOP).is_err() || !until(STOPS, || is_still(wrapper)).await {
        return false;
    }
    let tree = linux::descendants(wrapper.pid);
    if linux::signal(wrapper, SIGKILL).is_err() {
        return false;
    }
    until(SWEEPS, || !linux::is_alive(wrapper) && tree.iter().all(|of| !linux::is_alive(of.id))).await
}

/// Whether it is stopped, or gone.
fn is_still(id: ProcId) -> bool {
    linux::stat(id.pid).map_or(true, |now| now.id != id || matches!(now.state, 'T' | 't' | 'Z' | 'X'))
}

async fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    while !done() {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}
