//! `orchwrap wait`: until tasks are done.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::{Exit, ask, text};
use crate::config::Period;
use crate::daemon::client::{self, Client, Start};
use crate::daemon::rpc::{Call, WaitFor};
use crate::daemon::service::{Waited, WaitedFor};
use crate::ids::TaskId;
use crate::queue::task::TaskState;

/// How often a lost connection is made again before giving up.
const RECONNECTS: u32 = 20;

/// Wait until tasks are done
///
/// Exit status: 0 completed, 1 failed, timed out or cancelled, 3 a task asks or is in review, 124 the time is over.
#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// The tasks
    #[arg(required = true, value_name = "ID")]
    ids: Vec<TaskId>,
    /// Until one of them is done
    #[arg(long, conflicts_with = "all")]
    any: bool,
    /// Until all of them are done (the default)
    #[arg(long)]
    all: bool,
    /// Give up after this time
    #[arg(long, value_name = "TIME")]
    timeout: Option<Period>,
    /// Go on waiting while a task asks or is in review
    #[arg(long)]
    through_human: bool,
    /// Print the tasks, one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: WaitArgs) -> anyhow::Result<ExitCode> {
    let until = args.timeout.and_then(|t| Instant::now().checked_add(t.0));
    let dirs = ask::dirs()?;
    let mut tries = 0;
    let waited: Waited = loop {
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        let call = Call::TaskWait(WaitFor {
            ids: args.ids.clone(),
            any: args.any,
            through_human: args.through_human,
            timeout_ms: left.map(|l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX)),
        });
        match Client::connect(&dirs, Start::IfNeeded).and_then(|mut c| c.stream(call, |_| Ok(()))) {
            // The daemon was replaced or killed: the next one knows the tasks.
            Err(e) if client::is_disconnect(&e) && tries < RECONNECTS => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(50 * u64::from(tries)));
            }
            other => break other?,
        }
    };
    for task in &waited.tasks {
        if args.json {
            ask::print_json(task)?;
        } else {
            let proof = task
                .proof
                .filter(|_| task.state == TaskState::Completed)
                .map_or(String::new(), |p| format!(" ({})", text::proof(p)));
            let why = task
                .detail
                .as_ref()
                .or(task.reason.as_ref())
                // A completion's proof says it already.
                .filter(|_| task.state != TaskState::Completed)
                .map_or(String::new(), |d| format!(": {}", text::line(d, 100)));
            eprintln!("task {} is {}{proof}{why}", task.id, task.state.as_str());
        }
    }
    Ok(match waited.outcome {
        WaitedFor::Completed => Exit::Ok,
        WaitedFor::Failed => Exit::Failed,
        WaitedFor::Human => Exit::Asking,
        WaitedFor::Timeout => Exit::Timeout,
    }
    .into())
}
