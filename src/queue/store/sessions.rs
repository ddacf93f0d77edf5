//! Pools and sessions: durable seats, their processes' ids, and the breaker.

use std::path::PathBuf;

use rusqlite::{Connection, Row, named_params, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, Tx, from_json, micros, opt_parse, opt_time, time, to_json};
use crate::clock::Timestamp;
use crate::extract::event::SessionState;
use crate::ids::{Name, RunId};
use crate::run::Seat;

fn yes() -> bool {
    true
}

/// How the sessions of a pool are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Its name.
    pub name: Name,
    /// What the person called the agent.
    pub agent: String,
    /// Id of its pack.
    pub pack: String,
    /// The command.
    pub argv: Vec<String>,
    /// Where its sessions start.
    pub cwd: PathBuf,
    /// Where their terminals are.
    pub seat: Seat,
    /// Their agents report to us through hooks.
    #[serde(default = "yes")]
    pub hooks: bool,
    /// The OSC 7501 query of their agents is answered.
    #[serde(default = "yes")]
    pub status_reply: bool,
}

/// A named set of sessions of one kind kept at a size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How its sessions are made.
    #[serde(flatten)]
    pub spec: PoolSpec,
    /// How many there should be; 0 is down.
    pub size: u32,
    /// When it was first brought up.
    pub created: Timestamp,
}

/// How a session is launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// Its name.
    pub name: Name,
    /// Its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// What the person called the agent.
    pub agent: String,
    /// Id of its pack.
    pub pack: String,
    /// The command.
    pub argv: Vec<String>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// Where its terminal is.
    pub seat: Seat,
    /// The queue may send it prompts.
    pub takes_tasks: bool,
    /// Its agent reports to us through hooks.
    #[serde(default = "yes")]
    pub hooks: bool,
    /// The OSC 7501 query of its agent is answered.
    #[serde(default = "yes")]
    pub status_reply: bool,
}

/// Whether a session should have a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Kept running.
    Up,
    /// Stopped on purpose.
    Down,
}

/// A durable seat of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its number: names its folder, is never given again.
    pub id: i64,
    /// How it is launched.
    #[serde(flatten)]
    pub spec: SessionSpec,
    /// Whether it should have a process.
    pub wanted: Wanted,
    /// State of its current run; `exited` without one.
    pub state: SessionState,
    /// When that began.
    pub since: Timestamp,
    /// Where it stands now.
    pub place: PathBuf,
    /// The branch there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Hash of the context that it was prepared for last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_hash: Option<String>,
    /// Its current run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Its pane on our tmux server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pane: Option<String>,
    /// Its conversation, as the agent calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// When it last worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active: Option<Timestamp>,
    /// Starts that failed in a row.
    pub failures: u32,
    /// Not started again before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Why it is set aside (the breaker is open).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// When it was made.
    pub created: Timestamp,
}

const COLUMNS: &str = "id, spec, wanted, state, since_us, cwd, branch, context_hash, run, pane, conversation, \
                       last_active_us, failures, retry_at_us, aside, created_us";

fn session(row: &Row<'_>) -> Result<Session, StoreError> {
    let text = |n: usize| -> Result<String, StoreError> { Ok(row.get(n)?) };
    Ok(Session {
        id: row.get(0)?,
        spec: from_json(&text(1)?)?,
        wanted: if text(2)? == "up" { Wanted::Up } else { Wanted::Down },
        state: state_named(&text(3)?)?,
        since: time(row.get(4)?)?,
        place: PathBuf::from(text(5)?),
        branch: row.get(6)?,
        context_hash: row.get(7)?,
        run: opt_parse(row.get(8)?)?,
        pane: row.get(9)?,
        conversation: row.get(10)?,
        last_active: opt_time(row.get(11)?)?,
        failures: row.get(12)?,
        retry_at: opt_time(row.get(13)?)?,
        aside: row.get(14)?,
        created: time(row.get(15)?)?,
    })
}

fn state_named(name: &str) -> Result<SessionState, StoreError> {
    from_json(&format!("\"{name}\""))
}

fn name_of(state: SessionState) -> String {
    to_json(&state).trim_matches('"').to_owned()
}

fn select(conn: &Connection, filter: &str, args: impl rusqlite::Params) -> Result<Vec<Session>, StoreError> {
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM sessions {filter}"))?;
    let mut rows = select.query(args)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(session(row)?);
    }
    Ok(found)
}

fn get(conn: &Connection, name: &Name) -> Result<Session, StoreError> {
    let found = select(conn, "WHERE name = ?", [name.as_str()])?;
    found.into_iter().next().ok_or_else(|| StoreError::NoSession(name.clone()))
}

fn pools(conn: &Connection, filter: &str, args: impl rusqlite::Params) -> Result<Vec<Pool>, StoreError> {
    let mut select = conn.prepare_cached(&format!("SELECT spec, size, created_us FROM pools {filter}"))?;
    let mut rows = select.query(args)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let spec: String = row.get(0)?;
        found.push(Pool { spec: from_json(&spec)?, size: row.get(1)?, created: time(row.get(2)?)? });
    }
    Ok(found)
}

impl Tx<'_> {
    /// Makes a session, or changes how the one of that name is launched from now on.
    pub fn upsert_session(&mut self, spec: &SessionSpec) -> Result<Session, StoreError> {
        self.conn
            .prepare_cached(
                "INSERT INTO sessions (name, pool, spec, wanted, state, since_us, cwd, created_us)
                 VALUES (:name, :pool, :spec, 'up', 'exited', :now, :cwd, :now)
                 ON CONFLICT (name) DO UPDATE SET pool = excluded.pool, spec = excluded.spec, wanted = 'up'",
            )?
            .execute(named_params! {
                ":name": spec.name.as_str(),
                ":pool": spec.pool.as_ref().map(Name::as_str),
                ":spec": to_json(spec),
                ":cwd": spec.cwd.to_string_lossy(),
                ":now": micros(self.now),
            })?;
        get(self.conn, &spec.name)
    }

    /// Changes what is known of a session; its id and creation time stay. `since` follows the state by itself.
    pub fn update_session(&mut self, name: &Name, change: impl FnOnce(&mut Session)) -> Result<Session, StoreError> {
        let before = get(self.conn, name)?;
        let mut s = before.clone();
        change(&mut s);
        if s.state != before.state && s.since == before.since {
            s.since = self.now;
        }
        self.conn
            .prepare_cached(
                "UPDATE sessions SET name = :name, pool = :pool, spec = :spec, wanted = :wanted, state = :state,
                     since_us = :since, cwd = :cwd, branch = :branch, context_hash = :hash, run = :run, pane = :pane,
                     conversation = :conversation, last_active_us = :active, failures = :failures,
                     retry_at_us = :retry, aside = :aside
                 WHERE id = :id",
            )?
            .execute(named_params! {
                ":id": before.id,
                ":name": s.spec.name.as_str(),
                ":pool": s.spec.pool.as_ref().map(Name::as_str),
                ":spec": to_json(&s.spec),
                ":wanted": if s.wanted == Wanted::Up { "up" } else { "down" },
                ":state": name_of(s.state),
                ":since": micros(s.since),
                ":cwd": s.place.to_string_lossy(),
                ":branch": s.branch,
                ":hash": s.context_hash,
                ":run": s.run.as_ref().map(RunId::as_str),
                ":pane": s.pane,
                ":conversation": s.conversation,
                ":active": s.last_active.map(micros),
                ":failures": s.failures,
                ":retry": s.retry_at.map(micros),
                ":aside": s.aside,
            })?;
        get(self.conn, &s.spec.name)
    }

    /// Sets the state of the session that `run` is the current run of, if any.
    pub(super) fn set_state_of(&mut self, run: &RunId, state: SessionState, at: Timestamp) -> Result<(), StoreError> {
        let active = matches!(state, SessionState::Working | SessionState::Asking).then(|| micros(at));
        self.conn
            .prepare_cached(
                "UPDATE sessions SET state = ?2, since_us = ?3,
                     last_active_us = COALESCE(?4, CASE WHEN state IN ('working', 'asking') THEN ?3 END, last_active_us)
                 WHERE run = ?1",
            )?
            .execute(params![run.as_str(), name_of(state), micros(at), active])?;
        Ok(())
    }

    /// Forgets a session; its runs and attempts keep its name.
    pub fn remove_session(&mut self, name: &Name) -> Result<(), StoreError> {
        self.conn.prepare_cached("DELETE FROM sessions WHERE name = ?")?.execute([name.as_str()])?;
        Ok(())
    }

    /// Makes a pool or changes it.
    pub fn upsert_pool(&mut self, spec: &PoolSpec, size: u32) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "INSERT INTO pools (name, spec, size, created_us) VALUES (?, ?, ?, ?)
                 ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, size = excluded.size",
            )?
            .execute(params![spec.name.as_str(), to_json(spec), size, micros(self.now)])?;
        Ok(())
    }

    /// Forgets a pool; its sessions stay, without one.
    pub fn remove_pool(&mut self, name: &Name) -> Result<(), StoreError> {
        let n = self.conn.prepare_cached("DELETE FROM pools WHERE name = ?")?.execute([name.as_str()])?;
        if n == 1 { Ok(()) } else { Err(StoreError::NoPool(name.clone())) }
    }

    /// Parks a provider: its tasks wait until then. A later time wins.
    pub fn park(&mut self, provider: &str, until: Timestamp, why: &str) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "INSERT INTO parked (provider, until_us, why) VALUES (?, ?, ?)
                 ON CONFLICT (provider) DO UPDATE SET until_us = excluded.until_us, why = excluded.why
                 WHERE excluded.until_us > parked.until_us",
            )?
            .execute(params![provider, micros(until), why])?;
        Ok(())
    }

    pub(super) fn unpark(&mut self) -> Result<(), StoreError> {
        self.conn.prepare_cached("DELETE FROM parked WHERE until_us <= ?")?.execute([micros(self.now)])?;
        Ok(())
    }
}

/// Every session, by name.
pub(super) fn all(conn: &Connection) -> Result<Vec<Session>, StoreError> {
    select(conn, "ORDER BY name", [])
}

/// Providers that are parked, until when, and why.
pub(super) fn parked(conn: &Connection) -> Result<Vec<(String, Timestamp, String)>, StoreError> {
    let mut select = conn.prepare_cached("SELECT provider, until_us, why FROM parked ORDER BY provider")?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, time(row.get(1)?)?, row.get(2)?));
    }
    Ok(found)
}

impl Store {
    /// Makes a session, or changes how the one of that name is launched from now on.
    pub async fn upsert_session(&self, spec: SessionSpec) -> Result<Session, StoreError> {
        self.write(move |tx| tx.upsert_session(&spec)).await
    }

    /// Changes what is known of a session, in one transaction.
    pub async fn update_session(
        &self,
        name: &Name,
        change: impl FnOnce(&mut Session) + Send + 'static,
    ) -> Result<Session, StoreError> {
        let name = name.clone();
        self.write(move |tx| tx.update_session(&name, change)).await
    }

    /// The session of that name.
    pub async fn session(&self, name: &Name) -> Result<Session, StoreError> {
        let name = name.clone();
        self.read(move |conn| get(conn, &name)).await
    }

    /// Every session, by name.
    pub async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        self.read(all).await
    }

    /// Forgets a session.
    pub async fn remove_session(&self, name: &Name) -> Result<(), StoreError> {
        let name = name.clone();
        self.write(move |tx| tx.remove_session(&name)).await
    }

    /// Makes a pool or changes it.
    pub async fn upsert_pool(&self, spec: PoolSpec, size: u32) -> Result<(), StoreError> {
        self.write(move |tx| tx.upsert_pool(&spec, size)).await
    }

    /// The pool of that name.
    pub async fn pool(&self, name: &Name) -> Result<Pool, StoreError> {
        let name = name.clone();
        self.read(move |conn| {
            let found = pools(conn, "WHERE name = ?", [name.as_str()])?;
            found.into_iter().next().ok_or(StoreError::NoPool(name))
        })
        .await
    }

    /// Every pool, by name.
    pub async fn pools(&self) -> Result<Vec<Pool>, StoreError> {
        self.read(|conn| pools(conn, "ORDER BY name", [])).await
    }

    /// Forgets a pool.
    pub async fn remove_pool(&self, name: &Name) -> Result<(), StoreError> {
        let name = name.clone();
        self.write(move |tx| tx.remove_pool(&name)).await
    }

    /// Parks a provider until then.
    pub async fn park(&self, provider: &str, until: Timestamp, why: &str) -> Result<(), StoreError> {
        let (provider, why) = (provider.to_owned(), why.to_owned());
        self.write(move |tx| tx.park(&provider, until, &why)).await
    }

    /// Providers that are parked, until when, and why.
    pub async fn parked(&self) -> Result<Vec<(String, Timestamp, String)>, StoreError> {
        self.read(parked).await
    }
}
