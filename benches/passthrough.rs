//! Pass-through: MB/s and processor time of the wrapper, extraction on and recording off, beside a bare relay; and output
//! that ends together with its program. Prints `bench NAME VALUE UNIT RATIO OF`; `--short` runs one small round.

mod relay;

use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use relay::{Home, Who, corpus, line, median};

fn main() {
    relay::dispatch(|_, _| {});
    let (rounds, len, exits) = if relay::is_short() { (1, 4 << 20, 20) } else { (9, 64 << 20, 1000) };
    let home = Home::new();
    for kind in ["log", "tui"] {
        let bytes = corpus(kind, len);
        std::fs::write(home.path().join(kind), &bytes).expect("room");
        let (mut speeds, mut ratios, mut cpu, mut cpu_ratios) = (vec![], vec![], vec![], vec![]);
        for round in 0..rounds {
            let mut order = [Who::Relay, Who::Orchwrap];
            order.rotate_left(round % 2);
            let mut got = [(0.0, 0.0); 2];
            for who in order {
                got[usize::from(who == Who::Orchwrap)] = pass(&home, who, kind, len);
            }
            let [(floor, floor_cpu), (ours, ours_cpu)] = got;
            speeds.push(ours);
            ratios.push(ours / floor);
            cpu.push(ours_cpu);
            cpu_ratios.push(ours_cpu / floor_cpu);
        }
        line(&format!("{kind}_speed"), median(&mut speeds), "MB/s", Some((median(&mut ratios), "relay")));
        line(&format!("{kind}_cpu"), median(&mut cpu), "s/GiB", Some((median(&mut cpu_ratios), "relay")));
    }
    let text: String = (0..20).map(|i| format!("{i:0999}\n")).collect();
    std::fs::write(home.path().join("text"), &text).expect("room");
    let whole = (0..exits).filter(|_| shown(&home, Who::Orchwrap, &["cat", "text"]).1 == text.len() + 20).count();
    line("fast_exits_whole", whole as f64, "runs", Some((whole as f64 / f64::from(exits), "all")));
}

/// Carries a file through; returns MB/s and seconds of processor a GiB, children included.
fn pass(home: &Home, who: Who, file: &str, len: usize) -> (f64, f64) {
    let before = cpu();
    let start = Instant::now();
    let (_, n) = shown(home, who, &["sh", "-c", &format!("stty raw -echo; exec cat {file}")]);
    let time = start.elapsed().as_secs_f64();
    assert!(n >= len, "{who:?} lost {} bytes", len - n);
    (len as f64 / 1e6 / time, (cpu() - before) * (1_u64 << 30) as f64 / len as f64)
}

fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage");
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

/// Reads a terminal to its end; returns the status and how many bytes it showed.
fn shown(home: &Home, who: Who, argv: &[&str]) -> (i32, usize) {
    let (master, mut child) = home.start(who, argv);
    let mut buffer = vec![0_u8; 256 * 1024];
    let mut n = 0;
    while let Ok(some @ 1..) = rustix::io::read(&master, &mut buffer[..]) {
        n += some;
    }
    (child.wait().expect("a child").code().unwrap_or(-1), n)
}
