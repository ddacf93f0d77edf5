//! Lines that scrolled by, and what they report: errors with their place, sums of tests.
//!
//! Whole lines are searched together for the literals that matches must contain; only a line that has one is looked at,
//! and only with the patterns whose literals it has. Patterns that have no literals are searched all at once, in one
//! more pass. Most output has nothing of this, and costs no more than that.

use regex::{CaptureLocations, Regex};
use regex_automata::{Input, meta};
use regex_syntax::hir::{Hir, HirKind, Look};

use crate::extract::content;
use crate::extract::event::Body;
use crate::extract::literals::required;
use crate::extract::pattern::{Condition, Region, Rule, Says};
use crate::extract::sieve::{MIN_LITERAL, Sieve, WINDOW};

/// Longest line that is looked at: nothing that anybody reads is longer.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// The patterns over settled lines.
#[derive(Debug)]
pub(crate) struct Settled {
    patterns: Vec<LinePattern>,
    /// Finds the literals of patterns.
    sieve: Sieve,
    /// Finds matches of the patterns without literals.
    loose: Option<meta::Regex>,
    /// The numbers of those patterns, as a set of bits.
    loose_ones: Vec<u64>,
    /// The patterns that the line in hand may match, as a set of bits.
    wanted: Vec<u64>,
}

/// A pattern and what it says.
#[derive(Debug)]
struct LinePattern {
    rule: String,
    says: Says,
    regex: Regex,
    /// Where the groups of the last match are; kept, so that a match costs no memory.
    groups: CaptureLocations,
    /// Names of the groups, and their numbers.
    names: Vec<(String, usize)>,
}

impl Settled {
    /// Compiles the patterns of `rules` over `regions` of lines; none if there are none.
    pub(crate) fn new(rules: &[Rule], regions: &[Region]) -> Option<Self> {
        let (mut patterns, mut literals, mut loose) = (Vec::new(), Vec::new(), Vec::new());
        let rules = rules.iter().filter(|r| r.reads_lines());
        let here = |c: &&Condition| regions.contains(&c.r#in);
        let conds = rules.flat_map(|rule| rule.all.iter().filter(here).map(move |c| (rule, c)));
        for (number, (rule, cond)) in conds.enumerate() {
            let text = cond.row.get_ref();
            let hir = regex_syntax::parse(text).expect("the patterns of a pack are checked when it is read");
            match required(&hir, MIN_LITERAL, WINDOW) {
                Some(all) => literals.extend(all.into_iter().map(|l| (l, number))),
                None => loose.push((number, in_text(&hir))),
            }
            patterns.push(LinePattern::new(rule.id.clone(), rule.says, text));
        }
        if patterns.is_empty() {
            return None;
        }
        let mut loose_ones = vec![0; patterns.len().div_ceil(64)];
        loose.iter().for_each(|(number, _)| insert(&mut loose_ones, *number));
        let loose: Vec<Hir> = loose.into_iter().map(|(_, hir)| hir).collect();
        // Where a match ends, and no groups: those are read from the one line that has it.
        let captures = regex_automata::nfa::thompson::WhichCaptures::Implicit;
        let config = meta::Config::new().utf8_empty(false).which_captures(captures);
        let build = || {
            let all = meta::Regex::builder().configure(config).build_many_from_hir(&loose);
            all.expect("each of the patterns compiles by itself")
        };
        let loose = (!loose.is_empty()).then(build);
        let wanted = vec![0; loose_ones.len()];
        Some(Self { patterns, sieve: Sieve::new(&literals), loose, loose_ones, wanted })
    }

    /// Reads whole lines, each ended by LF or CR LF. `found` gets the rule and its event and says whether to go on.
    ///
    /// A line makes the event of the first pattern that matches it.
    pub(crate) fn read(&mut self, text: &[u8], mut found: impl FnMut(&str, Body) -> bool) {
        // A character that is none is a mark to patterns, which they would not see in the bytes.
        let broken = self.loose.is_some() && std::str::from_utf8(text).is_err();
        let (mut at, mut match_at) = (0, None);
        while at < text.len() {
            if match_at.is_none_or(|place| place < at) {
                match_at = Some(if broken { at } else { self.loose(text, at) });
            }
            let loose = match_at.filter(|place| *place < text.len());
            let until = loose.map_or(text.len(), |place| line_end(text, place));
            self.wanted.fill(0);
            let Self { sieve, wanted, .. } = self;
            let literal = sieve.find(&text[..until], at, |number| insert(wanted, number));
            let Some(place) = literal.map(|(place, _)| place).or(loose) else { return };
            let (start, end) = (line_start(text, place).max(at), line_end(text, place));
            let mut next = literal.map(|(_, next)| next);
            while let Some((_, after)) = next.and_then(|n| sieve.find(&text[..end], n, |n| insert(wanted, n))) {
                next = Some(after);
            }
            if loose.is_some_and(|place| place <= end) {
                wanted.iter_mut().zip(&self.loose_ones).for_each(|(bits, more)| *bits |= more);
            }
            if !self.line(&text[start..end], &mut found) {
                return;
            }
            at = end + 1;
        }
    }

    /// Returns a place in the first line from `at` on that a pattern without literals may match; the end if there is none.
    fn loose(&self, text: &[u8], at: usize) -> usize {
        let input = Input::new(text).range(at..).earliest(true);
        self.loose.as_ref().and_then(|r| r.search_half(&input)).map_or(text.len(), |end| end.offset())
    }

    /// Looks at a line with the patterns that are wanted.
    fn line(&mut self, line: &[u8], found: &mut impl FnMut(&str, Body) -> bool) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > MAX_LINE_BYTES {
            return true;
        }
        let line = String::from_utf8_lossy(line);
        for (word, &bits) in self.wanted.iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                let pattern = &mut self.patterns[word * 64 + bits.trailing_zeros() as usize];
                if let Some(body) = pattern.event(&line) {
                    return found(&pattern.rule, body);
                }
                bits &= bits - 1;
            }
        }
        true
    }
}

impl LinePattern {
    fn new(rule: String, says: Says, pattern: &str) -> Self {
        let regex = Regex::new(pattern).expect("the patterns of a pack are checked when it is read");
        let named = regex.capture_names().enumerate().filter_map(|(n, name)| Some((name?.to_owned(), n)));
        let names = named.collect();
        Self { rule, says, groups: regex.capture_locations(), names, regex }
    }

    /// Returns what the line reports, if it matches.
    fn event(&mut self, line: &str) -> Option<Body> {
        let Self { groups, names, .. } = self;
        self.regex.captures_read(groups, line)?;
        content::body(&self.rule, self.says, line, |name| {
            let (_, group) = names.iter().find(|(known, _)| known == name)?;
            groups.get(*group).map(|(start, end)| &line[start..end])
        })
    }
}

fn insert(set: &mut [u64], number: usize) {
    set[number / 64] |= 1 << (number % 64);
}

fn line_start(text: &[u8], place: usize) -> usize {
    memchr::memrchr(b'\n', &text[..place]).map_or(0, |lf| lf + 1)
}

fn line_end(text: &[u8], place: usize) -> usize {
    memchr::memchr(b'\n', &text[place..]).map_or(text.len(), |lf| place + lf)
}

/// The pattern of one line as it is searched for in many: ends of the text become ends of a line.
fn in_text(hir: &Hir) -> Hir {
    let all = |parts: &[Hir]| parts.iter().map(in_text).collect();
    match hir.kind() {
        HirKind::Look(Look::Start | Look::StartLF) => Hir::look(Look::StartCRLF),
        HirKind::Look(Look::End | Look::EndLF) => Hir::look(Look::EndCRLF),
        HirKind::Repetition(repeat) => {
            let mut repeat = repeat.clone();
            repeat.sub = Box::new(in_text(&repeat.sub));
            Hir::repetition(repeat)
        }
        HirKind::Capture(group) => in_text(&group.sub),
        HirKind::Concat(parts) => Hir::concat(all(parts)),
        HirKind::Alternation(parts) => Hir::alternation(all(parts)),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => hir.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::extract::pattern::{Pack, Packs};

    fn events(text: &str) -> Vec<Body> {
        let mut settled = Settled::new(&Packs::builtin().generic().rules, &[Region::Line]).unwrap();
        let mut out = Vec::new();
        settled.read(text.as_bytes(), |_, body| {
            out.push(body);
            true
        });
        out
    }

    #[test]
    fn sums_of_tests_are_read() {
        let sums = "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured\nnoise\n=== 3 passed, 1 skipped in 0.12s ===\n";
        let found = events(sums);
        assert!(matches!(&found[0], Body::TestResult { passed: 5, failed: 1, skipped: 2, .. }), "{found:?}");
        assert!(matches!(&found[1], Body::TestResult { passed: 3, failed: 0, skipped: 1, .. }), "{found:?}");
    }

    #[test]
    fn errors_have_a_place_where_one_is_told() {
        let found = events("src/main.c:12:5: error: 'x' undeclared\nerror[E0308]: mismatched types\n");
        assert_eq!(
            found[0],
            Body::Error { message: "'x' undeclared".into(), file: Some("src/main.c".into()), line: Some(12) }
        );
        assert!(matches!(&found[1], Body::Error { message, .. } if message == "mismatched types"));
    }

    #[test]
    fn prose_about_errors_is_nothing() {
        assert!(events("the error: was in the log\n3 tests failed, I said\nErrors happen.\n").is_empty());
    }

    /// Patterns with literals and without, of which several may match one line.
    const PATTERNS: [&str; 12] = [
        r"^(?<file>[^\s:]+):(?<line>\d+): error: (?<message>.+)$",
        r"^ok\s+\S+",
        r"tests? passed",
        r"(?i)build failed",
        r"^(ab|cd)*$",
        r"\A\d+ \w+\z",
        r"no .*\bé\b",
        r"\w+ passed in",
        r"error|warning",
        r"\s\s\d",
        "\u{fffd}\u{fffd}",
        r"[^a]\n?d$",
    ];

    fn pack(patterns: &[&str]) -> Pack {
        let mut text = String::from("version = 1\nid = \"x\"\nmode = \"line\"\n[launch]\ncommand = \"x\"\n");
        for (n, pattern) in patterns.iter().enumerate() {
            text +=
                &format!("[[rule]]\nid = \"{n}\"\nsays = \"error\"\nall = [{{ in = \"line\", row = '{pattern}' }}]\n");
        }
        Pack::parse_checked(Path::new("x.toml"), &text).unwrap()
    }

    proptest! {
        #[test]
        fn the_first_pattern_that_matches_a_line_is_told_as_if_each_were_tried(
            chosen in proptest::sample::subsequence((0..PATTERNS.len()).collect::<Vec<_>>(), 1..PATTERNS.len()),
            parts in proptest::collection::vec(prop_oneof![
                proptest::sample::select(vec![
                    "a.c:1: error: x", "error", "warning", "ok  x", "ok", "2 tests passed", " passed in 3", "BUILD Failed",
                    "abcd", "12 x", "no é", "\u{fffd}\u{fffd}", "  7", "d", " ", "\t", "é",
                ]).prop_map(|s| s.as_bytes().to_vec()),
                proptest::collection::vec(proptest::sample::select(vec![0xe9u8, 0xc3, b'x', 0xff]), 0..3),
                Just(b"\n".to_vec()), Just(b"\n".to_vec()), Just(b"\r\n".to_vec()),
            ], 0..40),
        ) {
            let patterns: Vec<&str> = chosen.iter().map(|n| PATTERNS[*n]).collect();
            let text = [parts.concat(), b"\n".to_vec()].concat();
            let regexes: Vec<Regex> = patterns.iter().map(|p| Regex::new(p).unwrap()).collect();
            let lines = text[..text.len() - 1].split(|b| *b == b'\n');
            let lines = lines.map(|l| String::from_utf8_lossy(l.strip_suffix(b"\r").unwrap_or(l)));
            let expected: Vec<String> =
                lines.filter_map(|l| regexes.iter().position(|r| r.is_match(&l))).map(|n| n.to_string()).collect();
            let mut told = Vec::new();
            Settled::new(&pack(&patterns).rules, &[Region::Line]).unwrap().read(&text, |rule, _| {
                told.push(rule.to_owned());
                true
            });
            prop_assert_eq!(told, expected);
        }
    }
}
