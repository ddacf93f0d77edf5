//! The queue's verbs as people and scripts use them: what they print where, and how they exit.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::daemon::{Background, World};

fn git(dir: &std::path::Path, args: &[&str]) {
    let mut c = Command::new("git");
    c.current_dir(dir)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@b");
    c.env("GIT_COMMITTER_NAME", "a").env("GIT_COMMITTER_EMAIL", "a@b");
    let out = c.output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn task_add_prints_the_id_alone_and_says_the_rest_on_stderr() {
    let w = World::new();
    let said = w.say(&["task", "add", "fix the test"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "1\n"));
    assert!(said.err.contains("pool up"), "where it will go: {}", said.err);
    let said = w.say(&["task", "add", "another", "--json"]);
    let added = &said.json()[0];
    assert_eq!((added["id"].as_i64(), added["state"].as_str()), (Some(2), Some("queued")));
}

#[test]
fn a_task_takes_folder_branch_and_commit_from_where_the_user_stands() {
    let w = World::new();
    let repo = w.home.join("app");
    std::fs::create_dir_all(repo.join("sub")).unwrap();
    git(&repo, &["init", "-q", "-b", "feature/x"]);
    git(&repo, &["commit", "-q", "--allow-empty", "-m", "one"]);
    let mut add = w.home.orchwrap(["task", "add", "x"]);
    assert_eq!(w.run(add.current_dir(repo.join("sub"))).out, "1\n");
    let task = &w.json(&["task", "show", "1", "--json"])[0];
    assert_eq!(task["branch"], "feature/x");
    assert_eq!(task["cwd"].as_str().unwrap(), repo.join("sub").to_str().unwrap());
    assert_eq!(task["base_sha"].as_str().unwrap().len(), 40);
    let said = w.say(&["task", "add", "x", "-C", repo.to_str().unwrap(), "--branch", "new", "--base", "nothing"]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("nothing names no commit"), "{}", said.err);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_stored() {
    let w = World::new();
    let long = format!("BIG={}", "x".repeat(100_000));
    let mut many: Vec<String> = vec!["task".into(), "add".into(), "x".into()];
    for n in 0..11 {
        many.push("--env".into());
        many.push(long.replacen("BIG", &format!("BIG{n}"), 1));
    }
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases: [(&[&str], &str); 8] = [
        (&["task", "add", "x", "-C", "/no/such/folder"], "/no/such/folder"),
        (&["task", "add", "/compact now"], "--as-command"),
        (&["task", "add", "!ls"], "--literal"),
        (&["task", "add", "  "], "empty"),
        (&["task", "add", "x", "--agent", "claud"], "claude"),
        (&["task", "add", "x", "--branch", "x"], "no working tree"),
        (&["task", "add", "x", "--env", "1A=b"], "1A"),
        (&many, "at most"),
    ];
    for (args, says) in cases {
        let said = w.say(args);
        assert_eq!(said.code, Some(2), "{says}: {}", said.err);
        assert!(said.err.contains(says), "{says}: {}", said.err);
        assert_eq!(said.out, "");
    }
    assert_eq!(w.json(&["task", "ls", "--json", "--all"]), Vec::<serde_json::Value>::new());
}

#[test]
fn t09_control_characters_are_taken_out_and_the_task_says_so() {
    let w = World::new();
    let said = w.say(&["task", "add", "one\u{1b}[201~\u{7}two"]);
    assert!(said.err.contains("control characters were taken out"), "{}", said.err);
    let prompt = w.json(&["task", "show", "1", "--json"])[0]["prompt"].as_str().unwrap().to_owned();
    assert!(!prompt.contains('\u{1b}') && !prompt.contains('\u{7}'), "{prompt:?}");
}

#[test]
fn t18_what_a_file_says_gets_no_dangerous_variable() {
    let w = World::new();
    let line = r#"{"prompt":"x","env":{"LD_PRELOAD":"/evil.so"}}"#;
    let file = w.home.join("batch");
    std::fs::write(&file, line).unwrap();
    let said = w.say(&["task", "add", "--batch", "--file", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("LD_PRELOAD"), "{}", said.err);
    let said = w.say(&["task", "add", "x", "--env", "LD_PRELOAD=/mine.so"]);
    assert_eq!(said.code, Some(0));
    assert!(said.err.contains("LD_PRELOAD"), "warned: {}", said.err);
}

#[test]
fn a_batch_is_all_or_nothing() {
    let w = World::new();
    let mut add = w.home.orchwrap(["task", "add", "--batch", "-", "--priority", "4"]);
    let mut child = add.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"priority\":9}\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "1\n2\n", "{}", String::from_utf8_lossy(&out.stderr));
    let file = w.home.join("batch");
    std::fs::write(&file, "{\"prompt\":\"c\"}\n{\"prompt\":\"/bad\"}\n").unwrap();
    let said = w.say(&["task", "add", "--batch", "--file", file.to_str().unwrap()]);
    assert!(said.err.contains("task 2 of the batch"), "{}", said.err);
    let tasks = w.json(&["task", "ls", "--json"]);
    assert_eq!(tasks.iter().map(|t| t["priority"].as_i64().unwrap()).collect::<Vec<_>>(), [4, 9]);
}

#[test]
fn the_same_key_is_the_same_task() {
    let w = World::new();
    assert_eq!(w.ok(&["task", "add", "x", "--key", "k1"]), "1\n");
    let again = w.say(&["task", "add", "y", "--key", "k1"]);
    assert_eq!(again.out, "1\n");
    assert!(again.err.contains("nothing was added"), "{}", again.err);
}

#[test]
fn every_task_that_does_not_move_says_what_it_waits_for() {
    let w = World::new();
    w.ok(&["task", "add", "first"]);
    w.ok(&["task", "add", "second", "--after", "1"]);
    w.ok(&["task", "add", "third", "--hold"]);
    w.ok(&["task", "add", "fourth", "--not-before", "2h"]);
    let waits = |id: &str| w.json(&["task", "show", id, "--json"])[0]["waiting_for"].as_str().unwrap().to_owned();
    crate::support::wait_until("the scheduler to look at the first", || waits("1").contains("pool up").then_some(()));
    assert!(waits("2").contains("task 1"), "{}", waits("2"));
    assert!(waits("3").contains("release"), "{}", waits("3"));
    assert!(waits("4").contains("its time"), "{}", waits("4"));
    assert!(w.ok(&["task", "why", "1"]).contains("waits for"));
}

#[test]
fn wait_exits_as_documented() {
    let w = World::new();
    for text in ["one", "two", "three"] {
        w.ok(&["task", "add", text, "--hold"]);
    }
    assert_eq!(w.say(&["wait", "1", "--timeout", "10ms"]).code, Some(124));
    w.ok(&["task", "done", "1", "--note", "looked at it"]);
    assert_eq!(w.say(&["wait", "1"]).code, Some(0));
    w.ok(&["task", "fail", "2"]);
    assert_eq!(w.say(&["wait", "1", "2"]).code, Some(1));
    assert_eq!(w.say(&["wait", "2", "3", "1", "--any"]).code, Some(0));
    w.ok(&["task", "cancel", "3"]);
    assert_eq!(w.say(&["wait", "3"]).code, Some(1));
    assert_eq!(w.say(&["wait", "99"]).code, Some(1));
    assert_eq!(w.say(&["wait"]).code, Some(2));
    assert_eq!(w.say(&["wait", "zero"]).code, Some(2));
    let shown = w.ok(&["task", "show", "1"]);
    assert!(shown.contains("completed (manual)") && shown.contains("looked at it"), "{shown}");
}

#[test]
fn a_verb_that_does_not_fit_the_state_says_so_and_changes_nothing() {
    let w = World::new();
    w.ok(&["task", "add", "x", "--hold"]);
    w.ok(&["task", "add", "y", "--hold"]);
    w.ok(&["task", "done", "2"]);
    let said = w.say(&["task", "release", "1", "2"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("task 2 is completed: release is not possible"), "{}", said.err);
    assert_eq!(w.json(&["task", "show", "1", "--json"])[0]["state"], "held", "all or none");
    let said = w.say(&["task", "answer", "1", "yes"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("asks nothing"), "{}", said.err);
}

#[test]
fn events_are_ndjson_and_can_be_narrowed() {
    let w = World::new();
    w.ok(&["task", "add", "x", "--hold"]);
    w.ok(&["task", "add", "y", "--hold"]);
    w.ok(&["task", "done", "2"]);
    let all = w.json(&["events"]);
    assert_eq!(all.len(), 3);
    let first = all[0]["id"].as_i64().unwrap().to_string();
    assert_eq!(w.json(&["events", "--after", &first]).len(), 2);
    assert_eq!(w.json(&["events", "--task", "2"]).len(), 2);
    assert_eq!(w.json(&["events", "-n", "1"])[0]["data"]["state"], "completed");
    assert_eq!(w.json(&["events", "--type", "turn.*,note"]).len(), 0);
    assert_eq!(w.json(&["events", "--type", "task.*"]).len(), 3);
    assert_eq!(w.json(&["events", "--since", "1h"]).len(), 3);
    assert_eq!(w.say(&["events", "--since", "soon"]).code, Some(2));
    // A log reads the same events, for people.
    assert_eq!(w.ok(&["task", "log", "2"]).lines().count(), 2);
}

#[test]
fn followed_events_come_once_and_a_reader_that_leaves_is_no_error() {
    use std::io::{BufRead, BufReader};
    let w = World::new();
    w.ok(&["task", "add", "x", "--hold"]);
    let mut follow = w.home.orchwrap(["events", "-f", "-n", "10"]);
    let mut child = Background::start(follow.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["data"]["state"], "held");
    w.ok(&["task", "done", "1"]);
    assert_eq!(next()["data"]["state"], "completed");
    // It goes on with the next daemon where it was.
    w.kill_daemon(nix::sys::signal::Signal::SIGKILL);
    w.ok(&["task", "add", "y", "--hold"]);
    let event = next();
    assert_eq!((event["task"].as_i64(), event["data"]["state"].as_str()), (Some(2), Some("held")));
    drop(lines);
    w.ok(&["task", "done", "2"]);
    w.ok(&["task", "add", "z", "--hold"]);
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn listings_in_a_pipe_have_no_colour_and_ids_stand_free() {
    let w = World::new();
    w.ok(&["task", "add", "say \u{202e}x", "--hold"]);
    let listed = w.ok(&["task", "ls"]);
    assert!(!listed.contains('\u{1b}') && !listed.contains('\u{202e}'), "{listed:?}");
    assert!(listed.lines().nth(1).unwrap().starts_with("1 "), "{listed}");
    assert_eq!(w.say(&["ls"]).out, "");
    assert!(w.ok(&["status"]).contains("1 held"));
}
