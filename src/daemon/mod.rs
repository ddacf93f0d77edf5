//! The daemon: the only writer of the queue's store; it keeps sessions running and gives tasks to them.
//!
//! It can be killed at any point and started again: what it knows is in the store, what runs do is in their journals,
//! and whether they live is told by their locks. Nothing here reads a terminal.

pub mod attempt;
pub mod breaker;
pub mod bus;
pub mod client;
mod discover;
mod dispatch;
mod ingest;
pub mod lock;
mod notify;
pub mod rpc;
pub mod runs;
pub mod seats;
mod server;
pub mod service;
pub mod silent;
mod trust;
mod upkeep;
mod world;

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::assign::git::Git;
use crate::assign::worktree::Trees;
use crate::clock::{self, Timestamp};
use crate::config::{Config, ConfigError, Dirs, vars};
use crate::extract::event::Body;
use crate::extract::pattern::{PackError, Packs};
use crate::paths::StateDir;
use crate::queue::store::{self, Store, StoreError};
use crate::telemetry;
use crate::tmux::client::Tmux;

pub use bus::Bus;
pub use runs::{LiveRun, Runs};
pub use seats::Seats;

/// How long tasks of ours may take to notice that the daemon ends.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Why the daemon did not start, in one line.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another one runs, or the state folder is not ours alone.
    #[error(transparent)]
    Lock(#[from] lock::LockError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket, a thread, a folder.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// The log cannot be written.
    #[error("open the log in {dir}: {why}")]
    Log {
        /// Its folder.
        dir: PathBuf,
        /// Why not.
        why: String,
    },
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> DaemonError {
    move |source| DaemonError::Io { what, source }
}

/// Everything the daemon's tasks share.
pub struct Daemon {
    /// Folders of state and configuration.
    pub dirs: Dirs,
    /// The state folder.
    pub state: StateDir,
    /// The queue's store.
    pub store: Store,
    /// Every committed event.
    pub bus: Bus,
    /// The live runs.
    pub runs: Runs,
    /// The sessions and their processes.
    pub seats: Seats,
    /// How git is called.
    pub git: Git,
    /// The working trees of ours.
    pub trees: Trees,
    /// Since when it runs.
    pub started: Timestamp,
    config: RwLock<Arc<Config>>,
    packs: RwLock<Arc<Packs>>,
    stop: watch::Sender<bool>,
}

impl Daemon {
    fn open(dirs: Dirs, config: Config) -> Result<Arc<Self>, DaemonError> {
        let state = dirs.state();
        let bus = Bus::default();
        let published = bus.clone();
        let options = store::Options {
            committed: Box::new(move |events| published.publish(events)),
            ..store::Options::default()
        };
        let store = Store::open_with(&state.db(), options)?;
        if let Some(damage) = store.damage() {
            tracing::error!(?damage, "the queue database was damaged and came back from its backup");
        }
        let exe = std::env::current_exe().map_err(io("find this program"))?;
        let runs = Runs::new(state.clone(), store.clone(), exe);
        let tmux = Tmux::new(&state, dirs.is_default(), &config.tmux);
        Ok(Arc::new(Self {
            seats: Seats::new(state.clone(), store.clone(), runs.clone(), tmux),
            runs,
            packs: RwLock::new(Arc::new(read_packs(&dirs, None))),
            trees: Trees::new(Git::new(), state.worktrees()),
            dirs,
            state,
            store,
            bus,
            git: Git::new(),
            started: clock::wall(),
            config: RwLock::new(Arc::new(config)),
            stop: watch::Sender::new(false),
        }))
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().expect("nothing panics while it is held").clone()
    }

    /// The packs in force.
    pub fn packs(&self) -> Arc<Packs> {
        self.packs.read().expect("nothing panics while it is held").clone()
    }

    /// Reads configuration and packs again. A mistake leaves the old configuration in force (F54); a pack that cannot be
    /// used leaves the others (F55).
    pub fn reload(&self) -> Result<(), ConfigError> {
        let config = Config::load(&self.dirs, vars())?;
        *self.config.write().expect("nothing panics while it is held") = Arc::new(config);
        let packs = read_packs(&self.dirs, Some(&self.packs()));
        *self.packs.write().expect("nothing panics while it is held") = Arc::new(packs);
        tracing::info!("configuration read again");
        Ok(())
    }

    /// Asks the daemon to end; agents go on.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// True once the daemon is to end: nothing is claimed any more.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Returns once the daemon is to end.
    pub async fn stopping(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Whether no attempt is live: then a newer daemon may take over at once.
    async fn is_idle(&self) -> bool {
        self.store.live_attempts().await.is_ok_and(|live| live.is_empty())
    }

    /// Takes up the attempts that the last daemon left; then the queue moves.
    async fn work(self: Arc<Self>) {
        tokio::spawn(attempt::sweep(self.clone()));
        if let Err(e) = dispatch::resume(&self).await {
            // Never half-alive (F18): the next daemon tries again.
            tracing::error!(error = %e, "the daemon cannot take up what the last one left, and ends");
            return self.stop();
        }
        tokio::spawn(self.seats.clone().keep());
        dispatch::run(self).await;
    }

    /// After a damaged queue came back from its backup: says so, and keeps the ids that runs since then have worked for.
    async fn tell_of_damage(&self) -> Result<(), StoreError> {
        let Some(damage) = self.store.damage().cloned() else { return Ok(()) };
        let state = self.state.clone();
        let seen = tokio::task::spawn_blocking(move || discover::last_task(&state)).await.unwrap_or(0);
        let text = service::damage_in_words(&damage);
        self.store
            .write(move |tx| {
                tx.ids_after(seen)?;
                tx.daemon_event(Body::Note { code: "queue_restored".into(), text }, "daemon.restored", None, None, None)
            })
            .await?;
        Ok(())
    }

    /// Answers and works until told to end. `ready` is called once the live runs are known and it answers.
    async fn serve(self: &Arc<Self>, ready: impl FnOnce()) -> Result<(), DaemonError> {
        let mut term = signal(SignalKind::terminate()).map_err(io("listen for SIGTERM"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(io("listen for SIGINT"))?;
        let mut hup = signal(SignalKind::hangup()).map_err(io("listen for SIGHUP"))?;
        self.tell_of_damage().await?;
        // Watching begins before looking, so that no run falls in between.
        let watch = discover::Watch::new(&self.runs).map_err(io("watch the run folders"))?;
        discover::take_up(&self.runs).await?;
        let listener = listen(&self.state).map_err(io("listen on daemon.sock"))?;
        tokio::spawn(server::accept(self.clone(), listener));
        ready();
        tokio::spawn(watch.run(self.runs.clone()));
        tokio::spawn(notify::run(self.clone()));
        tokio::spawn(upkeep::run(self.clone()));
        tokio::spawn(self.clone().work());
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                () = self.stopping() => break,
                _ = hup.recv() => if let Err(e) = self.reload() {
                    tracing::error!(error = %e, "configuration not read again");
                },
            }
        }
        self.stop();
        Ok(())
    }
}

fn listen(state: &StateDir) -> std::io::Result<tokio::net::UnixListener> {
    let listener = crate::sock::bind(&state.daemon_sock())?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

fn read_packs(dirs: &Dirs, last: Option<&Packs>) -> Packs {
    let (packs, errors) = Packs::load_after(&dirs.config.join("patterns"), last);
    for error in &errors {
        let PackError { file, line, column, why } = error;
        tracing::error!(file = %file.display(), line, column, why, "pack not used");
    }
    packs
}

/// A panic ends only the task it happens in; the log says where.
fn log_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!(panic = %info, "a task of the daemon panicked");
        before(info);
    }));
}

/// Runs the daemon of `dirs` until it is told to end. `ready` is called once it answers.
pub fn run(dirs: Dirs, ready: impl FnOnce()) -> Result<(), DaemonError> {
    let state = dirs.state();
    // Whatever is made from here on, by SQLite or the log too, is for our own user (T21).
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let _lock = lock::acquire_patiently(&state)?;
    let config = Config::load(&dirs, vars())?;
    let logs = state.logs();
    crate::pty::rundir::private_dir(&logs).map_err(|e| DaemonError::Log { dir: logs.clone(), why: e.to_string() })?;
    let _log = telemetry::to_file(&logs, "daemon").map_err(|e| DaemonError::Log { dir: logs, why: e.to_string() })?;
    log_panics();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "daemon starts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(io("start the runtime"))?;
    let ended = runtime.block_on(async { Daemon::open(dirs, config)?.serve(ready).await });
    // Attempts are resumed by the next daemon from what they have stored; their agents do not notice (F16).
    runtime.shutdown_timeout(END_PATIENCE);
    let _ = std::fs::remove_file(state.daemon_sock());
    tracing::info!("daemon ends");
    ended
}
