//! What we say to tmux: pure argument vectors and the parsing of its answers.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::linux::Stat;

/// Our tmux server's configuration. Every line has its reason beside it.
const CONFIG: &str = r##"# Written by orchwrap at each start of its own tmux server; changes here are lost.
set -g  default-terminal "tmux-256color"
set -as terminal-features ",*:RGB"
# Agents tell Esc from Alt by time; 500 ms, tmux's default, is felt at every Esc.
set -s  escape-time 10
# Agents show a hint without it, and some ring the bell only when they know that nobody looks.
set -g  focus-events on
set -s  extended-keys on
set -g  status off
# Panes of sessions that nobody looks at: wide enough that agents do not fold their menus.
set -g  default-size COLSxROWS
set -g  window-size latest
# A dead run's last screen stays to be read, and the next run takes the same pane.
set -g  remain-on-exit on
set -g  history-limit 10000
# Nothing of the attaching person's environment belongs in a later run.
set -g  update-environment ""
set -g  allow-rename off
set -g  set-titles off
set-hook -g client-attached 'display-message -d 4000 "Leave with Ctrl-b d. The agent goes on working."'
"##;

/// Returns the configuration of a server whose unwatched panes are `size` columns and rows.
pub fn config(size: (u16, u16)) -> String {
    CONFIG.replace("COLSxROWS", &format!("{}x{}", size.0, size.1))
}

/// A pane of our server, as tmux numbers it (`%3`): never reused while the server lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PaneId(String);

impl PaneId {
    /// Returns the pane that `text` names, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('%')?;
        (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| Self(text.to_owned()))
    }

    /// As tmux writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A pane and what runs in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pane {
    /// Our session's number, from the tmux session's name `s<number>`.
    pub session: i64,
    /// tmux's id of the pane.
    pub pane: PaneId,
    /// The wrapper's pid, or the last one's if it is dead.
    pub pid: i32,
    /// Its process has ended; the pane remains.
    pub dead: bool,
}

/// Returns the name of the tmux server that belongs to a state folder: `orchwrap` for the default one, else
/// `orchwrap-<8 hex of its path>`, so that tests and demos never meet a person's pool.
pub fn server_name(state_root: &Path, is_default: bool) -> String {
    if is_default {
        return "orchwrap".to_owned();
    }
    let digest = Sha256::digest(state_root.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("orchwrap-{hex}")
}

/// The tmux session of one of our sessions.
pub fn session_target(session: i64) -> String {
    format!("s{session}")
}

fn args(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

const PANE_FORMAT: &str = "#{session_name} #{pane_id} #{pane_pid} #{pane_dead}";

/// Makes the session's tmux session with `program` in its only pane; prints the pane.
pub fn new_session(session: i64, size: (u16, u16), program: &[OsString]) -> Vec<OsString> {
    let (cols, rows) = (size.0.to_string(), size.1.to_string());
    let mut argv = args(&["new-session", "-d", "-P", "-F", PANE_FORMAT, "-x", &cols, "-y", &rows, "-s"]);
    argv.push(session_target(session).into());
    argv.push("--".into());
    argv.extend_from_slice(program);
    argv
}

/// Puts `program` into a pane, ending what still runs there.
pub fn respawn_pane(pane: &PaneId, program: &[OsString]) -> Vec<OsString> {
    let mut argv = args(&["respawn-pane", "-k", "-t", pane.as_str(), "--"]);
    argv.extend_from_slice(program);
    argv
}

/// Lists every pane of the server.
pub fn list_panes() -> Vec<OsString> {
    args(&["list-panes", "-a", "-F", PANE_FORMAT])
}

/// Lists the processes of every pane, whatever people called the sessions.
pub fn list_processes() -> Vec<OsString> {
    args(&["list-panes", "-a", "-F", "#{pid} #{pane_pid} #{pane_dead}"])
}

/// What a server says about the processes in its panes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes {
    /// The server itself.
    pub server: i32,
    /// The live process of each pane.
    pub alive: HashSet<i32>,
}

impl Processes {
    /// Whether a process that this server started has lost its pane. Of one that another server started, an older one
    /// whose socket was removed, it knows nothing.
    pub fn has_lost(&self, wrapper: &Stat) -> bool {
        wrapper.parent == self.server && !self.alive.contains(&wrapper.id.pid)
    }
}

/// Returns what the lines of [`list_processes`] tell; none where they are not that.
pub fn parse_processes(list: &str) -> Option<Processes> {
    let mut found = Processes::default();
    for line in list.lines() {
        let mut words = line.split(' ');
        found.server = words.next()?.parse().ok()?;
        let pane: i32 = words.next()?.parse().ok()?;
        if words.next() != Some("1") {
            found.alive.insert(pane);
        }
    }
    (found.server != 0).then_some(found)
}

/// Ends a tmux session and its pane.
pub fn kill_session(session: i64) -> Vec<OsString> {
    let mut argv = args(&["kill-session", "-t"]);
    argv.push(format!("={}", session_target(session)).into());
    argv
}

/// Shows a session to the person at this terminal.
pub fn attach(session: i64, read_only: bool) -> Vec<OsString> {
    let mut argv = args(&["attach-session"]);
    if read_only {
        argv.push("-r".into());
    }
    argv.push("-t".into());
    argv.push(format!("={}", session_target(session)).into());
    argv
}

/// Returns the panes that `list` (lines of [`list_panes`] or [`new_session`]) tells of; strangers' sessions are left out.
pub fn parse_panes(list: &str) -> Vec<Pane> {
    list.lines().filter_map(parse_pane).collect()
}

fn parse_pane(line: &str) -> Option<Pane> {
    let mut words = line.split(' ');
    let session = words.next()?.strip_prefix('s')?.parse().ok()?;
    let pane = PaneId::parse(words.next()?)?;
    let pid = words.next()?.parse().ok()?;
    Some(Pane { session, pane, pid, dead: words.next() == Some("1") })
}

/// Returns `(major, minor)` of what `tmux -V` prints: `tmux 3.3a`, `tmux next-3.6`.
pub fn parse_version(text: &str) -> Option<(u32, u32)> {
    let number = text.trim().strip_prefix("tmux ")?.trim_start_matches(|c: char| !c.is_ascii_digit());
    let (major, rest) = number.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_of_ours_are_read_and_strangers_left_out() {
        let panes = parse_panes("s12 %3 4711 0\nmain %4 1 0\ns13 %5 4712 1\ns1 broken\n");
        assert_eq!(panes.len(), 2);
        assert_eq!((panes[0].session, panes[0].pane.as_str(), panes[0].pid, panes[0].dead), (12, "%3", 4711, false));
        assert!(panes[1].dead);
    }

    #[test]
    fn versions_as_tmux_prints_them() {
        assert_eq!(parse_version("tmux 3.3a\n"), Some((3, 3)));
        assert_eq!(parse_version("tmux next-3.6"), Some((3, 6)));
        assert_eq!(parse_version("nonsense"), None);
    }

    #[test]
    fn t11_a_pane_id_is_nothing_but_a_number() {
        for bad in ["", "%", "3", "%3;kill-server", "%x"] {
            assert!(PaneId::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn each_state_folder_has_a_server_of_its_own() {
        let (a, b) = (server_name(Path::new("/a"), false), server_name(Path::new("/b"), false));
        assert_ne!(a, b);
        assert_eq!(a.len(), "orchwrap-".len() + 8);
        assert_eq!(server_name(Path::new("/a"), true), "orchwrap");
    }

    #[test]
    fn f15_only_a_pane_that_its_own_server_does_not_know_is_lost() {
        use crate::extract::event::ProcId;
        let stat = |pid, parent| {
            let id = ProcId { pid, start: 1 };
            Stat { id, state: 'S', parent, group: pid, session: pid, foreground: -1 }
        };
        let panes = parse_processes("77 100 0\n77 101 1\n").unwrap();
        assert!(!panes.has_lost(&stat(100, 77)), "whatever its session is called by now");
        assert!(panes.has_lost(&stat(101, 77)), "tmux says that it is dead");
        assert!(panes.has_lost(&stat(102, 77)));
        assert!(!panes.has_lost(&stat(103, 66)), "of a server whose socket is gone");
        assert_eq!(parse_processes(""), None, "a server without panes is no answer");
        assert_eq!(parse_processes("no server running on /tmp/x"), None);
    }
}
