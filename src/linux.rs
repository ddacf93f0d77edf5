//! OS calls that std lacks: who a process is, its tree, signals that cannot hit a stranger. Another system is a new file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::extract::event::ProcId;

/// Returns the id of this boot: with it, a [`ProcId`] names one process for ever (F19).
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// What `/proc/<pid>/stat` tells about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The process, proof against reuse of its pid.
    pub id: ProcId,
    /// Its state letter: `R`, `S`, `D`, `T`, `Z`, ...
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// The process group in front of its terminal; -1 without a terminal.
    pub foreground: i32,
}

impl Stat {
    /// Whether its own group has its terminal, as far as anybody can have it.
    pub fn is_in_front(&self) -> bool {
        self.foreground <= 0 || self.foreground == self.group
    }
}

/// Returns what the kernel knows about `pid`, now.
pub fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(pid, &text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("unexpected /proc/{pid}/stat")))
}

fn parse_stat(pid: i32, text: &str) -> Option<Stat> {
    // The name of the program may hold spaces and parentheses: the fields start after the last one.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let foreground = fields.nth(1)?.parse().ok()?;
    // Field 22 of the line is the 20th of these; six are taken.
    let start = fields.nth(13)?.parse().ok()?;
    Some(Stat { id: ProcId { pid, start }, state, parent, group, session, foreground })
}

/// Returns the identity of `pid`.
pub fn proc_id(pid: i32) -> io::Result<ProcId> {
    stat(pid).map(|stat| stat.id)
}

/// Returns the identity of this process.
pub fn this_process() -> ProcId {
    let pid = std::process::id().cast_signed();
    proc_id(pid).unwrap_or(ProcId { pid, start: 0 })
}

/// Whether the process still runs; one that waits to be reaped does not.
pub fn is_alive(id: ProcId) -> bool {
    stat(id.pid).is_ok_and(|now| now.id == id && !matches!(now.state, 'Z' | 'X'))
}

/// Sends `signal` to exactly this process, never to one that got its pid later. `false`: it is gone.
pub fn signal(id: ProcId, signal: i32) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(id.pid) else { return Ok(false) };
    let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    // The handle holds whatever has the pid now; only after this look is it known to be the one meant.
    if !proc_id(id.pid).is_ok_and(|now| now == id) {
        return Ok(false);
    }
    let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
    match rustix::process::pidfd_send_signal(handle, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Returns every process there is, as far as we may look.
pub fn processes() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    // A process may vanish between the listing and the look: then it is none any more.
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?).ok()).collect()
}

/// Whether the process was started with `name=value` in its environment; false where we may not look.
pub fn has_variable(pid: i32, name: &str, value: &str) -> bool {
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = [name.as_bytes(), b"=", value.as_bytes()].concat();
    environ.split(|b| *b == 0).any(|entry| entry == wanted)
}

/// Returns `pid` and every process that it descends from, nearest first. An error where one of them ended meanwhile.
pub fn ancestors(pid: i32) -> io::Result<Vec<ProcId>> {
    let mut found = Vec::new();
    let mut next = pid;
    while next > 0 {
        let stat = stat(next)?;
        found.push(stat.id);
        next = stat.parent;
    }
    Ok(found)
}

/// Opens a regular file for reading. In a folder that others write to there may be a pipe of that name instead, and
/// whoever opens or reads one waits for ever.
pub fn open_regular(path: &Path) -> io::Result<File> {
    use rustix::fs::OFlags;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Reads the text of a regular file of at most `max_bytes`.
pub fn read_regular(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = open_regular(path)?.take(max_bytes + 1).read_to_string(&mut text)?;
    if read as u64 > max_bytes {
        return Err(io::Error::other(format!("it is longer than {max_bytes} bytes")));
    }
    Ok(text)
}

/// Returns every process that descends from `root`, without `root`; parents come before their children.
///
/// A process that was orphaned is found only if `root` is the subreaper that inherited it.
pub fn descendants(root: i32) -> Vec<Stat> {
    let mut by_parent: HashMap<i32, Vec<Stat>> = HashMap::new();
    for stat in processes() {
        by_parent.entry(stat.parent).or_default().push(stat);
    }
    let mut found = by_parent.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(stat) = found.get(next) {
        if let Some(children) = by_parent.remove(&stat.id.pid) {
            found.extend(children);
        }
        next += 1;
    }
    found
}

/// Makes `command`'s child keep these descriptors, under the same numbers. Everything else that we open is
/// close-on-exec.
pub fn keep_on_exec<'fd>(command: &mut Command, fds: impl IntoIterator<Item = BorrowedFd<'fd>>) {
    let fds: Vec<RawFd> = fds.into_iter().map(|fd| fd.as_raw_fd()).collect();
    let clear = move || {
        for &fd in &fds {
            // SAFETY: the descriptors are open in the parent until `spawn` returns, so they are in its copy.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure makes one async-signal-safe system call a descriptor; it neither allocates nor locks.
    unsafe { command.pre_exec(clear) };
}

/// Takes over a descriptor that our parent left open for us under this number, and makes it close-on-exec.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asks whether the number is open.
    let open = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(open, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: the caller is the one process it was left for and takes it once, at its start.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this process was started with `signal` ignored, as under nohup.
pub fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<nix::libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only writes the present one into `action`, which is large enough.
    let asked = unsafe { nix::libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid value, and the kernel has filled it in if it returned 0.
    asked == 0 && unsafe { action.assume_init() }.sa_sigaction == nix::libc::SIG_IGN
}

/// Opens the same file again, for a description of its own: `O_NONBLOCK` on ours must not reach the shell that shares
/// the original.
pub fn reopen(fd: impl AsFd, flags: rustix::fs::OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = flags | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

/// Gives the pages of program code back that were needed once, at the start; what is needed again comes from the page
/// cache. Command line, packs and patterns touch 6 MiB of it, most of what an idle process of ours would count for.
pub fn forget_startup_code() {
    for line in fs::read_to_string("/proc/self/maps").unwrap_or_default().lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp"), Some(path)) = (fields.next(), fields.next(), fields.nth(3)) else { continue };
        let bounds = range
            .split_once('-')
            .and_then(|(from, to)| Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?)));
        if let (Some((from, to)), true) = (bounds, path.starts_with('/')) {
            // SAFETY: code that is mapped from a file and was never writable is the same as the file, so the kernel
            // reads back exactly these bytes whenever one of them is executed again.
            unsafe {
                nix::libc::madvise(std::ptr::with_exposed_provenance_mut(from), to - from, nix::libc::MADV_DONTNEED)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_and_spaces_is_read_past() {
        let line = "42 (a) b (c)) S 7 8 9 34816 43 4194304 0 0 0 0 1 2 3 4 20 0 1 0 123456 99 98";
        let stat = parse_stat(42, line).unwrap();
        let id = ProcId { pid: 42, start: 123_456 };
        assert_eq!(stat, Stat { id, state: 'S', parent: 7, group: 8, session: 9, foreground: 43 });
        assert!(!stat.is_in_front() && Stat { foreground: 8, ..stat }.is_in_front());
        assert!(Stat { foreground: -1, ..stat }.is_in_front());
        assert_eq!(parse_stat(42, "42 (x"), None);
    }

    #[test]
    fn f19_a_signal_for_an_earlier_owner_of_the_pid_reaches_nobody() {
        let me = this_process();
        assert!(is_alive(me));
        assert!(!signal(ProcId { start: me.start + 1, ..me }, nix::libc::SIGKILL).unwrap());
    }

    #[test]
    fn whoever_starts_a_process_is_its_ancestor() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let line = ancestors(child.id().cast_signed()).unwrap();
        assert_eq!(line[1], this_process());
        assert_eq!(line[0].pid, child.id().cast_signed());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ancestors(line[0].pid).is_err() || proc_id(line[0].pid).unwrap() != line[0]);
    }

    #[test]
    fn a_pipe_and_a_file_without_end_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read_regular(&pipe, 100).unwrap_err().to_string().contains("no regular file"));
        let long = dir.path().join("long");
        fs::write(&long, "12345").unwrap();
        assert!(read_regular(&long, 4).unwrap_err().to_string().contains("longer than 4"));
        assert_eq!(read_regular(&long, 5).unwrap(), "12345");
        assert_eq!(read_regular(&dir.path().join("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn children_are_found_and_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = proc_id(child.id().cast_signed()).unwrap();
        assert!(descendants(this_process().pid).iter().any(|stat| stat.id == id));
        assert!(signal(id, nix::libc::SIGKILL).unwrap());
        child.wait().unwrap();
        assert!(!is_alive(id));
        assert!(!signal(id, nix::libc::SIGKILL).unwrap());
    }
}
