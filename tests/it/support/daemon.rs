//! A state folder with a daemon, and everything that lives in it ended with the test.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Home, is_running, wait_until};

/// A home whose daemon and runs end with it.
pub(crate) struct World {
    pub(crate) home: Home,
}

/// A process in the background that ends with the test.
pub(crate) struct Background(pub(crate) std::process::Child);

impl Background {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a verb printed and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The objects on stdout, one a line.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l:?}"))).collect()
    }
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        let text = |b: Vec<u8>| String::from_utf8(b).expect("we print UTF-8");
        Self { code: o.status.code(), out: text(o.stdout), err: text(o.stderr) }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self { home: Home::new() }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.home.join("state").join("orchwrap")
    }

    /// Runs a verb to its end.
    pub(crate) fn say(&self, args: &[&str]) -> Said {
        self.run(&mut self.home.orchwrap(args))
    }

    /// Runs a prepared command to its end.
    pub(crate) fn run(&self, command: &mut Command) -> Said {
        command.stdin(Stdio::null()).output().unwrap().into()
    }

    /// Runs a verb that must succeed; returns its stdout.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.say(args);
        assert_eq!(said.code, Some(0), "{args:?}: {}", said.err);
        said.out
    }

    /// The objects that a verb prints.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let said = self.say(args);
        assert_eq!(said.code, Some(0), "{args:?}: {}", said.err);
        said.json()
    }

    /// The daemon's process, if one holds the lock file's pid.
    pub(crate) fn daemon_pid(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.state().join("daemon.lock")).ok()?;
        let pid = serde_json::from_str::<Value>(&text).ok()?["pid"].as_i64()?;
        i32::try_from(pid).ok().filter(|pid| is_running(*pid))
    }

    /// Kills the daemon without a word and waits until it is gone.
    #[track_caller]
    pub(crate) fn kill_daemon(&self, signal: Signal) {
        let pid = self.daemon_pid().expect("a daemon runs");
        kill(Pid::from_raw(pid), signal).unwrap();
        wait_until("the daemon to end", || (!is_running(pid)).then_some(()));
    }

    /// Starts a wrapped command in the background, with nothing on its streams.
    pub(crate) fn wrap(&self, script: &str) -> Background {
        let mut command = self.home.orchwrap(["run", "--", "sh", "-c", script]);
        Background::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Wrappers of the runs that were started here.
    fn wrappers(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for run in std::fs::read_dir(self.state().join("runs")).into_iter().flatten().flatten() {
            let journal = std::fs::read_to_string(run.path().join("events.ndjson")).unwrap_or_default();
            for line in journal.lines() {
                let pid = serde_json::from_str::<Value>(line).ok().and_then(|e| e["data"]["wrapper"]["pid"].as_i64());
                pids.extend(pid.and_then(|p| i32::try_from(p).ok()));
            }
        }
        pids
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(pid) = self.daemon_pid() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for pid in self.wrappers() {
            // Only what still is ours: a pid may have been given to somebody else meanwhile.
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains("orchwrap") {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
    }
}
