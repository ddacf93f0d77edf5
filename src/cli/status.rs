//! `orchwrap status`: counts, in a few lines or in one for a status bar. Never starts the daemon.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;

use super::{Exit, ask, text};
use crate::clock::{self, Timestamp};
use crate::daemon::client::{Client, ClientError, Start};
use crate::daemon::rpc::Call;
use crate::daemon::service::Overview;
use crate::daemon::service::offline::{self, Counts};
use crate::paths::StateDir;

/// Show what is going on
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// One short line, for a status bar
    #[arg(long, conflicts_with = "json")]
    line: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let dirs = ask::dirs()?;
    let overview: Option<Overview> = match Client::connect(&dirs, Start::Never) {
        Ok(mut client) => Some(client.call(Call::Status {})?),
        Err(ClientError::NotRunning) => None,
        Err(e) => return Err(e.into()),
    };
    match (overview, args.json, args.line) {
        (Some(o), true, _) => ask::print_json(&o)?,
        (Some(o), _, true) => ask::print(&format!("{}\n", line(&o)))?,
        (Some(o), ..) => ask::print(&lines(&o))?,
        (None, false, true) => ask::print("daemon off\n")?,
        (None, json, _) => return without_daemon(&dirs.state(), json),
    }
    Ok(Exit::Ok.into())
}

/// Says what the database and the locks of the runs tell. What cannot be read is said on stderr, after the rest (F45).
fn without_daemon(state: &StateDir, json: bool) -> anyhow::Result<ExitCode> {
    let (counts, unread) = offline::counts(state);
    match (json, &unread) {
        (true, _) => ask::print_json(&counts)?,
        (false, None) => ask::print(&off_lines(&counts))?,
        (false, Some(_)) => ask::print(&format!("{OFF}runs      {} live\n", counts.runs))?,
    }
    Ok(unread
        .map_or(Exit::Ok, |e| {
            eprintln!("orchwrap: {e}");
            Exit::Unavailable
        })
        .into())
}

const OFF: &str = "daemon    not running; start it with: orchwrap daemon start\n";

fn off_lines(c: &Counts) -> String {
    let (seats, tasks) = (counts(&c.seats, SEATS), counts(&c.tasks, TASKS));
    format!("{OFF}runs      {} live\nsessions  {seats}\ntasks     {tasks}\n{}", c.runs, parked(&c.parked))
}

fn counts(of: &BTreeMap<String, u64>, order: &[&str]) -> String {
    let known: Vec<_> = order.iter().filter_map(|s| of.get(*s).map(|n| format!("{n} {s}"))).collect();
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

const SEATS: &[&str] = &["asking", "setup", "limited", "working", "idle", "starting", "unknown", "exited"];
const TASKS: &[&str] = &[
    "asking",
    "review",
    "running",
    "sending",
    "ready",
    "preparing",
    "claimed",
    "verifying",
    "queued",
    "retry_wait",
    "held",
    "completed",
    "failed",
    "timed_out",
    "cancelled",
];

fn lines(o: &Overview) -> String {
    format!(
        "daemon    pid {}, version {}, for {}\nsessions  {}\ntasks     {}\n{}",
        o.pid,
        o.version,
        text::ago(o.since, clock::wall()),
        counts(&o.seats, SEATS),
        counts(&o.tasks, TASKS),
        o.damage.as_ref().map(|damage| format!("restored  {}\n", text::safe(damage))).unwrap_or_default()
            + &parked(&o.parked)
    )
}

fn parked(of: &BTreeMap<String, Timestamp>) -> String {
    of.iter().map(|(provider, until)| format!("parked    {} until {until:.0}\n", text::safe(provider))).collect()
}

/// What needs a human first, then what moves; nothing that is over.
fn line(o: &Overview) -> String {
    let n = |of: &BTreeMap<String, u64>, s: &str| of.get(s).copied().unwrap_or(0);
    let parts = [
        ("ask", n(&o.tasks, "asking").max(n(&o.seats, "asking"))),
        ("setup", n(&o.seats, "setup")),
        ("review", n(&o.tasks, "review")),
        ("working", n(&o.seats, "working")),
        ("idle", n(&o.seats, "idle")),
        ("queued", n(&o.tasks, "queued") + n(&o.tasks, "retry_wait")),
    ];
    let shown: Vec<_> = parts.iter().filter(|(_, n)| *n > 0).map(|(word, n)| format!("{word} {n}")).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join("  ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_first_what_needs_a_human() {
        let map = |of: &[(&str, u64)]| of.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let o = Overview {
            pid: 1,
            version: "1".into(),
            since: clock::Timestamp::UNIX_EPOCH,
            state_dir: "/s".into(),
            runs: 3,
            seats: map(&[("idle", 2), ("asking", 1)]),
            tasks: map(&[("asking", 1), ("queued", 4), ("retry_wait", 1), ("completed", 9)]),
            parked: BTreeMap::new(),
            damage: None,
        };
        assert_eq!(line(&o), "ask 1  idle 2  queued 5");
        assert_eq!(counts(&o.tasks, TASKS), "1 asking, 4 queued, 1 retry_wait, 9 completed");
    }
}
