//! What the I/O thread saw, handed to the Observer: a queue that never makes the I/O thread wait.
//!
//! The bound is in bytes. When it is reached, chunks are dropped for the Observer alone and one [`Feed::Gap`] says so;
//! the terminal's copy was already written. The Observer is woken once for [`RING_BYTES`] or [`RING_AFTER`], whichever
//! comes first: a wake-up for every read of a PTY is 17,000 a second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never, select};

/// Most bytes that wait for the Observer; beyond it they are dropped for the Observer and a gap is reported.
pub const FEED_BYTES: usize = 4 * 1024 * 1024;

/// What one queued item costs besides its bytes, so that a million one-byte chunks are bounded too.
const ITEM_BYTES: usize = 64;

/// The Observer is woken at the latest when this much waits for it,
const RING_BYTES: usize = 32 * 1024;

/// or when something has waited this long. Below what anybody notices, above what a burst of reads takes; it also keeps
/// the Observer off the processor while the terminal is being woken for the same bytes.
const RING_AFTER: Duration = Duration::from_millis(1);

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The agent's terminal.
    Pty,
    /// A standard output that is no terminal.
    Stdout,
    /// A standard error that is no terminal.
    Stderr,
}

/// How the agent's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

impl Ended {
    /// The status that a shell would show: the code, or 128 and the signal.
    pub fn status(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// What led to the end, as far as the wrapper had a hand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nothing of ours: the agent ended by itself, or somebody killed it.
    Itself,
    /// The outer terminal is gone; in a pane that is its tmux server or the pane (F33).
    Hangup,
    /// [`super::IoHandle::stop`].
    Stopped,
}

/// What the I/O thread saw, in order. `at` counts from the start of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// Output, already written to the terminal. `off` counts the bytes of all streams of the run before it.
    Output {
        /// From where.
        stream: Stream,
        /// Shared with the I/O thread, not copied.
        bytes: Bytes,
        /// Bytes of output before these.
        off: u64,
        /// When they were read.
        at: Duration,
    },
    /// What the person typed, or the terminal answered, on its way to the agent.
    Typed {
        /// Exactly as read.
        bytes: Bytes,
        /// When it was read.
        at: Duration,
    },
    /// The agent's terminal has a new size.
    Resized {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
        /// When.
        at: Duration,
    },
    /// The agent was stopped (Ctrl-Z).
    Stopped {
        /// When.
        at: Duration,
    },
    /// The agent was continued.
    Continued {
        /// When.
        at: Duration,
    },
    /// The OSC 7501 query was answered for the first time: the one input that is neither the person's nor a prompt.
    StatusReplied {
        /// When.
        at: Duration,
    },
    /// Output that the Observer did not get because it was too far behind; the terminal did.
    Gap {
        /// Offset of the first missing byte,
        from: u64,
        /// and of the first one that is there again.
        to: u64,
        /// When the queue was full.
        at: Duration,
    },
    /// The agent is gone and every byte is out; the last item.
    Exited {
        /// How it ended.
        status: Ended,
        /// What led to it.
        cause: Cause,
        /// Processes that it left behind and that were ended with it.
        leftovers: u32,
        /// When.
        at: Duration,
    },
}

impl Feed {
    fn cost(&self) -> usize {
        ITEM_BYTES
            + match self {
                Self::Output { bytes, .. } | Self::Typed { bytes, .. } => bytes.len(),
                _ => 0,
            }
    }
}

struct Shared {
    items: Mutex<VecDeque<Feed>>,
    /// Cost of what the receiver has not taken yet, its local batch included.
    waiting: AtomicUsize,
}

impl Shared {
    fn items(&self) -> MutexGuard<'_, VecDeque<Feed>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the two ends of a feed.
pub fn feed() -> (FeedSender, FeedReceiver) {
    let shared = Arc::new(Shared { items: Mutex::new(VecDeque::new()), waiting: AtomicUsize::new(0) });
    let (bell, rung) = bounded(1);
    let sender = FeedSender { shared: shared.clone(), bell, unrung: 0, since: None, gap: None };
    (sender, FeedReceiver { shared, rung, batch: VecDeque::new() })
}

/// The I/O thread's end.
pub struct FeedSender {
    shared: Arc<Shared>,
    bell: Sender<()>,
    /// Cost of what was pushed since the receiver was last woken,
    unrung: usize,
    /// and since when.
    since: Option<Instant>,
    gap: Option<(u64, u64)>,
}

impl FeedSender {
    /// Queues `item`; never waits. Output that does not fit becomes a gap.
    pub fn push(&mut self, item: Feed) {
        let cost = item.cost();
        if let Feed::Output { bytes, off, .. } = &item
            && self.shared.waiting.load(Ordering::Relaxed) + cost > FEED_BYTES
        {
            let to = off + bytes.len() as u64;
            self.gap = Some((self.gap.map_or(*off, |gap| gap.0), to));
            return self.ring();
        }
        let mut items = self.shared.items();
        if let Some((from, to)) = self.gap.take() {
            let at = match &item {
                Feed::Output { at, .. }
                | Feed::Typed { at, .. }
                | Feed::Resized { at, .. }
                | Feed::Stopped { at }
                | Feed::Continued { at }
                | Feed::StatusReplied { at }
                | Feed::Gap { at, .. }
                | Feed::Exited { at, .. } => *at,
            };
            items.push_back(Feed::Gap { from, to, at });
        }
        items.push_back(item);
        drop(items);
        self.shared.waiting.fetch_add(cost, Ordering::Relaxed);
        self.unrung += cost;
        if self.unrung >= RING_BYTES {
            self.ring();
        } else {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// When [`FeedSender::ring`] is due, if anything waits unannounced.
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + RING_AFTER)
    }

    /// Wakes the receiver.
    pub fn ring(&mut self) {
        self.unrung = 0;
        self.since = None;
        // Full means that it is already on its way; disconnected, that nobody observes (the terminal goes on).
        let _ = self.bell.try_send(());
    }
}

impl Drop for FeedSender {
    fn drop(&mut self) {
        self.ring();
    }
}

/// What [`FeedReceiver::recv_deadline`] returned for.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// The I/O thread saw something.
    Feed(Feed),
    /// Somebody asks something.
    Control(T),
    /// The deadline has passed.
    Timeout,
    /// The run is over and everything was received.
    Ended,
}

/// The Observer's end.
pub struct FeedReceiver {
    shared: Arc<Shared>,
    rung: Receiver<()>,
    batch: VecDeque<Feed>,
}

impl FeedReceiver {
    /// Returns what is there already.
    pub fn try_recv(&mut self) -> Option<Feed> {
        if self.batch.is_empty() {
            std::mem::swap(&mut self.batch, &mut *self.shared.items());
        }
        let item = self.batch.pop_front()?;
        // A gap was not counted when it was pushed: saturate rather than keep a second kind of books.
        let cost = if matches!(item, Feed::Gap { .. }) { 0 } else { item.cost() };
        self.shared.waiting.fetch_sub(cost, Ordering::Relaxed);
        Some(item)
    }

    /// Waits for the next item, a message on `control`, or `deadline`. Requests come first: a flood of output must not
    /// make the run deaf. A `control` without senders is as good as none.
    pub fn recv_deadline<T>(&mut self, control: &Receiver<T>, deadline: Option<Instant>) -> Next<T> {
        let silent = never();
        let mut control = control;
        loop {
            match control.try_recv() {
                Ok(message) => return Next::Control(message),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => control = &silent,
            }
            if let Some(item) = self.try_recv() {
                return Next::Feed(item);
            }
            let timeout = match deadline {
                None => never(),
                Some(at) if at <= Instant::now() => return Next::Timeout,
                Some(at) => crossbeam_channel::at(at),
            };
            select! {
                recv(control) -> message => match message {
                    Ok(message) => return Next::Control(message),
                    Err(_) => control = &silent,
                },
                recv(self.rung) -> bell => if bell.is_err() {
                    return self.try_recv().map_or(Next::Ended, Next::Feed);
                },
                recv(timeout) -> _ => return Next::Timeout,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(off: u64, len: usize) -> Feed {
        Feed::Output { stream: Stream::Pty, bytes: Bytes::from(vec![b'x'; len]), off, at: Duration::ZERO }
    }

    #[test]
    fn a_full_feed_drops_output_and_says_which_bytes() {
        let (mut tx, mut rx) = feed();
        let chunk = 1024 * 1024;
        for i in 0..8 {
            tx.push(output(i * chunk as u64, chunk));
        }
        tx.push(Feed::Stopped { at: Duration::ZERO });
        let got: Vec<_> = std::iter::from_fn(|| rx.try_recv()).collect();
        assert_eq!(got.len(), 5, "{got:?}");
        assert_eq!(got[3], Feed::Gap { from: 3 * chunk as u64, to: 8 * chunk as u64, at: Duration::ZERO });
        assert_eq!(got[4], Feed::Stopped { at: Duration::ZERO });
        tx.push(output(8 * chunk as u64, chunk));
        assert!(rx.try_recv().is_some(), "room again");
    }

    #[test]
    fn the_receiver_gets_everything_and_then_the_end() {
        let (mut tx, mut rx) = feed();
        let (_requests, control) = bounded::<()>(1);
        let pushing = std::thread::spawn(move || {
            for i in 0..10_000 {
                tx.push(output(i, 1));
            }
        });
        let mut next = 0;
        loop {
            match rx.recv_deadline(&control, None) {
                Next::Feed(Feed::Output { off, .. }) => {
                    assert_eq!(off, next);
                    next += 1;
                }
                Next::Ended => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(next, 10_000);
        pushing.join().unwrap();
    }

    #[test]
    fn requests_come_before_output_and_deadlines_pass() {
        let (mut tx, mut rx) = feed();
        let (requests, control) = bounded(1);
        tx.push(output(0, 1));
        requests.send(7).unwrap();
        assert_eq!(rx.recv_deadline(&control, None), Next::Control(7));
        assert!(matches!(rx.recv_deadline(&control, None), Next::Feed(_)));
        assert_eq!(rx.recv_deadline(&control, Some(Instant::now())), Next::Timeout);
        drop(requests);
        drop(tx);
        assert_eq!(rx.recv_deadline(&control, None), Next::Ended);
    }
}
