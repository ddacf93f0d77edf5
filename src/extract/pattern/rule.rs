//! What a pack says about rows: where the input box is, what the conversation looks like, what a row means.

use serde::Deserialize;
use toml::Spanned;

use crate::extract::event::{FailReason, LimitKind};

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
    /// Line mode: rows that tell how far a preparation is, and are no part of an answer.
    pub progress: Option<Pattern>,
    /// It is the box only while the cursor stands in it: the same rows elsewhere are a prompt that was taken.
    #[serde(default)]
    pub cursor: bool,
    /// It is the box only while the agent has bracketed paste switched on, which it does for as long as it reads a line.
    #[serde(default)]
    pub paste: bool,
    /// How many rows at its end hold no text but what the agent says about itself.
    #[serde(default)]
    pub status_rows: usize,
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
    /// Messages have no sign of their own: all rows since the prompt or the last tool are the message.
    #[serde(default)]
    pub whole: bool,
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
    /// A settled line with a link; group `url`.
    Url,
    /// A settled line that tells a commit; groups `sha`, `branch`, `subject`.
    Commit,
    /// A settled line that tells what was used; groups `input`, `output` (tokens), `cost` (dollars), `context` (percent).
    Usage,
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
    /// The last row that is not blank; with a number, that many of them.
    Bottom(usize),
    /// Every row.
    Screen,
    /// A line that scrolled by, in line mode, or of a tool's output that a report brings.
    Line,
    /// A line of a tool's output that a report brings, and no other: for patterns that are dear to look for.
    Tool,
}

/// Every region by name, as a message tells them.
const REGIONS: &str = "title, composer, above, above:N, footer, turn, tail, bottom, bottom:N, screen, line or tool";

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
            "bottom" => Self::Bottom(1),
            "screen" => Self::Screen,
            "line" => Self::Line,
            "tool" => Self::Tool,
            _ => match s.split_once(':').map(|(name, n)| (name, n.parse())) {
                Some(("above", Ok(n))) => Self::Above(Some(n)),
                Some(("bottom", Ok(n))) => Self::Bottom(n),
                _ => return Err(format!("unknown region {s:?}: expected {REGIONS}")),
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

/// What rows mean. A rule matches when every condition of `all`, one of `any` and none of `none` does.
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
    /// Of which one must be there, where given.
    #[serde(default)]
    pub any: Vec<Condition>,
    /// What must not be there.
    #[serde(default)]
    pub none: Vec<Condition>,
    /// How a turn ended ([`Says::Failed`], [`Says::Interrupted`]): looked at in every frame of the turn and kept until the
    /// agent writes on, for agents whose rows may have scrolled away once the input box is back.
    #[serde(default)]
    pub sticks: bool,
    /// How a question is read off the rows.
    pub ask: Option<AskRule>,
    /// One line for people: what a human has to do ([`Says::Setup`]).
    pub what: Option<String>,
    /// A pack that extends another one drops this rule of it.
    #[serde(default)]
    pub off: bool,
}

impl Rule {
    /// Whether it reads lines that scroll by, and not what stands on the screen.
    pub fn reads_lines(&self) -> bool {
        matches!(self.says, Says::Error | Says::Test | Says::Url | Says::Commit | Says::Usage)
    }
}

/// How a question is read off the rows.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskRule {
    /// The last row like this begins it; the group `tool` names what wants to run.
    pub from: Pattern,
    /// A choice: group `option`; none where it is answered in letters or words.
    pub option: Option<Pattern>,
    /// Choices that are not part of the question.
    pub skip: Option<Pattern>,
    /// Rows that are decoration or advice.
    pub ignore: Option<Pattern>,
    /// The name of the tool, where a row of it tells: group `tool`.
    pub tool: Option<Pattern>,
    /// The choices stand side by side, in the last row that fits.
    #[serde(default)]
    pub one_row: bool,
    /// What of a row counts: group `text`; rows that do not fit are decoration.
    pub row: Option<Pattern>,
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
