//! A model of daemon, wrapper, agent and a human, killed at every point: every reachable world is visited.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::queue::transition::{Actor, Verb, allowed};
use TaskState::{Claimed, Completed, Failed, Preparing, Queued, Ready, RetryWait, Review, Running, Sending, Verifying};

/// Kills in one history of the exhaustive walk.
const KILLS: u8 = 3;

/// A wrapper with its agent, as far as a prompt came in it. Dies with all but its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Wrapper {
    Fresh,
    /// Asked to send.
    Asked,
    /// The intent is on the disk.
    Intended,
    /// The agent received the prompt.
    Written,
    /// The acceptance is on the disk.
    Accepted,
    /// The end of the turn is on the disk.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    idempotent: bool,
    // The store: survives everything.
    state: TaskState,
    fence: u8,
    /// Fence of the live attempt.
    live: Option<u8>,
    /// Final states recorded.
    outcomes: u8,
    // The run of the attempt: its journal survives.
    journal: Evidence,
    wrapper: Option<Wrapper>,
    // The daemon: `Some(true)` while its driver knows where it is.
    daemon: Option<bool>,
    // The agent's ledger and the log of the kills.
    received: u8,
    finished: u8,
    killed_unsure: bool,
    killed_working: bool,
    kills_left: u8,
    cancelled: bool,
}

/// One thing that may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Happens {
    Daemon,
    Wrapper,
    KillDaemon,
    KillWrapper,
    KillBoth,
    Cancel,
}

impl Happens {
    const ALL: [Self; 6] =
        [Self::Daemon, Self::Wrapper, Self::KillDaemon, Self::KillWrapper, Self::KillBoth, Self::Cancel];
}

type Decide = fn(&AttemptFacts) -> Resume;

impl World {
    fn new(idempotent: bool, kills: u8) -> Self {
        Self {
            idempotent,
            state: Queued,
            fence: 0,
            live: None,
            outcomes: 0,
            journal: Evidence::default(),
            wrapper: None,
            daemon: Some(true),
            received: 0,
            finished: 0,
            killed_unsure: false,
            killed_working: false,
            kills_left: kills,
            cancelled: false,
        }
    }

    fn over(&self) -> bool {
        self.live.is_none() && (self.state.is_final() || self.state == Review)
    }

    /// Lets it happen; false where it cannot.
    fn happen(&mut self, what: Happens, decide: Decide) -> bool {
        match what {
            Happens::Daemon => return self.drive(decide),
            Happens::Wrapper => return self.work(),
            Happens::KillDaemon | Happens::KillWrapper | Happens::KillBoth if self.kills_left == 0 => return false,
            Happens::KillDaemon => {
                if self.daemon.take().is_none() {
                    return false;
                }
                self.kills_left -= 1;
            }
            Happens::KillWrapper => {
                if !self.kill_wrapper() {
                    return false;
                }
                self.kills_left -= 1;
            }
            Happens::KillBoth => {
                if self.daemon.is_none() || !self.kill_wrapper() {
                    return false;
                }
                self.daemon = None;
                self.kills_left -= 1;
            }
            Happens::Cancel => {
                if self.cancelled || !Verb::Cancel.from().contains(&self.state) {
                    return false;
                }
                self.cancelled = true;
                self.set(Actor::Human(Verb::Cancel), TaskState::Cancelled);
                self.fence += 1;
            }
        }
        true
    }

    fn kill_wrapper(&mut self) -> bool {
        let Some(was) = self.wrapper.take() else { return false };
        self.killed_unsure |= matches!(was, Wrapper::Intended | Wrapper::Written);
        self.killed_working |= was == Wrapper::Accepted;
        true
    }

    /// One step of the wrapper and its agent. What they do does not depend on the daemon.
    fn work(&mut self) -> bool {
        let Some(wrapper) = &mut self.wrapper else { return false };
        *wrapper = match *wrapper {
            Wrapper::Fresh | Wrapper::Ended => return false,
            Wrapper::Asked => {
                self.journal.prompt = Arrival::Intended;
                Wrapper::Intended
            }
            Wrapper::Intended => {
                self.received += 1;
                Wrapper::Written
            }
            Wrapper::Written => {
                self.journal.prompt = Arrival::Accepted;
                Wrapper::Accepted
            }
            Wrapper::Accepted => {
                self.journal.turn_ended = true;
                self.finished += 1;
                Wrapper::Ended
            }
        };
        true
    }

    fn set(&mut self, actor: Actor, to: TaskState) {
        assert!(allowed(actor, self.state, to), "{actor:?}: {:?} -> {to:?}", self.state);
        self.outcomes += u8::from(to.is_final());
        self.state = to;
        if actor == Actor::Attempt && !to.is_live() {
            self.live = None;
        }
    }

    /// One durable step of the daemon: commits one transition, or asks the wrapper for one thing.
    fn drive(&mut self, decide: Decide) -> bool {
        let Some(knows) = self.daemon else {
            self.daemon = Some(false);
            return true;
        };
        let Some(fence) = self.live else {
            match self.state {
                Queued => {
                    self.set(Actor::Queue, Claimed);
                    self.fence += 1;
                    self.live = Some(self.fence);
                    self.journal = Evidence::default();
                    self.daemon = Some(true);
                }
                RetryWait => self.set(Actor::Queue, Queued),
                _ => return false,
            }
            return true;
        };
        let sent_to_the_dead = self.wrapper.is_none() && matches!(self.state, Sending | Running);
        if !knows || fence != self.fence || sent_to_the_dead {
            let facts = AttemptFacts {
                state: self.state,
                fenced: fence != self.fence,
                idempotent: self.idempotent,
                alive: self.wrapper.is_some(),
                evidence: self.journal,
            };
            self.daemon = Some(true);
            self.resume(decide(&facts));
            return true;
        }
        match self.state {
            Claimed => self.set(Actor::Attempt, Preparing),
            Preparing if self.wrapper.is_none() => self.wrapper = Some(Wrapper::Fresh),
            Preparing => self.set(Actor::Attempt, Ready),
            Ready if self.wrapper.is_none() => self.set(Actor::Attempt, Preparing),
            Ready => self.set(Actor::Attempt, Sending),
            Sending | Running => return self.watch(),
            Verifying => self.set(Actor::Attempt, Completed),
            state => panic!("a live attempt in {state:?}"),
        }
        true
    }

    fn watch(&mut self) -> bool {
        match (self.state, self.journal.prompt) {
            (Sending, Arrival::Unsent) if self.wrapper == Some(Wrapper::Fresh) => self.ask(),
            (Sending, Arrival::Accepted) => self.set(Actor::Attempt, Running),
            (Running, _) if self.journal.turn_ended => self.set(Actor::Attempt, Verifying),
            _ => return false,
        }
        true
    }

    /// The wrapper's promise: the same key is written at most once.
    fn ask(&mut self) {
        if self.wrapper == Some(Wrapper::Fresh) {
            self.wrapper = Some(Wrapper::Asked);
        }
    }

    fn resume(&mut self, how: Resume) {
        match how {
            Resume::Release => {
                self.wrapper = None;
                self.live = None;
            }
            Resume::Requeue => {
                self.wrapper = None;
                self.set(Actor::Attempt, Queued);
            }
            Resume::Prepare => {
                if self.state == Ready {
                    self.set(Actor::Attempt, Preparing);
                }
            }
            Resume::Send => self.ask(),
            Resume::Watch | Resume::Judge => {
                if self.state != Running {
                    self.set(Actor::Attempt, Running);
                } else if how == Resume::Judge {
                    self.set(Actor::Attempt, Verifying);
                }
            }
            Resume::Verify => {}
            Resume::Retry(_) => {
                self.wrapper = None;
                self.set(Actor::Attempt, RetryWait);
            }
            Resume::Fail(_) => self.set(Actor::Attempt, Failed),
            Resume::Review(_) => self.set(Actor::Attempt, Review),
        }
    }

    /// What must hold in every world; `Err` says what does not.
    fn check(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        let mut must = |holds: bool, what: &'static str| {
            if !holds {
                wrong.push(what);
            }
        };
        must(self.idempotent || self.received <= 1, "a prompt that may not be sent twice was received twice");
        must(self.outcomes <= 1, "two outcomes were recorded");
        must(self.state != Completed || self.finished >= 1, "completed without a finished turn");
        must(self.state != Review || !self.idempotent, "an idempotent task waits for a human");
        must(self.state != Review || self.killed_unsure, "review without a kill between intent and acceptance");
        must(self.state != Failed || (self.killed_working && !self.idempotent), "failed though nothing was lost");
        if self.over() {
            must(self.state.is_final() == (self.outcomes == 1), "ended without an outcome");
            must(self.cancelled || !self.idempotent || self.state == Completed, "an idempotent task did not complete");
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{}: {self:?}", wrong.join("; "))) }
    }
}

/// Visits every world that can be reached; returns how many there are, and how many steps lead between them.
fn visit(decide: Decide) -> Result<(usize, usize), String> {
    let mut seen = HashSet::new();
    let mut open = vec![World::new(false, KILLS), World::new(true, KILLS)];
    let mut steps = 0;
    while let Some(world) = open.pop() {
        if !seen.insert(world) {
            continue;
        }
        world.check()?;
        let mut moved = false;
        for what in Happens::ALL {
            let mut next = world;
            if next.happen(what, decide) {
                steps += 1;
                moved |= next != world && matches!(what, Happens::Daemon | Happens::Wrapper);
                open.push(next);
            }
        }
        if !moved && !world.over() {
            return Err(format!("stuck: {world:?}"));
        }
    }
    Ok((seen.len(), steps))
}

#[test]
fn f18_every_reachable_world_converges_to_one_truthful_outcome() {
    let (worlds, steps) = visit(decide).unwrap();
    assert!(worlds > 1_000 && steps > worlds, "{worlds} worlds, {steps} steps");
}

#[test]
fn f06_the_model_finds_the_planted_resend_after_an_ambiguous_send() {
    let planted: Decide = |facts| match decide(facts) {
        Resume::Review(reason) => Resume::Retry(reason),
        other => other,
    };
    assert!(visit(planted).unwrap_err().contains("received twice"));
}

#[test]
fn f06_the_model_finds_an_answer_that_is_too_careful() {
    let planted: Decide = |facts| match decide(facts) {
        Resume::Requeue if facts.state == Sending => Resume::Review(NO_ACCEPTANCE),
        other => other,
    };
    assert!(visit(planted).unwrap_err().contains("review without a kill"));
}

#[test]
fn f06_the_model_finds_a_task_that_is_forgotten() {
    let planted: Decide = |facts| match decide(facts) {
        Resume::Fail(_) => Resume::Watch,
        other => other,
    };
    assert!(visit(planted).unwrap_err().contains("stuck"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Longer histories than the exhaustive walk has, with any number of kills.
    #[test]
    fn f18_any_number_of_crashes_converges(idempotent: bool, mut choices: [u64; 2], kills in 0u8..12) {
        let mut world = World::new(idempotent, kills);
        // Half of the histories are long on work, half on kills.
        for word in &mut choices {
            for _ in 0..21 {
                world.happen(Happens::ALL[usize::try_from(*word % 8).unwrap() % 6], decide);
                *word /= 8;
            }
        }
        world.kills_left = 0;
        for _ in 0..40 {
            if !world.happen(Happens::Daemon, decide) {
                world.happen(Happens::Wrapper, decide);
            }
        }
        prop_assert!(world.over(), "{world:?}");
        world.check().map_err(TestCaseError::fail)?;
    }
}

fn facts(state: TaskState, prompt: Arrival, alive: bool, idempotent: bool) -> AttemptFacts {
    AttemptFacts { state, fenced: false, idempotent, alive, evidence: Evidence { prompt, turn_ended: false } }
}

#[test]
fn f02_f03_f04_before_the_first_byte_nothing_is_charged_or_doubted() {
    assert_eq!(decide(&facts(Claimed, Arrival::Unsent, false, false)), Resume::Requeue);
    assert_eq!(decide(&facts(Preparing, Arrival::Unsent, true, false)), Resume::Prepare);
    assert_eq!(decide(&facts(Sending, Arrival::Unsent, true, false)), Resume::Send);
    assert_eq!(decide(&facts(Sending, Arrival::Unsent, false, false)), Resume::Requeue);
}

#[test]
fn f06_an_unsure_prompt_is_for_a_human_unless_it_may_be_sent_twice() {
    for prompt in [Arrival::Intended, Arrival::Unaccepted(Verdict::Unverified)] {
        assert_eq!(decide(&facts(Sending, prompt, false, false)), Resume::Review(NO_ACCEPTANCE));
        assert_eq!(decide(&facts(Sending, prompt, false, true)), Resume::Retry(NO_ACCEPTANCE));
    }
}

#[test]
fn f08_a_gate_is_run_again_whatever_became_of_the_agent() {
    for alive in [false, true] {
        assert_eq!(decide(&facts(Verifying, Arrival::Accepted, alive, false)), Resume::Verify);
    }
}

#[test]
fn a_human_s_decision_comes_first() {
    for state in TaskState::ALL {
        let facts = AttemptFacts { fenced: true, ..facts(state, Arrival::Accepted, true, true) };
        assert_eq!(decide(&facts), Resume::Release);
    }
}

#[test]
fn evidence_is_read_for_this_attempt_only_and_late_evidence_counts() {
    let key = AttemptKey { task: crate::ids::TaskId(1), attempt: 2, fence: 2 };
    let event = |fence: i64, body: Body| Event {
        id: None,
        seq: Some(1),
        ts: crate::clock::Timestamp::UNIX_EPOCH,
        t: None,
        host: String::new(),
        session: None,
        run: None,
        attempt: Some(AttemptKey { fence, ..key }),
        body,
        source: crate::extract::event::Source::Input,
        rule: String::new(),
        span: None,
    };
    let intent = || Body::PromptIntent { hash: "h".into(), bytes: 1 };
    let accepted = || Body::PromptAccepted { hash: None, verdict: Verdict::Accepted, human: false };
    let ended = || Body::TurnCompleted { answer: None, duration_ms: 1, truncated: false };
    let read = |events: &[Event]| Evidence::read(events, key);
    assert_eq!(read(&[event(1, intent()), event(1, accepted()), event(1, ended())]), Evidence::default());
    assert_eq!(read(&[event(1, ended()), event(2, intent())]).prompt, Arrival::Intended);
    let all = read(&[event(2, intent()), event(2, accepted()), event(2, ended())]);
    assert_eq!(all, Evidence { prompt: Arrival::Accepted, turn_ended: true });
    let unsure = Body::PromptUnaccepted { hash: "h".into(), verdict: Verdict::Unverified, why: String::new() };
    assert_eq!(read(&[event(2, intent()), event(2, unsure), event(2, ended())]).prompt, Arrival::Accepted);
}
