//! One prompt, one structured answer: `claude -p --output-format stream-json` and `codex exec --json` as recorded.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ledger::Fact;
use super::script::{Failure, Run, Step};
use super::tool::{Ran, Tool};
use super::{Setting, last_flag};

/// Looking at a running command or an awaited file this often is enough where no screen waits.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn wanted_claude(args: &[String]) -> bool {
    args.iter().any(|a| a == "-p" || a == "--print")
}

pub(super) fn wanted_codex(args: &[String]) -> bool {
    args.first().is_some_and(|a| a == "exec")
}

/// Prints one structured line.
fn line(value: &Value) {
    println!("{value}");
}

/// What a dialect prints while the steps are played.
trait Stream {
    fn tool_starts(&mut self, run: &Run);
    fn tool_ends(&mut self, run: &Run, ran: &Ran);
    fn refused(&mut self, run: &Run);
    fn says(&mut self, text: &str);
    fn retries(&mut self, failure: &Failure);
}

/// How the turn ended.
enum Ending {
    Well(String),
    Badly(Failure),
}

fn play(setting: &mut Setting, prompt: &str, stream: &mut dyn Stream) -> anyhow::Result<Ending> {
    setting.ledger.received(1, prompt);
    let mut answer = String::new();
    for step in setting.script.steps(prompt) {
        match step {
            Step::Think(ms) => std::thread::sleep(Duration::from_millis(ms)),
            Step::Say(text) => {
                stream.says(&text);
                answer = text;
            }
            Step::Tool(run) => {
                stream.tool_starts(&run);
                let mut tool = Tool::start(&run.run, &setting.cwd)?;
                let ran = loop {
                    if let Some(ran) = tool.poll() {
                        break ran;
                    }
                    std::thread::sleep(LOOK);
                };
                setting.ledger.note(1, Fact::Ran { command: run.run.clone(), code: ran.code });
                stream.tool_ends(&run, &ran);
            }
            // Nobody can be asked here.
            Step::Ask(run) => stream.refused(&run),
            Step::Question(_) => {}
            Step::Fail(failure) => {
                let until = Instant::now() + Duration::from_millis(failure.retry_ms);
                stream.retries(&failure);
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
                if !failure.recovers {
                    setting.ledger.note(1, Fact::Failed { message: failure.status.to_string() });
                    return Ok(Ending::Badly(failure));
                }
            }
            Step::Limit(limit) => {
                setting.ledger.note(1, Fact::Limited { resets: limit.resets });
                return Ok(Ending::Badly(Failure { status: 429, retry_ms: 0, recovers: false }));
            }
            Step::Crash(end) => {
                setting.ledger.note(1, Fact::Crashed);
                end.now()
            }
            Step::WaitFile(path) => {
                while !path.exists() {
                    std::thread::sleep(LOOK);
                }
            }
            Step::Hang => loop {
                std::thread::park();
            },
        }
    }
    setting.ledger.note(1, Fact::Finished { answer: answer.clone() });
    Ok(Ending::Well(answer))
}

/// The prompt: the last word that is no option, else the input.
fn prompt(words: &[String], with_value: &[&str]) -> anyhow::Result<String> {
    let mut found = None;
    let mut skip = false;
    for word in words {
        if std::mem::take(&mut skip) {
            continue;
        }
        if word.starts_with('-') && word != "-" {
            skip = with_value.contains(&word.as_str());
        } else if word != "-" {
            found = Some(word.clone());
        }
    }
    if let Some(found) = found {
        return Ok(found);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text.trim_end_matches('\n').to_owned())
}

struct ClaudeStream {
    session: String,
    json: bool,
    denials: Vec<Value>,
    tools: u64,
}

impl ClaudeStream {
    fn say(&self, value: Value) {
        let mut value = value;
        value["session_id"] = json!(self.session);
        if self.json {
            line(&value);
        }
    }

    fn use_tool(&mut self, run: &Run) -> String {
        self.tools += 1;
        let id = format!("toolu_{:04}", self.tools);
        let input = json!({"command": run.run, "description": run.about});
        self.say(json!({"type": "assistant", "message": {"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "Bash", "input": input}]}}));
        id
    }

    fn tool_result(&self, text: &str, error: bool) {
        let id = format!("toolu_{:04}", self.tools);
        let content = json!([{"type": "tool_result", "tool_use_id": id, "content": text, "is_error": error}]);
        self.say(json!({"type": "user", "message": {"role": "user", "content": content}}));
    }
}

impl Stream for ClaudeStream {
    fn tool_starts(&mut self, run: &Run) {
        self.use_tool(run);
    }

    fn tool_ends(&mut self, _run: &Run, ran: &Ran) {
        let text = if ran.code == 0 { ran.output.clone() } else { format!("Exit code {}\n{}", ran.code, ran.output) };
        self.tool_result(&text, ran.code != 0);
    }

    fn refused(&mut self, run: &Run) {
        let id = self.use_tool(run);
        let denial = json!({"tool_name": "Bash", "tool_use_id": id, "tool_input": {"command": run.run}});
        self.say(json!({"type": "system", "subtype": "permission_denied", "tool_name": "Bash", "tool_use_id": id}));
        self.tool_result("Claude requested permissions to use Bash, but you haven't granted it yet.", true);
        self.denials.push(denial);
    }

    fn says(&mut self, text: &str) {
        self.say(
            json!({"type": "assistant", "message": {"role": "assistant", "content": [{"type": "text", "text": text}]}}),
        );
    }

    fn retries(&mut self, failure: &Failure) {
        self.say(json!({"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 2, "retry_delay_ms": failure.retry_ms,
            "error_status": failure.status, "error": "server_error"}));
    }
}

/// `claude -p`.
pub(super) fn claude(mut setting: Setting) -> anyhow::Result<i32> {
    let format = last_flag(&setting.args, &["--output-format"]).unwrap_or("text").to_owned();
    let values =
        ["--output-format", "--session-id", "--settings", "--permission-mode", "--resume", "--model", "--allowedTools"];
    let prompt = prompt(&setting.args, &values)?;
    let session = last_flag(&setting.args, &["--session-id", "--resume"])
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    let mut stream = ClaudeStream { session, json: format == "stream-json", denials: Vec::new(), tools: 0 };
    stream.say(json!({"type": "system", "subtype": "init", "cwd": setting.cwd, "model": "claude-opus-5-5", "permissionMode": "default"}));
    let ending = play(&mut setting, &prompt, &mut stream)?;
    let (text, failure) = match &ending {
        Ending::Well(answer) => (answer.clone(), None),
        Ending::Badly(failure) => (format!("API Error: {} Internal server error.", failure.status), Some(failure)),
    };
    let mut result = json!({
        "type": "result",
        "subtype": "success",
        "is_error": failure.is_some(),
        "result": text,
        "stop_reason": "end_turn",
        "terminal_reason": if failure.is_some() { "api_error" } else { "completed" },
        "num_turns": 1 + stream.tools,
        "permission_denials": stream.denials,
    });
    if let Some(failure) = failure {
        result["api_error_status"] = json!(failure.status);
    }
    match format.as_str() {
        "stream-json" => stream.say(result),
        "json" => line(&result),
        _ => println!("{text}"),
    }
    Ok(i32::from(failure.is_some()))
}

struct CodexStream {
    json: bool,
    items: u64,
}

impl CodexStream {
    fn say(&self, value: &Value) {
        if self.json {
            line(value);
        }
    }

    fn command(&self, kind: &str, run: &Run, ran: Option<&Ran>) {
        let status = ran.map_or("in_progress", |r| if r.code == 0 { "completed" } else { "failed" });
        let item = json!({"id": format!("item_{}", self.items), "type": "command_execution", "command": run.run,
            "aggregated_output": ran.map_or("", |r| &r.output), "exit_code": ran.map(|r| r.code), "status": status});
        self.say(&json!({"type": kind, "item": item}));
    }
}

impl Stream for CodexStream {
    fn tool_starts(&mut self, run: &Run) {
        self.items += 1;
        self.command("item.started", run, None);
    }

    fn tool_ends(&mut self, run: &Run, ran: &Ran) {
        self.command("item.completed", run, Some(ran));
    }

    fn refused(&mut self, run: &Run) {
        self.items += 1;
        self.command("item.completed", run, Some(&Ran { output: "rejected by policy".into(), code: 1, ms: 0 }));
    }

    fn says(&mut self, text: &str) {
        self.items += 1;
        self.say(&json!({"type": "item.completed", "item": {"id": format!("item_{}", self.items), "type": "agent_message", "text": text}}));
    }

    fn retries(&mut self, _failure: &Failure) {
        self.say(&json!({"type": "error", "message": "Reconnecting... 1/2"}));
    }
}

/// `codex exec`.
pub(super) fn codex(mut setting: Setting) -> anyhow::Result<i32> {
    let json = setting.args.iter().any(|a| a == "--json");
    let prompt =
        prompt(&setting.args[1..], &["-c", "--config", "-C", "--cd", "-m", "--model", "-s", "--sandbox", "-o"])?;
    let mut stream = CodexStream { json, items: 0 };
    stream.say(&json!({"type": "thread.started", "thread_id": uuid::Uuid::new_v4().to_string()}));
    stream.say(&json!({"type": "turn.started"}));
    match play(&mut setting, &prompt, &mut stream)? {
        Ending::Well(answer) => {
            stream.say(&json!({"type": "turn.completed", "usage": {"input_tokens": 1000, "cached_input_tokens": 0, "output_tokens": 50}}));
            if !json {
                println!("{answer}");
            }
            Ok(0)
        }
        Ending::Badly(failure) => {
            stream.say(
                &json!({"type": "turn.failed", "error": {"message": format!("unexpected status {}", failure.status)}}),
            );
            Ok(1)
        }
    }
}
