//! Faults of the queue whose effect nobody wants twice: a prompt sent again, a permission granted by accident, an agent
//! that nobody holds. Scripted agents, real daemon.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchwrap::paths::RunDir;
use orchwrap::pty::rundir;
use serde_json::Value;

use crate::prepare::World;
use crate::support::wait_until;

/// The folders of all runs.
fn runs(w: &World) -> Vec<RunDir> {
    let entries = std::fs::read_dir(w.home.join("state/orchwrap/runs")).into_iter().flatten().flatten();
    entries.map(|e| RunDir::at(e.path())).collect()
}

/// Everything in the journals of all runs.
fn journals(w: &World) -> String {
    runs(w).iter().map(|r| std::fs::read_to_string(r.events()).unwrap_or_default()).collect()
}

fn daemon(w: &World) -> Pid {
    let status: Value = serde_json::from_str(&w.ok(["daemon", "status", "--json"])).unwrap();
    Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap())
}

fn until_over(w: &World, id: &str) {
    wait_until("the attempt is over", || {
        w.show(id)["tries"].as_array().unwrap().iter().all(|a| a["live"] == false).then_some(())
    });
}

#[test]
fn t32_words_grant_no_permission() {
    let w = World::with_pool();
    let id = w.add("ask to run: touch granted\nsay: done", &[]);
    w.until(&id, "asking");
    for words in ["no, not there", "foo", "99"] {
        let said = w.call(["task", "answer", &id, words]);
        assert!(!said.status.success(), "{words:?} is no answer");
    }
    assert_eq!(w.show(&id)["state"], "asking");
    wait_until("the answer is taken", || w.call(["task", "answer", &id, "no"]).status.success().then_some(()));
    wait_until("the turn is over", || (w.show(&id)["state"] != "asking").then_some(()));
    assert!(!w.app().join("granted").exists());
}

#[test]
fn f70_a_prompt_that_waits_for_its_agent_is_taken_back_by_cancel() {
    let w = World::new();
    let packs = w.home.join("config/orchwrap/patterns");
    std::fs::create_dir_all(&packs).unwrap();
    std::fs::write(packs.join("claude.toml"), "extends = \"claude\"\n[paste]\nready_gap_ms = 4000\n").unwrap();
    w.ok(["pool", "up", "p", "--agent", "claude", "-n", "1", "--terminal", "detached"]);
    let id = w.add("say: hello", &[]);
    w.until(&id, "sending");
    w.ok(["task", "cancel", &id]);
    until_over(&w, &id);
    w.ok(["task", "retry", &id]);
    w.until(&id, "completed");
    assert_eq!(w.received().len(), 1, "{:?}", w.received());
}

#[test]
fn f70_a_cancel_right_after_the_launch_of_a_one_shot_stops_it() {
    let w = World::new();
    w.ok(["pool", "up", "p", "--agent", "claude", "-n", "1", "--terminal", "oneshot"]);
    for _ in 0..4 {
        let id = w.add("never end", &[]);
        wait_until("the prompt is on its way", || {
            let state = w.show(&id)["state"].as_str().unwrap().to_owned();
            ["sending", "running"].contains(&state.as_str()).then_some(())
        });
        w.ok(["task", "cancel", &id]);
        until_over(&w, &id);
        assert!(!runs(&w).iter().any(rundir::is_alive), "its agent works on");
    }
    let db = rusqlite::Connection::open(w.home.join("state/orchwrap/orchwrap.db")).unwrap();
    wait_until("every run has its end", || {
        let sql = "SELECT count(*) FROM runs WHERE ended_us IS NULL";
        (db.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap() == 0).then_some(())
    });
}

#[test]
fn f66_a_turn_that_ended_while_the_daemon_was_stopped_is_not_timed_out() {
    let w = World::with_pool();
    let go = w.home.join("go");
    let id = w.add(&format!("wait for file: {}\nsay: finished", go.display()), &["--timeout", "5s"]);
    w.until(&id, "running");
    let pid = daemon(&w);
    let since = std::time::Instant::now();
    kill(pid, Signal::SIGSTOP).unwrap();
    std::fs::write(&go, "").unwrap();
    wait_until("the turn ends", || journals(&w).contains("\"turn.completed\"").then_some(()));
    // The limit of the turn passes, as nobody looks.
    wait_until("the limit to pass", || (since.elapsed().as_secs() > 7).then_some(()));
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(w.until(&id, "completed")["answer"], "finished");
}

/// Stops the daemon and puts the queue into the state that a daemon leaves which is killed after it has registered the run
/// of a one-shot and before it has started its wrapper.
fn killed_before_the_launch(w: &World, id: &str) {
    w.ok(["daemon", "stop"]);
    let state = w.home.path().canonicalize().unwrap().join("state/orchwrap");
    let db = rusqlite::Connection::open(state.join("orchwrap.db")).unwrap();
    let run: Value = serde_json::json!({
        "v": orchwrap::run::SPEC_VERSION, "run": "aaaaaaaaaaaa", "session": "p-1", "pool": "p", "agent": "claude",
        "pack": "claude", "argv": ["claude"], "cwd": w.app(), "seat": "oneshot", "record": true, "hooks": true, "status_reply": true, "takes_tasks": true,
        "created": "2026-01-01T00:00:00Z", "attempt": {"task": id.parse::<i64>().unwrap(), "attempt": 1, "fence": 9},
    });
    let spec: orchwrap::run::RunSpec = serde_json::from_value(run).unwrap();
    rundir::create(&orchwrap::paths::StateDir::new(state), &spec, &[]).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    db.execute("UPDATE tasks SET state = 'sending', fence = 9, attempts = 1 WHERE id = ?", [id]).unwrap();
    db.execute("INSERT INTO attempts (task, fence, attempt, session, started_us) VALUES (?, 9, 1, 'p-1', 0)", [id])
        .unwrap();
    let sql = "INSERT INTO runs (id, session, spec, task, fence, created_us) VALUES (?, 'p-1', ?, ?, 9, 0)";
    db.execute(sql, [spec.run.as_str(), &text, id]).unwrap();
}

#[test]
fn f02_a_one_shot_that_was_never_started_goes_back_to_the_queue() {
    let w = World::new();
    w.ok(["pool", "up", "p", "--agent", "claude", "-n", "1", "--terminal", "oneshot"]);
    let id = w.add("say: hello", &["--hold"]);
    killed_before_the_launch(&w, &id);
    let task = w.until(&id, "completed");
    assert_eq!(w.received().len(), 1);
    assert_eq!(task["attempts"], 1, "what was never sent is not charged");
}

#[test]
fn f06_a_dead_run_is_judged_by_its_whole_journal() {
    let w = World::with_pool();
    let go = w.home.join("go");
    let id = w.add(&format!("wait for file: {}\nsay: finished", go.display()), &[]);
    w.until(&id, "running");
    let run = runs(&w).into_iter().find(rundir::is_alive).unwrap();
    let pid = daemon(&w);
    kill(pid, Signal::SIGKILL).unwrap();
    wait_until("the daemon is gone", || (!crate::support::is_running(pid.as_raw())).then_some(()));
    std::fs::write(&go, "").unwrap();
    wait_until("the turn ends", || journals(&w).contains("\"turn.completed\"").then_some(()));
    let (wrapper, lines) = read(&run.events());
    kill(Pid::from_raw(wrapper), Signal::SIGKILL).unwrap();
    wait_until("the wrapper is gone", || (!rundir::is_alive(&run)).then_some(()));
    bury(&run.events(), &lines, 20_000);
    assert_eq!(w.until(&id, "completed")["answer"], "finished");
}

/// The wrapper's process, and the lines of its journal.
fn read(journal: &Path) -> (i32, Vec<Value>) {
    let text = std::fs::read_to_string(journal).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let wrapper = lines[0]["data"]["wrapper"]["pid"].as_i64().unwrap();
    (i32::try_from(wrapper).unwrap(), lines)
}

/// Writes the journal anew, with many lines of no meaning before the end of the turn.
fn bury(journal: &Path, lines: &[Value], under: u64) {
    let end = lines.iter().position(|l| l["type"] == "turn.completed").unwrap();
    let mut text = String::new();
    let mut seq = 0;
    let mut put = |line: &Value| {
        seq += 1;
        let mut line = line.clone();
        line["seq"] = seq.into();
        text.push_str(&line.to_string());
        text.push('\n');
    };
    lines[..end].iter().for_each(&mut put);
    let mut note = lines[end].clone();
    note["type"] = "note".into();
    note["data"] = serde_json::json!({"code": "x", "text": "y"});
    (0..under).for_each(|_| put(&note));
    lines[end..].iter().for_each(&mut put);
    std::fs::write(journal, text).unwrap();
}

#[test]
fn t05_an_agent_looks_at_the_queue_and_changes_nothing() {
    let w = World::with_pool();
    let us = crate::support::orchwrap().display().to_string();
    // The second one comes from a process that left its parent, and its session, behind.
    let prompt = format!(
        "run: {us} task done 1 2>said; echo $? >done; setsid sh -c '({us} task add x --pool p; echo $? >added) &' 2>/dev/null; \
         while ! test -s added; do sleep 0.05; done; {us} task ls --json >seen; echo $? >looked\nsay: done"
    );
    let id = w.add(&prompt, &["--gate", "false", "--attempts", "1"]);
    assert_eq!(id, "1");
    assert_eq!(w.until(&id, "failed")["reason"], "gate_failed");
    let read = |name: &str| std::fs::read_to_string(w.app().join(name)).unwrap();
    assert!(read("said").contains("agents may look"), "{}", read("said"));
    assert_ne!(read("done"), "0\n");
    assert_ne!(read("added"), "0\n");
    assert_eq!(read("looked"), "0\n");
    assert_eq!(w.ok(["task", "ls", "--json", "--all"]).lines().count(), 1, "nothing was added");
}

#[test]
fn f43_after_a_restore_nothing_is_sent_again_by_itself() {
    let w = World::with_pool();
    let id = w.add("say: once", &["--hold"]);
    w.ok(["daemon", "stop"]);
    // The backup is of the time at which the task was not done yet.
    w.ok(["daemon", "start"]);
    let db = w.home.join("state/orchwrap/orchwrap.db");
    wait_until("a backup", || {
        let backup = rusqlite::Connection::open(db.with_extension("db.bak")).ok()?;
        backup.query_row("SELECT id FROM tasks", [], |r| r.get::<_, i64>(0)).ok()
    });
    w.ok(["task", "release", &id]);
    w.until(&id, "completed");
    w.ok(["daemon", "stop"]);
    std::fs::write(&db, vec![0xa5; 8192]).unwrap();
    w.ok(["daemon", "start"]);
    let task = w.show(&id);
    assert_eq!((&task["state"], &task["reason"]), (&"held".into(), &"restored".into()), "{task:#}");
    let status = w.ok(["status"]);
    assert!(status.contains("restored") && status.contains("1 tasks are held"), "{status}");
    let new = w.add("say: new", &[]);
    assert_eq!(new, "1001", "the id of a task that is lost is not given again");
    w.until(&new, "completed");
    assert_eq!(w.received().len(), 2, "{:?}", w.received());
}

#[test]
fn t17_a_pipe_in_the_checkout_hangs_nobody() {
    let w = World::with_pool();
    let pipe = w.app().join(".orchwrap.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let id = w.add("say: x", &["--isolate"]);
    let task = w.until(&id, "failed");
    assert!(task["detail"].as_str().unwrap().contains("no regular file"), "{task:#}");
    std::fs::remove_file(&pipe).unwrap();
}

#[test]
fn t20_the_environment_of_a_session_is_replaced_whole_and_removed_with_it() {
    let w = World::new();
    let up = |value: Option<&str>| {
        let mut c = w.home.orchwrap(["pool", "up", "o", "--agent", "claude", "-n", "1", "--terminal", "oneshot"]);
        let path = std::env::join_paths(
            std::iter::once(w.home.join("bin")).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        c.env("PATH", path.unwrap());
        value.map(|v| c.env("FOO_KEY", v));
        assert!(c.status().unwrap().success());
    };
    let sessions = w.home.join("state/orchwrap/sessions");
    let kept = || {
        let folders = std::fs::read_dir(&sessions).into_iter().flatten().flatten();
        folders.map(|f| std::fs::read_to_string(f.path().join("env")).unwrap()).collect::<Vec<_>>()
    };
    up(Some("secret1"));
    assert!(kept()[0].contains("secret1"));
    up(None);
    assert!(!kept()[0].contains("FOO_KEY"), "{:?}", kept());
    w.ok(["pool", "down", "o"]);
    assert!(kept().is_empty(), "{:?}", kept());
}

#[test]
fn a_conversation_that_cannot_be_gone_on_with_is_refused_and_not_begun_anew() {
    let w = World::new();
    std::fs::create_dir_all(w.home.join("config/orchwrap")).unwrap();
    let repl = w.home.join("bin/repl");
    let us = crate::support::orchwrap().display().to_string();
    let ledger = w.home.join("ledger");
    let text = format!("#!/bin/sh\nexec {us} __fake-agent --dialect repl --ledger {} -- \"$@\"\n", ledger.display());
    std::fs::write(&repl, text).unwrap();
    std::fs::set_permissions(&repl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!("[agents.ollama]\ncommand = [\"{}\", \"run\", \"m\"]\n", repl.display());
    std::fs::write(w.home.join("config/orchwrap/config.toml"), config).unwrap();
    w.ok(["pool", "up", "p", "--agent", "ollama", "-n", "1", "--terminal", "detached"]);
    let first = w.add("say: one", &[]);
    w.until(&first, "completed");
    let second = w.add("say: two", &["--continue", &first]);
    w.until(&second, "completed");
    let received = w.received();
    assert_eq!(received[0].0, received[1].0, "the same process, so the same conversation");
    // In another folder it would have to be a new process.
    let third = w.add("say: three", &["--continue", &second, "-C", "sub"]);
    assert_eq!(w.until(&third, "failed")["reason"], "no_conversation");
    assert_eq!(w.received().len(), 2);
}

#[test]
fn tasks_that_nobody_can_take_hide_none_that_a_free_session_can() {
    let w = World::new();
    // Their pool is not there yet, so nobody knows that it will be one of another agent.
    let line = serde_json::json!({"prompt": "x", "pool": "p", "agent": "codex", "cwd": w.app()}).to_string() + "\n";
    let file = w.home.join("batch");
    std::fs::write(&file, line.repeat(70)).unwrap();
    w.ok(["task", "add", "--batch", "--file", file.to_str().unwrap()]);
    w.ok(["pool", "up", "p", "--agent", "claude", "-n", "1", "--terminal", "detached"]);
    let refused = w.call(["task", "add", "x", "--pool", "p", "--agent", "codex"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("pool p is of claude"), "{refused:?}");
    let id = w.add("say: mine", &[]);
    assert_eq!(w.until(&id, "completed")["answer"], "mine");
}

#[test]
fn t19_what_is_kept_of_an_attempt_names_no_secret() {
    let w = World::with_pool();
    let secret = "hunter2hunter2";
    let env = format!("MY_API_KEY={secret}");
    let gate = "echo the key is $MY_API_KEY; false";
    let id = w.add("say: x", &["--env", &env, "--gate", gate, "--attempts", "1"]);
    let task = w.until(&id, "failed");
    assert_eq!(task["reason"], "gate_failed");
    assert!(task["detail"].as_str().unwrap().contains("the key is **************"), "{task:#}");
    let id = w.add("say: x", &["--env", &env, "--prereq", "echo $MY_API_KEY >&2; false"]);
    assert!(!w.until(&id, "failed")["detail"].as_str().unwrap().contains(secret));
    assert!(!w.ok(["events", "-n", "10000"]).contains(secret));
    let db = rusqlite::Connection::open(w.home.join("state/orchwrap/orchwrap.db")).unwrap();
    let shown: i64 =
        db.query_row("SELECT count(*) FROM gates WHERE output LIKE '%' || ? || '%'", [secret], |r| r.get(0)).unwrap();
    assert_eq!(shown, 0);
}

#[test]
fn a_pool_takes_nobodys_session() {
    let w = World::new();
    w.ok(["session", "start", "q-1", "--agent", "claude", "--terminal", "detached"]);
    let up = |name: &str| w.call(["pool", "up", name, "--agent", "claude", "-n", "1", "--terminal", "detached"]);
    let said = up("q");
    assert!(String::from_utf8_lossy(&said.stderr).contains("session q-1 exists"), "{said:?}");
    let said = up(&"x".repeat(64));
    assert!(String::from_utf8_lossy(&said.stderr).contains("too long"), "{said:?}");
    w.ok(["session", "stop", "q-1"]);
}

#[test]
fn odd_variables_and_endless_times_are_taken_as_they_are() {
    let w = World::with_pool();
    let odd: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![b'x', 0xff]);
    let doctor = w.home.orchwrap(["doctor"]).env("ODD", &odd).output().unwrap();
    assert!(!String::from_utf8_lossy(&doctor.stderr).contains("panicked"), "{doctor:?}");
    let id = w.add("say: x", &[]);
    w.ok(["wait", &id, "--timeout", "18446744073709551615"]);
}

#[test]
fn the_branch_of_an_older_queue_is_not_worked_on() {
    let w = World::with_pool();
    w.git(&["branch", "orchwrap/task-1"]);
    let before = w.git(&["for-each-ref"]);
    let id = w.add("say: x", &["--isolate"]);
    assert_eq!(w.until(&id, "failed")["reason"], "branch_taken");
    assert_eq!(w.git(&["for-each-ref"]), before);
    w.git(&["branch", "-q", "-m", "orchwrap/task-1", "kept"]);
    w.ok(["task", "retry", &id]);
    w.until(&id, "completed");
    w.ok(["task", "retry", &id]);
    w.until(&id, "completed");
}

#[test]
fn a_batch_for_one_folder_is_looked_at_once() {
    let w = World::new();
    let git = w.home.join("bin/git");
    let real = std::process::Command::new("sh").args(["-c", "command -v git"]).output().unwrap();
    let real = String::from_utf8(real.stdout).unwrap();
    let calls = w.home.join("calls");
    std::fs::write(&git, format!("#!/bin/sh\necho x >> {}\nexec {} \"$@\"\n", calls.display(), real.trim())).unwrap();
    std::fs::set_permissions(&git, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    w.ok(["daemon", "start"]);
    let line = serde_json::json!({"prompt": "x", "cwd": w.app(), "gates": ["true"]}).to_string() + "\n";
    let file = w.home.join("batch");
    let calls_for = |n: usize| {
        std::fs::write(&file, line.repeat(n)).unwrap();
        std::fs::write(&calls, "").unwrap();
        let ids = w.ok(["task", "add", "--batch", "--file", file.to_str().unwrap()]);
        assert_eq!(ids.lines().count(), n);
        std::fs::read_to_string(&calls).unwrap().lines().count()
    };
    let (one, many) = (calls_for(1), calls_for(40));
    assert!(one > 0 && many <= one, "{one} calls of git for one task, {many} for forty");
}

#[test]
fn f03_a_prerequisite_of_a_killed_daemon_ends_before_it_runs_again() {
    let w = World::with_pool();
    let (go, pids) = (w.home.join("go"), w.home.join("pids"));
    let line = format!("echo $$ >> {}; while ! test -e {}; do sleep 0.05; done", pids.display(), go.display());
    let id = w.add("run: env > seen", &["--prereq", &line]);
    let started = |n: usize| {
        wait_until("the prerequisite runs", || {
            let text = std::fs::read_to_string(&pids).ok()?;
            let all: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
            (all.len() == n).then_some(all)
        })
    };
    let first = started(1)[0];
    w.kill_daemon();
    assert!(crate::support::is_running(first), "nothing told it");
    w.ok(["daemon", "start"]);
    let both = started(2);
    assert!(!crate::support::is_running(first) && crate::support::is_running(both[1]));
    // A cancel ends it as well.
    w.kill_daemon();
    w.ok(["task", "cancel", &id]);
    wait_until("it is ended", || (!crate::support::is_running(both[1])).then_some(()));
    until_over(&w, &id);
    std::fs::write(&go, "").unwrap();
    w.ok(["task", "retry", &id]);
    w.until(&id, "completed");
    let seen = std::fs::read_to_string(w.app().join("seen")).unwrap();
    assert!(!seen.contains("ORCHWRAP_GATE"), "{seen}");
}
