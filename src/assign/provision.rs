//! Files of the main checkout that a new working tree needs and git does not bring: copied or linked, never overwritten.
//!
//! Both trees may hold links that an agent or a branch planted: sources are opened beneath the checkout only, and no link
//! is followed on the way to a destination (T17).

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, statat, symlinkat};
use rustix::io::Errno;

/// Longest file that is copied.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// A path of `[worktree]` that cannot be provided.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub(crate) struct ProvisionError {
    path: PathBuf,
    why: String,
}

fn fault(path: &Path, why: impl ToString) -> ProvisionError {
    ProvisionError { path: path.to_owned(), why: why.to_string() }
}

/// Copies files; those that the checkout does not have, and those that the tree has already, are left out.
pub(crate) fn copy(from: &Path, to: &Path, paths: &[PathBuf]) -> Result<(), ProvisionError> {
    for path in paths {
        check(path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = match openat2(open(from)?, path, flags, Mode::empty(), ResolveFlags::BENEATH) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(Errno::XDEV | Errno::LOOP) => {
                return Err(fault(path, "leads out of the checkout; name it under link instead"));
            }
            Err(e) => return Err(fault(path, e)),
        };
        let mut source = std::fs::File::from(source);
        let meta = source.metadata().map_err(|e| fault(path, e))?;
        if !meta.is_file() {
            return Err(fault(path, "is no file; name folders under link"));
        }
        if meta.len() > MAX_BYTES {
            return Err(fault(path, format!("has more than {} MiB; name it under link", MAX_BYTES >> 20)));
        }
        let (folder, name) = parent(to, path)?;
        if exists(&folder, &name) {
            continue;
        }
        // Under another name until it is whole, so that a crash leaves no half of it.
        let half = PathBuf::from(format!(".{}.orchwrap", name.display()));
        let mode = Mode::from_raw_mode(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(&folder, &half, flags, mode).map_err(|e| fault(path, e))?;
        let mut target = std::fs::File::from(target);
        let mut buf = vec![0u8; 64 * 1024];
        loop {
            match source.read(&mut buf).map_err(|e| fault(path, e))? {
                0 => break,
                n => target.write_all(&buf[..n]).map_err(|e| fault(path, e))?,
            }
        }
        rustix::fs::renameat(&folder, &half, &folder, &name).map_err(|e| fault(path, e))?;
    }
    Ok(())
}

/// Links files and folders, on the same terms.
pub(crate) fn link(from: &Path, to: &Path, paths: &[PathBuf]) -> Result<(), ProvisionError> {
    for path in paths {
        check(path)?;
        let source = from.join(path);
        if !source.exists() {
            continue;
        }
        let (folder, name) = parent(to, path)?;
        match symlinkat(&source, &folder, &name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(fault(path, e)),
        }
    }
    Ok(())
}

fn check(path: &Path) -> Result<(), ProvisionError> {
    let plain = path.components().all(|c| matches!(c, Component::Normal(name) if name != ".git"));
    if plain && path.components().next().is_some() {
        Ok(())
    } else {
        Err(fault(path, "must be a path below the root of the checkout, without .. and .git"))
    }
}

fn open(folder: &Path) -> Result<OwnedFd, ProvisionError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, folder, flags, Mode::empty()).map_err(|e| fault(folder, e))
}

/// Opens the folder that `path` belongs into, made where missing, and returns it with the last name.
fn parent(root: &Path, path: &Path) -> Result<(OwnedFd, PathBuf), ProvisionError> {
    let mut folder = open(root)?;
    let mut names: Vec<&std::ffi::OsStr> = path.iter().collect();
    let last = names.pop().expect("checked: not empty");
    for name in names {
        match mkdirat(&folder, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(fault(path, e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = openat(&folder, name, flags, Mode::empty())
            .map_err(|e| fault(path, format!("{} in the new tree: {e}", name.display())))?;
    }
    Ok((folder, last.into()))
}

fn exists(folder: impl AsFd, name: &Path) -> bool {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trees() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::create_dir_all(&to).unwrap();
        std::fs::write(from.join(".env"), "A=1").unwrap();
        std::fs::write(from.join("sub/x"), "x").unwrap();
        (dir, from, to)
    }

    #[test]
    fn what_is_missing_is_skipped_and_what_is_there_is_kept() {
        let (_dir, from, to) = trees();
        std::fs::write(to.join(".env"), "mine").unwrap();
        copy(&from, &to, &[".env".into(), "none".into(), "sub/x".into()]).unwrap();
        link(&from, &to, &["sub/../sub".into()]).unwrap_err();
        link(&from, &to, &["none".into()]).unwrap();
        assert_eq!(std::fs::read_to_string(to.join(".env")).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(to.join("sub/x")).unwrap(), "x");
        std::fs::remove_dir_all(to.join("sub")).unwrap();
        for _ in 0..2 {
            link(&from, &to, &["sub".into()]).unwrap();
        }
        assert_eq!(std::fs::read_link(to.join("sub")).unwrap(), from.join("sub"));
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let (_dir, from, to) = trees();
        nix::unistd::mkfifo(&from.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(copy(&from, &to, &["pipe".into()]).unwrap_err().to_string().contains("is no file"));
    }

    #[test]
    fn t17_links_lead_nowhere() {
        let (dir, from, to) = trees();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(outside.join("secret"), from.join("leak")).unwrap();
        std::os::unix::fs::symlink(&outside, to.join("sub")).unwrap();
        for bad in ["leak", "sub/x", "../outside/secret", "/etc/passwd", ".git/config", ""] {
            assert!(copy(&from, &to, &[bad.into()]).is_err(), "{bad}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        assert!(!to.join("leak").exists());
    }
}
