//! `orchwrap __run RUNDIR`: the wrapper of a run that a pane or the daemon starts.

use std::ffi::OsString;
use std::process::ExitCode;

use super::Exit;
use crate::config::Dirs;
use crate::extract::pattern::Packs;
use crate::paths::RunDir;
use crate::pty::StartError;
use crate::pty::start::{RunError, from_folder};

/// The hidden verb.
pub(super) const VERB: &str = "__run";

/// Runs the verb with the arguments after its name.
pub(super) fn main(args: &[OsString]) -> ExitCode {
    let [dir] = args else {
        eprintln!("orchwrap: {VERB} wants one run folder");
        return Exit::Usage.into();
    };
    match from_folder(&RunDir::at(dir), &packs()) {
        Ok(ended) => ExitCode::from(u8::try_from(ended.status()).unwrap_or(u8::MAX)),
        Err(e) => {
            eprintln!("orchwrap: {}", super::chain(&e));
            match e {
                RunError::Start(StartError::NotFound { .. }) => Exit::NotFound,
                RunError::Start(StartError::NotExecutable { .. }) => Exit::NotExecutable,
                _ => Exit::Ours,
            }
            .into()
        }
    }
}

/// The packs in force for this person. A file that cannot be used is `orchwrap patterns check`'s to tell: here the
/// last good one counts, and a run starts.
pub(super) fn packs() -> Packs {
    Dirs::from_env().map_or_else(|_| Packs::builtin(), |dirs| Packs::load(&dirs.config.join("patterns")).0)
}
