//! The event: one typed fact with its source. The JSON form is the contract `docs/event.schema.json`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::ids::{AttemptKey, Name, RunId, TaskId};

/// Version of the event's JSON form; a reader keeps events of a newer one as [`Body::Other`].
pub const EVENT_VERSION: u32 = 1;

/// Longest text that one event carries, in bytes; what is longer is cut at a character and marked `truncated`.
pub const MAX_TEXT_BYTES: usize = 256 * 1024;

/// Where a fact comes from, most trusted first (DESIGN's order of witnesses).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The process itself: exit status or signal.
    Exit,
    /// A hook that we injected into this launch.
    Hook,
    /// The agent's own session file, or its structured output.
    Transcript,
    /// The agent's notify program.
    Notify,
    /// An escape sequence of the stream: OSC 7501, titles, OSC 9, BEL.
    Osc,
    /// The rendered screen.
    Screen,
    /// A line of a line-mode stream.
    Line,
    /// Keys on their way to the agent, the user's or ours.
    Input,
    /// Time that passed.
    Timer,
    /// The daemon.
    Daemon,
}

impl Source {
    /// Whether this is a *report*: out of band, bound to the launch, not forgeable by output bytes.
    pub fn is_report(self) -> bool {
        matches!(self, Self::Hook | Self::Transcript | Self::Notify)
    }
}

/// What a session is doing, as far as its witnesses tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Launched, not yet ready for a prompt.
    Starting,
    /// Login, trust, onboarding, update, resume picker: a human must act.
    Setup,
    /// Ready for a prompt.
    Idle,
    /// A turn is under way.
    Working,
    /// The agent waits for an answer (permission or question).
    Asking,
    /// A usage limit stops it.
    Limited,
    /// The process is gone.
    Exited,
    /// No witness tells.
    Unknown,
}

/// What the agent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AskKind {
    /// May it do something?
    Permission,
    /// Which of these, or what?
    Question,
}

/// A permission request or question, exactly as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// sha256 (hex) over kind, tool and text: an answer is bound to it (T32).
    pub hash: String,
    /// The tool that wants to run, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What is asked, in full.
    pub text: String,
    /// The choices in the order shown; empty for free text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Whether `text` is the agent's own report rather than read off the screen.
    #[serde(default)]
    pub exact: bool,
}

/// How long a usage limit lasts and whom it binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitKind {
    /// A rolling window of hours.
    Window,
    /// A weekly allowance.
    Weekly,
    /// Money or credits.
    Credit,
    /// The words did not tell.
    Unknown,
}

/// Why a turn failed, as far as it can be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// Credentials refused or missing.
    Auth,
    /// Too many requests; a later try may pass.
    RateLimit,
    /// The provider failed (5xx, overloaded).
    Server,
    /// The provider refused the request itself (4xx).
    Request,
    /// The connection broke or never came up.
    Network,
    /// The process ended in mid-turn.
    Exited,
    /// Failed, and nothing says why.
    Other,
}

/// Identity of a process that survives pid reuse (F19).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcId {
    /// Process id.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks from boot to the start of the process.
    pub start: u64,
}

fn is_false(b: &bool) -> bool {
    !*b
}

/// The typed content of an event: `type` and `data` of its JSON form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
#[expect(missing_docs, reason = "the fields are documented, for every reader, in docs/event.schema.json")]
pub enum Body {
    #[serde(rename = "run.started")]
    RunStarted {
        agent: String,
        pack: String,
        argv0: String,
        cwd: PathBuf,
        boot_id: String,
        wrapper: ProcId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guard: Option<ProcId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<ProcId>,
    },
    #[serde(rename = "run.exited")]
    RunExited {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// `exit`, `signal`, `hangup`, `tmux_lost`, `stopped`, `start_failed`, `wrapper_lost`.
        reason: String,
    },
    #[serde(rename = "state")]
    State { state: SessionState, was: SessionState },

    /// Journaled and synced before the first byte of a prompt is written.
    #[serde(rename = "prompt.intent")]
    PromptIntent { hash: String, bytes: usize },
    /// All bytes of a prompt, Enter included, are written to the PTY.
    #[serde(rename = "prompt.sent")]
    PromptSent { hash: String, enters: u32 },
    #[serde(rename = "prompt.accepted")]
    PromptAccepted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
        /// `accepted` or `queued_in_agent`.
        verdict: Verdict,
        /// Whether the text was ours (a task, `session send`) or typed by a human.
        #[serde(default, skip_serializing_if = "is_false")]
        human: bool,
    },
    /// A prompt of ours that was not seen to arrive: `stuck`, `unverified` or `dead`.
    #[serde(rename = "prompt.unaccepted")]
    PromptUnaccepted { hash: String, verdict: Verdict, why: String },

    #[serde(rename = "turn.started")]
    TurnStarted {},
    #[serde(rename = "turn.completed")]
    TurnCompleted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
        duration_ms: u64,
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    },
    #[serde(rename = "turn.failed")]
    TurnFailed { reason: FailReason, message: String, duration_ms: u64 },
    #[serde(rename = "turn.interrupted")]
    TurnInterrupted { duration_ms: u64 },

    #[serde(rename = "permission.asked")]
    PermissionAsked(Ask),
    /// `allowed` is absent where nothing tells what was answered.
    #[serde(rename = "permission.answered")]
    PermissionAnswered {
        hash: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allowed: Option<bool>,
    },
    #[serde(rename = "question.asked")]
    QuestionAsked(Ask),
    #[serde(rename = "question.answered")]
    QuestionAnswered {
        hash: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    },
    #[serde(rename = "limit.reached")]
    LimitReached {
        kind: LimitKind,
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resets_at: Option<Timestamp>,
        /// The agent goes on by itself after the reset.
        #[serde(default, skip_serializing_if = "is_false")]
        self_resumes: bool,
    },

    #[serde(rename = "message")]
    Message {
        text: String,
        exact: bool,
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    },
    #[serde(rename = "code.block")]
    CodeBlock {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lang: Option<String>,
        text: String,
        exact: bool,
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    },
    #[serde(rename = "tool.started")]
    ToolStarted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Value>,
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    },
    #[serde(rename = "tool.finished")]
    ToolFinished {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ok: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<String>,
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    },
    #[serde(rename = "test.result")]
    TestResult { runner: String, passed: u64, failed: u64, skipped: u64 },
    #[serde(rename = "error")]
    Error {
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        line: Option<u32>,
    },
    #[serde(rename = "url")]
    Url { url: String },
    /// A commit was made, as git tells it.
    #[serde(rename = "commit")]
    Commit {
        sha: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<String>,
        subject: String,
    },
    #[serde(rename = "usage")]
    Usage {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_tokens: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_tokens: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost_usd: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context_used_percent: Option<f64>,
    },
    #[serde(rename = "metric")]
    Metric { name: String, value: f64 },

    #[serde(rename = "gate.passed")]
    GatePassed {
        command: String,
        duration_ms: u64,
        #[serde(flatten)]
        on: GateSite,
    },
    #[serde(rename = "gate.failed")]
    GateFailed {
        command: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        output: String,
        duration_ms: u64,
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
        #[serde(flatten)]
        on: GateSite,
    },
    #[serde(rename = "context.prepared")]
    ContextPrepared {
        hash: String,
        cwd: PathBuf,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<String>,
        /// `reuse`, `respawn`, `oneshot` or `shell`.
        way: String,
    },
    #[serde(rename = "context.mismatch")]
    ContextMismatch { what: String, wanted: String, found: String },

    /// Every change of a task's state: one of the `task.*` family.
    #[serde(rename = "task.state")]
    TaskState {
        state: String,
        was: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },

    /// Something a reader of the journal should know: `code` is machine-readable, `text` for people.
    #[serde(rename = "note")]
    Note { code: String, text: String },
    /// What was not seen: bytes `from..to` of the output; with `why` `journal`, how many events could not be written (`to`,
    /// from 0: they have no numbers).
    #[serde(rename = "gap")]
    Gap { from: u64, to: u64, why: String },

    /// An event of a type this version does not know, kept as it came (F50).
    #[serde(skip)]
    Other { kind: String, data: Value },
}

/// What a gate ran on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GateSite {
    /// `fresh checkout` or `in place`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ran: String,
    /// Why in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What the agent left, as git names it; none outside of repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// The commit that the agent began with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Hash of the gate lines and their rules, as submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// Files that came from the base instead, as patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<String>,
    /// Files that the gate obviously rests on and the agent changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gate_edited: Vec<String>,
}

impl GateSite {
    /// [`Self::ran`] on a throwaway checkout.
    pub const FRESH: &str = "fresh checkout";
    /// [`Self::ran`] where the agent worked.
    pub const IN_PLACE: &str = "in place";
}

/// What became of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The agent works on it.
    Accepted,
    /// The agent took it while busy and will come to it.
    QueuedInAgent,
    /// It stands in the input box and Enter does nothing.
    Stuck,
    /// Nothing tells.
    Unverified,
    /// The process ended first.
    Dead,
}

/// Bytes of the run's output that an event rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte, counted from the start of the run.
    pub off: u64,
    /// How many bytes.
    pub len: u64,
}

/// An event before its journal gives it a number and a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// What happened.
    pub body: Body,
    /// Who says so.
    pub source: Source,
    /// Which rule of which pack or adapter, e.g. `claude.stop`.
    pub rule: String,
    /// What it rests on in the output.
    pub span: Option<Span>,
}

/// One line of a journal or of `orchwrap events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Event {
    /// Global number, given by the daemon when it ingests the event.
    pub id: Option<i64>,
    /// Number within the run, gap-free from 1; none for the daemon's own events.
    pub seq: Option<u64>,
    /// Wall-clock time.
    pub ts: Timestamp,
    /// Seconds since the run started (in `extract`: the recording's time).
    pub t: Option<f64>,
    /// Host name.
    pub host: String,
    /// Name of the session.
    pub session: Option<Name>,
    /// The run.
    pub run: Option<RunId>,
    /// The attempt that the run works for.
    pub attempt: Option<AttemptKey>,
    /// What happened.
    pub body: Body,
    /// Who says so.
    pub source: Source,
    /// Which rule says so.
    pub rule: String,
    /// Bytes it rests on.
    pub span: Option<Span>,
}

/// The flat JSON form of [`Event`].
#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    ts: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    t: Option<f64>,
    host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<RunId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence: Option<i64>,
    r#type: String,
    source: Source,
    rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    span: Option<Span>,
    data: Value,
}

impl Body {
    /// The `type` of the JSON form.
    pub fn kind(&self) -> String {
        self.to_parts().0
    }

    fn to_parts(&self) -> (String, Value) {
        if let Self::Other { kind, data } = self {
            return (kind.clone(), data.clone());
        }
        let Ok(Value::Object(mut map)) = serde_json::to_value(self) else {
            unreachable!("a body is adjacently tagged, its keys are strings and its numbers finite");
        };
        let Some(Value::String(kind)) = map.remove("type") else { unreachable!("the tag is a string") };
        (kind, map.remove("data").unwrap_or_else(|| Value::Object(serde_json::Map::new())))
    }

    fn from_parts(kind: String, data: Value) -> Self {
        let whole = serde_json::json!({ "type": kind, "data": data });
        serde_json::from_value(whole).unwrap_or(Self::Other { kind, data })
    }
}

impl From<Event> for Wire {
    fn from(e: Event) -> Self {
        let (kind, data) = e.body.to_parts();
        Self {
            v: EVENT_VERSION,
            id: e.id,
            seq: e.seq,
            ts: e.ts,
            t: e.t,
            host: e.host,
            session: e.session,
            run: e.run,
            task: e.attempt.map(|a| a.task),
            attempt: e.attempt.map(|a| a.attempt),
            fence: e.attempt.map(|a| a.fence),
            r#type: kind,
            source: e.source,
            rule: e.rule,
            span: e.span,
            data,
        }
    }
}

impl From<Wire> for Event {
    fn from(w: Wire) -> Self {
        let attempt = match (w.task, w.attempt, w.fence) {
            (Some(task), attempt, fence) => {
                Some(AttemptKey { task, attempt: attempt.unwrap_or(0), fence: fence.unwrap_or(0) })
            }
            _ => None,
        };
        Self {
            id: w.id,
            seq: w.seq,
            ts: w.ts,
            t: w.t,
            host: w.host,
            session: w.session,
            run: w.run,
            attempt,
            body: Body::from_parts(w.r#type, w.data),
            source: w.source,
            rule: w.rule,
            span: w.span,
        }
    }
}

/// Cuts `text` to at most `max` bytes at a character boundary; the flag says whether anything was cut.
pub fn capped(mut text: String, max: usize) -> (String, bool) {
    if text.len() <= max {
        return (text, false);
    }
    text.truncate(text.floor_char_boundary(max));
    (text, true)
}

/// Cuts the strings in `value` so that it has about `max` bytes in all; what comes after them goes. The flag says whether
/// anything was cut.
pub fn capped_json(mut value: Value, max: usize) -> (Value, bool) {
    let mut left = max;
    let cut = cap(&mut value, &mut left);
    (value, cut)
}

/// What a part of a value costs besides its text.
const PART_BYTES: usize = 8;

fn cap(value: &mut Value, left: &mut usize) -> bool {
    let cut = match value {
        Value::String(text) => {
            let (short, cut) = capped(std::mem::take(text), *left);
            *text = short;
            *left -= text.len();
            cut
        }
        Value::Array(items) => {
            let had = items.len();
            let mut cut = false;
            items.retain_mut(|item| {
                let room = *left > 0;
                cut |= room && cap(item, left);
                room
            });
            cut || items.len() < had
        }
        Value::Object(map) => {
            let had = map.len();
            let mut cut = false;
            map.retain(|key, item| {
                *left = left.saturating_sub(key.len());
                let room = *left > 0;
                cut |= room && cap(item, left);
                room
            });
            cut || map.len() < had
        }
        _ => false,
    };
    *left = left.saturating_sub(PART_BYTES);
    cut
}

#[cfg(test)]
impl Event {
    /// An event of some run.
    pub(crate) fn sample(seq: u64, body: Body) -> Self {
        Self {
            id: None,
            seq: Some(seq),
            ts: Timestamp::UNIX_EPOCH,
            t: Some(0.25),
            host: "h".into(),
            session: None,
            run: None,
            attempt: None,
            body,
            source: Source::Osc,
            rule: "x".into(),
            span: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: Body) -> Event {
        Event::sample(1, body)
    }

    #[test]
    fn an_event_is_one_flat_object_and_comes_back_equal() {
        let e = event(Body::CodeBlock { lang: Some("rust".into()), text: "x".into(), exact: true, truncated: false });
        let json = serde_json::to_value(&e).unwrap();
        assert_eq!(json["type"], "code.block");
        assert_eq!(json["data"]["exact"], true);
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), e);
    }

    #[test]
    fn an_event_without_fields_has_an_empty_object_as_data() {
        let json = serde_json::to_value(event(Body::TurnStarted {})).unwrap();
        assert_eq!(json["data"], serde_json::json!({}));
        assert_eq!(serde_json::from_value::<Event>(json).unwrap().body, Body::TurnStarted {});
    }

    #[test]
    fn f50_an_unknown_type_is_kept_as_it_came() {
        let mut json = serde_json::to_value(event(Body::TurnStarted {})).unwrap();
        json["type"] = "later.kind".into();
        json["data"] = serde_json::json!({"n": 1});
        let e: Event = serde_json::from_value(json.clone()).unwrap();
        assert!(matches!(&e.body, Body::Other { kind, .. } if kind == "later.kind"));
        assert_eq!(serde_json::to_value(&e).unwrap(), json);
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(capped("aé".into(), 2), ("a".into(), true));
        assert_eq!(capped("aé".into(), 3), ("aé".into(), false));
    }
}
