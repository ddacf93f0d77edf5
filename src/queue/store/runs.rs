//! Runs: the daemon's row of each, with how far its journal was read.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{EventFilter, Store, StoreError, Tx, from_json, micros, opt_time, time, to_json};
use crate::clock::Timestamp;
use crate::extract::event::{Body, Event, SessionState};
use crate::ids::{Name, RunId};
use crate::run::RunSpec;

const COLUMNS: &str = "spec, cursor, created_us, ended_us, end_reason, code, signal";

/// Changes of state in which a run that came up at all has been idle.
const STATES_LOOKED_AT: usize = 100;

/// A run, as the daemon knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// How it was launched.
    #[serde(flatten)]
    pub spec: RunSpec,
    /// Last line of its journal that was ingested.
    pub cursor: u64,
    /// When it was registered.
    pub registered: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// How it ended: the reason of its `run.exited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// Exit code of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal that ended the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

fn run(row: &Row<'_>) -> Result<RunRow, StoreError> {
    let spec: String = row.get(0)?;
    let cursor: i64 = row.get(1)?;
    Ok(RunRow {
        spec: from_json(&spec)?,
        cursor: cursor.unsigned_abs(),
        registered: time(row.get(2)?)?,
        ended: opt_time(row.get(3)?)?,
        end_reason: row.get(4)?,
        code: row.get(5)?,
        signal: row.get(6)?,
    })
}

fn select(conn: &Connection, filter: &str, args: impl rusqlite::Params) -> Result<Vec<RunRow>, StoreError> {
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM runs {filter}"))?;
    let mut rows = select.query(args)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(run(row)?);
    }
    Ok(found)
}

pub(super) fn cursor(conn: &Connection, run: &RunId) -> Result<u64, StoreError> {
    let mut select = conn.prepare_cached("SELECT cursor FROM runs WHERE id = ?")?;
    let cursor: Option<i64> = select.query_row([run.as_str()], |r| r.get(0)).optional()?;
    cursor.map(i64::unsigned_abs).ok_or_else(|| StoreError::NoRun(run.clone()))
}

impl Tx<'_> {
    /// Registers a run; one that is known stays as it is.
    pub fn add_run(&mut self, spec: &RunSpec) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "INSERT INTO runs (id, session, spec, task, fence, created_us) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (id) DO NOTHING",
            )?
            .execute(params![
                spec.run.as_str(),
                spec.session.as_str(),
                to_json(spec),
                spec.attempt.map(|a| a.task.0),
                spec.attempt.map(|a| a.fence),
                micros(spec.created),
            ])?;
        Ok(())
    }

    /// Records the end of a run whose wrapper could not journal it, with an event. False where its end is known.
    pub fn end_run(
        &mut self,
        id: &RunId,
        reason: &str,
        code: Option<i32>,
        signal: Option<i32>,
    ) -> Result<bool, StoreError> {
        if !self.mark_ended(id, self.now, reason, code, signal)? {
            return Ok(false);
        }
        let rows = select(self.conn, "WHERE id = ?", [id.as_str()])?;
        let spec = rows.into_iter().next().ok_or_else(|| StoreError::NoRun(id.clone()))?.spec;
        let body = Body::RunExited { code, signal, reason: reason.to_owned() };
        self.set_state_of(id, SessionState::Exited, self.now)?;
        self.daemon_event(body, "daemon.run_lost", spec.attempt, Some(spec.session), Some(id.clone()))?;
        Ok(true)
    }

    fn mark_ended(
        &mut self,
        id: &RunId,
        at: Timestamp,
        reason: &str,
        code: Option<i32>,
        signal: Option<i32>,
    ) -> Result<bool, StoreError> {
        let n = self
            .conn
            .prepare_cached(
                "UPDATE runs SET ended_us = ?2, end_reason = ?3, code = ?4, signal = ?5
                 WHERE id = ?1 AND ended_us IS NULL",
            )?
            .execute(params![id.as_str(), micros(at), reason, code, signal])?;
        Ok(n == 1)
    }

    /// Keeps what an event of a run's journal says about the run and the session it is the current run of.
    pub(super) fn mirror(&mut self, id: &RunId, event: &Event) -> Result<(), StoreError> {
        match &event.body {
            Body::RunExited { code, signal, reason } => {
                self.mark_ended(id, event.ts, reason, *code, *signal)?;
                self.set_state_of(id, SessionState::Exited, event.ts)
            }
            Body::State { state, .. } => self.set_state_of(id, *state, event.ts),
            _ => Ok(()),
        }
    }
}

impl Store {
    /// Registers a run; one that is known stays as it is.
    pub async fn add_run(&self, spec: RunSpec) -> Result<(), StoreError> {
        self.write(move |tx| tx.add_run(&spec)).await
    }

    /// Records the end of a run whose wrapper could not; see [`Tx::end_run`].
    pub async fn end_run(
        &self,
        id: RunId,
        reason: &str,
        code: Option<i32>,
        signal: Option<i32>,
    ) -> Result<bool, StoreError> {
        let reason = reason.to_owned();
        self.write(move |tx| tx.end_run(&id, &reason, code, signal)).await
    }

    /// The run, if it is known.
    pub async fn run(&self, id: RunId) -> Result<Option<RunRow>, StoreError> {
        self.read(move |conn| Ok(select(conn, "WHERE id = ?", [id.as_str()])?.into_iter().next())).await
    }

    /// Whether the run was idle at any time: its agent had come up.
    pub async fn was_ready(&self, id: RunId) -> Result<bool, StoreError> {
        let filter = EventFilter { run: Some(id), kinds: vec!["state".to_owned()], ..EventFilter::default() };
        let states = self.events(filter, 0, STATES_LOOKED_AT).await?;
        Ok(states.iter().any(|e| matches!(e.body, Body::State { state: SessionState::Idle, .. })))
    }

    /// Runs without an end, oldest first.
    pub async fn live_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.read(|conn| select(conn, "WHERE ended_us IS NULL ORDER BY created_us", [])).await
    }

    /// The runs of a session, newest first.
    pub async fn runs_of(&self, session: Name, limit: usize) -> Result<Vec<RunRow>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |conn| {
            select(conn, "WHERE session = ? ORDER BY created_us DESC LIMIT ?", params![session.as_str(), limit])
        })
        .await
    }

    /// Last line of the run's journal that was ingested; 0 is none.
    pub async fn cursor(&self, run: RunId) -> Result<u64, StoreError> {
        self.read(move |conn| cursor(conn, &run)).await
    }
}
