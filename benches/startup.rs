//! Start-up of `true`, and what an idle wrapper costs, guard included, beside a bare relay. Prints
//! `bench NAME VALUE UNIT RATIO OF`; `--short` runs one small round.

mod relay;

use std::time::{Duration, Instant};

use relay::{Home, Who, line, median};

fn main() {
    relay::dispatch(|_, _| {});
    let rounds = if relay::is_short() { 5 } else { 200 };
    let home = Home::new();
    let mut times = [vec![], vec![], vec![]];
    for round in 0..rounds {
        let mut order = [Who::Bare, Who::Relay, Who::Orchwrap];
        order.rotate_left(round % 3);
        for who in order {
            let start = Instant::now();
            let (master, mut child) = home.start(who, &["true"]);
            let mut buffer = [0_u8; 1024];
            while matches!(rustix::io::read(&master, &mut buffer[..]), Ok(1..)) {}
            child.wait().expect("a child");
            times[who as usize].push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let [bare, floor, ours] = times.each_mut().map(|times| median(times));
    line("true_bare", bare, "ms", None);
    line("true_relay", floor, "ms", None);
    line("true", ours, "ms", Some((ours / floor, "relay")));

    let floor = idle(&home, Who::Relay);
    let ours = idle(&home, Who::Orchwrap);
    line("idle_pss", ours.0, "KiB", Some((ours.0 / floor.0, "relay")));
    line("idle_wake_ups", ours.1, "in_5_s", None);
}

/// PSS and wake-ups of everything between the terminal and the agent.
fn idle(home: &Home, who: Who) -> (f64, f64) {
    let (master, mut child) = home.start(who, &["sh", "-c", "echo ready; exec sleep 1000"]);
    let mut buffer = [0_u8; 1024];
    rustix::io::read(&master, &mut buffer[..]).expect("output");
    let agent = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    // Past everything that still follows a start: journal, packs, the first look at the screen.
    std::thread::sleep(Duration::from_secs(3));
    let pid = child.id().cast_signed();
    let between: Vec<i32> = std::iter::once(pid)
        .chain(orchwrap::linux::descendants(pid).iter().map(|stat| stat.id.pid).filter(|&pid| !agent(pid)))
        .collect();
    let pss = between.iter().map(|&pid| rollup(pid)).sum();
    let before: u64 = between.iter().map(|&pid| switches(pid)).sum();
    std::thread::sleep(Duration::from_secs(5));
    let after: u64 = between.iter().map(|&pid| switches(pid)).sum();
    child.kill().expect("a child");
    child.wait().expect("a child");
    (pss, (after - before) as f64)
}

fn rollup(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("our own child");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("its share of memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("our own child");
    let count = |task: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
        let text = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).and_then(|n| n.trim().parse().ok())
    };
    tasks.filter_map(count).sum()
}
