//! What text must contain to match a pattern: a few literals, of which each match has one.
//!
//! Letters count the same in both cases, so that `(?i)` costs nothing. A pattern may have no such literals: it says so.

use regex_syntax::hir::literal::{Extractor, rank};
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

/// Most literals that one pattern stands for.
const MAX_LITERALS: usize = 32;
/// Larger classes of characters are not spelled out.
const MAX_CLASS: usize = 4;

/// Returns what a byte becomes where upper and lower case are one; some signs become others, which is no harm.
pub(super) const fn fold(byte: u8) -> u8 {
    byte | 0x20
}

/// Returns folded literals of at least `min` bytes, one of which stands in whatever matches; none if there are none.
///
/// Of several choices it is the one whose best `window` bytes, and then the whole of it, are the rarest in text.
pub(super) fn required(pattern: &Hir, min: usize, window: usize) -> Option<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    flatten(&lower(pattern), &mut parts);
    let mut extractor = Extractor::new();
    extractor.limit_class(MAX_CLASS).limit_total(MAX_LITERALS);
    let starts = (0..parts.len()).filter_map(|at| {
        let seq = extractor.extract(&Hir::concat(parts[at..].to_vec()));
        let mut all: Vec<Vec<u8>> =
            seq.literals()?.iter().map(|l| l.as_bytes().iter().copied().map(fold).collect()).collect();
        all.sort();
        all.dedup();
        let usable = |l: &Vec<u8>| l.len() >= min && !contains_mark(l);
        (!all.is_empty() && all.iter().all(usable)).then_some(all)
    });
    let rarity = |all: &Vec<Vec<u8>>| {
        let least = all.iter().map(|l| rarity(&l[rarest(l, window)]) + rarity(l) / 4).min().unwrap_or(0);
        least.saturating_sub(4 * all.len())
    };
    starts.max_by_key(rarity)
}

/// Where the rarest `window` bytes of a literal are.
pub(super) fn rarest(literal: &[u8], window: usize) -> std::ops::Range<usize> {
    let window = window.min(literal.len());
    let at = (0..=literal.len() - window).max_by_key(|at| rarity(&literal[*at..at + window])).unwrap_or(0);
    at..at + window
}

fn rarity(bytes: &[u8]) -> usize {
    bytes.iter().map(|b| 256 - usize::from(rank(*b))).sum()
}

/// What stands for bytes that are no text comes out of decoding them and is not in the bytes.
fn contains_mark(literal: &[u8]) -> bool {
    literal.windows(3).any(|w| w == "\u{fffd}".as_bytes())
}

/// The parts of a match, one after the other. `x+` is cut into `x*x`: what follows it has an `x` before it.
fn flatten(hir: &Hir, out: &mut Vec<Hir>) {
    match hir.kind() {
        HirKind::Concat(parts) => parts.iter().for_each(|p| flatten(p, out)),
        HirKind::Capture(group) => flatten(&group.sub, out),
        HirKind::Repetition(repeat) if repeat.min > 0 => {
            let mut others = repeat.clone();
            others.min -= 1;
            others.max = others.max.map(|max| max - 1);
            out.push(Hir::repetition(others));
            flatten(&repeat.sub, out);
        }
        _ => out.push(hir.clone()),
    }
}

/// The same pattern over letters of lower case, where it lists them.
fn lower(hir: &Hir) -> Hir {
    let all = |parts: &[Hir]| parts.iter().map(lower).collect();
    match hir.kind() {
        HirKind::Literal(literal) => Hir::literal(literal.0.to_ascii_lowercase()),
        HirKind::Class(Class::Unicode(class)) if class.iter().map(|r| r.len()).sum::<usize>() <= 2 * MAX_CLASS => {
            let chars = class.iter().flat_map(|r| r.start()..=r.end()).map(|c| c.to_ascii_lowercase());
            Hir::class(Class::Unicode(ClassUnicode::new(chars.map(|c| ClassUnicodeRange::new(c, c)))))
        }
        HirKind::Class(Class::Bytes(class)) if class.iter().map(|r| r.len()).sum::<usize>() <= 2 * MAX_CLASS => {
            let bytes = class.iter().flat_map(|r| r.start()..=r.end()).map(|b| b.to_ascii_lowercase());
            Hir::class(Class::Bytes(ClassBytes::new(bytes.map(|b| ClassBytesRange::new(b, b)))))
        }
        HirKind::Repetition(repeat) => {
            let mut repeat = repeat.clone();
            repeat.sub = Box::new(lower(&repeat.sub));
            Hir::repetition(repeat)
        }
        HirKind::Capture(group) => {
            let mut group = group.clone();
            group.sub = Box::new(lower(&group.sub));
            Hir::capture(group)
        }
        HirKind::Concat(parts) => Hir::concat(all(parts)),
        HirKind::Alternation(parts) => Hir::alternation(all(parts)),
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => hir.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pattern: &str) -> Option<Vec<String>> {
        let hir = regex_syntax::parse(pattern).unwrap();
        let all = required(&hir, 4, 7)?;
        Some(all.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect())
    }

    #[test]
    fn literals_are_found_inside_a_pattern() {
        assert_eq!(of(r"^(?<file>[^\s:]+):\d+: (fatal )?error: (.+)$").unwrap(), [": error: ", ": fatal error: "]);
        assert_eq!(of(r"^ +--> (?<file>[^\s:]+):\d+$").unwrap(), [" --> "]);
        assert_eq!(of(r"^(a|b) (\d+ )?(FAILED|BROKEN)$").unwrap(), ["broken", "failed"]);
    }

    #[test]
    fn both_cases_are_one() {
        assert_eq!(of("(?i)error at").unwrap(), ["error at"]);
        assert_eq!(of("(?i)disk full").unwrap().len(), 4, "s and k also stand for two signs of other scripts");
    }

    #[test]
    fn a_pattern_of_classes_has_none() {
        for pattern in [r"^\d+ \w+$", "", "^$", "ab?c", "(a{3}|.*)", "abc", "..\u{fffd}\u{fffd}"] {
            assert_eq!(of(pattern), None, "{pattern}");
        }
    }
}
