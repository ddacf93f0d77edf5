//! What can be said while no daemon runs (F45): from its database and the locks of the runs. Nothing is started or changed.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{SeatView, state_word, tasks};
use crate::clock::Timestamp;
use crate::daemon::rpc::TaskQuery;
use crate::extract::event::SessionState;
use crate::ids::{Name, RunId, TaskId};
use crate::paths::{RunDir, StateDir};
use crate::pty::rundir;
use crate::queue::store::{Look, Session, StoreError, Wanted, look};
use crate::queue::task::Task;

/// Counts of what is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Live runs.
    pub runs: usize,
    /// Sessions, by state.
    pub seats: BTreeMap<String, u64>,
    /// Tasks, by state.
    pub tasks: BTreeMap<String, u64>,
    /// Providers that are parked, until when.
    pub parked: BTreeMap<String, Timestamp>,
}

/// Lists tasks as the daemon would.
pub fn list_tasks(state: &StateDir, query: &TaskQuery) -> Result<Vec<Task>, StoreError> {
    Ok(look(&state.db(), |look| tasks::list(look, query))?.unwrap_or_default())
}

/// The sessions, and what each was doing last.
pub fn list_seats(state: &StateDir) -> Result<Vec<SeatView>, StoreError> {
    Ok(look(&state.db(), |look| seats(look, state))?.unwrap_or_default())
}

/// Counts everything. Runs are counted by their locks, so their number is known whatever became of the database.
pub fn counts(state: &StateDir) -> (Counts, Option<StoreError>) {
    let runs = live_runs(state);
    let counted = look(&state.db(), |look| {
        let mut by_state = BTreeMap::new();
        for seat in seats(look, state)? {
            *by_state.entry(state_word(seat.state).to_owned()).or_default() += 1;
        }
        Ok(Counts {
            runs,
            seats: by_state,
            tasks: look.count_tasks()?.into_iter().map(|(s, n)| (s.as_str().to_owned(), n)).collect(),
            parked: look.parked()?.into_iter().map(|(provider, until, _)| (provider, until)).collect(),
        })
    });
    match counted {
        Ok(counts) => (counts.unwrap_or(Counts { runs, ..Counts::default() }), None),
        Err(e) => (Counts { runs, ..Counts::default() }, Some(e)),
    }
}

fn seats(look: &Look<'_>, state: &StateDir) -> Result<Vec<SeatView>, StoreError> {
    let tasks: HashMap<Name, TaskId> =
        look.live_attempts()?.into_iter().map(|(a, _)| (a.session, a.key.task)).collect();
    Ok(look.sessions()?.into_iter().map(|s| seat(s, state, &tasks)).collect())
}

fn seat(s: Session, state: &StateDir, tasks: &HashMap<Name, TaskId>) -> SeatView {
    let alive = |run: &RunId| rundir::is_alive(&state.run(run));
    let run = s.run.filter(alive);
    SeatView {
        task: tasks.get(&s.spec.name).copied(),
        name: s.spec.name,
        pool: s.spec.pool,
        agent: s.spec.agent,
        seat: s.spec.seat,
        state: if run.is_some() { s.state } else { SessionState::Exited },
        since: s.since,
        cwd: s.place,
        branch: s.branch,
        run,
        takes_tasks: s.spec.takes_tasks,
        note: s.aside.or((s.wanted == Wanted::Down).then(|| "down".to_owned())),
    }
}

/// Runs whose wrapper holds its lock.
fn live_runs(state: &StateDir) -> usize {
    let Ok(entries) = std::fs::read_dir(state.runs()) else { return 0 };
    entries.flatten().filter(|e| rundir::is_alive(&RunDir::at(e.path()))).count()
}
