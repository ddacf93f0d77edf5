//! The grid beside vt100, which is an independent model of the same terminal.
//!
//! Where the two differ on purpose, real terminals (xterm, tmux) are followed; the programs made up here keep away from
//! these places, and each has a test of its own below:
//! - the cursor stays where it is when the screens change, and goes to the first row when a region is set;
//! - `RI` in the first row, above a region, does not scroll the region;
//! - a character that becomes an emoji at the end of the last row goes to the next one, and is not lost;
//! - what is not UTF-8 takes one column, as U+FFFD; a raw 0x9C does not end a DCS: it may be half a character;
//! - a character is repeated [`MAX_REPEATS`](super::MAX_REPEATS) times at most;
//! - known here and ignored there: `IND`, `NEL`, `IRM`, `DECAWM`, `DECSTR`, 1047, 1048, `SCOSC`, `SCORC`, `CHT`, `CBT`,
//!   `HPR`, `VPR`, and the line drawing characters.

use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::Grid;
use crate::extract::cast::Moment;
use crate::recording::{self, Recording};
use crate::term::screen::{Screen, ScreenText, blank};

/// vt100, asked for the same as a grid.
struct Oracle(vt100::Parser);

impl Oracle {
    fn new(cols: u16, rows: u16) -> Self {
        let size = |n| NonZeroU16::new(n).unwrap();
        Self(vt100::Parser::new(size(rows), size(cols), 0))
    }

    fn resize(&mut self, cols: u16, rows: u16) {
        let size = |n| NonZeroU16::new(n).unwrap();
        self.0.set_size(size(rows), size(cols));
    }

    fn text(&self) -> ScreenText {
        let screen = self.0.screen();
        let (rows, cols) = screen.size();
        let (rows, cols) = (rows.get(), cols.get());
        let line = |row| {
            let cells = (0..cols).filter_map(|col| screen.cell(row, col)).filter(|c| !c.is_wide_continuation());
            let line: String = cells.map(|c| if c.has_contents() { c.contents() } else { " " }).collect();
            line.trim_end().to_owned()
        };
        let (row, col) = screen.cursor_position();
        ScreenText {
            cols,
            rows,
            lines: (0..rows).map(line).collect(),
            cursor: (col, row),
            alternate: screen.alternate_screen(),
        }
    }
}

/// A grid that was fed `chunks`.
fn grid(cols: u16, rows: u16, chunks: &[&[u8]]) -> Grid {
    let mut grid = Grid::new(cols, rows);
    chunks.iter().for_each(|c| grid.process(c));
    grid
}

/// The rows and the cursor after `bytes`; what a look tells and what the whole text is must be the same.
#[track_caller]
fn shown(cols: u16, rows: u16, bytes: &str) -> (Vec<String>, (u16, u16)) {
    let mut grid = grid(cols, rows, &[bytes.as_bytes()]);
    let mut text = blank(0, 0);
    assert!(grid.look(&mut text));
    assert_eq!(text, grid.text());
    assert!(!grid.look(&mut text));
    (text.lines, text.cursor)
}

// The differences, and what vt100 does not know.

#[test]
fn the_cursor_stays_when_the_screens_change_and_each_has_its_own_rows() {
    let (lines, cursor) = shown(10, 2, "main\x1b[?1049halt");
    assert_eq!((lines, cursor), (vec!["    alt".into(), String::new()], (7, 0)));
    let (lines, cursor) = shown(10, 2, "main\x1b[?1049h\x1b[2;2Halt\x1b[?1049lx");
    assert_eq!((lines, cursor), (vec!["mainx".into(), String::new()], (5, 0)));
    // 1047 comes back empty, 47 as it was left.
    assert_eq!(shown(10, 1, "a\x1b[?47hb\x1b[?47l\x1b[?47hc").0, [" bc"]);
    assert_eq!(shown(10, 1, "a\x1b[?1047hb\x1b[?1047l\x1b[?1047hc").0, ["  c"]);
    assert_eq!(shown(10, 1, "ab\x1b[?1048hcd\x1b[?1048lx").0, ["abxd"]);
}

#[test]
fn setting_a_region_goes_home_and_nothing_above_it_scrolls() {
    let rows = "1\r\n2\r\n3\r\n4";
    assert_eq!(shown(5, 4, &format!("{rows}\x1b[2;3rx\x1bM\x1bMy")).0, ["xy", "2", "3", "4"]);
    assert_eq!(shown(5, 4, &format!("{rows}\x1b[2;3r\x1b[3Hx\ny")).0, ["1", "x", " y", "4"]);
    assert_eq!(shown(5, 4, &format!("{rows}\x1b[2;3r\x1b[2H\x1bMy")).0, ["1", "y", "2", "4"]);
    // With origin mode, home is the top of the region.
    assert_eq!(shown(5, 4, &format!("{rows}\x1b[?6h\x1b[2;3rx\x1b[9Hy")).0, ["1", "x", "y", "4"]);
}

#[test]
fn index_next_line_and_columns_by_tab() {
    assert_eq!(shown(20, 3, "ab\x1bDc\x1bEd").0, ["ab", "  c", "d"]);
    assert_eq!(shown(20, 1, "a\x1b[2Ib\x1b[Zc\x1b[2Zd"), (vec!["a       d       c".into()], (9, 0)));
    assert_eq!(shown(20, 2, "a\x1b[2ab\x1b[ec").0, ["a  b", "    c"]);
}

#[test]
fn rows_wrap_unless_they_are_told_not_to() {
    assert_eq!(shown(4, 2, "abcdef").0, ["abcd", "ef"]);
    assert_eq!(shown(4, 2, "\x1b[?7labcdef").0, ["abcf", ""]);
    assert_eq!(shown(4, 2, "\x1b[?7labc日").0, ["ab日", ""]);
    assert_eq!(shown(4, 2, "\x1b[?7labcde\x1b[?7hfg").0, ["abce", "fg"]);
}

#[test]
fn insert_mode_moves_the_rest_on() {
    assert_eq!(shown(6, 2, "abcd\r\x1b[4hx日\x1b[4ly").0, ["x日ybc", ""]);
}

#[test]
fn lines_are_drawn_with_the_characters_for_it() {
    assert_eq!(shown(9, 2, "q\x1b(0lqk\x1b(Bq\r\n\x1b)0x\x0ex\x0fx").0, ["q┌─┐q", "x│x"]);
}

#[test]
fn the_cursor_is_saved_both_ways_and_a_soft_reset_forgets_it() {
    assert_eq!(shown(9, 1, "ab\x1b[scd\x1b[ux").0, ["abxd"]);
    assert_eq!(shown(9, 3, "\x1b[2;3r\x1b[?6h\x1b[4h\x1b[!p\x1b[Hab\rx").0, ["xb", "", ""]);
}

#[test]
fn a_character_that_becomes_an_emoji_takes_two_columns() {
    assert_eq!(shown(6, 2, "❤\u{fe0f}日x\x1b[2Gy").0, [" y日x", ""]);
    assert_eq!(shown(3, 2, "ab❤\u{fe0f}c"), (vec!["ab".into(), "❤\u{fe0f}c".into()], (3, 1)));
    assert_eq!(shown(3, 2, "1\r\nab❤\u{fe0f}c"), (vec!["ab".into(), "❤\u{fe0f}c".into()], (3, 1)));
    assert_eq!(shown(1, 2, "❤\u{fe0f}c").0, ["❤\u{fe0f}", "c"]);
}

#[test]
fn what_is_not_utf8_takes_a_column() {
    let grid = grid(9, 1, &[b"a\xffb\xe2\x94", b"c\xe2\x94", b"\x80d"]);
    assert_eq!(grid.text().lines, ["a\u{fffd}b\u{fffd}c─d"]);
}

#[test]
fn f26_a_character_that_two_chunks_share_stands_where_it_belongs() {
    let bytes = "a· ↓\x1b[27G50 ✻é\u{1f600} b".as_bytes();
    let whole = grid(80, 4, &[bytes]).text();
    for size in 1..bytes.len() {
        assert_eq!(grid(80, 4, &bytes.chunks(size).collect::<Vec<_>>()).text(), whole, "{size}");
    }
}

#[test]
fn jumps_over_blanks_become_spaces() {
    assert_eq!(shown(20, 2, "two\x1b[5Gwords\r\n日x"), (vec!["two words".into(), "日x".into()], (3, 1)));
}

#[test]
fn only_what_was_written_to_is_looked_at_and_every_change_is_seen() {
    let (mut grid, mut text) = (grid(10, 3, &[b"one\r\ntwo\r\nthree"]), blank(10, 3));
    assert!(grid.look(&mut text) && !grid.look(&mut text));
    // Written to, and still the same.
    grid.process(b"\x1b[2;1Htwo\x1b[3;6H");
    assert!(!grid.look(&mut text));
    for (bytes, lines) in [
        (&b"\x1b[2;1HTWO"[..], ["one", "TWO", "three"]),
        (b"\x1b[3;9H\n", ["TWO", "three", ""]),
        (b"\x1b[?1049h", ["", "", ""]),
        (b"\x1b[?1049l", ["TWO", "three", ""]),
        (b"\x1b[H\x1b[L", ["", "TWO", "three"]),
        (b"\x1bc", ["", "", ""]),
    ] {
        grid.process(bytes);
        assert!(grid.look(&mut text));
        assert_eq!(text.lines, lines);
        assert_eq!(text, grid.text());
    }
}

#[test]
fn f27_a_number_without_bounds_is_work_within_bounds() {
    let started = shown(80, 24, &"x\x1b[65535b\x1b[65535S\x1b[65535L\x1b[65535@\x1b[65535P".repeat(200));
    assert_eq!(started.0.len(), 24);
}

#[test]
fn f34_a_terminal_without_a_size_has_the_usual_one_and_a_huge_one_costs_what_is_written() {
    let text = grid(0, 0, &[b"x"]).text();
    assert_eq!((text.cols, text.rows), (80, 24));
    let mut grid = grid(u16::MAX, u16::MAX, &[b"x\x1b[65535;65535Hy"]);
    grid.resize(2, 1);
    assert_eq!(grid.text().lines, [""]);
}

// The oracle.

/// One thing that a program does.
#[derive(Debug, Clone)]
enum Step {
    Write(String),
    Resize(u16, u16),
}

/// A number as programs write it, or none.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 1 => Just("0".to_owned()), 6 => (1..14u16).prop_map(|n| n.to_string()), 1 => (14..99u16).prop_map(|n| n.to_string())]
}

fn address() -> impl Strategy<Value = String> {
    (number(), number()).prop_map(|(row, col)| format!("\x1b[{row};{col}H"))
}

fn step() -> impl Strategy<Value = Step> {
    let chars = ["a", "b", "─", "é", "❯", "日", "本", "🎉", "e\u{301}", "\u{301}", "👩\u{200d}💻", " ", "\u{85}"];
    let mixed = proptest::collection::vec(proptest::sample::select(chars.to_vec()), 1..9).prop_map(|c| c.concat());
    let controls = proptest::sample::select(vec![
        "\x08", "\t", "\n", "\r\n", "\r", "\x0b", "\x0c", "\x07", "\x0e", "\x0f", "\0", "\x7f", "\x18",
    ]);
    let finals = proptest::sample::select("@ABCDEFGJKLMPSTXbd`".chars().collect::<Vec<_>>());
    let ignored = proptest::sample::select(vec![
        "\x1b[1;38;2;1;2;3m",
        "\x1b[m",
        "\x1b[4:3m",
        "\x1b[?25l",
        "\x1b[?2026h",
        "\x1b[>4;2m",
        "\x1b[<u",
        "\x1b[?u",
        "\x1b[>1u",
        "\x1b[2 q",
        "\x1b[?1$p",
        "\x1b[14t",
        "\x1b[c",
        "\x1b[6n",
        "\x1b]0;title\x07",
        "\x1b]8;;http://x\x1b\\",
        "\x1bP+q544e\x1b\\",
        "\x1b_Gi=1\x1b\\",
        "\x1b=",
        "\x1b(B",
        "\x1b[3J",
        "\x1b[9K",
        "\x1b[1\x18",
    ]);
    let region = (number(), number(), address()).prop_map(|(top, bottom, go)| format!("\x1b[{top};{bottom}r{go}"));
    // From inside of a region, it is never left by going back over its top.
    let reverse = (1..8u16, 1..8u16, 0..8u16, 1..4usize).prop_map(|(top, more, down, times)| {
        format!("\x1b[{top};{}r\x1b[{}H{}", top + more, top + down.min(more), "\x1bM".repeat(times))
    });
    let screens =
        proptest::sample::select(vec!["\x1b[?1049h", "\x1b[?1049l", "\x1b[?47h", "\x1b[?47l", "\x1b[?1;1049h"]);
    let write = prop_oneof![
        6 => "[ -~]{1,30}",
        6 => mixed,
        6 => controls.prop_map(str::to_owned),
        12 => (number(), finals).prop_map(|(n, last)| format!("\x1b[{n}{last}")),
        6 => address(),
        1 => (number(), proptest::sample::select(vec!['J', 'K'])).prop_map(|(n, last)| format!("\x1b[?{n}{last}")),
        3 => ignored.prop_map(str::to_owned),
        1 => "[1-9]".prop_map(|row| format!("\x1b[{row}H❤\u{fe0f}")),
        2 => region,
        2 => reverse,
        2 => proptest::sample::select(vec!["\x1b7", "\x1b8", "\x1b[?6h", "\x1b[?6l"]).prop_map(str::to_owned),
        1 => (screens, address()).prop_map(|(to, go)| format!("{to}{go}")),
        1 => Just("\x1bc".to_owned()),
    ];
    prop_oneof![30 => write.prop_map(Step::Write), 1 => (2..14u16, 1..9u16).prop_map(|(cols, rows)| Step::Resize(cols, rows))]
}

/// Runs a program on both; the grid gets it cut by `seed`.
fn agree(cols: u16, rows: u16, steps: &[Step], mut seed: u64) -> Result<(), TestCaseError> {
    let (mut oracle, mut ours, mut text) = (Oracle::new(cols, rows), Grid::new(cols, rows), blank(cols, rows));
    for (n, step) in steps.iter().enumerate() {
        match step {
            Step::Write(bytes) => {
                oracle.0.process(bytes.as_bytes());
                let mut rest = bytes.as_bytes();
                while !rest.is_empty() {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let (now, later) = rest.split_at(rest.len().min(1 + (seed >> 33) as usize % 12));
                    ours.process(now);
                    rest = later;
                }
            }
            Step::Resize(cols, rows) => {
                oracle.resize(*cols, *rows);
                ours.resize(*cols, *rows);
            }
        }
        let before = text.clone();
        let changed = ours.look(&mut text);
        prop_assert_eq!(changed, before != text, "what a look says after {:?}", &steps[..=n]);
        prop_assert_eq!(&text, &ours.text(), "rows not seen to be written after {:?}", &steps[..=n]);
        prop_assert_eq!(&text, &oracle.text(), "not as vt100 after {:?}", &steps[..=n]);
    }
    Ok(())
}

/// Bytes that look like output often enough.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let byte =
        prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), Just(b';'), Just(b'9'), Just(b'?'), Just(0xe6), 0x40u8..0x7f];
    proptest::collection::vec(byte, 0..60)
}

fn survive(steps: Vec<(Vec<u8>, u16, u16)>) -> Result<(), TestCaseError> {
    let (mut grid, mut text) = (Grid::new(10, 4), blank(10, 4));
    for (bytes, cols, rows) in steps {
        grid.process(&bytes);
        grid.process("日本".as_bytes());
        grid.resize(cols, rows);
        grid.look(&mut text);
        prop_assert_eq!(&text, &grid.text());
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_program_shows_what_vt100_shows(
        (cols, rows) in prop_oneof![4 => (2..14u16, 1..9u16), 1 => Just((80, 24))],
        steps in proptest::collection::vec(step(), 0..40),
        seed in any::<u64>(),
    ) {
        agree(cols, rows, &steps, seed)?;
    }

    #[test]
    fn f26_any_cut_in_two_shows_the_same(bytes in noise()) {
        let whole = grid(9, 4, &[&bytes]).text();
        for at in 0..=bytes.len() {
            prop_assert_eq!(&grid(9, 4, &[&bytes[..at], &bytes[at..]]).text(), &whole, "cut at {}", at);
        }
    }

    #[test]
    fn f25_no_bytes_and_no_size_break_the_grid(steps in proptest::collection::vec((noise(), 0u16..40, 0u16..12), 0..12)) {
        survive(steps)?;
    }
}

#[test]
#[ignore = "a million programs; run by hand: cargo nextest run --release --run-ignored only -E 'test(a_million)'"]
fn f25_a_million_programs_break_nothing_and_show_what_vt100_shows() {
    let config = ProptestConfig { cases: 500_000, failure_persistence: None, ..ProptestConfig::default() };
    let runner = || proptest::test_runner::TestRunner::new(config.clone());
    let programs = (2..14u16, 1..9u16, proptest::collection::vec(step(), 0..16), any::<u64>());
    runner().run(&programs, |(cols, rows, steps, seed)| agree(cols, rows, &steps, seed)).unwrap();
    runner().run(&proptest::collection::vec((noise(), 0u16..40, 0u16..12), 0..6), survive).unwrap();
}

#[test]
fn recorded_sessions_show_what_vt100_shows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut looks = 0;
    for dir in recording::find(&root).unwrap() {
        let cast = Recording::load(&dir).unwrap().cast;
        let mut oracle = Oracle::new(cast.cols, cast.rows);
        // The largest piece, and a reader of pieces up to that size.
        let mut readers =
            [usize::MAX, 7, 1].map(|piece| (piece, Grid::new(cast.cols, cast.rows), blank(cast.cols, cast.rows)));
        for (n, (at, moment)) in cast.moments.iter().enumerate() {
            match moment {
                Moment::Output(bytes) => oracle.0.process(bytes),
                Moment::Resized(cols, rows) => oracle.resize(*cols, *rows),
                Moment::Input(_) | Moment::Reported { .. } => continue,
            }
            // As a run is looked at: when it is quiet, and at the end.
            let quiet = cast.moments.get(n + 1).is_none_or(|(next, _)| *next > *at + Duration::from_millis(16));
            // vt100 homes the cursor on the way to the alternate screen, terminals leave it to the program to place it.
            let unplaced = matches!(moment, Moment::Output(bytes) if bytes.ends_with(b"\x1b[?1049h"));
            let want = (quiet && !unplaced).then(|| oracle.text());
            for (piece, grid, text) in &mut readers {
                match moment {
                    Moment::Output(bytes) => bytes.chunks(*piece).for_each(|b| grid.process(b)),
                    Moment::Resized(cols, rows) => grid.resize(*cols, *rows),
                    Moment::Input(_) | Moment::Reported { .. } => {}
                }
                if let Some(want) = &want {
                    grid.look(text);
                    assert_eq!(text, want, "{} at {at:?} in pieces of {piece}", dir.display());
                    looks += 1;
                }
            }
        }
    }
    assert!(looks > 10_000, "only {looks} looks");
}
