//! The shape of the code, checked: what is pure stays pure, imports point one way, vendors stay in packs.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file but those that hold tests only.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut dirs = vec![root.clone()];
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
        .into_iter()
        .map(|(path, text)| (path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), text))
        .filter(|(file, _)| !file.ends_with("tests.rs") && !file.ends_with("samples.rs"))
        .collect()
}

/// The code of a file without its unit tests and comments.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    body.lines().map(|line| line.split_once("//").map_or(line, |(before, _)| before)).collect::<Vec<_>>().join("\n")
}

fn is_pure(file: &str) -> bool {
    let edges = [
        "queue/store",
        "assign/child",
        "assign/git",
        "assign/worktree",
        "assign/provision",
        "assign/env",
        "assign/prereq",
        "assign/gate.rs",
        "assign/inventory",
        "assign/marked",
        "assign/setup",
        "assign/shadow",
        "assign/verify",
    ];
    ["term/", "extract/", "queue/", "assign/", "ids.rs", "ctl.rs", "run.rs", "paths.rs"]
        .iter()
        .any(|p| file.starts_with(p))
        && !edges.iter().any(|e| file.starts_with(e))
}

#[test]
fn pure_files_touch_no_file_clock_process_or_database() {
    let banned = [
        "std::fs",
        "fs_err",
        "std::process",
        "std::env",
        "env::var",
        "Instant::now",
        "SystemTime",
        "Timestamp::now",
        "tokio::",
        "rusqlite",
    ];
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        if is_pure(&file) {
            let code = code(&text);
            wrong.extend(banned.iter().filter(|b| code.contains(**b)).map(|b| format!("{file}: {b}")));
        }
    }
    assert!(wrong.is_empty(), "pure files reach outside:\n{}", wrong.join("\n"));
}

#[test]
fn vendors_are_named_in_packs_and_adapters_only() {
    let vendors = ["claude", "codex", "ollama", "gemini", "opencode", "aider", "anthropic", "openai"];
    let allowed = ["extract/adapters/", "demo/"];
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        if allowed.iter().any(|a| file.starts_with(a)) {
            continue;
        }
        for (n, line) in code(&text).lines().enumerate() {
            // The built-in packs have to be listed somewhere: one file, by file name.
            if line.contains("include_str!") {
                continue;
            }
            let lower = line.to_lowercase();
            wrong.extend(
                vendors
                    .iter()
                    .filter(|v| lower.contains(**v))
                    .map(|v| format!("{file}:{}: {v}: {}", n + 1, line.trim())),
            );
        }
    }
    assert!(wrong.is_empty(), "code knows a vendor:\n{}", wrong.join("\n"));
}

/// Layers, lowest first; a module may import its own layer and those below.
const LAYERS: &[&[&str]] = &[
    &["ids", "clock", "json"],
    &["term"],
    &["extract"],
    &["ctl", "run", "paths", "linux", "recording"],
    &["queue", "assign", "config"],
    &["pty", "tmux"],
    &["daemon", "telemetry"],
    &["demo", "cli"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&module))
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = file.split(['/', '.']).next().unwrap();
        let Some(here) = layer(module) else { continue };
        for (n, line) in code(&text).lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let name: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if layer(&name).is_some_and(|there| there > here) {
                    wrong.push(format!("{file}:{}: {module} imports {name}", n + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the grain:\n{}", wrong.join("\n"));
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    // Known to every reader of Rust; a reason beside them would be noise.
    let obvious = ["serde", "serde_json", "thiserror", "clap", "tracing", "tracing-subscriber"];
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside && line.contains(" = ") && !line.starts_with('#') {
            let name = line.split(' ').next().unwrap();
            assert!(line.contains('#') || obvious.contains(&name), "Cargo.toml: {name} has no reason");
        }
    }
}
