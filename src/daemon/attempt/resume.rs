//! Taking up an attempt that was live when the last daemon ended: its state and the run's journal tell how far it came.

use std::sync::Arc;
use std::time::Duration;

use super::judge::Next;
use super::turn::Turn;
use super::watch::Watched;
use super::{Driver, Halt, Outcome, Step};
use crate::daemon::LiveRun;
use crate::ids::RunId;
use crate::pty::rundir;
use crate::queue::store::Attempt;
use crate::queue::task::TaskState;
use crate::run::Seat;

/// How long a run may take to be found again, or its journal to be read to the end.
const FIND_PATIENCE: Duration = Duration::from_secs(10);

impl Driver {
    pub(super) async fn take_up(&self, attempt: &Attempt, result: &mut Outcome) -> Step<Next> {
        let task = self.daemon.store.task(self.key.task).await?;
        if task.fence != self.key.fence {
            return Err(Halt::Fenced);
        }
        match task.state {
            // F2: nothing was touched.
            TaskState::Claimed => Ok(back()),
            // F3: every step can be done again.
            TaskState::Preparing | TaskState::Ready => self.from_the_start(result).await,
            TaskState::Sending => self.sending(attempt, result).await,
            TaskState::Running | TaskState::Asking => match self.watched(attempt).await? {
                Some(watched) => self.watch_and_judge(watched, None, result).await,
                None => Ok(Next::review("run_lost", "its run is unknown: look at the working tree")),
            },
            TaskState::Verifying => {
                if let Some(mut watched) = self.watched(attempt).await? {
                    watched.catch_up(self).await?;
                    if let super::turn::Stage::Ended(super::turn::End::Done { answer, duration_ms, .. }) =
                        watched.turn.stage()
                    {
                        (result.answer, result.duration_ms) = (answer, Some(duration_ms));
                    }
                }
                self.check(None).await
            }
            _ => Err(Halt::Fenced),
        }
    }

    /// The intent is stored; the wrapper, or else its journal, knows whether a byte was written (F4 to F6).
    async fn sending(&self, attempt: &Attempt, result: &mut Outcome) -> Step<Next> {
        let Some(mut watched) = self.watched(attempt).await? else { return Ok(back()) };
        watched.catch_up(self).await?;
        let oneshot = self.is_oneshot().await?;
        match watched.live.clone().filter(|run| run.is_alive()) {
            Some(run) if !oneshot => {
                let text = self.prompt(false).await?;
                let watched = self.deliver(&run, text, watched).await?;
                self.watch_and_judge(watched, None, result).await
            }
            None if !watched.turn.begun() => Ok(back()),
            _ => self.watch_and_judge(watched, None, result).await,
        }
    }

    async fn is_oneshot(&self) -> Step<bool> {
        Ok(self.daemon.store.session(&self.session).await?.spec.seat == Seat::Oneshot)
    }

    /// The run that the attempt was sent to, alive or in the store; none where nothing was started.
    async fn watched(&self, attempt: &Attempt) -> Step<Option<Watched>> {
        let oneshot = self.is_oneshot().await?;
        let run = match &attempt.run {
            Some(run) => Some(run.clone()),
            // A one-shot is registered before its process starts, and noted here after.
            None => {
                let runs = self.daemon.store.runs_of(self.session.clone(), 8).await?;
                runs.into_iter().map(|r| r.spec).find(|s| s.attempt == Some(self.key)).map(|s| s.run)
            }
        };
        let Some(run) = run else { return Ok(None) };
        let steps = self.daemon.store.attempt_steps(self.key).await?;
        let sending = steps.iter().rev().find(|s| s.step == "sending");
        let after = sending.and_then(|s| s.data["after"].as_i64()).unwrap_or(0);
        let turn = if oneshot { Turn::oneshot(self.key) } else { Turn::typed(self.key) };
        Ok(Some(match self.find(&run).await? {
            Some(live) => {
                let events = live.events();
                Watched::new(live, events, after, turn)
            }
            None => Watched::dead(run, after, turn),
        }))
    }

    /// The run in the registry; none once its end is stored.
    async fn find(&self, run: &RunId) -> Step<Option<Arc<LiveRun>>> {
        let until = crate::clock::since_boot() + FIND_PATIENCE;
        loop {
            if let Some(live) = self.daemon.runs.get(run) {
                return Ok(Some(live));
            }
            let ended = self.daemon.store.run(run.clone()).await?.is_none_or(|row| row.ended.is_some());
            if ended {
                return Ok(None);
            }
            if crate::clock::since_boot() > until && !rundir::is_alive(&self.daemon.state.run(run)) {
                self.daemon.store.end_run(run.clone(), "wrapper_lost", None, None).await?;
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Back to the queue as if it had never been claimed.
fn back() -> Next {
    Next::Requeue {
        reason: "daemon_restarted".into(),
        detail: "the daemon ended before anything was sent".into(),
        waiting_for: None,
        after: Duration::ZERO,
    }
}
