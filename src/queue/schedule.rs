//! Who is next, and where: which session may take a task, in which order tasks go, what the others wait for. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::assign::score::{self, Score};
use crate::clock::Timestamp;
use crate::config;
use crate::extract::event::SessionState;
use crate::ids::{Name, TaskId};
use crate::queue::task::{Task, TaskSpec, TaskState, TreeRule};

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

    /// The lane that the store wrote down.
    pub(crate) fn named(text: String) -> Self {
        Self(text)
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

/// A session, as far as the choice depends on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seat {
    /// Its name.
    pub name: Name,
    /// Its pool.
    pub pool: Option<Name>,
    /// Its agent, by pack.
    pub agent: String,
    /// Who answers for that agent: what a limit parks.
    pub provider: Option<String>,
    /// The queue may send it prompts.
    pub takes_tasks: bool,
    /// Its state; `exited` without a process.
    pub state: SessionState,
    /// Why it needs a human, in state `setup`.
    pub setup: Option<String>,
    /// A human's half-typed line stands in it.
    pub draft: bool,
    /// Where it stands.
    pub place: PathBuf,
    /// The branch there.
    pub branch: Option<String>,
    /// When it last worked.
    pub last_active: Option<Timestamp>,
    /// The task whose live attempt holds it.
    pub holder: Option<TaskId>,
    /// Why it cannot be started: stopped on purpose, breaker open, backing off.
    pub down: Option<String>,
}

/// A working tree in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The task whose attempt is live.
    pub task: TaskId,
    /// Its [`place`].
    pub place: String,
    /// The tree, once chosen.
    pub tree: Option<PathBuf>,
    /// The branch that it asked for.
    pub branch: Option<String>,
}

/// All that the choice depends on, beside the tasks.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// The wall clock.
    pub now: Timestamp,
    /// Every session.
    pub seats: Vec<Seat>,
    /// Working trees in use.
    pub held: Vec<Held>,
    /// Providers that are parked: until when, and why.
    pub parked: BTreeMap<String, (Timestamp, String)>,
    /// The session where each task that others continue ran last.
    pub ran: BTreeMap<TaskId, Name>,
    /// Points of the score.
    pub points: config::Score,
    /// Live attempts at the most, live ones included.
    pub max_live: usize,
    /// Why nothing is claimed at all (draining, disk full).
    pub stopped: Option<String>,
}

/// A task for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The task.
    pub task: TaskId,
    /// The session.
    pub session: Name,
    /// Why this one.
    pub score: Score,
}

/// What a task that does not move waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The task.
    pub task: TaskId,
    /// One line.
    pub what: String,
}

/// What to claim now, and what the others wait for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// To claim, in this order.
    pub claims: Vec<Assignment>,
    /// Of the tasks looked at that stay.
    pub waiting: Vec<Waiting>,
}

/// A session, judged for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The session.
    pub session: Name,
    /// How well it suits, or why it does not.
    pub verdict: Result<Score, Obstacle>,
}

/// Why a session cannot take a task; in the order in which they are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// A human can help: what to do.
    Human(String),
    /// Its provider is parked.
    Parked(String),
    /// Another task has it.
    Taken(TaskId),
    /// It does something else.
    Busy(String),
    /// It cannot be started.
    Down(String),
    /// Not of the wanted kind; not told.
    Other,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Human(what) => write!(f, "waits for {what}"),
            Self::Parked(what) => write!(f, "parked: {what}"),
            Self::Taken(task) => write!(f, "has task {task}"),
            Self::Busy(what) | Self::Down(what) => f.write_str(what),
            Self::Other => f.write_str("not of the wanted kind"),
        }
    }
}

/// Assigns tasks, given in the order of their turn, to sessions.
pub fn schedule(tasks: &[Task], world: &World) -> Schedule {
    let mut made = Schedule::default();
    let mut taken: BTreeMap<Name, TaskId> = BTreeMap::new();
    let mut places: BTreeMap<String, TaskId> = BTreeMap::new();
    let mut live = world.seats.iter().filter(|s| s.holder.is_some()).count();
    for task in tasks.iter().filter(|t| t.state == TaskState::Queued) {
        let place = place(&task.spec);
        let choice = match before_seats(task, &place, &places, world) {
            Some(what) => Err(what),
            None if live >= world.max_live => Err(format!("one of the {live} live attempts to end ([queue] max_live)")),
            None => choose(task, world, &taken),
        };
        match choice {
            Ok((session, score)) => {
                live += 1;
                taken.insert(session.clone(), task.id);
                if !place.is_empty() {
                    places.insert(place, task.id);
                }
                made.claims.push(Assignment { task: task.id, session, score });
            }
            Err(what) => made.waiting.push(Waiting { task: task.id, what }),
        }
    }
    made
}

/// Returns every session judged for the task, best first: the table of `task why`.
pub fn explain(task: &Task, world: &World) -> Vec<Judged> {
    let mut judged: Vec<_> = world
        .seats
        .iter()
        .map(|seat| Judged { session: seat.name.clone(), verdict: judge(task, seat, world, None) })
        .collect();
    judged.sort_by_key(|j| match &j.verdict {
        Ok(score) => (0, -score.total, Obstacle::Other),
        Err(obstacle) => (1, 0, obstacle.clone()),
    });
    judged
}

/// What keeps the task back whatever the session.
fn before_seats(task: &Task, place: &str, places: &BTreeMap<String, TaskId>, world: &World) -> Option<String> {
    if let Some(why) = &world.stopped {
        return Some(why.clone());
    }
    if place.is_empty() {
        return None;
    }
    let held = world.held.iter().find(|h| {
        // Another subfolder of the same checkout; another branch gets a tree of its own.
        let same_branch = task.spec.branch.is_none() || task.spec.branch == h.branch;
        let same_tree = h.tree.as_deref().is_some_and(|t| same_branch && task.spec.cwd.starts_with(t));
        h.task != task.id && (h.place == place || same_tree)
    });
    let holder = held.map(|h| h.task).or_else(|| places.get(place).copied())?;
    Some(format!("tree {} (task {holder})", task.spec.cwd.display()))
}

fn choose(task: &Task, world: &World, taken: &BTreeMap<Name, TaskId>) -> Result<(Name, Score), String> {
    let mut best: Option<(&Seat, Score)> = None;
    let mut obstacles = Vec::new();
    for seat in &world.seats {
        match judge(task, seat, world, taken.get(&seat.name).copied()) {
            Ok(score) => {
                // Among equals the one that rested longest, then by name: the same world gives the same choice.
                let better = best.as_ref().is_none_or(|(other, points)| {
                    (-score.total, seat.last_active, &seat.name) < (-points.total, other.last_active, &other.name)
                });
                if better {
                    best = Some((seat, score));
                }
            }
            Err(Obstacle::Other) => {}
            Err(obstacle) => obstacles.push((obstacle, &seat.name)),
        }
    }
    best.map(|(seat, score)| (seat.name.clone(), score)).ok_or_else(|| waits_for(&task.spec, obstacles))
}

/// Judges one session for one task; `taken`: by a task that was assigned a moment ago.
fn judge(task: &Task, seat: &Seat, world: &World, taken: Option<TaskId>) -> Result<Score, Obstacle> {
    let spec = &task.spec;
    // Where that session is gone, its conversation is resumed in any other that fits.
    let ran = spec.continue_task.and_then(|t| world.ran.get(&t));
    let pinned = ran.filter(|s| world.seats.iter().any(|seat| seat.name == **s));
    let fits = seat.takes_tasks
        && spec.session.as_ref().is_none_or(|s| *s == seat.name)
        && spec.pool.as_ref().is_none_or(|p| seat.pool.as_ref() == Some(p))
        && spec.agent.as_ref().is_none_or(|a| *a == seat.agent)
        && pinned.is_none_or(|s| *s == seat.name);
    if !fits {
        return Err(Obstacle::Other);
    }
    if let Some(other) = seat.holder.or(taken) {
        return Err(Obstacle::Taken(other));
    }
    if let Some((until, why)) = seat.provider.as_ref().and_then(|p| world.parked.get(p)) {
        return Err(Obstacle::Parked(format!(
            "{} until {until:.0} ({why})",
            seat.provider.as_deref().unwrap_or_default()
        )));
    }
    if seat.draft {
        return Err(Obstacle::Human(format!("your draft in {}", seat.name)));
    }
    match seat.state {
        SessionState::Idle => {}
        SessionState::Setup => {
            let what = seat.setup.as_deref().unwrap_or("it needs you");
            return Err(Obstacle::Human(format!("you in {}: {what}", seat.name)));
        }
        SessionState::Asking => return Err(Obstacle::Human(format!("your answer in {}", seat.name))),
        SessionState::Exited => {
            if let Some(why) = &seat.down {
                return Err(Obstacle::Down(why.clone()));
            }
        }
        SessionState::Starting => return Err(Obstacle::Busy("starting".to_owned())),
        SessionState::Working => return Err(Obstacle::Busy("working on something else".to_owned())),
        SessionState::Limited => return Err(Obstacle::Busy("stopped by a limit".to_owned())),
        SessionState::Unknown => return Err(Obstacle::Busy("in an unknown state".to_owned())),
    }
    Ok(score::score(task, seat, &world.points, world.now))
}

/// One line out of all the obstacles: what a human can do first, else who is in the way.
fn waits_for(spec: &TaskSpec, mut obstacles: Vec<(Obstacle, &Name)>) -> String {
    /// Sessions named in one line.
    const NAMED: usize = 3;
    obstacles.sort();
    let Some((first, session)) = obstacles.first() else {
        return match (&spec.session, &spec.pool, &spec.agent) {
            (Some(s), _, _) => format!("session {s}, which does not exist or takes no tasks of this kind"),
            (None, Some(p), _) => format!("pool {p}, which has no session of this kind: orchwrap pool up {p}"),
            (None, None, Some(a)) => format!("a session of agent {a}: orchwrap pool up NAME --agent {a}"),
            (None, None, None) => "a session that takes tasks: orchwrap pool up NAME --agent AGENT".to_owned(),
        };
    };
    match first {
        Obstacle::Human(what) => what.clone(),
        Obstacle::Parked(what) if obstacles.iter().all(|(o, _)| matches!(o, Obstacle::Parked(_))) => what.clone(),
        Obstacle::Down(why) if obstacles.len() == 1 => format!("session {session}: {why}"),
        _ => {
            let told = obstacles.iter().take(NAMED).map(|(obstacle, session)| match obstacle {
                Obstacle::Human(what) | Obstacle::Parked(what) | Obstacle::Busy(what) | Obstacle::Down(what) => {
                    format!("{session}: {what}")
                }
                Obstacle::Taken(task) => format!("{session}: task {task}"),
                Obstacle::Other => session.to_string(),
            });
            let told: Vec<_> = told.collect();
            let more = obstacles.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("a free session ({}{more})", told.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(id: i64, more: serde_json::Value) -> Task {
        let mut t = json!({
            "id": id, "prompt": "x", "cwd": "/src/app", "state": "queued", "fence": 0, "attempts": 0,
            "created": "2026-11-20T10:00:00Z", "changed": "2026-11-20T10:00:00Z"
        });
        t.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(t).unwrap()
    }

    fn seat(name: &str) -> Seat {
        Seat {
            name: name.parse().unwrap(),
            pool: Some("opus".parse().unwrap()),
            agent: "claude".into(),
            provider: Some("anthropic".into()),
            takes_tasks: true,
            state: SessionState::Idle,
            setup: None,
            draft: false,
            place: "/".into(),
            branch: None,
            last_active: None,
            holder: None,
            down: None,
        }
    }

    fn world(seats: Vec<Seat>) -> World {
        World { now: "2026-11-20T12:00:00Z".parse().unwrap(), seats, max_live: 32, ..World::default() }
    }

    fn only_waiting(tasks: &[Task], world: &World) -> String {
        let made = schedule(tasks, world);
        assert!(made.claims.is_empty(), "{made:?}");
        made.waiting.into_iter().map(|w| w.what).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn the_points_of_the_issue_decide_and_are_explained() {
        let now = world(vec![]).now;
        let mut near = seat("a-near");
        near.place = "/src/app".into();
        let mut branch = seat("b-branch");
        branch.branch = Some("fix/x".into());
        branch.last_active = Some(now - Duration::from_secs(60));
        let w = world(vec![branch, near, seat("c")]);
        let t = task(1, json!({"branch": "fix/x", "agent": "claude"}));
        let table: Vec<_> = explain(&t, &w).into_iter().map(|j| (j.session.to_string(), j.verdict.unwrap())).collect();
        let totals: Vec<_> = table.iter().map(|(s, score)| (s.as_str(), score.total)).collect();
        assert_eq!(totals, [("a-near", 25), ("b-branch", 20), ("c", 5)]);
        let terms: Vec<_> = table[1].1.terms.iter().map(|t| (t.term.as_str(), t.points)).collect();
        assert_eq!(terms, [("branch", 10), ("active", 5), ("idle", 3), ("agent", 2)]);
        assert_eq!(schedule(&[t], &w).claims[0].session.as_str(), "a-near");
    }

    #[test]
    fn among_equals_the_longest_rested_goes_first() {
        let now = world(vec![]).now;
        let mut a = seat("a");
        a.last_active = Some(now - Duration::from_secs(600));
        assert_eq!(schedule(&[task(1, json!({}))], &world(vec![a, seat("b")])).claims[0].session.as_str(), "b");
    }

    #[test]
    fn one_live_attempt_per_place_unless_shared_or_isolated() {
        let two = [task(1, json!({})), task(2, json!({}))];
        let w = world(vec![seat("a"), seat("b")]);
        let made = schedule(&two, &w);
        assert_eq!(made.claims.len(), 1);
        assert_eq!(made.waiting[0].what, "tree /src/app (task 1)");
        let shared = [task(1, json!({})), task(2, json!({"tree": "shared"})), task(3, json!({"tree": "isolate"}))];
        let w = world(vec![seat("a"), seat("b"), seat("c")]);
        assert_eq!(schedule(&shared, &w).claims.len(), 3);
        let other = [task(1, json!({})), task(2, json!({"branch": "b"}))];
        assert_eq!(schedule(&other, &w).claims.len(), 2);
        let held = |branch: Option<&str>| {
            let held = Held {
                task: TaskId(9),
                place: "x".into(),
                tree: Some("/src".into()),
                branch: branch.map(str::to_owned),
            };
            World { held: vec![held], ..w.clone() }
        };
        assert_eq!(only_waiting(&[task(1, json!({}))], &held(None)), "tree /src/app (task 9)");
        // The command line names the branch where the folder stands: two of its subfolders are one tree all the same.
        let on = |branch: &str| [task(1, json!({"branch": branch}))];
        assert_eq!(only_waiting(&on("main"), &held(Some("main"))), "tree /src/app (task 9)");
        assert_eq!(schedule(&on("fix"), &held(Some("main"))).claims.len(), 1);
    }

    #[test]
    fn whatever_does_not_move_says_what_it_waits_for() {
        let t = || [task(1, json!({}))];
        let say = |change: &dyn Fn(&mut Seat)| {
            let mut s = seat("a");
            change(&mut s);
            only_waiting(&t(), &world(vec![s]))
        };
        insta::assert_snapshot!(say(&|s| s.draft = true), @"your draft in a");
        insta::assert_snapshot!(
            say(&|s| { s.state = SessionState::Setup; s.setup = Some("log in".into()) }), @"you in a: log in");
        insta::assert_snapshot!(say(&|s| s.holder = Some(TaskId(7))), @"a free session (a: task 7)");
        insta::assert_snapshot!(say(&|s| s.state = SessionState::Working), @"a free session (a: working on something else)");
        insta::assert_snapshot!(
            say(&|s| { s.state = SessionState::Exited; s.down = Some("it ends at once".into()) }),
            @"session a: it ends at once");
        insta::assert_snapshot!(
            say(&|s| s.takes_tasks = false), @"a session that takes tasks: orchwrap pool up NAME --agent AGENT");
        let until = world(vec![]).now + Duration::from_secs(60);
        let parked = BTreeMap::from([("anthropic".to_owned(), (until, "weekly limit".to_owned()))]);
        insta::assert_snapshot!(
            only_waiting(&t(), &World { parked, ..world(vec![seat("a"), seat("b")]) }),
            @"anthropic until 2026-11-20T12:01:00Z (weekly limit)");
        insta::assert_snapshot!(
            only_waiting(&[task(1, json!({"pool": "gpt"}))], &world(vec![seat("a")])),
            @"pool gpt, which has no session of this kind: orchwrap pool up gpt");
        let many = (0..5).map(|n| Seat { holder: Some(TaskId(n + 10)), ..seat(&format!("s{n}")) }).collect();
        insta::assert_snapshot!(
            only_waiting(&t(), &world(many)), @"a free session (s0: task 10, s1: task 11, s2: task 12 and 2 more)");
        let stopped = Some("the disk has space again".to_owned());
        assert_eq!(only_waiting(&t(), &World { stopped, ..world(vec![seat("a")]) }), "the disk has space again");
    }

    #[test]
    fn f68_a_limit_of_one_provider_leaves_the_others_working() {
        let w = world(vec![seat("a"), Seat { provider: Some("openai".into()), ..seat("b") }]);
        let parked = BTreeMap::from([("anthropic".to_owned(), (Timestamp::MAX, "limit".to_owned()))]);
        let made = schedule(&[task(1, json!({}))], &World { parked, ..w });
        assert_eq!(made.claims[0].session.as_str(), "b");
    }

    #[test]
    fn a_retry_and_a_continuation_go_back_to_their_session() {
        let mut near = seat("near");
        near.place = "/src/app".into();
        let w = world(vec![near, seat("b")]);
        let retry = task(1, json!({"attempts": 1, "last_session": "b"}));
        assert_eq!(schedule(&[retry], &w).claims[0].session.as_str(), "b");
        let go_on = task(2, json!({"continue_task": 1}));
        let ran = BTreeMap::from([(TaskId(1), "b".parse().unwrap())]);
        assert_eq!(schedule(std::slice::from_ref(&go_on), &World { ran, ..w.clone() }).claims[0].session.as_str(), "b");
        let gone = BTreeMap::from([(TaskId(1), "z".parse().unwrap())]);
        assert_eq!(schedule(&[go_on], &World { ran: gone, ..w }).claims.len(), 1);
    }

    #[test]
    fn max_live_bounds_all_attempts() {
        let tasks: Vec<_> = (1..=5).map(|n| task(n, json!({"tree": "isolate"}))).collect();
        let mut seats: Vec<_> = (0..5).map(|n| seat(&format!("s{n}"))).collect();
        seats[0].holder = Some(TaskId(9));
        let made = schedule(&tasks, &World { max_live: 3, ..world(seats) });
        assert_eq!((made.claims.len(), made.waiting.len()), (2, 3));
    }

    #[test]
    fn f51_ageing_lets_an_old_task_pass_a_newer_one_of_higher_priority() {
        let old: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let new = old + Duration::from_secs(3 * 3600 + 1);
        assert!(turn(0, old) > turn(1, old));
        assert!(turn(0, old) < turn(3, new) && turn(0, old) > turn(4, new));
        assert!(turn(i64::MAX, old) < turn(i64::MIN, old));
    }
}
