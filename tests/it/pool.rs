//! Pools: kept at their size, through dead processes and a dead tmux server.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Home, is_running, wait_until};

/// A home with a daemon and a tmux server of its own, both ended with it.
struct Town {
    home: Home,
}

impl Town {
    /// The shell stands in for an agent; `command` is what it runs.
    fn new(command: &str) -> Self {
        let home = Home::new();
        fs::create_dir_all(home.join("config/orchwrap")).unwrap();
        fs::write(home.join("config/orchwrap/config.toml"), format!("[agents.shell]\ncommand = {command}\n")).unwrap();
        Self { home }
    }

    fn run(&self, args: &[&str]) -> String {
        let done = self.home.orchwrap(args).output().unwrap();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "orchwrap {args:?}: {errors}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args)).unwrap()
    }

    fn sessions(&self) -> Vec<Value> {
        self.json(&["pool", "ls", "--json"])[0]["sessions"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until every session is idle; returns their runs.
    fn all_idle(&self, n: usize) -> Vec<String> {
        wait_until("idle sessions", || {
            let sessions = self.sessions();
            let idle = sessions.iter().filter(|s| s["state"] == "idle").count();
            (idle == n && sessions.len() == n)
                .then(|| sessions.iter().map(|s| s["run"].as_str().unwrap().to_owned()).collect())
        })
    }

    fn tmux_server(&self) -> String {
        let name = self.sessions()[0]["name"].as_str().unwrap().to_owned();
        self.json(&["session", "show", &name, "--json"])["tmux_server"].as_str().unwrap().to_owned()
    }

    fn events(&self) -> Vec<Value> {
        self.run(&["events", "-n", "1000"]).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        let _ = self.home.orchwrap(["pool", "down", "p"]).output();
        let _ = self.home.orchwrap(["daemon", "stop"]).output();
    }
}

const SHELL: &str = r#"["sh", "-i"]"#;

#[test]
fn a_pool_is_brought_up_scaled_and_taken_down() {
    let town = Town::new(SHELL);
    town.run(&["pool", "up", "p", "--agent", "shell", "-n", "2"]);
    let first = town.all_idle(2);
    town.run(&["pool", "scale", "p", "1"]);
    assert_eq!(town.all_idle(1), first[..1], "the first one stays as it is");
    let server = town.tmux_server();
    town.run(&["pool", "down", "p"]);
    assert_eq!(town.json(&["pool", "ls", "--json"]), Value::Array(vec![]));
    let panes = Command::new("tmux").args(["-L", &server, "list-sessions"]).output().unwrap();
    assert!(!panes.status.success(), "the tmux server ended with its last session");
}

#[test]
fn f12_an_agent_that_dies_at_once_is_set_aside_with_its_reason() {
    let town = Town::new(r#"["false"]"#);
    town.run(&["pool", "up", "p", "--agent", "shell", "-n", "1", "--terminal", "detached"]);
    let why = wait_until("the breaker to open", || {
        town.sessions().first().and_then(|s| s["aside"].as_str().map(str::to_owned))
    });
    assert!(why.contains("exit code 1"), "{why}");
    assert!(town.events().iter().any(|e| e["data"]["code"] == "session_aside"));
}

#[test]
fn f13_a_killed_tmux_server_is_noticed_once_and_its_sessions_come_back() {
    let town = Town::new(SHELL);
    town.run(&["pool", "up", "p", "--agent", "shell", "-n", "2"]);
    let before = town.all_idle(2);
    let started: Vec<Value> = town.events().into_iter().filter(|e| e["type"] == "run.started").collect();
    let wrappers: Vec<i32> =
        started.iter().map(|e| i32::try_from(e["data"]["wrapper"]["pid"].as_i64().unwrap()).unwrap()).collect();
    assert!(wrappers.iter().all(|pid| is_running(*pid)));
    let killed = Command::new("tmux").args(["-L", &town.tmux_server(), "kill-server"]).status().unwrap();
    assert!(killed.success());
    wait_until("new runs", || {
        let now: Vec<_> = town.sessions().iter().map(|s| s["run"].clone()).collect();
        now.iter().all(|r| r.is_string() && !before.iter().any(|b| r == b.as_str())).then_some(())
    });
    town.all_idle(2);
    wait_until("the old wrappers to end", || wrappers.iter().all(|pid| !is_running(*pid)).then_some(()));
    let lost = town.events().iter().filter(|e| e["type"] == "run.exited" && e["data"]["reason"] == "tmux_lost").count();
    assert_eq!(lost, 2);
}

#[test]
fn a_pool_of_an_agent_that_is_not_installed_is_refused() {
    let town = Town::new(r#"["no-such-agent-here"]"#);
    let done = town.home.orchwrap(["pool", "up", "p", "--agent", "shell"]).output().unwrap();
    assert!(!done.status.success());
    let words = String::from_utf8(done.stderr).unwrap();
    assert!(words.contains("no-such-agent-here is not on your PATH"), "{words}");
}
