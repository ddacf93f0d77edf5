//! The outer terminal: the one in which a person started us.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rustix::fs::OFlags;
use rustix::termios::Winsize;

use super::memo::Settings;

/// The outer terminal, opened by us.
pub(super) struct Outer {
    tty: OwnedFd,
    /// The settings to put back, and the raw ones, while raw.
    raw: Option<(Settings, Settings)>,
}

impl Outer {
    /// The terminal behind `fd`.
    pub(super) fn open(fd: impl AsFd) -> io::Result<Self> {
        // A description of our own, so that reads and writes never wait. A terminal of another user (after su) cannot be
        // opened again: then the shared one has to do, and a terminal that stops reading stops us for that long.
        let tty = match crate::linux::reopen(&fd, OFlags::RDWR | OFlags::NONBLOCK) {
            Ok(tty) => tty,
            Err(_) => rustix::io::fcntl_dupfd_cloexec(fd, 3)?,
        };
        Ok(Self { tty, raw: None })
    }

    /// Whether we may read from it and change it. A terminal that is not our controlling one has no say in that.
    pub(super) fn is_foreground(&self) -> bool {
        rustix::termios::tcgetpgrp(&self.tty).map_or(true, |group| group == rustix::process::getpgrp())
    }

    /// Its settings.
    pub(super) fn termios(&self) -> io::Result<Termios> {
        Ok(tcgetattr(&self.tty)?)
    }

    /// Its size.
    pub(super) fn size(&self) -> Option<Winsize> {
        rustix::termios::tcgetwinsize(&self.tty).ok()
    }

    /// Works out the raw settings without applying them; `note` is told before they come into force.
    pub(super) fn enter_raw(&mut self, note: impl FnOnce(Option<(Settings, Settings)>)) -> io::Result<()> {
        if self.raw.is_some() {
            return Ok(());
        }
        let mut termios = self.termios()?;
        let original = Settings::of(&termios);
        cfmakeraw(&mut termios);
        let raw = (original, Settings::of(&termios));
        note(Some(raw));
        self.raw = Some(raw);
        Ok(tcsetattr(&self.tty, SetArg::TCSANOW, &termios)?)
    }

    /// Puts the settings back, if nobody else changed them since.
    pub(super) fn leave_raw(&mut self) {
        if let Some(settings) = self.raw.take() {
            restore(&self.tty, settings);
        }
    }

    /// Whether the person's keys come through unchanged.
    pub(super) fn is_raw(&self) -> bool {
        self.raw.is_some()
    }
}

impl AsFd for Outer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tty.as_fd()
    }
}

impl Drop for Outer {
    /// The way out of a panic; every other one has been here before.
    fn drop(&mut self) {
        self.leave_raw();
    }
}

/// Puts `original` back if the terminal is still as `raw` says. A terminal that is gone needs nothing.
pub(super) fn restore(tty: impl AsFd, (original, raw): (Settings, Settings)) {
    let Ok(mut termios) = tcgetattr(&tty) else { return };
    if Settings::of(&termios) == raw {
        original.apply(&mut termios);
        let _ = tcsetattr(&tty, SetArg::TCSANOW, &termios);
    }
}
