//! The journal of a run, end to end: what is in it, and what becomes of it when something breaks.

use std::process::{Command, Stdio};
use std::time::Duration;

use orchwrap::extract::event::{
    Ask, Body, Event, FailReason, GateSite, LimitKind, ProcId, SessionState, Source, Span, Verdict,
};
use orchwrap::pty::rundir;
use serde_json::json;

use crate::a_run::{Plan, check_event, check_journal, key, wait_for};

#[test]
fn a_turn_is_journaled_without_gaps_and_as_the_schema_says() {
    let script = json!({"rules": [{"when": ["fix"], "steps": [
        {"say": "Done:\n\n```rust\nfn main() {}\n```\n"}]}]});
    let run = Plan::agent("claude", "claude", &script.to_string()).start();
    run.until_idle();
    assert_eq!(run.send(1, "fix it").verdict, Some(Verdict::Accepted));
    run.until_event("turn.completed");
    run.until_idle();
    let events = run.stop();
    let at = |kind: &str| events.iter().position(|e| e.body.kind() == kind).unwrap_or_else(|| panic!("no {kind}"));
    assert_eq!(at("run.started"), 0);
    assert!(at("prompt.intent") < at("prompt.sent") && at("prompt.sent") < at("turn.completed"));
    assert!(at("prompt.accepted") > at("prompt.intent"));
    assert_eq!(at("run.exited"), events.len() - 1);
    for kind in ["prompt.intent", "prompt.sent", "prompt.accepted", "turn.completed"] {
        assert_eq!(events[at(kind)].attempt, Some(key(1)), "{kind}");
        assert_eq!(events.iter().filter(|e| e.body.kind() == kind).count(), 1, "{kind}");
    }
    let Body::RunExited { reason, .. } = &events.last().unwrap().body else { panic!() };
    assert_eq!(reason, "stopped");
    assert!(events.iter().any(|e| matches!(&e.body, Body::CodeBlock { text, .. } if text.contains("fn main"))));
}

#[test]
fn f09_a_killed_wrapper_leaves_its_lock_free_and_its_journal_readable() {
    let mut run = Plan::of("generic", &["cat"]).start();
    let child = run.ctl().state().unwrap().child.unwrap();
    run.wrapper.kill().unwrap();
    run.wrapper.wait().unwrap();
    wait_for("the lock is free", || (!rundir::is_alive(&run.dir)).then_some(()));
    wait_for("the agent is gone", || (!orchwrap::linux::is_alive(child)).then_some(()));
    check_journal(&run.dir.events());
    assert_eq!(run.kinds()[0], "run.started");
}

#[test]
fn what_the_agent_wrote_is_recorded_and_secrets_are_not() {
    let mut plan = Plan::of("generic", &["sh", "-c", "echo key=$MY_API_KEY; exec cat"]);
    plan.record = true;
    plan.env.push(("MY_API_KEY".into(), "sk-very-secret-1".into()));
    let run = plan.start();
    let covered = b"key=****************\r\n";
    wait_for("the recording", || std::fs::read(run.dir.output_raw()).ok().filter(|raw| raw.starts_with(covered)));
    run.ctl().stop(Duration::from_secs(2)).unwrap();
    wait_for("the end", || (!rundir::is_alive(&run.dir)).then_some(()));
    assert_eq!(std::fs::read(run.dir.output_raw()).unwrap(), covered);
    for file in std::fs::read_dir(run.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("very-secret"));
    }
}

#[test]
fn f45_where_no_state_can_be_kept_the_command_runs_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("state"), "a file, not a folder").unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchwrap"));
        command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", home.path()).env("XDG_STATE_HOME", home.path().join("state"));
        command.stdin(Stdio::null()).output().unwrap()
    };
    let plain = run(&["run", "--", "sh", "-c", "printf out; exit 3"]);
    assert_eq!((plain.status.code(), plain.stdout.as_slice()), (Some(3), &b"out"[..]));
    let said = String::from_utf8(plain.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("takes no prompts"), "{said}");
    // The events still reach whoever asked for them.
    let events = run(&["run", "--events", "-", "--", "sh", "-c", "echo to stderr"]);
    let lines: Vec<Event> =
        String::from_utf8(events.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.first().map(|e| e.body.kind()).as_deref(), Some("run.started"));
    assert_eq!(lines.last().map(|e| e.body.kind()).as_deref(), Some("run.exited"));
    assert!(String::from_utf8(events.stderr).unwrap().contains("to stderr"));
}

#[test]
fn a_command_that_does_not_start_is_journaled_as_such() {
    let home = tempfile::tempdir().unwrap();
    let events = home.path().join("events");
    let status = Command::new(env!("CARGO_BIN_EXE_orchwrap"))
        .args(["run", "--events"])
        .arg(&events)
        .args(["--", "no-such-program"])
        .env_clear()
        .env("HOME", home.path())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(127));
    check_journal(&events);
    let text = std::fs::read_to_string(&events).unwrap();
    assert!(text.contains("start_failed") && text.contains("no-such-program"), "{text}");
}

#[test]
fn a_wrap_inside_a_wrap_passes_through() {
    let home = tempfile::tempdir().unwrap();
    let exe = env!("CARGO_BIN_EXE_orchwrap");
    let out = Command::new(exe)
        .args(["run", "--", exe, "run", "--", "sh", "-c", "echo $ORCHWRAP_RUN"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home.path())
        .output()
        .unwrap();
    let runs: Vec<_> = std::fs::read_dir(home.path().join(".local/state/orchwrap/runs")).unwrap().collect();
    assert_eq!(runs.len(), 1);
    let name = runs[0].as_ref().unwrap().file_name();
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim_end(), name.to_str().unwrap());
}

#[test]
fn an_idle_wrapper_wakes_up_for_nothing() {
    let run = Plan::of("generic", &["cat"]).start();
    // What starting left to do is done: a journal line waits for its sync a second, an idle verdict for its quiet.
    let wakeups = |pid: u32| -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let statuses = tasks.filter_map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).ok());
        let lines = statuses.flat_map(|s| s.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter_map(|l| l.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok()).sum()
    };
    let mut before = wakeups(run.wrapper.id());
    wait_for("two seconds without a wake-up", || {
        std::thread::sleep(Duration::from_secs(2));
        let now = wakeups(run.wrapper.id());
        let quiet = now == before;
        before = now;
        quiet.then_some(())
    });
}

/// One of each, so that a new kind of event cannot be forgotten in the schema.
fn samples() -> Vec<Body> {
    let ask =
        Ask { hash: "h".into(), tool: Some("Bash".into()), text: "t".into(), options: vec!["Yes".into()], exact: true };
    let id = ProcId { pid: 1, start: 2 };
    let hash = "0".repeat(64);
    let site = GateSite {
        ran: "fresh checkout".into(),
        because: Some("b".into()),
        tree: Some("t".into()),
        base: Some("b".into()),
        pin: Some("p".into()),
        protected: vec!["p".into()],
        gate_edited: vec!["e".into()],
    };
    vec![
        Body::RunStarted {
            agent: "a".into(),
            pack: "p".into(),
            argv0: "a".into(),
            cwd: "/".into(),
            boot_id: "b".into(),
            wrapper: id,
            guard: Some(id),
            child: Some(id),
        },
        Body::RunExited { code: Some(1), signal: None, reason: "exit".into() },
        Body::State { state: SessionState::Idle, was: SessionState::Starting },
        Body::PromptIntent { hash: hash.clone(), bytes: 3 },
        Body::PromptSent { hash: hash.clone(), enters: 1 },
        Body::PromptAccepted { hash: Some(hash.clone()), verdict: Verdict::QueuedInAgent, human: true },
        Body::PromptUnaccepted { hash, verdict: Verdict::Stuck, why: "w".into() },
        Body::TurnStarted {},
        Body::TurnCompleted { answer: Some("a".into()), duration_ms: 1, truncated: true },
        Body::TurnFailed { reason: FailReason::RateLimit, message: "m".into(), duration_ms: 1 },
        Body::TurnInterrupted { duration_ms: 1 },
        Body::PermissionAsked(ask.clone()),
        Body::PermissionAnswered { hash: "h".into(), allowed: Some(true) },
        Body::QuestionAsked(ask),
        Body::QuestionAnswered { hash: "h".into(), answer: Some("a".into()) },
        Body::LimitReached {
            kind: LimitKind::Window,
            text: "t".into(),
            resets_at: Some(orchwrap::clock::wall()),
            self_resumes: true,
        },
        Body::Message { text: "t".into(), exact: true, truncated: true },
        Body::CodeBlock { lang: Some("rust".into()), text: "t".into(), exact: false, truncated: false },
        Body::ToolStarted { id: Some("i".into()), name: "n".into(), input: Some(json!({"a": [1]})), truncated: true },
        Body::ToolFinished {
            id: Some("i".into()),
            name: "n".into(),
            ok: Some(false),
            exit_code: Some(-1),
            output: Some("o".into()),
            truncated: true,
        },
        Body::TestResult { runner: "cargo".into(), passed: 1, failed: 2, skipped: 3 },
        Body::Error { message: "m".into(), file: Some("f".into()), line: Some(3) },
        Body::Url { url: "https://example.org".into() },
        Body::Commit { sha: "1a2b3c4".into(), branch: Some("main".into()), subject: "x".into() },
        Body::Usage {
            input_tokens: Some(1),
            output_tokens: Some(2),
            cost_usd: Some(0.5),
            context_used_percent: Some(12.5),
        },
        Body::Metric { name: "n".into(), value: 1.5 },
        Body::GatePassed { command: "true".into(), duration_ms: 1, on: site.clone() },
        Body::GateFailed {
            command: "false".into(),
            code: Some(1),
            output: "o".into(),
            duration_ms: 1,
            truncated: true,
            on: site,
        },
        Body::ContextPrepared { hash: "h".into(), cwd: "/".into(), branch: Some("b".into()), way: "reuse".into() },
        Body::ContextMismatch { what: "cwd".into(), wanted: "/a".into(), found: "/b".into() },
        Body::TaskState { state: "queued".into(), was: "held".into(), reason: Some("r".into()) },
        Body::Note { code: "c".into(), text: "t".into() },
        Body::Gap { from: 1, to: 2, why: "observer".into() },
    ]
}

#[test]
fn every_kind_of_event_is_in_the_schema() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/event.schema.json")).expect("the schema is JSON");
    let kinds = samples();
    assert_eq!(schema["oneOf"].as_array().unwrap().len(), kinds.len(), "a sample for each kind");
    for body in kinds {
        let event = Event {
            id: Some(1),
            seq: Some(1),
            ts: orchwrap::clock::wall(),
            t: Some(0.25),
            host: "h".into(),
            session: Some("opus-1".parse().unwrap()),
            run: Some(orchwrap::ids::RunId::random()),
            attempt: Some(key(1)),
            body,
            source: Source::Hook,
            rule: "r".into(),
            span: Some(Span { off: 1, len: 2 }),
        };
        check_event(&serde_json::to_value(&event).unwrap());
    }
}
