//! How a launch is changed so that the agent reports to us: pure. Nothing is written outside the run's folder, and
//! where we are not sure that an injection is understood (an unknown version, a form of launch that is no session) the
//! launch stays as it was given: the screen is still read.

mod claude;
mod codex;

use std::io;
use std::path::{Path, PathBuf};

use crate::extract::pattern::Pack;

/// Version of an agent: major, minor, patch.
pub type Version = (u32, u32, u32);

/// A launch that cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is no command.
    #[error("no command to run")]
    Empty,
    /// The run folder or our own path cannot be written into a command line.
    #[error("{} is not UTF-8; move it to a path that is", .0.display())]
    NotText(PathBuf),
}

/// What is known about a launch.
pub struct Site<'a> {
    /// The command as it was given.
    pub argv: &'a [String],
    /// Where it runs.
    pub cwd: &'a Path,
    /// The run's folder.
    pub run_dir: &'a Path,
    /// Our own program, which hooks call.
    pub exe: &'a Path,
    /// Version of the agent, where it could be found out.
    pub version: Option<Version>,
    /// Inject reports (`--no-hooks` clears it).
    pub reports: bool,
    /// The seat takes tasks of the queue.
    pub takes_tasks: bool,
    /// One prompt on stdin, structured output: the pack's one-shot arguments are added.
    pub oneshot: bool,
    /// Conversation to go on in.
    pub resume: Option<&'a str>,
    /// Reads a file (the user's own settings).
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// The session file that a report names: its lines are reports too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowRule {
    /// Protocol of its lines.
    pub adapter: String,
}

/// A launch that reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is run.
    pub argv: Vec<String>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Files to write (0600) before the launch: path relative to the run folder, content.
    pub files: Vec<(PathBuf, String)>,
    /// How the session file is read, once a report says where it is.
    pub follow: Option<FollowRule>,
    /// Conversation id that the launch fixes, where it does.
    pub conversation: Option<String>,
    /// Version of the agent, where it was found out.
    pub version: Option<Version>,
    /// Whether any report is to be expected.
    pub reports: bool,
    /// One line for people about what could not be done, and why.
    pub notes: Vec<String>,
}

/// Returns how `site`'s command is launched under `pack`.
pub fn plan(pack: &Pack, site: &Site<'_>) -> Result<Plan, PlanError> {
    if site.argv.is_empty() {
        return Err(PlanError::Empty);
    }
    let mut plan = Plan {
        argv: site.argv.to_vec(),
        env: Vec::new(),
        files: Vec::new(),
        follow: None,
        conversation: None,
        version: site.version,
        reports: false,
        notes: Vec::new(),
    };
    if is_launched_by_another(pack, site.argv) {
        plan.version = None;
        plan.notes.push(format!("{} is started by another program: no reports, its screen is read", pack.id));
        return Ok(plan);
    }
    if let Some(oneshot) = pack.oneshot.as_ref().filter(|_| site.oneshot) {
        plan.argv.extend(oneshot.args.iter().cloned());
        plan.reports = oneshot.adapter.is_some();
    }
    let has = |name: &str| pack.adapters.iter().any(|a| a == name);
    if has("claude-hooks/1") {
        claude::plan(site, &mut plan)?;
    } else if has("codex-hooks/1") {
        codex::plan(site, &mut plan)?;
    }
    Ok(plan)
}

/// Whether the command is another program that starts the agent by its name: arguments of ours would be that program's.
fn is_launched_by_another(pack: &Pack, argv: &[String]) -> bool {
    let names = |arg: &String| pack.launch.names.contains(arg);
    let own = Path::new(&argv[0]).file_name().is_some_and(|n| pack.launch.names.iter().any(|k| n == k.as_str()));
    !own && argv[1..].iter().any(names)
}

/// The command line that a hook runs. A shell reads it; the secret is in a file of the run's folder, never here.
fn hook_command(site: &Site<'_>, adapter: &str) -> Result<String, PlanError> {
    let words = [text(site.exe)?, "__hook", adapter, text(site.run_dir)?];
    // NUL is the one thing that cannot be quoted, and no path holds it.
    shlex::try_join(words).map_err(|_| PlanError::NotText(site.run_dir.to_owned()))
}

fn text(path: &Path) -> Result<&str, PlanError> {
    path.to_str().ok_or_else(|| PlanError::NotText(path.to_owned()))
}

/// Returns the version that `text` (`2.1.329 (Agent)`, `agent-cli 0.169.0`, `0.169.0-linux-x64`) names.
pub fn parse_version(text: &str) -> Option<Version> {
    text.split(|c: char| c.is_whitespace() || c == '-' || c == 'v').find_map(|word| {
        let mut parts = word.split('.').map(str::parse::<u32>);
        let version = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        parts.next().is_none().then_some(version)
    })
}

/// Returns the version that the place of `program` (links resolved) tells: the `package.json` of the package it lies in,
/// or a part of its path.
///
/// Nothing above the nearest `node_modules` counts: there the path names the version of what installed the package
/// (`~/.nvm/versions/node/v20.11.1/lib/node_modules/..`).
pub fn version_of_path(program: &Path, read: &dyn Fn(&Path) -> io::Result<String>) -> Option<Version> {
    let folders = || program.ancestors().skip(1).take_while(|dir| !dir.ends_with("node_modules"));
    let is_package = program.iter().any(|part| part == "node_modules");
    let in_path = || {
        let parts = std::iter::once(program).chain(folders()).filter_map(|path| path.file_name()?.to_str());
        parts.filter(|part| part.starts_with(|c: char| c.is_ascii_digit() || c == 'v')).find_map(parse_version)
    };
    let in_package = || {
        // A package's own file is at most a few folders below its root (`vendor/<target>/bin/<program>`).
        folders().take(6).find_map(|dir| {
            let package: serde_json::Value = serde_json::from_str(&read(&dir.join("package.json")).ok()?).ok()?;
            parse_version(package.get("version")?.as_str()?)
        })
    };
    // Outside of packages a `package.json` further up is of some project, or of a whole home.
    if is_package { in_package().or_else(in_path) } else { in_path().or_else(in_package) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_words_paths_and_packages() {
        assert_eq!(parse_version("2.1.329 (Claude Code)"), Some((2, 1, 329)));
        assert_eq!(parse_version("codex-cli 0.169.0"), Some((0, 169, 0)));
        assert_eq!(parse_version("0.169.0-linux-x64"), Some((0, 169, 0)));
        assert_eq!(parse_version("no version"), None);
        let none = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        let native = Path::new("/home/x/.local/share/claude/versions/2.1.329");
        assert_eq!(version_of_path(native, &none), Some((2, 1, 329)));
        let package = |p: &Path| {
            if p == Path::new("/n/codex-linux-x64/package.json") {
                Ok(r#"{"version":"0.169.0-linux-x64"}"#.to_owned())
            } else {
                Err(io::Error::from(io::ErrorKind::NotFound))
            }
        };
        let npm = Path::new("/n/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex");
        assert_eq!(version_of_path(npm, &package), Some((0, 169, 0)));
        assert_eq!(version_of_path(npm, &none), None);
    }

    #[test]
    fn the_version_of_what_installed_a_package_is_not_the_packages() {
        let files = |p: &Path| match p.to_str() {
            Some("/h/.nvm/versions/node/v20.11.1/lib/node_modules/@x/agent/package.json") => {
                Ok(r#"{"version":"1.0.50"}"#.to_owned())
            }
            Some("/h/package.json") => Ok(r#"{"version":"9.9.9"}"#.to_owned()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let modules = Path::new("/h/.nvm/versions/node/v20.11.1/lib/node_modules");
        assert_eq!(version_of_path(&modules.join("@x/agent/cli.js"), &files), Some((1, 0, 50)));
        assert_eq!(version_of_path(&modules.join("other/cli.js"), &files), None, "then it is asked");
        assert_eq!(version_of_path(Path::new("/h/.local/agent/versions/2.1.3"), &files), Some((2, 1, 3)));
    }
}
