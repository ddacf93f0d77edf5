//! Watching a turn: the task's state follows the agent's, clocks run while it works, and its end is judged.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::judge::{self, Arrival, Next};
use super::turn::{End, Stage, Turn};
use super::{Driver, Outcome, Step};
use crate::assign::env::Env;
use crate::clock;
use crate::daemon::LiveRun;
use crate::extract::event::{AskKind, Body, Event};
use crate::ids::RunId;
use crate::queue::recover::{self, Evidence};
use crate::queue::retry;
use crate::queue::store::{AttemptChange, Change, EventFilter};
use crate::queue::task::TaskState;

/// How long a report may come after the output told the end of a turn: hooks take 20 ms to 200 ms on an idle machine.
const REPORT_GRACE: Duration = Duration::from_secs(3);

/// How long the limit behind a failure may come after it.
const LIMIT_GRACE: Duration = Duration::from_secs(2);

/// How long a question must be gone before the task says so: witnesses that come late ask it again, in better words.
const ASK_SETTLES: Duration = Duration::from_millis(300);

/// How often the clock of a turn is looked at, at least.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How much later than meant a look may come and still count: a busy machine. Later than that, everything was asleep or we
/// were stopped.
const LATE: Duration = Duration::from_secs(5);

/// How long journal and status may take to be read before a clock alone decides.
const NEWS_PATIENCE: Duration = Duration::from_secs(10);

/// Events read from the store at once.
const PAGE: usize = 500;

/// A run, followed for one attempt.
pub(super) struct Watched {
    pub(super) run: RunId,
    pub(super) live: Option<Arc<LiveRun>>,
    events: Option<broadcast::Receiver<Arc<Event>>>,
    /// Last event that was read from the store.
    after: i64,
    pub(super) turn: Turn,
}

impl Watched {
    pub(super) fn new(run: Arc<LiveRun>, events: broadcast::Receiver<Arc<Event>>, after: i64, turn: Turn) -> Self {
        Self { run: run.id().clone(), live: Some(run), events: Some(events), after, turn }
    }

    /// A run that is dead and in the store.
    pub(super) fn dead(run: RunId, after: i64, turn: Turn) -> Self {
        Self { run, live: None, events: None, after, turn }
    }

    /// Takes the next event into account.
    async fn next(&mut self, driver: &Driver) -> Step<()> {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        match events.recv().await {
            Ok(event) => {
                self.turn.apply(&event);
                // What is there already is one step: a state that is over is not worth showing.
                while let Ok(event) = events.try_recv() {
                    self.turn.apply(&event);
                }
                Ok(())
            }
            Err(RecvError::Lagged(_)) => self.catch_up(driver).await,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Takes what the store has into account; what comes twice is skipped.
    pub(super) async fn catch_up(&mut self, driver: &Driver) -> Step<()> {
        loop {
            let filter = EventFilter { run: Some(self.run.clone()), ..EventFilter::default() };
            let page = driver.daemon.store.events(filter, self.after, PAGE).await?;
            let Some(last) = page.last().and_then(|e| e.id) else { return Ok(()) };
            page.iter().for_each(|event| self.turn.apply(event));
            self.after = last;
        }
    }

    /// Takes into account all that the wrapper knows by now: what a clock decides must not rest on old news (F66).
    async fn read_news(&mut self, driver: &Driver) -> Step<()> {
        if let Some(run) = &self.live {
            let store = &driver.daemon.store;
            let read = async {
                match run.status().await {
                    Ok(status) => {
                        while store.cursor(run.id().clone()).await.is_ok_and(|read| read < status.seq) {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    Err(_) if !run.is_alive() => drop(run.exited().await),
                    Err(_) => {}
                }
            };
            let _ = tokio::time::timeout(NEWS_PATIENCE, read).await;
        }
        self.catch_up(driver).await
    }

    /// What the journal tells, in the words of recovery.
    pub(super) fn evidence(&self) -> Evidence {
        let prompt = match self.arrival() {
            Arrival::Unsent => recover::Arrival::Unsent,
            Arrival::Unsure => self.turn.unaccepted().map_or(recover::Arrival::Intended, recover::Arrival::Unaccepted),
            Arrival::Taken => recover::Arrival::Accepted,
        };
        Evidence { prompt, turn_ended: self.turn.ended() }
    }

    fn arrival(&self) -> Arrival {
        match (self.turn.accepted(), self.turn.begun()) {
            (true, _) => Arrival::Taken,
            (false, true) => Arrival::Unsure,
            (false, false) => Arrival::Unsent,
        }
    }
}

/// Time that an agent spent working, human waits and limits excluded; counted from look to look.
#[derive(Debug)]
struct Clock {
    spent: Duration,
    /// The last look, while it runs.
    since: Option<Duration>,
}

impl Clock {
    /// Counts the time since the last look, which was meant to be no longer than `meant`. One that was much longer was a
    /// suspended machine or a stopped daemon, and counts nothing (F65, F66).
    fn look(&mut self, now: Duration, meant: Duration) {
        if let Some(since) = &mut self.since {
            let gap = now.saturating_sub(*since);
            if gap <= meant.saturating_add(LATE) {
                self.spent += gap;
            }
            *since = now;
        }
    }

    fn set(&mut self, running: bool, now: Duration) {
        self.since = running.then_some(now);
    }
}

impl Driver {
    /// Follows a turn to its end and says what comes of it; gates included. `env` is that of the context, where it is
    /// known still.
    pub(super) async fn watch_and_judge(
        &self,
        mut watched: Watched,
        env: Option<Env>,
        result: &mut Outcome,
    ) -> Step<Next> {
        let spent = self.spent_before(&watched).await?;
        let end = match self.watch(&mut watched, spent, result).await? {
            Ok(end) => end,
            Err(next) => return Ok(next),
        };
        self.keep_conversation(&watched).await?;
        if let End::Done { answer, .. } = &end {
            result.answer.clone_from(answer);
        }
        match judge::after_turn(&end, watched.arrival(), self.rules()) {
            Next::Verify => self.check(env).await,
            next => Ok(next),
        }
    }

    /// How long the turn went on before this daemon looked at it.
    async fn spent_before(&self, watched: &Watched) -> Step<Duration> {
        if !watched.turn.begun() || watched.turn.seq() == 0 {
            return Ok(Duration::ZERO);
        }
        let steps = self.daemon.store.attempt_steps(self.key).await?;
        let sent = steps.iter().rev().find(|s| s.step == "sending").map(|s| s.at);
        // By the wall clock, which may jump: never more than it was allowed anyway.
        let spent = sent.map_or(Duration::ZERO, |at| clock::wall().duration_since(at).unsigned_abs());
        Ok(spent.min(Duration::from_millis(self.task.spec.timeouts.hard_ms / 2)))
    }

    async fn watch(&self, watched: &mut Watched, spent: Duration, result: &mut Outcome) -> Step<Result<End, Next>> {
        let limits = self.task.spec.timeouts;
        let (hard, silence) = (Duration::from_millis(limits.hard_ms), Duration::from_millis(limits.silence_ms));
        let mut clock = Clock { spent, since: None };
        let (mut meant, mut up_to_date) = (Duration::ZERO, false);
        let mut shown = None;
        let (mut ended, mut gone) = (None, None);
        let (mut heard, mut told_silence) = (clock::since_boot(), false);
        // What happened between the subscription and now, and all of it after a restart.
        watched.catch_up(self).await?;
        loop {
            clock.look(clock::since_boot(), meant);
            meant = Duration::ZERO;
            let stage = watched.turn.stage();
            let was_asked = matches!(shown, Some(Stage::Asking(..))) && stage == Stage::Working;
            let now = clock::since_boot();
            let answered = was_asked.then(|| now.saturating_sub(*gone.get_or_insert(now)));
            let settling = answered.and_then(|since| ASK_SETTLES.checked_sub(since)).filter(|left| !left.is_zero());
            if settling.is_none() {
                gone = None;
            }
            if settling.is_none() && shown.as_ref() != Some(&stage) {
                self.show(&stage, watched).await?;
                let now = clock::since_boot();
                clock.look(now, meant);
                clock.set(matches!(stage, Stage::Sent | Stage::Working | Stage::Unsent), now);
                result.duration_ms = Some(millis(clock.spent));
                ended = matches!(stage, Stage::Ended(_)).then(clock::since_boot);
                shown = Some(stage.clone());
            }
            let now = clock::since_boot();
            let mut wait = hard.saturating_sub(clock.spent);
            if let (Stage::Ended(end), Some(since)) = (&stage, ended) {
                let patience = self.patience(end, &watched.turn);
                if now.saturating_sub(since) >= patience {
                    return Ok(match (end, watched.turn.settled()) {
                        (End::Done { .. }, false) => Err(Next::review(
                            "not_idle",
                            "the turn ended and the session went on with something else; look at the result",
                        )),
                        _ => Ok(end.clone()),
                    });
                }
                wait = patience.saturating_sub(now.saturating_sub(since));
            } else if wait.is_zero() {
                if up_to_date {
                    return Ok(Err(self.time_out(watched).await));
                }
                watched.read_news(self).await?;
                up_to_date = true;
                continue;
            }
            if let Some(left) = settling {
                wait = left;
            } else if clock.since.is_none() && ended.is_none() {
                // It waits for a human or for the reset of a limit: no clock runs.
                wait = Duration::MAX;
            } else if clock.since.is_some() && !told_silence {
                wait = wait.min(silence.saturating_sub(now.saturating_sub(heard)).max(Duration::from_millis(1)));
            }
            if clock.since.is_some() {
                wait = wait.min(LOOK_EVERY);
                meant = wait;
            }
            tokio::select! {
                event = watched.next(self) => {
                    event?;
                    heard = clock::since_boot();
                    (told_silence, up_to_date) = (false, false);
                }
                () = sleep(wait) => {
                    if clock.since.is_some() && !told_silence && clock::since_boot().saturating_sub(heard) >= silence {
                        told_silence = true;
                        let text = format!("no sign of work in {} for {} s", self.session, silence.as_secs());
                        self.event(Body::Note { code: "silence".into(), text }, "assign.silence", watched.live.as_deref())
                            .await?;
                    }
                }
            }
        }
    }

    /// How long after the end of a turn more may come that changes what is made of it.
    fn patience(&self, end: &End, turn: &Turn) -> Duration {
        match end {
            End::Done { .. } if !turn.settled() => Duration::from_millis(self.task.spec.timeouts.hard_ms),
            End::Done { report: false, .. } if !turn.exited() && !self.pack.adapters.is_empty() => REPORT_GRACE,
            End::Failed { .. } if !turn.exited() => LIMIT_GRACE,
            _ => Duration::ZERO,
        }
    }

    /// Makes the task's state follow the turn's.
    async fn show(&self, stage: &Stage, watched: &Watched) -> Step<()> {
        let store = &self.daemon.store;
        match stage {
            Stage::Unsent | Stage::Sent => Ok(()),
            Stage::Working => {
                store.close_asks(&watched.run).await?;
                self.to(TaskState::Running, Change::default()).await?;
                self.waits(None).await?;
                self.keep_conversation(watched).await
            }
            Stage::Asking(kind, ask) => {
                store.ask(&watched.run, Some(self.key), *kind, ask.clone()).await?;
                let reason = match kind {
                    AskKind::Permission => "permission",
                    AskKind::Question => "question",
                };
                self.to(TaskState::Asking, Change::because(reason, &ask.text)).await
            }
            Stage::Limited { text, resets_at } => {
                let until = retry::parked_until(*resets_at, clock::wall(), 0.0);
                if let Some(provider) = &self.pack.provider {
                    store.park(provider, until, text).await?;
                }
                self.to(TaskState::Running, Change::default()).await?;
                self.waits(Some(format!("the limit to reset, {until:.0}; {} goes on by itself", self.session))).await
            }
            Stage::Ended(_) => {
                store.close_asks(&watched.run).await?;
                // A turn may be over before the wrapper has said that it began.
                if watched.turn.accepted() {
                    self.to(TaskState::Running, Change::default()).await?;
                }
                Ok(())
            }
        }
    }

    /// The hard limit is reached: interrupted, or else ended, and confirmed (F38).
    async fn time_out(&self, watched: &Watched) -> Next {
        if let Some(run) = &watched.live {
            self.quiet(run).await;
        }
        let limit = Duration::from_millis(self.task.spec.timeouts.hard_ms);
        Next::TimedOut { detail: format!("the turn did not end within {} s", limit.as_secs()) }
    }

    /// Keeps the conversation's id, for `--continue` and for what a gate says about the result.
    async fn keep_conversation(&self, watched: &Watched) -> Step<()> {
        let Some(run) = &watched.live else { return Ok(()) };
        let Ok(status) = run.status().await else { return Ok(()) };
        let Some(conversation) = status.conversation else { return Ok(()) };
        let kept = conversation.clone();
        self.daemon.store.update_session(&self.session, move |s| s.conversation = Some(kept)).await?;
        let change = AttemptChange { conversation: Some(conversation), ..AttemptChange::default() };
        self.daemon.store.update_attempt(self.key, change).await?;
        Ok(())
    }

    /// Where this attempt works.
    pub(super) async fn worktree(&self) -> Step<PathBuf> {
        let task = self.daemon.store.task(self.key.task).await?;
        Ok(task.worktree.unwrap_or(task.spec.cwd))
    }
}

async fn sleep(wait: Duration) {
    if wait == Duration::MAX {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(wait).await;
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f65_hours_of_suspend_are_no_time_of_the_turn() {
        let at = Duration::from_secs;
        let mut clock = Clock { spent: at(7), since: None };
        clock.look(at(50), at(30));
        assert_eq!(clock.spent, at(7), "it does not run");
        clock.set(true, at(100));
        clock.look(at(130), at(30));
        clock.look(at(140), at(30));
        clock.look(at(174), at(30));
        assert_eq!(clock.spent, at(81), "early by an event, late by a busy machine");
        clock.look(at(174 + 7200), at(30));
        assert_eq!(clock.spent, at(81));
        clock.look(at(174 + 7201), at(30));
        clock.set(false, at(9000));
        clock.look(at(9999), at(30));
        assert_eq!(clock.spent, at(82));
    }
}
