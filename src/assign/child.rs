//! One child process with an end: captured output, a time limit, and a process group that is gone when we are done.
//!
//! Knows nothing of what runs; git, prerequisites, gates and worktree set-up lines all go through it.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;

#[cfg(test)]
use crate::extract::event::ProcId;
#[cfg(test)]
use crate::linux;

/// Patience between TERM and KILL: git removes its lock files on TERM, and that takes milliseconds.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// Reads of 16 KiB in one go, so that a child that never stops writing cannot hold the thread.
const READS_AT_ONCE: usize = 64;

/// Which end of an output is kept when it is longer than its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The first bytes: data for a parser.
    Head(usize),
    /// The last bytes: what people need of a log.
    Tail(usize),
}

/// A command and its bounds.
pub(crate) struct Job {
    /// What runs; its group, stdin and outputs are set here.
    pub(crate) command: Command,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// What is kept of each output.
    pub(crate) keep: Keep,
    /// stderr goes where stdout goes, in the order written.
    pub(crate) merge: bool,
    /// Whatever it leaves in its process group is killed when it ends.
    pub(crate) sweep: bool,
    /// What it reads; none for nothing.
    pub(crate) input: Option<std::fs::File>,
}

/// How a child ended, and what it wrote.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
    /// Something was dropped of `out` or `err`.
    pub(crate) cut: bool,
    pub(crate) took: Duration,
    /// The limit was reached and the group killed.
    pub(crate) timed_out: bool,
}

impl Ended {
    pub(crate) fn ok(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// Both outputs as text for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.out).into_owned();
        text.push_str(&String::from_utf8_lossy(&self.err));
        text
    }

    /// How it ended, in words.
    pub(crate) fn how(&self) -> String {
        match (self.timed_out, self.code, self.signal) {
            (true, ..) => format!("did not end within {}", human(self.took)),
            (_, Some(code), _) => format!("exited with {code}"),
            (_, _, Some(signal)) => format!("was ended by signal {signal}"),
            _ => "ended in an unknown way".to_owned(),
        }
    }
}

pub(crate) fn human(d: Duration) -> String {
    if d.as_secs() >= 1 { format!("{} s", d.as_secs()) } else { format!("{} ms", d.as_millis()) }
}

/// A child that runs. Dropping it kills its group.
pub(crate) struct Running {
    group: Group,
    out: Option<Receiver>,
    err: Option<Receiver>,
    limit: Duration,
    keep: Keep,
    sweep: bool,
    started: Instant,
}

impl Job {
    /// Starts it, as leader of its own process group.
    pub(crate) fn start(mut self) -> std::io::Result<Running> {
        let (out_read, out_write) = std::io::pipe()?;
        let err_read = if self.merge {
            self.command.stderr(out_write.try_clone()?);
            None
        } else {
            let (read, write) = std::io::pipe()?;
            self.command.stderr(write);
            Some(read)
        };
        let input = self.input.take().map_or_else(Stdio::null, Stdio::from);
        self.command.stdout(out_write).stdin(input).process_group(0);
        let child = self.command.spawn()?;
        // Our copies of the write ends live in the command; without this the pipes never end.
        drop(self.command);
        let pid = Pid::from_child(&child);
        let mut group = Group { pid, exit: None, child: Some(child) };
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: an `OwnedFd` stays open, and the same, for as long as the `AsyncFd` that owns it.
        let exit = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        group.exit = Some(exit.map_err(std::io::Error::from)?);
        Ok(Running {
            group,
            out: Some(Receiver::from_owned_fd(out_read.into())?),
            err: err_read.map(|read| Receiver::from_owned_fd(read.into())).transpose()?,
            limit: self.limit,
            keep: self.keep,
            sweep: self.sweep,
            started: Instant::now(),
        })
    }

    /// Starts it and waits for its end.
    pub(crate) async fn run(self) -> std::io::Result<Ended> {
        self.start()?.wait().await
    }
}

impl Running {
    /// Who it is, also the id of its process group.
    #[cfg(test)]
    fn proc(&self) -> Option<ProcId> {
        linux::proc_id(self.group.pid.as_raw_nonzero().get()).ok()
    }

    /// Waits for its end or its limit; past the limit the group gets TERM, then KILL.
    pub(crate) async fn wait(mut self) -> std::io::Result<Ended> {
        let (mut out, mut err) = (Kept::new(self.keep), Kept::new(self.keep));
        let mut deadline = tokio::time::Instant::from_std(self.started) + self.limit;
        let (mut timed_out, mut asked) = (false, false);
        let exit = self.group.exit.take().expect("set at start, taken once");
        loop {
            tokio::select! {
                gone = exit.readable() => { let _ready = gone?; break; }
                () = pump(&mut self.out, &mut out) => {}
                () = pump(&mut self.err, &mut err) => {}
                () = tokio::time::sleep_until(deadline) => {
                    timed_out = true;
                    self.group.signal(if asked { Signal::KILL } else { Signal::TERM });
                    asked = true;
                    deadline = tokio::time::Instant::now() + TERM_GRACE;
                }
            }
        }
        // The leader is a zombie until reaped below, so the group id cannot be a stranger's yet.
        if self.sweep || timed_out {
            self.group.signal(Signal::KILL);
        }
        rest(self.out.as_ref(), &mut out);
        rest(self.err.as_ref(), &mut err);
        let status = self.group.reap()?;
        Ok(Ended {
            code: status.code(),
            signal: status.signal(),
            cut: out.cut || err.cut,
            out: out.bytes,
            err: err.bytes,
            took: self.started.elapsed(),
            timed_out,
        })
    }
}

/// The child and its group until it is reaped.
struct Group {
    pid: Pid,
    exit: Option<AsyncFd<std::os::fd::OwnedFd>>,
    child: Option<Child>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        if self.child.is_some() {
            // Already gone is what we want; there is no other failure for our own child.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    fn reap(&mut self) -> std::io::Result<std::process::ExitStatus> {
        let mut child = self.child.take().expect("reaped once");
        child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            // Killed, so this ends at once but for a child stuck in the kernel, which must not hold us.
            std::thread::spawn(move || child.wait());
        }
    }
}

/// Waits until there is something to read, and takes what is there.
async fn pump(from: &mut Option<Receiver>, into: &mut Kept) {
    let Some(pipe) = from else { return std::future::pending().await };
    if pipe.readable().await.is_err() {
        *from = None;
        return;
    }
    drain(from, into);
}

/// Takes what is left in the pipe of a process that has ended.
///
/// Asks the kernel, not the runtime: that may not have heard yet that there is something to read, and then says there is
/// nothing. A quick `git rev-parse` on a busy machine gave an empty answer so.
fn rest(from: Option<&Receiver>, into: &mut Kept) {
    let Some(pipe) = from else { return };
    let mut buf = [0u8; 16 * 1024];
    loop {
        match rustix::io::read(pipe, &mut buf) {
            Ok(0) => return,
            Ok(n) => into.push(&buf[..n]),
            Err(rustix::io::Errno::INTR) => {}
            // Empty, and held open by somebody that outlives it.
            Err(_) => return,
        }
    }
}

fn drain(from: &mut Option<Receiver>, into: &mut Kept) {
    let mut buf = [0u8; 16 * 1024];
    for _ in 0..READS_AT_ONCE {
        let Some(pipe) = from else { return };
        match pipe.try_read(&mut buf) {
            Ok(0) => *from = None,
            Ok(n) => into.push(&buf[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => *from = None,
        }
    }
}

/// Bytes up to a bound.
struct Kept {
    bytes: Vec<u8>,
    keep: Keep,
    cut: bool,
}

impl Kept {
    fn new(keep: Keep) -> Self {
        Self { bytes: Vec::new(), keep, cut: false }
    }

    fn push(&mut self, new: &[u8]) {
        match self.keep {
            Keep::Head(max) => {
                let room = max - self.bytes.len();
                self.cut |= new.len() > room;
                self.bytes.extend_from_slice(&new[..new.len().min(room)]);
            }
            Keep::Tail(max) => {
                self.bytes.extend_from_slice(new);
                let over = self.bytes.len().saturating_sub(max);
                self.cut |= over > 0;
                self.bytes.drain(..over);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(line: &str) -> Job {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(line);
        Job {
            command,
            limit: Duration::from_secs(60),
            keep: Keep::Tail(1 << 20),
            merge: true,
            sweep: true,
            input: None,
        }
    }

    #[tokio::test]
    async fn both_outputs_come_in_the_order_written_with_the_code() {
        let end = sh("echo a; echo b >&2; echo c; exit 3").run().await.unwrap();
        assert_eq!((end.out.as_slice(), end.code), (&b"a\nb\nc\n"[..], Some(3)));
    }

    #[tokio::test]
    async fn a_long_output_keeps_its_end() {
        let mut job = sh("i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done");
        job.keep = Keep::Tail(100);
        let end = job.run().await.unwrap();
        assert!(end.cut && end.out.ends_with(b"line 4999\n") && end.out.len() == 100);
    }

    #[tokio::test]
    async fn past_the_limit_the_whole_group_is_gone() {
        let mut job = sh("sleep 1000 & echo $!; wait");
        job.limit = Duration::from_millis(300);
        let end = job.run().await.unwrap();
        assert!(end.timed_out);
        let pid: i32 = String::from_utf8(end.out).unwrap().trim().parse().unwrap();
        assert!(gone(pid).await);
    }

    #[tokio::test]
    async fn what_a_swept_child_leaves_behind_is_gone() {
        let end = sh("sleep 1000 & echo $!").run().await.unwrap();
        assert!(end.ok());
        let pid: i32 = String::from_utf8(end.out).unwrap().trim().parse().unwrap();
        assert!(gone(pid).await);
    }

    #[tokio::test]
    async fn dropping_it_kills_it() {
        let running = sh("sleep 1000").start().unwrap();
        let proc = running.proc().unwrap();
        drop(running);
        assert!(gone(proc.pid).await);
    }

    /// Killed processes are reaped by init, or stay zombies where the test's container has none.
    async fn gone(pid: i32) -> bool {
        for _ in 0..2000 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }
}
