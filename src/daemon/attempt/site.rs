//! Where gates run: on a fresh checkout of what the agent left, or, where that cannot be or is not wanted, where it worked.
//!
//! A checkout is thrown away with every process that was started in it, also by the next daemon where this one was
//! killed (F8). What it rests on is told with the verdict: the tree, and the files among it that decide what a gate
//! checks and that are not as they were (T4).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::judge::Next;
use super::{Driver, Step};
use crate::assign::env::{self, Env};
use crate::assign::gate::Outcome;
use crate::assign::gate_files::{self, Watch};
use crate::assign::git::{Facts, Git, GitError, Place};
use crate::assign::prereq;
use crate::assign::shadow::{self, Shadow, ShadowError};
use crate::assign::worktree::TreeError;
use crate::assign::{marked, setup};
use crate::daemon::Daemon;
use crate::extract::event::GateSite;
use crate::queue::task::GateRules;

/// Files that are named in one event.
const MAX_NAMED: usize = 200;

/// Where the gates of an attempt run.
pub(super) struct Site {
    pub(super) cwd: PathBuf,
    pub(super) env: Env,
    pub(super) on: GateSite,
    /// The working tree that it is a checkout of.
    pub(super) made_from: Option<PathBuf>,
}

/// What the agent began with; kept as the attempt's step `base`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Base {
    commit: Option<String>,
    /// Files a gate rests on that were not as the commit has them, each as it was.
    before: BTreeMap<String, Option<String>>,
}

/// The two working trees that matter, of one repository.
struct Trees {
    /// The submitter's.
    home: Facts,
    /// The agent's.
    worked: Facts,
}

fn broken(e: &ShadowError) -> Next {
    Next::review("gate_checkout_failed", format!("the result could not be checked out for its gate: {e}"))
}

impl Driver {
    /// Notes, before the first attempt, what the agent begins with.
    pub(super) async fn note_base(&self, cwd: &Path) -> Step<()> {
        if self.base().await?.is_some() {
            return Ok(());
        }
        let git = self.patient_git();
        let Ok(Place::Tree(facts)) = git.place(cwd).await else { return Ok(()) };
        let watch = self.gate_watch(&facts.prefix);
        let retry = |e: GitError| Next::retry(e.reason(), e.to_string());
        let mut unclean = shadow::unclean(&git, &facts.top).await.map_err(retry)?;
        unclean.retain(|path| watch.rests_on(path));
        let mut base = Base { commit: facts.head.sha().map(str::to_owned), before: BTreeMap::new() };
        if !unclean.is_empty() {
            self.end_gate().await;
            let failed = |e: ShadowError| Next::retry("git_failed", e.to_string());
            let shadow = Shadow::make(&git, facts, self.checkout("base")).await.map_err(failed)?;
            base.before = shadow.blobs(&unclean).await.map_err(failed)?;
            self.end_gate().await;
        }
        self.step("base", json!(base)).await
    }

    /// What the first attempt began with.
    async fn base(&self) -> Step<Option<Base>> {
        for attempt in self.daemon.store.attempts(self.task.id).await? {
            let steps = self.daemon.store.attempt_steps(attempt.key).await?;
            if let Some(step) = steps.into_iter().find(|s| s.step == "base") {
                return Ok(serde_json::from_value(step.data).ok());
            }
        }
        Ok(None)
    }

    /// Makes the place where the gates run; the outcome of a line that had to pass first and did not is a gate's, too.
    pub(super) async fn site(&self, worked: &Path, env: Option<Env>) -> Step<Result<Site, (Outcome, GateSite)>> {
        let spec = &self.task.spec;
        let rules = spec.gate_rules.as_ref();
        if rules.is_some_and(|rules| !rules.hold(&spec.gates)) {
            return Err(Next::review("gate_changed", "its gates are not the ones that were submitted").into());
        }
        let mut on =
            GateSite { ran: GateSite::IN_PLACE.into(), pin: rules.map(|r| r.pin.clone()), ..GateSite::default() };
        let wanted = rules.filter(|rules| rules.gate.fresh);
        let Some(trees) = self.trees(worked).await? else {
            on.because = Some("no git repository".into());
            return Ok(Ok(self.in_place(worked, env, on).await?));
        };
        let name = trees.worked.top.file_name().map_or_else(|| "tree".into(), |n| n.to_string_lossy().into_owned());
        let (top, prefix, home) = (self.checkout(&name), trees.worked.prefix.clone(), trees.home.top);
        let (watch, worked_top) = (self.gate_watch(&prefix), trees.worked.top.clone());
        let base = self.base().await?.unwrap_or_else(|| Base { commit: spec.base_sha.clone(), ..Base::default() });
        let shadow = Shadow::make(&self.patient_git(), trees.worked, top.clone()).await.map_err(|e| broken(&e))?;
        let tree = shadow.take().await.map_err(|e| broken(&e))?;
        let fresh = wanted.is_some();
        if let Some(commit) = &base.commit {
            on.gate_edited = edited(&shadow, &watch, commit, &tree, &base, fresh).await.map_err(|e| broken(&e))?;
        }
        (on.tree, on.base) = (Some(tree), base.commit.clone());
        let Some(rules) = wanted else {
            on.because = Some("as asked for".into());
            return Ok(Ok(self.in_place(worked, env, on).await?));
        };
        on.ran = GateSite::FRESH.into();
        if let Some(commit) = base.commit.as_ref().filter(|_| !rules.gate.protect.is_empty()) {
            shadow.restore(commit, |path| watch.is_protected(path)).await.map_err(|e| broken(&e))?;
            on.protected.clone_from(&rules.gate.protect);
        }
        shadow.check_out().await.map_err(|e| broken(&e))?;
        let made = self.make_ready(&top, &prefix, &home, rules, on).await?;
        Ok(made.map(|site| Site { made_from: Some(worked_top), ..site }))
    }

    /// Makes a checkout ready as a working tree of ours is: files, set-up line, environment.
    async fn make_ready(
        &self,
        top: &Path,
        prefix: &Path,
        home: &Path,
        rules: &GateRules,
        on: GateSite,
    ) -> Step<Result<Site, (Outcome, GateSite)>> {
        let spec = &self.task.spec;
        let limit = Duration::from_millis(spec.timeouts.prepare_ms);
        let cwd = beneath(top, prefix)
            .map_err(|why| Next::review("gate_checkout_failed", format!("{} in the result {why}", prefix.display())))?;
        let mut env = env::with_task(self.base_env().await?, &spec.env, &cwd);
        env.insert(marked::MARK.into(), self.mark().into());
        match setup::make_ready(home, top, &rules.worktree, &env, limit).await {
            Ok(()) => {}
            Err(TreeError::Setup { line, how, output }) => {
                return Ok(Err((Outcome::refused(&line, how, &output), on)));
            }
            Err(e) => return Err(Next::review("gate_checkout_failed", e.to_string()).into()),
        }
        for line in &spec.prereqs {
            // A line leaves an environment without the mark.
            env.insert(marked::MARK.into(), self.mark().into());
            env = match prereq::run(std::slice::from_ref(line), &cwd, env, limit).await {
                Ok(env) => env,
                Err(e) => return Ok(Err((Outcome::refused(line, e.to_string(), e.output()), on))),
            };
        }
        env.insert(marked::MARK.into(), self.mark().into());
        Ok(Ok(Site { cwd, env, on, made_from: None }))
    }

    async fn in_place(&self, worked: &Path, env: Option<Env>, on: GateSite) -> Step<Site> {
        let mut env = match env {
            Some(env) => env,
            None => {
                let env = env::with_task(self.base_env().await?, &self.task.spec.env, worked);
                let limit = Duration::from_millis(self.task.spec.timeouts.prepare_ms);
                let left = prereq::run(&self.task.spec.prereqs, worked, env, limit).await;
                left.map_err(|e| Next::review(e.reason(), e.to_string()))?
            }
        };
        env.insert(marked::MARK.into(), self.mark().into());
        Ok(Site { cwd: worked.to_owned(), env, on, made_from: None })
    }

    async fn base_env(&self) -> Step<Env> {
        let session = self.daemon.store.session(&self.session).await?;
        let base = self.daemon.seats.read_env(&session).map_err(|e| Next::review("env_missing", e.to_string()))?;
        Ok(env::base(base, &self.daemon.packs().unset()))
    }

    /// The working trees; none outside of repositories. A tree that the agent took from its repository is none to trust.
    async fn trees(&self, worked: &Path) -> Step<Option<Trees>> {
        let spec = &self.task.spec;
        let lost = || {
            let what = format!("{} is not the working tree any more that the task began in", worked.display());
            Next::review("tree_lost", what)
        };
        let git = self.patient_git();
        let found = match git.place(worked).await {
            Ok(Place::Tree(facts)) => facts,
            Ok(_) | Err(GitError::Start(_)) if spec.base_sha.is_none() => return Ok(None),
            Ok(_) => return Err(lost().into()),
            Err(e) => return Err(Next::review(e.reason(), e.to_string()).into()),
        };
        let Ok(Place::Tree(home)) = git.place(&spec.cwd).await else { return Err(lost().into()) };
        let steps = self.daemon.store.attempt_steps(self.key).await?;
        let began = steps.iter().rfind(|s| s.step == "tree").and_then(|s| s.data["top"].as_str().map(PathBuf::from));
        let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
        // Where it was no repository when the task began, that the agent made one is no offence.
        let moved = spec.base_sha.is_some() && began.is_some_and(|top| !same(&top, &found.top));
        if moved || !same(&home.common_dir, &found.common_dir) {
            return Err(lost().into());
        }
        Ok(Some(Trees { home, worked: found }))
    }

    /// What the checkout of `tree` does not have of it.
    pub(super) async fn lacks(&self, tree: &Path) -> Vec<String> {
        match &self.task.spec.gate_rules {
            Some(rules) => setup::missing(&self.patient_git(), tree, &rules.worktree).await,
            None => Vec::new(),
        }
    }

    fn gate_watch(&self, prefix: &Path) -> Watch {
        let spec = &self.task.spec;
        let gate = spec.gate_rules.as_ref().map(|r| r.gate.clone()).unwrap_or_default();
        Watch::new(&gate, &spec.gates, &prefix.to_string_lossy())
    }

    /// git with time for the files of a whole tree.
    fn patient_git(&self) -> Git {
        self.daemon.git.clone().with_limit(Duration::from_millis(self.task.spec.timeouts.prepare_ms))
    }

    /// The folder of this attempt's checkouts.
    fn folder(&self) -> PathBuf {
        self.daemon.state.gates().join(format!("{}.{}", self.key.task, self.key.fence))
    }

    fn checkout(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// What the processes of this attempt's gates are known by.
    fn mark(&self) -> String {
        self.folder().to_string_lossy().into_owned()
    }

    /// Ends what this attempt's gates started, whoever started them and wherever it went, and removes what they ran on.
    /// May be said any number of times.
    pub(super) async fn end_gate(&self) {
        clear(&self.mark(), self.folder()).await;
    }
}

/// The files that a gate rests on and that are not as they were.
async fn edited(
    shadow: &Shadow,
    watch: &Watch,
    commit: &str,
    tree: &str,
    base: &Base,
    fresh: bool,
) -> Result<Vec<String>, ShadowError> {
    let mut edited = Vec::new();
    for change in shadow.changes(commit, tree).await? {
        let path = &change.path;
        // What is put back decides nothing; what was so before the agent came is not its doing.
        let put_back = fresh && watch.is_protected(path);
        if put_back || !watch.rests_on(path) || base.before.get(path).is_some_and(|was| *was == change.new) {
            continue;
        }
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && path.ends_with(".json")
            && gate_files::is_harmless(path, &shadow.blob(old).await?, &shadow.blob(new).await?)
        {
            continue;
        }
        edited.push(change.path);
        if edited.len() == MAX_NAMED {
            break;
        }
    }
    Ok(edited)
}

/// The folder `prefix` of a checkout, made where git has nothing to put into it. A link in the result leads nowhere (T17).
fn beneath(top: &Path, prefix: &Path) -> Result<PathBuf, String> {
    let mut folder = top.to_owned();
    for part in prefix.components() {
        folder.push(part);
        match std::fs::symlink_metadata(&folder) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err("is no folder".into()),
            Err(_) => std::fs::create_dir(&folder).map_err(|e| e.to_string())?,
        }
    }
    Ok(folder)
}

async fn clear(mark: &str, folder: PathBuf) {
    marked::end(mark).await;
    match tokio::task::spawn_blocking(move || shadow::remove(&folder).map_err(|e| (folder, e))).await {
        Ok(Err((folder, e))) => tracing::warn!(folder = %folder.display(), error = %e, "remove a checkout"),
        Err(e) => tracing::error!(error = %e, "remove a checkout"),
        Ok(Ok(())) => {}
    }
}

/// Ends and removes what gates of attempts that are over left behind when a daemon was killed.
pub(crate) async fn sweep(daemon: Arc<Daemon>) {
    let root = daemon.state.gates();
    let left: Vec<_> = std::fs::read_dir(&root).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    let Ok(live) = daemon.store.live_attempts().await else { return };
    let live: Vec<_> = live.iter().map(|(a, _)| format!("{}.{}", a.key.task, a.key.fence)).collect();
    for name in left.iter().filter(|name| !live.iter().any(|l| *name == l.as_str())) {
        let folder = root.join(name);
        clear(&folder.to_string_lossy(), folder.clone()).await;
    }
}
