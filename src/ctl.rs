//! The control protocol of a run: one JSON object a line over `ctl.sock`, request then response.
//!
//! Types only; the server is the wrapper (`pty::ctl`), the clients are the daemon and the command line.

use serde::{Deserialize, Serialize};

use crate::extract::event::{Ask, AskKind, ProcId, SessionState, Verdict};
use crate::ids::{AttemptKey, RunId};
pub use crate::term::screen::ScreenText;

/// Version of this protocol; a server answers requests of its own and the previous version (F50).
pub const CTL_VERSION: u32 = 1;

/// Longest request line, in bytes: a prompt of 1 MiB, escaped, and its envelope (F35).
pub const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// What a client may ask of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// What it is doing; answered with [`Status`].
    State,
    /// The visible rows; answered with [`ScreenText`].
    Screen,
    /// Types a prompt; answered with [`SendOutcome`] once the verdict is known.
    ///
    /// Idempotent by `key`: the same attempt is written at most once, whoever asks again gets the first outcome.
    Send(SendRequest),
    /// Takes the prompt of an attempt back, for good, unless it was begun; answered with [`Withdrawn`].
    Withdraw {
        /// The attempt.
        key: AttemptKey,
    },
    /// Answers what the agent asks, if its hash is still `hash`; answered with [`Done`].
    Answer {
        /// [`Ask::hash`] of what was shown to the person.
        hash: String,
        /// `yes`, `no`, or free text.
        text: String,
    },
    /// Presses the pack's interrupt key; answered with [`Done`].
    Interrupt,
    /// Sets the size of a detached terminal; answered with [`Done`].
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// Ends the agent: HUP, TERM, KILL, `grace_ms` apart; answered with [`Done`] once it is gone.
    Stop {
        /// Patience between two signals, in milliseconds.
        grace_ms: u64,
    },
    /// Answered with [`Done`], then journal lines from `from` on (1 is the first), then live ones as they are written, until
    /// the run ends or the client hangs up. A slow client is never cut off: the journal file is its buffer.
    Subscribe {
        /// First sequence number wanted.
        from: u64,
    },
    /// A report from a hook of this run; answered with [`Done`]. Refused without the run's token (T3).
    Report(ReportRequest),
}

/// A prompt to type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendRequest {
    /// The attempt; none for `session send`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<AttemptKey>,
    /// The text, already stripped of control bytes by `assign::deliver::clean`.
    pub text: String,
    /// How long to wait for evidence that it was accepted.
    pub accept_timeout_ms: u64,
}

/// What became of a [`Request::Send`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendOutcome {
    /// Absent where nothing was written: see `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why nothing was written: `not_idle`, `draft`, `setup`, `asking`, `exited`, `journal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// One line for people.
    pub why: String,
}

/// What became of a [`Request::Withdraw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Not a byte of the prompt was written, and none will be.
    pub unsent: bool,
}

/// What a hook reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// Content of the run's token file.
    pub token: String,
    /// Protocol name of the adapter, e.g. `claude-hooks/1`.
    pub adapter: String,
    /// What the agent wrote to the hook, verbatim.
    pub payload: serde_json::Value,
    /// Which report it is: handed in again it does not count again.
    pub stamp: Stamp,
}

/// Names one report of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// When the hook was called, in microseconds since the machine started.
    pub at_us: u64,
    /// Random, for those of one moment.
    pub nonce: u64,
}

/// What a run is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The run.
    pub run: RunId,
    /// Its state.
    pub state: SessionState,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// Last sequence number of the journal.
    pub seq: u64,
    /// What the agent waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asking: Option<(AskKind, Ask)>,
    /// A human's half-typed line stands in the input box, or human keys came within the last moments.
    pub draft: bool,
    /// What stands in the input box is our own: no human pressed a key since our last prompt. An agent that is
    /// interrupted before its first word puts the prompt back.
    #[serde(default)]
    pub leftover: bool,
    /// Turns started so far: 0 means a fresh conversation.
    pub turns: u64,
    /// The prompt that is on its way or was last sent for an attempt, and its verdict once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_send: Option<(AttemptKey, Option<Verdict>)>,
    /// The wrapper.
    pub wrapper: ProcId,
    /// The guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<ProcId>,
    /// The agent: head of the launch chain, e.g. npm's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<ProcId>,
    /// Conversation id as the agent calls it, once reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Why it needs a human, in state `setup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<String>,
}

/// An answer without content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// A refusal: `code` for programs, `message` for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Machine-readable reason: `bad_request`, `bad_token`, `stale_answer`, `not_asking`, ...
    pub code: String,
    /// One line.
    pub message: String,
}

/// A response line: `{"ok": ..}` or `{"error": ..}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response<T> {
    /// What was asked for.
    Ok(T),
    /// Why not.
    Error(Refusal),
}
