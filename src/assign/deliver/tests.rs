use super::*;
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn idle() -> Seen<'static> {
    Seen {
        state: SessionState::Idle,
        since: Duration::ZERO,
        draft: false,
        last_key: None,
        bracketed: true,
        canonical: false,
        composer: None,
    }
}

fn in_state(state: SessionState) -> Seen<'static> {
    Seen { state, ..idle() }
}

fn delivery() -> Delivery {
    Delivery::new("fix it", Paste::default(), PATIENCE, Duration::ZERO)
}

/// Drives a delivery to where Enter has been pressed once; returns the time.
fn entered(d: &mut Delivery) -> Duration {
    assert_eq!(d.step(&idle(), ms(0)), None, "ready gap");
    assert_eq!(d.step(&idle(), ms(300)), Some(Act::Intent));
    assert_eq!(d.step(&idle(), ms(301)), None);
    d.fact(Fact::IntentSynced(true), ms(305));
    assert_eq!(d.step(&idle(), ms(305)), Some(Act::Body(b"\x1b[200~fix it\x1b[201~".to_vec())));
    d.fact(Fact::Written(true), ms(306));
    assert_eq!(d.step(&idle(), ms(350)), None, "enter gap");
    assert_eq!(d.step(&idle(), ms(406)), Some(Act::Enter(b"\r".to_vec())));
    d.fact(Fact::Written(true), ms(407));
    ms(407)
}

fn outcome(act: Option<Act>) -> SendOutcome {
    match act {
        Some(Act::Done(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prompt_is_pasted_submitted_and_accepted_on_evidence() {
    let mut d = delivery();
    let now = entered(&mut d);
    assert_eq!(d.step(&idle(), now), None);
    assert_eq!(outcome(d.step(&in_state(SessionState::Working), now + ms(80))).verdict, Some(Verdict::Accepted));
    assert_eq!(d.step(&in_state(SessionState::Working), now + ms(90)), None, "said once");
}

#[test]
fn a_witness_that_names_our_text_is_enough_even_while_a_human_types() {
    let mut d = delivery();
    let now = entered(&mut d);
    d.fact(Fact::Taken(Verdict::Accepted), now);
    let typing = Seen { last_key: Some(now), ..idle() };
    assert_eq!(outcome(d.step(&typing, now)).verdict, Some(Verdict::Accepted));
}

#[test]
fn f36_what_is_not_ready_is_refused_with_a_reason_and_nothing_is_written() {
    for (state, code) in [
        (SessionState::Setup, "setup"),
        (SessionState::Asking, "asking"),
        (SessionState::Working, "not_idle"),
        (SessionState::Limited, "not_idle"),
        (SessionState::Exited, "exited"),
    ] {
        assert_eq!(outcome(delivery().step(&in_state(state), ms(1))).refused.as_deref(), Some(code));
    }
    let mut d = delivery();
    assert_eq!(d.step(&in_state(SessionState::Starting), ms(1)), None);
    assert_eq!(outcome(d.step(&in_state(SessionState::Starting), PATIENCE)).refused.as_deref(), Some("not_idle"));
}

#[test]
fn a_humans_draft_is_never_written_into() {
    let draft = Seen { draft: true, ..idle() };
    assert_eq!(outcome(delivery().step(&draft, ms(900))).refused.as_deref(), Some("draft"));
    let left_over = Seen { composer: Some("half a"), ..idle() };
    assert_eq!(outcome(delivery().step(&left_over, ms(900))).refused.as_deref(), Some("draft"));
    let mut d = delivery();
    let typing = Seen { last_key: Some(ms(500)), ..idle() };
    assert_eq!(d.step(&typing, ms(900)), None);
    assert_eq!(d.deadline(&typing), Some(ms(2500)));
    assert_eq!(d.step(&typing, ms(2500)), Some(Act::Intent));
}

#[test]
fn f41_without_a_synced_intent_nothing_is_written() {
    let mut d = delivery();
    assert_eq!(d.step(&idle(), ms(300)), Some(Act::Intent));
    d.fact(Fact::IntentSynced(false), ms(301));
    assert_eq!(outcome(d.step(&idle(), ms(301))).refused.as_deref(), Some("journal"));
}

#[test]
fn f37_a_swallowed_enter_is_pressed_again_twice_and_then_it_is_stuck() {
    let mut d = delivery();
    let mut now = entered(&mut d);
    let waits = Seen { composer: Some("fix it"), ..idle() };
    for _ in 0..2 {
        assert_eq!(d.step(&waits, now + ms(1999)), None);
        now += ENTER_PATIENCE;
        assert_eq!(d.step(&waits, now), Some(Act::Enter(b"\r".to_vec())));
        d.fact(Fact::Written(true), now);
    }
    assert_eq!(d.step(&waits, now + ENTER_PATIENCE), None);
    assert_eq!(outcome(d.step(&waits, ms(407) + PATIENCE)).verdict, Some(Verdict::Stuck));
    assert_eq!(d.enters(), 3);
}

#[test]
fn enter_is_not_pressed_again_into_a_menu_an_empty_box_or_a_humans_line() {
    let late = |seen: &dyn Fn(Duration) -> Seen<'static>| {
        let mut d = delivery();
        let now = entered(&mut d);
        d.step(&seen(now), now + ENTER_PATIENCE)
    };
    assert_eq!(late(&|_| in_state(SessionState::Setup)), None);
    assert_eq!(late(&|_| Seen { composer: Some(""), ..idle() }), None);
    assert_eq!(late(&|now| Seen { last_key: Some(now), ..idle() }), None);
    assert!(matches!(late(&|_| Seen { composer: Some("fix it"), ..idle() }), Some(Act::Enter(_))));
    assert_eq!(outcome(late(&|_| in_state(SessionState::Asking))).verdict, Some(Verdict::Accepted));
}

#[test]
fn f37_enter_is_not_pressed_again_where_no_input_box_is_seen() {
    // A frame that nobody knows may be a dialog whose default is to allow.
    let mut d = delivery();
    let now = entered(&mut d);
    assert_eq!(d.step(&idle(), now + ENTER_PATIENCE), None);
    assert_eq!(outcome(d.step(&idle(), now + PATIENCE)).verdict, Some(Verdict::Unverified));
    assert_eq!(d.enters(), 1);
}

#[test]
fn f35_a_line_that_the_terminal_would_cut_is_refused_before_anything_is_written() {
    let lines = Seen { bracketed: false, ..idle() }.in_lines(true);
    let sent = |text: &str, seen: &Seen<'_>| {
        Delivery::new(text, Paste::default(), PATIENCE, Duration::ZERO).step(seen, ms(300))
    };
    let (fits, long) = ("x".repeat(LINE_MAX), "x".repeat(LINE_MAX + 1));
    assert_eq!(sent(&fits, &lines), Some(Act::Intent));
    assert_eq!(sent(&format!("{fits}\n{fits}"), &lines), Some(Act::Intent));
    let no = outcome(sent(&format!("a\n{long}"), &lines));
    assert_eq!((no.refused.as_deref(), no.verdict), (Some("line_too_long"), None));
    // Bracketed or raw, it is read as it comes.
    assert_eq!(sent(&long, &Seen { bracketed: true, ..lines }), Some(Act::Intent));
    assert_eq!(sent(&long, &lines.in_lines(false)), Some(Act::Intent));
}

#[test]
fn f38_an_agent_that_does_not_read_is_given_up_in_time_and_enter_never_follows() {
    let mut d = delivery();
    assert_eq!(d.step(&idle(), ms(300)), Some(Act::Intent));
    d.fact(Fact::IntentSynced(true), ms(300));
    assert!(matches!(d.step(&idle(), ms(300)), Some(Act::Body(_))));
    assert_eq!(d.deadline(&idle()), Some(ms(300) + PATIENCE));
    assert_eq!(d.step(&idle(), ms(299) + PATIENCE), None);
    assert_eq!(outcome(d.step(&idle(), ms(300) + PATIENCE)).verdict, Some(Verdict::Unverified));
    d.fact(Fact::Written(true), ms(400) + PATIENCE);
    assert_eq!(d.step(&idle(), ms(900) + PATIENCE), None);
    assert_eq!(d.enters(), 0);
}

#[test]
fn f40_enter_is_left_to_the_human_who_typed_after_the_paste() {
    let mut d = delivery();
    assert_eq!(d.step(&idle(), ms(300)), Some(Act::Intent));
    d.fact(Fact::IntentSynced(true), ms(300));
    assert!(matches!(d.step(&idle(), ms(300)), Some(Act::Body(_))));
    d.fact(Fact::Written(true), ms(300));
    let typing = Seen { last_key: Some(ms(350)), ..idle() };
    assert_eq!(d.step(&typing, ms(400)), None);
    let unsure = outcome(d.step(&Seen { last_key: Some(ms(350)), ..idle() }, ms(400) + PATIENCE));
    assert_eq!(unsure.verdict, Some(Verdict::Unverified));
    assert_eq!(d.enters(), 0);
}

#[test]
fn an_agent_that_dies_before_evidence_makes_it_dead() {
    let mut d = delivery();
    let now = entered(&mut d);
    d.fact(Fact::Exited, now);
    assert_eq!(outcome(d.step(&idle(), now)).verdict, Some(Verdict::Dead));
    let mut early = delivery();
    early.fact(Fact::Exited, ms(1));
    assert_eq!(outcome(early.step(&idle(), ms(1))).refused.as_deref(), Some("exited"));
}

#[test]
fn an_agent_that_began_to_work_before_enter_queues_it() {
    let mut d = delivery();
    assert_eq!(d.step(&idle(), ms(300)), Some(Act::Intent));
    d.fact(Fact::IntentSynced(true), ms(300));
    d.step(&idle(), ms(300));
    d.fact(Fact::Written(true), ms(300));
    let busy = |composer| Seen { composer, ..in_state(SessionState::Working) };
    assert!(matches!(d.step(&busy(Some("fix it")), ms(400)), Some(Act::Enter(_))));
    d.fact(Fact::Written(true), ms(400));
    assert_eq!(d.step(&busy(Some("fix it")), ms(410)), None);
    assert_eq!(outcome(d.step(&busy(Some("")), ms(450))).verdict, Some(Verdict::QueuedInAgent));
}

#[test]
fn without_bracketed_paste_the_text_goes_as_it_is() {
    for (on, rule, want) in [
        (true, Bracketed::Auto, &b"\x1b[200~fix it\x1b[201~"[..]),
        (false, Bracketed::Auto, b"fix it"),
        (true, Bracketed::Never, b"fix it"),
    ] {
        let mut d = Delivery::new("fix it", Paste { bracketed: rule, ..Paste::default() }, PATIENCE, ms(0));
        let seen = Seen { bracketed: on, ..idle() };
        d.step(&seen, ms(300));
        d.fact(Fact::IntentSynced(true), ms(300));
        assert_eq!(d.step(&seen, ms(300)), Some(Act::Body(want.to_vec())));
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Look(SessionState, bool, Option<u64>, Option<&'static str>),
    Fact(Fact),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    use SessionState::*;
    let state = prop::sample::select(vec![Starting, Setup, Idle, Idle, Idle, Working, Asking, Limited, Unknown]);
    let composer = prop::sample::select(vec![None, Some(""), Some("fix it")]);
    let fact = prop::sample::select(vec![
        Fact::IntentSynced(true),
        Fact::IntentSynced(false),
        Fact::Written(true),
        Fact::Written(true),
        Fact::Written(false),
        Fact::Taken(Verdict::Accepted),
        Fact::TurnStarted,
        Fact::Exited,
    ]);
    prop_oneof![
        4 => (state, any::<bool>(), prop::option::of(0u64..5000), composer)
            .prop_map(|(s, d, k, c)| Happening::Look(s, d && k.is_some(), k, c)),
        4 => fact.prop_map(Happening::Fact),
        2 => (0u64..4000).prop_map(Happening::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn f06_whatever_happens_the_body_is_written_at_most_once_and_after_its_intent(
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut d = delivery();
        let mut now = Duration::ZERO;
        let (mut intents, mut synced, mut bodies, mut enters, mut done) = (0, false, 0, 0, 0);
        let mut seen = idle();
        for what in happenings {
            match what {
                Happening::Look(state, draft, key, composer) => {
                    let last_key = key.map(|k| now.saturating_sub(ms(k)));
                    seen = Seen { state, draft, last_key, composer, ..idle() };
                }
                Happening::Fact(fact) => {
                    synced |= fact == Fact::IntentSynced(true) && intents == 1;
                    d.fact(fact, now);
                }
                Happening::Wait(n) => now += ms(n),
            }
            while let Some(act) = d.step(&seen, now) {
                prop_assert_eq!(done, 0, "nothing after the outcome");
                match act {
                    Act::Intent => {
                        prop_assert!(seen.state == SessionState::Idle && !seen.draft);
                        intents += 1;
                    }
                    Act::Body(_) => {
                        prop_assert!(synced);
                        bodies += 1;
                    }
                    Act::Enter(_) => {
                        prop_assert_eq!(bodies, 1);
                        enters += 1;
                    }
                    Act::Done(outcome) => {
                        prop_assert_eq!(outcome.verdict.is_some(), bodies == 1);
                        prop_assert_eq!(outcome.refused.is_some(), bodies == 0);
                        done += 1;
                    }
                }
            }
            if let Some(at) = d.deadline(&seen) {
                // A deadline in the past would make the caller spin.
                prop_assert!(at > now || done == 1, "{:?} at {:?}", at, now);
            }
        }
        prop_assert!(intents <= 1 && bodies <= 1 && enters <= 3 && done <= 1);
    }
}
