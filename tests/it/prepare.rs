//! Attempts end to end: a pool of scripted agents, real git, the daemon, the command line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;

use orchwrap::demo::agent::{Entry, Fact, Ledger};
use serde_json::Value;

use crate::support::{Home, is_running, orchwrap, wait_until};

/// A home with a repository `app` on `main`, a scripted agent called `claude`, and a daemon once a verb needs it.
pub(crate) struct World {
    pub(crate) home: Home,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { home: Home::new() };
        for folder in ["bin", "app/sub", "config", "state"] {
            std::fs::create_dir_all(world.home.join(folder)).unwrap();
        }
        let git = "[user]\n\tname = u\n\temail = u@localhost\n[init]\n\tdefaultBranch = main\n";
        std::fs::write(world.home.join(".gitconfig"), git).unwrap();
        std::fs::write(world.app().join("file"), "one\n").unwrap();
        std::fs::write(world.app().join("sub/file"), "one\n").unwrap();
        for args in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "one"]] {
            world.git(args);
        }
        let agent = world.home.join("bin/claude");
        let text = format!(
            "#!/bin/sh\nexec {} __fake-agent --dialect claude --ledger {} -- \"$@\"\n",
            orchwrap().display(),
            world.home.join("ledger").display()
        );
        std::fs::write(&agent, text).unwrap();
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
        world
    }

    /// With one session `p-1` that nobody looks at.
    pub(crate) fn with_pool() -> Self {
        let world = Self::new();
        let up = ["pool", "up", "p", "--agent", "claude", "-n", "1", "--terminal", "detached"];
        world.ok(up.iter().chain(&["--", "--permission-mode", "manual"]));
        world
    }

    pub(crate) fn app(&self) -> PathBuf {
        self.home.path().canonicalize().unwrap().join("app")
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        let out = self.home.program("git").current_dir(self.app()).args(args).output().unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    pub(crate) fn call(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Output {
        let path = std::env::join_paths(
            std::iter::once(self.home.join("bin")).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        self.home.orchwrap(args).env("PATH", path.unwrap()).current_dir(self.app()).output().unwrap()
    }

    /// What a verb that must succeed prints.
    pub(crate) fn ok(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> String {
        let out = self.call(args);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    /// Adds a task for the pool and returns its number.
    pub(crate) fn add(&self, prompt: &str, options: &[&str]) -> String {
        self.ok(["task", "add", prompt, "--pool", "p"].iter().chain(options))
    }

    pub(crate) fn show(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(["task", "show", id, "--json"])).unwrap()
    }

    pub(crate) fn events(&self, id: &str, kind: &str) -> Vec<Value> {
        let text = self.ok(["events", "-n", "10000", "--task", id, "--type", kind]);
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn until(&self, id: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let ended = ["completed", "failed", "cancelled", "timed_out", "review"];
        let until = std::time::Instant::now() + std::time::Duration::from_secs(50);
        let found = wait_until(&format!("task {id} {state}"), || {
            last = self.show(id);
            if std::time::Instant::now() > until {
                let seen = self.ok(["events", "-n", "60"]);
                panic!(
                    "task {id} is not {state}: {}\n{}\n{}\n{seen}",
                    self.ok(["task", "why", id]),
                    self.ok(["ls"]),
                    self.log()
                );
            }
            let now = last["state"].as_str().unwrap().to_owned();
            (now == state || ended.contains(&now.as_str())).then_some(now)
        });
        assert_eq!(found, state, "{last:#}\nlog:\n{}", self.log());
        last
    }

    pub(crate) fn log(&self) -> String {
        let folder = self.home.join("state/orchwrap/logs");
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.map(|f| std::fs::read_to_string(f.path()).unwrap_or_default()).collect()
    }

    pub(crate) fn ledger(&self) -> Vec<Entry> {
        Ledger::read(&self.home.join("ledger")).unwrap_or_default()
    }

    /// The prompts that agents received, with who received them.
    pub(crate) fn received(&self) -> Vec<(u32, PathBuf, String)> {
        let entries = self.ledger().into_iter();
        let prompts = entries.filter_map(|e| match e.fact {
            Fact::Received { text, .. } => Some((e.pid, e.cwd, text)),
            _ => None,
        });
        prompts.collect()
    }

    /// Kills the daemon, and returns when the last of its threads is gone, and its socket with it.
    pub(crate) fn kill_daemon(&self) {
        let status: Value = serde_json::from_str(&self.ok(["daemon", "status", "--json"])).unwrap();
        let pid = i32::try_from(status["pid"].as_i64().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        let tasks = format!("/proc/{pid}/task");
        let threads = || std::fs::read_dir(&tasks).map_or(0, |threads| threads.count());
        wait_until("the daemon is gone", || (!is_running(pid) && threads() <= 1).then_some(()));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.call(["pool", "down", "p"]);
        let _ = self.call(["daemon", "stop"]);
    }
}

#[test]
fn a_context_is_prepared_verified_and_kept_out_of_the_users_checkout() {
    let w = World::with_pool();
    let prompt = "run: env > seen\nsay: done";
    let gate = r#"grep -qx 'B=from the prereq' seen && grep -qx 'A=x y' seen && test "$A" = 'x y'"#;
    let prereq = "export B='from the prereq' PATH=\"$PWD/tools:$PATH\"";
    let options = ["--branch", "fix/x", "--env", "A=x y", "--prereq", prereq, "--gate", gate, "-C", "sub"];
    let id = w.add(prompt, &options);
    let task = w.until(&id, "completed");
    assert_eq!(task["proof"], "gate");
    let tree = w.home.path().canonicalize().unwrap().join("state/orchwrap/worktrees/app/fix/x");
    assert_eq!(task["worktree"], tree.join("sub").to_str().unwrap());
    let received = w.received();
    assert_eq!(received.len(), 1);
    assert_eq!((&received[0].1, received[0].2.as_str()), (&tree.join("sub"), prompt));
    let seen = std::fs::read_to_string(tree.join("sub/seen")).unwrap();
    assert!(seen.contains(&format!("PATH={}", tree.join("sub/tools").display())), "{seen}");
    let prepared = w.events(&id, "context.prepared");
    assert_eq!(prepared[0]["data"]["way"], "respawn");
    assert_eq!(w.git(&["status", "--porcelain"]), "");
    assert_eq!(w.git(&["symbolic-ref", "HEAD"]), "refs/heads/main");
}

#[test]
fn a_fresh_session_is_reused_and_the_next_task_gets_a_new_conversation() {
    let w = World::with_pool();
    // A task that comes before the session's own process starts one for itself.
    wait_until("p-1 is idle", || w.ok(["ls"]).contains(" idle ").then_some(()));
    let first = w.add("say: one", &[]);
    let task = w.until(&first, "completed");
    assert_eq!(task["proof"], "report");
    assert_eq!(task["answer"], "one");
    assert_eq!(w.events(&first, "context.prepared")[0]["data"]["way"], "reuse");
    let second = w.add("say: two", &[]);
    w.until(&second, "completed");
    assert_eq!(w.events(&second, "context.prepared")[0]["data"]["way"], "respawn");
    let received = w.received();
    assert_ne!(received[0].0, received[1].0, "another process, so another conversation");
}

#[test]
fn t06_a_failed_gate_is_told_to_the_agent_that_worked_fenced() {
    let w = World::with_pool();
    let gate = "test -e two || { echo 'run: touch two'; exit 3; }";
    let id = w.add("say: done", &["--gate", gate]);
    let task = w.until(&id, "completed");
    assert_eq!((&task["proof"], &task["attempts"]), (&"gate".into(), &2.into()));
    let received = w.received();
    assert_eq!(received.len(), 2, "{received:?}");
    assert_eq!(received[0].0, received[1].0, "the same process");
    let told = &received[1].2;
    assert!(told.contains("exited with 3") && !told.contains("say: done"), "{told}");
    let fence = told.lines().find(|l| l.ends_with(" begin")).unwrap().trim_end_matches(" begin");
    assert!(told.ends_with(&format!("run: touch two\n{fence} end")), "{told}");
    assert_eq!(w.events(&id, "gate.*").len(), 2);
}

#[test]
fn what_cannot_be_prepared_is_typed_and_nothing_is_sent() {
    let w = World::with_pool();
    let before = (w.git(&["for-each-ref"]), w.git(&["status", "--porcelain"]));
    let id = w.add("say: x", &["--prereq", "echo because >&2; false"]);
    let task = w.until(&id, "failed");
    assert_eq!(task["reason"], "prereq_failed");
    assert!(task["detail"].as_str().unwrap().contains("because"), "{task}");

    let gone = w.home.join("gone");
    std::fs::create_dir(&gone).unwrap();
    let id = w.add("say: x", &["-C", gone.to_str().unwrap(), "--hold"]);
    std::fs::remove_dir(&gone).unwrap();
    w.ok(["task", "release", &id]);
    assert_eq!(w.until(&id, "failed")["reason"], "cwd_missing");

    let elsewhere = w.home.join("elsewhere");
    w.git(&["worktree", "add", "-q", "-b", "theirs", elsewhere.to_str().unwrap()]);
    let id = w.add("say: x", &["--branch", "theirs"]);
    let task = w.until(&id, "failed");
    assert_eq!(task["reason"], "branch_elsewhere");
    assert!(task["detail"].as_str().unwrap().contains("elsewhere"), "{task}");
    w.git(&["worktree", "remove", elsewhere.to_str().unwrap()]);
    w.git(&["branch", "-q", "-D", "theirs"]);

    std::fs::write(w.app().join("file"), "mine\n").unwrap();
    let id = w.add("say: x", &["--branch", "other", "--in-place"]);
    assert_eq!(w.until(&id, "failed")["reason"], "tree_dirty");
    std::fs::write(w.app().join("file"), "one\n").unwrap();

    assert_eq!(w.received().len(), 0);
    assert_eq!((w.git(&["for-each-ref"]), w.git(&["status", "--porcelain"])), before);
}

#[test]
fn f70_cancel_stops_the_turn_and_frees_the_session() {
    let w = World::with_pool();
    let go = w.home.join("go");
    let id = w.add(&format!("wait for file: {}", go.display()), &[]);
    w.until(&id, "running");
    w.ok(["task", "cancel", &id]);
    assert_eq!(w.show(&id)["state"], "cancelled");
    w.ok(["task", "cancel", &id]);
    wait_until("the turn is interrupted", || w.ledger().iter().any(|e| e.fact == Fact::Interrupted).then_some(()));
    let next = w.add("say: next", &[]);
    assert_eq!(w.until(&next, "completed")["answer"], "next");
}

#[test]
fn f38_a_turn_that_never_ends_is_ended() {
    let w = World::with_pool();
    let id = w.add("never end", &["--timeout", "3s"]);
    assert_eq!(w.until(&id, "timed_out")["reason"], "timed_out");
    let next = w.add("say: next", &[]);
    w.until(&next, "completed");
}

#[test]
fn f10_f11_an_agent_that_dies_never_completes_and_is_not_sent_to_twice() {
    let w = World::with_pool();
    let id = w.add("think 100 ms\ncrash with code 3", &[]);
    let task = w.until(&id, "failed");
    assert_eq!(task["reason"], "agent_exited");
    assert!(task["detail"].as_str().unwrap().contains("exited with 3"), "{task}");
    // Retrying is for a human to say.
    let id = w.add("think 100 ms\ncrash with code 0", &[]);
    assert_eq!(w.until(&id, "review")["reason"], "unverified_exit");
    assert_eq!(w.received().len(), 2);
    // A gate decides by itself.
    let id = w.add("run: touch made\nthink 100 ms\ncrash with code 0", &["--gate", "test -e made"]);
    assert_eq!(w.until(&id, "completed")["proof"], "gate");
}

#[test]
fn f62_an_agent_that_is_not_installed_is_a_typed_failure_at_once() {
    let w = World::with_pool();
    w.until(&w.add("say: one", &[]), "completed");
    std::fs::remove_file(w.home.join("bin/claude")).unwrap();
    let id = w.add("say: two", &[]);
    let task = w.until(&id, "failed");
    assert_eq!((&task["reason"], &task["attempts"]), (&"binary_missing".into(), &1.into()), "{task:#}");
}

#[test]
fn a_shell_changes_its_folder_and_its_output_is_enough() {
    let w = World::new();
    let odd = w.app().join("it's $(touch pwned)");
    std::fs::create_dir(&odd).unwrap();
    w.ok(["session", "start", "sh1", "--agent", "shell", "--tasks", "--terminal", "detached"]);
    let id = w.ok(["task", "add", "echo hi > out", "--session", "sh1", "-C", odd.to_str().unwrap()]);
    assert_eq!(w.until(&id, "completed")["proof"], "output");
    assert_eq!(w.events(&id, "context.prepared")[0]["data"]["way"], "shell");
    assert!(odd.join("out").exists());
    assert!(!w.app().join("pwned").exists() && !odd.join("pwned").exists());
    w.ok(["session", "stop", "sh1"]);
}

#[test]
fn f39_a_question_is_shown_and_answered() {
    let w = World::with_pool();
    let id = w.add("ask to run: touch allowed\nsay: done", &[]);
    let task = w.until(&id, "asking");
    assert!(task["waiting_for"].as_str().unwrap().contains("task answer"), "{task}");
    // The question may be asked again in better words between the look and the answer, which is then refused.
    wait_until("the answer is taken", || w.call(["task", "answer", &id, "yes"]).status.success().then_some(()));
    w.until(&id, "completed");
    assert!(w.app().join("allowed").exists());
}

#[test]
fn f68_failures_of_the_provider_are_typed() {
    let w = World::with_pool();
    let id = w.add("fail with 500", &["--attempts", "1"]);
    assert_eq!(w.until(&id, "failed")["reason"], "turn_failed_server");
    let id = w.add("fail with 401", &["--attempts", "3"]);
    let task = w.until(&id, "failed");
    assert_eq!((&task["reason"], &task["attempts"]), (&"turn_failed_auth".into(), &1.into()));
}

#[test]
fn f07_a_new_daemon_takes_up_what_the_old_one_left() {
    let w = World::with_pool();
    let go = w.home.join("go");
    let id = w.add(&format!("wait for file: {}\nsay: finished", go.display()), &["--gate", "true"]);
    w.until(&id, "running");
    w.kill_daemon();
    std::fs::write(&go, "").unwrap();
    let task = w.until(&id, "completed");
    assert_eq!((&task["proof"], &task["attempts"]), (&"gate".into(), &1.into()));
    assert_eq!(w.received().len(), 1);
}
