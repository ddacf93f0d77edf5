//! The wrapper in a real terminal, in pipes, and under every kind of end.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::terminal::Terminal;
use crate::support::{Home, is_running, noise, orchwrap, wait_until};

/// A line that writes `file` of `len` bytes in blocks of all sizes.
fn in_random_blocks(file: &str, len: usize) -> String {
    let sizes = noise(64, 7);
    let mut script = String::new();
    let mut at = 0;
    for (i, size) in sizes.iter().cycle().enumerate() {
        if at >= len {
            break;
        }
        let block = [1 + usize::from(*size), 4000 + usize::from(*size), 65_000 + usize::from(*size)][i % 3];
        let count = (block * if block < 300 { 400 } else { 64 }).min(len - at);
        script +=
            &format!("dd if={file} bs={block} skip={at} count={count} iflag=skip_bytes,count_bytes 2>/dev/null\n");
        at += count;
    }
    script
}

/// What the guard and the wrapper must not show: the agent's terminal as it wants it.
const RAW: &str = "stty raw -echo;";

#[test]
fn f24_f25_64_mib_in_random_blocks_come_out_byte_exact() {
    let home = Home::new();
    let sent = noise(64 << 20, 1);
    fs::write(home.join("noise"), &sent).unwrap();
    fs::write(home.join("script"), in_random_blocks("noise", sent.len())).unwrap();
    let mut terminal = Terminal::start(home.wrapped(&format!("{RAW} . ./script")));
    assert!(terminal.wait().success());
    let shown = terminal.shown();
    assert!(shown.len() >= sent.len(), "{} of {} bytes", shown.len(), sent.len());
    // What follows the agent's bytes can only be the undo of modes that noise switched on.
    assert!(shown[..sent.len()] == sent[..], "bytes differ");
    assert!(shown.len() < sent.len() + 1000);
}

#[test]
fn pipes_stay_pipes_byte_equal_and_apart() {
    let home = Home::new();
    let sent = noise(8 << 20, 2);
    fs::write(home.join("noise"), &sent).unwrap();
    let script = "cat; cat noise; head -c 70000 noise >&2; for i in 0 1 2; do [ -t $i ] && echo tty; done; exit 9";
    let mut child =
        home.wrapped(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from stdin").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(9));
    assert!(output.stdout == [b"from stdin", &sent[..]].concat());
    assert!(output.stderr == sent[..70_000]);
}

#[test]
fn two_streams_in_one_pipe_keep_their_order() {
    let home = Home::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let script = "i=0; while [ $i -lt 200 ]; do echo $i; echo $i >&2; i=$((i+1)); done";
    let mut child = home.wrapped(script).stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let expected: String = (0..200).map(|i| format!("{i}\n{i}\n")).collect();
    assert_eq!(text, expected);
}

#[test]
fn f34_a_broken_pipe_ends_the_command_as_without_us() {
    let home = Home::new();
    let line = format!("{{ {} run -- yes; echo $? >status; }} | head -n 1", orchwrap().display());
    let output = home.program("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(output.stdout, b"y\n");
    assert_eq!(fs::read_to_string(home.join("status")).unwrap(), "141\n");
}

#[test]
fn exit_codes_and_signals_are_passed_on() {
    let home = Home::new();
    for (script, status) in
        [("exit 0", 0), ("exit 77", 77), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -34 $$", 162)]
    {
        assert_eq!(home.wrapped(script).stdin(Stdio::null()).output().unwrap().status.code(), Some(status), "{script}");
        assert_eq!(Terminal::start(home.wrapped(script)).wait().code(), Some(status), "{script} in a terminal");
    }
    fs::write(home.join("plain"), "").unwrap();
    for (command, status) in [("./missing", 127), ("no-such-program", 127), ("./plain", 126), (".", 126)] {
        let output = home.orchwrap(["run", "--", command]).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{command}");
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(line.starts_with("orchwrap: ") && line.contains(command) && line.lines().count() == 1, "{line}");
    }
    let output = home.orchwrap(["run", "-C", "gone", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "f56: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_start_that_fails_leaves_the_terminal_as_it_was() {
    let home = Home::new();
    let mut terminal = Terminal::start(home.orchwrap(["run", "--", "no-such-program"]));
    let before = terminal.settings();
    assert_eq!(terminal.wait().code(), Some(127));
    assert_eq!(terminal.settings(), before);
    assert_eq!(terminal.text(), "orchwrap: no-such-program: command not found\r\n");
}

/// The case that careless wrappers lose: everything is written and the agent gone before anybody looked.
fn fast_exits(count: usize) {
    let home = Home::new();
    let text: String = (0..).map(|i| format!("{i:0999}\n")).take(20).collect();
    fs::write(home.join("text"), &text).unwrap();
    for i in 0..count {
        let mut terminal = Terminal::start(home.orchwrap(["run", "--", "cat", "text"]));
        assert!(terminal.wait().success());
        let shown = terminal.text().replace("\r\n", "\n");
        assert!(shown == text, "run {i}: {} of {} bytes", shown.len(), text.len());
    }
}

#[test]
fn fast_exits_come_out_whole() {
    fast_exits(100);
}

#[test]
#[ignore = "a thousand starts; run by hand: cargo nextest run --run-ignored only -E 'test(1000_of_1000)'"]
fn fast_exits_come_out_whole_1000_of_1000() {
    fast_exits(1000);
}

#[test]
fn f35_a_megabyte_of_input_arrives_byte_exact() {
    let home = Home::new();
    let sent = noise(1 << 20, 3);
    let script = format!("{RAW} echo ready; head -c {} >got; echo done", sent.len());
    let mut terminal = Terminal::start(home.wrapped(&script));
    terminal.wait_for("ready");
    terminal.enter(&sent);
    terminal.wait_for("done");
    assert!(terminal.wait().success());
    assert!(fs::read(home.join("got")).unwrap() == sent);
}

#[test]
fn f22_a_stuck_terminal_holds_the_agent_and_loses_nothing() {
    let home = Home::new();
    let sent = noise(8 << 20, 4);
    fs::write(home.join("noise"), &sent).unwrap();
    let mut terminal = Terminal::start(home.wrapped(&format!("{RAW} echo go; read x; cat noise; echo >written")));
    terminal.wait_for("go\n");
    terminal.pause(true);
    terminal.enter("\n");
    // It is stuck once the wrapper reads no more: the same count, looked at again and again.
    let read = || {
        let io = fs::read_to_string(format!("/proc/{}/io", terminal.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse::<usize>().unwrap()
    };
    let (mut last, mut same) = (0, 0);
    wait_until("the wrapper stops reading", || {
        let now = read();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same > 40 && now > 4096).then_some(())
    });
    assert!(last < 1 << 20, "{last} bytes were read although nobody takes them");
    assert!(!home.join("written").exists());
    terminal.pause(false);
    assert!(terminal.wait().success());
    assert!(terminal.shown()[3..][..sent.len()] == sent[..]);
}

#[test]
fn f23_both_directions_full_at_once_resume_byte_exact() {
    let home = Home::new();
    let sent = noise(2 << 20, 5);
    let mut terminal = Terminal::start(home.wrapped(&format!("{RAW} echo ready; exec head -c {}", sent.len())));
    terminal.wait_for("ready\n");
    terminal.pause(true);
    let rest = terminal.enter_some(&sent, Duration::from_millis(500));
    assert!(!rest.is_empty(), "nothing was ever full");
    terminal.pause(false);
    terminal.enter(rest);
    assert!(terminal.wait().success());
    assert!(terminal.shown()[6..][..sent.len()] == sent[..]);
}

#[test]
fn f20_a_background_process_that_holds_the_terminal_is_ended() {
    let home = Home::new();
    let script = "sh -c 'trap \"\" HUP; echo $$; exec sleep 300' & sleep 0.2; exit 4";
    let mut terminal = Terminal::start(home.wrapped(script));
    assert_eq!(terminal.wait().code(), Some(4));
    let pid: i32 = terminal.text().trim().parse().unwrap();
    assert!(!is_running(pid), "{pid} is left");
}

#[test]
fn what_leaves_the_terminal_behind_by_itself_may_stay() {
    let home = Home::new();
    let script = "setsid sh -c 'echo $$ >pid; exec sleep 300' </dev/null >/dev/null 2>&1 & while [ ! -s pid ]; do sleep 0.01; done";
    let mut terminal = Terminal::start(home.wrapped(script));
    assert!(terminal.wait().success());
    let pid: i32 = fs::read_to_string(home.join("pid")).unwrap().trim().parse().unwrap();
    assert!(is_running(pid));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// Switches on what agents switch on, and starts what must not outlive it.
const ENTANGLED: &str = r#"stty raw -echo
printf '\033[?1049h\033[?1003h\033[?1006h\033[?2004h\033[?1004h\033[>5u\033[?25l'
setsid sh -c 'trap "" HUP TERM; echo one $$; exec sleep 300' &
sh -c 'trap "" HUP; echo two $$; exec sleep 300' &
(sleep 300 & echo three $!)
trap "" HUP TERM
echo agent $$
while :; do sleep 0.1; done"#;

const UNDONE: [&str; 7] =
    ["\x1b[<1u", "\x1b[?25h", "\x1b[?1003l", "\x1b[?1006l", "\x1b[?2004l", "\x1b[?1004l", "\x1b[?1049l"];

fn pids(text: &str) -> Vec<i32> {
    ["one ", "two ", "three ", "agent "]
        .iter()
        .map(|name| {
            let rest = &text[text.find(name).unwrap() + name.len()..];
            rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
        })
        .collect()
}

#[test]
fn f09_f31_a_killed_wrapper_leaves_no_process_and_a_clean_terminal() {
    let home = Home::new();
    let mut terminal = Terminal::start(home.wrapped(ENTANGLED));
    let before = terminal.settings();
    for name in ["one ", "two ", "three ", "agent "] {
        terminal.wait_for(name);
    }
    wait_until("pids are whole", || terminal.text().ends_with('\n').then_some(()));
    let pids = pids(&terminal.text());
    assert_ne!(terminal.settings(), before, "raw while the agent runs");
    terminal.signal(Signal::SIGKILL);
    wait_until("the settings are back", || (terminal.settings() == before).then_some(()));
    for undo in UNDONE {
        terminal.wait_for(undo);
    }
    let killed = std::time::Instant::now();
    wait_until("the tree is gone", || pids.iter().all(|&pid| !is_running(pid)).then_some(()));
    assert!(killed.elapsed() < Duration::from_secs(20), "took {:?}", killed.elapsed());
    terminal.wait();
}

#[test]
fn f31_an_agent_that_is_killed_leaves_a_clean_terminal() {
    let home = Home::new();
    let script = format!("({ENTANGLED}) & wait $!");
    let mut terminal =
        Terminal::start(home.wrapped(&format!("{} kill -9 $$", script.replace("wait $!", "sleep 0.5;"))));
    let before = terminal.settings();
    assert_eq!(terminal.wait().code(), Some(137));
    assert_eq!(terminal.settings(), before);
    for undo in UNDONE {
        assert!(terminal.text().contains(undo), "{undo:?}");
    }
}

#[test]
fn signals_reach_the_agent_and_its_answer_counts() {
    let home = Home::new();
    for (signal, name, plain) in
        [(Signal::SIGTERM, "TERM", 143), (Signal::SIGINT, "INT", 130), (Signal::SIGHUP, "HUP", 129)]
    {
        let handled = format!("trap 'echo caught; exit 7' {name}; echo ready; while :; do sleep 0.05; done");
        let mut terminal = Terminal::start(home.wrapped(&handled));
        terminal.wait_for("ready");
        terminal.signal(signal);
        assert_eq!(terminal.wait().code(), Some(7), "{name}: {}", terminal.text());
        assert!(terminal.text().contains("caught"));

        let mut terminal = Terminal::start(home.wrapped("echo ready; exec sleep 300"));
        terminal.wait_for("ready");
        terminal.signal(signal);
        assert_eq!(terminal.wait().code(), Some(plain), "{name}");
    }
}

#[test]
fn f33_a_hangup_ends_a_direct_run_as_the_bare_command() {
    let home = Home::new();
    let script = "trap 'echo hup >hup; exit 5' HUP; echo ready; while :; do sleep 0.05; done";
    let terminal = Terminal::start(home.wrapped(script));
    terminal.wait_for("ready");
    let mut wrapper = terminal.hang_up();
    wait_until("the wrapper ends", || wrapper.try_wait().unwrap());
    assert_eq!(fs::read_to_string(home.join("hup")).unwrap(), "hup\n");
}

#[test]
fn ctrl_c_reaches_the_agent_through_its_own_terminal() {
    let home = Home::new();
    let mut terminal = Terminal::start(home.wrapped("echo ready; exec sleep 300"));
    terminal.wait_for("ready");
    terminal.enter("\x03");
    assert_eq!(terminal.wait().code(), Some(130));
}

#[test]
fn f30_the_last_size_of_a_storm_reaches_the_agent() {
    let home = Home::new();
    let script = "trap 'echo size $(stty size)' WINCH; echo ready $(stty size); while :; do sleep 0.02; done";
    let terminal = Terminal::sized(home.wrapped(script), 90, 30);
    // During the start, too.
    terminal.resize(91, 31);
    terminal.wait_for("ready");
    for i in 0..200 {
        terminal.resize(20 + i, 10 + i / 4);
    }
    terminal.resize(133, 44);
    terminal.wait_for("size 44 133");
}

#[test]
fn f34_no_term_and_no_size_are_handed_on() {
    let home = Home::new();
    let mut command = home.wrapped("echo \"[$TERM] $(stty size)\"");
    command.env_remove("TERM");
    let mut terminal = Terminal::sized(command, 0, 0);
    assert!(terminal.wait().success());
    assert_eq!(terminal.text(), "[] 0 0\r\n");
}

#[test]
fn the_status_query_is_answered_unless_told_not_to() {
    let home = Home::new();
    let script = format!("{RAW} printf '\\033]7501;?\\007'; head -c 9 >reply; printf 'end'");
    let mut terminal = Terminal::start(home.wrapped(&script));
    assert!(terminal.wait().success());
    assert_eq!(fs::read(home.join("reply")).unwrap(), b"\x1b]7501;?\x07");
    assert_eq!(terminal.text(), "\x1b]7501;?\x07end", "the terminal sees the query, too");

    let mut terminal = Terminal::start(home.orchwrap(["--no-status-reply", "run", "--", "sh", "-c", &script]));
    terminal.wait_for("\x07");
    terminal.enter("012345678");
    assert!(terminal.wait().success());
    assert_eq!(fs::read(home.join("reply")).unwrap(), b"012345678");
}

/// An interactive shell with job control, as a person has one.
pub(crate) fn shell(home: &Home) -> Terminal {
    let mut command = home.program("sh");
    command.arg("-i").env("PS1", "$ ").env("O", orchwrap());
    let terminal = Terminal::start(command);
    terminal.wait_for("$ ");
    terminal
}

#[test]
fn f32_ctrl_z_stops_the_job_and_fg_goes_on() {
    let home = Home::new();
    let terminal = shell(&home);
    fs::write(home.join("agent"), "printf '\\033[?2004h'; echo ready; while read x; do echo \"got $x\"; done").unwrap();
    let cooked = terminal.settings();
    terminal.enter("$O run -- sh agent\n");
    terminal.wait_for("ready");
    terminal.enter("\x1a");
    terminal.wait_for("Stopped");
    terminal.wait_for("\x1b[?2004l");
    terminal.wait_for_nth("$ ", 2);
    assert_eq!(terminal.settings().3, cooked.3, "a sane terminal while stopped");
    terminal.resize(101, 33);
    terminal.enter("echo still $((40 + 2))\n");
    terminal.wait_for("still 42");
    terminal.enter("fg\n");
    terminal.wait_for_nth("\x1b[?2004h", 2);
    terminal.enter("hello\n");
    terminal.wait_for("got hello");
    terminal.enter("\x04");
    terminal.wait_for_nth("$ ", 4);
    terminal.enter("echo left $(stty size)\n");
    terminal.wait_for("left 33 101");
    terminal.enter("exit\n");
}

#[test]
fn bg_lets_a_job_go_on_without_the_terminal() {
    let home = Home::new();
    let terminal = shell(&home);
    fs::write(home.join("agent"), "echo ready; while [ ! -e stop ]; do sleep 0.05; done; echo finished; exit 3")
        .unwrap();
    terminal.enter("$O run -- sh agent\n");
    terminal.wait_for("ready");
    terminal.enter("\x1a");
    terminal.wait_for("Stopped");
    terminal.enter("bg\n");
    terminal.enter("echo typed $((6 * 7))\n");
    terminal.wait_for("typed 42");
    fs::write(home.join("stop"), "").unwrap();
    terminal.wait_for("finished");
    terminal.enter("wait %1; echo status $?\n");
    terminal.wait_for("status 3");
    terminal.enter("exit\n");
}

#[test]
fn in_a_pipeline_the_keys_are_the_agents_only_once_it_asks() {
    let home = Home::new();
    let terminal = shell(&home);
    let cooked = terminal.settings();
    fs::write(
        home.join("agent"),
        "echo ready; while [ ! -e ask ]; do sleep 0.02; done; read x </dev/tty; echo \"got $x\"",
    )
    .unwrap();
    terminal.enter("$O run -- sh agent | cat\n");
    terminal.wait_for("ready");
    assert_eq!(terminal.settings().3 & nix::libc::ICANON, cooked.3 & nix::libc::ICANON, "left alone until then");
    fs::write(home.join("ask"), "").unwrap();
    wait_until("the terminal is raw", || (terminal.settings().3 & nix::libc::ICANON == 0).then_some(()));
    terminal.enter("keys\r");
    terminal.wait_for("got keys");
    terminal.enter("exit\n");
}

#[test]
fn idle_the_wrapper_sleeps_and_is_small() {
    let home = Home::new();
    let terminal = Terminal::start(home.wrapped("echo ready; exec sleep 300"));
    terminal.wait_for("ready");
    let switches = |pid: i32| -> u64 {
        fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .map(|task| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
                status
                    .lines()
                    .filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
                    .sum::<u64>()
            })
            .sum()
    };
    let guard = orchwrap::linux::descendants(terminal.pid())[0].id.pid;
    let count = || switches(terminal.pid()) + switches(guard);
    // Whatever still goes on after the start ends at some point; from then on nothing wakes anybody.
    wait_until("a whole second without a wake-up", || {
        let before = count();
        std::thread::sleep(Duration::from_secs(1));
        (count() == before).then_some(())
    });
}

#[test]
fn a_wrapped_command_sees_no_descriptor_of_ours() {
    let home = Home::new();
    let output = home.orchwrap(["run", "--", "ls", "/proc/self/fd"]).stdin(Stdio::null()).output().unwrap();
    let bare = Command::new("ls").arg("/proc/self/fd").stdin(Stdio::null()).output().unwrap();
    let bare = String::from_utf8(bare.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), bare);
    let mut terminal = Terminal::start(home.orchwrap(["run", "--", "ls", "-1", "/proc/self/fd"]));
    terminal.wait();
    assert_eq!(terminal.text().replace('\r', ""), bare);
}

/// Not in the default suite: a gigabyte through a terminal takes a minute.
#[test]
#[ignore = "a gigabyte; run by hand: cargo nextest run --run-ignored only -E 'test(gibibyte)'"]
fn f24_a_gibibyte_comes_out_byte_exact() {
    let home = Home::new();
    let part = noise(32 << 20, 6);
    fs::write(home.join("noise"), &part).unwrap();
    fs::write(home.join("script"), in_random_blocks("noise", part.len())).unwrap();
    let parts = 32;
    let script = format!("{RAW} for i in $(seq {parts}); do . ./script; done");
    let mut terminal = Terminal::start(home.wrapped(&script));
    let pid = terminal.pid();
    terminal.wait_for_len(part.len());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
    assert!(terminal.wait().success());
    let shown = terminal.shown();
    assert!(shown.len() >= parts * part.len());
    assert!(shown.chunks(part.len()).take(parts).all(|chunk| chunk == part));
    println!("{} bytes exact, {peak}", parts * part.len());
}
