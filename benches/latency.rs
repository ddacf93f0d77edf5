//! From a task that reaches the daemon to its prompt's first byte in the terminal of an idle agent: a pool in tmux, the
//! scripted agent, a repository, everything as a user has it. Prints `bench NAME VALUE UNIT RATIO OF`, the ratio being
//! that to the 50 ms that nobody notices; `--short` takes a few samples.
//!
//! The byte is seen by the agent's side: a relay in front of the scripted agent notes when a paste begins.

mod relay;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use orchwrap::config::Dirs;
use orchwrap::daemon::client::{Client, Start};
use orchwrap::daemon::rpc::{Call, SeatRequest, Submission};
use orchwrap::daemon::service::{Added, PoolView, SeatView, TaskView};
use orchwrap::extract::event::SessionState;
use orchwrap::ids::TaskId;
use orchwrap::queue::task::TaskState;
use relay::{Home, line, percentile};
use serde_json::{Value, json};

/// The bar.
const UNNOTICED_MS: f64 = 50.0;

/// An agent is idle for this long before it gets its next task: longer than any pause that a pack asks for.
const REST: Duration = Duration::from_millis(600);

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a bracketed paste begins with.
const PASTE: &[u8] = b"\x1b[200~";

fn main() {
    relay::dispatch(|_, args| relay::relay(&args[1..], |keys| stamp(&args[0], keys)));
    let samples = if relay::is_short() { 3 } else { 100 };
    let mut stage = Stage::build();
    let first = stage.sample(None).0;
    let mut times: Vec<f64> = (0..samples).map(|_| stage.sample(Some(first)).1).collect();
    for (name, p) in [("enqueue_to_prompt_p50", 0.5), ("enqueue_to_prompt_p99", 0.99)] {
        let ms = percentile(&mut times, p);
        line(name, ms, "ms", Some((ms / UNNOTICED_MS, "bar of 50 ms")));
    }
}

/// Appends the time at which a paste begins.
fn stamp(file: &OsString, keys: &[u8]) {
    if memchr::memmem::find(keys, PASTE).is_some() {
        let now = micros();
        let mut file = fs::File::options().append(true).create(true).open(file).expect("the stamps");
        file.write_all(format!("{now}\n").as_bytes()).expect("the stamps");
    }
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_micros()
}

/// A home with a repository, an agent, a daemon and a pool of one.
struct Stage {
    home: Home,
    client: Client,
}

impl Stage {
    fn build() -> Self {
        let home = Home::new();
        let path = |name: &str| home.path().join(name);
        fs::create_dir(path("bin")).expect("a folder");
        fs::create_dir(path("repo")).expect("a folder");
        let program = format!(
            "#!/bin/sh\nexec '{}' __stamp '{}' '{}' __fake-agent --dialect claude -- \"$@\"\n",
            std::env::current_exe().expect("our own path").display(),
            path("stamps").display(),
            env!("CARGO_BIN_EXE_orchwrap"),
        );
        fs::write(path("bin/claude"), program).expect("the agent");
        fs::set_permissions(path("bin/claude"), fs::Permissions::from_mode(0o755)).expect("the agent");
        fs::write(path(".gitconfig"), "[user]\n\tname = Bench\n\temail = bench@localhost\n").expect("a file");
        fs::write(path("repo/README"), "A project.\n").expect("a file");
        for args in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "first"]] {
            let done = command(&home, "git").args(args).status().expect("git");
            assert!(done.success(), "git {args:?}");
        }
        let done = command(&home, env!("CARGO_BIN_EXE_orchwrap")).args(["daemon", "start"]).status().expect("a daemon");
        assert!(done.success(), "the daemon does not start");
        let state = path("state");
        let dirs = Dirs::from_vars(|name| match name {
            "HOME" => Some(home.path().into()),
            "XDG_STATE_HOME" => Some(state.clone().into()),
            _ => None,
        });
        let client = Client::connect(&dirs.expect("a home"), Start::Never).expect("the daemon");
        // Whole before anything else can go wrong: what was started ends with it.
        let mut stage = Self { home, client };
        stage.pool_up();
        stage
    }

    fn pool_up(&mut self) {
        let home = &self.home;
        let env: Vec<(String, String)> =
            [("PATH", search_path(home)), ("HOME", home.path().into()), ("LANG", "C.UTF-8".into())]
                .map(|(name, value)| (name.to_owned(), value.into_string().expect("plain text")))
                .into();
        let request: SeatRequest = serde_json::from_value(json!({
            "name": "bench", "agent": "claude", "size": 1, "cwd": home.path().join("repo"),
            "args": ["--permission-mode", "manual"], "env": env, "terminal": "tmux",
            "takes_tasks": true, "hooks": true, "status_reply": true,
        }))
        .expect("a pool");
        let _: PoolView = self.client.call(Call::PoolUp(request)).expect("a pool");
    }

    /// Gives the idle agent a task, and returns it with the time until its prompt arrived, in milliseconds.
    fn sample(&mut self, talk: Option<TaskId>) -> (TaskId, f64) {
        self.rest();
        let seen = self.stamps().len();
        let mut spec = json!({ "prompt": "say: done", "cwd": self.home.path().join("repo"), "pool": "bench", "accept_output": true });
        if let Some(task) = talk {
            spec["continue_task"] = json!(task);
        }
        let spec = serde_json::from_value(spec).expect("a task");
        let tasks = vec![Submission { spec, typed: true, branch_here: true }];
        let began = micros();
        let added: Vec<Added> = self.client.call(Call::TaskAdd { tasks }).expect("a task");
        let id = added[0].id;
        let arrived = wait("the prompt to arrive", || self.stamps().get(seen).copied());
        wait("the end of the task", || {
            let view: TaskView = self.client.call(Call::TaskShow { id }).expect("the task");
            let stuck = matches!(view.task.state, TaskState::Asking | TaskState::Review | TaskState::Held);
            assert!(!stuck, "{view:?}");
            view.task.state.is_final().then_some(())
        });
        (id, (arrived - began) as f64 / 1e3)
    }

    /// Returns once the agent has been idle for a while.
    fn rest(&mut self) {
        let rest = jiff::SignedDuration::try_from(REST).expect("short");
        wait("an idle agent", || {
            let seats: Vec<SeatView> = self.client.call(Call::Ls {}).expect("the sessions");
            let rested = |s: &SeatView| {
                s.state == SessionState::Idle
                    && s.task.is_none()
                    && jiff::Timestamp::now().duration_since(s.since) > rest
            };
            seats.first().is_some_and(rested).then_some(())
        });
    }

    fn stamps(&self) -> Vec<u128> {
        let text = fs::read_to_string(self.home.path().join("stamps")).unwrap_or_default();
        text.lines().map(|l| l.parse().expect("a time")).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let down: Result<Value, _> = self.client.call(Call::PoolDown { name: "bench".parse().expect("a name") });
        if let Err(e) = down {
            eprintln!("pool down: {e}");
        }
        let _: Result<Value, _> = self.client.call(Call::Stop {});
    }
}

fn command(home: &Home, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", search_path(home)).env("HOME", home.path());
    command.env("XDG_STATE_HOME", home.path().join("state")).env("LANG", "C.UTF-8").env("TERM", "xterm-256color");
    command.current_dir(home.path().join("repo")).stdin(Stdio::null());
    command
}

fn search_path(home: &Home) -> OsString {
    let mut folders = vec![home.path().join("bin")];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    std::env::join_paths(folders).expect("folders without colons")
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
