//! `orchwrap attach`: shows a session's terminal here.

use std::os::unix::process::CommandExt;

use anyhow::bail;

use super::ask::ask;
use super::exit::Exit;
use crate::config::{self, Config, Dirs};
use crate::daemon::rpc::Call;
use crate::daemon::service::SessionView;
use crate::ids::Name;
use crate::run::Seat;
use crate::tmux::client::Tmux;

/// Show a session's terminal here; Ctrl-b d leaves it, the agent goes on
#[derive(Debug, clap::Args)]
pub(crate) struct Attach {
    /// Look only
    #[arg(short, long)]
    read_only: bool,
    /// The session
    session: Name,
}

pub(crate) fn run(args: &Attach) -> anyhow::Result<Exit> {
    let view: SessionView = ask(Call::SessionShow { name: args.session.clone() })?;
    let session = view.session;
    if session.spec.seat != Seat::Pane {
        bail!("session {} has no terminal to show: it was started with --terminal detached or oneshot", args.session);
    }
    if session.pane.is_none() {
        bail!("session {} is not started yet: `orchwrap pool ls` says why", args.session);
    }
    let dirs = Dirs::from_env()?;
    let config = Config::load(&dirs, config::vars())?;
    let tmux = Tmux::new(&dirs.state(), dirs.is_default(), &config.tmux);
    eprintln!("Leave with Ctrl-b d. The agent goes on working.");
    // Only comes back where tmux cannot be run.
    let error = tmux.attach_command(session.id, args.read_only).exec();
    bail!("run tmux: {error}")
}
