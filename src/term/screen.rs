//! What a terminal shows: rows of text, a cursor.

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
pub trait Screen {
    /// Takes output.
    fn process(&mut self, bytes: &[u8]);
    /// Takes a new size.
    fn resize(&mut self, cols: u16, rows: u16);
    /// Brings `text` up to date, which must be the one that was last looked at, or a new one; says whether a row or the
    /// cursor is different. Its strings are reused, and rows that were not written to are not even compared.
    fn look(&mut self, text: &mut ScreenText) -> bool;
    /// Returns what a look would show.
    fn text(&self) -> ScreenText;
}

/// An empty screen of this size.
pub fn blank(cols: u16, rows: u16) -> ScreenText {
    ScreenText { cols, rows, lines: Vec::new(), cursor: (0, 0), alternate: false }
}
