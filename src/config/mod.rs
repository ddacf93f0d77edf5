//! Configuration: `config.toml`, the project's `.orchwrap.toml`, `ORCHWRAP_<SECTION>_<KEY>`, in that order; flags come last.
//!
//! A mistake is one line that names file, line and the nearest valid key (F54). What a wrong file replaces stays in
//! force: [`Config::load`] returns a whole configuration or an error, never half of one.

mod check;
mod dirs;
mod packs;
mod period;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use check::ConfigError;
pub use dirs::{Dirs, NoHome, STATE_DIR_VAR};
pub use period::Period;

/// File name of a project's own settings, looked for at the root of its repository.
pub const PROJECT_FILE: &str = ".orchwrap.toml";

/// Everything that can be configured, with the defaults for what no file says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// How many, how often.
    pub queue: Queue,
    /// Time limits of tasks that name none.
    pub timeouts: TimeoutDefaults,
    /// Weights of the choice of a session.
    pub score: Score,
    /// What is run when a human is needed.
    pub notify: Notify,
    /// What is kept, and how long.
    pub retention: Retention,
    /// How a new working tree is made ready.
    pub worktree: WorktreeRules,
    /// How tasks are checked.
    pub gate: Gate,
    /// By pack id: how that agent is started here.
    pub agents: BTreeMap<String, Agent>,
    /// The tmux server of ours.
    pub tmux: Tmux,
}

/// `[queue]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// Live attempts at the most, over all pools.
    pub max_live: usize,
    /// Tries of a task that names no number.
    pub attempts: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { max_live: 32, attempts: 3 }
    }
}

/// `[timeouts]`: see [`crate::queue::task::Timeouts`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the same words as in queue::task::Timeouts")]
pub struct TimeoutDefaults {
    pub prepare: Period,
    pub accept: Period,
    pub silence: Period,
    pub hard: Period,
    pub gate: Period,
}

impl Default for TimeoutDefaults {
    fn default() -> Self {
        let t = crate::queue::task::Timeouts::default();
        Self {
            prepare: Period::from_millis(t.prepare_ms),
            accept: Period::from_millis(t.accept_ms),
            silence: Period::from_millis(t.silence_ms),
            hard: Period::from_millis(t.hard_ms),
            gate: Period::from_millis(t.gate_ms),
        }
    }
}

impl From<&TimeoutDefaults> for crate::queue::task::Timeouts {
    fn from(t: &TimeoutDefaults) -> Self {
        Self {
            prepare_ms: t.prepare.as_millis(),
            accept_ms: t.accept.as_millis(),
            silence_ms: t.silence.as_millis(),
            hard_ms: t.hard.as_millis(),
            gate_ms: t.gate.as_millis(),
        }
    }
}

/// `[score]`: points for each thing that speaks for a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Score {
    /// It stands in the wanted folder.
    pub cwd: i64,
    /// It stands on the wanted branch.
    pub branch: i64,
    /// It was active in the last five minutes.
    pub active: i64,
    /// It is idle.
    pub idle: i64,
    /// It is of the wanted agent.
    pub agent: i64,
}

impl Default for Score {
    fn default() -> Self {
        Self { cwd: 20, branch: 10, active: 5, idle: 3, agent: 2 }
    }
}

/// `[notify]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notify {
    /// Program and arguments, no shell; run once for each asking, review and limit, with the event as JSON on stdin.
    pub command: Vec<String>,
}

/// `[retention]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Days that the folder of a finished run is kept.
    pub runs_days: u32,
    /// Days that finished tasks and events are kept.
    pub tasks_days: u32,
    /// Recorded output of all runs together, in MiB; the oldest finished run goes first.
    pub total_mib: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { runs_days: 14, tasks_days: 90, total_mib: 2048 }
    }
}

/// `[worktree]`, mostly in a project's file: how a working tree that we made is made ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorktreeRules {
    /// Files copied from the main checkout, relative to its root.
    pub copy: Vec<PathBuf>,
    /// Files and folders linked to those of the main checkout, relative to its root.
    pub link: Vec<PathBuf>,
    /// A shell line run once in the new tree; empty for none.
    pub setup: String,
}

/// `[gate]`: how the gates of tasks run. Read when a task is submitted, and pinned in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// On a fresh checkout of what the agent left, rather than where it worked.
    pub fresh: bool,
    /// Patterns of files that a fresh checkout has as they were before the agent began.
    pub protect: Vec<String>,
    /// Patterns of files that a gate obviously rests on: changes of theirs are told with its verdict.
    pub watch: Vec<String>,
    /// What follows where such files were changed and the gate passed.
    pub on_edit: OnEdit,
}

/// What follows from a passed gate whose own files were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEdit {
    /// The task is completed, and says so.
    #[default]
    Flag,
    /// A human decides.
    Review,
}

/// Tests, what runs them, and what tells git which files there are. Of `package.json` only its scripts count.
const WATCHED: &[&str] = &[
    "**/test/**",
    "**/tests/**",
    "**/__tests__/**",
    "**/spec/**",
    "test_*",
    "*_test.*",
    "*.test.*",
    "*.spec.*",
    "*_spec.*",
    "conftest.py",
    "Makefile",
    "GNUmakefile",
    "makefile",
    "*.mk",
    "justfile",
    ".justfile",
    "package.json",
    "pyproject.toml",
    "tox.ini",
    "pytest.ini",
    "setup.cfg",
    "jest.config.*",
    "vitest.config.*",
    "Cargo.toml",
    "build.rs",
    ".cargo/**",
    ".config/nextest.toml",
    ".github/**",
    ".gitlab-ci.yml",
    ".ci/**",
    ".husky/**",
    ".githooks/**",
    ".pre-commit-config.yaml",
    ".gitattributes",
    ".gitignore",
    ".gitmodules",
    ".orchwrap.toml",
];

impl Default for Gate {
    fn default() -> Self {
        let watch = WATCHED.iter().map(ToString::to_string).collect();
        Self { fresh: true, protect: Vec::new(), watch, on_edit: OnEdit::Flag }
    }
}

/// `[agents.<id>]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agent {
    /// Program and first arguments instead of the pack's.
    pub command: Vec<String>,
}

/// `[tmux]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tmux {
    /// The program.
    pub command: String,
    /// Columns of a pane nobody looks at.
    pub cols: u16,
    /// Rows of a pane nobody looks at.
    pub rows: u16,
}

impl Default for Tmux {
    fn default() -> Self {
        Self { command: "tmux".into(), cols: 120, rows: 40 }
    }
}

/// Sections that a project's file may hold. Not `[notify]` or `[agents]`: who clones a repository does not want its
/// authors to choose programs for the daemon (T16).
const PROJECT_SECTIONS: &[&str] = &["worktree", "gate"];

/// The variables of this process that are text; others cannot be settings of ours.
pub fn vars() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
}

impl Config {
    /// Reads `config.toml` of `dirs` (none is fine) and `vars` of the form `ORCHWRAP_<SECTION>_<KEY>`.
    pub fn load(dirs: &Dirs, vars: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let file = dirs.config.join("config.toml");
        let mut table = check::read(&file, None)?;
        check::overlay_vars(&mut table, vars);
        check::decode(table).map_err(|e| e.within(&file))
    }

    /// Reads the project settings in `root`: the main checkout's, which the submitter chose, never an agent's worktree.
    pub fn project(root: &Path) -> Result<WorktreeRules, ConfigError> {
        let file = root.join(PROJECT_FILE);
        let config: Self = check::decode(check::read(&file, Some(PROJECT_SECTIONS))?).map_err(|e| e.within(&file))?;
        Ok(config.worktree)
    }

    /// This configuration's `[gate]` under what the project in `root` says about it, on the same terms.
    pub fn gate_of(&self, root: &Path) -> Result<Gate, ConfigError> {
        let file = root.join(PROJECT_FILE);
        let mut theirs = check::read(&file, Some(PROJECT_SECTIONS))?;
        let mut ours = toml::Table::try_from(&self.gate).expect("lists and words");
        if let Some(toml::Value::Table(gate)) = theirs.remove("gate") {
            ours.extend(gate);
        }
        let whole = toml::Table::from_iter([("gate".to_owned(), toml::Value::Table(ours))]);
        Ok(check::decode(whole).map_err(|e| e.within(&file))?.gate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(text: &str) -> (tempfile::TempDir, Dirs) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        let dirs = Dirs { state: dir.path().into(), config: dir.path().into() };
        (dir, dirs)
    }

    fn load(text: &str) -> Result<Config, String> {
        let (dir, dirs) = dirs(text);
        Config::load(&dirs, std::iter::empty()).map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), "DIR"))
    }

    #[test]
    fn no_file_means_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs { state: dir.path().into(), config: dir.path().join("none") };
        assert_eq!(Config::load(&dirs, std::iter::empty()).unwrap(), Config::default());
    }

    #[test]
    fn what_a_file_says_wins_over_defaults_and_variables_win_over_the_file() {
        let (_dir, dirs) =
            dirs("[timeouts]\nhard = \"90m\"\n[score]\ncwd = 7\n[agents.claude]\ncommand = [\"/opt/claude\"]\n");
        let vars = [("ORCHWRAP_SCORE_CWD", "9"), ("ORCHWRAP_RUN_DIR", "x"), ("ORCHWRAP_TMUX_COMMAND", "/opt/tmux")];
        let c = Config::load(&dirs, vars.into_iter().map(|(k, v)| (k.into(), v.into()))).unwrap();
        assert_eq!(c.timeouts.hard.as_millis(), 5_400_000);
        assert_eq!(c.score.cwd, 9);
        assert_eq!(c.tmux.command, "/opt/tmux");
        assert_eq!(c.agents["claude"].command, ["/opt/claude"]);
    }

    #[test]
    fn f54_a_mistake_names_file_line_and_the_nearest_key() {
        insta::assert_snapshot!(load("[queue]\nattempts = 2\nmax_lives = 3\n").unwrap_err(),
            @"DIR/config.toml:3: unknown key `queue.max_lives`, the nearest is `max_live`");
        insta::assert_snapshot!(load("\n[quue]\n").unwrap_err(),
            @"DIR/config.toml:2: unknown key `quue`, the nearest is `queue`");
        insta::assert_snapshot!(load("[agents.claude]\ncomand = []\n").unwrap_err(),
            @"DIR/config.toml:2: unknown key `agents.claude.comand`, the nearest is `command`");
        insta::assert_snapshot!(load("[queue]\nattempts = \"x\"\n").unwrap_err(),
            @r#"DIR/config.toml:2: invalid type: string "x", expected u32"#);
        insta::assert_snapshot!(load("[timeouts]\nhard = \"soon\"\n").unwrap_err(),
            @r#"DIR/config.toml:2: "soon" is no length of time: write it like 90s, 30m or 2h"#);
        insta::assert_snapshot!(load("[queue\n").unwrap_err(),
            @"DIR/config.toml:1: unclosed table, expected `]`");
    }

    #[test]
    fn t16_a_project_file_chooses_no_programs_for_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PROJECT_FILE), "[worktree]\nsetup = \"npm ci\"\n").unwrap();
        assert_eq!(Config::project(dir.path()).unwrap().setup, "npm ci");
        std::fs::write(dir.path().join(PROJECT_FILE), "[gate]\nprotect = [\"tests/**\"]\n").unwrap();
        let config = Config { gate: Gate { fresh: false, ..Gate::default() }, ..Config::default() };
        let gate = config.gate_of(dir.path()).unwrap();
        assert_eq!((gate.fresh, gate.protect.as_slice()), (false, &["tests/**".to_owned()][..]));
        std::fs::write(dir.path().join(PROJECT_FILE), "[notify]\ncommand = [\"evil\"]\n").unwrap();
        let e = Config::project(dir.path()).unwrap_err().to_string();
        assert!(
            e.ends_with(".orchwrap.toml:1: `notify` belongs into config.toml; a project file may hold worktree, gate"),
            "{e}"
        );
    }
}
