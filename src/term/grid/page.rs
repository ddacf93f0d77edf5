//! One of the two screens: rows, a cursor, and the region that scrolls.

use std::collections::VecDeque;

use super::row::Row;

/// What `DECSC` saves.
#[derive(Debug, Clone, Copy, Default)]
struct Saved {
    row: usize,
    col: usize,
    origin: bool,
}

/// A screen of rows. Rows and columns count from 0.
#[derive(Debug)]
pub(super) struct Page {
    /// A ring, so that scrolling moves nothing.
    rows: VecDeque<Row>,
    cols: usize,
    /// Below the number of rows.
    row: usize,
    /// Up to the number of columns: there, the next character begins a new row.
    col: usize,
    saved: Saved,
    /// First and last row of the region that scrolls.
    region: (usize, usize),
    /// Rows are addressed from the top of the region.
    origin: bool,
    /// How many rows left at the top, on the page that has a past: a terminal that grows takes rows back from there.
    past: Option<usize>,
    /// Rows stand elsewhere since this was last taken.
    pub(super) moved: bool,
}

impl Page {
    /// An empty page; `remembers` is for the one whose rows go to the scrollback.
    pub(super) fn new(cols: usize, rows: usize, remembers: bool) -> Self {
        Self {
            rows: std::iter::repeat_with(Row::default).take(rows).collect(),
            cols,
            row: 0,
            col: 0,
            saved: Saved::default(),
            region: (0, rows - 1),
            origin: false,
            past: remembers.then_some(0),
            moved: true,
        }
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.cols, self.rows.len())
    }

    pub(super) fn rows(&self) -> &VecDeque<Row> {
        &self.rows
    }

    pub(super) fn rows_mut(&mut self) -> &mut VecDeque<Row> {
        &mut self.rows
    }

    /// Row and column of the cursor.
    pub(super) fn cursor(&self) -> (usize, usize) {
        (self.row, self.col)
    }

    pub(super) fn set_cursor(&mut self, (row, col): (usize, usize)) {
        (self.row, self.col) = (row, col);
    }

    fn last(&self) -> usize {
        self.rows.len() - 1
    }

    fn here(&mut self) -> &mut Row {
        &mut self.rows[self.row]
    }

    /// Whether `width` columns do not fit before the right edge.
    pub(super) fn is_at_edge(&self, width: usize) -> bool {
        self.col + width > self.cols
    }

    /// Goes to the start of the next row, or, where rows do not wrap, back so that `width` columns fit.
    pub(super) fn wrap(&mut self, wraps: bool, width: usize) {
        if wraps {
            self.col = 0;
            self.line_feed();
        } else {
            self.col = self.cols - width;
        }
    }

    /// Writes as much of `run` as fits before the right edge; returns how much.
    #[inline]
    pub(super) fn write(&mut self, run: &[u8]) -> usize {
        let fits = run.len().min(self.cols - self.col);
        let col = self.col;
        self.here().write(col, &run[..fits]);
        self.col += fits;
        fits
    }

    pub(super) fn put(&mut self, c: char, width: usize) {
        let col = self.col;
        match width {
            1 => self.here().put(col, c),
            _ => self.here().put_wide(col, c),
        }
        self.col += width;
    }

    /// Puts a combining mark on the character before the cursor.
    pub(super) fn mark(&mut self, mark: char, wraps: bool) {
        let Some(before) = self.col.checked_sub(1) else { return };
        let cols = self.cols;
        let row = self.here();
        let col = row.start(before);
        let Some(text) = row.mark(col, mark) else { return };
        // It became wide: its second half is where the cursor was.
        if col + 2 <= cols {
            row.widen(col);
            self.col += 1;
        } else if cols >= 2 {
            let text = text.to_owned();
            row.erase(col, cols);
            self.wrap(wraps, 2);
            let (col, mut chars) = (self.col, text.chars());
            let row = self.here();
            row.put(col, chars.next().unwrap_or(' '));
            chars.for_each(|c| {
                row.mark(col, c);
            });
            row.widen(col);
            self.col += 2;
        }
    }

    // Moves.

    fn in_region(&self) -> bool {
        (self.region.0..=self.region.1).contains(&self.row)
    }

    pub(super) fn up(&mut self, count: usize) {
        let top = if self.in_region() { self.region.0 } else { 0 };
        self.row = self.row.saturating_sub(count).max(top);
    }

    pub(super) fn down(&mut self, count: usize) {
        let bottom = if self.in_region() { self.region.1 } else { self.last() };
        self.row = (self.row + count).min(bottom);
    }

    pub(super) fn left(&mut self, count: usize) {
        self.col = self.col.saturating_sub(count);
    }

    pub(super) fn right(&mut self, count: usize) {
        self.go_to_col(self.col + count);
    }

    /// Tab stops are every eight columns.
    pub(super) fn tab(&mut self, count: usize) {
        self.go_to_col((self.col / 8 + count) * 8);
    }

    pub(super) fn tab_back(&mut self, count: usize) {
        self.col = (self.col.div_ceil(8).saturating_sub(count)) * 8;
    }

    pub(super) fn go_to_col(&mut self, col: usize) {
        self.col = col.min(self.cols - 1);
    }

    pub(super) fn go_to_row(&mut self, row: usize) {
        self.row = row.min(self.last());
    }

    /// Goes to an address, which counts from the top of the region where that is asked for.
    pub(super) fn go_to(&mut self, row: usize, col: usize) {
        let (first, last) = if self.origin { self.region } else { (0, self.last()) };
        self.row = (first + row).min(last);
        self.go_to_col(col);
    }

    pub(super) fn line_feed(&mut self) {
        if self.row == self.region.1 {
            self.scroll_up(1);
        } else {
            self.down(1);
        }
    }

    pub(super) fn reverse_line_feed(&mut self) {
        if self.row == self.region.0 {
            self.scroll_down(1);
        } else {
            self.up(1);
        }
    }

    pub(super) fn save(&mut self) {
        self.saved = Saved { row: self.row, col: self.col, origin: self.origin };
    }

    pub(super) fn restore(&mut self) {
        let Saved { row, col, origin } = self.saved;
        (self.row, self.col, self.origin) = (row, col, origin);
    }

    pub(super) fn set_origin(&mut self, origin: bool) {
        self.origin = origin;
        self.go_to(0, 0);
    }

    /// Sets the rows that scroll; the whole page if these are no region.
    pub(super) fn set_region(&mut self, top: usize, bottom: usize) {
        let bottom = bottom.min(self.last());
        self.region = if top < bottom { (top, bottom) } else { (0, self.last()) };
    }

    // Changes.

    pub(super) fn clear(&mut self) {
        self.soft_reset();
        self.erase_rows(..);
        self.set_cursor((0, 0));
    }

    /// Puts right what a program may have left behind, but for the text.
    pub(super) fn soft_reset(&mut self) {
        (self.saved, self.origin, self.region) = (Saved::default(), false, (0, self.last()));
    }

    pub(super) fn forget_past(&mut self) {
        self.past = self.past.map(|_| 0);
    }

    pub(super) fn erase_rows(&mut self, rows: impl std::ops::RangeBounds<usize>) {
        self.rows.range_mut(rows).for_each(Row::clear);
    }

    /// Blanks columns `from..to` of the cursor's row.
    pub(super) fn erase(&mut self, from: usize, to: usize) {
        let to = to.min(self.cols);
        self.here().erase(from, to);
    }

    pub(super) fn insert_cells(&mut self, count: usize) {
        let (col, cols) = (self.col, self.cols);
        self.here().insert(col, count.min(cols - col), cols);
    }

    pub(super) fn remove_cells(&mut self, count: usize) {
        let (col, cols) = (self.col, self.cols);
        self.here().remove(col, (col + count).min(cols));
    }

    pub(super) fn insert_rows(&mut self, count: usize) {
        if self.in_region() {
            self.rows_down(self.row, count);
        }
    }

    pub(super) fn remove_rows(&mut self, count: usize) {
        if self.in_region() {
            self.rows_up(self.row, count);
        }
    }

    pub(super) fn scroll_up(&mut self, count: usize) {
        let (top, bottom) = self.region;
        if let (0, Some(past)) = (top, &mut self.past) {
            *past = past.saturating_add(count.min(bottom + 1));
        }
        self.rows_up(top, count);
    }

    pub(super) fn scroll_down(&mut self, count: usize) {
        self.rows_down(self.region.0, count);
    }

    /// Moves the rows from `top` to the bottom of the region up; those that leave come back empty.
    fn rows_up(&mut self, top: usize, count: usize) {
        self.moved = true;
        let bottom = self.region.1;
        let count = count.min(bottom + 1 - top);
        if (top, bottom) == (0, self.last()) {
            self.rows.rotate_left(count);
        } else {
            (top..bottom + 1 - count).for_each(|row| self.rows.swap(row, row + count));
        }
        self.erase_rows(bottom + 1 - count..=bottom);
    }

    fn rows_down(&mut self, top: usize, count: usize) {
        self.moved = true;
        let bottom = self.region.1;
        let count = count.min(bottom + 1 - top);
        if (top, bottom) == (0, self.last()) {
            self.rows.rotate_right(count);
        } else {
            (top..bottom + 1 - count).rev().for_each(|row| self.rows.swap(row, row + count));
        }
        self.erase_rows(top..top + count);
    }

    /// Takes a new size as terminals with a scrollback do: the row of the cursor stays in sight when it gets smaller,
    /// and rows come back from the past, as far as there is one, when it gets larger. They come back empty: nobody
    /// looks there.
    pub(super) fn resize(&mut self, cols: usize, rows: usize) {
        if (cols, rows) == self.size() {
            return;
        }
        self.moved = true;
        self.region = (0, self.last());
        let had = self.rows.len();
        if rows < had {
            let up = (self.row + 1).saturating_sub(rows);
            self.scroll_up(up);
            self.rows.truncate(rows);
            self.row -= up;
            self.saved.row = self.saved.row.saturating_sub(up).min(rows - 1);
        } else {
            let back = self.past.unwrap_or(0).min(rows - had);
            self.past = self.past.map(|past| past - back);
            (0..back).for_each(|_| self.rows.push_front(Row::default()));
            self.rows.resize_with(rows, Row::default);
            self.row += back;
            self.saved.row += back;
        }
        self.rows.iter_mut().for_each(|row| row.shorten(cols));
        self.cols = cols;
        self.col = self.col.min(cols - 1);
        self.saved.col = self.saved.col.min(cols - 1);
        self.region = (0, rows - 1);
    }
}
