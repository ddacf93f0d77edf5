//! The table: scenario x agent x witnesses, and the turn events that must come of it.

use orchwrap::extract::event::{Body, Event, FailReason, SessionState, Verdict};

use crate::agent_fixture::Agent::{Claude, Codex};
use crate::agent_fixture::Witnesses::{All, Screen};
use crate::agent_fixture::{Agent, Fixture, Run, Witnesses, answer, fixture, skeleton};
use crate::mock_model::scenario;

/// What a person or the queue does in the middle of the turn.
#[derive(Clone, Copy)]
enum Act {
    Nothing,
    Answer(&'static str),
    /// The interrupt key, once the model was asked.
    Interrupt,
}

/// One line of the table.
struct Case {
    scenario: &'static str,
    act: Act,
    /// Arguments beyond the agent's usual ones.
    args: fn(Agent) -> &'static [&'static str],
    skeleton: &'static [&'static str],
    check: fn(Agent, Witnesses, &[Event]),
}

const DONE: &[&str] = &["turn.started", "turn.completed"];
const FAILED: &[&str] = &["turn.started", "turn.failed"];

fn none(_: Agent) -> &'static [&'static str] {
    &[]
}

fn nothing(_: Agent, _: Witnesses, _: &[Event]) {}

/// Runs a line of the table; the agent's own ledger, the model's log, must agree that the prompt came once.
fn play(case: &Case, agent: Agent, witnesses: Witnesses) {
    let Some(fixture) = fixture() else { return };
    let mut run = fixture.start_with(agent, witnesses, (case.args)(agent));
    let events = turn(&fixture, &mut run, case.scenario, case.act);
    assert_eq!(skeleton(&events), case.skeleton, "{}\n{}", case.scenario, run.told());
    (case.check)(agent, witnesses, &events);
}

fn turn(fixture: &Fixture, run: &mut Run, scenario: &str, act: Act) -> Vec<Event> {
    run.wait_state(SessionState::Idle);
    let seen = run.events().len();
    let text = format!("What does add do? [[mock:{scenario}]]");
    let outcome = run.send(&text);
    assert_eq!(outcome.verdict, Some(Verdict::Accepted), "{outcome:?}\n{}", run.told());
    match act {
        Act::Nothing => {}
        Act::Answer(words) => {
            let hash = run.wait("question", |events| {
                events.iter().skip(seen).find_map(|e| match &e.body {
                    Body::PermissionAsked(ask) | Body::QuestionAsked(ask) => Some(ask.hash.clone()),
                    _ => None,
                })
            });
            run.ctl().answer(&hash, words).unwrap_or_else(|e| panic!("{e}\n{}", run.told()));
        }
        Act::Interrupt => {
            assert!(fixture.mock.wait(crate::agent_fixture::PATIENCE, |log| log.iter().any(|r| r.main)));
            run.ctl().interrupt().expect("the run answers");
        }
    }
    let events = run.wait_turn(seen);
    assert_eq!(fixture.mock.deliveries(&text), 1, "{:#?}", fixture.mock.log());
    events
}

fn whole_answer(wanted: &str, witnesses: Witnesses, events: &[Event]) {
    if witnesses == All {
        assert_eq!(answer(events).as_deref(), Some(wanted));
    }
}

fn blocks(events: &[Event]) -> Vec<(Option<&str>, &str, bool)> {
    let block = |e: &'_ Event| matches!(e.body, Body::CodeBlock { .. });
    events
        .iter()
        .filter(|e| block(e))
        .map(|e| match &e.body {
            Body::CodeBlock { lang, text, exact, .. } => (lang.as_deref(), text.as_str(), *exact),
            _ => unreachable!("it was just filtered"),
        })
        .collect()
}

fn exit_codes(events: &[Event]) -> Vec<Option<i32>> {
    events
        .iter()
        .filter_map(|e| match &e.body {
            Body::ToolFinished { exit_code, .. } => Some(*exit_code),
            _ => None,
        })
        .collect()
}

fn failed_as(wanted: FailReason, events: &[Event]) {
    let reason = events.iter().find_map(|e| match &e.body {
        Body::TurnFailed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, Some(wanted), "{events:#?}");
}

const PLAIN: Case = Case {
    scenario: "plain",
    act: Act::Nothing,
    args: none,
    skeleton: DONE,
    check: |_, w, e| whole_answer(scenario::PLAIN, w, e),
};

const CODE: Case = Case {
    scenario: "code",
    act: Act::Nothing,
    args: none,
    skeleton: DONE,
    check: |_, w, e| {
        if w == All {
            assert_eq!(blocks(e), [(Some("python"), scenario::PYTHON, true), (Some("bash"), scenario::SHELL, true)]);
        } else {
            assert!(blocks(e).iter().all(|(_, _, exact)| !exact), "a screen is never exact");
        }
    },
};

const CODE2: Case = Case {
    scenario: "code2",
    act: Act::Nothing,
    args: none,
    skeleton: DONE,
    check: |_, w, e| {
        if w == All {
            let wanted = [
                (Some("rust"), scenario::RUST, true),
                (Some("json"), scenario::JSON, true),
                (None, "plain text, no language\n", true),
            ];
            assert_eq!(blocks(e), wanted);
        }
    },
};

const TOOL_OK: Case = Case {
    scenario: "tool_ok",
    act: Act::Nothing,
    args: none,
    skeleton: DONE,
    check: |_, w, e| {
        if w == All {
            assert_eq!(exit_codes(e), [Some(0)]);
        }
    },
};

const TOOL_FAIL: Case = Case {
    scenario: "tool_fail",
    act: Act::Nothing,
    args: |agent| agent.allowed(),
    skeleton: DONE,
    check: |_, w, e| {
        if w == All {
            assert_eq!(exit_codes(e), [Some(3)]);
        }
    },
};

const ASKED: &[&str] = &["turn.started", "permission.asked", "permission.answered", "turn.completed"];

fn asks_for_the_command(_: Agent, w: Witnesses, events: &[Event]) {
    let ask = events.iter().find_map(|e| match &e.body {
        Body::PermissionAsked(ask) => Some(ask),
        _ => None,
    });
    let ask = ask.expect("a permission was asked");
    assert!(ask.text.contains(scenario::PERMISSION), "{ask:?}");
    assert_eq!(ask.exact, w == All, "{ask:?}");
}

const PERMISSION: Case =
    Case { scenario: "permission", act: Act::Answer("yes"), args: none, skeleton: ASKED, check: asks_for_the_command };

const REFUSED: &[&str] = &["turn.started", "permission.asked", "permission.answered", "turn.interrupted"];

/// Refusing is Esc: it stops the turn as well.
const REFUSE: Case =
    Case { scenario: "permission", act: Act::Answer("no"), args: none, skeleton: REFUSED, check: asks_for_the_command };

const QUESTION: Case = Case {
    scenario: "question",
    act: Act::Answer("PostgreSQL"),
    args: none,
    skeleton: &["turn.started", "question.asked", "question.answered", "turn.completed"],
    check: |_, _, events| {
        let ask = events.iter().find_map(|e| match &e.body {
            Body::QuestionAsked(ask) => Some(ask),
            _ => None,
        });
        let ask = ask.expect("a question was asked");
        assert!(ask.text.contains("Which database"), "{ask:?}");
        assert!(ask.options.iter().any(|o| o.contains("PostgreSQL")), "{ask:?}");
    },
};

const LONG: Case = Case {
    scenario: "long",
    act: Act::Nothing,
    args: none,
    skeleton: DONE,
    check: |_, w, e| {
        if w == All {
            let answer = answer(e).expect("an answer");
            assert!(answer.contains("Line 1 of") && answer.contains("Line 300 of"), "{} bytes", answer.len());
        }
    },
};

const TRAP: Case = Case {
    scenario: "trap",
    act: Act::Nothing,
    args: none,
    skeleton: DONE,
    check: |_, w, e| whole_answer(scenario::TRAP, w, e),
};

const ERR401: Case = Case {
    scenario: "err401",
    act: Act::Nothing,
    args: none,
    skeleton: FAILED,
    check: |_, _, e| failed_as(FailReason::Auth, e),
};

const ERR429: Case = Case {
    scenario: "err429",
    act: Act::Nothing,
    args: none,
    skeleton: FAILED,
    check: |_, _, e| failed_as(FailReason::RateLimit, e),
};

const ERR500: Case = Case {
    scenario: "err500",
    act: Act::Nothing,
    args: none,
    skeleton: FAILED,
    check: |_, _, e| failed_as(FailReason::Server, e),
};

const FLAKY: Case = Case {
    scenario: "flaky",
    act: Act::Nothing,
    args: none,
    skeleton: DONE,
    check: |_, w, e| whole_answer(scenario::PLAIN, w, e),
};

const CUT: Case = Case {
    scenario: "cut",
    act: Act::Nothing,
    args: none,
    skeleton: FAILED,
    check: |_, _, e| failed_as(FailReason::Network, e),
};

const ESC: Case = Case {
    scenario: "slow",
    act: Act::Interrupt,
    args: none,
    skeleton: &["turn.started", "turn.interrupted"],
    check: nothing,
};

macro_rules! table {
    ($($name:ident: $case:ident for $($agent:ident)+;)*) => {$(
        mod $name {
            use super::*;
            $(table!(@$agent $case);)+
        }
    )*};
    (@Claude $case:ident) => {
        #[test]
        fn claude_all_witnesses() {
            play(&$case, Claude, All);
        }
        #[test]
        fn claude_screen_only() {
            play(&$case, Claude, Screen);
        }
    };
    (@Codex $case:ident) => {
        #[test]
        fn codex_all_witnesses() {
            play(&$case, Codex, All);
        }
        #[test]
        fn codex_screen_only() {
            play(&$case, Codex, Screen);
        }
    };
}

table! {
    plain: PLAIN for Claude Codex;
    code: CODE for Claude Codex;
    code2: CODE2 for Claude Codex;
    tool_ok: TOOL_OK for Claude Codex;
    tool_fail: TOOL_FAIL for Claude Codex;
    permission: PERMISSION for Claude Codex;
    refused: REFUSE for Claude Codex;
    question: QUESTION for Claude; // the other has its question tool in plan mode only
    long: LONG for Claude Codex;
    trap: TRAP for Claude Codex;
    err401: ERR401 for Claude Codex;
    err429: ERR429 for Claude Codex;
    err500: ERR500 for Claude Codex;
    flaky: FLAKY for Claude Codex;
    cut: CUT for Claude Codex;
    esc_in_mid_turn: ESC for Claude Codex;
}

/// Idle for long, then a prompt: the old idle frame is not the end of the new turn.
#[test]
fn turns_of_one_conversation_are_told_apart() {
    for (agent, witnesses) in [(Claude, All), (Codex, All), (Claude, Screen), (Codex, Screen)] {
        let Some(fixture) = fixture() else { return };
        let mut run = fixture.start(agent, witnesses);
        for (scenario, skeleton_wanted) in [("plain", DONE), ("err500", FAILED), ("tool_ok", DONE), ("code", DONE)] {
            let events = turn(&fixture, &mut run, scenario, Act::Nothing);
            assert_eq!(skeleton(&events), skeleton_wanted, "{agent:?} {witnesses:?} {scenario}\n{}", run.told());
        }
    }
}
