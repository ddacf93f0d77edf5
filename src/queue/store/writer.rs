//! The thread that owns the writing connection.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::open::{self, Identity, Opened};
use super::reserve::Reserve;
use super::{Options, QUEUE_LEN, StoreError};
use crate::clock::Timestamp;
use crate::extract::event::Event;

/// Requests in one transaction at the most: bounds how long the first one waits for the last.
const BATCH: usize = 256;

/// Called once the fate of a request's transaction is known.
type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A request, as the writer sees it.
pub(super) trait Request: Send {
    /// Runs it: an error means that what it did must be undone. And how to tell.
    fn run(self: Box<Self>, tx: &mut Tx<'_>) -> (Result<(), StoreError>, Done);
    /// Tells that it was not run.
    fn refuse(self: Box<Self>, why: StoreError);
}

struct Call<T, F> {
    f: F,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Request for Call<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send,
{
    fn run(self: Box<Self>, tx: &mut Tx<'_>) -> (Result<(), StoreError>, Done) {
        let Self { f, reply } = *self;
        // A bug in one request must not take the queue down with it (F18).
        let result = catch_unwind(AssertUnwindSafe(|| f(tx))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
            Err(StoreError::Bug(text.to_owned()))
        });
        let outcome = result.as_ref().map(drop).map_err(StoreError::clone);
        // Nobody may be waiting any more; what was done stays done.
        (outcome, Box::new(move |fate| drop(reply.send(result.and_then(|value| fate.map(|()| value))))))
    }

    fn refuse(self: Box<Self>, why: StoreError) {
        drop(self.reply.send(Err(why)));
    }
}

/// What a request works on: the open transaction.
pub struct Tx<'c> {
    pub(super) conn: &'c Connection,
    pub(super) now: Timestamp,
    pub(super) host: &'c str,
    /// The disk was full a moment ago: what would begin something new is refused (F41).
    pub(super) low: bool,
    /// Events inserted by this request.
    pub(super) events: Vec<Event>,
}

impl Tx<'_> {
    /// The connection, for reading functions.
    pub fn conn(&self) -> &Connection {
        self.conn
    }

    /// The time of this request.
    pub fn now(&self) -> Timestamp {
        self.now
    }
}

pub(super) fn request<T, F>(f: F, reply: oneshot::Sender<Result<T, StoreError>>) -> Box<dyn Request>
where
    T: Send + 'static,
    F: FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
{
    Box::new(Call { f, reply })
}

pub(super) fn start(opened: Opened, path: PathBuf, options: Options) -> mpsc::Sender<Box<dyn Request>> {
    let (requests, queue) = mpsc::channel(QUEUE_LEN);
    let Opened { conn, identity, .. } = opened;
    let reserve = Reserve::of(&path);
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || Writer { conn, identity, path, options, reserve, broken: false }.run(queue))
        .expect("a thread can be started when the daemon starts");
    requests
}

struct Writer {
    conn: Connection,
    identity: Identity,
    path: PathBuf,
    options: Options,
    reserve: Reserve,
    /// The last transaction met an I/O error or damage: the connection is replaced before the next one (F46).
    broken: bool,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Request>>) {
        while let Some(first) = queue.blocking_recv() {
            self.commit(first, &mut queue);
        }
        // Best effort: the next start finds a short log.
        let _ = self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// Runs `first` and what comes while the transaction is open, then commits and answers each.
    ///
    /// Whoever is answered asks again at once, so most requests come while the first of them runs: taking the queue as it
    /// was at the beginning would commit one of eight askers alone and the other seven after it, twice the syncs.
    fn commit(&mut self, first: Box<dyn Request>, queue: &mut mpsc::Receiver<Box<dyn Request>>) {
        let mut waiting: Vec<Done> = Vec::new();
        let mut events = Vec::new();
        self.reserve.keep();
        let mut fate = self.begin();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(request) = next {
            match &fate {
                Ok(()) => fate = self.one(request, &mut events, &mut waiting),
                Err(why) => request.refuse(why.clone()),
            }
            taken += 1;
            // What comes after a failure gets a transaction of its own.
            next = if fate.is_ok() && taken < BATCH { queue.try_recv().ok() } else { None };
        }
        if fate.is_ok() {
            fate = self.say("COMMIT");
        }
        if let Err(e) = &fate {
            if !self.conn.is_autocommit() {
                let _ = self.conn.execute_batch("ROLLBACK");
            }
            self.note(e);
            tracing::error!(path = %self.path.display(), error = %e, "queue transaction failed");
        } else if !events.is_empty() {
            (self.options.committed)(events);
        }
        for done in waiting {
            done(fate.clone());
        }
    }

    /// Begins a transaction on a sound connection to the file that still is in its place (F44).
    fn begin(&mut self) -> Result<(), StoreError> {
        if self.broken {
            self.conn = open::reopen(&self.path)?;
            self.broken = false;
        }
        if Identity::of(&self.path) != Some(self.identity) {
            return Err(StoreError::Gone { path: self.path.clone() });
        }
        self.say("BEGIN IMMEDIATE")
    }

    /// Runs a statement that has no rows, parsed once.
    fn say(&self, sql: &str) -> Result<(), StoreError> {
        self.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Draws the consequences of an error for the requests to come.
    fn note(&mut self, e: &StoreError) {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, SystemIoFailure};
        match e {
            StoreError::Full => self.reserve.release(),
            StoreError::Sql(e) => {
                let code = e.sqlite_error_code();
                self.broken |= matches!(code, Some(DatabaseCorrupt | NotADatabase | SystemIoFailure));
            }
            _ => {}
        }
    }

    fn one(
        &mut self,
        request: Box<dyn Request>,
        events: &mut Vec<Arc<Event>>,
        waiting: &mut Vec<Done>,
    ) -> Result<(), StoreError> {
        self.say("SAVEPOINT request")?;
        let now = (self.options.clock)();
        let low = self.reserve.is_released();
        let mut tx = Tx { conn: &self.conn, now, host: &self.options.host, low, events: Vec::new() };
        let (outcome, done) = request.run(&mut tx);
        let made = tx.events;
        waiting.push(done);
        if let Err(e) = &outcome {
            self.note(e);
        }
        if self.conn.is_autocommit() {
            // SQLite itself undid the whole transaction: disk full, I/O error.
            return Err(outcome.err().unwrap_or(StoreError::Full));
        }
        match outcome {
            Ok(()) => events.extend(made.into_iter().map(Arc::new)),
            Err(_) => self.say("ROLLBACK TO request")?,
        }
        self.say("RELEASE request")
    }
}
