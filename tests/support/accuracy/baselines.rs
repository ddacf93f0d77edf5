//! How others tell what an agent does, in plain words of our own: what orchwrap is measured beside.
//!
//! Each gets what it can use, the bytes with their times, and a present: it knows when Enter was pressed. None of them
//! knows reasons, so a failure counts as found whatever its reason.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use orchwrap::extract::cast::Moment;
use orchwrap::extract::event::FailReason;
use orchwrap::extract::score::{Fact, Kind, Score, What};
use regex::Regex;

use super::{Case, Witnesses};

/// Screens are looked at so often.
const LOOK: Duration = Duration::from_millis(100);
/// A screen that stands still for so long means that the turn is over.
const QUIET: Duration = Duration::from_secs(2);
/// The rows at the bottom, in which an interface says how to interrupt it.
const FOOTER: usize = 8;

pub const NAMES: [&str; 3] =
    ["quiet screen, 2 s", "\"esc to interrupt\" in the last rows", "every regexp on every line"];

/// What the method called `name` scores.
pub fn score(case: &Case, name: &str) -> Score {
    let told = match NAMES.iter().position(|n| *n == name) {
        Some(0) => quiet(case),
        Some(1) => footer(case),
        _ => regexps(case),
    };
    let known = |f: &Fact| f.what.kind() != Kind::Code && f.what.kind() != Kind::Setup;
    let truth: Vec<Fact> = case.truth().into_iter().filter(known).map(without_reason).collect();
    Score::of(&truth, &told)
}

fn without_reason(fact: Fact) -> Fact {
    match fact.what {
        What::Failed { .. } => Fact { what: What::Failed { reason: FailReason::Other }, ..fact },
        _ => fact,
    }
}

fn fact(what: What, at: Duration) -> Fact {
    Fact { what, at: Some(at) }
}

/// Shows the screen every [`LOOK`], and the presses of Enter in between.
fn watch(case: &Case, mut look: impl FnMut(Duration, &[String], bool)) {
    // A terminal that is only looked at.
    let mut terminal = case.extractor(Witnesses::Rows);
    let (mut off, mut next, mut entered) = (0, Duration::ZERO, false);
    for (at, moment) in &case.recording.cast.moments {
        while next < *at {
            look(next, &terminal.screen().lines, std::mem::take(&mut entered));
            next += LOOK;
        }
        match moment {
            Moment::Output(bytes) => {
                terminal.feed(bytes, off, *at);
                off += bytes.len() as u64;
            }
            Moment::Input(bytes) => entered |= bytes.contains(&b'\r'),
            Moment::Resized(cols, rows) => terminal.resize(*cols, *rows, *at),
            Moment::Reported { .. } => {}
        }
    }
}

/// Hash of the screen with a quiet timer: something changes after an Enter, a turn; nothing for two seconds, its end.
fn quiet(case: &Case) -> Vec<Fact> {
    let (mut told, mut last, mut changed) = (Vec::new(), 0, Duration::ZERO);
    let (mut armed, mut open) = (false, false);
    watch(case, |now, rows, entered| {
        armed |= entered;
        let mut hasher = DefaultHasher::new();
        rows.hash(&mut hasher);
        if std::mem::replace(&mut last, hasher.finish()) != last {
            changed = now;
            if armed && !open {
                (open, armed) = (true, false);
                told.push(fact(What::Started, now));
            }
        } else if open && now >= changed + QUIET {
            open = false;
            told.push(fact(What::Completed, now));
        }
    });
    told
}

/// The words in the last rows: there, a turn; gone, its end.
fn footer(case: &Case) -> Vec<Fact> {
    let (mut told, mut open) = (Vec::new(), false);
    watch(case, |now, rows, _| {
        let last = rows.iter().rev().filter(|r| !r.trim().is_empty()).take(FOOTER);
        let busy = last.into_iter().any(|r| r.to_lowercase().contains("esc to interrupt"));
        if busy != open {
            open = busy;
            told.push(fact(if busy { What::Started } else { What::Completed }, now));
        }
    });
    told
}

/// Each regexp on each line of the output, escapes stripped, from the first Enter on.
fn regexps(case: &Case) -> Vec<Fact> {
    let escapes =
        Regex::new(r"\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[PX^_][^\x1b]*\x1b\\|\x1b.").unwrap();
    let done = Regex::new("✅.*complete|done|finished").unwrap();
    let failed = Regex::new("❌.*failed|error|exception").unwrap();
    let (mut told, mut entered, mut line) = (Vec::new(), false, String::new());
    for (at, moment) in &case.recording.cast.moments {
        match moment {
            Moment::Input(bytes) if bytes.contains(&b'\r') && !entered => {
                entered = true;
                told.push(fact(What::Started, *at));
            }
            Moment::Output(bytes) if entered => {
                line.push_str(&String::from_utf8_lossy(bytes));
                while let Some(end) = line.find('\n') {
                    let rest = line.split_off(end + 1);
                    let text = escapes.replace_all(&line, "").into_owned();
                    if done.is_match(&text) {
                        told.push(fact(What::Completed, *at));
                    }
                    if failed.is_match(&text) {
                        told.push(fact(What::Failed { reason: FailReason::Other }, *at));
                    }
                    line = rest;
                }
            }
            _ => {}
        }
    }
    told
}
