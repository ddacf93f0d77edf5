//! Taking up an attempt that was live when the last daemon ended: its state and the run's journal tell how far it came.

use std::sync::Arc;
use std::time::Duration;

use super::judge::Next;
use super::turn::{End, Stage, Turn};
use super::watch::Watched;
use super::{Driver, Halt, Outcome, Step};
use crate::daemon::LiveRun;
use crate::ids::RunId;
use crate::pty::rundir;
use crate::queue::recover::{self, AttemptFacts, Evidence, Resume};
use crate::queue::store::Attempt;
use crate::run::Seat;

/// How long a run may take to be found again, or its journal to be read to the end.
const FIND_PATIENCE: Duration = Duration::from_secs(10);

const LOST: &str = "its run was lost while nobody watched; look at the working tree before it is done again";

impl Driver {
    pub(super) async fn take_up(&self, attempt: &Attempt, result: &mut Outcome) -> Step<Next> {
        let task = self.daemon.store.task(self.key.task).await?;
        let mut watched = self.watched(attempt).await?;
        let mut facts = AttemptFacts {
            state: task.state,
            fenced: task.fence != self.key.fence,
            idempotent: task.spec.idempotent,
            alive: false,
            evidence: Evidence::default(),
        };
        if let Some(watched) = &mut watched {
            facts.alive = watched.live.as_ref().is_some_and(|run| run.is_alive());
            // A dead one is judged by its whole journal, however long that takes to read.
            if let (false, Some(run)) = (facts.alive, &watched.live) {
                run.exited().await;
            }
            watched.catch_up(self).await?;
            facts.evidence = watched.evidence();
        }
        let resume = recover::decide(&facts);
        tracing::info!(task = %task.id, ?facts, ?resume, "attempt taken up");
        match (resume, watched) {
            (Resume::Release, _) => Err(Halt::Fenced),
            (Resume::Requeue, _) => Ok(back()),
            (Resume::Prepare, _) => self.start_over(result).await,
            (Resume::Send, Some(watched)) if watched.live.is_some() => {
                let run = watched.live.clone().expect("just seen");
                let text = self.prompt(false).await?;
                let watched = self.deliver(&run, text, watched).await?;
                self.watch_and_judge(watched, None, result).await
            }
            (Resume::Watch | Resume::Judge, Some(watched)) => self.watch_and_judge(watched, None, result).await,
            (Resume::Verify, watched) => {
                if let Some(Stage::Ended(End::Done { answer, duration_ms, .. })) = watched.map(|w| w.turn.stage()) {
                    (result.answer, result.duration_ms) = (answer, Some(duration_ms));
                }
                self.check(None).await
            }
            // Another attempt needs the proven end of this one.
            (Resume::Retry(reason), watched) => {
                if let Some(run) = watched.and_then(|w| w.live) {
                    self.end_run(&run).await;
                }
                Ok(Next::retry(reason, LOST))
            }
            (Resume::Fail(reason), _) => Ok(Next::fail(reason, LOST)),
            (Resume::Review(reason), _) => Ok(Next::review(reason, LOST)),
            (Resume::Send | Resume::Watch | Resume::Judge, _) => Ok(Next::review(recover::NO_ACCEPTANCE, LOST)),
        }
    }

    async fn is_oneshot(&self) -> Step<bool> {
        Ok(self.daemon.store.session(&self.session).await?.spec.seat == Seat::Oneshot)
    }

    /// The run that the attempt was sent to, alive or in the store; none where nothing was started.
    async fn watched(&self, attempt: &Attempt) -> Step<Option<Watched>> {
        let oneshot = self.is_oneshot().await?;
        let Some(run) = self.sent_to(attempt).await? else { return Ok(None) };
        let steps = self.daemon.store.attempt_steps(self.key).await?;
        let sending = steps.iter().rev().find(|s| s.step == "sending");
        let after = sending.and_then(|s| s.data["after"].as_i64()).unwrap_or(0);
        let live = self.find(&run).await?;
        let begun = oneshot && self.may_have_begun(&run, live.as_deref()).await;
        let turn = if begun { Turn::oneshot(self.key) } else { Turn::typed(self.key) };
        Ok(Some(match live {
            Some(live) => {
                let events = live.events();
                Watched::new(live, events, after, turn)
            }
            None => Watched::dead(run, after, turn),
        }))
    }

    /// The agent of a one-shot has its prompt from the start; one whose wrapper never began has not.
    async fn may_have_begun(&self, run: &RunId, live: Option<&LiveRun>) -> bool {
        if let Some(live) = live {
            let mut seen = live.watch();
            // The daemon may have died in the moment in which it started the wrapper.
            while seen.borrow_and_update().end.is_none() {
                if live.is_alive() {
                    return true;
                }
                let _ = tokio::time::timeout(Duration::from_millis(100), seen.changed()).await;
            }
        }
        !rundir::is_untouched(&self.daemon.state.run(run))
    }

    /// The run that the attempt was sent to, or was about to be.
    pub(super) async fn sent_to(&self, attempt: &Attempt) -> Step<Option<RunId>> {
        if attempt.run.is_some() {
            return Ok(attempt.run.clone());
        }
        // A one-shot is registered before its process starts, and noted in the attempt after.
        let runs = self.daemon.store.runs_of(self.session.clone(), 8).await?;
        Ok(runs.into_iter().map(|r| r.spec).find(|s| s.attempt == Some(self.key)).map(|s| s.run))
    }

    /// The run in the registry; none once its end is stored.
    pub(super) async fn find(&self, run: &RunId) -> Step<Option<Arc<LiveRun>>> {
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
