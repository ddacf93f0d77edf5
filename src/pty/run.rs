//! Starting a run: which of our streams are a terminal, the guard, the Observer; then the I/O loop until the end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::pty::Winsize;
use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::feed::{Ended, FeedReceiver, Stream, feed};
use super::guard::{Handed, Scope, launch_bytes};
use super::handle::IoHandle;
use super::io::{Io, Signals};
use super::lane::{Lane, Outlet};
use super::memo::Memo;
use super::tty::Outer;
use super::wire::{Report, recv};
use crate::clock;
use crate::extract::event::ProcId;
use crate::linux;
use crate::run::Seat;

/// Size of a terminal that nobody looks at, unless the run says otherwise: wide enough that agents do not wrap their rows.
const DETACHED: (u16, u16) = (120, 40);

/// How much the Observer yields: with two processors it must never keep the I/O thread waiting. Pass-through beside a bare
/// relay was 0.60 to 0.62 at 4, and 0.77 (redraws) to 0.88 (log) at 10.
const OBSERVER_NICE: i32 = 10;

/// What to run, and where.
#[derive(Debug)]
pub struct Launch {
    /// The command and its arguments, side channels included.
    pub argv: Vec<OsString>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where its terminal is.
    pub seat: Seat,
    /// Columns and rows of a detached terminal.
    pub size: Option<(u16, u16)>,
    /// Answer the OSC 7501 query.
    pub status_reply: bool,
    /// Standard input of a one-shot.
    pub stdin: Option<File>,
}

/// Who was started.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// The guard.
    pub guard: Option<ProcId>,
    /// The agent: head of its launch chain.
    pub child: Option<ProcId>,
    /// This process.
    pub wrapper: ProcId,
    /// What the times of the feed count from.
    pub started: clock::Started,
}

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No such program.
    #[error("{program}: command not found")]
    NotFound {
        /// As it was asked for.
        program: String,
    },
    /// The program is there and cannot be executed.
    #[error("execute {program}")]
    NotExecutable {
        /// As it was asked for.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The working folder cannot be entered (F56).
    #[error("change to {path}", path = path.display())]
    Cwd {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel gave no terminal, descriptor or process (F63).
    #[error("set up the {what}")]
    Setup {
        /// Which part.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Names the part that failed.
fn setup<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> StartError {
    move |source| StartError::Setup { what, source: source.into() }
}

/// Runs a command to its end: starts guard and agent, calls `observe` on a thread of its own, copies bytes on this one until
/// the agent has ended and every byte is out, and joins the Observer.
///
/// Called once, from a process without other threads: the signals that it takes over are blocked from here on.
pub fn run(
    launch: Launch,
    observe: impl FnOnce(Started, IoHandle, FeedReceiver) + Send + 'static,
) -> Result<Ended, StartError> {
    let started = clock::Started::now();
    let streams = Streams::of(&launch)?;
    let signals = Signals::block(streams.has_terminal()).map_err(setup("signals"))?;
    let memo = Memo::new();
    let shared = memo.share().map_err(setup("memory shared with the guard"))?;
    let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(setup("wake-up"))?;
    let wake = Arc::new(wake);

    let Streams { stdio, lanes, master, slave, outer, interactive } = streams;
    let scope = match (launch.seat, &slave) {
        (Seat::Direct, Some(_)) => Scope::Session,
        (Seat::Direct, None) => Scope::Nothing,
        (Seat::Pane | Seat::Detached | Seat::Oneshot, _) => Scope::All,
    };
    let (socket, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(setup("socket of the guard"))?;
    let guard = spawn_guard(
        &launch,
        stdio,
        &Handed {
            socket: theirs.as_fd(),
            launch: launch_memory(&launch).map_err(setup("memory shared with the guard"))?.as_fd(),
            memo: shared.as_fd(),
            slave: slave.as_ref().map(AsFd::as_fd),
            outer: outer.as_ref().map(AsFd::as_fd),
            scope,
            // Nobody can be in the way of a detached agent; elsewhere it is in front if we are, and nobody else may read keys.
            foreground: outer.is_none() || interactive,
        },
    )
    .map_err(setup("guard"))?;
    drop((theirs, slave));

    let master = master.map(Arc::new);
    let (commands, inbox) = IoHandle::new(wake.clone(), master.as_ref());
    let (sender, receiver) = feed();
    let mut io = Io::new(super::io::Parts {
        started,
        seat: launch.seat,
        status_reply: launch.status_reply,
        scope,
        lanes,
        master,
        outer,
        interactive,
        guard: socket,
        memo,
        shared,
        signals,
        wake,
        inbox,
        feed: sender,
    });
    // Before the agent's first byte, so that answers to its first question are not shown as typed text.
    io.take_terminal();
    let child = match first_report(&launch, &io) {
        Ok(child) => child,
        Err(e) => {
            io.restore();
            reap(guard);
            return Err(e);
        }
    };
    let who = Started {
        guard: linux::proc_id(guard.id().cast_signed()).ok(),
        child: Some(child),
        wrapper: linux::this_process(),
        started,
    };
    let observer = std::thread::Builder::new()
        .name("observer".to_owned())
        .spawn(move || {
            let _ = rustix::process::setpriority_process(None, OBSERVER_NICE);
            observe(who, commands, receiver);
        })
        .map_err(setup("observer thread"))?;
    release_streams();
    let ended = io.run(child);
    reap(guard);
    // An Observer that panicked has said so; the agent's end is what counts here.
    let _ = observer.join();
    Ok(ended)
}

fn reap(mut guard: Child) {
    let _ = guard.wait();
}

/// The streams of the agent, and our side of them.
struct Streams {
    stdio: [Stdio; 3],
    lanes: Vec<Lane>,
    master: Option<OwnedFd>,
    slave: Option<OwnedFd>,
    outer: Option<Outer>,
    interactive: bool,
}

impl Streams {
    fn of(launch: &Launch) -> Result<Self, StartError> {
        match launch.seat {
            Seat::Direct | Seat::Pane => Self::in_place(),
            Seat::Detached => Self::detached(launch.size.unwrap_or(DETACHED)),
            Seat::Oneshot => Self::oneshot(launch),
        }
    }

    fn has_terminal(&self) -> bool {
        self.master.is_some()
    }

    /// Each of our streams that is a terminal becomes the agent's terminal, each other one stays what it is.
    fn in_place() -> Result<Self, StartError> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let terminal = fds.map(rustix::termios::isatty);
        let mut lanes = Vec::new();
        let (mut master, mut slave, mut outer) = (None, None, None);
        if let Some(i) = terminal.iter().position(|&is| is) {
            let tty = Outer::open(fds[i]).map_err(setup("terminal"))?;
            let size = tty.size().map(|s| Winsize {
                ws_row: s.ws_row,
                ws_col: s.ws_col,
                ws_xpixel: s.ws_xpixel,
                ws_ypixel: s.ws_ypixel,
            });
            let termios = tty.termios().ok();
            let pair = nix::pty::openpty(size.as_ref(), termios.as_ref()).map_err(setup("pseudoterminal"))?;
            let to = Outlet::to(fds[i]).map_err(setup("terminal"))?;
            lanes.push(pty_lane(&pair.master, Some(to))?);
            (master, slave, outer) = (Some(cloexec(pair.master)?), Some(cloexec(pair.slave)?), Some(tty));
        }
        let mut stdio = [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()];
        for (i, stdio) in stdio.iter_mut().enumerate() {
            if let (true, Some(slave)) = (terminal[i], &slave) {
                *stdio = slave.try_clone().map_err(setup("pseudoterminal"))?.into();
            }
        }
        // Under `2>&1 |` both go into one pipe, in the order in which the agent writes: so into one of ours too.
        let together = !terminal[1] && !terminal[2] && same_file(fds[1], fds[2]);
        for (i, stream) in [(1, Stream::Stdout), (2, Stream::Stderr)] {
            if terminal[i] || (i == 2 && together) {
                continue;
            }
            let (from, to) = io::pipe().map_err(setup("pipes"))?;
            if together {
                stdio[2] = to.try_clone().map_err(setup("pipes"))?.into();
            }
            stdio[i] = to.into();
            let outlet = Outlet::to(fds[i]).map_err(setup("pipes"))?;
            lanes.push(Lane::new(stream, from.into(), Some(outlet)).map_err(setup("pipes"))?);
        }
        // In a pipeline somebody else may want the keys (`.. | less`): they stay theirs until the agent asks for them.
        let interactive = terminal[0] && terminal[1];
        Ok(Self { stdio, lanes, master, slave, outer, interactive })
    }

    fn detached((cols, rows): (u16, u16)) -> Result<Self, StartError> {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = nix::pty::openpty(&size, None).map_err(setup("pseudoterminal"))?;
        if let Ok(mut termios) = nix::sys::termios::tcgetattr(&pair.slave) {
            // What terminal emulators set: without it, backspace takes half of a character.
            termios.input_flags |= nix::sys::termios::InputFlags::IUTF8;
            let _ = nix::sys::termios::tcsetattr(&pair.slave, nix::sys::termios::SetArg::TCSANOW, &termios);
        }
        let clone = || pair.slave.try_clone().map(Stdio::from).map_err(setup("pseudoterminal"));
        let stdio = [clone()?, clone()?, clone()?];
        let lanes = vec![pty_lane(&pair.master, None)?];
        let (master, slave) = (Some(cloexec(pair.master)?), Some(cloexec(pair.slave)?));
        Ok(Self { stdio, lanes, master, slave, outer: None, interactive: false })
    }

    fn oneshot(launch: &Launch) -> Result<Self, StartError> {
        let stdin = match &launch.stdin {
            Some(file) => file.try_clone().map_err(setup("standard input"))?.into(),
            None => Stdio::null(),
        };
        let (out, stdout) = io::pipe().map_err(setup("pipes"))?;
        let (err, stderr) = io::pipe().map_err(setup("pipes"))?;
        let lanes = vec![
            Lane::new(Stream::Stdout, out.into(), None).map_err(setup("pipes"))?,
            Lane::new(Stream::Stderr, err.into(), None).map_err(setup("pipes"))?,
        ];
        Ok(Self {
            stdio: [stdin, stdout.into(), stderr.into()],
            lanes,
            master: None,
            slave: None,
            outer: None,
            interactive: false,
        })
    }
}

fn pty_lane(master: &OwnedFd, to: Option<Outlet>) -> Result<Lane, StartError> {
    let from = rustix::io::fcntl_dupfd_cloexec(master, 3).map_err(setup("pseudoterminal"))?;
    Lane::new(Stream::Pty, from, to).map_err(setup("pseudoterminal"))
}

/// openpty(3) leaves both ends to be inherited.
fn cloexec(fd: OwnedFd) -> Result<OwnedFd, StartError> {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(setup("pseudoterminal"))?;
    Ok(fd)
}

fn same_file(a: impl AsFd, b: impl AsFd) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

fn launch_memory(launch: &Launch) -> io::Result<OwnedFd> {
    let mut memory = File::from(rustix::fs::memfd_create("orchwrap-launch", MemfdFlags::CLOEXEC)?);
    memory.write_all(&launch_bytes(launch.cwd.as_os_str(), &launch.argv))?;
    Ok(memory.into())
}

fn spawn_guard(launch: &Launch, [stdin, stdout, stderr]: [Stdio; 3], handed: &Handed<'_>) -> io::Result<Child> {
    // By its link in /proc: the same program even if the file was replaced by an upgrade since.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("orchwrap").stdin(stdin).stdout(stdout).stderr(stderr);
    command.env_clear().envs(launch.env.iter().map(|(key, value)| (key, value)));
    handed.hand_down(&mut command);
    command.spawn()
}

fn first_report(launch: &Launch, io: &Io) -> Result<ProcId, StartError> {
    let program = || launch.argv.first().map_or("", |arg| OsStr::to_str(arg).unwrap_or("?")).to_owned();
    match recv(io.guard()).map_err(setup("guard"))? {
        Some(Report::Started(child)) => Ok(child),
        Some(Report::Failed { cwd, errno }) => {
            let source = io::Error::from_raw_os_error(errno);
            Err(match source.kind() {
                _ if cwd => StartError::Cwd { path: launch.cwd.clone(), source },
                io::ErrorKind::NotFound => StartError::NotFound { program: program() },
                _ => StartError::NotExecutable { program: program(), source },
            })
        }
        _ => Err(setup("guard")(io::Error::from(io::ErrorKind::UnexpectedEof))),
    }
}

/// Lets go of our own copies of pipes that are the agent's now, so that whoever is at their other end sees the agent's
/// end of them close, not ours. Standard error stays, for a last word.
fn release_streams() {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    if !rustix::termios::isatty(io::stdin()) {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
    if !rustix::termios::isatty(io::stdout()) {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
