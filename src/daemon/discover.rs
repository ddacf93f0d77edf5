//! Notices runs: all that are there when the daemon starts (F7), and those that people start by hand later.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::runs::Runs;
use crate::ids::RunId;
use crate::paths::{RunDir, StateDir};
use crate::pty::rundir;
use crate::queue::store::StoreError;

/// How long a new folder may take to become a live run; afterwards it is one that never started.
const BIRTH: Duration = Duration::from_secs(30);

/// How often new folders are looked at while they are being born.
const LOOK: Duration = Duration::from_millis(100);

/// Takes up every run that the store has no end of, dead ones too: their journals are read to the end.
pub(super) async fn take_up(runs: &Runs) -> Result<(), StoreError> {
    let mut found = HashMap::new();
    for id in ids(runs) {
        match runs.store().run(id.clone()).await? {
            Some(row) if row.ended.is_some() => {}
            _ => match rundir::read_spec(&runs.state_dir().run(&id)) {
                Ok(spec) => drop(found.insert(id, spec)),
                Err(e) => tracing::warn!(run = %id, error = %e, "a run folder that cannot be read"),
            },
        }
    }
    // Folders may be gone (`orchwrap forget`, a wiped state folder): the row still needs its end.
    for row in runs.store().live_runs().await? {
        found.entry(row.spec.run.clone()).or_insert(row.spec);
    }
    for spec in found.into_values() {
        let dir = runs.state_dir().run(&spec.run);
        runs.follow(spec, dir);
    }
    Ok(())
}

/// The highest number of a task that any journal names; 0 where none does.
pub(super) fn last_task(state: &StateDir) -> i64 {
    let entries = std::fs::read_dir(state.runs()).into_iter().flatten().flatten();
    let journals = entries.filter_map(|e| File::open(RunDir::at(e.path()).events()).ok());
    journals.map(|journal| last_task_in(BufReader::new(journal))).max().unwrap_or(0)
}

/// In one journal. What stands in a text is escaped there, so it never looks like a field.
fn last_task_in(mut journal: impl BufRead) -> i64 {
    const FIELD: &[u8] = b"\"task\":";
    let (mut last, mut line) = (0, Vec::new());
    while journal.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        for at in memchr::memmem::find_iter(&line, FIELD) {
            let digits: Vec<u8> =
                line[at + FIELD.len()..].iter().copied().take_while(u8::is_ascii_digit).take(18).collect();
            last = last.max(String::from_utf8_lossy(&digits).parse().unwrap_or(0));
        }
        line.clear();
    }
    last
}

/// The run folders that are there.
fn ids(runs: &Runs) -> Vec<RunId> {
    let Ok(entries) = std::fs::read_dir(runs.state_dir().runs()) else { return Vec::new() };
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Watches for new run folders; made before [`take_up`], so that none falls in between.
pub(super) struct Watch {
    fd: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Watches the folder of all runs, which is made if it is missing.
    pub(super) fn new(runs: &Runs) -> io::Result<Self> {
        let folder = runs.state_dir().runs();
        rundir::private_dir(&folder).map_err(io::Error::other)?;
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, &folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
        // SAFETY: the descriptor is owned by what it is registered with, and never replaced.
        Ok(Self { fd: unsafe { AsyncFd::register(fd) }? })
    }

    /// Takes new runs into the registry as they come alive, for ever.
    pub(super) async fn run(self, runs: Runs) {
        let mut born: HashMap<RunId, Instant> = HashMap::new();
        loop {
            let look = async {
                if born.is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(LOOK).await;
            };
            tokio::select! {
                new = self.next() => match new {
                    Ok(new) => born.extend(new.into_iter().map(|id| (id, Instant::now()))),
                    // The queue of notices ran over: look at everything.
                    Err(e) => {
                        tracing::warn!(error = %e, "watch the run folders");
                        born.extend(ids(&runs).into_iter().map(|id| (id, Instant::now())));
                        tokio::time::sleep(LOOK).await;
                    }
                },
                () = look => {}
            }
            born.retain(|id, since| !settled(&runs, id) && since.elapsed() < BIRTH);
        }
    }

    /// Names of new folders.
    async fn next(&self) -> io::Result<Vec<RunId>> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
            let mut new = Vec::new();
            loop {
                match reader.next() {
                    Ok(event) if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                        return Err(io::Error::other("too many notices at once"));
                    }
                    Ok(event) => new.extend(event.file_name().and_then(|n| n.to_str().ok()?.parse().ok())),
                    Err(rustix::io::Errno::WOULDBLOCK) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(e) => return Err(e.into()),
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
            if !new.is_empty() {
                return Ok(new);
            }
        }
    }
}

/// Whether a new folder needs no second look: it is in the registry now, or it has lived and died already.
fn settled(runs: &Runs, id: &RunId) -> bool {
    if runs.get(id).is_some() {
        return true;
    }
    let dir = runs.state_dir().run(id);
    let Ok(spec) = rundir::read_spec(&dir) else { return false };
    let alive = rundir::is_alive(&dir);
    let lived = std::fs::metadata(dir.events()).is_ok_and(|m| m.len() > 0);
    if alive || lived {
        runs.follow(spec, dir);
    }
    alive || lived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tasks_that_a_journal_names_are_found_and_those_in_its_texts_are_not() {
        let journal = b"{\"task\":7,\"attempt\":1}\n{\"data\":{\"text\":\"\\\"task\\\":99\"},\"task\":12}\n{\"task\":3";
        assert_eq!(last_task_in(&journal[..]), 12);
        assert_eq!(last_task_in(&b""[..]), 0);
    }
}
