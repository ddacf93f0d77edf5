//! Decoders of side channels, by protocol name: what an agent reports about itself out of band.
//!
//! Here, with the packs, vendors may be named. A decoder turns one payload into claims and keeps no state; [`Reports`]
//! is the state of a run: it drops what is doubled, late or another thread's, whichever channel said it first.

mod claude_hooks;
mod claude_stream;
mod claude_transcript;
mod codex_exec;
mod codex_hooks;
mod codex_notify;
mod codex_rollout;
mod content;
mod json;
pub(crate) mod limits;
mod plan;
mod reports;
#[cfg(test)]
mod samples;

use serde_json::Value;

use crate::extract::event::Source;
use crate::extract::signal::{Claim, Signal};

pub use plan::{FollowRule, Plan, PlanError, Site, Version, parse_version, plan, version_of_path};
pub use reports::Reports;

/// A report that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// No such protocol.
    #[error("no adapter is called {0:?}: is the hook of another version of orchwrap?")]
    Unknown(String),
    /// The payload is not what the protocol says.
    #[error("{adapter}: {why}")]
    Malformed {
        /// Protocol name.
        adapter: String,
        /// What is wrong.
        why: String,
    },
}

/// What one payload says, with the agent's own names for where it belongs.
#[derive(Debug, Clone, PartialEq)]
struct Report {
    source: Source,
    /// `<agent>.<moment>`, e.g. `claude.stop`.
    rule: &'static str,
    claim: Claim,
    /// The agent's id of the turn.
    turn: Option<String>,
    /// The agent's id of the conversation (thread, session).
    thread: Option<String>,
    /// The user chose this conversation: no helper of a turn does.
    chosen: bool,
}

type Decoder = fn(&Value) -> Result<Vec<Report>, String>;

/// Every protocol: its name and its decoder.
const DECODERS: &[(&str, Decoder)] = &[
    ("claude-hooks/1", claude_hooks::decode),
    ("claude-transcript/1", claude_transcript::decode),
    ("claude-stream-json/1", claude_stream::decode),
    ("codex-hooks/1", codex_hooks::decode),
    ("codex-notify/1", codex_notify::decode),
    ("codex-rollout/1", codex_rollout::decode),
    ("codex-exec-json/1", codex_exec::decode),
];

/// Turns one report of the protocol `adapter` into claims, without knowledge of the reports before it.
pub fn decode(adapter: &str, payload: &Value) -> Result<Vec<Signal>, AdapterError> {
    Ok(reports_of(adapter, payload)?.into_iter().map(Report::into_signal).collect())
}

fn reports_of(adapter: &str, payload: &Value) -> Result<Vec<Report>, AdapterError> {
    let (_, decoder) =
        DECODERS.iter().find(|(name, _)| *name == adapter).ok_or_else(|| AdapterError::Unknown(adapter.to_owned()))?;
    decoder(payload).map_err(|why| AdapterError::Malformed { adapter: adapter.to_owned(), why })
}

impl Report {
    fn into_signal(self) -> Signal {
        Signal { source: self.source, rule: self.rule.to_owned(), claim: self.claim }
    }
}

/// Collects the claims of one payload, which share their source, turn and thread.
struct Sheet {
    source: Source,
    turn: Option<String>,
    thread: Option<String>,
    reports: Vec<Report>,
}

impl Sheet {
    fn new(source: Source) -> Self {
        Self { source, turn: None, thread: None, reports: Vec::new() }
    }

    fn say(&mut self, rule: &'static str, claim: Claim) {
        let (turn, thread) = (self.turn.clone(), self.thread.clone());
        self.reports.push(Report { source: self.source, rule, claim, turn, thread, chosen: false });
    }

    /// A message, as markdown source.
    fn say_text(&mut self, rule: &'static str, text: &str) {
        if let Some(body) = content::message(text) {
            self.say(rule, Claim::Content(Box::new(body)));
        }
    }
}
