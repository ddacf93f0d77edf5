//! The closed loop: tasks through the queue to a pool of one real agent, and what is recorded of them.

use std::process::Command;

use serde_json::Value;

use crate::agent_fixture::Witnesses::{All, Screen};
use crate::agent_fixture::{Agent, Fixture, Witnesses, fixture};
use crate::mock_model::scenario;

/// The command line in a fixture; taken down with it.
struct Queue<'a> {
    fixture: &'a Fixture,
}

impl<'a> Queue<'a> {
    fn up(fixture: &'a Fixture, agent: Agent, witnesses: Witnesses) -> Self {
        let queue = Self { fixture };
        let repo = fixture.repo();
        let mut args = vec!["pool", "up", "crew", "--agent", agent.id(), "-n", "1", "-C", repo.to_str().unwrap()];
        if witnesses == Screen {
            args.extend(["--no-hooks", "--no-status-reply"]);
        }
        args.push("--");
        args.extend(agent.args());
        queue.run(&args, 0);
        queue
    }

    /// Runs `orchwrap args`; its output, or a failed test where the exit status is another.
    fn run(&self, args: &[&str], status: i32) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_orchwrap"))
            .args(args)
            .env_clear()
            .envs(self.fixture.env())
            .current_dir(self.fixture.repo())
            .output()
            .expect("our program runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{args:?}\n{out}{err}\n{}", self.told());
        out.into_owned()
    }

    fn add(&self, text: &str, more: &[&str]) -> String {
        let id = self.run(&[&["task", "add", text, "--attempts", "1"], more].concat(), 0);
        id.trim().to_owned()
    }

    fn wait(&self, id: &str, status: i32) {
        self.run(&["wait", id, "--timeout", "180s"], status);
    }

    /// Waits for a state in which `wait` may return before and after.
    fn wait_state(&self, id: &str, state: &str) {
        let deadline = std::time::Instant::now() + crate::agent_fixture::PATIENCE;
        while self.task(id)["state"] != state {
            assert!(std::time::Instant::now() < deadline, "task {id} is not {state}\n{}", self.told());
            std::thread::sleep(std::time::Duration::from_millis(200)); // between two looks
        }
    }

    fn task(&self, id: &str) -> Value {
        let text = self.run(&["task", "show", id, "--json"], 0);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// What a reader of a failed test wants to see.
    fn told(&self) -> String {
        let log = |args: &[&str]| {
            let output =
                Command::new(env!("CARGO_BIN_EXE_orchwrap")).args(args).env_clear().envs(self.fixture.env()).output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
        };
        format!("--- ls\n{}--- events\n{}", log(&["ls"]), log(&["events", "-n", "60"]))
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        for args in [&["pool", "down", "crew"][..], &["daemon", "stop"]] {
            let _ =
                Command::new(env!("CARGO_BIN_EXE_orchwrap")).args(args).env_clear().envs(self.fixture.env()).output();
        }
    }
}

fn closed_loop(agent: Agent, witnesses: Witnesses) {
    let Some(fixture) = fixture() else { return };
    let queue = Queue::up(&fixture, agent, witnesses);

    let gated = "Write the program [[mock:code]]";
    let id = queue.add(gated, &["--gate", "test -f calc.py"]);
    queue.wait(&id, 0);
    let task = queue.task(&id);
    assert_eq!((&task["state"], &task["proof"]), (&Value::from("completed"), &Value::from("gate")), "{task}");
    let exact = task["answer"].as_str().is_some_and(|a| a.contains(scenario::PYTHON));
    assert_eq!(exact, witnesses == All, "a screen is never exact: {task}");
    assert_eq!(fixture.mock.deliveries(gated), 1);

    let asks = "Create the file [[mock:permission]]";
    let id = queue.add(asks, &[]);
    queue.wait(&id, 3);
    assert_eq!(queue.task(&id)["state"], "asking", "{}", queue.told());
    queue.run(&["task", "answer", &id, "yes"], 0);
    if witnesses == All {
        queue.wait_state(&id, "completed");
        let task = queue.task(&id);
        assert_eq!((&task["state"], &task["proof"]), (&Value::from("completed"), &Value::from("report")), "{task}");
    } else {
        // What only a screen shows is for a human to judge.
        queue.wait_state(&id, "review");
        queue.run(&["task", "done", &id], 0);
    }
    assert!(fixture.repo().join("approved.txt").exists(), "the command ran");
    assert_eq!(fixture.mock.deliveries(asks), 1);

    let fails = "Talk to a broken provider [[mock:err500]]";
    let id = queue.add(fails, &[]);
    queue.wait(&id, 1);
    let task = queue.task(&id);
    assert_eq!(task["state"], "failed", "{task}");
    assert_eq!(fixture.mock.deliveries(fails), 1);
}

#[test]
fn a_pool_of_claude_does_tasks() {
    closed_loop(Agent::Claude, All);
}

#[test]
fn a_pool_of_claude_does_tasks_screen_only() {
    closed_loop(Agent::Claude, Screen);
}

#[test]
fn a_pool_of_codex_does_tasks() {
    closed_loop(Agent::Codex, All);
}

#[test]
fn a_pool_of_codex_does_tasks_screen_only() {
    closed_loop(Agent::Codex, Screen);
}
