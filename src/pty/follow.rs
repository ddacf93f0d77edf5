//! Follows a session file that an agent appends to: its new lines are reports. Asleep until the kernel says that the
//! file (or a folder on the way to it) changed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::Value;

use crate::clock::Timestamp;

/// Lines read ahead of who takes them; the reader waits then, the file keeps what follows.
const LINES: usize = 256;

/// A longer line is passed over.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// How much of a file that is there already is looked through for lines of this run.
const LOOK_BACK: u64 = 4 * 1024 * 1024;

/// Stack of the reading thread: it holds no buffers.
const STACK: usize = 128 * 1024;

/// One file being followed.
///
/// Dropping it ends the reading; [`Follower::stop`] ends it after everything written so far has been passed on.
#[derive(Debug)]
pub struct Follower {
    lines: Receiver<Value>,
    stop: Arc<OwnedFd>,
}

impl Follower {
    /// Follows `path`, which need not exist yet. Lines with a `timestamp` before `since` are an older run's.
    pub fn start(path: &Path, since: Timestamp) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (send, lines) = bounded(LINES);
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let reader = Reader {
            path: path.to_owned(),
            since,
            watch,
            stop: Arc::clone(&stop),
            send,
            file: None,
            rest: Vec::new(),
            skipping: false,
        };
        std::thread::Builder::new().name("follow".into()).stack_size(STACK).spawn(move || reader.run())?;
        Ok(Self { lines, stop })
    }

    /// The lines, parsed; disconnected once the reading has ended.
    pub fn lines(&self) -> &Receiver<Value> {
        &self.lines
    }

    /// Asks for the end: what is in the file by now still comes, then [`Self::lines`] disconnects.
    pub fn stop(&self) {
        // It can only fail when full, and then the reader has been told.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Reader {
    path: PathBuf,
    since: Timestamp,
    watch: OwnedFd,
    stop: Arc<OwnedFd>,
    send: Sender<Value>,
    file: Option<File>,
    /// A line whose end is not written yet.
    rest: Vec<u8>,
    /// The line under way is too long, or its start was not read.
    skipping: bool,
}

impl Reader {
    /// Ends when told to, when nobody listens, or when the file cannot be read: then the other witnesses are left.
    fn run(mut self) {
        let mut told = false;
        loop {
            if self.open_or_watch().is_err() || !self.read_on() || told {
                return;
            }
            match self.wait() {
                Ok(stopped) => told = stopped,
                Err(_) => return,
            }
        }
    }

    /// Opens the file, or watches the nearest folder on its way that exists.
    fn open_or_watch(&mut self) -> io::Result<()> {
        while self.file.is_none() {
            match File::open(&self.path) {
                Ok(mut file) if file.metadata()?.is_file() => {
                    inotify::add_watch(&self.watch, &self.path, WatchFlags::MODIFY)?;
                    let len = file.metadata()?.len();
                    if len > LOOK_BACK {
                        file.seek(SeekFrom::Start(len - LOOK_BACK))?;
                        self.skipping = true;
                    }
                    self.file = Some(file);
                }
                Ok(_) => return Err(io::ErrorKind::InvalidInput.into()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let folder = self.path.ancestors().skip(1).find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
                    let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
                    inotify::add_watch(&self.watch, folder, flags)?;
                    // Made between the look and the watch: look again, else the event that we wait for is past.
                    let next = self.path.ancestors().take_while(|p| *p != folder).last().unwrap_or(&self.path);
                    if !next.exists() {
                        return Ok(());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Passes on the whole lines that are there; false once nobody listens.
    fn read_on(&mut self) -> bool {
        let Some(mut file) = self.file.take() else { return true };
        let mut chunk = vec![0; 64 * 1024];
        let going = loop {
            match file.read(&mut chunk) {
                Ok(0) => break true,
                Ok(n) => {
                    if !self.take(&chunk[..n]) {
                        break false;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
        };
        self.file = Some(file);
        going
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            if self.rest.len() + piece.len() > MAX_LINE {
                self.skipping = true;
            }
            if self.skipping {
                self.rest.clear();
            } else {
                self.rest.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                let whole = !std::mem::take(&mut self.skipping);
                let line = std::mem::take(&mut self.rest);
                if whole && !self.pass(&line) {
                    return false;
                }
            }
        }
        true
    }

    fn pass(&self, line: &[u8]) -> bool {
        // What is no JSON is none of ours; the agent's file is the agent's.
        let Ok(value) = serde_json::from_slice::<Value>(line) else { return true };
        let stamp = value.get("timestamp").and_then(Value::as_str).and_then(|t| t.parse::<Timestamp>().ok());
        stamp.is_some_and(|t| t < self.since) || self.send.send(value).is_ok()
    }

    /// Sleeps until something changed; true once told to stop.
    fn wait(&self) -> io::Result<bool> {
        let stopped = loop {
            let mut fds =
                [PollFd::from_borrowed_fd(self.watch.as_fd(), PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => break fds[1].revents().contains(PollFlags::IN),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        };
        // What changed does not matter: everything is looked at again.
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        while events.next().is_ok() {}
        Ok(stopped)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn line(n: u32) -> String {
        format!("{{\"n\":{n},\"timestamp\":\"2026-11-21T00:00:0{n}Z\"}}\n")
    }

    fn numbers(follower: &Follower, count: usize) -> Vec<u64> {
        (0..count).map(|_| follower.lines().recv_timeout(LONG).unwrap()["n"].as_u64().unwrap()).collect()
    }

    #[test]
    fn a_file_that_comes_into_being_later_is_read_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("projects/-tmp-demo/id.jsonl");
        let follower = Follower::start(&path, Timestamp::UNIX_EPOCH).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(&path).unwrap();
        file.write_all(line(1).as_bytes()).unwrap();
        assert_eq!(numbers(&follower, 1), [1]);
        // Torn in the middle, and something that is no JSON.
        let two = line(2);
        file.write_all(&two.as_bytes()[..7]).unwrap();
        file.write_all(&two.as_bytes()[7..]).unwrap();
        file.write_all(b"no json\n").unwrap();
        file.write_all(line(3).as_bytes()).unwrap();
        assert_eq!(numbers(&follower, 2), [2, 3]);
    }

    #[test]
    fn older_lines_are_passed_over_and_the_last_ones_come_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id.jsonl");
        std::fs::write(&path, line(1) + &line(2)).unwrap();
        let follower = Follower::start(&path, "2026-11-21T00:00:02Z".parse().unwrap()).unwrap();
        assert_eq!(numbers(&follower, 1), [2]);
        File::options().append(true).open(&path).unwrap().write_all(line(3).as_bytes()).unwrap();
        follower.stop();
        assert_eq!(numbers(&follower, 1), [3]);
        assert!(follower.lines().recv_timeout(LONG).is_err(), "disconnected");
    }
}
