//! Configuration of agents that is planted in a repository. Real git, real daemon.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::prepare::World;

fn write(w: &World, file: &str, text: &str) {
    let path = w.app().join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Adds a task and returns its number and what was said beside it.
fn add(w: &World, args: &[&str]) -> (String, String) {
    let out = w.call(["task", "add", "say: done", "--pool", "p"].iter().chain(args));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{said}");
    (String::from_utf8(out.stdout).unwrap().trim_end().to_owned(), said)
}

#[test]
fn t16_what_stands_there_at_first_is_known_and_what_comes_later_is_asked_about_once() {
    let w = World::with_pool();
    write(&w, ".claude/settings.json", "{}");
    let (id, said) = add(&w, &[]);
    assert!(said.contains("is trusted from now on: .claude/settings.json"), "{said}");
    w.until(&id, "completed");
    // Prose is no configuration, and nothing else is asked about either.
    write(&w, "CLAUDE.md", "be nice");
    w.git(&["config", "user.nickname", "u"]);
    let (id, said) = add(&w, &[]);
    assert!(!said.contains("configures"), "{said}");
    w.until(&id, "completed");
    let sent = w.received().len();

    write(&w, ".claude/settings.json", r#"{"hooks":{}}"#);
    write(&w, ".claude/hooks/x.sh", "evil");
    write(&w, ".git/hooks/pre-commit", "#!/bin/sh\n");
    std::fs::set_permissions(w.app().join(".git/hooks/pre-commit"), std::fs::Permissions::from_mode(0o755)).unwrap();
    w.git(&["config", "alias.st", "!evil"]);
    let (id, said) = add(&w, &[]);
    let list =
        ".claude/hooks/x.sh (new), .claude/settings.json (changed), .git/config (new), .git/hooks/pre-commit (new)";
    assert!(said.contains(list), "{said}");
    let task = w.until(&id, "review");
    assert_eq!(task["reason"], "config_changed");
    assert!(task["detail"].as_str().unwrap().contains(list), "{task:#}");
    assert_eq!(w.received().len(), sent, "nothing is sent before a human says yes");

    // The answer is for what was found, not for what stands there by now.
    write(&w, ".claude/hooks/x.sh", "worse");
    assert!(!w.call(["task", "answer", &id, "yes", "--hash", "0000000000000000"]).status.success());
    assert!(!w.call(["task", "answer", &id, "perhaps"]).status.success());
    w.ok(["task", "answer", &id, "yes"]);
    let again = w.until(&id, "review");
    assert!(again["detail"].as_str().unwrap().contains("not known: .claude/hooks/x.sh (changed);"), "{again:#}");
    w.ok(["task", "answer", &id, "yes"]);
    w.until(&id, "completed");
    let (id, said) = add(&w, &[]);
    assert!(!said.contains("configures"), "{said}");
    w.until(&id, "completed");

    write(&w, ".mcp.json", "{}");
    let (id, _) = add(&w, &[]);
    w.until(&id, "review");
    w.ok(["task", "answer", &id, "no"]);
    assert_eq!(w.show(&id)["state"], "failed");
}

#[test]
fn t16_what_one_task_plants_stops_the_next() {
    let w = World::with_pool();
    let id = w.add("run: mkdir .claude; echo '{}' > .claude/settings.local.json", &[]);
    w.until(&id, "completed");
    let (id, _) = add(&w, &[]);
    let task = w.until(&id, "review");
    assert!(task["detail"].as_str().unwrap().contains(".claude/settings.local.json (new)"), "{task:#}");
    // A working tree of its own has nothing of that in it.
    let (id, _) = add(&w, &["--branch", "other"]);
    w.until(&id, "completed");
}

#[test]
fn t16_a_task_from_a_file_makes_nothing_known() {
    let w = World::with_pool();
    write(&w, ".mcp.json", "{}");
    let batch = w.home.join("batch");
    std::fs::write(&batch, json!({ "prompt": "say: done" }).to_string()).unwrap();
    let id = w.ok(["task", "add", "--file", batch.to_str().unwrap(), "--batch", "--pool", "p"]);
    assert_eq!(w.until(&id, "review")["reason"], "config_changed");
    assert_eq!(w.received().len(), 0);
}

#[test]
fn t16_a_changed_set_up_line_is_asked_about_before_it_runs() {
    let w = World::with_pool();
    write(&w, ".orchwrap.toml", "[worktree]\nsetup = \"true\"\n");
    let (id, said) = add(&w, &["-C", "sub", "--branch", "one"]);
    assert!(said.contains("trusted from now on: .orchwrap.toml (setup)"), "{said}");
    w.until(&id, "completed");
    let mark = w.home.join("mark");
    write(&w, ".orchwrap.toml", &format!("[worktree]\nsetup = \"touch {}\"\n", mark.display()));
    let (id, _) = add(&w, &["-C", "sub", "--branch", "two"]);
    assert_eq!(w.until(&id, "review")["reason"], "config_changed");
    assert!(!mark.exists());
    w.ok(["task", "answer", &id, "yes"]);
    w.until(&id, "completed");
    assert!(mark.exists());
}
