//! Events: one global order of what runs journal and what the daemon does.

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::{Store, StoreError, Tx, from_json, micros, to_json};
use crate::clock::Timestamp;
use crate::extract::event::{Body, Event, Source};
use crate::ids::{AttemptKey, Name, RunId, TaskId};

/// Which events to read; empty fields take all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this session.
    pub session: Option<Name>,
    /// Of this run.
    pub run: Option<RunId>,
    /// Of this task.
    pub task: Option<TaskId>,
    /// Of one of these types; `turn.*` takes a family.
    pub kinds: Vec<String>,
    /// Not older than this.
    pub since: Option<Timestamp>,
}

impl EventFilter {
    /// Whether it takes an event: the same answer as from the database.
    pub fn takes(&self, event: &Event) -> bool {
        let kind = || event.body.kind();
        self.session.as_ref().is_none_or(|s| event.session.as_ref() == Some(s))
            && self.run.as_ref().is_none_or(|r| event.run.as_ref() == Some(r))
            && self.task.is_none_or(|t| event.attempt.is_some_and(|a| a.task == t))
            && self.since.is_none_or(|t| event.ts >= t)
            && (self.kinds.is_empty() || self.kinds.iter().any(|k| kind_matches(k, &kind())))
    }

    fn sql(&self) -> (String, Vec<Sql>) {
        let mut sql = String::new();
        let mut args = Vec::new();
        let mut and = |clause: &str, arg: Sql| {
            sql.push_str(" AND ");
            sql.push_str(clause);
            args.push(arg);
        };
        if let Some(s) = &self.session {
            and("session = ?", Sql::Text(s.to_string()));
        }
        if let Some(r) = &self.run {
            and("run = ?", Sql::Text(r.to_string()));
        }
        if let Some(t) = self.task {
            and("task = ?", Sql::Integer(t.0));
        }
        if let Some(t) = self.since {
            and("ts_us >= ?", Sql::Integer(micros(t)));
        }
        if !self.kinds.is_empty() {
            let any: Vec<_> = self.kinds.iter().map(|_| "kind LIKE ? ESCAPE '\\'").collect();
            sql.push_str(&format!(" AND ({})", any.join(" OR ")));
            args.extend(self.kinds.iter().map(|k| Sql::Text(like(k))));
        }
        (sql, args)
    }
}

/// Whether an event type matches a name in which `*` stands for anything.
fn kind_matches(pattern: &str, kind: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == kind,
        Some((head, tail)) => kind
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|n| rest.is_char_boundary(n) && kind_matches(tail, &rest[n..]))),
    }
}

fn like(pattern: &str) -> String {
    pattern.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_").replace('*', "%")
}

fn read(conn: &Connection, sql: &str, args: Vec<Sql>) -> Result<Vec<Event>, StoreError> {
    let mut select = conn.prepare_cached(sql)?;
    let mut rows = select.query(params_from_iter(args))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(1)?;
        let event: Event = from_json(&text)?;
        events.push(Event { id: Some(row.get(0)?), ..event });
    }
    Ok(events)
}

impl Tx<'_> {
    /// Adds an event of the daemon's own.
    ///
    /// `session` is the one that the attempt works in, where there is one.
    pub fn daemon_event(
        &mut self,
        body: Body,
        rule: &str,
        attempt: Option<AttemptKey>,
        session: Option<Name>,
        run: Option<RunId>,
    ) -> Result<(), StoreError> {
        let event = Event {
            id: None,
            seq: None,
            ts: self.now,
            t: None,
            host: self.host.to_owned(),
            session,
            run,
            attempt,
            body,
            source: Source::Daemon,
            rule: rule.to_owned(),
            span: None,
        };
        self.insert_event(event).map(drop)
    }

    /// The id, or none where that line of that run is there already.
    fn insert_event(&mut self, event: Event) -> Result<Option<i64>, StoreError> {
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO events (run, seq, ts_us, task, session, kind, event) VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (run, seq) DO NOTHING RETURNING id",
        )?;
        let id: Option<i64> = insert
            .query_row(
                params![
                    event.run.as_ref().map(RunId::as_str),
                    event.seq.map(|s| i64::try_from(s).unwrap_or(i64::MAX)),
                    micros(event.ts),
                    event.attempt.map(|a| a.task.0),
                    event.session.as_ref().map(Name::as_str),
                    event.body.kind(),
                    to_json(&event),
                ],
                |r| r.get(0),
            )
            .optional()?;
        if let Some(id) = id {
            self.events.push(Event { id: Some(id), ..event });
        }
        Ok(id)
    }

    /// Takes lines of a run's journal: each exactly once, however often it is given, with the run's cursor.
    pub fn ingest(&mut self, run: &RunId, events: Vec<Event>) -> Result<usize, StoreError> {
        let mut cursor = super::runs::cursor(self.conn, run)?;
        let mut taken = 0;
        for event in events {
            let Some(seq) = event.seq.filter(|seq| *seq > cursor) else { continue };
            cursor = seq;
            self.mirror(run, &event)?;
            taken += usize::from(self.insert_event(Event { id: None, run: Some(run.clone()), ..event })?.is_some());
        }
        self.conn
            .prepare_cached("UPDATE runs SET cursor = ?2 WHERE id = ?1")?
            .execute(params![run.as_str(), i64::try_from(cursor).unwrap_or(i64::MAX)])?;
        Ok(taken)
    }
}

impl Store {
    /// Takes lines of a run's journal exactly once; returns how many were new.
    pub async fn ingest(&self, run: RunId, events: Vec<Event>) -> Result<usize, StoreError> {
        self.write(move |tx| tx.ingest(&run, events)).await
    }

    /// Adds an event of the daemon's own.
    pub async fn add_event(
        &self,
        body: Body,
        rule: &str,
        attempt: Option<AttemptKey>,
        session: Option<Name>,
        run: Option<RunId>,
    ) -> Result<(), StoreError> {
        let rule = rule.to_owned();
        self.write(move |tx| tx.daemon_event(body, &rule, attempt, session, run)).await
    }

    /// Events after the global number `after`, oldest first.
    pub async fn events(&self, filter: EventFilter, after: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.read(move |conn| {
            let (clauses, mut args) = filter.sql();
            args.insert(0, Sql::Integer(after));
            args.push(Sql::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
            read(conn, &format!("SELECT id, event FROM events WHERE id > ?{clauses} ORDER BY id LIMIT ?"), args)
        })
        .await
    }

    /// The last `n` events, oldest first.
    pub async fn last_events(&self, filter: EventFilter, n: usize) -> Result<Vec<Event>, StoreError> {
        self.read(move |conn| {
            let (clauses, mut args) = filter.sql();
            args.push(Sql::Integer(i64::try_from(n).unwrap_or(i64::MAX)));
            let sql = format!("SELECT id, event FROM events WHERE id > 0{clauses} ORDER BY id DESC LIMIT ?");
            let mut events = read(conn, &sql, args)?;
            events.reverse();
            Ok(events)
        })
        .await
    }
}
