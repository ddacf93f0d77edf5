//! The loop of a full-screen agent: keys in, frames out, a turn in between.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Setting;
use super::canvas::Canvas;
use super::keys::{Key, Keys, Reply};
use super::ledger::Fact;
use super::show::{Busy, Choice, Face, Item, Menu, MenuOf, Moment, Show};
use super::tty::{Tty, Woken};
use super::turn::Turn;

/// Between two pictures of the spinner.
const SPIN: Duration = Duration::from_millis(120);
/// The input box comes even where the terminal answers nothing.
const PROBE_PATIENCE: Duration = Duration::from_millis(400);
/// An Enter this soon after the first frame is lost, as was seen.
const SETTLE: Duration = Duration::from_millis(250);
/// A second Ctrl-C within this time leaves.
const LEAVE_AGAIN: Duration = Duration::from_millis(1000);
/// Keys closer together than this were not typed by hand.
const BURST: Duration = Duration::from_millis(60);

/// A full-screen agent.
pub(super) struct Tui {
    pub(super) setting: Setting,
    pub(super) face: Box<dyn Face>,
    pub(super) show: Show,
    pub(super) turn: Option<Turn>,
    /// Prompts received so far.
    pub(super) received: u64,
    tty: Tty,
    canvas: Canvas,
    keys: Keys,
    /// Enters to lose.
    swallow: u32,
    /// Rules whose lost Enters are used up.
    swallowed: HashSet<usize>,
    ready_at: Instant,
    probe_due: Instant,
    /// A prompt that was received, and when the first sign of it comes.
    acking: Option<(Instant, String)>,
    /// Ctrl-C pressed on an empty input box.
    ctrl_c: Option<(u32, Instant)>,
    /// The last unbracketed character, and how many came in its burst.
    burst: Option<(Instant, u32)>,
    spin_due: Instant,
    /// The trust dialog was told to the terminal.
    trust_told: bool,
    leave: Option<i32>,
}

/// Runs a full-screen agent until it leaves.
pub(super) fn run(setting: Setting, mut face: Box<dyn Face>) -> anyhow::Result<i32> {
    let start = setting.script.start.clone();
    // A slow start: what is typed meanwhile is echoed by the kernel and read later, as with real agents.
    std::thread::sleep(Duration::from_millis(start.slow_ms));
    if let Some(end) = start.crash {
        end.now();
    }
    let handled: &[Signal] =
        if face.habits().handles_term { &[Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] } else { &[] };
    let tty = Tty::raw(handled)?;
    let now = Instant::now();
    let (cols, rows) = tty.size();
    tty.write(&face.open());
    let mut tui = Tui {
        canvas: Canvas::new(cols, rows, face.moves()),
        swallow: start.swallow_enters,
        show: Show::default(),
        turn: None,
        received: 0,
        keys: Keys::default(),
        swallowed: HashSet::new(),
        ready_at: now + SETTLE,
        probe_due: now + PROBE_PATIENCE,
        acking: None,
        ctrl_c: None,
        burst: None,
        spin_due: now,
        trust_told: false,
        leave: None,
        setting,
        face,
        tty,
    };
    if start.trust {
        tui.show.menu = Some(Menu { of: MenuOf::Trust, selected: 0 });
        tui.paint();
        let bytes = tui.face.probe();
        tui.tty.write(&bytes);
    } else {
        tui.enter_screen();
    }
    let code = tui.serve()?;
    Ok(code)
}

impl Tui {
    fn serve(&mut self) -> anyhow::Result<i32> {
        loop {
            let now = Instant::now();
            self.become_ready(now);
            if let Some((_, text)) = self.acking.take_if(|(at, _)| now >= *at) {
                self.show.input.clear();
                self.begin(text, self.received, now);
            }
            self.advance(now);
            self.animate(now);
            if let Some(code) = self.leave {
                return Ok(self.close(code));
            }
            self.paint();
            match self.tty.wait(self.deadline())? {
                Woken::Input(bytes) => {
                    let now = Instant::now();
                    for key in self.keys.feed(&bytes, now) {
                        self.press(key, now);
                    }
                }
                Woken::Time => {
                    let now = Instant::now();
                    if let Some(key) = self.keys.tick(now) {
                        self.press(key, now);
                    }
                    if self.ctrl_c.is_some_and(|(_, at)| now >= at + LEAVE_AGAIN) {
                        self.ctrl_c = None;
                        self.show.note = None;
                    }
                }
                Woken::Resized => {
                    let (cols, rows) = self.tty.size();
                    let sync = self.canvas.sync;
                    self.canvas = Canvas::new(cols, rows, self.face.moves());
                    self.canvas.sync = sync;
                    self.tty.write("\x1b[2J");
                }
                Woken::Signal(Signal::SIGTERM) => self.leave = Some(143),
                Woken::Signal(Signal::SIGHUP) | Woken::Hangup => self.leave = Some(129),
                Woken::Signal(_) => self.press(Key::Ctrl('c'), Instant::now()),
            }
        }
    }

    /// The time of the next thing to do by itself; none while it only waits for the user.
    fn deadline(&self) -> Option<Instant> {
        let start = (!self.show.ready && !self.trust_told)
            .then(|| if self.face.probed() { self.ready_at } else { self.ready_at.max(self.probe_due) });
        let spin = self.show.busy.is_some().then_some(self.spin_due);
        let turn = self.turn.as_ref().and_then(Turn::deadline);
        let forget = self.ctrl_c.map(|(_, at)| at + LEAVE_AGAIN);
        let ack = self.acking.as_ref().map(|(at, _)| *at);
        [start, spin, turn, forget, ack, self.keys.deadline()].into_iter().flatten().min()
    }

    fn paint(&mut self) {
        let (cols, rows) = self.canvas.size();
        let frame = self.face.draw(&self.show, cols, rows);
        let bytes = self.canvas.paint(&frame);
        if !bytes.is_empty() {
            self.tty.write(&bytes);
        }
    }

    /// Tells the world, in order with what is drawn.
    pub(super) fn tell(&mut self, moment: &Moment<'_>) {
        let bytes = self.face.tell(moment);
        if !bytes.is_empty() {
            self.tty.write(&bytes);
        }
    }

    fn enter_screen(&mut self) {
        let now = Instant::now();
        (self.ready_at, self.probe_due) = (now + SETTLE, now + PROBE_PATIENCE);
        self.tty.write(&self.face.screen());
        self.paint();
        let bytes = self.face.probe();
        self.tty.write(&bytes);
    }

    fn become_ready(&mut self, now: Instant) {
        let trusting = matches!(self.show.menu, Some(Menu { of: MenuOf::Trust, .. }));
        let answered = self.face.probed() || now >= self.probe_due;
        if trusting && answered && !self.trust_told {
            self.trust_told = true;
            self.tell(&Moment::Trust);
        }
        if !self.show.ready && !trusting && answered && now >= self.ready_at {
            self.show.ready = true;
            self.tell(&Moment::Ready);
        }
    }

    fn animate(&mut self, now: Instant) {
        let Some(busy) = &mut self.show.busy else { return };
        if now < self.spin_due {
            return;
        }
        self.spin_due = now + SPIN;
        busy.step += 1;
        let step = busy.step;
        self.tell(&Moment::Spin(step));
    }

    fn press(&mut self, key: Key, now: Instant) {
        if let Key::Reply(reply) = key {
            if let Reply::Mode(2026, 1 | 2) = reply {
                self.canvas.sync = true;
            }
            let bytes = self.face.reply(reply);
            self.tty.write(&bytes);
            if matches!(reply, Reply::Focus(_)) && self.turn.is_none() {
                self.tell(&Moment::Touched);
            }
            return;
        }
        if self.turn.is_none() && self.show.menu.is_none() {
            self.tell(&Moment::Touched);
        }
        if self.show.menu.is_some() {
            return self.press_in_menu(key);
        }
        match key {
            Key::Char(c) => {
                let in_a_row = match self.burst {
                    Some((at, n)) if now < at + BURST => n + 1,
                    _ => 1,
                };
                self.burst = Some((now, in_a_row));
                self.show.input.push(c);
            }
            Key::Paste(text) => self.show.input.push_str(&text.replace("\r\n", "\n").replace('\r', "\n")),
            Key::Newline => self.show.input.push('\n'),
            Key::Backspace => _ = self.show.input.pop(),
            Key::Enter => self.enter(now),
            Key::Esc => self.escape(),
            Key::Ctrl('c') => self.control_c(now),
            Key::Ctrl('d') if self.show.input.is_empty() && self.turn.is_none() => self.leave = Some(0),
            _ => {}
        }
    }

    fn enter(&mut self, now: Instant) {
        let pasted = self.face.habits().burst_is_paste && self.burst.is_some_and(|(at, n)| n > 2 && now < at + BURST);
        if pasted {
            self.show.input.push('\n');
            return;
        }
        if let Some((index, rule)) = self.setting.script.rule(&self.show.input)
            && self.swallowed.insert(index)
        {
            self.swallow += rule.swallow_enters;
        }
        if !self.show.ready || self.acking.is_some() || self.show.input.trim().is_empty() {
            return;
        }
        if self.swallow > 0 {
            self.swallow -= 1;
            return;
        }
        let text = self.show.input.trim().to_owned();
        if matches!(text.as_str(), "/exit" | "/quit") {
            self.leave = Some(0);
            return;
        }
        if text.starts_with('/') {
            if let Some(line) = self.face.unknown_command(&text) {
                self.show.items.push(Item::Notice(line));
                self.show.input.clear();
            }
            return;
        }
        self.show.hint = None;
        self.show.limited = None;
        let ack = self.setting.script.rule(&text).map_or(0, |(_, rule)| rule.ack_ms);
        if ack > 0 && self.turn.is_none() {
            // It is taken; the screen comes after.
            self.received += 1;
            self.setting.ledger.received(self.received, &text);
            self.acking = Some((now + Duration::from_millis(ack), text));
            return;
        }
        self.show.input.clear();
        self.submit(text, now);
    }

    /// Takes a prompt: it counts as received from here on, whatever happens.
    fn submit(&mut self, text: String, now: Instant) {
        self.received += 1;
        self.setting.ledger.received(self.received, &text);
        if self.turn.is_none() {
            return self.begin(text, self.received, now);
        }
        if self.face.habits().queues {
            self.show.queued.push(text);
            return;
        }
        self.show.items.push(Item::Prompt(text.clone()));
        self.tell(&Moment::Taken { prompt: &text });
        let steps = self.setting.script.steps(&text);
        if let Some(turn) = &mut self.turn {
            turn.steer(steps, self.received);
        }
    }

    /// Starts the turn of a received prompt.
    pub(super) fn begin(&mut self, text: String, n: u64, now: Instant) {
        self.show.items.push(Item::Prompt(text.clone()));
        self.show.busy = Some(Busy { since: now, step: n as usize, retry: None, streaming: false });
        self.spin_due = now + SPIN;
        self.tell(&Moment::Taken { prompt: &text });
        let steps = self.setting.script.steps(&text);
        self.turn = Some(Turn::new(text, n, steps, now));
    }

    fn escape(&mut self) {
        if self.turn.is_some() {
            self.interrupt();
        } else if self.show.limited.take().is_some() {
            self.show.items.push(Item::Notice("Automatic continue cancelled · /rate-limit-options to re-arm".into()));
        }
    }

    fn control_c(&mut self, now: Instant) {
        if self.turn.is_some() {
            return self.interrupt();
        }
        if self.show.limited.is_some() {
            return self.escape();
        }
        if !self.show.input.is_empty() {
            self.show.input.clear();
            return;
        }
        let pressed = match self.ctrl_c {
            Some((n, at)) if now < at + LEAVE_AGAIN => n + 1,
            _ => 1,
        };
        self.ctrl_c = Some((pressed, now));
        self.show.note = Some("Press Ctrl-C again to exit");
        if pressed >= self.face.habits().leaves_after {
            self.leave = Some(0);
        }
    }

    /// The user stops the turn.
    pub(super) fn interrupt(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        self.setting.ledger.note(turn.n, Fact::Interrupted);
        self.show.busy = None;
        self.show.menu = None;
        if !turn.spoke && self.face.habits().takes_back {
            if let Some(at) = self.show.items.iter().rposition(|i| matches!(i, Item::Prompt(_))) {
                self.show.items.truncate(at);
            }
            self.show.input = turn.prompt;
        } else {
            self.show.items.push(Item::Interrupted);
        }
        // What waited goes back into the box, as the programs do.
        let waiting = std::mem::take(&mut self.show.queued).join("\n");
        self.show.input.push_str(&waiting);
        self.tell(&Moment::Interrupted);
    }

    fn press_in_menu(&mut self, key: Key) {
        let Some(menu) = &mut self.show.menu else { return };
        let count = self.face.choices(&menu.of);
        let chosen = match key {
            Key::Up => {
                menu.selected = menu.selected.saturating_sub(1);
                None
            }
            Key::Down => {
                menu.selected = (menu.selected + 1).min(count - 1);
                None
            }
            Key::Enter => Some(menu.selected),
            Key::Char(c @ '1'..='9') => Some(c as usize - '1' as usize).filter(|n| *n < count),
            Key::Char('y') if matches!(menu.of, MenuOf::Permission(_)) && self.face.habits().burst_is_paste => Some(0),
            Key::Esc | Key::Ctrl('c') => return self.choose(Choice::No),
            _ => None,
        };
        if let Some(index) = chosen {
            let choice = self.face.choice(&menu.of, index);
            self.choose(choice);
        }
    }

    fn choose(&mut self, choice: Choice) {
        let Some(menu) = self.show.menu.take() else { return };
        match menu.of {
            MenuOf::Trust => match choice {
                Choice::Yes => {
                    self.trust_told = false;
                    self.enter_screen();
                }
                _ => self.leave = Some(1),
            },
            MenuOf::Permission(run) => self.decided(run, choice == Choice::Yes),
            MenuOf::Question(asked) => match choice {
                Choice::Answer(answer) => self.answered(&asked, answer),
                _ => {
                    self.note(Fact::Answered { choice: None });
                    self.spoken();
                    self.interrupt();
                }
            },
        }
    }

    fn close(&mut self, code: i32) -> i32 {
        self.turn = None;
        self.tell(&Moment::Left);
        let bytes = self.face.close();
        self.tty.write(&bytes);
        self.tty.write(&self.face.farewell());
        code
    }

    /// Writes down what happened to the prompt of this turn.
    pub(super) fn note(&mut self, fact: Fact) {
        let n = self.turn.as_ref().map_or(self.received, |t| t.n);
        self.setting.ledger.note(n, fact);
    }
}
