//! A terminal as a person has one: our own pseudoterminal, with a program as leader of its session.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::termios::{Termios, tcgetattr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::DEADLINE;

/// Everything that was shown so far.
#[derive(Default)]
struct Shown {
    bytes: Mutex<Vec<u8>>,
    more: Condvar,
    paused: AtomicBool,
    over: AtomicBool,
}

impl Shown {
    /// A test that failed while it looked does not stop the reading.
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A terminal with a program in it. Dropped, it ends the program.
pub(crate) struct Terminal {
    master: Arc<OwnedFd>,
    /// Held, so that settings can be looked at after the program has ended.
    slave: Option<OwnedFd>,
    child: Child,
    shown: Arc<Shown>,
    reader: Option<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Terminal {
    /// Starts `command` with all three streams in a terminal of 80 by 24.
    pub(crate) fn start(command: Command) -> Self {
        Self::sized(command, 80, 24)
    }

    pub(crate) fn sized(command: Command, cols: u16, rows: u16) -> Self {
        Self::with_streams(command, cols, rows, [true; 3])
    }

    /// Streams that are not `on_terminal` are left as `command` has them.
    pub(crate) fn with_streams(mut command: Command, cols: u16, rows: u16, on_terminal: [bool; 3]) -> Self {
        let size = nix::pty::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = nix::pty::openpty(&size, None).unwrap();
        for fd in [&pair.master, &pair.slave] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).unwrap();
        }
        rustix::io::ioctl_fionbio(&pair.master, true).unwrap();
        let stdio = || Stdio::from(pair.slave.try_clone().unwrap());
        if on_terminal[0] {
            command.stdin(stdio());
        }
        if on_terminal[1] {
            command.stdout(stdio());
        }
        if on_terminal[2] {
            command.stderr(stdio());
        }
        let slave = pair.slave.as_raw_fd();
        let lead = move || {
            rustix::process::setsid()?;
            // SAFETY: open in the parent until `spawn` returns.
            rustix::process::ioctl_tiocsctty(unsafe { BorrowedFd::borrow_raw(slave) })?;
            Ok(())
        };
        // SAFETY: two async-signal-safe system calls.
        unsafe { command.pre_exec(lead) };
        let child = command.spawn().unwrap();
        let master = Arc::new(pair.master);
        let shown = Arc::new(Shown::default());
        let reader = std::thread::spawn({
            let (master, shown) = (master.clone(), shown.clone());
            move || read(&master, &shown)
        });
        Self { master, slave: Some(pair.slave), child, shown, reader: Some(reader), status: None }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Everything shown so far.
    pub(crate) fn shown(&self) -> Vec<u8> {
        self.shown.bytes().clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown()).into_owned()
    }

    /// Waits until `wanted` is shown; returns what stands after it at that moment.
    #[track_caller]
    pub(crate) fn wait_for(&self, wanted: &str) -> String {
        self.wait_for_nth(wanted, 1)
    }

    /// Waits until `wanted` is shown for the `n`th time.
    #[track_caller]
    pub(crate) fn wait_for_nth(&self, wanted: &str, n: usize) -> String {
        let until = Instant::now() + DEADLINE;
        let mut bytes = self.shown.bytes();
        loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((at, _)) = text.match_indices(wanted).nth(n - 1) {
                return text[at + wanted.len()..].to_owned();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{wanted:?} ({n}) is not shown, but {:?}", tail(&bytes));
            bytes = self.shown.more.wait_timeout(bytes, left).unwrap().0;
        }
    }

    /// Waits until so many bytes were shown.
    #[track_caller]
    pub(crate) fn wait_for_len(&self, len: usize) {
        let until = Instant::now() + 3 * DEADLINE;
        let mut bytes = self.shown.bytes();
        while bytes.len() < len {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} bytes of {len} are shown", bytes.len());
            bytes = self.shown.more.wait_timeout(bytes, left).unwrap().0;
        }
    }

    /// Types, waiting as long as the other side takes nothing.
    #[track_caller]
    pub(crate) fn enter(&self, keys: impl AsRef<[u8]>) {
        let rest = self.enter_some(keys.as_ref(), 3 * DEADLINE);
        assert!(rest.is_empty(), "{} bytes are not taken", rest.len());
    }

    /// Types until nothing is taken for `patience`; returns the rest.
    pub(crate) fn enter_some<'a>(&self, mut keys: &'a [u8], patience: Duration) -> &'a [u8] {
        while !keys.is_empty() {
            match rustix::io::write(&*self.master, keys) {
                Ok(n) => keys = &keys[n..],
                Err(Errno::AGAIN) => {
                    let wait = Timespec::try_from(patience).unwrap();
                    let mut fds = [PollFd::new(&*self.master, PollFlags::OUT)];
                    if poll(&mut fds, Some(&wait)).unwrap() == 0 {
                        break;
                    }
                }
                Err(e) => panic!("type: {e}"),
            }
        }
        keys
    }

    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&*self.master, size).unwrap();
    }

    /// Stops and goes on reading, as a terminal does on Ctrl-S.
    pub(crate) fn pause(&self, paused: bool) {
        self.shown.paused.store(paused, Ordering::SeqCst);
    }

    /// The settings of the terminal, comparable.
    pub(crate) fn settings(&self) -> (u32, u32, u32, u32, Vec<u8>) {
        let termios: Termios = tcgetattr(self.slave.as_ref().expect("not hung up")).unwrap();
        (
            termios.input_flags.bits(),
            termios.output_flags.bits(),
            termios.control_flags.bits(),
            termios.local_flags.bits(),
            termios.control_chars.to_vec(),
        )
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for the end of the program; returns its status once everything it wrote is shown.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + 3 * DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "the program does not end; shown: {:?}", tail(&self.shown()));
            std::thread::sleep(Duration::from_millis(2));
        };
        self.status = Some(status);
        self.stop_reading();
        status
    }

    fn stop_reading(&mut self) {
        self.shown.over.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    /// Takes the terminal away from the program, which goes on without.
    pub(crate) fn hang_up(mut self) -> Child {
        self.stop_reading();
        self.slave = None;
        let null = std::fs::File::open("/dev/null").unwrap();
        self.master = Arc::new(null.into());
        self.status = Some(ExitStatus::default());
        std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        self.stop_reading();
    }
}

fn read(master: &OwnedFd, shown: &Shown) {
    let mut buffer = vec![0; 65536];
    loop {
        if shown.paused.load(Ordering::SeqCst) && !shown.over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        // Asked before the read: what is empty after the end stays empty.
        let over = shown.over.load(Ordering::SeqCst);
        match rustix::io::read(master, &mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                shown.bytes().extend_from_slice(&buffer[..n]);
                shown.more.notify_all();
            }
            Err(Errno::AGAIN) if over => return,
            Err(Errno::AGAIN) => {
                let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                let mut fds = [PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN)];
                let _ = poll(&mut fds, Some(&wait));
            }
            Err(_) => return,
        }
    }
}

fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned()
}
