//! `orchwrap ls`: sessions, and the runs that people started by hand.

use std::process::ExitCode;

use clap::Args;

use super::{Exit, ask, text};
use crate::clock::{self, Timestamp};
use crate::daemon::rpc::Call;
use crate::daemon::service::{SeatView, offline, state_word};

/// List sessions and live runs
#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: LsArgs) -> anyhow::Result<ExitCode> {
    list(&args).map(Into::into)
}

/// Prints them.
pub(super) fn list(args: &LsArgs) -> anyhow::Result<Exit> {
    let dirs = ask::dirs()?;
    let (seats, exit): (Vec<SeatView>, _) = match ask::daemon_if_possible(&dirs)? {
        Some(mut client) => (client.call(Call::Ls {})?, Exit::Ok),
        None => (offline::list_seats(&dirs.state())?, Exit::Unavailable),
    };
    if args.json {
        seats.iter().try_for_each(ask::print_json)?;
    } else if seats.is_empty() && exit == Exit::Ok {
        eprintln!(
            "orchwrap: no sessions; start some with: orchwrap pool up NAME --agent AGENT, or wrap one: orchwrap AGENT"
        );
    } else {
        ask::print(&render(&seats, clock::wall()))?;
    }
    Ok(exit)
}

fn render(seats: &[SeatView], now: Timestamp) -> String {
    let dash = || "-".to_owned();
    let mut rows = vec![["NAME", "AGENT", "STATE", "FOR", "TASK", "RUN", "WHERE", "NOTE"].map(str::to_owned).to_vec()];
    for s in seats {
        let place = match &s.branch {
            Some(branch) => format!("{} ({})", text::path(&s.cwd), text::safe(branch)),
            None => text::path(&s.cwd),
        };
        rows.push(vec![
            s.name.to_string(),
            text::line(&s.agent, 20),
            state_word(s.state).to_owned(),
            text::ago(s.since, now),
            s.task.map_or_else(dash, |t| t.to_string()),
            s.run.as_ref().map_or_else(dash, ToString::to_string),
            place,
            s.note.as_deref().map_or_else(String::new, |n| text::line(n, 60)),
        ]);
    }
    text::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::event::SessionState;
    use crate::ids::TaskId;
    use crate::run::Seat;

    #[test]
    fn a_listing_lines_up_and_ids_stand_free() {
        let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(100);
        let seat = |name: &str, state, task, note: Option<&str>| SeatView {
            name: name.parse().unwrap(),
            pool: None,
            agent: "claude".into(),
            seat: Seat::Pane,
            state,
            since: Timestamp::UNIX_EPOCH,
            cwd: "/src/app".into(),
            branch: Some("main".into()),
            run: Some("abcdefgh2345".parse().unwrap()),
            task,
            takes_tasks: true,
            note: note.map(str::to_owned),
        };
        let seats = [
            seat("opus-1", SessionState::Asking, Some(TaskId(7)), Some("May I run\x1b[2J make?")),
            seat("opus-2", SessionState::Idle, None, None),
        ];
        insta::assert_snapshot!(render(&seats, now), @r"
        NAME    AGENT   STATE   FOR     TASK  RUN           WHERE            NOTE
        opus-1  claude  asking  1m 40s  7     abcdefgh2345  /src/app (main)  May I run\x1b[2J make?
        opus-2  claude  idle    1m 40s  -     abcdefgh2345  /src/app (main)
        ");
    }
}
