//! What the events of a run tell about the turn of one attempt. Pure: events in, in the order of the journal.
//!
//! The same events give the same answer whether they come live or, after a crash of the daemon, from the store.

use crate::clock::Timestamp;
use crate::extract::event::{Ask, AskKind, Body, Event, FailReason, SessionState, Verdict};
use crate::ids::AttemptKey;

/// How the turn of an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// The agent says it is done.
    Done {
        /// Its last answer, where known.
        answer: Option<String>,
        /// It was told out of band, by a report of this launch.
        report: bool,
        /// Length of the turn, as the wrapper measured it.
        duration_ms: u64,
    },
    /// The agent gave up.
    Failed { reason: FailReason, message: String },
    /// Somebody at the terminal interrupted it.
    Interrupted,
    /// A usage limit ended it.
    Limit { text: String, resets_at: Option<Timestamp> },
    /// The process ended first.
    Exited { code: Option<i32>, signal: Option<i32>, reason: String },
}

/// Where the turn is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stage {
    /// Our prompt was not begun in this run, as far as its journal tells.
    Unsent,
    /// Begun, and nothing tells that the agent took it.
    Sent,
    /// The agent works on it.
    Working,
    /// It waits for an answer.
    Asking(AskKind, Ask),
    /// A limit holds it, and it will go on by itself.
    Limited { text: String, resets_at: Option<Timestamp> },
    /// It is over.
    Ended(End),
}

/// Follows one attempt through the events of its run.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    key: AttemptKey,
    begun: bool,
    accepted: bool,
    unaccepted: Option<Verdict>,
    asking: Option<(AskKind, Ask)>,
    limited: Option<(String, Option<Timestamp>)>,
    end: Option<End>,
    exit: Option<End>,
    state: SessionState,
    /// Last exact message of this turn that came by a report.
    reported: Option<String>,
    /// Last line taken into account: what comes twice is skipped.
    seq: u64,
}

impl Turn {
    /// The turn of a prompt that will be typed into a run.
    pub(crate) fn typed(key: AttemptKey) -> Self {
        Self {
            key,
            begun: false,
            accepted: false,
            unaccepted: None,
            asking: None,
            limited: None,
            end: None,
            exit: None,
            state: SessionState::Unknown,
            reported: None,
            seq: 0,
        }
    }

    /// The turn of a command that was started with its prompt.
    pub(crate) fn oneshot(key: AttemptKey) -> Self {
        Self { begun: true, accepted: true, ..Self::typed(key) }
    }

    /// Takes an event of the run into account.
    pub(crate) fn apply(&mut self, event: &Event) {
        if let Some(seq) = event.seq {
            if seq <= self.seq {
                return;
            }
            self.seq = seq;
        }
        match &event.body {
            Body::State { state, .. } => self.state = *state,
            Body::RunExited { code, signal, reason } => {
                self.asking = None;
                self.exit = Some(End::Exited { code: *code, signal: *signal, reason: reason.clone() });
            }
            Body::PromptIntent { .. } if event.attempt == Some(self.key) => self.begun = true,
            _ => {}
        }
        // A failure told before its limit gives way to it.
        let limit_beside = matches!((&self.end, &event.body), (Some(End::Failed { .. }), Body::LimitReached { .. }));
        if self.begun && (self.end.is_none() || limit_beside) {
            self.follow(event);
        } else if let (Some(End::Done { answer, report, .. }), true) = (&mut self.end, event.source.is_report()) {
            // A report that came after the output had told the end already.
            match &event.body {
                Body::TurnCompleted { answer: told, .. } => {
                    *report = true;
                    *answer = told.clone().or_else(|| answer.take());
                }
                Body::Message { text, exact: true, .. } => {
                    *report = true;
                    *answer = Some(text.clone());
                }
                _ => {}
            }
        }
    }

    fn follow(&mut self, event: &Event) {
        match &event.body {
            Body::PromptAccepted { human: false, .. } => self.accepted = true,
            Body::PromptUnaccepted { verdict, .. } => self.unaccepted = Some(*verdict),
            Body::TurnStarted {} => {
                self.accepted = true;
                self.limited = None;
                self.asking = None;
            }
            Body::State { state: SessionState::Working, .. } => {
                self.asking = None;
                self.limited = None;
            }
            Body::PermissionAsked(ask) => self.asking = Some((AskKind::Permission, ask.clone())),
            Body::QuestionAsked(ask) => self.asking = Some((AskKind::Question, ask.clone())),
            Body::PermissionAnswered { .. } | Body::QuestionAnswered { .. } => self.asking = None,
            Body::Message { text, exact: true, .. } if event.source.is_report() => self.reported = Some(text.clone()),
            Body::TurnCompleted { answer, duration_ms, .. } if self.accepted => {
                self.end = Some(End::Done {
                    answer: answer.clone().or_else(|| self.reported.clone()),
                    // A message within the turn is no word about its end; the one after it, or its report, comes soon.
                    report: event.source.is_report(),
                    duration_ms: *duration_ms,
                });
            }
            // A limit is told beside a failure, before or after it; the limit is the better word.
            Body::LimitReached { text, resets_at, self_resumes: true, .. } => {
                self.end = None;
                self.limited = Some((text.clone(), *resets_at));
            }
            Body::LimitReached { text, resets_at, self_resumes: false, .. } => {
                self.end = Some(End::Limit { text: text.clone(), resets_at: *resets_at });
            }
            Body::TurnFailed { .. } if self.limited.is_some() => {}
            // Only the wrapper's word for an exit, which follows: it tells how, and whether that may be tried again.
            Body::TurnFailed { reason: FailReason::Exited, .. } => {}
            Body::TurnFailed { reason, message, .. } => {
                self.end = Some(End::Failed { reason: *reason, message: message.clone() });
            }
            Body::TurnInterrupted { .. } => self.end = Some(End::Interrupted),
            _ => {}
        }
        if self.end.is_some() {
            self.asking = None;
            self.limited = None;
        }
    }

    /// Where it is.
    pub(crate) fn stage(&self) -> Stage {
        match (&self.end, &self.exit, &self.asking, &self.limited) {
            (Some(end), ..) | (None, Some(end), ..) => Stage::Ended(end.clone()),
            (_, _, Some((kind, ask)), _) => Stage::Asking(*kind, ask.clone()),
            (_, _, _, Some((text, resets_at))) => Stage::Limited { text: text.clone(), resets_at: *resets_at },
            _ if self.accepted => Stage::Working,
            _ if self.begun => Stage::Sent,
            _ => Stage::Unsent,
        }
    }

    /// The wrapper itself says that the agent took the prompt.
    pub(crate) fn taken(&mut self) {
        (self.begun, self.accepted) = (true, true);
    }

    /// Whether the first byte of the prompt may have been written.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Whether the agent was seen to take the prompt.
    pub(crate) fn accepted(&self) -> bool {
        self.accepted
    }

    /// The wrapper's verdict on a prompt that was written and not seen to arrive.
    pub(crate) fn unaccepted(&self) -> Option<Verdict> {
        self.unaccepted
    }

    /// Whether the turn ended, well or not, while its process lived.
    pub(crate) fn ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the run has ended, whatever became of the turn before.
    pub(crate) fn exited(&self) -> bool {
        self.exit.is_some()
    }

    /// Whether nothing more of the turn is to come: the input is free again, or there is none any more.
    pub(crate) fn settled(&self) -> bool {
        self.exited() || (self.end.is_some() && self.state == SessionState::Idle)
    }

    /// Last journal line taken into account.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::event::{LimitKind, Source};
    use crate::ids::TaskId;

    const KEY: AttemptKey = AttemptKey { task: TaskId(7), attempt: 1, fence: 3 };

    struct Script {
        turn: Turn,
        seq: u64,
    }

    impl Script {
        fn new() -> Self {
            Self { turn: Turn::typed(KEY), seq: 0 }
        }

        fn sent() -> Self {
            let mut s = Self::new();
            s.say(Source::Input, Some(KEY), Body::PromptIntent { hash: "h".into(), bytes: 1 });
            s
        }

        fn accepted() -> Self {
            let mut s = Self::sent();
            s.osc(Body::PromptAccepted { hash: None, verdict: Verdict::Accepted, human: false });
            s.osc(Body::TurnStarted {});
            s.osc(Body::State { state: SessionState::Working, was: SessionState::Idle });
            s
        }

        fn say(&mut self, source: Source, attempt: Option<AttemptKey>, body: Body) -> Stage {
            self.seq += 1;
            self.turn.apply(&Event {
                id: None,
                seq: Some(self.seq),
                ts: Timestamp::UNIX_EPOCH,
                t: None,
                host: String::new(),
                session: None,
                run: None,
                attempt,
                body,
                source,
                rule: String::new(),
                span: None,
            });
            self.turn.stage()
        }

        fn osc(&mut self, body: Body) -> Stage {
            self.say(Source::Osc, None, body)
        }
    }

    fn completed(answer: Option<&str>) -> Body {
        Body::TurnCompleted { answer: answer.map(str::to_owned), duration_ms: 5, truncated: false }
    }

    fn ask(text: &str) -> Ask {
        Ask { hash: text.into(), tool: None, text: text.into(), options: vec![], exact: true }
    }

    #[test]
    fn turns_before_our_prompt_are_not_ours() {
        let mut s = Script::new();
        s.osc(Body::TurnStarted {});
        assert_eq!(s.osc(completed(Some("old"))), Stage::Unsent);
        s.say(Source::Input, Some(AttemptKey { fence: 2, ..KEY }), Body::PromptIntent { hash: "h".into(), bytes: 1 });
        assert_eq!(s.turn.stage(), Stage::Unsent, "an older attempt's");
        s.say(Source::Input, Some(KEY), Body::PromptIntent { hash: "h".into(), bytes: 1 });
        assert_eq!(s.turn.stage(), Stage::Sent);
        assert_eq!(s.osc(completed(None)), Stage::Sent, "t02: an end without a beginning is no end");
    }

    #[test]
    fn a_report_proves_more_than_output_also_when_it_comes_late() {
        let mut s = Script::accepted();
        let end = Stage::Ended(End::Done { answer: None, report: false, duration_ms: 5 });
        assert_eq!(s.osc(completed(None)), end);
        assert!(!s.turn.settled());
        s.osc(Body::State { state: SessionState::Idle, was: SessionState::Working });
        assert!(s.turn.settled());
        let told = s.say(Source::Hook, None, completed(Some("exact")));
        assert_eq!(told, Stage::Ended(End::Done { answer: Some("exact".into()), report: true, duration_ms: 5 }));
    }

    #[test]
    fn a_message_by_report_is_the_answer_of_an_end_told_by_output_and_proves_it_only_after_it() {
        let mut s = Script::accepted();
        let message = |text: &str| Body::Message { text: text.into(), exact: true, truncated: false };
        s.say(Source::Hook, None, message("m"));
        let end = s.osc(completed(None));
        assert_eq!(end, Stage::Ended(End::Done { answer: Some("m".into()), report: false, duration_ms: 5 }));
        let end = s.say(Source::Hook, None, message("n"));
        assert_eq!(end, Stage::Ended(End::Done { answer: Some("n".into()), report: true, duration_ms: 5 }));
    }

    #[test]
    fn asking_comes_and_goes_by_answer_or_by_work() {
        let mut s = Script::accepted();
        assert_eq!(s.osc(Body::PermissionAsked(ask("a"))), Stage::Asking(AskKind::Permission, ask("a")));
        assert_eq!(s.osc(Body::PermissionAnswered { hash: "a".into(), allowed: Some(true) }), Stage::Working);
        s.osc(Body::QuestionAsked(ask("b")));
        assert_eq!(s.osc(Body::State { state: SessionState::Working, was: SessionState::Asking }), Stage::Working);
    }

    #[test]
    fn a_limit_wins_over_the_failure_told_beside_it() {
        let failed = Body::TurnFailed { reason: FailReason::RateLimit, message: "429".into(), duration_ms: 1 };
        let limit = |self_resumes| Body::LimitReached {
            kind: LimitKind::Window,
            text: "limit".into(),
            resets_at: None,
            self_resumes,
        };
        let mut s = Script::accepted();
        s.osc(limit(true));
        assert_eq!(s.osc(failed.clone()), Stage::Limited { text: "limit".into(), resets_at: None });
        s.osc(Body::TurnStarted {});
        assert_eq!(s.turn.stage(), Stage::Working, "it went on by itself");
        let mut s = Script::accepted();
        s.osc(limit(false));
        let ended = Stage::Ended(End::Limit { text: "limit".into(), resets_at: None });
        assert_eq!(s.osc(failed.clone()), ended);
        let mut s = Script::accepted();
        s.osc(failed);
        assert_eq!(s.osc(limit(false)), ended, "also when it is told second");
    }

    #[test]
    fn f10_an_exit_in_mid_turn_is_an_end_and_an_exit_after_the_end_is_not() {
        let gone = Body::RunExited { code: None, signal: Some(9), reason: "signal".into() };
        let mut s = Script::accepted();
        let failed = Body::TurnFailed { reason: FailReason::Exited, message: String::new(), duration_ms: 1 };
        assert_eq!(s.osc(failed), Stage::Working);
        assert!(matches!(s.osc(gone.clone()), Stage::Ended(End::Exited { signal: Some(9), .. })));
        let mut s = Script::accepted();
        s.say(Source::Hook, None, completed(None));
        assert!(matches!(s.osc(gone), Stage::Ended(End::Done { report: true, .. })));
        assert!(s.turn.settled());
    }

    #[test]
    fn the_same_event_twice_is_one() {
        let mut s = Script::sent();
        s.seq -= 1;
        s.osc(Body::TurnInterrupted { duration_ms: 0 });
        assert_eq!(s.turn.stage(), Stage::Sent);
    }
}
