//! From a run's spec to the command that is really run: finds the program, asks its version, plans, writes the files.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::extract::adapters::{Plan, PlanError, Site, Version, parse_version, plan, version_of_path};
use crate::extract::pattern::Pack;
use crate::paths::RunDir;
use crate::pty::rundir::{RunDirError, write_private};
use crate::run::{RunSpec, Seat};

/// How long a program may take to say its version. Unknown then: it is launched without reports.
const VERSION_PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer to `--version` that is read.
const VERSION_BYTES: u64 = 4096;

/// Why a launch cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The command line cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file of the launch cannot be written.
    #[error(transparent)]
    Files(#[from] RunDirError),
    /// Our own program cannot be found, which hooks would call.
    #[error("find our own program: {0}")]
    Exe(#[source] io::Error),
}

/// Plans the launch of `spec` under `pack` with the environment `env`, and writes the plan's files into `dir`.
pub fn prepare(pack: &Pack, spec: &RunSpec, dir: &RunDir, env: &[(OsString, OsString)]) -> Result<Plan, LaunchError> {
    let exe = std::env::current_exe().map_err(LaunchError::Exe)?;
    let wants_version = !pack.adapters.is_empty() && (spec.hooks || spec.takes_tasks) && spec.seat != Seat::Oneshot;
    let version = spec
        .argv
        .first()
        .filter(|_| wants_version)
        .and_then(|name| find_program(OsStr::new(name), &spec.cwd, env))
        .and_then(|program| version_of(&program, &spec.cwd, env));
    let site = Site {
        argv: &spec.argv,
        cwd: &spec.cwd,
        run_dir: dir.path(),
        exe: &exe,
        version,
        reports: spec.hooks,
        takes_tasks: spec.takes_tasks,
        oneshot: spec.seat == Seat::Oneshot,
        resume: spec.resume.as_deref(),
        read: &|path| std::fs::read_to_string(path),
    };
    let plan = plan(pack, &site)?;
    for (name, content) in &plan.files {
        write_private(&dir.path().join(name), content.as_bytes())?;
    }
    Ok(plan)
}

/// Returns the file that running `name` in `cwd` would execute: by PATH of `env`, or as a path.
pub fn find_program(name: &OsStr, cwd: &Path, env: &[(OsString, OsString)]) -> Option<PathBuf> {
    let runnable = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if name.as_bytes().contains(&b'/') {
        return Some(cwd.join(name)).filter(|p| runnable(p));
    }
    let path = env.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value)?;
    std::env::split_paths(path).map(|dir| cwd.join(dir).join(name)).find(|p| runnable(p))
}

fn version_of(program: &Path, cwd: &Path, env: &[(OsString, OsString)]) -> Option<Version> {
    let real = program.canonicalize().ok()?;
    version_of_path(&real, &|path| std::fs::read_to_string(path)).or_else(|| ask_version(program, cwd, env))
}

/// Runs `program --version`.
fn ask_version(program: &Path, cwd: &Path, env: &[(OsString, OsString)]) -> Option<Version> {
    let mut child = Command::new(program)
        .arg("--version")
        .current_dir(cwd)
        .env_clear()
        .envs(env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let stdout = child.stdout.take()?;
    let (tell, told) = crossbeam_channel::bounded(1);
    // A grandchild may keep the pipe open after the program is gone: the reader is left behind then, not waited for.
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.take(VERSION_BYTES).read_to_end(&mut text);
        let _ = tell.send(text);
    });
    let text = told.recv_timeout(VERSION_PATIENCE).ok();
    let _ = child.kill(); // in vain if it has ended, as it should
    let _ = child.wait();
    parse_version(&String::from_utf8_lossy(&text?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_program_is_found_as_the_shell_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("plain"), "").unwrap();
        let tool = script(&bin, "tool", "");
        let env = [("PATH".into(), "/nowhere:bin".into())];
        let find = |name: &str| find_program(OsStr::new(name), dir.path(), &env);
        assert_eq!(find("tool"), Some(tool.clone()));
        assert_eq!(find("bin/tool"), Some(tool));
        assert_eq!(find("plain"), None, "not executable");
        assert_eq!(find("missing"), None);
    }

    #[test]
    fn a_program_whose_place_tells_no_version_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let env = [("PATH".into(), "/usr/bin:/bin".into())];
        let agent = script(dir.path(), "agent", "echo \"agent-cli 1.22.333\"");
        assert_eq!(version_of(&agent, dir.path(), &env), Some((1, 22, 333)));
        let dumb = script(dir.path(), "dumb", "exit 3");
        assert_eq!(version_of(&dumb, dir.path(), &env), None);
    }
}
