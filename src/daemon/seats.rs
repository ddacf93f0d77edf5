//! Seats: which sessions there should be, and a process for each of them.
//!
//! Level-triggered: [`Seats::keep`] compares what is wanted with what is there, again and again, so that a crash of
//! anything, the daemon included, needs no repair of its own. It knows nothing of tasks beyond "an attempt holds this
//! session": then the attempt's driver decides about the process.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;

use super::breaker::{self, Next};
use super::runs::{LaunchError, LiveRun, Runs};
use crate::assign::env::{self, Env};
use crate::clock::{self, Timestamp};
use crate::extract::event::{Body, SessionState};
use crate::ids::{AttemptKey, Name, RunId};
use crate::linux;
use crate::paths::StateDir;
use crate::pty::client::CtlError;
use crate::queue::store::{PoolSpec, RunRow, Session, SessionSpec, Store, StoreError, Wanted};
use crate::run::{RunSpec, SPEC_VERSION, Seat};
use crate::tmux::client::{Tmux, TmuxError};

/// Patience between the signals that end a run.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// How often we look without being told, for what nobody tells of: a pane closed by hand, a frozen tmux thawed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Pause after a start that failed for want of something that comes back by itself.
const PASSES_AFTER: Duration = Duration::from_secs(5);

/// Sessions in one pool at the most.
pub const MAX_POOL: u32 = 256;

/// Why a seat has no process.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The wrapper did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The pane did not come.
    #[error(transparent)]
    Tmux(#[from] TmuxError),
    /// The run that is there does not end.
    #[error("stop run {run}: {source}")]
    Stop {
        /// The run.
        run: RunId,
        /// What its wrapper says.
        source: CtlError,
    },
    /// The environment file of the session.
    #[error("environment of session {session}: {source}")]
    Env {
        /// The session.
        session: Name,
        /// What the system says.
        source: std::io::Error,
    },
    /// A pool of that name is of another kind.
    #[error("pool {pool} is of another kind ({what}): take it down first, or choose another name")]
    OtherKind {
        /// The pool.
        pool: Name,
        /// What differs.
        what: &'static str,
    },
    /// A session of that name is there and not the pool's.
    #[error("session {session} exists and is not of this pool: choose another name for the pool")]
    Taken {
        /// The session.
        session: Name,
    },
    /// Its sessions could not have names of their own.
    #[error("the pool's name is too long for its sessions to have names: at most 60 characters")]
    LongName,
    /// More than a pool may have.
    #[error("a pool has at most {MAX_POOL} sessions")]
    TooMany,
}

impl SeatError {
    /// Whether it passes by itself: a tmux that is frozen, a machine out of processes or descriptors.
    pub fn passes(&self) -> bool {
        let lacks = |e: &std::io::Error| {
            use nix::libc::{EAGAIN, EMFILE, ENFILE, ENOMEM};
            e.raw_os_error().is_some_and(|e| [EAGAIN, EMFILE, ENFILE, ENOMEM].contains(&e))
        };
        match self {
            Self::Tmux(TmuxError::Timeout(_)) => true,
            Self::Tmux(TmuxError::Io(e)) | Self::Launch(LaunchError::Spawn { source: e, .. }) => lacks(e),
            _ => false,
        }
    }
}

/// What a new run of a session is started with.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Where; none: where the session starts.
    pub cwd: Option<PathBuf>,
    /// The whole environment; none: the session's own.
    pub env: Option<Env>,
    /// The command; none: the session's.
    pub argv: Option<Vec<String>>,
    /// Conversation to go on in.
    pub resume: Option<String>,
    /// The attempt it is started for.
    pub attempt: Option<AttemptKey>,
    /// Branch checked out there.
    pub branch: Option<String>,
    /// Hash of the context it is started in.
    pub context_hash: Option<String>,
    /// What a one-shot reads on its standard input.
    pub prompt: Option<String>,
}

/// Handle to the keeper of the seats; cheap to clone.
#[derive(Clone)]
pub struct Seats {
    inner: Arc<Inner>,
}

struct Inner {
    state: StateDir,
    store: Store,
    runs: Runs,
    tmux: Tmux,
    /// One change of a session's process at a time.
    locks: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>,
    wake: tokio::sync::Notify,
}

impl Seats {
    /// A keeper over these.
    pub fn new(state: StateDir, store: Store, runs: Runs, tmux: Tmux) -> Self {
        let (locks, wake) = (Mutex::default(), tokio::sync::Notify::new());
        Self { inner: Arc::new(Inner { state, store, runs, tmux, locks, wake }) }
    }

    /// Our tmux server.
    pub fn tmux(&self) -> &Tmux {
        &self.inner.tmux
    }

    /// Looks again, soon.
    pub fn wake(&self) {
        self.inner.wake.notify_one();
    }

    fn lock(&self, name: &Name) -> Arc<tokio::sync::Mutex<()>> {
        self.inner.locks.lock().expect("nothing panics while it is held").entry(name.clone()).or_default().clone()
    }

    /// The live run in a session's seat.
    pub fn run_of(&self, session: &Session) -> Option<Arc<LiveRun>> {
        session.run.as_ref().and_then(|id| self.inner.runs.get(id))
    }

    // ----- what people ask for

    /// Brings a pool to `size`, making it if need be; `base` is the environment of the person who asks.
    pub async fn pool_up(&self, spec: PoolSpec, size: u32, base: Env) -> Result<Vec<Session>, SeatError> {
        if size > MAX_POOL {
            return Err(SeatError::TooMany);
        }
        if let Ok(known) = self.inner.store.pool(&spec.name).await {
            if known.spec.pack != spec.pack {
                return Err(SeatError::OtherKind { pool: spec.name, what: "its agent differs" });
            }
            if known.spec.seat != spec.seat {
                return Err(SeatError::OtherKind { pool: spec.name, what: "its terminals differ" });
            }
        }
        for n in 1..=size {
            let name = member_name(&spec.name, n).ok_or(SeatError::LongName)?;
            if let Ok(known) = self.inner.store.session(&name).await
                && known.spec.pool.as_ref() != Some(&spec.name)
            {
                return Err(SeatError::Taken { session: name });
            }
        }
        if spec.seat == Seat::Pane {
            self.inner.tmux.check().await?;
        }
        self.inner.store.upsert_pool(spec.clone(), size).await?;
        for n in 1..=size {
            let session = self.inner.store.upsert_session(member(&spec, n)).await?;
            self.write_env(&session, &base)?;
        }
        self.shrink(&spec.name, size).await?;
        self.wake();
        self.members(&spec.name).await
    }

    /// Changes the size of a pool; new sessions take the environment of its first one.
    pub async fn pool_scale(&self, pool: &Name, size: u32) -> Result<Vec<Session>, SeatError> {
        let known = self.inner.store.pool(pool).await?;
        let first = self.members(pool).await?.into_iter().next();
        let base = match first {
            Some(session) => self.read_env(&session)?,
            None => Env::new(),
        };
        self.pool_up(known.spec, size, base).await
    }

    /// Stops every session of a pool and forgets it; its tmux panes are gone afterwards.
    pub async fn pool_down(&self, pool: &Name) -> Result<(), SeatError> {
        self.inner.store.pool(pool).await?;
        self.shrink(pool, 0).await?;
        Ok(self.inner.store.remove_pool(pool).await?)
    }

    /// Closes the breakers of a pool and starts every one of its sessions anew that no attempt holds.
    pub async fn pool_restart(&self, pool: &Name) -> Result<Vec<Session>, SeatError> {
        self.inner.store.pool(pool).await?;
        let held = self.held().await?;
        for session in self.members(pool).await? {
            let name = &session.spec.name;
            self.inner.store.update_session(name, forgive).await?;
            if !held.contains(name) {
                self.stop(&session).await?;
            }
        }
        self.wake();
        self.members(pool).await
    }

    /// Makes a named seat outside any pool and starts it.
    pub async fn session_start(&self, spec: SessionSpec, base: Env) -> Result<Session, SeatError> {
        if spec.seat == Seat::Pane {
            self.inner.tmux.check().await?;
        }
        let name = spec.name.clone();
        let session = self.inner.store.upsert_session(spec).await?;
        self.write_env(&session, &base)?;
        let session = self.inner.store.update_session(&name, forgive).await?;
        self.wake();
        Ok(session)
    }

    /// Stops a session; a named seat stays known, one of a pool is started again by `pool up`.
    pub async fn session_stop(&self, name: &Name) -> Result<(), SeatError> {
        let session = self.inner.store.update_session(name, |s| s.wanted = Wanted::Down).await?;
        self.stop(&session).await?;
        self.end_pane(&session).await
    }

    /// Sessions of a pool, in the order of their numbers.
    pub async fn members(&self, pool: &Name) -> Result<Vec<Session>, SeatError> {
        let mut all = self.inner.store.sessions().await?;
        all.retain(|s| s.spec.pool.as_ref() == Some(pool));
        all.sort_by_key(|s| s.id);
        Ok(all)
    }

    async fn shrink(&self, pool: &Name, size: u32) -> Result<(), SeatError> {
        for session in self.members(pool).await?.into_iter().skip(usize::try_from(size).expect("at most 256")) {
            let name = &session.spec.name;
            self.inner.store.update_session(name, |s| s.wanted = Wanted::Down).await?;
            self.stop(&session).await?;
            self.end_pane(&session).await?;
            self.inner.store.remove_session(name).await?;
            self.forget_env(&session);
        }
        Ok(())
    }

    // ----- processes

    /// Starts a run in a session's seat; one that is there is ended first.
    ///
    /// A start that has begun comes to its end even if nobody waits for it any more (a cancel, a time limit): every run
    /// gets into the registry or has its end in the store. [`Seats::at_rest`] tells when.
    pub async fn run_for(&self, name: &Name, launch: Launch) -> Result<Arc<LiveRun>, SeatError> {
        let one_at_a_time = self.lock(name).lock_owned().await;
        let (seats, name) = (self.clone(), name.clone());
        let work = tokio::spawn(async move {
            let _one_at_a_time = one_at_a_time;
            seats.launch(&name, launch).await
        });
        match work.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends, and we with it.
            Err(Err(_)) => std::future::pending().await,
        }
    }

    /// Waits until nothing is being started or stopped in a session's seat.
    pub async fn at_rest(&self, name: &Name) {
        drop(self.lock(name).lock().await);
    }

    async fn launch(&self, name: &Name, launch: Launch) -> Result<Arc<LiveRun>, SeatError> {
        let session = self.inner.store.session(name).await?;
        self.stop_locked(&session).await?;
        let env = match launch.env {
            Some(env) => env,
            None => self.read_env(&session)?,
        };
        let cwd = launch.cwd.unwrap_or_else(|| session.spec.cwd.clone());
        let spec = RunSpec {
            v: SPEC_VERSION,
            run: RunId::random(),
            session: name.clone(),
            pool: session.spec.pool.clone(),
            agent: session.spec.agent.clone(),
            pack: session.spec.pack.clone(),
            argv: launch.argv.unwrap_or_else(|| session.spec.argv.clone()),
            cwd: cwd.clone(),
            seat: session.spec.seat,
            size: None,
            created: clock::wall(),
            record: true,
            hooks: session.spec.hooks,
            status_reply: session.spec.status_reply,
            takes_tasks: session.spec.takes_tasks,
            attempt: launch.attempt,
            resume: launch.resume,
        };
        let (run, branch, hash) = (spec.run.clone(), launch.branch, launch.context_hash);
        self.inner
            .store
            .update_session(name, move |s| {
                s.run = Some(run);
                s.state = SessionState::Starting;
                s.place = cwd;
                s.branch = branch;
                s.context_hash = hash;
                s.conversation = None;
            })
            .await?;
        let run = spec.run.clone();
        let started = self.start(&session, spec, env.into_iter().collect(), launch.prompt).await;
        // One that may still live keeps its seat.
        if started.as_ref().is_err_and(|e| !matches!(e, SeatError::Launch(LaunchError::Silent { .. }))) {
            let leave = move |s: &mut Session| {
                if s.run.as_ref() == Some(&run) {
                    s.run = None;
                    s.state = SessionState::Exited;
                }
            };
            self.inner.store.update_session(name, leave).await?;
        }
        started
    }

    async fn start(
        &self,
        session: &Session,
        spec: RunSpec,
        env: Vec<(OsString, OsString)>,
        prompt: Option<String>,
    ) -> Result<Arc<LiveRun>, SeatError> {
        let runs = &self.inner.runs;
        if spec.seat != Seat::Pane {
            return Ok(runs.launch(spec, env, prompt).await?);
        }
        let dir = runs.prepare(&spec, &env, prompt).await?;
        let pane = match self.inner.tmux.put(session.id, &runs.program(&dir)).await {
            Ok(pane) => pane,
            Err(e) => {
                self.inner.store.end_run(spec.run, "start_failed", None, None).await?;
                return Err(e.into());
            }
        };
        let shown = pane.pane.as_str().to_owned();
        self.inner.store.update_session(&spec.session, move |s| s.pane = Some(shown)).await?;
        Ok(runs.adopt(&dir, spec, linux::proc_id(pane.pid).ok()).await?)
    }

    /// Ends the run in a session's seat; none there is success.
    pub async fn stop(&self, session: &Session) -> Result<(), SeatError> {
        let lock = self.lock(&session.spec.name);
        let _one_at_a_time = lock.lock().await;
        // Read again: it may have got another run while we waited.
        let session = self.inner.store.session(&session.spec.name).await?;
        self.stop_locked(&session).await
    }

    async fn stop_locked(&self, session: &Session) -> Result<(), SeatError> {
        if let Some(run) = self.run_of(session) {
            run.stop(STOP_GRACE).await.map_err(|source| SeatError::Stop { run: run.id().clone(), source })?;
            run.exited().await;
        }
        Ok(())
    }

    async fn end_pane(&self, session: &Session) -> Result<(), SeatError> {
        if session.spec.seat == Seat::Pane {
            self.inner.tmux.end(session.id).await?;
        }
        Ok(())
    }

    // ----- what is wanted against what is there

    /// Keeps every wanted session running, for as long as the daemon lives.
    pub async fn keep(self) {
        let mut changes = self.inner.runs.changes();
        loop {
            let due = self.look().await.unwrap_or_else(|e| {
                tracing::warn!(error = %e, "seats: will look again");
                LOOK_EVERY
            });
            tokio::select! {
                _ = changes.changed() => {}
                () = self.inner.wake.notified() => {}
                () = tokio::time::sleep(due) => {}
            }
        }
    }

    /// Looks once at every session; returns how long nothing is due.
    async fn look(&self) -> Result<Duration, SeatError> {
        let sessions = self.inner.store.sessions().await?;
        let held = self.held().await?;
        let mut due = LOOK_EVERY;
        let mut lost = Vec::new();
        for session in &sessions {
            if let Some(run) = self.run_of(session) {
                if session.wanted == Wanted::Down && run.is_alive() {
                    self.spawn_stop(session.clone());
                }
                continue;
            }
            let session = match &session.run {
                Some(run) => {
                    let Some(row) = self.inner.store.run(run.clone()).await? else { continue };
                    // Not in the registry and not ended: it is being started, or its journal is still read.
                    if row.ended.is_none() {
                        continue;
                    }
                    if row.end_reason.as_deref() == Some("tmux_lost") {
                        lost.push(session.spec.name.to_string());
                    }
                    self.settle(session, &row).await?
                }
                None => session.clone(),
            };
            if session.wanted == Wanted::Down || session.aside.is_some() || held.contains(&session.spec.name) {
                continue;
            }
            if session.spec.seat == Seat::Oneshot || session.run.is_some() {
                continue;
            }
            match wait_left(session.retry_at, clock::wall()) {
                Some(wait) => due = due.min(wait),
                None => self.spawn_start(session),
            }
        }
        if lost.len() > 1 {
            self.alarm(&lost).await?;
        }
        self.sweep_panes(&sessions).await;
        Ok(due)
    }

    /// Books the end of a session's process: nobody's fault if it was asked for, else one failure.
    async fn settle(&self, session: &Session, row: &RunRow) -> Result<Session, SeatError> {
        let lived = row.ended.map_or(SignedDuration::ZERO, |end| end.duration_since(row.spec.created));
        let reason = row.end_reason.as_deref().unwrap_or_default();
        let asked_for = reason == "stopped";
        let end = breaker::End {
            lived: lived.unsigned_abs(),
            was_ready: self.inner.store.was_ready(row.spec.run.clone()).await?,
            killed: breaker::was_killed(reason, row.signal),
        };
        let why = end_in_words(row);
        let oneshot = session.spec.seat == Seat::Oneshot;
        let run = row.spec.run.clone();
        let change = move |s: &mut Session| {
            // What we looked at is older than this moment: a driver may have put the next run into the seat.
            if s.run.as_ref() != Some(&run) {
                return;
            }
            s.run = None;
            s.state = if oneshot { SessionState::Idle } else { SessionState::Exited };
            s.retry_at = None;
            if oneshot || asked_for {
                s.failures = 0;
                return;
            }
            s.failures = breaker::count(s.failures, end);
            match breaker::next(s.failures, jitter()) {
                Next::StartAfter(delay) => s.retry_at = Some(clock::wall() + delay),
                Next::SetAside => s.aside = Some(why),
            }
        };
        let before = session.aside.is_some();
        let session = self.inner.store.update_session(&session.spec.name, change).await?;
        if let Some(why) = session.aside.as_ref().filter(|_| !before) {
            let text = format!(
                "session {} is set aside, it failed to start {} times: {why}",
                session.spec.name, session.failures
            );
            self.note("session_aside", text, Some(session.spec.name.clone())).await?;
        }
        Ok(session)
    }

    async fn alarm(&self, lost: &[String]) -> Result<(), SeatError> {
        let text = format!("the tmux server is gone; {} sessions start anew: {}", lost.len(), lost.join(", "));
        self.note("tmux_lost", text, None).await
    }

    async fn note(&self, code: &str, text: String, session: Option<Name>) -> Result<(), SeatError> {
        tracing::warn!(code, %text);
        let body = Body::Note { code: code.to_owned(), text };
        self.inner.store.write(move |tx| tx.daemon_event(body, "daemon.seats", None, session, None)).await?;
        Ok(())
    }

    /// Ends wrappers whose pane is gone and that did not notice (F13). Names do not matter: people rename sessions (F15).
    async fn sweep_panes(&self, sessions: &[Session]) {
        let seated: Vec<_> = sessions.iter().filter(|s| s.spec.seat == Seat::Pane && s.run.is_some()).collect();
        if seated.is_empty() {
            return;
        }
        // Where no server answers nothing is known: a pane that closes tells its wrapper by itself.
        let Ok(panes) = self.inner.tmux.processes().await else { return };
        for session in seated {
            let Some(run) = self.run_of(session) else { continue };
            let Some(wrapper) = run.seen().procs.map(|p| p.wrapper) else { continue };
            let lost = linux::stat(wrapper.pid).is_ok_and(|now| now.id == wrapper && panes.has_lost(&now));
            if !lost {
                continue;
            }
            // A run that is just being started has no pane in the older list yet.
            let age = clock::wall().duration_since(run.spec.created);
            if age > SignedDuration::from_secs(10) && run.is_alive() {
                tracing::warn!(run = %run.id(), "its pane is gone: ending it");
                self.spawn_stop((*session).clone());
            }
        }
    }

    fn spawn_stop(&self, session: Session) {
        let seats = self.clone();
        tokio::spawn(async move {
            if let Err(e) = seats.stop(&session).await {
                tracing::warn!(session = %session.spec.name, error = %e, "stop");
            }
        });
    }

    fn spawn_start(&self, session: Session) {
        let seats = self.clone();
        tokio::spawn(async move {
            let name = session.spec.name;
            let lock = seats.lock(&name);
            // Somebody is at it: a start under way is not to be ended by another.
            let Ok(free) = lock.try_lock() else { return };
            drop(free);
            match seats.start_if_empty(&name).await {
                Ok(()) => {}
                Err(e) => {
                    tracing::warn!(session = %name, error = %e, "start");
                    let (why, passes) = (e.to_string(), e.passes());
                    let book = move |s: &mut Session| match passes {
                        true => s.retry_at = Some(clock::wall() + PASSES_AFTER),
                        false => failed_start(s, &why),
                    };
                    let booked = seats.inner.store.update_session(&name, book).await;
                    if let Err(e) = booked {
                        tracing::warn!(session = %name, error = %e, "book a failed start");
                    }
                    seats.wake();
                }
            }
        });
    }

    async fn start_if_empty(&self, name: &Name) -> Result<(), SeatError> {
        let session = self.inner.store.session(name).await?;
        let idle = session.wanted == Wanted::Up && session.run.is_none() && !self.held().await?.contains(name);
        if idle {
            self.run_for(name, Launch::default()).await?;
        }
        Ok(())
    }

    async fn held(&self) -> Result<HashSet<Name>, SeatError> {
        Ok(self.inner.store.live_attempts().await?.into_iter().map(|(attempt, _)| attempt.session).collect())
    }

    // ----- environments

    fn write_env(&self, session: &Session, base: &Env) -> Result<(), SeatError> {
        let path = self.inner.state.session_env(session.id);
        let write = || -> std::io::Result<()> {
            let dir = path.parent().expect("the file is in a folder of the session");
            fs_err::create_dir_all(dir)?;
            // Whole or not at all: the old one stays until the new one is there, and nothing of it is in the new one.
            use std::io::Write as _;
            let part = path.with_extension("part");
            let mut file = crate::sock::create_private(&part)?;
            file.set_len(0)?;
            file.write_all(&env::serialize(base))?;
            file.sync_all()?;
            fs_err::rename(&part, &path)
        };
        write().map_err(|source| SeatError::Env { session: session.spec.name.clone(), source })
    }

    /// Removes the environment of a session that is no more: there may be keys in it.
    fn forget_env(&self, session: &Session) {
        let path = self.inner.state.session_env(session.id);
        let folder = path.parent().expect("the file is in a folder of the session");
        match std::fs::remove_dir_all(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(session = %session.spec.name, error = %e, "remove its environment");
            }
            _ => {}
        }
    }

    /// The base environment of a session: that of the person who started it.
    pub fn read_env(&self, session: &Session) -> Result<Env, SeatError> {
        env::read(&self.inner.state.session_env(session.id))
            .map_err(|source| SeatError::Env { session: session.spec.name.clone(), source })
    }
}

/// The name of a pool's session; none where it would be too long to be its own.
fn member_name(pool: &Name, n: u32) -> Option<Name> {
    format!("{pool}-{n}").parse().ok()
}

fn member(pool: &PoolSpec, n: u32) -> SessionSpec {
    SessionSpec {
        name: member_name(&pool.name, n).expect("checked before the pool is made"),
        pool: Some(pool.name.clone()),
        agent: pool.agent.clone(),
        pack: pool.pack.clone(),
        argv: pool.argv.clone(),
        cwd: pool.cwd.clone(),
        seat: pool.seat,
        takes_tasks: true,
        hooks: pool.hooks,
        status_reply: pool.status_reply,
    }
}

fn forgive(s: &mut Session) {
    s.wanted = Wanted::Up;
    s.failures = 0;
    s.retry_at = None;
    s.aside = None;
}

/// A start that never became a run counts like one that ended at once. Nothing is counted where a run is in the seat: one
/// that was started meanwhile, or one that does not answer.
fn failed_start(s: &mut Session, why: &str) {
    if s.run.is_some() {
        return;
    }
    s.state = SessionState::Exited;
    s.failures = breaker::count(s.failures, breaker::End::default());
    match breaker::next(s.failures, jitter()) {
        Next::StartAfter(delay) => s.retry_at = Some(clock::wall() + delay),
        Next::SetAside => s.aside = Some(why.to_owned()),
    }
}

/// How long until `retry_at`; none if it is due. A wall clock that jumped back cannot hold a seat for long (F64).
fn wait_left(retry_at: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let left = retry_at?.duration_since(now);
    left.is_positive().then(|| left.unsigned_abs().min(breaker::LONGEST_DELAY))
}

fn end_in_words(row: &RunRow) -> String {
    match (row.code, row.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => row.end_reason.clone().unwrap_or_else(|| "ended".into()),
    }
}

fn jitter() -> f64 {
    let mut byte = [0u8; 1];
    getrandom::fill(&mut byte).map_or(0.5, |()| f64::from(byte[0]) / 255.0)
}

#[cfg(test)]
mod tests;
