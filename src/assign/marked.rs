//! Marks: the processes of a gate carry a variable in their environment, and are found by it wherever they went.
//!
//! A group is left by `setsid`, a parent by its death, and a process that was started a moment before its starter was
//! killed is noted nowhere. The environment stays (F8).

use std::time::{Duration, Instant};

use crate::extract::event::ProcId;
use crate::linux;

/// Name of the variable.
pub const MARK: &str = "ORCHWRAP_GATE";

/// How long killed processes may take to be gone; more is one that hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// Kills every process with this mark, what descends from one, and what is in the group of one; returns when they are
/// gone. May be said any number of times.
pub async fn end(mark: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let mark_of = mark.to_owned();
        let left = tokio::task::spawn_blocking(move || family(&mark_of)).await.unwrap_or_default();
        if left.is_empty() {
            return;
        }
        if Instant::now() > until {
            tracing::error!(?left, mark, "processes of a gate do not end");
            return;
        }
        for id in left {
            // Gone is what we want; there is no other failure for processes of our own user.
            let _ = linux::signal(id, KILL);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn family(mark: &str) -> Vec<ProcId> {
    let all = linux::processes();
    let mut found: Vec<_> = all.iter().filter(|p| linux::has_variable(p.id.pid, MARK, mark)).copied().collect();
    loop {
        let more: Vec<_> = all
            .iter()
            .filter(|p| !found.iter().any(|f| f.id == p.id))
            .filter(|p| found.iter().any(|f| f.id.pid == p.parent || f.id.pid == p.group))
            .copied()
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    found.into_iter().filter(|p| p.state != 'Z').map(|p| p.id).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn pid_from(child: &mut std::process::Child) -> i32 {
        let mut line = String::new();
        let out = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        line.trim().parse().unwrap()
    }

    #[tokio::test]
    async fn f08_a_gate_that_nobody_noted_is_found_and_ended_wherever_it_went() {
        let mark = format!("test-{}", std::process::id());
        // One that left its group and its parent, and one of that with an environment of its own.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "setsid /bin/sh -c 'env -i /bin/sleep 1000 & echo $$; wait' & wait"])
            .env(MARK, &mark)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let away = pid_from(&mut child);
        let started = family(&mark);
        assert!(started.iter().any(|p| p.pid == away), "{started:?}");
        end("another").await;
        assert!(started.iter().all(|p| linux::is_alive(*p)));
        end(&mark).await;
        assert!(started.iter().all(|p| !linux::is_alive(*p)));
        child.wait().unwrap();
    }
}
