//! The sending of prompts: runs the pure delivery against the journal and the terminal.

use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use sha2::{Digest, Sha256};

use super::{Observer, Then, WRITE_POLL, Write};
use crate::assign::deliver::{Act, Delivery, Fact, Seen};
use crate::ctl::{Done, SendOutcome, SendRequest};
use crate::extract::event::{Body, Draft, Source, Verdict};
use crate::ids::AttemptKey;
use crate::pty::ctl::Answerer;

/// A short write is in the terminal sooner than the Observer could go to sleep.
const WRITE_WAIT: Duration = Duration::from_millis(10);

/// A prompt on its way.
pub(super) struct Flight {
    key: Option<AttemptKey>,
    text: String,
    hash: String,
    delivery: Delivery,
    /// Whoever asked for it; all get the same outcome.
    waiting: Vec<Answerer>,
}

impl Observer {
    pub(super) fn send(&mut self, request: &SendRequest, answer: Answerer) {
        if let Some(key) = request.key {
            if let Some(outcome) = self.sent.get(&key) {
                return answer.ok(outcome);
            }
            if let Some(flight) = self.flight.as_mut().filter(|f| f.key == Some(key)) {
                flight.waiting.push(answer);
                return;
            }
            let newer = |other: &AttemptKey| other.task == key.task && other.fence > key.fence;
            if self.sent.keys().any(newer) || self.flight.as_ref().and_then(|f| f.key).is_some_and(|k| newer(&k)) {
                return answer.refuse("stale_fence", "a later claim of this task has been sent here already");
            }
        }
        let busy = if self.flight.is_some() {
            Some("another prompt is being sent")
        } else if self.is_typing() {
            // Behind what is left of the earlier one it would be a part of it.
            Some("the agent has not read an earlier prompt to its end")
        } else {
            None
        };
        if let Some(why) = busy {
            let refused = Some("not_idle".into());
            return answer.ok(&SendOutcome { verdict: None, refused, why: why.into() });
        }
        let (text, _) = crate::assign::deliver::clean(&request.text);
        let hash = Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        let patience = Duration::from_millis(request.accept_timeout_ms);
        let delivery = Delivery::new(&text, self.ctx.pack.paste.clone(), patience, self.now);
        self.flight = Some(Flight { key: request.key, text, hash, delivery, waiting: vec![answer] });
    }

    /// Takes the prompt of an attempt back, for good; false where it was begun.
    pub(super) fn withdraw(&mut self, key: AttemptKey) -> bool {
        let written = self.sent.get(&key).is_some_and(|outcome| outcome.verdict.is_some());
        if written || self.last_send == Some(key) || self.ctx.spec.attempt == Some(key) {
            return false;
        }
        let why = "the prompt was withdrawn before it was begun";
        let outcome = SendOutcome { verdict: None, refused: Some("withdrawn".into()), why: why.into() };
        if self.flight.as_ref().is_some_and(|f| f.key == Some(key)) {
            self.landed(outcome.clone());
        }
        // Whoever asks for it after this moment gets the same answer.
        self.sent.insert(key, outcome);
        true
    }

    /// The prompt that is on its way or was last sent for an attempt, and its verdict once known.
    pub(super) fn last_send(&self) -> Option<(AttemptKey, Option<Verdict>)> {
        if let Some(key) = self.flight.as_ref().and_then(|f| f.key) {
            return Some((key, None));
        }
        let key = self.last_send?;
        Some((key, self.sent.get(&key).and_then(|outcome| outcome.verdict)))
    }

    pub(super) fn flight_deadline(&self) -> Option<Duration> {
        let flight = self.flight.as_ref()?;
        flight.delivery.deadline(&Seen::from(&self.extractor.view()))
    }

    /// Does what the delivery wants, until it wants nothing.
    pub(super) fn step_flight(&mut self) {
        loop {
            let Some(flight) = &mut self.flight else { return };
            let view = self.extractor.view();
            let in_lines = flight.delivery.has_long_line() && self.io.is_canonical();
            let Some(act) = flight.delivery.step(&Seen::from(&view).in_lines(in_lines), self.now) else { return };
            match act {
                Act::Intent => self.intend(),
                Act::Body(bytes) => self.write(bytes, Then::Deliver),
                Act::Enter(bytes) => {
                    let first = flight.delivery.enters() == 0;
                    if first {
                        self.extractor.prompt(&flight.hash, &flight.text, self.now);
                    } else {
                        self.note("enter_again", "Enter was pressed again: the prompt still stood in the input box");
                    }
                    self.write(bytes, Then::Deliver);
                }
                Act::Done(outcome) => self.landed(outcome),
            }
        }
    }

    /// Journals and syncs the intent to send: from here on, a crash leaves a trace.
    fn intend(&mut self) {
        let Some(flight) = &mut self.flight else { return };
        let (before, over) = (self.attempt, self.attempt_over);
        (self.attempt, self.attempt_over) = (flight.key, false);
        let draft = Draft {
            body: Body::PromptIntent { hash: flight.hash.clone(), bytes: flight.text.len() },
            source: Source::Input,
            rule: "deliver.intent".into(),
            span: None,
        };
        let synced = self.journal.commit(draft, self.attempt, self.now).is_ok();
        if synced {
            self.last_send = flight.key.or(self.last_send);
            self.intended = Some(self.now);
            self.accepted = None;
        } else {
            (self.attempt, self.attempt_over) = (before, over);
        }
        flight.delivery.fact(Fact::IntentSynced(synced), self.now);
    }

    /// The delivery is over: journal, remember, answer.
    fn landed(&mut self, outcome: SendOutcome) {
        let Some(flight) = self.flight.take() else { return };
        if self.is_typing() {
            // Above all an Enter that the agent would find long after everybody has given the prompt up.
            self.io.withdraw();
        }
        match outcome.verdict {
            Some(verdict @ (Verdict::Accepted | Verdict::QueuedInAgent)) if self.accepted.is_none() => {
                self.accepted = Some(flight.hash.clone());
                let body = Body::PromptAccepted { hash: Some(flight.hash), verdict, human: false };
                self.say(body, Source::Input, "deliver.accepted");
            }
            Some(verdict @ (Verdict::Stuck | Verdict::Unverified | Verdict::Dead)) => {
                let body = Body::PromptUnaccepted { hash: flight.hash, verdict, why: outcome.why.clone() };
                self.say(body, Source::Timer, "deliver.unaccepted");
            }
            _ => {}
        }
        // Before anybody is told: what they decide rests on it.
        self.journal.flush_synced(self.now);
        if let (Some(key), Some(_)) = (flight.key, outcome.verdict) {
            self.sent.insert(key, outcome.clone());
        }
        for answer in flight.waiting {
            answer.ok(&outcome);
        }
    }

    /// Whether bytes of a prompt wait for the agent to read.
    fn is_typing(&self) -> bool {
        self.writes.iter().any(|write| matches!(write.then, Then::Deliver))
    }

    /// When an unfinished write is looked at again: soon after it was asked for, then less and less often.
    pub(super) fn write_deadline(&self) -> Option<Duration> {
        let pause = |write: &Write| WRITE_POLL.max(self.now.saturating_sub(write.since) / 8);
        self.writes.iter().map(pause).min().map(|pause| self.now + pause)
    }

    /// Takes what the extractor found as evidence; false if it was journaled already.
    pub(super) fn weigh(&mut self, body: &Body) -> bool {
        match body {
            // A human's next prompt is not the task's.
            Body::PromptAccepted { human: true, .. } if self.attempt_over => self.attempt = None,
            Body::PromptAccepted { hash, verdict, human: false } => {
                if hash.is_some() && *hash == self.accepted {
                    return false;
                }
                if let Some(flight) = &mut self.flight
                    && hash.as_ref().is_none_or(|h| *h == flight.hash)
                {
                    self.accepted = Some(flight.hash.clone());
                    flight.delivery.fact(Fact::Taken(*verdict), self.now);
                }
            }
            Body::TurnStarted {} => {
                if let Some(flight) = &mut self.flight {
                    flight.delivery.fact(Fact::TurnStarted, self.now);
                }
            }
            Body::TurnCompleted { .. } | Body::TurnFailed { .. } | Body::TurnInterrupted { .. } => {
                self.attempt_over = true;
            }
            _ => {}
        }
        true
    }

    pub(super) fn flight_exited(&mut self) {
        self.poll_writes();
        if let Some(flight) = &mut self.flight {
            flight.delivery.fact(Fact::Exited, self.now);
        }
        self.step_flight();
    }

    pub(super) fn write(&mut self, bytes: Vec<u8>, then: Then) {
        let done = self.io.write(bytes);
        match done.recv_timeout(WRITE_WAIT) {
            Err(RecvTimeoutError::Timeout) => self.writes.push(Write { done, then, since: self.now }),
            answer => self.written(matches!(answer, Ok(Ok(()))), then),
        }
    }

    pub(super) fn poll_writes(&mut self) {
        debug_assert!(WRITE_POLL > Duration::ZERO);
        for write in std::mem::take(&mut self.writes) {
            match write.done.try_recv() {
                Err(crossbeam_channel::TryRecvError::Empty) => self.writes.push(write),
                answer => self.written(matches!(answer, Ok(Ok(()))), write.then),
            }
        }
    }

    fn written(&mut self, ok: bool, then: Then) {
        self.touch(self.started.started.elapsed());
        match then {
            Then::Answer(answer) if ok => answer.ok(&Done {}),
            Then::Answer(answer) => answer.refuse("exited", "the agent takes no more input"),
            Then::Deliver => {
                let Some(flight) = &mut self.flight else { return };
                let before = flight.delivery.enters();
                flight.delivery.fact(Fact::Written(ok), self.now);
                if before == 0 && flight.delivery.enters() == 1 {
                    let body = Body::PromptSent { hash: flight.hash.clone(), enters: 1 };
                    self.say(body, Source::Input, "deliver.sent");
                }
            }
        }
    }
}
