//! What an attempt's proof and a human's answers rest on: gates, contexts, approvals.

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Store, StoreError, Tx, from_json, micros, opt_time, parse, time, to_json};
use crate::clock::Timestamp;
use crate::extract::event::{Ask, AskKind, GateSite};
use crate::ids::{AttemptKey, RunId, TaskId};

/// One run of one gate command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRow {
    /// Counts from 1 within the attempt.
    pub n: u32,
    /// The command line.
    pub command: String,
    /// When it was started.
    pub started: Timestamp,
    /// Whether it passed; none: started, and not seen to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
    /// Its exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Tail of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What it ran on.
    #[serde(flatten)]
    pub on: GateSite,
}

/// Something an agent asked, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its number.
    pub id: i64,
    /// The run that asks.
    pub run: RunId,
    /// The task it works for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Permission or question.
    pub kind: AskKind,
    /// Exactly what is asked; its hash binds the answer.
    #[serde(flatten)]
    pub ask: Ask,
    /// When it was asked.
    pub asked: Timestamp,
    /// What we answered; none while open, or where it was answered in the terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// When it was closed, by an answer or because it is asked no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Timestamp>,
}

const APPROVAL: &str = "id, run, task, kind, ask, asked_us, answer, closed_us";

fn approval(row: &Row<'_>) -> Result<Approval, StoreError> {
    let text = |n: usize| -> Result<String, StoreError> { Ok(row.get(n)?) };
    Ok(Approval {
        id: row.get(0)?,
        run: parse(text(1)?)?,
        task: row.get::<_, Option<i64>>(2)?.map(TaskId),
        kind: if text(3)? == "permission" { AskKind::Permission } else { AskKind::Question },
        ask: from_json(&text(4)?)?,
        asked: time(row.get(5)?)?,
        answer: row.get(6)?,
        closed: opt_time(row.get(7)?)?,
    })
}

impl Tx<'_> {
    /// Notes that a gate is started, and on what; returns its number within the attempt.
    pub fn gate_started(&mut self, key: AttemptKey, command: &str, on: &GateSite) -> Result<u32, StoreError> {
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO gates (task, fence, n, command, started_us, site)
             SELECT ?1, ?2, COALESCE(max(n), 0) + 1, ?3, ?4, ?5 FROM gates WHERE task = ?1 AND fence = ?2 RETURNING n",
        )?;
        let args = params![key.task.0, key.fence, command, micros(self.now), to_json(on)];
        Ok(insert.query_row(args, |r| r.get(0))?)
    }

    /// Notes how a gate ended.
    pub fn gate_ended(
        &mut self,
        key: AttemptKey,
        n: u32,
        passed: bool,
        code: Option<i32>,
        output: &str,
        duration_ms: u64,
    ) -> Result<(), StoreError> {
        let duration = i64::try_from(duration_ms).unwrap_or(i64::MAX);
        self.conn
            .prepare_cached(
                "UPDATE gates SET passed = ?4, code = ?5, output = ?6, duration_ms = ?7
                 WHERE task = ?1 AND fence = ?2 AND n = ?3",
            )?
            .execute(params![key.task.0, key.fence, n, passed, code, output, duration])?;
        Ok(())
    }

    /// Opens an approval: the one a run had open before is asked no more. The same question again stays one.
    pub fn ask(&mut self, run: &RunId, key: Option<AttemptKey>, kind: AskKind, ask: &Ask) -> Result<i64, StoreError> {
        let mut same =
            self.conn.prepare_cached("SELECT id FROM approvals WHERE run = ? AND hash = ? AND closed_us IS NULL")?;
        if let Some(id) = same.query_row([run.as_str(), &ask.hash], |r| r.get(0)).optional()? {
            return Ok(id);
        }
        self.close_asks(run)?;
        let kind = match kind {
            AskKind::Permission => "permission",
            AskKind::Question => "question",
        };
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO approvals (run, task, fence, kind, hash, ask, asked_us) VALUES (?, ?, ?, ?, ?, ?, ?)
             RETURNING id",
        )?;
        let (task, fence) = (key.map(|k| k.task.0), key.map(|k| k.fence));
        let args = params![run.as_str(), task, fence, kind, ask.hash, to_json(ask), micros(self.now)];
        Ok(insert.query_row(args, |r| r.get(0))?)
    }

    /// Decides an approval: true for the one answer that was first, bound to what was shown (F71, T32).
    pub fn decide(&mut self, run: &RunId, hash: &str, answer: &str) -> Result<bool, StoreError> {
        let n = self
            .conn
            .prepare_cached(
                "UPDATE approvals SET answer = ?3, answered_us = ?4
                 WHERE run = ?1 AND hash = ?2 AND closed_us IS NULL AND answer IS NULL",
            )?
            .execute(params![run.as_str(), hash, answer, micros(self.now)])?;
        Ok(n == 1)
    }

    /// Takes a decision back that did not reach the agent, so that another can be made.
    pub fn undecide(&mut self, run: &RunId, hash: &str) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "UPDATE approvals SET answer = NULL, answered_us = NULL
                 WHERE run = ?1 AND hash = ?2 AND closed_us IS NULL",
            )?
            .execute(params![run.as_str(), hash])?;
        Ok(())
    }

    /// Takes every decision back whose question is open still: whoever was to deliver it is gone. Delivered twice it is
    /// refused, since it is bound to what was asked.
    pub fn undecide_all(&mut self) -> Result<(), StoreError> {
        let sql =
            "UPDATE approvals SET answer = NULL, answered_us = NULL WHERE closed_us IS NULL AND answer IS NOT NULL";
        self.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Closes what a run asked: it asks no more.
    pub fn close_asks(&mut self, run: &RunId) -> Result<(), StoreError> {
        self.conn
            .prepare_cached("UPDATE approvals SET closed_us = ?2 WHERE run = ?1 AND closed_us IS NULL")?
            .execute(params![run.as_str(), micros(self.now)])?;
        Ok(())
    }

    /// Keeps what a context hash stands for; values of variables must not be in it.
    pub fn add_context(&mut self, hash: &str, context: &Value) -> Result<(), StoreError> {
        self.conn
            .prepare_cached("INSERT INTO contexts (hash, context, created_us) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")?
            .execute(params![hash, to_json(context), micros(self.now)])?;
        Ok(())
    }
}

impl Store {
    /// Notes that a gate is started, and on what; returns its number within the attempt.
    pub async fn gate_started(&self, key: AttemptKey, command: &str, on: &GateSite) -> Result<u32, StoreError> {
        let (command, on) = (command.to_owned(), on.clone());
        self.write(move |tx| tx.gate_started(key, &command, &on)).await
    }

    /// Notes how a gate ended.
    pub async fn gate_ended(
        &self,
        key: AttemptKey,
        n: u32,
        passed: bool,
        code: Option<i32>,
        output: String,
        duration_ms: u64,
    ) -> Result<(), StoreError> {
        self.write(move |tx| tx.gate_ended(key, n, passed, code, &output, duration_ms)).await
    }

    /// The gates of an attempt, in the order they were started.
    pub async fn gates(&self, key: AttemptKey) -> Result<Vec<GateRow>, StoreError> {
        self.read(move |conn| {
            let mut select = conn.prepare_cached(
                "SELECT n, command, started_us, passed, code, output, duration_ms, site FROM gates
                 WHERE task = ? AND fence = ? ORDER BY n",
            )?;
            let mut rows = select.query([key.task.0, key.fence])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(GateRow {
                    n: row.get(0)?,
                    command: row.get(1)?,
                    started: time(row.get(2)?)?,
                    passed: row.get(3)?,
                    code: row.get(4)?,
                    output: row.get(5)?,
                    duration_ms: row.get::<_, Option<i64>>(6)?.map(i64::unsigned_abs),
                    on: row.get::<_, Option<String>>(7)?.map_or(Ok(GateSite::default()), |site| from_json(&site))?,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Opens an approval; see [`Tx::ask`].
    pub async fn ask(&self, run: &RunId, key: Option<AttemptKey>, kind: AskKind, ask: Ask) -> Result<i64, StoreError> {
        let run = run.clone();
        self.write(move |tx| tx.ask(&run, key, kind, &ask)).await
    }

    /// Decides an approval; true for the one answer that was first.
    pub async fn decide(&self, run: &RunId, hash: &str, answer: &str) -> Result<bool, StoreError> {
        let (run, hash, answer) = (run.clone(), hash.to_owned(), answer.to_owned());
        self.write(move |tx| tx.decide(&run, &hash, &answer)).await
    }

    /// Takes a decision back that did not reach the agent.
    pub async fn undecide(&self, run: &RunId, hash: &str) -> Result<(), StoreError> {
        let (run, hash) = (run.clone(), hash.to_owned());
        self.write(move |tx| tx.undecide(&run, &hash)).await
    }

    /// Closes what a run asked.
    pub async fn close_asks(&self, run: &RunId) -> Result<(), StoreError> {
        let run = run.clone();
        self.write(move |tx| tx.close_asks(&run)).await
    }

    /// What is asked and not closed, oldest first; of one task, or of all.
    pub async fn open_asks(&self, task: Option<TaskId>) -> Result<Vec<Approval>, StoreError> {
        self.read(move |conn| {
            let mut select = conn.prepare_cached(&format!(
                "SELECT {APPROVAL} FROM approvals WHERE closed_us IS NULL AND (?1 IS NULL OR task = ?1) ORDER BY id"
            ))?;
            let mut rows = select.query([task.map(|t| t.0)])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(approval(row)?);
            }
            Ok(found)
        })
        .await
    }

    /// Keeps what a context hash stands for.
    pub async fn add_context(&self, hash: &str, context: Value) -> Result<(), StoreError> {
        let hash = hash.to_owned();
        self.write(move |tx| tx.add_context(&hash, &context)).await
    }
}
