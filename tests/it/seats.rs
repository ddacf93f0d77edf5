//! The wrapper in the seats that have no person in front: panes, detached terminals, one-shots.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchwrap::clock;
use orchwrap::extract::pattern::Packs;
use orchwrap::ids::{Name, RunId};
use orchwrap::paths::{RunDir, StateDir};
use orchwrap::pty::rundir;
use orchwrap::run::{RunSpec, SPEC_VERSION, Seat};

use crate::support::terminal::Terminal;
use crate::support::{Home, is_running, wait_until};

/// The folder of a run of `sh -c SCRIPT`.
fn run_of(home: &Home, seat: Seat, script: &str) -> RunDir {
    let spec = RunSpec {
        v: SPEC_VERSION,
        run: RunId::random(),
        session: Name::sanitized("seat", "seat"),
        pool: None,
        agent: "sh".into(),
        pack: Packs::builtin().generic().id.clone(),
        argv: ["sh", "-c", script].map(String::from).to_vec(),
        cwd: home.path().canonicalize().unwrap(),
        seat,
        size: Some((101, 37)),
        created: clock::wall(),
        record: true,
        hooks: false,
        status_reply: true,
        takes_tasks: false,
        attempt: None,
        resume: None,
    };
    let path = (OsString::from("PATH"), std::env::var_os("PATH").unwrap());
    fs::create_dir_all(home.join("state")).unwrap();
    rundir::create(&StateDir::new(home.join("state/orchwrap")), &spec, &[path]).unwrap()
}

fn wrapper(home: &Home, dir: &RunDir) -> std::process::Command {
    home.orchwrap([OsString::from("__run"), PathBuf::from(dir.path()).into()])
}

/// The end of the run, as journaled.
fn exited(dir: &RunDir) -> serde_json::Value {
    wait_until("run.exited is journaled", || {
        let text = fs::read_to_string(dir.events()).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|e| e["type"] == "run.exited")
    })
}

#[test]
fn f33_a_pane_that_is_gone_ends_its_whole_tree_and_says_so() {
    let home = Home::new();
    let script = "trap '' HUP TERM; setsid sh -c 'echo $$ >left; exec sleep 300' & while [ ! -s left ]; do sleep 0.02; done; echo $$ >agent; echo ready; while :; do sleep 0.1; done";
    let dir = run_of(&home, Seat::Pane, script);
    let terminal = Terminal::start(wrapper(&home, &dir));
    terminal.wait_for("ready");
    let pids: Vec<i32> =
        ["left", "agent"].map(|f| fs::read_to_string(home.join(f)).unwrap().trim().parse().unwrap()).into();
    let mut wrapper = terminal.hang_up();
    wait_until("the wrapper ends", || wrapper.try_wait().unwrap());
    assert_eq!(exited(&dir)["data"]["reason"], "tmux_lost");
    assert!(pids.iter().all(|&pid| !is_running(pid)));
}

#[test]
fn a_detached_run_has_a_terminal_of_its_size_and_nobody_in_front() {
    let home = Home::new();
    let dir = run_of(&home, Seat::Detached, "stty size >size; tty >tty; echo out; exit 3");
    let output = wrapper(&home, &dir).stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"");
    assert_eq!(fs::read_to_string(home.join("size")).unwrap(), "37 101\n");
    assert!(fs::read_to_string(home.join("tty")).unwrap().starts_with("/dev/pts/"));
    let exited = exited(&dir);
    assert_eq!((&exited["data"]["code"], &exited["data"]["reason"]), (&3.into(), &"exit".into()));
}

#[test]
fn a_detached_agent_that_stops_itself_goes_on() {
    let home = Home::new();
    let dir = run_of(&home, Seat::Detached, "kill -TSTP $$; echo on >on");
    assert!(wrapper(&home, &dir).status().unwrap().success());
    assert!(home.join("on").exists());
}

#[test]
fn a_one_shot_reads_its_prompt_and_keeps_its_streams_to_itself() {
    let home = Home::new();
    let dir = run_of(
        &home,
        Seat::Oneshot,
        "cat >got; echo out; echo err >&2; for i in 0 1 2; do [ -t $i ] && echo $i >tty; done; exit 0",
    );
    rundir::write_private(&dir.path().join("prompt"), b"the prompt").unwrap();
    let output = wrapper(&home, &dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b""[..], &b""[..]));
    assert_eq!(fs::read_to_string(home.join("got")).unwrap(), "the prompt");
    assert!(!home.join("tty").exists());
    assert_eq!(exited(&dir)["data"]["reason"], "exit");
}

#[test]
fn f09_a_killed_wrapper_of_a_one_shot_leaves_no_process() {
    let home = Home::new();
    let dir = run_of(
        &home,
        Seat::Oneshot,
        "trap '' HUP TERM; sleep 300 & echo $! >left; echo $$ >agent; while :; do sleep 0.1; done",
    );
    rundir::write_private(&dir.path().join("prompt"), b"").unwrap();
    let mut wrapper = wrapper(&home, &dir).spawn().unwrap();
    let pid = |file: &str| {
        wait_until("the agent runs", || fs::read_to_string(home.join(file)).ok()?.trim().parse::<i32>().ok())
    };
    let pids = [pid("left"), pid("agent")];
    kill(Pid::from_raw(wrapper.id().cast_signed()), Signal::SIGKILL).unwrap();
    wrapper.wait().unwrap();
    wait_until("the tree is gone", || pids.iter().all(|&pid| !is_running(pid)).then_some(()));
    assert!(!rundir::is_alive(&dir), "the guard does not hold the run's lock");
}

#[test]
fn f17_a_killed_guard_ends_the_run_as_killed() {
    let home = Home::new();
    let dir = run_of(&home, Seat::Detached, "echo $$ >agent; exec sleep 300");
    let mut wrapper = wrapper(&home, &dir).spawn().unwrap();
    let agent: i32 = wait_until("the agent runs", || fs::read_to_string(home.join("agent")).ok()?.trim().parse().ok());
    let guard = orchwrap::linux::stat(agent).unwrap().parent;
    kill(Pid::from_raw(guard), Signal::SIGKILL).unwrap();
    let status = wait_until("the wrapper ends", || wrapper.try_wait().unwrap());
    assert_eq!(status.code(), Some(137));
    assert_eq!(exited(&dir)["data"]["signal"], 9);
    wait_until("the agent is gone", || (!is_running(agent)).then_some(()));
}

#[test]
fn f05_a_wrapper_that_does_not_answer_is_ended_with_its_whole_tree() {
    let home = Home::new();
    let script = "trap '' HUP TERM; sleep 300 & echo $! >left; echo $$ >agent; while :; do sleep 0.1; done";
    let dir = run_of(&home, Seat::Oneshot, script);
    rundir::write_private(&dir.path().join("prompt"), b"").unwrap();
    assert!(rundir::is_untouched(&dir), "nothing has begun");
    let mut wrapper = wrapper(&home, &dir).spawn().unwrap();
    let pid = |file: &str| {
        wait_until("the agent runs", || fs::read_to_string(home.join(file)).ok()?.trim().parse::<i32>().ok())
    };
    let pids = [pid("left"), pid("agent")];
    assert!(!rundir::is_untouched(&dir));
    let frozen = orchwrap::linux::proc_id(wrapper.id().cast_signed()).unwrap();
    kill(Pid::from_raw(frozen.pid), Signal::SIGSTOP).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(orchwrap::daemon::silent::end(frozen)), "known to be gone");
    wrapper.wait().unwrap();
    assert!(!rundir::is_alive(&dir) && pids.iter().all(|&pid| !is_running(pid)));
}
