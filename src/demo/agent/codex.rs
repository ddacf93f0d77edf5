//! The codex dialect: Codex CLI 0.169 as recorded.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Setting;
use super::canvas::{Frame, Line, Moves, wrap};
use super::keys::Reply;
use super::record::Transcript;
use super::reports::{Call, Reports};
use super::script::{Failure, Run};
use super::show::{Choice, Face, Habits, Item, Menu, MenuOf, Moment, Show, drawn};

const DIM: &str = "2";
const BOLD: &str = "1";
const BRAILLE: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// The dialect's own state.
pub(super) struct Codex {
    thread: String,
    turn: String,
    cwd: PathBuf,
    folder: String,
    alternate: bool,
    in_tmux: bool,
    config: toml::Table,
    reports: Reports,
    rollout: Transcript,
    prompted: bool,
    probed: bool,
    /// Told unfocused by the terminal: then it rings.
    unfocused: bool,
    /// The last turn is over: the next key or focus makes it idle.
    over: bool,
    calls: u64,
}

impl Codex {
    pub(super) fn new(setting: &Setting) -> Self {
        let thread = uuid::Uuid::new_v4().to_string();
        let folder = setting.cwd.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            rollout: Transcript::codex(&thread, &setting.cwd),
            thread,
            turn: String::new(),
            cwd: setting.cwd.clone(),
            folder,
            alternate: !setting.args.iter().any(|a| a == "--no-alt-screen"),
            in_tmux: std::env::var_os("TMUX").is_some(),
            config: config(&setting.args),
            reports: Reports::new(setting.cwd.clone()),
            prompted: false,
            probed: false,
            unfocused: false,
            over: false,
            calls: 0,
        }
    }

    fn hook(&self, event: &str, fields: Value) {
        let groups = self.config.get("hooks").and_then(|h| h.get(event)).and_then(toml::Value::as_array);
        let mut payload = json!({
            "session_id": self.thread,
            "turn_id": self.turn,
            "transcript_path": self.rollout.path(),
            "cwd": self.cwd,
            "hook_event_name": event,
            "model": "gpt-5",
            "permission_mode": "default",
        });
        if let (Some(all), Value::Object(more)) = (payload.as_object_mut(), fields) {
            all.extend(more);
        }
        let hooks = groups.into_iter().flatten().filter_map(|g| g.get("hooks")?.as_array()).flatten();
        for line in hooks.filter_map(|h| h.get("command")?.as_str()) {
            self.reports.call(Call::Hook { line: line.to_owned(), payload: payload.to_string() });
        }
    }

    fn notify(&self, turn: &str, thread: &str, prompt: &str, answer: &str) {
        let Some(argv) = self.config.get("notify").and_then(toml::Value::as_array) else { return };
        let argv = argv.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        let payload = json!({
            "type": "agent-turn-complete",
            "thread-id": thread,
            "turn-id": turn,
            "cwd": self.cwd,
            "client": "codex-tui",
            "input-messages": [prompt],
            "last-assistant-message": answer,
        });
        self.reports.call(Call::Notify { argv, payload: payload.to_string() });
    }

    fn event(&mut self, kind: &str, mut payload: Value) {
        payload["type"] = json!(kind);
        payload["turn_id"] = json!(self.turn);
        self.rollout.rollout("event_msg", payload);
    }

    fn item(&mut self, item: &Value) {
        let thread = self.thread.clone();
        self.event("item_completed", json!({"thread_id": thread, "item": item}));
    }

    fn title(&self, mark: &str) -> String {
        let session = if self.prompted { "Demo session | " } else { "" };
        let gap = if mark.is_empty() { "" } else { " " };
        format!("\x1b]0;{mark}{gap}{session}{}\x07", self.folder)
    }

    fn bell(&self) -> &'static str {
        if self.unfocused { "\x07" } else { "" }
    }

    fn content(&self, show: &Show, cols: usize) -> Vec<Line> {
        let mut rows = vec![
            Line::default(),
            Line::ink(DIM, "  >_ ").then(BOLD, "OpenAI Codex").then(DIM, " (v0.169.0)"),
            Line::ink(DIM, format!("     {}", self.cwd.display())),
            Line::default(),
        ];
        for item in &show.items {
            item_rows(item, cols.saturating_sub(2), &mut rows);
        }
        rows
    }
}

fn state(state: &str) -> String {
    format!("\x1b]7501;state={state}\x1b\\")
}

/// The user's configuration file and the `-c key=value` arguments over it.
fn config(args: &[String]) -> toml::Table {
    let home = std::env::var_os("CODEX_HOME").map(PathBuf::from);
    let file = home.map(|h| h.join("config.toml")).and_then(|p| std::fs::read_to_string(p).ok());
    let mut table: toml::Table = file.and_then(|t| t.parse().ok()).unwrap_or_default();
    for (i, arg) in args.iter().enumerate() {
        let given = match arg.as_str() {
            "-c" | "--config" => args.get(i + 1).map(String::as_str),
            other => other.strip_prefix("--config="),
        };
        let Some((key, value)) = given.and_then(|g| g.split_once('=')) else { continue };
        let Some(value) = format!("x = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("x")) else {
            continue;
        };
        set(&mut table, key.trim(), value);
    }
    table
}

fn set(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => _ = table.insert(key.to_owned(), value),
        Some((head, rest)) => {
            let inner = table.entry(head.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

fn item_rows(item: &Item, width: usize, rows: &mut Vec<Line>) {
    let mut hanging = |mark: &str, text: &str| {
        rows.push(Line::default());
        for (i, row) in wrap(text, width.saturating_sub(2)).into_iter().enumerate() {
            rows.push(Line::plain(if i == 0 { format!("{mark} {row}") } else { format!("  {row}") }));
        }
    };
    match item {
        Item::Prompt(text) => {
            hanging("›", text);
            rows.push(Line::default());
        }
        Item::Text(text) => hanging("•", &drawn(text)),
        Item::Notice(text) => hanging("•", text),
        Item::Tool(run, None) => hanging("•", &format!("Running {}", run.run)),
        Item::Tool(run, Some(ran)) => {
            let what = if ran.code == 0 {
                format!("Ran {}", run.run)
            } else {
                format!("Exited (status {}) {}", ran.code, run.run)
            };
            hanging("•", &what);
            let output = if ran.output.is_empty() { "(no output)" } else { &ran.output };
            for (i, line) in output.lines().enumerate() {
                rows.push(Line::ink(DIM, format!("{}{line}", if i == 0 { "  └ " } else { "    " })));
            }
        }
        Item::Allowed(run) => hanging("✔", &format!("You approved codex to run {} this time", run.run)),
        Item::Refused(run) => hanging("✗", &format!("You canceled the request to run {}", run.run)),
        Item::Answered(question, answer) => hanging("•", &format!("{question} → {answer}")),
        Item::Failed(failure) => hanging("■", &words(failure)),
        Item::Limited(limit) => hanging("■", &limit_words(&limit.resets)),
        Item::Interrupted => hanging("■", "Conversation interrupted - use /feedback if something went wrong"),
        Item::Worked(seconds, at) => {
            let at = at.split('|').nth(1).unwrap_or_default();
            let took = if *seconds == 0 { "<1s".to_owned() } else { format!("{seconds}s") };
            rows.push(Line::default());
            rows.push(Line::ink(DIM, format!("  Worked for {took} • {at}")));
        }
    }
}

fn limit_words(resets: &str) -> String {
    format!(
        "You’ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro), visit https://chatgpt.com/settings/usage to purchase more credits or try again at {resets}."
    )
}

fn words(failure: &Failure) -> String {
    match failure.status {
        401 => "unexpected status 401 Unauthorized: invalid x-api-key, url: http://127.0.0.1:8089/v1/responses".into(),
        429 => "exceeded retry limit, last status: 429 Too Many Requests".into(),
        500 => "We’re currently experiencing high demand, which may cause temporary errors.".into(),
        status => format!("unexpected status {status}"),
    }
}

impl Face for Codex {
    fn moves(&self) -> Moves {
        Moves::Absolute
    }

    fn open(&mut self) -> String {
        let keyboard = if self.in_tmux { "\x1b[>4;0m\x1b[>5u" } else { "\x1b[>7u" };
        format!("\x1b[?2004h{keyboard}\x1b[?1004h\x1b[?u\x1b[c\x1b[6n\x1b]10;?\x1b\\\x1b]11;?\x1b\\")
    }

    fn screen(&mut self) -> String {
        let screen = if self.alternate { "\x1b[?1049h" } else { "" };
        let mouse =
            if self.in_tmux { "\x1b[?1007h" } else { "\x1b[?1000h\x1b[?1002h\x1b[?1003h\x1b[?1006h\x1b[?1007l" };
        format!("\x1b[?2026h\x1b[?25l{screen}{mouse}\x1b[1;1H\x1b[J\x1b[?2026l")
    }

    fn probe(&mut self) -> String {
        String::new()
    }

    fn reply(&mut self, reply: Reply) -> String {
        match reply {
            Reply::Attributes => self.probed = true,
            Reply::Focus(on) => self.unfocused = !on,
            _ => {}
        }
        String::new()
    }

    fn probed(&self) -> bool {
        self.probed
    }

    fn tell(&mut self, moment: &Moment<'_>) -> String {
        match moment {
            // The start shows a moment of work that is no turn.
            Moment::Ready => {
                format!(
                    "{}{}{}{}{}",
                    self.title(""),
                    state("idle:app=codex"),
                    state("working:app=codex"),
                    self.title("⠙"),
                    self.title("")
                ) + &state("idle:app=codex")
            }
            Moment::Trust => String::new(),
            Moment::Taken { prompt } => {
                if !self.prompted {
                    let meta = json!({"id": self.thread, "session_id": self.thread, "cwd": self.cwd, "originator": "codex-tui",
                        "cli_version": "0.169.0", "source": "cli", "thread_source": "user"});
                    self.rollout.rollout("session_meta", meta);
                    self.hook("SessionStart", json!({"source": "startup"}));
                    // The title is made by a hidden thread of its own, which notifies too.
                    let ask = format!("Generate a concise, single-line task title for: {prompt}");
                    self.notify(
                        &uuid::Uuid::new_v4().to_string(),
                        &uuid::Uuid::new_v4().to_string(),
                        &ask,
                        "Demo session",
                    );
                }
                self.prompted = true;
                self.over = false;
                self.turn = uuid::Uuid::new_v4().to_string();
                self.event("task_started", json!({}));
                self.item(&json!({"type": "UserMessage", "content": [{"type": "text", "text": prompt}]}));
                self.hook("UserPromptSubmit", json!({"prompt": prompt}));
                state("working:app=codex") + &self.title("⠋")
            }
            Moment::ToolStarts { run } => {
                self.calls += 1;
                self.hook("PreToolUse", tool_fields(run, self.calls));
                String::new()
            }
            Moment::Permission { run } => {
                self.hook("PermissionRequest", tool_fields(run, self.calls));
                state("blocked:app=codex:kind=permission") + self.bell() + &self.title("[ ! ] Action Required |")
            }
            Moment::Question { .. } => state("blocked:app=codex:kind=question") + self.bell(),
            Moment::Goes | Moment::Chosen { .. } => state("working:app=codex") + &self.title("⠧"),
            Moment::ToolEnds { run, ran } => {
                let mut fields = tool_fields(run, self.calls);
                fields["tool_response"] = json!(format!("{}\n", ran.output));
                self.hook("PostToolUse", fields);
                self.item(&json!({"type": "CommandExecution", "id": format!("call_{}", self.calls), "command": ["/bin/bash", "-lc", run.run],
                    "status": if ran.code == 0 { "completed" } else { "failed" },
                    "aggregated_output": ran.output, "exit_code": ran.code}));
                String::new()
            }
            Moment::Said { text } => {
                self.item(&json!({"type": "AgentMessage", "content": [{"type": "Text", "text": text}]}));
                String::new()
            }
            Moment::Done { prompt, answer } => {
                self.over = true;
                self.event("task_complete", json!({"last_agent_message": answer}));
                self.hook("Stop", json!({"stop_hook_active": false, "last_assistant_message": answer}));
                self.notify(&self.turn, &self.thread, prompt, answer);
                self.title("") + &state("done:app=codex") + self.bell()
            }
            Moment::Failed { .. } | Moment::Limited { .. } => {
                self.over = true;
                self.title("") + &state("error:app=codex")
            }
            Moment::Interrupted => {
                self.event("turn_aborted", json!({"reason": "interrupted"}));
                self.hook("Interrupt", json!({}));
                self.title("") + &state("idle:app=codex")
            }
            Moment::Touched if self.over => {
                self.over = false;
                state("idle:app=codex")
            }
            Moment::Touched => String::new(),
            Moment::Spin(step) => self.title(&BRAILLE[step % BRAILLE.len()].to_string()),
            Moment::Left => {
                self.hook("SessionEnd", json!({"reason": "other"}));
                String::new()
            }
        }
    }

    fn draw(&self, show: &Show, cols: usize, rows: usize) -> Frame {
        let mut frame = Frame::blank(rows);
        let content = self.content(show, cols);
        let room;
        if let Some(menu) = &show.menu {
            let (block, cursor) = menu_block(menu);
            let first = rows.saturating_sub(block.len());
            for (i, line) in block.into_iter().enumerate() {
                frame.put(first + i, line);
            }
            frame.cursor = (first + cursor, 0);
            room = first.saturating_sub(1);
        } else {
            let input = wrap(&show.input, cols.saturating_sub(3));
            let shown = input.len().min(rows / 2);
            let first = rows - 3 - shown;
            for (i, line) in input.iter().rev().take(shown).rev().enumerate() {
                let mark = if i == 0 { "› " } else { "  " };
                let text = Line::ink(BOLD, mark);
                let empty = show.input.is_empty();
                frame.put(
                    first + i,
                    if empty { text.then(DIM, "Ask Codex to do anything") } else { text.then("", line.clone()) },
                );
            }
            let session = if self.prompted { " · Demo session" } else { "" };
            frame.put(rows - 2, Line::plain(format!("  gpt-5 default · {}{session}", self.cwd.display())));
            if show.input.is_empty() {
                frame.put(rows - 1, Line::plain("  ← for agents · ? for shortcuts"));
            }
            let last = input.last().map_or(0, |l| l.chars().count());
            frame.cursor = (rows - 4, 2 + last);
            room = first.saturating_sub(4);
            if let Some(busy) = show.busy.as_ref().filter(|b| !b.streaming) {
                let seconds = busy.since.elapsed().as_secs();
                let what = if busy.retry.is_some() { "Reconnecting... 1/2" } else { "Working" };
                frame.put(
                    first.saturating_sub(3),
                    Line::ink(BOLD, "•").then(DIM, format!(" {what} ({seconds}s • esc to interrupt)")),
                );
                if let Some(retry) = &busy.retry {
                    frame.put(first.saturating_sub(2), Line::ink(DIM, format!("  └ {retry}")));
                }
            }
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
            MenuOf::Permission(_) => 3,
            MenuOf::Question(asked) => asked.options.len(),
        }
    }

    fn choice(&self, menu: &MenuOf, index: usize) -> Choice {
        match menu {
            MenuOf::Trust if index == 0 => Choice::Yes,
            MenuOf::Permission(_) if index < 2 => Choice::Yes,
            MenuOf::Question(asked) => asked.options.get(index).cloned().map_or(Choice::No, Choice::Answer),
            _ => Choice::No,
        }
    }

    fn close(&mut self) -> String {
        let idle = if std::mem::take(&mut self.over) { state("idle:app=codex") } else { String::new() };
        let screen = if self.alternate { "\x1b[?1049l" } else { "" };
        let clear = state("clear");
        format!(
            "{idle}\x1b]0;\x07\x1b[?1006l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[<u\x1b[?1004l\x1b[?2004l{screen}\x1b[?25h{clear}"
        )
    }

    fn farewell(&self) -> String {
        format!("To continue this session, run:\r\n  codex resume {}\r\n", self.thread)
    }

    fn habits(&self) -> Habits {
        Habits { burst_is_paste: true, handles_term: false, takes_back: false, queues: false, leaves_after: 1 }
    }

    fn hint_after(&self, _failure: &Failure) -> Option<&'static str> {
        None
    }

    fn words(&self, failure: &Failure) -> String {
        words(failure)
    }

    fn unknown_command(&self, text: &str) -> Option<String> {
        Some(format!("Unrecognized command '{}'", text.split(' ').next().unwrap_or_default()))
    }
}

fn tool_fields(run: &Run, call: u64) -> Value {
    json!({"tool_name": "Bash", "tool_input": {"command": run.run}, "tool_use_id": format!("call_{call}")})
}

/// The rows at the bottom of the screen, and the selected one.
fn menu_block(menu: &Menu) -> (Vec<Line>, usize) {
    let (title, detail, options): (String, Vec<String>, Vec<String>) = match &menu.of {
        MenuOf::Permission(run) => {
            let head = run.run.split(' ').take(2).collect::<Vec<_>>().join(" ");
            (
                "Would you like to run the following command?".into(),
                vec!["Environment: local".into(), format!("Reason: {}", run.about), format!("$ {}", run.run)],
                vec![
                    "Yes, proceed (y)".into(),
                    format!("Yes, and don't ask again for commands that start with `{head}` (p)"),
                    "No, and tell Codex what to do differently (esc)".into(),
                ],
            )
        }
        MenuOf::Question(asked) => (asked.text.clone(), Vec::new(), asked.options.clone()),
        MenuOf::Trust => (
            "Do you trust the contents of this directory?".into(),
            Vec::new(),
            vec!["Yes, continue".into(), "No, quit".into()],
        ),
    };
    let mut rows = vec![Line::plain(format!("  {title}")), Line::default()];
    for line in detail {
        rows.extend([Line::plain(format!("  {line}")), Line::default()]);
    }
    let mut cursor = 0;
    for (i, option) in options.iter().enumerate() {
        let mark = if i == menu.selected { "›" } else { " " };
        if i == menu.selected {
            cursor = rows.len();
        }
        rows.push(Line::plain(format!("{mark} {}. {option}", i + 1)));
    }
    rows.extend([Line::default(), Line::ink(DIM, "  Press enter to confirm or esc to cancel")]);
    (rows, cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_arguments_override_the_file_key_by_key() {
        let args: Vec<String> =
            ["-c", "notify=[\"prog\", \"a\"]", "-c", "hooks.Stop=[{hooks=[{type=\"command\",command=\"x\"}]}]"]
                .map(str::to_owned)
                .into();
        let table = config(&args);
        assert_eq!(table["notify"].as_array().unwrap().len(), 2);
        assert_eq!(table["hooks"]["Stop"][0]["hooks"][0]["command"].as_str(), Some("x"));
    }
}
