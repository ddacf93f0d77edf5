//! How a prompt is typed into an agent: written once, submitted, and confirmed by evidence.
//!
//! Pure: what is seen, facts and times in, acts out. It does not know what a PTY or a journal is. The order is fixed:
//! readiness, intent (journaled and synced), body, pause, Enter, evidence. The body is written at most once; only Enter
//! is ever pressed again, and only while the text visibly waits for it.

mod clean;

use std::time::Duration;

use crate::ctl::SendOutcome;
use crate::extract::View;
use crate::extract::event::{SessionState, Verdict};
use crate::extract::pattern::{Bracketed, Paste};

pub use clean::{clean, command_like};

/// A human who pressed a key within this time is typing.
const HUMAN_QUIET: Duration = Duration::from_secs(2);
/// How long one Enter gets before it is pressed again.
const ENTER_PATIENCE: Duration = Duration::from_secs(2);
/// Enter is pressed at most so often: once, and two more.
const MAX_ENTERS: u32 = 3;
/// The kernel keeps so much of a line for an agent that reads whole lines, and drops the rest without a word: N_TTY holds
/// 4096 bytes, one of them for the line end.
const LINE_MAX: usize = 4094;

/// What the machine looks at.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// What the agent is doing.
    pub state: SessionState,
    /// Since when.
    pub since: Duration,
    /// A human's half-typed line stands in the input box.
    pub draft: bool,
    /// When a human last pressed a key.
    pub last_key: Option<Duration>,
    /// The agent switched bracketed paste on.
    pub bracketed: bool,
    /// The agent reads whole lines, and the kernel edits them.
    pub canonical: bool,
    /// Text in the input box, if the box is visible.
    pub composer: Option<&'a str>,
}

impl<'a> From<&'a View> for Seen<'a> {
    fn from(view: &'a View) -> Self {
        Self {
            state: view.state,
            since: view.since,
            draft: view.draft,
            last_key: view.last_key,
            bracketed: view.bracketed_paste,
            canonical: false,
            composer: view.composer.as_deref(),
        }
    }
}

impl Seen<'_> {
    /// The same, in a terminal where the kernel edits lines.
    #[must_use]
    pub fn in_lines(self, canonical: bool) -> Self {
        Self { canonical, ..self }
    }

    fn composer_holds_text(&self) -> bool {
        self.composer.is_some_and(|text| !text.trim().is_empty())
    }

    /// Whether a human's line stands there, or a human is typing one now.
    pub fn is_human_at_it(&self, now: Duration) -> bool {
        self.draft || self.composer_holds_text() || self.last_key.is_some_and(|at| now < at + HUMAN_QUIET)
    }
}

/// What happened besides what is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The intent is journaled and synced, or it could not be.
    IntentSynced(bool),
    /// The bytes of the last act are in the terminal, or could not be written.
    Written(bool),
    /// A witness says that our prompt was taken.
    Taken(Verdict),
    /// A turn started that nobody else's prompt explains.
    TurnStarted,
    /// The agent is gone.
    Exited,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Journal the intent and sync; then [`Fact::IntentSynced`].
    Intent,
    /// Write this, the body; then [`Fact::Written`].
    Body(Vec<u8>),
    /// Write Enter; then [`Fact::Written`].
    Enter(Vec<u8>),
    /// The end: this became of it. Returned once.
    Done(SendOutcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for the agent and the human.
    Ready,
    /// Waits for the journal.
    Intent,
    /// The journal refused the intent.
    Unjournaled,
    /// The intent is safe: the body is next.
    Write,
    /// Waits for the body to be written.
    Body {
        until: Duration,
    },
    /// Lets the agent take the paste in.
    Gap {
        until: Duration,
    },
    /// Waits for Enter to be written.
    Enter {
        until: Duration,
    },
    /// Waits for evidence.
    Evidence {
        next_enter: Option<Duration>,
    },
    Over,
}

/// The delivery of one prompt.
#[derive(Debug)]
pub struct Delivery {
    text: String,
    paste: Paste,
    patience: Duration,
    stage: Stage,
    /// When readiness (before the intent) or acceptance (after Enter) is given up.
    until: Duration,
    body: Vec<u8>,
    body_at: Duration,
    enters: u32,
    /// The agent was at work when Enter was pressed: it queues what it takes.
    busy: bool,
    /// Said by a witness, not yet weighed.
    taken: Option<Verdict>,
    started: bool,
    exited: bool,
}

/// Why nothing was written, and the same for people.
fn refused(code: &str, why: impl Into<String>) -> Act {
    Act::Done(SendOutcome { verdict: None, refused: Some(code.into()), why: why.into() })
}

fn verdict(verdict: Verdict, why: impl Into<String>) -> Act {
    Act::Done(SendOutcome { verdict: Some(verdict), refused: None, why: why.into() })
}

impl Delivery {
    /// The delivery of `text` (cleaned), to be accepted within `patience` of its Enter.
    pub fn new(text: &str, paste: Paste, patience: Duration, now: Duration) -> Self {
        Self {
            text: clean(text).0,
            paste,
            patience,
            stage: Stage::Ready,
            until: now + patience,
            body: Vec::new(),
            body_at: now,
            enters: 0,
            busy: false,
            taken: None,
            started: false,
            exited: false,
        }
    }

    /// How often Enter was pressed.
    pub fn enters(&self) -> u32 {
        self.enters
    }

    /// Whether a byte of it may be in the agent's terminal.
    fn has_written(&self) -> bool {
        !matches!(self.stage, Stage::Ready | Stage::Intent | Stage::Unjournaled | Stage::Write)
    }

    /// When [`Delivery::step`] wants to look again though nothing happened.
    pub fn deadline(&self, seen: &Seen<'_>) -> Option<Duration> {
        match self.stage {
            Stage::Ready => Some(self.ready_at(seen).map_or(self.until, |at| at.min(self.until))),
            Stage::Body { until } | Stage::Gap { until } | Stage::Enter { until } => Some(until),
            Stage::Evidence { next_enter } => Some(next_enter.map_or(self.until, |at| at.min(self.until))),
            _ => None,
        }
    }

    /// Takes a fact; what follows from it comes out of the next [`Delivery::step`].
    pub fn fact(&mut self, fact: Fact, now: Duration) {
        self.stage = match (self.stage, fact) {
            (_, Fact::Exited) => return self.exited = true,
            (Stage::Intent, Fact::IntentSynced(true)) => Stage::Write,
            (Stage::Intent, Fact::IntentSynced(false)) => Stage::Unjournaled,
            (Stage::Body { .. }, Fact::Written(true)) => {
                Stage::Gap { until: now + Duration::from_millis(self.paste.enter_gap_ms) }
            }
            (Stage::Enter { .. }, Fact::Written(true)) => {
                self.enters += 1;
                if self.enters == 1 {
                    self.until = now + self.patience;
                }
                let again = self.enters < MAX_ENTERS;
                Stage::Evidence { next_enter: again.then(|| now + ENTER_PATIENCE) }
            }
            // Some of it may be there. Nothing more is pressed; evidence or the end of the agent may still tell.
            (Stage::Body { .. } | Stage::Enter { .. }, Fact::Written(false)) => {
                self.until = now + self.patience.min(ENTER_PATIENCE);
                Stage::Evidence { next_enter: None }
            }
            (stage, Fact::Taken(verdict)) if self.has_written() => {
                self.taken = Some(verdict);
                stage
            }
            // Before our Enter it is somebody else's turn.
            (stage @ (Stage::Enter { .. } | Stage::Evidence { .. }), Fact::TurnStarted) => {
                self.started = true;
                stage
            }
            (stage, _) => stage,
        };
    }

    /// Looks at what is seen now; call it after each change and at [`Delivery::deadline`], until it returns none.
    pub fn step(&mut self, seen: &Seen<'_>, now: Duration) -> Option<Act> {
        match self.stage {
            Stage::Over | Stage::Intent => None,
            Stage::Ready => self.readiness(seen, now),
            Stage::Unjournaled => {
                Some(self.over(refused("journal", "the journal cannot be written, and without it nothing is sent")))
            }
            Stage::Write => {
                self.stage = Stage::Body { until: now + self.patience };
                self.body_at = now;
                Some(Act::Body(std::mem::take(&mut self.body)))
            }
            _ if self.exited => Some(self.over(verdict(Verdict::Dead, "the agent ended before it took the prompt"))),
            Stage::Gap { until } if now >= until => self.enter(seen, now),
            // Whoever asked is told in time, and what would arrive later submits nothing.
            Stage::Body { until } | Stage::Enter { until } if now >= until => {
                Some(self.over(verdict(Verdict::Unverified, "the agent does not read its input")))
            }
            Stage::Gap { .. } | Stage::Body { .. } | Stage::Enter { .. } => None,
            Stage::Evidence { next_enter } => self.evidence(seen, next_enter, now),
        }
    }

    fn readiness(&mut self, seen: &Seen<'_>, now: Duration) -> Option<Act> {
        let no = match seen.state {
            _ if self.exited => Some(refused("exited", "the agent has exited")),
            SessionState::Exited => Some(refused("exited", "the agent has exited")),
            SessionState::Setup => Some(refused("setup", "the agent needs a human first: login, trust or an update")),
            SessionState::Asking => Some(refused("asking", "the agent waits for an answer")),
            SessionState::Working => Some(refused("not_idle", "a turn is under way")),
            SessionState::Limited => Some(refused("not_idle", "a usage limit stops the agent")),
            SessionState::Idle if seen.draft || seen.composer_holds_text() => {
                Some(refused("draft", "a half-typed line stands in the input box"))
            }
            SessionState::Idle if self.ready_at(seen).is_some_and(|at| now >= at) => {
                if seen.canonical && !self.brackets(seen) && self.has_long_line() {
                    return Some(self.over(refused(
                        "line_too_long",
                        format!(
                            "the agent reads whole lines, and its terminal keeps {LINE_MAX} bytes of one: break it up"
                        ),
                    )));
                }
                self.stage = Stage::Intent;
                self.body = pasted(&self.text, self.brackets(seen));
                return Some(Act::Intent);
            }
            SessionState::Idle if now >= self.until => Some(refused("draft", "somebody is typing")),
            _ if now >= self.until => Some(refused("not_idle", "the agent did not become ready")),
            _ => None,
        };
        no.map(|act| self.over(act))
    }

    fn brackets(&self, seen: &Seen<'_>) -> bool {
        seen.bracketed && self.paste.bracketed == Bracketed::Auto
    }

    /// Whether a line of it may be too long for a terminal that edits lines.
    pub fn has_long_line(&self) -> bool {
        self.text.split('\n').any(|line| line.len() > LINE_MAX)
    }

    /// When the agent has been ready, and the human quiet, for long enough; none while it is not ready at all.
    fn ready_at(&self, seen: &Seen<'_>) -> Option<Duration> {
        (seen.state == SessionState::Idle).then(|| {
            let ready = seen.since + Duration::from_millis(self.paste.ready_gap_ms);
            seen.last_key.map_or(ready, |at| ready.max(at + HUMAN_QUIET))
        })
    }

    fn enter(&mut self, seen: &Seen<'_>, now: Duration) -> Option<Act> {
        if self.human_since_body(seen) {
            // Their Enter submits ours too, or their editing makes it another prompt: it is not for us to press.
            self.until = now + self.patience;
            self.stage = Stage::Evidence { next_enter: None };
            return None;
        }
        self.busy |= seen.state == SessionState::Working;
        Some(self.press(now))
    }

    fn press(&mut self, now: Duration) -> Act {
        self.stage = Stage::Enter { until: now + self.patience };
        Act::Enter(b"\r".to_vec())
    }

    fn evidence(&mut self, seen: &Seen<'_>, next_enter: Option<Duration>, now: Duration) -> Option<Act> {
        if let Some(said) = self.taken {
            return Some(self.over(verdict(said, "a witness saw the prompt arrive")));
        }
        let box_is_empty = seen.composer.is_some_and(|text| text.trim().is_empty());
        // A queue takes the text out of the box; until then nothing tells that it did.
        let queued = self.busy && box_is_empty;
        let at_work = matches!(seen.state, SessionState::Working | SessionState::Asking | SessionState::Limited);
        let human = self.human_since_body(seen);
        if (self.started || queued || (at_work && !self.busy)) && !human && self.enters > 0 {
            let said = if self.busy && !self.started { Verdict::QueuedInAgent } else { Verdict::Accepted };
            return Some(self.over(verdict(said, "the agent went to work on Enter")));
        }
        if now >= self.until {
            let waits = seen.state == SessionState::Idle && seen.composer_holds_text() && !human;
            return Some(self.over(if waits && self.enters > 0 {
                verdict(Verdict::Stuck, "the prompt stands in the input box and Enter does nothing")
            } else if human {
                verdict(Verdict::Unverified, "somebody typed while the prompt was being sent")
            } else {
                verdict(Verdict::Unverified, "nothing tells whether the prompt arrived")
            }));
        }
        if next_enter.is_some_and(|at| now >= at) {
            // Into a menu, an empty box, or a frame that nobody knows Enter means something else: there may be a dialog whose
            // default is to allow. So it is pressed again only where the text is seen to wait for it.
            if seen.state == SessionState::Idle && !human && seen.composer_holds_text() {
                return Some(self.press(now));
            }
            self.stage = Stage::Evidence { next_enter: None };
        }
        None
    }

    fn human_since_body(&self, seen: &Seen<'_>) -> bool {
        seen.last_key.is_some_and(|at| at >= self.body_at)
    }

    fn over(&mut self, act: Act) -> Act {
        self.stage = Stage::Over;
        act
    }
}

/// The bytes that paste `text`, in brackets if the agent asked for them.
fn pasted(text: &str, bracketed: bool) -> Vec<u8> {
    if bracketed { format!("\x1b[200~{text}\x1b[201~").into_bytes() } else { text.as_bytes().to_vec() }
}

#[cfg(test)]
mod tests;
