//! Making a new working tree ready: files copied and linked from the checkout it belongs to, then a line of the project's.

use std::ffi::OsStr;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::assign::child::{Job, Keep};
use crate::assign::env::Env;
use crate::assign::git::Git;
use crate::assign::provision;
use crate::assign::worktree::TreeError;
use crate::config::WorktreeRules;

/// Most of a set-up line's output that is kept, from its end.
const MAX_OUTPUT_BYTES: usize = 16 * 1024;

/// Makes the tree `to` ready with what `from` has, as `rules` say.
pub(crate) async fn make_ready(
    from: &Path,
    to: &Path,
    rules: &WorktreeRules,
    env: &Env,
    limit: Duration,
) -> Result<(), TreeError> {
    let failed = |why| TreeError::Provision { path: to.to_owned(), why };
    let (source, target, brought) = (from.to_owned(), to.to_owned(), rules.clone());
    let provide = move || {
        provision::copy(&source, &target, &brought.copy)?;
        provision::link(&source, &target, &brought.link)
    };
    let provided = tokio::task::spawn_blocking(provide).await.expect("copying files does not panic");
    provided.map_err(|e| failed(e.to_string()))?;
    if rules.setup.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(&rules.setup).current_dir(to).env_clear().envs(env).env("PWD", to);
    let job = Job { command, limit, keep: Keep::Tail(MAX_OUTPUT_BYTES), merge: true, sweep: true, input: None };
    let line = || rules.setup.clone();
    match job.run().await {
        Ok(end) if end.ok() => Ok(()),
        Ok(end) => Err(TreeError::Setup { line: line(), how: end.how(), output: end.text() }),
        Err(e) => Err(TreeError::Setup { line: line(), how: format!("could not be run: {e}"), output: String::new() }),
    }
}

/// The names at the top of a working tree that git ignores and `rules` do not bring: what a checkout made of it lacks.
pub async fn missing(git: &Git, top: &Path, rules: &WorktreeRules) -> Vec<String> {
    let brought = |name: &OsStr| rules.copy.iter().chain(&rules.link).any(|p| p.as_os_str() == name);
    let names: Vec<_> = std::fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name != ".git" && !brought(name))
        .collect();
    let list: Vec<u8> = names.iter().flat_map(|name| [b"./", name.as_bytes(), b"\0"].concat()).collect();
    let file = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(&list)?;
        file.rewind()?;
        Ok::<_, std::io::Error>(file)
    };
    let Ok(input) = file() else { return Vec::new() };
    // The one subcommand that refuses to read pathspecs literally; with a dot in front no name is a special one.
    let git = git.clone().with_vars([("GIT_LITERAL_PATHSPECS", "0".into())]);
    // None ignored is an exit code of 1, and nothing here is worth more than a hint.
    let answer = git.run_with(top, &["check-ignore", "-z", "--stdin"], Some(input), MAX_OUTPUT_BYTES).await;
    let answer = answer.unwrap_or_default();
    let mut ignored: Vec<_> = answer
        .split(|b| *b == 0)
        .filter_map(|name| name.strip_prefix(b"./"))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    ignored.sort();
    ignored
}
