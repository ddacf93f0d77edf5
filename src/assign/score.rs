//! How well a session suits a task: points, each with its reason, for the choice and for `task why`. Pure.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::config;
use crate::extract::event::SessionState;
use crate::ids::Name;
use crate::queue::schedule::Seat;
use crate::queue::task::Task;

/// How recently a session must have worked to count as active.
const ACTIVE: Duration = Duration::from_secs(300);

/// What going on in the session of the last attempt is worth: it has the failed gate's context in mind. Above all the
/// configured terms together, since any other session starts from nothing.
const SAME_SEAT: i64 = 50;

/// One thing that speaks for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// Its name in the configuration.
    pub term: String,
    /// How much it counts.
    pub points: i64,
    /// Why it holds here.
    pub why: String,
}

/// The sum, and what it is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Sum of the points.
    pub total: i64,
    /// Terms that hold; those that do not are left out.
    pub terms: Vec<Term>,
}

impl Score {
    fn add(&mut self, term: &str, points: i64, why: String) {
        self.total += points;
        self.terms.push(Term { term: term.to_owned(), points, why });
    }
}

/// Returns how well `seat` suits `task`.
pub fn score(task: &Task, seat: &Seat, points: &config::Score, now: Timestamp) -> Score {
    let mut score = Score::default();
    let wanted = task.worktree.as_deref().filter(|_| task.attempts > 0).unwrap_or(&task.spec.cwd);
    if same_place(wanted, &seat.place) {
        score.add("cwd", points.cwd, format!("it stands in {}", seat.place.display()));
    }
    if let (Some(branch), Some(there)) = (&task.spec.branch, &seat.branch)
        && branch == there
    {
        score.add("branch", points.branch, format!("branch {branch} is there"));
    }
    if let Some(at) = seat.last_active
        && let Ok(ago) = Duration::try_from(now.duration_since(at))
        && ago <= ACTIVE
    {
        score.add("active", points.active, format!("it worked {} s ago", ago.as_secs()));
    }
    if seat.state == SessionState::Idle {
        score.add("idle", points.idle, "it is idle".to_owned());
    }
    if task.spec.agent.as_deref() == Some(&seat.agent) {
        score.add("agent", points.agent, format!("it is a {}", seat.agent));
    }
    if task.attempts > 0 && task.last_session.as_ref().map(Name::as_str) == Some(seat.name.as_str()) {
        score.add("same_session", SAME_SEAT, "the last attempt ran there".to_owned());
    }
    score
}

fn same_place(wanted: &Path, there: &Path) -> bool {
    wanted == there
}
