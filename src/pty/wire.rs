//! What wrapper and guard tell each other: fixed packets over a socket pair that only these two hold.
//!
//! Both ends are the same file, executed within milliseconds of each other, so the form has no version.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::feed::Ended;
use crate::extract::event::ProcId;

/// From the wrapper to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Signal the agent, or its process group.
    Signal { signal: i32, group: bool },
    /// Continue a stopped agent; in the foreground of its terminal if so.
    Continue { foreground: bool },
    /// End what the agent started, itself included: HUP, TERM, KILL.
    End { all: bool, grace_ms: u32 },
    /// Everything is in order: go without touching the terminal.
    Release,
}

/// From the guard to the wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// The agent runs.
    Started(ProcId),
    /// The agent does not run: `errno` of the change of folder or of the exec.
    Failed { cwd: bool, errno: i32 },
    /// The agent was stopped by this signal.
    Stopped(i32),
    /// The agent has ended; so many processes that it started have not.
    Exited { ended: Ended, left: u32 },
    /// Nothing is left of what was to be ended, but for so many that not even KILL ended.
    Swept { left: u32 },
}

const PACKET: usize = 16;
type Packet = [u8; PACKET];

fn pack(tag: u32, a: i32, b: u64) -> Packet {
    let mut packet = [0; PACKET];
    packet[..4].copy_from_slice(&tag.to_ne_bytes());
    packet[4..8].copy_from_slice(&a.to_ne_bytes());
    packet[8..].copy_from_slice(&b.to_ne_bytes());
    packet
}

fn unpack(packet: &Packet) -> (u32, i32, u64) {
    let (tag, rest) = packet.split_first_chunk().expect("16 bytes hold 4");
    let (a, b) = rest.split_first_chunk().expect("12 bytes hold 4");
    let b = b.first_chunk().expect("8 bytes are left");
    (u32::from_ne_bytes(*tag), i32::from_ne_bytes(*a), u64::from_ne_bytes(*b))
}

/// A message of one direction.
pub(super) trait Message: Sized {
    fn encode(self) -> Packet;
    fn decode(packet: &Packet) -> Option<Self>;
}

impl Message for Order {
    fn encode(self) -> Packet {
        match self {
            Self::Signal { signal, group } => pack(1, signal, group.into()),
            Self::Continue { foreground } => pack(2, 0, foreground.into()),
            Self::End { all, grace_ms } => pack(3, all.into(), grace_ms.into()),
            Self::Release => pack(4, 0, 0),
        }
    }

    fn decode(packet: &Packet) -> Option<Self> {
        Some(match unpack(packet) {
            (1, signal, group) => Self::Signal { signal, group: group != 0 },
            (2, _, foreground) => Self::Continue { foreground: foreground != 0 },
            (3, all, grace) => Self::End { all: all != 0, grace_ms: u32::try_from(grace).ok()? },
            (4, ..) => Self::Release,
            _ => return None,
        })
    }
}

impl Message for Report {
    fn encode(self) -> Packet {
        match self {
            Self::Started(id) => pack(1, id.pid, id.start),
            Self::Failed { cwd, errno } => pack(2, errno, cwd.into()),
            Self::Stopped(signal) => pack(3, signal, 0),
            Self::Exited { ended: Ended::Code(code), left } => pack(4, code, left.into()),
            Self::Exited { ended: Ended::Signal(signal), left } => pack(5, signal, left.into()),
            Self::Swept { left } => pack(6, 0, left.into()),
        }
    }

    fn decode(packet: &Packet) -> Option<Self> {
        let count = |n| u32::try_from(n).ok();
        Some(match unpack(packet) {
            (1, pid, start) => Self::Started(ProcId { pid, start }),
            (2, errno, cwd) => Self::Failed { cwd: cwd != 0, errno },
            (3, signal, _) => Self::Stopped(signal),
            (4, code, left) => Self::Exited { ended: Ended::Code(code), left: count(left)? },
            (5, signal, left) => Self::Exited { ended: Ended::Signal(signal), left: count(left)? },
            (6, _, left) => Self::Swept { left: count(left)? },
            _ => return None,
        })
    }
}

/// Sends one message. The other side may be gone: then its end is what is noticed next, on receiving.
pub(super) fn send(socket: impl AsFd, message: impl Message) {
    let packet = message.encode();
    let _ = rustix::io::retry_on_intr(|| rustix::net::send(&socket, &packet, SendFlags::NOSIGNAL));
}

/// Receives one message; `None` if the other side is gone.
pub(super) fn recv<M: Message>(socket: impl AsFd) -> io::Result<Option<M>> {
    let mut packet = [0; PACKET];
    match rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut packet, RecvFlags::empty())) {
        Ok((PACKET, _)) => M::decode(&packet).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Ok((0, _)) | Err(Errno::CONNRESET) => Ok(None),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn messages_arrive_as_sent_and_the_end_is_seen() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        for order in [
            Order::Signal { signal: 15, group: true },
            Order::Continue { foreground: true },
            Order::End { all: true, grace_ms: 2000 },
            Order::Release,
        ] {
            send(&a, order);
            assert_eq!(recv(&b).unwrap(), Some(order));
        }
        for report in [
            Report::Started(ProcId { pid: 7, start: u64::MAX }),
            Report::Failed { cwd: true, errno: 2 },
            Report::Stopped(20),
            Report::Exited { ended: Ended::Code(3), left: 1 },
            Report::Exited { ended: Ended::Signal(9), left: 0 },
            Report::Swept { left: 2 },
        ] {
            send(&b, report);
            assert_eq!(recv(&a).unwrap(), Some(report));
        }
        drop(a);
        assert_eq!(recv::<Order>(&b).unwrap(), None);
    }
}
