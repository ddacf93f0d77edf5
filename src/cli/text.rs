//! Text for people's terminals: nothing an agent or a prompt says gets to steer them (T7).

use std::fmt::Write;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::clock::Timestamp;
use crate::json::is_unseen;
use crate::queue::task::Proof;

/// Returns the text with control, bidi and zero-width characters made visible; newline and tab stay.
pub(super) fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if is_unseen(c) => {
                let _ = write!(out, "<U+{:04X}>", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Returns the text on one line of at most `max` characters.
pub(super) fn line(text: &str, max: usize) -> String {
    let joined = safe(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if joined.chars().count() <= max {
        return joined;
    }
    let mut cut: String = joined.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Returns the line cut to `max` columns; it has no control characters (see [`safe`]).
pub(super) fn cut(line: &str, max: usize) -> String {
    if line.width() <= max {
        return line.to_owned();
    }
    let mut out = String::new();
    for c in line.chars() {
        if out.width() + c.width().unwrap_or(0) >= max {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// Returns rows as columns two blanks apart; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().filter_map(|r| r.get(c)).map(|s| s.width()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + 2));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Returns how long ago, in the largest unit: `3m`, `2h`, `5d`.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(then).as_secs().max(0).unsigned_abs())
}

/// Returns a length of time in its two largest units: `42s`, `3m 10s`, `2h 5m`.
pub(super) fn span(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m {}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h {}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d {}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

/// Returns a length of time as short as it is: `840ms`, `9.6s`, `3m 10s`.
pub(super) fn millis(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        _ => span(ms / 1000),
    }
}

/// Returns the local time of day, with the date unless it is today's.
pub(super) fn clock(at: Timestamp, now: Timestamp) -> String {
    let zone = jiff::tz::TimeZone::system();
    let (at, now) = (at.to_zoned(zone.clone()), now.to_zoned(zone));
    let form = if at.date() == now.date() { "%H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S%.3f" };
    at.strftime(form).to_string()
}

/// Returns the columns of standard output, where it is a terminal.
pub(super) fn columns() -> Option<usize> {
    let out = std::io::stdout();
    if !rustix::termios::isatty(&out) {
        return None;
    }
    rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col)).filter(|&cols| cols >= 40)
}

/// Returns what a completion rests on, in a word.
pub(super) fn proof(proof: Proof) -> &'static str {
    match proof {
        Proof::Gate => "gate",
        Proof::Report => "report, not checked: no gate",
        Proof::Output => "output, not checked: no gate",
        Proof::Manual => "manual",
    }
}

/// Returns the path with the home folder as `~`.
pub(super) fn path(path: &std::path::Path) -> String {
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from).filter(|h| h.is_absolute());
    let shown = match home.and_then(|h| path.strip_prefix(h).ok().map(std::path::Path::to_owned)) {
        Some(below) if below.as_os_str().is_empty() => "~".to_owned(),
        Some(below) => format!("~/{}", below.display()),
        None => path.display().to_string(),
    };
    safe(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t07_nothing_printed_steers_a_terminal() {
        assert_eq!(safe("a\x1b[31mb\u{9b}c\u{202e}d\x7f\ttab"), "a\\x1b[31mb\\x9bc<U+202E>d\\x7f\ttab");
        assert_eq!(line("one\n two\x07 three", 11), "one two\\x0…");
        assert_eq!([cut("日本語", 6), cut("日本語", 5)], ["日本語", "日本…"]);
    }

    #[test]
    fn columns_line_up_whatever_the_width_of_their_characters() {
        let rows = [["ID", "STATE"], ["1", "日本"], ["10", "x"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "ID  STATE\n1   日本\n10  x\n");
    }

    #[test]
    fn short_times_keep_their_parts_and_other_days_their_date() {
        assert_eq!([millis(7), millis(9564), millis(190_000)], ["7ms", "9.5s", "3m 10s"]);
        let at: Timestamp = "2026-11-21T10:16:24.047Z".parse().unwrap();
        let today = clock(at, at + jiff::SignedDuration::from_millis(5));
        assert!(today.ends_with("24.047") && today.len() == 12, "{today}");
        assert!(clock(at, at + jiff::SignedDuration::from_hours(48)).starts_with("2026-11-2"));
    }

    #[test]
    fn time_is_told_in_its_two_largest_units() {
        assert_eq!([span(5), span(70), span(7500), span(200_000)], ["5s", "1m 10s", "2h 5m", "2d 7h"]);
    }
}
