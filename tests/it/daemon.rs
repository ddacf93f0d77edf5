//! The daemon: one of it, started cleanly, killed at will, and nothing is lost or told twice.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::daemon::{Background, World};
use crate::support::{Home, wait_until};

fn names(rows: &[Value], key: &str) -> Vec<String> {
    rows.iter().map(|r| r[key].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn f45_what_is_queued_is_read_without_a_daemon_and_none_is_started_to_look() {
    let w = World::new();
    assert!(w.ok(&["status"]).contains("not running"), "before there is anything");
    let id = w.ok(&["task", "add", "later", "--hold"]);
    w.kill_daemon(Signal::SIGTERM);
    let text = w.ok(&["status"]);
    assert!(text.contains("not running") && text.contains("1 held"), "{text}");
    assert_eq!(w.json(&["status", "--json"])[0]["tasks"]["held"], 1);
    assert_eq!(w.daemon_pid(), None);
    // A daemon that cannot start says why; the listing comes all the same, and the code tells.
    let config = w.home.join("config/orchwrap");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), "[queue]\nmax_lives = 1\n").unwrap();
    let said = w.say(&["task", "ls", "--json"]);
    assert_eq!((said.code, said.json()[0]["id"].to_string()), (Some(69), id.trim().to_owned()), "{}", said.err);
    assert!(said.err.contains("max_live") && said.err.lines().count() == 1, "{}", said.err);
    assert_eq!(w.say(&["ls"]).code, Some(69));
    // What is no database is named in one line, and stays as it is.
    let db = w.state().join("orchwrap.db");
    std::fs::write(&db, [7; 8192]).unwrap();
    // A daemon that ends in a hurry leaves a log, from which all of it can still be read.
    for log in ["orchwrap.db-wal", "orchwrap.db-shm"] {
        let _ = std::fs::remove_file(w.state().join(log));
    }
    let said = w.say(&["status"]);
    assert_eq!((said.code, said.err.lines().count()), (Some(69), 1), "{}", said.err);
    assert!(said.err.contains("orchwrap.db") && said.out.contains("runs      0 live"), "{} {}", said.out, said.err);
    assert_eq!(std::fs::read(&db).unwrap(), [7; 8192]);
}

#[test]
fn f52_one_daemon_wins_and_the_other_says_who_holds_the_lock() {
    let w = World::new();
    w.ok(&["daemon", "start"]);
    let pid = w.daemon_pid().unwrap();
    let second = w.say(&["daemon", "start", "--foreground"]);
    assert_ne!(second.code, Some(0));
    assert!(second.err.contains(&format!("pid {pid}")), "{}", second.err);
    w.ok(&["daemon", "start"]);
    assert_eq!(w.daemon_pid(), Some(pid), "a second start is no second daemon");
    w.ok(&["daemon", "stop"]);
    assert_eq!(w.daemon_pid(), None);
    assert_eq!(w.say(&["daemon", "status"]).code, Some(1));
}

#[test]
fn f52_a_stale_socket_and_a_stale_lock_file_stop_nobody() {
    let w = World::new();
    w.ok(&["daemon", "start"]);
    w.kill_daemon(Signal::SIGKILL);
    assert!(w.state().join("daemon.sock").exists(), "left behind");
    w.ok(&["task", "ls"]);
    assert!(w.daemon_pid().is_some());
}

#[test]
fn many_verbs_at_once_start_one_daemon() {
    let w = World::new();
    let verbs: Vec<_> = (0..6)
        .map(|n| {
            let mut c = w.home.orchwrap(["task", "add", &format!("number {n}")]);
            c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut ids = Vec::new();
    for verb in verbs {
        let out = verb.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        ids.push(String::from_utf8(out.stdout).unwrap().trim().to_owned());
    }
    ids.sort();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6"]);
}

#[test]
fn verbs_that_only_look_start_no_daemon() {
    let w = World::new();
    for verb in [vec!["status"], vec!["status", "--line"], vec!["events"]] {
        assert_eq!(w.say(&verb).code, Some(0), "{verb:?}");
        assert_eq!(w.daemon_pid(), None, "{verb:?}");
    }
    assert!(!w.state().join("daemon.sock").exists());
}

#[test]
fn t20_the_daemon_takes_nothing_from_whoever_happens_to_start_it() {
    let w = World::new();
    let mut verb = w.home.orchwrap(["daemon", "start"]);
    verb.env("MY_API_KEY", "secret").env("ORCHWRAP_SCORE_CWD", "7").env("XDG_DATA_HOME", "/x");
    assert_eq!(w.run(&mut verb).code, Some(0));
    let pid = w.daemon_pid().unwrap();
    let environ = String::from_utf8(std::fs::read(format!("/proc/{pid}/environ")).unwrap()).unwrap();
    let kept: Vec<_> = environ.split('\0').filter_map(|e| Some(e.split_once('=')?.0)).collect();
    assert!(kept.contains(&"PATH") && kept.contains(&"HOME") && kept.contains(&"XDG_DATA_HOME"), "{kept:?}");
    assert!(!environ.contains("secret") && !environ.contains("ORCHWRAP_SCORE_CWD"), "{kept:?}");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, pid, "it leads a session of its own");
}

#[test]
fn t21_a_state_folder_that_others_may_enter_is_refused_with_the_cure() {
    let w = World::new();
    std::fs::create_dir_all(w.state()).unwrap();
    std::fs::set_permissions(w.state(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = w.say(&["task", "ls"]);
    assert_eq!(said.code, Some(69));
    assert!(said.err.contains("chmod 700"), "{}", said.err);
    assert_eq!(said.err.lines().count(), 1, "one line: {}", said.err);
}

#[test]
fn t21_everything_in_the_state_folder_is_private() {
    let w = World::new();
    w.ok(&["task", "add", "x"]);
    let mut folders = vec![w.state()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            // Folders keep what is in them private; files have to do so themselves.
            assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", entry.path().display());
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

#[test]
fn a_state_path_of_200_bytes_works() {
    let home = Home::new();
    let long = home.join(&"x".repeat(200));
    let w = World { home };
    let mut add = w.home.orchwrap(["task", "add", "x"]);
    add.env("ORCHWRAP_STATE_DIR", &long);
    assert_eq!(w.run(&mut add).out, "1\n");
    let mut stop = w.home.orchwrap(["daemon", "stop"]);
    stop.env("ORCHWRAP_STATE_DIR", &long);
    assert_eq!(w.run(&mut stop).code, Some(0));
}

#[test]
fn f54_a_broken_configuration_is_one_line_and_a_bad_reload_keeps_the_old_one() {
    let w = World::new();
    let config = w.home.join("config").join("orchwrap");
    std::fs::create_dir_all(&config).unwrap();
    let file = config.join("config.toml");
    std::fs::write(&file, "[queue]\nmax_lives = 3\n").unwrap();
    let said = w.say(&["daemon", "start"]);
    assert_eq!(said.code, Some(69));
    assert!(
        said.err.contains("config.toml:2: unknown key `queue.max_lives`, the nearest is `max_live`"),
        "{}",
        said.err
    );
    std::fs::write(&file, "[queue]\nmax_live = 3\n").unwrap();
    w.ok(&["daemon", "start"]);
    let pid = w.daemon_pid().unwrap();
    std::fs::write(&file, "[queue\n").unwrap();
    let said = w.say(&["daemon", "reload"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("config.toml:1:"), "{}", said.err);
    assert_eq!(w.daemon_pid(), Some(pid), "it goes on with the old one");
}

#[test]
fn f49_a_newer_database_is_refused_in_one_line() {
    let w = World::new();
    w.ok(&["task", "add", "x"]);
    w.ok(&["daemon", "stop"]);
    let db = rusqlite_version(&w, 99);
    let said = w.say(&["task", "ls"]);
    assert_eq!(said.code, Some(69));
    assert!(said.err.contains("newer orchwrap"), "{}", said.err);
    assert!(db.exists());
}

fn rusqlite_version(w: &World, version: i64) -> std::path::PathBuf {
    let path = w.state().join("orchwrap.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", version).unwrap();
    path
}

/// Events of all runs by run: sequence number to type.
fn journaled(w: &World) -> BTreeMap<String, BTreeMap<u64, String>> {
    let mut runs: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
    for event in w.json(&["events", "-n", "100000"]) {
        if let (Some(run), Some(seq)) = (event["run"].as_str(), event["seq"].as_u64()) {
            let before = runs.entry(run.into()).or_default().insert(seq, event["type"].as_str().unwrap().into());
            assert_eq!(before, None, "told twice: {event}");
        }
    }
    runs
}

#[test]
fn f07_twenty_live_runs_are_found_again_and_every_event_is_told_once() {
    const RUNS: usize = 20;
    let w = World::new();
    w.ok(&["daemon", "start"]);
    let mut wrappers: Vec<_> = (0..RUNS).map(|_| w.wrap("echo up; read line; sleep 600")).collect();
    let seen = || w.json(&["ls", "--json"]).len();
    wait_until("twenty runs to be seen", || (seen() == RUNS).then_some(()));
    for _ in 0..3 {
        w.kill_daemon(Signal::SIGKILL);
        wait_until("twenty runs to be found again", || (seen() == RUNS).then_some(()));
    }
    for wrapper in &mut wrappers {
        assert!(wrapper.runs(), "agents do not notice");
    }
    let runs = wait_until("all journals to be read", || Some(journaled(&w)).filter(|r| r.len() == RUNS));
    for (run, events) in &runs {
        assert!(events.keys().copied().eq(1..=events.len() as u64), "{run}: {events:?}");
        assert_eq!(events[&1], "run.started");
    }
    wrappers.iter_mut().for_each(|w| w.end(Signal::SIGTERM));
    wait_until("no run to be left", || (seen() == 0).then_some(()));
}

#[test]
fn f09_a_run_whose_wrapper_was_killed_ends_once_whether_a_daemon_watched_or_not() {
    let w = World::new();
    w.ok(&["daemon", "start"]);
    let mut watched = w.wrap("sleep 600");
    wait_until("the run to be seen", || (w.json(&["ls", "--json"]).len() == 1).then_some(()));
    watched.end(Signal::SIGKILL);
    let exits = || -> Vec<Value> { w.json(&["events", "--type", "run.exited"]) };
    wait_until("its end to be told", || (exits().len() == 1).then_some(()));
    assert_eq!(exits()[0]["data"]["reason"], "wrapper_lost");

    let mut alone = w.wrap("sleep 600");
    wait_until("the second run to be seen", || (w.json(&["ls", "--json"]).len() == 1).then_some(()));
    w.kill_daemon(Signal::SIGKILL);
    alone.end(Signal::SIGKILL);
    w.ok(&["daemon", "start"]);
    wait_until("its end to be told", || (exits().len() == 2).then_some(()));
    w.ok(&["daemon", "restart"]);
    assert_eq!(exits().len(), 2, "an end is told once");
}

#[test]
fn f16_sigterm_ends_the_daemon_and_leaves_agents_alone() {
    let w = World::new();
    w.ok(&["daemon", "start"]);
    let mut wrapper = w.wrap("sleep 600");
    wait_until("the run to be seen", || (w.json(&["ls", "--json"]).len() == 1).then_some(()));
    w.kill_daemon(Signal::SIGTERM);
    assert!(!w.state().join("daemon.sock").exists());
    assert!(wrapper.runs());
    assert_eq!(w.json(&["ls", "--json"]).len(), 1, "the next daemon finds it");
    wrapper.end(Signal::SIGTERM);
}

#[test]
fn without_a_daemon_events_come_from_the_journals_and_say_so() {
    let w = World::new();
    let said = w.run(&mut w.home.orchwrap(["run", "--", "true"]));
    assert_eq!(said.code, Some(0));
    let said = w.say(&["events"]);
    assert!(said.err.contains("no daemon"), "{}", said.err);
    let kinds = names(&said.json(), "type");
    assert_eq!(kinds.first().map(String::as_str), Some("run.started"), "{kinds:?}");
    assert_eq!(kinds.last().map(String::as_str), Some("run.exited"), "{kinds:?}");
    // The daemon reads them later, and gives them numbers.
    w.ok(&["daemon", "start"]);
    let ingested = wait_until("the journal to be ingested", || {
        Some(w.json(&["events", "--type", "run.*"])).filter(|e| e.len() == 2)
    });
    assert!(ingested.iter().all(|e| e["id"].is_i64()));
}

#[test]
fn a_wait_outlives_its_daemon() {
    let w = World::new();
    w.ok(&["task", "add", "x", "--hold"]);
    let mut wait = w.home.orchwrap(["wait", "1"]);
    let mut wait = Background::start(wait.stderr(Stdio::null()));
    let first = w.daemon_pid().unwrap();
    w.kill_daemon(Signal::SIGKILL);
    wait_until("the waiting verb to start the next daemon", || w.daemon_pid().filter(|p| *p != first));
    assert!(wait.runs());
    w.ok(&["task", "done", "1"]);
    assert_eq!(wait.0.wait().unwrap().code(), Some(0));
}
