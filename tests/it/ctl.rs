//! The control socket of a run, end to end.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use orchwrap::ctl::{ReportRequest, Stamp};
use orchwrap::extract::event::{Body, SessionState};
use orchwrap::paths::{RunDir, StateDir};
use orchwrap::pty::client::CtlError;
use serde_json::json;

use crate::a_run::{Plan, aside, wait_for};

#[test]
fn a_run_is_reached_under_a_state_path_of_200_bytes_by_its_owner_only() {
    let plan = Plan::of("generic", &["cat"]);
    let root = plan.home.path().join("x".repeat(200));
    let run = plan.start_in(StateDir::new(root));
    assert_eq!(run.dir.ctl_sock().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run.ctl().state().unwrap().run, run.spec.run);
    run.stop();
}

#[test]
fn the_screen_and_its_size_are_told() {
    let run = Plan::of("claude", &["sh", "-c", "printf 'hello there'; exec cat"]).start();
    let screen =
        wait_for("the text", || run.ctl().screen().ok().filter(|s| s.lines.iter().any(|l| l.contains("hello there"))));
    assert_eq!((screen.cols, screen.rows), (120, 40));
    run.ctl().resize(100, 30).unwrap();
    wait_for("the new size", || run.ctl().screen().ok().filter(|s| (s.cols, s.rows) == (100, 30)));
    run.stop();
}

#[test]
fn t03_a_report_counts_with_the_token_of_its_run_only() {
    let run = Plan::of("claude", &["sh", "-c", "exec cat"]).start();
    let payload = json!({"hook_event_name": "SessionStart", "session_id": "abc", "source": "startup"});
    // Another run's token is no better than none.
    let other = Plan::of("claude", &["sh", "-c", "exec cat"]).start();
    for token in ["0".repeat(64), std::fs::read_to_string(other.dir.token()).unwrap(), String::new()] {
        let error = run.ctl().report(report(&token, 1, &payload)).unwrap_err();
        assert!(matches!(&error, CtlError::Refused(r) if r.code == "bad_token"), "{error}");
    }
    other.stop();
    assert_ne!(run.ctl().state().unwrap().conversation.as_deref(), Some("abc"));
    let out = hook(&run.dir, &payload.to_string());
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
    run.until("the conversation is known", |s| s.conversation.as_deref() == Some("abc"));
    run.stop();
}

fn report(token: &str, nonce: u64, payload: &serde_json::Value) -> ReportRequest {
    let stamp = Stamp { at_us: 1, nonce };
    ReportRequest { token: token.into(), adapter: "claude-hooks/1".into(), payload: payload.clone(), stamp }
}

#[test]
fn t03_a_captured_report_that_is_handed_in_again_ends_no_turn() {
    let run = Plan::of("claude", &["sh", "-c", "exec cat"]).start();
    let token = std::fs::read_to_string(run.dir.token()).unwrap();
    let say = |event: &str, turn: u64| {
        json!({"hook_event_name": event, "session_id": "abc", "prompt_id": turn.to_string(), "prompt": "p",
            "last_assistant_message": format!("answer {turn}")})
    };
    let mut told = 0;
    let mut tell = |payload: &serde_json::Value| {
        told += 1;
        run.ctl().report(report(&token, told, payload)).unwrap();
        told
    };
    tell(&say("UserPromptSubmit", 1));
    let stop = tell(&say("Stop", 1));
    tell(&say("UserPromptSubmit", 2));
    // The very message, and the payload alone by a new one, as the hook itself would make it.
    let error = run.ctl().report(report(&token, stop, &say("Stop", 1))).unwrap_err();
    assert!(matches!(&error, CtlError::Refused(r) if r.code == "replayed"), "{error}");
    assert!(hook(&run.dir, &say("Stop", 1).to_string()).status.success());
    tell(&say("Stop", 1));
    run.until("the second turn goes on", |s| s.state == SessionState::Working);
    tell(&say("Stop", 2));
    run.until_event("turn.completed");
    let events = run.stop();
    let answers: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.body {
            Body::TurnCompleted { answer, .. } => answer.clone(),
            _ => None,
        })
        .collect();
    assert_eq!(answers, ["answer 1", "answer 2"]);
    assert_eq!(
        events.iter().filter(|e| matches!(&e.body, Body::Note { code, .. } if code == "replayed_report")).count(),
        1
    );
}

fn hook(dir: &RunDir, payload: &str) -> std::process::Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_orchwrap"))
        .args(["__hook", "claude-hooks/1"])
        .arg(dir.path())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(payload.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

#[test]
fn a_hook_is_silent_and_succeeds_whatever_happens() {
    let nowhere = RunDir::at("/nonexistent/run");
    for payload in ["{}", "no json", ""] {
        let out = hook(&nowhere, payload);
        assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
    }
    // Its input never ends: the agent must not wait for it.
    let mut child = Command::new(env!("CARGO_BIN_EXE_orchwrap"))
        .args(["__hook", "claude-hooks/1", "/nonexistent/run"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let status = wait_for("the hook ends", || child.try_wait().unwrap());
    assert!(status.success());
}

#[test]
fn a_subscriber_sees_the_run_from_its_start_to_its_end() {
    let run = Plan::of("generic", &["cat"]).start();
    let events = run.ctl().subscribe(1).unwrap();
    let seen = aside(move || events.map(|e| e.unwrap()).collect::<Vec<_>>());
    let all = run.stop();
    let seen = seen.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(seen, all);
    assert_eq!(seen.last().unwrap().body.kind(), "run.exited");
}

#[test]
fn a_stop_is_answered_when_the_agent_is_gone_even_if_it_ignores_hangup_and_term() {
    let run = Plan::of("generic", &["sh", "-c", "trap '' HUP TERM; while :; do sleep 0.1; done"]).start();
    let child = run.ctl().state().unwrap().child.unwrap();
    run.ctl().stop(Duration::from_millis(300)).unwrap();
    assert!(!orchwrap::linux::is_alive(child));
    wait_for("the socket is taken away", || (!run.dir.ctl_sock().exists()).then_some(()));
}

#[test]
fn an_interrupt_reaches_the_agent() {
    let run = Plan::agent("claude", "claude", &json!({"otherwise": ["hang"]}).to_string()).start();
    run.until_idle();
    run.send(1, "work for ever");
    run.until("working", |s| s.state == SessionState::Working);
    run.ctl().interrupt().unwrap();
    run.until_event("turn.interrupted");
    run.until_idle();
    run.stop();
}
