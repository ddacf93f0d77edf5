//! The demo's own world: a folder with a home, a repository and an agent on the path. Torn down by what is written there.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Options;
use super::agent::{Entry, Ledger};
use super::tasks::{self, Planned};

/// Patience with one call of the command line, in seconds (`timeout` is not everywhere, so verbs get it themselves).
const WAIT_SECONDS: u64 = 10;

/// A folder in which the demo plays, and everything that lives there.
pub(super) struct Stage {
    folder: Option<tempfile::TempDir>,
    root: PathBuf,
    exe: PathBuf,
    detached: bool,
    keep: bool,
    follower: Option<Child>,
    pools: Vec<String>,
}

impl Stage {
    /// Makes the folder, the repository and the agent.
    pub(super) fn build(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("orchwrap-demo-").tempdir()?;
        let root = folder.path().canonicalize()?;
        let exe = std::env::current_exe()?.canonicalize()?;
        let has_tmux = Command::new("tmux")
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        let stage = Self {
            folder: Some(folder),
            detached: options.no_tmux || !has_tmux,
            keep: options.keep,
            follower: None,
            pools: Vec::new(),
            root,
            exe,
        };
        for part in ["home", "state", "config", "bin", "repo"] {
            fs_err::create_dir(stage.root.join(part))?;
        }
        stage.install_agent()?;
        stage.make_repository()?;
        Ok(stage)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Leaves the folder for a look, and says where it is.
    pub(super) fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.root
    }

    /// Where the sessions sit.
    pub(super) fn seats(&self) -> &'static str {
        if self.detached { "no tmux" } else { "tmux" }
    }

    /// The scripted agent, under the name of a real one, as a tiny program on the path.
    fn install_agent(&self) -> anyhow::Result<()> {
        let script = self.root.join("script.json");
        fs_err::write(&script, serde_json::to_vec_pretty(&tasks::script())?)?;
        let quoted = |path: &Path| -> anyhow::Result<String> {
            Ok(shlex::try_quote(path.to_str().context("the temporary folder has no plain name")?)?.into_owned())
        };
        let text = format!(
            "#!/bin/sh\nexec {} __fake-agent --dialect claude --script {} --ledger {} -- \"$@\"\n",
            quoted(&self.exe)?,
            quoted(&script)?,
            quoted(&self.ledger_path())?
        );
        let program = self.root.join("bin/claude");
        fs_err::write(&program, text)?;
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn make_repository(&self) -> anyhow::Result<()> {
        let repo = self.root.join("repo");
        let git_config = "[user]\n\tname = Demo\n\temail = demo@localhost\n[init]\n\tdefaultBranch = main\n";
        fs_err::write(self.root.join("home/.gitconfig"), git_config)?;
        fs_err::write(repo.join("README"), "A project for the demo.\n")?;
        fs_err::create_dir(repo.join("artefacts"))?;
        fs_err::write(repo.join("artefacts/old.o"), "old\n")?;
        for args in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "first"]] {
            let status =
                self.command("git").args(args).current_dir(&repo).status().context("run git; install it first")?;
            if !status.success() {
                bail!("git {} failed in {}", args.join(" "), repo.display());
            }
        }
        Ok(())
    }

    fn ledger_path(&self) -> PathBuf {
        self.root.join("ledger.ndjson")
    }

    /// A command in the demo's environment and no other.
    fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        let mut paths = vec![self.root.join("bin")];
        paths.extend(std::env::split_paths(&path));
        command
            .env_clear()
            .env("PATH", std::env::join_paths(paths).unwrap_or(path))
            .env("HOME", self.root.join("home"))
            .env("XDG_STATE_HOME", self.root.join("state"))
            .env("XDG_CONFIG_HOME", self.root.join("config"))
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .stdin(Stdio::null())
            .current_dir(self.root.join("repo"));
        command
    }

    /// Runs a verb as a user would, and returns what it prints.
    fn verb<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> anyhow::Result<String> {
        let args: Vec<&str> = args.into_iter().collect();
        let output = self.command(&self.exe).args(&args).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("orchwrap {} failed ({}): {}", args.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts the sessions.
    pub(super) fn pool_up(&mut self, pool: &str) -> anyhow::Result<()> {
        self.pools.push(pool.to_owned());
        let mut args = vec!["pool", "up", pool, "--agent", "claude", "-n", "2"];
        if self.detached {
            args.extend(["--terminal", "detached"]);
        }
        args.extend(["--", "--permission-mode", "manual"]);
        self.verb(args).map(drop)
    }

    /// Hands on the events as they come, until `take` has enough.
    pub(super) fn follow_events(&mut self, mut take: impl FnMut(Value) -> bool + Send + 'static) -> anyhow::Result<()> {
        let mut child = self
            .command(&self.exe)
            .args(["events", "-f", "-n", "1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let out = child.stdout.take().context("the pipe of events")?;
        self.follower = Some(child);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line)
                    && !take(event)
                {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Adds a task, and returns its number.
    pub(super) fn add(&self, pool: &str, task: &Planned) -> anyhow::Result<i64> {
        let mut args = vec!["task", "add", task.prompt, "--pool", pool];
        args.extend(task.options);
        self.verb(args)?.trim().parse().context("the number of the added task")
    }

    pub(super) fn show(&self, id: i64) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.verb(["task", "show", &id.to_string(), "--json"])?)?)
    }

    pub(super) fn events(&self, task: i64) -> anyhow::Result<Vec<Value>> {
        let text = self.verb(["events", "-n", "10000", "--task", &task.to_string()])?;
        Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
    }

    pub(super) fn answer(&self, task: i64, text: &str) -> anyhow::Result<()> {
        self.verb(["task", "answer", &task.to_string(), text]).map(drop)
    }

    pub(super) fn ledger(&self) -> std::io::Result<Vec<Entry>> {
        Ledger::read(&self.ledger_path())
    }

    /// Ends everything that lives on this stage.
    pub(super) fn strike(&mut self) {
        if let Some(mut child) = self.follower.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pool in std::mem::take(&mut self.pools) {
            let _ = self.verb(["pool", "down", &pool]);
        }
        let _ = self.verb(["daemon", "stop"]);
        // What was started here and does not want to end is known by the folder it was started in.
        sweep::end(&self.root, Duration::from_secs(WAIT_SECONDS));
        if self.keep
            && let Some(folder) = self.folder.take()
        {
            let _ = folder.keep();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.strike();
    }
}

/// Finds and ends processes by the folder that their environment names.
mod sweep {
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// Ends every process whose environment has its HOME or state folder in `root`; returns once they are gone.
    pub(super) fn end(root: &Path, patience: Duration) {
        let until = Instant::now() + patience;
        let mut first = true;
        loop {
            let left = living(root);
            if left.is_empty() {
                return;
            }
            let late = Instant::now() + patience / 2 > until;
            for pid in left {
                let _ = kill(pid, if late { Signal::SIGKILL } else { Signal::SIGTERM });
            }
            if Instant::now() >= until {
                return;
            }
            if !std::mem::take(&mut first) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn living(root: &Path) -> Vec<Pid> {
        let marks =
            [b"HOME=".as_slice(), b"XDG_STATE_HOME="].map(|key| [key, root.as_os_str().as_bytes(), b"/"].concat());
        let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
        let own = std::process::id() as i32;
        let pids = processes.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| *pid != own)
            .filter(|pid| {
                let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environ.split(|b| *b == 0).any(|entry| marks.iter().any(|mark| entry.starts_with(mark)))
            })
            .map(Pid::from_raw)
            .collect()
    }
}
