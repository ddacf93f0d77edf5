//! A shell command that the agent really runs.

use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A command with an empty signal mask: a mask is inherited, and ours blocks what the terminal loop reads itself.
pub(super) fn command(line: &str, cwd: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line).current_dir(cwd);
    // SAFETY: the closure only sets the signal mask, which is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| nix::sys::signal::SigSet::empty().thread_set_mask().map_err(io::Error::from));
    }
    command
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ran {
    /// Both streams, in the order they were written.
    pub(super) output: String,
    /// 128 plus the signal where it was killed.
    pub(super) code: i32,
    /// How long it took.
    pub(super) ms: u64,
}

/// A running command. Killed, with its group, when dropped.
#[derive(Debug)]
pub(super) struct Tool {
    child: Child,
    output: std::fs::File,
    started: Instant,
    done: bool,
}

impl Tool {
    /// Starts `line` in `cwd`.
    pub(super) fn start(line: &str, cwd: &Path) -> io::Result<Self> {
        let output = tempfile::tempfile()?;
        let child = command(line, cwd)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0)
            .spawn()?;
        Ok(Self { child, output, started: Instant::now(), done: false })
    }

    /// Returns how it ended, once it has.
    pub(super) fn poll(&mut self) -> Option<Ran> {
        let status = self.child.try_wait().ok().flatten()?;
        self.done = true;
        let mut bytes = Vec::new();
        let _ = self.output.rewind().and_then(|()| self.output.read_to_end(&mut bytes));
        Some(Ran {
            output: String::from_utf8_lossy(&bytes).trim_end().to_owned(),
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            ms: self.started.elapsed().as_millis() as u64,
        })
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        if !self.done {
            let group = nix::unistd::Pid::from_raw(self.child.id() as i32);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
