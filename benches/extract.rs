//! Stripping and matching lines beside other ways to match; and what a chunk without a hit allocates.
//! Prints `bench NAME VALUE UNIT RATIO OF`; `--short` runs one small round.

mod corpus;
mod peers;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orchwrap::extract::event::Body;
use orchwrap::extract::pattern::Pack;
use orchwrap::extract::{Extractor, Options};
use regex::bytes::Regex;
use rustix::time::{ClockId, clock_gettime};

use crate::corpus::{log, tui};
use crate::peers::InProcess;
use crate::peers::programs::{self, Program};

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

/// What ends a frame, and a line for those who know no frames.
const FRAME_END: &[u8] = b"\x1b[?2026l\r\n";

/// Where a reader gives as much as it can.
const LARGE_CHUNK: usize = 64 << 10;

fn main() {
    let size = if std::env::args().any(|a| a == "--short") {
        Size { rounds: 1, bytes: 2 << 20, slow_bytes: 64 << 10 }
    } else {
        Size { rounds: 9, bytes: 64 << 20, slow_bytes: 1 << 20 }
    };
    let lines_pack = Arc::new(line_pack(&peers::patterns()));
    let dir = tempfile::tempdir().expect("a folder for other programs");
    let programs = programs::all(dir.path());
    // Those who go by lines need some in a drawing too: one for each frame.
    let frames = |text: Vec<u8>| {
        Regex::new(r"\x1b\[\?2026l").expect("a valid pattern").replace_all(&text, FRAME_END).into_owned()
    };
    for (name, corpus) in [("log", log(size.bytes)), ("tui", frames(tui(size.bytes)))] {
        strip_and_match(name, &corpus, &size, &lines_pack, &programs, dir.path());
    }
    allocations(&lines_pack);
}

/// Everybody over the same text in the same round, in an order that changes.
fn strip_and_match(name: &str, text: &[u8], size: &Size, pack: &Arc<Pack>, programs: &[Program], dir: &Path) {
    let (all, part) = (dir.join(name), dir.join(format!("{name}.part")));
    let slow = &text[..size.slow_bytes.min(text.len())];
    std::fs::write(&all, text).expect("write the corpus");
    std::fs::write(&part, slow).expect("write the corpus");
    let peers = InProcess::new();
    // Patterns are compiled before the measuring, ours as theirs.
    let reader = RefCell::new(Reader::new(pack));
    reader.borrow_mut().read(slow, CHUNK);
    let (ours, ours_large) = (format!("strip-match-{name}-4k"), format!("strip-match-{name}-64k"));
    type Way<'a> = (String, Box<dyn Fn() -> f64 + 'a>);
    let mut ways: Vec<Way<'_>> = vec![
        (ours.clone(), Box::new(|| rate(text.len(), || reader.borrow_mut().read(text, CHUNK)))),
        (ours_large, Box::new(|| rate(text.len(), || reader.borrow_mut().read(text, LARGE_CHUNK)))),
        (format!("{name}-newlines"), Box::new(|| rate(text.len(), || peers::newlines(text)))),
        (format!("{name}-regexset-per-line"), Box::new(|| rate(text.len(), || peers.set(text)))),
        (format!("{name}-every-regexp-per-line"), Box::new(|| rate(slow.len(), || peers.each(slow)))),
    ];
    for program in programs {
        let (file, bytes) = if program.slow { (&part, slow.len()) } else { (&all, text.len()) };
        ways.push((format!("{name}-{}", program.name), Box::new(move || program.rate(file, bytes))));
    }
    let mut rates = vec![Vec::new(); ways.len()];
    // The first round warms up: automata that grow as they go, files that are read for the first time.
    for round in 0..=size.rounds {
        for n in 0..ways.len() {
            let n = (n + round) % ways.len();
            let rate = ways[n].1();
            if round > 0 {
                rates[n].push(rate);
            }
        }
    }
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    for ((way, _), rate) in ways.iter().zip(&rates) {
        let of = format!("{ours} to it");
        line(way, *rate, "MB/s", (way != &ours).then_some((rates[0] / rate, of.as_str())));
    }
    if name == "log" {
        // Who is fast because it misses something is not fast: text without sequences has the same lines for all.
        assert_eq!(reader.borrow_mut().read(text, CHUNK), peers.set(text), "every line that matches is told");
    }
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

/// An extractor and how far it is.
struct Reader {
    extractor: Extractor,
    off: u64,
    now: Duration,
}

impl Reader {
    fn new(pack: &Arc<Pack>) -> Self {
        let extractor = Extractor::new(Arc::clone(pack), Options { cols: 120, rows: 40, reports: false });
        Self { extractor, off: 0, now: Duration::ZERO }
    }

    /// Reads a text and returns how many errors were told. A second goes by with each chunk, so that all are told and not
    /// just the first ones of a second.
    fn read(&mut self, text: &[u8], chunk: usize) -> usize {
        let mut errors = 0;
        for chunk in text.chunks(chunk) {
            self.extractor.feed(chunk, self.off, self.now);
            self.off += chunk.len() as u64;
            self.now += Duration::from_secs(1);
            errors += self.extractor.drain().iter().filter(|d| matches!(d.body, Body::Error { .. })).count();
        }
        errors
    }
}

/// MB/s of processor time: what else runs on the machine matters less.
fn rate(bytes: usize, work: impl FnOnce() -> usize) -> f64 {
    let spent = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("it counts from zero");
    let start = spent();
    black_box(work());
    #[expect(clippy::cast_precision_loss, reason = "sizes of corpora are far below 2^52")]
    let megabytes = bytes as f64 / 1e6;
    megabytes / (spent() - start).as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn line(name: &str, value: f64, unit: &str, ratio: Option<(f64, &str)>) {
    let (ratio, of) = ratio.map_or(("-".to_owned(), "-"), |(r, of)| (format!("{r:.2}"), of));
    println!("bench {name} {value:.1} {unit} {ratio} {of}");
}

fn line_pack(patterns: &[String]) -> Pack {
    let mut text = String::from("version = 1\nid = \"bench\"\nmode = \"line\"\n[launch]\ncommand = \"x\"\n");
    for (n, pattern) in patterns.iter().enumerate() {
        let _ = write!(
            text,
            "[[rule]]\nid = \"r{n}\"\nsays = \"error\"\nall = [{{ in = \"line\", row = '''{pattern}''' }}]\n"
        );
    }
    Pack::parse_checked(Path::new("bench.toml"), &text).expect("a valid pack")
}
