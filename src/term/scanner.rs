//! L1: the escape sequences that carry state, found in the raw bytes before any screen exists.
//!
//! Jumps from ESC to ESC, looks at nothing else, and borrows what it finds from the chunk; only a sequence that is cut
//! by the end of a chunk is copied. State is carried, so any split of the same bytes gives the same hits.

use memchr::{memchr, memchr2, memchr3};

/// Longest OSC payload that is kept (the bound of OSC 7501's specification); longer ones are skipped to their end (F27).
pub(crate) const MAX_OSC_BYTES: usize = 4096;

/// Most parameters of a CSI that are looked at.
const MAX_PARAMS: usize = 8;

const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const ESC: u8 = 0x1b;

/// Something that the stream says outside its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit<'a> {
    /// An operating-system command: `ESC ] code ; data ST`, where the code is a number.
    Osc {
        /// 0 for a title, 7501 for a status report, ..
        code: u16,
        /// What follows the first `;`.
        data: &'a [u8],
        /// How many bytes the sequence had, its introducer and terminator included.
        len: u64,
    },
    /// A bare BEL, not one that ends an OSC.
    Bell,
    /// A private mode was set or reset.
    Mode {
        /// Its number.
        mode: u16,
        /// Set (`h`) or reset (`l`).
        set: bool,
    },
    /// The end of a synchronized frame (`CSI ?2026l`).
    FrameEnd,
    /// A full reset of the terminal (`ESC c`).
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Esc,
    Csi,
    /// In an OSC; the flag says that it grew beyond its bound.
    Osc {
        over: bool,
    },
    OscEsc {
        over: bool,
    },
    /// In a DCS, APC, PM or SOS string.
    Str,
    StrEsc,
}

/// The scanner; see the module.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    /// The part of an OSC that came in earlier chunks.
    held: Vec<u8>,
    /// Where the open sequence began.
    began: u64,
    private: bool,
    params: [u16; MAX_PARAMS],
    count: usize,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self { state: State::Ground, held: Vec::new(), began: 0, private: false, params: [0; MAX_PARAMS], count: 0 }
    }

    /// Scans `bytes`, whose first one stands at `off` in the stream. `hit` also gets the index just after the sequence.
    pub(crate) fn scan(&mut self, bytes: &[u8], off: u64, mut hit: impl FnMut(Hit<'_>, usize)) {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Ground => {
                    let Some(jump) = memchr2(ESC, BEL, &bytes[at..]) else { return };
                    at += jump;
                    if bytes[at] == BEL {
                        hit(Hit::Bell, at + 1);
                    } else {
                        self.began = off + at as u64;
                        self.state = State::Esc;
                    }
                    at += 1;
                }
                State::Esc => {
                    self.state = match bytes[at] {
                        b'[' => {
                            (self.private, self.count, self.params[0]) = (false, 0, 0);
                            State::Csi
                        }
                        b']' => {
                            self.held.clear();
                            State::Osc { over: false }
                        }
                        b'P' | b'_' | b'^' | b'X' => State::Str,
                        b'c' => {
                            hit(Hit::Reset, at + 1);
                            State::Ground
                        }
                        ESC => {
                            self.began = off + at as u64;
                            State::Esc
                        }
                        0x20..=0x2f => State::Esc,
                        _ => State::Ground,
                    };
                    at += 1;
                }
                State::Csi => at = self.csi(bytes, at, off, &mut hit),
                State::Osc { over } => at = self.osc(bytes, at, off, over, &mut hit),
                State::OscEsc { over } => {
                    if bytes[at] == b'\\' {
                        at += 1;
                        let held = std::mem::take(&mut self.held);
                        self.finish(&held, over, off + at as u64, at, &mut hit);
                        self.held = held;
                        self.state = State::Ground;
                    } else {
                        // ESC and anything else aborts the string and begins a new sequence.
                        self.began = (off + at as u64).saturating_sub(1);
                        self.state = State::Esc;
                    }
                }
                State::Str => {
                    let Some(jump) = memchr3(ESC, CAN, SUB, &bytes[at..]) else { return };
                    at += jump + 1;
                    self.state = if bytes[at - 1] == ESC { State::StrEsc } else { State::Ground };
                }
                State::StrEsc => {
                    if bytes[at] == b'\\' {
                        self.state = State::Ground;
                        at += 1;
                    } else {
                        self.began = (off + at as u64).saturating_sub(1);
                        self.state = State::Esc;
                    }
                }
            }
        }
    }

    fn csi(&mut self, bytes: &[u8], mut at: usize, off: u64, hit: &mut impl FnMut(Hit<'_>, usize)) -> usize {
        while at < bytes.len() {
            let b = bytes[at];
            at += 1;
            match b {
                b'0'..=b'9' if self.count < MAX_PARAMS => {
                    let p = &mut self.params[self.count];
                    *p = p.saturating_mul(10).saturating_add(u16::from(b - b'0'));
                }
                b';' | b':' => {
                    self.count = (self.count + 1).min(MAX_PARAMS);
                    if let Some(p) = self.params.get_mut(self.count) {
                        *p = 0;
                    }
                }
                b'?' => self.private = true,
                0x20..=0x3f => {}
                0x40..=0x7e => {
                    self.state = State::Ground;
                    if self.private && (b == b'h' || b == b'l') {
                        let set = b == b'h';
                        for &mode in self.params.iter().take(self.count + 1) {
                            hit(if mode == 2026 && !set { Hit::FrameEnd } else { Hit::Mode { mode, set } }, at);
                        }
                    }
                    return at;
                }
                BEL => hit(Hit::Bell, at),
                ESC => {
                    self.began = off + at as u64 - 1;
                    self.state = State::Esc;
                    return at;
                }
                CAN | SUB => {
                    self.state = State::Ground;
                    return at;
                }
                _ => {} // other control bytes act in the middle of a sequence, which goes on
            }
        }
        at
    }

    fn osc(&mut self, bytes: &[u8], at: usize, off: u64, over: bool, hit: &mut impl FnMut(Hit<'_>, usize)) -> usize {
        let rest = &bytes[at..];
        let end = memchr3(BEL, ESC, CAN, rest);
        let end = match memchr(SUB, &rest[..end.unwrap_or(rest.len())]) {
            Some(sub) => Some(sub),
            None => end,
        };
        let part = &rest[..end.unwrap_or(rest.len())];
        let over = over || self.held.len() + part.len() > MAX_OSC_BYTES;
        let Some(end) = end else {
            self.hold(part, over);
            return bytes.len();
        };
        let next = at + end + 1;
        match rest[end] {
            BEL => {
                if self.held.is_empty() {
                    self.finish(part, over, off + next as u64, next, hit);
                } else {
                    self.hold(part, over);
                    let held = std::mem::take(&mut self.held);
                    self.finish(&held, over, off + next as u64, next, hit);
                    self.held = held;
                }
                self.state = State::Ground;
                next
            }
            ESC if self.held.is_empty() && bytes.get(next) == Some(&b'\\') => {
                self.finish(part, over, off + next as u64 + 1, next + 1, hit);
                self.state = State::Ground;
                next + 1
            }
            ESC => {
                self.hold(part, over);
                self.state = State::OscEsc { over };
                next
            }
            _ => {
                self.state = State::Ground; // CAN and SUB cancel
                next
            }
        }
    }

    fn hold(&mut self, part: &[u8], over: bool) {
        if over {
            self.held.clear();
        } else {
            self.held.extend_from_slice(part);
        }
        self.state = State::Osc { over };
    }

    fn finish(&self, payload: &[u8], over: bool, end: u64, next: usize, hit: &mut impl FnMut(Hit<'_>, usize)) {
        if over {
            return;
        }
        let split = memchr(b';', payload).unwrap_or(payload.len());
        let digits = &payload[..split];
        if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
            return;
        }
        let code = digits.iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0'));
        let Ok(code) = u16::try_from(code) else { return };
        let data = payload.get(split + 1..).unwrap_or_default();
        hit(Hit::Osc { code, data, len: end - self.began }, next);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hits_of(chunks: &[&[u8]]) -> Vec<String> {
        let (mut scanner, mut out, mut off) = (Scanner::new(), Vec::new(), 0u64);
        for chunk in chunks {
            scanner.scan(chunk, off, |h, next| out.push(format!("{h:?} {}", off + next as u64)));
            off += chunk.len() as u64;
        }
        out
    }

    fn kinds(bytes: &[u8]) -> Vec<String> {
        hits_of(&[bytes]).into_iter().map(|s| s.split(' ').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_bell_that_ends_an_osc_is_no_bell() {
        assert_eq!(kinds(b"\x1b]0;t\x07a\x07"), ["Osc", "Bell"]);
    }

    #[test]
    fn modes_come_one_by_one_and_a_frame_end_is_one() {
        assert_eq!(kinds(b"\x1b[?1049;2004h\x1b[?2026l\x1b[2026l\x1bc"), ["Mode", "Mode", "FrameEnd", "Reset"]);
    }

    #[test]
    fn can_and_sub_cancel_and_an_escape_begins_anew() {
        assert!(kinds(b"\x1b]7501;state=done\x18x\x07").iter().all(|k| k != "Osc"));
        assert!(kinds(b"\x1b]7501;state=done\x1ax").is_empty());
        assert_eq!(kinds(b"\x1b]7501;state=done\x1b]0;x\x07"), ["Osc"]);
    }

    #[test]
    fn f27_an_endless_string_is_bounded_and_what_follows_is_read() {
        let mut bytes = b"\x1b]7501;".to_vec();
        bytes.extend(vec![b'x'; 100_000]);
        bytes.extend(b"\x07\x1b]0;t\x07");
        assert_eq!(kinds(&bytes), ["Osc"]);
        let mut scanner = Scanner::new();
        for chunk in bytes.chunks(1000) {
            scanner.scan(chunk, 0, |_, _| ());
            assert!(scanner.held.capacity() <= 2 * MAX_OSC_BYTES);
        }
    }

    #[test]
    fn strings_of_other_kinds_hide_what_is_in_them() {
        assert!(kinds(b"\x1bPtmux;\x07]0;t\x07\x1b\\").is_empty());
    }

    proptest! {
        #[test]
        fn f26_any_split_gives_the_same_hits(
            parts in proptest::collection::vec(prop_oneof![
                Just(b"\x1b]7501;state=done:app=x\x1b\\".to_vec()), Just(b"\x1b]0;title\x07".to_vec()),
                Just(b"\x1b[?2026l".to_vec()), Just(b"\x1b[?1049;2004h".to_vec()), Just(b"\x07".to_vec()),
                Just(b"\x1b[38;2;1;2;3m".to_vec()), Just(b"\x1bP+q\x1b\\".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..6),
            ], 0..12),
            cuts in proptest::collection::vec(0usize..400, 0..12),
        ) {
            let bytes = parts.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(hits_of(&chunks), hits_of(&[&bytes]));
        }
    }
}
