//! `orchwrap <agent>` and `orchwrap run -- CMD`: wrap a command in place.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::Exit;
use super::runner::packs;
use crate::clock;
use crate::config::Dirs;
use crate::extract::pattern::{Pack, Packs};
use crate::ids::{Name, RunId};
use crate::pty::StartError;
use crate::pty::start::{InPlace, in_place, is_inside_a_wrap, open_events, open_export};
use crate::run::{RunSpec, SPEC_VERSION, Seat};

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
    let packs = packs();
    let pack = match &args.agent {
        Some(agent) => packs.get(agent).ok_or_else(|| unknown(&packs, agent))?,
        None => pack_of(&packs, &args.command).unwrap_or_else(|| packs.generic()),
    };
    wrap(&merged(outer, args.wrap), pack, args.command)
}

/// Wraps an agent in the terminal where it was typed.
pub(super) fn agent(options: &WrapArgs, command: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let packs = packs();
    let pack = pack_of(&packs, &command).ok_or_else(|| unknown(&packs, &command[0].to_string_lossy()))?;
    wrap(options, pack, command)
}

fn pack_of<'p>(packs: &'p Packs, command: &[OsString]) -> Option<&'p Arc<Pack>> {
    let argv: Vec<&str> = command.iter().map_while(|arg| arg.to_str()).collect();
    packs.for_command(&argv)
}

/// The nearest names, and how to wrap it all the same.
pub(super) fn unknown(packs: &Packs, name: &str) -> anyhow::Error {
    let near = packs.nearest(name);
    let meant = if near.is_empty() { String::new() } else { format!(" Did you mean {}?", near.join(" or ")) };
    anyhow::anyhow!(
        "no agent is called {name}.{meant} Any command runs under `orchwrap run -- {name}`; to add an agent, put a pack into ~/.config/orchwrap/patterns/{name}.toml (patterns/README.md shows how)"
    )
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

fn wrap(options: &WrapArgs, pack: &Arc<Pack>, argv: Vec<OsString>) -> anyhow::Result<ExitCode> {
    if is_inside_a_wrap() && options.events.is_none() && options.record.is_none() {
        return Ok(pass_through(options, &argv));
    }
    let cwd = match &options.dir {
        Some(dir) => match dir.canonicalize() {
            Ok(dir) => dir,
            Err(source) => return Ok(ended(Err(StartError::Cwd { path: dir.clone(), source }))),
        },
        None => std::env::current_dir().context("find the working folder: it is gone")?,
    };
    let agent = argv.first().map(|name| Path::new(name).file_name().unwrap_or(name).to_string_lossy().into_owned());
    let agent = agent.unwrap_or_default();
    let folder = cwd.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy());
    let session = match &options.name {
        Some(name) => name.clone(),
        None => Name::sanitized(&format!("{agent}@{folder}"), "run"),
    };
    let spec = RunSpec {
        v: SPEC_VERSION,
        run: RunId::random(),
        session,
        pool: options.join.clone(),
        agent,
        pack: pack.id.clone(),
        argv: argv.iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        cwd,
        seat: Seat::Direct,
        size: None,
        created: clock::wall(),
        record: options.record.is_some(),
        hooks: !options.no_hooks,
        status_reply: !options.no_status_reply,
        takes_tasks: options.join.is_some(),
        attempt: None,
        resume: None,
    };
    // Opened before anything starts, so that a mistake is told while it can still be mended.
    let export = match &options.record {
        Some(path) => Some((path.clone(), open_export(path).with_context(|| format!("open {}", path.display()))?)),
        None => None,
    };
    let events = match &options.events {
        Some(target) => vec![open_events(target).map_err(anyhow::Error::msg)?],
        None => Vec::new(),
    };
    let added = options.env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let env = std::env::vars_os().chain(added).collect();
    let state = Dirs::from_env().map(|dirs| dirs.state()).ok();
    Ok(ended(in_place(state.as_ref(), InPlace { spec, argv, env, pack: Arc::clone(pack), events, export })))
}

/// Becomes the command: the wrap around us sees it all already.
fn pass_through(options: &WrapArgs, argv: &[OsString]) -> ExitCode {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).envs(options.env.iter().map(|(k, v)| (k, v)));
    if let Some(dir) = &options.dir {
        command.current_dir(dir);
    }
    let source = command.exec();
    let program = argv[0].to_string_lossy().into_owned();
    ended(Err(match source.kind() {
        std::io::ErrorKind::NotFound => StartError::NotFound { program },
        _ => StartError::NotExecutable { program, source },
    }))
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
