//! The scripted agent, in a terminal of its own: it has to look and sound like the programs it stands in for.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use orchwrap::demo::agent::{Fact, Ledger};
use orchwrap::extract::event::Body;
use orchwrap::extract::pattern::Packs;
use orchwrap::extract::{Extractor, Options};

/// Patience with one thing that has to show up; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the terminal answers.
#[derive(Clone, Copy, PartialEq)]
enum Answers {
    /// Device attributes and the status protocol, at once.
    All,
    /// Device attributes only, as tmux does.
    Attributes,
}

/// A terminal with an agent in it.
struct Term {
    child: Child,
    input: std::fs::File,
    output: Receiver<Vec<u8>>,
    raw: Vec<u8>,
    model: vt100::Parser,
    answers: Answers,
    dir: tempfile::TempDir,
    /// Reads the same bytes with the shipped pack, as the wrapper does.
    extractor: Extractor,
    began: Instant,
    events: Vec<Body>,
}

impl Term {
    fn start(dialect: &str, answers: Answers, script: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script_path = dir.path().join("script.json");
        std::fs::write(&script_path, script).unwrap();
        let size = nix::pty::Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(&size, None).unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("orchwrap"));
        command
            .args(["__fake-agent", "--dialect", dialect, "--script"])
            .args([script_path.as_os_str(), OsStr::new("--ledger"), dir.path().join("ledger").as_os_str()])
            .arg("--")
            .args(args)
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .env("CODEX_HOME", dir.path().join(".codex"))
            .env_remove("TMUX")
            .stdin(copy(&pty.slave))
            .stdout(copy(&pty.slave))
            .stderr(copy(&pty.slave));
        // SAFETY: setsid and the ioctl are system calls without memory of ours; both are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(pty.slave);
        let input = std::fs::File::from(copy(&pty.master));
        let mut reader = std::fs::File::from(pty.master);
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let model = vt100::Parser::new(NonZero::new(40).unwrap(), NonZero::new(120).unwrap(), 0);
        let pack = Packs::builtin().get(if dialect == "repl" { "ollama" } else { dialect }).unwrap().clone();
        let extractor = Extractor::new(pack, Options { cols: 120, rows: 40, reports: false });
        let began = Instant::now();
        Self { child, input, output, raw: Vec::new(), model, answers, dir, extractor, began, events: Vec::new() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ledger(&self) -> Vec<Fact> {
        Ledger::read(&self.path().join("ledger")).unwrap().into_iter().map(|e| e.fact).collect()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    fn rows(&self) -> Vec<String> {
        self.model.screen().rows(0, 120).map(|r| r.trim_end().to_owned()).collect()
    }

    fn screen(&self) -> String {
        self.rows().join("\n")
    }

    fn write(&mut self, keys: &str) {
        let now = self.began.elapsed();
        self.extractor.typed(keys.as_bytes(), now);
        self.input.write_all(keys.as_bytes()).unwrap();
    }

    /// Pastes a prompt and presses Enter apart, once the box shows the prompt's last line.
    fn prompt(&mut self, text: &str) {
        self.write(&format!("\x1b[200~{text}\x1b[201~"));
        let last = text.lines().next_back().unwrap().to_owned();
        self.until(&format!("{last:?} in the box"), |t| t.screen().contains(&last));
        self.write("\r");
    }

    /// Reads until something is true.
    fn until(&mut self, what: &str, mut happened: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !happened(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left.min(Duration::from_millis(20))) {
                Ok(bytes) => self.take(&bytes),
                Err(_) if Instant::now() >= deadline => {
                    panic!("no {what}; the screen:\n{}\nraw: {:?}", self.screen(), self.text())
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The terminal is closed: only the process is still to be looked at.
                Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(Duration::from_millis(20)),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let mut reply = String::new();
        if self.answers == Answers::All && text.contains("\x1b]7501;?\x07") {
            reply.push_str("\x1b]7501;?\x07");
        }
        if text.contains("\x1b[c") {
            reply.push_str("\x1b[?1;2c");
        }
        if !reply.is_empty() {
            self.write(&reply);
        }
        let (off, now) = (self.raw.len() as u64, self.began.elapsed());
        self.extractor.feed(bytes, off, now);
        self.raw.extend_from_slice(bytes);
        self.model.process(bytes);
    }

    /// What the shipped pack made of it so far: turns, questions, limits.
    fn extracted(&mut self) -> Vec<&'static str> {
        let now = self.began.elapsed();
        while self.extractor.deadline().is_some_and(|at| at <= now) {
            self.extractor.tick(now);
        }
        self.events.extend(self.extractor.drain().into_iter().map(|d| d.body));
        let name = |body: &Body| {
            Some(match body {
                Body::TurnStarted {} => "started",
                Body::TurnCompleted { .. } => "completed",
                Body::TurnFailed { .. } => "failed",
                Body::TurnInterrupted { .. } => "interrupted",
                Body::PermissionAsked(_) => "permission",
                Body::PermissionAnswered { .. } | Body::QuestionAnswered { .. } => "answered",
                Body::QuestionAsked(_) => "question",
                Body::LimitReached { .. } => "limit",
                _ => return None,
            })
        };
        self.events.iter().filter_map(name).collect()
    }

    /// Waits until the shipped pack says that something ended so.
    fn until_extracted(&mut self, last: &str) {
        self.until(&format!("{last} from the pack"), |t| t.extracted().last() == Some(&last));
    }

    /// Waits until the pack takes the session for ready.
    fn until_idle(&mut self) {
        self.until("idleness from the pack", |t| {
            t.extracted();
            t.extractor.view().state == orchwrap::extract::event::SessionState::Idle
        });
    }

    fn exit_code(&mut self) -> i32 {
        self.until("the end", |t| t.child.try_wait().unwrap().is_some());
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_secs(1)) {
            self.take(&bytes);
        }
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// The states told by the status protocol, without what they carry.
    fn told(&self) -> Vec<String> {
        let text = self.text();
        let states = text.split("\x1b]7501;state=").skip(1);
        states.map(|s| s.split([':', '\x07', '\x1b']).next().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy(fd: &OwnedFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

fn settings(dir: &Path) -> String {
    let hook = |event: &str| {
        let line = format!("cat >> {0}/hooks; echo >> {0}/hooks", dir.display());
        (event.to_owned(), serde_json::json!([{"matcher": "", "hooks": [{"type": "command", "command": line}]}]))
    };
    let events = [
        "SessionStart",
        "UserPromptSubmit",
        "PreToolUse",
        "PermissionRequest",
        "PostToolUse",
        "Stop",
        "StopFailure",
        "SessionEnd",
    ];
    serde_json::json!({"hooks": events.into_iter().map(hook).collect::<serde_json::Map<_, _>>()}).to_string()
}

fn hook_names(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let names = text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    names.map(|v| v["hook_event_name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_granted_command_is_told_by_states_hooks_and_screen() {
    let elsewhere = tempfile::tempdir().unwrap();
    let settings = settings(elsewhere.path());
    let mut term = Term::start("claude", Answers::All, "{}", &["--permission-mode", "manual", "--settings", &settings]);
    term.until("readiness", |t| t.told().contains(&"idle".to_owned()));
    assert!(term.model.screen().alternate_screen() && term.model.screen().bracketed_paste());
    term.prompt("Make a file.\nask to run: touch made\nsay: Made `made`.");
    term.until("the question", |t| t.screen().contains("Do you want to proceed?"));
    assert!(term.rows().iter().any(|r| r == " ❯ 1. Yes"), "{}", term.screen());
    assert!(!term.path().join("made").exists());
    term.write("1");
    term.until("the end of the turn", |t| t.told().contains(&"done".to_owned()));
    assert!(term.path().join("made").exists());
    term.until("the input box", |t| t.screen().contains("? for shortcuts"));
    assert!(term.rows().iter().any(|r| r == "● Made made."), "{}", term.screen());
    assert!(!term.text().contains("Made made"), "blanks between words are jumped over");
    term.write("\x03");
    term.until("the hint", |t| t.screen().contains("Press Ctrl-C again to exit"));
    term.write("\x03");
    assert_eq!(term.exit_code(), 0);
    assert_eq!(term.told(), ["idle", "working", "working", "blocked", "working", "done", "clear", "clear"]);
    let names = hook_names(&elsewhere.path().join("hooks"));
    assert_eq!(
        names,
        ["SessionStart", "UserPromptSubmit", "PreToolUse", "PermissionRequest", "PostToolUse", "Stop", "SessionEnd"]
    );
    let ledger = term.ledger();
    assert!(matches!(&ledger[0], Fact::Received { text, .. } if text.starts_with("Make a file.\n")));
    assert_eq!(ledger.last(), Some(&Fact::Finished { answer: "Made `made`.".into() }));
}

#[test]
fn an_unanswered_status_query_leaves_the_title_and_the_screen() {
    let mut term = Term::start("claude", Answers::Attributes, "{}", &[]);
    term.until("readiness", |t| t.screen().contains("? for shortcuts"));
    term.prompt("think 300\nsay: Well.");
    term.until("the end of the turn", |t| t.screen().contains("for 0s · done") || t.screen().contains("for 1s · done"));
    assert!(term.told().is_empty());
    assert!(term.text().contains("\x1b]0;◐ Claude Code\x07"));
}

#[test]
fn a_swallowed_enter_leaves_the_text_in_the_box_and_the_ledger_empty() {
    let script = r#"{"rules":[{"when":["careful"],"swallow_enters":1,"steps":[{"say":"Done."}]}]}"#;
    let mut term = Term::start("claude", Answers::All, script, &[]);
    term.until("readiness", |t| t.told().contains(&"idle".to_owned()));
    term.prompt("be careful");
    term.write("x");
    term.until("the text in the box", |t| t.screen().contains("careful") && t.screen().contains("carefulx"));
    assert!(term.ledger().is_empty());
    term.write("\x7f\r");
    term.until("the end of the turn", |t| t.told().contains(&"done".to_owned()));
    let received: Vec<_> = term.ledger().into_iter().filter(|f| matches!(f, Fact::Received { .. })).collect();
    assert!(matches!(&received[..], [Fact::Received { text, .. }] if text == "be careful"));
}

#[test]
fn an_interrupt_before_the_first_word_gives_the_prompt_back() {
    let mut term = Term::start("claude", Answers::All, "{}", &[]);
    term.until("readiness", |t| t.told().contains(&"idle".to_owned()));
    term.prompt("never end");
    term.until("work", |t| t.screen().contains("esc to interrupt"));
    term.write("\x1b");
    term.until("idleness", |t| t.told().last().is_some_and(|s| s == "idle"));
    term.until("the prompt in the box", |t| t.rows().iter().any(|r| r == "❯\u{a0}never end"));
    assert_eq!(term.ledger().last(), Some(&Fact::Interrupted));
}

#[test]
fn failure_limit_and_crash_show_what_was_recorded() {
    let mut term = Term::start("claude", Answers::All, "{}", &[]);
    term.until("readiness", |t| t.told().contains(&"idle".to_owned()));
    term.prompt("fail with 500");
    term.until("the hint", |t| t.screen().contains("Resend your message to try again"));
    assert!(term.told().contains(&"error".to_owned()));
    term.prompt("hit the limit until 2:05am (UTC)");
    term.until("the banner", |t| t.screen().contains("Continuing automatically at 2:05am · Esc to cancel"));
    term.write("\x1b");
    term.until("the cancel", |t| t.screen().contains("Automatic continue cancelled"));
    term.prompt("crash with code 3");
    assert_eq!(term.exit_code(), 3);
    assert_eq!(term.ledger().last(), Some(&Fact::Crashed));
}

#[test]
fn the_trust_dialog_comes_first_and_refuses_by_default() {
    let mut term = Term::start("claude", Answers::All, r#"{"start":{"trust":true}}"#, &[]);
    term.until("the dialog", |t| t.told() == ["blocked"]);
    assert!(term.rows().iter().any(|r| r == " ❯ No, exit"), "{}", term.screen());
    term.write("\r");
    assert_eq!(term.exit_code(), 1);
}

#[test]
fn the_codex_dialect_reports_unasked_and_calls_notify() {
    let elsewhere = tempfile::tempdir().unwrap();
    let notify = format!(
        "notify=[\"/bin/sh\", \"-c\", \"printf '%s\\\\n' \\\"$1\\\" >> {}/notified\", \"notify\"]",
        elsewhere.path().display()
    );
    let mut term = Term::start("codex", Answers::Attributes, "{}", &["--no-daemon", "-c", &notify]);
    term.until("the start", |t| t.told() == ["idle", "working", "idle"]);
    term.prompt("ask to run: touch made\nsay: All made.");
    term.until("the question", |t| t.screen().contains("Would you like to run the following command?"));
    term.write("y");
    term.until("the end of the turn", |t| t.told().contains(&"done".to_owned()));
    term.until("the last line", |t| t.rows().iter().any(|r| r.starts_with("  Worked for ")));
    term.write("\x03");
    assert_eq!(term.exit_code(), 0);
    let notified = std::fs::read_to_string(elsewhere.path().join("notified")).unwrap();
    assert_eq!(notified.lines().count(), 2, "the hidden title thread notifies too: {notified}");
    assert!(notified.lines().last().unwrap().contains(r#""last-assistant-message":"All made.""#), "{notified}");
}

#[test]
fn the_line_dialect_ends_a_turn_with_the_full_prompt() {
    const PROMPT: &str = ">>> \x1b[38;5;245mSend a message (/? for help)";
    let mut term = Term::start("repl", Answers::Attributes, "{}", &["run", "model"]);
    term.until("the prompt", |t| t.text().contains(PROMPT));
    term.write("\x1b[200~two lines\nsay: the `answer`\x1b[201~");
    term.until("the echo", |t| t.text().contains("... "));
    term.write("\r");
    term.until("the second prompt", |t| t.text().matches(PROMPT).count() == 2);
    assert!(term.text().contains("the `answer`"));
    term.write("never end\r");
    term.until("the spinner", |t| t.text().contains("⠙ "));
    term.write("\x03");
    term.until("the third prompt", |t| t.text().contains(&format!("^C{PROMPT}")));
    term.write("/bye\r");
    assert_eq!(term.exit_code(), 0);
    assert_eq!(term.ledger().last(), Some(&Fact::Interrupted));
}

#[test]
fn one_shots_print_the_structured_stream() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("orchwrap"))
            .args(["__fake-agent", "--dialect"])
            .args(args)
            .current_dir(dir.path())
            .write_stdin("run: echo hi\nsay: done")
            .output()
            .unwrap();
        let lines: Vec<serde_json::Value> =
            String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        (output.status.code(), lines)
    };
    let (code, lines) = run(&["claude", "--", "-p", "--output-format", "stream-json", "--verbose"]);
    assert_eq!(code, Some(0));
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["result"], &last["is_error"]), (&"result".into(), &"done".into(), &false.into()));
    let (code, lines) = run(&["codex", "--", "exec", "--json", "-"]);
    assert_eq!(code, Some(0));
    assert_eq!(lines.last().unwrap()["type"], "turn.completed");
    assert!(lines.iter().any(|l| l["item"]["exit_code"] == 0));
}

/// Plays every kind of turn, and returns what the shipped pack made of it.
fn judged(dialect: &str, answers: Answers) -> Vec<&'static str> {
    let mut term = Term::start(dialect, answers, "{}", &["--permission-mode", "manual"]);
    let trap = "say: `API Error: 500` is what a broken server says.\\n\\n■ You’ve hit your usage limit.\\n\\nDo you want to proceed?\\n❯ 1. Yes\\n\\n✻ Cooked for 3s · done 1:00 AM\\n\\nesc to interrupt";
    let turns: [(&str, Option<&str>, &str); 6] = [
        ("think 300\nsay: It adds two numbers.", None, "completed"),
        (&format!("think 300\n{trap}\nthink 300"), None, "completed"),
        ("think 300\nask to run: touch made\nthink 300\nsay: Made.", Some("1"), "completed"),
        ("think 300\nask to run: touch made\nsay: Made.", Some("\x1b"), "interrupted"),
        ("think 300\nfail with 500", None, "failed"),
        ("say: I begin.\nnever end", Some("\x1b"), "interrupted"),
    ];
    for (prompt, key, end) in turns {
        term.until_idle();
        let seen = term.extracted().len();
        term.prompt(prompt);
        match key {
            Some("\x1b") if end == "interrupted" && prompt.contains("never") => {
                term.until("words", |t| t.extracted().len() > seen && t.screen().contains("I begin."));
                term.write("\x1b");
            }
            Some(key) => {
                term.until_extracted("permission");
                term.write(key);
            }
            None => {}
        }
        term.until(&format!("{end} from the pack for {prompt:?}"), |t| {
            t.extracted().len() > seen && t.extracted().last() == Some(&end)
        });
    }
    term.extracted()
}

const JUDGED: [&str; 16] = [
    "started",
    "completed",
    "started",
    "completed",
    "started",
    "permission",
    "answered",
    "completed",
    "started",
    "permission",
    "answered",
    "interrupted",
    "started",
    "failed",
    "started",
    "interrupted",
];

#[test]
fn the_shipped_pack_reads_the_claude_dialect_by_its_status() {
    assert_eq!(judged("claude", Answers::All), JUDGED);
}

#[test]
fn the_shipped_pack_reads_the_claude_dialect_by_its_screen_alone() {
    assert_eq!(judged("claude", Answers::Attributes), JUDGED);
}

#[test]
fn the_shipped_pack_reads_the_codex_dialect() {
    assert_eq!(judged("codex", Answers::Attributes), JUDGED);
}
