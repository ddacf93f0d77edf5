//! Requests from the Observer to the I/O thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Requests that may wait for the I/O thread; it takes them all at each wake-up, so more means that it is stuck.
const WAITING: usize = 64;

/// What the I/O thread is asked to do.
pub(super) enum Command {
    /// Write to the agent's terminal, whole, then say so.
    Write { bytes: Vec<u8>, done: Sender<io::Result<()>> },
    /// Forget what is not begun.
    Withdraw,
    /// Set the size of the agent's terminal.
    Resize { cols: u16, rows: u16 },
    /// End the agent's processes: HUP, TERM, KILL, `grace` apart.
    Stop { grace: Duration },
}

/// The Observer's hold on the I/O thread.
#[derive(Clone)]
pub struct IoHandle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    /// The agent's terminal; it is the I/O thread's to close.
    master: Weak<OwnedFd>,
}

impl IoHandle {
    pub(super) fn new(wake: Arc<OwnedFd>, master: Option<&Arc<OwnedFd>>) -> (Self, Receiver<Command>) {
        let (commands, inbox) = bounded(WAITING);
        (Self { commands, wake, master: master.map(Arc::downgrade).unwrap_or_default() }, inbox)
    }

    /// Whether the agent reads whole lines: the kernel then edits them, and keeps no more of one than fits its buffer.
    pub fn is_canonical(&self) -> bool {
        self.master
            .upgrade()
            .and_then(|master| rustix::termios::tcgetattr(&*master).ok())
            .is_some_and(|termios| termios.local_modes.contains(rustix::termios::LocalModes::ICANON))
    }

    /// Writes `bytes` to the agent's terminal in one piece: never between two bytes of what a person types or pastes
    /// (F40). The receiver gets one answer, once the kernel has every byte or none can be written any more.
    pub fn write(&self, bytes: Vec<u8>) -> Receiver<io::Result<()>> {
        let (done, answer) = bounded(1);
        if let Err(refused) = self.command(Command::Write { bytes, done: done.clone() }) {
            let _ = done.send(Err(refused));
        }
        answer
    }

    /// Sets the size of the agent's terminal, which is told by SIGWINCH.
    pub fn resize(&self, cols: u16, rows: u16) -> io::Result<()> {
        self.command(Command::Resize { cols, rows })
    }

    /// Takes back what was asked to be written and is not begun; its receivers are told.
    pub fn withdraw(&self) {
        // Refused, it is either over or so far behind that nothing of it is known.
        let _ = self.command(Command::Withdraw);
    }

    /// Ends the agent and all that it started: HUP, TERM, KILL, `grace` apart. [`super::Feed::Exited`] tells when it is
    /// done.
    pub fn stop(&self, grace: Duration) -> io::Result<()> {
        self.command(Command::Stop { grace })
    }

    fn command(&self, command: Command) -> io::Result<()> {
        self.commands.try_send(command).map_err(|e| match e {
            crossbeam_channel::TrySendError::Full(_) => {
                io::Error::new(io::ErrorKind::WouldBlock, "the terminal takes no more requests")
            }
            crossbeam_channel::TrySendError::Disconnected(_) => {
                io::Error::new(io::ErrorKind::BrokenPipe, "the agent has ended")
            }
        })?;
        // The counter of an eventfd is full only when the other side never reads it, and then it is awake anyway.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        Ok(())
    }
}
