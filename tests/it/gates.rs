//! Gates that cannot be fooled: what they run on, what is told of it, and what is left of them. Real git, real daemon.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::prepare::World;
use crate::support::{is_running, wait_until};

/// Adds a file to the repository's last commit.
fn commit(w: &World, file: &str, text: &str) {
    let path = w.app().join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    w.git(&["add", "-f", "--", file]);
    w.git(&["commit", "-q", "-m", file]);
}

/// Every file of a folder with its content.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push((entry.path(), std::fs::read(entry.path()).unwrap())),
        }
    }
    found.sort();
    found
}

fn checkouts(w: &World) -> usize {
    std::fs::read_dir(w.home.join("state/orchwrap/gates")).into_iter().flatten().count()
}

/// The last gate event of a task.
fn verdict(w: &World, id: &str) -> Value {
    w.events(id, "gate.*").pop().unwrap()["data"].clone()
}

#[test]
fn t04_a_gate_runs_on_a_fresh_checkout_of_what_the_agent_left_and_leaves_no_trace() {
    let w = World::with_pool();
    commit(&w, ".gitignore", "ignored\n");
    commit(&w, "gone", "x");
    commit(&w, "folder/file", "x");
    let before = files(&w.app().join(".git"));
    let prompt =
        "run: cd ..; echo x > made; echo y > ignored; rm gone; rm -r folder; ln -s sub folder; echo two > sub/file";
    let seen = w.home.join("seen");
    let gate = format!(
        "test -e ../made && test ! -e ../ignored && test ! -e ../gone && test -L ../folder && grep -q two file && \
         {{ pwd; git status --porcelain; git log -1 --format=%s; }} > {}",
        seen.display()
    );
    let id = w.add(prompt, &["-C", "sub", "--gate", &gate]);
    let task = w.until(&id, "completed");
    assert_eq!((&task["proof"], &task["attempts"]), (&json!("gate"), &json!(1)), "{task:#}");
    let seen = std::fs::read_to_string(&seen).unwrap();
    let mut lines: Vec<_> = seen.lines().collect();
    assert!(lines.remove(0).ends_with("/state/orchwrap/gates/1.1/app/sub"), "{seen}");
    assert_eq!(lines.pop(), Some("folder/file"), "the agent's commit is HEAD there");
    assert_eq!(lines, [" D folder/file", " D gone", " M sub/file", "?? folder", "?? made"]);

    let data = verdict(&w, &id);
    assert_eq!(data["ran"], "fresh checkout");
    let mut add = w.home.program("git");
    let index = w.home.join("index");
    add.args(["-c", "core.safecrlf=false", "add", "-A"]).current_dir(w.app()).env("GIT_INDEX_FILE", &index);
    assert_eq!(files(&w.app().join(".git")), before, "nothing was written there");
    assert!(add.status().unwrap().success());
    let tree = w.home.program("git").arg("write-tree").current_dir(w.app()).env("GIT_INDEX_FILE", &index).output();
    assert_eq!(data["tree"], String::from_utf8(tree.unwrap().stdout).unwrap().trim_end(), "{data}");
    assert_eq!(data["base"], w.git(&["rev-parse", "HEAD"]));
    assert_eq!(checkouts(&w), 0);
    let shown = w.ok(["task", "show", &id]);
    assert!(shown.contains("gate passed on a fresh checkout of tree "), "{shown}");
}

#[test]
fn t04_the_agents_notes_about_its_files_hide_nothing() {
    let w = World::with_pool();
    let hide = "run: git update-index --assume-unchanged file; git config core.trustctime false; echo bad > file";
    let id = w.add(hide, &["--gate", "grep -qx one file", "--attempts", "1"]);
    let task = w.until(&id, "failed");
    assert_eq!(task["reason"], "gate_failed", "{task:#}");
    // A repository that is another one now decides nothing.
    let id = w.add("run: rm -rf .git; git init -q", &["--gate", "true", "--attempts", "1"]);
    assert_eq!(w.until(&id, "review")["reason"], "gate_checkout_failed");
}

#[test]
fn t04_edits_of_what_a_gate_rests_on_are_told_and_may_be_undone() {
    let w = World::with_pool();
    commit(&w, "ci.sh", "exit 1\n");
    commit(&w, "tests/old.sh", "mine\n");
    commit(&w, "package.json", r#"{"scripts":{"test":"x"},"dependencies":{}}"#);
    // What the user has changed already is not the agent's doing.
    std::fs::write(w.app().join("tests/old.sh"), "changed by me\n").unwrap();
    let edit = "run: echo true > ci.sh; echo x > plain; echo '{\"scripts\":{\"test\":\"x\"}}' > package.json";
    let id = w.add(edit, &["--gate", "sh ./ci.sh"]);
    let task = w.until(&id, "completed");
    assert_eq!((&task["proof"], &task["reason"]), (&json!("gate"), &json!("gate_edited")), "{task:#}");
    assert_eq!(verdict(&w, &id)["gate_edited"], json!(["ci.sh"]));
    let shown = w.ok(["task", "show", &id]);
    assert!(shown.contains("gate passed, but the agent edited: ci.sh"), "{shown}");
    w.git(&["checkout", "-q", "--", "ci.sh"]);

    // In place it is told too, and where it ran.
    let id = w.add("run: echo true > ci.sh", &["--gate", "sh ./ci.sh", "--gate-in-place"]);
    w.until(&id, "completed");
    assert_eq!((&verdict(&w, &id)["ran"], &verdict(&w, &id)["gate_edited"]), (&json!("in place"), &json!(["ci.sh"])));
    w.git(&["checkout", "-q", "--", "ci.sh"]);

    // The project may leave it to a human; the rules are those of the submission, not what the agent makes of them.
    commit(&w, ".orchwrap.toml", "[gate]\non_edit = \"review\"\n");
    let undo = "run: echo true > ci.sh; printf '[gate]\\nwatch = []\\n' > .orchwrap.toml";
    let id = w.add(undo, &["--gate", "sh ./ci.sh"]);
    assert_eq!(w.until(&id, "review")["reason"], "gate_edited");
    assert_eq!(verdict(&w, &id)["gate_edited"], json!([".orchwrap.toml", "ci.sh"]));
    w.git(&["checkout", "-q", "--", "ci.sh", ".orchwrap.toml"]);

    // Protected files come from the base: changed ones, removed ones, and new ones not at all.
    commit(&w, ".orchwrap.toml", "[gate]\nprotect = [\"ci.sh\", \"tests/**\"]\n");
    let cheat = "run: echo true > ci.sh; rm -r tests; mkdir tests; echo x > tests/new";
    let gate = "test -e tests/old.sh && test ! -e tests/new && ! sh ./ci.sh";
    let id = w.add(cheat, &["--gate", gate]);
    let task = w.until(&id, "completed");
    assert_eq!((&task["reason"], &verdict(&w, &id)["protected"]), (&Value::Null, &json!(["ci.sh", "tests/**"])));
    assert_eq!(std::fs::read_to_string(w.app().join("ci.sh")).unwrap(), "true\n", "the agent's work stays");
}

#[test]
fn a_fresh_checkout_is_made_ready_as_a_new_working_tree_is_and_what_it_lacks_is_told() {
    let w = World::with_pool();
    commit(&w, ".gitignore", ".env\nlibs/\nbuilt\n");
    commit(&w, ".orchwrap.toml", "[worktree]\ncopy = [\".env\"]\nlink = [\"libs\"]\nsetup = \"echo $A > built\"\n");
    std::fs::write(w.app().join(".env"), "SECRET=1").unwrap();
    std::fs::create_dir(w.app().join("libs")).unwrap();
    let gate = "grep -q SECRET .env && test -L libs && grep -qx 1 built && test \"$B\" = \"$PWD\"";
    let id = w.add("say: done", &["--gate", gate, "--env", "A=1", "--prereq", "export B=$PWD"]);
    assert_eq!(w.until(&id, "completed")["proof"], "gate");
    // A set-up that fails there is a gate that fails.
    commit(&w, ".orchwrap.toml", "[worktree]\nsetup = \"echo broken; test -e repaired\"\n");
    let id = w.add("say: done", &["--gate", "true", "--attempts", "1"]);
    let task = w.until(&id, "failed");
    assert!(task["detail"].as_str().unwrap().contains("broken"), "{task:#}");

    commit(&w, ".orchwrap.toml", "\n");
    let add = w.call(["task", "add", "say: done", "--pool", "p", "--gate", "test -e .env", "--attempts", "1"]);
    let told = String::from_utf8(add.stderr).unwrap();
    assert!(told.contains("without what git ignores (.env, libs)"), "{told}");
    let id = String::from_utf8(add.stdout).unwrap().trim_end().to_owned();
    let task = w.until(&id, "failed");
    assert!(task["detail"].as_str().unwrap().ends_with("without .env, libs: see --gate-in-place)"), "{task:#}");
    let id = w.add("say: done", &["--gate", "test -e .env", "--gate-in-place"]);
    assert_eq!(w.until(&id, "completed")["proof"], "gate");
}

#[test]
fn f08_a_gate_of_a_killed_daemon_is_gone_with_all_it_started_and_runs_again_from_a_clean_checkout() {
    let w = World::with_pool();
    let (go, pids) = (w.home.join("go"), w.home.join("pids"));
    // It leaves a file where it runs, and a process that left its group and its parent.
    let gate = format!(
        "test ! -e litter && touch litter && setsid sh -c 'echo $$ >> {0}; exec sleep 1000' & echo $$ >> {0}; wait; \
         while ! test -e {1}; do sleep 0.05; done",
        pids.display(),
        go.display()
    );
    let id = w.add("say: done", &["--gate", &gate]);
    w.until(&id, "verifying");
    let read = |n: usize| {
        let text = std::fs::read_to_string(&pids).unwrap_or_default();
        let pids: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
        (pids.len() >= n && text.ends_with('\n')).then_some(pids)
    };
    let first = wait_until("the gate runs", || read(2));
    w.kill_daemon();
    let all = wait_until("the gate runs again", || {
        let _ = w.call(["task", "ls"]);
        read(4)
    });
    for pid in &first {
        assert!(!is_running(*pid), "{pid} of the first gate is gone before the second begins");
    }
    std::fs::write(&go, "").unwrap();
    // The second one's own runaway keeps it waiting.
    for pid in &all[2..] {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.starts_with(b"sleep") {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    }
    w.until(&id, "completed");
    assert_eq!(w.received().len(), 1);
    let states = w.events(&id, "task.*");
    assert_eq!(states.iter().filter(|e| e["data"]["state"] == "completed").count(), 1, "{states:#?}");
    assert_eq!(w.events(&id, "gate.passed").len(), 1);
    wait_until("the checkout is gone", || (checkouts(&w) == 0).then_some(()));
}
