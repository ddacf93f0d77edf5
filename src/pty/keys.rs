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
    from: From,
}

/// Whose a piece is.
enum From {
    Person,
    Observer(Sender<io::Result<()>>),
    StatusReply,
}

impl Piece {
    fn done(self, result: io::Result<()>) {
        if let From::Observer(done) = self.from {
            let _ = done.send(result);
        }
    }
}

/// The line of pieces.
pub(super) struct Keys {
    line: VecDeque<Piece>,
    /// Bytes in it, without the status reply: an agent that asks and does not read takes no room from the person.
    waiting: usize,
    /// Whether a status reply is in the line.
    replying: bool,
    /// Whether the first piece is written in part.
    begun: bool,
    paste: Paste,
    /// Prompts that wait for the end of a paste.
    held: VecDeque<Piece>,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self {
            line: VecDeque::new(),
            waiting: 0,
            replying: false,
            begun: false,
            paste: Paste::default(),
            held: VecDeque::new(),
        }
    }

    /// Whether more may be read from the person.
    pub(super) fn has_room(&self) -> bool {
        self.waiting < ROOM
    }

    /// Whether something could be written.
    pub(super) fn is_waiting(&self) -> bool {
        !self.line.is_empty()
    }

    fn push(&mut self, piece: Piece) {
        self.waiting += piece.bytes.len();
        self.line.push_back(piece);
    }

    /// From the person.
    pub(super) fn push_typed(&mut self, bytes: Bytes) {
        self.paste.feed(&bytes, Instant::now());
        self.push(Piece { bytes, from: From::Person });
        self.let_held_go();
    }

    /// From the Observer.
    pub(super) fn push_ours(&mut self, bytes: Vec<u8>, done: Sender<io::Result<()>>) {
        let piece = Piece { bytes: bytes.into(), from: From::Observer(done) };
        if self.paste.inside.is_some() {
            self.held.push_back(piece);
        } else {
            self.push(piece);
        }
    }

    /// The status reply: ahead of everything that is not begun, since it is waited for within microseconds. One that is
    /// not taken yet answers a second query as well: output full of queries makes no more of them (T8).
    pub(super) fn push_reply(&mut self, reply: &'static [u8]) {
        if !std::mem::replace(&mut self.replying, true) {
            let piece = Piece { bytes: Bytes::from_static(reply), from: From::StatusReply };
            self.line.insert(usize::from(self.begun), piece);
        }
    }

    /// Forgets what the Observer wrote and nothing was begun of.
    pub(super) fn withdraw(&mut self) {
        let gone = || Err(io::Error::new(io::ErrorKind::Interrupted, "taken back before it was begun"));
        self.held.drain(..).for_each(|piece| piece.done(gone()));
        for piece in self.line.split_off(self.line.len().min(usize::from(self.begun))) {
            match piece.from {
                From::Observer(_) => {
                    self.waiting -= piece.bytes.len();
                    piece.done(gone());
                }
                From::Person | From::StatusReply => self.line.push_back(piece),
            }
        }
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
                self.push(piece);
            }
        }
    }

    /// Writes as much as the agent's terminal takes.
    pub(super) fn write(&mut self, master: impl AsFd) {
        while let Some(piece) = self.line.front_mut() {
            match rustix::io::write(&master, &piece.bytes) {
                Ok(n) => {
                    let reply = matches!(piece.from, From::StatusReply);
                    self.waiting -= if reply { 0 } else { n };
                    self.begun = n < piece.bytes.len();
                    if self.begun {
                        let _ = piece.bytes.split_to(n);
                        continue;
                    }
                    self.replying &= !reply;
                    if let Some(piece) = self.line.pop_front() {
                        piece.done(Ok(()));
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
        for piece in self.line.drain(..).chain(self.held.drain(..)) {
            piece.done(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the agent has ended")));
        }
        self.waiting = 0;
        self.begun = false;
        self.replying = false;
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
    fn t08_queries_that_nobody_reads_the_answers_of_take_no_room() {
        let mut keys = Keys::new();
        for _ in 0..100_000 {
            keys.push_reply(b"reply");
        }
        assert!(keys.has_room() && keys.line.len() == 1);
        keys.push_typed(Bytes::from_static(b"\x03"));
        assert_eq!(written(&mut keys), "reply\x03");
        keys.push_reply(b"again");
        assert_eq!(written(&mut keys), "again");
        assert_eq!(keys.waiting, 0);
    }

    #[test]
    fn what_is_not_begun_can_be_taken_back() {
        let (done, answer) = crossbeam_channel::bounded(3);
        let mut keys = Keys::new();
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        keys.push_ours(vec![b'x'; 100_000], done.clone());
        keys.write(&writer);
        keys.push_ours(b"enter".to_vec(), done);
        keys.push_typed(Bytes::from_static(b"typed"));
        assert!(keys.begun);
        keys.withdraw();
        assert_eq!(answer.recv().unwrap().unwrap_err().kind(), io::ErrorKind::Interrupted);
        let mut got = Vec::new();
        let mut buffer = vec![0; 65536];
        while got.len() < 100_005 {
            let n = reader.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..n]);
            keys.write(&writer);
        }
        assert_eq!(&got[100_000..], b"typed");
        assert!(answer.recv().unwrap().is_ok() && keys.waiting == 0);
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
