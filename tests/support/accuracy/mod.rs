//! Detection scored on every recording, for the table and for the tests: sets of witnesses, other timings, peers' methods.

#![allow(dead_code, unreachable_pub, reason = "shared by an example and a test binary, each of which uses its part")]

pub mod baselines;
pub mod retime;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orchwrap::extract::cast::Cast;
use orchwrap::extract::event::Draft;
use orchwrap::extract::pattern::Packs;
use orchwrap::extract::score::{Counts, Fact, Kind, Score, told};
use orchwrap::extract::{Extractor, Options};
use orchwrap::recording::{self, Recording};

/// What is known not to come out as it was, with whom and why. What comes out right must be taken off the list.
pub const KNOWN: &[(&str, Witnesses, &str)] = &[
    ("claude-code/2.1.329/own_subagent_120x40_hooks", Witnesses::Stream, BESIDE),
    ("claude-code/2.1.329/own_subagent_120x40_hooks", Witnesses::Screen, BESIDE),
    ("codex/0.169.0/interrupt", Witnesses::Rows, TITLE_ONLY),
    ("codex/0.169.0/own_interrupt_late_100x30_hooks", Witnesses::Rows, TITLE_ONLY),
];

const BESIDE: &str = "while an agent of its own works, the title and the frame say that it is busy: without reports the turn that \
                      started it and the one that its end begins are one";
const TITLE_ONLY: &str = "while words come it draws no row that says so: only the title tells that it works, and here that is \
                          not looked at";

/// Who may tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Witnesses {
    /// Hooks and session files, status reports of the stream, titles, the screen; where a recording has reports.
    All,
    /// `--no-hooks`: what the stream tells.
    Stream,
    /// Neither hooks nor status reports: what a person sees, the window's title with it.
    Screen,
    /// The rows alone: the title is not looked at either.
    Rows,
}

impl Witnesses {
    pub const EACH: [Self; 4] = [Self::All, Self::Stream, Self::Screen, Self::Rows];

    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Stream => "no hooks",
            Self::Screen => "screen and title",
            Self::Rows => "screen alone",
        }
    }
}

/// A recording, and whose it is.
pub struct Case {
    /// Its folder, from that of all recordings.
    pub name: String,
    /// The product.
    pub agent: String,
    pub pack: String,
    pub recording: Recording,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

/// Every recording.
pub fn cases() -> Vec<Case> {
    let read = |dir: &PathBuf| {
        let recording = Recording::load(dir).unwrap_or_else(|e| panic!("{e}"));
        let name = dir.strip_prefix(root()).unwrap().display().to_string();
        // A folder is named for the product, a pack for its command.
        let agent = name.split('/').next().unwrap().to_owned();
        let pack = agent.strip_suffix("-code").unwrap_or(&agent).to_owned();
        Case { name, agent, pack, recording }
    };
    let cases: Vec<Case> = recording::find(&root()).unwrap().iter().map(read).collect();
    assert!(cases.len() > 110, "only {} recordings found", cases.len());
    cases
}

impl Case {
    /// What these witnesses saw; none if the recording has none of the first of them.
    pub fn seen_by(&self, witnesses: Witnesses) -> Option<Cast> {
        match witnesses {
            Witnesses::All if self.recording.reports.is_empty() => None,
            Witnesses::All => Some(self.recording.with_reports()),
            Witnesses::Stream | Witnesses::Screen => Some(self.recording.cast.clone()),
            Witnesses::Rows => Some(retime::untitled(&self.recording.cast)),
        }
    }

    pub fn extractor(&self, witnesses: Witnesses) -> Extractor {
        let mut pack =
            Packs::builtin().get(&self.pack).unwrap_or_else(|| panic!("no pack {}", self.pack)).as_ref().clone();
        if matches!(witnesses, Witnesses::Screen | Witnesses::Rows) {
            pack.adapters.clear();
        }
        let Cast { cols, rows, .. } = self.recording.cast;
        let reports = witnesses == Witnesses::All;
        Extractor::new(Arc::new(pack), Options { cols, rows, reports })
    }

    /// The truth as far as it is scored: code is exact, in every recording, only where the agent prints its source.
    pub fn truth(&self) -> Vec<Fact> {
        self.scored(self.recording.truth.clone())
    }

    fn scored(&self, mut facts: Vec<Fact>) -> Vec<Fact> {
        facts.retain(|f| self.pack == "ollama" || f.what.kind() != Kind::Code);
        facts
    }

    /// What was told, compared with what is true.
    pub fn score(&self, said: &[(Duration, Draft)]) -> Score {
        Score::of(&self.truth(), &self.scored(told(said)))
    }

    pub fn known(&self, witnesses: Witnesses) -> Option<&'static str> {
        let known = |(name, w, _): &&(&str, Witnesses, &str)| *w == witnesses && self.name == *name;
        KNOWN.iter().find(known).map(|(_, _, why)| *why)
    }
}

/// Times from truth to event, for one table cell.
#[derive(Default, Clone)]
pub struct Latency(Vec<f64>);

impl Latency {
    pub fn add(&mut self, seconds: impl Iterator<Item = f64>) {
        self.0.extend(seconds);
    }

    /// Takes those of another cell in.
    pub fn append(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// Median, 95th percentile and longest, in milliseconds.
    pub fn summary(&self) -> Option<[f64; 3]> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: usize| sorted[(last * part).div_ceil(100)] * 1000.0;
        Some([at(50), at(95), at(100)])
    }
}

/// What a type of event scored with some witnesses, over the recordings of an agent.
#[derive(Default, Clone)]
pub struct Cell {
    pub counts: Counts,
    pub latency: Latency,
}

/// Scores by agent, witnesses (or method) and type.
#[derive(Default)]
pub struct Table {
    pub cells: BTreeMap<(String, String, Kind), Cell>,
    pub recordings: BTreeMap<(String, String), usize>,
}

impl Table {
    pub fn add(&mut self, agent: &str, how: &str, score: &Score) {
        *self.recordings.entry((agent.to_owned(), how.to_owned())).or_default() += 1;
        for kind in Kind::ALL {
            let counts = score.counts(kind);
            if counts != Counts::default() {
                let cell = self.cells.entry((agent.to_owned(), how.to_owned(), kind)).or_default();
                cell.counts += counts;
                cell.latency.add(score.latencies(kind));
            }
        }
    }
}
