//! Bytes into what they ask of a terminal: text, control characters, escape and control sequences.
//!
//! A flood goes through here on one of the user's cores, so it takes stretches and not bytes: printable text and the
//! inside of a control sequence are measured eight bytes at a time and handed over as one slice, and what a sequence
//! says is read only by those who act on it (colours, which are most of them, are never read at all). What is cut at
//! the end of a chunk is carried to the next one: any split of the same bytes asks for the same.
//!
//! It knows no meaning. Strings (OSC, DCS, ..) are jumped over and never held: titles are the scanner's.

use memchr::memchr;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const DEL: u8 = 0x7f;

/// Up to this distance, calling memchr costs more than it saves.
const NEAR: usize = 32;

/// Longest inside of a sequence that is acted on; nothing longer moves a cursor.
const HELD: usize = 64;

/// Who acts on the output.
pub(crate) trait Handler {
    /// Printable ASCII, at least one byte.
    fn ascii(&mut self, run: &[u8]);
    /// A character beyond ASCII. What is not UTF-8 comes as U+FFFD, as in `String::from_utf8_lossy`.
    fn char(&mut self, c: char);
    /// A control character other than `ESC`, `CAN` and `SUB`, which the parser keeps for itself.
    fn control(&mut self, byte: u8);
    /// `ESC`, intermediate bytes such as `(`, and the byte that ended it.
    fn escape(&mut self, between: &[u8], last: u8);
    /// `CSI`, whatever stood inside, and the byte that ended it; see [`numbers`].
    fn sequence(&mut self, inside: &[u8], last: u8);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    /// In a character that the end of a chunk cut; its bytes are held.
    Char,
    /// After `ESC`; intermediate bytes are held.
    Escape,
    /// In a control sequence; its inside is held.
    Sequence,
    /// In an operating system command, which `BEL` ends too.
    Command,
    /// In another string: DCS, APC, PM, SOS.
    Text,
}

/// The parser; see the module.
#[derive(Debug)]
pub(crate) struct Parser {
    state: State,
    held: [u8; HELD],
    /// How much there was to hold; only what fits is there.
    len: usize,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self { state: State::Ground, held: [0; HELD], len: 0 }
    }

    /// Takes the next chunk.
    #[inline]
    pub(crate) fn feed(&mut self, bytes: &[u8], to: &mut impl Handler) {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            let used = match self.state {
                State::Ground => match first {
                    b' '..DEL => {
                        let len = stretch(rest, not_printable);
                        to.ascii(&rest[..len]);
                        len
                    }
                    ESC => self.introduced(rest, to),
                    0x80.. => self.beyond_ascii(rest, to),
                    DEL | CAN | SUB => 1,
                    _ => {
                        to.control(first);
                        1
                    }
                },
                State::Char => self.resume_char(first, to),
                State::Escape => {
                    self.escape(first, to);
                    1
                }
                State::Sequence => self.sequence(rest, to),
                State::Command | State::Text => self.string(rest),
            };
            rest = &rest[used..];
        }
    }

    /// At `ESC`: nearly always a control sequence that is here as a whole.
    #[inline]
    fn introduced(&mut self, rest: &[u8], to: &mut impl Handler) -> usize {
        if let [_, b'[', inside @ ..] = rest {
            let len = inside_len(inside);
            if let Some(&last @ 0x40..DEL) = inside.get(len) {
                if len <= HELD {
                    to.sequence(&inside[..len], last);
                }
                return len + 3;
            }
        }
        self.begin(State::Escape);
        1
    }

    /// In a control sequence that is cut, or that has control characters inside: they act, and it goes on.
    #[cold]
    fn sequence(&mut self, rest: &[u8], to: &mut impl Handler) -> usize {
        let len = inside_len(rest);
        self.hold(&rest[..len]);
        let Some(&next) = rest.get(len) else { return len };
        match next {
            0x40..DEL => {
                self.state = State::Ground;
                if let Some(inside) = self.held.get(..self.len) {
                    to.sequence(inside, next);
                }
            }
            ESC => self.begin(State::Escape),
            CAN | SUB => self.state = State::Ground,
            0..b' ' => to.control(next),
            _ => {}
        }
        len + 1
    }

    fn escape(&mut self, byte: u8, to: &mut impl Handler) {
        match byte {
            b' '..b'0' => self.hold(&[byte]),
            b'[' if self.len == 0 => self.begin(State::Sequence),
            b']' if self.len == 0 => self.begin(State::Command),
            b'P' | b'X' | b'^' | b'_' if self.len == 0 => self.begin(State::Text),
            b'0'..DEL => {
                self.state = State::Ground;
                if let Some(between) = self.held.get(..self.len) {
                    to.escape(between, byte);
                }
            }
            ESC => self.begin(State::Escape),
            CAN | SUB => self.state = State::Ground,
            0..b' ' => to.control(byte),
            _ => {}
        }
    }

    fn string(&mut self, rest: &[u8]) -> usize {
        let len = stretch(rest, is_control);
        match rest.get(len) {
            // The end of it if a backslash follows, and of everything before it anyway.
            Some(&ESC) => self.begin(State::Escape),
            Some(&BEL) if self.state == State::Command => self.state = State::Ground,
            Some(&CAN | &SUB) => self.state = State::Ground,
            Some(_) => {}
            None => return len,
        }
        len + 1
    }

    fn beyond_ascii(&mut self, rest: &[u8], to: &mut impl Handler) -> usize {
        let run = &rest[..stretch(rest, is_ascii)];
        if let Ok(text) = std::str::from_utf8(run) {
            text.chars().for_each(|c| to.char(c));
            return run.len();
        }
        let mut done = 0;
        for chunk in run.utf8_chunks() {
            chunk.valid().chars().for_each(|c| to.char(c));
            done += chunk.valid().len() + chunk.invalid().len();
            if chunk.invalid().is_empty() {
                continue;
            }
            if done == rest.len() && is_cut(chunk.invalid()) {
                self.begin(State::Char);
                self.hold(chunk.invalid());
            } else {
                to.char(char::REPLACEMENT_CHARACTER);
            }
        }
        done
    }

    fn resume_char(&mut self, byte: u8, to: &mut impl Handler) -> usize {
        self.hold(&[byte]);
        let held = &self.held[..self.len];
        if is_cut(held) {
            return 1;
        }
        self.state = State::Ground;
        let c = std::str::from_utf8(held).ok().and_then(|text| text.chars().next());
        to.char(c.unwrap_or(char::REPLACEMENT_CHARACTER));
        // A byte that does not go on with the character begins something else.
        usize::from(c.is_some())
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.len = 0;
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = self.held.get_mut(self.len..).unwrap_or_default();
        let fits = bytes.len().min(room.len());
        room[..fits].copy_from_slice(&bytes[..fits]);
        self.len = self.len.saturating_add(bytes.len());
    }
}

/// Whether these are the first bytes of a character that is not whole yet.
fn is_cut(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}

/// The first `N` numbers of a control sequence, 0 where none is given; none if something else stands between them.
#[inline]
pub(crate) fn numbers<const N: usize>(inside: &[u8]) -> Option<[u16; N]> {
    let (mut found, mut at) = ([0u16; N], 0);
    for &byte in inside {
        match byte {
            b'0'..=b'9' => {
                if let Some(n) = found.get_mut(at) {
                    *n = n.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                }
            }
            b';' => at += 1,
            _ => return None,
        }
    }
    Some(found)
}

/// Length of the inside of a control sequence, at whose start `bytes` stands.
#[inline]
pub(crate) fn inside_len(bytes: &[u8]) -> usize {
    stretch(bytes, not_inside)
}

/// Finds the next `ESC`. In the frames of a full-screen program it is a few bytes away, which is no distance to call
/// memchr for; in text it is far.
#[inline]
pub(crate) fn find_escape(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk() {
        let rest = u64::from_le_bytes(*eight) ^ each(ESC);
        let found = rest.wrapping_sub(each(0x01)) & !rest & each(0x80);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
        if at == NEAR {
            break;
        }
    }
    memchr(ESC, &bytes[at..]).map(|far| at + far)
}

/// Length of the stretch at the start of `bytes` in which `stops` finds nothing. It is given eight bytes, the first one
/// lowest, and returns a word whose lowest bit that is set lies in the first byte that ends the stretch. Zero must end it.
#[inline]
fn stretch(bytes: &[u8], stops: impl Fn(u64) -> u64) -> usize {
    let mut rest = bytes;
    while let Some((eight, later)) = rest.split_first_chunk() {
        let found = stops(u64::from_le_bytes(*eight));
        if found != 0 {
            return bytes.len() - rest.len() + found.trailing_zeros() as usize / 8;
        }
        rest = later;
    }
    let mut eight = [0; 8];
    eight[..rest.len()].copy_from_slice(rest);
    let found = stops(u64::from_le_bytes(eight));
    bytes.len() - rest.len() + found.trailing_zeros() as usize / 8
}

const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Below 0x20. A borrow can mark a later byte too, never an earlier one.
#[inline]
fn is_control(word: u64) -> u64 {
    word.wrapping_sub(each(0x20)) & !word & each(0x80)
}

#[inline]
fn not_printable(word: u64) -> u64 {
    let from_del = (word & each(0x7f)) + each(0x01);
    is_control(word) | (from_del | word) & each(0x80)
}

/// Not 0x20..0x40, the bytes between `CSI` and the one that ends it.
#[inline]
fn not_inside(word: u64) -> u64 {
    (word ^ each(0x20)) & each(0xe0)
}

#[inline]
fn is_ascii(word: u64) -> u64 {
    !word & each(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what it is asked for; text as one piece, however it came.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Notes {
        fn text(&mut self, text: &str) {
            match self.0.last_mut().filter(|last| last.starts_with('"')) {
                Some(last) => last.push_str(text),
                None => self.0.push(format!("\"{text}")),
            }
        }
    }

    impl Handler for Notes {
        fn ascii(&mut self, run: &[u8]) {
            assert!(!run.is_empty() && run.iter().all(|b| (b' '..DEL).contains(b)));
            self.text(std::str::from_utf8(run).unwrap());
        }
        fn char(&mut self, c: char) {
            self.text(c.encode_utf8(&mut [0; 4]));
        }
        fn control(&mut self, byte: u8) {
            self.0.push(format!("^{byte:02x}"));
        }
        fn escape(&mut self, between: &[u8], last: u8) {
            self.0.push(format!("ESC {}{}", String::from_utf8_lossy(between), char::from(last)));
        }
        fn sequence(&mut self, inside: &[u8], last: u8) {
            self.0.push(format!("CSI {}{}", String::from_utf8_lossy(inside), char::from(last)));
        }
    }

    fn asked(chunks: &[&[u8]]) -> Vec<String> {
        let (mut parser, mut notes) = (Parser::new(), Notes::default());
        chunks.iter().for_each(|c| parser.feed(c, &mut notes));
        notes.0
    }

    /// What the bytes ask for, having made sure that no cut in two and no byte by byte asks for anything else.
    #[track_caller]
    fn however_cut(bytes: &[u8]) -> Vec<String> {
        let whole = asked(&[bytes]);
        for at in 0..=bytes.len() {
            assert_eq!(asked(&[&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
        }
        assert_eq!(asked(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
        whole
    }

    #[test]
    fn text_controls_and_sequences_are_told_apart() {
        let said = however_cut(b"a long stretch of text\r\n\x1b[1;31mred\x1b[m\x1b[?25l\x1b7\x1b(0q\x7fr\x1b[2\x0a3H");
        let want = [
            "\"a long stretch of text",
            "^0d",
            "^0a",
            "CSI 1;31m",
            "\"red",
            "CSI m",
            "CSI ?25l",
            "ESC 7",
            "ESC (0",
            "\"qr",
            "^0a",
            "CSI 23H",
        ];
        assert_eq!(said, want);
    }

    #[test]
    fn strings_are_jumped_over_and_end_as_terminals_end_them() {
        assert_eq!(however_cut(b"a\x1b]0;title \xe2\x9c\x9c\x07b\x1b]8;;x\x1b\\c"), ["\"ab", "ESC \\", "\"c"]);
        assert_eq!(however_cut(b"\x1bP1$r0;\x07 \x9c q\x1b\\x\x1b_G\x18y\x1b^p\x1a"), ["ESC \\", "\"xy"]);
        // A sequence that begins inside aborts the string.
        assert_eq!(however_cut(b"\x1b]0;never ended\x1b[Hx"), ["CSI H", "\"x"]);
    }

    #[test]
    fn characters_are_whole_whatever_the_cut_and_what_is_none_is_replaced() {
        assert_eq!(however_cut("❯ 日本 ─── 🎉é".as_bytes()), ["\"❯ 日本 ─── 🎉é"]);
        for bad in
            [&b"a\xe2\x9cz"[..], b"\xffx", b"\xf0\x9f\x1b[Hq", b"\xc3\xe6\x97\xa5", b"\xed\xa0\x80", b"\xe2\x9c\n"]
        {
            let text: String = String::from_utf8_lossy(bad).replace("\u{1b}[H", "").replace('\n', "");
            let said = however_cut(bad).iter().filter_map(|s| s.strip_prefix('"')).collect::<Vec<_>>().concat();
            assert_eq!(said, text);
        }
    }

    #[test]
    fn f27_a_sequence_without_an_end_holds_nothing_and_does_nothing() {
        let mut bytes = b"\x1b[".to_vec();
        bytes.extend(std::iter::repeat_n(b'1', 3 * HELD));
        bytes.extend(b"Ax\x1b");
        bytes.extend(std::iter::repeat_n(b'(', 3 * HELD));
        bytes.extend(b"By");
        assert_eq!(however_cut(&bytes), ["\"xy"]);
    }

    #[test]
    fn cancelled_sequences_are_nothing() {
        assert_eq!(
            however_cut(b"\x1b[12\x18a\x1b[3\x1b[4mb\x1b\x1ac\x1b\x1b\x1bMd"),
            ["\"a", "CSI 4m", "\"bc", "ESC M", "\"d"]
        );
    }

    #[test]
    fn an_escape_is_found_near_and_far() {
        for distance in 0..100 {
            let mut bytes = vec![b'a'; distance];
            assert_eq!(find_escape(&bytes), None);
            bytes.extend(b"\x1b\x1a\x1c\x1b and more");
            assert_eq!(find_escape(&bytes), Some(distance));
        }
    }

    #[test]
    fn numbers_that_are_missing_are_0_and_large_ones_are_large() {
        assert_eq!(numbers(b"12;7"), Some([12, 7]));
        assert_eq!(numbers(b";7;9"), Some([0, 7]));
        assert_eq!(numbers(b"99999999"), Some([u16::MAX]));
        assert_eq!(numbers::<2>(b"?1"), None);
        assert_eq!(numbers::<1>(b"1 "), None);
    }
}
