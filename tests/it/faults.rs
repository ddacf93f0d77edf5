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
    let open: i64 = db.query_row("SELECT count(*) FROM runs WHERE ended_us IS NULL", [], |r| r.get(0)).unwrap();
    assert_eq!(open, 0, "every run has its end");
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
    bury(&run.events(), &lines, 10_000);
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
