//! A scenario: steps, each one thing to do or to wait for, and what is true once it is done.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::extract::event::SessionState;

/// A scenario file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    /// What it is about.
    pub(super) note: String,
    /// Added to the agent's environment; an empty value removes.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) steps: Vec<Step>,
}

/// A step: exactly one action, and what it makes true.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    wait: Option<SessionState>,
    row: Option<String>,
    r#type: Option<String>,
    paste: Option<String>,
    submit: Option<String>,
    key: Option<Key>,
    resize: Option<String>,
    sleep: Option<f64>,
    asked: Option<usize>,
    answered: Option<usize>,
    last_answer: Option<bool>,
    quit: Option<bool>,
    truth: Option<Value>,
    timeout: Option<f64>,
}

/// What to do or to wait for.
#[derive(Debug)]
pub(super) enum Act {
    /// Until the run looks like this; it only decides when to go on.
    Wait(SessionState),
    /// Until a row of the screen matches.
    Row(regex::Regex),
    /// Key by key.
    Type(String),
    /// As a paste, without Enter.
    Paste(String),
    /// A paste and Enter, pressed again if the model was not asked; true as `prompt_submitted`.
    Submit(String),
    Key(Key),
    Resize((u16, u16)),
    Sleep(f64),
    /// Until the model was asked for the n-th time since the last `submit`.
    Asked(usize),
    /// Until the model had answered n times since then.
    Answered(usize),
    /// When the model last answered: of how many tries, only the agent knows.
    LastAnswer,
    /// Ctrl-C until the agent is gone.
    Quit,
}

/// A key by name.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Key {
    Enter,
    Esc,
    Tab,
    Up,
    Down,
    CtrlC,
    Backspace,
}

impl Key {
    pub(super) fn bytes(self) -> &'static str {
        match self {
            Self::Enter => "\r",
            Self::Esc => "\x1b",
            Self::Tab => "\t",
            Self::Up => "\x1b[A",
            Self::Down => "\x1b[B",
            Self::CtrlC => "\x03",
            Self::Backspace => "\x7f",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "Line")]
pub(super) struct Step {
    pub(super) act: Act,
    /// An event of `expect.json`, at the time of this step.
    pub(super) truth: Option<Value>,
    /// How long it may wait, in seconds, where the usual patience is too short.
    pub(super) timeout: Option<f64>,
}

impl TryFrom<Line> for Step {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let size = |text: String| super::size(&text);
        let row = |text: String| regex::Regex::new(&text).map_err(|e| e.to_string());
        let mut acts: Vec<Act> = [
            line.wait.map(Act::Wait),
            line.row.map(row).transpose()?.map(Act::Row),
            line.r#type.map(Act::Type),
            line.paste.map(Act::Paste),
            line.submit.map(Act::Submit),
            line.key.map(Act::Key),
            line.resize.map(size).transpose()?.map(Act::Resize),
            line.sleep.map(Act::Sleep),
            line.asked.map(Act::Asked),
            line.answered.map(Act::Answered),
            line.last_answer.map(|_| Act::LastAnswer),
            line.quit.map(|_| Act::Quit),
        ]
        .into_iter()
        .flatten()
        .collect();
        match (acts.pop(), acts.is_empty()) {
            (Some(act), true) => Ok(Self { act, truth: line.truth, timeout: line.timeout }),
            _ => {
                Err("a step is one of wait, row, type, paste, submit, key, resize, sleep, asked, answered, last_answer, quit".into())
            }
        }
    }
}

impl Scenario {
    pub(super) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_action_with_what_it_makes_true() {
        let text =
            "note = \"n\"\nsteps = [{ submit = \"hi\" }, { answered = 1, truth = { event = \"turn_completed\" } }]";
        let scenario = Scenario::parse(text).unwrap();
        assert!(matches!(&scenario.steps[0].act, Act::Submit(text) if text == "hi"));
        assert_eq!(scenario.steps[1].truth.as_ref().unwrap()["event"], "turn_completed");
        for wrong in ["[{}]", "[{ key = \"enter\", sleep = 1 }]", "[{ dance = 1 }]", "[{ resize = \"big\" }]"] {
            assert!(Scenario::parse(&format!("note = \"n\"\nsteps = {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_scenarios_of_the_recordings_are_understood() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/scenarios");
        for file in std::fs::read_dir(dir).unwrap() {
            let file = file.unwrap().path();
            Scenario::parse(&std::fs::read_to_string(&file).unwrap())
                .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
    }
}
