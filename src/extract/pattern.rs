//! Packs: what is known about one agent, as data. `patterns/*.toml` is built in; a user's files of the same id override.
//!
//! A pack says how to launch the agent, how to type at it, which side channels it has and which rules read its screen.
//! Nothing here knows a vendor, and nothing is compiled (see [`crate::extract::rules`]) before an agent runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::extract::event::{Ask, AskKind};

/// Version of the pack format.
pub const PACK_VERSION: u32 = 1;

/// The packs that every build carries, in the order `orchwrap patterns ls` shows them.
const BUILTIN: &[(&str, &str)] = &[
    ("patterns/claude.toml", include_str!("../../patterns/claude.toml")),
    ("patterns/codex.toml", include_str!("../../patterns/codex.toml")),
    ("patterns/ollama.toml", include_str!("../../patterns/ollama.toml")),
    ("patterns/shell.toml", include_str!("../../patterns/shell.toml")),
    ("patterns/generic.toml", include_str!("../../patterns/generic.toml")),
];

/// Id of the pack for programs that have none of their own.
pub const GENERIC: &str = "generic";

/// A pack file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {why}", file.display())]
pub struct PackError {
    /// The file.
    pub file: PathBuf,
    /// Line of the fault, from 1.
    pub line: usize,
    /// What is wrong and what was expected.
    pub why: String,
}

/// What is known about one agent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// [`PACK_VERSION`].
    pub version: u32,
    /// Name of the agent, as in `--agent`.
    pub id: String,
    /// Whose account its limits bind: sessions of one provider are parked together.
    pub provider: Option<String>,
    /// How its output is read.
    pub mode: Mode,
    /// How it is started.
    pub launch: LaunchRule,
    /// How a prompt is typed.
    #[serde(default)]
    pub paste: Paste,
    /// How a question is answered.
    #[serde(default)]
    pub answers: Answers,
    /// The key that interrupts a turn.
    #[serde(default = "escape")]
    pub interrupt: String,
    /// Side channels by protocol name.
    #[serde(default)]
    pub adapters: Vec<String>,
    /// A turn seen in the output alone proves a task (nothing better exists for this agent).
    #[serde(default)]
    pub output_is_enough: bool,
    /// After a usage limit the agent goes on by itself.
    #[serde(default)]
    pub self_resumes: bool,
    /// How it is run for one prompt, without a terminal.
    pub oneshot: Option<Oneshot>,
}

fn escape() -> String {
    "\x1b".into()
}

/// How output becomes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Full-screen: a cell grid is needed.
    Tui,
    /// Lines, one after the other.
    Line,
}

/// How the agent is started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchRule {
    /// Program that `--agent <id>` runs.
    pub command: String,
    /// Program names (last path component) that this pack belongs to.
    #[serde(default)]
    pub names: Vec<String>,
    /// The first argument must be one of these, where given (`ollama run`).
    #[serde(default)]
    pub first_args: Vec<String>,
    /// Variables by which the agent knows that it runs inside itself: never handed on to an agent.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// When a prompt is wrapped in bracketed-paste marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bracketed {
    /// If and only if the agent switched the mode on.
    #[default]
    Auto,
    /// Never.
    Never,
}

/// How a prompt is typed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paste {
    /// Bracketed-paste marks.
    pub bracketed: Bracketed,
    /// Pause between the text and Enter.
    pub enter_gap_ms: u64,
    /// How long the agent must have been ready.
    pub ready_gap_ms: u64,
}

impl Default for Paste {
    fn default() -> Self {
        Self { bracketed: Bracketed::Auto, enter_gap_ms: 100, ready_gap_ms: 300 }
    }
}

/// Keys that answer a question. `{n}` is the number of a choice from 1, `{text}` free text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// Grants a permission.
    pub yes: String,
    /// Refuses it.
    pub no: String,
    /// Picks a choice.
    pub option: String,
    /// Answers in words, where the agent takes words.
    pub text: Option<String>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { yes: "y\r".into(), no: "n\r".into(), option: "{n}\r".into(), text: Some("{text}\r".into()) }
    }
}

impl Answers {
    /// Returns the keys for `text` (`yes`, `no`, a choice's number or words, or free text); none if it fits no way to answer.
    pub fn keys(&self, kind: AskKind, ask: &Ask, text: &str) -> Option<Vec<u8>> {
        let text = text.trim();
        if kind == AskKind::Permission {
            match text.to_ascii_lowercase().as_str() {
                "yes" | "y" => return Some(self.yes.clone().into_bytes()),
                "no" | "n" => return Some(self.no.clone().into_bytes()),
                _ => {}
            }
        }
        let by_number = text.parse::<usize>().ok().filter(|n| (1..=ask.options.len()).contains(n));
        let by_words = || ask.options.iter().position(|o| o.trim().eq_ignore_ascii_case(text)).map(|i| i + 1);
        if let Some(n) = by_number.or_else(by_words) {
            return Some(self.option.replace("{n}", &n.to_string()).into_bytes());
        }
        let free = self.text.as_ref()?;
        (!text.contains(char::is_control)).then(|| free.replace("{text}", text).into_bytes())
    }
}

/// How an agent is run for one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oneshot {
    /// Arguments put after the command; the prompt comes on stdin.
    pub args: Vec<String>,
    /// Protocol of the output, by line; none where the output is the answer.
    pub adapter: Option<String>,
}

/// The packs in force.
#[derive(Debug, Clone)]
pub struct Packs {
    by_id: BTreeMap<String, Arc<Pack>>,
}

impl Packs {
    /// Returns the packs that are built in.
    pub fn builtin() -> Self {
        let by_id = BUILTIN
            .iter()
            .map(|(file, text)| {
                let pack =
                    Pack::parse(Path::new(file), text).unwrap_or_else(|e| panic!("a built-in pack is valid: {e}"));
                (pack.id.clone(), Arc::new(pack))
            })
            .collect();
        Self { by_id }
    }

    /// Puts `pack` in force, in the place of one with the same id.
    pub fn insert(&mut self, pack: Pack) {
        self.by_id.insert(pack.id.clone(), Arc::new(pack));
    }

    /// Returns the pack with this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Pack>> {
        self.by_id.get(id)
    }

    /// Returns the pack for programs that have none.
    pub fn generic(&self) -> &Arc<Pack> {
        self.get(GENERIC).expect("the generic pack is built in and never removed")
    }

    /// Returns the pack that claims the program `argv0` (a name or a path).
    pub fn for_command(&self, argv0: &str) -> Option<&Arc<Pack>> {
        let name = Path::new(argv0).file_name()?.to_str()?;
        self.by_id.values().find(|p| p.launch.names.iter().any(|n| n == name))
    }

    /// Returns the known names nearest to `name`, best first.
    pub fn nearest(&self, name: &str) -> Vec<String> {
        let mut scored: Vec<(f64, &String)> = self
            .by_id
            .values()
            .flat_map(|p| std::iter::once(&p.id).chain(&p.launch.names))
            .map(|known| (strsim::jaro_winkler(name, known), known))
            .filter(|(score, _)| *score > 0.75)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        let mut names: Vec<String> = scored.into_iter().map(|(_, n)| n.clone()).collect();
        names.dedup();
        names.truncate(3);
        names
    }

    /// Returns the variables that no agent is given: `launch.unset` of every pack.
    pub fn unset(&self) -> Vec<String> {
        self.by_id.values().flat_map(|p| p.launch.unset.iter().cloned()).collect()
    }

    /// Returns every pack, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.by_id.values()
    }
}

impl Pack {
    /// Parses a pack file.
    pub fn parse(file: &Path, text: &str) -> Result<Self, PackError> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let fault = |at: usize, why: String| PackError { file: file.to_owned(), line: line_of(at), why };
        let pack: Self =
            toml::from_str(text).map_err(|e| fault(e.span().map_or(0, |s| s.start), e.message().to_owned()))?;
        if pack.version != PACK_VERSION {
            return Err(fault(0, format!("version {} is not supported; write version = {PACK_VERSION}", pack.version)));
        }
        Ok(pack)
    }
}
