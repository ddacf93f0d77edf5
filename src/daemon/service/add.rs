//! `task add`: what cannot work is refused here, before anything is stored.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{bad, refuse};
use crate::assign::deliver;
use crate::assign::env::{self, Origin};
use crate::assign::gate_files;
use crate::assign::git::{Branch, Facts, Place};
use crate::assign::setup;
use crate::config::Config;
use crate::ctl::Refusal;
use crate::daemon::Daemon;
use crate::daemon::rpc::Submission;
use crate::ids::TaskId;
use crate::queue::task::{GateRules, PromptKind, TaskSpec, TaskState, TreeRule};

/// Longest prompt, in bytes (F35).
const MAX_PROMPT_BYTES: usize = 1024 * 1024;

/// Tasks in one submission.
const MAX_BATCH: usize = 10_000;

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// The task.
    pub id: TaskId,
    /// Its state.
    pub state: TaskState,
    /// False where one with the same idempotency key was there before.
    pub created: bool,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Where it will go, and what was changed or looks odd, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What git said about folders during one submission: a batch of thousands is usually for one.
#[derive(Default)]
struct Looked {
    places: HashMap<PathBuf, Place>,
    met: HashSet<(PathBuf, bool)>,
    lacks: HashMap<PathBuf, Vec<String>>,
}

impl Daemon {
    /// Adds all of these tasks or none.
    pub async fn add_tasks(&self, submissions: Vec<Submission>) -> Result<Vec<Added>, Refusal> {
        if submissions.len() > MAX_BATCH {
            return Err(bad(format!("{} tasks at once are too many; send at most {MAX_BATCH}", submissions.len())));
        }
        let many = submissions.len() > 1;
        let mut specs = Vec::with_capacity(submissions.len());
        let mut notes = Vec::with_capacity(submissions.len());
        let mut looked = Looked::default();
        for (n, submission) in submissions.into_iter().enumerate() {
            let (spec, said) = self.check(submission, &mut looked).await.map_err(|e| match many {
                true => Refusal { message: format!("task {} of the batch: {}", n + 1, e.message), ..e },
                false => e,
            })?;
            specs.push(spec);
            notes.push(said);
        }
        let mut all = Vec::with_capacity(specs.len());
        for (added, notes) in self.store.add_tasks(specs).await?.into_iter().zip(notes) {
            let task = self.store.task(added.id).await?;
            let notes = match added.created {
                true => notes,
                false => vec![format!("task {} has the same idempotency key: nothing was added", added.id)],
            };
            all.push(Added {
                id: added.id,
                state: task.state,
                created: added.created,
                waiting_for: task.waiting_for,
                notes,
            });
        }
        Ok(all)
    }

    /// Checks a submission and fills in what is pinned now; the notes say what it came to.
    async fn check(&self, submission: Submission, looked: &mut Looked) -> Result<(TaskSpec, Vec<String>), Refusal> {
        let Submission { mut spec, typed, branch_here } = submission;
        let mut notes = Vec::new();
        check_prompt(&mut spec, &mut notes)?;
        check_folder(&spec.cwd)?;
        let facts = self.check_branch(&mut spec, branch_here, looked, &mut notes).await?;
        self.pin_gates(&mut spec, facts.as_ref(), looked, &mut notes).await?;
        let tree = facts.as_ref().map(|f| (f.top.as_path(), f.common_dir.as_path()));
        if looked.met.insert((spec.cwd.clone(), typed)) {
            notes.extend(self.meet(&spec.cwd, tree, typed).await?);
        }
        let origin = if typed { Origin::Local } else { Origin::Foreign };
        for name in env::check(&spec.env, origin).map_err(|e| refuse(e.reason(), e))? {
            notes.push(format!("{name} decides what programs load or run; it is passed on as you typed it"));
        }
        self.check_target(&spec, &mut notes).await?;
        if spec.max_attempts == 0 {
            return Err(bad("a task needs at least one attempt"));
        }
        if let Some(other) = spec.continue_task {
            self.store.task(other).await?;
        }
        Ok((spec, notes))
    }

    /// Pins how the gates run, and says what a fresh checkout will lack.
    async fn pin_gates(
        &self,
        spec: &mut TaskSpec,
        facts: Option<&Facts>,
        looked: &mut Looked,
        notes: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        spec.gate_rules = None;
        if spec.gates.is_empty() {
            return Ok(());
        }
        let root = facts.map_or(&spec.cwd, |f| &f.top);
        let worktree = Config::project(root).map_err(bad)?;
        let mut gate = self.config().gate_of(root).map_err(bad)?;
        gate.fresh &= !spec.gate_in_place;
        if let Some(facts) = facts.filter(|_| gate.fresh && worktree.setup.is_empty()) {
            if !looked.lacks.contains_key(&facts.top) {
                let lacks = setup::missing(&self.git, &facts.top, &worktree).await;
                looked.lacks.insert(facts.top.clone(), lacks);
            }
            let lacks = &looked.lacks[&facts.top];
            if !lacks.is_empty() {
                notes.push(format!(
                    "the gate runs on a fresh checkout, without what git ignores ({}): name what it needs under \
                     [worktree] in .orchwrap.toml, or say --gate-in-place",
                    gate_files::summary(lacks)
                ));
            }
        }
        spec.gate_rules = Some(GateRules::pinned(gate, worktree, &spec.gates));
        Ok(())
    }

    /// Pins the branch and what a missing one is made from.
    async fn check_branch(
        &self,
        spec: &mut TaskSpec,
        here: bool,
        looked: &mut Looked,
        notes: &mut Vec<String>,
    ) -> Result<Option<Facts>, Refusal> {
        let wanted = spec.branch.as_deref().map(str::parse::<Branch>).transpose().map_err(bad)?;
        let place = match looked.places.get(&spec.cwd) {
            Some(known) => Ok(known.clone()),
            None => self.git.place(&spec.cwd).await,
        };
        if let Ok(place) = &place {
            looked.places.entry(spec.cwd.clone()).or_insert_with(|| place.clone());
        }
        let facts = match (place, &wanted) {
            (Ok(Place::Tree(facts)), _) => facts,
            (Ok(Place::Bare), Some(_)) | (Ok(Place::None), Some(_)) => {
                let cwd = spec.cwd.display();
                return Err(bad(format!(
                    "{cwd} is in no working tree of git; leave --branch out or choose another folder"
                )));
            }
            (Err(e), Some(_)) => return Err(refuse(e.reason(), e)),
            // Without git, or outside a repository, the folder is all there is.
            (other, None) => {
                if let Err(e) = other {
                    notes.push(format!("{e}; the task works in the folder as it stands"));
                }
                if spec.base.is_some() || matches!(spec.tree, TreeRule::Isolate | TreeRule::InPlace) {
                    return Err(bad(format!("{} is in no working tree of git", spec.cwd.display())));
                }
                return Ok(None);
            }
        };
        if wanted.is_none() && here {
            match facts.head.branch().map(|b| b.parse::<Branch>()) {
                Some(Ok(branch)) => spec.branch = Some(branch.to_string()),
                Some(Err(e)) => notes.push(format!("{e}; the task works in the folder as it stands")),
                None => {}
            }
        }
        let base = spec.base.clone();
        spec.base_sha = match &base {
            Some(base) => match self.git.sha(&facts.top, base).await {
                Ok(Some(sha)) => Some(sha),
                Ok(None) => return Err(bad(format!("{base} names no commit here"))),
                Err(e) => return Err(refuse(e.reason(), e)),
            },
            None => facts.head.sha().map(str::to_owned),
        };
        Ok(Some(facts))
    }

    /// Checks whom the task is for. A pool or session that is not there yet may come; an agent nobody knows does not.
    async fn check_target(&self, spec: &TaskSpec, notes: &mut Vec<String>) -> Result<(), Refusal> {
        let packs = self.packs();
        if let Some(agent) = spec.agent.as_ref().filter(|a| packs.get(a).is_none()) {
            let near = packs.nearest(agent);
            let hint = if near.is_empty() {
                "see: orchwrap patterns ls".into()
            } else {
                format!("the nearest: {}", near.join(", "))
            };
            return Err(bad(format!("no agent is called {agent}; {hint}")));
        }
        if let (Some(pool), Some(agent)) = (&spec.pool, &spec.agent)
            && let Ok(known) = self.store.pool(pool).await
            && known.spec.pack != *agent
        {
            return Err(bad(format!("pool {pool} is of {}: it never takes a task for {agent}", known.spec.pack)));
        }
        let sessions = self.store.sessions().await?;
        let fits = sessions.iter().filter(|s| {
            s.spec.takes_tasks
                && spec.session.as_ref().is_none_or(|n| *n == s.spec.name)
                && spec.pool.as_ref().is_none_or(|n| Some(n) == s.spec.pool.as_ref())
                && spec.agent.as_ref().is_none_or(|a| *a == s.spec.pack)
        });
        let names: Vec<_> = fits.map(|s| s.spec.name.to_string()).collect();
        notes.push(match (names.as_slice(), &spec.session, &spec.pool, &spec.agent) {
            ([], Some(name), _, _) => format!("no session {name} takes tasks; it waits until one does"),
            ([], None, Some(pool), _) => format!("no pool {pool} is up; start it with: orchwrap pool up {pool}"),
            ([], None, None, Some(agent)) => {
                format!("no session of {agent} yet; start some with: orchwrap pool up {agent} --agent {agent}")
            }
            ([], None, None, None) => "no session yet; start some with: orchwrap pool up NAME --agent AGENT".into(),
            ([one], ..) => format!("for {one}"),
            (many, ..) => format!("for the best of {}", many.join(", ")),
        });
        Ok(())
    }
}

fn check_prompt(spec: &mut TaskSpec, notes: &mut Vec<String>) -> Result<(), Refusal> {
    let (prompt, cleaned) = deliver::clean(&spec.prompt);
    if prompt.trim().is_empty() {
        return Err(bad("the prompt is empty"));
    }
    if prompt.len() > MAX_PROMPT_BYTES {
        return Err(refuse(
            "prompt_too_large",
            format!("the prompt has {} bytes; at most {MAX_PROMPT_BYTES} can be typed", prompt.len()),
        ));
    }
    if cleaned {
        notes.push("control characters were taken out of the prompt".into());
    }
    if spec.kind == PromptKind::Text && deliver::command_like(&prompt) {
        return Err(refuse(
            "command_like",
            "the prompt looks like a command of the agent: say --as-command to run it as one, or --literal to send it as text",
        ));
    }
    spec.prompt = prompt;
    Ok(())
}

fn check_folder(cwd: &Path) -> Result<(), Refusal> {
    if !cwd.is_absolute() {
        return Err(bad(format!("the folder must be an absolute path, not {}", cwd.display())));
    }
    match std::fs::metadata(cwd) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(refuse("cwd_missing", format!("{} is no folder", cwd.display()))),
        Err(e) => Err(refuse("cwd_missing", format!("use folder {}: {e}", cwd.display()))),
    }
}
