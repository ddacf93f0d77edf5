//! The SQLite store: one thread owns the writing connection, everyone else holds a [`Store`] and waits for the commit.
//!
//! A request is a function over [`Tx`]. Waiting requests share one transaction (group commit), each behind a savepoint
//! of its own, and are answered after the commit: an answer is a promise. The store knows nothing of sockets, processes
//! and terminals.

mod attempts;
mod events;
mod gates;
mod look;
mod open;
mod reserve;
mod restored;
mod retention;
mod runs;
mod sessions;
mod tasks;
mod trusted;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{self, Timestamp};
use crate::extract::event::Event;
use crate::ids::{AttemptKey, Name, RunId, TaskId};
use crate::queue::task::TaskState;

pub use attempts::{Attempt, AttemptChange, Claimed, Step};
pub use events::EventFilter;
pub use gates::{Approval, GateRow};
pub use look::{Look, look};
pub use open::{Damage, Identity};
pub use restored::RESTORED;
pub use retention::Pruned;
pub use runs::RunRow;
pub use sessions::{Pool, PoolSpec, Session, SessionSpec, Wanted};
pub use tasks::{Added, Change, TaskFilter};
pub use writer::Tx;

/// Requests that wait for the writer; one more waits in its sender, which slows the sender down and nobody else.
const QUEUE_LEN: usize = 1024;

/// How often the database is copied beside itself: what a damaged one is restored from.
const BACKUP_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Idle reading connections that are kept.
const READERS_KEPT: usize = 4;

/// Why the store did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error("open queue database {path}: {why}", path = path.display())]
    Open { path: PathBuf, why: String },
    #[error(
        "queue database {path} was written by a newer orchwrap (schema {found}, this one knows {known}): upgrade orchwrap",
        path = path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "queue database {path} is damaged ({what}) and there is no good backup: it was kept as {kept}; move it away to start empty",
        path = path.display(), kept = kept.display()
    )]
    Corrupt { path: PathBuf, what: String, kept: PathBuf },
    #[error("queue database {path} cannot be written: check its owner, mode and mount", path = path.display())]
    ReadOnly { path: PathBuf },
    #[error("queue database {path} was moved or deleted while open: restart the daemon", path = path.display())]
    Gone { path: PathBuf },
    #[error("the queue database is locked by another program: try again")]
    Busy,
    #[error("the disk of the queue database is full: free some space, the queue goes on by itself")]
    Full,
    #[error("the queue's store has stopped")]
    Closed,
    #[error("task {0} does not exist")]
    NoTask(TaskId),
    #[error("session {0} does not exist")]
    NoSession(Name),
    #[error("pool {0} does not exist")]
    NoPool(Name),
    #[error("run {0} is not registered")]
    NoRun(RunId),
    #[error("task {task} would wait for itself by way of task {dep}")]
    Cycle { task: TaskId, dep: TaskId },
    #[error("task {task} is {state}: {verb} is not possible", state = state.as_str())]
    NotNow { task: TaskId, state: TaskState, verb: &'static str },
    #[error("a task never goes from {from} to {to} that way", from = from.as_str(), to = to.as_str())]
    Forbidden { from: TaskState, to: TaskState },
    #[error("attempt {} of task {} is over", .0.attempt, .0.task)]
    Fenced(AttemptKey),
    #[error("a value in the queue database cannot be read: {0}")]
    Value(String),
    #[error("a request to the queue's store failed inside: {0}")]
    Bug(String),
    #[error("queue database: {0}")]
    Sql(Arc<rusqlite::Error>),
}

impl StoreError {
    /// Whether the same request may pass later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::Full)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => Self::Busy,
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sql(Arc::new(e)),
        }
    }
}

/// What a store does beside storing.
pub struct Options {
    /// Name of this host, for the daemon's events.
    pub host: String,
    /// Called by the writer thread with the events of each commit, in the order of their ids, before the requests are
    /// answered. Must not block.
    pub committed: Box<dyn Fn(Vec<Arc<Event>>) + Send>,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
    /// Back up at the start and then this often; never, where none.
    pub backup_every: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
        Self { host, committed: Box::new(|_| {}), clock: clock::wall, backup_every: Some(BACKUP_EVERY) }
    }
}

/// Handle to the queue database.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    identity: Identity,
    damage: Option<Damage>,
    requests: mpsc::Sender<Box<dyn writer::Request>>,
    readers: Mutex<Vec<Connection>>,
    /// Dropped with the last handle: the end of the backups.
    _open: crossbeam_channel::Sender<()>,
}

impl Store {
    /// Opens the database at `path`, creating it (0600) where there is none, and starts its writer thread.
    ///
    /// A damaged database is never replaced by an empty one: it is set aside and the newest good backup takes its place
    /// ([`Store::damage`] tells), or the error says what to do (F43). A newer schema is refused (F49).
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Options::default())
    }

    /// As [`Store::open`], with options.
    pub fn open_with(path: &Path, options: Options) -> Result<Self, StoreError> {
        let opened = open::open(path)?;
        let (identity, damage) = (opened.identity, opened.damage.clone());
        let (_open, closed) = crossbeam_channel::bounded(0);
        if let Some(every) = options.backup_every {
            open::back_up_regularly(path.to_owned(), every, closed);
        }
        let requests = writer::start(opened, path.to_owned(), options);
        let readers = Mutex::new(Vec::new());
        Ok(Self { shared: Arc::new(Shared { path: path.to_owned(), identity, damage, requests, readers, _open }) })
    }

    /// What was lost when the database was opened, if it was damaged.
    pub fn damage(&self) -> Option<&Damage> {
        self.shared.damage.as_ref()
    }

    /// Checks that the open file still is the one at its path (F44).
    pub fn check_in_place(&self) -> Result<(), StoreError> {
        if Identity::of(&self.shared.path) == Some(self.shared.identity) {
            Ok(())
        } else {
            Err(StoreError::Gone { path: self.shared.path.clone() })
        }
    }

    /// Runs `f` in the writer's transaction and returns its result once it is durable; an error undoes all it did.
    pub async fn write<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        self.shared.requests.send(writer::request(f, reply)).await.map_err(|_| StoreError::Closed)?;
        result.await.unwrap_or(Err(StoreError::Closed))
    }

    /// As [`Store::write`], for threads. Panics inside an async task.
    pub fn write_blocking<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        self.shared.requests.blocking_send(writer::request(f, reply)).map_err(|_| StoreError::Closed)?;
        result.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Runs `f` on a reading connection of its own, off the async threads: sees what was committed before.
    pub async fn read<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.read_blocking(f))
            .await
            .unwrap_or_else(|e| Err(StoreError::Bug(e.to_string())))
    }

    /// As [`Store::read`], for threads.
    pub fn read_blocking<T>(&self, f: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let kept = self.shared.readers.lock().expect("nothing panics while it is held").pop();
        let conn = match kept {
            Some(conn) => conn,
            None => open::reader(&self.shared.path)?,
        };
        let result = f(&conn);
        let mut readers = self.shared.readers.lock().expect("nothing panics while it is held");
        if readers.len() < READERS_KEPT {
            readers.push(conn);
        }
        result
    }

    /// Writes a backup beside the database now, whole or not at all.
    pub async fn backup(&self) -> Result<(), StoreError> {
        let path = self.shared.path.clone();
        self.read(move |conn| open::backup(conn, &path)).await
    }
}

fn read_only() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn micros(t: Timestamp) -> i64 {
    t.as_microsecond()
}

fn time(us: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(us).map_err(|e| StoreError::Value(e.to_string()))
}

fn opt_time(us: Option<i64>) -> Result<Option<Timestamp>, StoreError> {
    us.map(time).transpose()
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types have string keys and finite numbers")
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Value(e.to_string()))
}

fn parse<T: std::str::FromStr<Err = crate::ids::BadId>>(text: String) -> Result<T, StoreError> {
    text.parse().map_err(|e: crate::ids::BadId| StoreError::Value(e.to_string()))
}

fn opt_parse<T: std::str::FromStr<Err = crate::ids::BadId>>(text: Option<String>) -> Result<Option<T>, StoreError> {
    text.map(parse).transpose()
}

/// The SQL list of these states.
fn state_list(states: &[TaskState]) -> String {
    states.iter().map(|s| format!("'{}'", s.as_str())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
