//! What must not be in a prompt: keys, escape sequences, and words that an agent would take for a command.

/// Longest control string (OSC and its like) that is taken out whole; an endless one loses its introducer only.
const CONTROL_STRING_MAX: usize = 4096;

/// Takes out everything that a terminal or an agent would take for a key or a command: escape sequences whole, then every
/// control character but newline and tab (T9). Line ends become `\n`. The flag says whether anything changed.
///
/// One pass is a fixpoint: each ESC of the input is consumed, and nothing makes a new one.
pub fn clean(text: &str) -> (String, bool) {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = match c {
            '\x1b' => escape_len(rest),
            '\u{9b}' => c.len_utf8() + csi_len(&rest[c.len_utf8()..]).unwrap_or(0),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => c.len_utf8() + string_len(&rest[c.len_utf8()..]).unwrap_or(0),
            '\r' => {
                out.push('\n');
                if rest[1..].starts_with('\n') { 2 } else { 1 }
            }
            '\n' | '\t' => {
                out.push(c);
                1
            }
            c if c.is_control() => c.len_utf8(),
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[skip..];
    }
    let changed = out != text;
    (out, changed)
}

/// How many bytes the escape sequence at the start of `rest` has; a lone ESC is one.
fn escape_len(rest: &str) -> usize {
    let body = &rest[1..];
    let inner = match body.chars().next() {
        Some('[') => csi_len(&body[1..]),
        Some(']' | 'P' | 'X' | '^' | '_') => string_len(&body[1..]),
        _ => return 1,
    };
    inner.map_or(1, |n| 2 + n)
}

/// Parameters, intermediates and the final byte of a CSI; none where it is not one.
fn csi_len(text: &str) -> Option<usize> {
    let end = text.bytes().position(|b| !(0x20..=0x3f).contains(&b))?;
    (0x40..=0x7e).contains(&text.as_bytes()[end]).then_some(end + 1)
}

/// A control string up to and with its BEL or ST; none where it does not end.
fn string_len(text: &str) -> Option<usize> {
    let window = &text[..text.floor_char_boundary(CONTROL_STRING_MAX)];
    let ends = [("\x07", 1), ("\x1b\\", 2), ("\u{9c}", 2)];
    ends.iter().filter_map(|(end, len)| window.find(end).map(|at| at + len)).min()
}

/// Whether an agent would take `text` for a command or a key rather than a prompt: a leading `/`, `!`, `#` or `"""` (T10).
pub fn command_like(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with(['/', '!', '#']) || text.starts_with("\"\"\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn t09_an_end_of_paste_in_the_text_is_taken_out() {
        for (dirty, want) in [
            ("a\x1b[201~b", "ab"),
            ("a\x1b[20\x1b[201~1~b", "a[201~b"),
            ("a\u{9b}201~b", "ab"),
            ("\x1b]0;title\x07x\x1b]8;;u\x1b\\y", "xy"),
            ("\x1b]never ends", "]never ends"),
            ("\x1b[31mred\x1b[0m\x07\x7f\x08", "red"),
            ("one\r\ntwo\rthree\n\tfour", "one\ntwo\nthree\n\tfour"),
        ] {
            let (text, changed) = clean(dirty);
            assert_eq!(text, want, "{dirty:?}");
            assert!(changed);
        }
        assert_eq!(clean("plain é\n\ttext"), ("plain é\n\ttext".into(), false));
    }

    #[test]
    fn t10_what_an_agent_takes_for_a_command_is_told_apart() {
        for text in ["/help", "  !ls", "#note", "\"\"\"x", "\n/x"] {
            assert!(command_like(text), "{text:?}");
        }
        for text in ["fix a/b", "say \"hi\"", "", "1. do"] {
            assert!(!command_like(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn t09_cleaning_is_a_fixpoint_without_controls(text in "[\\x00-\\x20\\x1b\\x7f\\[\\]~0-9a-z\u{80}-\u{9f}é]{0,60}") {
            let (once, _) = clean(&text);
            prop_assert!(once.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
            prop_assert_eq!(clean(&once), (once.clone(), false));
        }
    }
}
