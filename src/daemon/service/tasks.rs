//! What there is to know and to say about tasks that are there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{bad, refuse};
use crate::assign::score::Score;
use crate::ctl::Refusal;
use crate::daemon::Daemon;
use crate::daemon::rpc::TaskQuery;
use crate::daemon::trust;
use crate::extract::event::{Event, SessionState};
use crate::ids::{Name, TaskId};
use crate::pty::client::CtlError;
use crate::queue::schedule;
use crate::queue::store::{Approval, Attempt, EventFilter, GateRow, Look, Step, StoreError, TaskFilter};
use crate::queue::task::{Task, TaskState};
use crate::queue::transition::Verb;

/// Finished tasks that a plain listing shows.
const RECENT: usize = 20;

/// How long an answer may take to show that it was taken, before we return without having seen it.
const EFFECT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Events that are shown as evidence of a verdict.
const EVIDENCE: usize = 20;

/// Event types that a verdict rests on.
const EVIDENCE_KINDS: &[&str] =
    &["prompt.*", "turn.*", "permission.*", "question.*", "limit.reached", "gate.*", "context.*", "run.exited"];

/// One attempt with its gates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    /// The attempt.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// Its gates, in the order they were started.
    pub gates: Vec<GateRow>,
}

/// Everything about one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Its attempts, oldest first.
    pub tries: Vec<AttemptView>,
    /// What its agent asks now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asking: Option<Approval>,
    /// The last events that its state rests on.
    pub evidence: Vec<Event>,
}

/// A session that was looked at for a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The session.
    pub session: Name,
    /// What it is doing.
    pub state: SessionState,
    /// Points, by what they are for, where it can take the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// Why it cannot take the task now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub but: Option<String>,
}

/// Why a task is where it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The task.
    pub task: Task,
    /// The last attempt: its session and why that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// What that attempt did so far.
    pub steps: Vec<Step>,
    /// For a task that is not claimed: the sessions there are.
    pub candidates: Vec<Candidate>,
}

/// Lists tasks: those asked for, or all open ones and the last that are over.
pub(super) fn list(look: &Look<'_>, query: &TaskQuery) -> Result<Vec<Task>, StoreError> {
    let open: Vec<_> = TaskState::ALL.into_iter().filter(|s| !s.is_final()).collect();
    let over: Vec<_> = TaskState::ALL.into_iter().filter(|s| s.is_final()).collect();
    let page = |states: Vec<TaskState>, limit: usize| {
        let label = query.labels.first().cloned();
        look.tasks(&TaskFilter { states, label, newest_first: true, limit, ..TaskFilter::default() })
    };
    let limit = query.limit.unwrap_or(0);
    let mut tasks = match (query.states.is_empty(), query.all) {
        (false, _) => page(query.states.clone(), limit)?,
        (true, true) => page(Vec::new(), limit)?,
        (true, false) => {
            let mut tasks = page(open, limit)?;
            tasks.extend(page(over, RECENT)?);
            tasks
        }
    };
    tasks.retain(|t| query.labels.iter().all(|l| t.spec.labels.contains(l)));
    tasks.sort_by_key(|t| t.id);
    if let Some(limit) = query.limit.filter(|l| *l < tasks.len()) {
        tasks.drain(..tasks.len() - limit);
    }
    Ok(tasks)
}

impl Daemon {
    /// Lists tasks; see [`list`].
    pub async fn tasks(&self, query: TaskQuery) -> Result<Vec<Task>, Refusal> {
        Ok(self.store.look(move |look| list(look, &query)).await?)
    }

    /// Everything about one task.
    pub async fn task_view(&self, id: TaskId) -> Result<TaskView, Refusal> {
        let task = self.store.task(id).await?;
        let mut tries = Vec::new();
        for attempt in self.store.attempts(id).await? {
            let gates = self.store.gates(attempt.key).await?;
            tries.push(AttemptView { attempt, gates });
        }
        let asking = self.store.open_asks(Some(id)).await?.pop();
        let filter = EventFilter {
            task: Some(id),
            kinds: EVIDENCE_KINDS.iter().map(ToString::to_string).collect(),
            ..EventFilter::default()
        };
        let evidence = self.store.last_events(filter, EVIDENCE).await?;
        Ok(TaskView { task, tries, asking, evidence })
    }

    /// Why a task is where it is.
    pub async fn why(&self, id: TaskId) -> Result<Why, Refusal> {
        let task = self.store.task(id).await?;
        let attempt = self.store.attempts(id).await?.pop();
        let steps = match &attempt {
            Some(a) => self.store.attempt_steps(a.key).await?,
            None => Vec::new(),
        };
        let candidates = match task.state {
            TaskState::Queued | TaskState::RetryWait | TaskState::Held => self.candidates(&task).await?,
            _ => Vec::new(),
        };
        Ok(Why { task, attempt, steps, candidates })
    }

    /// Does what a human says about these tasks: all of them or none.
    pub async fn say(&self, ids: Vec<TaskId>, verb: &str, note: Option<String>) -> Result<Vec<Task>, Refusal> {
        let Some(verb) = Verb::ALL.into_iter().find(|v| v.as_str() == verb) else {
            let known: Vec<_> = Verb::ALL.iter().map(|v| v.as_str()).collect();
            return Err(bad(format!("no verb is called {verb}; there are {}", known.join(", "))));
        };
        if ids.is_empty() {
            return Err(bad("name at least one task"));
        }
        Ok(self.store.write(move |tx| ids.iter().map(|id| tx.say(*id, verb, note.as_deref())).collect()).await?)
    }

    /// Passes an answer on to the agent that asks: one answer wins, bound to what was shown (T32, F71).
    ///
    /// A client that hangs up does not stop it half-way: an answer is decided and delivered, or neither.
    pub async fn answer(self: &Arc<Self>, id: TaskId, text: String, hash: Option<String>) -> Result<Task, Refusal> {
        let daemon = self.clone();
        let work = tokio::spawn(async move { daemon.decide_and_deliver(id, text, hash).await });
        work.await.unwrap_or_else(|e| Err(refuse("internal", e)))
    }

    async fn decide_and_deliver(&self, id: TaskId, text: String, hash: Option<String>) -> Result<Task, Refusal> {
        let task = self.store.task(id).await?;
        if task.state == TaskState::Review && task.reason.as_deref() == Some(trust::REASON) {
            return self.settle_doubt(&task, &text, hash.as_deref()).await;
        }
        let Some(asked) = self.store.open_asks(Some(id)).await?.pop() else {
            return Err(refuse("not_asking", format!("task {id} is {} and asks nothing", task.state.as_str())));
        };
        if hash.is_some_and(|h| h != asked.ask.hash) {
            return Err(refuse(
                "stale_answer",
                format!("task {id} asks something else by now; look again: orchwrap task show {id}"),
            ));
        }
        let Some(run) = self.runs.get(&asked.run) else {
            return Err(refuse("run_unreachable", format!("the run of task {id} has ended")));
        };
        if !self.store.decide(&asked.run, &asked.ask.hash, &text).await? {
            // The same answer twice is one answer; another one came too late.
            if asked.answer.is_some_and(|a| a == text) {
                return Ok(task);
            }
            return Err(refuse("answered", format!("task {id} has been answered already")));
        }
        let mut events = self.bus.subscribe();
        if let Err(e) = run.answer(&asked.ask.hash, &text).await {
            self.store.undecide(&asked.run, &asked.ask.hash).await?;
            return Err(match e {
                CtlError::Refused(refusal) => refusal,
                e => refuse("run_unreachable", e),
            });
        }
        // Answered means that the task goes on: who waits for it next must not meet the old question.
        let goes_on = async {
            loop {
                let task = self.store.task(id).await?;
                if task.state != TaskState::Asking {
                    return Ok::<_, Refusal>(task);
                }
                // Lagging behind is no harm: the store is asked again.
                let _ = events.recv().await;
            }
        };
        match tokio::time::timeout(EFFECT_PATIENCE, goes_on).await {
            Ok(task) => task,
            Err(_) => Ok(self.store.task(id).await?),
        }
    }

    /// Every session, judged for the task as the scheduler does.
    async fn candidates(&self, task: &Task) -> Result<Vec<Candidate>, Refusal> {
        let world = self.world(std::slice::from_ref(task)).await?;
        let state =
            |name: &Name| world.seats.iter().find(|s| s.name == *name).map_or(SessionState::Unknown, |s| s.state);
        let judged = schedule::explain(task, &world);
        Ok(judged
            .into_iter()
            .map(|j| {
                let (score, but) = match j.verdict {
                    Ok(score) => (Some(score), None),
                    Err(obstacle) => (None, Some(obstacle.to_string())),
                };
                Candidate { state: state(&j.session), session: j.session, score, but }
            })
            .collect())
    }
}
