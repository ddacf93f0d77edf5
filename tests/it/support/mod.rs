//! What end-to-end tests share: a home of their own, a terminal of their own, and waiting for what must come.

pub(crate) mod daemon;
pub(crate) mod terminal;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take on a busy machine. Passing tests never wait for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Looks again and again until `look` returns something.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program under test.
pub(crate) fn orchwrap() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_orchwrap"))
}

/// A home folder with nothing in it, and nothing of the machine's own settings.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("ow-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// `program` with a cleared environment and this home, standing in it.
    pub(crate) fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path()).env("LANG", "C.UTF-8").env("TERM", "xterm-256color");
        command.env("XDG_STATE_HOME", self.join("state")).env("XDG_CONFIG_HOME", self.join("config"));
        command.env("XDG_RUNTIME_DIR", self.join("run"));
        command
    }

    /// `orchwrap ARGS`.
    pub(crate) fn orchwrap(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Command {
        let mut command = self.program(orchwrap());
        command.args(args);
        command
    }

    /// `orchwrap run -- sh -c SCRIPT`.
    pub(crate) fn wrapped(&self, script: &str) -> Command {
        self.orchwrap(["run", "--", "sh", "-c", script])
    }
}

/// Whether a process of this id exists and is not just waiting to be reaped.
pub(crate) fn is_running(pid: i32) -> bool {
    orchwrap::linux::stat(pid).is_ok_and(|stat| stat.state != 'Z')
}

/// Bytes that look like nothing: every value, invalid UTF-8 and escapes included; the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
