//! `orchwrap daemon`: starting, ending and looking at the daemon.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::{Exit, ask, text};
use crate::clock;
use crate::daemon::client::{Client, ClientError, Start};
use crate::daemon::rpc::Call;
use crate::daemon::service::Overview;
use crate::daemon::{DaemonError, lock};

/// How long `stop` waits for the daemon to end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct DaemonArgs {
    #[command(subcommand)]
    verb: DaemonVerb,
}

#[derive(Debug, Subcommand)]
enum DaemonVerb {
    /// Start the daemon, if it does not run
    Start {
        /// Stay in this terminal instead of the background
        #[arg(long)]
        foreground: bool,
    },
    /// End the daemon; agents go on, and the next daemon finds them again
    Stop,
    /// Tell whether the daemon runs; exit status 1 if not
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// End the daemon and start this version
    Restart,
    /// Read the configuration and the packs again
    Reload,
}

pub(super) fn main(args: DaemonArgs) -> anyhow::Result<ExitCode> {
    let dirs = ask::dirs()?;
    match args.verb {
        DaemonVerb::Start { foreground: true } => {
            crate::daemon::run(dirs, || eprintln!("orchwrap: the daemon is ready; end it with Ctrl-C"))?;
        }
        DaemonVerb::Start { foreground: false } => {
            let client = Client::connect(&dirs, Start::IfNeeded)?;
            eprintln!("orchwrap: the daemon runs, pid {}", client.hello().pid);
        }
        DaemonVerb::Stop => stop(&dirs)?,
        DaemonVerb::Restart => {
            stop(&dirs)?;
            let client = Client::connect(&dirs, Start::IfNeeded)?;
            eprintln!("orchwrap: the daemon runs, pid {}", client.hello().pid);
        }
        DaemonVerb::Reload => {
            Client::connect(&dirs, Start::Never)?.call::<()>(Call::Reload {})?;
        }
        DaemonVerb::Status { json } => return status(&dirs, json),
    }
    Ok(Exit::Ok.into())
}

fn stop(dirs: &crate::config::Dirs) -> anyhow::Result<()> {
    match Client::dial(dirs) {
        Ok(client) => Ok(client.end(dirs, Instant::now() + STOP_PATIENCE)?),
        Err(_) => match lock::holder(&dirs.state()) {
            None => {
                eprintln!("orchwrap: no daemon is running");
                Ok(())
            }
            Some(holder) => {
                let pid = holder.map_or_else(|| "unknown".to_owned(), |h| h.pid.to_string());
                anyhow::bail!(
                    "the daemon (pid {pid}) does not answer; look at its log in {}",
                    dirs.state().logs().display()
                )
            }
        },
    }
}

fn status(dirs: &crate::config::Dirs, json: bool) -> anyhow::Result<ExitCode> {
    let overview: Overview = match Client::connect(dirs, Start::Never) {
        Ok(mut client) => client.call(Call::Status {})?,
        Err(ClientError::NotRunning) => {
            match json {
                true => ask::print_json(&serde_json::json!({ "running": false }))?,
                false => ask::print("not running\n")?,
            }
            return Ok(Exit::Failed.into());
        }
        Err(e) => return Err(e.into()),
    };
    if json {
        let mut object = serde_json::to_value(&overview)?;
        object["running"] = true.into();
        ask::print_json(&object)?;
    } else {
        ask::print(&format!(
            "running: pid {}, version {}, for {}, state in {}\n",
            overview.pid,
            overview.version,
            text::ago(overview.since, clock::wall()),
            overview.state_dir.display()
        ))?;
    }
    Ok(Exit::Ok.into())
}

/// Name of the hidden verb that is the daemon in the background.
pub(super) const BACKGROUND: &str = "__daemon";

/// The daemon in the background: its starter reads one line from stdout, which says how the start went.
pub(super) fn background() -> anyhow::Result<ExitCode> {
    detach();
    let dirs = ask::dirs()?;
    let said = crate::daemon::run(dirs, || {
        say("ready");
        // Whoever started us may wait for the end of this pipe.
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdout(&null);
        }
    });
    match said {
        Ok(()) => Ok(Exit::Ok.into()),
        Err(DaemonError::Lock(lock::LockError::Held(_))) => {
            say("held");
            Ok(Exit::Failed.into())
        }
        Err(e) => {
            let line = super::chain(&e);
            say(&line);
            Err(e.into())
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
}

/// Leaves the terminal and the descriptors of whoever happened to start us.
fn detach() {
    // Fails only where we lead a session already.
    let _ = rustix::process::setsid();
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    // The folder just read is closed by now; what still is open was inherited by accident.
    for fd in open.into_iter().filter(|fd| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok()) {
        // SAFETY: this is the first thing the process does, on its only thread: nothing here owns a descriptor above 2.
        unsafe { rustix::io::close(fd) };
    }
}
