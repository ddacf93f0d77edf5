//! One prompt, no terminal: the structured output is the report.

use orchwrap::extract::event::{Body, Event, FailReason};

use crate::agent_fixture::{Agent, answer, fixture, skeleton};
use crate::mock_model::scenario;

fn play(agent: Agent, scenario: &str) -> Option<(Vec<Event>, Option<i32>, usize)> {
    let fixture = fixture()?;
    let text = format!("What does add do? [[mock:{scenario}]]");
    let mut run = fixture.oneshot(agent, &text);
    let status = run.wait_exit();
    Some((run.events(), status.code(), fixture.mock.deliveries(&text)))
}

#[test]
fn an_answer_completes_with_exit_0() {
    for agent in [Agent::Claude, Agent::Codex] {
        let Some((events, code, deliveries)) = play(agent, "plain") else { return };
        assert_eq!(skeleton(&events), ["turn.started", "turn.completed"], "{agent:?} {events:#?}");
        assert_eq!(answer(&events).as_deref(), Some(scenario::PLAIN), "{agent:?}");
        assert_eq!((code, deliveries), (Some(0), 1), "{agent:?}");
    }
}

#[test]
fn a_failing_tool_is_not_a_failed_turn() {
    for agent in [Agent::Claude, Agent::Codex] {
        let Some((events, code, _)) = play(agent, "tool_fail") else { return };
        assert_eq!(skeleton(&events), ["turn.started", "turn.completed"], "{agent:?} {events:#?}");
        assert!(
            events.iter().any(|e| matches!(e.body, Body::ToolFinished { exit_code: Some(3), ok: Some(false), .. })),
            "{agent:?} {events:#?}"
        );
        assert_eq!(code, Some(0), "{agent:?}");
    }
}

#[test]
fn a_failed_provider_is_a_failed_turn_and_exit_1() {
    for agent in [Agent::Claude, Agent::Codex] {
        let Some((events, code, _)) = play(agent, "err500") else { return };
        assert_eq!(skeleton(&events), ["turn.started", "turn.failed"], "{agent:?} {events:#?}");
        assert!(
            events.iter().any(|e| matches!(e.body, Body::TurnFailed { reason: FailReason::Server, .. })),
            "{agent:?} {events:#?}"
        );
        assert_eq!(code, Some(1), "{agent:?}");
    }
}
