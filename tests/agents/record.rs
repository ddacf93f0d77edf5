//! Makes recordings of the real agents: `./x record [NAME..]`. Each line of the table is a folder of `tests/recordings`.
//!
//! Left as they are, scenarios are played by `orchwrap record` against the fake model, whose log is the truth.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::agent_fixture::Agent::{Claude, Codex};
use crate::agent_fixture::{Agent, Fixture, fixture};

/// Where the agent's terminal is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Played by the recorder, with the answer to the status query or without.
    Xterm { status: bool },
    /// A pane of tmux, the recorder in between.
    Tmux { status: bool },
}

const PLAIN: Place = Place::Xterm { status: false };
const STATUS: Place = Place::Xterm { status: true };
const PANE: Place = Place::Tmux { status: false };
const PANE_STATUS: Place = Place::Tmux { status: true };

/// A recording to make: scenario, agent, place, size, with reports or not.
type Line = (&'static str, Agent, Place, &'static str, bool);

const TABLE: &[Line] = &[
    // --- claude
    ("plain", Claude, PLAIN, "80x24", true),
    ("plain", Claude, STATUS, "200x50", true),
    ("bursty", Claude, PANE, "80x24", true),
    ("drip", Claude, PLAIN, "120x30", false),
    ("wide", Claude, PANE, "200x60", true),
    ("resize", Claude, PLAIN, "120x40", true),
    ("resize", Claude, PANE, "200x50", false),
    ("permission", Claude, PLAIN, "80x24", true),
    ("permission", Claude, STATUS, "200x50", false),
    ("refuse", Claude, PANE, "80x30", true),
    ("question", Claude, PLAIN, "80x24", true),
    ("question", Claude, PANE_STATUS, "200x50", true),
    ("interrupt_early", Claude, STATUS, "80x24", true),
    ("interrupt_early", Claude, PLAIN, "200x50", true),
    ("interrupt_late", Claude, PANE, "100x30", true),
    ("queued", Claude, PLAIN, "200x50", true),
    ("flaky", Claude, PLAIN, "80x24", true),
    ("err500", Claude, PANE, "80x24", true),
    ("limit_resumes", Claude, PLAIN, "80x24", true),
    ("subagent", Claude, PLAIN, "120x40", true),
    ("background", Claude, PANE_STATUS, "120x40", true),
    ("several", Claude, PLAIN, "80x24", true),
    ("trap", Claude, PANE, "80x24", true),
    // --- codex
    ("plain", Codex, PLAIN, "80x24", true),
    ("plain", Codex, PANE, "200x50", true),
    ("bursty", Codex, PLAIN, "80x24", true),
    ("drip", Codex, PANE, "120x30", true),
    ("wide", Codex, PLAIN, "80x24", false),
    ("resize", Codex, PLAIN, "120x40", true),
    ("permission", Codex, PLAIN, "80x24", true),
    ("permission", Codex, PANE, "200x50", true),
    ("refuse", Codex, PLAIN, "200x50", true),
    ("interrupt_silent", Codex, PANE, "80x24", true),
    ("interrupt_late", Codex, PLAIN, "100x30", true),
    ("steered", Codex, PLAIN, "200x50", true),
    ("flaky", Codex, PANE, "80x24", true),
    ("err500", Codex, PLAIN, "200x50", true),
    ("several", Codex, PANE, "80x24", true),
    ("trap", Codex, PLAIN, "80x24", true),
];

/// Longest recording.
const PATIENCE: Duration = Duration::from_secs(400);

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

impl Agent {
    /// The folder of its recordings, by product and version.
    fn folder(self) -> &'static str {
        match self {
            Self::Claude => "claude-code/2.1.329",
            Self::Codex => "codex/0.169.0",
        }
    }
}

fn name((scenario, _, place, size, reports): &Line) -> String {
    let place = match place {
        Place::Xterm { status: false } => "",
        Place::Xterm { status: true } => "_status",
        Place::Tmux { status: false } => "_tmux",
        Place::Tmux { status: true } => "_tmux_status",
    };
    format!("own_{scenario}{place}_{size}{}", if *reports { "_hooks" } else { "" })
}

/// `ORCHWRAP_RECORD` holds words; a recording is made if its folder's name contains one of them.
#[test]
#[ignore = "makes recordings: run `./x record`"]
fn record() {
    let wanted = std::env::var("ORCHWRAP_RECORD").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    let mut failed = Vec::new();
    for line in TABLE {
        let out = recordings().join(line.1.folder()).join(name(line));
        let called = out.strip_prefix(recordings()).unwrap().display().to_string();
        let is_wanted = if wanted.is_empty() { !out.exists() } else { wanted.iter().any(|w| called.contains(w)) };
        if !is_wanted {
            continue;
        }
        let Some(fixture) = fixture() else { return };
        eprintln!("{called}");
        let ok = play(&fixture, line, &out);
        if !ok {
            failed.push(called);
        }
    }
    assert!(failed.is_empty(), "not played as written: {failed:#?}");
}

fn play(fixture: &Fixture, (scenario, agent, place, size, reports): &Line, out: &Path) -> bool {
    let log = fixture.path("model.jsonl");
    fixture.mock.log_to(std::fs::File::create(&log).unwrap());
    // Its own name for the program: agents show the path of their hooks.
    let program = fixture.path("orchwrap");
    let built = Path::new(env!("CARGO_BIN_EXE_orchwrap"));
    std::fs::hard_link(built, &program).or_else(|_| std::fs::copy(built, &program).map(drop)).unwrap();
    assert!(program.metadata().unwrap().size() > 0);
    let mut words: Vec<String> = vec![program.to_str().unwrap().into(), "record".into()];
    let mut add = |more: &[&str]| words.extend(more.iter().map(|w| (*w).to_owned()));
    let file = recordings().join(format!("scenarios/{scenario}.toml"));
    add(&["--scenario", file.to_str().unwrap(), "--log", log.to_str().unwrap(), "--size", size]);
    add(&["--out", out.to_str().unwrap()]);
    if !reports {
        add(&["--no-hooks"]);
    }
    let (Place::Xterm { status } | Place::Tmux { status }) = *place;
    if !status {
        add(&["--no-status-reply"]);
    }
    add(&[agent.id()]);
    add(agent.args());
    let mut command = match place {
        Place::Xterm { .. } => {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            command
        }
        Place::Tmux { .. } => in_tmux(fixture, &words, size),
    };
    command.current_dir(fixture.repo()).env_clear().envs(fixture.env()).stdin(Stdio::null());
    let mut child = command.spawn().expect("the recorder starts");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(100)); // between two looks
    };
    if let Ok(said) = std::fs::read_to_string(fixture.path("said")) {
        eprint!("{said}");
    }
    status.success() && out.join("expect.json").exists()
}

/// A private server with one pane; over when the recorder is.
fn in_tmux(fixture: &Fixture, words: &[String], size: &str) -> Command {
    let conf = fixture.path("tmux.conf");
    let settings = "set -g default-terminal tmux-256color\nset -s escape-time 10\nset -g focus-events on\n\
                    set -s extended-keys on\nset -g status off\nset -g remain-on-exit off\n";
    std::fs::write(&conf, settings).unwrap();
    let (cols, rows) = size.split_once('x').unwrap();
    let line = shlex::try_join(words.iter().map(String::as_str)).unwrap();
    let said = fixture.path("said");
    let script = format!(
        "tmux -L record -f {conf} new-session -d -x {cols} -y {rows} '{line} 2>{said}; echo $? >{said}.status; tmux -L record wait-for -S over'\n\
         tmux -L record wait-for over\nexit $(cat {said}.status)",
        conf = conf.display(),
        said = said.display(),
        line = line.replace('\'', "'\\''"),
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    command
}
