//! `orchwrap pool ..`: sets of sessions that are kept running.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::ask::ask;
use super::exit::Exit;
use super::text;
use crate::daemon::rpc::{Call, SeatRequest, Terminal};
use crate::daemon::service::{PoolView, state_word};
use crate::extract::event::SessionState;
use crate::ids::Name;
use crate::queue::store::{Session, Wanted};

/// Which terminal the sessions get.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Where {
    /// A pane of orchwrap's own tmux server
    Tmux,
    /// A terminal that nobody can look at
    Detached,
    /// None: each task runs the agent's one-shot command
    Oneshot,
}

/// How sessions are launched.
#[derive(Debug, Args)]
pub(crate) struct SeatArgs {
    /// The agent; by default the name, where an agent is called so
    #[arg(long)]
    agent: Option<String>,
    /// The folder it starts in [default: here]
    #[arg(short = 'C', long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A variable of its environment; the rest is yours as it is now
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Where its terminal is
    #[arg(long, value_enum, default_value = "tmux")]
    terminal: Where,
    /// Do not let the agent report through hooks
    #[arg(long)]
    no_hooks: bool,
    /// Do not answer the agent's query for the status protocol (OSC 7501)
    #[arg(long)]
    no_status_reply: bool,
    /// Arguments of the agent
    #[arg(last = true, value_name = "AGENT ARGS")]
    args: Vec<String>,
}

/// Keep sets of sessions running
#[derive(Debug, Subcommand)]
pub(crate) enum Pool {
    /// Start a pool, or change it
    Up {
        /// Its name
        name: Name,
        /// How many sessions
        #[arg(short, long, default_value_t = 2)]
        n: u32,
        #[command(flatten)]
        seat: SeatArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop a pool and its sessions
    Down {
        /// Its name
        name: Name,
    },
    /// List pools and their sessions
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change how many sessions a pool has
    Scale {
        /// Its name
        name: Name,
        /// How many sessions
        n: u32,
    },
    /// Start the idle sessions of a pool anew, and those that were set aside
    Restart {
        /// Its name
        name: Name,
    },
}

pub(crate) fn pool(verb: Pool) -> anyhow::Result<Exit> {
    match verb {
        Pool::Up { name, n, seat, json } => {
            let view: PoolView = ask(Call::PoolUp(request(name, Some(n), seat, true)?))?;
            show_pools(&[view], json)
        }
        Pool::Down { name } => {
            let _: serde_json::Value = ask(Call::PoolDown { name })?;
            Ok(Exit::Ok)
        }
        Pool::Ls { json } => show_pools(&ask::<Vec<PoolView>>(Call::PoolLs {})?, json),
        Pool::Scale { name, n } => show_pools(&[ask(Call::PoolScale { name, size: n })?], false),
        Pool::Restart { name } => show_pools(&[ask(Call::PoolRestart { name })?], false),
    }
}

pub(super) fn request(name: Name, size: Option<u32>, seat: SeatArgs, takes_tasks: bool) -> anyhow::Result<SeatRequest> {
    let dir = seat.dir.unwrap_or_else(|| PathBuf::from("."));
    let cwd = dir.canonicalize().with_context(|| format!("find folder {}", dir.display()))?;
    let mut added = BTreeMap::new();
    for pair in seat.env {
        let (key, value) = pair.split_once('=').with_context(|| format!("--env {pair}: KEY=VALUE is expected"))?;
        added.insert(key.to_owned(), value.to_owned());
    }
    Ok(SeatRequest {
        name,
        agent: seat.agent,
        size,
        cwd,
        args: seat.args,
        // Text only: what is not UTF-8 cannot be sent as JSON, and no agent reads such a variable.
        env: std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect(),
        added,
        terminal: match seat.terminal {
            Where::Tmux => Terminal::Tmux,
            Where::Detached => Terminal::Detached,
            Where::Oneshot => Terminal::Oneshot,
        },
        takes_tasks,
        hooks: !seat.no_hooks,
        status_reply: !seat.no_status_reply,
    })
}

fn show_pools(pools: &[PoolView], json: bool) -> anyhow::Result<Exit> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", crate::json::line(&pools)?)?;
        return Ok(Exit::Ok);
    }
    if pools.is_empty() {
        eprintln!("No pool is up. `orchwrap pool up NAME --agent AGENT` starts one.");
    }
    for view in pools {
        let spec = &view.pool.spec;
        writeln!(out, "{}  {} x {}  {}", spec.name, view.pool.size, text::safe(&spec.agent), text::path(&spec.cwd))?;
        for s in &view.sessions {
            writeln!(out, "  {:<16} {}", s.spec.name, describe(s))?;
        }
    }
    Ok(Exit::Ok)
}

/// What a session is doing, in a few words.
pub(super) fn describe(s: &Session) -> String {
    match (&s.aside, s.wanted) {
        (Some(why), _) => text::line(&format!("set aside: {why} (pool restart tries again)"), 200),
        (None, Wanted::Down) => "stopped".to_owned(),
        // It never had a process, and one is being started.
        (None, Wanted::Up) if s.run.is_none() => state_word(SessionState::Starting).to_owned(),
        (None, Wanted::Up) => state_word(s.state).to_owned(),
    }
}
