//! `orchwrap <agent>` and `orchwrap run -- CMD`: wrap a command in place.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Exit;
use crate::ids::Name;
use crate::pty::{FeedReceiver, IoHandle, Launch, StartError, Started};
use crate::run::Seat;

/// Options of a wrap in place; they stand before the agent's name.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct WrapArgs {
    /// Name of the session (default: agent@folder)
    #[arg(short, long)]
    pub name: Option<Name>,
    /// Keep the output in FILE as well
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Write events as NDJSON to FILE, or to an open descriptor as fd:N; - is stdout where that is no terminal
    #[arg(long, value_name = "FILE|fd:N|-")]
    pub events: Option<String>,
    /// Change to this folder first
    #[arg(short = 'C', long = "dir", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Set an environment variable for the command
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub env: Vec<(String, String)>,
    /// Let the queue send tasks to this session, as a member of POOL
    #[arg(long, value_name = "POOL")]
    pub join: Option<Name>,
    /// Inject no hooks: events come from the terminal alone
    #[arg(long)]
    pub no_hooks: bool,
    /// Leave the agent's status query (OSC 7501) to the terminal
    #[arg(long)]
    pub no_status_reply: bool,
}

/// Options and command of `orchwrap run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Read the output as this agent's (default: by the command's name)
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    #[command(flatten)]
    pub wrap: WrapArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Wraps `command` in the terminal where it was typed.
pub(super) fn run(outer: &WrapArgs, args: RunArgs) -> anyhow::Result<ExitCode> {
    wrap(&merged(outer, args.wrap), args.agent, args.command)
}

/// Wraps an agent in the terminal where it was typed.
pub(super) fn agent(options: &WrapArgs, command: Vec<OsString>) -> anyhow::Result<ExitCode> {
    wrap(options, None, command)
}

/// Options count before and after `run`; the later one wins.
fn merged(outer: &WrapArgs, inner: WrapArgs) -> WrapArgs {
    let outer = outer.clone();
    WrapArgs {
        name: inner.name.or(outer.name),
        record: inner.record.or(outer.record),
        events: inner.events.or(outer.events),
        dir: inner.dir.or(outer.dir),
        env: [outer.env, inner.env].concat(),
        join: inner.join.or(outer.join),
        no_hooks: inner.no_hooks || outer.no_hooks,
        no_status_reply: inner.no_status_reply || outer.no_status_reply,
    }
}

fn wrap(options: &WrapArgs, _agent: Option<String>, argv: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let cwd = match &options.dir {
        Some(dir) => dir.clone(),
        None => std::env::current_dir()?,
    };
    let added = options.env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let launch = Launch {
        argv,
        cwd,
        env: std::env::vars_os().chain(added).collect(),
        seat: Seat::Direct,
        size: None,
        status_reply: !options.no_status_reply,
        stdin: None,
    };
    Ok(ended(crate::pty::run(launch, watch)))
}

/// Reads the feed to its end.
fn watch(_started: Started, _io: IoHandle, mut feed: FeedReceiver) {
    let control = crossbeam_channel::never::<()>();
    while !matches!(feed.recv_deadline(&control, None), crate::pty::Next::Ended) {}
}

/// The exit status for how a wrapped command ended; where it did not start, says why and ends as a shell does.
pub(super) fn ended(result: Result<crate::pty::Ended, StartError>) -> ExitCode {
    match result {
        Ok(ended) => ExitCode::from(u8::try_from(ended.status()).unwrap_or(u8::MAX)),
        Err(e) => {
            eprintln!("orchwrap: {}", crate::cli::chain(&e));
            match e {
                StartError::NotFound { .. } => Exit::NotFound,
                StartError::NotExecutable { .. } => Exit::NotExecutable,
                _ => Exit::Ours,
            }
            .into()
        }
    }
}
