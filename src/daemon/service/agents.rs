//! What agents may ask: to look, and nothing else. A human's word is a proof here, so an agent must not be able to give it
//! by accident or on somebody's injected order (T5). It reports to its own wrapper, not to us.

use std::sync::Arc;

use super::refuse;
use crate::ctl::Refusal;
use crate::daemon::rpc::Call;
use crate::daemon::{Daemon, LiveRun};
use crate::linux;
use crate::run::Seat;

/// How often a line of ancestors is looked up that changes while we look.
const LOOKS: usize = 3;

impl Daemon {
    /// Refuses what an agent, or something that it started, must not ask.
    pub(crate) fn may_ask(&self, peer: Option<i32>, call: &Call) -> Result<(), Refusal> {
        let Some(peer) = peer.filter(|_| !call.only_looks()) else { return Ok(()) };
        // A client waits for its answer: one that is gone by now is not to be believed.
        let gone = || refuse("not_allowed", "the program that asks has ended already");
        match self.run_around(peer).map_err(|_| gone())? {
            Some(run) if !self.is_a_persons(&run) => Err(refuse(
                "not_allowed",
                format!(
                    "this comes from within run {} of session {}: agents may look, only you may change the queue; \
                     say it in a terminal of your own",
                    run.id(),
                    run.spec.session
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The live run that a process belongs to. The guard is subreaper: nothing that an agent starts gets out from under it.
    fn run_around(&self, pid: i32) -> std::io::Result<Option<Arc<LiveRun>>> {
        let mut line = linux::ancestors(pid);
        for _ in 1..LOOKS {
            if line.is_ok() {
                break;
            }
            line = linux::ancestors(pid);
        }
        let line = line?;
        Ok(self.runs.live().into_iter().find(|run| {
            let procs = run.seen().procs;
            procs.is_some_and(|p| line.iter().any(|of| *of == p.wrapper || Some(*of) == p.guard))
        }))
    }

    /// A shell that a person wraps at their own terminal is theirs.
    fn is_a_persons(&self, run: &LiveRun) -> bool {
        let shell = self.packs().get(&run.spec.pack).is_some_and(|pack| pack.shell);
        shell && run.spec.seat == Seat::Direct && !run.spec.takes_tasks
    }
}
