//! A place where a real agent can run without harm: throwaway HOME, fake keys, a repository it trusts, a model that is
//! ours. Agents are started only where loopback is the one network there is.

#![allow(dead_code, unreachable_pub, reason = "shared by test binaries, each of which uses its part")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orchwrap::clock::wall;
use orchwrap::ctl::{SendOutcome, SendRequest, Status};
use orchwrap::extract::event::{Body, Event, SessionState};
use orchwrap::ids::{Name, RunId};
use orchwrap::paths::{RunDir, StateDir};
use orchwrap::pty::client::Ctl;
use orchwrap::pty::journal::JournalReader;
use orchwrap::pty::rundir;
use orchwrap::run::{RunSpec, SPEC_VERSION, Seat};

use crate::mock_model::Mock;

/// How long anything may take before a test gives up: agents are big, and machines may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The fake key; the agent is told that its last 20 characters are approved.
const KEY: &str = "sk-ant-fake-0000000000000fake-key00";

/// A real agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    Claude,
    Codex,
}

impl Agent {
    /// Its pack, its program and what `--agent` says.
    pub fn id(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
        }
    }

    /// Arguments that let every command run without a question.
    pub fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Claude => &["--allowedTools", "Bash"],
            Self::Codex => &[],
        }
    }

    /// Arguments of an interactive session.
    pub fn args(self) -> &'static [&'static str] {
        match self {
            // Without it commands run without a question.
            Self::Claude => &["--permission-mode", "manual"],
            Self::Codex => &["--no-daemon"],
        }
    }
}

/// Who tells what the agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witnesses {
    /// Reports, status sequences, the screen.
    All,
    /// `--no-hooks --no-status-reply`.
    Screen,
}

/// Why no real agent can be run here; none if one can.
pub fn unavailable() -> Option<String> {
    if std::env::var_os("ORCHWRAP_AGENTS").is_none() {
        return Some("ORCHWRAP_AGENTS is not set: run `./x agents`".to_owned());
    }
    let interfaces = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let others = interfaces.lines().skip(2).filter_map(|l| l.split(':').next()).any(|name| name.trim() != "lo");
    others.then(|| "this is not a namespace with loopback alone: run `./x agents`".to_owned())
}

/// A fixture, unless real agents cannot be run: then the reason is said, and under `ORCHWRAP_AGENTS=required` it fails.
pub fn fixture() -> Option<Fixture> {
    match unavailable() {
        None => Some(Fixture::new()),
        Some(why) => {
            assert!(std::env::var("ORCHWRAP_AGENTS").as_deref() != Ok("required"), "{why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

/// HOME, repository, state folder and model of one test.
pub struct Fixture {
    root: tempfile::TempDir,
    pub mock: Mock,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("ow-agents-").tempdir().expect("a temporary folder");
        let fixture = Self { root, mock: Mock::start() };
        for dir in ["home/.codex", "repo"] {
            std::fs::create_dir_all(fixture.path(dir)).unwrap();
        }
        let repo = fixture.repo();
        std::fs::write(repo.join("calc.py"), "def add(a, b):\n    return a + b\n").unwrap();
        std::fs::write(repo.join("README.md"), "# Demo\n").unwrap();
        fixture.git(&["init", "-q", "-b", "main"]);
        fixture.git(&["add", "-A"]);
        fixture.git(&["commit", "-q", "-m", "init"]);
        fixture.git(&["branch", "fix/x"]);
        fixture.trust(true);
        fixture
    }

    /// A path in the fixture.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().expect("it was just made").join(name)
    }

    /// The repository, on branch `main`; there is a branch `fix/x`.
    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// The state folder.
    pub fn state(&self) -> StateDir {
        StateDir::new(self.path("state"))
    }

    fn git(&self, args: &[&str]) {
        let status = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(args)
            .current_dir(self.repo())
            .env("HOME", self.path("home"))
            .status()
            .expect("git runs");
        assert!(status.success(), "git {args:?}");
    }

    /// Writes the agents' settings; whether they trust the repository is told there.
    pub fn trust(&self, trusted: bool) {
        let repo = self.repo();
        let claude = serde_json::json!({
            "hasCompletedOnboarding": true,
            "theme": "dark",
            "customApiKeyResponses": { "approved": [&KEY[KEY.len() - 20..]], "rejected": [] },
            "projects": { repo.to_str().unwrap(): { "hasTrustDialogAccepted": trusted } },
        });
        std::fs::write(self.path("home/.claude.json"), claude.to_string()).unwrap();
        let trust = if trusted {
            format!("[projects.\"{}\"]\ntrust_level = \"trusted\"\n", repo.display())
        } else {
            String::new()
        };
        let codex = format!(
            "model = \"gpt-5\"\nmodel_provider = \"mock\"\napproval_policy = \"on-request\"\nsandbox_mode = \"workspace-write\"\n\
             check_for_update_on_startup = false\n\
             [model_providers.mock]\nname = \"mock\"\nbase_url = \"{}/v1\"\nenv_key = \"MOCK_API_KEY\"\nwire_api = \"responses\"\n\
             request_max_retries = 2\nstream_max_retries = 2\n{trust}",
            self.mock.url()
        );
        std::fs::write(self.path("home/.codex/config.toml"), codex).unwrap();
    }

    /// The whole environment of an agent, and of whatever starts one.
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        let agents = std::env::var_os("ORCHWRAP_AGENTS_BIN").map(PathBuf::from).unwrap_or_default();
        let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", agents.display());
        let home = self.path("home");
        let text = |s: &Path| s.to_str().unwrap().to_owned();
        let state = text(&self.path("state-home"));
        [
            ("PATH", path.as_str()),
            ("HOME", &text(&home)),
            ("CODEX_HOME", &text(&home.join(".codex"))),
            ("XDG_STATE_HOME", &state),
            ("TMUX_TMPDIR", &text(&home)),
            ("SHELL", "/bin/sh"),
            ("LANG", "C.UTF-8"),
            ("TERM", "xterm-256color"),
            ("ANTHROPIC_BASE_URL", &self.mock.url()),
            ("ANTHROPIC_API_KEY", KEY),
            ("DISABLE_AUTOUPDATER", "1"),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("CLAUDE_CODE_MAX_RETRIES", "2"),
            ("MOCK_API_KEY", "fake"),
        ]
        .into_iter()
        .map(|(k, v)| (k.into(), v.into()))
        .collect()
    }

    /// Starts `agent` under a terminal that nobody looks at.
    pub fn start(&self, agent: Agent, witnesses: Witnesses) -> Run {
        self.start_with(agent, witnesses, &[])
    }

    /// The same with more arguments.
    pub fn start_with(&self, agent: Agent, witnesses: Witnesses, more: &[&str]) -> Run {
        let words = std::iter::once(agent.id()).chain(agent.args().iter().copied()).chain(more.iter().copied());
        let argv = words.map(str::to_owned).collect();
        self.launch(agent, witnesses, Seat::Detached, argv, None)
    }

    /// Runs `agent` once on `prompt`, its output a structured stream.
    pub fn oneshot(&self, agent: Agent, prompt: &str) -> Run {
        let mut argv = vec![agent.id().to_owned()];
        if agent == Agent::Claude {
            argv.extend(agent.args().iter().chain(agent.allowed()).map(|a| (*a).to_owned()));
        }
        self.launch(agent, Witnesses::All, Seat::Oneshot, argv, Some(prompt))
    }

    fn launch(&self, agent: Agent, witnesses: Witnesses, seat: Seat, argv: Vec<String>, prompt: Option<&str>) -> Run {
        let all = witnesses == Witnesses::All;
        let run = RunId::random();
        let spec = RunSpec {
            v: SPEC_VERSION,
            run: run.clone(),
            session: Name::sanitized(agent.id(), "agent"),
            pool: None,
            agent: agent.id().to_owned(),
            pack: agent.id().to_owned(),
            argv,
            cwd: self.repo(),
            seat,
            size: Some((120, 40)),
            created: wall(),
            record: true,
            hooks: all,
            status_reply: all,
            takes_tasks: false,
            attempt: None,
            resume: None,
        };
        let dir = rundir::create(&self.state(), &spec, &self.env()).expect("a run folder");
        if let Some(prompt) = prompt {
            rundir::write_private(&dir.path().join("prompt"), prompt.as_bytes()).expect("the prompt's file");
        }
        let child = Command::new(env!("CARGO_BIN_EXE_orchwrap"))
            .arg("__run")
            .arg(dir.path())
            .env_clear()
            .envs(self.env())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the wrapper starts");
        Run { dir, child }
    }
}

/// A run of a real agent.
pub struct Run {
    dir: RunDir,
    child: Child,
}

impl Run {
    /// Every event so far.
    pub fn events(&self) -> Vec<Event> {
        let Ok(mut reader) = JournalReader::open(&self.dir.events(), 1) else { return Vec::new() };
        std::iter::from_fn(|| reader.next_event().expect("the journal is read")).collect()
    }

    /// Waits until `found` in the events; what it returns then.
    pub fn wait<T>(&mut self, what: &str, mut found: impl FnMut(&[Event]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events();
            if let Some(value) = found(&events) {
                return value;
            }
            let over = self.child.try_wait().expect("the wrapper is ours").is_some() || Instant::now() > deadline;
            assert!(!over, "no {what}.\n{}", self.told());
            std::thread::sleep(Duration::from_millis(50)); // between two looks
        }
    }

    /// The client of its control socket.
    pub fn ctl(&mut self) -> Ctl {
        let dir = self.dir.clone();
        self.wait("control socket", |_| Ctl::connect(&dir).ok())
    }

    /// What it is doing.
    pub fn state(&mut self) -> Status {
        self.ctl().state().expect("the run answers")
    }

    /// Waits for `state`.
    pub fn wait_state(&mut self, state: SessionState) {
        let dir = self.dir.clone();
        let what = format!("state {state:?}");
        self.wait(&what, |_| Ctl::connect(&dir).ok()?.state().ok().filter(|s| s.state == state));
    }

    /// Sends a prompt as the queue does, once the agent is ready.
    pub fn send(&mut self, text: &str) -> SendOutcome {
        self.wait_state(SessionState::Idle);
        let request = SendRequest { key: None, text: text.to_owned(), accept_timeout_ms: 30_000 };
        self.ctl().send(request).expect("the run answers")
    }

    /// Waits for the end of the turn that began after `seen` events, and for the state after it.
    pub fn wait_turn(&mut self, seen: usize) -> Vec<Event> {
        self.wait("end of the turn", |events| {
            let ends = ["turn.completed", "turn.failed", "turn.interrupted"];
            events.iter().skip(seen).any(|e| ends.contains(&e.body.kind().as_str())).then_some(())
        });
        let dir = self.dir.clone();
        let calm = [SessionState::Idle, SessionState::Limited, SessionState::Exited];
        self.wait("calm after the turn", |_| {
            let status = Ctl::connect(&dir).ok().and_then(|c| c.state().ok());
            status.is_none_or(|s| calm.contains(&s.state)).then_some(())
        });
        self.events().split_off(seen)
    }

    /// Waits for the wrapper's own end.
    pub fn wait_exit(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the wrapper is ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "the run does not end.\n{}", self.told());
            std::thread::sleep(Duration::from_millis(50)); // between two looks
        }
    }

    /// Everything a reader of a failed test wants to see.
    pub fn told(&self) -> String {
        let events: String = self
            .events()
            .iter()
            .map(|e| {
                let mut data = serde_json::to_string(&e).unwrap_or_default();
                data.truncate(data.floor_char_boundary(400));
                format!("{data}\n")
            })
            .collect();
        let screen = Ctl::connect(&self.dir).ok().and_then(|c| c.screen().ok());
        let rows = screen.map(|s| s.lines.join("\n")).unwrap_or_default();
        format!("--- events\n{events}--- screen\n{}", rows.trim_end())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        if let Ok(ctl) = Ctl::connect(&self.dir) {
            let _ = ctl.stop(Duration::from_secs(2));
        }
        let _ = self.child.kill(); // the guard ends the agent's tree
        let _ = self.child.wait();
    }
}

/// The turn's skeleton: turns, permissions and questions, by type.
pub fn skeleton(events: &[Event]) -> Vec<String> {
    let families = ["turn.", "permission.", "question."];
    events.iter().map(|e| e.body.kind()).filter(|k| families.iter().any(|f| k.starts_with(f))).collect()
}

/// The last answer of the completed turn.
pub fn answer(events: &[Event]) -> Option<String> {
    events.iter().rev().find_map(|e| match &e.body {
        Body::TurnCompleted { answer, .. } => Some(answer.clone()),
        _ => None,
    })?
}
