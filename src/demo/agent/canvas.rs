//! A grid of cells that writes only what changed, as full-screen agents do.
//!
//! Blanks between words are jumped over, not written: that is why text patterns cannot work on their raw bytes.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

/// Parameters of an SGR sequence; empty for plain text.
pub(super) type Ink = &'static str;

/// A row of coloured text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Line(Vec<(Ink, String)>);

impl Line {
    pub(super) fn ink(ink: Ink, text: impl Into<String>) -> Self {
        Self(vec![(ink, text.into())])
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::ink("", text)
    }

    pub(super) fn then(mut self, ink: Ink, text: impl Into<String>) -> Self {
        self.0.push((ink, text.into()));
        self
    }
}

/// What the screen should show.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    pub(super) rows: Vec<Line>,
    /// Row and column, from 0.
    pub(super) cursor: (usize, usize),
}

impl Frame {
    pub(super) fn blank(rows: usize) -> Self {
        Self { rows: vec![Line::default(); rows], cursor: (0, 0) }
    }

    /// Puts a line at `row`; rows outside the screen are lost.
    pub(super) fn put(&mut self, row: usize, line: Line) {
        if let Some(slot) = self.rows.get_mut(row) {
            *slot = line;
        }
    }
}

/// How positions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moves {
    /// From the home position, row by row (the claude dialect).
    Relative,
    /// By address, in a synchronised frame (the codex dialect).
    Absolute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    ch: char,
    ink: Ink,
}

const BLANK: Cell = Cell { ch: ' ', ink: "" };
/// The second half of a wide character.
const TAIL: char = '\0';

/// What the terminal shows now, as far as we know.
#[derive(Debug)]
pub(super) struct Canvas {
    cols: usize,
    shown: Vec<Vec<Cell>>,
    cursor: Option<(usize, usize)>,
    moves: Moves,
    /// Frames are wrapped in synchronised updates.
    pub(super) sync: bool,
}

impl Canvas {
    /// A cleared screen.
    pub(super) fn new(cols: u16, rows: u16, moves: Moves) -> Self {
        let (cols, rows) = (usize::from(cols.max(20)), usize::from(rows.max(8)));
        Self { cols, shown: vec![vec![BLANK; cols]; rows], cursor: None, moves, sync: moves == Moves::Absolute }
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.cols, self.shown.len())
    }

    /// Returns the bytes that turn the shown screen into `frame`; empty where nothing changed.
    pub(super) fn paint(&mut self, frame: &Frame) -> String {
        let mut out = String::new();
        let mut at = 0;
        let mut ink = "";
        for row in 0..self.shown.len() {
            let wanted = self.cells(frame.rows.get(row));
            if wanted == self.shown[row] {
                continue;
            }
            let mut first = true;
            let mut col = 0;
            while col < self.cols {
                if wanted[col] == self.shown[row][col] {
                    col += 1;
                    continue;
                }
                match self.moves {
                    Moves::Absolute => _ = write!(out, "\x1b[{};{}H", row + 1, col + 1),
                    Moves::Relative if first => {
                        out.push('\r');
                        if row > at {
                            _ = write!(out, "\x1b[{}B", row - at);
                        }
                        if col > 0 {
                            _ = write!(out, "\x1b[{col}C");
                        }
                    }
                    Moves::Relative => _ = write!(out, "\x1b[{}G", col + 1),
                }
                first = false;
                at = row;
                if wanted[col..].iter().all(|c| *c == BLANK) {
                    out.push_str(if ink.is_empty() { "\x1b[K" } else { "\x1b[0m\x1b[K" });
                    ink = "";
                    break;
                }
                while col < self.cols && wanted[col] != self.shown[row][col] {
                    let cell = wanted[col];
                    if cell.ch != TAIL {
                        if cell.ink != ink {
                            out.push_str("\x1b[0m");
                            if !cell.ink.is_empty() {
                                _ = write!(out, "\x1b[{}m", cell.ink);
                            }
                            ink = cell.ink;
                        }
                        out.push(cell.ch);
                    }
                    col += 1;
                }
            }
            self.shown[row] = wanted;
        }
        if out.is_empty() && self.cursor == Some(frame.cursor) {
            return out;
        }
        self.cursor = Some(frame.cursor);
        let (row, col) = frame.cursor;
        let reset = if ink.is_empty() { "" } else { "\x1b[0m" };
        let park = format!("\x1b[{};{}H", row + 1, col + 1);
        let (begin, end) = if self.sync { ("\x1b[?2026h", "\x1b[?2026l") } else { ("", "") };
        match self.moves {
            Moves::Relative => format!("{begin}\x1b[H{out}{reset}\x1b[{};1H{park}{end}", self.shown.len()),
            Moves::Absolute => format!("{begin}\x1b[?25l{out}\x1b[39m\x1b[49m\x1b[0m{park}\x1b[?25h{end}"),
        }
    }

    fn cells(&self, line: Option<&Line>) -> Vec<Cell> {
        let mut cells = Vec::with_capacity(self.cols);
        for (ink, text) in line.map_or(&[][..], |l| &l.0) {
            for ch in text.chars() {
                let width = ch.width().unwrap_or(0);
                if width == 0 || cells.len() + width > self.cols {
                    continue;
                }
                // A blank has no ink of its own, except where it is a mark (the block cursor).
                let ink = if ch == ' ' && *ink != "7" { "" } else { *ink };
                cells.push(Cell { ch, ink });
                cells.extend((1..width).map(|_| Cell { ch: TAIL, ink }));
            }
        }
        cells.resize(self.cols, BLANK);
        cells
    }
}

/// Breaks text into rows of at most `width` columns at blanks; longer words are cut.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows = Vec::new();
    for line in text.split('\n') {
        let mut row = String::new();
        let mut used = 0;
        for word in line.split_inclusive(' ') {
            let columns: usize = word.chars().map(|c| c.width().unwrap_or(0)).sum();
            if used > 0 && used + word.trim_end().chars().count() > width {
                rows.push(row.trim_end().to_owned());
                (row, used) = (String::new(), 0);
            }
            if columns <= width {
                row.push_str(word);
                used += columns;
                continue;
            }
            for ch in word.chars() {
                let w = ch.width().unwrap_or(0);
                if used + w > width {
                    rows.push(std::mem::take(&mut row));
                    used = 0;
                }
                row.push(ch);
                used += w;
            }
        }
        rows.push(row.trim_end().to_owned());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(rows: &[&str]) -> Frame {
        Frame { rows: rows.iter().map(|r| Line::plain(*r)).collect(), cursor: (0, 0) }
    }

    fn screen_after(canvas: &mut Canvas, frames: &[Frame]) -> Vec<String> {
        let (cols, rows) = canvas.size();
        let size = |n: usize| std::num::NonZero::new(n as u16).unwrap();
        let mut model = vt100::Parser::new(size(rows), size(cols), 0);
        for frame in frames {
            model.process(canvas.paint(frame).as_bytes());
        }
        model.screen().rows(0, cols as u16).map(|r| r.trim_end().to_owned()).collect()
    }

    #[test]
    fn only_changed_cells_are_written_and_blanks_are_jumped_over() {
        let mut canvas = Canvas::new(40, 8, Moves::Relative);
        assert!(!canvas.paint(&frame(&["takes two numbers"])).contains("takes two"));
        let second = canvas.paint(&frame(&["takes two letters"]));
        assert!(!second.contains("takes"), "{second:?}");
        assert_eq!(canvas.paint(&frame(&["takes two letters"])), "");
    }

    #[test]
    fn the_terminal_shows_the_last_frame_whatever_came_before() {
        for moves in [Moves::Relative, Moves::Absolute] {
            let mut canvas = Canvas::new(40, 8, moves);
            let frames = [
                frame(&["one two three", "", "  x 表示 y", "last row here"]),
                frame(&["one 2 three four", "new", "  x y", ""]),
                frame(&["", "news", "  x 表 y", "  "]),
            ];
            let rows = screen_after(&mut canvas, &frames);
            assert_eq!(&rows[..4], ["", "news", "  x 表 y", ""], "{moves:?}");
        }
    }

    #[test]
    fn long_words_are_cut_and_short_ones_kept_whole() {
        assert_eq!(wrap("aa bb ccc\ndddddddd", 5), ["aa bb", "ccc", "ddddd", "ddd"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
