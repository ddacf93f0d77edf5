//! `orchwrap task`: adding tasks, looking at them, deciding about them.

mod add;
mod show;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Exit, ask};
use crate::clock;
use crate::daemon::rpc::{Call, EventQuery, TaskQuery};
use crate::daemon::service::{TaskView, Why, offline};
use crate::extract::event::Event;
use crate::ids::TaskId;
use crate::queue::task::{Task, TaskState};

#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    #[command(subcommand)]
    verb: TaskVerb,
}

#[derive(Debug, Subcommand)]
enum TaskVerb {
    /// Add a task; prints its id
    Add(Box<add::AddArgs>),
    /// List tasks: all open ones, and the last that are over
    Ls(LsArgs),
    /// Show everything about a task: its answer, its attempts, what its state rests on
    Show(OneArgs),
    /// Explain why a task is where it is, and which session takes it
    Why(OneArgs),
    /// Print the events of a task
    Log(LogArgs),
    /// Wait until tasks are done
    Wait(super::wait::WaitArgs),
    /// Answer what a task's agent asks
    Answer(AnswerArgs),
    /// Say that tasks are completed
    Done(SayArgs),
    /// Say that tasks have failed
    Fail(SayArgs),
    /// Cancel tasks; a live agent is stopped
    Cancel(SayArgs),
    /// Put tasks back into the queue, with all their attempts
    Retry(SayArgs),
    /// Keep waiting tasks from being started
    Hold(SayArgs),
    /// Let held tasks go
    Release(SayArgs),
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The task
    id: TaskId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Finished ones too, however old
    #[arg(short, long)]
    all: bool,
    /// In one of these states, comma-separated
    #[arg(long = "state", value_name = "STATES", value_delimiter = ',', value_parser = state)]
    states: Vec<TaskState>,
    /// With this label; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// The newest so many
    #[arg(short = 'n', value_name = "COUNT")]
    limit: Option<usize>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

fn state(name: &str) -> Result<TaskState, String> {
    TaskState::parse(name).ok_or_else(|| {
        let known: Vec<_> = TaskState::ALL.iter().map(|s| s.as_str()).collect();
        format!("there are {}", known.join(", "))
    })
}

#[derive(Debug, Args)]
struct LogArgs {
    /// The task
    id: TaskId,
    /// Go on with live events
    #[arg(short, long)]
    follow: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct AnswerArgs {
    /// The task
    id: TaskId,
    /// yes, no, the number of a choice, or words
    #[arg(required = true, value_name = "yes|no|TEXT", allow_hyphen_values = true)]
    text: Vec<String>,
    /// Only if what it asks still has this hash, as `task show` prints it
    #[arg(long, value_name = "HASH")]
    hash: Option<String>,
}

#[derive(Debug, Args)]
struct SayArgs {
    /// The tasks
    #[arg(required = true, value_name = "ID")]
    ids: Vec<TaskId>,
    /// Why, kept with the task
    #[arg(long)]
    note: Option<String>,
}

pub(super) fn main(args: TaskArgs) -> anyhow::Result<ExitCode> {
    match args.verb {
        TaskVerb::Add(args) => return add::main(*args),
        TaskVerb::Wait(args) => return super::wait::main(args),
        TaskVerb::Ls(args) => return ls(args),
        TaskVerb::Show(args) => {
            let view: TaskView = ask::daemon()?.call(Call::TaskShow { id: args.id })?;
            match args.json {
                true => ask::print_json(&view)?,
                false => ask::print(&show::view(&view, clock::wall()))?,
            }
        }
        TaskVerb::Why(args) => {
            let why: Why = ask::daemon()?.call(Call::TaskWhy { id: args.id })?;
            match args.json {
                true => ask::print_json(&why)?,
                false => ask::print(&show::why(&why))?,
            }
        }
        TaskVerb::Log(args) => log(args)?,
        TaskVerb::Answer(args) => {
            let text = args.text.join(" ");
            let task: Task = ask::daemon()?.call(Call::TaskAnswer { id: args.id, text, hash: args.hash })?;
            eprintln!("task {} is answered", task.id);
        }
        TaskVerb::Done(args) => say("done", args)?,
        TaskVerb::Fail(args) => say("fail", args)?,
        TaskVerb::Cancel(args) => say("cancel", args)?,
        TaskVerb::Retry(args) => say("retry", args)?,
        TaskVerb::Hold(args) => say("hold", args)?,
        TaskVerb::Release(args) => say("release", args)?,
    }
    Ok(Exit::Ok.into())
}

fn ls(args: LsArgs) -> anyhow::Result<ExitCode> {
    let query = TaskQuery { states: args.states, labels: args.labels, all: args.all, limit: args.limit };
    let dirs = ask::dirs()?;
    let (tasks, exit): (Vec<Task>, _) = match ask::daemon_if_possible(&dirs)? {
        Some(mut client) => (client.call(Call::TaskLs(query))?, Exit::Ok),
        None => (offline::list_tasks(&dirs.state(), &query)?, Exit::Unavailable),
    };
    if args.json {
        tasks.iter().try_for_each(ask::print_json)?;
    } else if tasks.is_empty() && exit == Exit::Ok {
        eprintln!("orchwrap: no tasks; add one with: orchwrap task add TEXT");
    } else {
        ask::print(&show::list(&tasks, clock::wall()))?;
    }
    Ok(exit.into())
}

fn say(verb: &str, args: SayArgs) -> anyhow::Result<()> {
    let call = Call::TaskVerb { ids: args.ids, verb: verb.to_owned(), note: args.note };
    let tasks: Vec<Task> = ask::daemon()?.call(call)?;
    for task in tasks {
        eprintln!("task {} is {}", task.id, task.state.as_str());
    }
    Ok(())
}

fn log(args: LogArgs) -> anyhow::Result<()> {
    let query = EventQuery { follow: args.follow, task: Some(args.id), ..EventQuery::default() };
    let width = crate::cli::text::columns();
    let mut client = ask::daemon()?;
    // An unknown task has no events; say so instead of printing nothing.
    let _: TaskView = client.call(Call::TaskShow { id: args.id })?;
    let end: Result<(), _> = client.stream(Call::Events(query), |item| {
        let line = match args.json {
            true => crate::json::line(&item).expect("a value is written without fail") + "\n",
            false => {
                serde_json::from_value::<Event>(item).map(|e| show::event(&e, clock::wall(), width)).unwrap_or_default()
            }
        };
        ask::print(&line)
    });
    Ok(end?)
}
