//! How a session gets into a task's context: the cheapest way that can be verified. Pure.
//!
//! Which working tree the task gets is `assign::worktree`'s choice; this is about the process in it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::extract::event::SessionState;

/// A way, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The process that is there, as it is.
    Reuse,
    /// The shell that is there, after a `cd`.
    Shell,
    /// A new process in the same seat: a process's environment is frozen.
    Respawn,
    /// One command for this prompt alone.
    Oneshot,
}

impl Way {
    /// Its name in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reuse => "reuse",
            Self::Shell => "shell",
            Self::Respawn => "respawn",
            Self::Oneshot => "oneshot",
        }
    }
}

/// What a task wants of its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Where it must stand.
    pub cwd: &'a Path,
    /// Hash of the whole context (cwd, branch, environment, prerequisites).
    pub hash: &'a str,
    /// The environment is the session's base environment.
    pub base_env: bool,
    /// The conversation to go on in; none for a new one.
    pub conversation: Option<&'a str>,
}

/// The session's process, as its wrapper tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its state; `exited` without a process.
    pub state: SessionState,
    /// Why it needs a human, in state `setup`.
    pub setup: Option<&'a str>,
    /// A human's half-typed line stands in it.
    pub draft: bool,
    /// Turns so far: 0 is a new conversation.
    pub turns: u64,
    /// Its conversation, once known.
    pub conversation: Option<&'a str>,
    /// Hash of the context it was started for, once verified.
    pub hash: Option<&'a str>,
    /// Where it stands, from the kernel.
    pub cwd: Option<PathBuf>,
    /// Its agent is a shell: it understands `cd`, and has no conversation.
    pub shell: bool,
    /// Its seat runs one command a prompt.
    pub oneshot: bool,
}

/// Why nothing may be sent now. Nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A human must act first.
    #[error("{0}")]
    Setup(String),
    /// A human's half-typed line stands there.
    #[error("a half-typed line stands in it")]
    Draft,
    /// A turn that is not ours is under way, or its agent asks somebody else.
    #[error("it is {}", state_name(*.0))]
    Busy(SessionState),
}

impl Refusal {
    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Setup(_) => "setup_needed",
            Self::Draft => "draft",
            Self::Busy(_) => "session_busy",
        }
    }
}

fn state_name(state: SessionState) -> &'static str {
    match state {
        SessionState::Starting => "still starting",
        SessionState::Setup => "waiting for a human's setup",
        SessionState::Idle => "idle",
        SessionState::Working => "working on something else",
        SessionState::Asking => "asking somebody else",
        SessionState::Limited => "stopped by a limit",
        SessionState::Exited => "not running",
        SessionState::Unknown => "in an unknown state",
    }
}

/// Returns the cheapest way from what is found to what is wanted.
///
/// A session whose state is unknown is respawned, never typed into: a new process tells its state from the start.
pub fn plan(wanted: &Wanted<'_>, found: &Found<'_>) -> Result<Way, Refusal> {
    if found.oneshot {
        return Ok(Way::Oneshot);
    }
    match found.state {
        SessionState::Setup => return Err(Refusal::Setup(found.setup.unwrap_or("a human must act first").to_owned())),
        SessionState::Working | SessionState::Asking | SessionState::Limited | SessionState::Starting => {
            return Err(Refusal::Busy(found.state));
        }
        SessionState::Exited => return Ok(Way::Respawn),
        SessionState::Idle | SessionState::Unknown => {}
    }
    // A respawn would lose the line as surely as a paste would garble it.
    if found.draft {
        return Err(Refusal::Draft);
    }
    if found.state == SessionState::Unknown {
        return Ok(Way::Respawn);
    }
    if found.shell && wanted.base_env {
        let there = found.cwd.as_deref() == Some(wanted.cwd);
        return Ok(if there { Way::Reuse } else { Way::Shell });
    }
    let same_context = found.hash == Some(wanted.hash);
    let same_talk = match wanted.conversation {
        Some(conversation) => found.conversation == Some(conversation),
        None => found.turns == 0,
    };
    Ok(if same_context && same_talk { Way::Reuse } else { Way::Respawn })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>() -> Wanted<'a> {
        Wanted { cwd: Path::new("/src"), hash: "h", base_env: true, conversation: None }
    }

    fn fresh<'a>() -> Found<'a> {
        Found {
            state: SessionState::Idle,
            setup: None,
            draft: false,
            turns: 0,
            conversation: None,
            hash: Some("h"),
            cwd: Some(PathBuf::from("/src")),
            shell: false,
            oneshot: false,
        }
    }

    #[test]
    fn only_a_fresh_process_in_the_same_context_is_used_as_it_is() {
        assert_eq!(plan(&wanted(), &fresh()), Ok(Way::Reuse));
        assert_eq!(plan(&wanted(), &Found { turns: 1, ..fresh() }), Ok(Way::Respawn));
        assert_eq!(plan(&wanted(), &Found { hash: Some("other"), ..fresh() }), Ok(Way::Respawn));
        assert_eq!(plan(&wanted(), &Found { hash: None, ..fresh() }), Ok(Way::Respawn));
        assert_eq!(plan(&wanted(), &Found { state: SessionState::Exited, ..fresh() }), Ok(Way::Respawn));
        assert_eq!(plan(&wanted(), &Found { state: SessionState::Unknown, ..fresh() }), Ok(Way::Respawn));
    }

    #[test]
    fn a_task_that_goes_on_goes_on_in_its_own_conversation() {
        let wanted = Wanted { conversation: Some("c"), ..wanted() };
        assert_eq!(plan(&wanted, &Found { turns: 3, conversation: Some("c"), ..fresh() }), Ok(Way::Reuse));
        assert_eq!(plan(&wanted, &Found { turns: 3, conversation: Some("d"), ..fresh() }), Ok(Way::Respawn));
        assert_eq!(plan(&wanted, &fresh()), Ok(Way::Respawn));
    }

    #[test]
    fn a_shell_changes_its_folder_but_never_its_environment() {
        let shell = Found { shell: true, turns: 9, hash: None, cwd: Some(PathBuf::from("/else")), ..fresh() };
        assert_eq!(plan(&wanted(), &shell), Ok(Way::Shell));
        assert_eq!(plan(&wanted(), &Found { cwd: Some(PathBuf::from("/src")), ..shell.clone() }), Ok(Way::Reuse));
        assert_eq!(plan(&Wanted { base_env: false, ..wanted() }, &shell), Ok(Way::Respawn));
    }

    #[test]
    fn f36_nothing_is_done_to_a_session_that_a_human_is_at() {
        let setup = Found { state: SessionState::Setup, setup: Some("log in"), ..fresh() };
        assert_eq!(plan(&wanted(), &setup), Err(Refusal::Setup("log in".into())));
        assert_eq!(plan(&wanted(), &Found { draft: true, ..fresh() }), Err(Refusal::Draft));
        assert_eq!(
            plan(&wanted(), &Found { draft: true, state: SessionState::Unknown, ..fresh() }),
            Err(Refusal::Draft)
        );
        for state in [SessionState::Working, SessionState::Asking, SessionState::Starting] {
            assert_eq!(plan(&wanted(), &Found { state, ..fresh() }), Err(Refusal::Busy(state)));
        }
    }

    #[test]
    fn a_oneshot_seat_always_runs_its_command() {
        let found = Found { oneshot: true, state: SessionState::Exited, ..fresh() };
        assert_eq!(plan(&wanted(), &found), Ok(Way::Oneshot));
    }
}
