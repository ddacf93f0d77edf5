//! The I/O thread: one `poll` over keys, the agent's output, signals, the guard and the Observer's requests.
//!
//! It copies bytes and decides nothing about their meaning. Each direction has its own place for what the other side does
//! not take yet, so neither can hold up the other (F23), and nothing is read while something is pending, so whoever writes
//! feels the reader (F22). Idle, it sleeps in `poll` without a timeout.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::Winsize;

use super::feed::{Cause, Ended, Feed, FeedSender, Stream};
use super::guard::Scope;
use super::handle::Command;
use super::keys::Keys;
use super::lane::{Arena, Flow, Lane};
use super::memo::Memo;
use super::tty::Outer;
use super::wire::{Order, Report, recv, send};
use crate::clock;
use crate::extract::event::ProcId;
use crate::linux;
use crate::run::Seat;
use crate::term::modes::Sentry;

/// After the agent's end its streams are read until nobody holds them any more, but no longer than this (F20),
const DRAIN: Duration = Duration::from_secs(2);
/// and where that is the terminal alone, no longer than this after the last byte: whoever still holds it says nothing. A
/// pipe's holder may be a filter of the agent's own that has yet to write (`exec > >(..)`).
const DRAIN_QUIET: Duration = Duration::from_millis(250);

/// Patience between two signals with what the agent left behind, and with an agent whose terminal is gone.
const SWEEP_GRACE: Duration = Duration::from_secs(1);
const HANGUP_GRACE: Duration = Duration::from_secs(3);

/// In the background nothing tells when a shell puts us in front again (`fg` of a running job sends no signal).
const BACKGROUND_LOOK: Duration = Duration::from_millis(250);

/// When the code of the start is given back: past the start, and before anybody calls it idle.
const SETTLED: Duration = Duration::from_secs(2);

/// How long the last bytes, which undo the terminal's modes, may take to go out.
const UNDO_WAIT: Duration = Duration::from_millis(500);

/// How much is read before the agent's stop is passed on: what it wrote before stopping.
const BEFORE_STOP: usize = 1024 * 1024;

/// Signals that take us over: passed on to the agent.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];
/// And those that concern our terminal.
const OF_TERMINAL: [Signal; 3] = [Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGTSTP];

/// The signals of this process, as a descriptor.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks them for this thread and those that it starts.
    pub(super) fn block(terminal: bool) -> nix::Result<Self> {
        let mut set = SigSet::empty();
        // What was ignored at our start (nohup) stays ignored, for us and for the agent.
        for signal in PASSED_ON.into_iter().filter(|&signal| !linux::is_ignored(signal as i32)) {
            set.add(signal);
        }
        if terminal {
            set.extend(OF_TERMINAL);
        }
        set.thread_block()?;
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self)
    }
}

/// What the loop is made of.
pub(super) struct Parts {
    pub(super) started: clock::Started,
    pub(super) seat: Seat,
    pub(super) status_reply: bool,
    pub(super) scope: Scope,
    pub(super) lanes: Vec<Lane>,
    /// Ours alone to hold: closed, it is the agent's hangup. Others look at it for a moment.
    pub(super) master: Option<Arc<OwnedFd>>,
    pub(super) outer: Option<Outer>,
    pub(super) interactive: bool,
    pub(super) guard: OwnedFd,
    pub(super) memo: Memo,
    pub(super) shared: OwnedFd,
    pub(super) signals: Signals,
    pub(super) wake: Arc<OwnedFd>,
    pub(super) inbox: Receiver<Command>,
    pub(super) feed: FeedSender,
}

/// How far the end is.
enum End {
    /// The agent runs.
    Running,
    /// It has ended; its streams may hold more.
    Draining { ended: Ended, left: u32, since: Instant, heard: Instant },
    /// What it left behind is being ended.
    Sweeping { ended: Ended, left: u32 },
    /// Nothing is left to do.
    Over { ended: Ended, left: u32 },
}

pub(super) struct Io {
    parts: Parts,
    keys: Keys,
    arena: Arena,
    sentry: Sentry,
    /// The status query was answered, and that was told.
    replied: bool,
    /// The agent's modes are switched off in the outer terminal.
    undone: bool,
    /// Bytes of output so far.
    off: u64,
    /// In the background of the outer terminal: it is neither read nor changed.
    background: bool,
    /// The outer terminal is gone.
    hung_up: bool,
    /// Size last given to the agent's terminal.
    size: Option<(u16, u16)>,
    scratch: Vec<u8>,
    /// When [`SETTLED`] is over, until it is.
    settles: Option<Instant>,
    end: End,
    cause: Cause,
    /// The guard is gone without a word.
    unguarded: bool,
    child: ProcId,
}

/// What `poll` was asked about, in the order of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Signals,
    Guard,
    Wake,
    Keys,
    Master,
    Read(usize),
    Write(usize),
}

/// Signals, guard, wake, keys, master, and two for each of at most three lanes.
const TOKENS: usize = 11;

impl Io {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            settles: Some(Instant::now() + SETTLED),
            parts,
            keys: Keys::new(),
            arena: Arena::new(),
            sentry: Sentry::new(),
            replied: false,
            undone: false,
            off: 0,
            background: false,
            hung_up: false,
            size: None,
            scratch: Vec::new(),
            end: End::Running,
            cause: Cause::Itself,
            unguarded: false,
            child: ProcId { pid: 0, start: 0 },
        }
    }

    /// The socket of the guard.
    pub(super) fn guard(&self) -> &OwnedFd {
        &self.parts.guard
    }

    fn now(&self) -> Duration {
        self.parts.started.elapsed()
    }

    fn order(&self, order: Order) {
        send(&self.parts.guard, order);
    }

    /// Runs until the agent has ended and all is out.
    pub(super) fn run(mut self, child: ProcId) -> Ended {
        self.child = child;
        self.follow_size();
        loop {
            let (ready, count) = self.wait();
            for &(token, events) in &ready[..count] {
                self.handle(token, events);
            }
            self.tick();
            if let End::Over { ended, left } = self.end {
                self.restore();
                self.order(Order::Release);
                let at = self.now();
                self.parts.feed.push(Feed::Exited { status: ended, cause: self.cause, leftovers: left, at });
                return ended;
            }
        }
    }

    /// Sleeps until something happens; returns what.
    fn wait(&self) -> ([(Token, PollFlags); TOKENS], usize) {
        let parts = &self.parts;
        let nothing = PollFd::new(&parts.signals.0, PollFlags::empty());
        let mut fds: [PollFd<'_>; TOKENS] = std::array::from_fn(|_| nothing.clone());
        let mut tokens = [Token::Signals; TOKENS];
        let mut count = 0;
        let mut add = |token, fd, events| {
            fds[count] = PollFd::from_borrowed_fd(fd, events);
            tokens[count] = token;
            count += 1;
        };
        // Keys first: they are few, and somebody waits for each.
        if let Some(outer) = parts.outer.as_ref().filter(|_| !self.hung_up) {
            // What is typed after the agent's end is for the shell.
            let reading = outer.is_raw() && self.keys.has_room() && matches!(self.end, End::Running);
            let wanted = if reading { PollFlags::IN } else { PollFlags::empty() };
            add(Token::Keys, outer.as_fd(), wanted);
        }
        if let Some(master) = parts.master.as_ref().filter(|_| self.keys.is_waiting()) {
            add(Token::Master, master.as_fd(), PollFlags::OUT);
        }
        for (i, lane) in parts.lanes.iter().enumerate() {
            if let Some(from) = lane.readable() {
                add(Token::Read(i), from.as_fd(), PollFlags::IN);
            }
            if let Some(to) = lane.writable() {
                add(Token::Write(i), to.as_fd(), PollFlags::OUT);
            }
        }
        add(Token::Signals, parts.signals.0.as_fd(), PollFlags::IN);
        add(Token::Wake, parts.wake.as_fd(), PollFlags::IN);
        if !self.unguarded {
            add(Token::Guard, parts.guard.as_fd(), PollFlags::IN);
        }
        let timeout = self.deadline().map(|at| {
            let wait = at.saturating_duration_since(Instant::now());
            Timespec::try_from(wait).expect("deadlines are seconds away at most")
        });
        let mut ready = [(Token::Signals, PollFlags::empty()); TOKENS];
        let mut found = 0;
        if poll(&mut fds[..count], timeout.as_ref()).is_ok() {
            for (fd, &token) in fds[..count].iter().zip(&tokens) {
                if !fd.revents().is_empty() {
                    ready[found] = (token, fd.revents());
                    found += 1;
                }
            }
        }
        (ready, found)
    }

    /// When to wake although nothing happened.
    fn deadline(&self) -> Option<Instant> {
        let background = (self.background && !self.hung_up).then(|| Instant::now() + BACKGROUND_LOOK);
        let drain = match self.end {
            // A reader that does not read is waited for, however long: what was read must come out.
            End::Draining { since, heard, .. } if self.is_clear() => Some(self.drained_at(since, heard)),
            _ => None,
        };
        [self.parts.feed.due(), self.keys.due(), background, drain, self.settles].into_iter().flatten().min()
    }

    fn is_clear(&self) -> bool {
        self.parts.lanes.iter().all(Lane::is_clear)
    }

    fn handle(&mut self, token: Token, events: PollFlags) {
        match token {
            Token::Keys => self.read_keys(events),
            Token::Master => self.write_keys(),
            Token::Read(i) => self.read_lane(i),
            Token::Write(i) => {
                let flow = self.parts.lanes[i].flush();
                self.heard();
                self.flowed(i, flow);
            }
            Token::Signals => self.read_signals(),
            Token::Wake => self.read_inbox(),
            Token::Guard => match recv(&self.parts.guard) {
                Ok(Some(report)) => self.reported(report),
                Ok(None) | Err(_) => self.guard_lost(),
            },
        }
    }

    /// What time alone brings about.
    fn tick(&mut self) {
        let now = Instant::now();
        if self.parts.feed.due().is_some_and(|due| due <= now) {
            self.parts.feed.ring();
        }
        if self.keys.due().is_some_and(|due| due <= now) {
            self.keys.tick(now);
            self.write_keys();
        }
        if self.background {
            self.look_from_background();
        }
        if self.settles.is_some_and(|at| at <= now) {
            self.settles = None;
            linux::forget_startup_code();
        }
        if let End::Draining { ended, left, since, heard } = self.end {
            let silent = now >= self.drained_at(since, heard);
            if self.parts.lanes.iter().all(Lane::is_done) || (silent && self.is_clear()) {
                self.drained(ended, left);
            }
        }
    }

    /// When whoever still holds the streams is waited for no longer.
    fn drained_at(&self, since: Instant, heard: Instant) -> Instant {
        let pipes = self.parts.lanes.iter().any(|lane| lane.stream != Stream::Pty && lane.from.is_some());
        if pipes { since + DRAIN } else { (since + DRAIN).min(heard + DRAIN_QUIET) }
    }

    fn drained(&mut self, ended: Ended, left: u32) {
        self.end = if left > 0 && !self.unguarded {
            // The person has the terminal back while leftovers are given their time.
            self.restore();
            self.order(Order::End { all: self.parts.scope == Scope::All, grace_ms: millis(SWEEP_GRACE) });
            End::Sweeping { ended, left }
        } else {
            End::Over { ended, left }
        };
    }

    // --- the agent's output

    fn read_lane(&mut self, i: usize) {
        let lane = &mut self.parts.lanes[i];
        let Some(from) = lane.from.as_ref() else { return };
        match self.arena.read(from) {
            Ok(chunk) if chunk.is_empty() => lane.from = None,
            Ok(chunk) => {
                let stream = lane.stream;
                if stream == Stream::Pty {
                    self.watch(&chunk);
                }
                let flow = self.parts.lanes[i].write(&chunk);
                let (off, at) = (self.off, self.now());
                self.off += chunk.len() as u64;
                self.parts.feed.push(Feed::Output { stream, bytes: chunk, off, at });
                self.heard();
                self.flowed(i, flow);
            }
            Err(Errno::AGAIN) => {}
            // EIO: nobody has the terminal open any more, its normal end.
            Err(_) => lane.from = None,
        }
    }

    /// Looks at a chunk before it is passed on: the status query is answered first, and the guard learns how to undo what
    /// is about to be switched on.
    fn watch(&mut self, chunk: &[u8]) {
        let before = self.sentry.mark();
        let (keys, replies) = (&mut self.keys, self.parts.status_reply);
        let mut replied = false;
        self.sentry.feed(chunk, |terminator| {
            if replies {
                keys.push_reply(terminator.status_reply());
                replied = true;
            }
        });
        if replied {
            self.write_keys();
            if !std::mem::replace(&mut self.replied, true) {
                let at = self.now();
                self.parts.feed.push(Feed::StatusReplied { at });
            }
        }
        if self.sentry.mark() != before && self.parts.outer.is_some() {
            self.note_undo();
        }
    }

    fn note_undo(&mut self) {
        self.scratch.clear();
        self.sentry.undo_unseen(&mut self.scratch);
        self.parts.memo.set_undo(&self.scratch);
        let _ = self.parts.memo.write(&self.parts.shared);
    }

    /// The drain's quiet counts from the last byte.
    fn heard(&mut self) {
        if let End::Draining { heard, .. } = &mut self.end {
            *heard = Instant::now();
        }
    }

    fn flowed(&mut self, i: usize, flow: Flow) {
        if let Flow::Gone(why) = flow {
            if why != Errno::PIPE && self.parts.lanes[i].stream != Stream::Pty {
                // The agent only learns that nobody reads. What a full disk is to us, it would have been told itself.
                eprintln!("orchwrap: write the output: {}", io::Error::from(why));
            }
            match self.parts.lanes[i].stream {
                Stream::Pty => self.hang_up(),
                // The agent's next write fails as it would with the reader itself gone.
                Stream::Stdout | Stream::Stderr => self.parts.lanes[i].from = None,
            }
        }
    }

    /// The outer terminal is gone. Without us the agent's would be too: closed, it reads its end and fails to write.
    fn hang_up(&mut self) {
        if self.hung_up {
            return;
        }
        self.hung_up = true;
        if matches!(self.end, End::Running) {
            self.cause = Cause::Hangup;
        }
        self.parts.master = None;
        for lane in &mut self.parts.lanes {
            if lane.stream == Stream::Pty {
                lane.from = None;
                lane.abandon();
            }
        }
        self.keys.fail();
        if self.parts.seat == Seat::Pane {
            // Nobody would know any more of what survives here.
            self.order(Order::End { all: true, grace_ms: millis(HANGUP_GRACE) });
        } else {
            // The kernel tells the leader of the session only, and leaves it to a shell to tell its jobs; the agent may
            // choose to survive it (nohup).
            self.order(Order::Signal { signal: nix::libc::SIGHUP, group: true });
            self.order(Order::Continue { foreground: false });
        }
    }

    // --- input

    fn read_keys(&mut self, events: PollFlags) {
        let Some(outer) = &self.parts.outer else { return };
        if events.contains(PollFlags::IN) {
            match self.arena.read(outer) {
                Ok(chunk) if !chunk.is_empty() => {
                    let at = self.now();
                    self.keys.push_typed(chunk.clone());
                    self.write_keys();
                    self.parts.feed.push(Feed::Typed { bytes: chunk, at });
                    return;
                }
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(_) => return self.hang_up(),
            }
        }
        if events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            self.hang_up();
        }
    }

    fn write_keys(&mut self) {
        match &self.parts.master {
            Some(master) => self.keys.write(master),
            None => self.keys.fail(),
        }
    }

    fn read_inbox(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.parts.wake, &mut count);
        while let Ok(command) = self.parts.inbox.try_recv() {
            match command {
                Command::Write { bytes, done } => {
                    if self.parts.master.is_none() {
                        let _ = done.send(Err(io::Error::new(
                            io::ErrorKind::Unsupported,
                            "the agent has no terminal to type into",
                        )));
                        continue;
                    }
                    self.keys.push_ours(bytes, done);
                    self.write_keys();
                }
                Command::Withdraw => self.keys.withdraw(),
                // Where a person looks at it, their terminal decides.
                Command::Resize { cols, rows } if self.parts.outer.is_none() => {
                    self.resize(Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 });
                }
                Command::Resize { .. } => {}
                Command::Stop { grace } => {
                    if matches!(self.end, End::Running) {
                        self.cause = Cause::Stopped;
                    }
                    self.order(Order::End { all: true, grace_ms: millis(grace) });
                }
            }
        }
    }

    // --- the outer terminal

    /// Gives the agent's terminal the size of the outer one.
    fn follow_size(&mut self) {
        if let Some(size) = self.parts.outer.as_ref().and_then(Outer::size) {
            self.resize(size);
        }
    }

    fn resize(&mut self, size: Winsize) {
        let Some(master) = &self.parts.master else { return };
        let _ = rustix::termios::tcsetwinsize(master, size);
        let (cols, rows) = (size.ws_col, size.ws_row);
        if self.size.replace((cols, rows)) != Some((cols, rows)) {
            let at = self.now();
            self.parts.feed.push(Feed::Resized { cols, rows, at });
        }
    }

    /// Makes the outer terminal raw, if it is ours to change now.
    pub(super) fn take_terminal(&mut self) {
        let Some(outer) = &mut self.parts.outer else { return };
        self.background = !outer.is_foreground();
        if self.background || !self.parts.interactive || self.hung_up {
            return;
        }
        let (memo, shared) = (&mut self.parts.memo, &self.parts.shared);
        let _ = outer.enter_raw(|settings| {
            memo.set_settings(settings);
            let _ = memo.write(shared);
        });
    }

    /// Puts the outer terminal back as it was: modes first, while what they cover is still raw.
    pub(super) fn restore(&mut self) {
        let Some(outer) = &mut self.parts.outer else { return };
        if !self.hung_up {
            self.scratch.clear();
            self.sentry.undo(&mut self.scratch);
            write_within(&*outer, &self.scratch, UNDO_WAIT);
            outer.leave_raw();
            self.undone = true;
        }
        self.parts.memo.set_undo(&[]);
        self.parts.memo.set_settings(None);
        let _ = self.parts.memo.write(&self.parts.shared);
        // What is off is off: restoring again must not repeat it.
        if !matches!(self.end, End::Running) {
            self.sentry = Sentry::new();
        }
    }

    fn look_from_background(&mut self) {
        let Some(outer) = self.parts.outer.as_ref().filter(|_| !self.hung_up) else { return };
        if outer.is_foreground() {
            return self.come_forward();
        }
        // A program that takes the keys one by one would be stopped by the kernel, were it in the background itself.
        let takes_keys = self.parts.interactive
            && self
                .parts
                .master
                .as_ref()
                .and_then(|master| rustix::termios::tcgetattr(master).ok())
                .is_some_and(|termios| !termios.local_modes.contains(rustix::termios::LocalModes::ICANON));
        if takes_keys {
            self.order(Order::Signal { signal: nix::libc::SIGTTOU, group: true });
        }
    }

    /// We are in front (again): raw, right size, modes as the agent has them.
    fn come_forward(&mut self) {
        self.take_terminal();
        // Only what was undone: a keyboard mode is pushed, and pushed twice it would stay behind.
        if let Some(outer) = self.parts.outer.as_ref().filter(|outer| outer.is_raw() && self.undone) {
            self.undone = false;
            self.scratch.clear();
            self.sentry.redo(&mut self.scratch);
            write_within(outer, &self.scratch, UNDO_WAIT);
            self.note_undo();
        }
        self.follow_size();
    }

    // --- stop and continue

    /// The agent was stopped: so are we, as the job that the shell knows.
    fn suspend(&mut self, signal: i32) {
        let Some(outer) = &self.parts.outer else {
            // Nobody could ever continue it: as in an orphaned process group, where the kernel drops the signal.
            return self.order(Order::Continue { foreground: false });
        };
        let wants_terminal = matches!(signal, nix::libc::SIGTTIN | nix::libc::SIGTTOU);
        if wants_terminal && !self.parts.interactive && outer.is_foreground() {
            // It asks for the keys after all.
            self.parts.interactive = true;
            self.come_forward();
            return self.order(Order::Continue { foreground: true });
        }
        let at = self.now();
        self.parts.feed.push(Feed::Stopped { at });
        self.parts.feed.ring();
        let until = self.off + BEFORE_STOP as u64;
        for i in 0..self.parts.lanes.len() {
            let mut before = u64::MAX;
            while self.parts.lanes[i].is_clear() && self.off != before && self.off < until {
                before = self.off;
                self.read_lane(i);
            }
        }
        self.restore();
        stop_self(if wants_terminal { Signal::SIGTTIN } else { Signal::SIGTSTP });
        self.come_forward();
        let foreground = self.parts.interactive && !self.background;
        self.order(Order::Continue { foreground });
        // An agent that did not see its stop does not draw itself anew; a change of size makes it.
        if foreground
            && let Some(master) = &self.parts.master
            && let Ok(group) = rustix::termios::tcgetpgrp(master)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::WINCH);
        }
        let at = self.now();
        self.parts.feed.push(Feed::Continued { at });
    }

    // --- signals

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.parts.signals.0.read_signal() {
            let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed()) else { continue };
            // From the terminal driver, for a whole process group; otherwise somebody meant this process.
            let from_terminal = info.ssi_code == nix::libc::SI_KERNEL;
            match signal {
                Signal::SIGWINCH => self.follow_size(),
                Signal::SIGCONT => self.come_forward(),
                _ if !matches!(self.end, End::Running) => self.abandon(),
                Signal::SIGHUP if self.is_hung_up() => self.hang_up(),
                // Without a terminal of its own the agent is in our group and has it already.
                _ if from_terminal && self.parts.master.is_none() => {}
                _ => {
                    let group = from_terminal || signal == Signal::SIGTSTP;
                    self.order(Order::Signal { signal: signal as i32, group });
                }
            }
        }
    }

    /// The agent has ended and somebody wants us gone: not waiting for a reader that does not read.
    fn abandon(&mut self) {
        for lane in &mut self.parts.lanes {
            lane.from = None;
            lane.abandon();
        }
    }

    fn is_hung_up(&self) -> bool {
        self.parts.outer.as_ref().is_some_and(|outer| {
            let mut fds = [PollFd::new(outer, PollFlags::empty())];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut fds, Some(&now)).is_ok_and(|_| fds[0].revents().contains(PollFlags::HUP))
        })
    }

    // --- the guard

    fn reported(&mut self, report: Report) {
        match report {
            Report::Stopped(signal) => self.suspend(signal),
            Report::Exited { ended, left } => self.exited(ended, left),
            Report::Swept { left } => match self.end {
                End::Sweeping { ended, left: before } => self.end = End::Over { ended, left: before.max(left) },
                // A stop that ended all: nothing is left for the sweep that follows the drain.
                End::Draining { ended, since, heard, .. } => self.end = End::Draining { ended, left, since, heard },
                End::Running | End::Over { .. } => {}
            },
            Report::Started(_) | Report::Failed { .. } => {}
        }
    }

    fn exited(&mut self, ended: Ended, left: u32) {
        let now = Instant::now();
        self.end = End::Draining { ended, left, since: now, heard: now };
        self.keys.fail();
    }

    /// Somebody killed the guard. Its session is hung up by the kernel; the agent is ended for good, since nobody would
    /// learn how it ends.
    fn guard_lost(&mut self) {
        self.unguarded = true;
        match self.end {
            End::Running => {
                let _ = linux::signal(self.child, nix::libc::SIGKILL);
                self.exited(Ended::Signal(nix::libc::SIGKILL), 0);
            }
            End::Sweeping { ended, left } => self.end = End::Over { ended, left },
            End::Draining { .. } | End::Over { .. } => {}
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Stops this process and its group, as the terminal driver would have; returns once continued. In an orphaned group
/// the kernel drops the signal and nothing stops, as for the bare command.
fn stop_self(signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(0), signal);
    let set = SigSet::from(signal);
    let _ = nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None);
    // Stopped here.
    if signal == Signal::SIGTSTP {
        let _ = nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None);
    }
}

/// Writes all of `bytes` unless the reader takes too long.
fn write_within(to: impl AsFd, mut bytes: &[u8], limit: Duration) {
    let until = Instant::now() + limit;
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => {
                let wait = until.saturating_duration_since(Instant::now());
                let wait = Timespec::try_from(wait).expect("half a second is in range");
                let mut fds = [PollFd::new(&to, PollFlags::OUT)];
                if !matches!(poll(&mut fds, Some(&wait)), Ok(1)) {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
