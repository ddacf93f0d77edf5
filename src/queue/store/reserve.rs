//! Room on the disk that is given up when it is full, so that what is under way can still be recorded (F41).

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Enough for thousands of transitions.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

/// A file that only takes room.
pub(super) struct Reserve {
    path: PathBuf,
    released: bool,
}

impl Reserve {
    /// The reserve of the database at `path`, made if there is room for it.
    pub(super) fn of(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(".reserve");
        let mut reserve = Self { path: PathBuf::from(name), released: true };
        reserve.keep();
        reserve
    }

    /// Takes the room again where it was given up, once there is enough.
    pub(super) fn keep(&mut self) {
        if self.released {
            self.released = self.fill().is_err();
        }
    }

    fn fill(&self) -> std::io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|m| m.is_file() && m.len() == RESERVE_BYTES) {
            return Ok(());
        }
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        let flags = rustix::fs::FallocateFlags::empty();
        let filled = match rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES) {
            // A file system that cannot promise room has no reserve, and needs no warning about it.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(RESERVE_BYTES),
            other => other.map_err(Into::into),
        };
        if filled.is_err() {
            // A part of it would take the room that others may need now.
            let _ = fs::remove_file(&self.path);
        }
        filled
    }

    /// Gives the room up.
    pub(super) fn release(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.released = true;
    }

    /// The disk was full, and has no room for a reserve yet.
    pub(super) fn is_released(&self) -> bool {
        self.released
    }
}
