//! A line-mode program's terminal: rows that are finished, and the one that is being written.
//!
//! Much cheaper than a grid: escape sequences are jumped over, whole lines are copied once, as many as stand together in
//! one piece. Only what line editors and progress bars use is acted on: CR, backspace, moves along the row, erasing. Columns have no end here, so a row is
//! the line as it was written, whatever the width of the terminal.

use memchr::{memchr, memchr2};
use unicode_width::UnicodeWidthChar as _;

use crate::term::scanner::Params;
use crate::term::screen::ScreenText;
use crate::term::words::{is_not_printable, stretch};

/// A longer line is cut into rows of this length (F27).
const MAX_ROW_BYTES: usize = 64 * 1024;
/// Bytes of finished rows that are kept to be shown, at least.
const HISTORY: usize = 64 * 1024;
/// Text up to this length is looked at first whether there is any control byte in it.
const SHORT: usize = 64;
/// Bytes that are looked at together whether a terminal acts on any of them.
const BLOCK: usize = 64;

const BS: u8 = 0x08;

/// The terminal; see the module.
#[derive(Debug)]
pub(crate) struct Lines {
    cols: u16,
    rows: u16,
    /// The row being written.
    current: Vec<u8>,
    /// Every byte of it is one printable ASCII character: columns are indexes.
    ascii: bool,
    /// Column of the cursor; none at the end of the row.
    cursor: Option<usize>,
    /// The first bytes of a character that is written over others and not whole yet.
    partial: Vec<u8>,
    /// The rest of the row was erased and nothing written since.
    erased: bool,
    /// A CR came last: with LF it ends a line, with anything else it goes to column 0.
    returned: bool,
    /// Finished rows since the last [`Self::take`], each ended by LF or CR LF.
    out: Vec<u8>,
    /// Offsets in `out` of line ends that an erase came before: where a program wraps its own words.
    wraps: Vec<usize>,
    /// The last finished rows, each ended by LF or CR LF.
    history: Vec<u8>,
    alternate: bool,
}

/// Rows that were finished.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    /// The rows, each ended by LF, or by CR LF where it was written so: no row has a CR in it otherwise.
    pub(crate) text: Vec<u8>,
    /// Offsets of line ends that came right after an erase to the end of the row.
    pub(crate) wraps: Vec<usize>,
}

impl Lines {
    pub(crate) fn new(cols: u16, rows: u16) -> Self {
        Self {
            cols,
            rows,
            current: Vec::new(),
            ascii: true,
            cursor: None,
            partial: Vec::new(),
            erased: false,
            returned: false,
            out: Vec::new(),
            wraps: Vec::new(),
            history: Vec::new(),
            alternate: false,
        }
    }

    /// Exchanges the rows finished since the last call for the emptied `spare`.
    pub(crate) fn take(&mut self, spare: &mut Finished) {
        spare.text.clear();
        spare.wraps.clear();
        std::mem::swap(&mut self.out, &mut spare.text);
        std::mem::swap(&mut self.wraps, &mut spare.wraps);
        self.remember(&spare.text);
    }

    /// Takes a new size.
    pub(crate) fn resize(&mut self, cols: u16, rows: u16) {
        (self.cols, self.rows) = (cols, rows);
    }

    /// Brings `text` up to date; says whether a row or the cursor is different.
    pub(crate) fn look(&mut self, text: &mut ScreenText) -> bool {
        let fresh = self.text();
        let changed = fresh != *text;
        *text = fresh;
        changed
    }

    /// Returns what a look would show.
    pub(crate) fn text(&self) -> ScreenText {
        let shown = usize::from(self.rows.max(2)) - 1;
        let finished = self.history.strip_suffix(b"\n").unwrap_or(&self.history);
        let mut lines: Vec<String> = if self.history.is_empty() {
            Vec::new()
        } else {
            let last = finished.rsplit(|b| *b == b'\n').take(shown);
            last.map(|r| String::from_utf8_lossy(r).trim_end().to_owned()).collect()
        };
        lines.reverse();
        let (current, col) = self.current();
        lines.push(current);
        let row = u16::try_from(lines.len() - 1).unwrap_or(u16::MAX);
        let cursor = (u16::try_from(col).unwrap_or(u16::MAX), row);
        ScreenText { cols: self.cols, rows: self.rows, lines, cursor, alternate: self.alternate }
    }

    /// The row being written and the column of the cursor in it.
    pub(crate) fn current(&self) -> (String, usize) {
        let text = String::from_utf8_lossy(&self.current).into_owned();
        let col = if self.returned { 0 } else { self.cursor.unwrap_or_else(|| width(&text)) };
        (text, col)
    }

    /// Keeps the last finished rows to be shown.
    fn remember(&mut self, text: &[u8]) {
        self.history.extend_from_slice(last_rows(text, HISTORY));
        if self.history.len() > 2 * HISTORY {
            let cut = self.history.len() - last_rows(&self.history, HISTORY).len();
            self.history.drain(..cut);
        }
    }

    /// Takes the whole lines that `bytes` begins with and in which there is nothing to act on, in one piece; returns
    /// their length. The row being written must be empty.
    fn whole_lines(&mut self, bytes: &[u8]) -> usize {
        // No line is longer than a row may be.
        let plain = plain(&bytes[..bytes.len().min(MAX_ROW_BYTES)]);
        let len = memchr::memrchr(b'\n', &bytes[..plain]).map_or(0, |lf| lf + 1);
        self.out.extend_from_slice(&bytes[..len]);
        len
    }

    /// Takes text between escape sequences, control bytes other than ESC and BEL included.
    pub(crate) fn feed(&mut self, text: &[u8]) {
        if self.alternate {
            return;
        }
        if text.len() <= SHORT && printable(text) {
            return self.write(text, true);
        }
        let mut rest = text;
        while let Some(lf) = memchr(b'\n', rest) {
            self.act(&rest[..lf]);
            self.newline();
            rest = &rest[lf + 1..];
            rest = &rest[self.whole_lines(rest)..];
        }
        self.act(rest);
    }

    /// Writes a stretch without control bytes that are acted on.
    fn write(&mut self, text: &[u8], printable: bool) {
        if text.is_empty() {
            return;
        }
        if std::mem::take(&mut self.returned) {
            self.cursor = (!self.current.is_empty()).then_some(0);
        }
        self.erased = false;
        match self.cursor {
            None => {
                if !self.partial.is_empty() {
                    self.current.append(&mut self.partial);
                    self.ascii = false;
                }
                self.ascii &= printable;
                self.current.extend_from_slice(text);
            }
            Some(col) if self.ascii && printable && self.partial.is_empty() => {
                let over = text.len().min(self.current.len() - col);
                self.current[col..col + over].copy_from_slice(&text[..over]);
                self.cursor = (col + over < self.current.len()).then_some(col + over);
                self.current.extend_from_slice(&text[over..]);
            }
            Some(col) => {
                self.partial.extend_from_slice(text);
                self.overwrite(col);
            }
        }
        while self.current.len() > MAX_ROW_BYTES {
            self.cursor = None;
            let rest = self.current.split_off(MAX_ROW_BYTES);
            let row = std::mem::replace(&mut self.current, rest);
            self.wraps.push(self.out.len() + row.len());
            self.out.extend_from_slice(&row);
            self.out.push(b'\n');
        }
    }

    fn newline(&mut self) {
        if self.erased {
            self.wraps.push(self.out.len() + self.current.len());
        }
        self.out.extend_from_slice(&self.current);
        self.out.push(b'\n');
        self.clear();
        (self.cursor, self.erased, self.returned) = (None, false, false);
    }

    /// Writes the bytes in `partial` over the row from `col` on, character by character, so that it does not matter how
    /// they were cut; what goes beyond the row is appended as it is.
    fn overwrite(&mut self, col: usize) {
        let bytes = std::mem::take(&mut self.partial);
        let mut rest = bytes.as_slice();
        let (mut row, mut at, mut col) = self.chars(col);
        while at < row.len() && !rest.is_empty() {
            let Some((c, len)) = first_char(rest) else {
                self.partial = rest.to_vec();
                rest = &[];
                break;
            };
            rest = &rest[len..];
            match c.width().unwrap_or(0) {
                0 => row.insert(at, c),
                w => {
                    row[at] = c;
                    col += w;
                }
            }
            at += 1;
            at += marks(&row[at..]);
        }
        self.set(&row);
        self.cursor = (at < row.len()).then_some(col);
        self.ascii &= printable(rest);
        self.current.extend_from_slice(rest);
    }

    /// The row as characters, padded so that it reaches column `col`; the index that stands there, behind its combining
    /// marks; and the column itself, which is a later one if `col` is the second half of a wide character.
    fn chars(&self, col: usize) -> (Vec<char>, usize, usize) {
        let col = col.min(MAX_ROW_BYTES);
        let mut row: Vec<char> = String::from_utf8_lossy(&self.current).chars().collect();
        let (mut at, mut seen) = (0, 0);
        while at < row.len() && seen < col {
            seen += row[at].width().unwrap_or(0);
            at += 1;
        }
        at += marks(&row[at..]);
        if seen < col {
            row.extend(std::iter::repeat_n(' ', col - seen));
            (at, seen) = (row.len(), col);
        }
        (row, at, seen)
    }

    fn set(&mut self, row: &[char]) {
        self.current.clear();
        let mut buf = [0; 4];
        for c in row {
            self.current.extend_from_slice(c.encode_utf8(&mut buf).as_bytes());
        }
        self.ascii = printable(&self.current);
    }

    fn clear(&mut self) {
        self.current.clear();
        self.partial.clear();
        self.ascii = true;
    }

    fn width(&self) -> usize {
        if self.ascii { self.current.len() } else { width(&String::from_utf8_lossy(&self.current)) }
    }

    fn col(&self) -> usize {
        if self.returned { 0 } else { self.cursor.unwrap_or_else(|| self.width()) }
    }

    fn go(&mut self, col: usize) {
        self.returned = false;
        self.partial.clear();
        let (col, width) = (col.min(MAX_ROW_BYTES), self.width());
        // What is jumped over shows as blanks.
        self.current.extend(std::iter::repeat_n(b' ', col.saturating_sub(width)));
        self.cursor = (col < width).then_some(col);
    }

    /// Control bytes in a stretch without LF and ESC.
    fn act(&mut self, mut text: &[u8]) {
        while let Some(at) = memchr2(b'\r', BS, text) {
            self.write(&text[..at], printable(&text[..at]));
            match text[at] {
                b'\r' => self.returned = true,
                _ => self.go(self.col().saturating_sub(1)),
            }
            text = &text[at + 1..];
        }
        self.write(text, printable(text));
    }

    /// Takes a control sequence.
    pub(crate) fn csi(&mut self, params: Params<'_>, last: u8) {
        if last == b'm' {
            return; // colours are most of them
        }
        let (n, second) = params.two();
        match last {
            b'C' => self.go(self.col() + n.max(1)),
            b'D' => self.go(self.col().saturating_sub(n.max(1))),
            b'G' | b'`' => self.go(n.max(1) - 1),
            b'K' => self.erase(n),
            b'H' | b'f' | b'd' => {
                // Moved elsewhere on the screen: what is written there is another row. Home comes before a new drawing
                // of what stood here.
                if (n > 1 || second > 1) && !self.current.is_empty() {
                    self.newline();
                }
                self.clear();
                (self.cursor, self.returned) = (None, false);
            }
            b'P' => {
                let (mut row, at, _) = self.chars(self.col());
                let end = (at + n.max(1)).min(row.len());
                row.drain(at..end);
                self.set(&row);
            }
            b'J' if n >= 2 => {
                // A cleared screen begins anew.
                self.history.clear();
                self.clear();
                (self.cursor, self.returned) = (None, false);
            }
            b'h' | b'l' if params.is_private() && params.all().any(|m| matches!(m, 47 | 1047 | 1049)) => {
                self.alternate = last == b'h';
            }
            _ => {}
        }
    }

    fn erase(&mut self, what: usize) {
        let col = self.col();
        match what {
            0 => {
                if col == 0 {
                    self.clear();
                } else if self.cursor.is_some() && self.ascii {
                    self.current.truncate(col);
                } else if self.cursor.is_some() {
                    let (mut row, at, _) = self.chars(col);
                    row.truncate(at);
                    self.set(&row);
                }
                (self.cursor, self.returned) = (None, false);
                self.erased = true;
            }
            1 => {
                let (mut row, at, _) = self.chars(col);
                row[..at].fill(' ');
                self.set(&row);
                self.go(col);
            }
            _ => {
                self.clear();
                self.go(col);
            }
        }
    }
}

/// How many bytes `bytes` begins with that a terminal does not act on, but for LF and CR LF.
fn plain(bytes: &[u8]) -> usize {
    let acts = |byte: u8, next: u8| (byte == BS) | ((byte == b'\r') & (next != b'\n'));
    let mut at = 0;
    // Without a branch for a byte the compiler does sixteen of them at once.
    while let Some(block) = bytes.get(at..=at + BLOCK)
        && !block[..BLOCK].iter().zip(&block[1..]).fold(false, |any, (byte, next)| any | acts(*byte, *next))
    {
        at += BLOCK;
    }
    let rest = &bytes[at..];
    let next = rest.iter().skip(1).copied().chain([0]);
    at + rest.iter().zip(next).position(|(byte, next)| acts(*byte, next)).unwrap_or(rest.len())
}

/// The last rows of `text`, of at most `most` bytes.
fn last_rows(text: &[u8], most: usize) -> &[u8] {
    let Some(over) = text.len().checked_sub(most + 1) else { return text };
    &text[memchr::memchr(b'\n', &text[over..]).map_or(text.len(), |lf| over + lf + 1)..]
}

fn printable(text: &[u8]) -> bool {
    stretch(text, is_not_printable) == text.len()
}

/// The first character of `bytes` and its length; none if it is not whole yet. What is no character is one mark each.
fn first_char(bytes: &[u8]) -> Option<(char, usize)> {
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.valid_up_to() > 0 => std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default(),
        Err(e) => return e.error_len().map(|len| (char::REPLACEMENT_CHARACTER, len)),
    };
    valid.chars().next().map(|c| (c, c.len_utf8()))
}

/// How many combining marks `row` begins with.
fn marks(row: &[char]) -> usize {
    row.iter().take_while(|c| c.width().unwrap_or(0) == 0).count()
}

fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::term::scanner::{Hit, Scanner, Taker};

    const BEL: u8 = 0x07;
    const ESC: u8 = 0x1b;

    /// A terminal with the scanner before it.
    struct Terminal {
        scanner: Scanner,
        lines: Lines,
    }

    impl Terminal {
        fn new(cols: u16, rows: u16) -> Self {
            Self { scanner: Scanner::new(), lines: Lines::new(cols, rows) }
        }

        fn process(&mut self, bytes: &[u8]) {
            self.scanner.scan(bytes, 0, &mut self.lines);
        }

        /// All rows that were finished, ended by LF, and which of them had an erase before that.
        fn finished(&self) -> (String, Vec<usize>) {
            let text = String::from_utf8_lossy(&self.lines.out).into_owned();
            let row = |end: &usize| self.lines.out[..*end].iter().filter(|b| **b == b'\n').count();
            (text.replace("\r\n", "\n"), self.lines.wraps.iter().map(row).collect())
        }
    }

    impl Taker for Lines {
        fn text(&mut self, text: &[u8]) {
            self.feed(text);
        }

        fn csi(&mut self, params: Params<'_>, last: u8) {
            Lines::csi(self, params, last);
        }

        fn hit(&mut self, _: Hit<'_>, _: usize) {}
    }

    fn rows(bytes: &[u8]) -> (String, String, Vec<usize>) {
        let mut terminal = Terminal::new(80, 24);
        terminal.process(bytes);
        let (done, wraps) = terminal.finished();
        (done, terminal.lines.current().0, wraps)
    }

    #[test]
    fn sequences_go_and_text_stays() {
        let (done, now, _) = rows(b"\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07tab\there\nnext");
        assert_eq!((done.as_str(), now.as_str()), ("red\ntab\there\n", "next"));
    }

    #[test]
    fn a_progress_bar_leaves_its_last_state() {
        assert_eq!(rows(b"10%\r20%\r100% done\r\n").0, "100% done\n");
        assert_eq!(rows(b"abc\rX\x1b[K\n").0, "X\n");
        assert_eq!(rows(b"abc\x08\x08X\n").0, "aXc\n");
    }

    #[test]
    fn a_word_that_a_program_wraps_itself_is_told() {
        let (done, now, wraps) = rows(b"on it, so\x1b[2D\x1b[K\r\nso it");
        assert_eq!((done.as_str(), now.as_str(), wraps.as_slice()), ("on it, \n", "so it", [0].as_slice()));
        assert!(rows(b"plain\r\n").2.is_empty());
    }

    #[test]
    fn a_spinner_that_was_erased_is_nothing() {
        assert_eq!(rows("\x1b[1G⠙ \x1b[K\x1b[2K\x1b[1Ganswer\n".as_bytes()).0, "answer\n");
    }

    #[test]
    fn the_last_rows_are_shown_and_the_one_being_written() {
        let mut lines = Lines::new(80, 4);
        let mut text = crate::term::screen::blank(80, 4);
        for n in 0..1000 {
            lines.feed(format!("row {n}\r\n").as_bytes());
            lines.take(&mut Finished::default());
        }
        lines.feed(b"$ ");
        assert!(lines.look(&mut text) && !lines.look(&mut text));
        assert_eq!((text.lines.join("|").as_str(), text.cursor), ("row 997|row 998|row 999|$ ", (2, 3)));
    }

    #[test]
    fn text_written_elsewhere_on_the_screen_is_another_row() {
        assert_eq!(rows(b"a\x1b[5;1Hb\x1b[9Gc\x1b[6;1H").0, "a\nb       c\n");
        assert_eq!(rows(b"$ old\x1b[H\x1b[2J$ new\n").0, "$ new\n");
    }

    #[test]
    fn f27_a_line_without_end_is_cut() {
        let (done, now, _) = rows(&vec![b'x'; 3 * MAX_ROW_BYTES]);
        assert_eq!(done.lines().map(str::len).max(), Some(MAX_ROW_BYTES));
        assert!(now.len() <= MAX_ROW_BYTES);
    }

    proptest! {
        #[test]
        fn f26_any_split_gives_the_same_rows(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b'a'), Just(b'\n'), Just(b'\r'), Just(ESC), Just(b'['), Just(b'2'), Just(b'K'), Just(b'D'),
                Just(b'G'), Just(b']'), Just(BEL), Just(BS), Just(0xe6), Just(0x97), Just(0xa5), any::<u8>(),
            ], 0..80),
            cut in 0usize..80,
        ) {
            let cut = cut.min(bytes.len());
            let (mut split, mut whole) = (Terminal::new(80, 24), Terminal::new(80, 24));
            split.process(&bytes[..cut]);
            split.process(&bytes[cut..]);
            whole.process(&bytes);
            prop_assert_eq!(split.finished(), whole.finished());
            prop_assert_eq!(split.lines.current(), whole.lines.current());
        }

        #[test]
        fn lines_taken_in_one_piece_are_those_taken_byte_by_byte(
            parts in proptest::collection::vec(prop_oneof![
                4 => "[ -~é日\t]{0,90}".prop_map(|line| line + "\r\n"),
                4 => "[ -~é日\t]{0,90}".prop_map(|line| line + "\n"),
                1 => "[ -~]{0,20}(\r|\x08|\x07|\r\r\n|\x1b\\[K\r\n|\x1b\\[2D|\x1b\\[1m|\x1b\\[\\?1049[hl]|\x1b\\[9G|\x1b\\[5;3H)",
            ], 0..40),
            size in 1usize..300,
        ) {
            let bytes = parts.concat().into_bytes();
            let (mut pieces, mut single) = (Terminal::new(80, 24), Terminal::new(80, 24));
            bytes.chunks(size).for_each(|chunk| pieces.process(chunk));
            bytes.chunks(1).for_each(|byte| single.process(byte));
            prop_assert_eq!(pieces.finished(), single.finished());
            prop_assert_eq!(pieces.lines.current(), single.lines.current());
            let (mut left, mut right) = (crate::term::screen::blank(80, 24), crate::term::screen::blank(80, 24));
            for (terminal, text) in [(&mut pieces, &mut left), (&mut single, &mut right)] {
                terminal.lines.take(&mut Finished::default());
                terminal.lines.look(text);
            }
            prop_assert_eq!(left, right);
        }
    }
}
