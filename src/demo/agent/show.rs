//! What there is to draw and to tell, whatever the dialect.

use std::time::Instant;

use super::canvas::{Frame, Moves};
use super::keys::Reply;
use super::script::{Asked, Failure, Limit, Run};
use super::tool::Ran;

/// Everything on the screen.
#[derive(Debug, Default)]
pub(super) struct Show {
    /// The conversation, oldest first.
    pub(super) items: Vec<Item>,
    /// What stands in the input box.
    pub(super) input: String,
    /// Grey words in the empty input box.
    pub(super) hint: Option<&'static str>,
    /// A turn is under way.
    pub(super) busy: Option<Busy>,
    /// What the user must choose from; the input box is hidden meanwhile.
    pub(super) menu: Option<Menu>,
    /// One line in place of the footer's.
    pub(super) note: Option<&'static str>,
    /// Stopped by a limit until then.
    pub(super) limited: Option<String>,
    /// Prompts that wait for the end of the turn.
    pub(super) queued: Vec<String>,
    /// The input is ready: the footer is complete.
    pub(super) ready: bool,
}

/// One part of the conversation.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    /// What the user said.
    Prompt(String),
    /// What the agent says: markdown, as far as it was streamed.
    Text(String),
    /// A command: running, or how it ended.
    Tool(Run, Option<Ran>),
    /// A command that was not allowed.
    Refused(Run),
    /// A command that was allowed.
    Allowed(Run),
    /// A question and its answer.
    Answered(String, String),
    /// The turn failed.
    Failed(Failure),
    /// A limit.
    Limited(Limit),
    /// The user stopped it.
    Interrupted,
    /// The turn ended well: seconds and time of day.
    Worked(u64, String),
    /// One line of the program's own.
    Notice(String),
}

/// A turn under way.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) since: Instant,
    /// Counts animation steps.
    pub(super) step: usize,
    /// Words about a retry in place of the usual ones.
    pub(super) retry: Option<String>,
    /// Text is arriving.
    pub(super) streaming: bool,
}

/// A choice the user has to make.
#[derive(Debug)]
pub(super) struct Menu {
    pub(super) of: MenuOf,
    pub(super) selected: usize,
}

/// What is chosen.
#[derive(Debug)]
pub(super) enum MenuOf {
    /// Whether the folder is trusted.
    Trust,
    /// Whether a command may run.
    Permission(Run),
    /// An answer to a question.
    Question(Asked),
}

/// What a choice means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Go on.
    Yes,
    /// Do not, and stop the turn.
    No,
    /// This answer.
    Answer(String),
}

/// Something happened that the agent tells the world about.
#[derive(Debug)]
pub(super) enum Moment<'a> {
    /// The input is ready.
    Ready,
    /// The folder's trust is asked for.
    Trust,
    /// A prompt was taken.
    Taken { prompt: &'a str },
    /// A command is about to run.
    ToolStarts { run: &'a Run },
    /// Permission is asked for.
    Permission { run: &'a Run },
    /// A question is asked.
    Question { asked: &'a Asked },
    /// The question or the request was answered; the turn goes on.
    Goes,
    /// The user answered a question.
    Chosen { asked: &'a Asked, answer: &'a str },
    /// A command ended.
    ToolEnds { run: &'a Run, ran: &'a Ran },
    /// A message is complete.
    Said { text: &'a str },
    /// The turn ended well.
    Done { prompt: &'a str, answer: &'a str },
    /// The turn failed.
    Failed { failure: &'a Failure },
    /// A limit stopped the turn.
    Limited { limit: &'a Limit },
    /// The user stopped the turn.
    Interrupted,
    /// A key was pressed, or the focus changed, while nothing goes on.
    Touched,
    /// Another step of the animation.
    Spin(usize),
    /// The program leaves.
    Left,
}

/// How an agent takes keys and signals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// Typed text that came in one burst keeps its CR as a newline.
    pub(super) burst_is_paste: bool,
    /// SIGTERM is handled: leave well, with code 143.
    pub(super) handles_term: bool,
    /// A prompt interrupted before the first word goes back into the input box.
    pub(super) takes_back: bool,
    /// Typing while busy waits for the end of the turn; else it steers the turn under way.
    pub(super) queues: bool,
    /// How many Ctrl-C on an empty input leave.
    pub(super) leaves_after: u32,
}

/// A dialect: how things look, and what is told.
pub(super) trait Face {
    /// How it writes positions.
    fn moves(&self) -> Moves;
    /// Bytes to open with.
    fn open(&mut self) -> String;
    /// Bytes that take the screen.
    fn screen(&mut self) -> String;
    /// Questions to the terminal, once the first frame is drawn.
    fn probe(&mut self) -> String;
    /// Takes a reply of the terminal; returns further questions.
    fn reply(&mut self, reply: Reply) -> String;
    /// All questions are answered; without replies the caller gives up waiting by itself.
    fn probed(&self) -> bool;
    /// Tells the terminal, and whoever else wants to know; returns what the terminal gets.
    fn tell(&mut self, moment: &Moment<'_>) -> String;
    /// The screen.
    fn draw(&self, show: &Show, cols: usize, rows: usize) -> Frame;
    /// Number of choices in a menu.
    fn choices(&self, menu: &MenuOf) -> usize;
    /// What choosing line `index` of a menu means.
    fn choice(&self, menu: &MenuOf, index: usize) -> Choice;
    /// Bytes to leave with.
    fn close(&mut self) -> String;
    /// Text on the normal screen after leaving.
    fn farewell(&self) -> String;
    /// How it takes keys and signals.
    fn habits(&self) -> Habits;
    /// The line that failed turns and the like leave in the empty input box.
    fn hint_after(&self, failure: &Failure) -> Option<&'static str>;
    /// The failure in the agent's words.
    fn words(&self, failure: &Failure) -> String;
    /// What it answers to a text that begins with `/`; none where it stays in the box.
    fn unknown_command(&self, text: &str) -> Option<String>;
}

/// Markdown as full-screen agents draw it: no fences, no backticks.
pub(super) fn drawn(markdown: &str) -> String {
    let mut out = Vec::new();
    let mut fence: Option<&str> = None;
    for line in markdown.lines() {
        let trimmed = line.trim_start();
        let mark: &str = if trimmed.starts_with("```") {
            "```"
        } else if trimmed.starts_with("~~~") {
            "~~~"
        } else {
            ""
        };
        match fence {
            None if !mark.is_empty() => fence = Some(mark),
            Some(open) if mark == open && trimmed.trim_end() == open => fence = None,
            Some(_) => out.push(line.to_owned()),
            None => out.push(line.replace(['`'], "").replace("**", "")),
        }
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_and_backticks_are_not_drawn() {
        assert_eq!(drawn("Run `x`:\n\n```sh\necho `y`\n```\nThen **stop**."), "Run x:\n\necho `y`\nThen stop.");
    }
}
