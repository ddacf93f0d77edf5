//! The protocol of `daemon.sock`: one JSON object a line.
//!
//! Both sides say [`Hello`] first. Then the client sends requests, one at a time, and gets for each either a result, an
//! error, or a stream of items that ends with a result. Types only; `server` answers and `client` asks.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ctl::Refusal;
use crate::ids::{Name, TaskId};
use crate::queue::task::{TaskSpec, TaskState};

/// Version of this protocol.
pub const PROTO: u32 = 1;

/// Longest line of either side, in bytes: a batch of tasks (F35, T28).
pub const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// The first line of either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the program.
    pub version: String,
    /// [`PROTO`] of the program.
    pub proto: u32,
    /// Its process.
    pub pid: u32,
    /// Daemon: no attempt is live, so it may be replaced at once.
    #[serde(default)]
    pub idle: bool,
}

impl Hello {
    /// What this program says.
    pub fn ours(idle: bool) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), proto: PROTO, pid: std::process::id(), idle }
    }

    /// The version as numbers, for comparing; what is no number counts as 0.
    pub fn version_numbers(&self) -> [u64; 3] {
        let mut parts = self.version.split(['.', '-', '+']).map(|p| p.parse().unwrap_or(0));
        std::array::from_fn(|_| parts.next().unwrap_or(0))
    }
}

/// A request line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in each line of the answer.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

/// A line of an answer; exactly one of `item`, `result` and `error` is there, and the last two end the answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// One of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Value>,
    /// The answer, or the end of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

/// What can be asked: `method` and `params` of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params")]
pub enum Call {
    /// Submits tasks, all or none; [`super::service::Added`] for each.
    #[serde(rename = "task.add")]
    TaskAdd {
        /// The tasks, in order.
        tasks: Vec<Submission>,
    },
    /// Lists tasks; [`crate::queue::task::Task`] for each.
    #[serde(rename = "task.ls")]
    TaskLs(TaskQuery),
    /// Everything about one task; [`super::service::TaskView`].
    #[serde(rename = "task.show")]
    TaskShow {
        /// Which.
        id: TaskId,
    },
    /// Why a task is where it is; [`super::service::Why`].
    #[serde(rename = "task.why")]
    TaskWhy {
        /// Which.
        id: TaskId,
    },
    /// Waits until tasks are done; [`super::service::Waited`].
    #[serde(rename = "task.wait")]
    TaskWait(WaitFor),
    /// Answers what the task's agent asks.
    #[serde(rename = "task.answer")]
    TaskAnswer {
        /// Which.
        id: TaskId,
        /// `yes`, `no`, the number of a choice, or words.
        text: String,
        /// Hash of what the person was shown; none: whatever is asked now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
    },
    /// Changes tasks on a human's word; the changed tasks.
    #[serde(rename = "task.verb")]
    TaskVerb {
        /// Which.
        ids: Vec<TaskId>,
        /// `done`, `fail`, `cancel`, `retry`, `hold` or `release`.
        verb: String,
        /// Why, in the human's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A stream of events; each an [`crate::extract::event::Event`].
    #[serde(rename = "events")]
    Events(EventQuery),
    /// Sessions and live runs; [`super::service::SeatView`] for each.
    #[serde(rename = "ls")]
    Ls {},
    /// Counts; [`super::service::Overview`].
    #[serde(rename = "status")]
    Status {},
    /// Brings a pool up; [`super::service::PoolView`].
    #[serde(rename = "pool.up")]
    PoolUp(SeatRequest),
    /// Stops a pool.
    #[serde(rename = "pool.down")]
    PoolDown {
        /// Its name.
        name: Name,
    },
    /// Pools and their sessions; [`super::service::PoolView`] for each.
    #[serde(rename = "pool.ls")]
    PoolLs {},
    /// Changes the size of a pool; [`super::service::PoolView`].
    #[serde(rename = "pool.scale")]
    PoolScale {
        /// Its name.
        name: Name,
        /// How many sessions.
        size: u32,
    },
    /// Starts the sessions of a pool anew; [`super::service::PoolView`].
    #[serde(rename = "pool.restart")]
    PoolRestart {
        /// Its name.
        name: Name,
    },
    /// Makes and starts a named seat; [`super::service::SessionView`].
    #[serde(rename = "session.start")]
    SessionStart(SeatRequest),
    /// Stops a session's process and keeps it stopped.
    #[serde(rename = "session.stop")]
    SessionStop {
        /// Its name.
        name: Name,
    },
    /// One session; [`super::service::SessionView`].
    #[serde(rename = "session.show")]
    SessionShow {
        /// Its name.
        name: Name,
    },
    /// Types a prompt for a person, outside the queue; [`crate::ctl::SendOutcome`].
    #[serde(rename = "session.send")]
    SessionSend {
        /// Its name.
        name: Name,
        /// The prompt.
        text: String,
    },
    /// Ends the daemon; agents go on.
    #[serde(rename = "daemon.stop")]
    Stop {},
    /// Reads the configuration and packs again.
    #[serde(rename = "daemon.reload")]
    Reload {},
}

impl Call {
    /// Whether it only looks. What is not named here is not for agents (T5).
    pub fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::TaskLs(_)
                | Self::TaskShow { .. }
                | Self::TaskWhy { .. }
                | Self::TaskWait(_)
                | Self::Events(_)
                | Self::Ls {}
                | Self::Status {}
                | Self::PoolLs {}
                | Self::SessionShow { .. }
        )
    }
}

/// A task to add, and how far its values are trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The task.
    pub spec: TaskSpec,
    /// Its `env` was typed by the local user; else the deny-list of T18 holds.
    #[serde(default)]
    pub typed: bool,
    /// No branch was named: take the one where the folder stands.
    #[serde(default)]
    pub branch_here: bool,
}

/// Where the terminals of sessions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terminal {
    /// Panes of our tmux server.
    Tmux,
    /// Terminals of their own that nobody looks at.
    Detached,
    /// None: each task is one command.
    Oneshot,
}

/// How a pool or a session is launched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatRequest {
    /// Its name.
    pub name: Name,
    /// The agent; none: the one of that name.
    #[serde(default)]
    pub agent: Option<String>,
    /// How many sessions, for a pool.
    #[serde(default)]
    pub size: Option<u32>,
    /// Where they start.
    pub cwd: std::path::PathBuf,
    /// Arguments of the agent.
    #[serde(default)]
    pub args: Vec<String>,
    /// The environment of the person who asks: kept in the sessions' own files (0600), nowhere else.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// What they add to it.
    #[serde(default)]
    pub added: std::collections::BTreeMap<String, String>,
    /// Where the terminals are.
    pub terminal: Terminal,
    /// The queue may send them prompts.
    pub takes_tasks: bool,
    /// Their agents report through hooks.
    pub hooks: bool,
    /// The OSC 7501 query is answered.
    pub status_reply: bool,
}

/// Which tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskQuery {
    /// In one of these states; empty: all that are not over, and the last ones that are.
    pub states: Vec<TaskState>,
    /// With all these labels.
    pub labels: Vec<String>,
    /// Finished ones too, however old.
    pub all: bool,
    /// At the most, newest kept.
    pub limit: Option<usize>,
}

/// What to wait for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitFor {
    /// Which tasks.
    pub ids: Vec<TaskId>,
    /// Until one of them is done; else all.
    #[serde(default)]
    pub any: bool,
    /// Go on waiting while a human is needed.
    #[serde(default)]
    pub through_human: bool,
    /// Give up after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventQuery {
    /// Go on with live ones.
    pub follow: bool,
    /// The last so many; none: all that fit the rest.
    pub last: Option<usize>,
    /// With a higher id.
    pub after: Option<i64>,
    /// Not older than this.
    pub since: Option<crate::clock::Timestamp>,
    /// Of this session.
    pub session: Option<Name>,
    /// Of this task.
    pub task: Option<TaskId>,
    /// Of these types: names or globs such as `turn.*`.
    pub types: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_flat_object() {
        let r = Request { id: 3, call: Call::TaskShow { id: TaskId(7) } };
        let json = serde_json::to_string(&r).unwrap();
        assert_eq!(json, r#"{"id":3,"method":"task.show","params":{"id":7}}"#);
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), r);
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"id":1,"method":"events","params":{"follow":true}}"#).unwrap().call,
            Call::Events(EventQuery { follow: true, ..EventQuery::default() })
        );
    }

    #[test]
    fn versions_compare_as_numbers() {
        let v = |s: &str| Hello { version: s.into(), ..Hello::ours(false) }.version_numbers();
        assert!(v("0.10.0") > v("0.9.3"));
        assert!(v("1.0.0-rc1") == v("1.0.0"));
    }
}
