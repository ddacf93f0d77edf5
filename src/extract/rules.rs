//! L2: what the rows of a screen mean, by the rules of a pack.
//!
//! Rules see one frame, the current one, cut into regions around the input box; scrollback is never looked at, and
//! a rule of a state holds only while its rows stand there.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use regex::Regex;

use crate::extract::adapters::{Version, parse_version};
use crate::extract::event::{AskKind, FailReason, LimitKind};
use crate::extract::pattern::{AskRule, Condition, Pack, Pattern, PatternError, Region, Rule, Says};
use crate::term::screen::ScreenText;

/// How many rows that end a turn are remembered, to tell new ones from old ones.
const KNOWN_ROWS: usize = 64;

/// Largest compiled form of one pattern.
const MAX_PATTERN_BYTES: usize = 256 * 1024;
/// Most patterns of a pack.
const MAX_PATTERNS: usize = 512;

/// What stands on the screen, as a state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Level {
    /// No rule matches.
    Unknown,
    Idle,
    Working,
    Asked(Menu),
    Setup(String),
    Hold,
}

/// A question as shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Menu {
    pub(crate) kind: AskKind,
    pub(crate) tool: Option<String>,
    pub(crate) text: String,
    pub(crate) options: Vec<String>,
}

/// The input box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Composer {
    /// What a human or we put there; a placeholder counts as nothing.
    pub(crate) text: String,
}

/// One look at the screen.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) level: Level,
    /// The rule behind the level.
    pub(crate) rule: String,
    pub(crate) composer: Option<Composer>,
    /// The rule whose row, not seen before, says that a turn ended well.
    pub(crate) done: Option<String>,
}

/// What the screen tells about the turn that just ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Rule and words of a failure.
    pub(crate) failed: Option<(String, String)>,
    /// The rule that says it was interrupted.
    pub(crate) interrupted: Option<String>,
    /// The last message, as far as it is visible, and whether it is exact.
    pub(crate) message: Option<(String, bool)>,
}

#[derive(Debug)]
struct Cond {
    region: Region,
    row: Regex,
}

#[derive(Debug)]
struct Compiled {
    id: String,
    says: Says,
    all: Vec<Cond>,
    any: Vec<Cond>,
    none: Vec<Cond>,
    sticks: bool,
    ask: Option<CompiledAsk>,
    what: String,
}

#[derive(Debug)]
struct CompiledAsk {
    from: Regex,
    option: Option<Regex>,
    skip: Option<Regex>,
    ignore: Option<Regex>,
    tool: Option<Regex>,
    row: Option<Regex>,
    one_row: bool,
}

#[derive(Debug)]
struct CompiledComposer {
    row: Regex,
    above: Option<Regex>,
    below: Option<Regex>,
    placeholder: Option<Regex>,
    cursor: bool,
    paste: bool,
    status_rows: usize,
}

#[derive(Debug)]
struct Transcript {
    prompt: Regex,
    queued: Option<Regex>,
    message: Regex,
    tool: Option<Regex>,
    end: Option<Regex>,
    whole: bool,
}

/// The compiled rules of a pack.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Compiled>,
    banner: Option<Regex>,
    composer: Option<CompiledComposer>,
    transcript: Option<Transcript>,
    failures: Vec<(Regex, FailReason, Option<LimitKind>)>,
    /// Hashes of rows that ended turns, oldest first.
    known: VecDeque<u64>,
    /// The agent has bracketed paste switched on.
    paste: bool,
    /// What a rule that sticks said last: its meaning, its id, its words.
    stuck: Option<(Says, String, String)>,
}

/// Rows of a frame, cut around the input box.
struct Layout {
    composer: Range<usize>,
    text: Option<String>,
    above: Range<usize>,
    footer: Range<usize>,
    turn: Range<usize>,
    tail: Range<usize>,
    /// The turn is there from its beginning.
    whole: bool,
}

fn regex(p: &Pattern) -> Result<Regex, PatternError> {
    // Matching is linear in the row whatever the pattern is, and this bounds by what factor (T29).
    regex::RegexBuilder::new(p.get_ref()).size_limit(MAX_PATTERN_BYTES).build().map_err(|e| {
        let why = match e {
            regex::Error::CompiledTooBig(_) => {
                format!("the pattern grows beyond {} KiB: repeat less", MAX_PATTERN_BYTES / 1024)
            }
            e => e.to_string().lines().last().unwrap_or("not a regular expression").to_owned(),
        };
        PatternError { at: p.span().start, why }
    })
}

fn maybe(p: Option<&Pattern>) -> Result<Option<Regex>, PatternError> {
    p.map(regex).transpose()
}

impl Rules {
    /// Compiles the rules of `pack`; built-in ones are known to be valid, others were checked when they were read.
    pub(crate) fn new(pack: &Pack) -> Self {
        Self::try_new(pack).unwrap_or_else(|e| panic!("the patterns of a pack are checked when it is read: {}", e.why))
    }

    fn try_new(pack: &Pack) -> Result<Self, PatternError> {
        let conds = |list: &[Condition]| {
            list.iter().map(|c| Ok(Cond { region: c.r#in, row: regex(&c.row)? })).collect::<Result<Vec<_>, _>>()
        };
        let mut specs: Vec<_> = pack.rules.iter().filter(|r| of_screen(r)).collect();
        specs.sort_by_key(|r| std::cmp::Reverse(r.priority));
        let mut rules = Vec::with_capacity(specs.len());
        for spec in specs {
            rules.push(Compiled {
                id: spec.id.clone(),
                says: spec.says,
                all: conds(&spec.all)?,
                any: conds(&spec.any)?,
                none: conds(&spec.none)?,
                sticks: spec.sticks,
                ask: spec.ask.as_ref().map(compile_ask).transpose()?,
                what: spec.what.clone().unwrap_or_else(|| "the agent wants a human".into()),
            });
        }
        let composer = match &pack.composer {
            Some(c) => Some(CompiledComposer {
                row: regex(&c.row)?,
                above: maybe(c.above.as_ref())?,
                below: maybe(c.below.as_ref())?,
                placeholder: maybe(c.placeholder.as_ref())?,
                cursor: c.cursor,
                paste: c.paste,
                status_rows: c.status_rows,
            }),
            None => None,
        };
        let transcript = match &pack.transcript {
            Some(t) => Some(Transcript {
                prompt: regex(&t.prompt)?,
                queued: maybe(t.queued.as_ref())?,
                message: regex(&t.message)?,
                tool: maybe(t.tool.as_ref())?,
                end: maybe(t.end.as_ref())?,
                whole: t.whole,
            }),
            None => None,
        };
        let failures =
            pack.failures.iter().map(|f| Ok((regex(&f.like)?, f.reason, f.limit))).collect::<Result<_, _>>()?;
        let banner = maybe(pack.banner.as_ref())?;
        Ok(Self { rules, banner, composer, transcript, failures, known: VecDeque::new(), paste: false, stuck: None })
    }

    /// Reads a frame.
    pub(crate) fn read(&mut self, screen: &ScreenText, title: &str, paste: bool) -> Reading {
        self.paste = paste;
        let layout = self.layout(screen);
        self.stick(screen, &layout);
        let composer = layout.text.clone().map(|text| Composer { text });
        let (mut level, mut rule, mut done) = (Level::Unknown, String::new(), None);
        for r in &self.rules {
            let of_state = matches!(
                r.says,
                Says::Idle | Says::Working | Says::Permission | Says::Question | Says::Setup | Says::Hold
            );
            if of_state && level == Level::Unknown && r.matches(screen, &layout, title) {
                level = r.level(screen);
                rule.clone_from(&r.id);
            }
        }
        for i in 0..self.rules.len() {
            if self.rules[i].says == Says::Done && self.new_row(i, screen, &layout) {
                done = Some(self.rules[i].id.clone());
            }
        }
        Reading { level, rule, composer, done }
    }

    /// Returns the version of the agent, where its banner is to be seen.
    pub(crate) fn version(&self, screen: &ScreenText) -> Option<Version> {
        let banner = self.banner.as_ref()?;
        let found = screen.lines.iter().find_map(|row| banner.captures(row))?;
        parse_version(found.name("version")?.as_str())
    }

    /// Keeps what says how the turn ended for as long as nothing is written after it but the input box.
    fn stick(&mut self, screen: &ScreenText, layout: &Layout) {
        let seen = self.rules.iter().find(|r| r.sticks && r.matches(screen, layout, ""));
        match seen {
            Some(r) => self.stuck = Some((r.says, r.id.clone(), r.message(screen, layout))),
            None if layout.text.is_none() => self.stuck = None,
            None => {}
        }
    }

    /// Reads what became of the turn that just ended.
    pub(crate) fn verdict(&self, screen: &ScreenText) -> Verdict {
        let layout = self.layout(screen);
        let mut verdict = Verdict { message: self.message(screen, &layout).map(|m| (m, false)), ..Verdict::default() };
        for r in &self.rules {
            match r.says {
                Says::Failed if verdict.failed.is_none() && r.matches(screen, &layout, "") => {
                    verdict.failed = Some((r.id.clone(), r.message(screen, &layout)));
                }
                Says::Interrupted if verdict.interrupted.is_none() && r.matches(screen, &layout, "") => {
                    verdict.interrupted = Some(r.id.clone());
                }
                _ => {}
            }
        }
        match &self.stuck {
            Some((Says::Failed, id, message)) if verdict.failed.is_none() => {
                verdict.failed = Some((id.clone(), message.clone()));
            }
            Some((Says::Interrupted, id, _)) if verdict.interrupted.is_none() => {
                verdict.interrupted = Some(id.clone());
            }
            _ => {}
        }
        verdict
    }

    /// Returns what the words of a failure mean; for a usage limit also its kind.
    pub(crate) fn reason(&self, message: &str) -> Option<(FailReason, Option<LimitKind>)> {
        self.failures.iter().find_map(|(like, reason, limit)| like.is_match(message).then_some((*reason, *limit)))
    }

    /// Whether a row of this rule is there that was not seen before; all that are there count as seen from now on.
    fn new_row(&mut self, rule: usize, screen: &ScreenText, layout: &Layout) -> bool {
        let mut fresh = Vec::new();
        if self.rules[rule].none.iter().any(|c| layout.rows(c.region, screen).any(|row| c.row.is_match(row))) {
            return false;
        }
        for cond in &self.rules[rule].all {
            for row in layout.rows(cond.region, screen) {
                if cond.row.is_match(row) {
                    let mut hasher = DefaultHasher::new();
                    row.hash(&mut hasher);
                    let hash = hasher.finish();
                    if !self.known.contains(&hash) {
                        fresh.push(hash);
                    }
                }
            }
        }
        let any = !fresh.is_empty();
        self.known.extend(fresh);
        while self.known.len() > KNOWN_ROWS {
            self.known.pop_front();
        }
        any
    }

    fn layout(&self, screen: &ScreenText) -> Layout {
        let n = screen.lines.len();
        let mut layout =
            Layout { composer: n..n, text: None, above: 0..n, footer: n..n, turn: 0..n, tail: 0..n, whole: false };
        if let Some((rows, text)) =
            self.composer.as_ref().filter(|c| self.paste || !c.paste).and_then(|c| c.find(screen))
        {
            let borders = |re: &Option<Regex>| usize::from(re.as_ref().is_some_and(|r| !r.is_match("")));
            let c = self.composer.as_ref().expect("it was just used");
            layout.above = 0..rows.start.saturating_sub(borders(&c.above));
            layout.footer = (rows.end + borders(&c.below)).min(n)..n;
            layout.composer = rows;
            layout.text = Some(text);
        }
        layout.turn = layout.above.clone();
        if let Some(t) = &self.transcript {
            let header = layout.above.clone().rev().find(|&i| {
                t.prompt.is_match(&screen.lines[i])
                    && !t.queued.as_ref().is_some_and(|q| {
                        screen.lines[i + 1..layout.above.end]
                            .iter()
                            .take_while(|r| !r.is_empty())
                            .any(|r| q.is_match(r))
                    })
            });
            layout.whole = header.is_some();
            layout.turn = header.map_or(layout.above.start, |h| h + 1)..layout.above.end;
            let mut rows = layout.turn.clone();
            let is_message = |i: &usize| t.message.is_match(&screen.lines[*i]);
            let last = if t.whole { rows.find(is_message) } else { rows.rev().find(is_message) };
            layout.tail = last.unwrap_or(layout.turn.start)..layout.turn.end;
        }
        layout
    }

    fn message(&self, screen: &ScreenText, layout: &Layout) -> Option<String> {
        let t = self.transcript.as_ref().filter(|t| layout.whole || !t.whole)?;
        let mut end = layout.turn.end;
        let first = if t.whole { layout.tail.start } else { layout.turn.start };
        let starts = first..if t.whole { (first + 1).min(end) } else { end };
        for start in starts.rev() {
            let Some(caps) = t.message.captures(&screen.lines[start]) else { continue };
            let body = &screen.lines[start + 1..end];
            let ends = |r: &str| t.end.as_ref().is_some_and(|end| end.is_match(r));
            let inside = |r: &&String| (t.whole || r.is_empty() || r.starts_with(' ')) && !ends(r);
            let body: Vec<&String> = body.iter().take_while(inside).collect();
            if body.iter().any(|r| t.tool.as_ref().is_some_and(|tool| tool.is_match(r))) {
                end = start;
                continue;
            }
            let first = caps.name("text").map_or("", |m| m.as_str());
            // Further rows are indented like the text of the first.
            let indent = caps.name("text").map_or(0, |m| screen.lines[start][..m.start()].chars().count());
            let mut text = first.to_owned();
            for row in body {
                text.push('\n');
                let blanks = row.chars().take(indent).take_while(|c| *c == ' ').count();
                text.push_str(&row[blanks..]);
            }
            return Some(text.trim_end().to_owned());
        }
        None
    }
}

/// Whether a rule reads the screen, and not lines that scroll by.
fn of_screen(rule: &Rule) -> bool {
    !rule.reads_lines()
}

/// Whether a pack has anything to see on a screen.
pub(crate) fn wants_screen(pack: &Pack) -> bool {
    pack.composer.is_some() || pack.rules.iter().any(of_screen)
}

/// The prompt of a line-mode agent.
#[derive(Debug)]
pub(crate) struct LineComposer {
    pub(crate) row: Regex,
    pub(crate) more: Option<Regex>,
    pub(crate) command: Option<Regex>,
    pub(crate) progress: Option<Regex>,
}

/// Compiles the prompt of a line-mode pack, if it has one.
pub(crate) fn line_composer(pack: &Pack) -> Option<LineComposer> {
    let c = pack.composer.as_ref()?;
    let compile = |p: &Pattern| regex(p).expect("the patterns of a pack are checked when it is read");
    Some(LineComposer {
        row: compile(&c.row),
        more: c.more.as_ref().map(compile),
        command: c.command.as_ref().map(compile),
        progress: c.progress.as_ref().map(compile),
    })
}

/// Tries every pattern of a pack; returns those that cannot be used.
pub(crate) fn check(pack: &Pack) -> Vec<PatternError> {
    let mut patterns: Vec<&Pattern> = pack.banner.iter().collect();
    if let Some(c) = &pack.composer {
        patterns.push(&c.row);
        patterns.extend([&c.above, &c.below, &c.more, &c.command, &c.placeholder, &c.progress].into_iter().flatten());
    }
    if let Some(t) = &pack.transcript {
        patterns.extend([&t.prompt, &t.message]);
        patterns.extend([&t.queued, &t.tool, &t.end].into_iter().flatten());
    }
    for rule in &pack.rules {
        patterns.extend(rule.all.iter().chain(&rule.any).chain(&rule.none).map(|c| &c.row));
        if let Some(ask) = &rule.ask {
            patterns.push(&ask.from);
            patterns.extend([&ask.option, &ask.skip, &ask.ignore, &ask.tool, &ask.row].into_iter().flatten());
        }
    }
    patterns.extend(pack.failures.iter().map(|f| &f.like));
    if let Some(p) = patterns.get(MAX_PATTERNS) {
        return vec![PatternError { at: p.span().start, why: format!("a pack has at most {MAX_PATTERNS} patterns") }];
    }
    patterns.into_iter().filter_map(|p| regex(p).err()).collect()
}

fn compile_ask(a: &AskRule) -> Result<CompiledAsk, PatternError> {
    Ok(CompiledAsk {
        from: regex(&a.from)?,
        option: maybe(a.option.as_ref())?,
        skip: maybe(a.skip.as_ref())?,
        ignore: maybe(a.ignore.as_ref())?,
        tool: maybe(a.tool.as_ref())?,
        row: maybe(a.row.as_ref())?,
        one_row: a.one_row,
    })
}

impl CompiledComposer {
    /// Finds the input box and the text in it.
    fn find(&self, screen: &ScreenText) -> Option<(Range<usize>, String)> {
        let rows = &screen.lines;
        (0..rows.len()).rev().find_map(|i| {
            // In line mode the box is the row being written.
            (self.placeholder.is_none() || i + 1 == rows.len()).then_some(())?;
            let caps = self.row.captures(&rows[i])?;
            if let Some(above) = &self.above {
                above.is_match(rows.get(i.checked_sub(1)?)?).then_some(())?;
            }
            let end = match &self.below {
                Some(below) => i + 1 + rows[i + 1..].iter().position(|r| below.is_match(r))?,
                None => i + 1 + rows[i + 1..].iter().take_while(|r| !r.is_empty()).count(),
            };
            let text_end = end.checked_sub(self.status_rows).filter(|last| *last > i)?;
            if self.cursor && !(i..text_end).contains(&usize::from(screen.cursor.1)) {
                return None;
            }
            let first = caps.name("text").map_or("", |m| m.as_str());
            let start = caps.name("text").map_or(0, |m| rows[i][..m.start()].chars().count());
            let mut text = first.to_owned();
            for row in &rows[i + 1..text_end] {
                text.push('\n');
                let own = self.row.captures(row).and_then(|c| c.name("text"));
                text.push_str(own.map_or(row.trim(), |m| m.as_str().trim()));
            }
            // A placeholder stands behind the cursor, a draft before it.
            let at_start = usize::from(screen.cursor.1) == i && usize::from(screen.cursor.0) <= start;
            if let Some(placeholder) = &self.placeholder {
                let empty = first.is_empty() || placeholder.is_match(first);
                return (at_start && empty).then(|| (i..end, String::new())).or(Some((i..end, text)));
            }
            Some((i..end, if at_start { String::new() } else { text.trim().to_owned() }))
        })
    }
}

impl Layout {
    fn rows<'s>(&self, region: Region, screen: &'s ScreenText) -> Box<dyn DoubleEndedIterator<Item = &'s str> + 's> {
        let all = &screen.lines;
        let slice = |r: &Range<usize>| Box::new(all[r.clone()].iter().map(String::as_str));
        let last = |r: &Range<usize>, n: usize| {
            let rows = all[r.clone()].iter().map(String::as_str).filter(|r| !r.is_empty());
            Box::new(rows.rev().take(n).collect::<Vec<_>>().into_iter().rev())
        };
        match region {
            Region::Composer => slice(&self.composer),
            Region::Above(None) => slice(&self.above),
            Region::Above(Some(n)) => last(&self.above, n),
            Region::Footer => slice(&self.footer),
            Region::Turn => slice(&self.turn),
            Region::Tail => slice(&self.tail),
            Region::Bottom(n) => last(&(0..all.len()), n),
            Region::Screen => slice(&(0..all.len())),
            Region::Title | Region::Line | Region::Tool => Box::new(std::iter::empty()),
        }
    }
}

impl Compiled {
    fn matches(&self, screen: &ScreenText, layout: &Layout, title: &str) -> bool {
        let there = |c: &Cond| match c.region {
            Region::Title => c.row.is_match(title),
            region => layout.rows(region, screen).any(|row| c.row.is_match(row)),
        };
        self.all.iter().all(there)
            && (self.any.is_empty() || self.any.iter().any(there))
            && !self.none.iter().any(there)
    }

    fn level(&self, screen: &ScreenText) -> Level {
        let menu = |kind| {
            Level::Asked(self.ask.as_ref().map_or_else(
                || Menu { kind, tool: None, text: String::new(), options: Vec::new() },
                |ask| ask.menu(kind, screen),
            ))
        };
        match self.says {
            Says::Idle => Level::Idle,
            Says::Working => Level::Working,
            Says::Permission => menu(AskKind::Permission),
            Says::Question => menu(AskKind::Question),
            Says::Setup => Level::Setup(self.what.clone()),
            Says::Hold => Level::Hold,
            _ => Level::Unknown,
        }
    }

    /// The group `message` of the first condition that has one, with the rows that go on from it.
    fn message(&self, screen: &ScreenText, layout: &Layout) -> String {
        for cond in &self.all {
            let mut rows = layout.rows(cond.region, screen);
            while let Some(row) = rows.next() {
                let Some(m) = cond.row.captures(row).and_then(|c| c.name("message").map(|m| m.as_str().to_owned()))
                else {
                    continue;
                };
                let (mut text, mut full) = (m, row.chars().count() + 1 >= usize::from(screen.cols));
                let goes_on = |r: &&str| r.contains(char::is_alphanumeric) && !cond.row.is_match(r);
                for next in rows.by_ref().take_while(goes_on) {
                    // A word that fills the row to its edge was cut there; otherwise the break stood for a space.
                    if !full {
                        text.push(' ');
                    }
                    text.push_str(next.trim());
                    full = next.chars().count() + 1 >= usize::from(screen.cols);
                }
                return text;
            }
        }
        String::new()
    }
}

impl CompiledAsk {
    fn menu(&self, kind: AskKind, screen: &ScreenText) -> Menu {
        let rows = &screen.lines;
        let is_option = |r: &String| self.option.as_ref().is_some_and(|o| o.is_match(r));
        let first_option = rows.iter().rposition(is_option).map_or(rows.len(), |last| {
            // Choices stand together: walk up over them and their descriptions.
            let mut first = last;
            for i in (0..last).rev().take_while(|_| !self.one_row) {
                if is_option(&rows[i]) {
                    first = i;
                } else if rows[i].is_empty() || self.from.is_match(&rows[i]) {
                    break;
                }
            }
            first
        });
        let from = rows[..first_option].iter().rposition(|r| self.from.is_match(r)).map_or(0, |i| i + 1);
        let ignored = |r: &str| r.is_empty() || self.ignore.as_ref().is_some_and(|re| re.is_match(r));
        let counts = |r: &'_ String| match &self.row {
            Some(re) => re.captures(r).and_then(|c| c.name("text").map(|m| m.as_str().trim().to_owned())),
            None => Some(r.trim().to_owned()),
        };
        let text: Vec<String> = rows[from..first_option].iter().filter_map(counts).filter(|r| !ignored(r)).collect();
        let mut options: Vec<String> = Vec::new();
        for row in rows[first_option..].iter() {
            let choices = self.option.iter().flat_map(|o| o.captures_iter(row)).filter_map(|c| c.name("option"));
            options.extend(choices.map(|m| m.as_str().trim().to_owned()));
        }
        options.retain(|o| !self.skip.as_ref().is_some_and(|s| s.is_match(o)));
        let named =
            |re: &Regex, row: &String| re.captures(row).and_then(|c| c.name("tool").map(|m| m.as_str().to_owned()));
        let tool = self.tool.as_ref().and_then(|re| rows[from..first_option].iter().find_map(|r| named(re, r)));
        Menu { kind, tool, text: text.join("\n"), options }
    }
}
