//! Packs as people meet them: the schema, `orchwrap patterns`, and sessions that no recording shows.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use orchwrap::extract::event::{Body, Draft, FailReason, LimitKind};
use orchwrap::extract::pattern::{
    Answers, AskRule, Bracketed, ComposerRule, Condition, FailureRule, LaunchRule, Mode, Oneshot, Pack, Packs, Paste,
    Rule, Says, TranscriptRule,
};
use orchwrap::extract::score::told;
use orchwrap::extract::{Extractor, Options};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::support::Home;

fn repo(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn schema() -> Value {
    serde_json::from_str(&std::fs::read_to_string(repo("docs/pack.schema.json")).unwrap()).unwrap()
}

/// The names between backticks in what the parser says to a text that cannot be right, the wrong one left out.
fn known<T: DeserializeOwned>(text: &str) -> BTreeSet<String> {
    let said = toml::from_str::<T>(text).err().expect("nothing is called so").to_string();
    let line = said.lines().last().unwrap().to_owned();
    assert!(line.contains("expected"), "{said}");
    line.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
}

#[derive(serde::Deserialize)]
struct Word<T> {
    #[expect(dead_code, reason = "only its type is asked for")]
    word: T,
}

#[test]
fn the_schema_has_every_key_and_every_word_of_the_format() {
    let schema = schema();
    let keys = |v: &Value| v["properties"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let of = |name: &str| keys(&schema["$defs"][name]);
    let bogus = "no_such_key = 1";
    assert_eq!(keys(&schema), known::<Pack>(bogus));
    assert_eq!(of("launch"), known::<LaunchRule>(bogus));
    assert_eq!(of("paste"), known::<Paste>(bogus));
    assert_eq!(of("answers"), known::<Answers>(bogus));
    assert_eq!(of("oneshot"), known::<Oneshot>(bogus));
    assert_eq!(of("composer"), known::<ComposerRule>(bogus));
    assert_eq!(of("transcript"), known::<TranscriptRule>(bogus));
    assert_eq!(of("rule"), known::<Rule>(bogus));
    assert_eq!(of("condition"), known::<Condition>(bogus));
    assert_eq!(of("ask"), known::<AskRule>(bogus));
    assert_eq!(of("failure"), known::<FailureRule>(bogus));

    let words = |v: &Value| v["enum"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect();
    let property = |def: &str, key: &str| words(&schema["$defs"][def]["properties"][key]);
    let bogus = "word = 'no such word'";
    let spoken: [(BTreeSet<String>, BTreeSet<String>); 5] = [
        (words(&schema["properties"]["mode"]), known::<Word<Mode>>(bogus)),
        (property("rule", "says"), known::<Word<Says>>(bogus)),
        (property("paste", "bracketed"), known::<Word<Bracketed>>(bogus)),
        (property("failure", "reason"), known::<Word<FailReason>>(bogus)),
        (property("failure", "limit"), known::<Word<LimitKind>>(bogus)),
    ];
    for (said, known) in spoken {
        assert_eq!(said, known);
    }
}

#[test]
fn built_in_packs_are_as_the_schema_says() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for entry in std::fs::read_dir(repo("patterns")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let pack: Value = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            if let Some(e) = validator.iter_errors(&pack).next() {
                panic!("{}: {e} at {}", path.display(), e.instance_path());
            }
        }
    }
    assert!(!validator.is_valid(&serde_json::json!({"id": "x", "mode": "tui"})));
    assert!(validator.is_valid(&serde_json::json!({"extends": "claude", "idle_ms": 5})));
}

fn patterns(home: &Home, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = home.orchwrap(["patterns"].iter().chain(args)).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn with_pack(home: &Home, name: &str, text: &str) -> std::path::PathBuf {
    let dir = home.join("config/orchwrap/patterns");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn patterns_ls_says_where_each_pack_comes_from() {
    let home = Home::new();
    let file = with_pack(&home, "mine.toml", "extends = \"claude\"\nidle_ms = 2000\n");
    let (code, out, _) = patterns(&home, &["ls", "--json"]);
    assert_eq!(code, Some(0));
    let listed: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |id: &str| listed.iter().find(|l| l["id"] == id).unwrap_or_else(|| panic!("{id}: {out}"));
    assert_eq!(of("claude")["from"], file.to_str().unwrap());
    assert_eq!(of("codex")["from"], "built-in");
    assert_eq!(of("gemini")["tested_versions"], serde_json::json!(["0.61.0"]));
    assert!(of("claude")["adapters"].as_array().unwrap().iter().any(|a| a == "status-7501/1"));
    let (_, out, _) = patterns(&home, &["ls"]);
    assert!(out.starts_with("ID ") && out.contains("0.61.0"), "{out}");
}

#[test]
fn patterns_check_points_at_line_and_column_and_names_the_nearest_key() {
    let home = Home::new();
    let (code, _, err) = patterns(&home, &["check"]);
    assert!(code == Some(0) && err.contains("built-in"), "{err}");
    let good = with_pack(&home, "claude.toml", "extends = \"claude\"\nidle_ms = 2000\n");
    assert_eq!(patterns(&home, &["check", good.to_str().unwrap()]).0, Some(0));
    let bad = with_pack(&home, "bad.toml", "extends = \"codex\"\n[transcript]\nmesage = '^x'\n");
    let (code, out, _) = patterns(&home, &["check", bad.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert_eq!(out.trim(), format!("{}:3:1: unknown key `mesage`, the nearest is `message`", bad.display()));
    let (code, out, _) = patterns(&home, &["check"]);
    assert!(code == Some(1) && out.contains("bad.toml:3:1") && out.contains("can be used"), "{out}");
    assert_eq!(patterns(&home, &["check", "/no/such/file"]).0, Some(1));
}

#[test]
fn patterns_test_scores_a_pack_and_says_what_it_missed() {
    let home = Home::new();
    let recordings = repo("tests/recordings/opencode");
    let recordings = recordings.to_str().unwrap();
    let (code, out, err) = patterns(&home, &["test", "opencode", recordings]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("turn.completed") && out.contains("1.00"), "{out}");
    assert_eq!(patterns(&home, &["test", "opencode", "--screen-only", recordings]).0, Some(0));
    // Without the rule of its menu a permission is missed.
    let text = "id = \"blind\"\nextends = \"opencode\"\n[[rule]]\nid = \"opencode.permission\"\noff = true\n";
    let blind = home.path().join("blind.toml");
    std::fs::write(&blind, text).unwrap();
    let (code, out, err) = patterns(&home, &["test", blind.to_str().unwrap(), recordings]);
    assert!(code == Some(1) && out.contains("missed permission.asked"), "{out}{err}");
    assert_eq!(patterns(&home, &["test", "opencode", home.path().to_str().unwrap()]).0, Some(2));
}

/// A session written by hand: what no recording shows, as the agents' sources tell it.
struct Play {
    extractor: Extractor,
    at: Duration,
    off: u64,
    said: Vec<(Duration, Draft)>,
}

impl Play {
    fn new(agent: &str) -> Self {
        let pack = Packs::builtin().get(agent).unwrap().clone();
        let options = Options { cols: 100, rows: 24, reports: false };
        Self { extractor: Extractor::new(pack, options), at: Duration::ZERO, off: 0, said: Vec::new() }
    }

    /// The agent writes, and nothing more for two seconds.
    fn writes(&mut self, text: &str) -> &mut Self {
        self.extractor.feed(text.as_bytes(), self.off, self.at);
        self.off += text.len() as u64;
        self.passes(2)
    }

    /// It draws these rows on an empty screen and leaves the cursor at a column and a row.
    fn draws(&mut self, rows: &[&str], cursor: (usize, usize)) -> &mut Self {
        self.writes(&format!("\x1b[2J\x1b[H{}\x1b[{};{}H", rows.join("\r\n"), cursor.1 + 1, cursor.0 + 1))
    }

    fn types(&mut self, keys: &str) -> &mut Self {
        self.extractor.typed(keys.as_bytes(), self.at);
        self
    }

    fn reports(&mut self, adapter: &str, payload: &str) -> &mut Self {
        self.extractor.report(adapter, &serde_json::from_str(payload).unwrap(), self.at).unwrap();
        self.passes(0)
    }

    fn passes(&mut self, seconds: u64) -> &mut Self {
        let end = self.at + Duration::from_secs(seconds);
        while let Some(due) = self.extractor.deadline().filter(|due| *due < end) {
            self.extractor.tick(due);
            self.said.extend(self.extractor.drain().into_iter().map(|d| (due, d)));
        }
        self.at = end;
        self.said.extend(self.extractor.drain().into_iter().map(|d| (end, d)));
        self
    }

    fn exits(&mut self, code: i32) -> Vec<String> {
        self.extractor.exited(Some((Some(code), None)), self.at);
        self.passes(0).story()
    }

    fn story(&self) -> Vec<String> {
        told(&self.said).iter().map(|f| f.what.to_string()).collect()
    }

    fn answer(&self) -> Option<String> {
        self.said.iter().rev().find_map(|(_, d)| match &d.body {
            Body::TurnCompleted { answer, .. } => answer.clone(),
            _ => None,
        })
    }

    fn notes(&self, wanted: &str) -> Vec<String> {
        let note = |(_, d): &(_, Draft)| match &d.body {
            Body::Note { code, text } if code == wanted => Some(text.clone()),
            _ => None,
        };
        self.said.iter().filter_map(note).collect()
    }
}

const OLLAMA_READY: &str = "\x1b[?2004h>>> \x1b[38;5;245mSend a message (/? for help)\x1b[28D\x1b[0m";

#[test]
fn a_line_agent_that_never_was_ready_had_no_turn() {
    let mut down = Play::new("ollama");
    down.writes("Error: could not connect to ollama server, run 'ollama serve' to start it\r\n");
    assert_eq!(down.exits(1), [""; 0]);
    let mut missing = Play::new("ollama");
    missing.writes("\x1b[?2026h\x1b[?25l\x1b[1Gpulling manifest ⠋ \x1b[K\x1b[?25h\x1b[?2026l");
    missing.writes("\x1b[1Gpulling manifest \x1b[K\r\nError: pull model manifest: file does not exist\r\n");
    assert_eq!(missing.exits(1), [""; 0]);
}

#[test]
fn a_model_that_is_pulled_first_is_no_answer() {
    let mut play = Play::new("ollama");
    play.writes(
        "pulling manifest \r\npulling 8eeb52dfb3bb: 100% ▕████▏ 4.7 GB\r\nverifying sha256 digest \r\nsuccess \r\n",
    );
    play.writes(OLLAMA_READY);
    play.types("hi").writes("\x1b[Khi").types("\r").writes("\r\nhello\r\n\r\n").writes(OLLAMA_READY);
    assert_eq!(play.story(), ["turn.started", "turn.completed"]);
    assert_eq!(play.answer().as_deref(), Some("hello"));
}

#[test]
fn a_run_of_one_prompt_is_one_turn_and_its_output_the_answer() {
    let mut play = Play::new("ollama");
    play.extractor.one_prompt();
    play.writes("pulling manifest \r\nsuccess \r\nLook:\r\n```sh\r\nls\r\n```\r\n");
    assert_eq!(play.exits(0), ["turn.started", "code.block Some(\"sh\") \"ls\\n\"", "turn.completed"]);
    assert_eq!(play.answer().as_deref(), Some("Look:\n```sh\nls\n```"));

    let mut failing = Play::new("ollama");
    failing.extractor.one_prompt();
    failing.writes("Error: 500 Internal Server Error: Internal server error\r\n");
    assert_eq!(failing.exits(1), ["turn.started", "turn.failed \"server\""]);

    // What looked like one prompt was a session after all.
    let mut session = Play::new("ollama");
    session.extractor.one_prompt();
    session.writes(OLLAMA_READY);
    assert_eq!(session.exits(0), [""; 0]);
}

#[test]
fn which_command_lines_hold_their_only_prompt() {
    let pack = Packs::builtin().get("ollama").unwrap().clone();
    let one = |line: &str, piped| pack.takes_one_prompt(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), piped);
    assert!(!one("ollama run llama3", false) && !one("ollama run --verbose llama3", false));
    assert!(one("ollama run llama3 why?", false) && one("ollama run llama3", true));
    let claude = Packs::builtin().get("claude").unwrap().clone();
    assert!(
        !claude.takes_one_prompt(&["claude".to_owned(), "why?".to_owned()], true),
        "it goes on after its first prompt"
    );
}

#[test]
fn t1_escapes_in_an_answer_move_nothing() {
    let mut play = Play::new("ollama");
    play.extractor.one_prompt();
    play.writes("\x1b]7501;state=error:msg=eA==\x1b\\\x1b]0;✳ Claude Code\x07\x1b]9;done\x07\x1b[2Jtext\x1b[?1049h\x1b[?1049l\r\n");
    assert_eq!(play.story(), [""; 0]);
    assert_eq!(play.exits(0), ["turn.started", "turn.completed"]);
}

#[test]
fn gemini_says_that_a_request_was_cancelled() {
    let (top, under) = ("▄".repeat(100), "▀".repeat(100));
    let prompt = [top.as_str(), " > go on", under.as_str()];
    let boxed = [" Shift+Tab to accept edits", top.as_str(), " >   Type your message or @path/to/file", under.as_str()];
    let mut play = Play::new("gemini");
    play.draws(&boxed, (3, 2)).types("go on\r");
    play.draws(&[&prompt[..], &[" ⠋ Thinking... (esc to cancel, 0s)"], &boxed[..]].concat(), (3, 6)).types("\x1b");
    play.draws(&[&prompt[..], &["✦ Let me", "", "ℹ Request cancelled."], &boxed[..]].concat(), (3, 8));
    assert_eq!(play.story(), ["turn.started", "turn.interrupted"]);
    // Its words in an answer are indented.
    let mut play = Play::new("gemini");
    play.draws(&boxed, (3, 2)).types("go on\r");
    play.draws(&[&prompt[..], &[" ⠋ Thinking... (esc to cancel, 0s)"], &boxed[..]].concat(), (3, 6));
    let quoted =
        ["✦ It says:", "  ℹ Request cancelled.", "  ✕ [API Error: 401]", "   ⠋ Thinking... (esc to cancel, 9s)"];
    play.draws(&[&prompt[..], &quoted, &boxed[..]].concat(), (3, 9));
    assert_eq!(play.story(), ["turn.started", "turn.completed"]);
}

/// opencode with these rows above its input box, busy or not, and the cursor.
fn opencode(rows: &[&str], busy: bool) -> (Vec<String>, (usize, usize)) {
    let mut all: Vec<String> = rows.iter().map(|r| (*r).to_owned()).collect();
    let first = all.len();
    all.extend(["  ┃", "  ┃", "  ┃", "  ┃  Build · some-model maker"].map(str::to_owned));
    all.push(format!("  ╹{}", "▀".repeat(90)));
    all.push(if busy { "   ■■⬝⬝⬝⬝⬝⬝  esc interrupt" } else { "   /tmp/demo" }.to_owned() + "       ctrl+p commands");
    (all, (5, first + 1))
}

#[test]
fn opencode_asks_is_interrupted_and_quotes_itself() {
    fn draw(play: &mut Play, (rows, cursor): (Vec<String>, (usize, usize))) {
        play.draws(&rows.iter().map(String::as_str).collect::<Vec<_>>(), cursor);
    }
    let prompt = ["", "  ┃", "  ┃  go on", "  ┃", ""];
    let with = |rows: &[&'static str]| [&prompt[..], rows].concat();
    let mut play = Play::new("opencode");
    draw(&mut play, opencode(&[""], false));
    play.types("go on\r");
    draw(&mut play, opencode(&with(&["     ▣  Build · some-model"]), true));
    let asks = [
        "     ▣  Build · some-model",
        "",
        "  ┃",
        "  ┃  Which database?",
        "  ┃",
        "  ┃  1. SQLite",
        "  ┃     in a file",
        "  ┃  2. PostgreSQL",
        "  ┃  3. Type your own answer",
        "  ┃",
        "  ┃  ↑↓ select  enter submit  esc dismiss",
        "  ┃",
    ];
    play.draws(&with(&asks), (99, 23));
    draw(&mut play, opencode(&with(&["     ▣  Build · some-model"]), true));
    play.types("\x1b\x1b");
    draw(&mut play, opencode(&with(&["     ▣  Build · some-model · interrupted"]), false));
    let question = "question.asked \"Which database?\" Some([\"SQLite\", \"PostgreSQL\"])";
    assert_eq!(play.story(), ["turn.started", question, "question.answered", "turn.interrupted"]);

    // An answer may end with the very row that ends answers: as long as the footer is busy it ends nothing.
    let mut play = Play::new("opencode");
    draw(&mut play, opencode(&[""], false));
    play.types("go on\r");
    draw(&mut play, opencode(&with(&["     It draws:", "     ▣  Build · some-model · 3.5s"]), true));
    assert_eq!(play.story(), ["turn.started"]);
}

#[test]
fn aider_asks_and_is_interrupted() {
    let mut play = Play::new("aider");
    play.writes("Aider v0.86.2\r\n────────────────────\r\n\x1b[?2004h> ").types("go on\r");
    play.writes("go on\r\n\x1b[?2004l\r\n░█ Waiting for model\r\n");
    play.writes("\rAnswer\r\n\r\nTokens: 7 sent, 3 received.\r\n\r\ncalc.py\r\n\x1b[?2004hAdd file to the chat? (Y)es/(N)o/(D)on't ask again [Yes]: ");
    play.types("y\r").writes("y\r\n\x1b[?2004l\r\nAnd now\r\n");
    play.types("\x03").writes("\r\n\r\n^C again to exit\r\n────────────────────\r\n\x1b[?2004h> ");
    let story = play.story();
    assert!(story[1].starts_with("permission.asked") && story[1].contains("calc.py"), "{story:?}");
    assert_eq!(
        [&story[..1], &story[2..]].concat(),
        ["turn.started", "permission.answered allowed=true", "turn.interrupted"]
    );
}

#[test]
fn a_quoted_prompt_of_aider_ends_nothing_while_no_line_is_read() {
    let mut play = Play::new("aider");
    play.writes("\x1b[?2004h> ").types("go on\r").writes("go on\r\n\x1b[?2004l\r\n");
    play.writes("It prints\r\n> ").passes(30);
    play.writes("litellm.APIConnectionError: gone\r\nRetrying in 0.2 seconds...\r\n").passes(5);
    play.writes("fine\r\nTokens: 7 sent, 3 received.\r\n────────────────────\r\n\x1b[?2004h> ");
    assert_eq!(play.story(), ["turn.started", "turn.completed"]);
}

#[test]
fn witnesses_that_disagree_about_an_agent_newer_than_its_pack_are_told_once() {
    let working = "\x1b]7501;state=working\x1b\\";
    let done = "\x1b]7501;state=done\x1b\\";
    let sessions = |version| {
        let mut play = Play::new("claude");
        play.extractor.version(version, Duration::ZERO);
        for _ in 0..3 {
            // Nothing of the frame is as the rules know it.
            play.draws(&["a new look", "[ type here ]"], (0, 1)).types("x\r");
            play.writes(working).passes(5).writes(done).passes(5);
        }
        play
    };
    let newer = sessions((2, 9, 0));
    assert_eq!(newer.story(), ["turn.started", "turn.completed"].repeat(3));
    let told = newer.notes("witness_disagreement");
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("no rule sees the input box"), "{told:?}");
    assert_eq!(sessions((2, 1, 329)).notes("witness_disagreement"), [""; 0]);
}

#[test]
fn the_version_is_read_off_the_banner_of_a_session_that_was_started_by_hand() {
    let rows = |v: &str| format!(" ▐▛███▛█   Claude Code v{v}");
    let mut play = Play::new("claude");
    play.draws(&[&rows("3.0.1")], (0, 5)).types("x\r");
    play.writes("\x1b]7501;state=working\x1b\\").passes(5).writes("\x1b]7501;state=done\x1b\\").passes(5);
    assert_eq!(play.notes("witness_disagreement").len(), 1);
    let mut play = Play::new("claude");
    play.draws(&[&rows("2.1.300")], (0, 5)).types("x\r");
    play.writes("\x1b]7501;state=working\x1b\\").passes(5).writes("\x1b]7501;state=done\x1b\\").passes(5);
    assert_eq!(play.notes("witness_disagreement"), [""; 0]);
}

#[test]
fn what_a_tool_reports_is_read_and_what_an_answer_quotes_is_not() {
    let words = "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured";
    let mut play = Play::new("codex");
    play.reports("codex-exec-json/1", r#"{"type":"turn.started"}"#);
    let item = |kind: &str| format!(r#"{{"type":"item.completed","item":{{"id":"item_1","type":{kind}}}}}"#);
    play.reports("codex-exec-json/1", &item(&format!(r#""agent_message","text":"It says:\n{words}""#)));
    let results = |play: &Play| play.said.iter().filter(|(_, d)| matches!(d.body, Body::TestResult { .. })).count();
    assert_eq!(results(&play), 0);
    let run = format!(
        r#""command_execution","command":"cargo test","aggregated_output":"src/a.c:3:1: error: no\n{words}\n","exit_code":1,"status":"failed""#
    );
    play.reports("codex-exec-json/1", &item(&run));
    assert_eq!(results(&play), 1);
    let found = play.said.iter().find(|(_, d)| matches!(d.body, Body::TestResult { .. })).unwrap();
    assert!(found.1.source.is_report() && found.1.rule == "tests.cargo", "{found:?}");
    assert!(
        matches!(&found.1.body, Body::TestResult { passed: 5, failed: 1, skipped: 2, runner } if runner == "cargo")
    );
    assert!(play.said.iter().any(|(_, d)| matches!(&d.body, Body::Error { file: Some(f), .. } if f == "src/a.c")));
}

#[test]
fn commits_and_links_that_tools_tell_become_events() {
    let mut play = Play::new("codex");
    play.reports("codex-exec-json/1", r#"{"type":"turn.started"}"#);
    let output = r"[main (root-commit) 1a2b3c4] extract: packs\n 1 file changed\nremote:      https://example.org/pull/new/x\n[not a hash] x\n";
    play.reports(
        "codex-exec-json/1",
        &format!(r#"{{"type":"item.completed","item":{{"id":"i","type":"command_execution","command":"git","aggregated_output":"{output}","exit_code":0,"status":"completed"}}}}"#),
    );
    let commits: Vec<&Body> =
        play.said.iter().map(|(_, d)| &d.body).filter(|b| matches!(b, Body::Commit { .. })).collect();
    let wanted = Body::Commit { sha: "1a2b3c4".into(), branch: Some("main".into()), subject: "extract: packs".into() };
    assert_eq!(commits, [&wanted]);
    assert!(play.said.iter().any(|(_, d)| d.body == Body::Url { url: "https://example.org/pull/new/x".into() }));
}

#[test]
fn a_link_of_the_stream_is_told_once_a_turn() {
    let mut play = Play::new("claude");
    let link = "\x1b]8;id=1;https://example.org/docs\x1b\\docs\x1b]8;;\x1b\\";
    play.writes(link).writes(link).writes("\x1b]8;;javascript:x\x07no\x1b]8;;\x07");
    let links: Vec<_> = play.said.iter().filter(|(_, d)| matches!(d.body, Body::Url { .. })).collect();
    assert_eq!(links.len(), 1, "{links:?}");
    assert!(links[0].1.span.is_some() && links[0].1.rule == "osc.link");
}

#[test]
fn a_link_in_mid_turn_ends_nothing() {
    let mut play = Play::new("claude");
    play.types("x\r").writes("\x1b]7501;state=idle\x1b\\").writes("\x1b]7501;state=working\x1b\\");
    play.writes("\x1b]8;;https://example.org/docs\x1b\\docs\x1b]8;;\x1b\\").passes(60);
    assert_eq!(play.story(), ["turn.started"]);
}

#[test]
fn doctor_tells_what_runs_noticed_about_their_packs() {
    let home = Home::new();
    for run in ["one", "two"] {
        let dir = home.join("state/orchwrap/runs").join(run);
        std::fs::create_dir_all(&dir).unwrap();
        let note = r#"{"type":"note","data":{"code":"witness_disagreement","text":"x.stop and x.spinner disagree"}}"#;
        std::fs::write(dir.join("events.ndjson"), format!("{{}}\nwitness_disagreement\n{note}\n")).unwrap();
    }
    let said = home.orchwrap(["doctor"]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.matches("x.stop and x.spinner disagree").count(), 1, "{said}");
}

/// What is read from a line of output.
fn read(line: &str) -> String {
    let mut play = Play::new("generic");
    play.writes(&format!("{line}\r\n"));
    let words = play.said.iter().filter_map(|(_, d)| match &d.body {
        Body::TestResult { runner, passed, failed, skipped } => Some(format!("{runner} {passed}/{failed}/{skipped}")),
        Body::Error { message, file, line } => {
            Some(format!("{}:{} {message}", file.as_deref().unwrap_or("?"), line.unwrap_or(0)))
        }
        _ => None,
    });
    words.collect::<Vec<_>>().join(" + ")
}

#[test]
fn sums_of_tests_are_read_as_their_tools_write_them() {
    for (line, wanted) in [
        (
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s",
            "cargo 12/0/1",
        ),
        ("     Summary [   1.027s] 103 tests run: 103 passed, 385 skipped", "nextest 103/0/385"),
        ("     Summary [   2.1s] 10 tests run: 7 passed (1 slow), 3 failed, 2 skipped", "nextest 7/3/2"),
        ("=================== 1 failed, 3 passed, 1 skipped in 0.12s ===================", "pytest 3/1/1"),
        ("============================== 5 passed in 0.01s ===============================", "pytest 5/0/0"),
        ("============= 2 failed, 1 warning in 61.20s (0:01:01) ==============", "pytest 0/2/0"),
        ("4 passed, 2 warnings in 0.30s", "pytest 4/0/0"),
        ("Tests:       1 failed, 2 skipped, 5 passed, 8 total", "jest 5/1/2"),
        ("Tests:       3 failed, 3 total", "jest 0/3/0"),
        ("      Tests  1 failed | 5 passed | 2 skipped (8)", "vitest 5/1/2"),
        ("      Tests  5 passed (5)", "vitest 5/0/0"),
        ("  5 passing (12ms)", "mocha 5/0/0"),
        ("  1 failing", "mocha 0/1/0"),
        ("ok  \texample.org/app/store\t0.013s", "go 1/0/0"),
        ("FAIL\texample.org/app/store\t0.004s", "go 0/1/0"),
    ] {
        assert_eq!(read(line), wanted, "{line}");
    }
}

#[test]
fn errors_are_read_as_their_tools_write_them() {
    for (line, wanted) in [
        (
            "main.c:3:5: error: 'x' undeclared (first use in this function)",
            "main.c:3 'x' undeclared (first use in this function)",
        ),
        ("main.c:1:10: fatal error: no.h: No such file or directory", "main.c:1 no.h: No such file or directory"),
        ("src/main.rs:4:5: error[E0308]: mismatched types", "src/main.rs:4 mismatched types"),
        ("error[E0432]: unresolved import `x`", "?:0 unresolved import `x`"),
        (
            "src/a.ts(3,7): error TS2322: Type 'string' is not assignable.",
            "src/a.ts:3 Type 'string' is not assignable.",
        ),
        (
            "src/a.ts:3:7 - error TS2322: Type 'string' is not assignable.",
            "src/a.ts:3 Type 'string' is not assignable.",
        ),
        ("  12:5  error  'x' is not defined  no-undef", "?:12 'x' is not defined"),
        ("./main.go:7:2: undefined: y", "./main.go:7 undefined: y"),
        ("thread 'main' panicked at src/main.rs:4:5:", "src/main.rs:4 panicked"),
        ("ValueError: invalid literal for int()", "?:0 ValueError: invalid literal for int()"),
        ("json.decoder.JSONDecodeError: Expecting value", "?:0 json.decoder.JSONDecodeError: Expecting value"),
        ("make: *** [Makefile:3: all] Error 1", "Makefile:3 Error 1"),
    ] {
        assert_eq!(read(line), wanted, "{line}");
    }
}

#[test]
fn prose_about_tests_and_errors_is_nothing() {
    for line in [
        "3 tests failed, I said",
        "Tests: all of them passed",
        "it passed in 3s",
        "the error: was in the log",
        "Error handling is done",
        "  1 failing test was fixed",
        "ok  then",
        "FAILED",
        "see main.go:7 for more",
        "Summary of the run: 3 passed",
        "make: Nothing to be done",
    ] {
        assert_eq!(read(line), "", "{line}");
    }
}
