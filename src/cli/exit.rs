//! Exit codes, documented and stable.

/// How `orchwrap` itself ends. A wrapped command's own status is passed on unchanged, 128 and the signal included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It did not work; one line on stderr says why.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A human is needed: a task asks, or is in review.
    Asking = 3,
    /// Something it needs is not there: tmux, the daemon, a readable state folder.
    Unavailable = 69,
    /// A deadline passed.
    Timeout = 124,
    /// The wrapper itself failed before the command could run.
    Ours = 125,
    /// The command was found and cannot be executed.
    NotExecutable = 126,
    /// The command was not found.
    NotFound = 127,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
