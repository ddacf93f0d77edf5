//! Packs: what is known about one agent, as data. `patterns/*.toml` is built in; a user's files of the same id override.
//!
//! A pack says how to launch the agent, how to type at it, which side channels it has and which rules read its screen.
//! Nothing here knows a vendor, and nothing is compiled (see [`crate::extract::rules`]) before an agent runs.

mod launch;
mod read;
mod rule;
mod set;

use serde::Deserialize;

use crate::extract::adapters::{Version, parse_version};

pub use launch::{Answers, Bracketed, LaunchRule, Oneshot, Paste};
pub use read::PackError;
pub(crate) use read::PatternError;
pub use rule::{AskRule, ComposerRule, Condition, FailureRule, Pattern, Region, Rule, Says, TranscriptRule};
pub use set::{Origin, Packs};

/// Version of the pack format.
pub const PACK_VERSION: u32 = 1;

/// Id of the pack for programs that have none of their own.
pub const GENERIC: &str = "generic";

/// What is known about one agent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// [`PACK_VERSION`].
    pub version: u32,
    /// Name of the agent, as in `--agent`.
    pub id: String,
    /// The pack that this one is laid over.
    pub extends: Option<String>,
    /// Versions of the agent that the rules were seen to hold for.
    #[serde(default)]
    pub tested_versions: Vec<String>,
    /// The oldest version of the agent that the pack is for.
    pub min_version: Option<String>,
    /// The newest one.
    pub max_version: Option<String>,
    /// A row in which the agent tells its version: group `version`.
    pub banner: Option<Pattern>,
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
    /// Files of a working tree by which the agent is made to start programs: a folder where it ends with a slash.
    #[serde(default)]
    pub config_files: Vec<String>,
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
    /// Rules for the output of tools that reports bring: the pack's own for lines, and those of the generic pack.
    #[serde(skip)]
    pub content: Vec<Rule>,
}

fn escape() -> String {
    "\x1b".into()
}

fn second() -> u64 {
    1000
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

impl Pack {
    /// Whether `version` of the agent is newer than all that the pack was tested with.
    pub fn is_untested(&self, version: Version) -> bool {
        self.tested_versions.iter().filter_map(|v| parse_version(v)).max().is_some_and(|newest| version > newest)
    }

    /// Whether the pack is for `version` of the agent.
    pub fn is_for(&self, version: Version) -> bool {
        let bound = |v: &Option<String>| v.as_deref().and_then(parse_version);
        bound(&self.min_version).is_none_or(|min| version >= min)
            && bound(&self.max_version).is_none_or(|max| version <= max)
    }

    /// Whether a command line holds the only prompt, or standard input is read for it (`piped`).
    pub fn takes_one_prompt(&self, argv: &[String], piped: bool) -> bool {
        let words = argv.iter().skip(1).filter(|a| !a.starts_with('-')).count();
        self.launch.words.is_some_and(|most| piped || words > most)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::extract::event::{Ask, AskKind};

    const HEAD: &str = "version = 1\nid = \"x\"\nmode = \"tui\"\n[launch]\ncommand = \"x\"\n";

    fn fault(text: &str) -> (usize, String) {
        let error = Pack::parse_checked(Path::new("x.toml"), &format!("{HEAD}{text}")).unwrap_err();
        (error.line, error.why)
    }

    #[test]
    fn built_in_packs_compile() {
        for pack in Packs::builtin().iter() {
            let faults = crate::extract::rules::check(pack);
            assert!(faults.is_empty(), "{}: {faults:?}", pack.id);
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
        assert_eq!(fault("unsett = 1\n"), (6, "unknown key `unsett`, the nearest is `unset`".to_owned()));
        assert!(fault("zzz = 1\n").1.starts_with("unknown key `zzz`; known here: "));
        let (_, why) = fault("[[rule]]\nid = \"r\"\nsays = \"workin\"\n");
        assert_eq!(why, "unknown value `workin`, the nearest is `working`");
        assert_eq!(fault("[[rule]]\nsays = \"idle\"\n").1, "the key `id` is missing");
    }

    #[test]
    fn the_column_counts_characters() {
        let e = Pack::parse(
            Path::new("x.toml"),
            "version = 1\nid = \"é\"\nmode = \"tui\"\nlaunch = { command = \"ü\", nam = [] }\n",
        );
        let e = e.unwrap_err();
        assert_eq!((e.line, e.column), (4, 27), "{e}");
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
        let answers = Answers { yes: "1".into(), no: "\u{1b}".into(), option: "{n}".into(), step: None, text: None };
        let keys = |kind, text: &str| answers.keys(kind, &ask, text).map(|k| String::from_utf8(k).unwrap());
        assert_eq!(keys(AskKind::Permission, "yes").as_deref(), Some("1"));
        assert_eq!(keys(AskKind::Permission, "No").as_deref(), Some("\u{1b}"));
        assert_eq!(keys(AskKind::Question, "postgresql").as_deref(), Some("2"));
        assert_eq!(keys(AskKind::Question, "2").as_deref(), Some("2"));
        assert_eq!(keys(AskKind::Question, "MySQL"), None);
    }
}
