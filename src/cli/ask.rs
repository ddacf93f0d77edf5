//! What every verb that talks to the daemon shares.

use std::io::{self, Write};

use anyhow::Context;

use super::Exit;
use crate::config::{Config, Dirs};
use crate::daemon::client::{Client, ClientError, Start};
use crate::queue::store::StoreError;

/// The folders of this person.
pub(super) fn dirs() -> anyhow::Result<Dirs> {
    Dirs::from_env().context("this needs a state folder")
}

/// The configuration in force here.
pub(super) fn config(dirs: &Dirs) -> anyhow::Result<Config> {
    let vars = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    Ok(Config::load(dirs, vars)?)
}

/// A connection to the daemon, started if it does not run.
pub(super) fn daemon() -> anyhow::Result<Client> {
    Ok(Client::connect(&dirs()?, Start::IfNeeded)?)
}

/// A connection to the daemon, started if it does not run. None where it cannot be started, with the reason on stderr:
/// what its database says can be read all the same (F45).
pub(super) fn daemon_if_possible(dirs: &Dirs) -> anyhow::Result<Option<Client>> {
    match Client::connect(dirs, Start::IfNeeded) {
        Ok(client) => Ok(Some(client)),
        Err(e @ ClientError::Start(_)) => {
            eprintln!("orchwrap: {e}");
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// The exit code that an error means.
pub(super) fn exit_of(error: &anyhow::Error) -> Exit {
    if error.is::<StoreError>() {
        return Exit::Unavailable;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(r)) => match r.code.as_str() {
            "bad_request" | "command_like" | "cwd_missing" | "prompt_too_large" | "env_too_large" | "env_denied"
            | "env_invalid" => Exit::Usage,
            _ => Exit::Failed,
        },
        Some(ClientError::NotRunning | ClientError::Start(_) | ClientError::Version(_)) => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a value as one line of JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut line = crate::json::line(value)?;
    line.push('\n');
    Ok(print(&line)?)
}

/// Asks the daemon one question, starting it if need be.
pub(super) fn ask<T: serde::de::DeserializeOwned>(call: crate::daemon::rpc::Call) -> anyhow::Result<T> {
    Ok(daemon()?.call(call)?)
}
