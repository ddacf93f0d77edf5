//! The agent's terminal: raw mode, size, waiting for input and signals.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Raw mode, undone when dropped.
#[derive(Debug)]
pub(super) struct Tty {
    before: Option<Termios>,
    signals: SignalFd,
}

/// What woke the agent up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Woken {
    /// Bytes were typed.
    Input(Vec<u8>),
    /// The terminal is gone.
    Hangup,
    /// The window has another size.
    Resized,
    /// Asked to end.
    Signal(Signal),
    /// The time came.
    Time,
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

impl Tty {
    /// Takes the terminal. `handled` are the signals the program cares for besides the change of size.
    pub(super) fn raw(handled: &[Signal]) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGWINCH);
        handled.iter().for_each(|s| mask.add(*s));
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let before = tcgetattr(stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(stdin(), SetArg::TCSANOW, &raw)?;
        }
        Ok(Self { before, signals })
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (u16, u16) {
        match rustix::termios::tcgetwinsize(rustix::stdio::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
            _ => (80, 24),
        }
    }

    /// Writes everything; an agent whose terminal is gone finds out by its input.
    pub(super) fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Waits for input, a signal or `deadline`.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Woken> {
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    // Rounded up: waking a moment early would spin.
                    PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds =
                [PollFd::new(stdin(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(Woken::Time),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let input = fds[0].revents().unwrap_or(PollFlags::empty());
            if let Ok(Some(info)) = self.signals.read_signal() {
                return Ok(match Signal::try_from(info.ssi_signo as i32) {
                    Ok(Signal::SIGWINCH) | Err(_) => Woken::Resized,
                    Ok(signal) => Woken::Signal(signal),
                });
            }
            if input.is_empty() {
                continue;
            }
            let mut buffer = [0; 64 * 1024];
            return match nix::unistd::read(stdin(), &mut buffer) {
                Ok(0) | Err(Errno::EIO) => Ok(Woken::Hangup),
                Ok(n) => Ok(Woken::Input(buffer[..n].to_vec())),
                Err(Errno::EINTR) => continue,
                Err(e) => Err(e.into()),
            };
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, before);
        }
    }
}
