//! The world as the scheduler sees it: sessions, working trees, parked providers, limits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::Daemon;
use crate::clock;
use crate::ctl::Status;
use crate::extract::event::SessionState;
use crate::ids::{Name, TaskId};
use crate::queue::schedule::{self, Held, Seat, World};
use crate::queue::store::{Session, StoreError, Wanted};
use crate::queue::task::Task;
use crate::run;

/// How long a wrapper may take to say what it is doing; then what its events told stands.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

impl Daemon {
    /// The world as the scheduler sees it, for these tasks.
    pub(super) async fn world(&self, tasks: &[Task]) -> Result<World, StoreError> {
        let sessions = self.store.sessions().await?;
        let live = self.store.live_attempts().await?;
        let holders: HashMap<&Name, _> = live.iter().map(|(a, _)| (&a.session, a.key.task)).collect();
        let held = live.iter().map(|(a, task)| Held {
            task: task.id,
            place: schedule::place(&task.spec),
            tree: a.tree.clone(),
            branch: task.spec.branch.clone(),
        });
        let parked = self.store.parked().await?.into_iter().map(|(p, until, why)| (p, (until, why))).collect();
        let mut ran = BTreeMap::new();
        for id in tasks.iter().filter_map(|t| t.spec.continue_task).collect::<BTreeSet<_>>() {
            ran.extend(self.store.task(id).await?.last_session.map(|s| (id, s)));
        }
        let config = self.config();
        let stopped = match self.is_stopping() {
            true => Some("the daemon, which is ending".to_owned()),
            false => self.store.check_in_place().err().map(|e| e.to_string()),
        };
        let mut seats = Vec::with_capacity(sessions.len());
        for session in sessions {
            let holder = holders.get(&session.spec.name).copied();
            seats.push(self.seat(session, holder).await);
        }
        Ok(World {
            now: clock::wall(),
            seats,
            held: held.collect(),
            parked,
            ran,
            points: config.score.clone(),
            max_live: config.queue.max_live,
            stopped,
        })
    }

    /// A session as the scheduler sees it. The wrapper itself is asked where its answer would decide: is there a draft?
    async fn seat(&self, session: Session, holder: Option<TaskId>) -> Seat {
        let run = self.seats.run_of(&session);
        let seen = run.as_ref().map(|r| r.seen());
        let state = seen.as_ref().map_or(SessionState::Exited, |s| s.state);
        let mut status: Option<Status> = None;
        if let (Some(run), None, SessionState::Idle | SessionState::Setup) = (&run, holder, state) {
            status = tokio::time::timeout(STATUS_PATIENCE, run.status()).await.ok().and_then(Result::ok);
        }
        let down = match (session.wanted, &session.aside, session.retry_at) {
            (Wanted::Down, ..) => Some(format!("stopped; start it with: orchwrap session start {}", session.spec.name)),
            (_, Some(why), _) => Some(why.clone()),
            _ if session.spec.seat == run::Seat::Pane && self.seats.tmux().is_frozen() => {
                Some("tmux does not answer".to_owned())
            }
            (_, None, Some(at)) if at > clock::wall() => Some(format!("starts again at {at:.0}")),
            _ => None,
        };
        Seat {
            provider: self.packs().get(&session.spec.pack).and_then(|p| p.provider.clone()),
            name: session.spec.name,
            pool: session.spec.pool,
            agent: session.spec.pack,
            takes_tasks: session.spec.takes_tasks,
            state: status.as_ref().map_or(state, |s| s.state),
            setup: status.as_ref().and_then(|s| s.setup.clone()),
            draft: status.as_ref().is_some_and(|s| s.draft),
            place: session.place,
            branch: session.branch,
            last_active: session.last_active,
            holder,
            down,
        }
    }
}
