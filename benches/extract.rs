//! The extractor against its parts: stripping and matching beside a `RegexSet` on each line and every regexp on each line,
//! the screen beside bare vt100; and what a chunk without a hit allocates.
//! Prints `bench NAME VALUE UNIT RATIO OF`; `--short` runs one small round.

mod corpus;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::hint::black_box;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orchwrap::extract::pattern::{Pack, Packs};
use orchwrap::extract::{Extractor, Options};
use regex::{Regex, RegexSet};

use crate::corpus::{log, tui};

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What a PTY read brings at most, nearly always.
const CHUNK: usize = 4096;

struct Size {
    rounds: usize,
    bytes: usize,
    /// The slow way gets this much of it.
    slow_bytes: usize,
}

fn main() {
    let size = if std::env::args().any(|a| a == "--short") {
        Size { rounds: 1, bytes: 2 << 20, slow_bytes: 64 << 10 }
    } else {
        Size { rounds: 9, bytes: 64 << 20, slow_bytes: 1 << 20 }
    };
    let patterns = patterns();
    let lines_pack = Arc::new(line_pack(&patterns));
    let tui_pack = Packs::builtin().get("claude").expect("it is built in").clone();
    for (name, corpus) in [("log", log(size.bytes)), ("tui", tui(size.bytes))] {
        let (mut ours, mut set, mut each) = (Vec::new(), Vec::new(), Vec::new());
        let regexes: Vec<Regex> = patterns.iter().map(|p| Regex::new(p).expect("a valid pattern")).collect();
        let regex_set = RegexSet::new(&patterns).expect("valid patterns");
        for _ in 0..size.rounds {
            ours.push(rate(corpus.len(), || extract(&lines_pack, &corpus)));
            set.push(rate(corpus.len(), || lines(&corpus).filter(|l| regex_set.is_match(l)).count()));
            let slow = &corpus[..size.slow_bytes.min(corpus.len())];
            each.push(rate(slow.len(), || lines(slow).map(|l| regexes.iter().filter(|r| r.is_match(l)).count()).sum()));
        }
        let (ours, set, each) = (median(ours), median(set), median(each));
        line(&format!("strip-match-{name}"), ours, "MB/s", Some((ours / set, "regexset-per-line")));
        line(&format!("strip-match-{name}-against-each"), ours, "MB/s", Some((ours / each, "every-regexp-per-line")));
        line(&format!("regexset-per-line-{name}"), set, "MB/s", None);
        line(&format!("every-regexp-per-line-{name}"), each, "MB/s", None);
    }
    let corpus = tui(size.bytes / 4);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        ours.push(rate(corpus.len(), || extract(&tui_pack, &corpus)));
        bare.push(rate(corpus.len(), || {
            let size = |n| NonZeroU16::new(n).expect("not zero");
            let mut parser = vt100::Parser::new(size(40), size(120), 0);
            corpus.chunks(CHUNK).for_each(|c| parser.process(c));
            usize::from(parser.screen().cursor_position().0)
        }));
    }
    let (ours, bare) = (median(ours), median(bare));
    line("screen-tui", ours, "MB/s", Some((ours / bare, "bare-vt100")));
    allocations(&lines_pack);
}

/// Counts the allocations of chunks in which nothing is found, once buffers have their size.
fn allocations(pack: &Arc<Pack>) {
    let quiet = "all is well here, nothing to see, go on please\r\n".repeat(80);
    let mut extractor = Extractor::new(Arc::clone(pack), Options { cols: 120, rows: 40, reports: false });
    let chunk = &quiet.as_bytes()[..CHUNK.min(quiet.len())];
    for n in 0..256u64 {
        extractor.feed(chunk, n * CHUNK as u64, Duration::from_millis(n));
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let chunks = 1024u64;
    for n in 0..chunks {
        extractor.feed(chunk, n * CHUNK as u64, Duration::from_millis(256 + n));
    }
    let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
    line("allocations-per-quiet-chunk", made as f64 / chunks as f64, "count", None);
}

fn extract(pack: &Arc<Pack>, corpus: &[u8]) -> usize {
    let mut extractor = Extractor::new(Arc::clone(pack), Options { cols: 120, rows: 40, reports: false });
    let (mut off, mut now, mut events) = (0, Duration::ZERO, 0);
    for chunk in corpus.chunks(CHUNK) {
        extractor.feed(chunk, off, now);
        off += chunk.len() as u64;
        now += Duration::from_millis(1);
        events += extractor.drain().len();
    }
    events
}

fn rate(bytes: usize, work: impl FnOnce() -> usize) -> f64 {
    let start = Instant::now();
    black_box(work());
    #[expect(clippy::cast_precision_loss, reason = "sizes of corpora are far below 2^52")]
    let megabytes = bytes as f64 / 1e6;
    megabytes / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn line(name: &str, value: f64, unit: &str, ratio: Option<(f64, &str)>) {
    let (ratio, of) = ratio.map_or(("-".to_owned(), "-"), |(r, of)| (format!("{r:.2}"), of));
    println!("bench {name} {value:.1} {unit} {ratio} {of}");
}

fn lines(corpus: &[u8]) -> impl Iterator<Item = &str> {
    corpus.split(|b| *b == b'\n').map(|l| std::str::from_utf8(l).unwrap_or(""))
}

/// 35 literals and 26 expressions of the kind that packs have.
fn patterns() -> Vec<String> {
    let mut all: Vec<String> = (0..35).map(|n| format!("marker number {n} was seen")).collect();
    for n in 0..13 {
        all.push(format!(r"^(?<file>[^\s:]+):(?<line>\d+)(:\d+)?: kind{n}: (?<message>.+)$"));
        all.push(format!(r"^result{n}: (ok|FAILED)\. (?<passed>\d+) passed; (?<failed>\d+) failed"));
    }
    all
}

fn line_pack(patterns: &[String]) -> Pack {
    let mut text = String::from("version = 1\nid = \"bench\"\nmode = \"line\"\n[launch]\ncommand = \"x\"\n");
    for (n, pattern) in patterns.iter().enumerate() {
        let _ =
            write!(text, "[[rule]]\nid = \"r{n}\"\nsays = \"error\"\nall = [{{ in = \"line\", row = '{pattern}' }}]\n");
    }
    Pack::parse_checked(Path::new("bench.toml"), &text).expect("a valid pack")
}
