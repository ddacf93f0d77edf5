//! A fake model server for driving the real agents offline: loopback only, std only.
//!
//! Dialects: Anthropic `/v1/messages` (+ `count_tokens`, `/v1/models`), OpenAI `/v1/responses`, Ollama `/api/*`. What it
//! answers is a scenario ([`scenario`]), picked by `[[mock:NAME]]` in the newest prompt, else by [`Mock::set`].
//! The log of every request is the ground truth of the tests: which prompts truly arrived, how often, and when.

#![allow(dead_code, unreachable_pub, reason = "shared by an example and test binaries, each of which uses its part")]

mod anthropic;
mod http;
mod ollama;
mod responses;
pub mod scenario;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use scenario::Item;
use serde_json::Value;

/// One request for an answer.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it came.
    pub at: SystemTime,
    /// `anthropic`, `responses` or `ollama`.
    pub dialect: &'static str,
    /// A turn's own request, rather than a title's or a summary's.
    pub main: bool,
    /// The scenario that was played.
    pub scenario: String,
    /// Tool results since the newest prompt.
    pub step: usize,
    /// What the agent calls its conversation.
    pub conversation: String,
    /// Every prompt of the conversation, oldest first; the last one is being answered.
    pub prompts: Vec<String>,
    /// The answer went out whole (an error is one too); false while it is under way, or when the agent hung up.
    pub answered: bool,
}

/// The running server; it ends with the process.
pub struct Mock {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ids: AtomicU64,
    /// Pause between two streamed pieces.
    pace: Duration,
}

struct State {
    scenario: String,
    log: Vec<Record>,
    /// Where the log is written as well, a line an event.
    file: Option<File>,
    /// How often each prompt was asked for an answer, retries included: by conversation and number of prompts.
    asked: HashMap<(String, usize, usize), u32>,
}

/// A request as its dialect understood it.
struct Ask<'a> {
    dialect: &'static str,
    main: bool,
    conversation: String,
    prompts: Vec<String>,
    step: usize,
    tools: &'a HashMap<String, Value>,
    /// The answer must be JSON of this schema (titles and the like).
    schema: Option<&'a Value>,
}

impl Mock {
    /// Starts on a free port of the loopback interface.
    pub fn start() -> Self {
        Self::bind("127.0.0.1:0".parse().expect("a socket address"))
    }

    /// Starts at `addr`.
    pub fn bind(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).unwrap_or_else(|e| panic!("bind {addr}: {e}"));
        let addr = listener.local_addr().expect("a bound listener has an address");
        let state = State { scenario: "plain".into(), log: Vec::new(), file: None, asked: HashMap::new() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            ids: AtomicU64::new(1),
            pace: Duration::from_millis(30),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || http::serve(&listener, &serving));
        Self { addr, shared }
    }

    /// Where it listens, as a URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Sets the scenario for prompts that name none.
    pub fn set(&self, scenario: &str) {
        self.shared.state.lock().unwrap().scenario = scenario.to_owned();
    }

    /// Writes the log to `file` from now on: `{"ts":seconds since 1970,"event":"asked"|"answered","main":bool,..}` a line.
    pub fn log_to(&self, file: File) {
        self.shared.state.lock().unwrap().file = Some(file);
    }

    /// Everything asked so far.
    pub fn log(&self) -> Vec<Record> {
        self.shared.state.lock().unwrap().log.clone()
    }

    /// How often `text` truly arrived in a prompt: once for each place it has in a conversation.
    ///
    /// An agent may send a prompt whose turn failed again, before the next one, in the same message. Retries of a request and the requests after a tool ran repeat the same place and count once.
    pub fn deliveries(&self, text: &str) -> usize {
        let mut by_conversation: HashMap<String, usize> = HashMap::new();
        for record in self.log().iter().filter(|r| r.main) {
            let count = record.prompts.iter().map(|p| p.matches(text).count()).sum();
            let seen = by_conversation.entry(record.conversation.clone()).or_default();
            *seen = (*seen).max(count);
        }
        by_conversation.values().sum()
    }

    /// Waits until `done` holds for the log; false after `patience`.
    pub fn wait(&self, patience: Duration, done: impl Fn(&[Record]) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state.lock().unwrap();
        while !done(&state.log) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
        true
    }
}

impl Shared {
    fn id(&self, what: &str) -> String {
        format!("{what}_mock_{}", self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// Logs the request and chooses its answer; the number is for [`Shared::answered`].
    fn decide(&self, ask: Ask<'_>) -> (usize, Vec<Item>) {
        let mut state = self.state.lock().unwrap();
        let prompt = ask.prompts.last().cloned().unwrap_or_default();
        let scenario = if ask.main { marked(&prompt).unwrap_or_else(|| state.scenario.clone()) } else { "side".into() };
        let key = (ask.conversation.clone(), ask.prompts.len(), ask.step);
        let attempt = {
            let asked = state.asked.entry(key).or_default();
            *asked += u32::from(ask.main);
            *asked
        };
        let items = if ask.main {
            let items = scenario::plan(&scenario, ask.step, attempt);
            if ask.tools.is_empty() { scenario::without_tools(items, &scenario, attempt) } else { items }
        } else {
            let text = ask.schema.map_or("Demo session".to_owned(), |s| scenario::fill(s).to_string());
            vec![Item::text(text)]
        };
        state.log.push(Record {
            at: SystemTime::now(),
            dialect: ask.dialect,
            main: ask.main,
            scenario,
            step: ask.step,
            conversation: ask.conversation,
            prompts: ask.prompts,
            answered: false,
        });
        let number = state.log.len() - 1;
        state.write(number, "asked");
        drop(state);
        self.changed.notify_all();
        (number, items)
    }

    fn answered(&self, number: usize) {
        let mut state = self.state.lock().unwrap();
        state.log[number].answered = true;
        state.write(number, "answered");
        drop(state);
        self.changed.notify_all();
    }
}

impl State {
    fn write(&mut self, number: usize, event: &str) {
        let Self { file: Some(file), log, .. } = self else { return };
        let record = &log[number];
        let ts = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let line = serde_json::json!({
            "ts": ts, "event": event, "request": number, "main": record.main, "dialect": record.dialect,
            "scenario": record.scenario, "step": record.step, "prompt": record.prompts.last(),
        });
        writeln!(file, "{line}").expect("the log is written");
    }
}

/// The name in the last `[[mock:NAME]]` of `prompt`.
fn marked(prompt: &str) -> Option<String> {
    let (_, tail) = prompt.rsplit_once("[[mock:")?;
    tail.split_once("]]").map(|(name, _)| name.to_owned())
}

/// The text of a message's content: a string, or parts with texts.
fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|p| p.get("text")?.as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}
