//! The kill campaign: kill -9 of the daemon, of wrappers and of the tmux server at chosen phases, under load, judged by
//! the agents' own ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchwrap::config::Dirs;
use orchwrap::daemon::client::Client;
use orchwrap::daemon::lock;
use orchwrap::daemon::rpc::{Call, Submission, TaskQuery};
use orchwrap::daemon::service::Added;
use orchwrap::demo::agent::{Fact, Ledger, Rule, Script};
use orchwrap::extract::event::{Body, Event};
use orchwrap::ids::{RunId, TaskId};
use orchwrap::queue::task::{Task, TaskSpec, TaskState};

use crate::support::{Home, orchwrap};

/// Sessions.
const SESSIONS: &str = "4";
/// Tasks kept under way.
const LOAD: usize = 8;
/// Live attempts that a kill waits for, for a while.
const BUSY: usize = 3;
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
/// With less than that alive for so long, the seats are set aside: no seat bears to be killed every few seconds.
const STARVED: Duration = Duration::from_secs(4);
/// Patience with one thing that has to come; recovery from a kill is far quicker.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Daemon,
    Wrapper,
    Tmux,
}

/// One kill, as it truly fell.
#[derive(Debug)]
struct Kill {
    target: Target,
    /// The phase that was waited for.
    phase: TaskState,
    /// What the tasks under way were in at that moment.
    found: BTreeMap<&'static str, usize>,
}

struct Campaign {
    home: Home,
    dirs: Dirs,
    client: Option<Client>,
    added: usize,
    /// Kill only at tasks that must not be sent twice.
    fragile_only: bool,
    /// How often seats had to be taken up again by hand.
    revived: usize,
    kills: Vec<Kill>,
}

fn tag(n: usize) -> String {
    format!("K{n}K")
}

impl Campaign {
    /// `ack_ms`: how long after a prompt was received the agent shows it.
    fn new(ack_ms: u64) -> Self {
        let home = Home::new();
        for part in ["bin", "work"] {
            std::fs::create_dir(home.join(part)).unwrap();
        }
        // A received prompt shows a while later, as with real agents; some Enters are lost.
        let rule = |word: &str, ack_ms, swallow_enters| Rule {
            when: vec![word.into()],
            ack_ms,
            swallow_enters,
            ..Rule::default()
        };
        let script = Script { rules: vec![rule("sleepily", ack_ms, 1), rule("job", ack_ms, 0)], ..Script::default() };
        std::fs::write(home.join("script.json"), serde_json::to_vec(&script).unwrap()).unwrap();
        let text = format!(
            "#!/bin/sh\nexec '{}' __fake-agent --dialect claude --script '{}' --ledger '{}' -- \"$@\"\n",
            orchwrap().display(),
            home.join("script.json").display(),
            home.join("ledger").display(),
        );
        std::fs::write(home.join("bin/claude"), text).unwrap();
        std::fs::set_permissions(home.join("bin/claude"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let dirs = Dirs { state: home.join("state/orchwrap"), config: home.join("config/orchwrap") };
        let campaign = Self { home, dirs, client: None, added: 0, fragile_only: false, revived: 0, kills: Vec::new() };
        let args = [
            "pool",
            "up",
            "kc",
            "--agent",
            "claude",
            "-n",
            SESSIONS,
            "-C",
            "work",
            "--",
            "--permission-mode",
            "manual",
        ];
        campaign.verb(&args);
        campaign
    }

    fn verb(&self, args: &[&str]) -> String {
        let mut command = self.home.program(orchwrap());
        let path = std::env::join_paths(
            std::iter::once(self.home.join("bin")).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let output = command.args(args).env("PATH", path.unwrap()).output().unwrap();
        assert!(output.status.success(), "orchwrap {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asks the daemon; started again, as any verb does, where it was killed.
    fn ask<T: serde::de::DeserializeOwned>(&mut self, call: &Call) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::new();
        loop {
            if self.client.is_none() {
                self.verb(&["daemon", "start"]);
                self.client = Client::dial(&self.dirs).ok();
            }
            if let Some(client) = &mut self.client {
                match client.call(call.clone()) {
                    Ok(answer) => return answer,
                    Err(e) => last = e.to_string(),
                }
            }
            self.client = None;
            assert!(Instant::now() < deadline, "the daemon does not answer {call:?}: {last}");
        }
    }

    fn tasks(&mut self) -> Vec<Task> {
        self.ask(&Call::TaskLs(TaskQuery { all: true, ..TaskQuery::default() }))
    }

    /// Adds tasks until enough are under way. Every second one may be sent twice.
    fn load(&mut self, tasks: &[Task]) {
        let open = tasks.iter().filter(|t| !is_over(t.state)).count();
        for _ in open..LOAD {
            let n = self.added;
            self.added += 1;
            let idempotent = n.is_multiple_of(2);
            let how = if n % 5 == 4 { " sleepily" } else { "" };
            let spec = serde_json::json!({
                "prompt": format!("Do job {}{how}.\nthink 300\nrun: true\nsay: Did {}.", tag(n), tag(n)),
                "cwd": self.home.join("work"),
                "tree": "shared",
                "prereqs": ["sleep 0.3"],
                "gates": ["sleep 0.5"],
                "pool": "kc",
                "idempotent": idempotent,
                "max_attempts": 50,
                "idempotency_key": tag(n),
            });
            let spec: TaskSpec = serde_json::from_value(spec).unwrap();
            let submission = Submission { spec, typed: true, branch_here: false };
            // A daemon that dies in the middle may have added it: the key makes asking again harmless.
            let _added: Vec<Added> = self.ask(&Call::TaskAdd { tasks: vec![submission] });
        }
    }

    /// Waits until some task is in `phase` with others under way, and returns all of them and that one.
    fn until_phase(&mut self, phase: TaskState, received: bool) -> (Vec<Task>, Task) {
        let began = Instant::now();
        let mut fed = Instant::now();
        loop {
            let tasks = self.tasks();
            self.load(&tasks);
            let live = tasks.iter().filter(|t| t.state.is_live()).count();
            let arrived = |t: &Task| !received || self.received_times(&t.spec.prompt) > 0;
            let fits = |t: &&Task| {
                let sent = phase == TaskState::Preparing || t.last_run.is_some();
                t.state == phase && sent && arrived(t) && !(self.fragile_only && t.spec.idempotent)
            };
            // Those that must not be sent twice first: they have more to lose.
            if let Some(task) = tasks.iter().filter(fits).min_by_key(|t| t.spec.idempotent)
                && (live >= BUSY || began.elapsed() >= BUSY_PATIENCE)
            {
                let task = task.clone();
                return (tasks, task);
            }
            if live > 0 {
                fed = Instant::now();
            } else if fed.elapsed() >= STARVED {
                self.revive();
                fed = Instant::now();
            }
            assert!(began.elapsed() < PATIENCE, "no task was ever {phase:?}:\n{}", listing(&tasks));
        }
    }

    /// What a person does about seats that were set aside because they died again and again.
    fn revive(&mut self) {
        self.verb(&["pool", "restart", "kc"]);
        self.revived += 1;
    }

    fn ledger(&self) -> Vec<Fact> {
        Ledger::read(&self.home.join("ledger")).unwrap().into_iter().map(|e| e.fact).collect()
    }

    /// How often this very prompt arrived.
    fn received_times(&self, prompt: &str) -> usize {
        self.ledger()
            .iter()
            .filter(|f| matches!(f, Fact::Received { text, .. } if text.trim() == prompt.trim()))
            .count()
    }

    fn journal(&self, run: &RunId) -> Vec<Event> {
        let text = std::fs::read_to_string(self.dirs.state().run(run).events()).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    fn wrapper_of(&self, run: &RunId) -> Option<i32> {
        self.journal(run).iter().find_map(|e| match &e.body {
            Body::RunStarted { wrapper, .. } => Some(wrapper.pid),
            _ => None,
        })
    }

    fn runs(&self) -> Vec<RunId> {
        let names = std::fs::read_dir(self.dirs.state().runs()).into_iter().flatten().flatten();
        names.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
    }

    fn tmux_name(&self) -> String {
        orchwrap::tmux::command::server_name(&self.dirs.state, false)
    }

    fn tmux_pid(&self) -> Option<i32> {
        let output = self
            .home
            .program("tmux")
            .args(["-L", &self.tmux_name(), "display-message", "-p", "#{pid}"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    }

    fn pid_of(&self, target: Target, task: &Task) -> Option<i32> {
        match target {
            Target::Daemon => lock::holder(&self.dirs.state()).flatten().map(|h| h.pid as i32),
            Target::Tmux => self.tmux_pid(),
            Target::Wrapper if task.state == TaskState::Preparing => {
                // The session being prepared has its run not yet in the task: any living one will do.
                let alive = |run: &RunId| orchwrap::pty::rundir::is_alive(&self.dirs.state().run(run));
                self.runs().into_iter().filter(alive).find_map(|run| self.wrapper_of(&run))
            }
            Target::Wrapper => task.last_run.as_ref().and_then(|run| self.wrapper_of(run)),
        }
    }

    /// Kills `target` once a task is in `phase`; `received`: once its prompt has arrived, too.
    fn kill(&mut self, target: Target, phase: TaskState, received: bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (tasks, task) = self.until_phase(phase, received);
            let Some(pid) = self.pid_of(target, &task) else {
                assert!(Instant::now() < deadline, "no {target:?} to kill");
                continue;
            };
            if kill(Pid::from_raw(pid), Signal::SIGKILL).is_err() {
                continue;
            }
            let mut found = BTreeMap::new();
            for task in tasks.iter().filter(|t| t.state.is_live()) {
                *found.entry(task.state.as_str()).or_insert(0) += 1;
            }
            eprintln!("kill {:3}: {target:?} in {}, found {found:?}", self.kills.len() + 1, phase.as_str());
            self.kills.push(Kill { target, phase, found });
            return;
        }
    }

    /// Waits until everything is over; returns the tasks as they ended.
    fn settle(&mut self) -> Vec<Task> {
        let deadline = Instant::now() + PATIENCE * 2;
        let mut fed = Instant::now();
        loop {
            let tasks = self.tasks();
            if tasks.iter().all(|t| is_over(t.state)) {
                return tasks;
            }
            if tasks.iter().any(|t| t.state.is_live()) {
                fed = Instant::now();
            } else if fed.elapsed() >= STARVED {
                self.revive();
                fed = Instant::now();
            }
            assert!(Instant::now() < deadline, "these do not end:\n{}", listing(&tasks));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What is wrong with how the tasks ended.
    fn faults(&mut self, tasks: &[Task]) -> Vec<String> {
        let mut faults = Vec::new();
        for task in tasks {
            let times = self.received_times(&task.spec.prompt);
            let state = task.state;
            let why = task.reason.clone().unwrap_or_default();
            let mut fault = |what: String| faults.push(format!("task {} ({why}): {what}", task.id));
            let recorded = self.completions(task.id);
            if (state == TaskState::Completed) != (recorded == 1) || recorded > 1 {
                fault(format!("{state:?}, and recorded as completed {recorded} times"));
            }
            if task.spec.idempotent {
                if state != TaskState::Completed {
                    fault(format!("idempotent, and {state:?}"));
                }
                continue;
            }
            if times > 1 {
                fault(format!("not idempotent, and received {times} times"));
            }
            match state {
                TaskState::Completed if times == 1 => {}
                TaskState::Failed if times == 1 && !self.was_unsure(task.id) => {}
                TaskState::Review if self.was_unsure(task.id) => {}
                _ => fault(format!("{state:?} after {times} arrivals")),
            }
        }
        faults
    }

    /// How often it was recorded as completed.
    fn completions(&self, task: TaskId) -> usize {
        let events = self.verb(&["events", "-n", "100000", "--task", &task.to_string(), "--type", "task.state"]);
        let events = events.lines().filter_map(|l| serde_json::from_str::<Event>(l).ok());
        events.filter(|e| matches!(&e.body, Body::TaskState { state, .. } if state == "completed")).count()
    }

    /// Whether a run of it ended between intent and acceptance.
    fn was_unsure(&self, task: TaskId) -> bool {
        self.runs().iter().any(|run| {
            let mut intended = false;
            for event in self.journal(run) {
                let ours = event.attempt.is_some_and(|a| a.task == task);
                match event.body {
                    Body::PromptIntent { .. } if ours => intended = true,
                    Body::PromptAccepted { human: false, .. } if ours => intended = false,
                    _ => {}
                }
            }
            intended
        })
    }

    /// Processes whose environment says that they belong here.
    fn processes(&self) -> Vec<i32> {
        let mark = [b"HOME=".as_slice(), self.home.path().as_os_str().as_bytes()].concat();
        let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|entry| entry == mark)
        })
        .collect()
    }

    /// Takes everything down, and returns what is left although its time is over.
    fn leftovers(&mut self) -> Vec<String> {
        self.verb(&["pool", "down", "kc"]);
        self.verb(&["daemon", "stop"]);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() >= deadline {
                return left.into_iter().map(|pid| format!("{pid}: {}", command_line(pid))).collect();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn is_over(state: TaskState) -> bool {
    state.is_final() || state == TaskState::Review
}

fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn listing(tasks: &[Task]) -> String {
    tasks.iter().filter(|t| !is_over(t.state)).fold(String::new(), |mut text, t| {
        _ = writeln!(text, "{} {:?} {:?} {:?}", t.id, t.state, t.reason, t.waiting_for);
        text
    })
}

const PHASES: [TaskState; 4] = [TaskState::Preparing, TaskState::Sending, TaskState::Running, TaskState::Verifying];

fn round(kills: impl IntoIterator<Item = (Target, TaskState)>) {
    let mut campaign = Campaign::new(400);
    for (n, (target, phase)) in kills.into_iter().enumerate() {
        campaign.kill(target, phase, phase == TaskState::Sending && n.is_multiple_of(2));
    }
    let tasks = campaign.settle();
    let faults = campaign.faults(&tasks);
    let mut ends = BTreeMap::new();
    for task in &tasks {
        *ends.entry(task.state.as_str()).or_insert(0) += 1;
    }
    eprintln!(
        "{} kills, {} tasks: {ends:?}; seats revived {} times",
        campaign.kills.len(),
        tasks.len(),
        campaign.revived
    );
    let counted: BTreeSet<_> = campaign.kills.iter().map(|k| (k.target, k.phase)).collect();
    for (target, phase) in counted {
        let kills = campaign.kills.iter().filter(|k| (k.target, k.phase) == (target, phase));
        let hit = kills.clone().filter(|k| k.found.contains_key(phase.as_str())).count();
        eprintln!("  {target:?} in {}: {hit} of {}", phase.as_str(), kills.count());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let left = campaign.leftovers();
    assert!(left.is_empty(), "left alive:\n{}", left.join("\n"));
    assert!(campaign.tmux_pid().is_none(), "a tmux server is left");
}

#[test]
fn f07_f09_f13_a_few_kills_lose_nothing_and_double_nothing() {
    use Target::{Daemon, Tmux, Wrapper};
    use TaskState::{Preparing, Running, Sending, Verifying};
    round([
        (Wrapper, Sending),
        (Daemon, Sending),
        (Daemon, Verifying),
        (Wrapper, Running),
        (Tmux, Preparing),
        (Daemon, Running),
    ]);
}

#[test]
#[ignore = "150 kills take many minutes: ./x campaign"]
fn f07_f09_f13_the_whole_campaign() {
    let targets = [Target::Daemon, Target::Wrapper, Target::Tmux];
    // 13 rounds of all pairs, less the last six: 50 of each target, 12 or 13 in each phase.
    let pairs = (0..13).flat_map(|_| PHASES.into_iter().flat_map(move |p| targets.map(|t| (t, p))));
    round(pairs.take(150));
}

#[test]
fn f06_the_campaign_notices_a_prompt_sent_twice() {
    // Long enough that a kill surely falls between arrival and acceptance, short of a second Enter.
    let mut campaign = Campaign::new(1500);
    campaign.fragile_only = true;
    std::fs::write(campaign.dirs.state.join("planted-resend"), "").unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        campaign.kill(Target::Wrapper, TaskState::Sending, true);
        let tasks = campaign.settle();
        let faults = campaign.faults(&tasks);
        if faults.iter().any(|f| f.contains("not idempotent, and received 2 times")) {
            return;
        }
        assert!(Instant::now() < deadline, "{} kills, and nothing noticed: {faults:?}", campaign.kills.len());
    }
}
