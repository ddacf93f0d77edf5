//! The working tree a task runs in. A checkout is ours only if we made it.
//!
//! The wanted branch already checked out where the user stands is used there. Otherwise the task gets a working tree of
//! ours, `worktrees/<repo>/<branch>`. Nothing is ever stashed, reset or cleaned, and every step can be done again after
//! a crash: a mark beside the tree says how far its making came (F3).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::assign::env::Env;
use crate::assign::git::{Branch, Facts, Git, GitError, Listed, Place};
use crate::assign::setup;
use crate::config::{Config, ConfigError};
use crate::ids::TaskId;
use crate::queue::task::TreeRule;

/// How long somebody else's lock file is waited for (F59).
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// What a task wants of its working tree.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The task: names the branch of an isolated tree.
    pub task: TaskId,
    /// Absolute folder that it concerns.
    pub cwd: PathBuf,
    /// The branch; none for whatever is there.
    pub branch: Option<Branch>,
    /// What a missing branch is made from; none for HEAD of `cwd`.
    pub base_sha: Option<String>,
    /// How the tree is chosen.
    pub rule: TreeRule,
}

/// A working tree, ready for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Where the agent runs: the same subfolder as the one asked for.
    pub cwd: PathBuf,
    /// Top of the working tree; the folder itself outside a repository. At most one live attempt has it.
    pub top: PathBuf,
    /// The branch that must be checked out there, if any.
    pub branch: Option<String>,
    /// We made it.
    pub ours: bool,
}

/// Why there is no working tree for a task. Nothing of the user's was touched.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum TreeError {
    #[error("{} is not a folder; create it, or submit the task with another -C", .0.display())]
    CwdMissing(PathBuf),
    #[error("branch {branch} has no folder {}", prefix.display())]
    PrefixMissing { branch: String, prefix: PathBuf },
    #[error("{} is in no git repository, so there is no branch to work on; leave out --branch and --isolate", .0.display())]
    NotARepository(PathBuf),
    #[error("{} is in a bare repository; give -C a working tree of it", .0.display())]
    Bare(PathBuf),
    #[error("{} has no commit yet; commit something first", .0.display())]
    Unborn(PathBuf),
    #[error("a {what} is under way in {}; finish or abort it first", top.display())]
    Busy { top: PathBuf, what: &'static str },
    #[error("{} has uncommitted changes; commit them, or leave out --in-place to get a tree of the task's own", .0.display())]
    Dirty(PathBuf),
    #[error("branch {branch} is checked out in {}; free it there, or run the task with -C on that folder", path.display())]
    BranchElsewhere { branch: String, path: PathBuf },
    #[error(
        "branch {0} exists and was not made for this task: an older queue left it; rename or delete it, then retry"
    )]
    BranchTaken(String),
    #[error("{} is in the way: {why}", path.display())]
    PathTaken { path: PathBuf, why: String },
    #[error("base {0} is no commit of this repository")]
    BaseMissing(String),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("make {} ready: {why}", path.display())]
    Provision { path: PathBuf, why: String },
    #[error("set-up line `{line}` {how}")]
    Setup { line: String, how: String, output: String },
    #[error("write {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl TreeError {
    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CwdMissing(_) | Self::PrefixMissing { .. } => "cwd_missing",
            Self::NotARepository(_) => "not_a_repository",
            Self::Bare(_) => "bare_repository",
            Self::Unborn(_) => "unborn_branch",
            Self::Busy { .. } => "tree_busy",
            Self::Dirty(_) => "tree_dirty",
            Self::BranchElsewhere { .. } => "branch_elsewhere",
            Self::BranchTaken(_) => "branch_taken",
            Self::PathTaken { .. } => "worktree_taken",
            Self::BaseMissing(_) => "base_missing",
            Self::Git(e) => e.reason(),
            Self::Config(_) => "project_config",
            Self::Provision { .. } | Self::Setup { .. } => "worktree_setup_failed",
            Self::Io { .. } => "worktree_failed",
        }
    }
}

/// Where a task will run; chosen without touching anything.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// As it is.
    Here { branch: Option<String> },
    /// The user's checkout, switched.
    Switch { branch: Branch },
    /// A tree of ours, made if missing.
    Ours { branch: Branch },
}

fn choose(wanted: &Wanted, facts: Option<&Facts>) -> Result<Choice, TreeError> {
    let isolate = wanted.rule == TreeRule::Isolate;
    let Some(facts) = facts else {
        return match (&wanted.branch, isolate) {
            (None, false) => Ok(Choice::Here { branch: None }),
            _ => Err(TreeError::NotARepository(wanted.cwd.clone())),
        };
    };
    if isolate {
        let name = format!("orchwrap/task-{}", wanted.task);
        return Ok(Choice::Ours { branch: name.parse().expect("of our own grammar") });
    }
    let Some(branch) = &wanted.branch else { return Ok(Choice::Here { branch: None }) };
    if facts.head.branch() == Some(branch.as_str()) {
        return Ok(Choice::Here { branch: Some(branch.to_string()) });
    }
    match wanted.rule {
        TreeRule::InPlace => Ok(Choice::Switch { branch: branch.clone() }),
        _ => Ok(Choice::Ours { branch: branch.clone() }),
    }
}

/// How far the making of a tree of ours came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// git may be at it; nobody was ever given this tree, so what is there may be thrown away.
    Adding,
    /// git is done; files are to be copied and set up.
    Added,
    /// Ready for agents.
    Ready,
}

impl Mark {
    const ALL: [(Self, &'static str); 3] = [(Self::Adding, "adding"), (Self::Added, "added"), (Self::Ready, "ready")];

    fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        Self::ALL.iter().find(|(_, name)| *name == text.trim_end()).map(|(mark, _)| *mark)
    }

    fn write(self, path: &Path) -> Result<(), TreeError> {
        let name = Self::ALL.iter().find(|(mark, _)| *mark == self).expect("all are listed").1;
        write_whole(path, format!("{name}\n").as_bytes())
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TreeError> {
    let folder = path.parent().expect("below the state folder");
    let write = || {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|source| TreeError::Io { path: path.to_owned(), source })
}

/// Maker and keeper of our working trees.
#[derive(Debug, Clone)]
pub struct Trees {
    git: Git,
    root: PathBuf,
    /// Trees being made, so that two tasks that share one do not make it twice at once.
    busy: Arc<Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Trees {
    /// Trees below `root`, the state folder's `worktrees`.
    pub fn new(git: Git, root: PathBuf) -> Self {
        Self { git, root, busy: Arc::default() }
    }

    /// How git is called.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// Returns where a task will run, without touching anything: what `task add` shows, and what only one live attempt
    /// may have.
    pub async fn locate(&self, wanted: &Wanted) -> Result<Tree, TreeError> {
        let facts = self.facts(wanted).await?;
        let choice = choose(wanted, facts.as_ref())?;
        Ok(match (choice, &facts) {
            (Choice::Ours { branch }, Some(facts)) => {
                let path = self.slot(&facts.common_dir).join(branch.as_str());
                ours(&path, facts, &branch)
            }
            (Choice::Switch { branch }, Some(facts)) => theirs(wanted, facts, Some(branch.to_string())),
            (Choice::Here { branch }, Some(facts)) => theirs(wanted, facts, branch),
            (_, None) => Tree { cwd: wanted.cwd.clone(), top: wanted.cwd.clone(), branch: None, ours: false },
        })
    }

    /// Makes the tree that `wanted` names, or finds it made. `env` and `limit` are for the project's set-up line.
    pub async fn prepare(&self, wanted: &Wanted, env: &Env, limit: Duration) -> Result<Tree, TreeError> {
        let facts = self.facts(wanted).await?;
        match (choose(wanted, facts.as_ref())?, &facts) {
            (Choice::Ours { branch }, Some(facts)) => self.prepare_ours(wanted, facts, &branch, env, limit).await,
            (Choice::Switch { branch }, Some(facts)) => {
                self.switch(wanted, facts, &branch).await?;
                Ok(theirs(wanted, facts, Some(branch.to_string())))
            }
            _ => self.locate(wanted).await,
        }
    }

    async fn facts(&self, wanted: &Wanted) -> Result<Option<Facts>, TreeError> {
        if !wanted.cwd.is_dir() {
            return Err(TreeError::CwdMissing(wanted.cwd.clone()));
        }
        match self.git.place(&wanted.cwd).await {
            Ok(Place::Tree(facts)) => Ok(Some(facts)),
            Ok(Place::None) => Ok(None),
            Ok(Place::Bare) if wanted.branch.is_none() && wanted.rule != TreeRule::Isolate => Ok(None),
            Ok(Place::Bare) => Err(TreeError::Bare(wanted.cwd.clone())),
            // Without git, tasks that name no branch still run.
            Err(GitError::Start(_)) if wanted.branch.is_none() && wanted.rule != TreeRule::Isolate => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The folder of a repository's trees: its name, and part of a hash where another repository has that name.
    fn slot(&self, common_dir: &Path) -> PathBuf {
        let folder = match common_dir.file_name() {
            Some(name) if name == ".git" => common_dir.parent().and_then(Path::file_name),
            name => name,
        };
        let name = folder.map_or_else(|| "repository".into(), |n| n.to_string_lossy().into_owned());
        let name = crate::ids::Name::sanitized(&name, "repository");
        let plain = self.root.join(name.as_str());
        match std::fs::read(plain.join(REPO_FILE)) {
            Ok(owner) if owner != bytes(common_dir) => {
                let hash = Sha256::digest(bytes(common_dir));
                let hash: String = hash.iter().take(4).map(|b| format!("{b:02x}")).collect();
                self.root.join(format!("{name}-{hash}"))
            }
            _ => plain,
        }
    }

    async fn prepare_ours(
        &self,
        wanted: &Wanted,
        facts: &Facts,
        branch: &Branch,
        env: &Env,
        limit: Duration,
    ) -> Result<Tree, TreeError> {
        let slot = self.slot(&facts.common_dir);
        let path = slot.join(branch.as_str());
        let lock = self.busy.lock().expect("held for no call that can panic").entry(path.clone()).or_default().clone();
        let _made_once = lock.lock().await;

        let mark_file = slot.join(MARKS).join(branch.as_str().replace('/', "~"));
        let mark = Mark::read(&mark_file);
        // The name of a task's own branch is ours to choose, so one that is there without our mark is of another queue.
        if wanted.rule == TreeRule::Isolate && mark.is_none() && self.git.tip(&facts.top, branch).await?.is_some() {
            return Err(TreeError::BranchTaken(branch.to_string()));
        }
        let list = self.git.worktrees(&facts.top, &facts.common_dir).await?;
        let holder = list.iter().find(|t| t.branch.as_deref() == Some(branch.as_str()));
        let there = list.iter().find(|t| same_path(&t.path, &path));
        match (holder, there) {
            (Some(holder), _) if !same_path(&holder.path, &path) => {
                let busy = facts.busy.filter(|_| same_path(&holder.path, &facts.top));
                return Err(match busy {
                    Some(what) => TreeError::Busy { top: facts.top.clone(), what },
                    None => TreeError::BranchElsewhere { branch: branch.to_string(), path: holder.path.clone() },
                });
            }
            (None, Some(there)) if mark != Some(Mark::Adding) && path.exists() => {
                let what = there.branch.as_deref().unwrap_or("a detached commit");
                let why = format!("it holds {what} now, not {branch}; switch it back");
                return Err(TreeError::PathTaken { path, why });
            }
            (None, None) if mark != Some(Mark::Adding) && path.exists() => {
                let why = "it is no working tree of this repository; move it away".into();
                return Err(TreeError::PathTaken { path, why });
            }
            _ => {}
        }
        let whole = holder.is_some() && path.exists() && mark != Some(Mark::Adding);
        if !whole {
            inside_no_other_tree(&slot, &path)?;
            write_whole(&slot.join(REPO_FILE), &bytes(&facts.common_dir))?;
            Mark::Adding.write(&mark_file)?;
            let made = self.add(wanted, facts, branch, &path, there).await;
            if made.is_err() {
                let _ = std::fs::remove_file(&mark_file);
            }
            made?;
            Mark::Added.write(&mark_file)?;
        }
        if !whole || mark != Some(Mark::Ready) {
            // The rules of the checkout the submitter chose, never those of a branch that an agent may have written.
            let rules = Config::project(&facts.top)?;
            setup::make_ready(&facts.top, &path, &rules, env, limit).await?;
            Mark::Ready.write(&mark_file)?;
        }
        let tree = ours(&path, facts, branch);
        if !tree.cwd.is_dir() {
            return Err(TreeError::PrefixMissing { branch: branch.to_string(), prefix: facts.prefix.clone() });
        }
        Ok(tree)
    }

    /// Adds the tree; when that fails, what it left half-made goes away again (F60).
    async fn add(
        &self,
        wanted: &Wanted,
        facts: &Facts,
        branch: &Branch,
        path: &Path,
        registered: Option<&Listed>,
    ) -> Result<(), TreeError> {
        let io = |source| TreeError::Io { path: path.to_owned(), source };
        if path.exists() {
            // Only ever a tree that was being made when we died.
            std::fs::remove_dir_all(path).map_err(io)?;
        }
        std::fs::create_dir_all(path.parent().expect("below its slot")).map_err(io)?;
        let created = self.ensure_branch(wanted, facts, branch).await?;
        let mut args: Vec<&std::ffi::OsStr> = vec!["worktree".as_ref(), "add".as_ref(), "--quiet".as_ref()];
        if registered.is_some() {
            // git still lists the lost folder, perhaps locked as "initializing": taken over by saying it twice.
            args.extend(["--force".as_ref(), "--force".as_ref()] as [&std::ffi::OsStr; 2]);
        }
        args.extend(["--end-of-options".as_ref(), path.as_os_str(), branch.as_str().as_ref()]);
        let added = match self.patiently(&facts.top, &args).await {
            Ok(_) => self.git.head(path).await.map_err(TreeError::from).and_then(|head| {
                let found = head.branch().unwrap_or("a detached commit");
                if found == branch.as_str() {
                    return Ok(());
                }
                Err(TreeError::PathTaken { path: path.to_owned(), why: format!("git checked out {found} there") })
            }),
            Err(e) => Err(e.into()),
        };
        if added.is_err() {
            self.undo(facts, path, created.then_some(branch)).await;
        }
        added
    }

    /// Makes the branch if it is missing; says whether it did.
    async fn ensure_branch(&self, wanted: &Wanted, facts: &Facts, branch: &Branch) -> Result<bool, TreeError> {
        if self.git.tip(&facts.top, branch).await?.is_some() {
            return Ok(false);
        }
        let start = match (&wanted.base_sha, facts.head.sha()) {
            (Some(base), _) if is_sha(base) => {
                self.git.sha(&facts.top, base).await?.ok_or_else(|| TreeError::BaseMissing(base.clone()))?
            }
            (Some(base), _) => return Err(TreeError::BaseMissing(base.clone())),
            // An isolated task starts from the branch it was given, wherever that is checked out.
            (None, head) => match &wanted.branch {
                Some(from) if from != branch => self.git.tip(&facts.top, from).await?,
                _ => None,
            }
            .or_else(|| head.map(str::to_owned))
            .ok_or_else(|| TreeError::Unborn(facts.top.clone()))?,
        };
        // All zeros: only if it does not exist.
        let (name, none) = (branch.full_ref(), "0".repeat(start.len()));
        let args = ["update-ref", "--create-reflog", "-m", "orchwrap: new branch", &name, &start, &none];
        self.patiently(&facts.top, &args).await?;
        Ok(true)
    }

    async fn undo(&self, facts: &Facts, path: &Path, created: Option<&Branch>) {
        let args: [&std::ffi::OsStr; 6] = [
            "worktree".as_ref(),
            "remove".as_ref(),
            "--force".as_ref(),
            "--force".as_ref(),
            "--end-of-options".as_ref(),
            path.as_os_str(),
        ];
        if let Err(e) = self.git.run_writing(&facts.top, &args).await {
            tracing::debug!("half-made tree was not registered: {e}");
        }
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("remove half-made tree {}: {e}", path.display());
            }
            _ => {}
        }
        if let Some(branch) = created {
            let removed = match self.git.tip(&facts.top, branch).await {
                Ok(Some(tip)) => {
                    self.git.run_writing(&facts.top, &["update-ref", "-d", &branch.full_ref(), &tip]).await.map(drop)
                }
                other => other.map(drop),
            };
            if let Err(e) = removed {
                tracing::warn!("remove branch {branch} made for a tree that could not be: {e}");
            }
        }
    }

    /// Switches the user's own checkout, which they asked for by name.
    async fn switch(&self, wanted: &Wanted, facts: &Facts, branch: &Branch) -> Result<(), TreeError> {
        if let Some(what) = facts.busy {
            return Err(TreeError::Busy { top: facts.top.clone(), what });
        }
        let list = self.git.worktrees(&facts.top, &facts.common_dir).await?;
        if let Some(holder) = list.iter().find(|t| t.branch.as_deref() == Some(branch.as_str())) {
            return Err(TreeError::BranchElsewhere { branch: branch.to_string(), path: holder.path.clone() });
        }
        if self.git.is_dirty(&facts.top).await? {
            return Err(TreeError::Dirty(facts.top.clone()));
        }
        let created = self.ensure_branch(wanted, facts, branch).await?;
        let args = ["switch", "--quiet", "--no-guess", "--end-of-options", branch.as_str()];
        if let Err(e) = self.patiently(&facts.top, &args).await {
            if created {
                let tip = self.git.tip(&facts.top, branch).await?.unwrap_or_default();
                self.git.run_writing(&facts.top, &["update-ref", "-d", &branch.full_ref(), &tip]).await?;
            }
            return Err(e.into());
        }
        if wanted.cwd.is_dir() {
            Ok(())
        } else {
            Err(TreeError::PrefixMissing { branch: branch.to_string(), prefix: facts.prefix.clone() })
        }
    }

    /// Runs git, and again while somebody else's lock file stands in its way. The lock is never ours to remove: our own
    /// git, also when ended, removes its locks itself.
    async fn patiently<S: AsRef<std::ffi::OsStr>>(&self, dir: &Path, args: &[S]) -> Result<Vec<u8>, GitError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.git.run_writing(dir, args).await {
                Err(e) if e.is_lock() && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => return other,
            }
        }
    }
}

/// Beside a repository's trees: the git folder that they belong to.
const REPO_FILE: &str = ".repo";
/// Beside a repository's trees: how far the making of each came.
const MARKS: &str = ".made";

fn theirs(wanted: &Wanted, facts: &Facts, branch: Option<String>) -> Tree {
    Tree { cwd: wanted.cwd.clone(), top: facts.top.clone(), branch, ours: false }
}

fn ours(path: &Path, facts: &Facts, branch: &Branch) -> Tree {
    // Joining an empty prefix would add a slash.
    let cwd = if facts.prefix.as_os_str().is_empty() { path.to_owned() } else { path.join(&facts.prefix) };
    // A prefix ends with a slash; components do not.
    Tree { cwd: cwd.components().collect(), top: path.to_owned(), branch: Some(branch.to_string()), ours: true }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}

fn is_sha(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn same_path(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// `fix` left by a branch that is gone must not become the parent of `fix/x`.
fn inside_no_other_tree(slot: &Path, path: &Path) -> Result<(), TreeError> {
    let between = path.ancestors().skip(1).take_while(|p| *p != slot);
    match between.filter(|p| p.join(".git").exists()).last() {
        None => Ok(()),
        Some(other) => {
            let why = "an older working tree; remove it with `git worktree remove`".into();
            Err(TreeError::PathTaken { path: other.to_owned(), why })
        }
    }
}
