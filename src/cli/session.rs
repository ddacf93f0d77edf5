//! `orchwrap session ..`: named seats outside any pool.

use std::io::Write as _;

use clap::Subcommand;

use super::ask::ask;
use super::exit::Exit;
use super::pool::{SeatArgs, describe, request};
use super::{ls, text};
use crate::daemon::rpc::Call;
use crate::daemon::service::SessionView;
use crate::ids::Name;

/// Named seats outside any pool
#[derive(Debug, Subcommand)]
pub(super) enum SessionVerb {
    /// List sessions and live runs, as `orchwrap ls` does
    Ls(ls::LsArgs),
    /// Make and start a session
    Start {
        /// Its name
        name: Name,
        #[command(flatten)]
        seat: SeatArgs,
        /// Let the queue send it tasks
        #[arg(long)]
        tasks: bool,
    },
    /// Show a session
    Show {
        /// Its name
        name: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Type a prompt into an idle session; prints the verdict
    Send {
        /// Its name
        name: Name,
        /// The prompt
        text: String,
    },
    /// Stop a session's process and keep it stopped
    Stop {
        /// Its name
        name: Name,
    },
}

pub(super) fn main(verb: SessionVerb) -> anyhow::Result<Exit> {
    match verb {
        SessionVerb::Ls(args) => Ok(ls::list(&args)?),
        SessionVerb::Start { name, seat, tasks } => {
            let view: SessionView = ask(Call::SessionStart(request(name, None, seat, tasks)?))?;
            show(&view, false)
        }
        SessionVerb::Show { name, json } => show(&ask(Call::SessionShow { name })?, json),
        SessionVerb::Send { name, text } => {
            let outcome: crate::ctl::SendOutcome = ask(Call::SessionSend { name, text })?;
            match (outcome.verdict, outcome.refused) {
                (Some(verdict), _) => {
                    let word = serde_json::to_value(verdict)?;
                    writeln!(std::io::stdout(), "{}", word.as_str().unwrap_or_default())?;
                    let taken = matches!(word.as_str(), Some("accepted" | "queued_in_agent"));
                    Ok(if taken { Exit::Ok } else { Exit::Failed })
                }
                (None, _) => anyhow::bail!("{}", outcome.why),
            }
        }
        SessionVerb::Stop { name } => {
            let _: serde_json::Value = ask(Call::SessionStop { name })?;
            Ok(Exit::Ok)
        }
    }
}

fn show(view: &SessionView, json: bool) -> anyhow::Result<Exit> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", crate::json::line(view)?)?;
    } else {
        let s = &view.session;
        writeln!(out, "{}  {}  {}  {}", s.spec.name, text::safe(&s.spec.agent), describe(s), text::path(&s.place))?;
    }
    Ok(Exit::Ok)
}
