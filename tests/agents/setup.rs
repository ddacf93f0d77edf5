//! Before the first turn: a folder that is not trusted, and a prompt that comes too early.

use orchwrap::ctl::SendRequest;
use orchwrap::extract::event::{SessionState, Verdict};

use crate::agent_fixture::Witnesses::{All, Screen};
use crate::agent_fixture::{Agent, fixture, skeleton};

#[test]
fn an_untrusted_folder_needs_a_human_and_nothing_is_sent() {
    for agent in [Agent::Claude, Agent::Codex] {
        for witnesses in [All, Screen] {
            let Some(fixture) = fixture() else { return };
            fixture.trust(false);
            let mut run = fixture.start(agent, witnesses);
            run.wait_state(SessionState::Setup);
            let request = SendRequest { key: None, text: "hello".to_owned(), accept_timeout_ms: 2000 };
            let outcome = run.ctl().send(request).expect("the run answers");
            assert_eq!(outcome.verdict, None, "{agent:?} {witnesses:?} {outcome:?}\n{}", run.told());
            assert_eq!(fixture.mock.log().len(), 0);
        }
    }
}

/// Sent right at the start: it waits for readiness, or is refused; it is never lost and never doubled.
#[test]
fn a_prompt_sent_too_early_arrives_once() {
    for agent in [Agent::Claude, Agent::Codex] {
        for witnesses in [All, Screen] {
            let Some(fixture) = fixture() else { return };
            let mut run = fixture.start(agent, witnesses);
            let text = "Right at the start [[mock:plain]]";
            let request = || SendRequest { key: None, text: text.to_owned(), accept_timeout_ms: 30_000 };
            let mut outcome = run.ctl().send(request()).expect("the run answers");
            if outcome.verdict.is_none() {
                run.wait_state(SessionState::Idle);
                outcome = run.ctl().send(request()).expect("the run answers");
            }
            assert_eq!(outcome.verdict, Some(Verdict::Accepted), "{agent:?} {witnesses:?} {outcome:?}\n{}", run.told());
            let events = run.wait_turn(0);
            assert_eq!(
                skeleton(&events),
                ["turn.started", "turn.completed"],
                "{agent:?} {witnesses:?}\n{}",
                run.told()
            );
            assert_eq!(fixture.mock.deliveries(text), 1);
        }
    }
}
