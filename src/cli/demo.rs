//! `orchwrap demo`, and the scripted agent behind it.

use clap::Args;

use super::Exit;
use crate::demo;

/// Options of the demo.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Run the sessions without tmux even if it is installed
    #[arg(long)]
    no_tmux: bool,
    /// Leave the demo's folder for a look
    #[arg(long)]
    keep: bool,
}

/// Arguments of the scripted agent.
#[derive(Debug, Args)]
pub(super) struct FakeAgentArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the demo: success only if every recorded result equals what the agents did.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let good = demo::run(demo::Options { no_tmux: args.no_tmux, keep: args.keep })?;
    Ok(if good { Exit::Ok } else { Exit::Failed })
}

/// Plays a scripted agent; its exit code is the agent's.
pub(super) fn fake_agent(args: &FakeAgentArgs) -> anyhow::Result<Exit> {
    // clap takes a leading `--` for itself where nothing came before it.
    let code = demo::agent::main(&args.args)?;
    std::process::exit(code)
}
