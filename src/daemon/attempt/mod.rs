//! One live attempt: prepare, verify, send, watch, check, record.
//!
//! Each attempt is one task of the runtime. Whatever it does is noted in the store before or after, so that it can be
//! dropped at any point, by a crash of the daemon or because a human decided otherwise, and taken up again. `turn` and
//! `judge` hold what is decided; the rest does it.

mod judge;
#[cfg(debug_assertions)]
mod planted;
mod prepare;
mod resume;
mod send;
mod site;
mod turn;
mod verifying;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use self::judge::{Next, Rules, When};
use super::{Daemon, LiveRun};
use crate::clock;
use crate::extract::event::{Body, Event, SessionState};
use crate::extract::pattern::Pack;
use crate::ids::{AttemptKey, Name};
use crate::pty::mask::Mask;
use crate::queue::retry;
use crate::queue::store::{Attempt, Change, Claimed, StoreError};
use crate::queue::task::{Proof, Task, TaskState};

/// Patience with an agent that was interrupted before it is ended.
const INTERRUPT_PATIENCE: Duration = Duration::from_secs(5);

/// How long after the end of a turn its screen may still change.
const SCREEN_SETTLES: Duration = Duration::from_millis(500);

/// Patience between the signals that end a run.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Pause before an attempt that the store refused is taken up again from what is stored.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Panics of one attempt's driver until a human is asked.
const PANICS: u32 = 3;

pub(super) use site::sweep;

/// Why the work on an attempt stopped where it was.
enum Halt {
    /// The attempt is not ours any more: a human decided.
    Fenced,
    /// The store does not answer.
    Store(StoreError),
    /// This follows.
    Next(Next),
}

impl From<StoreError> for Halt {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Fenced(_) => Self::Fenced,
            e @ StoreError::NoSession(_) => Self::Next(Next::review("session_gone", e.to_string())),
            e => Self::Store(e),
        }
    }
}

impl From<Next> for Halt {
    fn from(next: Next) -> Self {
        Self::Next(next)
    }
}

type Step<T> = Result<T, Halt>;

/// What is kept with the end of an attempt.
#[derive(Debug, Clone, Default)]
struct Outcome {
    answer: Option<String>,
    duration_ms: Option<u64>,
}

impl Outcome {
    fn with(self, change: Change) -> Change {
        Change { answer: self.answer, duration_ms: self.duration_ms, ..change }
    }
}

/// The driver of one attempt.
struct Driver {
    daemon: Arc<Daemon>,
    task: Task,
    key: AttemptKey,
    session: Name,
    pack: Arc<Pack>,
    /// Covers the secrets of the session's and the task's environment in all that is kept about the attempt (T19).
    mask: Mask,
}

/// Drives a claimed task to the end of this attempt.
pub async fn drive(daemon: Arc<Daemon>, claimed: Claimed) {
    let Claimed { task, key, session } = claimed;
    guard(daemon, task, key, session, None).await;
}

/// Takes up an attempt that was live when the last daemon ended.
pub async fn resume(daemon: Arc<Daemon>, attempt: Attempt, task: Task) {
    let (key, session) = (attempt.key, attempt.session.clone());
    guard(daemon, task, key, session, Some(attempt)).await;
}

/// Runs the driver. A panic in it is a bug, and no reason to leave the task half-alive: it is taken up again from what is
/// stored, and given to a human if that does not help (F18).
async fn guard(daemon: Arc<Daemon>, task: Task, key: AttemptKey, session: Name, mut old: Option<Attempt>) {
    for _ in 0..PANICS {
        let work = Driver::run(daemon.clone(), task.clone(), key, session.clone(), old.take());
        match tokio::spawn(work).await {
            Err(e) if e.is_panic() => tracing::error!(task = %key.task, error = %e, "attempt taken up again"),
            _ => return,
        }
        tokio::time::sleep(STORE_PAUSE).await;
        let all = daemon.store.attempts(key.task).await.unwrap_or_default();
        match all.into_iter().find(|a| a.key == key) {
            Some(row) if !row.live => return,
            row => old = row,
        }
    }
    let change = Change::because("internal", "orchwrap failed inside, see its log; look at the result and decide");
    let Ok(now) = daemon.store.task(key.task).await else { return };
    if let Err(e) = daemon.store.transition(key, &[now.state], TaskState::Review, change).await {
        tracing::error!(task = %key.task, error = %e, "give a task to a human");
    }
}

impl Driver {
    async fn run(daemon: Arc<Daemon>, task: Task, key: AttemptKey, session: Name, mut old: Option<Attempt>) {
        // Listening before looking, so that no decision falls in between.
        let bus = daemon.bus.subscribe();
        let mut pack = daemon.packs().generic().clone();
        let mut env = Vec::new();
        if let Ok(known) = daemon.store.session(&session).await {
            pack = daemon.packs().get(&known.spec.pack).unwrap_or(&pack).clone();
            env.extend(daemon.seats.read_env(&known).unwrap_or_default());
        }
        env.extend(task.spec.env.iter().map(|(name, value)| (name.into(), value.into())));
        let mask = Mask::of_env(&env);
        let driver = Self { daemon, task, key, session, pack, mask };
        let decided = driver.decided_by_a_human(bus);
        let mut decided = std::pin::pin!(decided);
        loop {
            let work = driver.work(old.take());
            let halt = tokio::select! {
                biased;
                () = &mut decided => Some(Halt::Fenced),
                done = work => done.err(),
            };
            match halt {
                None => return,
                Some(Halt::Fenced) => return driver.abandon().await,
                Some(Halt::Next(next)) => unreachable!("{next:?} was concluded"),
                Some(Halt::Store(e)) => {
                    tracing::error!(task = %driver.task.id, error = %e, "attempt interrupted; it will be taken up again");
                    tokio::time::sleep(STORE_PAUSE).await;
                    let all = driver.daemon.store.attempts(driver.task.id).await.unwrap_or_default();
                    match all.into_iter().find(|a| a.key == driver.key) {
                        Some(row) if !row.live => return,
                        row => old = row,
                    }
                }
            }
        }
    }

    async fn work(&self, old: Option<Attempt>) -> Step<()> {
        let mut result = Outcome::default();
        let next = match old {
            None => self.start_over(&mut result).await,
            Some(attempt) => self.take_up(&attempt, &mut result).await,
        };
        match next {
            Ok(next) | Err(Halt::Next(next)) => self.conclude(next, result).await,
            Err(halt) => Err(halt),
        }
    }

    async fn start_over(&self, result: &mut Outcome) -> Step<Next> {
        self.to(TaskState::Preparing, Change::default()).await?;
        let limit = Duration::from_millis(self.task.spec.timeouts.prepare_ms);
        let ready = match tokio::time::timeout(limit, self.prepare()).await {
            Ok(ready) => ready?,
            Err(_) => return Ok(self.not_ready().await),
        };
        self.send_and_watch(ready, result).await
    }

    /// What follows when preparing took too long (F36): a human looks, with the screen as it is.
    async fn not_ready(&self) -> Next {
        let (mut what, mut reason) = ("the context was not ready in time".to_owned(), "not_ready");
        if let Some(run) = self.current_run().await {
            if let Ok(status) = run.status().await
                && status.state == SessionState::Setup
            {
                reason = "setup_needed";
                what = status.setup.unwrap_or_else(|| "the agent needs a human first".to_owned());
            }
            what.push_str(&excerpt(&run).await);
        }
        Next::review(reason, what)
    }

    fn rules(&self) -> Rules {
        Rules {
            gates: !self.task.spec.gates.is_empty(),
            idempotent: self.task.spec.idempotent,
            output_is_enough: self.pack.output_is_enough || self.task.spec.accept_output,
        }
    }

    async fn current_run(&self) -> Option<Arc<LiveRun>> {
        let session = self.daemon.store.session(&self.session).await.ok()?;
        self.daemon.seats.run_of(&session)
    }

    /// Moves the task from wherever this attempt has it. Nothing happens where it is there already.
    async fn to(&self, to: TaskState, mut change: Change) -> Step<()> {
        for text in [&mut change.detail, &mut change.waiting_for, &mut change.answer] {
            *text = text.take().map(|t| self.mask.cover_text(t));
        }
        let now = self.daemon.store.task(self.key.task).await?;
        if now.fence != self.key.fence {
            return Err(Halt::Fenced);
        }
        if now.state == to {
            return Ok(());
        }
        if self.daemon.store.transition(self.key, &[now.state], to, change).await? { Ok(()) } else { Err(Halt::Fenced) }
    }

    async fn step(&self, step: &str, data: serde_json::Value) -> Step<()> {
        self.daemon.store.attempt_step(self.key, step, data).await?;
        Ok(())
    }

    async fn event(&self, body: Body, rule: &str, run: Option<&LiveRun>) -> Step<()> {
        let (run, body) = (run.map(|r| r.id().clone()), self.mask.cover_body(body));
        let (key, session) = (Some(self.key), Some(self.session.clone()));
        Ok(self.daemon.store.add_event(body, rule, key, session, run).await?)
    }

    async fn waits(&self, what: Option<String>) -> Step<()> {
        let what = what.map(|w| self.mask.cover_text(w));
        if self.daemon.store.attempt_waits(self.key, what).await? { Ok(()) } else { Err(Halt::Fenced) }
    }

    /// Records how the attempt ends.
    async fn conclude(&self, next: Next, result: Outcome) -> Step<()> {
        let now = clock::wall();
        #[cfg(debug_assertions)]
        let next = planted::mistake(next, &self.daemon.state);
        match next {
            Next::Complete(proof) => {
                let detail = (proof == Proof::Report).then(|| "not checked: no gate".to_owned());
                let change = Change { proof: Some(proof), detail, ..Change::default() };
                self.to(TaskState::Completed, result.with(change)).await
            }
            Next::Flag { reason, detail } => {
                let change = Change { proof: Some(Proof::Gate), ..Change::because(reason, detail) };
                self.to(TaskState::Completed, result.with(change)).await
            }
            Next::Review { reason, detail } => {
                self.to(TaskState::Review, result.with(Change::because(reason, detail))).await
            }
            Next::Fail { reason, detail } => {
                self.to(TaskState::Failed, result.with(Change::because(reason, detail))).await
            }
            Next::TimedOut { detail } => {
                self.to(TaskState::TimedOut, result.with(Change::because("timed_out", detail))).await
            }
            Next::Requeue { reason, detail, waiting_for, after } => {
                let change = Change { waiting_for, ..Change::because(reason, detail).uncharged() };
                self.to(TaskState::Queued, change.due(now + after)).await
            }
            Next::Retry { reason, detail, charged, when } => {
                self.retry(Change::because(reason, detail), charged, when, result).await
            }
            Next::Verify | Next::Again { .. } | Next::Watch => unreachable!("{next:?} is no end"),
        }
    }

    async fn retry(&self, change: Change, charged: bool, when: When, result: Outcome) -> Step<()> {
        let (now, jitter) = (clock::wall(), jitter());
        let tries = self.daemon.store.task(self.key.task).await?.attempts;
        let change = result.with(change);
        if !charged {
            let due = match when {
                When::Reset(at) => retry::parked_until(at, now, jitter),
                When::Backoff => now + retry::backoff(tries, jitter),
                When::Now => now,
            };
            if let (When::Reset(_), Some(provider)) = (when, &self.pack.provider) {
                let why = change.detail.clone().unwrap_or_default();
                self.daemon.store.park(provider, due, &why).await?;
            }
            return self.to(TaskState::RetryWait, change.uncharged().due(due)).await;
        }
        match (retry::after_failure(tries, self.task.spec.max_attempts, now, jitter), when) {
            (retry::Next::GiveUp, _) => self.to(TaskState::Failed, change).await,
            (retry::Next::Retry(_), When::Now) => self.to(TaskState::RetryWait, change.due(now)).await,
            (retry::Next::Retry(due), _) => self.to(TaskState::RetryWait, change.due(due)).await,
        }
    }

    /// Returns once a human has taken the fence of this attempt.
    async fn decided_by_a_human(&self, mut bus: broadcast::Receiver<Arc<Event>>) {
        loop {
            match self.daemon.store.task(self.key.task).await {
                Ok(task) if task.fence != self.key.fence => return,
                _ => {}
            }
            loop {
                match bus.recv().await {
                    Ok(event) if self.may_decide(&event) => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        }
    }

    fn may_decide(&self, event: &Event) -> bool {
        let ours = event.attempt.is_some_and(|a| a.task == self.key.task);
        ours && matches!(&event.body, Body::TaskState { state, .. } if TaskState::parse(state).is_some_and(|s| !s.is_live()))
    }

    /// Leaves an attempt that a human decided: what was sent is stopped first, confirmed, then session and tree are free
    /// (F70). May be said any number of times.
    async fn abandon(&self) {
        // A start that was under way is over then, well or not: nothing comes to life after this look.
        self.daemon.seats.at_rest(&self.session).await;
        let sent_to = match self.daemon.store.attempts(self.key.task).await.map_err(Halt::from) {
            Ok(all) => match all.into_iter().find(|a| a.key == self.key && a.live) {
                Some(attempt) => self.sent_to(&attempt).await,
                None => Ok(None),
            },
            Err(halt) => Err(halt),
        };
        let sent_to = sent_to.unwrap_or_else(|_| {
            tracing::error!(task = %self.key.task, "look up an attempt to stop");
            None
        });
        self.end_gate().await;
        self.end_prereqs().await;
        if let Some(run) = sent_to {
            match self.find(&run).await {
                Ok(Some(run)) => self.quiet(&run).await,
                Ok(None) => {}
                Err(_) => tracing::error!(task = %self.key.task, %run, "look up the run of an attempt to stop"),
            }
        }
        let mut pause = Duration::from_millis(100);
        while let Err(e) = self.daemon.store.end_attempt(self.key, Change::because("manual", "a human decided")).await {
            tracing::error!(task = %self.key.task, error = %e, "end an attempt");
            if !e.is_retryable() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(STORE_PAUSE);
        }
    }

    /// Ends the turn of a run: interrupted if that helps in time, else the run is ended. Returns when that is true.
    async fn quiet(&self, run: &LiveRun) {
        // What was not begun is taken back, and then nothing there is ours. An older wrapper does not know the word.
        if run.withdraw(self.key).await.unwrap_or(false) {
            return;
        }
        let in_flight = match run.status().await {
            Ok(status) => {
                let sending = status.last_send.is_some_and(|(key, verdict)| key == self.key && verdict.is_none());
                if status.state == SessionState::Idle && !sending {
                    return;
                }
                sending
            }
            // Gone, or not answering: the end is confirmed below.
            Err(_) => true,
        };
        if !in_flight && run.interrupt().await.is_ok() {
            let mut seen = run.watch();
            let idle = seen.wait_for(|s| s.end.is_some() || s.state == SessionState::Idle);
            if tokio::time::timeout(INTERRUPT_PATIENCE, idle).await.is_ok() {
                tokio::time::sleep(SCREEN_SETTLES).await;
                // An agent interrupted before its first word puts the prompt back into its input box. That is our text,
                // and nobody else will take it away.
                let ours_is_back = run.status().await.is_ok_and(|s| s.leftover);
                if !ours_is_back {
                    return;
                }
            }
        }
        self.end_run(run).await;
    }

    /// Ends a run and waits until it is gone.
    async fn end_run(&self, run: &LiveRun) {
        let mut pause = Duration::from_millis(200);
        while run.is_alive() {
            match run.stop(STOP_GRACE).await {
                Ok(()) => break,
                Err(e) => tracing::warn!(run = %run.id(), error = %e, "stop"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(STORE_PAUSE);
        }
    }
}

/// The visible rows of a run, for people; empty where there are none.
async fn excerpt(run: &LiveRun) -> String {
    let Ok(screen) = run.screen().await else { return String::new() };
    let rows: Vec<_> = screen.lines.iter().map(|l| l.trim_end()).filter(|l| !l.trim().is_empty()).collect();
    let last = &rows[rows.len().saturating_sub(12)..];
    if last.is_empty() { String::new() } else { format!("\n{}", last.join("\n")) }
}

fn jitter() -> f64 {
    let mut byte = [0u8; 1];
    getrandom::fill(&mut byte).map_or(0.5, |()| f64::from(byte[0]) / 255.0)
}
