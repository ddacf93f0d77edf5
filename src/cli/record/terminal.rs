//! The terminal around the agent: the one we stand in (a tmux pane), passed through, or a plain xterm that we play.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::LazyLock;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use regex::bytes::Regex;
use rustix::termios::{isatty, tcgetwinsize};

use crate::term::modes::Sentry;

/// What a plain xterm answers, by the query.
static QUERY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?-u)\x1b\[(c|0c|>c|>0c|6n|5n|>0?q|\?(\d+)\$p|18t)|\x1b\](1[01]);\?(?:\x07|\x1b\\)")
        .expect("it is tested")
});
/// No query is longer.
const QUERY_BYTES: usize = 16;

/// The terminal.
pub(super) enum Terminal {
    /// Ours, made raw; put back when dropped.
    Outer { was: Termios },
    /// None: an xterm is played. The tail of the output may hold the beginning of a query.
    Xterm { tail: Vec<u8> },
}

impl Terminal {
    /// The terminal on our standard input, if there is one.
    pub(super) fn find() -> io::Result<Self> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(Self::Xterm { tail: Vec::new() });
        }
        let was = tcgetattr(&stdin)?;
        let mut raw = was.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Self::Outer { was })
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Outer { .. } if std::env::var_os("TMUX").is_some() => "tmux",
            Self::Outer { .. } => "terminal",
            Self::Xterm { .. } => "xterm",
        }
    }

    /// Its size, where it has one of its own.
    pub(super) fn size(&self) -> Option<(u16, u16)> {
        let Self::Outer { .. } = self else { return None };
        let size = tcgetwinsize(io::stdin()).ok()?;
        Some((size.ws_col, size.ws_row))
    }

    /// Where keys and answers come from.
    pub(super) fn keys<'a>(&self, stdin: &'a io::Stdin) -> Option<BorrowedFd<'a>> {
        matches!(self, Self::Outer { .. }).then(|| stdin.as_fd())
    }

    /// What goes back to the agent for `chunk` of its output: our answer to the status query if `status`, and all the
    /// others where we play the terminal.
    pub(super) fn answers(&mut self, chunk: &[u8], status: Option<&mut Sentry>, size: (u16, u16)) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(sentry) = status {
            sentry.feed(chunk, |terminator| out.extend_from_slice(terminator.status_reply()));
        }
        let Self::Xterm { tail } = self else { return out };
        let old = tail.len();
        tail.extend_from_slice(chunk);
        for found in QUERY.captures_iter(tail).filter(|c| c.get(0).is_some_and(|m| m.end() > old)) {
            if let Some(colour) = found.get(3) {
                let value: &[u8] = if colour.as_bytes() == b"10" { b"dddd/dddd/dddd" } else { b"1111/1111/1111" };
                out.extend([b"\x1b]", colour.as_bytes(), b";rgb:", value, b"\x1b\\"].concat());
                continue;
            }
            match found.get(1).map_or(&b""[..], |m| m.as_bytes()) {
                b"c" | b"0c" => out.extend(b"\x1b[?62;22c"),
                b">c" | b">0c" => out.extend(b"\x1b[>1;10;0c"),
                b"6n" => out.extend(b"\x1b[1;1R"),
                b"5n" => out.extend(b"\x1b[0n"),
                b"18t" => out.extend(format!("\x1b[8;{};{}t", size.1, size.0).bytes()),
                query if query.ends_with(b"q") => out.extend(b"\x1bP>|xterm(390)\x1b\\"),
                _ => {
                    let mode = String::from_utf8_lossy(found.get(2).map_or(&b""[..], |m| m.as_bytes())).into_owned();
                    out.extend(format!("\x1b[?{mode};{}$y", if mode == "2026" { 2 } else { 0 }).bytes());
                }
            }
        }
        let keep = tail.len().saturating_sub(QUERY_BYTES);
        tail.drain(..keep);
        out
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Self::Outer { was } = self {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, was);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_answered_once_wherever_the_stream_is_cut_and_the_status_first() {
        let stream = b"hello \x1b]7501;?\x07\x1b[c and \x1b[?2026$p";
        for cut in 0..stream.len() {
            let (mut xterm, mut sentry) = (Terminal::Xterm { tail: Vec::new() }, Sentry::new());
            let mut out = xterm.answers(&stream[..cut], Some(&mut sentry), (80, 24));
            out.extend(xterm.answers(&stream[cut..], Some(&mut sentry), (80, 24)));
            assert_eq!(out, b"\x1b]7501;?\x07\x1b[?62;22c\x1b[?2026;2$y", "cut at {cut}");
        }
    }
}
