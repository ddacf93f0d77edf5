//! Prompts on their way into agents, judged by what the scripted agent says that it received.

use std::time::Duration;

use orchwrap::extract::event::{Body, SessionState, Verdict};
use orchwrap::pty::client::CtlError;
use serde_json::json;

use crate::a_run::{ARun, Plan, aside, check_journal, request, wait_for};

fn ended(run: &ARun, count: usize) {
    wait_for("the turn ends", || {
        (run.kinds().iter().filter(|k| *k == "turn.completed").count() == count).then_some(())
    });
}

fn twice_in_a_row(pack: &'static str, dialect: &str, hooks: bool) {
    let mut plan = Plan::agent(pack, dialect, "{}");
    plan.hooks = hooks;
    let run = plan.start();
    for n in 1..=2 {
        run.until_idle();
        assert_eq!(run.send(n, &format!("prompt number {n}")).verdict, Some(Verdict::Accepted), "{n}");
        ended(&run, n as usize);
    }
    assert_eq!(run.received(), ["prompt number 1", "prompt number 2"]);
    run.stop();
}

#[test]
fn prompts_arrive_once_and_are_accepted_with_hooks() {
    twice_in_a_row("claude", "claude", true);
}

#[test]
fn prompts_arrive_once_and_are_accepted_without_hooks() {
    twice_in_a_row("claude", "claude", false);
}

#[test]
fn prompts_arrive_once_and_are_accepted_by_an_agent_that_reports_its_status() {
    twice_in_a_row("codex", "codex", true);
}

#[test]
fn prompts_arrive_once_and_are_accepted_by_a_line_repl() {
    twice_in_a_row("ollama", "repl", false);
}

#[test]
fn f06_whoever_sends_an_attempt_again_gets_the_first_outcome_and_nothing_is_typed() {
    let run = Plan::agent("claude", "claude", "{}").start();
    run.until_idle();
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let ctl = run.ctl();
            aside(move || ctl.send(request(1, "only once")).unwrap())
        })
        .collect();
    for asker in askers {
        assert_eq!(asker.recv_timeout(Duration::from_secs(60)).unwrap().verdict, Some(Verdict::Accepted));
    }
    ended(&run, 1);
    run.until_idle();
    assert_eq!(run.send(1, "only once").verdict, Some(Verdict::Accepted));
    assert_eq!(run.received(), ["only once"]);
    // A claim that is older than one that was sent here has lost its right.
    run.until_idle();
    run.send(3, "of a later claim");
    let error = run.ctl().send(request(2, "of an earlier one")).unwrap_err();
    assert!(matches!(&error, CtlError::Refused(r) if r.code == "stale_fence"), "{error}");
    ended(&run, 2);
    assert_eq!(run.received(), ["only once", "of a later claim"]);
    run.stop();
}

#[test]
fn f35_a_prompt_of_a_megabyte_arrives_whole_and_once() {
    let run = Plan::agent("claude", "claude", "{}").start();
    run.until_idle();
    let text: String = (0..20_000).map(|n| format!("line {n} with some words in it, é and more\n")).collect();
    assert_eq!(run.send(1, text.trim_end()).verdict, Some(Verdict::Accepted));
    ended(&run, 1);
    assert_eq!(run.received(), [text.trim_end()]);
    run.stop();
}

#[test]
fn f36_an_agent_that_needs_a_human_first_gets_nothing() {
    let run = Plan::agent("claude", "claude", &json!({"start": {"trust": true}}).to_string()).start();
    run.until("setup", |s| s.state == SessionState::Setup);
    let outcome = run.send(1, "too early");
    assert_eq!((outcome.verdict, outcome.refused.as_deref()), (None, Some("setup")));
    assert!(run.received().is_empty());
    assert!(!run.kinds().contains(&"prompt.intent".to_owned()));
    run.stop();
}

#[test]
fn f37_a_swallowed_enter_is_pressed_again_and_the_prompt_arrives_once() {
    let script = json!({"rules": [{"when": ["stubborn"], "swallow_enters": 1, "steps": [{"say": "there"}]}]});
    let run = Plan::agent("claude", "claude", &script.to_string()).start();
    run.until_idle();
    assert_eq!(run.send(1, "a stubborn one").verdict, Some(Verdict::Accepted));
    ended(&run, 1);
    assert_eq!(run.received(), ["a stubborn one"]);
    assert!(run.events().iter().any(|e| matches!(&e.body, Body::Note { code, .. } if code == "enter_again")));
    run.stop();
}

#[test]
fn f37_an_enter_that_never_counts_leaves_it_stuck_and_never_sent_again() {
    let script = json!({"rules": [{"when": ["stubborn"], "swallow_enters": 99, "steps": []}]});
    let run = Plan::agent("claude", "claude", &script.to_string()).start();
    run.until_idle();
    let mut request = request(1, "a stubborn one");
    request.accept_timeout_ms = 7_000;
    let outcome = run.ctl().send(request.clone()).unwrap();
    assert_eq!(outcome.verdict, Some(Verdict::Stuck), "{outcome:?}");
    assert_eq!(run.ctl().send(request).unwrap(), outcome);
    assert!(run.received().is_empty());
    run.stop();
}

#[test]
fn f39_t32_an_answer_is_bound_to_what_was_asked() {
    let script = json!({"otherwise": [{"ask": {"run": "touch granted"}}, {"say": "did it"}]});
    let run = Plan::agent("claude", "claude", &script.to_string()).start();
    run.until_idle();
    run.send(1, "please");
    let (_, ask) = run.until("asking", |s| s.state == SessionState::Asking && s.asking.is_some()).asking.unwrap();
    let refused = |hash: &str, text: &str| match run.ctl().answer(hash, text).unwrap_err() {
        CtlError::Refused(r) => r.code,
        other => panic!("{other}"),
    };
    assert_eq!(refused("another", "yes"), "stale_answer");
    assert_eq!(run.send(2, "another prompt").refused.as_deref(), Some("asking"));
    run.ctl().answer(&ask.hash, "yes").unwrap();
    assert!(["stale_answer", "not_asking"].contains(&refused(&ask.hash, "yes").as_str()));
    ended(&run, 1);
    assert!(run.path("granted").exists());
    run.stop();
}

#[test]
fn f10_an_agent_that_dies_on_the_prompt_is_not_taken_for_done() {
    let run = Plan::agent("claude", "claude", &json!({"otherwise": [{"crash": {"signal": 9}}]}).to_string()).start();
    run.until_idle();
    // It may have gone to work first: then it took the prompt, and the journal tells of its end.
    let verdict = run.ctl().send(request(1, "die")).map(|o| o.verdict);
    assert!(!matches!(verdict, Ok(Some(Verdict::Stuck | Verdict::Unverified))), "{verdict:?}");
    let exited = run.until_event("run.exited");
    assert!(matches!(exited.body, Body::RunExited { .. }));
    assert!(!run.kinds().contains(&"turn.completed".to_owned()));
}

#[test]
fn t09_an_end_of_paste_in_a_prompt_does_not_end_the_paste() {
    let run = Plan::agent("claude", "claude", "{}").start();
    run.until_idle();
    let outcome = run.send(1, "before\u{1b}[201~\r/quit\r after");
    assert_eq!(outcome.verdict, Some(Verdict::Accepted));
    ended(&run, 1);
    assert_eq!(run.received(), ["before\n/quit\n after"]);
    run.stop();
}

#[test]
fn a_oneshot_gets_its_prompt_on_stdin_and_its_stream_is_its_report() {
    let mut plan = Plan::agent("claude", "claude", &json!({"otherwise": [{"say": "forty-two"}]}).to_string());
    plan.prompt = Some("what is it?");
    let run = plan.start();
    let exited = wait_for("the end", || {
        run.dir.events().exists().then(|| run.events()).into_iter().flatten().find(|e| e.body.kind() == "run.exited")
    });
    assert!(matches!(&exited.body, Body::RunExited { code: Some(0), .. }), "{exited:?}");
    let answer = run.events().into_iter().find_map(|e| match e.body {
        Body::TurnCompleted { answer, .. } => answer,
        _ => None,
    });
    assert_eq!(answer.as_deref(), Some("forty-two"));
    assert_eq!(run.received(), ["what is it?"]);
    check_journal(&run.dir.events());
}

/// The row that a command has not finished ends like a prompt; the shell gives its terminal to the command.
#[test]
fn t01_a_shell_command_whose_row_ends_like_a_prompt_is_not_over() {
    let mut plan = Plan::of("shell", &["sh"]);
    plan.env.push(("PS1".into(), "$ ".into()));
    let run = plan.start();
    run.until_idle();
    let fifo = run.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let sent = run.send(1, &format!("printf 'fetching 50%% '; cat {}", fifo.display()));
    assert_eq!(sent.verdict, Some(Verdict::Accepted), "{sent:?}");
    wait_for("the row", || run.ctl().screen().ok().filter(|s| s.lines.iter().any(|l| l.trim_end() == "fetching 50%")));
    // Three times as long as a prompt has to stand.
    let until = std::time::Instant::now() + Duration::from_millis(1200);
    while std::time::Instant::now() < until {
        assert!(!run.kinds().contains(&"turn.completed".to_owned()), "{:#?}", run.events());
    }
    std::fs::write(&fifo, "and failed\n").unwrap();
    let end = run.until_event("turn.completed");
    assert!(
        matches!(&end.body, Body::TurnCompleted { answer: Some(a), .. } if a == "fetching 50% and failed"),
        "{end:?}"
    );
    run.stop();
}

#[test]
fn f35_a_line_that_the_agents_terminal_would_cut_is_refused_and_nothing_of_it_runs() {
    let run = Plan::of("shell", &["sh"]).start();
    run.until_idle();
    let long = run.send(1, &format!("echo {} > ran", "a".repeat(6000)));
    assert_eq!(long.refused.as_deref(), Some("line_too_long"), "{long:?}");
    let fits = run.send(2, &format!("echo {} > ran", "a".repeat(4000)));
    assert_eq!(fits.verdict, Some(Verdict::Accepted), "{fits:?}");
    run.until_event("turn.completed");
    assert_eq!(std::fs::read_to_string(run.path("ran")).unwrap().trim(), "a".repeat(4000));
    run.stop();
}

/// An input box, an agent that takes one Enter, and then a dialog that no pack knows, with `Allow` as its default.
#[test]
fn f37_enter_is_not_pressed_into_a_dialog_that_nobody_knows() {
    let script = r#"
        stty raw -echo
        line=$(printf '%0100d' 0 | sed 's/0/─/g')
        printf '\033[?2004h\033[2J\033[H%s\r\n❯ \r\n%s\r\n  ? for shortcuts\033[2;3H' "$line" "$line"
        while c=$(dd bs=1 count=1 2>/dev/null | od -An -tx1); do
            [ "$c" = " 0d" ] && break
        done
        printf '\033[2J\033[H  A newer tool wants to delete the repository\r\n\r\n  > Allow\r\n    Deny\r\n'
        dd bs=1 count=1 2>/dev/null | od -An -tx1 > pressed
        sleep 60
    "#;
    let run = Plan::of("claude", &["sh", "-c", script]).start();
    run.until_idle();
    let mut request = request(1, "do it");
    // Time for two more presses.
    request.accept_timeout_ms = 5000;
    let outcome = run.ctl().send(request).unwrap();
    assert_eq!(outcome.verdict, Some(Verdict::Unverified), "{outcome:?}");
    assert!(!run.kinds().contains(&"prompt.accepted".to_owned()));
    wait_for("its dialog", || std::fs::exists(run.path("pressed")).unwrap().then_some(()));
    assert_eq!(std::fs::read_to_string(run.path("pressed")).unwrap(), "");
    run.stop();
}

/// The agent is stopped after it showed its input box; the body is more than its terminal holds.
#[test]
fn f38_a_prompt_that_the_agent_does_not_read_is_given_up_in_time_and_never_submitted() {
    let script = r#"
        stty raw -echo
        line=$(printf '%0100d' 0 | sed 's/0/─/g')
        printf '\033[?2004h\033[2J\033[H%s\r\n❯ \r\n%s\r\n  ? for shortcuts\033[2;3H' "$line" "$line"
        cat thaw > /dev/null
        dd bs=1 count=100012 2>/dev/null | tail -c 20 > got
        dd bs=1 count=1 2>/dev/null | od -An -tx1 > more
        sleep 60
    "#;
    let plan = Plan::of("claude", &["sh", "-c", script]);
    nix::unistd::mkfifo(&plan.home.path().join("thaw"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = plan.start();
    run.until_idle();
    let mut long = request(1, &"x".repeat(100_000));
    long.accept_timeout_ms = 1000;
    let outcome = run.ctl().send(long).unwrap();
    assert_eq!(outcome.verdict, Some(Verdict::Unverified), "{outcome:?}");
    // What is left of it would be in front of another.
    assert_eq!(run.send(2, "another").refused.as_deref(), Some("not_idle"));
    std::fs::write(run.path("thaw"), "").unwrap();
    wait_for("the rest", || std::fs::read_to_string(run.path("got")).ok().filter(|t| t.ends_with("x\x1b[201~")));
    wait_for("its next read", || std::fs::exists(run.path("more")).unwrap().then_some(()));
    assert_eq!(std::fs::read_to_string(run.path("more")).unwrap(), "", "an Enter");
    assert!(!run.kinds().contains(&"prompt.sent".to_owned()));
    run.stop();
}
