//! Which state may follow which, and who may say so. Pure; the store refuses whatever is not here.

use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::task::TaskState::{
    self, Asking, Cancelled, Claimed, Completed, Failed, Held, Preparing, Queued, Ready, RetryWait, Review, Running,
    Sending, TimedOut, Verifying,
};

/// What a human may say about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `task cancel`: nobody wants it any more.
    Cancel,
    /// `task hold`: not now.
    Hold,
    /// `task release`: a held task may go, even without what it depended on.
    Release,
    /// `task retry`: again from the start, with all its attempts.
    Retry,
    /// `task done`: completed, on a human's word.
    Done,
    /// `task fail`: failed, on a human's word.
    Fail,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 6] = [Self::Cancel, Self::Hold, Self::Release, Self::Retry, Self::Done, Self::Fail];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Retry => "retry",
            Self::Done => "done",
            Self::Fail => "fail",
        }
    }

    /// The state it leads to.
    pub fn to(self) -> TaskState {
        match self {
            Self::Cancel => Cancelled,
            Self::Hold => Held,
            Self::Release | Self::Retry => Queued,
            Self::Done => Completed,
            Self::Fail => Failed,
        }
    }

    /// The states in which it may be said.
    ///
    /// Manual completion is always possible; what is under way is cancelled, not held, since an agent cannot be paused
    /// without losing its turn.
    pub fn from(self) -> &'static [TaskState] {
        match self {
            Self::Cancel => {
                &[Queued, Claimed, Preparing, Ready, Sending, Running, Asking, Review, Held, Verifying, RetryWait]
            }
            Self::Hold => &[Queued, RetryWait],
            Self::Release => &[Held],
            Self::Retry => &[Review, RetryWait, Completed, Failed, Cancelled, TimedOut],
            Self::Done => &[
                Queued, Claimed, Preparing, Ready, Sending, Running, Asking, Review, Held, Verifying, RetryWait,
                Failed, Cancelled, TimedOut,
            ],
            Self::Fail => &[
                Queued, Claimed, Preparing, Ready, Sending, Running, Asking, Review, Held, Verifying, RetryWait,
                Completed,
            ],
        }
    }
}

/// Who changes a task's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The queue itself: claims, due times, dependencies.
    Queue,
    /// The driver of the live attempt, holding its fence.
    Attempt,
    /// A person.
    Human(Verb),
}

/// Returns whether `actor` may take a task from one state to another.
pub fn allowed(actor: Actor, from: TaskState, to: TaskState) -> bool {
    match actor {
        Actor::Human(verb) => verb.to() == to && verb.from().contains(&from),
        Actor::Queue => matches!(
            (from, to),
            // a claim; a due retry; a dependency that failed, and one that was retried after all
            (Queued, Claimed) | (RetryWait, Queued) | (Queued, Held) | (Held, Queued)
        ),
        Actor::Attempt => {
            // Before anything was sent an attempt may go back to the queue, free of charge.
            let back = matches!(to, Queued | RetryWait | Failed | TimedOut | Review);
            match from {
                Claimed => back || to == Preparing,
                Preparing => back || matches!(to, Ready | Held),
                // `Sending -> Ready`: the wrapper refused and nothing was written, e.g. for the human's draft.
                Ready => back || matches!(to, Sending | Preparing | Held),
                Sending => back || matches!(to, Running | Asking | Verifying | Ready),
                Running => back_after_send(to) || matches!(to, Asking | Verifying | Completed),
                Asking => back_after_send(to) || matches!(to, Running | Verifying | Completed),
                Verifying => back_after_send(to) || matches!(to, Completed | Asking),
                Queued | Review | Held | RetryWait | Completed | Failed | Cancelled | TimedOut => false,
            }
        }
    }
}

/// Once a prompt may have arrived, a task goes back to the queue only by way of a retry.
fn back_after_send(to: TaskState) -> bool {
    matches!(to, RetryWait | Failed | TimedOut | Review)
}

/// Returns what a task in `state` waits for, where the state alone tells.
pub fn waits_for(state: TaskState, task: TaskId, due: Option<Timestamp>) -> Option<String> {
    match (state, due) {
        (Queued, Some(due)) => Some(format!("its time, {due:.0}")),
        (Queued, None) => Some("its turn".to_owned()),
        (RetryWait, Some(due)) => Some(format!("its next try, {due:.0}")),
        (RetryWait, None) => Some("its next try".to_owned()),
        (Asking, _) => Some(format!("your answer: orchwrap task answer {task} yes|no|TEXT")),
        (Review, _) => Some(format!("your decision: orchwrap task done|fail|retry {task}")),
        (Held, _) => Some(format!("you: orchwrap task release {task}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn actors() -> impl Iterator<Item = Actor> {
        [Actor::Queue, Actor::Attempt].into_iter().chain(Verb::ALL.map(Actor::Human))
    }

    #[test]
    fn nothing_but_a_human_moves_a_final_task() {
        for from in TaskState::ALL.into_iter().filter(|s| s.is_final()) {
            for to in TaskState::ALL {
                assert!(!allowed(Actor::Queue, from, to), "{from:?} -> {to:?}");
                assert!(!allowed(Actor::Attempt, from, to), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn no_state_follows_itself() {
        for actor in actors() {
            for s in TaskState::ALL {
                assert!(!allowed(actor, s, s), "{actor:?} {s:?}");
            }
        }
    }

    #[test]
    fn a_human_can_end_every_task_that_has_not_ended() {
        for s in TaskState::ALL.into_iter().filter(|s| !s.is_final()) {
            for verb in [Verb::Cancel, Verb::Done, Verb::Fail] {
                assert!(allowed(Actor::Human(verb), s, verb.to()), "{verb:?} {s:?}");
            }
        }
    }

    #[test]
    fn a_human_has_a_way_out_of_every_state_that_waits_for_one() {
        for s in [Asking, Review, Held] {
            assert!(Verb::ALL.into_iter().any(|v| v.from().contains(&s)));
            assert!(waits_for(s, TaskId(1), None).is_some());
        }
    }

    #[test]
    fn an_attempt_moves_only_live_states_and_can_leave_each() {
        for from in TaskState::ALL {
            let ways: Vec<_> = TaskState::ALL.into_iter().filter(|to| allowed(Actor::Attempt, from, *to)).collect();
            assert_eq!(from.is_live(), !ways.is_empty(), "{from:?} -> {ways:?}");
            if from.is_live() {
                assert!(ways.contains(&Failed) && ways.contains(&RetryWait) && ways.contains(&Review), "{from:?}");
            }
        }
    }

    #[test]
    fn once_sent_a_task_never_goes_back_to_the_queue_uncharged() {
        for from in [Running, Asking, Verifying] {
            for to in [Queued, Claimed, Preparing, Ready, Sending] {
                assert!(!allowed(Actor::Attempt, from, to), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn every_state_is_reached_from_the_queue() {
        let mut seen = BTreeSet::from([Queued]);
        loop {
            let more: BTreeSet<_> = TaskState::ALL
                .into_iter()
                .filter(|to| seen.iter().any(|from| actors().any(|a| allowed(a, *from, *to))))
                .collect();
            if more.is_subset(&seen) {
                break;
            }
            seen.extend(more);
        }
        assert_eq!(seen.len(), TaskState::ALL.len());
    }
}
