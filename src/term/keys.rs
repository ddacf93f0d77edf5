//! What a human pressed, told from what a terminal says by itself.
//!
//! Focus reports, cursor reports, device attributes, status replies and mouse movement arrive on the same wire as keys
//! and are no sign of a human.

/// A key, as far as it matters to who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// Text that lands in an input line, typed or pasted.
    Text,
    /// Enter, outside a paste.
    Enter,
    /// Escape.
    Escape,
    /// Ctrl-C.
    CtrlC,
    /// Ctrl-U, which empties most input lines.
    Kill,
    /// Any other key.
    Other,
}

/// Splits input into keys; see the module.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// A sequence that is not complete yet; bounded by [`MAX_SEQUENCE_BYTES`].
    open: Vec<u8>,
    pasting: bool,
}

/// A longer escape sequence is not a key: its rest is read as text.
const MAX_SEQUENCE_BYTES: usize = 4096;

const ESC: u8 = 0x1b;

enum Step {
    /// This many bytes are one key, or nothing.
    Took(usize, Option<Key>),
    Paste(usize, bool),
    NeedMore,
}

impl Keys {
    /// Takes input and gives the keys in it.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut key: impl FnMut(Key)) {
        let joined;
        let mut rest = if self.open.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.open).as_slice(), bytes].concat();
            joined.as_slice()
        };
        while !rest.is_empty() {
            match step(rest, self.pasting) {
                Step::Took(n, k) => {
                    k.into_iter().for_each(&mut key);
                    rest = &rest[n..];
                }
                Step::Paste(n, on) => {
                    self.pasting = on;
                    rest = &rest[n..];
                }
                // A lone ESC is the Escape key: a terminal writes its sequences in one piece.
                Step::NeedMore if rest == [ESC] => {
                    key(Key::Escape);
                    return;
                }
                Step::NeedMore if rest.len() > MAX_SEQUENCE_BYTES => return,
                Step::NeedMore => {
                    self.open = rest.to_vec();
                    return;
                }
            }
        }
    }
}

fn step(bytes: &[u8], pasting: bool) -> Step {
    match bytes[0] {
        ESC => escape(bytes, pasting),
        _ if pasting => Step::Took(1, Some(Key::Text)),
        b'\r' | b'\n' => Step::Took(1, Some(Key::Enter)),
        0x03 => Step::Took(1, Some(Key::CtrlC)),
        0x15 => Step::Took(1, Some(Key::Kill)),
        b if b < 0x20 || b == 0x7f => Step::Took(1, Some(Key::Other)),
        _ => Step::Took(1, Some(Key::Text)),
    }
}

fn escape(bytes: &[u8], pasting: bool) -> Step {
    let Some(second) = bytes.get(1) else { return Step::NeedMore };
    match *second {
        b'[' => csi(bytes),
        b'O' if bytes.len() < 3 => Step::NeedMore,
        b'O' => Step::Took(3, Some(Key::Other)),
        // Replies that are strings: OSC, DCS, APC.
        b']' | b'P' | b'_' => {
            for i in 2..bytes.len() {
                if bytes[i] == 0x07 {
                    return Step::Took(i + 1, None);
                }
                if bytes[i] == b'\\' && bytes[i - 1] == ESC {
                    return Step::Took(i + 1, None);
                }
            }
            Step::NeedMore
        }
        ESC => Step::Took(1, (!pasting).then_some(Key::Escape)),
        _ => Step::Took(2, Some(Key::Other)),
    }
}

fn csi(bytes: &[u8]) -> Step {
    let Some(end) = bytes[2..].iter().position(|b| (0x40..=0x7e).contains(b)).map(|i| i + 2) else {
        return Step::NeedMore;
    };
    let (params, last, n) = (&bytes[2..end], bytes[end], end + 1);
    let replies = matches!(params.first(), Some(b'?' | b'>' | b'<'));
    match (last, params) {
        (b'~', b"200") => Step::Paste(n, true),
        (b'~', b"201") => Step::Paste(n, false),
        (b'I' | b'O', b"") => Step::Took(n, None),
        (b'M', b"") => {
            if bytes.len() < n + 3 {
                Step::NeedMore
            } else {
                Step::Took(n + 3, None)
            }
        }
        (b'R' | b't' | b'n' | b'y' | b'c', _) => Step::Took(n, None),
        _ if replies => Step::Took(n, None),
        (b'u', _) => Step::Took(n, Some(coded(params))),
        (b'~', p) if p.starts_with(b"27;") => Step::Took(n, Some(modified(p))),
        _ => Step::Took(n, Some(Key::Other)),
    }
}

/// `CSI code ; modifiers u` of the kitty protocol.
fn coded(params: &[u8]) -> Key {
    match params {
        b"27" | b"27;1" => Key::Escape,
        b"13" | b"13;1" => Key::Enter,
        b"99;5" => Key::CtrlC,
        _ => Key::Other,
    }
}

/// `CSI 27 ; modifiers ; code ~` of modifyOtherKeys.
fn modified(params: &[u8]) -> Key {
    if params == b"27;5;99" { Key::CtrlC } else { Key::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(chunks: &[&[u8]]) -> Vec<Key> {
        let (mut keys, mut out) = (Keys::default(), Vec::new());
        for c in chunks {
            keys.feed(c, |k| out.push(k));
        }
        out
    }

    #[test]
    fn what_a_terminal_says_is_no_key() {
        let talk: &[&[u8]] = &[
            b"\x1b[I\x1b[O\x1b[?62;22c\x1b[1;1R\x1b[6;16;8t",
            b"\x1bP>|xterm(390)\x1b\\\x1b]11;rgb:0/0/0\x07\x1b[?2026;2$y\x1b[?0u",
            b"\x1b]7501;?\x07\x1b[<35;1;1M",
        ];
        assert_eq!(keys(talk), []);
    }

    #[test]
    fn keys_are_keys_in_every_encoding() {
        assert_eq!(keys(&[b"a\r\x1b"]), [Key::Text, Key::Enter, Key::Escape]);
        assert_eq!(keys(&[b"\x03", b"\x1b[99;5u", b"\x1b[27;5;99~"]), [Key::CtrlC; 3]);
        assert_eq!(keys(&[b"\x1b[27u\x1b[13u\x1b[A"]), [Key::Escape, Key::Enter, Key::Other]);
    }

    #[test]
    fn enter_in_a_paste_submits_nothing() {
        assert_eq!(keys(&[b"\x1b[200~a\rb\x1b[20", b"1~\r"]), [Key::Text, Key::Text, Key::Text, Key::Enter]);
    }
}
