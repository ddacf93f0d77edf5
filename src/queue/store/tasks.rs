//! Tasks: submission, transitions, what they wait for, dependencies.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{Store, StoreError, Tx, from_json, micros, opt_parse, opt_time, state_list, time, to_json};
use crate::clock::Timestamp;
use crate::extract::event::Body;
use crate::ids::{AttemptKey, Name, RunId, TaskId};
use crate::queue::schedule::{self, Lane, Waiting};
use crate::queue::task::{Proof, Task, TaskSpec, TaskState};
use crate::queue::transition::{self, Actor, Verb};

const COLUMNS: &str = "id, spec, state, reason, detail, waiting_for, fence, attempts, created_us, changed_us, due_us, \
                       answer, proof, duration_ms, worktree, last_session, last_run";

/// Reason of a task that is held because what it depends on will not be completed.
const DEP_FAILED: &str = "dep_failed";

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// The task.
    pub id: TaskId,
    /// False where one with the same idempotency key was there before.
    pub created: bool,
}

/// What changes along with a state. `reason` and `detail` describe the new state; the others stay where `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Machine-readable reason.
    pub reason: Option<String>,
    /// One line for people.
    pub detail: Option<String>,
    /// What it waits for, where more is known than the state tells.
    pub waiting_for: Option<String>,
    /// The final answer.
    pub answer: Option<String>,
    /// What the completion rests on.
    pub proof: Option<Proof>,
    /// When to go on, for `retry_wait` and `queued`.
    pub due: Option<Timestamp>,
    /// Length of the turn, human waits excluded.
    pub duration_ms: Option<u64>,
    /// Where it works.
    pub worktree: Option<PathBuf>,
    /// The run that is sent to.
    pub run: Option<RunId>,
    /// The attempt does not count (nothing was sent, or a limit stopped it).
    pub uncharged: bool,
}

impl Change {
    /// A change with this reason and line for people.
    pub fn because(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), detail: Some(detail.into()), ..Self::default() }
    }

    /// The same, not charged.
    pub fn uncharged(self) -> Self {
        Self { uncharged: true, ..self }
    }

    /// The same, going on at `due`.
    pub fn due(self, due: Timestamp) -> Self {
        Self { due: Some(due), ..self }
    }
}

/// Which tasks to list; empty fields take all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// In one of these states.
    pub states: Vec<TaskState>,
    /// With this label.
    pub label: Option<String>,
    /// At or below this folder.
    pub cwd: Option<PathBuf>,
    /// Numbers above this one.
    pub after: Option<TaskId>,
    /// Newest first; oldest first otherwise.
    pub newest_first: bool,
    /// At the most; 0 is no limit.
    pub limit: usize,
}

fn task(row: &Row<'_>) -> Result<Task, StoreError> {
    let text = |n: usize| -> Result<String, StoreError> { Ok(row.get(n)?) };
    let opt = |n: usize| -> Result<Option<String>, StoreError> { Ok(row.get(n)?) };
    let proof = opt(12)?.map(|p| from_json(&format!("\"{p}\""))).transpose()?;
    let duration: Option<i64> = row.get(13)?;
    Ok(Task {
        id: TaskId(row.get(0)?),
        spec: from_json(&text(1)?)?,
        state: state(&text(2)?)?,
        reason: opt(3)?,
        detail: opt(4)?,
        waiting_for: opt(5)?,
        fence: row.get(6)?,
        attempts: row.get(7)?,
        created: time(row.get(8)?)?,
        changed: time(row.get(9)?)?,
        due: opt_time(row.get(10)?)?,
        answer: opt(11)?,
        proof,
        duration_ms: duration.map(i64::unsigned_abs),
        worktree: opt(14)?.map(PathBuf::from),
        last_session: opt_parse(opt(15)?)?,
        last_run: opt_parse(opt(16)?)?,
    })
}

fn state(name: &str) -> Result<TaskState, StoreError> {
    TaskState::parse(name).ok_or_else(|| StoreError::Value(format!("task state {name:?}")))
}

/// Returns the task.
pub(super) fn get(conn: &Connection, id: TaskId) -> Result<Task, StoreError> {
    find(conn, id)?.ok_or(StoreError::NoTask(id))
}

fn find(conn: &Connection, id: TaskId) -> Result<Option<Task>, StoreError> {
    let mut get = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = ?"))?;
    let mut rows = get.query([id.0])?;
    rows.next()?.map(task).transpose()
}

pub(super) fn list(conn: &Connection, filter: &TaskFilter) -> Result<Vec<Task>, StoreError> {
    let mut sql = format!("SELECT {COLUMNS} FROM tasks WHERE id > :after");
    if !filter.states.is_empty() {
        sql.push_str(&format!(" AND state IN ({})", state_list(&filter.states)));
    }
    sql.push_str(if filter.newest_first { " ORDER BY id DESC" } else { " ORDER BY id" });
    let mut list = conn.prepare_cached(&sql)?;
    let mut rows = list.query(named_params! { ":after": filter.after.map_or(0, |t| t.0) })?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let task = task(row)?;
        let label = filter.label.as_ref().is_none_or(|l| task.spec.labels.contains(l));
        let cwd = filter.cwd.as_ref().is_none_or(|c| task.spec.cwd.starts_with(c));
        if label && cwd {
            found.push(task);
            if found.len() == filter.limit {
                break;
            }
        }
    }
    Ok(found)
}

/// How many tasks are in each state that any task is in.
pub(super) fn count(conn: &Connection) -> Result<Vec<(TaskState, u64)>, StoreError> {
    let mut count = conn.prepare_cached("SELECT state, count(*) FROM tasks GROUP BY state")?;
    let mut rows = count.query([])?;
    let mut counts = Vec::new();
    while let Some(row) = rows.next()? {
        let n: i64 = row.get(1)?;
        counts.push((state(&row.get::<_, String>(0)?)?, n.unsigned_abs()));
    }
    Ok(counts)
}

/// What is due at a time; the rest in the next round. The state is not asked for, so that the index on times is used.
pub(super) const DUE: &str = "SELECT id, state FROM tasks WHERE due_us <= ? ORDER BY due_us LIMIT 1000";

/// Next in line, and first of each place; `?1` is the lane, `?2` how many.
pub(super) fn window_queries() -> [String; 2] {
    const CLAIMABLE: &str = "state = 'queued' AND deps_open = 0 AND due_us IS NULL";
    let next = format!("SELECT id FROM tasks WHERE lane = ?1 AND {CLAIMABLE} ORDER BY turn, id LIMIT ?2");
    // Jumps from place to place in the index: reads as many rows as there are places, not tasks.
    let first_of_place = format!(
        "WITH RECURSIVE p(place) AS (
             SELECT * FROM (SELECT place FROM tasks WHERE lane = ?1 AND {CLAIMABLE} ORDER BY place LIMIT 1)
             UNION ALL
             SELECT (SELECT t.place FROM tasks t WHERE t.lane = ?1 AND {CLAIMABLE} AND t.place > p.place
                     ORDER BY t.place LIMIT 1) AS next FROM p WHERE p.place IS NOT NULL LIMIT ?2)
         SELECT (SELECT id FROM tasks t WHERE t.lane = ?1 AND {CLAIMABLE} AND t.place = p.place
                 ORDER BY t.turn, t.id LIMIT 1) FROM p WHERE p.place IS NOT NULL"
    );
    [next, first_of_place]
}

/// The candidates of each lane, in the order of their turn: those next in line, and the first of each place, so that a
/// thousand tasks for one busy tree do not hide the one for an idle tree. At most `per_lane` of either kind.
fn window(conn: &Connection, lanes: &[Lane], per_lane: usize) -> Result<Vec<Task>, StoreError> {
    let [next, first_of_place] = window_queries();
    let limit = i64::try_from(per_lane).unwrap_or(i64::MAX);
    let mut ids = std::collections::BTreeSet::new();
    for sql in [&next, &first_of_place] {
        let mut pick = conn.prepare_cached(sql)?;
        for lane in lanes {
            let mut rows = pick.query(params![lane.as_str(), limit])?;
            while let Some(row) = rows.next()? {
                ids.insert(TaskId(row.get(0)?));
            }
        }
    }
    let mut tasks = ids.into_iter().map(|id| get(conn, id)).collect::<Result<Vec<_>, _>>()?;
    tasks.sort_by_key(|t| (schedule::turn(t.spec.priority, t.created), t.id));
    Ok(tasks)
}

impl Tx<'_> {
    /// Adds a task, or finds the one with the same idempotency key.
    pub fn add_task(&mut self, spec: &TaskSpec) -> Result<Added, StoreError> {
        if self.low {
            return Err(StoreError::Full);
        }
        if let Some(key) = &spec.idempotency_key {
            let mut same = self.conn.prepare_cached("SELECT id FROM tasks WHERE idempotency_key = ?")?;
            if let Some(id) = same.query_row([key], |r| r.get(0)).optional()? {
                return Ok(Added { id: TaskId(id), created: false });
            }
        }
        let state = if spec.hold { TaskState::Held } else { TaskState::Queued };
        let due = spec.not_before.filter(|t| *t > self.now && state == TaskState::Queued);
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO tasks (spec, idempotency_key, lane, place, priority, turn, state, was, due_us, created_us,
                                changed_us, waiting_for)
             VALUES (:spec, :key, :lane, :place, :priority, :turn, :state, :state, :due, :now, :now, :waiting)
             RETURNING id",
        )?;
        let id = TaskId(insert.query_row(
            named_params! {
                ":spec": to_json(spec),
                ":key": spec.idempotency_key,
                ":lane": Lane::of(spec).as_str(),
                ":place": schedule::place(spec),
                ":priority": spec.priority,
                ":turn": schedule::turn(spec.priority, self.now),
                ":state": state.as_str(),
                ":due": due.map(micros),
                ":now": micros(self.now),
                // What a held one waits for names its number, which is not known yet.
                ":waiting": (state == TaskState::Queued).then(|| transition::waits_for(state, TaskId(0), due)).flatten(),
            },
            |r| r.get(0),
        )?);
        drop(insert);
        let key = AttemptKey { task: id, attempt: 0, fence: 0 };
        self.task_event(key, state, "", None, "queue.add", None)?;
        if state != TaskState::Queued {
            self.set_waiting(id, transition::waits_for(state, id, due).as_deref())?;
        }
        if !spec.deps.is_empty() {
            for dep in &spec.deps {
                self.add_dep(id, *dep)?;
            }
            self.settle_deps(id)?;
        }
        Ok(Added { id, created: true })
    }

    fn add_dep(&mut self, id: TaskId, dep: TaskId) -> Result<(), StoreError> {
        let found = get(self.conn, dep)?;
        let mut reach = self.conn.prepare_cached(
            "WITH RECURSIVE up(id) AS (SELECT ?1 UNION SELECT d.dep FROM task_deps d JOIN up ON d.task = up.id)
             SELECT 1 FROM up WHERE id = ?2",
        )?;
        if reach.exists([dep.0, id.0])? {
            return Err(StoreError::Cycle { task: id, dep });
        }
        self.conn
            .prepare_cached("INSERT INTO task_deps (task, dep, met) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
            .execute(params![id.0, dep.0, found.state == TaskState::Completed])?;
        Ok(())
    }

    /// Replaces what a waiting task depends on; a cycle is refused.
    pub fn set_deps(&mut self, id: TaskId, deps: &[TaskId]) -> Result<(), StoreError> {
        let now = get(self.conn, id)?;
        if !matches!(now.state, TaskState::Queued | TaskState::Held) {
            return Err(StoreError::NotNow { task: id, state: now.state, verb: "edit" });
        }
        self.conn.prepare_cached("DELETE FROM task_deps WHERE task = ?")?.execute([id.0])?;
        for dep in deps {
            self.add_dep(id, *dep)?;
        }
        let spec = TaskSpec { deps: deps.to_vec(), ..now.spec };
        self.conn.prepare_cached("UPDATE tasks SET spec = ?2 WHERE id = ?1")?.execute(params![id.0, to_json(&spec)])?;
        self.settle_deps(id)
    }

    /// Counts what a task still depends on, and holds or frees it accordingly.
    fn settle_deps(&mut self, id: TaskId) -> Result<(), StoreError> {
        let mut open = self.conn.prepare_cached(
            "SELECT d.dep, t.state FROM task_deps d JOIN tasks t ON t.id = d.dep
             WHERE d.task = ? AND d.met = 0 ORDER BY d.dep",
        )?;
        let open: Vec<(i64, String)> =
            open.query_map([id.0], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        self.conn
            .prepare_cached("UPDATE tasks SET deps_open = ?2 WHERE id = ?1")?
            .execute(params![id.0, i64::try_from(open.len()).unwrap_or(i64::MAX)])?;
        let mut dead = None;
        for (dep, name) in &open {
            if state(name)?.is_final() {
                dead = Some((dep, name));
                break;
            }
        }
        let task = get(self.conn, id)?;
        match (dead, task.state) {
            (Some((dep, name)), TaskState::Queued) => {
                let change = Change {
                    waiting_for: Some(format!("task {dep}, which is {name}: retry it, or release this one without it")),
                    ..Change::because(DEP_FAILED, format!("task {dep} is {name}"))
                };
                self.step(id, None, &[TaskState::Queued], TaskState::Held, &change, "queue.deps")?;
            }
            (None, TaskState::Held) if task.reason.as_deref() == Some(DEP_FAILED) => {
                let change = Change { due: task.spec.not_before.filter(|t| *t > self.now), ..Change::default() };
                self.step(id, None, &[TaskState::Held], TaskState::Queued, &change, "queue.deps")?;
            }
            _ => {}
        }
        if let (None, TaskState::Queued, Some((first, name))) = (dead, task.state, open.first()) {
            let more = if open.len() > 1 { format!(" and {} more", open.len() - 1) } else { String::new() };
            self.set_waiting(id, Some(&format!("task {first} ({name}){more}")))?;
        } else if task.state == TaskState::Queued && open.is_empty() {
            self.set_waiting(id, transition::waits_for(TaskState::Queued, id, task.due).as_deref())?;
        }
        Ok(())
    }

    /// Tells the tasks that depend on `id` that it ended, or that it is back.
    fn settle_dependants(&mut self, id: TaskId, to: TaskState) -> Result<(), StoreError> {
        if to == TaskState::Completed {
            self.conn.prepare_cached("UPDATE task_deps SET met = 1 WHERE dep = ?")?.execute([id.0])?;
        }
        let mut dependants = self.conn.prepare_cached("SELECT task FROM task_deps WHERE dep = ? ORDER BY task")?;
        let tasks: Vec<i64> = dependants.query_map([id.0], |r| r.get(0))?.collect::<Result<_, _>>()?;
        tasks.into_iter().try_for_each(|t| self.settle_deps(TaskId(t)))
    }

    /// Moves a task for the driver of its live attempt. False where the fence is older or the state not in `from`:
    /// then nothing changed, and the driver has nothing more to say.
    pub fn transition(
        &mut self,
        key: AttemptKey,
        from: &[TaskState],
        to: TaskState,
        change: &Change,
    ) -> Result<bool, StoreError> {
        if let Some(bad) = from.iter().find(|f| !transition::allowed(Actor::Attempt, **f, to)) {
            return Err(StoreError::Forbidden { from: *bad, to });
        }
        if !self.step(key.task, Some(key.fence), from, to, change, "queue.attempt")? {
            return Ok(false);
        }
        if !to.is_live() {
            self.end_attempt(key, Some(to), change)?;
        }
        Ok(true)
    }

    /// Does what a human says. A live attempt loses its fence at once; it keeps its session and tree until its driver
    /// has stopped the agent and says [`Tx::end_attempt`].
    pub fn say(&mut self, id: TaskId, verb: Verb, note: Option<&str>) -> Result<Task, StoreError> {
        let mut change = Change {
            reason: matches!(verb, Verb::Cancel | Verb::Done | Verb::Fail | Verb::Hold).then(|| "manual".to_owned()),
            detail: note.map(str::to_owned),
            proof: (verb == Verb::Done).then_some(Proof::Manual),
            ..Change::default()
        };
        let before = get(self.conn, id)?;
        if verb == Verb::Release {
            change.due = before.spec.not_before.filter(|t| *t > self.now);
        }
        if verb == Verb::Release {
            self.conn
                .prepare_cached(
                    "UPDATE task_deps SET met = 1 WHERE task = ? AND dep IN
                 (SELECT id FROM tasks WHERE state IN ('failed', 'cancelled', 'timed_out'))",
                )?
                .execute([id.0])?;
        }
        if !self.step(id, None, verb.from(), verb.to(), &change, "queue.human")? {
            return if verb == Verb::Cancel && before.state == TaskState::Cancelled {
                Ok(before)
            } else {
                Err(StoreError::NotNow { task: id, state: before.state, verb: verb.as_str() })
            };
        }
        self.conn.prepare_cached("UPDATE tasks SET fence = fence + 1 WHERE id = ?")?.execute([id.0])?;
        if verb == Verb::Retry {
            self.conn
                .prepare_cached(
                    "UPDATE tasks SET attempts = 0, answer = NULL, proof = NULL, duration_ms = NULL WHERE id = ?",
                )?
                .execute([id.0])?;
        }
        if verb == Verb::Release || verb == Verb::Retry {
            self.settle_deps(id)?;
        }
        get(self.conn, id)
    }

    /// Wakes what is due: retries and tasks with a time, and providers that were parked. Returns how many tasks.
    pub fn wake(&mut self) -> Result<usize, StoreError> {
        self.unpark()?;
        let mut due = self.conn.prepare_cached(DUE)?;
        let due: Vec<(i64, String)> =
            due.query_map([micros(self.now)], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        for (id, from) in &due {
            let id = TaskId(*id);
            if state(from)? == TaskState::RetryWait {
                self.step(id, None, &[TaskState::RetryWait], TaskState::Queued, &Change::default(), "queue.due")?;
            } else {
                self.conn.prepare_cached("UPDATE tasks SET due_us = NULL WHERE id = ?")?.execute([id.0])?;
            }
            self.settle_deps(id)?;
        }
        Ok(due.len())
    }

    /// Keeps what these tasks wait for, as far as they still are queued.
    pub fn set_all_waiting(&mut self, all: &[Waiting]) -> Result<(), StoreError> {
        let mut set = self.conn.prepare_cached(
            "UPDATE tasks SET waiting_for = ?2 WHERE id = ?1 AND state = 'queued' AND waiting_for IS NOT ?2",
        )?;
        for w in all {
            set.execute(params![w.task.0, w.what])?;
        }
        Ok(())
    }

    /// Says what a task of a live attempt waits for, without a change of state (`your draft in opus-1`).
    pub fn attempt_waits(&mut self, key: AttemptKey, what: Option<&str>) -> Result<bool, StoreError> {
        let n = self
            .conn
            .prepare_cached("UPDATE tasks SET waiting_for = ?3 WHERE id = ?1 AND fence = ?2")?
            .execute(params![key.task.0, key.fence, what])?;
        Ok(n > 0)
    }

    fn set_waiting(&mut self, id: TaskId, what: Option<&str>) -> Result<(), StoreError> {
        self.conn.prepare_cached("UPDATE tasks SET waiting_for = ?2 WHERE id = ?1")?.execute(params![id.0, what])?;
        Ok(())
    }

    /// One fenced UPDATE, its event, and what follows for dependants. False where nothing matched.
    pub(super) fn step(
        &mut self,
        id: TaskId,
        fence: Option<i64>,
        from: &[TaskState],
        to: TaskState,
        change: &Change,
        rule: &str,
    ) -> Result<bool, StoreError> {
        let mut update = self.conn.prepare_cached(&format!(
            "UPDATE tasks SET was = state, state = :to, changed_us = :now, due_us = :due,
                 reason = :reason, detail = :detail, waiting_for = :waiting, attempts = attempts - :refund,
                 answer = COALESCE(:answer, answer), proof = COALESCE(:proof, proof),
                 duration_ms = COALESCE(:duration, duration_ms), worktree = COALESCE(:worktree, worktree),
                 last_run = COALESCE(:run, last_run)
             WHERE id = :id AND (:fence IS NULL OR fence = :fence) AND state IN ({})
             RETURNING was, attempts + :refund, fence, last_session",
            state_list(from)
        ))?;
        let waiting = change.waiting_for.clone().or_else(|| transition::waits_for(to, id, change.due));
        let moved: Option<(String, u32, i64, Option<String>)> = update
            .query_row(
                named_params! {
                    ":id": id.0,
                    ":fence": fence,
                    ":to": to.as_str(),
                    ":now": micros(self.now),
                    ":due": change.due.map(micros),
                    ":reason": change.reason,
                    ":detail": change.detail,
                    ":waiting": waiting,
                    ":refund": i64::from(change.uncharged),
                    ":answer": change.answer,
                    ":proof": change.proof.map(proof_name),
                    ":duration": change.duration_ms.map(|d| i64::try_from(d).unwrap_or(i64::MAX)),
                    ":worktree": change.worktree.as_ref().map(|p| p.to_string_lossy()),
                    ":run": change.run.as_ref().map(RunId::as_str),
                },
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)),
            )
            .optional()?;
        drop(update);
        let Some((was, attempt, fence, session)) = moved else { return Ok(false) };
        let key = AttemptKey { task: id, attempt, fence };
        // Before its first attempt a task has no session.
        let session = opt_parse(session.filter(|_| fence > 0))?;
        self.task_event(key, to, &was, change.reason.clone(), rule, session)?;
        if to.is_final() || state(&was)?.is_final() {
            self.settle_dependants(id, to)?;
        }
        Ok(true)
    }

    fn task_event(
        &mut self,
        key: AttemptKey,
        to: TaskState,
        was: &str,
        reason: Option<String>,
        rule: &str,
        session: Option<Name>,
    ) -> Result<(), StoreError> {
        let body = Body::TaskState { state: to.as_str().to_owned(), was: was.to_owned(), reason };
        self.daemon_event(body, rule, Some(key), session, None)
    }
}

fn proof_name(proof: Proof) -> &'static str {
    match proof {
        Proof::Gate => "gate",
        Proof::Report => "report",
        Proof::Output => "output",
        Proof::Manual => "manual",
    }
}

impl Store {
    /// Adds a task, or finds the one with the same idempotency key.
    pub async fn add_task(&self, spec: TaskSpec) -> Result<Added, StoreError> {
        self.write(move |tx| tx.add_task(&spec)).await
    }

    /// Adds all of these tasks or none.
    pub async fn add_tasks(&self, specs: Vec<TaskSpec>) -> Result<Vec<Added>, StoreError> {
        self.write(move |tx| specs.iter().map(|s| tx.add_task(s)).collect()).await
    }

    /// Returns the task.
    pub async fn task(&self, id: TaskId) -> Result<Task, StoreError> {
        self.read(move |conn| get(conn, id)).await
    }

    /// Lists tasks.
    pub async fn tasks(&self, filter: TaskFilter) -> Result<Vec<Task>, StoreError> {
        self.read(move |conn| list(conn, &filter)).await
    }

    /// How many tasks are in each state that any task is in.
    pub async fn count_tasks(&self) -> Result<Vec<(TaskState, u64)>, StoreError> {
        self.read(count).await
    }

    /// The lanes in which a task could be claimed now: jumps from lane to lane in the index, however long the queue is.
    pub async fn queued_lanes(&self) -> Result<Vec<Lane>, StoreError> {
        const CLAIMABLE: &str = "state = 'queued' AND deps_open = 0 AND due_us IS NULL";
        self.read(|conn| {
            let mut select = conn.prepare_cached(&format!(
                "WITH RECURSIVE l(lane) AS (
                     SELECT * FROM (SELECT lane FROM tasks WHERE {CLAIMABLE} ORDER BY lane LIMIT 1)
                     UNION ALL
                     SELECT (SELECT t.lane FROM tasks t WHERE {CLAIMABLE} AND t.lane > l.lane ORDER BY t.lane LIMIT 1)
                     FROM l WHERE l.lane IS NOT NULL)
                 SELECT lane FROM l WHERE lane IS NOT NULL"
            ))?;
            let mut rows = select.query([])?;
            let mut lanes = Vec::new();
            while let Some(row) = rows.next()? {
                lanes.push(Lane::named(row.get(0)?));
            }
            Ok(lanes)
        })
        .await
    }

    /// The tasks that the scheduler looks at: bounded whatever the length of the queue.
    pub async fn window(&self, lanes: Vec<Lane>, per_lane: usize) -> Result<Vec<Task>, StoreError> {
        self.read(move |conn| window(conn, &lanes, per_lane)).await
    }

    /// When [`Store::wake`] is needed next.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|conn| {
            let mut next = conn.prepare_cached(
                "SELECT min(due) FROM (
                     SELECT min(due_us) AS due FROM tasks WHERE due_us IS NOT NULL
                     UNION ALL SELECT min(until_us) FROM parked)",
            )?;
            opt_time(next.query_row([], |r| r.get(0))?)
        })
        .await
    }

    /// Wakes what is due; returns how many tasks.
    pub async fn wake(&self) -> Result<usize, StoreError> {
        self.write(|tx| tx.wake()).await
    }

    /// Moves a task for the driver of its live attempt; see [`Tx::transition`].
    pub async fn transition(
        &self,
        key: AttemptKey,
        from: &[TaskState],
        to: TaskState,
        change: Change,
    ) -> Result<bool, StoreError> {
        let from = from.to_vec();
        self.write(move |tx| tx.transition(key, &from, to, &change)).await
    }

    /// Does what a human says; see [`Tx::say`].
    pub async fn say(&self, id: TaskId, verb: Verb, note: Option<String>) -> Result<Task, StoreError> {
        self.write(move |tx| tx.say(id, verb, note.as_deref())).await
    }

    /// Says what a task of a live attempt waits for.
    pub async fn attempt_waits(&self, key: AttemptKey, what: Option<String>) -> Result<bool, StoreError> {
        self.write(move |tx| tx.attempt_waits(key, what.as_deref())).await
    }

    /// Keeps what these queued tasks wait for.
    pub async fn set_waiting(&self, all: Vec<Waiting>) -> Result<(), StoreError> {
        if all.is_empty() {
            return Ok(());
        }
        self.write(move |tx| tx.set_all_waiting(&all)).await
    }

    /// Replaces what a waiting task depends on.
    pub async fn set_deps(&self, id: TaskId, deps: Vec<TaskId>) -> Result<(), StoreError> {
        self.write(move |tx| tx.set_deps(id, &deps)).await
    }
}
