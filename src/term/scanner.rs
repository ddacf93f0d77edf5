//! L1: escape sequences, found in the raw bytes before any screen exists, and the text between them.
//!
//! Jumps from ESC to ESC, looks at nothing else, and borrows what it finds from the chunk; only a sequence that is cut
//! by the end of a chunk is copied. State is carried, so any split of the same bytes gives the same hits.

use memchr::{memchr, memchr2, memchr3};

use crate::term::words::{is, is_not_inside, stretch};

/// Longest OSC payload that is kept (the bound of OSC 7501's specification); longer ones are skipped to their end (F27).
pub(crate) const MAX_OSC_BYTES: usize = 4096;

/// Longest inside of a control sequence that is told; nothing longer does anything here.
const MAX_CSI_BYTES: usize = 64;

/// How far the next sequence is looked for without a call of a vectorised search.
const NEAR: usize = 16;

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

/// Somebody who takes what is found, in the order of the stream.
pub(crate) trait Taker {
    /// Text between sequences, without ESC and BEL, cut anywhere.
    fn text(&mut self, text: &[u8]);
    /// Any control sequence, and the byte that ends it and says what it does.
    fn csi(&mut self, params: Params<'_>, last: u8);
    /// What the stream says outside its text, after its control sequence; `next` is the index just after it.
    fn hit(&mut self, hit: Hit<'_>, next: usize);
}

/// What stands inside a control sequence; it is read only by those who act on the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Params<'a>(&'a [u8]);

impl Params<'_> {
    /// Whether the sequence is a private one: it begins with `?`.
    pub(crate) fn is_private(self) -> bool {
        self.0.first() == Some(&b'?')
    }

    /// Returns the first two; 0 where none is given.
    #[inline]
    pub(crate) fn two(self) -> (usize, usize) {
        let (mut n, mut first) = (0, None);
        for &b in self.0 {
            match b {
                b'0'..=b'9' => n = digit(n, b),
                b';' | b':' if first.is_some() => break,
                b';' | b':' => (first, n) = (Some(n), 0),
                _ => {}
            }
        }
        first.map_or((usize::from(n), 0), |first| (usize::from(first), usize::from(n)))
    }

    /// Returns all of them, at least one.
    pub(crate) fn all(self) -> impl Iterator<Item = u16> {
        self.0
            .split(|b| matches!(b, b';' | b':'))
            .map(|p| p.iter().filter(|b| b.is_ascii_digit()).copied().fold(0, digit))
    }
}

/// One more digit of a number, which ends at 65535.
fn digit(n: u16, digit: u8) -> u16 {
    u16::try_from(u32::from(n) * 10 + u32::from(digit - b'0')).unwrap_or(u16::MAX)
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
    /// The part of an OSC or a control sequence that came in earlier chunks.
    held: Vec<u8>,
    /// Where the open sequence began.
    began: u64,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self { state: State::Ground, held: Vec::new(), began: 0 }
    }

    /// Scans `bytes`, whose first one stands at `off` in the stream.
    pub(crate) fn scan(&mut self, bytes: &[u8], off: u64, taker: &mut impl Taker) {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Ground => {
                    let len = text_len(&bytes[at..]);
                    if len > 0 {
                        taker.text(&bytes[at..at + len]);
                        at += len;
                    }
                    match bytes.get(at) {
                        None => return,
                        Some(&BEL) => taker.hit(Hit::Bell, at + 1),
                        Some(_) => {
                            // Nearly always a control sequence that is here as a whole.
                            if let Some((inside, last)) = whole(&bytes[at..]) {
                                at += inside.len() + 3;
                                Self::sequence(Params(inside), last, at, taker);
                                continue;
                            }
                            self.began = off + at as u64;
                            self.state = State::Esc;
                        }
                    }
                    at += 1;
                }
                State::Esc => {
                    self.state = match bytes[at] {
                        b'[' => {
                            self.held.clear();
                            State::Csi
                        }
                        b']' => {
                            self.held.clear();
                            State::Osc { over: false }
                        }
                        b'P' | b'_' | b'^' | b'X' => State::Str,
                        b'c' => {
                            taker.hit(Hit::Reset, at + 1);
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
                State::Csi => at = self.csi(bytes, at, off, taker),
                State::Osc { over } => at = self.osc(bytes, at, off, over, taker),
                State::OscEsc { over } => {
                    if bytes[at] == b'\\' {
                        at += 1;
                        let held = std::mem::take(&mut self.held);
                        self.finish(&held, over, off + at as u64, at, taker);
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

    /// Goes on with a control sequence that is cut by the end of a chunk, or has control characters inside.
    fn csi(&mut self, bytes: &[u8], mut at: usize, off: u64, taker: &mut impl Taker) -> usize {
        while at < bytes.len() {
            let b = bytes[at];
            at += 1;
            match b {
                0x20..=0x3f if self.held.len() <= MAX_CSI_BYTES => self.held.push(b),
                0x20..=0x3f => {}
                0x40..=0x7e => {
                    self.state = State::Ground;
                    if self.held.len() <= MAX_CSI_BYTES {
                        Self::sequence(Params(&self.held), b, at, taker);
                    }
                    return at;
                }
                BEL => taker.hit(Hit::Bell, at),
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

    /// Gives a control sequence and what it says, `next` being the index just after it.
    #[inline]
    fn sequence(params: Params<'_>, last: u8, next: usize, taker: &mut impl Taker) {
        taker.csi(params, last);
        if matches!(last, b'h' | b'l') && params.is_private() {
            let set = last == b'h';
            for mode in params.all() {
                taker.hit(if mode == 2026 && !set { Hit::FrameEnd } else { Hit::Mode { mode, set } }, next);
            }
        }
    }

    fn osc(&mut self, bytes: &[u8], at: usize, off: u64, over: bool, taker: &mut impl Taker) -> usize {
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
                    self.finish(part, over, off + next as u64, next, taker);
                } else {
                    self.hold(part, over);
                    let held = std::mem::take(&mut self.held);
                    self.finish(&held, over, off + next as u64, next, taker);
                    self.held = held;
                }
                self.state = State::Ground;
                next
            }
            ESC if self.held.is_empty() && bytes.get(next) == Some(&b'\\') => {
                self.finish(part, over, off + next as u64 + 1, next + 1, taker);
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

    fn finish(&self, payload: &[u8], over: bool, end: u64, next: usize, taker: &mut impl Taker) {
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
        taker.hit(Hit::Osc { code, data, len: end - self.began }, next);
    }
}

/// Length of the text that `bytes` begins with.
#[inline]
fn text_len(bytes: &[u8]) -> usize {
    let near = bytes.len().min(NEAR);
    match stretch(&bytes[..near], |word| is(ESC, word) | is(BEL, word)) {
        len if len == near => memchr2(ESC, BEL, &bytes[near..]).map_or(bytes.len(), |far| near + far),
        len => len,
    }
}

/// The control sequence that `bytes` begins with, if nothing of it is missing and nothing else stands in it.
#[inline]
fn whole(bytes: &[u8]) -> Option<(&[u8], u8)> {
    let [ESC, b'[', rest @ ..] = bytes else { return None };
    let len = stretch(rest, is_not_inside);
    match rest.get(len) {
        Some(&last @ 0x40..=0x7e) if len <= MAX_CSI_BYTES => Some((&rest[..len], last)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes down what it takes, with where in the stream that ends.
    #[derive(Default)]
    struct Notes {
        off: u64,
        hits: Vec<String>,
        /// Text, and the final bytes of sequences.
        text: Vec<u8>,
    }

    impl Taker for Notes {
        fn text(&mut self, text: &[u8]) {
            self.text.extend_from_slice(text);
        }

        fn csi(&mut self, params: Params<'_>, last: u8) {
            self.text.push(last);
            self.text.extend_from_slice(params.0);
        }

        fn hit(&mut self, hit: Hit<'_>, next: usize) {
            self.hits.push(format!("{hit:?} {}", self.off + next as u64));
        }
    }

    fn notes_of(chunks: &[&[u8]]) -> Notes {
        let (mut scanner, mut notes) = (Scanner::new(), Notes::default());
        for chunk in chunks {
            scanner.scan(chunk, notes.off, &mut notes);
            notes.off += chunk.len() as u64;
        }
        notes
    }

    fn hits_of(chunks: &[&[u8]]) -> Vec<String> {
        notes_of(chunks).hits
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
            scanner.scan(chunk, 0, &mut Notes::default());
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
            let (split, whole) = (notes_of(&chunks), notes_of(&[&bytes]));
            prop_assert_eq!(split.hits, whole.hits);
            prop_assert_eq!(split.text, whole.text);
        }
    }
}
