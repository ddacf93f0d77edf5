//! The journal of a run: append-only NDJSON, numbered without gaps, the truth about what happened.
//!
//! The file is also the buffer of everybody who follows it: a late or slow reader reads the file, and a waker tells it
//! that there is more. So nobody can lose a line, get one twice, or make the writer wait.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use serde::Deserialize;

use crate::clock;
use crate::extract::event::{Body, Draft, Event, Source};
use crate::ids::{AttemptKey, Name, RunId};
use crate::json;
use crate::pty::mask::Mask;
use crate::run::RunSpec;

/// Lines kept in memory: more are written at once, and while the disk refuses them counted, for one `gap`.
const PENDING_MAX_BYTES: usize = 1024 * 1024;
/// How long a written line may wait for its sync, and how often a refusing disk is tried again.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// A line longer than this is no event of ours.
const LINE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Why a line is not safely on disk.
#[derive(Debug, thiserror::Error)]
#[error("write the journal: {0}")]
pub struct JournalError(#[from] io::Error);

/// What every event of a run carries.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// Host name.
    pub host: String,
    /// Name of the session.
    pub session: Name,
    /// The run.
    pub run: RunId,
}

impl Stamp {
    /// The stamp of a run on this host.
    pub fn of(spec: &RunSpec) -> Self {
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { host, session: spec.session.clone(), run: spec.run.clone() }
    }
}

/// The writer of a journal: one per run, owned by the Observer.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Bytes of whole lines in the file; what follows is torn and cut off before the next write.
    good: u64,
    torn: bool,
    seq: u64,
    stamp: Stamp,
    mask: Mask,
    /// Rendered, numbered, not yet in the file.
    pending: VecDeque<String>,
    pending_bytes: usize,
    /// Events that found `pending` full.
    lost: u64,
    /// When the first unsynced byte was written.
    dirty: Option<Duration>,
    /// When to try again, after a failure.
    retry: Option<Duration>,
    tail: Arc<Tail>,
}

impl Journal {
    /// A new journal at `path` (0600).
    pub fn create(path: &Path, stamp: Stamp, mask: Mask) -> io::Result<Self> {
        let file = crate::sock::create_private(path)?;
        let good = file.metadata()?.len();
        Ok(Self::over(file, good, stamp, mask))
    }

    /// A journal in memory: for `--events` where no state folder can be had.
    pub fn in_memory(stamp: Stamp, mask: Mask) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("orchwrap-events", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Self::over(File::from(file), 0, stamp, mask))
    }

    fn over(file: File, good: u64, stamp: Stamp, mask: Mask) -> Self {
        Self {
            file,
            good,
            torn: false,
            seq: 0,
            stamp,
            mask,
            pending: VecDeque::new(),
            pending_bytes: 0,
            lost: 0,
            dirty: None,
            retry: None,
            tail: Arc::default(),
        }
    }

    /// Where followers wait for more.
    pub fn tail(&self) -> Arc<Tail> {
        Arc::clone(&self.tail)
    }

    /// A reader of this journal from `from` on.
    pub fn reader(&self, from: u64) -> io::Result<JournalReader> {
        Ok(JournalReader::over(self.file.try_clone()?, from))
    }

    /// The number of the last event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether the last write worked: nothing may be sent otherwise.
    pub fn is_healthy(&self) -> bool {
        self.retry.is_none()
    }

    /// When [`Journal::tick`] is due; none while everything is synced.
    pub fn deadline(&self) -> Option<Duration> {
        self.retry.or_else(|| self.dirty.map(|at| at + SYNC_AFTER))
    }

    /// Numbers an event and queues its line for the next [`Journal::flush`]. Never fails, never waits.
    pub fn append(&mut self, draft: Draft, attempt: Option<AttemptKey>, now: Duration) {
        if self.pending_bytes >= PENDING_MAX_BYTES {
            self.flush(now);
        }
        if self.pending_bytes >= PENDING_MAX_BYTES {
            self.lost += 1;
            return;
        }
        let line = self.render(draft, attempt, now);
        self.pending_bytes += line.len();
        self.pending.push_back(line);
    }

    fn render(&mut self, draft: Draft, attempt: Option<AttemptKey>, now: Duration) -> String {
        self.seq += 1;
        let event = Event {
            id: None,
            seq: Some(self.seq),
            ts: clock::wall(),
            t: Some((now.as_secs_f64() * 1e6).round() / 1e6),
            host: self.stamp.host.clone(),
            session: Some(self.stamp.session.clone()),
            run: Some(self.stamp.run.clone()),
            attempt,
            body: self.mask.cover_body(draft.body),
            source: draft.source,
            rule: draft.rule,
            span: draft.span,
        };
        let mut line = json::line(&event).expect("an event has string keys and finite numbers");
        line.push('\n');
        line
    }

    /// Writes what is queued and wakes the followers. A refusal is remembered and tried again by [`Journal::tick`].
    pub fn flush(&mut self, now: Duration) {
        if self.retry.is_none() && (!self.pending.is_empty() || self.lost > 0) {
            self.try_flush(now);
        }
    }

    /// Writes and syncs: at every turn and exit.
    pub fn flush_synced(&mut self, now: Duration) {
        self.flush(now);
        self.sync(now);
    }

    /// Writes one event and syncs it, or leaves no trace of it: the intent to send a prompt.
    pub fn commit(&mut self, draft: Draft, attempt: Option<AttemptKey>, now: Duration) -> Result<(), JournalError> {
        self.flush(now);
        if !self.is_healthy() {
            return Err(JournalError(io::Error::other("an earlier write failed and is being tried again")));
        }
        let (good, seq) = (self.good, self.seq);
        let line = self.render(draft, attempt, now);
        let done = self.write(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(e) = done {
            self.good = good;
            self.seq = seq;
            self.torn = true;
            self.retry = Some(now + SYNC_AFTER);
            // At once, so that no reader takes the line for a fact; the next write does it again if this fails.
            self.cut_torn().ok();
            return Err(e.into());
        }
        self.dirty = None;
        self.tail.wake();
        Ok(())
    }

    /// Syncs what is due and tries again what failed.
    pub fn tick(&mut self, now: Duration) {
        match (self.retry, self.dirty) {
            (Some(at), _) if now >= at => {
                self.try_flush(now);
                if self.retry.is_none() {
                    self.sync(now);
                }
            }
            (None, Some(at)) if now >= at + SYNC_AFTER => self.sync(now),
            _ => {}
        }
    }

    /// Writes what can still be written, and tells the followers that nothing more will come.
    pub fn close(&mut self, now: Duration) {
        self.retry = None;
        self.flush_synced(now);
        self.tail.close();
    }

    fn try_flush(&mut self, now: Duration) {
        let text: String = self.pending.iter().map(String::as_str).collect();
        if let Err(e) = self.write(text.as_bytes()) {
            tracing::warn!(error = %e, "journal not writable");
            self.retry = Some(now + SYNC_AFTER);
            return;
        }
        self.pending.clear();
        self.pending_bytes = 0;
        self.retry = None;
        self.dirty.get_or_insert(now);
        if self.lost > 0 {
            // They never had a number: those of a journal have no gaps.
            let lost = std::mem::take(&mut self.lost);
            self.append(
                Draft {
                    body: Body::Gap { from: 0, to: lost, why: "journal".into() },
                    source: Source::Timer,
                    rule: "journal.gap".into(),
                    span: None,
                },
                None,
                now,
            );
            return self.try_flush(now);
        }
        self.tail.wake();
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.cut_torn()?;
        self.torn = true;
        self.file.write_all(bytes)?;
        self.good += bytes.len() as u64;
        self.torn = false;
        Ok(())
    }

    fn cut_torn(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.good)?;
            // An O_APPEND file needs no seek; the one in memory does.
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.good))?;
            self.torn = false;
        }
        Ok(())
    }

    fn sync(&mut self, now: Duration) {
        if self.dirty.is_none() {
            return;
        }
        match self.file.sync_data() {
            Ok(()) => self.dirty = None,
            Err(e) => {
                tracing::warn!(error = %e, "journal not synced");
                self.retry = Some(now + SYNC_AFTER);
            }
        }
    }
}

/// Wakes the followers of a journal.
#[derive(Debug, Default)]
pub struct Tail {
    closed: AtomicBool,
    wakers: Mutex<Vec<Weak<OwnedFd>>>,
}

impl Tail {
    fn register(&self) -> io::Result<Arc<OwnedFd>> {
        let fd = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&fd));
        Ok(fd)
    }

    fn wake(&self) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).retain(|waker| {
            let Some(fd) = waker.upgrade() else { return false };
            // A full counter means that the follower is awake already.
            rustix::io::write(&*fd, &1u64.to_ne_bytes()).ok();
            true
        });
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }
}

/// Copies journal lines to `out`, live ones as they are written, until the journal is closed or `hangup` hangs up.
pub fn follow(
    tail: &Tail,
    mut reader: JournalReader,
    out: &mut impl Write,
    hangup: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let waker = tail.register()?;
    loop {
        // Looked at before the file is read: whatever was written before the close is then in it.
        let closed = tail.closed.load(Ordering::Acquire);
        let mut wrote = false;
        while let Some(line) = reader.next_line()? {
            out.write_all(line.text.as_bytes())?;
            out.write_all(b"\n")?;
            wrote = true;
        }
        if wrote {
            out.flush()?;
        }
        if closed {
            return Ok(());
        }
        let mut fds = vec![PollFd::new(&*waker, PollFlags::IN)];
        fds.extend(hangup.iter().map(|fd| PollFd::new(fd, PollFlags::RDHUP)));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        // The end of the run hangs up as well: there may be a last line, and whoever is gone is found by writing it.
        let hung_up = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if hung_up && !tail.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        rustix::io::read(waker.as_fd(), &mut [0u8; 8]).ok();
    }
}

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub seq: u64,
    /// Its JSON, without the newline.
    pub text: String,
}

impl Line {
    /// The event it holds.
    pub fn event(&self) -> Result<Event, serde_json::Error> {
        serde_json::from_str(&self.text)
    }
}

/// Reads a journal from a number on, also while it is being written. Torn and foreign lines are skipped.
#[derive(Debug)]
pub struct JournalReader {
    file: File,
    from: u64,
    /// File offset of `buffer`.
    offset: u64,
    buffer: Vec<u8>,
    /// What of `buffer` is handed out already.
    used: usize,
}

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// How far a journal was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    from: u64,
    offset: u64,
}

impl JournalReader {
    /// Goes on where another reader of the same journal was.
    pub fn resume(path: &Path, at: Position) -> io::Result<Self> {
        let reader = Self::open(path, at.from)?;
        Ok(Self { offset: at.offset, ..reader })
    }

    /// How far it has read.
    pub fn position(&self) -> Position {
        Position { from: self.from, offset: self.offset + self.used as u64 }
    }

    /// Opens the journal at `path`; events before number `from` are skipped.
    pub fn open(path: &Path, from: u64) -> io::Result<Self> {
        Ok(Self::over(File::open(path)?, from))
    }

    fn over(file: File, from: u64) -> Self {
        Self { file, from, offset: 0, buffer: Vec::new(), used: 0 }
    }

    /// Returns the next whole line, or none where the journal ends for now: ask again when there is more.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(bytes) = self.next_bytes()? else { return Ok(None) };
            let Ok(Numbered { seq }) = serde_json::from_slice(&bytes) else { continue };
            if seq < self.from {
                continue;
            }
            let Ok(text) = String::from_utf8(bytes) else { continue };
            self.from = seq + 1;
            return Ok(Some(Line { seq, text }));
        }
    }

    /// Returns the next event that this version can read at all.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        while let Some(line) = self.next_line()? {
            if let Ok(event) = line.event() {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn next_bytes(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = self.used;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                let line = self.buffer[self.used..searched + end].to_vec();
                self.used = searched + end + 1;
                return Ok(Some(line));
            }
            self.offset += self.used as u64;
            self.buffer.drain(..self.used);
            self.used = 0;
            searched = self.buffer.len();
            if searched > LINE_MAX_BYTES {
                self.offset += searched as u64;
                self.buffer.clear();
                searched = 0;
            }
            self.buffer.resize(searched + READ_BYTES, 0);
            let n = self.file.read_at(&mut self.buffer[searched..], self.offset + searched as u64);
            self.buffer.truncate(searched + *n.as_ref().unwrap_or(&0));
            if n? == 0 {
                // A torn tail is read anew each time: its writer may cut it off and write another.
                self.buffer = Vec::new();
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::ZERO;

    fn journal(path: &Path) -> Journal {
        let stamp = Stamp { host: "h".into(), session: "s".parse().unwrap(), run: RunId::random() };
        Journal::create(path, stamp, Mask::of(vec![b"hunter2hunter2".to_vec()])).unwrap()
    }

    fn note(text: &str) -> Draft {
        Draft {
            body: Body::Note { code: "x".into(), text: text.into() },
            source: Source::Timer,
            rule: "test".into(),
            span: None,
        }
    }

    fn seqs(path: &Path, from: u64) -> Vec<u64> {
        let mut reader = JournalReader::open(path, from).unwrap();
        std::iter::from_fn(|| reader.next_line().unwrap()).map(|l| l.seq).collect()
    }

    #[test]
    fn events_are_numbered_without_gaps_and_read_from_any_number() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("j");
        let mut j = journal(&path);
        for n in 0..100 {
            j.append(note(&"x".repeat(n * 100)), None, T0);
        }
        j.flush(T0);
        assert_eq!(seqs(&path, 0), (1..=100).collect::<Vec<_>>());
        assert_eq!(seqs(&path, 98), vec![98, 99, 100]);
    }

    #[test]
    fn f47_a_torn_tail_is_skipped_and_read_once_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("j");
        let mut j = journal(&path);
        j.append(note("one"), None, T0);
        j.flush(T0);
        let whole = std::fs::read(&path).unwrap();
        let mut second = whole.clone();
        let text = String::from_utf8(whole).unwrap().replace("\"seq\":1", "\"seq\":2");
        second.extend_from_slice(&text.as_bytes()[..20]);
        std::fs::write(&path, &second).unwrap();
        let mut reader = JournalReader::open(&path, 1).unwrap();
        assert_eq!(reader.next_line().unwrap().unwrap().seq, 1);
        assert_eq!(reader.next_line().unwrap(), None);
        let mut later = JournalReader::resume(&path, reader.position()).unwrap();
        second.extend_from_slice(&text.as_bytes()[20..]);
        std::fs::write(&path, &second).unwrap();
        assert_eq!(later.next_line().unwrap().unwrap().seq, 2);
        assert_eq!(later.next_line().unwrap(), None);
        assert_eq!(reader.next_event().unwrap().unwrap().seq, Some(2));
    }

    #[test]
    fn t19_a_known_secret_never_reaches_the_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("j");
        let mut j = journal(&path);
        j.append(note("password hunter2hunter2!"), None, T0);
        j.flush(T0);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("hunter2") && text.contains("password **************!"), "{text}");
    }

    #[test]
    fn f41_a_full_disk_loses_nothing_small_and_says_what_it_lost() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("j");
        let mut j = journal(&path);
        j.append(note("before"), None, T0);
        j.flush(T0);
        // /dev/full refuses every write as a full disk does.
        let disk = std::mem::replace(&mut j.file, File::options().write(true).open("/dev/full").unwrap());
        j.append(note("during"), None, T0);
        j.flush(T0);
        assert!(!j.is_healthy());
        assert!(j.commit(note("intent"), None, T0).is_err());
        for _ in 0..20 {
            j.append(note(&"y".repeat(100_000)), None, T0);
        }
        let lost = j.lost;
        assert!(lost > 0);
        j.file = disk;
        j.tick(T0 + SYNC_AFTER);
        assert!(j.is_healthy());
        j.append(note("after"), None, T0);
        j.flush(T0);
        let mut reader = JournalReader::open(&path, 1).unwrap();
        let events: Vec<Event> = std::iter::from_fn(|| reader.next_event().unwrap()).collect();
        assert!(events.iter().enumerate().all(|(i, e)| e.seq == Some(i as u64 + 1)));
        assert!(events.iter().any(|e| e.body == Body::Gap { from: 0, to: lost, why: "journal".into() }));
        let texts = |t: &str| events.iter().filter(|e| matches!(&e.body, Body::Note { text, .. } if text == t)).count();
        assert_eq!((texts("before"), texts("during"), texts("intent"), texts("after")), (1, 1, 0, 1));
    }

    #[test]
    fn f41_a_healthy_disk_loses_nothing_however_much_comes_at_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("j");
        let mut j = journal(&path);
        for _ in 0..20 {
            j.append(note(&"y".repeat(PENDING_MAX_BYTES / 3)), None, T0);
        }
        j.flush(T0);
        assert_eq!((j.lost, j.seq), (0, 20));
        assert_eq!(seqs(&path, 1), (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn it_wants_no_timer_once_everything_is_synced() {
        let root = tempfile::tempdir().unwrap();
        let mut j = journal(&root.path().join("j"));
        assert_eq!(j.deadline(), None);
        j.append(note("a"), None, T0);
        j.flush(T0);
        assert_eq!(j.deadline(), Some(SYNC_AFTER));
        j.tick(SYNC_AFTER);
        assert_eq!(j.deadline(), None);
        j.commit(note("b"), None, T0).unwrap();
        assert_eq!(j.deadline(), None);
    }

    #[test]
    fn a_follower_that_is_hung_up_on_at_the_end_of_the_run_gets_the_last_line() {
        let root = tempfile::tempdir().unwrap();
        let mut j = journal(&root.path().join("j"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (tail, reader) = (j.tail(), j.reader(1).unwrap());
        let (asleep, sleeps) = std::sync::mpsc::channel();
        struct Out(Vec<u8>, std::sync::mpsc::Sender<()>);
        impl Write for Out {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                self.1.send(()).ok();
                Ok(())
            }
        }
        j.append(note("first"), None, T0);
        j.flush(T0);
        let follower = std::thread::spawn(move || {
            let mut out = Out(Vec::new(), asleep);
            follow(&tail, reader, &mut out, Some(ours.as_fd())).unwrap();
            String::from_utf8(out.0).unwrap()
        });
        // Past the file and its look at `closed`: what comes now is found after the sleep. Both come together.
        sleeps.recv().unwrap();
        let mut wakers = j.tail.wakers.lock().unwrap();
        let kept = std::mem::take(&mut *wakers);
        drop(wakers);
        j.append(note("last"), None, T0);
        j.close(T0);
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let text = follower.join().unwrap();
        drop(kept);
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_late_follower_gets_every_line_once() {
        let root = tempfile::tempdir().unwrap();
        let mut j = journal(&root.path().join("j"));
        for _ in 0..50 {
            j.append(note("old"), None, T0);
        }
        j.flush(T0);
        let (tail, reader) = (j.tail(), j.reader(20).unwrap());
        let follower = std::thread::spawn(move || {
            let mut out = Vec::new();
            follow(&tail, reader, &mut out, None).unwrap();
            out
        });
        for _ in 0..500 {
            j.append(note("new"), None, T0);
            j.flush(T0);
        }
        j.close(T0);
        let text = String::from_utf8(follower.join().unwrap()).unwrap();
        let got: Vec<u64> = text.lines().map(|l| serde_json::from_str::<Numbered>(l).unwrap().seq).collect();
        assert_eq!(got, (20..=550).collect::<Vec<_>>());
    }
}
