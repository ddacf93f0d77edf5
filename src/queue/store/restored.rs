//! A queue that came back from its backup: nobody knows what of it was done since, so nothing moves without a human's word.

use rusqlite::{Connection, params};

use super::{StoreError, Tx, micros, state_list};
use crate::clock::Timestamp;
use crate::queue::task::TaskState;

/// Reason of a task that is held because the queue came back from a backup.
pub const RESTORED: &str = "restored";

/// Tasks that were added and claimed since the backup are unknown. Their numbers must not come again: people know the ids,
/// and wrappers that still live know the fences. Ids go on behind the next full step, fences one step further.
const STEP: i64 = 1000;

/// Holds every task that is not over, ends every attempt, and moves ids and fences on. Returns how many are held.
///
/// Works on the schema of any version, before the database takes its place: a crash leaves the damaged one.
pub(super) fn hold_all(conn: &mut Connection, made: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
    let over: Vec<_> = TaskState::ALL.into_iter().filter(|s| s.is_final()).collect();
    let over = state_list(&over);
    let detail =
        format!("the queue came back from its backup of {made:.0}: it may be done by now; look, then release it");
    let tx = conn.transaction()?;
    tx.execute("UPDATE tasks SET fence = fence + ?1", [STEP])?;
    let held = tx.execute(
        &format!(
            "UPDATE tasks SET was = state, state = 'held', reason = ?1, detail = ?2, due_us = NULL, changed_us = ?3,
                 waiting_for = 'you: orchwrap task release ' || id
             WHERE state NOT IN ({over}) AND state != 'review'"
        ),
        params![RESTORED, detail, micros(now)],
    )?;
    tx.execute(
        "UPDATE attempts SET live = 0, ended_us = ?2, outcome = 'held', reason = ?1, charged = 0 WHERE live = 1",
        params![RESTORED, micros(now)],
    )?;
    let last: i64 = tx.query_row("SELECT COALESCE(max(id), 0) FROM tasks", [], |r| r.get(0))?;
    raise(&tx, last)?;
    tx.execute("UPDATE sqlite_sequence SET seq = seq + 100 WHERE name = 'sessions'", [])?;
    tx.commit()?;
    Ok(held as u64)
}

/// Makes the ids of tasks go on behind the next full step above `last`.
fn raise(conn: &Connection, last: i64) -> Result<(), StoreError> {
    let next = (last / STEP + 1) * STEP;
    let n = conn.execute("UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'tasks'", [next])?;
    if n == 0 {
        conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('tasks', ?1)", [next])?;
    }
    Ok(())
}

impl Tx<'_> {
    /// Makes the ids of new tasks go on behind `seen`, one that is known from elsewhere.
    pub fn ids_after(&mut self, seen: i64) -> Result<(), StoreError> {
        raise(self.conn, seen)
    }
}
