//! One story, whatever the witnesses do.

use std::cell::RefCell;

use super::*;

#[derive(Default)]
struct FakeEyes {
    verdict: RefCell<Verdict>,
}

impl Eyes for FakeEyes {
    fn verdict(&self) -> Verdict {
        self.verdict.borrow().clone()
    }

    fn reason(&self, message: &str) -> Option<(FailReason, Option<LimitKind>)> {
        message.contains("limit").then_some((FailReason::RateLimit, Some(LimitKind::Window)))
    }
}

struct Rig {
    machine: Machine,
    eyes: FakeEyes,
    now: Duration,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Rig {
    fn new(reports: bool) -> Self {
        let config = Config { reports, self_resumes: false, idle: ms(1000) };
        Self { machine: Machine::new(config), eyes: FakeEyes::default(), now: Duration::ZERO }
    }

    /// Lets the time pass, stopping at each deadline.
    fn wait(&mut self, n: u64) -> &mut Self {
        let to = self.now + ms(n);
        while let Some(due) = self.machine.deadline().filter(|d| *d <= to) {
            self.now = self.now.max(due);
            self.machine.tick(self.now, &self.eyes);
        }
        self.now = to;
        self
    }

    fn claim(&mut self, source: Source, claim: Claim) -> &mut Self {
        let signal = Signal { source, rule: "test".into(), claim };
        self.machine.signal(signal, None, self.now, &self.eyes);
        self
    }

    fn osc(&mut self, claim: Claim) -> &mut Self {
        self.claim(Source::Osc, claim)
    }

    fn hook(&mut self, claim: Claim) -> &mut Self {
        self.claim(Source::Hook, claim)
    }

    fn screen(&mut self, level: Level) -> &mut Self {
        let reading = Reading { level, rule: "screen".into(), composer: None, done: None };
        self.machine.level(&reading, Source::Screen, self.now, &self.eyes);
        self
    }

    fn enter(&mut self) -> &mut Self {
        self.machine.entered(self.now);
        self
    }

    fn escape(&mut self) -> &mut Self {
        self.machine.interrupt_key(self.now);
        self
    }

    /// Kinds of the events so far, states left out.
    fn story(&mut self) -> Vec<String> {
        self.machine.drain().into_iter().map(|d| d.body.kind()).filter(|k| k != "state").collect()
    }

    fn state(&self) -> SessionState {
        self.machine.state().0
    }
}

fn done() -> Claim {
    Claim::TurnDone { answer: None }
}

fn answer(text: &str) -> Claim {
    Claim::TurnDone { answer: Some(text.into()) }
}

fn taken(text: &str) -> Claim {
    Claim::PromptTaken { text: Some(text.into()) }
}

fn ready(reports: bool) -> Rig {
    let mut rig = Rig::new(reports);
    rig.osc(Claim::Idle);
    rig
}

#[test]
fn a_blip_at_startup_is_no_turn() {
    let mut rig = ready(false);
    rig.osc(Claim::Working).wait(600).osc(Claim::Idle).wait(2000);
    assert!(rig.story().is_empty());
    assert_eq!(rig.state(), SessionState::Idle);
}

#[test]
fn a_late_blip_of_the_startup_is_not_the_first_prompts_turn() {
    for reports in [true, false] {
        let mut rig = ready(reports);
        rig.enter().osc(Claim::Working).wait(7).osc(Claim::Idle).wait(110);
        assert!(rig.story().is_empty());
        if reports {
            rig.hook(taken("do it"));
        }
        rig.osc(Claim::Working).wait(600).osc(done()).wait(1000);
        assert_eq!(rig.story(), ["prompt.accepted", "turn.started", "turn.completed"]);
    }
}

#[test]
fn work_that_lasts_is_a_turn_even_if_nobody_typed() {
    let mut rig = ready(false);
    rig.osc(Claim::Working).wait(400).osc(done()).wait(1000);
    assert_eq!(rig.story(), ["turn.started", "turn.completed"]);
}

#[test]
fn the_end_waits_for_the_answer_in_either_order() {
    for hook_first in [true, false] {
        let mut rig = ready(true);
        rig.enter().osc(Claim::Working).wait(100).hook(taken("do it")).wait(500);
        if hook_first {
            rig.hook(answer("it is done")).wait(50).osc(done());
        } else {
            rig.osc(done()).wait(150).hook(answer("it is done"));
        }
        rig.wait(3000);
        let drafts = rig.machine.drain();
        let ends: Vec<&Body> =
            drafts.iter().map(|d| &d.body).filter(|b| matches!(b, Body::TurnCompleted { .. })).collect();
        assert!(matches!(ends[..], [Body::TurnCompleted { answer: Some(a), .. }] if a == "it is done"), "{drafts:?}");
        let starts = drafts.iter().filter(|d| matches!(d.body, Body::TurnStarted {})).count();
        assert_eq!((starts, rig.state()), (1, SessionState::Idle));
    }
}

#[test]
fn a_report_that_never_comes_delays_the_end_a_moment_and_no_longer() {
    let mut rig = ready(true);
    rig.enter().osc(Claim::Working).wait(500).osc(done()).wait(399);
    assert!(!rig.story().contains(&"turn.completed".to_owned()));
    rig.wait(2);
    assert_eq!(rig.story(), ["turn.completed"]);
}

#[test]
fn an_end_that_is_told_twice_or_late_ends_nothing_else() {
    let mut rig = ready(true);
    rig.enter().osc(Claim::Working).hook(taken("one")).wait(100).osc(done()).osc(done()).wait(500);
    // The next turn is under way when the first one's report comes.
    rig.enter().osc(Claim::Working).wait(50).hook(answer("one's")).wait(1000);
    assert_eq!(rig.state(), SessionState::Working);
    rig.hook(taken("two")).wait(100).hook(answer("two's")).osc(done()).wait(2000);
    let story = rig.story();
    assert_eq!(story.iter().filter(|k| *k == "turn.started").count(), 2, "{story:?}");
    assert_eq!(story.iter().filter(|k| *k == "turn.completed").count(), 2, "{story:?}");
}

#[test]
fn two_prompts_with_one_done_are_one_turn_for_who_says_nothing_else() {
    let mut rig = ready(false);
    rig.enter().osc(Claim::Working).wait(100).enter().wait(5000).osc(done()).wait(2000);
    assert_eq!(rig.story().iter().filter(|k| k.starts_with("turn.")).count(), 2);
}

#[test]
fn a_queued_prompt_is_a_second_turn_where_reports_tell() {
    let mut rig = ready(true);
    rig.enter().osc(Claim::Working).hook(taken("one")).wait(1000);
    rig.hook(answer("1")).wait(20).hook(taken("two")).wait(1000).hook(answer("2")).osc(done()).wait(2000);
    let turns: Vec<String> = rig.story().into_iter().filter(|k| k.starts_with("turn.")).collect();
    assert_eq!(turns, ["turn.started", "turn.completed", "turn.started", "turn.completed"]);
    assert_eq!(rig.state(), SessionState::Idle);
}

#[test]
fn work_that_goes_on_after_a_reported_end_is_the_next_turn() {
    let mut rig = ready(true);
    rig.enter().osc(Claim::Working).hook(taken("one")).wait(1000).hook(answer("1")).wait(6000);
    assert_eq!(rig.state(), SessionState::Working);
    rig.osc(done()).wait(2000);
    assert_eq!(rig.machine.turns(), 2);
    assert_eq!(rig.state(), SessionState::Idle);
}

#[test]
fn idle_without_done_is_an_interruption() {
    let mut rig = ready(true);
    rig.enter().osc(Claim::Working).hook(taken("x")).wait(1000).escape().osc(Claim::Idle).wait(1000);
    assert_eq!(rig.story().last().map(String::as_str), Some("turn.interrupted"));
}

#[test]
fn from_the_screen_alone_idle_has_to_stand() {
    let mut rig = Rig::new(false);
    rig.screen(Level::Idle).wait(400);
    assert_eq!(rig.state(), SessionState::Idle);
    rig.enter().screen(Level::Working).wait(500).screen(Level::Idle).wait(600).screen(Level::Working).wait(500);
    assert_eq!(rig.story(), ["prompt.accepted", "turn.started"]);
    rig.screen(Level::Idle).wait(999);
    assert!(rig.story().is_empty());
    rig.wait(2);
    assert_eq!(rig.story(), ["turn.completed"]);
}

#[test]
fn f28_a_screen_that_says_idle_does_not_end_what_reports_say_is_under_way() {
    let mut rig = ready(false);
    rig.enter().osc(Claim::Working).screen(Level::Working).wait(100).screen(Level::Idle).wait(3000);
    assert_eq!(rig.state(), SessionState::Working);
    // But a lost `done` is not waited for forever.
    rig.wait(3000);
    assert_eq!(rig.state(), SessionState::Idle);
}

#[test]
fn a_stale_frame_after_the_end_starts_nothing() {
    let mut rig = ready(false);
    rig.enter().osc(Claim::Working).screen(Level::Working).wait(500).osc(done()).wait(100);
    rig.screen(Level::Working).wait(300).screen(Level::Idle).wait(3000);
    assert_eq!(rig.machine.turns(), 1);
    assert_eq!(rig.state(), SessionState::Idle);
}

#[test]
fn a_question_is_whole_before_it_is_said_and_bound_by_its_hash() {
    let mut rig = ready(true);
    rig.enter().osc(Claim::Working).hook(taken("x")).wait(100);
    let asked = |text: &str, exact: bool, options: &[&str]| Claim::Asked {
        kind: AskKind::Permission,
        tool: exact.then(|| "Bash".to_owned()),
        text: text.into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        exact,
    };
    rig.osc(asked("", false, &[])).wait(50);
    assert!(rig.machine.asking().is_none());
    rig.hook(asked("touch x", true, &[])).wait(50);
    let options = vec!["Yes".to_owned(), "No".to_owned()];
    let menu = Menu { kind: AskKind::Permission, tool: None, text: "touch\nx".into(), options };
    rig.screen(Level::Asked(menu));
    let (_, ask) = rig.machine.asking().expect("the menu was the last that was missing");
    assert_eq!((ask.text.as_str(), ask.exact, ask.options.len()), ("touch x", true, 2));
    assert_eq!((ask.hash.len(), rig.state()), (64, SessionState::Asking));
    rig.osc(Claim::Working);
    assert_eq!(rig.story().last().map(String::as_str), Some("permission.answered"));
}

/// The report of the end may overtake the status report of it, and the last Enter was the answer of a question.
#[test]
fn an_enter_that_answers_a_question_begins_no_turn() {
    let mut rig = ready(true);
    let asked =
        Claim::Asked { kind: AskKind::Permission, tool: None, text: "?".into(), options: Vec::new(), exact: true };
    rig.enter().osc(Claim::Working).wait(100).osc(asked).wait(100).enter().osc(Claim::Working).wait(100);
    rig.claim(Source::Transcript, answer("a")).wait(50).osc(done()).wait(9000);
    assert_eq!(rig.machine.turns(), 1);
}

#[test]
fn a_status_written_before_the_question_answers_nothing_though_it_comes_after_its_report() {
    let mut rig = ready(true);
    rig.hook(taken("do it")).osc(Claim::Working).wait(100).story();
    let asked = |text: &str, exact| Claim::Asked {
        kind: AskKind::Permission,
        tool: Some("Bash".into()),
        text: text.into(),
        options: Vec::new(),
        exact,
    };
    rig.hook(asked("rm x", true)).osc(Claim::Working).wait(100).osc(asked("approve Bash: rm x", false)).wait(1500);
    assert_eq!(rig.story(), ["permission.asked"]);
    rig.osc(Claim::Working);
    assert_eq!(rig.story(), ["permission.answered"]);
}

#[test]
fn a_frame_drawn_before_the_question_answers_nothing_though_it_is_seen_after_its_report() {
    let asked = || Claim::Asked {
        kind: AskKind::Permission,
        tool: None,
        text: "rm x".into(),
        options: Vec::new(),
        exact: true,
    };
    let menu = || Menu { kind: AskKind::Permission, tool: None, text: "rm x".into(), options: Vec::new() };
    for still in [Level::Working, Level::Idle] {
        let mut rig = Rig::new(true);
        rig.screen(Level::Idle).wait(1000).hook(taken("do it")).screen(Level::Working).wait(100).story();
        rig.hook(asked()).screen(still).wait(900);
        assert_eq!(rig.story(), ["permission.asked"]);
        rig.screen(Level::Asked(menu())).wait(100).screen(Level::Working);
        assert_eq!(rig.story(), ["permission.answered"]);
    }
    // The menu was never seen: in the end what is seen counts.
    let mut rig = Rig::new(true);
    rig.hook(taken("do it")).hook(asked()).wait(6000).screen(Level::Working);
    assert_eq!(rig.story().last().unwrap(), "permission.answered");
}

#[test]
fn a_status_that_speaks_of_the_background_begins_no_turn() {
    // The end is told by a report, by a row of the screen; the status goes on saying that something works.
    for reported in [true, false] {
        let mut rig = ready(reported);
        rig.enter().osc(Claim::Working).screen(Level::Working).wait(500).story();
        if reported {
            rig.hook(answer("It runs.")).screen(Level::Idle);
        } else {
            let done = Reading { level: Level::Idle, rule: "ready".into(), composer: None, done: Some("row".into()) };
            rig.machine.level(&done, Source::Screen, rig.now, &rig.eyes);
        }
        rig.wait(100).osc(Claim::Working).wait(20_000).osc(Claim::Working).wait(20_000);
        assert_eq!(rig.story().iter().filter(|k| k.starts_with("turn.")).count(), 1, "reported: {reported}");
        assert_eq!(rig.state(), SessionState::Idle);
        // It is over, and the agent begins a turn of its own: the frame shows it.
        rig.screen(Level::Working).wait(500).screen(Level::Idle).osc(done());
        rig.wait(1000);
        assert_eq!(rig.machine.turns(), 2);
        assert_eq!(rig.state(), SessionState::Idle);
    }
}

#[test]
fn a_report_that_is_missed_is_named_once() {
    let mut rig = ready(true);
    rig.hook(taken("a")).wait(100).hook(answer("x")).wait(9000);
    assert!(!rig.story().contains(&"note".into()));
    for expected in [1, 0] {
        rig.enter().osc(Claim::Working).wait(1000).osc(done()).wait(9000);
        assert_eq!(rig.story().iter().filter(|k| *k == "note").count(), expected);
    }
    // Late is not missing.
    rig.hook(taken("b")).osc(Claim::Working).wait(100).osc(done()).wait(2000).hook(answer("y")).wait(9000);
    assert!(!rig.story().contains(&"note".into()));
}

#[test]
fn the_late_report_of_a_prompt_answers_no_question_of_its_turn() {
    let mut rig = ready(true);
    rig.enter().osc(Claim::Working).story();
    let text = "approve Bash: rm x".to_owned();
    rig.osc(Claim::Asked { kind: AskKind::Permission, tool: None, text, options: Vec::new(), exact: false });
    rig.hook(taken("do it")).wait(1500).story();
    assert_eq!(rig.state(), SessionState::Asking);
}

#[test]
fn a_question_is_said_within_a_second_whatever_is_missing() {
    let mut rig = ready(true);
    rig.enter().osc(Claim::Working).wait(100);
    rig.osc(Claim::Asked { kind: AskKind::Question, tool: None, text: "which?".into(), options: vec![], exact: false });
    rig.wait(900);
    assert_eq!(rig.story().last().map(String::as_str), Some("question.asked"));
}

#[test]
fn a_menu_that_stays_counts_though_no_report_told_of_it() {
    let menu = Menu { kind: AskKind::Permission, tool: None, text: "may I?".into(), options: vec!["Yes".into()] };
    let mut rig = ready(false);
    rig.enter().osc(Claim::Working).wait(100).screen(Level::Asked(menu.clone())).wait(200).screen(Level::Working);
    rig.wait(5000);
    assert!(!rig.story().contains(&"permission.asked".to_owned()), "it went again");
    rig.screen(Level::Asked(menu)).wait(1100);
    assert_eq!(rig.story(), ["permission.asked"]);
}

#[test]
fn a_question_before_the_agent_was_ever_ready_is_setup() {
    let mut rig = Rig::new(true);
    rig.osc(Claim::Asked {
        kind: AskKind::Permission,
        tool: None,
        text: "trust this".into(),
        options: vec![],
        exact: false,
    });
    assert_eq!((rig.state(), rig.machine.setup()), (SessionState::Setup, Some("trust this")));
    rig.osc(Claim::Idle);
    assert_eq!((rig.state(), rig.machine.setup()), (SessionState::Idle, None));
}

#[test]
fn a_limit_is_told_with_the_failure_and_the_session_becomes_usable_again() {
    let mut rig = ready(false);
    rig.enter().osc(Claim::Working).wait(100);
    rig.osc(Claim::TurnFailed { reason: FailReason::Other, message: "usage limit".into() }).wait(200);
    assert_eq!(rig.state(), SessionState::Limited);
    assert_eq!(rig.story()[2..], ["limit.reached", "turn.failed"]);
    rig.wait(1000);
    assert_eq!(rig.state(), SessionState::Idle);
}

#[test]
fn the_end_of_the_process_ends_the_turn() {
    let mut rig = ready(false);
    rig.enter().osc(Claim::Working).wait(100);
    rig.machine.exited(rig.now, &rig.eyes);
    rig.machine.exited(rig.now, &rig.eyes);
    assert_eq!(rig.story().iter().filter(|k| *k == "turn.failed").count(), 1);
    assert_eq!(rig.state(), SessionState::Exited);
}

#[test]
fn our_prompt_is_told_by_its_hash_and_a_humans_as_such() {
    let mut rig = ready(true);
    rig.machine.prompt("h1", "do  this\r\n", rig.now);
    rig.wait(50).hook(taken("do  this")).osc(Claim::Working).wait(100).hook(done()).osc(done()).wait(1000);
    rig.enter().wait(50).hook(taken("mine")).wait(100);
    let accepted: Vec<(Option<String>, bool)> = rig
        .machine
        .drain()
        .into_iter()
        .filter_map(|d| match d.body {
            Body::PromptAccepted { hash, human, .. } => Some((hash, human)),
            _ => None,
        })
        .collect();
    assert_eq!(accepted[0], (Some("h1".into()), false));
    assert!(accepted[1].1 && accepted.len() == 2, "{accepted:?}");
}

#[test]
fn one_message_told_by_two_witnesses_is_one_and_its_blocks_are_exact() {
    let mut rig = ready(true);
    let text = "see:\n```rust\nfn x() {}\n```";
    let message = || Claim::Content(Box::new(Body::Message { text: text.into(), exact: true, truncated: false }));
    rig.enter().osc(Claim::Working).hook(taken("x")).hook(message()).claim(Source::Transcript, message());
    rig.hook(answer(text)).osc(done()).wait(1000);
    let story = rig.story();
    assert_eq!(story.iter().filter(|k| *k == "message").count(), 1, "{story:?}");
    assert_eq!(story.iter().filter(|k| *k == "code.block").count(), 1, "{story:?}");
}

#[test]
fn t01_a_prompt_that_a_command_printed_ends_no_turn_while_the_command_has_the_terminal() {
    let mut rig = Rig::new(false);
    rig.machine.ask_front();
    rig.screen(Level::Idle).now = ms(300);
    assert!(rig.machine.wants_front(rig.now), "the first prompt is doubted too");
    rig.machine.in_front(true, rig.now, &rig.eyes);
    assert_eq!(rig.state(), SessionState::Idle);
    rig.enter().claim(Source::Line, taken("")).screen(Level::Idle);
    for _ in 0..10 {
        let due = rig.machine.deadline().expect("the prompt stands");
        rig.now = due;
        rig.machine.tick(due, &rig.eyes);
        assert!(rig.machine.wants_front(due));
        rig.machine.in_front(false, due, &rig.eyes);
    }
    assert_eq!(rig.machine.deadline(), Some(rig.now + DOUBT_MAX), "asked less and less often");
    assert_eq!(rig.state(), SessionState::Working);
    // Its own prompt, after the last word of the command, gets the usual patience again.
    rig.screen(Level::Idle).now += ms(1000);
    assert!(rig.machine.wants_front(rig.now));
    rig.machine.in_front(true, rig.now, &rig.eyes);
    assert_eq!(rig.state(), SessionState::Idle);
    assert_eq!(rig.story(), ["prompt.accepted", "turn.started", "turn.completed"]);
}

#[test]
fn f27_what_a_tool_is_given_is_bounded_and_marked() {
    let mut rig = ready(true);
    let input = serde_json::json!({"path": "/x", "text": "y".repeat(2 << 20), "z": 1});
    let call = Body::ToolStarted { id: Some("t".into()), name: "write".into(), input: Some(input), truncated: false };
    rig.hook(taken("x")).hook(Claim::Content(Box::new(call)));
    let told = rig.machine.drain().into_iter().find_map(|d| match d.body {
        Body::ToolStarted { input: Some(input), truncated, .. } => Some((input, truncated)),
        _ => None,
    });
    let (input, truncated) = told.expect("the call is told");
    assert!(truncated && input["path"] == "/x", "{}", input["path"]);
    assert!(input.to_string().len() < MAX_TEXT_BYTES + 100);
}
