//! Other programs: ripgrep, the same in Go, Hyperscan. Each is looked for, and said to be absent if it is.

use std::path::Path;
use std::process::{Command, Stdio};

use regex::Regex;

use crate::peers::patterns;

/// Each line stripped by a regexp, then every regexp on it, as Go programs do it.
const GO: &str = include_str!("each.go.txt");
/// Hyperscan in streaming mode, which strips nothing and tells where matches end.
const HYPERSCAN: &str = include_str!("hyperscan.c.txt");

/// A program that is here.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    command: Vec<String>,
    /// It tells its own rate; the others are timed whole.
    tells: bool,
    /// It is slow: one round tells enough.
    pub(crate) slow: bool,
}

/// Makes the programs that can be made here, in `dir`; says on stderr what cannot.
pub(crate) fn all(dir: &Path) -> Vec<Program> {
    let plain = dir.join("patterns");
    // Not all of them know named groups as we write them.
    let named = Regex::new(r"\(\?<\w+>").expect("a valid pattern");
    std::fs::write(&plain, named.replace_all(&patterns().join("\n"), "(").as_bytes()).expect("write the patterns");
    let path = |p: &Path| p.to_str().expect("a path of ours is text").to_owned();
    let program = |name, command: Vec<String>, tells, slow| Program { name, command, tells, slow };
    let mut here = Vec::new();
    if ran(Command::new("rg").arg("--version")) {
        let command = ["rg", "-j1", "--no-mmap", "--crlf", "-c", "-f"].map(str::to_owned);
        here.push(program("ripgrep", [command.to_vec(), vec![path(&plain)]].concat(), false, false));
    } else {
        absent("ripgrep");
    }
    let (source, bin) = (dir.join("each.go"), dir.join("each"));
    std::fs::write(&source, GO).expect("write a program");
    if ran(Command::new("go").args(["build", "-o"]).arg(&bin).arg(&source).env("GOCACHE", dir.join("go"))) {
        here.push(program("every-regexp-per-line-in-go", vec![path(&bin), path(&plain)], true, true));
    } else {
        absent("a Go compiler");
    }
    let (source, bin) = (dir.join("hyperscan.c"), dir.join("hyperscan"));
    std::fs::write(&source, HYPERSCAN).expect("write a program");
    if ran(Command::new("cc").args(["-O2", "-o"]).arg(&bin).arg(&source).arg("-lhs")) {
        here.push(program("hyperscan-streaming", vec![path(&bin), path(&plain)], true, false));
    } else {
        absent("Hyperscan's library and header");
    }
    here
}

impl Program {
    /// Runs over a file of `bytes`; MB/s of processor time.
    pub(crate) fn rate(&self, file: &Path, bytes: usize) -> f64 {
        let before = children();
        let out = Command::new(&self.command[0]).args(&self.command[1..]).arg(file).output().expect("it ran before");
        let spent = children() - before;
        let told = String::from_utf8_lossy(&out.stdout);
        assert!(
            matches!(out.status.code(), Some(0 | 1)),
            "{} failed: {}",
            self.name,
            String::from_utf8_lossy(&out.stderr)
        );
        if self.tells {
            return told.trim().parse().unwrap_or_else(|_| panic!("{} tells no rate: {told}", self.name));
        }
        #[expect(clippy::cast_precision_loss, reason = "sizes of corpora are far below 2^52")]
        let megabytes = bytes as f64 / 1e6;
        megabytes / spent
    }
}

fn ran(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn absent(what: &str) {
    eprintln!("not measured, for it is not here: {what}");
}

/// Processor seconds of the children that ended.
fn children() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike as _;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it cannot fail");
    #[expect(clippy::cast_precision_loss, reason = "a few minutes at most")]
    let seconds = (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6;
    seconds
}
