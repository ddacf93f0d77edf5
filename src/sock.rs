//! Local sockets: bound 0600, reachable at any path length, and only for our own user.
//!
//! A socket address holds 108 bytes. Longer paths are bound and connected through `/proc/self/fd/<folder>/<name>`.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Longest path that is used as it stands; `sun_path` has 108 bytes, some systems 104.
const DIRECT_MAX: usize = 100;

/// A path short enough for a socket address, and the folder that keeps it valid.
struct Reach {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

fn reach(path: &Path) -> io::Result<Reach> {
    if path.as_os_str().len() <= DIRECT_MAX {
        return Ok(Reach { path: path.to_owned(), _folder: None });
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket path needs a folder and a name"));
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok(Reach { path, _folder: Some(folder) })
}

/// Binds a listener at `path`, for our own user only (0600), replacing what a dead owner left there.
///
/// The caller holds the lock that says nobody else listens there.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let reach = reach(path)?;
    match std::fs::remove_file(&reach.path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&reach.path)?;
    // The folder is 0700, so nobody gets in between these two lines.
    std::fs::set_permissions(&reach.path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the listener at `path`.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(reach(path)?.path)
}

/// Whether the other end runs as our own user (T22).
pub fn peer_is_us(stream: &impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// The process at the other end; none where it is out of our sight, in another container.
pub fn peer_pid(stream: &impl AsFd) -> Option<i32> {
    let peer = nix::sys::socket::getsockopt(&stream.as_fd(), nix::sys::socket::sockopt::PeerCredentials).ok()?;
    Some(peer.pid()).filter(|pid| *pid > 0)
}

/// Opens `path` for writing, created 0600 whatever the umask, never through a symlink.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_path_of_200_bytes_can_be_bound_and_connected() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x".repeat(200));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("ctl.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        connect(&path).unwrap().write_all(b"hi").unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        assert!(peer_is_us(&stream));
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
    }

    #[test]
    fn a_dead_owners_socket_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        drop(bind(&path).unwrap());
        assert!(connect(&path).is_err());
        let _listener = bind(&path).unwrap();
        assert!(connect(&path).is_ok());
    }
}
