//! Where orchwrap keeps its state: names of files only, nothing is opened here.

use std::path::{Path, PathBuf};

use crate::ids::RunId;

/// The state folder, `$XDG_STATE_HOME/orchwrap` unless configured (0700).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The state folder at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The queue database; only the daemon opens it for writing.
    pub fn db(&self) -> PathBuf {
        self.root.join("orchwrap.db")
    }

    /// Held by the one daemon for life (F52).
    pub fn daemon_lock(&self) -> PathBuf {
        self.root.join("daemon.lock")
    }

    /// Where the daemon listens.
    pub fn daemon_sock(&self) -> PathBuf {
        self.root.join("daemon.sock")
    }

    /// Logs of the daemon and its wrappers.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Folder of all runs.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// One run.
    pub fn run(&self, id: &RunId) -> RunDir {
        RunDir { dir: self.runs().join(id.as_str()) }
    }

    /// The base environment of a session (0600), `KEY=VALUE` separated by NUL.
    pub fn session_env(&self, session_id: i64) -> PathBuf {
        self.root.join("sessions").join(session_id.to_string()).join("env")
    }

    /// Working trees that we made: `worktrees/<repo>/<branch>`.
    pub fn worktrees(&self) -> PathBuf {
        self.root.join("worktrees")
    }

    /// Throwaway checkouts that gates run in: `gates/<task>.<fence>/<name of the working tree>`.
    pub fn gates(&self) -> PathBuf {
        self.root.join("gates")
    }

    /// The configuration of our own tmux server.
    pub fn tmux_conf(&self) -> PathBuf {
        self.root.join("tmux.conf")
    }
}

/// The folder of one run (0700).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunDir {
    dir: PathBuf,
}

impl RunDir {
    /// The run folder at `dir`.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// How the run was launched: a [`crate::run::RunSpec`].
    pub fn spec(&self) -> PathBuf {
        self.dir.join("run.json")
    }

    /// Flocked by the wrapper for life: this lock, not a timer, says whether the run is alive.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The journal.
    pub fn events(&self) -> PathBuf {
        self.dir.join("events.ndjson")
    }

    /// The recorded output.
    pub fn output_raw(&self) -> PathBuf {
        self.dir.join("output.raw")
    }

    /// Offsets and times of the recorded output.
    pub fn output_idx(&self) -> PathBuf {
        self.dir.join("output.idx")
    }

    /// The control socket (0600).
    pub fn ctl_sock(&self) -> PathBuf {
        self.dir.join("ctl.sock")
    }

    /// Environment for the agent (0600), NUL-separated; removed by the wrapper once read.
    pub fn env(&self) -> PathBuf {
        self.dir.join("env")
    }

    /// What a one-shot reads on its standard input (0600).
    pub fn prompt(&self) -> PathBuf {
        self.dir.join("prompt")
    }

    /// Secret that reports of this run must carry (0600).
    pub fn token(&self) -> PathBuf {
        self.dir.join("token")
    }
}
