//! `ls` and `status`: what is there, in one look.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ctl::Refusal;
use crate::daemon::Daemon;
use crate::extract::event::SessionState;
use crate::ids::{Name, RunId, TaskId};
use crate::queue::store::{Damage, Wanted};
use crate::run::Seat;

/// A session, or a run that somebody started by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatView {
    /// Its name.
    pub name: Name,
    /// Its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// What the person called the agent.
    pub agent: String,
    /// Where its terminal is.
    pub seat: Seat,
    /// What it is doing.
    pub state: SessionState,
    /// Since when.
    pub since: Timestamp,
    /// Where it stands.
    pub cwd: PathBuf,
    /// The branch there, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Its current run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The task it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The queue may send it prompts.
    pub takes_tasks: bool,
    /// What it asks, or why it is set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Counts, and who counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The daemon's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Since when it runs.
    pub since: Timestamp,
    /// Its state folder.
    pub state_dir: PathBuf,
    /// Live runs.
    pub runs: usize,
    /// Sessions and hand-started runs, by state.
    pub seats: BTreeMap<String, u64>,
    /// Tasks, by state.
    pub tasks: BTreeMap<String, u64>,
    /// Providers that are parked, until when.
    pub parked: BTreeMap<String, Timestamp>,
    /// What is lost, where the queue had to come back from its backup when this daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// What became of a damaged queue, in one line.
pub fn damage_in_words(damage: &Damage) -> String {
    format!(
        "the queue database was damaged ({}) and came back from its backup of {:.0}; what happened since is lost, {} tasks \
         are held until you release them; the damaged file is {}",
        damage.what,
        damage.restored_from,
        damage.held,
        damage.kept.display()
    )
}

/// The state's name.
pub fn state_word(state: SessionState) -> &'static str {
    match state {
        SessionState::Starting => "starting",
        SessionState::Setup => "setup",
        SessionState::Idle => "idle",
        SessionState::Working => "working",
        SessionState::Asking => "asking",
        SessionState::Limited => "limited",
        SessionState::Exited => "exited",
        SessionState::Unknown => "unknown",
    }
}

fn first_line(text: &str) -> String {
    text.lines().find(|l| !l.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

impl Daemon {
    /// Sessions, then the runs that people started by hand.
    pub async fn seats_view(&self) -> Result<Vec<SeatView>, Refusal> {
        let tasks: HashMap<Name, TaskId> =
            self.store.live_attempts().await?.into_iter().map(|(a, _)| (a.session, a.key.task)).collect();
        let mut live: HashMap<RunId, _> = self.runs.live().into_iter().map(|r| (r.id().clone(), r)).collect();
        let mut views = Vec::new();
        for s in self.store.sessions().await? {
            let run = s.run.as_ref().and_then(|id| live.remove(id));
            let (state, since, ask) = match &run {
                Some(run) => {
                    let seen = run.seen();
                    (seen.state, seen.since, seen.asking.map(|(_, ask)| first_line(&ask.text)))
                }
                // It never had a process, and one is being started.
                None if s.run.is_none() && s.wanted == Wanted::Up => (SessionState::Starting, s.since, None),
                None => (SessionState::Exited, s.since, None),
            };
            let down = (s.wanted == Wanted::Down).then(|| "down".to_owned());
            views.push(SeatView {
                task: tasks.get(&s.spec.name).copied(),
                name: s.spec.name,
                pool: s.spec.pool,
                agent: s.spec.agent,
                seat: s.spec.seat,
                state,
                since,
                cwd: s.place,
                branch: s.branch,
                run: run.map(|r| r.id().clone()),
                takes_tasks: s.spec.takes_tasks,
                note: s.aside.or(ask).or(down),
            });
        }
        let mut by_hand: Vec<_> = live.into_values().filter(|r| r.is_alive()).collect();
        by_hand.sort_by(|a, b| (&a.spec.session, a.spec.created).cmp(&(&b.spec.session, b.spec.created)));
        for run in by_hand {
            let seen = run.seen();
            views.push(SeatView {
                name: run.spec.session.clone(),
                pool: run.spec.pool.clone(),
                agent: run.spec.agent.clone(),
                seat: run.spec.seat,
                state: seen.state,
                since: seen.since,
                cwd: run.spec.cwd.clone(),
                branch: None,
                run: Some(run.id().clone()),
                task: run.spec.attempt.map(|a| a.task),
                takes_tasks: run.spec.takes_tasks,
                note: seen.asking.map(|(_, ask)| first_line(&ask.text)),
            });
        }
        Ok(views)
    }

    /// Counts of everything.
    pub async fn overview(&self) -> Result<Overview, Refusal> {
        let mut seats = BTreeMap::new();
        for view in self.seats_view().await? {
            *seats.entry(state_word(view.state).to_owned()).or_default() += 1;
        }
        let tasks = self.store.count_tasks().await?.into_iter().map(|(s, n)| (s.as_str().to_owned(), n)).collect();
        let parked = self.store.parked().await?.into_iter().map(|(p, until, _)| (p, until)).collect();
        Ok(Overview {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: self.started,
            state_dir: self.state.root().to_owned(),
            runs: self.runs.live().len(),
            seats,
            tasks,
            parked,
            damage: self.store.damage().map(damage_in_words),
        })
    }
}
