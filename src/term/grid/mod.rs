//! The screen of a full-screen program, as far as its text goes: no colours, no attributes, no scrollback.
//!
//! Ours because it runs beside every agent for as long as it writes: `ARCHITECTURE.md` has the figures. It does what
//! vt100 does, whose cases it is tested against (`tests.rs` lists where the two differ on purpose), in a third of the
//! time or less: sequences that change no text are not even read, a row is one slice of text at a time, and a row that
//! is empty costs nothing.

mod page;
mod row;
#[cfg(test)]
mod tests;

use unicode_width::UnicodeWidthChar as _;

use self::page::Page;
use crate::term::parse::{Handler, Parser, numbers};
use crate::term::screen::{Screen, ScreenText, blank};

/// Programs repeat a character within a row; a few bytes may ask for 65535 of them, again and again.
const MAX_REPEATS: usize = 1024;

/// A full-screen program's terminal.
#[derive(Debug)]
pub struct Grid {
    parser: Parser,
    model: Model,
    /// The row being compared; kept so that a look at what did not change allocates nothing.
    fresh: String,
}

/// What the output acts on.
#[derive(Debug)]
struct Model {
    page: Page,
    /// The page that is not shown.
    hidden: Page,
    alternate: bool,
    /// Rows wrap at the right edge.
    wraps: bool,
    /// What is written moves the rest of the row on.
    inserts: bool,
    /// Whether G0 and G1 are the line drawing characters, and which of them is in use.
    drawings: [bool; 2],
    shifted: bool,
    /// What was written last, and how wide it is.
    last: Option<(char, usize)>,
}

/// A terminal reported as 0x0 (F34) has the size that everybody assumes.
fn usable(cols: u16, rows: u16) -> (usize, usize) {
    let or = |n: u16, fallback: usize| if n == 0 { fallback } else { usize::from(n) };
    (or(cols, 80), or(rows, 24))
}

impl Grid {
    /// An empty screen of this size.
    pub fn new(cols: u16, rows: u16) -> Self {
        let (cols, rows) = usable(cols, rows);
        Self { parser: Parser::new(), model: Model::new(cols, rows), fresh: String::new() }
    }
}

impl Screen for Grid {
    fn process(&mut self, bytes: &[u8]) {
        self.parser.feed(bytes, &mut self.model);
    }

    fn resize(&mut self, cols: u16, rows: u16) {
        let (cols, rows) = usable(cols, rows);
        self.model.page.resize(cols, rows);
        self.model.hidden.resize(cols, rows);
    }

    fn look(&mut self, text: &mut ScreenText) -> bool {
        let Self { model, fresh, .. } = self;
        let all = std::mem::take(&mut model.page.moved) || text.lines.len() != model.page.rows().len();
        let mut changed = model.frame(text);
        for (row, line) in model.page.rows_mut().iter_mut().zip(&mut text.lines) {
            if std::mem::take(&mut row.changed) || all {
                row.text(fresh);
                if fresh != line {
                    changed = true;
                    std::mem::swap(line, fresh);
                }
            }
        }
        changed
    }

    fn text(&self) -> ScreenText {
        let mut text = blank(0, 0);
        self.model.frame(&mut text);
        self.model.page.rows().iter().zip(&mut text.lines).for_each(|(row, line)| row.text(line));
        text
    }
}

impl Model {
    fn new(cols: usize, rows: usize) -> Self {
        Self {
            page: Page::new(cols, rows, true),
            hidden: Page::new(cols, rows, false),
            alternate: false,
            wraps: true,
            inserts: false,
            drawings: [false; 2],
            shifted: false,
            last: None,
        }
    }

    /// Brings all of `text` but its rows up to date; says whether something was not.
    fn frame(&self, text: &mut ScreenText) -> bool {
        let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let (cols, rows) = self.page.size();
        let (row, col) = self.page.cursor();
        let frame = (short(cols), short(rows), (short(col), short(row)), self.alternate);
        let changed = frame != (text.cols, text.rows, text.cursor, text.alternate) || text.lines.len() != rows;
        (text.cols, text.rows, text.cursor, text.alternate) = frame;
        text.lines.resize(rows, String::new());
        changed
    }

    fn show_alternate(&mut self, alternate: bool) {
        if self.alternate != alternate {
            self.alternate = alternate;
            // One cursor walks on both pages.
            self.hidden.set_cursor(self.page.cursor());
            std::mem::swap(&mut self.page, &mut self.hidden);
            self.page.moved = true;
        }
    }

    fn mode(&mut self, mode: u16, set: bool) {
        match mode {
            6 => self.page.set_origin(set),
            7 => self.wraps = set,
            47 => self.show_alternate(set),
            1047 if set => self.show_alternate(true),
            1047 => {
                if self.alternate {
                    let cursor = self.page.cursor();
                    self.page.clear();
                    self.page.set_cursor(cursor);
                }
                self.show_alternate(false);
            }
            1048 if set => self.page.save(),
            1048 => self.page.restore(),
            1049 if set => {
                self.page.save();
                let cursor = self.page.cursor();
                self.show_alternate(true);
                self.page.clear();
                self.page.set_cursor(cursor);
            }
            1049 => {
                self.show_alternate(false);
                self.page.restore();
            }
            _ => {}
        }
    }

    fn draws(&self) -> bool {
        self.drawings[usize::from(self.shifted)]
    }

    fn repeat(&mut self, count: usize) {
        let Some((c, _)) = self.last else { return };
        let mut count = count.min(MAX_REPEATS);
        match u8::try_from(c) {
            Ok(byte @ b' '..0x7f) if !self.draws() => {
                let run = [byte; 128];
                while count > 0 {
                    let now = count.min(run.len());
                    self.ascii(&run[..now]);
                    count -= now;
                }
            }
            _ => (0..count).for_each(|_| self.char(c)),
        }
    }

    fn erase_in_row(&mut self, what: u16) {
        let (_, col) = self.page.cursor();
        match what {
            0 => self.page.erase(col, usize::MAX),
            1 => self.page.erase(0, col + 1),
            2 => self.page.erase(0, usize::MAX),
            _ => {}
        }
    }

    fn erase_in_page(&mut self, what: u16) {
        let (row, _) = self.page.cursor();
        match what {
            0 => self.page.erase_rows(row + 1..),
            1 => self.page.erase_rows(..row),
            2 => return self.page.erase_rows(..),
            3 => return self.page.forget_past(),
            _ => {}
        }
        self.erase_in_row(what);
    }
}

impl Handler for Model {
    #[inline]
    fn ascii(&mut self, run: &[u8]) {
        if self.draws() {
            return run.iter().for_each(|byte| self.char(drawing(*byte)));
        }
        self.last = run.last().map(|byte| (char::from(*byte), 1));
        let mut rest = run;
        while !rest.is_empty() {
            if self.page.is_at_edge(1) {
                self.page.wrap(self.wraps, 1);
            }
            if self.inserts {
                self.page.insert_cells(rest.len());
            }
            let written = self.page.write(rest);
            rest = &rest[written..];
        }
    }

    fn char(&mut self, c: char) {
        let width = match self.last {
            Some((last, width)) if last == c => width,
            _ => match c.width() {
                Some(width) => width.min(2),
                None => return, // C1 control characters
            },
        };
        if width == 0 {
            return self.page.mark(c, self.wraps);
        }
        if width > self.page.size().0 {
            return;
        }
        self.last = Some((c, width));
        if self.page.is_at_edge(width) {
            self.page.wrap(self.wraps, width);
        }
        if self.inserts {
            self.page.insert_cells(width);
        }
        self.page.put(c, width);
    }

    #[inline]
    fn control(&mut self, byte: u8) {
        match byte {
            0x08 => self.page.left(1),
            b'\t' => self.page.tab(1),
            b'\n' | 0x0b | 0x0c => self.page.line_feed(),
            b'\r' => self.page.go_to_col(0),
            0x0e => self.shifted = true,
            0x0f => self.shifted = false,
            _ => {}
        }
    }

    fn escape(&mut self, between: &[u8], last: u8) {
        match (between, last) {
            (b"", b'7') => self.page.save(),
            (b"", b'8') => self.page.restore(),
            (b"", b'D') => self.page.line_feed(),
            (b"", b'E') => {
                self.page.go_to_col(0);
                self.page.line_feed();
            }
            (b"", b'M') => self.page.reverse_line_feed(),
            (b"", b'c') => {
                let (cols, rows) = self.page.size();
                *self = Self::new(cols, rows);
            }
            (b"(", set) => self.drawings[0] = set == b'0',
            (b")", set) => self.drawings[1] = set == b'0',
            _ => {}
        }
    }

    #[inline]
    fn sequence(&mut self, inside: &[u8], last: u8) {
        // Colours and attributes: more than a quarter of all sequences of an agent, and none of our business.
        if last == b'm' {
            return;
        }
        if let Some(b'?') = inside.first() {
            return self.private(&inside[1..], last);
        }
        let Some([first, second]) = numbers(inside) else {
            if (inside, last) == (b"!", b'p') {
                self.soft_reset();
            }
            return;
        };
        let page = &mut self.page;
        let count = usize::from(first.max(1));
        let below = |n: u16| usize::from(n.max(1)) - 1;
        match last {
            b'@' => page.insert_cells(count),
            b'A' => page.up(count),
            b'B' | b'e' => page.down(count),
            b'C' | b'a' => page.right(count),
            b'D' => page.left(count),
            b'E' | b'F' => {
                page.go_to_col(0);
                if last == b'E' { page.down(count) } else { page.up(count) }
            }
            b'G' | b'`' => page.go_to_col(below(first)),
            b'H' | b'f' => page.go_to(below(first), below(second)),
            b'I' => page.tab(count),
            b'J' => self.erase_in_page(first),
            b'K' => self.erase_in_row(first),
            b'L' => page.insert_rows(count),
            b'M' => page.remove_rows(count),
            b'P' => page.remove_cells(count),
            b'S' => page.scroll_up(count),
            b'T' => page.scroll_down(count),
            b'X' => {
                let (_, col) = page.cursor();
                page.erase(col, col + count);
            }
            b'Z' => page.tab_back(count),
            b'b' => self.repeat(count),
            b'd' => page.go_to_row(below(first)),
            b'h' | b'l' if first == 4 => self.inserts = last == b'h',
            b'r' => {
                let bottom = if second == 0 { usize::MAX } else { usize::from(second) - 1 };
                page.set_region(below(first), bottom);
                page.go_to(0, 0);
            }
            b's' if inside.is_empty() => page.save(),
            b'u' if inside.is_empty() => page.restore(),
            _ => {}
        }
    }
}

impl Model {
    /// A sequence that begins with a question mark.
    fn private(&mut self, inside: &[u8], last: u8) {
        match last {
            b'h' | b'l' => {
                for mode in inside.split(|byte| *byte == b';') {
                    if let Some([mode]) = numbers(mode) {
                        self.mode(mode, last == b'h');
                    }
                }
            }
            b'J' | b'K' => match numbers(inside) {
                Some([what]) if last == b'J' => self.erase_in_page(what),
                Some([what]) => self.erase_in_row(what),
                None => {}
            },
            _ => {}
        }
    }

    fn soft_reset(&mut self) {
        (self.wraps, self.inserts, self.drawings, self.shifted) = (true, false, [false; 2], false);
        self.page.soft_reset();
    }
}

/// The line drawing character in the place of an ASCII one.
fn drawing(byte: u8) -> char {
    const FROM_UNDERSCORE: [char; 32] = [
        ' ', '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', //
        '⎺', '⎻', '─', '⎼', '⎽', '├', '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
    ];
    match byte.checked_sub(b'_') {
        Some(index) => FROM_UNDERSCORE.get(usize::from(index)).copied().unwrap_or(' '),
        None => char::from(byte),
    }
}
