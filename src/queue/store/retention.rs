//! Forgetting: what is older than anybody wants, and what somebody wants gone.

use rusqlite::params;

use super::{Store, StoreError, Tx, micros};
use crate::clock::Timestamp;
use crate::ids::{RunId, TaskId};

/// Rows removed in one transaction: others wait no longer than for that.
const STEP: usize = 500;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ended tasks, with their attempts, gates and steps.
    pub tasks: usize,
    /// Ended runs.
    pub runs: usize,
    /// Events.
    pub events: usize,
}

impl Tx<'_> {
    /// Removes one step's worth of what ended before `before`. A task stays while another depends on it.
    pub fn prune(&mut self, before: Timestamp) -> Result<Pruned, StoreError> {
        let args = params![micros(before), i64::try_from(STEP).expect("small")];
        let delete = |sql: &str| -> Result<usize, StoreError> { Ok(self.conn.prepare_cached(sql)?.execute(args)?) };
        Ok(Pruned {
            tasks: delete(
                "DELETE FROM tasks WHERE id IN (
                     SELECT id FROM tasks t WHERE state IN ('completed', 'failed', 'cancelled', 'timed_out')
                       AND changed_us < ?1 AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.task = t.id AND a.live = 1)
                       AND NOT EXISTS (SELECT 1 FROM task_deps d JOIN tasks o ON o.id = d.task
                                       WHERE d.dep = t.id AND d.met = 0)
                     LIMIT ?2)",
            )?,
            runs: delete("DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE ended_us < ?1 LIMIT ?2)")?,
            events: delete(
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE ts_us < ?1 ORDER BY id LIMIT ?2)",
            )?,
        })
    }

    /// Removes an ended task and all that is known of it. Its number is not given again.
    pub fn forget_task(&mut self, id: TaskId) -> Result<(), StoreError> {
        let task = super::tasks::get(self.conn, id)?;
        let mut live = self.conn.prepare_cached("SELECT 1 FROM attempts WHERE task = ? AND live = 1")?;
        if !task.state.is_final() || live.exists([id.0])? {
            return Err(StoreError::NotNow { task: id, state: task.state, verb: "forget" });
        }
        drop(live);
        for sql in [
            "DELETE FROM approvals WHERE task = ?",
            "DELETE FROM events WHERE task = ?",
            "DELETE FROM tasks WHERE id = ?",
        ] {
            self.conn.prepare_cached(sql)?.execute([id.0])?;
        }
        Ok(())
    }

    /// Removes an ended run with its events.
    pub fn forget_run(&mut self, id: &RunId) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM approvals WHERE run = ?",
            "DELETE FROM events WHERE run = ?",
            "DELETE FROM runs WHERE id = ? AND ended_us IS NOT NULL",
        ] {
            self.conn.prepare_cached(sql)?.execute([id.as_str()])?;
        }
        Ok(())
    }
}

impl Store {
    /// Removes what ended before `before`, a little at a time.
    pub async fn prune(&self, before: Timestamp) -> Result<Pruned, StoreError> {
        let mut all = Pruned::default();
        loop {
            let step = self.write(move |tx| tx.prune(before)).await?;
            all.tasks += step.tasks;
            all.runs += step.runs;
            all.events += step.events;
            if step.tasks.max(step.runs).max(step.events) < STEP {
                return Ok(all);
            }
        }
    }

    /// Removes an ended task and all that is known of it.
    pub async fn forget_task(&self, id: TaskId) -> Result<(), StoreError> {
        self.write(move |tx| tx.forget_task(id)).await
    }

    /// Removes an ended run with its events.
    pub async fn forget_run(&self, id: &RunId) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(move |tx| tx.forget_run(&id)).await
    }
}
