//! One row of the screen.

use unicode_width::UnicodeWidthStr as _;

/// What stands in one column: a character, one with marks on it, or the second half of a wide one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell(u32);

const WIDE: u32 = 1 << 31;
const TAIL: u32 = 1 << 30;
/// The rest is not a character but an index of [`Row::clusters`].
const CLUSTER: u32 = 1 << 29;

const BLANK: Cell = Cell(b' ' as u32);

impl Cell {
    fn is_wide(self) -> bool {
        self.0 & WIDE != 0
    }

    fn is_tail(self) -> bool {
        self.0 & TAIL != 0
    }

    fn cluster(self) -> Option<usize> {
        (self.0 & CLUSTER != 0).then_some((self.0 & !(WIDE | CLUSTER)) as usize)
    }

    fn char(self) -> char {
        char::from_u32(self.0 & !WIDE).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

impl From<u8> for Cell {
    fn from(byte: u8) -> Self {
        Self(u32::from(byte))
    }
}

impl From<char> for Cell {
    fn from(c: char) -> Self {
        Self(u32::from(c))
    }
}

/// No more marks are put on a character that has this many bytes: a stack of accents has no end (F27).
const CLUSTER_BYTES: usize = 18;

/// A row. The first half of a wide character always has its second one beside it.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// As far as something was written; all is blank beyond. So an empty row costs nothing, to keep or to clear.
    cells: Vec<Cell>,
    /// Texts of the cells that hold more than one character; what was overwritten stays until [`Self::sweep`].
    clusters: Vec<String>,
    /// There may be wide characters.
    wide: bool,
    /// Something is different since this was last taken.
    pub(super) changed: bool,
}

impl Row {
    pub(super) fn clear(&mut self) {
        self.cells.clear();
        self.clusters.clear();
        self.wide = false;
        self.changed = true;
    }

    /// Writes printable ASCII over what stands at `col`.
    #[inline]
    pub(super) fn write(&mut self, col: usize, run: &[u8]) {
        self.make_room(col, run.len());
        let (over, beyond) = run.split_at(run.len().min(self.cells.len() - col));
        for (cell, byte) in self.cells[col..].iter_mut().zip(over) {
            *cell = Cell::from(*byte);
        }
        self.cells.extend(beyond.iter().map(|byte| Cell::from(*byte)));
    }

    /// Writes a character of one column.
    #[inline]
    pub(super) fn put(&mut self, col: usize, c: char) {
        self.make_room(col, 1);
        match self.cells.get_mut(col) {
            Some(cell) => *cell = c.into(),
            None => self.cells.push(c.into()),
        }
    }

    /// Writes a character of two columns.
    pub(super) fn put_wide(&mut self, col: usize, c: char) {
        self.put_pair(col, Cell(u32::from(c) | WIDE));
    }

    fn put_pair(&mut self, col: usize, first: Cell) {
        self.make_room(col, 2);
        self.reach(col + 2);
        self.cells[col] = first;
        self.cells[col + 1] = Cell(TAIL);
        self.wide = true;
    }

    /// Column of the character that `col` is a part of.
    pub(super) fn start(&self, col: usize) -> usize {
        col - usize::from(self.cells.get(col).is_some_and(|c| c.is_tail()))
    }

    /// Puts a combining mark on the character at `col`. Returns its text if that made it wide and it is not yet.
    pub(super) fn mark(&mut self, col: usize, mark: char) -> Option<&str> {
        self.changed = true;
        self.reach(col + 1);
        let index = match self.cells[col].cluster() {
            Some(index) => index,
            None => {
                self.sweep();
                self.clusters.push(self.cells[col].char().into());
                let index = self.clusters.len() - 1;
                self.cells[col].0 = self.cells[col].0 & WIDE | CLUSTER | index as u32;
                index
            }
        };
        let text = &mut self.clusters[index];
        if text.len() >= CLUSTER_BYTES {
            return None;
        }
        text.push(mark);
        // Of all marks, only the wish for an emoji makes something wide.
        (mark == '\u{fe0f}' && !self.cells[col].is_wide() && text.width() > 1).then_some(text)
    }

    /// Makes the character at `col` a wide one.
    pub(super) fn widen(&mut self, col: usize) {
        let first = Cell(self.cells[col].0 | WIDE);
        self.put_pair(col, first);
    }

    /// Blanks columns `from..to`.
    pub(super) fn erase(&mut self, from: usize, to: usize) {
        self.changed = true;
        self.cut(from);
        self.cut(to);
        if to >= self.cells.len() {
            self.cells.truncate(from);
        } else if from < to {
            self.cells[from..to].fill(BLANK);
        }
    }

    /// Moves what stands at `col` and after it `count` columns on; what goes beyond `cols` is lost.
    pub(super) fn insert(&mut self, col: usize, count: usize, cols: usize) {
        self.changed = true;
        // A wide character that the cursor stands in stays.
        let at = col + usize::from(self.cells.get(col).is_some_and(|c| c.is_tail()));
        if at < self.cells.len() {
            self.cells.splice(at..at, std::iter::repeat_n(BLANK, count.min(cols)));
            self.shorten(cols);
        }
    }

    /// Removes columns `from..to`; what stands after them moves there.
    pub(super) fn remove(&mut self, from: usize, to: usize) {
        self.changed = true;
        self.cut(from);
        self.cut(to);
        let to = to.min(self.cells.len());
        if from < to {
            self.cells.drain(from..to);
        }
    }

    /// Loses what stands beyond `cols`.
    pub(super) fn shorten(&mut self, cols: usize) {
        self.changed = true;
        self.cut(cols);
        self.cells.truncate(cols);
    }

    /// Writes the row to `out`, without blanks at its end.
    pub(super) fn text(&self, out: &mut String) {
        out.clear();
        for cell in &self.cells {
            match cell.cluster() {
                Some(index) => out.push_str(&self.clusters[index]),
                None if cell.is_tail() => {}
                None => out.push(cell.char()),
            }
        }
        out.truncate(out.trim_end().len());
    }

    /// Before `count` columns are written at `col`: the row reaches there, and no wide character is cut in half.
    #[inline]
    fn make_room(&mut self, col: usize, count: usize) {
        self.changed = true;
        if self.wide {
            self.cut(col);
            self.cut(col + count);
        }
        self.reach(col);
    }

    #[inline]
    fn reach(&mut self, col: usize) {
        if self.cells.len() < col {
            self.cells.resize(col, BLANK);
        }
    }

    /// If a wide character stands on both sides of the left edge of `col`, blanks it.
    fn cut(&mut self, col: usize) {
        if self.cells.get(col).is_some_and(|c| c.is_tail()) {
            self.cells[col - 1..=col].fill(BLANK);
        }
    }

    /// Drops the texts of clusters that were overwritten, once they outnumber the cells.
    fn sweep(&mut self) {
        if self.clusters.len() < 2 * self.cells.len() + 16 {
            return;
        }
        let mut old = std::mem::take(&mut self.clusters);
        for cell in &mut self.cells {
            if let Some(index) = cell.cluster() {
                cell.0 = cell.0 & WIDE | CLUSTER | self.clusters.len() as u32;
                self.clusters.push(std::mem::take(&mut old[index]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(row: &Row) -> String {
        let mut out = String::new();
        row.text(&mut out);
        out
    }

    #[test]
    fn half_of_a_wide_character_is_none() {
        let mut row = Row::default();
        for (n, c) in "日本語".chars().enumerate() {
            row.put_wide(2 * n, c);
        }
        row.write(1, b"x");
        assert_eq!(text(&row), " x本語");
        row.erase(3, 4);
        assert_eq!(text(&row), " x  語");
        row.shorten(5);
        assert_eq!(text(&row), " x");
    }

    #[test]
    fn what_is_inserted_and_removed_moves_the_rest() {
        let mut row = Row::default();
        row.write(0, b"abcdef");
        row.insert(2, 2, 7);
        assert_eq!(text(&row), "ab  cde");
        row.remove(1, 4);
        assert_eq!(text(&row), "acde");
        row.remove(2, 40);
        assert_eq!(text(&row), "ac");
    }

    #[test]
    fn f27_marks_without_end_are_held_within_bounds() {
        let mut row = Row::default();
        row.write(0, b"ab");
        for _ in 0..10_000 {
            row.mark(0, '\u{301}');
            row.put(1, 'b');
            row.mark(1, '\u{302}');
        }
        assert!(text(&row).len() < 2 * CLUSTER_BYTES + 4, "{}", text(&row));
        assert!(row.clusters.len() < 32);
    }
}
