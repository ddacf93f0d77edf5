//! The queue's main loop: whenever something changed or fell due, gives queued tasks to the sessions that suit them best.
//!
//! What is chosen is decided by `queue::schedule` from a snapshot of the world (`world`); this module starts a driver
//! for each claim that the store grants.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::{Daemon, attempt};
use crate::clock;
use crate::extract::event::{Body, Event};
use crate::queue::schedule::{self, Schedule};
use crate::queue::store::StoreError;

/// Tasks of one lane that are looked at in one round, however long the queue is (F51).
const PER_LANE: usize = 64;

/// The same, where none of those can be given to a session that is free.
const MOST_PER_LANE: usize = 4096;

/// Pause between two rounds that nothing but a human's draft stands in the way of: its end makes no event.
const DRAFT_PAUSE: Duration = Duration::from_secs(2);

/// Longest pause between two rounds: what only time changes (a breaker, a clock that jumped) is seen then.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs rounds until the daemon is to end.
pub(super) async fn run(daemon: Arc<Daemon>) {
    let mut bus = daemon.bus.subscribe();
    let mut runs = daemon.runs.changes();
    loop {
        let pause = match round(&daemon).await {
            Ok(pause) => pause,
            Err(e) => {
                tracing::warn!(error = %e, "nothing is claimed");
                DRAFT_PAUSE
            }
        };
        tokio::select! {
            () = daemon.stopping() => return,
            () = matters(&mut bus) => {}
            _ = runs.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        // What came meanwhile is answered by one round.
        while !matches!(bus.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
    }
}

/// Returns once an event came that may change who can work on what.
async fn matters(bus: &mut tokio::sync::broadcast::Receiver<Arc<Event>>) {
    loop {
        match bus.recv().await {
            Ok(event) => match &event.body {
                Body::TaskState { .. } | Body::State { .. } | Body::RunExited { .. } | Body::Note { .. } => return,
                _ => {}
            },
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// One round; returns how long nothing needs to be done if nothing happens.
async fn round(daemon: &Arc<Daemon>) -> Result<Duration, StoreError> {
    daemon.store.wake().await?;
    let lanes = daemon.store.queued_lanes().await?;
    let mut draft = false;
    if !lanes.is_empty() {
        let mut per_lane = PER_LANE;
        let Schedule { claims, waiting } = loop {
            let tasks = daemon.store.window(lanes.clone(), per_lane).await?;
            let world = daemon.world(&tasks).await?;
            draft = world.seats.iter().any(|s| s.draft);
            let found = schedule::schedule(&tasks, &world);
            // Tasks that nobody can take must not hide those behind them from a session that is free.
            let free = world.stopped.is_none() && world.seats.iter().any(|s| s.holder.is_none() && s.down.is_none());
            if !found.claims.is_empty() || !free || tasks.len() < per_lane || per_lane >= MOST_PER_LANE {
                break found;
            }
            per_lane = (per_lane * 8).min(MOST_PER_LANE);
        };
        for claimed in daemon.store.claim(claims).await? {
            tracing::info!(task = %claimed.key.task, session = %claimed.session, "claimed");
            tokio::spawn(attempt::drive(daemon.clone(), claimed));
        }
        daemon.store.set_waiting(waiting).await?;
    }
    let due =
        daemon.store.next_due().await?.map(|t| Duration::try_from(t.duration_since(clock::wall())).unwrap_or_default());
    let longest = if draft { DRAFT_PAUSE } else { LONGEST_PAUSE };
    Ok(due.map_or(longest, |d| d.min(longest)))
}

/// Takes up the attempts that were live when the last daemon ended.
pub(super) async fn resume(daemon: &Arc<Daemon>) -> Result<(), StoreError> {
    daemon.store.write(|tx| tx.undecide_all()).await?;
    for (attempt, task) in daemon.store.live_attempts().await? {
        tracing::info!(task = %task.id, state = task.state.as_str(), "attempt taken up again");
        tokio::spawn(attempt::resume(daemon.clone(), attempt, task));
    }
    Ok(())
}
