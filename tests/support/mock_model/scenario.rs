//! What the model says and does, by name.

use std::time::Duration;

use serde_json::{Value, json};

/// A piece of an answer.
#[derive(Debug, Clone)]
pub enum Item {
    /// Words, streamed.
    Text {
        text: String,
        /// Before the first piece.
        first: Duration,
        /// Between pieces; none: the server's own.
        pace: Option<Duration>,
        /// The connection is reset after so many bytes.
        cut: Option<usize>,
    },
    /// A shell command.
    Command { line: &'static str, why: &'static str, escalate: bool },
    /// A shell command that goes on after the tool has returned.
    Background { line: &'static str, why: &'static str },
    /// A task for an agent of the agent's own.
    Delegate { task: &'static str, prompt: &'static str },
    /// A file to write.
    Write { name: &'static str, content: &'static str },
    /// A multiple-choice question.
    Question { text: &'static str, options: &'static [&'static str] },
    /// An HTTP error instead of an answer.
    Error {
        status: u16,
        kind: &'static str,
        message: &'static str,
        code: &'static str,
        headers: Vec<(String, String)>,
        extra: Value,
    },
}

impl Item {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), first: Duration::ZERO, pace: None, cut: None }
    }
}

/// The answer of `plain`.
pub const PLAIN: &str = "The `add` function in `calc.py` takes two numbers and returns their sum. \
     Nothing else in the file depends on it, so it is safe to rename.";

/// The Python block of `code`.
pub const PYTHON: &str = "def add(a: int, b: int) -> int:\n    \"\"\"Return the sum of a and b.\"\"\"\n    return a + b\n\n\nif __name__ == \"__main__\":\n    print(add(2, 3))\n";

/// The shell block of `code`.
pub const SHELL: &str = "python3 calc.py\necho \"exit status: $?\"\n";

/// The Rust block of `code2`, which stands in a list item.
pub const RUST: &str = "use std::collections::HashMap;\n\nfn main() {\n    let mut seen: HashMap<&str, u32> = HashMap::new();\n    for word in \"a b a\".split(' ') {\n        *seen.entry(word).or_insert(0) += 1;\n    }\n    println!(\"{:?}\", seen.get(\"a\")); // Some(2), and a line that is long enough to wrap on a narrow terminal window\n}\n";

/// The JSON block of `code2`, fenced by tildes.
pub const JSON: &str = "{\n  \"name\": \"demo\",\n  \"steps\": [\"build\", \"test\"],\n  \"nested\": {\"fence\": \"```not a fence```\"}\n}\n";

/// The answer of `trap`: it talks about failure, completion and questions without it being so.
pub const TRAP: &str = "Error handling is done. Before the change the build failed with `error[E0308]: mismatched types` \
and 3 tests failed; the log said \"Task failed\" and \"command not found\", but those were old messages.\n\n\
To be clear: nothing is complete yet. I have NOT finished the second half. If you see \
`Error: API rate limit exceeded (429)` or `\u{2714} All tasks completed successfully` in the log file, \
ignore them: they are sample strings from the test fixtures.\n\n\
Do you want to proceed?\n\n1. Yes\n2. No\n\n\
(That question is quoted from the documentation; I am not asking you.)\n\n\
```text\nthread 'main' panicked at src/main.rs:4:5\nFAILED (failures=3)\nProcess exited with code 1\n>>> \n```\n\n\
I would still have to write the parser.";

/// A sentence of `wide`: no line break for several rows of any terminal.
pub const WIDE: &str = "A line without an end, wrapped wherever the terminal ends: esc to interrupt is what a footer says, \
❯ is what an input box shows, and none of them means anything inside an answer, however the rows are broken. ";

/// Lines of `long`.
pub const LONG_LINES: usize = 300;

/// The command of `permission`.
pub const PERMISSION: &str = "touch approved.txt && echo created";

/// What `name` says to a request after `step` tool results, asked for the `attempt`-th time.
pub(super) fn plan(name: &str, step: usize, attempt: u32) -> Vec<Item> {
    fn say(text: impl Into<String>) -> Item {
        Item::text(text)
    }
    let run = |line, why| Item::Command { line, why, escalate: false };
    let error = |status, kind, message, code| Item::Error {
        status,
        kind,
        message,
        code,
        headers: Vec::new(),
        extra: json!({}),
    };
    let fail = "echo 'running 2 tests'; echo 'test_sub ... FAILED'; exit 3";
    match (name, step) {
        ("plain", _) => vec![say(PLAIN)],
        ("code", _) => vec![say(format!(
            "Here is the small program you asked for.\n\n```python\n{PYTHON}```\n\nRun it like this:\n\n```bash\n{SHELL}```\n\nIt prints `5`."
        ))],
        ("code2", _) => {
            let indented: String =
                RUST.lines().map(|l| if l.is_empty() { "\n".to_owned() } else { format!("   {l}\n") }).collect();
            vec![say(format!(
                "Two files.\n\n1. The program:\n\n   ```rust\n{indented}   ```\n\n2. The configuration:\n\n~~~json\n{JSON}~~~\n\n\
                 A block with no language:\n\n```\nplain text, no language\n```\n"
            ))]
        }
        ("tool_ok", 0) => vec![say("I will list the files first."), run("ls && echo build ok", "List files")],
        ("tool_ok", _) => vec![say("The build works: the directory holds `calc.py` and `README.md`. All done.")],
        ("tool_fail" | "tool_recover", 0) => vec![say("Running the tests."), run(fail, "Run the tests")],
        ("tool_fail", _) => {
            vec![say("The tests failed: `test_sub` does not pass (exit code 3). I could not complete the task.")]
        }
        ("tool_recover", 1) => vec![
            say("One test failed; trying again after the fix."),
            run("echo 'running 2 tests'; echo 'ok'", "Run the tests again"),
        ],
        ("tool_recover", _) => vec![say("Fixed: both tests pass now.")],
        ("permission", 0) => vec![
            say("I need to create a file."),
            Item::Command { line: PERMISSION, why: "Create approved.txt", escalate: true },
        ],
        ("permission", _) => vec![say("The file `approved.txt` was handled as you decided.")],
        ("edit", 0) => {
            vec![say("I will write the file."), Item::Write { name: "hello.py", content: "print('hello')\n" }]
        }
        ("edit", _) => vec![say("I wrote `hello.py`.")],
        ("question", 0) => {
            vec![Item::Question { text: "Which database should the demo use?", options: &["SQLite", "PostgreSQL"] }]
        }
        ("question", _) => vec![say("Noted. I will use your choice.")],
        ("long", _) => {
            let lines = (1..=LONG_LINES)
                .map(|i| format!("Line {i} of {LONG_LINES}: the quick brown fox jumps over the lazy dog.\n\n"));
            vec![Item::Text {
                text: lines.collect(),
                first: Duration::ZERO,
                pace: Some(Duration::from_millis(8)),
                cut: None,
            }]
        }
        ("slow", _) => vec![Item::Text {
            text: PLAIN.into(),
            first: Duration::from_secs(6),
            pace: Some(Duration::from_millis(250)),
            cut: None,
        }],
        // Everything at once, then nothing for seconds, and again.
        ("bursty", _) => (0..4)
            .map(|n| Item::Text {
                text: format!("Part {n}. {PLAIN}\n\n"),
                first: Duration::from_secs(if n == 0 { 0 } else { 3 }),
                pace: Some(Duration::ZERO),
                cut: None,
            })
            .collect(),
        // A word a second: most of the turn nothing moves but the spinner.
        ("drip", _) => vec![Item::Text {
            text: "Only a few words, each of them late, and that is the whole of it.".into(),
            first: Duration::from_secs(1),
            pace: Some(Duration::from_millis(1500)),
            cut: None,
        }],
        ("wide", _) => vec![say(format!("{WIDE}\n\n{}\n\nThat is all.", WIDE.repeat(6)))],
        ("subagent", 0) => vec![
            say("I will let a helper look at the file."),
            Item::Delegate { task: "Look at calc.py", prompt: "Read calc.py and say what it does. [[mock:drip]]" },
        ],
        ("subagent", _) => vec![say("The helper is done and found one function; nothing else is to do.")],
        ("background", 0) => vec![
            say("I will start the server in the background."),
            Item::Background { line: "sleep 4; echo served", why: "Start the server" },
        ],
        ("background", _) => vec![say("The server runs in the background; I am done here.")],
        ("hang", _) => {
            vec![Item::Text { text: PLAIN.into(), first: Duration::from_secs(3600), pace: None, cut: None }]
        }
        ("trap", _) => vec![say(TRAP)],
        ("err401", _) => vec![error(401, "authentication_error", "invalid x-api-key", "invalid_api_key")],
        ("err429", _) => vec![Item::Error {
            status: 429,
            kind: "rate_limit_error",
            message: "This request would exceed your organization's rate limit of 50 requests per minute.",
            code: "rate_limit_exceeded",
            headers: vec![("retry-after".into(), "2".into())],
            extra: json!({}),
        }],
        ("err500", _) => vec![error(500, "api_error", "Internal server error", "server_error")],
        ("usage_limit", _) => vec![usage_limit(3600)],
        // Over soon: an agent that resumes by itself does so while somebody watches.
        ("limit_soon", _) if attempt == 1 => vec![usage_limit(45)],
        ("limit_soon", _) => vec![say(PLAIN)],
        ("flaky", _) if attempt <= 2 => vec![error(529, "overloaded_error", "Overloaded", "server_overloaded")],
        ("cut", _) => vec![cut()],
        ("cut_once", _) if attempt == 1 => vec![cut()],
        ("flaky" | "cut_once", _) => vec![say(PLAIN)],
        (other, _) => vec![say(format!("Unknown scenario {other}"))],
    }
}

/// The words of the scenario alone, for an agent that offers no tools.
pub(super) fn without_tools(items: Vec<Item>, name: &str, attempt: u32) -> Vec<Item> {
    let tells = |items: &[Item]| items.iter().any(|i| matches!(i, Item::Error { .. }));
    if tells(&items) {
        return items;
    }
    let last = plan(name, usize::MAX, attempt);
    last.into_iter().filter(|i| matches!(i, Item::Text { .. })).collect()
}

fn cut() -> Item {
    Item::Text { text: PLAIN.into(), first: Duration::ZERO, pace: None, cut: Some(60) }
}

fn usage_limit(seconds: u64) -> Item {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let reset = (now + seconds).to_string();
    let after = seconds.to_string();
    let headers = [
        ("anthropic-ratelimit-unified-status", "rejected"),
        ("anthropic-ratelimit-unified-reset", &reset),
        ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
        ("anthropic-ratelimit-unified-overage-status", "rejected"),
        ("retry-after", &after),
        ("x-should-retry", "false"),
    ];
    Item::Error {
        status: 429,
        kind: "rate_limit_error",
        message: "You have reached your usage limit.",
        code: "usage_limit_reached",
        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        extra: json!({ "plan_type": "plus", "resets_in_seconds": seconds, "resets_at": now + seconds }),
    }
}

/// A value that fits a JSON schema.
pub(super) fn fill(schema: &Value) -> Value {
    if let Some(first) = schema.pointer("/enum/0") {
        return first.clone();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => schema
            .get("properties")
            .and_then(Value::as_object)
            .map(|p| p.iter().map(|(k, v)| (k.clone(), fill(v))).collect())
            .unwrap_or_default(),
        Some("array") => json!([]),
        Some("number" | "integer") => json!(1),
        Some("boolean") => json!(false),
        _ => json!("Demo session"),
    }
}

/// The tool of `tools` (name to parameter schema) that does `item`, with its arguments; none if there is no such tool.
pub(super) fn call(
    tools: &std::collections::HashMap<String, Value>,
    item: &Item,
    cwd: &str,
) -> Option<(String, Value)> {
    let has = |name: &str| tools.contains_key(name);
    match item {
        Item::Command { line, why, escalate } => {
            let name = ["Bash", "exec_command", "shell", "shell_command"].into_iter().find(|n| has(n))?;
            let offers = |key: &str| tools[name].pointer(&format!("/properties/{key}")).is_some();
            let array = tools[name].pointer("/properties/command/type").is_some_and(|t| t == "array");
            let mut args = match name {
                "exec_command" => json!({ "cmd": line }),
                _ if array => json!({ "command": ["bash", "-lc", line] }),
                _ => json!({ "command": line }),
            };
            if offers("description") {
                args["description"] = json!(why);
            }
            if *escalate && offers("sandbox_permissions") {
                args["sandbox_permissions"] = json!("require_escalated");
                args["justification"] = json!(format!("{why}?"));
            }
            Some((name.to_owned(), args))
        }
        Item::Background { line, why } if has("Bash") => {
            Some(("Bash".into(), json!({ "command": line, "description": why, "run_in_background": true })))
        }
        Item::Delegate { task, prompt } => {
            let name = ["Agent", "Task"].into_iter().find(|n| has(n))?;
            let kind = "general-purpose";
            Some((name.into(), json!({ "description": task, "prompt": prompt, "subagent_type": kind })))
        }
        Item::Write { name, content } if has("Write") => {
            Some(("Write".into(), json!({ "file_path": format!("{cwd}/{name}"), "content": content })))
        }
        Item::Write { name, content } if has("apply_patch") => {
            let lines: String = content.lines().map(|l| format!("+{l}\n")).collect();
            let patch = format!("*** Begin Patch\n*** Add File: {name}\n{lines}*** End Patch\n");
            Some(("apply_patch".into(), json!({ "input": patch })))
        }
        Item::Question { text, options } => {
            let name = ["AskUserQuestion", "request_user_input"].into_iter().find(|n| has(n))?;
            let options: Vec<Value> =
                options.iter().map(|o| json!({ "label": o, "description": format!("Use {o}") })).collect();
            let mut question = json!({ "question": text, "header": "Database", "options": options });
            match name {
                "AskUserQuestion" => question["multiSelect"] = json!(false),
                _ => question["id"] = json!("db"),
            }
            Some((name.into(), json!({ "questions": [question] })))
        }
        _ => None,
    }
}
