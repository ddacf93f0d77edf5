//! How an agent is started, typed at and answered.

use serde::Deserialize;

use crate::extract::event::{Ask, AskKind};

/// How the agent is started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchRule {
    /// Program that `--agent <id>` runs.
    pub command: String,
    /// Program names (last path component) that this pack belongs to.
    #[serde(default)]
    pub names: Vec<String>,
    /// The first argument must be one of these, where given; with any other the program is no agent.
    #[serde(default)]
    pub first_args: Vec<String>,
    /// First arguments with which the program starts another agent, named by the next argument.
    #[serde(default)]
    pub launcher_args: Vec<String>,
    /// How many words, options left out, a command line of a session has: more of them, or a standard input that is no
    /// terminal, and the run is one prompt and its answer.
    pub words: Option<usize>,
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

/// Keys that answer a question. `{n}` is the number of a choice from 1, `{steps}` the key [`Answers::step`] once for each
/// choice before it, `{text}` free text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// Grants a permission.
    pub yes: String,
    /// Refuses it.
    pub no: String,
    /// Picks a choice.
    pub option: String,
    /// The key that goes to the next choice, where choices have no numbers.
    pub step: Option<String>,
    /// Answers a question without choices in words, where the agent takes words. Into a menu words are never typed: they
    /// would be keys there, and Enter picks whatever is highlighted.
    pub text: Option<String>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { yes: "y\r".into(), no: "n\r".into(), option: "{n}\r".into(), step: None, text: None }
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
            let steps = self.step.as_deref().unwrap_or_default().repeat(n - 1);
            return Some(self.option.replace("{n}", &n.to_string()).replace("{steps}", &steps).into_bytes());
        }
        if kind == AskKind::Permission || !ask.options.is_empty() {
            return None;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t32_words_that_name_no_choice_are_never_typed_into_a_menu() {
        let takes_words = Answers { text: Some("{text}\r".into()), ..Answers::default() };
        let ask = |options: &[&str]| Ask {
            hash: "h".into(),
            tool: None,
            text: "t".into(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            exact: true,
        };
        let menu = ask(&["Yes", "No"]);
        for words in ["no, not there", "foo", "99", "0", ""] {
            for answers in [&takes_words, &Answers::default()] {
                assert_eq!(answers.keys(AskKind::Permission, &menu, words), None, "{words:?}");
                assert_eq!(answers.keys(AskKind::Permission, &ask(&[]), words), None, "{words:?}");
                assert_eq!(answers.keys(AskKind::Question, &menu, words), None, "{words:?}");
            }
            assert_eq!(Answers::default().keys(AskKind::Question, &ask(&[]), words), None, "{words:?}");
        }
        assert_eq!(takes_words.keys(AskKind::Question, &ask(&[]), "blue").unwrap(), b"blue\r");
        assert_eq!(takes_words.keys(AskKind::Question, &menu, "no").unwrap(), b"2\r");
    }
}
