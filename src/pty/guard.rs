//! The guard: a process of its own between wrapper and agent, there for what a wrapper that was killed can no longer do.
//!
//! It is executed, not forked, so it holds none of the wrapper's locks. With a terminal it leads the inner session: the
//! agent's process group is then no orphan, and the kernel stops it on Ctrl-Z as it would under a shell. As subreaper it
//! inherits every orphan of the tree, so that nothing the agent started can hide. It never sees the agent's bytes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, wait, waitid};

use super::feed::Ended;
use super::memo::Memo;
use super::wire::{Order, Report, recv, send};
use crate::extract::event::ProcId;
use crate::linux;

/// The hidden verb.
pub(crate) const GUARD_VERB: &str = "__guard";

/// Patience between two signals once the wrapper is gone; with two of them the tree ends well within 10 s (F9).
const LOST_GRACE: Duration = Duration::from_secs(2);

/// KILL is sent again this often, for a tree that forks faster than it is listed,
const KILL_EVERY: Duration = Duration::from_millis(50);
/// and this many times; what is alive then hangs in the kernel.
const KILLS: u32 = 100;

/// Which of the agent's processes are swept once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// None: the bare command would leave them alone, and they hold nothing of ours.
    Nothing,
    /// Those in the agent's terminal session; what made a session of its own wanted to stay.
    Session,
    /// All: nobody but us knows of them.
    All,
}

/// What the wrapper hands down.
pub(super) struct Handed<'fd> {
    pub(super) socket: BorrowedFd<'fd>,
    pub(super) launch: BorrowedFd<'fd>,
    pub(super) memo: BorrowedFd<'fd>,
    pub(super) slave: Option<BorrowedFd<'fd>>,
    pub(super) outer: Option<BorrowedFd<'fd>>,
    pub(super) scope: Scope,
    pub(super) foreground: bool,
}

impl Handed<'_> {
    /// Puts all of it on the guard's command line; [`Guard::take`] reads it.
    pub(super) fn hand_down(&self, command: &mut Command) {
        let number = |fd: Option<BorrowedFd<'_>>| fd.map_or(-1, |fd| fd.as_raw_fd()).to_string();
        let scope = match self.scope {
            Scope::Nothing => "nothing",
            Scope::Session => "session",
            Scope::All => "all",
        };
        command.arg(GUARD_VERB);
        for fd in [Some(self.socket), Some(self.launch), Some(self.memo), self.slave, self.outer] {
            command.arg(number(fd));
        }
        command.arg(scope).arg(if self.foreground { "fg" } else { "bg" });
        let fds = [Some(self.socket), Some(self.launch), Some(self.memo), self.slave, self.outer];
        linux::keep_on_exec(command, fds.into_iter().flatten());
    }
}

/// Joins folder and command for the launch memory; no argument and no path can hold a NUL.
pub(super) fn launch_bytes(cwd: &OsStr, argv: &[OsString]) -> Vec<u8> {
    let mut bytes = cwd.as_bytes().to_vec();
    for arg in argv {
        bytes.push(0);
        bytes.extend_from_slice(arg.as_bytes());
    }
    bytes
}

/// Runs the guard; `args` are what follows the verb.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    // Started by hand there is no socket, and nothing to guard.
    let Some(guard) = Guard::take(args) else {
        eprintln!("orchwrap: {GUARD_VERB} is started by the wrapper only");
        return ExitCode::from(2);
    };
    match guard.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

struct Guard {
    socket: OwnedFd,
    launch: OwnedFd,
    memo: OwnedFd,
    /// Held open until the agent has ended: an agent that closes all its terminals may open /dev/tty again.
    slave: Option<OwnedFd>,
    outer: Option<OwnedFd>,
    scope: Scope,
    foreground: bool,
}

impl Guard {
    fn take(args: &[OsString]) -> Option<Self> {
        let [socket, launch, memo, slave, outer, scope, seat] = args else { return None };
        let number = |arg: &OsString| arg.to_str()?.parse::<i32>().ok();
        let maybe = |arg| match number(arg)? {
            ..0 => Some(None),
            fd => linux::inherited(fd).ok().map(Some),
        };
        Some(Self {
            socket: maybe(socket)??,
            launch: maybe(launch)??,
            memo: maybe(memo)??,
            slave: maybe(slave)?,
            outer: maybe(outer)?,
            scope: match scope.to_str()? {
                "nothing" => Scope::Nothing,
                "session" => Scope::Session,
                _ => Scope::All,
            },
            foreground: seat == "fg",
        })
    }

    fn run(mut self) -> io::Result<()> {
        // Blocked for good: whatever is sent to the group or the session is for the agent.
        SigSet::all().thread_block()?;
        let children =
            SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        if let Some(slave) = &self.slave {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(slave)?;
        }
        nix::sys::prctl::set_child_subreaper(true)?;
        let agent = match self.spawn() {
            Ok(agent) => agent,
            Err(failed) => {
                send(&self.socket, failed);
                return Ok(());
            }
        };
        send(&self.socket, Report::Started(agent));
        linux::forget_startup_code();
        let mut watch = Watch { guard: self, agent, alive: true, ending: None, released: false };
        watch.run(&children)
    }

    fn spawn(&mut self) -> Result<ProcId, Report> {
        let failed = |cwd, e: &io::Error| Report::Failed { cwd, errno: e.raw_os_error().unwrap_or(nix::libc::EIO) };
        let mut text = Vec::new();
        let mut launch = File::from(self.launch.try_clone().map_err(|e| failed(false, &e))?);
        launch.rewind().and_then(|()| launch.read_to_end(&mut text)).map_err(|e| failed(false, &e))?;
        let mut parts = text.split(|&b| b == 0).map(OsStr::from_bytes);
        let cwd = parts.next().unwrap_or_default();
        std::env::set_current_dir(cwd).map_err(|e| failed(true, &e))?;
        let mut command = Command::new(parts.next().unwrap_or_default());
        command.args(parts);
        if self.slave.is_some() {
            command.process_group(0);
        }
        let terminal = self.slave.as_ref().filter(|_| self.foreground).map(|slave| slave.as_raw_fd());
        let at_last = move || {
            if let Some(slave) = terminal {
                // SAFETY: the guard holds it open across the fork.
                let slave = unsafe { BorrowedFd::borrow_raw(slave) };
                // From the background this would stop us, were our signals not blocked still.
                rustix::termios::tcsetpgrp(slave, rustix::process::getpid())?;
            }
            // `Command` hands our mask on; nothing is blocked for the agent.
            SigSet::empty().thread_set_mask()?;
            Ok(())
        };
        // SAFETY: three async-signal-safe system calls, no allocation, no lock.
        unsafe { command.pre_exec(at_last) };
        let child = command.spawn().map_err(|e| failed(false, &e))?;
        let pid = child.id().cast_signed();
        // It cannot be gone: only we reap it, and its `stat` can be read until then.
        let id = linux::proc_id(pid).unwrap_or(ProcId { pid, start: 0 });
        self.let_go();
        Ok(id)
    }

    /// Gives up what was held only for the agent: its streams, so that their ends are seen, and its folder.
    fn let_go(&self) {
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
            let _ = rustix::stdio::dup2_stderr(&null);
        }
        let _ = std::env::set_current_dir("/");
    }

    /// Undoes what the agent and the wrapper did to the person's terminal.
    fn restore_outer(&self) {
        let (Some(outer), Ok(memo)) = (&self.outer, Memo::read(&self.memo)) else { return };
        if let Some(settings) = memo.settings() {
            super::tty::restore(outer, settings);
        }
        let _ = rustix::io::write(outer, memo.undo());
    }
}

/// An end under way: HUP, TERM, then KILL.
struct Ending {
    all: bool,
    grace: Duration,
    sent: u32,
    next: Instant,
}

struct Watch {
    guard: Guard,
    agent: ProcId,
    alive: bool,
    ending: Option<Ending>,
    /// The wrapper is done with us, or gone.
    released: bool,
}

impl Watch {
    fn run(&mut self, children: &SignalFd) -> io::Result<()> {
        loop {
            self.reap(children)?;
            self.end();
            if self.released && self.ending.is_none() {
                return Ok(());
            }
            let timeout = self.ending.as_ref().map(|ending| {
                let wait = ending.next.saturating_duration_since(Instant::now());
                Timespec::try_from(wait).expect("a grace is far below the clock's range")
            });
            let mut fds = [
                PollFd::new(children, PollFlags::IN),
                PollFd::new(&self.guard.socket, if self.released { PollFlags::empty() } else { PollFlags::IN }),
            ];
            // A wrapper that is gone leaves its socket hung up for ever: not asked about again.
            let fds = if self.released { &mut fds[..1] } else { &mut fds[..] };
            match poll(fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
                match recv(&self.guard.socket) {
                    Ok(Some(order)) => self.obey(order),
                    Ok(None) | Err(_) => self.lost(),
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Signal { signal, group } => self.signal(signal, group),
            Order::Continue { foreground } => {
                if let (true, Some(slave)) = (foreground, &self.guard.slave)
                    && rustix::termios::tcgetpgrp(slave).is_ok_and(|group| group == rustix::process::getpgrp())
                    && let Some(agent) = rustix::process::Pid::from_raw(self.agent.pid)
                {
                    let _ = rustix::termios::tcsetpgrp(slave, agent);
                }
                self.signal(nix::libc::SIGCONT, true);
            }
            Order::End { all, grace_ms } => self.begin_end(all, Duration::from_millis(grace_ms.into())),
            Order::Release => self.released = true,
        }
    }

    /// The wrapper is gone without a word.
    fn lost(&mut self) {
        self.released = true;
        self.guard.restore_outer();
        self.begin_end(true, LOST_GRACE);
    }

    fn signal(&self, signal: i32, group: bool) {
        let (Ok(signal), Some(agent)) =
            (Signal::try_from(signal), self.alive.then(|| nix::unistd::Pid::from_raw(self.agent.pid)))
        else {
            return;
        };
        // We have not reaped it, so the pid is still its own. Without a terminal it shares our group, and the group was
        // signalled by whoever meant the group.
        let _ = if group && self.guard.slave.is_some() {
            nix::sys::signal::killpg(agent, signal)
        } else {
            nix::sys::signal::kill(agent, signal)
        };
    }

    fn reap(&mut self, children: &SignalFd) -> io::Result<()> {
        while children.read_signal()?.is_some() {}
        let mut ended = None;
        loop {
            // Not nix's wait: it has no room for real-time signals.
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) if pid.as_raw_pid() == self.agent.pid => {
                    ended = ended
                        .or(status.exit_status().map(Ended::Code))
                        .or(status.terminating_signal().map(Ended::Signal));
                    if let Some(signal) = status.stopping_signal() {
                        send(&self.guard.socket, Report::Stopped(signal));
                    }
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(Errno::CHILD) => break,
                Err(e) => return Err(e.into()),
            }
        }
        if let Some(ended) = ended {
            self.alive = false;
            // Our hold on the terminal goes first: the wrapper reads until nobody holds it any more.
            self.guard.slave = None;
            let left = match self.guard.scope {
                Scope::Nothing => 0,
                Scope::Session => self.targets(false).len(),
                Scope::All => self.targets(true).len(),
            };
            send(&self.guard.socket, Report::Exited { ended, left: u32::try_from(left).unwrap_or(u32::MAX) });
        }
        Ok(())
    }

    fn targets(&self, all: bool) -> Vec<ProcId> {
        // Most agents leave nothing behind; the kernel says so without a walk through /proc.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::All, look).is_err_and(|e| e == Errno::CHILD) {
            return Vec::new();
        }
        let me = linux::this_process().pid;
        linux::descendants(me)
            .into_iter()
            .filter(|stat| (all || stat.session == me) && !matches!(stat.state, 'Z' | 'X'))
            .map(|stat| stat.id)
            .collect()
    }

    fn begin_end(&mut self, all: bool, grace: Duration) {
        self.ending = Some(Ending { all, grace, sent: 0, next: Instant::now() });
    }

    /// Goes on with an end under way.
    fn end(&mut self) {
        let Some(mut ending) = self.ending.take() else { return };
        let targets = self.targets(ending.all);
        let tired = ending.sent > KILLS;
        if targets.is_empty() || tired {
            let left = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            return send(&self.guard.socket, Report::Swept { left });
        }
        let now = Instant::now();
        if now >= ending.next {
            let (signal, wait) = match ending.sent {
                0 => (nix::libc::SIGHUP, ending.grace),
                1 => (nix::libc::SIGTERM, ending.grace),
                _ => (nix::libc::SIGKILL, KILL_EVERY),
            };
            for id in targets {
                let _ = linux::signal(id, signal);
                // A stopped process takes no signal but KILL until it runs again.
                if signal != nix::libc::SIGKILL {
                    let _ = linux::signal(id, nix::libc::SIGCONT);
                }
            }
            ending.sent += 1;
            ending.next = now + wait;
        }
        self.ending = Some(ending);
    }
}
