//! The `git` command, called so that nothing in a repository can make it run something else.
//!
//! Argument vectors only, full ref names, values behind `--end-of-options`; no prompt, pager, hook, monitor, alias or
//! filter that the repository itself brings (T14, T15). What the user configured globally stays in force.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::assign::child::{Ended, Job, Keep};

/// How long one call may take (F60).
pub const LIMIT: Duration = Duration::from_secs(30);

/// Longest answer of git that we read; a list of 10,000 worktrees is below 2 MiB.
const MAX_ANSWER: usize = 8 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// git could not be started.
    #[error("run git: {0}; install git and try again")]
    Start(#[source] std::io::Error),
    /// It hung, and was ended.
    #[error("git {verb} did not end within {limit:?}")]
    TimedOut {
        /// The subcommand.
        verb: String,
        /// How long it had.
        limit: Duration,
    },
    /// It said no.
    #[error("git {verb}: {message}")]
    Failed {
        /// The subcommand.
        verb: String,
        /// Its exit code; none where a signal ended it.
        code: Option<i32>,
        /// The last lines of its stderr.
        message: String,
    },
    /// Its answer was not what this subcommand answers.
    #[error("git {verb} answered something unexpected: {what}")]
    Answer {
        /// The subcommand.
        verb: String,
        /// What was wrong with it.
        what: String,
    },
}

impl GitError {
    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Start(_) => "binary_missing",
            Self::TimedOut { .. } => "git_timeout",
            Self::Failed { .. } | Self::Answer { .. } => "git_failed",
        }
    }

    /// Somebody else's lock file was in the way (F59).
    pub fn is_lock(&self) -> bool {
        matches!(self, Self::Failed { message, .. } if message.contains(".lock': File exists"))
    }
}

/// The name of a branch: stricter than git, so that it can stand in any argument and path (T14).
///
/// Letters, digits and `._/+@#=,-`, components that begin with a letter, digit, `_` or `#`; no `..`, `//`, `@{`, `.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Branch(String);

/// A text that is no branch name for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no branch name: letters, digits and ._/+@#=,- are allowed, each part beginning with a letter, digit or _"
)]
pub struct BadBranch(String);

impl Branch {
    const MAX_BYTES: usize = 200;

    /// The name as people write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `refs/heads/<name>`.
    pub fn full_ref(&self) -> String {
        format!("refs/heads/{}", self.0)
    }
}

impl FromStr for Branch {
    type Err = BadBranch;

    fn from_str(s: &str) -> Result<Self, BadBranch> {
        let part = |p: &str| {
            p.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '#')
                && !p.ends_with('.')
                && !p.ends_with(".lock")
                && p.chars().all(|c| c.is_alphanumeric() || "._+@#=,-".contains(c))
        };
        let good = s.len() <= Self::MAX_BYTES
            && !s.contains("..")
            && s != "HEAD"
            && !s.starts_with("refs/")
            && s.split('/').all(part);
        if good { Ok(Self(s.to_owned())) } else { Err(BadBranch(s.to_owned())) }
    }
}

impl TryFrom<String> for Branch {
    type Error = BadBranch;
    fn try_from(s: String) -> Result<Self, BadBranch> {
        s.parse()
    }
}

impl From<Branch> for String {
    fn from(b: Branch) -> String {
        b.0
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What HEAD is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// On a branch that has commits. The name is git's, not checked against our grammar.
    Branch {
        /// Its short name.
        name: String,
        /// Its tip.
        sha: String,
    },
    /// On a branch without commits.
    Unborn {
        /// Its short name.
        name: String,
    },
    /// On no branch.
    Detached {
        /// The commit.
        sha: String,
    },
}

impl Head {
    /// The branch's short name.
    pub fn branch(&self) -> Option<&str> {
        match self {
            Self::Branch { name, .. } | Self::Unborn { name } => Some(name),
            Self::Detached { .. } => None,
        }
    }

    /// The commit.
    pub fn sha(&self) -> Option<&str> {
        match self {
            Self::Branch { sha, .. } | Self::Detached { sha } => Some(sha),
            Self::Unborn { .. } => None,
        }
    }
}

/// What git knows about a folder of a working tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Top of the working tree.
    pub top: PathBuf,
    /// The folder, relative to `top`.
    pub prefix: PathBuf,
    /// The working tree's own git folder.
    pub git_dir: PathBuf,
    /// The repository's git folder, shared by its working trees.
    pub common_dir: PathBuf,
    /// What HEAD is.
    pub head: Head,
    /// An operation that holds the tree: `rebase`, `merge`, `cherry-pick`, `revert`, `bisect`, `am`.
    pub busy: Option<&'static str>,
}

/// What a folder is to git.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// No repository there.
    None,
    /// A repository without a working tree, or its git folder.
    Bare,
    /// A folder of a working tree.
    Tree(Facts),
}

/// A working tree of a repository, as `git worktree list` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its top.
    pub path: PathBuf,
    /// The branch it has checked out or is rebasing.
    pub branch: Option<String>,
    /// Its folder is gone, as far as git can see.
    pub prunable: bool,
}

/// What is special about one call.
struct Call {
    config: Vec<(String, String)>,
    input: Option<File>,
    most_bytes: usize,
}

impl Default for Call {
    fn default() -> Self {
        Self { config: Vec::new(), input: None, most_bytes: MAX_ANSWER }
    }
}

/// How git is called.
#[derive(Debug, Clone)]
pub struct Git {
    env: Vec<(OsString, OsString)>,
    limit: Duration,
}

impl Git {
    /// git from the PATH of this process, with only PATH, HOME and the XDG folders of its environment.
    pub fn new() -> Self {
        let kept = ["PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR"];
        Self::with_env(kept.iter().filter_map(|k| std::env::var_os(k).map(|v| (OsString::from(k), v))))
    }

    /// git with this environment and nothing else, for tests with a HOME of their own.
    pub fn with_env(env: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut env: Vec<_> = env.into_iter().collect();
        let fixed = [
            ("LC_ALL", "C"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS", ""),
            ("GIT_PAGER", "cat"),
            ("GIT_EDITOR", "false"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_LITERAL_PATHSPECS", "1"),
        ];
        env.extend(fixed.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))));
        Self { env, limit: LIMIT }
    }

    /// The same with another time limit.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same with more in its environment, which says which git folder it works on.
    #[must_use]
    pub(crate) fn with_vars(mut self, vars: impl IntoIterator<Item = (&'static str, OsString)>) -> Self {
        self.env.extend(vars.into_iter().map(|(k, v)| (OsString::from(k), v)));
        self
    }

    /// Runs `git <args>` in `dir`; failure is an error that carries what git said.
    pub(crate) async fn run<S: AsRef<OsStr>>(&self, dir: &Path, args: &[S]) -> Result<Vec<u8>, GitError> {
        let verb = args[0].as_ref().to_string_lossy().into_owned();
        let end = self.ask(dir, Call::default(), args).await?;
        Self::good(verb, end)
    }

    /// The same with something to read, and a bound of its own for the answer.
    pub(crate) async fn run_with<S: AsRef<OsStr>>(
        &self,
        dir: &Path,
        args: &[S],
        input: Option<File>,
        most_bytes: usize,
    ) -> Result<Vec<u8>, GitError> {
        let verb = args[0].as_ref().to_string_lossy().into_owned();
        let end = self.ask(dir, Call { input, most_bytes, ..Call::default() }, args).await?;
        Self::good(verb, end)
    }

    /// Runs a subcommand that writes files of the working tree: also without the filters that the repository brings.
    pub(crate) async fn run_writing<S: AsRef<OsStr>>(&self, dir: &Path, args: &[S]) -> Result<Vec<u8>, GitError> {
        let verb = args[0].as_ref().to_string_lossy().into_owned();
        let config = self.own_filters(dir).await?;
        let end = self.ask(dir, Call { config, ..Call::default() }, args).await?;
        Self::good(verb, end)
    }

    fn good(verb: String, end: Ended) -> Result<Vec<u8>, GitError> {
        if end.ok() {
            return if end.cut { Err(GitError::Answer { verb, what: "too long".into() }) } else { Ok(end.out) };
        }
        let text = String::from_utf8_lossy(&end.err);
        let lines: Vec<_> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        let message = lines[lines.len().saturating_sub(3)..].join("; ");
        let message = if message.is_empty() { end.how() } else { message };
        Err(GitError::Failed { verb, code: end.code, message })
    }

    /// Runs it and gives back how it ended, whatever that was.
    async fn ask<S: AsRef<OsStr>>(&self, dir: &Path, call: Call, args: &[S]) -> Result<Ended, GitError> {
        let mut command = Command::new("git");
        command.arg("--no-pager").current_dir(dir).env_clear().envs(self.env.iter().map(|(k, v)| (k, v)));
        let safe = [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "core.untrackedCache=keep",
            "core.sshCommand=false",
            "core.pager=cat",
            "credential.helper=",
            "protocol.allow=never",
            "submodule.recurse=false",
            "gc.auto=0",
            "maintenance.auto=false",
        ];
        // By environment rather than by `-c`: a name may hold any character.
        let settings: Vec<_> = safe
            .iter()
            .map(|s| s.split_once('=').expect("written above"))
            .chain(call.config.iter().map(pair))
            .collect();
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (n, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        command.args(args);
        let keep = Keep::Head(call.most_bytes);
        let job = Job { command, limit: self.limit, keep, merge: false, sweep: true, input: call.input };
        let end = job.run().await.map_err(GitError::Start)?;
        if end.timed_out {
            let verb = args[0].as_ref().to_string_lossy().into_owned();
            return Err(GitError::TimedOut { verb, limit: self.limit });
        }
        Ok(end)
    }

    /// Settings that give each filter and hook named by the repository's own configuration what the user's says, or nothing.
    async fn own_filters(&self, dir: &Path) -> Result<Vec<(String, String)>, GitError> {
        let args = ["config", "--list", "--show-scope", "-z"];
        Ok(neutral_filters(&self.run(dir, &args).await?))
    }

    /// What `dir` is to git.
    pub async fn place(&self, dir: &Path) -> Result<Place, GitError> {
        let end =
            self.ask(dir, Call::default(), &["rev-parse", "--is-bare-repository", "--is-inside-work-tree"]).await?;
        if !end.ok() && String::from_utf8_lossy(&end.err).contains("not a git repository") {
            return Ok(Place::None);
        }
        let answer = Self::good("rev-parse".into(), end)?;
        if !answer.ends_with(b"true\n") {
            return Ok(Place::Bare);
        }
        let args = [
            "rev-parse",
            "--path-format=absolute",
            "--show-toplevel",
            "--git-dir",
            "--git-common-dir",
            "--show-prefix",
        ];
        let answer = self.run(dir, &args).await?;
        let lines: Vec<_> = answer.split(|b| *b == b'\n').map(|l| PathBuf::from(OsStr::from_bytes(l))).collect();
        // The last line ends with a newline; a path with a newline in it gives more.
        let [top, git_dir, common_dir, prefix, _] = lines.as_slice() else {
            let what = "a path with a line break".into();
            return Err(GitError::Answer { verb: "rev-parse".into(), what });
        };
        let facts = Facts {
            top: top.clone(),
            prefix: prefix.clone(),
            git_dir: git_dir.clone(),
            common_dir: common_dir.clone(),
            head: self.head(dir).await?,
            busy: busy(git_dir),
        };
        Ok(Place::Tree(facts))
    }

    /// The git folder that the working trees of the repository in `dir` share; none where git knows of no repository.
    pub async fn common_dir(&self, dir: &Path) -> Result<Option<PathBuf>, GitError> {
        let args = ["rev-parse", "--path-format=absolute", "--git-common-dir"];
        match self.run(dir, &args).await {
            Ok(answer) => Ok(Some(PathBuf::from(OsStr::from_bytes(answer.trim_ascii_end())))),
            Err(GitError::Failed { message, .. }) if message.contains("not a git repository") => Ok(None),
            Err(GitError::Start(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What HEAD of `dir` is.
    pub async fn head(&self, dir: &Path) -> Result<Head, GitError> {
        let end = self.ask(dir, Call::default(), &["symbolic-ref", "--quiet", "HEAD"]).await?;
        let name = match end.code {
            Some(1) => None,
            _ => {
                let text = line(Self::good("symbolic-ref".into(), end)?);
                Some(text.strip_prefix("refs/heads/").map(str::to_owned).unwrap_or(text))
            }
        };
        let sha = self.sha(dir, "HEAD").await?;
        match (name, sha) {
            (Some(name), Some(sha)) => Ok(Head::Branch { name, sha }),
            (Some(name), None) => Ok(Head::Unborn { name }),
            (None, Some(sha)) => Ok(Head::Detached { sha }),
            (None, None) => Err(GitError::Answer { verb: "rev-parse".into(), what: "HEAD names no commit".into() }),
        }
    }

    /// The commit that `revision` names, if it names one.
    pub async fn sha(&self, dir: &Path, revision: &str) -> Result<Option<String>, GitError> {
        let commit = format!("{revision}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &commit];
        let end = self.ask(dir, Call::default(), &args).await?;
        if end.code == Some(1) {
            return Ok(None);
        }
        // "Needed a single revision" and the like, also under --quiet for odd revisions.
        if end.code == Some(128) {
            return Ok(None);
        }
        Self::good("rev-parse".into(), end).map(|out| Some(line(out)))
    }

    /// The tip of a branch, if it exists.
    pub async fn tip(&self, dir: &Path, branch: &Branch) -> Result<Option<String>, GitError> {
        self.sha(dir, &branch.full_ref()).await
    }

    /// Whether tracked files differ from HEAD. Takes no lock and looks into no submodule.
    pub async fn is_dirty(&self, dir: &Path) -> Result<bool, GitError> {
        let args = ["status", "--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=dirty"];
        Ok(!self.run_writing(dir, &args).await?.is_empty())
    }

    /// The repository's working trees, the main one first, and the branch that each holds.
    pub async fn worktrees(&self, dir: &Path, common_dir: &Path) -> Result<Vec<Listed>, GitError> {
        let answer = self.run(dir, &["worktree", "list", "--porcelain", "-z"]).await?;
        let mut list = parse_worktrees(&answer);
        for tree in list.iter_mut().filter(|t| t.branch.is_none()) {
            tree.branch = rebased_branch(&tree.path, common_dir);
        }
        Ok(list)
    }
}

impl Default for Git {
    fn default() -> Self {
        Self::new()
    }
}

fn line(answer: Vec<u8>) -> String {
    String::from_utf8_lossy(&answer).trim_end_matches('\n').to_owned()
}

fn pair((key, value): &(String, String)) -> (&str, &str) {
    (key, value)
}

fn neutral_filters(listing: &[u8]) -> Vec<(String, String)> {
    // Records: scope NUL key LF value NUL. A key without a value has no LF.
    let mut fields = listing.split(|b| *b == 0);
    let mut trusted: BTreeMap<String, String> = BTreeMap::new();
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    while let (Some(scope), Some(entry)) = (fields.next(), fields.next()) {
        let entry = String::from_utf8_lossy(entry);
        let (key, value) = entry.split_once('\n').unwrap_or((&entry, ""));
        match (scope, key) {
            (b"local" | b"worktree", key) if key.starts_with("filter.") => {
                let nothing = if key.ends_with(".required") { "false" } else { "" };
                own.insert(key.to_owned(), nothing.to_owned());
            }
            // Hooks by configuration, which core.hooksPath does not reach (git 2.54 and later).
            (b"local" | b"worktree", key) if key.starts_with("hook.") => {
                if let Some(name) = key.strip_suffix(".command") {
                    own.insert(format!("{name}.enabled"), "false".to_owned());
                }
            }
            (b"system" | b"global", key) => drop(trusted.insert(key.to_owned(), value.to_owned())),
            _ => {}
        }
    }
    for (key, value) in &mut own {
        if let Some(users) = trusted.remove(key).filter(|_| key.starts_with("filter.")) {
            *value = users;
        }
    }
    own.into_iter().collect()
}

fn parse_worktrees(answer: &[u8]) -> Vec<Listed> {
    let mut list = Vec::new();
    for field in answer.split(|b| *b == 0) {
        if let Some(path) = field.strip_prefix(b"worktree ") {
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            list.push(Listed { path, branch: None, prunable: false });
        } else if let Some(tree) = list.last_mut() {
            if let Some(name) = field.strip_prefix(b"branch refs/heads/") {
                tree.branch = Some(String::from_utf8_lossy(name).into_owned());
            } else if field.starts_with(b"prunable") {
                tree.prunable = true;
            }
        }
    }
    list
}

/// The branch that a working tree without one is about to come back to: git will not let it be checked out twice.
fn rebased_branch(top: &Path, common_dir: &Path) -> Option<String> {
    let dot_git = top.join(".git");
    // Pipes may stand there instead of files, in both places.
    let read = |path: &Path| crate::linux::read_regular(path, 64 * 1024);
    let git_dir = match read(&dot_git) {
        Ok(file) => PathBuf::from(file.strip_prefix("gitdir: ")?.trim_end()),
        Err(_) if dot_git.is_dir() => dot_git,
        Err(_) => return None,
    };
    // The file is in a tree that agents write to: only folders of this repository are read.
    let (git_dir, common_dir) = (git_dir.canonicalize().ok()?, common_dir.canonicalize().ok()?);
    if !git_dir.starts_with(&common_dir) {
        return None;
    }
    ["rebase-merge/head-name", "rebase-apply/head-name", "BISECT_START"].iter().find_map(|name| {
        let text = read(&git_dir.join(name)).ok()?;
        let text = text.trim_end();
        Some(text.strip_prefix("refs/heads/").unwrap_or(text).to_owned())
    })
}

fn busy(git_dir: &Path) -> Option<&'static str> {
    let signs = [
        ("rebase-merge", "rebase"),
        ("rebase-apply/applying", "am"),
        ("rebase-apply", "rebase"),
        ("MERGE_HEAD", "merge"),
        ("CHERRY_PICK_HEAD", "cherry-pick"),
        ("REVERT_HEAD", "revert"),
        ("BISECT_LOG", "bisect"),
    ];
    signs.iter().find(|(name, _)| git_dir.join(name).exists()).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t14_branch_names_that_are_options_refs_or_tricks_are_refused() {
        let bad = [
            "",
            "-x",
            "--upload-pack=x",
            "a/-b",
            "a..b",
            "a//b",
            "/a",
            "a/",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "HEAD",
            "@",
            "a@{1}",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[b",
            "a\\b",
            "a\nb",
            "a\0b",
            "a;b",
            "$(x)",
            "`x`",
            "refs/heads/a",
        ];
        for name in bad {
            assert!(name.parse::<Branch>().is_err(), "{name:?}");
        }
        for name in ["main", "fix/x", "feature/JIRA-1_a.b", "user@host/x", "fix/#12", "größe", "v1.2+x"] {
            assert_eq!(name.parse::<Branch>().unwrap().full_ref(), format!("refs/heads/{name}"));
        }
    }

    #[test]
    fn t15_filters_of_the_repository_are_replaced_by_the_users_or_nothing() {
        let listing = b"global\0filter.lfs.smudge\ngit-lfs smudge -- %f\0local\0filter.lfs.smudge\nevil\0\
            local\0filter.x.clean\nevil\0worktree\0filter.x.required\ntrue\0local\0hook.y.command\nevil\0";
        let expected = [
            ("filter.lfs.smudge", "git-lfs smudge -- %f"),
            ("filter.x.clean", ""),
            ("filter.x.required", "false"),
            ("hook.y.enabled", "false"),
        ];
        assert_eq!(neutral_filters(listing), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn the_list_of_working_trees_is_read() {
        let answer =
            b"worktree /a\0HEAD 12\0branch refs/heads/main\0\0worktree /b c\0HEAD 34\0detached\0prunable gone\0\0";
        let main = Listed { path: "/a".into(), branch: Some("main".into()), prunable: false };
        let other = Listed { path: "/b c".into(), branch: None, prunable: true };
        assert_eq!(parse_worktrees(answer), [main, other]);
    }
}
