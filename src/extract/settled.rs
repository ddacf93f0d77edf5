//! Lines that scrolled by, and what they report: errors with their place, sums of tests.
//!
//! All patterns are searched at once over as many whole lines as there are; only a line with a hit is looked at again,
//! pattern by pattern. Most output has no hit, and costs one pass.

use regex::Regex;
use regex_automata::meta;
use regex_automata::util::syntax;

use crate::extract::event::{Body, MAX_TEXT_BYTES, capped};
use crate::extract::pattern::{Region, Rule, Says};

/// Longest line that is looked at: nothing that anybody reads is longer.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Most events that one stretch of output makes; a flood of error lines is told by its first ones.
const MAX_EVENTS: usize = 256;

/// The patterns over settled lines.
#[derive(Debug)]
pub(crate) struct Settled {
    any: meta::Regex,
    each: Vec<(String, Says, Regex)>,
}

impl Settled {
    /// Compiles the line patterns of `rules`; none if there are none.
    pub(crate) fn new(rules: &[Rule]) -> Option<Self> {
        let mut patterns = Vec::new();
        let mut each = Vec::new();
        for rule in rules.iter().filter(|r| matches!(r.says, Says::Error | Says::Test)) {
            for cond in rule.all.iter().filter(|c| c.r#in == Region::Line) {
                patterns.push(cond.row.get_ref().as_str());
                let regex = Regex::new(cond.row.get_ref()).expect("the patterns of a pack are checked when it is read");
                each.push((rule.id.clone(), rule.says, regex));
            }
        }
        if each.is_empty() {
            return None;
        }
        let any = meta::Regex::builder()
            .syntax(syntax::Config::new().multi_line(true).utf8(false))
            .configure(
                // Where a match is, and no groups: those are read from the one line that has it.
                meta::Config::new()
                    .utf8_empty(false)
                    .which_captures(regex_automata::nfa::thompson::WhichCaptures::Implicit),
            )
            .build_many(&patterns)
            .expect("each of the patterns compiles by itself");
        Some(Self { any, each })
    }

    /// Reads whole lines, each ended by LF; `found` gets the rule and its event.
    pub(crate) fn read(&self, text: &[u8], mut found: impl FnMut(&str, Body)) {
        let (mut at, mut events) = (0, 0);
        while at < text.len() && events < MAX_EVENTS {
            let Some(hit) = self.any.find(regex_automata::Input::new(text).range(at..)) else { return };
            let start = memchr::memrchr(b'\n', &text[..hit.start()]).map_or(0, |n| n + 1).max(at);
            let end = memchr::memchr(b'\n', &text[hit.start()..]).map_or(text.len(), |n| hit.start() + n);
            at = end + 1;
            if end - start > MAX_LINE_BYTES {
                continue;
            }
            let line = String::from_utf8_lossy(&text[start..end]);
            if let Some((id, body)) =
                self.each.iter().find_map(|(id, says, re)| Some((id, event(id, *says, re, &line)?)))
            {
                events += 1;
                found(id, body);
            }
        }
    }
}

fn event(rule: &str, says: Says, regex: &Regex, line: &str) -> Option<Body> {
    let caps = regex.captures(line)?;
    let text = |name: &str| caps.name(name).map(|m| m.as_str());
    // A word where a number is expected stands for one.
    let count = |name: &str| text(name).map_or(0, |t| t.parse().unwrap_or(1));
    let last = rule.rsplit('.').next().unwrap_or(rule);
    Some(match says {
        Says::Test => Body::TestResult {
            runner: text("runner").unwrap_or(last.split('-').next().unwrap_or(last)).to_owned(),
            passed: count("passed"),
            failed: count("failed"),
            skipped: count("skipped"),
        },
        _ => Body::Error {
            message: capped(text("message").unwrap_or(line).trim().to_owned(), MAX_TEXT_BYTES).0,
            file: text("file").map(str::to_owned),
            line: text("line").and_then(|l| l.parse().ok()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::pattern::Packs;

    fn events(text: &str) -> Vec<Body> {
        let settled = Settled::new(&Packs::builtin().generic().rules).unwrap();
        let mut out = Vec::new();
        settled.read(text.as_bytes(), |_, body| out.push(body));
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
}
