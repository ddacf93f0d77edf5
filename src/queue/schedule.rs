//! Who is next, and where: which session may take a task, in which order tasks go, what the others wait for. Pure.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::ids::Name;
use crate::queue::task::{TaskSpec, TreeRule};

/// How much longer than one of the priority below a task must have waited to go first.
///
/// Ageing with a fixed price never changes the order of two waiting tasks, so that the order can be a column with an
/// index: [`turn`].
pub const WAIT_PER_PRIORITY: Duration = Duration::from_secs(3600);

/// Returns the key that tasks are ordered by, lower first: submission time (µs), moved by the priority.
pub fn turn(priority: i64, created: Timestamp) -> i64 {
    let step = i64::try_from(WAIT_PER_PRIORITY.as_micros()).expect("an hour fits");
    created.as_microsecond().saturating_sub(priority.saturating_mul(step))
}

/// The sessions that may take a task, as one word: the narrowest of what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(String);

impl Lane {
    /// The lane of a task.
    pub fn of(spec: &TaskSpec) -> Self {
        match (&spec.session, &spec.pool, &spec.agent) {
            (Some(session), _, _) => Self(format!("session:{session}")),
            (None, Some(pool), _) => Self(format!("pool:{pool}")),
            (None, None, Some(agent)) => Self(format!("agent:{agent}")),
            (None, None, None) => Self("any".to_owned()),
        }
    }

    /// The lanes that a session serves.
    pub fn served(session: &Name, pool: Option<&Name>, agent: &str) -> Vec<Self> {
        let mut lanes = vec![Self(format!("session:{session}"))];
        lanes.extend(pool.map(|p| Self(format!("pool:{p}"))));
        lanes.push(Self(format!("agent:{agent}")));
        lanes.push(Self("any".to_owned()));
        lanes
    }

    /// The lane as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns where a task works, as far as its submission tells: tasks of one place wait for each other.
///
/// Empty where it waits for nobody: a tree of its own, or shared.
pub fn place(spec: &TaskSpec) -> String {
    match spec.tree {
        TreeRule::Isolate | TreeRule::Shared => String::new(),
        TreeRule::Auto | TreeRule::InPlace => match &spec.branch {
            Some(branch) => format!("{}@{branch}", spec.cwd.display()),
            None => spec.cwd.display().to_string(),
        },
    }
}
