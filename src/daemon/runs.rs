//! The registry of live runs: started by us, by seats in tmux, or by hand; found again after a restart of the daemon.
//!
//! A run does not need the daemon. Whether it is alive is told by its lock, what it did by its journal; this module
//! only keeps a handle on each, and `ingest` reads the journals into the store.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::{ingest, silent};
use crate::clock::{self, Timestamp};
use crate::ctl::{ScreenText, SendOutcome, SendRequest, Status};
use crate::extract::event::{Ask, AskKind, Body, Event, ProcId, SessionState};
use crate::ids::{AttemptKey, RunId};
use crate::linux;
use crate::paths::{RunDir, StateDir};
use crate::pty::client::CtlError;
use crate::pty::client::r#async::Ctl;
use crate::pty::rundir::{self, RunDirError};
use crate::queue::store::{Store, StoreError};
use crate::run::{RunSpec, Seat};

/// How long a wrapper may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(15);

/// Events that a listener of one run may fall behind before it has to read them from the store.
const RUN_EVENTS: usize = 1024;

/// Why a run did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its folder cannot be made or read.
    #[error(transparent)]
    Dir(#[from] RunDirError),
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The wrapper cannot be started.
    #[error("start the wrapper of run {run}: {source}")]
    Spawn {
        /// The run.
        run: RunId,
        /// What the system says.
        source: std::io::Error,
    },
    /// It ended before it answered.
    #[error("the wrapper of run {run} ended at once: {why}")]
    Died {
        /// The run.
        run: RunId,
        /// Its last words.
        why: String,
    },
    /// It does not answer and cannot be ended: it may go on at any moment, so it stays in the registry.
    #[error("the wrapper of run {run} does not answer after {} seconds, and does not end", START_PATIENCE.as_secs())]
    Silent {
        /// The run.
        run: RunId,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// Exit code of the agent.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// `reason` of `run.exited`.
    pub reason: String,
}

/// The processes of ours in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Procs {
    /// The wrapper.
    pub wrapper: ProcId,
    /// The guard: every process of the agent descends from it.
    pub guard: Option<ProcId>,
}

/// What the ingested events tell about a live run.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Its state.
    pub state: SessionState,
    /// Since when.
    pub since: Timestamp,
    /// Last time a turn was under way.
    pub active: Option<Timestamp>,
    /// Turns so far.
    pub turns: u64,
    /// What it asks.
    pub asking: Option<(AskKind, Ask)>,
    /// Its processes, once known.
    pub procs: Option<Procs>,
    /// Last journal line taken into account.
    pub seq: u64,
    /// Set once, at the end.
    pub end: Option<RunEnd>,
}

impl Seen {
    fn new() -> Self {
        Self {
            state: SessionState::Starting,
            since: clock::wall(),
            active: None,
            turns: 0,
            asking: None,
            procs: None,
            seq: 0,
            end: None,
        }
    }

    /// Takes over what the wrapper says of itself: after a restart of the daemon the events before are history.
    fn catch_up(&mut self, status: &Status) {
        let since = clock::wall() - jiff::SignedDuration::from_millis(status.since_ms.try_into().unwrap_or(0));
        *self = Self {
            state: status.state,
            since,
            active: (status.turns > 0).then_some(since),
            turns: status.turns,
            asking: status.asking.clone(),
            procs: Some(Procs { wrapper: status.wrapper, guard: status.guard }),
            seq: status.seq,
            end: None,
        };
    }

    /// Takes one event into account; one that is older than the last is not news.
    fn apply(&mut self, event: &Event) {
        let seq = event.seq.unwrap_or(u64::MAX);
        if seq <= self.seq && self.end.is_none() && !matches!(event.body, Body::RunExited { .. }) {
            return;
        }
        self.seq = event.seq.unwrap_or(self.seq);
        match &event.body {
            Body::RunStarted { wrapper, guard, .. } => self.procs = Some(Procs { wrapper: *wrapper, guard: *guard }),
            Body::State { state, .. } => {
                self.state = *state;
                self.since = event.ts;
            }
            Body::TurnStarted {} => {
                self.turns += 1;
                self.active = Some(event.ts);
            }
            Body::TurnCompleted { .. } | Body::TurnFailed { .. } | Body::TurnInterrupted { .. } => {
                self.active = Some(event.ts);
                self.asking = None;
            }
            Body::PermissionAsked(ask) => self.asking = Some((AskKind::Permission, ask.clone())),
            Body::QuestionAsked(ask) => self.asking = Some((AskKind::Question, ask.clone())),
            Body::PermissionAnswered { .. } | Body::QuestionAnswered { .. } => self.asking = None,
            Body::RunExited { code, signal, reason } => {
                self.state = SessionState::Exited;
                self.since = event.ts;
                self.asking = None;
                self.end = Some(RunEnd { code: *code, signal: *signal, reason: reason.clone() });
            }
            _ => {}
        }
    }
}

/// A run that is alive, or was when it was last looked at.
#[derive(Debug)]
pub struct LiveRun {
    /// How it was launched.
    pub spec: RunSpec,
    /// Its folder.
    pub dir: RunDir,
    seen: watch::Sender<Seen>,
    events: broadcast::Sender<Arc<Event>>,
}

impl LiveRun {
    fn new(spec: RunSpec, dir: RunDir) -> Arc<Self> {
        Arc::new(Self { spec, dir, seen: watch::Sender::new(Seen::new()), events: broadcast::channel(RUN_EVENTS).0 })
    }

    /// The run's id.
    pub fn id(&self) -> &RunId {
        &self.spec.run
    }

    /// A client of its control socket.
    pub async fn ctl(&self) -> Result<Ctl, CtlError> {
        Ctl::connect(&self.dir).await
    }

    /// What it is doing, asked of the wrapper itself.
    pub async fn status(&self) -> Result<Status, CtlError> {
        self.ctl().await?.state().await
    }

    /// The visible rows.
    pub async fn screen(&self) -> Result<ScreenText, CtlError> {
        self.ctl().await?.screen().await
    }

    /// Types a prompt and waits for its verdict.
    pub async fn send(&self, send: SendRequest) -> Result<SendOutcome, CtlError> {
        self.ctl().await?.send(send).await
    }

    /// Takes the prompt of an attempt back, for good; false where it was begun.
    pub async fn withdraw(&self, key: AttemptKey) -> Result<bool, CtlError> {
        self.ctl().await?.withdraw(key).await
    }

    /// Answers what it asks.
    pub async fn answer(&self, hash: &str, text: &str) -> Result<(), CtlError> {
        self.ctl().await?.answer(hash, text).await
    }

    /// Presses the interrupt key.
    pub async fn interrupt(&self) -> Result<(), CtlError> {
        self.ctl().await?.interrupt().await
    }

    /// Ends the agent and waits until it is gone. A run that is gone already is a success.
    pub async fn stop(&self, grace: Duration) -> Result<(), CtlError> {
        let asked = match self.ctl().await {
            Ok(ctl) => ctl.stop(grace).await,
            Err(e) => Err(e),
        };
        match asked {
            Err(CtlError::Io { .. }) if !rundir::is_alive(&self.dir) => Ok(()),
            other => other,
        }
    }

    /// What the ingested events tell, without asking anybody.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Changes of [`LiveRun::seen`].
    pub fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Its events from now on, each after it was stored and in the order of the journal. What came before is in the
    /// store: subscribe first, then read, and skip by `seq` what comes twice.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Waits until its `run.exited` is stored.
    pub async fn exited(&self) -> RunEnd {
        let mut seen = self.watch();
        let end = seen.wait_for(|s| s.end.is_some()).await.expect("the sender lives in self");
        end.end.clone().expect("just seen")
    }

    /// Whether its wrapper holds the run's lock.
    pub fn is_alive(&self) -> bool {
        rundir::is_alive(&self.dir)
    }

    pub(super) fn catch_up(&self, status: &Status) {
        self.seen.send_modify(|s| s.catch_up(status));
    }

    /// Shows stored events to whoever watches this run.
    pub(super) fn publish(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.seen.send_modify(|s| s.apply(&event));
            let _ = self.events.send(Arc::new(event));
        }
    }
}

/// Handle to the registry; cheap to clone.
#[derive(Clone)]
pub struct Runs {
    inner: Arc<Inner>,
}

struct Inner {
    state: StateDir,
    store: Store,
    exe: PathBuf,
    live: Mutex<HashMap<RunId, Arc<LiveRun>>>,
    /// Counts changes of `live`.
    changed: watch::Sender<u64>,
}

impl Runs {
    /// An empty registry; `exe` is the program that wrappers are started from.
    pub fn new(state: StateDir, store: Store, exe: PathBuf) -> Self {
        let live = Mutex::new(HashMap::new());
        Self { inner: Arc::new(Inner { state, store, exe, live, changed: watch::Sender::new(0) }) }
    }

    /// The live run of that id.
    pub fn get(&self, id: &RunId) -> Option<Arc<LiveRun>> {
        self.map().get(id).cloned()
    }

    /// All live runs, oldest first.
    pub fn live(&self) -> Vec<Arc<LiveRun>> {
        let mut runs: Vec<_> = self.map().values().cloned().collect();
        runs.sort_by(|a, b| (a.spec.created, a.id()).cmp(&(b.spec.created, b.id())));
        runs
    }

    /// Tells when a run comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Arc<LiveRun>>> {
        self.inner.live.lock().expect("nothing panics while it is held")
    }

    /// The program that wrappers are started from: `<exe> __run <folder>`.
    pub fn program(&self, dir: &RunDir) -> Vec<OsString> {
        vec![self.inner.exe.clone().into(), "__run".into(), dir.path().into()]
    }

    /// Makes the folder of a run without starting it: for whoever starts [`Runs::program`] elsewhere (a tmux pane) and
    /// then says [`Runs::adopt`].
    ///
    /// `prompt` is what a one-shot reads on its standard input.
    pub async fn prepare(
        &self,
        spec: &RunSpec,
        env: &[(OsString, OsString)],
        prompt: Option<String>,
    ) -> Result<RunDir, LaunchError> {
        self.inner.store.add_run(spec.clone()).await?;
        let (state, spec, env) = (self.inner.state.clone(), spec.clone(), env.to_vec());
        let make = move || {
            let dir = rundir::create(&state, &spec, &env)?;
            if let Some(prompt) = prompt {
                rundir::write_private(&dir.prompt(), prompt.as_bytes())?;
            }
            Ok::<_, RunDirError>(dir)
        };
        let made = tokio::task::spawn_blocking(make).await;
        Ok(made.expect("making a folder does not panic")?)
    }

    /// Starts a run that needs no terminal of ours, and waits until its wrapper answers.
    ///
    /// `prompt` is what a one-shot reads on its standard input.
    pub async fn launch(
        &self,
        spec: RunSpec,
        env: Vec<(OsString, OsString)>,
        prompt: Option<String>,
    ) -> Result<Arc<LiveRun>, LaunchError> {
        debug_assert!(matches!(spec.seat, Seat::Detached | Seat::Oneshot), "panes are started by their tmux server");
        let dir = self.prepare(&spec, &env, prompt).await?;
        let words = dir.path().join("stderr");
        let mut child = match self.spawn(&dir, &words) {
            Ok(child) => child,
            Err(source) => {
                self.inner.store.end_run(spec.run.clone(), "start_failed", None, None).await?;
                return Err(LaunchError::Spawn { run: spec.run, source });
            }
        };
        let run = spec.run.clone();
        let wrapper = child.id().and_then(|pid| linux::proc_id(pid.cast_signed()).ok());
        let (gone, died) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            // Reaped here while this daemon lives; by init afterwards.
            let status = child.wait().await;
            let _ = gone.send(());
            tracing::debug!(%run, ?status, "wrapper ended");
        });
        self.adopt_unless(&dir, spec, wrapper, async { drop(died.await) }).await.map_err(|e| match e {
            LaunchError::Died { run, why } => {
                let why = Some(why).filter(|w| !w.is_empty());
                let said = std::fs::read_to_string(&words).unwrap_or_default();
                let why = said.lines().last().map_or_else(|| why.unwrap_or("it said nothing".into()), str::to_owned);
                LaunchError::Died { run, why }
            }
            other => other,
        })
    }

    fn spawn(&self, dir: &RunDir, words: &std::path::Path) -> std::io::Result<tokio::process::Child> {
        let stderr = crate::sock::create_private(words)?;
        let mut program = self.program(dir).into_iter();
        let mut command = std::process::Command::new(program.next().expect("a program has a name"));
        command.args(program).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // SAFETY: setsid is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
        }
        tokio::process::Command::from(command).kill_on_drop(false).spawn()
    }

    /// Takes a run that somebody else starts (a tmux pane) into the registry, once its wrapper answers.
    pub async fn adopt(
        &self,
        dir: &RunDir,
        spec: RunSpec,
        wrapper: Option<ProcId>,
    ) -> Result<Arc<LiveRun>, LaunchError> {
        self.adopt_unless(dir, spec, wrapper, std::future::pending()).await
    }

    async fn adopt_unless(
        &self,
        dir: &RunDir,
        spec: RunSpec,
        wrapper: Option<ProcId>,
        died: impl Future<Output = ()>,
    ) -> Result<Arc<LiveRun>, LaunchError> {
        let until = Instant::now() + START_PATIENCE;
        let mut died = std::pin::pin!(died);
        loop {
            if Ctl::connect(dir).await.is_ok() {
                return Ok(self.follow(spec, dir.clone()));
            }
            tokio::select! {
                () = &mut died => {
                    // It may have done all its work before we looked: the journal tells.
                    if dir.events().metadata().is_ok_and(|m| m.len() > 0) {
                        return Ok(self.follow(spec, dir.clone()));
                    }
                    self.inner.store.end_run(spec.run.clone(), "start_failed", None, None).await?;
                    return Err(LaunchError::Died { run: spec.run, why: String::new() });
                }
                () = tokio::time::sleep_until(until) => return self.silent(dir, spec, wrapper).await,
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    }

    /// A wrapper that does not answer in time may have started its agent, with the prompt of a one-shot: it is ended, and
    /// what it did is judged like any other end.
    async fn silent(&self, dir: &RunDir, spec: RunSpec, wrapper: Option<ProcId>) -> Result<Arc<LiveRun>, LaunchError> {
        let run = spec.run.clone();
        let ended = match wrapper {
            Some(wrapper) => silent::end(wrapper).await && !rundir::is_alive(dir),
            None => false,
        };
        tracing::warn!(%run, ended, "a wrapper that does not answer");
        if ended && rundir::is_untouched(dir) {
            self.inner.store.end_run(run.clone(), "start_failed", None, None).await?;
            return Err(LaunchError::Died { run, why: "it did not answer".into() });
        }
        let known = self.follow(spec, dir.clone());
        if ended { Ok(known) } else { Err(LaunchError::Silent { run }) }
    }

    /// Puts a run into the registry and reads its journal until it has ended; a known one stays as it is.
    pub(super) fn follow(&self, spec: RunSpec, dir: RunDir) -> Arc<LiveRun> {
        let id = spec.run.clone();
        let run = {
            let mut live = self.map();
            if let Some(known) = live.get(&id) {
                return known.clone();
            }
            let run = LiveRun::new(spec, dir);
            live.insert(id.clone(), run.clone());
            run
        };
        self.inner.changed.send_modify(|n| *n += 1);
        let (runs, followed) = (self.clone(), run.clone());
        tokio::spawn(async move {
            ingest::follow(&runs.inner.store, &followed).await;
            runs.map().remove(&id);
            runs.inner.changed.send_modify(|n| *n += 1);
        });
        run
    }

    pub(super) fn state_dir(&self) -> &StateDir {
        &self.inner.state
    }

    pub(super) fn store(&self) -> &Store {
        &self.inner.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_follows_the_events_and_old_ones_change_nothing() {
        let mut seen = Seen::new();
        seen.apply(&Event::sample(1, Body::TurnStarted {}));
        seen.apply(&Event::sample(2, Body::State { state: SessionState::Working, was: SessionState::Idle }));
        seen.apply(&Event::sample(1, Body::TurnStarted {}));
        assert_eq!((seen.turns, seen.state, seen.seq), (1, SessionState::Working, 2));
        seen.apply(&Event::sample(3, Body::RunExited { code: Some(0), signal: None, reason: "exit".into() }));
        assert_eq!(seen.end.unwrap().code, Some(0));
    }
}
