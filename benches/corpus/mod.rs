//! What the benches of the stream are fed: generated, and the same everywhere.

pub(crate) mod patterns;

use std::fmt::Write as _;

/// A generator that is the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.roll(len as u64)).expect("it is below a length")
    }
}

/// Log text: about 4 % of the lines match one of the [`patterns`], and some more have words of them.
pub(crate) fn log(bytes: usize) -> Vec<u8> {
    const WORDS: &[&str] = &["request", "served", "in", "worker", "queue", "slow", "path", "cache", "hit", "for"];
    const NEAR: &[&str] = &[
        "WARN the request failed, an error: will retry",
        "INFO 12 tests passed before this one, none failed",
        "test queue::store::claims_are_fenced ... ok",
        "DEBUG exit of worker, code is in the report",
        "warning: nothing changed, 3 files skipped",
    ];
    let (mut out, mut dice) = (String::with_capacity(bytes + 200), Dice(7));
    while out.len() < bytes {
        match dice.roll(100) {
            0..=3 => matching(&mut out, &mut dice),
            4..=9 => out.push_str(NEAR[dice.index(NEAR.len())]),
            _ => {
                let _ = write!(out, "2026-11-20T10:00:{:02} INFO", dice.roll(60));
                for _ in 0..6 + dice.roll(6) {
                    let _ = write!(out, " {}", WORDS[dice.index(WORDS.len())]);
                }
            }
        }
        out.push_str("\r\n");
    }
    out.into_bytes()
}

/// A line that matches.
fn matching(out: &mut String, dice: &mut Dice) {
    let n = dice.index(patterns::PHRASES.len() + patterns::EXPRESSIONS.len());
    match n.checked_sub(patterns::PHRASES.len()) {
        None => {
            let _ = write!(out, "then it said {} at last", patterns::PHRASES[n]);
        }
        Some(n) => {
            for c in patterns::EXPRESSIONS[n].1.chars() {
                match c {
                    '#' => {
                        let _ = write!(out, "{}", 1 + dice.roll(90));
                    }
                    c => out.push(c),
                }
            }
        }
    }
}

/// Frames of a full-screen program: a spinner, a growing answer, jumps instead of blanks.
pub(crate) fn tui(bytes: usize) -> Vec<u8> {
    let (mut out, mut dice) = (String::with_capacity(bytes + 4000), Dice(11));
    while out.len() < bytes {
        out.push_str("\x1b[?2026h\x1b[?25l");
        for _ in 0..1 + dice.roll(6) {
            let _ = write!(out, "\x1b[{};1H\x1b[38;2;{};10;20m", 1 + dice.roll(34), dice.roll(255));
            for word in 0..4 + dice.roll(8) {
                let _ = write!(out, "word{}\x1b[{}G", dice.roll(1000), (word + 1) * 9);
            }
            out.push_str("\x1b[39m\x1b[K");
        }
        let _ = write!(out, "\x1b[35;1H* Working… ({}s)\x1b[37;1H❯ \x1b[?25h\x1b[?2026l", dice.roll(60));
    }
    out.into_bytes()
}
