//! One question to the daemon, for verbs that ask no more.

use serde::de::DeserializeOwned;

use crate::config::Dirs;
use crate::daemon::client::{Client, Start};
use crate::daemon::rpc::Call;

/// Asks the daemon, starting it if need be.
pub(crate) fn ask<T: DeserializeOwned>(call: Call) -> anyhow::Result<T> {
    let dirs = Dirs::from_env()?;
    Ok(Client::connect(&dirs, Start::IfNeeded)?.call(call)?)
}
