//! JSON for people's terminals and pipes: what an agent said stands in it, and gets to steer nothing (T7).

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Whether a character does something, or hides something, instead of showing: C0, DEL and C1, the marks of bidirectional
/// text, and what has no width.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}')
}

/// Returns `value` as one line of JSON without a newline; what would not show is escaped, so nothing is lost.
pub fn line(value: &impl Serialize) -> serde_json::Result<String> {
    let mut out = Vec::with_capacity(128);
    value.serialize(&mut Serializer::with_formatter(&mut out, Shown))?;
    Ok(String::from_utf8(out).expect("JSON of strings is UTF-8"))
}

struct Shown;

impl Formatter for Shown {
    /// Gets what serde_json does not escape by itself, which is C0, quotes and backslashes.
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() && memchr::memchr(0x7f, fragment.as_bytes()).is_none() {
            return out.write_all(fragment.as_bytes());
        }
        let mut done = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| is_unseen(*c)) {
            out.write_all(&fragment.as_bytes()[done..at])?;
            // All of them are in the basic plane: one escape each.
            write!(out, "\\u{:04x}", u32::from(c))?;
            done = at + c.len_utf8();
        }
        out.write_all(&fragment.as_bytes()[done..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t07_what_does_not_show_is_escaped_and_reads_back() {
        let text = "a\u{7f}\u{9b}31m \u{202e}evil\u{2066} \u{200b}\u{feff}\u{85} é 木 \u{1b}[m\n\"\\";
        let value = serde_json::json!({ text: [text, 1, null] });
        let line = line(&value).unwrap();
        assert!(!line.chars().any(is_unseen), "{line:?}");
        assert!(line.contains("\\u009b31m \\u202eevil") && line.contains("é 木"), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }
}
