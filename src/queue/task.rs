//! The task: work somebody asked for, with its context and rules; and the states it passes through.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::config::{Gate, WorktreeRules};
use crate::ids::{Name, RunId, TaskId};

/// State of a task. `asking`: the agent asks; `review`: we are not sure, a human decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the design's words")]
pub enum TaskState {
    Queued,
    Claimed,
    Preparing,
    Ready,
    Sending,
    Running,
    Asking,
    Review,
    Held,
    Verifying,
    RetryWait,
    Completed,
    Failed,
    Cancelled,
    TimedOut,
}

impl TaskState {
    /// Every state, in the order a task passes through them.
    pub const ALL: [Self; 15] = [
        Self::Queued,
        Self::Claimed,
        Self::Preparing,
        Self::Ready,
        Self::Sending,
        Self::Running,
        Self::Asking,
        Self::Review,
        Self::Held,
        Self::Verifying,
        Self::RetryWait,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
    ];

    /// The state's name in the database, in JSON and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Sending => "sending",
            Self::Running => "running",
            Self::Asking => "asking",
            Self::Review => "review",
            Self::Held => "held",
            Self::Verifying => "verifying",
            Self::RetryWait => "retry_wait",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }

    /// Returns the state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == name)
    }

    /// Nothing follows, unless a human says `task retry`.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::TimedOut)
    }

    /// An attempt is under way and owns a session (and its working tree).
    pub fn is_live(self) -> bool {
        matches!(
            self,
            Self::Claimed
                | Self::Preparing
                | Self::Ready
                | Self::Sending
                | Self::Running
                | Self::Asking
                | Self::Verifying
        )
    }
}

/// What a completion rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The gate passed.
    Gate,
    /// A report of the agent's own (hook, transcript, one-shot result); not checked by anything.
    Report,
    /// Output only; the pack or the task says that is enough.
    Output,
    /// A human said so.
    Manual,
}

/// How the working tree is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeRule {
    /// The checkout in `cwd` where its branch is the wanted one, else a worktree of ours.
    #[default]
    Auto,
    /// Always a worktree of the task's own (`--isolate`).
    Isolate,
    /// Other live attempts may work in the same tree (`--shared`).
    Shared,
    /// Switch the user's checkout, when clean (`--in-place`).
    InPlace,
}

/// How text that an agent would take for a command is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Plain text; a leading `/ ! # """` was refused at submission.
    #[default]
    Text,
    /// A command of the agent, on purpose (`--as-command`).
    Command,
    /// Text that only looks like a command; it is escaped as the pack says (`--literal`).
    Literal,
}

/// Time limits of a task, in milliseconds. Waiting for a human stops the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// From claim to ready.
    pub prepare_ms: u64,
    /// From the last byte sent to evidence that it was accepted.
    pub accept_ms: u64,
    /// Silence after which people are told; only a hint (F38).
    pub silence_ms: u64,
    /// From sent to the end of the turn.
    pub hard_ms: u64,
    /// For each gate command.
    pub gate_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { prepare_ms: 120_000, accept_ms: 30_000, silence_ms: 1_800_000, hard_ms: 7_200_000, gate_ms: 1_800_000 }
    }
}

/// How a task's gates run, pinned when it was submitted: the file that says so is within an agent's reach (T4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateRules {
    /// `[gate]`.
    #[serde(flatten)]
    pub gate: Gate,
    /// What a fresh checkout is made ready with.
    pub worktree: WorktreeRules,
    /// Hash (hex sha256) of the gate lines and of these rules.
    pub pin: String,
}

impl GateRules {
    /// The rules for these lines.
    pub fn pinned(gate: Gate, worktree: WorktreeRules, lines: &[String]) -> Self {
        let pin = Self::hash(&gate, &worktree, lines);
        Self { gate, worktree, pin }
    }

    /// Whether lines and rules are those that were submitted.
    pub fn hold(&self, lines: &[String]) -> bool {
        self.pin == Self::hash(&self.gate, &self.worktree, lines)
    }

    fn hash(gate: &Gate, worktree: &WorktreeRules, lines: &[String]) -> String {
        let text = serde_json::to_vec(&(lines, gate, worktree)).expect("words, lists and paths that were UTF-8");
        Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
    }
}

fn default_attempts() -> u32 {
    3
}

/// What the submitter asks for: the body of `task add`, of a line of an NDJSON batch and of `POST /tasks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// The prompt, already cleaned of control bytes.
    pub prompt: String,
    /// How it is sent.
    #[serde(default)]
    pub kind: PromptKind,
    /// Absolute folder it concerns.
    pub cwd: PathBuf,
    /// Wanted branch; none outside a repository.
    #[serde(default)]
    pub branch: Option<String>,
    /// What a missing branch is created from, as given.
    #[serde(default)]
    pub base: Option<String>,
    /// The commit `base` named at submission.
    #[serde(default)]
    pub base_sha: Option<String>,
    /// How the working tree is chosen.
    #[serde(default)]
    pub tree: TreeRule,
    /// Added to the session's base environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Shell lines run before the agent starts; the environment they leave is the agent's.
    #[serde(default)]
    pub prereqs: Vec<String>,
    /// Shell lines that must pass before the task is completed.
    #[serde(default)]
    pub gates: Vec<String>,
    /// The gates run where the agent worked, not on a fresh checkout (`--gate-in-place`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gate_in_place: bool,
    /// How they run; set at submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_rules: Option<GateRules>,
    /// Wanted agent (pack id).
    #[serde(default)]
    pub agent: Option<String>,
    /// Wanted pool.
    #[serde(default)]
    pub pool: Option<Name>,
    /// Wanted session.
    #[serde(default)]
    pub session: Option<Name>,
    /// Higher goes first; default 0.
    #[serde(default)]
    pub priority: i64,
    /// Tasks that must be completed first.
    #[serde(default)]
    pub deps: Vec<TaskId>,
    /// Not before this time.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// Tries at the most; default 3.
    #[serde(default = "default_attempts")]
    pub max_attempts: u32,
    /// Time limits.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The prompt may be sent again when it is not certain whether it arrived.
    #[serde(default)]
    pub idempotent: bool,
    /// A second submission with the same key is the same task.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// Go on in the conversation where that task ran.
    #[serde(default)]
    pub continue_task: Option<TaskId>,
    /// Output alone may complete it.
    #[serde(default)]
    pub accept_output: bool,
    /// Submitted as held.
    #[serde(default)]
    pub hold: bool,
    /// Free words to find it by.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// A task as the store keeps it and every surface shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its number.
    pub id: TaskId,
    /// What was asked for.
    #[serde(flatten)]
    pub spec: TaskSpec,
    /// Its state.
    pub state: TaskState,
    /// Machine-readable reason of the state (`prereq_failed`, `gate_failed`, `no_acceptance`, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One line for people: what the reason means here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What it waits for, on everything that does not move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Grows with every claim.
    pub fence: i64,
    /// Attempts charged so far.
    pub attempts: u32,
    /// Submission time.
    pub created: Timestamp,
    /// Time of the last transition.
    pub changed: Timestamp,
    /// When `retry_wait` ends, or a not-before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// The final answer, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What the completion rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// From sent to the end of the turn, in milliseconds, human waits excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Working tree of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<PathBuf>,
    /// Session of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_session: Option<Name>,
    /// Run of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<RunId>,
}
