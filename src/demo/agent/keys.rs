//! What arrives on the agent's input: keys, pastes and the terminal's own replies.

use std::time::{Duration, Instant};

/// One thing typed, pasted or answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A character.
    Char(char),
    /// A bracketed paste, whole.
    Paste(String),
    /// CR.
    Enter,
    /// LF.
    Newline,
    /// Escape alone.
    Esc,
    /// Ctrl and a letter.
    Ctrl(char),
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Backspace.
    Backspace,
    /// The terminal answered or told something by itself.
    Reply(Reply),
    /// Anything else.
    Other,
}

/// What terminals send by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// The status protocol is understood.
    Status,
    /// Device attributes: closes a round of questions.
    Attributes,
    /// A mode report.
    Mode(u16, u16),
    /// Focus gained or lost.
    Focus(bool),
    /// Any other reply.
    Other,
}

/// A lone ESC is the Escape key once this long nothing followed.
const ESC_WAIT: Duration = Duration::from_millis(50);

/// Cuts input bytes into keys; a sequence may be split anywhere.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pending: Vec<u8>,
    esc_due: Option<Instant>,
}

impl Keys {
    /// Takes bytes as they were read.
    pub(super) fn feed(&mut self, bytes: &[u8], now: Instant) -> Vec<Key> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        let mut rest = &self.pending[..];
        while let Some((key, used)) = next(rest) {
            keys.push(key);
            rest = &rest[used..];
        }
        let left = rest.to_vec();
        self.esc_due = (left == [0x1b]).then(|| now + ESC_WAIT);
        self.pending = left;
        keys
    }

    /// When [`Self::tick`] has something to say.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.esc_due
    }

    /// Decides that a lone ESC was the Escape key.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Key> {
        let due = self.esc_due?;
        if now < due {
            return None;
        }
        self.esc_due = None;
        self.pending.clear();
        Some(Key::Esc)
    }
}

/// Returns the first key and its length, or nothing while it is incomplete.
fn next(bytes: &[u8]) -> Option<(Key, usize)> {
    let first = *bytes.first()?;
    match first {
        b'\r' => Some((Key::Enter, 1)),
        b'\n' => Some((Key::Newline, 1)),
        0x7f | 0x08 => Some((Key::Backspace, 1)),
        b'\t' => Some((Key::Other, 1)),
        0x1b => escape(bytes),
        c if c < 0x20 => Some((Key::Ctrl(char::from(c + 0x60)), 1)),
        _ => {
            let len = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            let text = bytes.get(..len)?;
            let ch = std::str::from_utf8(text).ok().and_then(|s| s.chars().next());
            Some((ch.map_or(Key::Other, Key::Char), len))
        }
    }
}

fn escape(bytes: &[u8]) -> Option<(Key, usize)> {
    match *bytes.get(1)? {
        b'[' => {
            let end = 2 + bytes[2..].iter().position(|b| (0x40..=0x7e).contains(b))?;
            let body = std::str::from_utf8(&bytes[2..end]).unwrap_or_default();
            let len = end + 1;
            match (body, bytes[end]) {
                ("200", b'~') => {
                    let close = b"\x1b[201~";
                    let at = bytes[len..].windows(close.len()).position(|w| w == close)?;
                    let text = String::from_utf8_lossy(&bytes[len..len + at]).into_owned();
                    Some((Key::Paste(text), len + at + close.len()))
                }
                ("", b'A') => Some((Key::Up, len)),
                ("", b'B') => Some((Key::Down, len)),
                ("", b'I') => Some((Key::Reply(Reply::Focus(true)), len)),
                ("", b'O') => Some((Key::Reply(Reply::Focus(false)), len)),
                (body, b'c') if body.starts_with('?') => Some((Key::Reply(Reply::Attributes), len)),
                (body, b'y') => Some((Key::Reply(mode(body).unwrap_or(Reply::Other)), len)),
                (_, b'R' | b't' | b'n') => Some((Key::Reply(Reply::Other), len)),
                // Extended keys: terminals that were told to use them.
                ("13", b'u') => Some((Key::Enter, len)),
                ("27", b'u') => Some((Key::Esc, len)),
                ("99;5", b'u') => Some((Key::Ctrl('c'), len)),
                (_, b'u') => Some((Key::Reply(Reply::Other), len)),
                _ => Some((Key::Other, len)),
            }
        }
        b']' | b'P' | b'_' => {
            let (at, close) = bytes.iter().enumerate().skip(2).find_map(|(i, b)| match b {
                0x07 => Some((i, 1)),
                0x1b if bytes.get(i + 1) == Some(&b'\\') => Some((i, 2)),
                _ => None,
            })?;
            let reply = if bytes[2..at].starts_with(b"7501;?") { Reply::Status } else { Reply::Other };
            Some((Key::Reply(reply), at + close))
        }
        b'O' => bytes.get(2).map(|_| (Key::Other, 3)),
        // Escape and a key in one go is the key with Alt.
        _ => Some((Key::Other, 2)),
    }
}

fn mode(body: &str) -> Option<Reply> {
    let (number, value) = body.strip_prefix('?')?.strip_suffix('$')?.split_once(';')?;
    Some(Reply::Mode(number.parse().ok()?, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_the_input_gives_the_same_keys() {
        let input = "a\x1b[200~two\nlines é\x1b[201~\r\x1b]7501;?\x07\x1b[?1;2c\x1b[?2026;2$y\x1bP>|tmux 3.3a\x1b\\\x1b[O\x03é\x1b[A".as_bytes();
        let now = Instant::now();
        let whole = Keys::default().feed(input, now);
        assert_eq!(
            whole,
            [
                Key::Char('a'),
                Key::Paste("two\nlines é".into()),
                Key::Enter,
                Key::Reply(Reply::Status),
                Key::Reply(Reply::Attributes),
                Key::Reply(Reply::Mode(2026, 2)),
                Key::Reply(Reply::Other),
                Key::Reply(Reply::Focus(false)),
                Key::Ctrl('c'),
                Key::Char('é'),
                Key::Up,
            ]
        );
        for cut in 1..input.len() {
            let mut keys = Keys::default();
            let mut all = keys.feed(&input[..cut], now);
            all.extend(keys.feed(&input[cut..], now));
            assert_eq!(all, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_lone_escape_waits_and_one_before_a_key_is_alt() {
        let now = Instant::now();
        let mut keys = Keys::default();
        assert_eq!(keys.feed(b"\x1b", now), []);
        assert_eq!(keys.tick(now), None);
        assert_eq!(keys.tick(now + ESC_WAIT), Some(Key::Esc));
        assert_eq!(keys.feed(b"\x1b1", now), [Key::Other]);
    }
}
