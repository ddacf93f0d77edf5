//! One way out for the agent's bytes: read here, write there, wait for whichever side is slow.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Bytes, BytesMut};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::feed::Stream;

/// Chunks are cut from pieces of this size; reads of a terminal bring 4 KiB at most, of a pipe up to this.
const ARENA: usize = 64 * 1024;

/// A read is not started into less room than this.
const ROOM: usize = 4096;

/// Memory to read into. Chunks share it, and it is zeroed once for each [`ARENA`] bytes read.
pub(super) struct Arena(BytesMut);

impl Arena {
    pub(super) fn new() -> Self {
        Self(BytesMut::new())
    }

    /// Reads what is there; empty at the end.
    pub(super) fn read(&mut self, from: impl AsFd) -> Result<Bytes, Errno> {
        if self.0.len() < ROOM {
            self.0 = BytesMut::zeroed(ARENA);
        }
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&from, &mut self.0[..]))?;
        Ok(self.0.split_to(n).freeze())
    }
}

/// Where a lane's bytes go.
pub(super) struct Outlet {
    fd: OwnedFd,
    socket: bool,
}

impl Outlet {
    /// An outlet to the file behind `fd`, so that a reader that does not read holds up nobody else where possible.
    pub(super) fn to(fd: impl AsFd) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        // The description is shared with other processes, so O_NONBLOCK may not be set on it. Pipes and terminals can be
        // opened again; a regular file never waits, and again it would lose its offset.
        let again = (kind == FileType::Fifo || rustix::termios::isatty(&fd))
            .then(|| crate::linux::reopen(&fd, OFlags::WRONLY | OFlags::NONBLOCK).ok())
            .flatten();
        let fd = match again {
            Some(fd) => fd,
            None => rustix::io::fcntl_dupfd_cloexec(fd, 3)?,
        };
        Ok(Self { fd, socket: kind == FileType::Socket })
    }

    /// Writes as much as fits.
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        rustix::io::retry_on_intr(|| {
            if self.socket {
                rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            } else {
                rustix::io::write(&self.fd, bytes)
            }
        })
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// All is out.
    Clear,
    /// The reader is slow.
    Full,
    /// There is no reader any more, or none that takes it.
    Gone(Errno),
}

/// One stream of the agent.
pub(super) struct Lane {
    pub(super) stream: Stream,
    /// Where it is read; none once its end was seen.
    pub(super) from: Option<OwnedFd>,
    /// Where it is written; none where nobody reads along.
    pub(super) to: Option<Outlet>,
    /// Read and not yet written. Nothing more is read until it is out, so that the agent feels its reader.
    pending: Bytes,
}

impl Lane {
    pub(super) fn new(stream: Stream, from: OwnedFd, to: Option<Outlet>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&from, true)?;
        Ok(Self { stream, from: Some(from), to, pending: Bytes::new() })
    }

    /// Whether everything is read and written.
    pub(super) fn is_done(&self) -> bool {
        self.from.is_none() && self.is_clear()
    }

    /// Whether everything read is written.
    pub(super) fn is_clear(&self) -> bool {
        self.pending.is_empty()
    }

    /// The descriptor to read from, if it may be read now.
    pub(super) fn readable(&self) -> Option<&OwnedFd> {
        self.from.as_ref().filter(|_| self.is_clear())
    }

    /// The descriptor to write to, if it has to be waited for.
    pub(super) fn writable(&self) -> Option<&OwnedFd> {
        self.to.as_ref().filter(|_| !self.is_clear()).map(|to| &to.fd)
    }

    /// Writes `chunk`; what does not fit stays pending.
    pub(super) fn write(&mut self, chunk: &Bytes) -> Flow {
        debug_assert!(self.is_clear(), "nothing is read while something is pending");
        let Some(to) = &self.to else { return Flow::Clear };
        match to.write(chunk) {
            Ok(n) if n == chunk.len() => Flow::Clear,
            Ok(n) => {
                self.pending = chunk.slice(n..);
                Flow::Full
            }
            Err(Errno::AGAIN) => {
                self.pending = chunk.clone();
                Flow::Full
            }
            Err(e) => {
                self.abandon();
                Flow::Gone(e)
            }
        }
    }

    /// Goes on with what is pending.
    pub(super) fn flush(&mut self) -> Flow {
        let chunk = std::mem::take(&mut self.pending);
        if chunk.is_empty() { Flow::Clear } else { self.write(&chunk) }
    }

    /// Gives up on the reader.
    pub(super) fn abandon(&mut self) {
        self.to = None;
        self.pending = Bytes::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn f22_a_slow_reader_gets_every_byte_and_stops_the_reading() {
        let (from, mut agent) = io::pipe().unwrap();
        let (mut reader, to) = io::pipe().unwrap();
        let mut lane = Lane::new(Stream::Stdout, from.into(), Some(Outlet::to(&to).unwrap())).unwrap();
        drop(to);
        let (mut arena, mut sent) = (Arena::new(), Vec::new());
        while lane.is_clear() {
            let chunk: Vec<u8> = (0..ROOM).map(|i| (i + sent.len() * 7) as u8).collect();
            io::Write::write_all(&mut agent, &chunk).unwrap();
            sent.extend_from_slice(&chunk);
            let read = arena.read(lane.from.as_ref().unwrap()).unwrap();
            assert_eq!(read.len(), chunk.len());
            lane.write(&read);
        }
        assert!(lane.readable().is_none() && lane.writable().is_some());
        let mut got = vec![0; sent.len()];
        let mut at = 0;
        while at < got.len() {
            at += reader.read(&mut got[at..]).unwrap();
            lane.flush();
        }
        assert!(lane.is_clear() && got == sent);
        drop(reader);
        assert_eq!(lane.write(&Bytes::from_static(b"x")), Flow::Gone(Errno::PIPE));
    }
}
