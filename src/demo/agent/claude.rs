//! The claude dialect: Claude Code 2.1.329 as recorded.

use std::fmt::Write as _;
use std::path::PathBuf;

use base64::Engine as _;
use serde_json::{Value, json};

use super::canvas::{Frame, Line, Moves, wrap};
use super::keys::Reply;
use super::record::Transcript;
use super::reports::{Call, Reports};
use super::script::Failure;
use super::show::{Choice, Face, Habits, Item, Menu, MenuOf, Moment, Show, drawn};
use super::{Setting, last_flag};

const GREY: &str = "38;5;246";
const RULE: &str = "38;5;244";
const ORANGE: &str = "38;5;174";
const BLUE: &str = "38;5;153";
const SPINNER: [char; 10] = ['·', '✢', '*', '✶', '✻', '✽', '✻', '✶', '*', '✢'];
const WORDS: [&str; 6] = ["Pondering", "Brewing", "Sprouting", "Whirlpooling", "Mustering", "Crunching"];
const PAST: [&str; 6] = ["Cooked", "Brewed", "Crunched", "Baked", "Cogitated", "Sautéed"];
/// A pasted text of more lines is shown as a label.
const LABELLED: usize = 10;

/// How far the terminal was questioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    Asked,
    SecondRound,
    Over,
}

/// The dialect's own state.
pub(super) struct Claude {
    conversation: String,
    prompt_id: String,
    cwd: PathBuf,
    manual: bool,
    alternate: bool,
    in_tmux: bool,
    hooks: Value,
    reports: Reports,
    transcript: Transcript,
    probe: Probe,
    /// The terminal understands the status protocol.
    status: bool,
    closes_round: bool,
    tools: u64,
    args: Vec<String>,
}

impl Claude {
    pub(super) fn new(setting: &Setting) -> Self {
        let args = &setting.args;
        let given = last_flag(args, &["--session-id", "--resume", "-r"]).filter(|id| id.len() == 36);
        let conversation = given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        let transcript = Transcript::claude(&conversation, &setting.cwd);
        Self {
            prompt_id: uuid::Uuid::new_v4().to_string(),
            cwd: setting.cwd.clone(),
            manual: last_flag(args, &["--permission-mode"]) == Some("manual"),
            alternate: std::env::var_os("CLAUDE_CODE_DISABLE_ALTERNATE_SCREEN").is_none(),
            in_tmux: std::env::var_os("TMUX").is_some(),
            hooks: hooks(last_flag(args, &["--settings"])),
            reports: Reports::new(setting.cwd.clone()),
            transcript,
            probe: Probe::Asked,
            status: false,
            closes_round: false,
            tools: 0,
            args: args.iter().filter(|a| !a.is_empty()).cloned().collect(),
            conversation,
        }
    }

    /// Calls the hooks of one event.
    fn hook(&self, event: &str, tool: Option<&str>, fields: Value) {
        let Some(groups) = self.hooks.get(event).and_then(Value::as_array) else { return };
        let mut payload = json!({
            "session_id": self.conversation,
            "transcript_path": self.transcript.path(),
            "cwd": self.cwd,
            "prompt_id": self.prompt_id,
            "permission_mode": if self.manual { "default" } else { "auto" },
            "hook_event_name": event,
        });
        if let (Some(all), Value::Object(more)) = (payload.as_object_mut(), fields) {
            all.extend(more);
        }
        for group in groups {
            let matcher = group.get("matcher").and_then(Value::as_str).unwrap_or_default();
            if !(matcher.is_empty() || matcher == "*" || tool.is_none_or(|t| matcher.split('|').any(|m| m == t))) {
                continue;
            }
            for hook in group.get("hooks").and_then(Value::as_array).into_iter().flatten() {
                if let Some(line) = hook.get("command").and_then(Value::as_str) {
                    self.reports.call(Call::Hook { line: line.to_owned(), payload: payload.to_string() });
                }
            }
        }
    }

    fn state(&self, state: &str, message: Option<&str>) -> String {
        if !self.status {
            return String::new();
        }
        let message = message
            .map(|m| format!(":msg={}", base64::engine::general_purpose::STANDARD.encode(m)))
            .unwrap_or_default();
        let (state, rest) = state.split_once(':').map_or((state, String::new()), |(s, r)| (s, format!(":{r}")));
        format!("\x1b]7501;state={state}:app=claude-code{rest}{message}\x07")
    }

    fn title(&self, title: &str) -> String {
        // Once the status protocol is agreed on, and inside tmux, the title tells nothing.
        if self.status || self.in_tmux { String::new() } else { format!("\x1b]0;{title}\x07") }
    }

    fn tool_fields(&self, run: &super::script::Run) -> Value {
        json!({
            "tool_name": "Bash",
            "tool_input": {"command": run.run, "description": about(run)},
            "tool_use_id": format!("toolu_{:04}", self.tools),
        })
    }

    fn footer(&self, show: &Show) -> Line {
        if let Some(note) = show.note {
            return Line::ink(GREY, format!("  {note}"));
        }
        let mut words = String::from("  ");
        if self.manual {
            words.push_str("⏸ manual mode on");
        }
        let more = match (show.busy.is_some(), show.input.is_empty()) {
            _ if !show.ready => "",
            (true, true) => "esc to interrupt",
            (false, true) => "? for shortcuts · ← for agents",
            (_, false) => "",
        };
        if !more.is_empty() {
            let gap = if self.manual { " · " } else { "" };
            _ = write!(words, "{gap}{more}");
        }
        Line::ink(GREY, words)
    }

    fn content(&self, show: &Show, cols: usize) -> Vec<Line> {
        let mut rows = vec![
            Line::default(),
            Line::ink(ORANGE, " ▐▛███▛█").then("1", "   Claude Code").then(GREY, " v2.1.329"),
            Line::ink(ORANGE, "▝▜██████▀").then(GREY, "  Opus 5.5 · API Usage Billing"),
            Line::ink(ORANGE, " ▝▝   ▝▝ ").then(GREY, format!("  {}", self.cwd.display())),
            Line::default(),
        ];
        let width = cols.saturating_sub(4);
        for (n, item) in show.items.iter().enumerate() {
            item_rows(item, n, width, &mut rows);
        }
        for queued in &show.queued {
            rows.push(Line::default());
            rows.push(Line::plain(format!("❯ {queued}")));
            rows.push(Line::ink(GREY, "  ⎿  Queued · ctrl+x ctrl+s to send now"));
        }
        rows
    }
}

/// A block that begins with a mark; the rest of it is indented.
fn hanging(rows: &mut Vec<Line>, width: usize, mark: &str, text: &str) {
    rows.push(Line::default());
    for (i, row) in wrap(text, width).into_iter().enumerate() {
        rows.push(Line::plain(if i == 0 { format!("{mark} {row}") } else { format!("  {row}") }));
    }
}

fn item_rows(item: &Item, n: usize, width: usize, rows: &mut Vec<Line>) {
    match item {
        Item::Prompt(text) => hanging(rows, width, "❯", text),
        Item::Text(text) => hanging(rows, width, "●", &drawn(text)),
        Item::Notice(text) => hanging(rows, width, "●", text),
        Item::Tool(run, None) => {
            hanging(rows, width, "●", &about(run));
            rows.push(Line::ink(GREY, format!("  ⎿  $ {}", run.run)));
        }
        Item::Tool(_, Some(ran)) => {
            let failed = if ran.code == 0 { "" } else { " · 1 failed" };
            rows.push(Line::default());
            rows.push(Line::ink(GREY, format!("  Ran 1 shell command{failed}")));
        }
        Item::Refused(run) => {
            rows.push(Line::default());
            rows.push(Line::ink(GREY, "  Did not run 1 call"));
            rows.push(Line::ink(GREY, format!("  ⎿  $ {}", run.run)));
        }
        Item::Allowed(_) => {}
        Item::Answered(question, answer) => {
            hanging(rows, width, "●", "Answered Claude's questions:");
            rows.push(Line::ink(GREY, format!("  ⎿  · {question} → {answer}")));
        }
        Item::Failed(failure) if failure.status == 401 => {
            rows.push(Line::ink("38;5;211", format!("  ⎿  {}", words(failure))));
        }
        Item::Failed(failure) => hanging(rows, width, "●", &words(failure)),
        Item::Limited(limit) => {
            rows.push(Line::ink("38;5;211", format!("  ⎿  {}", limit_words(&limit.resets))));
            rows.push(Line::ink(GREY, "     /upgrade to increase your usage limit."));
            let at = limit.resets.split(' ').next().unwrap_or_default();
            hanging(
                rows,
                width,
                "●",
                &format!("Usage limit reached · continuing automatically at {at} · esc to cancel"),
            );
        }
        Item::Interrupted => rows.push(Line::ink(GREY, "  ⎿  Interrupted · What should Claude do instead?")),
        Item::Worked(seconds, at) => {
            let at = at.split('|').next().unwrap_or_default();
            rows.push(Line::default());
            rows.push(Line::ink(GREY, format!("✻ {} for {seconds}s · done {at}", PAST[n % PAST.len()])));
        }
    }
}

fn about(run: &super::script::Run) -> String {
    if run.about.is_empty() { "Run the command".into() } else { run.about.clone() }
}

fn limit_words(resets: &str) -> String {
    format!("You've hit your limit · resets {resets}")
}

fn words(failure: &Failure) -> String {
    match failure.status {
        401 => "Invalid API key · Fix external API key".into(),
        429 => "API Error: Request rejected (429) · You have reached your usage limit.".into(),
        500 => "API Error: 500 Internal server error. This is a server-side issue, usually temporary — try again in a moment.".into(),
        status => format!("API Error: {status} The request failed."),
    }
}

/// The hooks of a `--settings` value: a file or JSON.
fn hooks(settings: Option<&str>) -> Value {
    let Some(text) = settings else { return Value::Null };
    let text = if text.trim_start().starts_with('{') {
        text.to_owned()
    } else {
        std::fs::read_to_string(text).unwrap_or_default()
    };
    serde_json::from_str::<Value>(&text).map(|mut v| v["hooks"].take()).unwrap_or_default()
}

impl Face for Claude {
    fn moves(&self) -> Moves {
        Moves::Relative
    }

    fn open(&mut self) -> String {
        self.hook("SessionStart", None, json!({"source": "startup", "model": "claude-opus-5-5"}));
        "\x1b7\x1b[r\x1b8\x1b[?25h\x1b[?2004h\x1b[?2031h\x1b[?1004h\x1b]0;✳ Claude Code\x07".into()
    }

    fn screen(&mut self) -> String {
        let keyboard = if self.in_tmux { "\x1b[<u\x1b[>5u\x1b[>4;2m" } else { "" };
        if self.alternate {
            format!("\x1b[?1049h\x1b[2J\x1b[H{keyboard}\x1b[?1000h\x1b[?1002h\x1b[?1003h\x1b[?1006h\x1b[?25l")
        } else {
            format!("\x1b[2J\x1b[H{keyboard}\x1b[?25l")
        }
    }

    fn probe(&mut self) -> String {
        self.probe = Probe::Asked;
        "\x1b[>0q\x1b[?u\x1b]7501;?\x07\x1b[c".into()
    }

    fn reply(&mut self, reply: Reply) -> String {
        match (reply, self.probe) {
            // Only a reply that comes before the round is closed counts.
            (Reply::Status, Probe::Asked) => self.closes_round = true,
            (Reply::Attributes, Probe::Asked) => {
                self.status |= self.closes_round;
                self.probe = Probe::SecondRound;
                return "\x1b[?2026$p\x1b[c".into();
            }
            (Reply::Attributes, Probe::SecondRound) => self.probe = Probe::Over,
            _ => {}
        }
        String::new()
    }

    fn probed(&self) -> bool {
        self.probe == Probe::Over
    }

    fn tell(&mut self, moment: &Moment<'_>) -> String {
        match moment {
            Moment::Ready => {
                // Without a terminal that answers, patience closes the round.
                self.status |= self.closes_round;
                self.probe = Probe::Over;
                let title = if self.status { "\x1b]0;Claude Code\x07" } else { "" };
                self.state("idle", None) + title
            }
            Moment::Trust => self.state("blocked:kind=permission", Some("trust this folder")),
            Moment::Taken { prompt } => {
                self.prompt_id = uuid::Uuid::new_v4().to_string();
                self.transcript.prompt(&self.prompt_id, prompt);
                self.hook("UserPromptSubmit", None, json!({"prompt": prompt}));
                self.state("working", None) + &self.title("◐ Claude Code")
            }
            Moment::ToolStarts { run } => {
                self.tools += 1;
                self.hook("PreToolUse", Some("Bash"), self.tool_fields(run));
                self.state("working", Some(&about(run)))
            }
            Moment::Permission { run } => {
                self.hook("PermissionRequest", Some("Bash"), self.tool_fields(run));
                self.state("blocked:kind=permission", Some(&format!("approve Bash: {}", run.run)))
                    + &self.title("✳ Claude Code")
            }
            Moment::Question { asked } => {
                self.tools += 1;
                let options: Vec<Value> =
                    asked.options.iter().map(|o| json!({"label": o, "description": format!("Use {o}")})).collect();
                let input = json!({"questions": [{"question": asked.text, "header": asked.header, "options": options, "multiSelect": false}]});
                let fields = json!({"tool_name": "AskUserQuestion", "tool_input": input, "tool_use_id": format!("toolu_{:04}", self.tools)});
                self.hook("PreToolUse", Some("AskUserQuestion"), fields.clone());
                self.hook("PermissionRequest", Some("AskUserQuestion"), fields);
                let text = format!("answer: {} ({})", asked.text, asked.options.join(" · "));
                self.state("blocked:kind=question", Some(&text)) + &self.title("✳ Claude Code")
            }
            Moment::Goes => self.state("working", None),
            Moment::Chosen { asked, answer } => {
                let fields = json!({
                    "tool_name": "AskUserQuestion",
                    "tool_input": {"questions": [{"question": asked.text, "header": asked.header}]},
                    "tool_response": {"answers": {asked.text.as_str(): answer}},
                    "tool_use_id": format!("toolu_{:04}", self.tools),
                });
                self.hook("PostToolUse", Some("AskUserQuestion"), fields);
                self.state("working", None)
            }
            Moment::ToolEnds { run, ran } => {
                let mut fields = self.tool_fields(run);
                fields["duration_ms"] = json!(ran.ms);
                if ran.code == 0 {
                    fields["tool_response"] = json!({"stdout": ran.output, "stderr": "", "interrupted": false});
                    self.hook("PostToolUse", Some("Bash"), fields);
                } else {
                    fields["error"] = json!(format!("Exit code {}\n{}", ran.code, ran.output));
                    fields["is_interrupt"] = json!(false);
                    self.hook("PostToolUseFailure", Some("Bash"), fields);
                }
                String::new()
            }
            Moment::Said { text } => {
                self.transcript.said(text, "end_turn");
                self.hook("MessageDisplay", None, json!({"index": 0, "final": true, "delta": text}));
                String::new()
            }
            Moment::Done { answer, .. } => {
                self.transcript.ended();
                self.hook(
                    "Stop",
                    None,
                    json!({"stop_hook_active": false, "last_assistant_message": answer, "background_tasks": [], "session_crons": []}),
                );
                self.state("done", None) + &self.title("✳ Claude Code")
            }
            Moment::Failed { failure } => {
                let (error, state) = match failure.status {
                    401 => ("authentication_failed", "blocked:kind=auth"),
                    429 => ("rate_limit", "error"),
                    _ => ("server_error", "error"),
                };
                let text = words(failure);
                self.transcript.failed(failure.status, &text);
                self.hook("StopFailure", None, json!({"error": error, "last_assistant_message": text}));
                self.state(state, Some(&text)) + &self.title("✳ Claude Code")
            }
            Moment::Limited { limit } => {
                let text = limit_words(&limit.resets);
                self.transcript.failed(429, &text);
                self.hook("StopFailure", None, json!({"error": "rate_limit", "last_assistant_message": text}));
                self.state("error", Some(&text)) + &self.title("✳ Claude Code")
            }
            Moment::Interrupted => {
                self.transcript.interrupted(&self.prompt_id);
                self.state("idle", None) + &self.title("✳ Claude Code")
            }
            Moment::Spin(step) if step % 8 == 0 => {
                self.title(if step % 16 == 0 { "◐ Claude Code" } else { "◑ Claude Code" })
            }
            Moment::Spin(_) | Moment::Touched => String::new(),
            Moment::Left => {
                self.hook("SessionEnd", None, json!({"reason": "prompt_input_exit"}));
                String::new()
            }
        }
    }

    fn draw(&self, show: &Show, cols: usize, rows: usize) -> Frame {
        let mut frame = Frame::blank(rows);
        if let Some(Menu { of: MenuOf::Trust, selected }) = &show.menu {
            draw_trust(&mut frame, *selected, cols, &self.cwd.display().to_string());
            return frame;
        }
        let rule = || Line::ink(RULE, "─".repeat(cols));
        let mut content = self.content(show, cols);
        if let Some(menu) = &show.menu {
            let (block, cursor) = menu_block(menu, cols);
            content.push(Line::default());
            let at = content.len();
            content.extend(block);
            let skip = content.len().saturating_sub(rows);
            for (row, line) in content.into_iter().skip(skip).enumerate() {
                frame.put(row, line);
            }
            frame.cursor = ((at + cursor.0).saturating_sub(skip), cursor.1);
            return frame;
        }
        // From the bottom up: footer, notices, rule, input, rule, effort, spinner.
        let input = input_lines(&show.input, cols);
        let shown = input.len().min(rows / 2);
        let notices = if show.limited.is_some() { 2 } else { 0 };
        let footer = rows - 1;
        let below = footer - notices - 1;
        let first = below - shown;
        let above = first - 1;
        frame.put(footer, self.footer(show));
        if let Some(resets) = &show.limited {
            let at = resets.split(' ').next().unwrap_or_default();
            frame.put(footer - 2, Line::ink("38;5;214", format!("  ⚠ Usage limit reached · limit resets {at}")));
            frame.put(footer - 1, Line::ink(GREY, format!("    Continuing automatically at {at} · Esc to cancel")));
        }
        frame.put(below, rule());
        frame.put(above, rule());
        let effort = "◐ medium · /effort";
        frame.put(above - 1, Line::ink(GREY, format!("{}{effort}", " ".repeat(cols.saturating_sub(20)))));
        let hint = if show.queued.is_empty() { show.hint } else { Some("Press up to edit queued messages") };
        for (i, line) in input.iter().rev().take(shown).rev().enumerate() {
            let mark = if i == 0 { "❯\u{a0}" } else { "  " };
            let drawn = match (line.is_empty() && show.input.is_empty(), hint) {
                (true, Some(hint)) => Line::plain(mark).then(GREY, hint),
                _ => Line::plain(format!("{mark}{line}")),
            };
            frame.put(first + i, drawn);
        }
        let last = input.last().map_or(0, |l| l.chars().count());
        frame.cursor = (below - 1, 2 + last);
        let mut room = above - 1;
        if let Some(busy) = &show.busy {
            room = above - 3;
            frame.put(above - 2, busy_line(busy));
        }
        let skip = content.len().saturating_sub(room);
        for (row, line) in content.into_iter().skip(skip).enumerate() {
            frame.put(row, line);
        }
        frame
    }

    fn choices(&self, menu: &MenuOf) -> usize {
        match menu {
            MenuOf::Trust => 2,
            MenuOf::Permission(_) => 4,
            MenuOf::Question(asked) => asked.options.len() + 2,
        }
    }

    fn choice(&self, menu: &MenuOf, index: usize) -> Choice {
        match menu {
            MenuOf::Trust if index == 1 => Choice::Yes,
            MenuOf::Trust => Choice::No,
            MenuOf::Permission(_) if index < 3 => Choice::Yes,
            MenuOf::Permission(_) => Choice::No,
            MenuOf::Question(asked) => asked.options.get(index).cloned().map_or(Choice::No, Choice::Answer),
        }
    }

    fn close(&mut self) -> String {
        let clear = if self.status { "\x1b]7501;state=clear\x07" } else { "" };
        let screen = if self.alternate { "\x1b[?1049l" } else { "" };
        format!(
            "\x1b[?1006l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?25h\x1b[?1004l\x1b[<u{screen}\x1b[>4m\x1b[?2031l\x1b[?2004l\x1b(B\x0f\x1b[?7h\x1b[?25h\x1b7\x1b[r\x1b8{clear}{clear}\x1b]0;\x07"
        )
    }

    fn farewell(&self) -> String {
        let args: String = self.args.iter().take_while(|a| !a.starts_with("--s")).map(|a| format!("{a} ")).collect();
        format!(
            "\r\n\x1b[2mResume this session with:\x1b[22m\r\n\x1b[2mclaude {args}--resume {}\x1b[22m\r\n",
            self.conversation
        )
    }

    fn habits(&self) -> Habits {
        Habits { burst_is_paste: false, handles_term: true, takes_back: true, queues: true, leaves_after: 2 }
    }

    fn hint_after(&self, failure: &Failure) -> Option<&'static str> {
        Some(if failure.status == 401 { "Once fixed, resend your message" } else { "Resend your message to try again" })
    }

    fn words(&self, failure: &Failure) -> String {
        words(failure)
    }

    fn unknown_command(&self, _text: &str) -> Option<String> {
        None
    }
}

fn busy_line(busy: &super::show::Busy) -> Line {
    let glyph = SPINNER[busy.step % SPINNER.len()];
    let line = Line::ink(ORANGE, glyph.to_string());
    if let Some(retry) = &busy.retry {
        let what = retry.trim_start_matches("API Error: ").split(['.', '·']).next().unwrap_or_default().trim();
        return line.then(GREY, format!(" {what} · retrying in 1s · attempt 1/2"));
    }
    let seconds = busy.since.elapsed().as_secs();
    let line = line.then(ORANGE, format!(" {}…", WORDS[busy.since.elapsed().as_secs() as usize / 60 % WORDS.len()]));
    if busy.streaming || seconds > 2 {
        line.then(GREY, format!(" ({seconds}s · ↓ {} tokens)", busy.step * 2))
    } else {
        line
    }
}

fn input_lines(input: &str, cols: usize) -> Vec<String> {
    let lines = input.matches('\n').count();
    if lines > LABELLED {
        return vec![format!("[Pasted text #1 +{lines} lines]")];
    }
    wrap(input, cols.saturating_sub(4))
}

/// The rows of a menu, and the cursor within them.
fn menu_block(menu: &Menu, cols: usize) -> (Vec<Line>, (usize, usize)) {
    let mut rows = vec![Line::ink(BLUE, "─".repeat(cols))];
    let mut cursor = (0, 0);
    match &menu.of {
        MenuOf::Permission(run) => {
            let dots = || Line::ink("38;5;239", "╌".repeat(cols));
            rows.push(Line::ink(BLUE, " Bash command"));
            rows.push(Line::ink(GREY, format!(" {}", about(run))));
            rows.push(dots());
            rows.extend(run.run.lines().map(|l| Line::plain(format!(" {l}"))));
            rows.push(dots());
            rows.push(Line::plain(" Do you want to proceed?"));
            let options = [
                "Yes",
                "Yes, and always allow access to this folder from this project",
                "Yes, and switch to auto mode · auto mode handles these prompts for you",
                "No",
            ];
            for (i, option) in options.iter().enumerate() {
                let mark = if i == menu.selected { "❯" } else { " " };
                if i == menu.selected {
                    cursor = (rows.len(), 1);
                }
                rows.push(Line::plain(format!(" {mark} {}. {option}", i + 1)));
            }
            rows.push(Line::default());
            rows.push(Line::ink(GREY, " Esc to cancel · Tab to amend"));
        }
        MenuOf::Question(asked) => {
            rows.push(Line::plain(format!(" ☐ {}", asked.header)));
            rows.push(Line::default());
            rows.push(Line::plain(asked.text.clone()));
            rows.push(Line::default());
            let mark = |i: usize| if i == menu.selected { "❯" } else { " " };
            for (i, option) in asked.options.iter().enumerate() {
                if i == menu.selected {
                    cursor = (rows.len(), 0);
                }
                rows.push(Line::plain(format!("{} {}. {option}", mark(i), i + 1)));
                rows.push(Line::ink(GREY, format!("     Use {option}")));
            }
            let n = asked.options.len();
            for (i, words) in [(n, "Type something."), (n + 1, "Chat about this")] {
                if i == n + 1 {
                    rows.push(Line::ink(RULE, "─".repeat(cols)));
                }
                if i == menu.selected {
                    cursor = (rows.len(), 0);
                }
                rows.push(Line::plain(format!("{} {}. {words}", mark(i), i + 1)));
            }
            rows.push(Line::default());
            rows.push(Line::ink(GREY, "Enter to select · ↑/↓ to navigate · Esc to cancel"));
        }
        MenuOf::Trust => {}
    }
    (rows, cursor)
}

fn draw_trust(frame: &mut Frame, selected: usize, cols: usize, cwd: &str) {
    let mark = |i: usize| if i == selected { "❯" } else { " " };
    let rows = [
        (1, "─".repeat(cols)),
        (2, " Accessing workspace:".into()),
        (4, format!(" {cwd}")),
        (6, " Quick safety check: Is this a project you created or one you trust?".into()),
        (9, " Claude Code'll be able to read, edit, and execute files here.".into()),
        (13, format!(" {} No, exit", mark(0))),
        (14, format!(" {} Yes, I trust this folder", mark(1))),
        (16, " Enter to confirm · Esc to cancel".into()),
    ];
    for (row, text) in rows {
        frame.put(row, Line::plain(text));
    }
    frame.cursor = (13 + selected, 1);
}
