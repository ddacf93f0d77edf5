//! One daemon for a state folder: the flock on `daemon.lock` decides, whatever sockets or pid files lie around (F52).

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::clock::{self, Timestamp};
use crate::paths::StateDir;

/// Who holds the lock, as written into it by the holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Since when.
    pub since: Timestamp,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("a daemon already runs here: pid {}", .0.as_ref().map_or("unknown".to_owned(), |h| format!("{} (version {})", h.pid, h.version)))]
    Held(Option<Holder>),
    /// The state folder is not private to us (T21).
    #[error("use state folder {path}: {why}")]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The folder or the lock cannot be used.
    #[error("open state folder {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The right to be the daemon of this state folder, until dropped.
#[derive(Debug)]
pub struct DaemonLock {
    _file: File,
}

/// Makes the state folder (0700) or checks that it is ours alone.
pub fn prepare(state: &StateDir) -> Result<(), LockError> {
    let path = state.root();
    let io = |source| LockError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
    let meta = std::fs::metadata(path).map_err(io)?;
    let unsafe_ = |why: String| Err(LockError::Unsafe { path: path.to_owned(), why });
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return unsafe_(format!("it belongs to user {}, not to you", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        return unsafe_(format!(
            "others may enter it (mode {:o}); run: chmod 700 {}",
            meta.mode() & 0o777,
            path.display()
        ));
    }
    Ok(())
}

/// Takes the lock and writes who we are into it.
pub fn acquire(state: &StateDir) -> Result<DaemonLock, LockError> {
    prepare(state)?;
    let path = state.daemon_lock();
    let io = |source: io::Error| LockError::Io { path: path.clone(), source };
    let mut file = open(state).map_err(io)?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(read(&mut file))),
        Err(e) => return Err(io(e.into())),
    }
    let us = Holder { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").into(), since: clock::wall() };
    let line = serde_json::to_string(&us).expect("plain values");
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(line.as_bytes())).map_err(io)?;
    Ok(DaemonLock { _file: file })
}

/// Returns who runs as daemon here; `None` when nobody does, `Some(None)` when it has not said who it is yet.
pub fn holder(state: &StateDir) -> Option<Option<Holder>> {
    let mut file = open_existing(state).ok()?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Some(read(&mut file)),
        // The shared lock is gone with `file`; a daemon that starts in this instant would have to try again, so its
        // start does (see `acquire_patiently`).
        _ => None,
    }
}

/// Takes the lock, giving a process that only looks at it (see [`holder`]) the time to let go.
pub fn acquire_patiently(state: &StateDir) -> Result<DaemonLock, LockError> {
    for _ in 0..20 {
        match acquire(state) {
            Err(LockError::Held(h)) if h.as_ref().is_none_or(|h| !alive(h.pid)) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            other => return other,
        }
    }
    acquire(state)
}

/// Whether a process of this id runs; one that only waits to be reaped does not.
pub(super) fn alive(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| crate::linux::stat(pid).is_ok_and(|stat| stat.state != 'Z'))
}

fn open(state: &StateDir) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(state.daemon_lock(), flags, Mode::RUSR | Mode::WUSR)?))
}

fn open_existing(state: &StateDir) -> io::Result<File> {
    Ok(File::from(rustix::fs::open(
        state.daemon_lock(),
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?))
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f52_one_wins_and_the_other_learns_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("s"));
        assert_eq!(holder(&state), None);
        let lock = acquire(&state).unwrap();
        let Err(LockError::Held(Some(h))) = acquire(&state) else { panic!("two daemons") };
        assert_eq!(h.pid, std::process::id());
        assert_eq!(holder(&state).unwrap().unwrap(), h);
        drop(lock);
        assert_eq!(holder(&state), None, "a lock file that nobody holds is no daemon");
        acquire_patiently(&state).unwrap();
    }

    #[test]
    fn t21_a_state_folder_open_to_others_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        let e = acquire(&StateDir::new(&root)).unwrap_err().to_string();
        assert!(e.contains("chmod 700"), "{e}");
        std::fs::set_permissions(&root, Permissions::from_mode(0o700)).unwrap();
        acquire(&StateDir::new(&root)).unwrap();
    }
}
