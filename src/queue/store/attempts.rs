//! Attempts: the claim, what was done on the way, the end.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tasks::{self, Change};
use super::{Store, StoreError, Tx, from_json, micros, opt_parse, opt_time, parse, time, to_json};
use crate::assign::score::Score;
use crate::clock::Timestamp;
use crate::ids::{AttemptKey, Name, RunId, TaskId};
use crate::queue::schedule::Assignment;
use crate::queue::task::{Task, TaskState};

const COLUMNS: &str = "task, fence, attempt, session, live, tree, worktree, context_hash, run, conversation, score, \
                       started_us, ended_us, outcome, reason, detail, charged";

/// A claim that was granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The task, in state `claimed`.
    pub task: Task,
    /// The right to act on it.
    pub key: AttemptKey,
    /// The session that is its own until the attempt ends.
    pub session: Name,
}

/// One try of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The task, the number of the attempt and its fence.
    #[serde(flatten)]
    pub key: AttemptKey,
    /// The session.
    pub session: Name,
    /// It holds its session and tree.
    pub live: bool,
    /// The working tree it holds alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<PathBuf>,
    /// Where it works, shared or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<PathBuf>,
    /// Hash of the prepared context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_hash: Option<String>,
    /// The one run that is sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Its conversation, as the agent calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Why this session.
    pub score: Score,
    /// When it was claimed.
    pub started: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// State of the task that it ended in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<TaskState>,
    /// Machine-readable reason of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// It counts against the task's limit.
    pub charged: bool,
}

/// What is learnt about a live attempt; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptChange {
    /// Where it works.
    pub worktree: Option<PathBuf>,
    /// Hash of the prepared context.
    pub context_hash: Option<String>,
    /// The run that will be sent to.
    pub run: Option<RunId>,
    /// Its conversation.
    pub conversation: Option<String>,
}

/// One step of an attempt, kept so that it can be redone or undone after a crash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Counts from 1.
    pub n: u32,
    /// Its name.
    pub step: String,
    /// What it needs to be redone.
    pub data: Value,
    /// When.
    pub at: Timestamp,
}

fn attempt(row: &Row<'_>) -> Result<Attempt, StoreError> {
    let opt = |n: usize| -> Result<Option<String>, StoreError> { Ok(row.get(n)?) };
    let outcome = opt(13)?
        .map(|s| TaskState::parse(&s).ok_or_else(|| StoreError::Value(format!("task state {s:?}"))))
        .transpose()?;
    Ok(Attempt {
        key: AttemptKey { task: TaskId(row.get(0)?), fence: row.get(1)?, attempt: row.get(2)? },
        session: parse(row.get(3)?)?,
        live: row.get(4)?,
        tree: opt(5)?.map(PathBuf::from),
        worktree: opt(6)?.map(PathBuf::from),
        context_hash: opt(7)?,
        run: opt_parse(opt(8)?)?,
        conversation: opt(9)?,
        score: opt(10)?.map_or(Ok(Score::default()), |s| from_json(&s))?,
        started: time(row.get(11)?)?,
        ended: opt_time(row.get(12)?)?,
        outcome,
        reason: opt(14)?,
        detail: opt(15)?,
        charged: row.get(16)?,
    })
}

fn select(conn: &Connection, filter: &str, args: impl rusqlite::Params) -> Result<Vec<Attempt>, StoreError> {
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM attempts {filter}"))?;
    let mut rows = select.query(args)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(attempt(row)?);
    }
    Ok(found)
}

/// Every attempt that holds a session, with its task.
pub(super) fn live(conn: &Connection) -> Result<Vec<(Attempt, Task)>, StoreError> {
    let live = select(conn, "WHERE live = 1 ORDER BY task", [])?;
    live.into_iter().map(|a| tasks::get(conn, a.key.task).map(|t| (a, t))).collect()
}

impl Tx<'_> {
    /// Claims a task for a session: none where either is not free any more.
    ///
    /// The one statement that matters is the UPDATE; the unique indexes on live attempts hold even without it.
    pub fn claim(&mut self, claim: &Assignment) -> Result<Option<Claimed>, StoreError> {
        if self.low {
            return Err(StoreError::Full);
        }
        let mut update = self.conn.prepare_cached(
            "UPDATE tasks SET was = state, state = 'claimed', fence = fence + 1, attempts = attempts + 1,
                 changed_us = :now, reason = NULL, detail = NULL, waiting_for = NULL, last_session = :session
             WHERE id = :task AND state = 'queued' AND deps_open = 0 AND due_us IS NULL
               AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.live = 1 AND (a.task = :task OR a.session = :session))
             RETURNING fence, attempts",
        )?;
        let args = named_params! {
            ":task": claim.task.0, ":session": claim.session.as_str(), ":now": micros(self.now)
        };
        let granted: Option<(i64, u32)> = update.query_row(args, |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
        drop(update);
        let Some((fence, attempt)) = granted else { return Ok(None) };
        let key = AttemptKey { task: claim.task, attempt, fence };
        self.conn
            .prepare_cached(
                "INSERT INTO attempts (task, fence, attempt, session, score, started_us) VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                key.task.0,
                key.fence,
                key.attempt,
                claim.session.as_str(),
                to_json(&claim.score),
                micros(self.now)
            ])?;
        let body = crate::extract::event::Body::TaskState {
            state: TaskState::Claimed.as_str().to_owned(),
            was: TaskState::Queued.as_str().to_owned(),
            reason: None,
        };
        self.daemon_event(body, "queue.claim", Some(key), Some(claim.session.clone()), None)?;
        Ok(Some(Claimed { task: tasks::get(self.conn, claim.task)?, key, session: claim.session.clone() }))
    }

    /// Ends an attempt and frees its session and tree. Idempotent.
    ///
    /// [`Tx::transition`] out of the live states does it by itself; only after a human's verb, which takes the fence,
    /// the driver says it once the agent has stopped.
    pub fn end_attempt(
        &mut self,
        key: AttemptKey,
        outcome: Option<TaskState>,
        change: &Change,
    ) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "UPDATE attempts SET live = 0, ended_us = :now, reason = :reason, detail = :detail,
                     charged = :charged, outcome = COALESCE(:outcome, (SELECT state FROM tasks WHERE id = :task))
                 WHERE task = :task AND fence = :fence AND live = 1",
            )?
            .execute(named_params! {
                ":task": key.task.0,
                ":fence": key.fence,
                ":now": micros(self.now),
                ":reason": change.reason,
                ":detail": change.detail,
                ":charged": !change.uncharged,
                ":outcome": outcome.map(TaskState::as_str),
            })?;
        Ok(())
    }

    /// Takes a working tree for an attempt alone; the task that has it where it is taken.
    pub fn take_tree(&mut self, key: AttemptKey, tree: &std::path::Path) -> Result<Result<(), TaskId>, StoreError> {
        let tree = tree.to_string_lossy();
        let mut holder = self.conn.prepare_cached(
            "SELECT task FROM attempts WHERE tree = ?1 AND live = 1 AND NOT (task = ?2 AND fence = ?3)",
        )?;
        if let Some(task) = holder.query_row(params![tree, key.task.0, key.fence], |r| r.get(0)).optional()? {
            return Ok(Err(TaskId(task)));
        }
        let n = self
            .conn
            .prepare_cached("UPDATE attempts SET tree = ?3 WHERE task = ?1 AND fence = ?2 AND live = 1")?
            .execute(params![key.task.0, key.fence, tree])?;
        if n == 1 { Ok(Ok(())) } else { Err(StoreError::Fenced(key)) }
    }

    /// Keeps what was learnt about a live attempt; the task shows its worktree and run.
    pub fn update_attempt(&mut self, key: AttemptKey, change: &AttemptChange) -> Result<bool, StoreError> {
        let worktree = change.worktree.as_ref().map(|p| p.to_string_lossy());
        let run = change.run.as_ref().map(RunId::as_str);
        let n = self
            .conn
            .prepare_cached(
                "UPDATE attempts SET worktree = COALESCE(?3, worktree), context_hash = COALESCE(?4, context_hash),
                     run = COALESCE(?5, run), conversation = COALESCE(?6, conversation)
                 WHERE task = ?1 AND fence = ?2 AND live = 1",
            )?
            .execute(params![key.task.0, key.fence, worktree, change.context_hash, run, change.conversation])?;
        self.conn
            .prepare_cached(
                "UPDATE tasks SET worktree = COALESCE(?3, worktree), last_run = COALESCE(?4, last_run)
                 WHERE id = ?1 AND fence = ?2",
            )?
            .execute(params![key.task.0, key.fence, worktree, run])?;
        Ok(n == 1)
    }

    /// Notes a step before or after it is done; returns its number.
    pub fn attempt_step(&mut self, key: AttemptKey, step: &str, data: &Value) -> Result<u32, StoreError> {
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO attempt_steps (task, fence, n, step, data, at_us)
             SELECT ?1, ?2, COALESCE(max(n), 0) + 1, ?3, ?4, ?5 FROM attempt_steps WHERE task = ?1 AND fence = ?2
             RETURNING n",
        )?;
        let args = params![key.task.0, key.fence, step, to_json(data), micros(self.now)];
        Ok(insert.query_row(args, |r| r.get(0))?)
    }
}

impl Store {
    /// Claims these; returns those granted.
    pub async fn claim(&self, claims: Vec<Assignment>) -> Result<Vec<Claimed>, StoreError> {
        self.write(move |tx| claims.iter().filter_map(|c| tx.claim(c).transpose()).collect()).await
    }

    /// Ends an attempt whose task a human has decided; see [`Tx::end_attempt`].
    pub async fn end_attempt(&self, key: AttemptKey, change: Change) -> Result<(), StoreError> {
        self.write(move |tx| tx.end_attempt(key, None, &change)).await
    }

    /// Takes a working tree for an attempt alone; the task that has it where it is taken.
    pub async fn take_tree(&self, key: AttemptKey, tree: PathBuf) -> Result<Result<(), TaskId>, StoreError> {
        self.write(move |tx| tx.take_tree(key, &tree)).await
    }

    /// Keeps what was learnt about a live attempt; false where it is over.
    pub async fn update_attempt(&self, key: AttemptKey, change: AttemptChange) -> Result<bool, StoreError> {
        self.write(move |tx| tx.update_attempt(key, &change)).await
    }

    /// Notes a step; returns its number.
    pub async fn attempt_step(&self, key: AttemptKey, step: &str, data: Value) -> Result<u32, StoreError> {
        let step = step.to_owned();
        self.write(move |tx| tx.attempt_step(key, &step, &data)).await
    }

    /// The steps of an attempt, in order.
    pub async fn attempt_steps(&self, key: AttemptKey) -> Result<Vec<Step>, StoreError> {
        self.read(move |conn| {
            let mut select = conn.prepare_cached(
                "SELECT n, step, data, at_us FROM attempt_steps WHERE task = ? AND fence = ? ORDER BY n",
            )?;
            let mut rows = select.query([key.task.0, key.fence])?;
            let mut steps = Vec::new();
            while let Some(row) = rows.next()? {
                let data: String = row.get(2)?;
                let at = time(row.get(3)?)?;
                steps.push(Step { n: row.get(0)?, step: row.get(1)?, data: from_json(&data)?, at });
            }
            Ok(steps)
        })
        .await
    }

    /// The attempts of a task, oldest first.
    pub async fn attempts(&self, task: TaskId) -> Result<Vec<Attempt>, StoreError> {
        self.read(move |conn| select(conn, "WHERE task = ? ORDER BY fence", [task.0])).await
    }

    /// Every attempt that holds a session, with its task: what a starting daemon has to take up again.
    ///
    /// Where the fence of the task is newer than the attempt's, a human decided meanwhile: stop the agent, then
    /// [`Store::end_attempt`].
    pub async fn live_attempts(&self) -> Result<Vec<(Attempt, Task)>, StoreError> {
        self.read(live).await
    }
}
