//! What is true of a running agent, from the kernel and git, never from its screen.
//!
//! A prompt is sent only to a process that stands in the wanted folder, on the wanted branch, in the wanted environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::assign::env::{self, Env};
use crate::assign::git::{Git, GitError};
use crate::extract::event::{Body, ProcId};
use crate::linux;

/// Most processes of a launch chain: a launcher, perhaps a shell or two, the agent.
const MAX_CHAIN: usize = 8;

/// The context that an agent must be in.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// Its folder.
    pub cwd: &'a Path,
    /// The branch checked out there; none where no branch is wanted.
    pub branch: Option<&'a str>,
    /// Variables it must have, with these values; it may have more.
    pub env: &'a Env,
    /// Program names of the agent: its launch chain is followed through children so named.
    pub names: &'a [String],
}

/// A context that is not the wanted one. Values of variables are never told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {found}, wanted {wanted}")]
pub struct Mismatch {
    /// `process`, `cwd`, `env NAME`, `branch`.
    pub what: String,
    /// What was wanted.
    pub wanted: String,
    /// What was found.
    pub found: String,
}

impl Mismatch {
    fn new(what: impl Into<String>, wanted: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), wanted: wanted.into(), found: found.into() }
    }

    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        "context_mismatch"
    }

    /// The event that records it.
    pub fn event(&self) -> Body {
        Body::ContextMismatch { what: self.what.clone(), wanted: self.wanted.clone(), found: self.found.clone() }
    }
}

/// Verifies that the agent headed by `head` is in the wanted context: cwd and environment of its launch chain by
/// `/proc`, the branch by git.
pub async fn check(head: ProcId, expected: &Expected<'_>, git: &Git) -> Result<(), Mismatch> {
    for process in chain(head, expected.names) {
        check_process(process, head, expected)?;
    }
    check_branch(expected, git).await?;
    // Whoever died meanwhile may have lent its pid to a stranger.
    alive(head)
}

/// Verifies folder and branch only: for a shell agent, whose environment the person sees and owns.
pub async fn check_place(head: ProcId, expected: &Expected<'_>, git: &Git) -> Result<(), Mismatch> {
    alive(head)?;
    check_cwd(head, expected.cwd)?;
    check_branch(expected, git).await?;
    alive(head)
}

async fn check_branch(expected: &Expected<'_>, git: &Git) -> Result<(), Mismatch> {
    let Some(branch) = expected.branch else { return Ok(()) };
    let found = match git.head(expected.cwd).await {
        Ok(head) => head.branch().unwrap_or("a detached commit").to_owned(),
        Err(e @ (GitError::Start(_) | GitError::TimedOut { .. })) => format!("unknown ({e})"),
        Err(e) => format!("none ({e})"),
    };
    if found == branch { Ok(()) } else { Err(Mismatch::new("branch", branch, found)) }
}

fn alive(head: ProcId) -> Result<(), Mismatch> {
    if linux::is_alive(head) { Ok(()) } else { Err(Mismatch::new("process", format!("pid {}", head.pid), "gone")) }
}

fn check_process(process: ProcId, head: ProcId, expected: &Expected<'_>) -> Result<(), Mismatch> {
    alive(process)?;
    check_cwd(process, expected.cwd)?;
    let path = format!("/proc/{}/environ", process.pid);
    let bytes = std::fs::read(path)
        .map_err(|e| Mismatch::new("env", format!("that of pid {}", process.pid), format!("unreadable ({e})")))?;
    let found = env::parse(&bytes);
    alive(process)?;
    for (name, wanted) in expected.env.iter().filter(|(name, _)| !env::is_volatile(name)) {
        let value = found.get(name);
        if !same(name, wanted, value, process == head) {
            let what = format!("env {}", name.to_string_lossy());
            let found = if value.is_some() { "another value" } else { "missing" };
            return Err(Mismatch::new(what, "the task's value", format!("{found} in pid {}", process.pid)));
        }
    }
    Ok(())
}

/// A launcher may put folders of its own in front of PATH for the program that it starts.
fn same(name: &OsStr, wanted: &OsString, found: Option<&OsString>, is_head: bool) -> bool {
    match found {
        Some(found) if found == wanted => true,
        Some(found) if name == "PATH" && !is_head => {
            found.as_bytes().strip_suffix(wanted.as_bytes()).is_some_and(|front| front.ends_with(b":"))
        }
        _ => false,
    }
}

fn check_cwd(process: ProcId, wanted: &Path) -> Result<(), Mismatch> {
    let link = PathBuf::from(format!("/proc/{}/cwd", process.pid));
    let mismatch = |found: String| Mismatch::new("cwd", wanted.display().to_string(), found);
    let name = std::fs::read_link(&link).map_err(|e| mismatch(format!("unreadable ({e})")))?;
    // By device and inode: names may differ through links, and a deleted folder keeps its name.
    let there = std::fs::metadata(wanted).map_err(|e| mismatch(format!("{} (the wanted one: {e})", name.display())))?;
    let here = std::fs::metadata(&link).map_err(|e| mismatch(format!("unreadable ({e})")))?;
    if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
        Ok(())
    } else {
        Err(mismatch(name.display().to_string()))
    }
}

/// Returns the head of a launch and the children through which it leads to the agent itself.
///
/// Only children named like the agent belong to it: a tool server that the agent started has every right to be
/// elsewhere.
pub fn chain(head: ProcId, names: &[String]) -> Vec<ProcId> {
    let mut chain = vec![head];
    while chain.len() < MAX_CHAIN {
        let last = chain[chain.len() - 1];
        let next = children(last.pid).into_iter().find(|child| is_named(child.pid, names));
        let Some(next) = next else { break };
        chain.push(next);
    }
    chain
}

fn is_named(pid: i32, names: &[String]) -> bool {
    let Ok(command) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    // The program, or the script that an interpreter runs.
    command.split(|b| *b == 0).take(2).any(|word| {
        let name = Path::new(OsStr::from_bytes(word)).file_name().unwrap_or_default();
        names.iter().any(|n| name == OsStr::new(n))
    })
}

fn children(pid: i32) -> Vec<ProcId> {
    let mut found = Vec::new();
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for thread in threads.flatten() {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let ids = list.split_ascii_whitespace().filter_map(|id| id.parse().ok());
        found.extend(ids.filter_map(|child| {
            let stat = linux::stat(child).ok()?;
            (stat.parent == pid).then_some(stat.id)
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that is ended with the test.
    struct Agent(Child);

    impl Agent {
        fn start(command: &mut Command) -> Self {
            Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
        }

        fn id(&self) -> ProcId {
            linux::proc_id(i32::try_from(self.0.id()).unwrap()).unwrap()
        }
    }

    impl Drop for Agent {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(k, v)| (k.into(), v.into())).collect()
    }

    fn cat(dir: &Path) -> Agent {
        Agent::start(Command::new("/bin/cat").current_dir(dir).env_clear().env("A", "1").env("PATH", "/x"))
    }

    async fn verdict(agent: &Agent, cwd: &Path, branch: Option<&str>, wanted: &Env) -> Result<(), String> {
        let names = ["cat".to_owned()];
        let expected = Expected { cwd, branch, env: wanted, names: &names };
        check(agent.id(), &expected, &Git::new()).await.map_err(|m| m.what)
    }

    #[tokio::test]
    async fn an_agent_in_its_context_passes_and_any_difference_is_named() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let agent = cat(dir.path());
        let good = env(&[("A", "1"), ("PWD", "/volatile")]);
        assert_eq!(verdict(&agent, dir.path(), None, &good).await, Ok(()));
        assert_eq!(verdict(&agent, other.path(), None, &good).await, Err("cwd".into()));
        assert_eq!(verdict(&agent, dir.path(), None, &env(&[("A", "2")])).await, Err("env A".into()));
        assert_eq!(verdict(&agent, dir.path(), None, &env(&[("B", "")])).await, Err("env B".into()));
        assert_eq!(verdict(&agent, dir.path(), Some("main"), &good).await, Err("branch".into()));
    }

    #[tokio::test]
    async fn f56_a_folder_deleted_and_made_again_is_another_folder() {
        let dir = tempfile::tempdir().unwrap();
        let cwd = dir.path().join("w");
        std::fs::create_dir(&cwd).unwrap();
        let agent = cat(&cwd);
        std::fs::remove_dir(&cwd).unwrap();
        assert_eq!(verdict(&agent, &cwd, None, &Env::new()).await, Err("cwd".into()));
        std::fs::create_dir(&cwd).unwrap();
        assert_eq!(verdict(&agent, &cwd, None, &Env::new()).await, Err("cwd".into()));
    }

    #[tokio::test]
    async fn f19_a_process_of_the_same_number_is_a_stranger() {
        let dir = tempfile::tempdir().unwrap();
        let agent = cat(dir.path());
        let stranger = ProcId { start: agent.id().start + 1, ..agent.id() };
        let wanted = Env::new();
        let expected = Expected { cwd: dir.path(), branch: None, env: &wanted, names: &[] };
        assert_eq!(check(stranger, &expected, &Git::new()).await.unwrap_err().what, "process");
    }

    #[tokio::test]
    async fn the_agent_behind_a_launcher_is_checked_and_may_have_more_path() {
        let dir = tempfile::tempdir().unwrap();
        let launcher = |line: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", line]).current_dir(dir.path()).env_clear().env("A", "1").env("PATH", "/x");
            Agent::start(&mut command)
        };
        let wanted = env(&[("A", "1"), ("PATH", "/x")]);
        let agent = launcher("PATH=/extra:$PATH /bin/cat; :");
        until(|| chain(agent.id(), &["cat".into()]).len() == 2).await;
        assert_eq!(verdict(&agent, dir.path(), None, &wanted).await, Ok(()));
        let agent = launcher("A=2 /bin/cat; :");
        until(|| chain(agent.id(), &["cat".into()]).len() == 2).await;
        assert_eq!(verdict(&agent, dir.path(), None, &wanted).await, Err("env A".into()));
    }

    async fn until(done: impl Fn() -> bool) {
        for _ in 0..4000 {
            if done() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("it never came true");
    }
}
