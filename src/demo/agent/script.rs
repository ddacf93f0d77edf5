//! What the agent does for a prompt: steps, from a script file or from plain words in the prompt.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// A script: the first rule whose words all stand in the prompt is played.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// How it starts.
    pub start: Start,
    /// Tried in order.
    pub rules: Vec<Rule>,
    /// Played when no rule fits and the prompt holds no directive.
    pub otherwise: Vec<Step>,
}

/// How the agent starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Start {
    /// Milliseconds before it touches the terminal.
    pub slow_ms: u64,
    /// It asks whether the folder is trusted.
    pub trust: bool,
    /// Enters that are lost before the first prompt.
    pub swallow_enters: u32,
    /// It ends instead of starting.
    pub crash: Option<End>,
}

/// One answer of the script.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// All of these stand in the prompt.
    pub when: Vec<String>,
    /// None of these does.
    pub unless: Vec<String>,
    /// Enters that are lost while this prompt stands in the input box, once per process.
    pub swallow_enters: u32,
    /// Milliseconds from the Enter that submits the prompt to the first sign of it.
    pub ack_ms: u64,
    /// What is done; nothing here leaves it to the words of the prompt.
    pub steps: Vec<Step>,
}

/// One thing the agent does within a turn. A turn whose steps are over has ended well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Works without output, in milliseconds.
    Think(u64),
    /// Says markdown.
    Say(String),
    /// Runs a shell command, without asking.
    Tool(Run),
    /// Asks whether it may run a shell command, and runs it if so.
    Ask(Run),
    /// Asks the user to choose.
    Question(Asked),
    /// The turn fails, after retries.
    Fail(Failure),
    /// A usage limit stops it.
    Limit(Limit),
    /// The process ends in the middle of the turn.
    Crash(End),
    /// Works until this file exists.
    WaitFile(PathBuf),
    /// Works for ever.
    Hang,
}

/// A shell command, really run in the agent's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// For `/bin/sh -c`.
    pub run: String,
    /// What it is for, in a few words.
    #[serde(default)]
    pub about: String,
}

/// A multiple-choice question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Two words over it.
    #[serde(default)]
    pub header: String,
    /// The question.
    pub text: String,
    /// The choices.
    pub options: Vec<String>,
}

/// Why a turn fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Status of the model server: 401, 429, 500 ...
    pub status: u16,
    /// Milliseconds of retries, with error words on the screen, before it gives up.
    #[serde(default)]
    pub retry_ms: u64,
    /// The retries succeed: the turn goes on.
    #[serde(default)]
    pub recovers: bool,
}

/// A usage limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// As the agent prints it, e.g. `2:05am (UTC)`.
    pub resets: String,
}

/// How the process ends when it crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

impl End {
    /// Ends this process so, with no word and no cleaning.
    pub fn now(self) -> ! {
        match self {
            Self::Code(code) => std::process::exit(code),
            Self::Signal(number) => {
                if let Ok(signal) = nix::sys::signal::Signal::try_from(number) {
                    let _ = nix::sys::signal::raise(signal);
                }
                std::process::exit(128 + number)
            }
        }
    }
}

impl Script {
    /// Reads a script file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs_err::read_to_string(path)?;
        serde_json::from_str(&text).with_context(|| format!("read script {}", path.display()))
    }

    /// Returns the rule for this prompt, with its place in the script.
    pub fn rule(&self, prompt: &str) -> Option<(usize, &Rule)> {
        self.rules.iter().enumerate().find(|(_, rule)| {
            rule.when.iter().all(|w| prompt.contains(w.as_str()))
                && !rule.unless.iter().any(|w| prompt.contains(w.as_str()))
        })
    }

    /// Returns what to do for this prompt.
    pub fn steps(&self, prompt: &str) -> Vec<Step> {
        if let Some((_, rule)) = self.rule(prompt).filter(|(_, rule)| !rule.steps.is_empty()) {
            return rule.steps.clone();
        }
        let told = directives(prompt);
        if !told.is_empty() {
            return told;
        }
        if !self.otherwise.is_empty() {
            return self.otherwise.clone();
        }
        let first = prompt.lines().next().unwrap_or_default().trim();
        vec![Step::Think(150), Step::Say(format!("I looked at it: {first}"))]
    }
}

/// Reads steps out of a prompt: one a line, e.g. `think 200 ms`, `run: make test`, `ask to run: touch x`, `say: all good`,
/// `choose: Which one? | A | B`, `fail with 500`, `hit the limit until 2:05am (UTC)`, `crash with code 3`,
/// `wait for file: /tmp/go`, `never end`. Other lines are prose.
fn directives(prompt: &str) -> Vec<Step> {
    prompt.lines().filter_map(|line| directive(line.trim())).collect()
}

fn directive(line: &str) -> Option<Step> {
    let after = |word: &str| line.strip_prefix(word).map(str::trim).filter(|rest| !rest.is_empty());
    let number = |text: &str| text.split_whitespace().next().and_then(|n| n.parse::<i64>().ok());
    let run = |text: &str| Run { run: text.to_owned(), about: String::new() };
    if let Some(rest) = after("think ") {
        return Some(Step::Think(number(rest)?.try_into().ok()?));
    }
    if let Some(text) = after("say:") {
        return Some(Step::Say(text.replace("\\n", "\n")));
    }
    if let Some(command) = after("run:") {
        return Some(Step::Tool(run(command)));
    }
    if let Some(command) = after("ask to run:") {
        return Some(Step::Ask(run(command)));
    }
    if let Some(rest) = after("choose:") {
        let mut parts = rest.split('|').map(|p| p.trim().to_owned());
        let text = parts.next()?;
        return Some(Step::Question(Asked { header: "Choice".into(), text, options: parts.collect() }));
    }
    if let Some(rest) = after("fail with ") {
        let status = number(rest)?.try_into().ok()?;
        return Some(Step::Fail(Failure { status, retry_ms: 200, recovers: false }));
    }
    if let Some(rest) = after("hit the limit until ") {
        return Some(Step::Limit(Limit { resets: rest.to_owned() }));
    }
    if let Some(rest) = after("crash with code ") {
        return Some(Step::Crash(End::Code(number(rest)?.try_into().ok()?)));
    }
    if let Some(rest) = after("crash with signal ") {
        return Some(Step::Crash(End::Signal(number(rest)?.try_into().ok()?)));
    }
    if let Some(path) = after("wait for file:") {
        return Some(Step::WaitFile(path.into()));
    }
    (line == "never end").then_some(Step::Hang)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_in_a_prompt_become_steps_and_prose_does_not() {
        let steps =
            directives("Please do this.\nthink 20 ms\nrun: echo hi\nask to run: touch x\nsay: done\\nnow\nnever end");
        assert_eq!(
            steps,
            [
                Step::Think(20),
                Step::Tool(Run { run: "echo hi".into(), about: String::new() }),
                Step::Ask(Run { run: "touch x".into(), about: String::new() }),
                Step::Say("done\nnow".into()),
                Step::Hang,
            ]
        );
        assert!(directives("I think 20 of them say: nothing runs").is_empty());
    }

    #[test]
    fn the_first_rule_whose_words_all_stand_in_the_prompt_is_played() {
        let script: Script = serde_json::from_str(
            r#"{"rules":[{"when":["fix","gate"],"steps":[{"say":"again"}]},{"when":["fix"],"unless":["not"],"steps":[{"fail":{"status":500}}]}]}"#,
        )
        .unwrap();
        assert_eq!(script.steps("fix it: the gate failed"), [Step::Say("again".into())]);
        assert_eq!(script.steps("fix it"), [Step::Fail(Failure { status: 500, retry_ms: 0, recovers: false })]);
        assert!(matches!(script.steps("do not fix")[..], [Step::Think(_), Step::Say(_)]));
    }
}
