//! The folder of a run: made before its wrapper starts, locked by the wrapper for life.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::assign::env;
use crate::paths::{RunDir, StateDir};
use crate::run::{RunSpec, SPEC_VERSION};
use crate::sock::create_private;

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The file system said no.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Someone else could read or change what is kept there (T21).
    #[error("{} is not private to you: make it yours with mode 0700 (chmod 700), or set XDG_STATE_HOME", path.display())]
    NotPrivate {
        /// The folder.
        path: PathBuf,
    },
    /// Another wrapper holds the lock.
    #[error("run {} already has a wrapper", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// `run.json` is not what this version reads.
    #[error("read {}: {why}", path.display())]
    BadSpec {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RunDirError + 'a {
    move |source| RunDirError::Io { what, path: path.to_owned(), source }
}

/// Makes `path` a folder of ours, 0700 whatever the umask; refuses one that others may enter (T21).
pub fn private_dir(path: &Path) -> Result<(), RunDirError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        // The umask may have taken bits away.
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io_error("protect", path)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let meta = std::fs::symlink_metadata(path).map_err(io_error("look at", path))?;
            let ours = meta.uid() == rustix::process::geteuid().as_raw();
            if meta.is_dir() && ours && meta.mode() & 0o077 == 0 {
                Ok(())
            } else {
                Err(RunDirError::NotPrivate { path: path.to_owned() })
            }
        }
        Err(e) => Err(io_error("create", path)(e)),
    }
}

/// Makes the folder of a run: `run.json` (synced), its environment and its token, all for our own user only.
pub fn create(state: &StateDir, spec: &RunSpec, env: &[(OsString, OsString)]) -> Result<RunDir, RunDirError> {
    let dir = create_unsynced(state, spec, env)?;
    for path in [&dir.spec(), dir.path(), &state.runs()] {
        File::open(path).and_then(|f| f.sync_all()).map_err(io_error("sync", path))?;
    }
    Ok(dir)
}

/// The same without waiting for the disk: for a run that begins in this process, and would not outlive a power cut.
pub fn create_unsynced(state: &StateDir, spec: &RunSpec, env: &[(OsString, OsString)]) -> Result<RunDir, RunDirError> {
    private_dir(state.root())?;
    private_dir(&state.runs())?;
    let dir = state.run(&spec.run);
    private_dir(dir.path())?;
    write_private(&dir.env(), &env::serialize(env.iter().map(|(name, value)| (name, value))))?;
    write_private(&dir.token(), token().as_bytes())?;
    write_private(&dir.lock(), b"")?;
    // Last, so that a folder with a `run.json` is whole.
    let json = serde_json::to_vec_pretty(spec).expect("a run spec has string keys only");
    write_private(&dir.spec(), &json)?;
    Ok(dir)
}

fn token() -> String {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers on every supported kernel");
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a file 0600, in place.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), RunDirError> {
    let mut file = create_private(path).map_err(io_error("create", path))?;
    file.set_len(0).and_then(|()| file.write_all(content)).map_err(io_error("write", path))
}

/// Reads `run.json`.
pub fn read_spec(dir: &RunDir) -> Result<RunSpec, RunDirError> {
    let path = dir.spec();
    let text = std::fs::read(&path).map_err(io_error("read", &path))?;
    let spec: RunSpec =
        serde_json::from_slice(&text).map_err(|e| RunDirError::BadSpec { path: path.clone(), why: e.to_string() })?;
    if spec.v > SPEC_VERSION {
        let why = format!("it is of version {}, this program reads up to {SPEC_VERSION}: use the newer one", spec.v);
        return Err(RunDirError::BadSpec { path, why });
    }
    Ok(spec)
}

/// Reads the environment and removes its file: only the agent needs it, and it may hold secrets.
pub fn take_env(dir: &RunDir) -> Result<Vec<(OsString, OsString)>, RunDirError> {
    let path = dir.env();
    let bytes = std::fs::read(&path).map_err(io_error("read", &path))?;
    std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
    Ok(env::parse(&bytes).into_iter().collect())
}

/// The lock of a run. Held for the life of the wrapper; the kernel releases it with the process, however that ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// How long a wrapper tries for its lock: a passing [`is_alive`] of another process holds it for microseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Takes the lock of a run.
pub fn lock(dir: &RunDir) -> Result<RunLock, RunDirError> {
    let path = dir.lock();
    let file = create_private(&path).map_err(io_error("open", &path))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(RunLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(RunDirError::Busy { path: dir.path().to_owned() }),
            Err(e) => return Err(io_error("lock", &path)(e.into())),
        }
    }
}

/// Whether a wrapper holds the lock of the run. A folder without a lock is of no live run; where nothing can be told
/// (F63: out of descriptors), it lives: a run that is wrongly judged dead is replaced while it goes on working.
pub fn is_alive(dir: &RunDir) -> bool {
    match File::open(dir.lock()) {
        Ok(file) => rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
        Err(e) => !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// Whether no wrapper has begun with the run: the first thing that one does is to take the environment, long before it
/// starts the agent.
pub fn is_untouched(dir: &RunDir) -> bool {
    dir.env().exists()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock;
    use crate::ids::RunId;
    use crate::run::Seat;

    pub(crate) fn spec() -> RunSpec {
        RunSpec {
            v: SPEC_VERSION,
            run: RunId::random(),
            session: "s".parse().unwrap(),
            pool: None,
            agent: "cat".into(),
            pack: "generic".into(),
            argv: vec!["cat".into()],
            cwd: "/".into(),
            seat: Seat::Detached,
            size: None,
            created: clock::wall(),
            record: false,
            hooks: true,
            status_reply: true,
            takes_tasks: false,
            attempt: None,
            resume: None,
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn t21_everything_in_a_run_folder_is_private() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::new(root.path().join("state"));
        let spec = spec();
        let env =
            vec![("A".into(), "1=2".into()), ("B".into(), std::os::unix::ffi::OsStringExt::from_vec(vec![0xff, b'x']))];
        let dir = create(&state, &spec, &env).unwrap();
        for file in [dir.spec(), dir.env(), dir.token(), dir.lock()] {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
        assert_eq!((mode(dir.path()), mode(state.root())), (0o700, 0o700));
        assert_eq!(read_spec(&dir).unwrap(), spec);
        assert_eq!(take_env(&dir).unwrap(), env);
        assert!(!dir.env().exists());
    }

    #[test]
    fn t21_a_state_folder_that_others_may_enter_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let error = create(&StateDir::new(root.path()), &spec(), &[]).unwrap_err();
        assert!(matches!(error, RunDirError::NotPrivate { .. }), "{error}");
    }

    #[test]
    fn a_run_is_alive_exactly_while_its_lock_is_held() {
        let root = tempfile::tempdir().unwrap();
        let dir = create(&StateDir::new(root.path().join("s")), &spec(), &[]).unwrap();
        assert!(!is_alive(&dir));
        let held = lock(&dir).unwrap();
        assert!(is_alive(&dir));
        assert!(matches!(lock(&dir), Err(RunDirError::Busy { .. })));
        drop(held);
        assert!(!is_alive(&dir));
    }

    #[test]
    fn f63_a_run_whose_lock_cannot_be_looked_at_is_not_judged_dead() {
        let root = tempfile::tempdir().unwrap();
        let dir = create(&StateDir::new(root.path().join("s")), &spec(), &[]).unwrap();
        std::fs::remove_file(dir.lock()).unwrap();
        assert!(!is_alive(&dir), "no lock");
        // Neither "not there" nor a lock: as out of descriptors, the system gives no answer.
        std::os::unix::fs::symlink(dir.lock(), dir.lock()).unwrap();
        assert!(is_alive(&dir));
    }

    #[test]
    fn f50_a_newer_run_json_is_refused_in_one_line() {
        let root = tempfile::tempdir().unwrap();
        let dir = create(&StateDir::new(root.path().join("s")), &RunSpec { v: 99, ..spec() }, &[]).unwrap();
        assert!(read_spec(&dir).unwrap_err().to_string().contains("version 99"));
    }
}
