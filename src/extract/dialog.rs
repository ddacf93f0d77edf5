//! Turns of a line-mode agent: a prompt row is finished, rows follow, the empty prompt returns.

use regex::Regex;

use crate::extract::event::MAX_TEXT_BYTES;
use crate::extract::rules::LineComposer;

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// At the prompt, or before the first one.
    Closed,
    /// A prompt row is finished; its continuation may follow.
    Entered,
    /// The answer is being written.
    Open,
}

/// Follows the rows; see the module.
#[derive(Debug)]
pub(crate) struct Dialog {
    row: Regex,
    more: Option<Regex>,
    command: Option<Regex>,
    /// Rows that are no part of an answer.
    progress: Option<Regex>,
    phase: Phase,
    /// The rows since the prompt, wraps undone; bounded by [`MAX_TEXT_BYTES`] and a row.
    answer: String,
}

impl Dialog {
    pub(crate) fn new(composer: LineComposer) -> Self {
        let LineComposer { row, more, command, progress } = composer;
        Self { row, more, command, progress, phase: Phase::Closed, answer: String::new() }
    }

    /// What is written from here on is an answer, though no prompt was seen.
    pub(crate) fn open(&mut self) {
        self.phase = Phase::Open;
    }

    /// Takes a finished row; `wrapped` if the program broke its own line there. Says whether a prompt was taken.
    pub(crate) fn finished(&mut self, row: &str, wrapped: bool) -> bool {
        match self.phase {
            Phase::Closed => {
                let text = self.row.captures(row).and_then(|c| c.name("text").map(|m| m.as_str().trim().to_owned()));
                let prompt =
                    text.is_some_and(|t| !t.is_empty() && !self.command.as_ref().is_some_and(|c| c.is_match(&t)));
                if prompt {
                    self.phase = Phase::Entered;
                    self.answer.clear();
                }
                false
            }
            Phase::Entered if self.goes_on(row) => false,
            Phase::Entered => {
                self.phase = Phase::Open;
                self.push(row, wrapped);
                true
            }
            Phase::Open => {
                self.push(row, wrapped);
                false
            }
        }
    }

    /// Takes the row being written, which is the empty prompt if `ready`. Says whether a prompt was taken before it.
    pub(crate) fn current(&mut self, row: &str, ready: bool) -> bool {
        let taken = self.phase == Phase::Entered && (ready || !self.goes_on(row));
        if taken {
            self.phase = Phase::Open;
        }
        if ready && self.phase != Phase::Closed {
            // Interrupted, an agent writes its prompt behind what it was saying.
            let before = self.row.captures(row).and_then(|c| c.name("before"));
            let before = before.map_or("", |m| m.as_str().trim_end_matches("^C")).to_owned();
            self.push(&before, true);
            self.phase = Phase::Closed;
        }
        taken
    }

    /// What was written since the last prompt.
    pub(crate) fn answer(&self) -> &str {
        self.answer.trim_matches(['\n', '\r'])
    }

    fn goes_on(&self, row: &str) -> bool {
        self.more.as_ref().is_some_and(|m| m.is_match(row))
    }

    fn push(&mut self, row: &str, wrapped: bool) {
        let told = self.progress.as_ref().is_some_and(|p| p.is_match(row));
        if !told && self.answer.len() <= MAX_TEXT_BYTES {
            self.answer.push_str(row);
            if !wrapped {
                self.answer.push('\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialog() -> Dialog {
        Dialog::new(LineComposer {
            row: Regex::new(r"^>>> (?<text>.*)$").unwrap(),
            more: Some(Regex::new(r"^\.\.\. ").unwrap()),
            command: Some(Regex::new("^/").unwrap()),
            progress: Some(Regex::new("^pulling ").unwrap()),
        })
    }

    #[test]
    fn an_answer_is_put_together_as_it_was_written() {
        let mut d = dialog();
        assert!(!d.finished(">>> what?", false));
        assert!(d.finished("one, ", true));
        assert!(!d.finished("two", false));
        assert!(!d.current(">>> ", true));
        assert_eq!(d.answer(), "one, two");
    }

    #[test]
    fn a_prompt_of_several_rows_is_one() {
        let mut d = dialog();
        assert!(!d.finished(">>> a", false) && !d.finished("... b", false));
        assert!(!d.current("... c", false));
        assert!(d.current("", false));
    }

    #[test]
    fn a_command_to_the_agent_and_an_empty_line_are_no_prompts() {
        let mut d = dialog();
        assert!(!d.finished(">>> /bye", false) && !d.finished("bye", false));
        assert!(!d.finished(">>> ", false) && !d.current("", false));
    }

    #[test]
    fn all_that_a_run_of_one_prompt_writes_is_its_answer_but_progress() {
        let mut d = dialog();
        d.open();
        d.finished("pulling manifest", false);
        d.finished("one", false);
        d.finished("two", false);
        assert_eq!(d.answer(), "one\ntwo");
    }

    #[test]
    fn a_prompt_without_an_answer_is_a_turn() {
        let mut d = dialog();
        d.finished(">>> true", false);
        assert!(d.current(">>> ", true));
        assert_eq!(d.answer(), "");
    }
}
