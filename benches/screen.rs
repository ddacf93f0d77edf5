//! The terminal model beside bare vt100, and the sentry of the I/O thread: a log, the frames of a full-screen program, and
//! what real agents wrote.
//! Rates are per second of CPU: what watching costs, whoever else runs meanwhile. Prints `bench NAME VALUE UNIT RATIO OF`; `--short` runs one small round.

mod corpus;

use std::hint::black_box;
use std::num::NonZeroU16;
use std::path::Path;

use orchwrap::extract::cast::Moment;
use orchwrap::recording::{self, Recording};
use orchwrap::term::grid::Grid;
use orchwrap::term::modes::Sentry;
use orchwrap::term::screen::{Screen as _, blank};
use rustix::time::{ClockId, clock_gettime};

use crate::corpus::{log, tui};

/// What a PTY read brings at most, nearly always.
const CHUNK: usize = 4096;
const COLS: u16 = 120;
const ROWS: u16 = 40;

fn main() {
    let short = std::env::args().any(|a| a == "--short");
    let (rounds, bytes) = if short { (1, 1 << 20) } else { (9, 16 << 20) };
    for (name, corpus) in [("log", log(bytes)), ("tui", tui(bytes)), ("recorded", recorded(bytes))] {
        let (mut ours, mut vt100, mut sentry) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(rate(&corpus, |chunks| {
                let mut grid = Grid::new(COLS, ROWS);
                chunks.for_each(|c| grid.process(c));
                black_box(&grid);
            }));
            vt100.push(rate(&corpus, |chunks| {
                let size = |n| NonZeroU16::new(n).expect("not zero");
                let mut parser = vt100::Parser::new(size(ROWS), size(COLS), 0);
                chunks.for_each(|c| parser.process(c));
                black_box(parser.screen().cursor_position());
            }));
            sentry.push(rate(&corpus, |chunks| {
                let mut sentry = Sentry::new();
                chunks.for_each(|c| sentry.feed(c, |_| {}));
                black_box(&sentry);
            }));
        }
        let (ours, vt100) = (median(ours), median(vt100));
        println!("bench screen-{name} {ours:.1} MB/s {:.2} bare-vt100", ours / vt100);
        println!("bench bare-vt100-{name} {vt100:.1} MB/s - -");
        println!("bench sentry-{name} {:.1} MB/s - -", median(sentry));
    }
    looks(if short { 1000 } else { 200_000 });
}

/// What a look costs when a spinner turned, and when nothing did.
fn looks(count: u32) {
    let mut grid = Grid::new(COLS, ROWS);
    grid.process(&tui(64 << 10));
    let mut text = blank(COLS, ROWS);
    for (name, frames) in [("one-row", [&b"\x1b[35;1H*"[..], b"\x1b[35;1H+"]), ("no-row", [b"", b""])] {
        let start = cpu_seconds();
        for n in 0..count {
            grid.process(frames[n as usize % 2]);
            black_box(grid.look(&mut text));
        }
        println!("bench look-{name} {:.3} us - -", (cpu_seconds() - start) * 1e6 / f64::from(count));
    }
}

/// What the agents in `tests/recordings` wrote, one after the other, until it is enough.
fn recorded(bytes: usize) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut once = Vec::new();
    for dir in recording::find(&root).expect("recordings") {
        for (_, moment) in Recording::load(&dir).expect("a recording").cast.moments {
            if let Moment::Output(output) = moment {
                once.extend(output);
            }
        }
    }
    once.iter().copied().cycle().take(bytes).collect()
}

#[expect(clippy::cast_precision_loss, reason = "sizes of corpora are far below 2^52")]
fn rate(corpus: &[u8], work: impl FnOnce(std::slice::Chunks<'_, u8>)) -> f64 {
    let start = cpu_seconds();
    work(corpus.chunks(CHUNK));
    corpus.len() as f64 / 1e6 / (cpu_seconds() - start)
}

/// What this thread used so far.
#[expect(clippy::cast_precision_loss, reason = "seconds of a bench")]
fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
