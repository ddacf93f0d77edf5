//! What to do with an attempt that lost its driver, or whose run died. Pure.
//!
//! The journal of the run tells: no intent means that nothing was sent; an intent with an acceptance, that the agent
//! has the prompt; an intent alone, with the wrapper gone, that nobody can know. Only that last case needs a human, and
//! only where the prompt may not be sent twice.

use crate::extract::event::{Body, Event, Verdict};
use crate::ids::AttemptKey;
use crate::queue::task::TaskState;

/// What is known about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptFacts {
    /// State of its task.
    pub state: TaskState,
    /// The task's fence is newer: a human decided meanwhile.
    pub fenced: bool,
    /// The prompt may be sent again when it is not certain whether it arrived.
    pub idempotent: bool,
    /// The lock of the run that it was to be sent to is held; false without a run.
    pub alive: bool,
    /// What that run's whole journal says.
    pub evidence: Evidence,
}

/// What the journal of a run says about the prompt of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Evidence {
    /// How far the prompt came.
    pub prompt: Arrival,
    /// Its turn has ended, well or not.
    pub turn_ended: bool,
}

/// How far a prompt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Arrival {
    /// Not a byte was written.
    #[default]
    Unsent,
    /// Some bytes may have been written.
    Intended,
    /// It was written, and not seen to arrive.
    Unaccepted(Verdict),
    /// The agent has it.
    Accepted,
}

impl Evidence {
    /// Reads the events of one run, in order, for the attempt `key`.
    pub fn read<'e>(events: impl IntoIterator<Item = &'e Event>, key: AttemptKey) -> Self {
        let mut e = Self::default();
        for event in events {
            let ours = event.attempt.is_some_and(|a| a.task == key.task && a.fence == key.fence);
            match &event.body {
                Body::PromptIntent { .. } if ours => e.prompt = Arrival::Intended,
                _ if e.prompt == Arrival::Unsent => {}
                Body::PromptUnaccepted { verdict, .. } if ours => e.prompt = Arrival::Unaccepted(*verdict),
                Body::PromptAccepted { human: false, .. } if ours => e.prompt = Arrival::Accepted,
                Body::TurnCompleted { .. } | Body::TurnFailed { .. } | Body::TurnInterrupted { .. } => {
                    // Late evidence counts: what ended was begun.
                    e.prompt = Arrival::Accepted;
                    e.turn_ended = true;
                }
                _ => {}
            }
        }
        e
    }
}

/// How an attempt goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resume {
    /// A human decided: stop what works for it, then end the attempt.
    Release,
    /// Back into the queue, uncharged: nothing was done.
    Requeue,
    /// Prepare (again): every step can be redone.
    Prepare,
    /// Ask the wrapper to send, with the same key: it sends once, or tells the first outcome.
    Send,
    /// The agent has the prompt: wait for the end of its turn.
    Watch,
    /// The turn has ended: judge it by the usual rules.
    Judge,
    /// Run the gates (again).
    Verify,
    /// End this attempt, with its run if that lives, and try again; charged.
    Retry(&'static str),
    /// End the task as failed: the prompt arrived, its work is lost, and it may not be sent twice.
    Fail(&'static str),
    /// A human must decide.
    Review(&'static str),
}

/// Nobody knows whether the prompt arrived.
pub const NO_ACCEPTANCE: &str = "no_acceptance";
/// The agent had the prompt and is gone.
pub const AGENT_LOST: &str = "agent_lost";

/// Returns how an attempt goes on.
pub fn decide(facts: &AttemptFacts) -> Resume {
    use TaskState::{Asking, Claimed, Preparing, Ready, Running, Sending, Verifying};
    if facts.fenced || !facts.state.is_live() {
        return Resume::Release;
    }
    let again = |reason, otherwise: fn(&'static str) -> Resume| {
        if facts.idempotent { Resume::Retry(reason) } else { otherwise(reason) }
    };
    match (facts.state, facts.evidence.prompt) {
        (Verifying, _) => Resume::Verify,
        // The state may lag behind the journal, never the reverse: what the journal shows comes first.
        (_, Arrival::Accepted) if facts.evidence.turn_ended => Resume::Judge,
        (_, Arrival::Accepted) if facts.alive => Resume::Watch,
        (_, Arrival::Accepted) => again(AGENT_LOST, Resume::Fail),
        (_, Arrival::Unaccepted(_)) => again(NO_ACCEPTANCE, Resume::Review),
        (_, Arrival::Intended) if facts.alive => Resume::Send,
        (_, Arrival::Intended) => again(NO_ACCEPTANCE, Resume::Review),
        (Claimed, Arrival::Unsent) => Resume::Requeue,
        (Preparing | Ready, Arrival::Unsent) => Resume::Prepare,
        (Sending, Arrival::Unsent) if facts.alive => Resume::Send,
        (Sending, Arrival::Unsent) => Resume::Requeue,
        // Accepted once, says the store, but the journal is gone (removed by hand).
        (Running | Asking, Arrival::Unsent) if facts.alive => Resume::Watch,
        (_, Arrival::Unsent) => again(AGENT_LOST, Resume::Fail),
    }
}

#[cfg(test)]
mod tests;
