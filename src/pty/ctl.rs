//! The server of a run's control socket: accepts, parses, and hands each request to the Observer by channel.
//!
//! It decides nothing. A connection is a thread with a small stack, for the time it is open; a subscriber follows the
//! journal file itself, so however slow it reads it costs nobody else anything.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde::Serialize;

use crate::ctl::{Done, MAX_REQUEST_BYTES, Refusal, Request, Response};
use crate::paths::RunDir;
use crate::pty::journal::{self, JournalReader, Tail};
use crate::sock;

/// Connections at a time; one more is told so and closed.
const MAX_CONNECTIONS: usize = 64;
/// A client that takes none of its answer for so long is given up. Subscribers may take as long as they like.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long clients get to take their last lines once the run is over.
const FAREWELL: Duration = Duration::from_secs(2);
/// Enough for a request parsed to serde_json's depth limit, also unoptimised.
const STACK_BYTES: usize = 512 * 1024;

/// A request on its way to the Observer, and the way back.
#[derive(Debug)]
pub struct Asked {
    /// What is asked; never [`Request::Subscribe`], which is served from the journal.
    pub request: Request,
    reply: Sender<String>,
}

impl Asked {
    /// What is asked, and the way back.
    pub fn split(self) -> (Request, Answerer) {
        (self.request, Answerer { reply: self.reply })
    }
}

/// The way back of a request.
#[derive(Debug)]
pub struct Answerer {
    reply: Sender<String>,
}

impl Answerer {
    /// Answers.
    pub fn ok(self, value: &impl Serialize) {
        self.reply.send(line(&Response::Ok(value))).ok();
    }

    /// Says no.
    pub fn refuse(self, code: &str, message: impl Into<String>) {
        self.reply.send(refusal(code, message)).ok();
    }
}

fn line<T: Serialize>(response: &Response<T>) -> String {
    let mut text = serde_json::to_string(response).expect("answers have string keys and finite numbers");
    text.push('\n');
    text
}

fn refusal(code: &str, message: impl Into<String>) -> String {
    line::<Done>(&Response::Error(Refusal { code: code.into(), message: message.into() }))
}

/// What the connections share.
#[derive(Debug)]
struct Shared<T> {
    journal: PathBuf,
    tail: Arc<Tail>,
    ask: Sender<T>,
    open: Mutex<Open>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    streams: HashMap<u64, UnixStream>,
    over: bool,
}

impl<T> Shared<T> {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listening socket of a run.
#[derive(Debug)]
pub struct Server<T> {
    path: PathBuf,
    listener: UnixListener,
    shared: Arc<Shared<T>>,
}

/// Requests that may wait in the Observer's channel; a connection waits when it is full.
pub const MAX_WAITING: usize = 64;

/// Binds the socket of a run and serves it; requests go to `ask`.
pub fn serve<T: From<Asked> + Send + 'static>(dir: &RunDir, tail: Arc<Tail>, ask: Sender<T>) -> io::Result<Server<T>> {
    let path = dir.ctl_sock();
    let listener = sock::bind(&path)?;
    let shared = Arc::new(Shared { journal: dir.events(), tail, ask, open: Mutex::default(), closed: Condvar::new() });
    let (accepting, theirs) = (listener.try_clone()?, Arc::clone(&shared));
    thread::Builder::new().name("ctl".into()).stack_size(STACK_BYTES).spawn(move || accept(&accepting, &theirs))?;
    Ok(Server { path, listener, shared })
}

impl<T> Server<T> {
    /// Takes the socket away and lets those connected take their last lines, for a bounded time.
    ///
    /// The journal must be closed before: that is what ends subscribers.
    pub fn close(self) {
        std::fs::remove_file(&self.path).ok();
        // Wakes the accepting thread.
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).ok();
        let mut open = self.shared.open();
        open.over = true;
        for stream in open.streams.values() {
            // Whoever is about to ask finds the end; answers still go out.
            stream.shutdown(Shutdown::Read).ok();
        }
        let until = Instant::now() + FAREWELL;
        while !open.streams.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            open = self.shared.closed.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn accept<T: From<Asked> + Send + 'static>(listener: &UnixListener, shared: &Arc<Shared<T>>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if shared.open().over => return,
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return,
            Err(e) => {
                // Out of descriptors (F63): live runs go on, and so do we once there are some.
                tracing::warn!(error = %e, "control connection not accepted");
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if !sock::peer_is_us(&stream) {
            tracing::warn!("control connection of another user refused");
            continue;
        }
        stream.set_write_timeout(Some(ANSWER_PATIENCE)).ok();
        let Ok(kept) = stream.try_clone() else { continue };
        let id = {
            let mut open = shared.open();
            if open.over {
                return;
            }
            if open.streams.len() >= MAX_CONNECTIONS {
                drop(open);
                let busy = refusal("busy", format!("the run has {MAX_CONNECTIONS} connections already: try again"));
                (&stream).write_all(busy.as_bytes()).ok();
                continue;
            }
            open.next += 1;
            let id = open.next;
            open.streams.insert(id, kept);
            id
        };
        let theirs = Arc::clone(shared);
        let serving = thread::Builder::new().name("ctl-client".into()).stack_size(STACK_BYTES).spawn(move || {
            // A client that hangs up in mid-answer is no error of ours.
            converse(stream, &theirs).ok();
            forget(&theirs, id);
        });
        if serving.is_err() {
            forget(shared, id);
        }
    }
}

fn forget<T>(shared: &Shared<T>, id: u64) {
    shared.open().streams.remove(&id);
    shared.closed.notify_all();
}

/// Serves one connection: request, answer, and so on until the client hangs up.
fn converse<T: From<Asked>>(stream: UnixStream, shared: &Shared<T>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let n = (&mut reader).take(MAX_REQUEST_BYTES as u64 + 1).read_until(b'\n', &mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        if n > MAX_REQUEST_BYTES {
            let text = format!("a request has at most {MAX_REQUEST_BYTES} bytes");
            return out.write_all(refusal("bad_request", text).as_bytes());
        }
        match serde_json::from_slice::<Request>(&buffer) {
            Err(e) => out.write_all(refusal("bad_request", e.to_string()).as_bytes())?,
            Ok(Request::Subscribe { from }) => return subscribe(out, shared, from),
            Ok(request) => {
                let (reply, answer) = crossbeam_channel::bounded(1);
                let gone = || refusal("exited", "the agent has exited");
                let text = match shared.ask.send(Asked { request, reply }.into()) {
                    Ok(()) => answer.recv().unwrap_or_else(|_| gone()),
                    Err(_) => gone(),
                };
                out.write_all(text.as_bytes())?;
            }
        }
    }
}

fn subscribe<T>(mut out: UnixStream, shared: &Shared<T>, from: u64) -> io::Result<()> {
    let reader = JournalReader::open(&shared.journal, from)?;
    out.write_all(line(&Response::Ok(Done {})).as_bytes())?;
    out.set_write_timeout(None)?;
    let hangup = out.try_clone()?;
    let mut out = io::BufWriter::new(out);
    journal::follow(&shared.tail, reader, &mut out, Some(hangup.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::Receiver;

    use crate::extract::event::{Body, Draft, Source};
    use crate::ids::RunId;
    use crate::pty::client::{Ctl, CtlError};
    use crate::pty::journal::{Journal, Stamp};
    use crate::pty::mask::Mask;

    fn note() -> Draft {
        Draft {
            body: Body::Note { code: "x".into(), text: "y".into() },
            source: Source::Timer,
            rule: "t".into(),
            span: None,
        }
    }

    struct Fixture {
        _root: tempfile::TempDir,
        dir: RunDir,
        journal: Journal,
        server: Server<Asked>,
        asked: Receiver<Asked>,
    }

    fn fixture() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::at(root.path());
        let stamp = Stamp { host: "h".into(), session: "s".parse().unwrap(), run: RunId::random() };
        let journal = Journal::create(&dir.events(), stamp, Mask::default()).unwrap();
        let (ask, asked) = crossbeam_channel::bounded(MAX_WAITING);
        let server = serve(&dir, journal.tail(), ask).unwrap();
        Fixture { _root: root, dir, journal, server, asked }
    }

    #[test]
    fn a_request_reaches_the_observer_and_its_answer_the_client() {
        let f = fixture();
        let asked = f.asked.clone();
        let observer = thread::spawn(move || {
            asked.recv().unwrap().split().1.ok(&Done {});
            asked.recv().unwrap().split().1.refuse("not_asking", "nothing is asked");
        });
        let ctl = Ctl::connect(&f.dir).unwrap();
        ctl.interrupt().unwrap();
        let error = ctl.answer("h", "yes").unwrap_err();
        assert!(matches!(&error, CtlError::Refused(r) if r.code == "not_asking"), "{error}");
        observer.join().unwrap();
    }

    #[test]
    fn t28_what_is_no_request_is_refused_and_an_endless_line_cut_off() {
        let f = fixture();
        let mut stream = sock::connect(&f.dir.ctl_sock()).unwrap();
        stream.write_all(b"{\"op\":\"fly\"}\n").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut text = String::new();
        reader.read_line(&mut text).unwrap();
        assert!(text.contains("bad_request"), "{text}");
        let writer = thread::spawn(move || {
            let chunk = vec![b'x'; 1 << 20];
            while stream.write_all(&chunk).is_ok() {}
        });
        text.clear();
        reader.read_line(&mut text).unwrap();
        assert!(text.contains("bad_request"), "{text}");
        drop(reader);
        writer.join().unwrap();
    }

    #[test]
    fn f67_connections_are_bounded_and_a_freed_place_is_used_again() {
        let f = fixture();
        let held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| sock::connect(&f.dir.ctl_sock()).unwrap()).collect();
        let busy = |dir: &RunDir| {
            let mut text = String::new();
            let stream = sock::connect(&dir.ctl_sock()).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            BufReader::new(stream).read_line(&mut text).ok();
            text.contains("busy")
        };
        assert!(busy(&f.dir));
        drop(held);
        let until = Instant::now() + Duration::from_secs(20);
        while busy(&f.dir) {
            assert!(Instant::now() < until, "places are not freed");
        }
    }

    #[test]
    fn subscribers_get_old_and_new_lines_once_and_end_with_the_run() {
        let mut f = fixture();
        for _ in 0..30 {
            f.journal.append(note(), None, Duration::ZERO);
        }
        f.journal.flush(Duration::ZERO);
        let ctl = Ctl::connect(&f.dir).unwrap();
        let subscribers: Vec<_> = [1, 20, 31, 40]
            .map(|from| {
                let events = ctl.subscribe(from).unwrap();
                thread::spawn(move || events.map(|e| e.unwrap().seq.unwrap()).collect::<Vec<_>>())
            })
            .into();
        for _ in 0..70 {
            f.journal.append(note(), None, Duration::ZERO);
            f.journal.flush(Duration::ZERO);
        }
        f.journal.close(Duration::ZERO);
        f.server.close();
        assert!(!f.dir.ctl_sock().exists());
        for (from, got) in [1, 20, 31, 40].into_iter().zip(subscribers) {
            assert_eq!(got.join().unwrap(), (from..=100).collect::<Vec<_>>());
        }
    }
}
