//! The command line: one file a verb, glue only. Adding a verb is a file here, a line in [`Verb`] and one in [`main`].

mod ask;
mod attach;
mod daemon;
mod demo;
mod doctor;
mod events;
pub mod exit;
mod extract;
mod generate;
mod hook;
mod ls;
mod patterns;
mod pool;
mod record;
mod runner;
mod session;
mod status;
mod task;
mod text;
mod wait;
mod when;
mod wrap;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use exit::Exit;

/// Wrap a coding agent, watch what it does, and queue tasks for it
#[derive(Debug, Parser)]
#[command(name = "orchwrap", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(override_usage = "orchwrap [OPTIONS] AGENT [ARGS]...\n       orchwrap [OPTIONS] COMMAND")]
#[command(
    after_help = "Anything that is no verb above is the name of an agent: `orchwrap AGENT --resume` runs `AGENT --resume`.\n`orchwrap -- NAME` wraps NAME even if a verb has that name."
)]
struct Cli {
    #[command(flatten)]
    wrap: wrap::WrapArgs,
    #[command(subcommand)]
    verb: Verb,
}

/// Own verbs win over agents of the same name.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Run any command under the wrapper
    Run(wrap::RunArgs),
    /// Add tasks to the queue, look at them, decide about them
    Task(task::TaskArgs),
    Wait(wait::WaitArgs),
    Events(events::EventsArgs),
    Extract(extract::ExtractArgs),
    Patterns(patterns::PatternsArgs),
    Record(record::RecordArgs),
    Ls(ls::LsArgs),
    Status(status::StatusArgs),
    /// Start, end and look at the daemon
    Daemon(daemon::DaemonArgs),
    /// The daemon in the background
    #[command(name = daemon::BACKGROUND, hide = true)]
    Background,
    /// Keep sets of sessions running
    #[command(subcommand)]
    Pool(pool::Pool),
    /// List, start, show, prompt and stop named sessions
    #[command(subcommand)]
    Session(session::SessionVerb),
    /// Show a session's terminal here; Ctrl-b d leaves it
    Attach(attach::Attach),
    /// Look at everything a run needs, and say what to do
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show it all: two sessions, five tasks, scripted agents, and a table that compares
    Demo(demo::DemoArgs),
    #[command(name = "__fake-agent", hide = true)]
    FakeAgent(demo::FakeAgentArgs),
    Completions(generate::Completions),
    Man(generate::Man),
    /// Wrap an agent whatever its name (what `--` turns into)
    #[command(name = FORCED, hide = true)]
    Forced(ForcedArgs),
    /// An agent and its arguments
    #[command(external_subcommand)]
    Agent(Vec<OsString>),
}

#[derive(Debug, Args)]
struct ForcedArgs {
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

const FORCED: &str = "__wrap";

/// Options before the verb that take the next argument as their value.
const VALUE_OPTIONS: &[&str] = &["-n", "--name", "--record", "--events", "-C", "--dir", "--env", "--agent", "--join"];

/// Runs the command line; returns the status of the process.
pub fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    // The guard is started once a run: it takes the shortest way, without the parser's tables in its memory.
    if args.get(1).is_some_and(|verb| verb == crate::pty::GUARD_VERB) {
        return crate::pty::guard_main(&args[2..]);
    }
    // So do what agents and panes start: nothing a person types.
    match args.get(1).and_then(|verb| verb.to_str()) {
        Some(hook::VERB) => return hook::main(&args[2..]),
        Some(runner::VERB) => return runner::main(&args[2..]),
        _ => {}
    }
    force(&mut args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let done = match cli.verb {
        Verb::Demo(args) => demo::run(&args).map(Into::into),
        Verb::FakeAgent(args) => demo::fake_agent(&args).map(Into::into),
        Verb::Run(args) => wrap::run(&cli.wrap, args),
        Verb::Task(args) => task::main(args),
        Verb::Wait(args) => wait::main(args),
        Verb::Events(args) => events::main(args),
        Verb::Extract(args) => extract::main(args),
        Verb::Patterns(args) => patterns::main(args),
        Verb::Record(args) => record::main(args),
        Verb::Ls(args) => ls::main(args),
        Verb::Status(args) => status::main(args),
        Verb::Daemon(args) => daemon::main(args),
        Verb::Background => daemon::background(),
        Verb::Pool(verb) => pool::pool(verb).map(Into::into),
        Verb::Session(verb) => session::main(verb).map(Into::into),
        Verb::Attach(args) => attach::run(&args).map(Into::into),
        Verb::Doctor { json } => doctor::run(json).map(Into::into),
        Verb::Completions(args) => generate::completions(&args).map(Into::into),
        Verb::Man(args) => generate::man(&args).map(Into::into),
        Verb::Forced(ForcedArgs { command }) | Verb::Agent(command) => wrap::agent(&cli.wrap, command),
    };
    done.unwrap_or_else(|e| {
        eprintln!("orchwrap: {e:#}");
        ask::exit_of(&e).into()
    })
}

/// One line for an error and its sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}

/// Turns `orchwrap [options] -- NAME ..` into the hidden verb: clap knows no escape from its subcommands.
fn force(args: &mut Vec<OsString>) {
    let mut at = 1;
    while let Some(arg) = args.get(at) {
        if arg == "--" {
            args.insert(at, OsString::from(FORCED));
            return;
        }
        if !arg.as_encoded_bytes().starts_with(b"-") {
            return;
        }
        at += if VALUE_OPTIONS.iter().any(|option| arg == OsStr::new(option)) { 2 } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Cli {
        let mut args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        force(&mut args);
        Cli::try_parse_from(args).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_no_verb_is_an_agent_and_its_arguments_stay_verbatim() {
        let cli = parse("orchwrap -n opus claude --help -n x -- y");
        assert_eq!(cli.wrap.name.unwrap().as_str(), "opus");
        let Verb::Agent(command) = cli.verb else { panic!() };
        assert_eq!(command, ["claude", "--help", "-n", "x", "--", "y"]);
    }

    #[test]
    fn own_verbs_win_and_two_dashes_force() {
        assert!(matches!(parse("orchwrap run -- make test").verb, Verb::Run(_)));
        let Verb::Forced(forced) = parse("orchwrap -n run -- run --version").verb else { panic!() };
        assert_eq!(forced.command, ["run", "--version"]);
    }
}
