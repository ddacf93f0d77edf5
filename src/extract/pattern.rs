//! Packs: what is known about one agent, as data. `patterns/*.toml` is built in; a user's files of the same id override.
//!
//! A pack says how to launch the agent, how to type at it, which side channels it has and which rules read its screen.
//! Nothing here knows a vendor, and nothing is compiled (see [`crate::extract::rules`]) before an agent runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use crate::extract::event::{Ask, AskKind, FailReason, LimitKind};

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
    /// It is a shell: `cd` at its prompt changes where it works, and it has no conversation.
    #[serde(default)]
    pub shell: bool,
    /// After a usage limit the agent goes on by itself.
    #[serde(default)]
    pub self_resumes: bool,
    /// How it is run for one prompt, without a terminal.
    pub oneshot: Option<Oneshot>,
    /// How long a ready input box alone must stand before a turn counts as ended, where nothing better tells.
    #[serde(default = "second")]
    pub idle_ms: u64,
    /// Line mode: an erase before a line end means that the program wrapped its own words there.
    #[serde(default)]
    pub soft_wrap: bool,
    /// Where the input box is.
    pub composer: Option<ComposerRule>,
    /// What the rows of the conversation look like.
    pub transcript: Option<TranscriptRule>,
    /// What rows mean.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
    /// What the words of a failure mean, first match first.
    #[serde(default, rename = "failure")]
    pub failures: Vec<FailureRule>,
}

fn escape() -> String {
    "\x1b".into()
}

fn second() -> u64 {
    1000
}

/// A regular expression in a pack, with its place in the file.
pub type Pattern = Spanned<String>;

/// Where the input box is: the lowest row that fits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComposerRule {
    /// Its first row; the group `text` is what stands in it, `before` (line mode) what was there before the prompt.
    pub row: Pattern,
    /// The row just above it.
    pub above: Option<Pattern>,
    /// The row just below it.
    pub below: Option<Pattern>,
    /// Line mode: a following row that belongs to the same input.
    pub more: Option<Pattern>,
    /// Line mode: text that is no prompt but a command to the agent itself.
    pub command: Option<Pattern>,
    /// Line mode, where it must be given: what an empty box holds behind the cursor.
    pub placeholder: Option<Pattern>,
}

/// What the rows of the conversation above the input box look like.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TranscriptRule {
    /// First row of a prompt that was taken.
    pub prompt: Pattern,
    /// A row under a prompt that says it is not taken yet.
    pub queued: Option<Pattern>,
    /// First row of a message; the group `text` is its first line.
    pub message: Pattern,
    /// A row that makes its block a tool call and not a message.
    pub tool: Option<Pattern>,
    /// A row under a message that is not part of it.
    pub end: Option<Pattern>,
}

/// What a rule says when it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Says {
    /// Ready for a prompt.
    Idle,
    /// A turn is under way.
    Working,
    /// A permission is asked.
    Permission,
    /// A question is asked.
    Question,
    /// A human must act before the agent is ready.
    Setup,
    /// Something hides the usual frame: the last state stands.
    Hold,
    /// A row that ends each turn that went well, new each time.
    Done,
    /// The last turn failed; group `message`.
    Failed,
    /// The last turn was interrupted.
    Interrupted,
    /// A settled line that reports an error; groups `message`, `file`, `line`.
    Error,
    /// A settled line that sums up tests; groups `passed`, `failed`, `skipped`.
    Test,
}

/// Part of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Region {
    /// The window title.
    Title,
    /// The rows of the input box.
    Composer,
    /// What is above the input box; with a number, its last rows that are not blank.
    Above(Option<usize>),
    /// What is below the input box.
    Footer,
    /// What is above the input box since the last prompt.
    Turn,
    /// The end of that, from the last message on.
    Tail,
    /// The last row that is not blank.
    Bottom,
    /// Every row.
    Screen,
    /// A line that scrolled by, in line mode.
    Line,
}

impl TryFrom<String> for Region {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        Ok(match s.as_str() {
            "title" => Self::Title,
            "composer" => Self::Composer,
            "above" => Self::Above(None),
            "footer" => Self::Footer,
            "turn" => Self::Turn,
            "tail" => Self::Tail,
            "bottom" => Self::Bottom,
            "screen" => Self::Screen,
            "line" => Self::Line,
            _ => match s.strip_prefix("above:").and_then(|n| n.parse().ok()) {
                Some(n) => Self::Above(Some(n)),
                None => {
                    return Err(format!(
                        "unknown region {s:?}: title, composer, above, above:N, footer, turn, tail, bottom, screen or line"
                    ));
                }
            },
        })
    }
}

/// A row that must, or must not, be there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Where to look.
    pub r#in: Region,
    /// What a row there looks like.
    pub row: Pattern,
}

/// What rows mean. A rule matches when every condition of `all` and none of `none` does.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name, in every event that it makes.
    pub id: String,
    /// What it means.
    pub says: Says,
    /// The highest one that matches wins.
    #[serde(default)]
    pub priority: i32,
    /// What must be there.
    #[serde(default)]
    pub all: Vec<Condition>,
    /// What must not be there.
    #[serde(default)]
    pub none: Vec<Condition>,
    /// How a question is read off the rows.
    pub ask: Option<AskRule>,
    /// One line for people: what a human has to do ([`Says::Setup`]).
    pub what: Option<String>,
}

/// How a question is read off the rows.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskRule {
    /// The last row like this begins it; the group `tool` names what wants to run.
    pub from: Pattern,
    /// A choice: group `option`.
    pub option: Pattern,
    /// Choices that are not part of the question.
    pub skip: Option<Pattern>,
    /// Rows that are decoration or advice.
    pub ignore: Option<Pattern>,
    /// The name of the tool, where a row of it tells: group `tool`.
    pub tool: Option<Pattern>,
}

/// What the words of a failure mean.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureRule {
    /// What the message looks like.
    pub like: Pattern,
    /// The reason.
    pub reason: FailReason,
    /// It is a usage limit of this kind.
    pub limit: Option<LimitKind>,
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

    /// Parses a pack file that somebody wrote, its patterns included.
    pub fn parse_checked(file: &Path, text: &str) -> Result<Self, PackError> {
        let pack = Self::parse(file, text)?;
        crate::extract::rules::check(&pack, file, text)?;
        Ok(pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "version = 1\nid = \"x\"\nmode = \"tui\"\n[launch]\ncommand = \"x\"\n";

    fn fault(text: &str) -> (usize, String) {
        let error = Pack::parse_checked(Path::new("x.toml"), &format!("{HEAD}{text}")).unwrap_err();
        (error.line, error.why)
    }

    #[test]
    fn built_in_packs_compile() {
        for (file, text) in BUILTIN {
            Pack::parse_checked(Path::new(file), text).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn faults_have_a_line_and_say_what_was_expected() {
        let rule = |region: &str, row: &str| {
            format!("[[rule]]\nid = \"r\"\nsays = \"idle\"\nall = [{{ in = \"{region}\", row = '{row}' }}]\n")
        };
        let (line, why) = fault(&rule("middle", "x"));
        assert!(line == 9 && why.contains("above:N"), "{line}: {why}");
        assert_eq!(fault(&rule("above", "(x")).0, 9);
        assert_eq!(fault("colour = 1\n").0, 6);
    }

    #[test]
    fn t29_a_pattern_that_grows_without_bound_is_refused() {
        let rule = "[[rule]]\nid = \"r\"\nsays = \"idle\"\nall = [{ in = \"above\", row = '((a{500}){500}){50}' }]\n";
        assert_eq!(fault(rule).0, 9);
    }

    #[test]
    fn answers_become_keys() {
        let ask = Ask {
            hash: String::new(),
            tool: None,
            text: String::new(),
            options: vec!["SQLite".into(), "PostgreSQL".into()],
            exact: false,
        };
        let answers = Answers { yes: "1".into(), no: "\u{1b}".into(), option: "{n}".into(), text: None };
        let keys = |kind, text: &str| answers.keys(kind, &ask, text).map(|k| String::from_utf8(k).unwrap());
        assert_eq!(keys(AskKind::Permission, "yes").as_deref(), Some("1"));
        assert_eq!(keys(AskKind::Permission, "No").as_deref(), Some("\u{1b}"));
        assert_eq!(keys(AskKind::Question, "postgresql").as_deref(), Some("2"));
        assert_eq!(keys(AskKind::Question, "2").as_deref(), Some("2"));
        assert_eq!(keys(AskKind::Question, "MySQL"), None);
    }
}
