//! Sending: the wrapper types the prompt, once; we ask until it has said what became of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::judge::{self, Next};
use super::prepare::{Ready, seat_failed, with_screen};
use super::turn::Turn;
use super::watch::Watched;
use super::{Driver, Halt, Outcome, Step};
use crate::ctl::SendRequest;
use crate::daemon::LiveRun;
use crate::daemon::runs::LaunchError;
use crate::daemon::seats::{Launch, SeatError};
use crate::ids::RunId;
use crate::pty::client::CtlError;
use crate::queue::store::{AttemptChange, Change, EventFilter};
use crate::queue::task::{PromptKind, TaskState};

/// Pause before a wrapper that did not answer is asked again for the same attempt.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How often a living wrapper that does not answer is asked.
const ASK_MOST: u32 = 20;

impl Driver {
    /// Sends the prompt into what is ready, and follows it to the end of its turn.
    pub(super) async fn send_and_watch(&self, ready: Ready, result: &mut Outcome) -> Step<Next> {
        let text = self.prompt(ready.remembers).await?;
        let watched = match &ready.run {
            Some(run) => self.send(run, text).await?,
            None => self.launch(&ready, text).await?,
        };
        self.watch_and_judge(watched, Some(ready.context.env), result).await
    }

    /// The text of this attempt: the task's, or what the gate of the last attempt said about its result.
    pub(super) async fn prompt(&self, remembers: bool) -> Step<String> {
        let spec = &self.task.spec;
        let own = match spec.kind {
            // A blank in front: what only looks like a command is text to every agent.
            PromptKind::Literal => format!(" {}", spec.prompt),
            PromptKind::Text | PromptKind::Command => spec.prompt.clone(),
        };
        let Some(last) = self.previous().await?.filter(|a| a.reason.as_deref() == Some("gate_failed")) else {
            return Ok(own);
        };
        let gates = self.daemon.store.gates(last.key).await?;
        let Some(failed) = gates.into_iter().rfind(|g| g.passed == Some(false)) else { return Ok(own) };
        let how = failed.code.map_or_else(|| "was ended".to_owned(), |code| format!("exited with {code}"));
        let output = failed.output.unwrap_or_default();
        let first = (!remembers).then_some(own.as_str());
        Ok(judge::retry_prompt(first, &failed.command, &how, &output, &nonce()))
    }

    /// Notes where the prompt goes, before its first byte; returns the last event there was before.
    async fn note_sending(&self, run: Option<&LiveRun>) -> Step<i64> {
        let after = match run {
            Some(run) => self.last_event(run.id()).await?,
            None => 0,
        };
        let id = run.map(|r| r.id().clone());
        self.to(TaskState::Ready, Change::default()).await?;
        let change = AttemptChange { run: id.clone(), ..AttemptChange::default() };
        if !self.daemon.store.update_attempt(self.key, change).await? {
            return Err(Halt::Fenced);
        }
        self.step("sending", json!({ "run": id, "after": after })).await?;
        self.to(TaskState::Sending, Change { run: id, ..Change::default() }).await?;
        Ok(after)
    }

    async fn last_event(&self, run: &RunId) -> Step<i64> {
        let filter = EventFilter { run: Some(run.clone()), ..EventFilter::default() };
        Ok(self.daemon.store.last_events(filter, 1).await?.first().and_then(|e| e.id).unwrap_or(0))
    }

    /// Has the prompt typed into a living agent.
    async fn send(&self, run: &Arc<LiveRun>, text: String) -> Step<Watched> {
        // Listening first: what the agent answers may come before the wrapper's verdict.
        let events = run.events();
        let after = self.note_sending(Some(run)).await?;
        let watched = Watched::new(run.clone(), events, after, Turn::typed(self.key));
        self.deliver(run, text, watched).await
    }

    /// Asks the wrapper for this attempt until its outcome is known; asking again writes nothing twice.
    pub(super) async fn deliver(&self, run: &Arc<LiveRun>, text: String, mut watched: Watched) -> Step<Watched> {
        let request = SendRequest { key: Some(self.key), text, accept_timeout_ms: self.task.spec.timeouts.accept_ms };
        let patience = Duration::from_millis(self.task.spec.timeouts.prepare_ms);
        let since = crate::clock::since_boot();
        let mut silent = 0;
        loop {
            let outcome = match run.send(request.clone()).await {
                Ok(outcome) => outcome,
                Err(CtlError::Refused(refusal)) => {
                    return Err(Next::retry("send_refused", refusal.to_string()).into());
                }
                // Gone: its journal, which is read to the end now, tells how far the prompt came.
                Err(_) if !run.is_alive() => return Ok(watched),
                Err(e) if silent >= ASK_MOST => {
                    let why = with_screen(&format!("its wrapper does not answer: {e}"), run).await;
                    return Err(Next::review("no_acceptance", why).into());
                }
                Err(e) => {
                    tracing::warn!(task = %self.key.task, run = %run.id(), error = %e, "send: asking again");
                    silent += 1;
                    tokio::time::sleep(ASK_AGAIN).await;
                    continue;
                }
            };
            match judge::after_send(&outcome, self.session.as_str(), self.rules()) {
                Next::Watch => {
                    watched.turn.taken();
                    return Ok(watched);
                }
                Next::Again { waiting_for } => {
                    if crate::clock::since_boot().saturating_sub(since) > patience {
                        let why = with_screen(&format!("it was not idle in time: {}", outcome.why), run).await;
                        return Err(Next::review("not_ready", why).into());
                    }
                    self.to(TaskState::Ready, Change::default()).await?;
                    self.waits(Some(waiting_for)).await?;
                    tokio::time::sleep(ASK_AGAIN).await;
                    self.to(TaskState::Sending, Change::default()).await?;
                }
                Next::Review { reason, detail } => {
                    return Err(Next::review(reason, with_screen(&detail, run).await).into());
                }
                // Another attempt needs the proven end of this one.
                retry @ Next::Retry { .. } => {
                    self.end_run(run).await;
                    return Err(retry.into());
                }
                next => return Err(next.into()),
            }
        }
    }

    /// Starts the one command of a one-shot, with the prompt on its standard input.
    async fn launch(&self, ready: &Ready, text: String) -> Step<Watched> {
        let resume = match self.task.spec.continue_task {
            Some(_) => self.resumed().await?,
            None => None,
        };
        self.note_sending(None).await?;
        let launch = Launch {
            cwd: Some(ready.context.tree.cwd.clone()),
            env: Some(ready.context.env.clone()),
            // The wrapper adds what makes it a one-shot: it plans every launch.
            argv: None,
            resume,
            attempt: Some(self.key),
            branch: ready.context.tree.branch.clone(),
            context_hash: Some(ready.context.hash.clone()),
            prompt: Some(text),
        };
        let run = self.daemon.seats.run_for(&self.session, launch).await.map_err(|e| match e {
            // It has the prompt, or will have it in a moment: nobody knows.
            SeatError::Launch(LaunchError::Silent { .. }) => Next::review("no_acceptance", e.to_string()),
            e => seat_failed(&e),
        })?;
        let events = run.events();
        let change = AttemptChange { run: Some(run.id().clone()), ..AttemptChange::default() };
        if !self.daemon.store.update_attempt(self.key, change).await? {
            return Err(Halt::Fenced);
        }
        Ok(Watched::new(run, events, 0, Turn::oneshot(self.key)))
    }
}

/// A line that nothing in a text can imitate.
fn nonce() -> String {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers on every supported kernel");
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("-----{hex}")
}
