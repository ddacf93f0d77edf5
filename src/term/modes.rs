//! The sentry: looks at each chunk before it is passed on, finds the OSC 7501 query, and knows which terminal modes are on.
//!
//! It runs on the I/O thread, so it jumps from escape to escape, allocates nothing, and holds no text. What it
//! knows is just enough to undo an agent's modes after it died. Screens, titles and meaning are the extractor's.

use memchr::{memchr, memchr3};

use crate::term::parse::{find_escape, inside_len};

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;

/// The query that a program sends to learn whether status reports are understood, without introducer and terminator.
const STATUS_QUERY: &[u8] = b"7501;?";

/// Longest control sequence that is looked at; longer ones set no mode that we know.
const PARAMS: usize = 32;

/// Keyboard protocol levels that are remembered a screen; deeper pushes are popped too, but not pushed again.
const LEVELS: usize = 8;

/// DEC private modes that are followed, with their value after a reset. The alternate screens are not here: they decide
/// the order of the undo.
const DEC: [(u16, bool); 21] = [
    (1, false),    // cursor keys send application codes
    (5, false),    // reverse video
    (6, false),    // cursor addresses count from the margin
    (7, true),     // wrap at the right edge
    (9, false),    // mouse: presses
    (25, true),    // cursor shown
    (66, false),   // keypad sends application codes
    (1000, false), // mouse: presses and releases
    (1002, false), // mouse: drags
    (1003, false), // mouse: all motion
    (1004, false), // focus reports
    (1005, false), // mouse: UTF-8 coordinates
    (1006, false), // mouse: SGR coordinates
    (1007, false), // wheel sends arrows in the alternate screen
    (1015, false), // mouse: urxvt coordinates
    (1016, false), // mouse: pixels
    (2004, false), // bracketed paste
    (2026, false), // synchronized output
    (2027, false), // grapheme clusters
    (2031, false), // colour scheme reports
    (2048, false), // size reports
];

/// Modes that frames switch to and fro: after a crash they are put right unseen, so that their every change need not be
/// written down for the guard.
const FLICKERING: [u16; 2] = [25, 2026];

fn bit(mode: u16) -> Option<u32> {
    DEC.iter().position(|&(number, _)| number == mode).map(|i| 1 << i)
}

/// How a sequence ended; a reply ends the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminator {
    /// `BEL`.
    Bel,
    /// `ESC \`.
    St,
}

impl Terminator {
    /// The answer to a status query that ended this way.
    pub fn status_reply(self) -> &'static [u8] {
        match self {
            Self::Bel => b"\x1b]7501;?\x07",
            Self::St => b"\x1b]7501;?\x1b\\",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    /// After `ESC` and an intermediate byte such as `(`.
    Designate,
    Csi,
    /// In an operating system command; `matched` bytes of the query so far, `None` once it cannot be the query.
    Osc {
        matched: Option<u8>,
    },
    /// In another string: DCS, APC, PM, SOS.
    Text,
}

/// Keyboard protocol levels pushed on one screen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Keyboard {
    depth: u8,
    flags: [u8; LEVELS],
    /// Set without a push (`CSI = flags u`).
    bare: u8,
}

/// The modes that are on, as far as the output told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Modes {
    /// Bits of [`DEC`] whose mode is not as after a reset.
    changed: u32,
    /// Which of 47, 1047 and 1049 entered the alternate screen, or 0.
    alternate: u16,
    keyboard: [Keyboard; 2],
    modify_other_keys: bool,
    keypad: bool,
    insert: bool,
    margins: bool,
    cursor_style: bool,
    charset: bool,
    sgr: bool,
}

/// What decides the undo after a crash; see [`Sentry::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark(Modes);

/// Follows the output of one run.
#[derive(Debug, Clone)]
pub struct Sentry {
    state: State,
    /// An `ESC` inside a string: the end of it, if a backslash follows.
    ending: bool,
    params: [u8; PARAMS],
    len: usize,
    now: Modes,
    /// As `now`, but what was on once stays on here for the flickering ones.
    ever: Modes,
}

impl Default for Sentry {
    fn default() -> Self {
        Self::new()
    }
}

impl Sentry {
    /// A sentry over a terminal that is as after a reset.
    pub fn new() -> Self {
        Self {
            state: State::Ground,
            ending: false,
            params: [0; PARAMS],
            len: 0,
            now: Modes::default(),
            ever: Modes::default(),
        }
    }

    /// Looks at the next chunk; calls `query` for each status query that ends in it.
    pub fn feed(&mut self, chunk: &[u8], mut query: impl FnMut(Terminator)) {
        let mut at = 0;
        while at < chunk.len() {
            let rest = &chunk[at..];
            at += match self.state {
                State::Ground => match find_escape(rest) {
                    None => return,
                    Some(i) => i + self.introduced(&rest[i..]),
                },
                State::Text | State::Osc { matched: None } if !self.ending => match self.skip_string(rest) {
                    None => return,
                    Some(used) => used,
                },
                _ => {
                    self.step(rest[0], &mut query);
                    1
                }
            };
        }
    }

    /// At `ESC`: nearly always a control sequence that is here as a whole, and is read where it stands.
    fn introduced(&mut self, rest: &[u8]) -> usize {
        if let [_, b'[', inside @ ..] = rest {
            let len = inside_len(inside);
            if let Some(&last @ 0x40..0x7f) = inside.get(len) {
                if len <= PARAMS {
                    self.control(&inside[..len], last);
                }
                return len + 3;
            }
        }
        self.state = State::Escape;
        1
    }

    /// Jumps to the byte that may end a string; `None` if it is not in `rest`.
    fn skip_string(&mut self, rest: &[u8]) -> Option<usize> {
        let i = memchr3(ESC, BEL, CAN, rest);
        let sub = memchr(SUB, &rest[..i.unwrap_or(rest.len())]);
        let i = sub.or(i)?;
        match rest[i] {
            ESC => self.ending = true,
            // BEL ends an operating system command only; the other strings carry it on.
            BEL if self.state == State::Text => {}
            _ => self.state = State::Ground,
        }
        Some(i + 1)
    }

    fn step(&mut self, byte: u8, query: &mut impl FnMut(Terminator)) {
        match self.state {
            State::Osc { .. } | State::Text if self.ending => {
                self.ending = false;
                if byte == b'\\' {
                    self.end_string(Terminator::St, query);
                } else {
                    // Not the end but a new sequence, which cancels the string.
                    self.state = State::Escape;
                    self.step(byte, query);
                }
            }
            State::Osc { matched: Some(n) } => match byte {
                BEL => self.end_string(Terminator::Bel, query),
                ESC => self.ending = true,
                CAN | SUB => self.state = State::Ground,
                0..0x20 => {}
                _ => {
                    let fits = STATUS_QUERY.get(usize::from(n)) == Some(&byte);
                    self.state = State::Osc { matched: fits.then_some(n + 1) };
                }
            },
            State::Escape => match byte {
                b'[' => {
                    self.len = 0;
                    self.state = State::Csi;
                }
                b']' => self.state = State::Osc { matched: Some(0) },
                b'P' | b'X' | b'^' | b'_' => self.state = State::Text,
                b'(' | b')' | b'*' | b'+' => {
                    self.len = 0;
                    self.state = State::Designate;
                }
                0x20..0x30 => {}
                ESC => {}
                CAN | SUB => self.state = State::Ground,
                0..0x20 => {}
                _ => {
                    self.state = State::Ground;
                    match byte {
                        b'=' => self.set(|m| m.keypad = true),
                        b'>' => self.set(|m| m.keypad = false),
                        b'c' => self.reset(),
                        _ => {}
                    }
                }
            },
            State::Designate => match byte {
                ESC => self.state = State::Escape,
                CAN | SUB => self.state = State::Ground,
                0..0x20 => {}
                _ => {
                    self.state = State::Ground;
                    self.set(|m| m.charset = byte != b'B');
                }
            },
            State::Csi => match byte {
                ESC => self.state = State::Escape,
                CAN | SUB => self.state = State::Ground,
                0x40..0x7f => {
                    self.state = State::Ground;
                    let params = self.params;
                    if let Some(params) = params.get(..self.len) {
                        self.control(params, byte);
                    }
                }
                0x20..0x40 => {
                    if let Some(slot) = self.params.get_mut(self.len) {
                        *slot = byte;
                    }
                    self.len = (self.len + 1).min(PARAMS + 1);
                }
                _ => {}
            },
            State::Ground | State::Osc { matched: None } | State::Text => {
                unreachable!("`feed` jumps through text and strings")
            }
        }
    }

    fn end_string(&mut self, terminator: Terminator, query: &mut impl FnMut(Terminator)) {
        if self.state == (State::Osc { matched: Some(STATUS_QUERY.len() as u8) }) {
            query(terminator);
        }
        self.state = State::Ground;
    }

    fn set(&mut self, change: impl Fn(&mut Modes)) {
        change(&mut self.now);
        change(&mut self.ever);
    }

    fn reset(&mut self) {
        self.now = Modes::default();
        self.ever = Modes::default();
    }

    /// A whole control sequence.
    fn control(&mut self, params: &[u8], last: u8) {
        match (last, params) {
            (b'h' | b'l', [b'?', list @ ..]) => {
                for mode in list.split(|&b| b == b';').filter_map(number) {
                    self.dec(mode, last == b'h');
                }
            }
            (b'h' | b'l', b"4") => self.set(|m| m.insert = last == b'h'),
            (b'm', [b'>', list @ ..]) => {
                let mut parts = list.split(|&b| b == b';').map(number);
                let (what, value) = (parts.next().flatten(), parts.next().flatten());
                if what == Some(4) {
                    self.set(|m| m.modify_other_keys = value.is_some_and(|v| v > 0));
                }
            }
            (b'm', [] | [b'0'..=b'9', ..]) => {
                self.now.sgr = !matches!(params, [] | b"0");
                self.ever.sgr |= self.now.sgr;
            }
            (b'r', [] | [b'0'..=b'9' | b';', ..]) => {
                self.now.margins = !params.is_empty();
                self.ever.margins |= self.now.margins;
            }
            (b'q', [style @ .., b' ']) => {
                let style = number(style).unwrap_or(0);
                self.set(|m| m.cursor_style = style > 0);
            }
            (b'u', [b'>', flags @ ..]) => {
                let flags = number(flags).unwrap_or(0) as u8;
                self.keyboard(|k| {
                    if let Some(level) = k.flags.get_mut(usize::from(k.depth)) {
                        *level = flags;
                    }
                    k.depth = k.depth.saturating_add(1);
                });
            }
            (b'u', [b'<', count @ ..]) => {
                let count = number(count).unwrap_or(1).max(1);
                self.keyboard(|k| k.depth = u16::from(k.depth).saturating_sub(count) as u8);
            }
            (b'u', [b'=', list @ ..]) => {
                let mut parts = list.split(|&b| b == b';').map(number);
                let flags = parts.next().flatten().unwrap_or(0) as u8;
                let how = parts.next().flatten().unwrap_or(1);
                self.keyboard(|k| {
                    let level = match usize::from(k.depth) {
                        0 => &mut k.bare,
                        depth => &mut k.flags[(depth - 1).min(LEVELS - 1)],
                    };
                    match how {
                        2 => *level |= flags,
                        3 => *level &= !flags,
                        _ => *level = flags,
                    }
                });
            }
            (b'p', b"!") => {
                // A soft reset leaves screens, mouse, paste and keyboard protocol alone.
                let soft = [1, 6, 25, 66].into_iter().filter_map(bit).fold(0, |all, bit| all | bit);
                self.set(|m| {
                    m.changed &= !soft;
                    m.insert = false;
                    m.margins = false;
                    m.sgr = false;
                    m.charset = false;
                    m.keypad = false;
                });
            }
            _ => {}
        }
    }

    fn keyboard(&mut self, change: impl Fn(&mut Keyboard)) {
        self.set(|m| change(&mut m.keyboard[usize::from(m.alternate != 0)]));
    }

    fn dec(&mut self, mode: u16, on: bool) {
        if matches!(mode, 47 | 1047 | 1049) {
            return self.set(|m| m.alternate = if on { mode } else { 0 });
        }
        let Some(bit) = bit(mode) else { return };
        let changed = DEC.iter().any(|&(number, default)| number == mode && default != on);
        if changed {
            self.now.changed |= bit;
            self.ever.changed |= bit;
        } else {
            self.now.changed &= !bit;
            if !FLICKERING.contains(&mode) {
                self.ever.changed &= !bit;
            }
        }
    }

    /// Appends what puts the terminal back as after a reset, screens last. Nothing, if nothing is on.
    pub fn undo(&self, out: &mut Vec<u8>) {
        if self.state != State::Ground {
            out.extend_from_slice(b"\x1b\\");
        }
        self.now.undo(out);
    }

    /// Appends what puts the terminal back when nobody can tell any more what was last: after the wrapper was killed.
    /// Changes only when [`Sentry::mark`] does.
    pub fn undo_unseen(&self, out: &mut Vec<u8>) {
        // Ends a string that may be half-written; does nothing elsewhere.
        out.extend_from_slice(b"\x1b\\");
        self.ever.undo(out);
    }

    /// A value that differs whenever [`Sentry::undo_unseen`] does.
    pub fn mark(&self) -> Mark {
        Mark(self.ever)
    }

    /// Appends what switches the modes on again that [`Sentry::undo`] switched off, for an agent that was stopped
    /// without doing so itself. It redraws on the change of size that follows.
    pub fn redo(&self, out: &mut Vec<u8>) {
        self.now.redo(out);
    }

    /// Whether bracketed paste is on.
    pub fn bracketed_paste(&self) -> bool {
        bit(2004).is_some_and(|bit| self.now.changed & bit != 0)
    }
}

impl Modes {
    fn undo(&self, out: &mut Vec<u8>) {
        let alternate = usize::from(self.alternate != 0);
        self.keyboard[alternate].undo(out);
        for (i, &(mode, default)) in DEC.iter().enumerate() {
            if self.changed & 1 << i != 0 {
                private(out, mode, default);
            }
        }
        for (on, undo) in [
            (self.keypad, &b"\x1b>"[..]),
            (self.modify_other_keys, b"\x1b[>4m"),
            (self.insert, b"\x1b[4l"),
            (self.cursor_style, b"\x1b[0 q"),
            (self.charset, b"\x1b(B\x0f"),
            (self.sgr, b"\x1b[m"),
        ] {
            if on {
                out.extend_from_slice(undo);
            }
        }
        if self.margins {
            // Taking the margins away moves the cursor home. 1049 brings it back by itself, and has the one place
            // where a terminal keeps it.
            out.extend_from_slice(if self.alternate == 1049 { b"\x1b[r" } else { b"\x1b7\x1b[r\x1b8" });
        }
        if self.alternate != 0 {
            private(out, self.alternate, false);
            self.keyboard[0].undo(out);
        }
    }

    fn redo(&self, out: &mut Vec<u8>) {
        if self.alternate != 0 {
            self.keyboard[0].redo(out);
            private(out, self.alternate, true);
        }
        for (i, &(mode, default)) in DEC.iter().enumerate() {
            if self.changed & 1 << i != 0 {
                private(out, mode, !default);
            }
        }
        self.keyboard[usize::from(self.alternate != 0)].redo(out);
        for (on, redo) in
            [(self.keypad, &b"\x1b="[..]), (self.modify_other_keys, b"\x1b[>4;2m"), (self.insert, b"\x1b[4h")]
        {
            if on {
                out.extend_from_slice(redo);
            }
        }
    }
}

impl Keyboard {
    fn undo(&self, out: &mut Vec<u8>) {
        if self.depth > 0 {
            out.extend_from_slice(format!("\x1b[<{}u", self.depth).as_bytes());
        }
        if self.bare > 0 {
            out.extend_from_slice(b"\x1b[=0u");
        }
    }

    fn redo(&self, out: &mut Vec<u8>) {
        if self.bare > 0 {
            out.extend_from_slice(format!("\x1b[={}u", self.bare).as_bytes());
        }
        for flags in self.flags.iter().take(usize::from(self.depth)) {
            out.extend_from_slice(format!("\x1b[>{flags}u").as_bytes());
        }
    }
}

fn private(out: &mut Vec<u8>, mode: u16, on: bool) {
    out.extend_from_slice(format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }).as_bytes());
}

fn number(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(bytes: &[u8]) -> (Sentry, Vec<Terminator>) {
        let mut sentry = Sentry::new();
        let mut queries = Vec::new();
        sentry.feed(bytes, |t| queries.push(t));
        (sentry, queries)
    }

    fn undo(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        after(bytes).0.undo(&mut out);
        String::from_utf8(out).unwrap().replace('\x1b', "^")
    }

    #[test]
    fn only_the_exact_query_is_answered_with_its_own_terminator() {
        assert_eq!(after(b"x\x1b]7501;?\x07y").1, [Terminator::Bel]);
        assert_eq!(after(b"\x1b]7501;?\x1b\\").1, [Terminator::St]);
        assert_eq!(after(b"\x1b]75\r\n01;?\x07").1, [Terminator::Bel], "control bytes inside are ignored");
        for other in [
            &b"\x1b]7501;state=idle\x07"[..],
            b"\x1b]7501;?x\x07",
            b"\x1b]7501;\x07",
            b"\x1b]17501;?\x07",
            b"\x1b]7501;?\x18\x07",
            b"\x1b]7501;?\x1b[m\x07",
            b"\x1bPq\x1b]7501;?",
            b"]7501;?\x07",
        ] {
            assert_eq!(after(other).1, [], "{:?}", other.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_clean_terminal_needs_no_undo() {
        assert_eq!(
            undo(b"plain \x1b[31mred\x1b[0m \x1b[1;1Hx\x1b]0;title\x07 \x1b[?25l\x1b[?25h\x1b[?2026h\x1b[?2026l"),
            ""
        );
        assert_eq!(undo(b"\x1b[?1049h\x1b[>5u\x1b[?2004h\x1b[<u\x1b[?2004l\x1b[?1049l"), "");
        assert_eq!(undo(b"\x1b[?1049h\x1b[?1003h\x1bc"), "", "a full reset undoes all");
    }

    #[test]
    fn f31_every_mode_seen_on_is_undone_screens_last() {
        assert_eq!(undo(b"\x1b[?1049;1004h"), "^[?1004l^[?1049l");
        assert_eq!(undo(b"\x1b[>1u\x1b[?1049h\x1b[>5u\x1b[>7u"), "^[<2u^[?1049l^[<1u");
        assert_eq!(undo(b"\x1b[?25l\x1b[?7l\x1b[?1h\x1b=\x1b[>4;2m"), "^[?1l^[?7h^[?25h^>^[>4m");
        assert_eq!(undo(b"\x1b[3;10r"), "^7^[r^8");
        assert_eq!(undo(b"\x1b[?1049h\x1b[3;10r"), "^[r^[?1049l");
        assert_eq!(undo(b"\x1b[4 q\x1b(0\x1b[1;31m"), "^[0 q^(B\x0f^[m");
        assert_eq!(undo(b"\x1b[?1000h\x1b]0;half a title"), "^\\^[?1000l");
    }

    #[test]
    fn after_a_crash_flickering_modes_are_put_right_unseen() {
        let (mut sentry, _) = after(b"\x1b[?25l");
        let mark = sentry.mark();
        sentry.feed(b"\x1b[?25h\x1b[?25l\x1b[?25h", |_| {});
        assert_eq!(sentry.mark(), mark, "no need to write each frame down");
        let mut out = Vec::new();
        sentry.undo_unseen(&mut out);
        assert_eq!(out, b"\x1b\\\x1b[?25h");
    }

    #[test]
    fn what_a_stop_undid_is_redone() {
        let (sentry, _) = after(b"\x1b[?1049h\x1b[>5u\x1b[?2004h\x1b[?25l");
        let mut out = Vec::new();
        sentry.redo(&mut out);
        assert_eq!(out, b"\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[>5u");
        let (again, _) = after(&out);
        assert_eq!(again.now, sentry.now);
    }

    const PARTS: &[&[u8]] = &[
        b"\x1b]7501;?\x07",
        b"\x1b]7501;?\x1b\\",
        b"\x1b[?1049h",
        b"\x1b[?25l",
        b"\x1b[>5u",
        b"\x1b[<u",
        b"\x1bP+q\x07\x1b\\",
        b"text",
        b"\x1b[",
        b"\x1b]0;t",
        b"\x18",
        b"\x1b(0",
        b"\x1b[1;2r",
        b"\xff\x00",
    ];

    proptest! {
        #[test]
        fn f26_any_split_tells_the_same(
            parts in prop::collection::vec(prop::sample::select(PARTS), 0..24),
            cuts in prop::collection::vec(1usize..9, 1..40),
        ) {
            let bytes = parts.concat();
            let (whole, queries) = after(&bytes);
            let mut split = Sentry::new();
            let mut seen = Vec::new();
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                split.feed(chunk, |t| seen.push(t));
                rest = tail;
            }
            prop_assert_eq!(queries, seen);
            prop_assert_eq!(whole.now, split.now);
            prop_assert_eq!(whole.mark(), split.mark());
        }

        #[test]
        fn f25_no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let (sentry, _) = after(&bytes);
            let mut out = Vec::new();
            sentry.undo(&mut out);
            sentry.undo_unseen(&mut out);
            sentry.redo(&mut out);
        }
    }
}
