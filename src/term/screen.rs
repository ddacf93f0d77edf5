//! What a terminal shows: rows of text, a cursor.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// The visible rows of the terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScreenText {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
    /// One string a row, trailing blanks removed.
    pub lines: Vec<String>,
    /// Column and row of the cursor, from 0.
    pub cursor: (u16, u16),
    /// Whether the alternate screen is shown.
    pub alternate: bool,
}

/// A terminal that somebody writes to and somebody looks at.
pub(crate) trait Screen {
    /// Takes output.
    fn process(&mut self, bytes: &[u8]);
    /// Takes a new size.
    fn resize(&mut self, cols: u16, rows: u16);
    /// Brings `text` up to date, reusing its strings; says whether a row or the cursor is different.
    fn look(&self, text: &mut ScreenText) -> bool;
}

/// An empty screen of this size.
pub(crate) fn blank(cols: u16, rows: u16) -> ScreenText {
    ScreenText { cols, rows, lines: Vec::new(), cursor: (0, 0), alternate: false }
}

/// A full-screen program's terminal: a grid of cells.
pub(crate) struct Grid {
    parser: vt100::Parser,
    /// The first bytes of a character that is not whole yet. The parser would draw what follows a character that two
    /// chunks share in its place (F26): `· ↓` cut inside of the arrow came out as `·↓ `.
    held: Vec<u8>,
}

impl std::fmt::Debug for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grid").finish_non_exhaustive()
    }
}

/// A terminal reported as 0x0 (F34) has the size that everybody assumes.
fn usable(cols: u16, rows: u16) -> (NonZeroU16, NonZeroU16) {
    let or = |n: u16, fallback: u16| NonZeroU16::new(n).or(NonZeroU16::new(fallback)).unwrap_or(NonZeroU16::MIN);
    (or(cols, 80), or(rows, 24))
}

/// How many bytes at the end begin a character and do not end it.
fn open_char(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let starts = (0..tail.len()).rev().map(|at| &tail[at..]);
    starts.take(3).find(|t| t[0] >= 0xc0).map_or(0, |t| match std::str::from_utf8(t) {
        Err(e) if e.valid_up_to() == 0 && e.error_len().is_none() => t.len(),
        _ => 0,
    })
}

impl Grid {
    pub(crate) fn new(cols: u16, rows: u16) -> Self {
        let (cols, rows) = usable(cols, rows);
        Self { parser: vt100::Parser::new(rows, cols, 0), held: Vec::new() }
    }
}

impl Screen for Grid {
    fn process(&mut self, mut bytes: &[u8]) {
        while !self.held.is_empty() {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.held.push(*first);
            bytes = rest;
            if open_char(&self.held) == 0 {
                self.parser.process(&self.held);
                self.held.clear();
            }
        }
        let (whole, open) = bytes.split_at(bytes.len() - open_char(bytes));
        self.parser.process(whole);
        self.held.extend_from_slice(open);
    }

    fn resize(&mut self, cols: u16, rows: u16) {
        let (cols, rows) = usable(cols, rows);
        self.parser.screen_mut().set_size(rows, cols);
    }

    fn look(&self, text: &mut ScreenText) -> bool {
        let screen = self.parser.screen();
        let (rows, cols) = screen.size();
        let (rows, cols) = (rows.get(), cols.get());
        let mut changed = (text.rows, text.cols) != (rows, cols) || text.lines.len() != usize::from(rows);
        (text.rows, text.cols) = (rows, cols);
        text.lines.resize(usize::from(rows), String::new());
        let mut fresh = String::with_capacity(usize::from(cols) * 2);
        for (r, line) in (0..rows).zip(&mut text.lines) {
            row_text(screen, r, cols, &mut fresh);
            if fresh != *line {
                changed = true;
                std::mem::swap(line, &mut fresh);
            }
        }
        let (row, col) = screen.cursor_position();
        changed |= text.cursor != (col, row) || text.alternate != screen.alternate_screen();
        text.cursor = (col, row);
        text.alternate = screen.alternate_screen();
        changed
    }
}

fn row_text(screen: &vt100::Screen, row: u16, cols: u16, out: &mut String) {
    out.clear();
    let mut blanks = 0;
    for col in 0..cols {
        let Some(cell) = screen.cell(row, col) else { break };
        if cell.is_wide_continuation() {
            continue;
        }
        match cell.contents() {
            "" | " " => blanks += 1,
            contents => {
                out.extend(std::iter::repeat_n(' ', blanks));
                blanks = 0;
                out.push_str(contents);
            }
        }
    }
    out.truncate(out.trim_end().len());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn f26_a_character_that_two_chunks_share_stands_where_it_belongs() {
        let bytes = "a· ↓\x1b[27G50 ✻é\u{1f600} b".as_bytes().to_vec();
        let shown = |cut: usize| {
            let mut grid = Grid::new(80, 4);
            bytes.chunks(cut).for_each(|c| grid.process(c));
            let mut text = blank(80, 4);
            grid.look(&mut text);
            text.lines[0].clone()
        };
        for cut in 1..bytes.len() {
            assert_eq!(shown(cut), shown(bytes.len()), "{cut}");
        }
    }

    #[test]
    fn jumps_over_blanks_become_spaces() {
        let mut grid = Grid::new(20, 2);
        let mut text = blank(20, 2);
        grid.process(b"two\x1b[5Gwords\r\n\xe6\x97\xa5x");
        assert!(grid.look(&mut text));
        assert_eq!(text.lines, ["two words", "日x"]);
        assert_eq!(text.cursor, (3, 1));
        assert!(!grid.look(&mut text));
    }

    proptest! {
        #[test]
        fn f25_no_bytes_and_no_size_break_the_grid(
            steps in proptest::collection::vec(
                (proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), Just(b';'), Just(b'9'), 0x40u8..0x7f], 0..60), 0u16..40, 0u16..12),
                0..12,
            ),
        ) {
            let mut grid = Grid::new(10, 4);
            let mut text = blank(10, 4);
            for (bytes, cols, rows) in steps {
                grid.process(&bytes);
                grid.process("日本".as_bytes());
                grid.resize(cols, rows);
                grid.look(&mut text);
            }
        }
    }
}
