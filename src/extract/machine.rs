//! The machine: weighs what witnesses say and makes one story of it, one start and one end a turn.
//!
//! Trust is a fixed order, not a vote: exit, reports, status reports of the stream, then what stands on the screen.
//! Each witness may be missing, late, doubled or forged; whatever comes, the machine converges. Reports and status
//! reports are edges and count at once. The screen is a level: `working` counts at once, `idle` only after it has stood
//! for a while, the longer the better the witnesses are that say otherwise.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::extract::adapters::limits;
use crate::extract::event::{
    Ask, AskKind, Body, Draft, FailReason, LimitKind, MAX_TEXT_BYTES, SessionState, Source, Span, Verdict as Accepted,
    capped, capped_json,
};
use crate::extract::markdown;
use crate::extract::rules::{Level, Menu, Reading, Verdict};
use crate::extract::signal::{Claim, Signal};

/// How long the end of a turn waits for the report that carries its answer, where reports are expected.
const REPORT_WAIT: Duration = Duration::from_millis(400);
/// How long it waits for the screen to settle, so that its last message is there.
const SETTLE_WAIT: Duration = Duration::from_millis(80);
/// How long a request waits for the menu or the report that tells it in full: menus were seen to come 0.7 s late.
const ASK_WAIT: Duration = Duration::from_millis(800);
/// The same for one of which nothing is known but that it waits: its menu may be held back while somebody types.
const MENU_WAIT: Duration = Duration::from_secs(3);
/// A start of work that no prompt explains, and the first one of a run, must last this long: agents blip at start-up
/// (10-50 ms were seen, on a busy machine after the first prompt was already submitted).
const BLIP: Duration = Duration::from_millis(150);
/// The same before anything was ever submitted: on a busy machine those blips last several times as long.
const STARTUP_BLIP: Duration = Duration::from_secs(1);
/// How long a menu must stand against a status report that says the agent works.
const MENU_STANDS: Duration = Duration::from_secs(1);
/// How long an input box must stand before the agent counts as ready for the first time.
const READY: Duration = Duration::from_millis(300);
/// How long after a turn's end other witnesses may still say `working` before that means the next turn.
const NEXT_TURN: Duration = Duration::from_millis(500);
/// The same after a report: agents announce an end in the stream only once their hooks have returned, and the report of
/// a prompt that was queued comes by itself.
const AFTER_REPORT: Duration = Duration::from_secs(5);
/// Patience with a screen that says idle while reports are silent, and while the status report says working.
const IDLE_AGAINST_REPORTS: Duration = Duration::from_secs(3);
const IDLE_AGAINST_STATUS: Duration = Duration::from_secs(5);
/// The longest pause between two looks at who has the terminal, where a prompt that stands may be a command's.
const DOUBT_MAX: Duration = Duration::from_secs(5);
/// An interrupt key explains an end that comes this soon after it.
const INTERRUPT_WINDOW: Duration = Duration::from_secs(3);
/// A prompt of ours explains a turn that starts this soon after it.
const PROMPT_WINDOW: Duration = Duration::from_secs(60);
/// Limit of what is remembered to tell doubled content from new.
const MAX_SEEN: usize = 4096;

/// What the machine asks the screen when it needs it.
pub(crate) trait Eyes {
    /// What stands there about the turn that just ended.
    fn verdict(&self) -> Verdict;
    /// What the words of a failure mean; for a usage limit also its kind.
    fn reason(&self, message: &str) -> Option<(FailReason, Option<LimitKind>)>;
    /// What the lines of a tool's output report, and by which rule.
    fn read_lines(&self, _output: &str) -> Vec<(String, Body)> {
        Vec::new()
    }
}

/// How a machine is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// Reports are expected.
    pub(crate) reports: bool,
    /// The agent goes on by itself after a limit.
    pub(crate) self_resumes: bool,
    /// How long the input box alone must stand to end a turn.
    pub(crate) idle: Duration,
}

#[derive(Debug)]
struct Turn {
    began: Duration,
    /// A report told its prompt.
    reported: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Done { answer: Option<String> },
    Failed { reason: FailReason, message: String },
    Interrupted,
}

/// The end of a turn that waits for its answer.
#[derive(Debug)]
struct Ending {
    outcome: Outcome,
    source: Source,
    rule: String,
    span: Option<Span>,
    at: Duration,
    due: Duration,
}

/// A turn that may be about to begin.
#[derive(Debug)]
struct Start {
    source: Source,
    rule: String,
    span: Option<Span>,
    at: Duration,
    due: Duration,
}

#[derive(Debug)]
struct Asking {
    ask: Ask,
    kind: AskKind,
    source: Source,
    rule: String,
    span: Option<Span>,
    at: Duration,
    due: Duration,
    menu: bool,
    reported: bool,
    /// The status report asked, too.
    status: bool,
    said: bool,
}

#[derive(Debug)]
struct Ours {
    hash: String,
    text: String,
    at: Duration,
}

/// The state of one run.
#[derive(Debug)]
pub(crate) struct Machine {
    config: Config,
    epoch: Option<Timestamp>,
    state: SessionState,
    since: Duration,
    setup: Option<String>,
    conversation: Option<String>,
    transcript: Option<PathBuf>,
    turns: u64,
    turn: Option<Turn>,
    start: Option<Start>,
    ending: Option<Ending>,
    asking: Option<Asking>,
    /// The agent was ready once.
    ready: bool,
    /// The last status report said `working`; none before the first one.
    status: Option<bool>,
    /// A report came.
    reported: bool,
    /// The last turn ended without the report of its end, which may still come.
    owed: bool,
    /// A turn is told to have ended well, and no report said so: when that is to be noted, and what told it instead.
    lacking: Option<(Duration, String)>,
    /// It was noted: once is enough until reports come again.
    lack_noted: bool,
    level: Level,
    level_rule: String,
    level_source: Source,
    idle_since: Option<Duration>,
    /// A prompt that stands is only believed once [`Self::in_front`] has said that nobody else has the terminal.
    asks_front: bool,
    /// How long the prompt must stand because somebody else had the terminal when it was last asked.
    doubt: Duration,
    /// A menu that stands although the status report says that the agent works, and when it begins to count.
    menu: Option<(Duration, Menu, String)>,
    /// When to look again whether `working` after an end means another turn.
    recheck: Option<Duration>,
    ours: Option<Ours>,
    entered: Option<Duration>,
    interrupted: Option<Duration>,
    /// Something was submitted since the last turn ended.
    submitted: bool,
    limit_ends: Option<Duration>,
    seen: HashSet<u64>,
    out: Vec<Draft>,
}

impl Machine {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            epoch: None,
            state: SessionState::Starting,
            since: Duration::ZERO,
            setup: None,
            conversation: None,
            transcript: None,
            turns: 0,
            turn: None,
            start: None,
            ending: None,
            asking: None,
            ready: false,
            status: None,
            reported: false,
            owed: false,
            lacking: None,
            lack_noted: false,
            level: Level::Unknown,
            level_rule: String::new(),
            level_source: Source::Screen,
            idle_since: None,
            asks_front: false,
            doubt: Duration::ZERO,
            menu: None,
            recheck: None,
            ours: None,
            entered: None,
            interrupted: None,
            submitted: false,
            limit_ends: None,
            seen: HashSet::new(),
            out: Vec::new(),
        }
    }

    /// Tells the wall-clock time of the start of the run: times of day in the agent's words need it.
    pub(crate) fn started_at(&mut self, wall: Timestamp) {
        self.epoch = Some(wall);
    }

    /// Makes a standing prompt count only with [`Self::in_front`].
    pub(crate) fn ask_front(&mut self) {
        self.asks_front = true;
    }

    // --- what is known

    pub(crate) fn asks_front(&self) -> bool {
        self.asks_front
    }

    pub(crate) fn state(&self) -> (SessionState, Duration) {
        (self.state, self.since)
    }

    pub(crate) fn asking(&self) -> Option<(AskKind, Ask)> {
        self.asking.as_ref().filter(|a| a.said).map(|a| (a.kind, a.ask.clone()))
    }

    /// Whether the question stands on the screen, where keys reach it.
    pub(crate) fn is_menu_shown(&self) -> bool {
        self.asking.as_ref().is_some_and(|a| a.menu)
    }

    pub(crate) fn is_in_turn(&self) -> bool {
        self.turn.is_some()
    }

    pub(crate) fn turns(&self) -> u64 {
        self.turns
    }

    pub(crate) fn conversation(&self) -> Option<&str> {
        self.conversation.as_deref()
    }

    pub(crate) fn transcript(&self) -> Option<&PathBuf> {
        self.transcript.as_ref()
    }

    pub(crate) fn setup(&self) -> Option<&str> {
        self.setup.as_deref()
    }

    pub(crate) fn drain(&mut self) -> Vec<Draft> {
        std::mem::take(&mut self.out)
    }

    /// When [`Self::tick`] is wanted.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        [
            self.start.as_ref().filter(|s| !self.is_doubted(s)).map(|s| s.due),
            self.ending.as_ref().map(|e| e.due),
            self.asking.as_ref().filter(|a| !a.said).map(|a| a.due),
            self.recheck,
            self.limit_ends,
            self.lacking.as_ref().map(|(due, _)| *due),
            self.menu.as_ref().map(|(due, ..)| *due),
            self.idle_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When the standing input box begins to count for what is open.
    fn idle_due(&self) -> Option<Duration> {
        let since = self.idle_since?;
        let wait = if self.asking.is_some() && self.status.is_none() {
            return Some((since + READY).max(self.overtaken_until().unwrap_or_default()));
        } else if self.turn.is_some() && self.ending.is_none() {
            self.patience()
        } else if self.turn.is_none() && matches!(self.state, SessionState::Starting | SessionState::Setup) {
            READY.min(self.config.idle)
        } else {
            return None;
        };
        Some(since + wait.max(self.doubt))
    }

    /// Whether a prompt has stood long enough, and who has the terminal decides whether it is one.
    pub(crate) fn wants_front(&self, now: Duration) -> bool {
        self.asks_front && self.idle_due().is_some_and(|due| due <= now)
    }

    /// Takes the answer: whether the agent itself has its terminal, and no command that it runs.
    pub(crate) fn in_front(&mut self, itself: bool, now: Duration, eyes: &dyn Eyes) {
        if !self.wants_front(now) {
            return;
        }
        if itself {
            self.doubt = Duration::ZERO;
            self.idle_stood(now, eyes);
        } else {
            self.doubt = (self.doubt * 2).clamp(self.config.idle, DOUBT_MAX);
            self.idle_since = Some(now);
        }
    }

    fn patience(&self) -> Duration {
        let interrupted =
            self.interrupted.is_some_and(|at| self.idle_since.is_some_and(|i| i <= at + INTERRUPT_WINDOW));
        if self.status == Some(true) {
            IDLE_AGAINST_STATUS
        } else if self.reported && !interrupted {
            IDLE_AGAINST_REPORTS.max(self.config.idle)
        } else {
            self.config.idle
        }
    }

    // --- inputs

    /// A human or a prompt of ours pressed Enter.
    pub(crate) fn entered(&mut self, now: Duration) {
        self.entered = Some(now);
        // An Enter that answers a question submits no prompt.
        self.submitted |= self.asking.is_none();
    }

    /// An interrupt key was pressed.
    pub(crate) fn interrupt_key(&mut self, now: Duration) {
        self.interrupted = Some(now);
    }

    /// A prompt of ours is submitted.
    pub(crate) fn prompt(&mut self, hash: &str, text: &str, now: Duration) {
        self.ours = Some(Ours { hash: hash.to_owned(), text: normal(text), at: now });
        self.entered(now);
    }

    /// Nothing of this agent tells its state.
    pub(crate) fn unknowable(&mut self, now: Duration) {
        if self.state == SessionState::Starting {
            self.enter(SessionState::Unknown, Source::Timer, "no.witness", now);
        }
    }

    /// The program takes its status back: it is about to end.
    pub(crate) fn status_cleared(&mut self) {
        self.status = None;
    }

    /// Takes an edge: a report, a status report, a line.
    pub(crate) fn signal(&mut self, signal: Signal, span: Option<Span>, now: Duration, eyes: &dyn Eyes) {
        let Signal { source, rule, claim } = signal;
        if self.state == SessionState::Exited && !matches!(claim, Claim::Content(_)) {
            return;
        }
        if source.is_report() {
            self.reported = true;
            self.lack_noted = false;
            if matches!(claim, Claim::TurnDone { .. }) {
                self.lacking = None;
            }
        }
        if source == Source::Osc && !matches!(claim, Claim::Content(_)) {
            self.status = Some(match claim {
                Claim::Working => true,
                Claim::Asked { .. } => self.status.unwrap_or(false),
                _ => false,
            });
        }
        match claim {
            Claim::Working if source == Source::Osc && self.is_overtaken(now) => {}
            Claim::Working => {
                self.answered(None, source, &rule, now);
                self.work(source, rule, span, now, eyes);
            }
            Claim::Idle => self.idle_edge(source, rule, span, now, eyes),
            Claim::PromptTaken { text } => self.taken(text, source, rule, span, now, eyes),
            Claim::TurnDone { answer } => self.done(answer, source, rule, span, now, eyes),
            Claim::TurnFailed { reason, message } => {
                self.end(Outcome::Failed { reason, message }, source, rule, span, now, eyes);
            }
            Claim::Interrupted => self.end(Outcome::Interrupted, source, rule, span, now, eyes),
            Claim::Asked { kind, tool, text, options, exact } => {
                let menu = Menu { kind, tool, text, options };
                self.asked(menu, exact, source, rule, span, now, eyes);
            }
            Claim::Answered { allowed, answer } => self.answered_with(allowed, answer, source, &rule),
            Claim::Limit { kind, text, resets_at, self_resumes } => {
                self.limit(kind, text.clone(), resets_at, self_resumes, source, &rule, now);
                let reason = FailReason::RateLimit;
                self.end(Outcome::Failed { reason, message: text }, source, rule, span, now, eyes);
            }
            Claim::Setup { what } => self.set_up(what, source, &rule, now),
            Claim::Hold => {}
            Claim::Conversation { id, transcript } => {
                self.conversation = Some(id);
                self.transcript = transcript.or(self.transcript.take());
            }
            Claim::Content(body) => self.content(*body, source, &rule, span, eyes),
        }
    }

    /// Takes what stands on the screen.
    pub(crate) fn level(&mut self, reading: &Reading, source: Source, now: Duration, eyes: &dyn Eyes) {
        if self.state == SessionState::Exited {
            return;
        }
        let before = std::mem::replace(&mut self.level, reading.level.clone());
        self.level_rule.clone_from(&reading.rule);
        self.level_source = source;
        if !matches!(reading.level, Level::Asked(_)) {
            self.menu = None;
        }
        let rule = reading.rule.clone();
        match &reading.level {
            // A frame that nothing explains and a picker over the frame change nothing.
            Level::Unknown | Level::Hold => {
                self.level = before;
                self.idle_since = None;
            }
            Level::Asked(menu) => {
                self.idle_since = None;
                let menu = menu.clone();
                self.asked(menu, false, source, rule, None, now, eyes);
            }
            Level::Setup(what) => {
                self.idle_since = None;
                if self.turn.is_none() {
                    self.set_up(what.clone(), source, &rule, now);
                }
            }
            Level::Working => {
                self.idle_since = None;
                if self.status.is_none() && !self.is_overtaken(now) {
                    self.answered(None, source, &rule, now);
                    if before != Level::Working && self.turn.is_none() && self.recheck.is_none() {
                        self.work(source, rule.clone(), None, now, eyes);
                    }
                }
            }
            Level::Idle => {
                // What was doubted is another row by now.
                if !std::mem::take(&mut self.doubt).is_zero() {
                    self.idle_since = None;
                }
                self.idle_since.get_or_insert(now);
                if self.start.as_ref().is_some_and(|s| s.source == source) {
                    self.start = None;
                }
                if self.turn.is_none() && self.state == SessionState::Working && self.status != Some(true) {
                    self.recheck = None;
                    self.enter(SessionState::Idle, source, &rule, now);
                }
            }
        }
        if let Some(rule) = &reading.done {
            let witnessed = self.status != Some(false);
            if witnessed && (self.turn.is_some() || self.submitted) {
                self.done(None, source, rule.clone(), None, now, eyes);
            }
        }
        self.tick(now, eyes);
    }

    /// Takes the time.
    pub(crate) fn tick(&mut self, now: Duration, eyes: &dyn Eyes) {
        if self.start.as_ref().is_some_and(|s| s.due <= now && !self.is_doubted(s)) {
            let s = self.start.take().expect("it was just looked at");
            self.begin(s.source, s.rule, s.span, s.at, now, eyes);
        }
        if self.ending.as_ref().is_some_and(|e| e.due <= now) {
            self.conclude(now, eyes);
        }
        if let Some((_, menu, rule)) = self.menu.take_if(|(due, ..)| *due <= now) {
            self.status = Some(false);
            self.asked(menu, false, self.level_source, rule, None, now, eyes);
        }
        if self.asking.as_ref().is_some_and(|a| !a.said && a.due <= now) {
            self.say_asked();
        }
        if !self.asks_front && self.idle_due().is_some_and(|due| due <= now) {
            self.idle_stood(now, eyes);
        }
        if self.recheck.is_some_and(|at| at <= now) {
            self.recheck = None;
            if self.turn.is_none() {
                if self.busy() && self.level != Level::Idle {
                    let rule = self.level_rule.clone();
                    self.begin(self.busy_source(), rule, None, now, now, eyes);
                } else if self.state == SessionState::Working {
                    self.enter(SessionState::Idle, Source::Timer, "turn.over", now);
                }
            }
        }
        if self.lacking.as_ref().is_some_and(|(due, _)| *due <= now) {
            self.note_lack();
        }
        if self.limit_ends.is_some_and(|at| at <= now) {
            self.limit_ends = None;
            if self.state == SessionState::Limited {
                self.enter(SessionState::Idle, Source::Timer, "limit.reset", now);
            }
        }
    }

    /// Takes the news that the agent has read another line since the turn began: the turn was over by then.
    pub(crate) fn prompted(&mut self, now: Duration, eyes: &dyn Eyes) {
        if self.turn.is_some() && self.ending.is_none() && self.asking.is_none() {
            (self.level, self.level_rule) = (Level::Idle, "line.read".to_owned());
            self.idle_stood(now, eyes);
        }
    }

    /// Takes the news that the run, now at its end, was one turn: its prompt came with the command.
    pub(crate) fn was_one_turn(&mut self, well: bool, now: Duration, eyes: &dyn Eyes) {
        if self.turns > 0 || self.ready {
            return; // it was a session after all
        }
        let (source, rule) = (Source::Line, "run.one-prompt".to_owned());
        self.begin(source, rule.clone(), None, Duration::ZERO, now, eyes);
        let outcome = if well {
            Outcome::Done { answer: None }
        } else {
            let written = eyes.verdict().message.map(|(text, _)| text).unwrap_or_default();
            let last = written.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
            Outcome::Failed { reason: FailReason::Other, message: last.trim().to_owned() }
        };
        self.end(outcome, source, rule, None, now, eyes);
    }

    /// Takes the end of the agent.
    pub(crate) fn exited(&mut self, now: Duration, eyes: &dyn Eyes) {
        if self.state == SessionState::Exited {
            return;
        }
        if let Some(s) = self.start.take().filter(|_| self.has_submitted(now)) {
            self.begin(s.source, s.rule, s.span, s.at, now, eyes);
        }
        if self.ending.is_some() {
            self.conclude(now, eyes);
        }
        if self.turn.is_some() {
            let verdict = eyes.verdict();
            let (rule, message) =
                verdict.failed.unwrap_or_else(|| ("exit".into(), "the agent ended in mid-turn".into()));
            let reason = FailReason::Exited;
            self.end(Outcome::Failed { reason, message }, Source::Exit, rule, None, now, eyes);
            self.conclude(now, eyes);
        }
        self.asking = None;
        self.recheck = None;
        self.note_lack();
        self.enter(SessionState::Exited, Source::Exit, "exit", now);
    }

    /// Says which report did not come, and what counted instead.
    fn note_lack(&mut self) {
        let Some((_, instead)) = self.lacking.take() else { return };
        if !std::mem::replace(&mut self.lack_noted, true) {
            let text = format!("no report told the end of the turn; {instead} did");
            self.push(Body::Note { code: "witness.missing".into(), text }, Source::Timer, "witness.missing", None);
        }
    }

    // --- turns

    /// A prompt, ours or a human's, waits for the turn that it starts.
    fn has_submitted(&self, now: Duration) -> bool {
        self.submitted || self.ours.as_ref().is_some_and(|o| now < o.at + PROMPT_WINDOW)
    }

    /// Something says that work is under way.
    fn work(&mut self, source: Source, rule: String, span: Option<Span>, now: Duration, eyes: &dyn Eyes) {
        if self.ending.is_some() {
            // The agent went on: what ended has ended.
            self.conclude(now, eyes);
        }
        if self.turn.is_some() {
            return;
        }
        // A blip of the start-up may come as late as the first prompt and is not its answer.
        let proved = source != Source::Osc || self.turns > 0;
        if source.is_report() || (proved && self.has_submitted(now)) {
            self.begin(source, rule, span, now, now, eyes);
        } else if self.start.is_none() && (self.recheck.is_none() || source != Source::Osc) {
            // Right after an end the status may still be the old one: then the recheck decides.
            let lasts = if self.turns == 0 && self.entered.is_none() { STARTUP_BLIP } else { BLIP };
            self.start = Some(Start { source, rule, span, at: now, due: now + lasts });
        }
    }

    /// Whether the frame shows an agent at rest: a status that says `working` then speaks of what goes on in the
    /// background after a turn. It waits for a frame that shows work.
    fn is_doubted(&self, start: &Start) -> bool {
        start.source == Source::Osc && self.level == Level::Idle && !self.has_submitted(start.at)
    }

    fn begin(
        &mut self,
        source: Source,
        rule: String,
        span: Option<Span>,
        at: Duration,
        now: Duration,
        eyes: &dyn Eyes,
    ) {
        if self.ending.is_some() {
            self.conclude(now, eyes);
        }
        self.start = None;
        self.recheck = None;
        self.limit_ends = None;
        self.interrupted = None;
        // The frame of before does not end the turn: what stands long enough counts from here.
        self.idle_since = self.idle_since.map(|_| now);
        self.seen.clear();
        self.accepted(None, source, &rule, now);
        self.submitted = false;
        self.turn = Some(Turn { began: at, reported: source.is_report() });
        self.turns += 1;
        self.push(Body::TurnStarted {}, source, &rule, span);
        self.ready = true;
        self.enter(SessionState::Working, source, &rule, now);
    }

    /// Says that a prompt was accepted: by a report, or because a turn begins.
    fn accepted(&mut self, text: Option<String>, source: Source, rule: &str, now: Duration) {
        let verdict =
            if self.turn.is_some() && self.ending.is_none() { Accepted::QueuedInAgent } else { Accepted::Accepted };
        let ours = self.ours.take().filter(|o| now < o.at + PROMPT_WINDOW);
        let typed_later = |o: &Ours| self.entered.is_some_and(|at| at > o.at);
        let body = match (ours, &text) {
            // Agents wrap long pastes, so our text may come back inside of more; whoever typed nothing since sent ours.
            (Some(o), Some(t)) if normal(t).contains(&o.text) || !typed_later(&o) => {
                Body::PromptAccepted { hash: Some(o.hash), verdict, human: false }
            }
            (Some(o), None) if !typed_later(&o) => Body::PromptAccepted { hash: Some(o.hash), verdict, human: false },
            (ours, Some(t)) => {
                self.ours = ours;
                Body::PromptAccepted { hash: Some(hex_sha256(t)), verdict, human: true }
            }
            (ours, None) if self.submitted => {
                self.ours = ours;
                Body::PromptAccepted { hash: None, verdict, human: true }
            }
            (_, None) => return,
        };
        self.push(body, source, rule, None);
    }

    /// A report says that the agent took a prompt.
    fn taken(
        &mut self,
        text: Option<String>,
        source: Source,
        rule: String,
        span: Option<Span>,
        now: Duration,
        eyes: &dyn Eyes,
    ) {
        if self.ending.is_some() {
            self.conclude(now, eyes);
        }
        // The report of the prompt that began this turn may come late, after the turn has already asked something.
        if self.turn.as_ref().is_none_or(|t| t.reported) {
            self.answered(None, source, &rule, now);
        }
        match &mut self.turn {
            // Another witness saw this turn begin: the report tells whose prompt it was.
            Some(turn) if !turn.reported => {
                turn.reported = true;
                if self.ours.is_some() || text.is_none() {
                    self.accepted(text, source, &rule, now);
                }
            }
            Some(_) => self.accepted(text, source, &rule, now),
            None => {
                self.accepted(text, source, &rule, now);
                self.submitted = false;
                self.begin(source, rule, span, now, now, eyes);
                if let Some(turn) = &mut self.turn {
                    turn.reported = true;
                }
            }
        }
        self.submitted = false;
        self.owed = false;
    }

    fn done(
        &mut self,
        answer: Option<String>,
        source: Source,
        rule: String,
        span: Option<Span>,
        now: Duration,
        eyes: &dyn Eyes,
    ) {
        let late = source.is_report() && self.owed && !self.turn.as_ref().is_some_and(|t| t.reported);
        if late {
            // The end of the turn before: it was told already by a quicker witness, but not its words.
            self.owed = false;
            if let (Some(text), None) = (answer, &self.turn) {
                self.say(text, true, source, &rule, span);
            }
            return;
        }
        self.end(Outcome::Done { answer }, source, rule, span, now, eyes);
    }

    /// Notes the end of the turn; it is said once its answer had its time to come.
    fn end(
        &mut self,
        outcome: Outcome,
        source: Source,
        rule: String,
        span: Option<Span>,
        now: Duration,
        eyes: &dyn Eyes,
    ) {
        if self.turn.is_none() {
            let begun = self.start.take();
            if begun.is_none() && !self.submitted {
                if source == Source::Osc && self.turn.is_none() {
                    self.settle_state(now, source, &rule);
                }
                return;
            }
            // Over before anybody saw it begin.
            let at = begun.map_or(now, |s| s.at);
            self.begin(source, rule.clone(), None, at, now, eyes);
        }
        let due = match source {
            s if s.is_report() => now,
            Source::Exit | Source::Line | Source::Timer => now,
            _ if self.config.reports => now + REPORT_WAIT,
            _ => now + SETTLE_WAIT,
        };
        match &mut self.ending {
            Some(e) if e.source <= source => {}
            Some(e) => {
                e.outcome = outcome;
                (e.source, e.rule, e.due) = (source, rule, due.min(e.due));
                e.span = span.or(e.span.take());
            }
            None => self.ending = Some(Ending { outcome, source, rule, span, at: now, due }),
        }
        if self.ending.as_ref().is_some_and(|e| e.due <= now) {
            self.conclude(now, eyes);
        }
    }

    /// Says how the turn ended.
    fn conclude(&mut self, now: Duration, eyes: &dyn Eyes) {
        let (Some(Ending { outcome, source, rule, span, at, .. }), Some(turn)) = (self.ending.take(), self.turn.take())
        else {
            return;
        };
        self.answered(None, source, &rule, now);
        let duration_ms = u64::try_from(at.saturating_sub(turn.began).as_millis()).unwrap_or(u64::MAX);
        let mut limited = false;
        // Interruptions are told by no hook, and some agents' failures by none either.
        if self.config.reports && !source.is_report() && matches!(outcome, Outcome::Done { .. }) {
            self.lacking = Some((now + AFTER_REPORT, format!("`{rule}`")));
        }
        match outcome {
            Outcome::Done { answer } => {
                let verdict = if answer.is_none() { eyes.verdict() } else { Verdict::default() };
                let told = answer.clone().map(|a| (a, true)).or(verdict.message);
                let known = told.clone().filter(|(_, exact)| *exact).map(|(text, _)| text);
                if let Some((text, exact)) = told {
                    let from = if answer.is_some() || exact { source } else { Source::Screen };
                    self.say(text, exact, from, &rule, span);
                }
                let (answer, truncated) = match known.map(|a| capped(a, MAX_TEXT_BYTES)) {
                    Some((a, cut)) => (Some(a), cut),
                    None => (None, false),
                };
                self.push(Body::TurnCompleted { answer, duration_ms, truncated }, source, &rule, span);
            }
            Outcome::Failed { reason, message } => {
                let seen = if message.is_empty() { eyes.verdict().failed.map(|(_, m)| m) } else { None };
                let message = seen.unwrap_or(message);
                let meant = eyes.reason(&message);
                let reason = match (&meant, reason) {
                    (Some((meant, _)), FailReason::Other | FailReason::Exited) => *meant,
                    (_, given) => given,
                };
                if let Some((_, Some(kind))) = meant {
                    let wall = self.epoch.map(|e| e + jiff::SignedDuration::try_from(now).unwrap_or_default());
                    let resets_at = wall.and_then(|w| limits::resets_at(&message, w));
                    limited = true;
                    let resumes = self.config.self_resumes;
                    self.limit(kind, message.clone(), resets_at, resumes, source, &rule, now);
                }
                let (message, _) = capped(message, MAX_TEXT_BYTES);
                self.push(Body::TurnFailed { reason, message, duration_ms }, source, &rule, span);
            }
            Outcome::Interrupted => self.push(Body::TurnInterrupted { duration_ms }, source, &rule, span),
        }
        self.owed = self.config.reports && turn.reported && !source.is_report();
        self.interrupted = None;
        // What was submitted in mid-turn was taken by it, or is queued and will be told by work that goes on.
        self.submitted &= self.entered.is_some_and(|entered| entered > at);
        if limited || source == Source::Exit {
            return;
        }
        // A queued prompt follows at once: the same frame that ends one turn shows the next one at work.
        if source == Source::Screen && self.level == Level::Working {
            let rule = self.level_rule.clone();
            self.begin(source, rule, None, now, now, eyes);
        } else if self.busy() {
            let patience = if source.is_report() { AFTER_REPORT } else { NEXT_TURN };
            self.recheck = Some(now + patience);
        } else {
            self.settle_state(now, source, &rule);
        }
    }

    /// Whether the best of the quick witnesses says that work goes on.
    fn busy(&self) -> bool {
        self.status.unwrap_or(self.level == Level::Working)
    }

    fn busy_source(&self) -> Source {
        if self.status.is_some() { Source::Osc } else { self.level_source }
    }

    fn settle_state(&mut self, now: Duration, source: Source, rule: &str) {
        self.recheck = None;
        if !matches!(self.state, SessionState::Limited | SessionState::Exited) {
            self.ready = true;
            self.enter(SessionState::Idle, source, rule, now);
        }
    }

    /// The agent says that it is idle and not why.
    fn idle_edge(&mut self, source: Source, rule: String, span: Option<Span>, now: Duration, eyes: &dyn Eyes) {
        if self.start.take_if(|s| s.source == source).is_some() {
            return self.settle_state(now, source, &rule);
        }
        self.answered(None, source, &rule, now);
        if self.turn.is_some() && self.ending.is_none() && source == Source::Osc {
            // A turn that goes well says `done`.
            self.end(Outcome::Interrupted, source, rule, span, now, eyes);
        } else if self.turn.is_none() {
            if self.state == SessionState::Limited && self.limit_ends.is_some() {
                return; // the next key makes it idle for its own screen; the limit stands
            }
            self.limit_ends = None;
            self.setup = None;
            self.ready = true;
            self.recheck = None;
            self.enter(SessionState::Idle, source, &rule, now);
        }
    }

    /// The input box stood long enough.
    fn idle_stood(&mut self, now: Duration, eyes: &dyn Eyes) {
        let rule = self.level_rule.clone();
        if self.asking.is_some() && self.status.is_none() {
            self.answered(None, self.level_source, &rule, now);
            return;
        }
        if self.turn.is_none() {
            self.setup = None;
            self.ready = true;
            self.enter(SessionState::Idle, self.level_source, &rule, now);
            return;
        }
        let verdict = eyes.verdict();
        let idle_since = self.idle_since.unwrap_or(now);
        let by_key = self.interrupted.is_some_and(|at| idle_since <= at + INTERRUPT_WINDOW);
        let (outcome, source, rule) = match (verdict.failed, verdict.interrupted) {
            (Some((rule, message)), _) => {
                (Outcome::Failed { reason: FailReason::Other, message }, self.level_source, rule)
            }
            (None, Some(rule)) => (Outcome::Interrupted, self.level_source, rule),
            (None, None) if by_key => (Outcome::Interrupted, Source::Input, "interrupt.key".to_owned()),
            (None, None) => (Outcome::Done { answer: None }, self.level_source, rule),
        };
        // Waiting is over: it stood long enough already.
        self.status = self.status.map(|_| false);
        self.ending = Some(Ending { outcome, source, rule, span: None, at: idle_since, due: now });
        self.conclude(now, eyes);
    }

    // --- questions

    #[expect(clippy::too_many_arguments, reason = "a question, who asks it and when")]
    fn asked(
        &mut self,
        menu: Menu,
        exact: bool,
        source: Source,
        rule: String,
        span: Option<Span>,
        now: Duration,
        eyes: &dyn Eyes,
    ) {
        if !self.ready && self.turn.is_none() && self.start.is_none() {
            return self.set_up(if menu.text.is_empty() { "an answer".into() } else { menu.text }, source, &rule, now);
        }
        let on_screen = matches!(source, Source::Screen | Source::Line);
        if let Some(a) = &mut self.asking {
            a.status |= source == Source::Osc;
            if a.said && on_screen && a.menu && a.ask.text != menu.text && !a.ask.exact {
                self.answered(None, source, &rule, now); // another question took its place
            } else if !a.said {
                merge(&mut a.ask, menu, exact, on_screen);
                a.menu |= on_screen;
                if source < a.source {
                    (a.source, a.rule, a.span) = (source, rule, span.or(a.span.take()));
                }
                a.reported |= source.is_report();
                return self.say_asked_if_whole();
            } else {
                // Told before it was drawn: an agent holds its menu back while somebody types.
                if on_screen {
                    a.menu = true;
                    if a.ask.options.is_empty() {
                        a.ask.options = menu.options;
                    }
                }
                return;
            }
        } else if on_screen && self.status == Some(true) {
            // Answered a moment ago, the menu is about to go. If it stays, the report was lost.
            self.menu.get_or_insert((now + MENU_STANDS, menu, rule));
            return;
        }
        if self.ending.is_some() {
            self.conclude(now, eyes);
        }
        if self.turn.is_none() {
            self.begin(source, rule.clone(), None, now, now, eyes);
        }
        let kind = menu.kind;
        let Menu { tool, text, options, .. } = menu;
        let wait = if text.is_empty() { MENU_WAIT } else { ASK_WAIT };
        let ask = Ask { hash: String::new(), tool, text, options, exact };
        self.asking = Some(Asking {
            ask,
            kind,
            source,
            rule: rule.clone(),
            span,
            at: now,
            due: now + wait,
            menu: on_screen,
            reported: source.is_report(),
            status: source == Source::Osc,
            said: false,
        });
        self.interrupted = None;
        self.say_asked_if_whole();
    }

    fn say_asked_if_whole(&mut self) {
        if self.asking.as_ref().is_some_and(|a| a.menu && (a.reported || !self.config.reports)) {
            self.say_asked();
        }
    }

    fn say_asked(&mut self) {
        let Some(a) = &mut self.asking else { return };
        if a.said {
            return;
        }
        a.said = true;
        let (text, _) = capped(std::mem::take(&mut a.ask.text), MAX_TEXT_BYTES);
        a.ask.text = text;
        a.ask.hash = ask_hash(a.kind, a.ask.tool.as_deref(), &a.ask.text);
        let body = match a.kind {
            AskKind::Permission => Body::PermissionAsked(a.ask.clone()),
            AskKind::Question => Body::QuestionAsked(a.ask.clone()),
        };
        let (source, rule, span, at) = (a.source, a.rule.clone(), a.span, a.at);
        self.push(body, source, &rule, span);
        self.enter(SessionState::Asking, source, &rule, at);
    }

    /// Whether the stream has not come to the question yet: a report travels beside it and may be quicker than what was
    /// written before, be it a status or a frame that still shows the agent at work.
    fn is_overtaken(&self, now: Duration) -> bool {
        self.overtaken_until().is_some_and(|until| now < until)
    }

    fn overtaken_until(&self) -> Option<Duration> {
        self.asking.as_ref().filter(|a| a.reported && !a.status && !a.menu).map(|a| a.at + AFTER_REPORT)
    }

    /// What was asked is no longer asked.
    fn answered(&mut self, answer: Option<String>, source: Source, rule: &str, _now: Duration) {
        let Some(a) = &self.asking else { return };
        // Escape refuses; nothing else tells for certain what was pressed.
        let refused = self.interrupted.is_some_and(|at| at >= a.at);
        let allowed = if refused {
            Some(false)
        } else {
            (self.status == Some(true) || self.level == Level::Working).then_some(true)
        };
        self.answered_with(allowed, answer, source, rule);
    }

    fn answered_with(&mut self, allowed: Option<bool>, answer: Option<String>, source: Source, rule: &str) {
        if !self.asking.as_ref().is_some_and(|a| a.said) {
            self.say_asked();
        }
        let Some(a) = self.asking.take() else { return };
        let hash = a.ask.hash;
        let body = match a.kind {
            AskKind::Permission => Body::PermissionAnswered { hash, allowed },
            AskKind::Question => Body::QuestionAnswered { hash, answer },
        };
        self.push(body, source, rule, None);
        if self.turn.is_some() {
            let since = self.since;
            self.enter(SessionState::Working, source, rule, since);
        }
    }

    // --- the rest

    #[expect(clippy::too_many_arguments, reason = "the fields of one claim, who made it and when")]
    fn limit(
        &mut self,
        kind: LimitKind,
        text: String,
        resets_at: Option<Timestamp>,
        self_resumes: bool,
        source: Source,
        rule: &str,
        now: Duration,
    ) {
        if self.state == SessionState::Limited {
            return;
        }
        let (text, _) = capped(text, MAX_TEXT_BYTES);
        self.push(Body::LimitReached { kind, text, resets_at, self_resumes }, source, rule, None);
        self.enter(SessionState::Limited, source, rule, now);
        // Where nothing says how long it lasts the session stays usable: whoever sends decides.
        let left = resets_at.zip(self.epoch).and_then(|(r, e)| Duration::try_from(r.duration_since(e)).ok());
        self.limit_ends = Some(left.unwrap_or(now).max(now + NEXT_TURN));
    }

    fn set_up(&mut self, what: String, source: Source, rule: &str, now: Duration) {
        if self.turn.is_none() {
            self.setup = Some(what);
            self.enter(SessionState::Setup, source, rule, now);
        }
    }

    /// Passes content on, once.
    fn content(&mut self, body: Body, source: Source, rule: &str, span: Option<Span>, eyes: &dyn Eyes) {
        match body {
            Body::Message { text, exact, .. } => self.say(text, exact, source, rule, span),
            Body::ToolFinished { ref output, .. } if self.is_new(&body) => {
                // What a tool wrote is its own word: nothing in it is quoted.
                let found = output.as_deref().map(|text| eyes.read_lines(text)).unwrap_or_default();
                self.push(body, source, rule, span);
                for (rule, body) in found {
                    self.push(body, source, &rule, None);
                }
            }
            // Whole files are written by a tool call.
            Body::ToolStarted { id, name, input: Some(input), .. } => {
                let (input, truncated) = capped_json(input, MAX_TEXT_BYTES);
                let body = Body::ToolStarted { id, name, input: Some(input), truncated };
                if self.is_new(&body) {
                    self.push(body, source, rule, span);
                }
            }
            body => {
                if self.is_new(&body) {
                    self.push(body, source, rule, span);
                }
            }
        }
    }

    /// Says a message and, where it is exact, the code blocks in it.
    fn say(&mut self, text: String, exact: bool, source: Source, rule: &str, span: Option<Span>) {
        if text.trim().is_empty() || !self.first_time(("message", text.trim())) {
            return;
        }
        let blocks = if exact { markdown::blocks(&text) } else { Vec::new() };
        let (text, truncated) = capped(text, MAX_TEXT_BYTES);
        self.push(Body::Message { text, exact, truncated }, source, rule, span);
        for block in blocks {
            let (text, cut) = capped(block.text, MAX_TEXT_BYTES);
            let body = Body::CodeBlock { lang: block.lang, text, exact, truncated: cut || block.truncated };
            self.push(body, source, rule, span);
        }
    }

    /// Two witnesses may bring the same tool call: only what both are sure to say is compared.
    fn is_new(&mut self, body: &Body) -> bool {
        match body {
            Body::ToolStarted { id: Some(id), .. } => self.first_time(("tool.started", id.as_str())),
            Body::ToolFinished { id: Some(id), .. } => self.first_time(("tool.finished", id.as_str())),
            Body::CodeBlock { text, .. } => self.first_time(("code", text.as_str())),
            // Links are drawn with every frame that shows them.
            Body::Url { url } => self.first_time(("url", url.as_str())),
            _ => true,
        }
    }

    fn first_time(&mut self, what: impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        if self.seen.len() >= MAX_SEEN {
            self.seen.clear();
        }
        self.seen.insert(hasher.finish())
    }

    fn enter(&mut self, state: SessionState, source: Source, rule: &str, now: Duration) {
        if self.state == state {
            return;
        }
        let was = std::mem::replace(&mut self.state, state);
        self.since = now;
        if state != SessionState::Setup {
            self.setup = None;
        }
        self.push(Body::State { state, was }, source, rule, None);
    }

    fn push(&mut self, body: Body, source: Source, rule: &str, span: Option<Span>) {
        self.out.push(Draft { body, source, rule: rule.to_owned(), span });
    }
}

/// Text as it is compared: agents trim it and change its line ends.
fn normal(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").trim().to_owned()
}

/// Puts together what two witnesses say is asked: a report's words are exact, a menu's are what is shown, a status
/// report's only sum it up.
fn merge(ask: &mut Ask, menu: Menu, exact: bool, shown: bool) {
    if !ask.exact && (exact || shown || ask.text.is_empty()) {
        ask.text = menu.text;
        ask.exact = exact;
    }
    if ask.tool.is_none() || exact {
        ask.tool = menu.tool.or(ask.tool.take());
    }
    if ask.options.is_empty() {
        ask.options = menu.options;
    }
}

/// Returns the hash that binds an answer to what was asked (T32).
fn ask_hash(kind: AskKind, tool: Option<&str>, text: &str) -> String {
    let kind = if kind == AskKind::Permission { "permission" } else { "question" };
    hex_sha256(&[kind, tool.unwrap_or_default(), text].join("\0"))
}

fn hex_sha256(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, b| {
        let _ = write!(hex, "{b:02x}"); // writing to a string cannot fail
        hex
    })
}

#[cfg(test)]
mod tests;
