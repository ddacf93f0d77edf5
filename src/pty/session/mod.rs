//! The Observer: the thread of a wrapper that knows what the agent is doing.
//!
//! It takes what the I/O thread saw and what clients ask, feeds the extractor, records, journals, and types prompts. It
//! owns all of these alone, so nothing here is locked; and it sleeps until something happens or is due.

mod answering;
mod replay;
mod requests;
mod sending;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never};
use serde_json::Value;

use crate::ctl::SendOutcome;
use crate::extract::adapters::{FollowRule, Version};
use crate::extract::event::{Body, Draft, Source};
use crate::extract::pattern::Pack;
use crate::extract::{Extractor, Options};
use crate::ids::AttemptKey;
use crate::linux;
use crate::paths::RunDir;
use crate::pty::ctl::{self, Answerer, Asked};
use crate::pty::follow::Follower;
use crate::pty::journal::{self, Journal, Stamp};
use crate::pty::mask::Mask;
use crate::pty::record::{Missing, Recorder};
use crate::pty::{Cause, Ended, Feed, FeedReceiver, IoHandle, Next, Started, Stream};
use crate::run::{RunSpec, Seat};
use answering::Answering;
use replay::Taken;
use sending::Flight;

/// Chunks taken in a row before requests and timers get their turn.
const BATCH: usize = 256;
/// How soon an unfinished write is looked at again.
const WRITE_POLL: Duration = Duration::from_millis(5);
/// How long the readers of `--events` get to take the last lines.
const SINK_FAREWELL: Duration = Duration::from_secs(5);
/// How long the agent's session file gets to be read to its end.
const FOLLOW_FAREWELL: Duration = Duration::from_secs(2);
/// A line of structured output that is longer is no report.
const REPORT_LINE_MAX: usize = 8 * 1024 * 1024;

/// What the Observer of a run is given.
#[derive(Debug)]
pub struct SessionCtx {
    /// How the run was launched.
    pub spec: RunSpec,
    /// Its folder; none where no state folder can be had. Then nothing is kept, and nobody can ask or send.
    pub dir: Option<RunDir>,
    /// What is known about the agent.
    pub pack: Arc<Pack>,
    /// Values that must not be written.
    pub mask: Mask,
    /// What reports must carry.
    pub token: String,
    /// Reports are expected from this launch.
    pub reports: bool,
    /// Protocol of the agent's session file.
    pub follow: Option<FollowRule>,
    /// Conversation that the launch fixes.
    pub conversation: Option<String>,
    /// Version of the agent, where it was found out.
    pub version: Option<Version>,
    /// The command line, or standard input, holds the only prompt.
    pub one_prompt: bool,
    /// Said once, in the journal.
    pub notes: Vec<String>,
    /// Size of the terminal at the start.
    pub size: (u16, u16),
    /// Where events are copied to (`--events`).
    pub sinks: Vec<File>,
}

/// The Observer of a run, to be called on a thread of its own once the agent is started.
pub fn observe(ctx: SessionCtx) -> impl FnOnce(Started, IoHandle, FeedReceiver) + Send + 'static {
    move |started, io, feed| match Observer::new(ctx, started, io) {
        Ok((observer, closing)) => closing.close(observer.run(feed)),
        Err(e) => {
            // The agent goes on without an observer; its bytes are none of our business then.
            tracing::warn!(error = %e, "run not observed");
            drain(feed);
        }
    }
}

/// Takes the feed to its end, for nothing.
fn drain(mut feed: FeedReceiver) {
    while !matches!(feed.recv_deadline(&never::<()>(), None), Next::Ended) {}
}

/// What reaches the Observer besides the feed.
enum Incoming {
    /// A client asks something.
    Asked(Asked),
    /// A line of the agent's session file.
    Line(Value),
    /// The session file is read to its end, after [`Follower::stop`].
    FollowEnded,
}

impl From<Asked> for Incoming {
    fn from(asked: Asked) -> Self {
        Self::Asked(asked)
    }
}

/// What is taken down once the journal is closed.
struct Closing {
    server: Option<ctl::Server<Incoming>>,
    sinks: Vec<Receiver<()>>,
}

impl Closing {
    fn close(self, recorder: Option<Recorder>) {
        if let Some(server) = self.server {
            server.close();
        }
        let until = Instant::now() + SINK_FAREWELL;
        for sink in self.sinks {
            sink.recv_deadline(until).ok();
        }
        if let Some(recorder) = recorder {
            recorder.finish();
        }
    }
}

/// What is done once bytes of ours are in the terminal.
enum Then {
    Deliver,
    Answer(Answerer),
}

struct Write {
    done: Receiver<io::Result<()>>,
    then: Then,
    since: Duration,
}

struct Observer {
    ctx: SessionCtx,
    io: IoHandle,
    started: Started,
    journal: Journal,
    recorder: Option<Recorder>,
    extractor: Extractor,
    incoming: Receiver<Incoming>,
    /// For whoever is to reach the Observer later.
    reach: Sender<Incoming>,
    follower: Option<(PathBuf, Follower)>,
    /// The reports that hooks handed in.
    reports: Taken,
    /// Rest of a line of structured output.
    report_line: Vec<u8>,
    /// The time of the last thing that happened; never goes back.
    now: Duration,
    /// The attempt that the run works for, and whether its turn has ended.
    attempt: Option<AttemptKey>,
    attempt_over: bool,
    flight: Option<Flight>,
    /// What became of every attempt sent to this run: for its life, so that nothing is ever sent twice.
    sent: HashMap<AttemptKey, SendOutcome>,
    last_send: Option<AttemptKey>,
    /// When the intent to type our last prompt was journaled.
    intended: Option<Duration>,
    /// Hash of the prompt whose acceptance is journaled.
    accepted: Option<String>,
    /// The answer on its way to the agent.
    answering: Option<Answering>,
    writes: Vec<Write>,
    stopping: Vec<Answerer>,
}

impl Observer {
    fn new(mut ctx: SessionCtx, started: Started, io: IoHandle) -> io::Result<(Self, Closing)> {
        let stamp = Stamp::of(&ctx.spec);
        let mask = ctx.mask.clone();
        let journal = match &ctx.dir {
            Some(dir) => Journal::create(&dir.events(), stamp, mask)?,
            None if !ctx.sinks.is_empty() => Journal::in_memory(stamp, mask)?,
            None => return Err(io::Error::other("no state folder")),
        };
        let (reach, incoming) = bounded(ctl::MAX_WAITING);
        let server = ctx.dir.as_ref().and_then(|dir| {
            ctl::serve(dir, journal.tail(), reach.clone())
                .inspect_err(|e| ctx.notes.push(format!("no control socket: {e}")))
                .ok()
        });
        let sinks = ctx.sinks.drain(..).filter_map(|sink| copy_events(&journal, sink).ok()).collect();
        let recorder = match ctx.dir.as_ref().filter(|_| ctx.spec.record) {
            Some(dir) => Recorder::create(dir, ctx.size, ctx.mask.clone())
                .inspect_err(|e| ctx.notes.push(format!("no recording: {e}")))
                .ok(),
            None => None,
        };
        let options = Options { cols: ctx.size.0, rows: ctx.size.1, reports: ctx.reports };
        let mut extractor = Extractor::new(Arc::clone(&ctx.pack), options);
        extractor.started_at(crate::clock::wall());
        if let Some(version) = ctx.version {
            extractor.version(version, Duration::ZERO);
        }
        if ctx.one_prompt {
            extractor.one_prompt();
        }
        extractor.ask_front();
        let observer = Self {
            attempt: ctx.spec.attempt,
            ctx,
            io,
            started,
            journal,
            recorder,
            extractor,
            incoming,
            reach,
            follower: None,
            reports: Taken::default(),
            report_line: Vec::new(),
            now: Duration::ZERO,
            attempt_over: false,
            flight: None,
            sent: HashMap::new(),
            last_send: None,
            intended: None,
            accepted: None,
            answering: None,
            writes: Vec::new(),
            stopping: Vec::new(),
        };
        Ok((observer, Closing { server, sinks }))
    }

    /// Runs to the end of the agent; returns the recorder, to be finished once everybody has been told.
    fn run(mut self, mut feed: FeedReceiver) -> Option<Recorder> {
        let incoming = self.incoming.clone();
        self.begin();
        loop {
            self.settle();
            let next = feed.recv_deadline(&incoming, self.deadline());
            self.touch(self.started.started.elapsed());
            let ended = match next {
                Next::Feed(item) => self.take(item, &mut feed),
                Next::Control(incoming) => {
                    // What the agent has said by now counts: its state is about to be judged.
                    let ended = feed.try_recv().is_some_and(|item| self.take(item, &mut feed));
                    self.incoming(incoming);
                    ended
                }
                Next::Timeout => false,
                Next::Ended => true,
            };
            if ended {
                break;
            }
        }
        self.end()
    }

    /// Takes `item` and what waits behind it; true at the end of the run.
    fn take(&mut self, item: Feed, feed: &mut FeedReceiver) -> bool {
        let mut ended = self.item(item);
        for _ in 1..BATCH {
            match feed.try_recv() {
                Some(item) if !ended => ended = self.item(item),
                _ => break,
            }
        }
        ended
    }

    fn touch(&mut self, at: Duration) {
        self.now = self.now.max(at);
    }

    fn incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Asked(asked) => self.asked(asked),
            Incoming::Line(payload) => self.followed(&payload),
            Incoming::FollowEnded => {}
        }
    }

    fn begin(&mut self) {
        let spec = &self.ctx.spec;
        let body = Body::RunStarted {
            agent: spec.agent.clone(),
            pack: spec.pack.clone(),
            argv0: spec.argv.first().cloned().unwrap_or_default(),
            cwd: spec.cwd.clone(),
            boot_id: linux::boot_id().unwrap_or_default(),
            wrapper: self.started.wrapper,
            guard: self.started.guard,
            child: self.started.child,
        };
        self.say(body, Source::Exit, "run.started");
        for note in std::mem::take(&mut self.ctx.notes) {
            self.note("launch", note);
        }
        self.journal.flush(self.now);
    }

    fn item(&mut self, item: Feed) -> bool {
        match item {
            Feed::Output { stream, bytes, off, at } => {
                self.touch(at);
                let missing = self.recorder.as_mut().map(|r| r.output(&bytes, off, at)).unwrap_or_default();
                missing.into_iter().for_each(|m| self.missing(m));
                if stream == Stream::Stdout && self.structured_output().is_some() {
                    self.report_lines(&bytes);
                } else {
                    self.extractor.feed(&bytes, off, self.now);
                }
            }
            Feed::Typed { bytes, at } => {
                self.touch(at);
                self.extractor.typed(&bytes, self.now);
            }
            Feed::Resized { cols, rows, at } => {
                self.touch(at);
                self.extractor.resize(cols, rows, self.now);
                if let Some(recorder) = &mut self.recorder {
                    recorder.resized(cols, rows, at);
                }
            }
            Feed::Stopped { at } => {
                self.touch(at);
                self.note("stopped", "the agent is stopped");
            }
            Feed::Continued { at } => {
                self.touch(at);
                self.note("continued", "the agent goes on");
            }
            Feed::StatusReplied { at } => {
                self.touch(at);
                self.note("status_reply", "the query for program status was answered");
            }
            Feed::Gap { from, to, at } => {
                self.touch(at);
                self.extractor.gap(self.now);
                self.say(Body::Gap { from, to, why: "observer".into() }, Source::Timer, "observer.gap");
            }
            Feed::Exited { status, cause, leftovers, at } => {
                self.touch(at);
                self.exited(status, cause, leftovers);
                return true;
            }
        }
        false
    }

    /// Protocol of the standard output, where it is a structured stream.
    fn structured_output(&self) -> Option<&str> {
        let oneshot = self.ctx.pack.oneshot.as_ref().filter(|_| self.ctx.spec.seat == Seat::Oneshot)?;
        oneshot.adapter.as_deref()
    }

    fn report_lines(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.report_line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.report_line);
            self.report_line_done(&line);
        }
        if self.report_line.len() + rest.len() <= REPORT_LINE_MAX {
            self.report_line.extend_from_slice(rest);
        } else {
            self.report_line.clear();
        }
    }

    fn report_line_done(&mut self, line: &[u8]) {
        let Some(adapter) = self.structured_output().map(str::to_owned) else { return };
        // What is no JSON is a word of the program beside its stream.
        if let Ok(payload) = serde_json::from_slice(line) {
            self.extractor.report(&adapter, &payload, self.now).ok();
        }
    }

    fn exited(&mut self, status: Ended, cause: Cause, leftovers: u32) {
        let last = std::mem::take(&mut self.report_line);
        self.report_line_done(&last);
        self.finish_following();
        let (code, signal) = match status {
            Ended::Code(code) => (Some(code), None),
            Ended::Signal(signal) => (None, Some(signal)),
        };
        self.extractor.exited(Some((code, signal)), self.now);
        self.drain();
        self.flight_exited();
        if leftovers > 0 {
            self.note("leftovers", format!("{leftovers} processes of the agent outlived it and were ended"));
        }
        let reason = match cause {
            Cause::Stopped => "stopped",
            Cause::Hangup if self.ctx.spec.seat == Seat::Pane => "tmux_lost",
            Cause::Hangup => "hangup",
            Cause::Itself if code.is_some() => "exit",
            Cause::Itself => "signal",
        };
        self.say(Body::RunExited { code, signal, reason: reason.into() }, Source::Exit, "run.exited");
    }

    fn end(mut self) -> Option<Recorder> {
        self.flush_recorder();
        self.journal.close(self.now);
        if let Some(Answering { client, .. }) = self.answering.take() {
            client.refuse("exited", "the agent has ended");
        }
        for waiting in self.stopping.drain(..) {
            waiting.ok(&crate::ctl::Done {});
        }
        self.recorder
    }

    /// Does all that is due, until nothing is.
    fn settle(&mut self) {
        if self.extractor.deadline().is_some_and(|at| at <= self.now) {
            self.extractor.tick(self.now);
            if self.extractor.wants_front(self.now) {
                let itself = self.started.child.and_then(|child| linux::stat(child.pid).ok());
                self.extractor.in_front(itself.is_none_or(|stat| stat.is_in_front()), self.now);
            }
        }
        self.poll_writes();
        self.drain();
        self.step_flight();
        self.step_answer();
        self.flush_recorder();
        self.journal.flush(self.now);
        self.journal.tick(self.now);
    }

    fn deadline(&self) -> Option<Instant> {
        let due = [
            self.extractor.deadline(),
            self.flight_deadline(),
            self.answer_deadline(),
            self.journal.deadline(),
            self.write_deadline(),
        ];
        due.into_iter().flatten().min().map(|at| self.started.started.look_at(at))
    }

    /// Journals what the extractor found, and tells the delivery about it.
    fn drain(&mut self) {
        for draft in self.extractor.drain() {
            if !self.weigh(&draft.body) {
                continue;
            }
            let ends = matches!(
                draft.body,
                Body::TurnStarted {}
                    | Body::TurnCompleted { .. }
                    | Body::TurnFailed { .. }
                    | Body::TurnInterrupted { .. }
            );
            self.journal.append(draft, self.attempt, self.now);
            if ends {
                self.journal.flush_synced(self.now);
            }
        }
        self.follow_transcript();
    }

    /// Follows the session file that a report named, and another one after it (a new conversation).
    fn follow_transcript(&mut self) {
        if self.ctx.follow.is_none() {
            return;
        }
        let Some(path) = self.extractor.view().transcript else { return };
        if self.follower.as_ref().is_some_and(|(followed, _)| *followed == path) {
            return;
        }
        match self.follow(&path) {
            Ok(follower) => self.follower = Some((path, follower)),
            Err(e) => {
                self.ctx.follow = None;
                self.note("follow", format!("the agent's session file is not followed: {e}"));
            }
        }
    }

    fn follow(&self, path: &Path) -> io::Result<Follower> {
        let follower = Follower::start(path, self.ctx.spec.created)?;
        let (lines, reach) = (follower.lines().clone(), self.reach.clone());
        thread::Builder::new().name("follow-on".into()).stack_size(64 * 1024).spawn(move || {
            for line in lines {
                if reach.send(Incoming::Line(line)).is_err() {
                    return;
                }
            }
            reach.send(Incoming::FollowEnded).ok();
        })?;
        Ok(follower)
    }

    fn followed(&mut self, payload: &Value) {
        if let Some(FollowRule { adapter }) = &self.ctx.follow {
            self.extractor.report(adapter, payload, self.now).ok();
        }
    }

    /// Takes what the session file holds by now: the agent wrote its last lines before it ended.
    fn finish_following(&mut self) {
        let Some((_, follower)) = self.follower.take() else { return };
        follower.stop();
        let until = Instant::now() + FOLLOW_FAREWELL;
        while let Ok(incoming) = self.incoming.recv_deadline(until) {
            match incoming {
                Incoming::FollowEnded => return,
                other => self.incoming(other),
            }
        }
    }

    fn flush_recorder(&mut self) {
        let missing = self.recorder.as_mut().map(Recorder::flush).unwrap_or_default();
        missing.into_iter().for_each(|m| self.missing(m));
    }

    fn missing(&mut self, m: Missing) {
        self.say(Body::Gap { from: m.from, to: m.to, why: m.why.into() }, Source::Timer, "record.gap");
    }

    fn note(&mut self, code: &str, text: impl Into<String>) {
        self.say(Body::Note { code: code.into(), text: text.into() }, Source::Input, "run.note");
    }

    fn say(&mut self, body: Body, source: Source, rule: &str) {
        let draft = Draft { body, source, rule: rule.into(), span: None };
        self.journal.append(draft, self.attempt, self.now);
    }
}

/// Copies every line of the journal to `sink`, on a thread of its own: whoever reads it may be slow. The receiver ends
/// when all is copied or nobody reads any more.
fn copy_events(journal: &Journal, sink: File) -> io::Result<Receiver<()>> {
    let (tail, reader) = (journal.tail(), journal.reader(1)?);
    let (done, copied) = bounded::<()>(0);
    thread::Builder::new().name("events".into()).stack_size(256 * 1024).spawn(move || {
        let mut out = io::BufWriter::new(sink);
        if let Err(e) = journal::follow(&tail, reader, &mut out, None) {
            tracing::warn!(error = %e, "events not copied");
        }
        drop(done);
    })?;
    Ok(copied)
}
