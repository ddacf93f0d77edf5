//! What witnesses tell the machine: one vocabulary for hooks, escape sequences, screens, lines and keys.

use crate::clock::Timestamp;
use crate::extract::event::{AskKind, FailReason, LimitKind, Source};

/// A witness's claim, before the machine weighs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Who says so: decides how much it weighs.
    pub source: Source,
    /// Which rule of which pack or adapter.
    pub rule: String,
    /// What it says.
    pub claim: Claim,
}

/// What a witness may claim. Content claims (messages, tools, usage) pass the machine unchanged, as events.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The input is ready for a prompt.
    Idle,
    /// A turn is under way.
    Working,
    /// A prompt was taken; the text where the witness carries it.
    PromptTaken {
        /// The exact prompt text.
        text: Option<String>,
    },
    /// The turn ended well; the last answer where known.
    TurnDone {
        /// The exact last message.
        answer: Option<String>,
    },
    /// The turn failed, after the agent's own retries.
    TurnFailed {
        /// Why.
        reason: FailReason,
        /// In the agent's words.
        message: String,
    },
    /// The user or we interrupted the turn, and the agent says so.
    Interrupted,
    /// The agent asks.
    Asked {
        /// Permission or question.
        kind: AskKind,
        /// The tool it wants, where known.
        tool: Option<String>,
        /// What is asked.
        text: String,
        /// The choices shown.
        options: Vec<String>,
        /// Whether the text is the agent's own report.
        exact: bool,
    },
    /// What was asked is answered.
    Answered {
        /// Permission: granted or not, where known.
        allowed: Option<bool>,
        /// Question: the answer, where known.
        answer: Option<String>,
    },
    /// A usage limit stops the agent.
    Limit {
        /// How long it lasts.
        kind: LimitKind,
        /// In the agent's words.
        text: String,
        /// When it ends, where told.
        resets_at: Option<Timestamp>,
        /// The agent goes on by itself.
        self_resumes: bool,
    },
    /// A human must act first: login, trust, onboarding, update.
    Setup {
        /// What is needed, one line.
        what: String,
    },
    /// A picker or transcript view hides the usual frame: keep the last state.
    Hold,
    /// The agent told its conversation id.
    Conversation {
        /// As the agent calls it.
        id: String,
        /// Its session file, where told.
        transcript: Option<std::path::PathBuf>,
    },
    /// Content, passed on as this event.
    Content(Box<crate::extract::event::Body>),
}
