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
