//! The stream: bytes and reports in, typed events out. Everything here is pure; time is an argument.

pub mod adapters;
mod canary;
pub mod cast;
mod content;
mod dialog;
pub mod event;
mod literals;
mod machine;
mod markdown;
pub mod pattern;
pub(crate) mod rules;
pub mod score;
mod settled;
mod sieve;
pub mod signal;
mod status;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Timestamp;
use crate::extract::adapters::{AdapterError, Reports, Version};
use crate::extract::canary::Canary;
use crate::extract::dialog::Dialog;
use crate::extract::event::{Ask, AskKind, Body, Draft, FailReason, LimitKind, SessionState, Source, Span};
use crate::extract::machine::{Config, Eyes, Machine};
use crate::extract::pattern::{Mode, Pack, Region};
use crate::extract::rules::{Composer, Level, Rules, Verdict};
use crate::extract::settled::Settled;
use crate::extract::signal::{Claim, Signal};
use crate::extract::status::Status;
use crate::term::grid::Grid;
use crate::term::keys::{Key, Keys};
use crate::term::lines::{Finished, Lines};
use crate::term::scanner::{Hit, Params, Scanner, Taker};
use crate::term::screen::{Screen, ScreenText, blank};

/// The screen is compared after this much quiet, ..
const QUIET: Duration = Duration::from_millis(30);
/// .. at the latest this long after a change, ..
const LAGGING: Duration = Duration::from_millis(100);
/// .. and at the end of a synchronized frame, but not more often than this.
const FRAME: Duration = Duration::from_millis(16);

/// Most events that settled lines make in a second, and one tool's output; a flood is told by its first ones.
const MAX_LINE_EVENTS: u32 = 256;

/// Most status reports a second that count one by one; of more only the last one does, at the end of the second. Agents
/// send a few.
const MAX_EDGES: u32 = 32;

/// How an [`Extractor`] is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Columns of the terminal.
    pub cols: u16,
    /// Rows of the terminal.
    pub rows: u16,
    /// Reports are expected from this launch: a turn's end waits a moment for the one that carries its answer.
    pub reports: bool,
}

/// What a run is doing right now.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its state.
    pub state: SessionState,
    /// When it entered it.
    pub since: Duration,
    /// What the agent waits for.
    pub asking: Option<(AskKind, Ask)>,
    /// What it waits for stands on the screen, where keys reach it.
    pub menu: bool,
    /// A human's half-typed line stands in the input box.
    pub draft: bool,
    /// When a human last pressed a key.
    pub last_key: Option<Duration>,
    /// Turns started so far.
    pub turns: u64,
    /// Conversation id as the agent calls it.
    pub conversation: Option<String>,
    /// The agent's session file, where it told.
    pub transcript: Option<PathBuf>,
    /// Why it needs a human, in state `setup`.
    pub setup: Option<String>,
    /// The agent switched bracketed paste on.
    pub bracketed_paste: bool,
    /// Text in the input box, if the box is visible; placeholders count as empty.
    pub composer: Option<String>,
}

/// One run's reader: bytes, keys and reports in, events out.
///
/// Times count from the start of the run and never go back. Any split of the same bytes, fed at the same times, gives
/// the same events.
#[derive(Debug)]
pub struct Extractor {
    scanner: Scanner,
    keys: Keys,
    reports: Reports,
    core: Core,
}

/// Everything that the bytes and the time act on.
#[derive(Debug)]
struct Core {
    options: Options,
    /// Whether the pack trusts status reports in the stream.
    status: bool,
    edges: Edges,
    /// Whether the pack has anything to see on a screen.
    wants_screen: bool,
    terminal: Terminal,
    sight: Sight,
    machine: Machine,
    /// Watches an agent newer than its pack.
    canary: Option<Canary>,
    /// The agent's version is known.
    known: bool,
    /// The command line holds the only prompt.
    one_prompt: bool,
    bracketed_paste: bool,
    /// The agent began to read a line, and it was taken before anybody looked at the screen.
    read: bool,
    last_key: Option<Duration>,
    /// Text was typed since the line was last submitted or emptied: counts where no input box is seen.
    half_typed: bool,
    composer: Option<Composer>,
    /// When the first change came that was not looked at yet.
    dirty: Option<Duration>,
    last_output: Duration,
    last_look: Option<Duration>,
}

/// Status reports in the second under way: output can be full of them.
#[derive(Debug, Default)]
struct Edges {
    second: u64,
    count: u32,
    /// The last one of those that were too many.
    held: Option<(Status, Span)>,
    said: bool,
}

impl Edges {
    /// When what is held counts.
    fn due(&self) -> Option<Duration> {
        self.held.as_ref().map(|_| Duration::from_secs(self.second + 1))
    }
}

/// Where the output goes.
#[derive(Debug)]
enum Terminal {
    Grid(Box<Grid>),
    Lines(Box<LineReader>),
}

/// A line-mode agent's output and what reads its finished rows.
#[derive(Debug)]
struct LineReader {
    lines: Lines,
    finished: Finished,
    /// Compiled when the first row is finished.
    settled: Option<Option<Settled>>,
    /// Second in which events were counted, and how many.
    window: (u64, u32),
}

impl Terminal {
    fn new(mode: Mode, cols: u16, rows: u16) -> Self {
        match mode {
            Mode::Tui => Self::Grid(Box::new(Grid::new(cols, rows))),
            Mode::Line => Self::Lines(Box::new(LineReader {
                lines: Lines::new(cols, rows),
                finished: Finished::default(),
                settled: None,
                window: (0, 0),
            })),
        }
    }

    fn resize(&mut self, cols: u16, rows: u16) {
        match self {
            Self::Grid(grid) => grid.resize(cols, rows),
            Self::Lines(reader) => reader.lines.resize(cols, rows),
        }
    }

    fn look(&mut self, text: &mut ScreenText) -> bool {
        match self {
            Self::Grid(grid) => grid.look(text),
            Self::Lines(reader) => reader.lines.look(text),
        }
    }

    fn text(&self) -> ScreenText {
        match self {
            Self::Grid(grid) => grid.text(),
            Self::Lines(reader) => reader.lines.text(),
        }
    }
}

/// A chunk on its way: the scanner gives what it finds to whoever it concerns.
struct Chunk<'a> {
    core: &'a mut Core,
    bytes: &'a [u8],
    /// Where in the stream it begins.
    off: u64,
    now: Duration,
    /// How much of it the screen was shown.
    drawn: usize,
}

impl Chunk<'_> {
    /// Shows the screen what comes before `end`.
    fn draw(&mut self, end: usize) {
        if self.drawn < end {
            if let Terminal::Grid(grid) = &mut self.core.terminal {
                grid.process(&self.bytes[self.drawn..end]);
            }
            self.drawn = end;
            self.core.touched(self.now);
        }
    }
}

impl Taker for Chunk<'_> {
    fn text(&mut self, text: &[u8]) {
        if let Terminal::Lines(reader) = &mut self.core.terminal {
            reader.lines.feed(text);
        }
    }

    fn csi(&mut self, params: Params<'_>, last: u8) {
        if let Terminal::Lines(reader) = &mut self.core.terminal {
            reader.lines.csi(params, last);
        }
    }

    fn hit(&mut self, hit: Hit<'_>, next: usize) {
        let now = self.now;
        match hit {
            Hit::FrameEnd => {
                self.draw(next);
                let core = &mut *self.core;
                if core.wants_screen && core.last_look.is_none_or(|at| now >= at + FRAME) {
                    core.look(now);
                }
            }
            Hit::Osc { code, data, len } => {
                self.core.osc(code, data, Span { off: self.off + next as u64 - len, len }, now);
            }
            Hit::Mode { mode: 2004, set } => self.core.set_paste(set),
            Hit::Reset => self.core.set_paste(false),
            Hit::Mode { .. } | Hit::Bell => {}
        }
    }
}

/// What the screen shows and what it means.
#[derive(Debug)]
struct Sight {
    pack: Arc<Pack>,
    /// Turns of a line-mode agent.
    dialog: Option<Dialog>,
    /// Compiled when the first frame is looked at: a run that ends before costs nothing.
    rules: Option<Rules>,
    /// Reads what tools wrote; compiled when the first one is reported.
    lines: RefCell<Option<Option<Settled>>>,
    text: ScreenText,
    title: String,
    /// Something besides the rows changed since they were read: the title, bracketed paste.
    turned: bool,
}

impl Eyes for Sight {
    fn verdict(&self) -> Verdict {
        let mut verdict = self.rules.as_ref().map(|r| r.verdict(&self.text)).unwrap_or_default();
        if let Some(dialog) = &self.dialog {
            // Rows of a line-mode agent are what it wrote: nothing was drawn over them.
            verdict.message = Some((dialog.answer().to_owned(), true)).filter(|(text, _)| !text.is_empty());
        }
        verdict
    }

    fn reason(&self, message: &str) -> Option<(FailReason, Option<LimitKind>)> {
        match &self.rules {
            Some(rules) => rules.reason(message),
            None => Rules::new(&self.pack).reason(message),
        }
    }

    fn read_lines(&self, output: &str) -> Vec<(String, Body)> {
        let mut found = Vec::new();
        let mut rules = self.lines.borrow_mut();
        if let Some(rules) =
            rules.get_or_insert_with(|| Settled::new(&self.pack.content, &[Region::Line, Region::Tool]))
        {
            rules.read(format!("{output}\n").as_bytes(), |rule, body| {
                found.push((rule.to_owned(), body));
                found.len() < MAX_LINE_EVENTS as usize
            });
        }
        found
    }
}

impl Extractor {
    /// A reader for a run of `pack`'s agent that starts now, at time zero.
    pub fn new(pack: Arc<Pack>, options: Options) -> Self {
        let config = Config {
            reports: options.reports,
            self_resumes: pack.self_resumes,
            idle: Duration::from_millis(pack.idle_ms),
        };
        let core = Core {
            options,
            status: pack.adapters.iter().any(|a| a == status::PROTOCOL),
            edges: Edges::default(),
            terminal: Terminal::new(pack.mode, options.cols, options.rows),
            wants_screen: rules::wants_screen(&pack),
            sight: Sight {
                dialog: match pack.mode {
                    Mode::Line => rules::line_composer(&pack).map(Dialog::new),
                    Mode::Tui => None,
                },
                pack,
                rules: None,
                lines: RefCell::new(None),
                text: blank(options.cols, options.rows),
                title: String::new(),
                turned: false,
            },
            machine: Machine::new(config),
            canary: None,
            known: false,
            one_prompt: false,
            bracketed_paste: false,
            read: false,
            last_key: None,
            half_typed: false,
            composer: None,
            dirty: None,
            last_output: Duration::ZERO,
            last_look: None,
        };
        Self { scanner: Scanner::new(), keys: Keys::default(), reports: Reports::new(), core }
    }

    /// Tells the wall-clock time of the start of the run: times of day in the agent's words (when a limit ends) need it.
    pub fn started_at(&mut self, wall: Timestamp) {
        self.core.machine.started_at(wall);
    }

    /// Tells the agent's version. Of one that the pack was not tested with the first turns are watched more closely.
    pub fn version(&mut self, version: Version, now: Duration) {
        self.core.version(version, now);
    }

    /// Tells that the command line holds the only prompt: the run is one turn, and all it writes the answer.
    pub fn one_prompt(&mut self) {
        self.core.one_prompt = true;
        if let Some(dialog) = &mut self.core.sight.dialog {
            dialog.open();
        }
    }

    /// Makes the prompt of a shell count only once [`Self::in_front`] has confirmed it: what a command prints may look like
    /// one, and whoever has the terminal can be asked. A recording cannot, so there the prompt alone counts.
    pub fn ask_front(&mut self) {
        if self.core.sight.pack.shell {
            self.core.machine.ask_front();
        }
    }

    /// Whether [`Self::in_front`] is wanted.
    pub fn wants_front(&self, now: Duration) -> bool {
        self.core.machine.wants_front(now)
    }

    /// Takes the fact whether the agent's own process group has its terminal, or one that it started.
    pub fn in_front(&mut self, itself: bool, now: Duration) {
        let Core { machine, sight, .. } = &mut self.core;
        if itself && let (Some(dialog), Some(row)) = (&mut sight.dialog, sight.text.lines.last()) {
            dialog.current(row, true);
        }
        machine.in_front(itself, now, sight);
    }

    /// Takes output of the agent; `off` counts from the start of the run.
    pub fn feed(&mut self, bytes: &[u8], off: u64, now: Duration) {
        self.tick(now);
        let Self { scanner, core, .. } = self;
        let mut chunk = Chunk { core, bytes, off, now, drawn: 0 };
        scanner.scan(bytes, off, &mut chunk);
        chunk.draw(bytes.len());
        core.finished(now);
    }

    /// Takes the news that output was not seen: what stands on the screen is not known until it is drawn anew.
    pub fn gap(&mut self, now: Duration) {
        self.tick(now);
        self.scanner = Scanner::new();
        let Options { cols, rows, .. } = self.core.options;
        self.core.terminal = Terminal::new(self.core.sight.pack.mode, cols, rows);
    }

    /// Takes what a human typed; terminal replies in it (focus, DA1, CPR, ..) are not keys.
    pub fn typed(&mut self, bytes: &[u8], now: Duration) {
        self.tick(now);
        let Self { keys, core, .. } = self;
        keys.feed(bytes, |key| core.key(key, now));
    }

    /// Takes a prompt of ours at the moment its Enter is written.
    pub fn prompt(&mut self, hash: &str, text: &str, now: Duration) {
        self.tick(now);
        self.core.machine.prompt(hash, text, now);
    }

    /// Takes the news that we pressed the interrupt key.
    pub fn interrupt(&mut self, now: Duration) {
        self.tick(now);
        self.core.machine.interrupt_key(now);
    }

    /// Takes a report of a side channel.
    pub fn report(&mut self, adapter: &str, payload: &Value, now: Duration) -> Result<(), AdapterError> {
        self.tick(now);
        if !self.core.machine.is_in_turn() {
            self.reports.rest();
        }
        let signals = self.reports.decode(adapter, payload)?;
        for signal in signals {
            self.core.told(signal, None, now);
        }
        Ok(())
    }

    /// Takes a new size of the terminal.
    pub fn resize(&mut self, cols: u16, rows: u16, now: Duration) {
        self.tick(now);
        self.core.options = Options { cols, rows, ..self.core.options };
        self.core.terminal.resize(cols, rows);
        self.core.touched(now);
    }

    /// Takes the time; to be called when [`Self::deadline`] is reached.
    pub fn tick(&mut self, now: Duration) {
        let core = &mut self.core;
        if core.look_due().is_some_and(|due| due <= now) {
            core.look(now);
        }
        if core.edges.due().is_some_and(|due| due <= now) {
            core.held_edge(now);
        }
        core.machine.tick(now, &core.sight);
        core.watch(now);
    }

    /// Returns when [`Self::tick`] is wanted next; none while nothing is pending.
    pub fn deadline(&self) -> Option<Duration> {
        let core = &self.core;
        let watched = core.canary.as_ref().and_then(Canary::deadline);
        [core.look_due(), core.edges.due(), core.machine.deadline(), watched].into_iter().flatten().min()
    }

    /// Takes the end of the agent, as exit code or signal; none where it is not known.
    pub fn exited(&mut self, ended: Option<(Option<i32>, Option<i32>)>, now: Duration) {
        self.tick(now);
        let core = &mut self.core;
        core.look(now);
        core.held_edge(now);
        if core.read {
            core.machine.prompted(now, &core.sight);
        }
        if let (true, Some((Some(code), _))) = (core.one_prompt, ended) {
            core.machine.was_one_turn(code == 0, now, &core.sight);
        }
        core.machine.exited(now, &core.sight);
    }

    /// Returns the events since the last call.
    pub fn drain(&mut self) -> Vec<Draft> {
        self.core.machine.drain()
    }

    /// Returns what the run is doing.
    pub fn view(&self) -> View {
        let core = &self.core;
        let (state, since) = core.machine.state();
        View {
            state,
            since,
            asking: core.machine.asking(),
            menu: core.machine.is_menu_shown(),
            draft: core.composer.as_ref().map_or(core.half_typed, |c| !c.text.is_empty()),
            last_key: core.last_key,
            turns: core.machine.turns(),
            conversation: core.machine.conversation().map(str::to_owned),
            transcript: core.machine.transcript().cloned(),
            setup: core.machine.setup().map(str::to_owned),
            bracketed_paste: core.bracketed_paste,
            composer: core.composer.as_ref().map(|c| c.text.clone()),
        }
    }

    /// Returns the visible rows.
    pub fn screen(&self) -> ScreenText {
        self.core.terminal.text()
    }
}

impl Core {
    fn touched(&mut self, now: Duration) {
        if !self.wants_screen {
            return self.machine.unknowable(now);
        }
        self.dirty.get_or_insert(now);
        self.last_output = now;
    }

    fn set_paste(&mut self, on: bool) {
        self.read |= on && self.sight.pack.composer.as_ref().is_some_and(|c| c.paste);
        self.sight.turned |= self.bracketed_paste != on;
        self.bracketed_paste = on;
    }

    fn look_due(&self) -> Option<Duration> {
        self.dirty.map(|since| (self.last_output + QUIET).min(since + LAGGING))
    }

    /// Compares the screen with what it was.
    fn look(&mut self, now: Duration) {
        // Rows that were finished came before what is being written.
        self.finished(now);
        self.dirty = None;
        self.last_look = Some(now);
        self.read &= !self.bracketed_paste;
        let Self { sight, terminal, machine, bracketed_paste, .. } = self;
        let changed = terminal.look(&mut sight.text);
        if changed || std::mem::take(&mut sight.turned) {
            let rules = sight.rules.get_or_insert_with(|| Rules::new(&sight.pack));
            let reading = rules.read(&sight.text, &sight.title, *bracketed_paste);
            self.composer.clone_from(&reading.composer);
            if let Some(canary) = &mut self.canary {
                canary.saw(&reading.level, &reading.rule, now);
            }
            // A banner is drawn before the first prompt; later ones are somebody's text.
            let banner = (!self.known && machine.turns() == 0).then(|| rules.version(&sight.text)).flatten();
            let source = if sight.dialog.is_some() { Source::Line } else { Source::Screen };
            if let (Some(dialog), Some(row)) = (&mut sight.dialog, sight.text.lines.last())
                && dialog.current(row, reading.level == Level::Idle && !machine.asks_front())
            {
                machine.signal(prompt_taken(), None, now, sight);
            }
            machine.level(&reading, source, now, sight);
            if let Some(version) = banner {
                self.version(version, now);
            }
        }
    }

    /// Takes what a report or a status report says.
    fn told(&mut self, signal: Signal, span: Option<Span>, now: Duration) {
        if let Some(canary) = &mut self.canary {
            canary.told(&signal.claim, &signal.rule, now);
        }
        self.machine.signal(signal, span, now, &self.sight);
    }

    fn version(&mut self, version: Version, now: Duration) {
        if std::mem::replace(&mut self.known, true) {
            return;
        }
        let pack = Arc::clone(&self.sight.pack);
        if pack.is_untested(version) {
            self.canary = Some(Canary::new());
        }
        if !pack.is_for(version) {
            let (major, minor, patch) = version;
            let text = format!("the pack {} is not for version {major}.{minor}.{patch} of its agent", pack.id);
            self.note("pack_version", text, now);
        }
    }

    /// Tells once where witnesses disagree about an agent newer than its pack.
    fn watch(&mut self, now: Duration) {
        let Some(canary) = &mut self.canary else { return };
        let said = canary.tick(now);
        if said.is_some() || canary.is_over() {
            self.canary = None;
        }
        if let Some(said) = said {
            let text = format!(
                "{said}: this version is newer than those that the pack {} was tested with",
                self.sight.pack.id
            );
            self.note("witness_disagreement", text, now);
        }
    }

    fn note(&mut self, code: &str, text: String, now: Duration) {
        let claim = Claim::Content(Box::new(Body::Note { code: code.to_owned(), text }));
        let signal = Signal { source: Source::Timer, rule: format!("pack.{}", code.replace('_', "-")), claim };
        self.machine.signal(signal, None, now, &self.sight);
    }

    /// Reads the rows that a line-mode agent finished.
    fn finished(&mut self, now: Duration) {
        let Self { sight, terminal: Terminal::Lines(reader), machine, .. } = self else { return };
        let LineReader { lines, finished, settled, window } = reader.as_mut();
        lines.take(finished);
        if finished.text.is_empty() {
            return;
        }
        if window.0 != now.as_secs() {
            *window = (now.as_secs(), 0);
        }
        // Once more is not told there is nothing to look for.
        if window.1 < MAX_LINE_EVENTS
            && let Some(settled) = settled.get_or_insert_with(|| Settled::new(&sight.pack.rules, &[Region::Line]))
        {
            settled.read(&finished.text, |rule, body| {
                window.1 += 1;
                let last = window.1 == MAX_LINE_EVENTS;
                let note = || Body::Note {
                    code: "events.capped".into(),
                    text: "more such lines in this second are not told one by one".into(),
                };
                let claim = Claim::Content(Box::new(if last { note() } else { body }));
                machine.signal(Signal { source: Source::Line, rule: rule.to_owned(), claim }, None, now, sight);
                !last
            });
        }
        if sight.dialog.is_some() {
            let (mut at, mut wraps) = (0, finished.wraps.iter().peekable());
            for end in memchr::memchr_iter(b'\n', &finished.text) {
                let wrapped = wraps.next_if(|w| **w == end).is_some() && sight.pack.soft_wrap;
                let row = &finished.text[at..end];
                let row = String::from_utf8_lossy(row.strip_suffix(b"\r").unwrap_or(row));
                if sight.dialog.as_mut().is_some_and(|d| d.finished(&row, wrapped)) {
                    machine.signal(prompt_taken(), None, now, sight);
                }
                at = end + 1;
            }
        }
    }

    fn osc(&mut self, code: u16, data: &[u8], span: Span, now: Duration) {
        match code {
            0 | 2 => {
                let title = String::from_utf8_lossy(data);
                if self.sight.title != title {
                    self.sight.title = title.into_owned();
                    self.sight.turned = true;
                    self.touched(now);
                }
            }
            // id and other parameters; the link, or nothing where it ends.
            8 => {
                let link = memchr::memchr(b';', data).and_then(|at| std::str::from_utf8(&data[at + 1..]).ok());
                if let Some(body) = link.and_then(content::url) {
                    let signal =
                        Signal { source: Source::Osc, rule: "osc.link".into(), claim: Claim::Content(Box::new(body)) };
                    self.machine.signal(signal, Some(span), now, &self.sight);
                }
            }
            7501 if self.status => {
                if let Some(status) = status::parse(data) {
                    self.edge(status, span, now);
                }
            }
            _ => {}
        }
    }

    /// Takes a status report, unless there are too many.
    fn edge(&mut self, status: Status, span: Span, now: Duration) {
        let edges = &mut self.edges;
        if edges.second != now.as_secs() {
            (edges.second, edges.count) = (now.as_secs(), 0);
        }
        edges.count += 1;
        if edges.count <= MAX_EDGES {
            return self.say(status, span, now);
        }
        edges.held = Some((status, span));
        if !std::mem::replace(&mut edges.said, true) {
            let note = Body::Note {
                code: "status.capped".into(),
                text: format!("of more than {MAX_EDGES} status reports in a second only the last one counts"),
            };
            // Said about the reports, not by them: what they said last stays.
            let claim = Claim::Content(Box::new(note));
            let signal = Signal { source: Source::Timer, rule: "status.capped".into(), claim };
            self.machine.signal(signal, None, now, &self.sight);
        }
    }

    fn held_edge(&mut self, now: Duration) {
        if let Some((status, span)) = self.edges.held.take() {
            self.say(status, span, now);
        }
    }

    fn say(&mut self, status: Status, span: Span, now: Duration) {
        match status {
            Status::Says(signal) => self.told(signal, Some(span), now),
            Status::Clear => self.machine.status_cleared(),
        }
    }

    fn key(&mut self, key: Key, now: Duration) {
        self.last_key = Some(now);
        match key {
            Key::Text | Key::Other => self.half_typed |= key == Key::Text,
            Key::Enter => {
                self.half_typed = false;
                self.machine.entered(now);
            }
            Key::Kill => self.half_typed = false,
            Key::Escape | Key::CtrlC => {
                self.half_typed = false;
                self.machine.interrupt_key(now);
            }
        }
    }
}

/// A line-mode agent took the prompt row that was typed at it.
fn prompt_taken() -> Signal {
    Signal { source: Source::Line, rule: "line.prompt".into(), claim: Claim::PromptTaken { text: None } }
}
