//! The line dialect: `ollama run` as recorded. Markdown is printed as it arrives, and a full prompt means the turn is over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Setting;
use super::keys::{Key, Keys};
use super::ledger::Fact;
use super::script::Step;
use super::tool::Tool;
use super::tty::{Tty, Woken};
use super::turn::pieces;

const PROMPT: &str = ">>> \x1b[38;5;245mSend a message (/? for help)\x1b[28D\x1b[0m";
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const PIECE: Duration = Duration::from_millis(30);

struct Repl {
    setting: Setting,
    tty: Tty,
    keys: Keys,
    input: String,
    n: u64,
    swallow: u32,
}

/// Runs the REPL until it is left.
pub(super) fn run(setting: Setting) -> anyhow::Result<i32> {
    std::thread::sleep(Duration::from_millis(setting.script.start.slow_ms));
    if let Some(end) = setting.script.start.crash {
        end.now();
    }
    let tty = Tty::raw(&[Signal::SIGINT])?;
    tty.write("\x1b[?25l\x1b[?2026h\x1b[?25l\x1b[1G\x1b[K\x1b[?25h\x1b[?2026l\x1b[2K\x1b[1G\x1b[?25h\x1b[?2004h");
    let swallow = setting.script.start.swallow_enters;
    let mut repl = Repl { setting, tty, keys: Keys::default(), input: String::new(), n: 0, swallow };
    repl.tty.write(PROMPT);
    repl.serve()
}

/// What a wait in the middle of an answer brought.
enum Pause {
    Over,
    Interrupted,
    Gone,
}

impl Repl {
    fn serve(&mut self) -> anyhow::Result<i32> {
        loop {
            let keys = match self.tty.wait(self.keys.deadline())? {
                Woken::Input(bytes) => self.keys.feed(&bytes, Instant::now()),
                Woken::Time => self.keys.tick(Instant::now()).into_iter().collect(),
                Woken::Hangup => return Ok(0),
                Woken::Signal(_) => vec![Key::Ctrl('c')],
                Woken::Resized => continue,
            };
            for key in keys {
                if let Some(code) = self.press(key)? {
                    return Ok(code);
                }
            }
        }
    }

    fn press(&mut self, key: Key) -> anyhow::Result<Option<i32>> {
        match key {
            Key::Char(c) => self.typed(&c.to_string()),
            Key::Newline => self.typed("\n"),
            Key::Paste(text) => self.typed(&text.replace("\r\n", "\n").replace('\r', "\n")),
            Key::Backspace if self.input.pop().is_some() => self.tty.write("\x08 \x08"),
            Key::Ctrl('d') if self.input.is_empty() => return Ok(Some(self.leave())),
            Key::Ctrl('c') => {
                self.input.clear();
                self.tty.write(&format!("\r\nUse Ctrl + d or /bye to exit.\r\n{PROMPT}"));
            }
            Key::Enter if self.swallow > 0 => self.swallow -= 1,
            Key::Enter => return self.enter(),
            _ => {}
        }
        Ok(None)
    }

    fn typed(&mut self, text: &str) {
        for (i, line) in text.split('\n').enumerate() {
            if i > 0 {
                self.input.push('\n');
                self.tty.write("\r\n... ");
            }
            self.input.push_str(line);
            self.tty.write(&format!("\x1b[K{line}"));
        }
    }

    fn leave(&mut self) -> i32 {
        self.tty.write("\r\n\x1b[?2004l");
        0
    }

    fn enter(&mut self) -> anyhow::Result<Option<i32>> {
        let text = std::mem::take(&mut self.input).trim().to_owned();
        if text == "/bye" || text == "/exit" {
            return Ok(Some(self.leave()));
        }
        self.tty.write("\r\n");
        if text.is_empty() {
            self.tty.write(PROMPT);
            return Ok(None);
        }
        if text.starts_with('/') {
            let word = text.split(' ').next().unwrap_or_default();
            self.tty.write(&format!("Unknown command '{word}'. Type /? for help\r\n{PROMPT}"));
            return Ok(None);
        }
        self.n += 1;
        self.setting.ledger.received(self.n, &text);
        let steps = self.setting.script.steps(&text);
        self.play(steps.into())
    }

    fn note(&mut self, fact: Fact) {
        self.setting.ledger.note(self.n, fact);
    }

    fn play(&mut self, steps: VecDeque<Step>) -> anyhow::Result<Option<i32>> {
        let mut answer = String::new();
        let mut spoke = false;
        for step in steps {
            let pause = match step {
                Step::Think(ms) => self.spin(Some(Instant::now() + Duration::from_millis(ms)), || false)?,
                Step::Hang | Step::Question(_) => self.spin(None, || false)?,
                Step::WaitFile(path) => self.spin(None, || path.exists())?,
                Step::Say(text) => {
                    if !spoke {
                        self.tty.write("\x1b[2K\x1b[1G\x1b[?25h");
                    }
                    spoke = true;
                    answer.clone_from(&text);
                    self.say(&text)?
                }
                // A line REPL has no tools; a script that gives it one gets the effect without a word.
                Step::Tool(run) | Step::Ask(run) => {
                    let mut tool = Tool::start(&run.run, &self.setting.cwd)?;
                    let mut ran = None;
                    let pause = self.spin(None, || {
                        ran = ran.take().or_else(|| tool.poll());
                        ran.is_some()
                    })?;
                    if let Some(ran) = ran {
                        self.note(Fact::Ran { command: run.run, code: ran.code });
                    }
                    pause
                }
                Step::Fail(failure) if failure.recovers => {
                    self.spin(Some(Instant::now() + Duration::from_millis(failure.retry_ms)), || false)?
                }
                Step::Fail(failure) => {
                    let message = format!("Error: {} Internal Server Error: Internal server error", failure.status);
                    self.note(Fact::Failed { message: message.clone() });
                    self.tty.write(&format!("\x1b[2K\x1b[1G\x1b[?25h\x1b[?2004l{message}\r\n"));
                    return Ok(Some(1));
                }
                Step::Limit(limit) => {
                    self.note(Fact::Limited { resets: limit.resets });
                    self.tty.write("\x1b[2K\x1b[1G\x1b[?25h\x1b[?2004lError: 429 Too Many Requests\r\n");
                    return Ok(Some(1));
                }
                Step::Crash(end) => {
                    self.note(Fact::Crashed);
                    end.now()
                }
            };
            match pause {
                Pause::Over => {}
                Pause::Gone => return Ok(Some(0)),
                Pause::Interrupted => {
                    self.note(Fact::Interrupted);
                    // No newline and no message: the prompt follows on the same line.
                    self.tty.write(&format!("^C{PROMPT}"));
                    return Ok(None);
                }
            }
        }
        self.note(Fact::Finished { answer });
        let clear = if spoke { "" } else { "\x1b[2K\x1b[1G\x1b[?25h" };
        self.tty.write(&format!("{clear}\r\n\r\n\x1b[?25l\x1b[?25h{PROMPT}"));
        Ok(None)
    }

    /// Shows the spinner until a time or an event.
    fn spin(&mut self, until: Option<Instant>, mut happened: impl FnMut() -> bool) -> anyhow::Result<Pause> {
        for step in 0.. {
            let now = Instant::now();
            if happened() || until.is_some_and(|at| now >= at) {
                return Ok(Pause::Over);
            }
            if step > 0 {
                let glyph = SPINNER[step % SPINNER.len()];
                self.tty.write(&format!("\x1b[?2026h\x1b[?25l\x1b[1G{glyph} \x1b[K\x1b[?25h\x1b[?2026l"));
            }
            let next = now + Duration::from_millis(100);
            let pause = self.pause(until.map_or(next, |at| at.min(next)))?;
            if !matches!(pause, Pause::Over) {
                return Ok(pause);
            }
        }
        Ok(Pause::Over)
    }

    fn say(&mut self, text: &str) -> anyhow::Result<Pause> {
        for piece in pieces(text) {
            self.tty.write(&format!("\x1b[?25l\x1b[?25h{}", piece.replace('\n', "\r\n")));
            let pause = self.pause(Instant::now() + PIECE)?;
            if !matches!(pause, Pause::Over) {
                return Ok(pause);
            }
        }
        Ok(Pause::Over)
    }

    /// Waits until `at`; what is typed meanwhile stays for the next prompt.
    fn pause(&mut self, at: Instant) -> anyhow::Result<Pause> {
        loop {
            match self.tty.wait(Some(at))? {
                Woken::Time => return Ok(Pause::Over),
                Woken::Hangup => return Ok(Pause::Gone),
                Woken::Signal(_) => return Ok(Pause::Interrupted),
                Woken::Resized => {}
                Woken::Input(bytes) => {
                    for key in self.keys.feed(&bytes, Instant::now()) {
                        match key {
                            Key::Ctrl('c') => return Ok(Pause::Interrupted),
                            Key::Char(c) => self.input.push(c),
                            _ => {}
                        }
                    }
                }
            }
        }
    }
}
