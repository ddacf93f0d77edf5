//! How a run is launched: the contract between who starts a wrapper and the wrapper.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{AttemptKey, Name, RunId};

/// Version of `run.json`.
pub const SPEC_VERSION: u32 = 1;

/// Where the run's terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seat {
    /// In the terminal where a person typed `orchwrap ...`.
    Direct,
    /// In a pane of our tmux server.
    Pane,
    /// Under a PTY of its own that nobody looks at.
    Detached,
    /// Under pipes: a one-shot whose output is a structured stream.
    Oneshot,
}

/// `run.json`: written before the wrapper starts, never changed. Holds no secret: the environment is in `env`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// [`SPEC_VERSION`].
    pub v: u32,
    /// The run.
    pub run: RunId,
    /// The session it is a run of.
    pub session: Name,
    /// The pool, where the session belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// What the person called the agent (`claude`, or `make` under `orchwrap run`).
    pub agent: String,
    /// Id of the pack that reads its output.
    pub pack: String,
    /// The command as the person or pool gave it, before a pack's side channels are added.
    pub argv: Vec<String>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Where its terminal is.
    pub seat: Seat,
    /// Columns and rows while nobody looks ([`Seat::Detached`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(u16, u16)>,
    /// When this was written.
    pub created: Timestamp,
    /// Keep the output bytes.
    pub record: bool,
    /// Inject hooks and other reports (`--no-hooks` clears it).
    pub hooks: bool,
    /// Answer the OSC 7501 query (`--no-status-reply` clears it).
    pub status_reply: bool,
    /// Prompts may be sent by the queue (pool seats, or `--join POOL`).
    pub takes_tasks: bool,
    /// The attempt this run was started for; the prompt itself is on stdin (0600 file `prompt`) for a one-shot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptKey>,
    /// Conversation to go on in (`--continue`), as the agent calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}
