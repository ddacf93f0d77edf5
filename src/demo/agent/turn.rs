//! One turn: the steps of a script, played in time.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::ledger::Fact;
use super::script::{Asked, Failure, Limit, Run, Step};
use super::show::{Item, Menu, MenuOf, Moment};
use super::tool::Tool;
use super::tui::Tui;

/// Between two pieces of streamed text.
const PIECE: Duration = Duration::from_millis(30);
/// How often a running command or an awaited file is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Words in a piece.
const WORDS: usize = 4;

/// A turn under way.
#[derive(Debug)]
pub(super) struct Turn {
    /// What was asked.
    pub(super) prompt: String,
    /// Number of the prompt in the ledger.
    pub(super) n: u64,
    /// Something of it is on the screen already.
    pub(super) spoke: bool,
    steps: VecDeque<Step>,
    doing: Doing,
    answer: String,
    since: Instant,
}

#[derive(Debug)]
enum Doing {
    /// The next step may begin.
    Next,
    Until(Instant),
    /// The server fails, and is tried again.
    Retrying(Failure, Instant),
    /// Text arrives: the rest of it.
    Saying {
        rest: VecDeque<String>,
        whole: String,
        due: Instant,
    },
    Running {
        run: Run,
        tool: Tool,
        due: Instant,
    },
    /// The user must choose.
    Asking,
    WaitingFor(PathBuf, Instant),
    Forever,
}

impl Turn {
    pub(super) fn new(prompt: String, n: u64, steps: Vec<Step>, now: Instant) -> Self {
        Self { prompt, n, spoke: false, steps: steps.into(), doing: Doing::Next, answer: String::new(), since: now }
    }

    /// A second prompt changes the course of this turn.
    pub(super) fn steer(&mut self, steps: Vec<Step>, n: u64) {
        self.n = n;
        self.steps.extend(steps);
    }

    /// When there is something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.doing {
            Doing::Next => Some(self.since),
            Doing::Until(at) | Doing::Retrying(_, at) | Doing::WaitingFor(_, at) => Some(*at),
            Doing::Saying { due, .. } | Doing::Running { due, .. } => Some(*due),
            Doing::Asking | Doing::Forever => None,
        }
    }
}

impl Tui {
    /// Goes on with the turn as far as the time allows.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(turn) = &mut self.turn {
            match &mut turn.doing {
                Doing::Next => match turn.steps.pop_front() {
                    Some(step) => self.step(step, now),
                    None => return self.finish(now),
                },
                Doing::Until(at) if now >= *at => turn.doing = Doing::Next,
                Doing::Retrying(failure, at) if now >= *at => {
                    let failure = failure.clone();
                    turn.doing = Doing::Next;
                    self.set_retry(None);
                    if !failure.recovers {
                        return self.fail(&failure);
                    }
                }
                Doing::Saying { rest, whole, due } if now >= *due => {
                    let Some(piece) = rest.pop_front() else {
                        let whole = std::mem::take(whole);
                        turn.doing = Doing::Next;
                        turn.answer.clone_from(&whole);
                        self.set_streaming(false);
                        self.tell(&Moment::Said { text: &whole });
                        continue;
                    };
                    *due = now + PIECE;
                    if let Some(Item::Text(text)) = self.show.items.last_mut() {
                        text.push_str(&piece);
                    }
                    return;
                }
                Doing::Running { run, tool, due } if now >= *due => {
                    *due = now + LOOK;
                    let Some(ran) = tool.poll() else { return };
                    let run = run.clone();
                    turn.doing = Doing::Next;
                    self.note(Fact::Ran { command: run.run.clone(), code: ran.code });
                    self.tell(&Moment::ToolEnds { run: &run, ran: &ran });
                    if let Some(Item::Tool(_, slot)) = self.show.items.iter_mut().rfind(|i| matches!(i, Item::Tool(..)))
                    {
                        *slot = Some(ran);
                    }
                }
                Doing::WaitingFor(path, due) if now >= *due => {
                    if !path.exists() {
                        *due = now + LOOK;
                        return;
                    }
                    turn.doing = Doing::Next;
                }
                _ => return,
            }
        }
    }

    fn step(&mut self, step: Step, now: Instant) {
        let doing = match step {
            Step::Think(ms) => Doing::Until(now + Duration::from_millis(ms)),
            Step::Say(text) => {
                self.spoken();
                self.set_streaming(true);
                self.show.items.push(Item::Text(String::new()));
                Doing::Saying { rest: pieces(&text), whole: text, due: now }
            }
            Step::Tool(run) => return self.start_tool(run, now),
            Step::Ask(run) => {
                self.note(Fact::Asked { text: run.run.clone() });
                self.tell(&Moment::ToolStarts { run: &run });
                self.tell(&Moment::Permission { run: &run });
                self.spoken();
                self.show.items.push(Item::Tool(run.clone(), None));
                self.show.menu = Some(Menu { of: MenuOf::Permission(run), selected: 0 });
                Doing::Asking
            }
            Step::Question(asked) => {
                self.note(Fact::Asked { text: asked.text.clone() });
                self.tell(&Moment::Question { asked: &asked });
                self.show.menu = Some(Menu { of: MenuOf::Question(asked), selected: 0 });
                Doing::Asking
            }
            Step::Fail(failure) => {
                self.set_retry(Some(self.face.words(&failure)));
                let until = now + Duration::from_millis(failure.retry_ms);
                Doing::Retrying(failure, until)
            }
            Step::Limit(limit) => return self.limit(&limit),
            Step::Crash(end) => {
                self.note(Fact::Crashed);
                end.now()
            }
            Step::WaitFile(path) => Doing::WaitingFor(path, now),
            Step::Hang => Doing::Forever,
        };
        self.doing(doing);
    }

    fn doing(&mut self, doing: Doing) {
        if let Some(turn) = &mut self.turn {
            turn.doing = doing;
        }
    }

    /// Something of the turn is on the screen: it cannot be taken back any more.
    pub(super) fn spoken(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.spoke = true;
        }
    }

    fn set_retry(&mut self, words: Option<String>) {
        if let Some(busy) = &mut self.show.busy {
            busy.retry = words;
        }
    }

    fn set_streaming(&mut self, on: bool) {
        if let Some(busy) = &mut self.show.busy {
            busy.streaming = on;
        }
    }

    fn start_tool(&mut self, run: Run, now: Instant) {
        self.spoken();
        self.tell(&Moment::ToolStarts { run: &run });
        self.show.items.push(Item::Tool(run.clone(), None));
        self.run_now(run, now);
    }

    fn run_now(&mut self, run: Run, now: Instant) {
        match Tool::start(&run.run, &self.setting.cwd) {
            Ok(tool) => self.doing(Doing::Running { run, tool, due: now }),
            Err(e) => {
                self.show.items.push(Item::Notice(format!("cannot run {}: {e}", run.run)));
                self.doing(Doing::Next);
            }
        }
    }

    /// The user decided about a command.
    pub(super) fn decided(&mut self, run: Run, allowed: bool) {
        let choice = allowed.then(|| "yes".to_owned());
        self.note(Fact::Answered { choice });
        let place = self.show.items.iter().rposition(|i| matches!(i, Item::Tool(r, None) if *r == run));
        if allowed {
            self.tell(&Moment::Goes);
            if let Some(at) = place {
                self.show.items.insert(at, Item::Allowed(run.clone()));
            }
            self.run_now(run, Instant::now());
        } else {
            if let Some(at) = place {
                self.show.items[at] = Item::Refused(run);
            }
            self.interrupt();
        }
    }

    /// The user answered a question.
    pub(super) fn answered(&mut self, asked: &Asked, answer: String) {
        self.note(Fact::Answered { choice: Some(answer.clone()) });
        self.spoken();
        self.tell(&Moment::Chosen { asked, answer: &answer });
        self.show.items.push(Item::Answered(asked.text.clone(), answer));
        self.doing(Doing::Next);
    }

    fn finish(&mut self, now: Instant) {
        let Some(turn) = self.turn.take() else { return };
        self.setting.ledger.note(turn.n, Fact::Finished { answer: turn.answer.clone() });
        let seconds = now.duration_since(turn.since).as_secs();
        self.show.items.push(Item::Worked(seconds, super::clock("%-I:%M %p|%H:%M")));
        if !self.show.queued.is_empty() {
            // One end for all: what was queued goes on in the same turn.
            let n = self.received + 1 - self.show.queued.len() as u64;
            let next = self.show.queued.remove(0);
            return self.begin(next, n, now);
        }
        self.show.busy = None;
        self.tell(&Moment::Done { prompt: &turn.prompt, answer: &turn.answer });
    }

    fn fail(&mut self, failure: &Failure) {
        self.note(Fact::Failed { message: self.face.words(failure) });
        self.turn = None;
        self.show.busy = None;
        self.show.hint = self.face.hint_after(failure);
        self.show.items.push(Item::Failed(failure.clone()));
        self.tell(&Moment::Failed { failure });
    }

    fn limit(&mut self, limit: &Limit) {
        self.note(Fact::Limited { resets: limit.resets.clone() });
        self.turn = None;
        self.show.busy = None;
        self.show.limited = Some(limit.resets.clone());
        self.show.items.push(Item::Limited(limit.clone()));
        self.tell(&Moment::Limited { limit });
    }
}

/// Cuts text into the pieces in which a model's words arrive.
pub(super) fn pieces(text: &str) -> VecDeque<String> {
    let words: Vec<&str> = text.split_inclusive([' ', '\n']).collect();
    words.chunks(WORDS).map(<[_]>::concat).collect()
}
