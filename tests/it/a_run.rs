//! A run for a test: a wrapper without a terminal, in folders of its own, asked over its control socket.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use orchwrap::clock;
use orchwrap::ctl::{SendOutcome, SendRequest, Status};
use orchwrap::demo::agent::{Fact, Ledger};
use orchwrap::extract::event::{Event, SessionState};
use orchwrap::ids::{AttemptKey, RunId, TaskId};
use orchwrap::paths::{RunDir, StateDir};
use orchwrap::pty::client::Ctl;
use orchwrap::pty::journal::JournalReader;
use orchwrap::pty::rundir;
use orchwrap::run::{RunSpec, SPEC_VERSION, Seat};
use serde_json::Value;

pub(crate) use crate::support::wait_until as wait_for;

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/event.schema.json")).unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
});

/// Checks one event against `docs/event.schema.json`.
#[track_caller]
pub(crate) fn check_event(event: &Value) {
    if let Err(e) = SCHEMA.validate(event) {
        panic!("an event is not as docs/event.schema.json says: {e}\n{event:#}");
    }
}

/// Checks every line of a journal: against the schema, and numbered without a gap.
#[track_caller]
pub(crate) fn check_journal(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    for (n, line) in text.lines().enumerate() {
        let event: Value = serde_json::from_str(line).unwrap();
        check_event(&event);
        assert_eq!(event["seq"], n as u64 + 1, "{line}");
    }
}

/// How a run is to be.
pub(crate) struct Plan {
    pub(crate) home: tempfile::TempDir,
    pub(crate) argv: Vec<String>,
    pub(crate) pack: &'static str,
    pub(crate) record: bool,
    pub(crate) hooks: bool,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Runs once, with this on standard input.
    pub(crate) prompt: Option<&'static str>,
}

impl Plan {
    /// A run of any command.
    pub(crate) fn of(pack: &'static str, argv: &[&str]) -> Self {
        let home = tempfile::Builder::new().prefix("ow-").tempdir().unwrap();
        let home_var = home.path().as_os_str().to_owned();
        let env = vec![
            ("PATH".into(), std::env::var_os("PATH").unwrap_or_default()),
            ("HOME".into(), home_var.clone()),
            ("CODEX_HOME".into(), Path::new(&home_var).join(".codex").into()),
            ("LANG".into(), "C.UTF-8".into()),
        ];
        Self {
            home,
            argv: argv.iter().map(|s| (*s).to_owned()).collect(),
            pack,
            record: false,
            hooks: true,
            env,
            prompt: None,
        }
    }

    /// A run of the scripted agent under the name of the agent it stands in for.
    pub(crate) fn agent(pack: &'static str, dialect: &str, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let mut plan = Self::of(pack, &[]);
        let path = |name: &str| plan.home.path().join(name);
        std::fs::write(path("script.json"), script).unwrap();
        let program = path(pack);
        let text = format!(
            "#!/bin/sh\nexec '{}' __fake-agent --dialect {dialect} --script '{}' --ledger '{}' -- \"$@\"\n",
            env!("CARGO_BIN_EXE_orchwrap"),
            path("script.json").display(),
            path("ledger").display()
        );
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        plan.argv = vec![program.to_str().unwrap().to_owned()];
        plan
    }

    pub(crate) fn start(self) -> ARun {
        let state = StateDir::new(self.home.path().join("state"));
        self.start_in(state)
    }

    pub(crate) fn start_in(self, state: StateDir) -> ARun {
        let spec = RunSpec {
            v: SPEC_VERSION,
            run: RunId::random(),
            session: "test-1".parse().unwrap(),
            pool: None,
            agent: self.pack.into(),
            pack: self.pack.into(),
            argv: self.argv,
            cwd: self.home.path().to_owned(),
            seat: if self.prompt.is_some() { Seat::Oneshot } else { Seat::Detached },
            size: Some((120, 40)),
            created: clock::wall(),
            record: self.record,
            hooks: self.hooks,
            status_reply: true,
            takes_tasks: false,
            attempt: None,
            resume: None,
        };
        let dir = rundir::create(&state, &spec, &self.env).unwrap();
        if let Some(prompt) = self.prompt {
            rundir::write_private(&dir.prompt(), prompt.as_bytes()).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchwrap"));
        command.arg("__run").arg(dir.path()).env_clear().env("HOME", self.home.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: setsid is one async-signal-safe system call without memory of ours.
        unsafe {
            command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
        }
        let wrapper = command.spawn().unwrap();
        let run = ARun { home: self.home, spec, dir, wrapper };
        // A one-shot may be over before it can be asked.
        if self.prompt.is_none() {
            wait_for("the run answers", || run.ctl().state().ok());
        }
        run
    }
}

/// A live run.
pub(crate) struct ARun {
    pub(crate) home: tempfile::TempDir,
    pub(crate) spec: RunSpec,
    pub(crate) dir: RunDir,
    pub(crate) wrapper: Child,
}

impl ARun {
    pub(crate) fn ctl(&self) -> Ctl {
        // Not connected yet: each question connects for itself.
        wait_for("the control socket", || Ctl::connect(&self.dir).ok())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut want: impl FnMut(&Status) -> bool) -> Status {
        wait_for(what, || self.ctl().state().ok().filter(|s| want(s)))
    }

    #[track_caller]
    pub(crate) fn until_idle(&self) {
        self.until("idle", |s| s.state == SessionState::Idle);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let mut reader = JournalReader::open(&self.dir.events(), 1).unwrap();
        std::iter::from_fn(|| reader.next_event().unwrap()).collect()
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        self.events().iter().map(|e| e.body.kind()).collect()
    }

    #[track_caller]
    pub(crate) fn until_event(&self, kind: &str) -> Event {
        wait_for(kind, || self.events().into_iter().find(|e| e.body.kind() == kind))
    }

    /// Sends a prompt as attempt number `attempt` of task 1.
    pub(crate) fn send(&self, attempt: u32, text: &str) -> SendOutcome {
        self.ctl().send(request(attempt, text)).unwrap()
    }

    /// What the scripted agent says that it received.
    pub(crate) fn received(&self) -> Vec<String> {
        let facts = Ledger::read(&self.path("ledger")).unwrap().into_iter().map(|e| e.fact);
        facts.filter_map(|f| if let Fact::Received { text, .. } = f { Some(text) } else { None }).collect()
    }

    /// Stops the agent and waits for the wrapper; its journal has to be in order.
    pub(crate) fn stop(mut self) -> Vec<Event> {
        self.ctl().stop(Duration::from_secs(2)).unwrap();
        wait_for("the wrapper ends", || self.wrapper.try_wait().unwrap());
        assert!(!rundir::is_alive(&self.dir));
        check_journal(&self.dir.events());
        self.events()
    }
}

impl Drop for ARun {
    fn drop(&mut self) {
        // The guard ends the agent's tree when its wrapper is gone.
        self.wrapper.kill().ok();
        self.wrapper.wait().ok();
    }
}

/// Attempt number `attempt` of task 1.
pub(crate) fn key(attempt: u32) -> AttemptKey {
    AttemptKey { task: TaskId(1), attempt, fence: i64::from(attempt) }
}

pub(crate) fn request(attempt: u32, text: &str) -> SendRequest {
    SendRequest { key: Some(key(attempt)), text: text.into(), accept_timeout_ms: 30_000 }
}

/// Runs `work` on a thread; its result is waited for with a deadline.
pub(crate) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (send, result) = mpsc::channel();
    std::thread::spawn(move || send.send(work()).ok());
    result
}
