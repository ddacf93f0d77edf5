//! Where state and configuration live for this person.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::paths::StateDir;

/// Names the state folder instead of `$XDG_STATE_HOME/orchwrap`; the only `ORCHWRAP_*` variable handed to the daemon.
pub const STATE_DIR_VAR: &str = "ORCHWRAP_STATE_DIR";

/// No folder can be named: neither the XDG variable nor `HOME` is set to an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("find a home folder: set HOME to an absolute path")]
pub struct NoHome;

/// The two folders everything else is found from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// State: `$ORCHWRAP_STATE_DIR`, else `$XDG_STATE_HOME/orchwrap`, else `~/.local/state/orchwrap`.
    pub state: PathBuf,
    /// Configuration: `$XDG_CONFIG_HOME/orchwrap`, else `~/.config/orchwrap`. Packs of the user are in `patterns/`.
    pub config: PathBuf,
}

impl Dirs {
    /// Returns the folders that this process's environment names.
    pub fn from_env() -> Result<Self, NoHome> {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// Returns the folders that `var` names. A relative path counts as unset, as the XDG specification says.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, NoHome> {
        let absolute = |name: &str| var(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = |xdg: &str, below_home: &str| {
            absolute(xdg)
                .or_else(|| absolute("HOME").map(|h| h.join(below_home)))
                .map(|d| d.join("orchwrap"))
                .ok_or(NoHome)
        };
        Ok(Self {
            state: match absolute(STATE_DIR_VAR) {
                Some(dir) => dir,
                None => base("XDG_STATE_HOME", ".local/state")?,
            },
            config: base("XDG_CONFIG_HOME", ".config")?,
        })
    }

    /// Whether the state folder is the default one: then the tmux server of ours has the plain name.
    pub fn is_default(&self) -> bool {
        std::env::var_os("HOME").is_some_and(|home| self.state == PathBuf::from(home).join(".local/state/orchwrap"))
    }

    /// The state folder.
    pub fn state(&self) -> StateDir {
        StateDir::new(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(vars: &[(&str, &str)]) -> Result<Dirs, NoHome> {
        Dirs::from_vars(|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn the_nearest_word_names_the_folder() {
        assert_eq!(dirs(&[("HOME", "/h")]).unwrap().state, PathBuf::from("/h/.local/state/orchwrap"));
        assert_eq!(dirs(&[("HOME", "/h")]).unwrap().config, PathBuf::from("/h/.config/orchwrap"));
        assert_eq!(dirs(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]).unwrap().state, PathBuf::from("/s/orchwrap"));
        assert_eq!(
            dirs(&[("HOME", "/h"), ("XDG_STATE_HOME", "s")]).unwrap().state,
            PathBuf::from("/h/.local/state/orchwrap")
        );
        assert_eq!(dirs(&[("HOME", "/h"), (STATE_DIR_VAR, "/x")]).unwrap().state, PathBuf::from("/x"));
        assert_eq!(dirs(&[("HOME", "h")]), Err(NoHome));
    }
}
