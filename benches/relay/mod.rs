//! What the benches of the wrapper share: the floor to measure against, a terminal to measure in, and the figures.
//!
//! The floor is the smallest relay that can do the job at all: a pseudoterminal, one poll loop, a buffer. A bench that is
//! started with `__relay` as its first argument becomes it.
#![allow(dead_code, reason = "each bench uses its part")]

use std::ffi::OsString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use rustix::event::{PollFd, PollFlags, poll};

/// Who carries the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Nobody: the command itself in the terminal.
    Bare,
    Relay,
    Orchwrap,
}

/// Becomes the relay, or whatever else a bench starts of itself, if the arguments say so.
pub(crate) fn dispatch(other: impl FnOnce(&str, &[OsString])) {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|arg| arg.to_str()) {
        Some("__relay") => relay(&args[2..], |_| {}),
        Some(verb) if verb.starts_with("__") => {
            other(verb, &args[2..]);
            std::process::exit(0);
        }
        _ => {}
    }
}

pub(crate) fn is_short() -> bool {
    std::env::args().any(|arg| arg == "--short")
}

pub(crate) fn line(name: &str, value: f64, unit: &str, ratio: Option<(f64, &str)>) {
    let (ratio, of) = ratio.map_or(("-".to_owned(), "-"), |(r, of)| (format!("{r:.2}"), of));
    println!("bench {name} {value:.1} {unit} {ratio} {of}");
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * p) as usize]
}

/// A home that the wrapper may write its runs into.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        // Beside the build, not in /tmp where that is memory: the journal's syncs are a part of what is measured.
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build"))
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    pub(crate) fn command(&self, who: Who, argv: &[&str]) -> Command {
        let mut command = match who {
            Who::Bare => Command::new(argv[0]),
            Who::Relay => Command::new(std::env::current_exe().expect("our own path")),
            Who::Orchwrap => Command::new(env!("CARGO_BIN_EXE_orchwrap")),
        };
        match who {
            Who::Bare => command.args(&argv[1..]),
            Who::Relay => command.arg("__relay").args(argv),
            Who::Orchwrap => command.args(["run", "--"]).args(argv),
        };
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm-256color");
        command.env("HOME", self.path()).env("XDG_STATE_HOME", self.path().join("state")).current_dir(self.path());
        command
    }

    /// Starts it in a terminal of its own; returns that terminal's other side.
    pub(crate) fn start(&self, who: Who, argv: &[&str]) -> (OwnedFd, Child) {
        let pair =
            nix::pty::openpty(Some(&nix::pty::Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }), None)
                .expect("a pseudoterminal");
        let mut command = self.command(who, argv);
        (pair.master.try_clone().expect("descriptors"), in_terminal(&mut command, pair))
    }
}

fn in_terminal(command: &mut Command, pair: nix::pty::OpenptyResult) -> Child {
    for fd in [&pair.master, &pair.slave] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).expect("an open descriptor");
    }
    let stdio = || Stdio::from(pair.slave.try_clone().expect("descriptors"));
    command.stdin(stdio()).stdout(stdio()).stderr(stdio());
    let slave = pair.slave.as_raw_fd();
    let lead = move || {
        rustix::process::setsid()?;
        // SAFETY: open in the parent until `spawn` returns.
        rustix::process::ioctl_tiocsctty(unsafe { BorrowedFd::borrow_raw(slave) })?;
        Ok(())
    };
    // SAFETY: two async-signal-safe system calls.
    unsafe { command.pre_exec(lead) };
    command.spawn().expect("a process")
}

/// The floor. `typed` is shown the keys before they are passed on.
pub(crate) fn relay(argv: &[OsString], typed: impl Fn(&[u8])) -> ! {
    let stdin = std::io::stdin();
    let original = tcgetattr(&stdin).expect("a terminal");
    let mut raw = original.clone();
    cfmakeraw(&mut raw);
    let size = rustix::termios::tcgetwinsize(&stdin).expect("a terminal");
    let size = nix::pty::Winsize { ws_row: size.ws_row, ws_col: size.ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(Some(&size), Some(&original)).expect("a pseudoterminal");
    let master = pair.master.try_clone().expect("descriptors");
    tcsetattr(&stdin, SetArg::TCSANOW, &raw).expect("a terminal");
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]);
    let mut child = in_terminal(&mut command, pair);
    drop(command);
    let stdout = std::io::stdout();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&master, PollFlags::IN)];
        poll(&mut fds, None).expect("poll");
        let (keys, output) = (fds[0].revents(), fds[1].revents());
        if keys.contains(PollFlags::IN) {
            let n = rustix::io::read(&stdin, &mut buffer[..]).expect("keys");
            typed(&buffer[..n]);
            write_all(&master, &buffer[..n]);
        }
        if !output.is_empty() {
            match rustix::io::read(&master, &mut buffer[..]) {
                Ok(n) if n > 0 => write_all(&stdout, &buffer[..n]),
                _ => break,
            }
        }
    }
    let status = child.wait().expect("a child");
    let _ = tcsetattr(&stdin, SetArg::TCSANOW, &original);
    std::process::exit(status.code().unwrap_or(1));
}

fn write_all(to: impl std::os::fd::AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let n = rustix::io::write(&to, bytes).expect("a reader");
        bytes = &bytes[n..];
    }
}

/// 1 MiB of what `kind` looks like, over and over the same: plain log lines, or the redraws of a full-screen program.
pub(crate) fn corpus(kind: &str, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 4096);
    let mut seed = 1_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let words = ["compiling", "checked", "error:", "test", "passed", "src/main.rs", "warning", "in", "0.42s", "the"];
    while bytes.len() < len {
        if kind == "log" {
            let line: Vec<_> = (0..8 + next() % 6).map(|_| words[next() % words.len()]).collect();
            bytes.extend_from_slice(
                format!("2026-11-20T10:{:02}:{:02}Z {}\n", next() % 60, next() % 60, line.join(" ")).as_bytes(),
            );
        } else {
            bytes.extend_from_slice(b"\x1b[?2026h\x1b[?25l");
            for _ in 0..12 {
                let (row, col, colour) = (1 + next() % 40, 1 + next() % 100, next() % 256);
                let (a, b) = (words[next() % words.len()], words[next() % words.len()]);
                bytes.extend_from_slice(
                    format!("\x1b[{row};{col}H\x1b[38;5;{colour}m{a}\x1b[3C\x1b[0m{b}\x1b[K").as_bytes(),
                );
            }
            bytes.extend_from_slice(b"\x1b[?25h\x1b[?2026l");
        }
    }
    bytes.truncate(len);
    bytes
}
