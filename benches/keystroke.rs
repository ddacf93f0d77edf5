//! From a key to its echo on the terminal, quiet and under a flood of 5 MB/s, beside a bare relay. Prints
//! `bench NAME VALUE UNIT RATIO OF`; `--short` runs one small round.

mod relay;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use relay::{Home, Who, line, percentile};

/// The key, and its echo: nothing else in the flood is this byte.
const KEY: u8 = 1;

fn main() {
    relay::dispatch(agent);
    let (rounds, keys) = if relay::is_short() { (1, 50) } else { (9, 400) };
    let home = Home::new();
    let exe = std::env::current_exe().expect("our own path");
    let exe = exe.to_str().expect("a plain path");
    for (name, verb) in [("quiet", "__echo"), ("flood", "__flood")] {
        let mut times = [vec![], vec![]];
        let mut ratios = [vec![], vec![]];
        for round in 0..rounds {
            let mut order = [Who::Relay, Who::Orchwrap];
            order.rotate_left(round % 2);
            let mut got = [vec![], vec![]];
            for who in order {
                got[usize::from(who == Who::Orchwrap)] = strokes(&home, who, &[exe, verb], keys);
            }
            for (i, p) in [0.5, 0.99].into_iter().enumerate() {
                let [floor, ours] = &mut got;
                ratios[i].push(percentile(ours, p) / percentile(floor, p));
                times[i].push(percentile(ours, p));
            }
        }
        for (i, p) in ["p50", "p99"].into_iter().enumerate() {
            line(
                &format!("{name}_{p}"),
                relay::median(&mut times[i]),
                "us",
                Some((relay::median(&mut ratios[i]), "relay")),
            );
        }
    }
}

fn strokes(home: &Home, who: Who, argv: &[&str], keys: usize) -> Vec<f64> {
    let (master, mut child) = home.start(who, argv);
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut wait = |wanted: u8| loop {
        let n = rustix::io::read(&master, &mut buffer[..]).expect("output");
        if memchr::memchr(wanted, &buffer[..n]).is_some() {
            return;
        }
    };
    wait(b'R');
    let mut times = Vec::with_capacity(keys);
    for i in 0..keys {
        let start = Instant::now();
        rustix::io::write(&master, &[KEY]).expect("room for a key");
        wait(KEY);
        times.push(start.elapsed().as_secs_f64() * 1e6);
        // A person's pace would take minutes; enough that every part has gone to sleep again.
        let until = Instant::now() + Duration::from_micros(1500 + (i as u64 * 97) % 700);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
    child.kill().expect("a child");
    child.wait().expect("a child");
    times
}

/// The agent: echoes keys; under `__flood` it writes 5 MB/s of other bytes besides.
fn agent(verb: &str, _: &[OsString]) {
    let stdin = std::io::stdin();
    let mut termios = nix::sys::termios::tcgetattr(&stdin).expect("a terminal");
    nix::sys::termios::cfmakeraw(&mut termios);
    nix::sys::termios::tcsetattr(&stdin, nix::sys::termios::SetArg::TCSANOW, &termios).expect("a terminal");
    if verb == "__flood" {
        std::thread::spawn(|| {
            let filler = relay::corpus("tui", 5000);
            loop {
                let start = Instant::now();
                std::io::stdout().lock().write_all(&filler).expect("a terminal");
                std::thread::sleep(Duration::from_millis(1).saturating_sub(start.elapsed()));
            }
        });
    }
    let say = |bytes: &[u8]| {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).expect("a terminal");
    };
    say(b"R");
    let mut key = [0];
    while matches!(stdin.lock().read(&mut key), Ok(1)) {
        say(&key);
    }
}
