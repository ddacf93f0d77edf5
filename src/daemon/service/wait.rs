//! `wait`: until tasks are done, or a human is needed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;

use crate::ctl::Refusal;
use crate::daemon::Daemon;
use crate::daemon::rpc::WaitFor;
use crate::queue::task::{Task, TaskState};

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitedFor {
    /// What was waited for is completed.
    Completed,
    /// Something failed, was cancelled or ran out of time.
    Failed,
    /// Something asks or is in review.
    Human,
    /// The time is over.
    Timeout,
}

/// The end of a wait, with the tasks as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waited {
    /// How it ended.
    pub outcome: WaitedFor,
    /// The tasks, in the order asked for.
    pub tasks: Vec<Task>,
}

/// Decides whether the wait is over.
fn verdict(states: &[TaskState], any: bool, through_human: bool) -> Option<WaitedFor> {
    let completed = |s: &TaskState| *s == TaskState::Completed;
    if any && states.iter().any(completed) || states.iter().all(completed) {
        return Some(WaitedFor::Completed);
    }
    let over = if any { states.iter().any(|s| s.is_final()) } else { states.iter().all(|s| s.is_final()) };
    if over {
        return Some(WaitedFor::Failed);
    }
    let human = states.iter().any(|s| matches!(s, TaskState::Asking | TaskState::Review));
    (human && !through_human).then_some(WaitedFor::Human)
}

impl Daemon {
    /// Waits for tasks; see [`WaitFor`].
    pub async fn wait(&self, wanted: WaitFor) -> Result<Waited, Refusal> {
        let mut changes = self.bus.subscribe();
        let look = async || -> Result<(Option<WaitedFor>, Vec<Task>), Refusal> {
            let mut tasks = Vec::with_capacity(wanted.ids.len());
            for id in &wanted.ids {
                tasks.push(self.store.task(*id).await?);
            }
            let states: Vec<_> = tasks.iter().map(|t| t.state).collect();
            Ok((verdict(&states, wanted.any, wanted.through_human), tasks))
        };
        let wait = async {
            loop {
                if let (Some(outcome), tasks) = look().await? {
                    return Ok(Waited { outcome, tasks });
                }
                loop {
                    match changes.recv().await {
                        Ok(event) if event.attempt.is_some_and(|a| wanted.ids.contains(&a.task)) => break,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                }
            }
        };
        let Some(ms) = wanted.timeout_ms else { return wait.await };
        match tokio::time::timeout(Duration::from_millis(ms), wait).await {
            Ok(waited) => waited,
            Err(_) => Ok(Waited { outcome: WaitedFor::Timeout, tasks: look().await?.1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskState::*;

    #[test]
    fn all_waits_for_the_last_and_any_for_the_first() {
        assert_eq!(verdict(&[Completed, Running], false, false), None);
        assert_eq!(verdict(&[Completed, Running], true, false), Some(WaitedFor::Completed));
        assert_eq!(verdict(&[Completed, Completed], false, false), Some(WaitedFor::Completed));
        assert_eq!(verdict(&[Completed, Failed], false, false), Some(WaitedFor::Failed));
        assert_eq!(verdict(&[Completed, TimedOut], true, false), Some(WaitedFor::Completed));
        assert_eq!(verdict(&[Running, Failed], true, false), Some(WaitedFor::Failed));
    }

    #[test]
    fn a_question_ends_the_wait_unless_told_otherwise() {
        for s in [Asking, Review] {
            assert_eq!(verdict(&[Running, s], false, false), Some(WaitedFor::Human));
            assert_eq!(verdict(&[Running, s], false, true), None);
        }
    }
}
