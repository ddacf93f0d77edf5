//! Other ways to find the same patterns: in this process, and other programs where they are installed.

pub(crate) mod programs;

use regex::{Regex, RegexSet};

use crate::corpus::patterns::{EXPRESSIONS, PHRASES};

/// What everybody looks for, as expressions.
pub(crate) fn patterns() -> Vec<String> {
    let phrases = PHRASES.iter().map(|p| regex::escape(p));
    phrases.chain(EXPRESSIONS.iter().map(|(e, _)| (*e).to_owned())).collect()
}

/// Ways that need no other program.
pub(crate) struct InProcess {
    set: RegexSet,
    each: Vec<Regex>,
}

impl InProcess {
    pub(crate) fn new() -> Self {
        let all = patterns();
        let each = all.iter().map(|p| Regex::new(p).expect("a valid pattern")).collect();
        Self { set: RegexSet::new(&all).expect("valid patterns"), each }
    }

    /// Lines that match, by one `RegexSet` on each line.
    pub(crate) fn set(&self, text: &[u8]) -> usize {
        lines(text).filter(|l| self.set.is_match(l)).count()
    }

    /// Lines that match, by every expression on each line.
    pub(crate) fn each(&self, text: &[u8]) -> usize {
        lines(text).filter(|l| self.each.iter().filter(|r| r.is_match(l)).count() > 0).count()
    }
}

/// Counts lines and does nothing else: nobody is faster.
pub(crate) fn newlines(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    let lines = text.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    lines.map(|l| std::str::from_utf8(l).unwrap_or(""))
}
