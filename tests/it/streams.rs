//! Streams and files at the edges of a run: who still writes when the agent is gone, what does not take what we write.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::terminal::Terminal;
use crate::support::{Home, orchwrap};
use crate::wrap::shell;

#[test]
fn f20_what_a_filter_behind_a_pipe_writes_after_the_agent_comes_out() {
    let home = Home::new();
    let script = "(sleep 0.6; echo hello) & exit 5";
    let output = home.wrapped(script).stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), &b"hello\n"[..]));
}

#[test]
fn f32_a_stray_continue_repeats_no_mode() {
    let home = Home::new();
    let script = "stty raw -echo; printf '\\033[>5uready'; head -c 1 >key; printf '\\033[<uend'";
    let mut terminal = Terminal::start(home.wrapped(script));
    terminal.wait_for("ready");
    for _ in 0..3 {
        terminal.signal(Signal::SIGCONT);
    }
    terminal.enter("x");
    assert!(terminal.wait().success());
    assert_eq!(terminal.text(), "\x1b[>5uready\x1b[<uend");
}

#[test]
fn f31_a_keyboard_mode_is_taken_back_as_often_as_it_was_pushed_across_a_stop() {
    let home = Home::new();
    let terminal = shell(&home);
    fs::write(home.join("agent"), "printf '\\033[>5uready'; kill -TSTP $$; printf 'back'").unwrap();
    terminal.enter("$O run -- sh agent\n");
    terminal.wait_for("Stopped");
    terminal.enter("fg\n");
    terminal.wait_for("back");
    terminal.wait_for_nth("$ ", 3);
    let text = terminal.text();
    let count = |what: &str| text.matches(what).count();
    assert_eq!((count("\x1b[>5u"), count("\x1b[<1u")), (2, 2), "{text:?}");
    terminal.enter("exit\n");
}

#[test]
fn f34_output_that_a_full_disk_does_not_take_is_said() {
    let home = Home::new();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = home.wrapped("echo x").stdin(Stdio::null()).stdout(full).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("orchwrap: write the output: No space left") && said.lines().count() == 1, "{said}");
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn t21_recordings_and_events_are_private_and_an_old_recording_stays_until_there_is_a_new_one() {
    let home = Home::new();
    let (record, events) = (home.join("out.raw"), home.join("events"));
    let run = |command: &[&str]| {
        let mut all = vec!["run", "--record", "out.raw", "--events", "events", "--"];
        all.extend(command);
        home.orchwrap(all).stdin(Stdio::null()).output().unwrap().status.code()
    };
    assert_eq!(run(&["echo", "a longer first line"]), Some(0));
    assert_eq!(fs::read(&record).unwrap(), b"a longer first line\n");
    assert_eq!((mode(&record), mode(&events)), (0o600, 0o600));
    assert_eq!(run(&["no-such-program"]), Some(127));
    assert_eq!(fs::read(&record).unwrap(), b"a longer first line\n");
    assert_eq!(run(&["echo", "second"]), Some(0));
    assert_eq!(fs::read(&record).unwrap(), b"second\n");
}

#[test]
fn the_mark_of_a_run_that_is_over_does_not_switch_wrapping_off() {
    let home = Home::new();
    let runs = || fs::read_dir(home.join("state/orchwrap/runs")).map_or(0, Iterator::count);
    let mut stale = home.orchwrap(["run", "--", "true"]);
    stale.env("ORCHWRAP_RUN", "abcdefgh1234").env("ORCHWRAP_RUN_DIR", "/nowhere");
    assert!(stale.stdin(Stdio::null()).status().unwrap().success());
    assert_eq!(runs(), 1, "wrapped");
    // Here the one around it lives.
    let inner = format!("{} run -- true", orchwrap().display());
    assert!(home.wrapped(&inner).stdin(Stdio::null()).status().unwrap().success());
    assert_eq!(runs(), 2, "passed through");
}

#[test]
fn t07_events_for_a_terminal_steer_nothing_and_lose_nothing() {
    let home = Home::new();
    fs::write(home.join("log"), "src/main.c:12:5: error: \u{202e}evil \u{200b}\n").unwrap();
    let output = home.orchwrap(["extract", "--format", "text", "log"]).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(!out.contains(['\u{202e}', '\u{200b}']), "{out:?}");
    let messages: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .filter(|e| e["type"] == "error")
        .map(|e| e["data"]["message"].clone())
        .collect();
    assert!(messages.iter().any(|m| m.as_str().unwrap().contains('\u{202e}')), "{out}");
}

#[test]
fn f63_events_of_more_runs_than_descriptors_are_all_there() {
    let home = Home::new();
    assert!(home.wrapped("true").stdin(Stdio::null()).status().unwrap().success());
    let runs = home.join("state/orchwrap/runs");
    let first = fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    for n in 0..60 {
        let copy = runs.join(format!("copy0000{n:04}"));
        fs::create_dir(&copy).unwrap();
        fs::copy(first.join("events.ndjson"), copy.join("events.ndjson")).unwrap();
    }
    let line = format!("ulimit -n 40; exec {} events --type run.exited -n 1000", orchwrap().display());
    let output = home.program("sh").args(["-c", &line]).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(out.lines().count(), 61, "{}", String::from_utf8_lossy(&output.stderr));
    // What cannot be read is said.
    fs::remove_file(runs.join("copy00000007/events.ndjson")).unwrap();
    fs::create_dir(runs.join("copy00000007/events.ndjson")).unwrap();
    let output = home.program("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 60);
    assert!(String::from_utf8(output.stderr).unwrap().contains("copy00000007"));
}
