//! What the guard must know if the wrapper is killed: one page of shared memory, rewritten whole before the bytes that
//! change it are passed on.

use std::io;
use std::os::fd::AsFd;

use nix::sys::termios::Termios;
use rustix::fs::MemfdFlags;

/// Everything is within one page: a write of it is there whole or not at all, whenever a kill falls.
const SIZE: usize = 1024;
const ORIGINAL: usize = 8;
const RAW: usize = ORIGINAL + Settings::SIZE;
const UNDO: usize = RAW + Settings::SIZE;

/// The settings of a terminal that we change, comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    flags: [u32; 4],
    chars: [u8; nix::libc::NCCS],
}

impl Settings {
    const SIZE: usize = 16 + nix::libc::NCCS;

    /// The settings in `termios`.
    pub(super) fn of(termios: &Termios) -> Self {
        Self {
            flags: [
                termios.input_flags.bits(),
                termios.output_flags.bits(),
                termios.control_flags.bits(),
                termios.local_flags.bits(),
            ],
            chars: termios.control_chars,
        }
    }

    /// Puts these settings into `termios`; speeds stay as they are.
    pub(super) fn apply(&self, termios: &mut Termios) {
        use nix::sys::termios::{ControlFlags, InputFlags, LocalFlags, OutputFlags};
        termios.input_flags = InputFlags::from_bits_retain(self.flags[0]);
        termios.output_flags = OutputFlags::from_bits_retain(self.flags[1]);
        termios.control_flags = ControlFlags::from_bits_retain(self.flags[2]);
        termios.local_flags = LocalFlags::from_bits_retain(self.flags[3]);
        termios.control_chars = self.chars;
    }

    fn write(&self, to: &mut [u8]) {
        for (flags, to) in self.flags.iter().zip(to.chunks_exact_mut(4)) {
            to.copy_from_slice(&flags.to_ne_bytes());
        }
        to[16..].copy_from_slice(&self.chars);
    }

    fn read(from: &[u8]) -> Self {
        let mut settings = Self { flags: [0; 4], chars: [0; nix::libc::NCCS] };
        for (flags, from) in settings.flags.iter_mut().zip(from.chunks_exact(4)) {
            *flags = u32::from_ne_bytes(from.try_into().expect("chunks of 4"));
        }
        settings.chars.copy_from_slice(&from[16..Self::SIZE]);
        settings
    }
}

/// The page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Memo {
    page: [u8; SIZE],
}

impl Memo {
    pub(super) fn new() -> Self {
        Self { page: [0; SIZE] }
    }

    /// Returns shared memory that holds this memo.
    pub(super) fn share(&self) -> io::Result<std::os::fd::OwnedFd> {
        let fd = rustix::fs::memfd_create("orchwrap-memo", MemfdFlags::CLOEXEC)?;
        self.write(&fd)?;
        Ok(fd)
    }

    /// Writes the memo.
    pub(super) fn write(&self, fd: impl AsFd) -> io::Result<()> {
        rustix::io::pwrite(fd, &self.page, 0)?;
        Ok(())
    }

    /// Reads what [`Memo::write`] wrote.
    pub(super) fn read(fd: impl AsFd) -> io::Result<Self> {
        let mut memo = Self::new();
        rustix::io::pread(fd, &mut memo.page, 0)?;
        Ok(memo)
    }

    /// Notes the bytes that undo the terminal's modes.
    pub(super) fn set_undo(&mut self, undo: &[u8]) {
        // Every mode at once takes some 400 bytes (a test counts); what does not fit is better left out than cut.
        let undo = if undo.len() <= SIZE - UNDO { undo } else { &[] };
        self.page[..2].copy_from_slice(&(undo.len() as u16).to_ne_bytes());
        self.page[UNDO..UNDO + undo.len()].copy_from_slice(undo);
    }

    /// The bytes that undo the terminal's modes.
    pub(super) fn undo(&self) -> &[u8] {
        let len = usize::from(u16::from_ne_bytes([self.page[0], self.page[1]]));
        self.page.get(UNDO..UNDO + len).unwrap_or_default()
    }

    /// Notes the settings to put back, and the raw ones that they were changed to.
    pub(super) fn set_settings(&mut self, settings: Option<(Settings, Settings)>) {
        self.page[2] = settings.is_some().into();
        if let Some((original, raw)) = settings {
            original.write(&mut self.page[ORIGINAL..RAW]);
            raw.write(&mut self.page[RAW..UNDO]);
        }
    }

    /// The settings to put back if the raw ones are still in force.
    pub(super) fn settings(&self) -> Option<(Settings, Settings)> {
        (self.page[2] != 0).then(|| (Settings::read(&self.page[ORIGINAL..RAW]), Settings::read(&self.page[RAW..UNDO])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_is_read_as_written() {
        let a = Settings { flags: [1, 2, 3, u32::MAX], chars: std::array::from_fn(|i| i as u8) };
        let b = Settings { flags: [9; 4], ..a };
        let mut memo = Memo::new();
        let fd = memo.share().unwrap();
        memo.set_undo(b"\x1b[?1049l");
        memo.set_settings(Some((a, b)));
        memo.write(&fd).unwrap();
        let read = Memo::read(&fd).unwrap();
        assert_eq!(read.undo(), b"\x1b[?1049l");
        assert_eq!(read.settings(), Some((a, b)));
        memo.set_undo(b"");
        memo.set_settings(None);
        memo.write(&fd).unwrap();
        let read = Memo::read(&fd).unwrap();
        assert_eq!((read.undo(), read.settings()), (&b""[..], None));
    }

    #[test]
    fn every_mode_at_once_fits_into_the_page() {
        let mut sentry = crate::term::modes::Sentry::new();
        for mode in 0..3000 {
            sentry.feed(format!("\x1b[?{mode}h\x1b[>31u\x1b[=3u").as_bytes(), |_| {});
        }
        sentry.feed(b"\x1b[?7l\x1b[?25l\x1b[>4;2m\x1b[4h\x1b[2;3r\x1b[4 q\x1b(0\x1b[31m\x1b=\x1b[?47l\x1b[=3u\x1b[>1u\x1b[?1049h", |_| {});
        let mut undo = Vec::new();
        sentry.undo_unseen(&mut undo);
        assert!(undo.len() > 100 && undo.len() < SIZE - UNDO, "{}", undo.len());
    }
}
