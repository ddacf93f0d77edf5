//! Talks to our own tmux server: every call has a time limit, "already gone" is success.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::command::{self, Pane, Processes};
use crate::config;
use crate::paths::StateDir;

/// Patience with one tmux call: a frozen server must not freeze us (F14).
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long after a call without an answer the server counts as frozen. Then it is tried again.
const FROZEN: Duration = Duration::from_secs(15);

/// Chooses another folder for tmux's sockets. Never passed on: the server of a state folder is found at one place, whoever
/// happens to have started the daemon, and whoever attaches.
const TMPDIR: &str = "TMUX_TMPDIR";

/// The oldest tmux that has what we use (`default-size`, `extended-keys`, `terminal-features`).
const OLDEST: (u32, u32) = (3, 2);

/// Why tmux did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TmuxError {
    /// There is no tmux.
    #[error(
        "tmux is not installed: install it (Debian: apt-get install tmux), or start the pool with --terminal detached"
    )]
    Missing,
    /// It is too old.
    #[error("tmux {0}.{1} is too old: 3.2 or later is needed")]
    TooOld(u32, u32),
    /// It did not answer.
    #[error("tmux did not answer `{0}` within 2 s: is its server frozen?")]
    Timeout(String),
    /// It refused.
    #[error("tmux refused `{verb}`: {why}")]
    Refused {
        /// Which command.
        verb: String,
        /// What it wrote to its standard error.
        why: String,
    },
    /// It could not be run, or its configuration not be written.
    #[error("run tmux: {0}")]
    Io(#[from] std::io::Error),
}

/// A handle to our tmux server; the server starts with the first session and ends with the last.
#[derive(Debug, Clone)]
pub struct Tmux {
    server: String,
    config: PathBuf,
    program: String,
    size: (u16, u16),
    /// When a call was last left without an answer, until one is answered.
    silent: Arc<Mutex<Option<Instant>>>,
}

impl Tmux {
    /// The server that belongs to `state`; `is_default` says whether that is the default state folder.
    pub fn new(state: &StateDir, is_default: bool, config: &config::Tmux) -> Self {
        Self {
            server: command::server_name(state.root(), is_default),
            config: state.tmux_conf(),
            program: config.command.clone(),
            size: (config.cols, config.rows),
            silent: Arc::default(),
        }
    }

    /// Name of the server's socket, for `tmux -L`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether it left us without an answer a moment ago: then nothing new is given to its panes (F14).
    pub fn is_frozen(&self) -> bool {
        let silent = self.silent.lock().expect("nothing panics while it is held");
        silent.is_some_and(|since| since.elapsed() < FROZEN)
    }

    /// Returns tmux's version, or why it cannot be used.
    pub async fn check(&self) -> Result<(u32, u32), TmuxError> {
        let text = self.call("-V", &["-V".into()]).await?;
        match command::parse_version(&text) {
            Some(v) if v < OLDEST => Err(TmuxError::TooOld(v.0, v.1)),
            // A build that does not say a number is newer than any rule we know.
            found => Ok(found.unwrap_or(OLDEST)),
        }
    }

    /// Puts `program` into the pane of `session`, making both if need be; what ran there is ended.
    pub async fn put(&self, session: i64, program: &[OsString]) -> Result<Pane, TmuxError> {
        if let Some(pane) = self.pane(session).await? {
            self.run(command::respawn_pane(&pane.pane, program)).await?;
            if let Some(pane) = self.pane(session).await? {
                return Ok(pane);
            }
        }
        fs_err::write(&self.config, command::config(self.size))?;
        let made = self.run(command::new_session(session, self.size, program)).await?;
        command::parse_panes(&made)
            .pop()
            .ok_or_else(|| TmuxError::Refused { verb: "new-session".into(), why: format!("it answered {made:?}") })
    }

    /// Returns every pane of ours; none where the server is down.
    pub async fn panes(&self) -> Result<Vec<Pane>, TmuxError> {
        match self.run(command::list_panes()).await {
            Ok(list) => Ok(command::parse_panes(&list)),
            Err(TmuxError::Refused { why, .. }) if is_gone(&why) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Returns the processes in all panes; an error where no server says so.
    pub async fn processes(&self) -> Result<Processes, TmuxError> {
        let list = self.run(command::list_processes()).await?;
        command::parse_processes(&list)
            .ok_or_else(|| TmuxError::Refused { verb: "list-panes".into(), why: format!("it answered {list:?}") })
    }

    /// Returns the pane of `session`, dead or alive.
    pub async fn pane(&self, session: i64) -> Result<Option<Pane>, TmuxError> {
        Ok(self.panes().await?.into_iter().find(|p| p.session == session))
    }

    /// Ends the tmux session of `session`; no such session is success (F15).
    pub async fn end(&self, session: i64) -> Result<(), TmuxError> {
        match self.run(command::kill_session(session)).await {
            Err(TmuxError::Refused { why, .. }) if is_gone(&why) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The command that shows `session` at this terminal, for the caller to run.
    pub fn attach_command(&self, session: i64, read_only: bool) -> std::process::Command {
        let mut c = std::process::Command::new(&self.program);
        // Inside somebody's own tmux the variable would make ours refuse to nest.
        c.env_remove("TMUX").env_remove(TMPDIR).arg("-L").arg(&self.server).args(command::attach(session, read_only));
        c
    }

    async fn run(&self, argv: Vec<OsString>) -> Result<String, TmuxError> {
        let verb = argv[0].to_string_lossy().into_owned();
        let mut all: Vec<OsString> =
            vec!["-L".into(), self.server.clone().into(), "-f".into(), self.config.clone().into()];
        all.extend(argv);
        self.call(&verb, &all).await
    }

    async fn call(&self, verb: &str, argv: &[OsString]) -> Result<String, TmuxError> {
        let mut c = Command::new(&self.program);
        c.args(argv).stdin(Stdio::null()).kill_on_drop(true).env_clear();
        // The server keeps the environment it is started with and hands it to every pane: API keys must not be in it (T20).
        for key in ["PATH", "HOME", "LANG", "LC_ALL", "USER", "LOGNAME", "SHELL"] {
            if let Some(value) = std::env::var_os(key) {
                c.env(key, value);
            }
        }
        // A new server takes our working folder as its own and would keep a mount busy.
        c.current_dir("/");
        let output = match tokio::time::timeout(CALL_TIMEOUT, c.output()).await {
            Err(_) => {
                *self.silent.lock().expect("nothing panics while it is held") = Some(Instant::now());
                return Err(TmuxError::Timeout(verb.to_owned()));
            }
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => return Err(TmuxError::Missing),
            Ok(done) => done?,
        };
        if verb != "-V" {
            *self.silent.lock().expect("nothing panics while it is held") = None;
        }
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(TmuxError::Refused {
            verb: verb.to_owned(),
            why: String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        })
    }
}

/// tmux's words for "there is no such server, session or pane" (3.2 to 3.6).
fn is_gone(why: &str) -> bool {
    // A socket that cannot be entered or is no socket says nothing about a server.
    let no_socket = why.contains("error connecting") && why.contains("No such file or directory");
    no_socket
        || ["no server running", "can't find", "no sessions", "no current target", "server exited"]
            .iter()
            .any(|words| why.contains(words))
}
