//! `orchwrap demo` as CI and people run it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::support::{Home, orchwrap};

/// Processes whose home is in `root`.
fn living(root: &Path) -> Vec<String> {
    let mark = [b"HOME=".as_slice(), root.as_os_str().as_bytes()].concat();
    let pids = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
    pids.filter(|p| {
        std::fs::read(p.join("environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|e| e.starts_with(&mark)))
    })
    .map(|p| String::from_utf8_lossy(&std::fs::read(p.join("cmdline")).unwrap_or_default()).replace('\0', " "))
    .collect()
}

fn demo(args: &[&str]) {
    let home = Home::new();
    let output = home.program(orchwrap()).args(["demo", "--keep"]).args(args).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{out}{err}");
    assert!(out.starts_with("task  shows"), "a pipe gets the table and nothing before it: {out}");
    assert!(out.contains("\n5 of 5 recorded results equal the agents' ledger"), "{out}");
    let root = PathBuf::from(err.lines().find_map(|l| l.strip_prefix("left for a look: ")).expect("where it was"));
    assert!(root.join("ledger.ndjson").is_file());
    assert_eq!(living(&root), [""; 0], "left alive");
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn every_recorded_result_equals_the_ledger_in_tmux() {
    demo(&[]);
}

#[test]
fn every_recorded_result_equals_the_ledger_without_tmux() {
    demo(&["--no-tmux"]);
}
