//! Input on its way to the agent: what a person types, what the Observer sends, and the status reply, in one line.
//!
//! Pieces are written whole, in order, never one inside the other (F40). A prompt also waits for the end of a paste that
//! has begun: between its two ends the agent would take it for a part of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Sender;
use rustix::io::Errno;

/// No more is read from the person while this much waits for the agent: their terminal holds the rest.
const ROOM: usize = 64 * 1024;

/// A paste whose end does not come within this time after its last byte is one no longer.
const PASTE_SILENCE: Duration = Duration::from_secs(2);

const PASTE_BEGIN: &[u8] = b"\x1b[200~";
const PASTE_END: &[u8] = b"\x1b[201~";

struct Piece {
    bytes: Bytes,
    done: Option<Sender<io::Result<()>>>,
}

/// The line of pieces.
pub(super) struct Keys {
    line: VecDeque<Piece>,
    waiting: usize,
    /// Whether the first piece is written in part.
    begun: bool,
    paste: Paste,
    /// Prompts that wait for the end of a paste.
    held: VecDeque<Piece>,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self { line: VecDeque::new(), waiting: 0, begun: false, paste: Paste::default(), held: VecDeque::new() }
    }

    /// Whether more may be read from the person.
    pub(super) fn has_room(&self) -> bool {
        self.waiting < ROOM
    }

    /// Whether something could be written.
    pub(super) fn is_waiting(&self) -> bool {
        !self.line.is_empty()
    }

    fn push(&mut self, bytes: Bytes, done: Option<Sender<io::Result<()>>>) {
        self.waiting += bytes.len();
        self.line.push_back(Piece { bytes, done });
    }

    /// From the person.
    pub(super) fn push_typed(&mut self, bytes: Bytes) {
        self.paste.feed(&bytes, Instant::now());
        self.push(bytes, None);
        self.let_held_go();
    }

    /// From the Observer.
    pub(super) fn push_ours(&mut self, bytes: Vec<u8>, done: Sender<io::Result<()>>) {
        if self.paste.inside.is_some() {
            self.held.push_back(Piece { bytes: bytes.into(), done: Some(done) });
        } else {
            self.push(bytes.into(), Some(done));
        }
    }

    /// The status reply: ahead of everything that is not begun, since it is waited for within microseconds.
    pub(super) fn push_reply(&mut self, reply: &'static [u8]) {
        self.waiting += reply.len();
        self.line.insert(usize::from(self.begun), Piece { bytes: Bytes::from_static(reply), done: None });
    }

    /// When [`Keys::tick`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.paste.inside.filter(|_| !self.held.is_empty()).map(|last| last + PASTE_SILENCE)
    }

    /// Gives up on the end of a paste.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.paste = Paste::default();
            self.let_held_go();
        }
    }

    fn let_held_go(&mut self) {
        if self.paste.inside.is_none() {
            for piece in std::mem::take(&mut self.held) {
                self.push(piece.bytes, piece.done);
            }
        }
    }

    /// Writes as much as the agent's terminal takes.
    pub(super) fn write(&mut self, master: impl AsFd) {
        while let Some(piece) = self.line.front_mut() {
            match rustix::io::write(&master, &piece.bytes) {
                Ok(n) => {
                    self.waiting -= n;
                    self.begun = n < piece.bytes.len();
                    if self.begun {
                        let _ = piece.bytes.split_to(n);
                        continue;
                    }
                    if let Some(done) = self.line.pop_front().and_then(|piece| piece.done) {
                        let _ = done.send(Ok(()));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.fail(),
            }
        }
    }

    /// There is nobody to write to any more.
    pub(super) fn fail(&mut self) {
        for done in self.line.drain(..).chain(self.held.drain(..)).filter_map(|piece| piece.done) {
            let _ = done.send(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the agent has ended")));
        }
        self.waiting = 0;
        self.begun = false;
    }
}

/// Whether the person's input is between the two ends of a bracketed paste.
#[derive(Default)]
struct Paste {
    /// When its last byte came.
    inside: Option<Instant>,
    /// Bytes of the awaited mark seen so far.
    matched: usize,
}

impl Paste {
    fn feed(&mut self, bytes: &[u8], now: Instant) {
        for &byte in bytes {
            let mark = if self.inside.is_some() { PASTE_END } else { PASTE_BEGIN };
            // Only the first byte of the marks is an escape, so a mismatch starts over at this byte at most.
            self.matched = if byte == mark[self.matched] { self.matched + 1 } else { usize::from(byte == mark[0]) };
            if self.matched == mark.len() {
                self.matched = 0;
                self.inside = self.inside.is_none().then_some(now);
            }
        }
        if self.inside.is_some() {
            self.inside = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn written(keys: &mut Keys) -> String {
        let (mut reader, writer) = io::pipe().unwrap();
        keys.write(&writer);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text.replace('\x1b', "^")
    }

    #[test]
    fn f40_a_prompt_waits_for_the_end_of_a_paste() {
        let (done, answer) = crossbeam_channel::bounded(1);
        let mut keys = Keys::new();
        keys.push_typed(Bytes::from_static(b"a\x1b[20"));
        keys.push_typed(Bytes::from_static(b"0~pasted "));
        keys.push_ours(b"prompt".to_vec(), done);
        assert_eq!(written(&mut keys), "a^[200~pasted ");
        assert!(answer.is_empty() && keys.due().is_some());
        keys.push_typed(Bytes::from_static(b"text\x1b[201~b"));
        assert_eq!(written(&mut keys), "text^[201~bprompt");
        assert!(answer.recv().unwrap().is_ok() && keys.due().is_none());
    }

    #[test]
    fn a_paste_without_end_holds_a_prompt_for_a_while_only() {
        let (done, _answer) = crossbeam_channel::bounded(1);
        let mut keys = Keys::new();
        keys.push_typed(Bytes::from_static(b"\x1b[200~half"));
        keys.push_ours(b"prompt".to_vec(), done);
        keys.tick(keys.due().unwrap());
        assert_eq!(written(&mut keys), "^[200~halfprompt");
    }

    #[test]
    fn the_status_reply_goes_ahead_but_never_into_a_piece() {
        let mut keys = Keys::new();
        keys.push_typed(Bytes::from_static(b"typed"));
        keys.push_reply(b"reply");
        assert_eq!(written(&mut keys), "replytyped");
        // A reader that takes one page: the rest of the piece goes before the reply.
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let big = vec![b'x'; 100_000];
        keys.push_typed(big.clone().into());
        keys.write(&writer);
        assert!(keys.begun && keys.has_room() != (keys.waiting >= ROOM));
        keys.push_reply(b"reply");
        let mut got = Vec::new();
        let mut buffer = vec![0; 65536];
        while got.len() < big.len() + 5 {
            let n = reader.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..n]);
            keys.write(&writer);
        }
        assert_eq!(&got[big.len()..], b"reply");
    }

    #[test]
    fn nobody_to_write_to_is_said_to_all_who_wait() {
        let (done, answer) = crossbeam_channel::bounded(1);
        let mut keys = Keys::new();
        keys.push_ours(b"prompt".to_vec(), done);
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        keys.write(&writer);
        assert_eq!(answer.recv().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(!keys.is_waiting() && keys.has_room());
    }
}
