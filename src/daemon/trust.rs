//! Trust in what configures agents in a repository: known on first use, asked about when it is new or changed (T16).
//!
//! First use is a task that the local user typed in that repository: what stands there then is what they work with, and
//! `task add` says so. Whatever comes later, from an agent, a branch or a colleague, waits for `task answer ID yes`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Daemon;
use super::service::{bad, refuse};
use crate::assign::gate_files::summary;
use crate::assign::git::GitError;
use crate::assign::inventory::{self, Item};
use crate::config::Config;
use crate::ctl::Refusal;
use crate::ids::TaskId;
use crate::queue::store::StoreError;
use crate::queue::task::Task;
use crate::queue::transition::Verb;

/// Reason of a review that asks about configuration, and name of the attempt's step that holds what is asked.
pub(crate) const REASON: &str = "config_changed";

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doubt {
    place: String,
    items: Vec<Item>,
    /// Which they are, for people.
    pub(crate) words: String,
}

/// Why nobody can say what is there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The name under which a folder's configuration is known, which all working trees of a repository share.
fn place(cwd: &Path, common_dir: Option<&Path>) -> String {
    let of = common_dir.map_or_else(|| cwd.canonicalize().unwrap_or_else(|_| cwd.to_owned()), Path::to_owned);
    of.to_string_lossy().into_owned()
}

impl Daemon {
    /// Gets to know a place when the local user submits a task there; the notes say what is trusted from now on, or what
    /// will be asked about.
    pub(crate) async fn meet(
        &self,
        cwd: &Path,
        tree: Option<(&Path, &Path)>,
        typed: bool,
    ) -> Result<Vec<String>, Refusal> {
        if !typed {
            return Ok(Vec::new());
        }
        let (top, common_dir) = tree.map_or((cwd, None), |(top, common)| (top, Some(common)));
        let files: Vec<String> = self.packs().iter().flat_map(|p| p.config_files.iter().cloned()).collect();
        let found = inventory::take(&self.git, top, cwd, common_dir, &files).await;
        let mut found = found.map_err(|e| refuse(e.reason(), e))?;
        found.extend(set_up(top));
        let place = place(cwd, common_dir);
        match self.store.trusted(&place).await? {
            None => {
                self.store.trust(&place, found.clone()).await?;
                let paths: Vec<_> = found.into_iter().map(|i| i.path).collect();
                let note = format!("configures agents here, and is trusted from now on: {}", summary(&paths));
                Ok(if paths.is_empty() { Vec::new() } else { vec![note] })
            }
            Some(trusted) => {
                let unknown = inventory::unknown(&found, &trusted);
                let paths: Vec<_> =
                    unknown.iter().map(|(i, known)| format!("{} ({})", i.path, known.as_str())).collect();
                let note = format!("configures agents here, and will be asked about: {}", summary(&paths));
                Ok(if paths.is_empty() { Vec::new() } else { vec![note] })
            }
        }
    }

    /// What of a working tree's configuration nobody said yes to.
    pub(crate) async fn doubt(&self, top: &Path, cwd: &Path, files: &[String]) -> Result<Option<Doubt>, TrustError> {
        let common_dir = self.git.common_dir(cwd).await?;
        let found = inventory::take(&self.git, top, cwd, common_dir.as_deref(), files).await?;
        self.weigh(cwd, common_dir.as_deref(), found).await
    }

    /// Whether somebody said yes to the line by which the checkout at `home` makes a new tree ready.
    pub(crate) async fn doubt_of_set_up(&self, home: &Path) -> Result<Option<Doubt>, TrustError> {
        match set_up(home) {
            Some(line) => self.weigh(home, self.git.common_dir(home).await?.as_deref(), vec![line]).await,
            None => Ok(None),
        }
    }

    async fn weigh(&self, cwd: &Path, common: Option<&Path>, found: Vec<Item>) -> Result<Option<Doubt>, TrustError> {
        if found.is_empty() {
            return Ok(None);
        }
        let place = place(cwd, common);
        let trusted = self.store.trusted(&place).await?.unwrap_or_default();
        let unknown = inventory::unknown(&found, &trusted);
        let words: Vec<_> = unknown.iter().map(|(i, known)| format!("{} ({})", i.path, known.as_str())).collect();
        let items: Vec<_> = unknown.into_iter().map(|(item, _)| item.clone()).collect();
        Ok((!items.is_empty()).then(|| Doubt { place, items, words: summary(&words) }))
    }

    /// Takes a human's answer to a doubt: yes is for exactly what was found then, and lets the task begin again.
    pub(crate) async fn settle_doubt(&self, task: &Task, text: &str, hash: Option<&str>) -> Result<Task, Refusal> {
        let id: TaskId = task.id;
        let last = self.store.attempts(id).await?.pop();
        let steps = match last {
            Some(attempt) => self.store.attempt_steps(attempt.key).await?,
            None => Vec::new(),
        };
        let doubt = steps.into_iter().rfind(|s| s.step == REASON).map(|s| serde_json::from_value::<Doubt>(s.data));
        let Some(Ok(doubt)) = doubt else {
            return Err(refuse("not_asking", format!("task {id} asks nothing")));
        };
        if hash.is_some_and(|h| h.len() < 16 || !doubt.hash().starts_with(h)) {
            return Err(refuse("stale_answer", format!("task {id} asks something else: orchwrap task show {id}")));
        }
        let (verb, note) = match text.trim().to_lowercase().as_str() {
            "yes" | "y" => (Verb::Retry, "its configuration is approved"),
            "no" | "n" => (Verb::Fail, "its configuration is refused"),
            _ => return Err(bad("answer yes or no")),
        };
        Ok(self
            .store
            .write(move |tx| {
                if verb == Verb::Retry {
                    tx.trust(&doubt.place, &doubt.items)?;
                }
                tx.say(id, verb, Some(note))
            })
            .await?)
    }
}

impl Doubt {
    /// What an answer is bound to.
    pub(crate) fn hash(&self) -> String {
        Item::new("", serde_json::to_vec(self).expect("texts")).hash
    }
}

/// The project's set-up line: a program that we ourselves start. A file that cannot be read stops the task elsewhere.
fn set_up(top: &Path) -> Option<Item> {
    let rules = Config::project(top).ok()?;
    (!rules.setup.is_empty()).then(|| Item::new(format!("{} (setup)", crate::config::PROJECT_FILE), rules.setup))
}
