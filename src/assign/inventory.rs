//! What configures agents in a working tree: files and settings by which a program is started there without being asked
//! for (hooks, servers, permissions, git's own), each with a hash (T16).
//!
//! Which files an agent reads is its pack's to say. Prose that an agent reads counts for nothing here: it asks, and
//! whoever answers decides.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::assign::git::{Git, GitError};

/// Files that start programs whichever agent works there.
const COMMON: &[&str] = &[".envrc", ".vscode/tasks.json"];

/// Files of one folder that are looked at; more of them are told by their number.
const MAX_FILES: usize = 1000;

/// One piece of configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Item {
    /// Where, from the top of the working tree.
    pub path: String,
    /// Hash (hex sha256) of what it says.
    pub hash: String,
}

impl Item {
    /// A setting that says `text`.
    pub fn new(path: impl Into<String>, text: impl AsRef<[u8]>) -> Self {
        Self { path: path.into(), hash: hex(Sha256::new_with_prefix(text)) }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What is there, in order: `files` in each folder from `top` down to `cwd`, and what `common_dir`, the repository's git
/// folder, makes git run.
pub async fn take(
    git: &Git,
    top: &Path,
    cwd: &Path,
    common_dir: Option<&Path>,
    files: &[String],
) -> Result<Vec<Item>, GitError> {
    let mut found = BTreeMap::new();
    let below = cwd.strip_prefix(top).unwrap_or(Path::new(""));
    let folders: Vec<_> = below.ancestors().map(Path::to_owned).collect();
    for folder in folders {
        for file in COMMON.iter().copied().chain(files.iter().map(String::as_str)) {
            look(top, &folder.join(file.trim_end_matches('/')), &mut found);
        }
    }
    if let Some(common_dir) = common_dir {
        let listing = git.run(cwd, &["config", "--list", "--show-scope", "-z"]).await?;
        let settings = starting(&listing);
        if let Some(hooks) = settings.get("core.hookspath") {
            look(top, Path::new(hooks), &mut found);
        }
        if !settings.is_empty() {
            let text: String = settings.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
            let item = Item::new(".git/config", text);
            found.insert(item.path, item.hash);
        }
        for entry in std::fs::read_dir(common_dir.join("hooks")).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let runs = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
            if runs && !name.as_bytes().ends_with(b".sample") {
                found.insert(format!(".git/hooks/{}", name.to_string_lossy()), content(&path));
            }
        }
    }
    Ok(found.into_iter().map(|(path, hash)| Item { path, hash }).collect())
}

/// Notes a file, or every file of a folder; what is not there is no item.
fn look(top: &Path, path: &Path, found: &mut BTreeMap<String, String>) {
    let whole = top.join(path);
    let name = path.to_string_lossy().into_owned();
    match std::fs::metadata(&whole) {
        Ok(meta) if meta.is_dir() => {
            let mut entries: Vec<PathBuf> =
                std::fs::read_dir(&whole).into_iter().flatten().flatten().map(|e| path.join(e.file_name())).collect();
            entries.sort();
            if found.len() + entries.len() > MAX_FILES {
                found.insert(name, format!("{} files", entries.len()));
                return;
            }
            // A link to a folder above would never end.
            entries.retain(|e| {
                let e = top.join(e);
                !std::fs::symlink_metadata(&e).is_ok_and(|m| m.is_symlink()) || !e.is_dir()
            });
            entries.iter().for_each(|entry| look(top, entry, found));
        }
        Ok(_) => drop(found.insert(name, content(&whole))),
        // A link that leads nowhere yet leads where it is told to.
        Err(_) => {
            if let Ok(target) = std::fs::read_link(&whole) {
                found.insert(name, hex(Sha256::new_with_prefix(target.as_os_str().as_bytes())));
            }
        }
    }
}

/// Hash of a file's content; of what else it is where it has none that can be read.
fn content(path: &Path) -> String {
    let mut hash = Sha256::new();
    let read = || -> std::io::Result<()> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let mut file = std::fs::File::open(path)?;
        let mut buf = [0u8; 16 * 1024];
        loop {
            match file.read(&mut buf)? {
                0 => return Ok(()),
                n => hash.update(&buf[..n]),
            }
        }
    };
    let mut read = read;
    match read() {
        Ok(()) => hex(hash),
        Err(e) => format!("unreadable: {}", e.kind()),
    }
}

/// The settings of a repository's own by which git starts a program or reads further settings.
fn starting(listing: &[u8]) -> BTreeMap<String, String> {
    let mut fields = listing.split(|b| *b == 0);
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    while let (Some(scope), Some(entry)) = (fields.next(), fields.next()) {
        let entry = String::from_utf8_lossy(entry);
        let (key, value) = entry.split_once('\n').unwrap_or((&entry, ""));
        if matches!(scope, b"local" | b"worktree") && starts_a_program(key) {
            // Some may be said more than once, and all of them count.
            let all = found.entry(key.to_owned()).or_default();
            if !all.is_empty() {
                all.push('\n');
            }
            all.push_str(value);
        }
    }
    found
}

fn starts_a_program(key: &str) -> bool {
    const EXACT: [&str; 16] = [
        "core.hookspath",
        "core.fsmonitor",
        "core.sshcommand",
        "core.editor",
        "core.pager",
        "core.askpass",
        "core.gitproxy",
        "core.alternaterefscommand",
        "core.worktree",
        "sequence.editor",
        "diff.external",
        "interactive.difffilter",
        "gpg.program",
        "include.path",
        "uploadpack.packobjectshook",
        "init.templatedir",
    ];
    // `<first>.<name>.<last>`; an empty last stands for any, an empty name for none.
    const FAMILIES: [(&str, &str); 19] = [
        ("alias.", ""),
        ("pager.", ""),
        ("credential.", "helper"),
        ("filter.", "clean"),
        ("filter.", "smudge"),
        ("filter.", "process"),
        ("diff.", ".command"),
        ("diff.", ".textconv"),
        ("merge.", ".driver"),
        ("mergetool.", ".cmd"),
        ("difftool.", ".cmd"),
        ("hook.", ".command"),
        ("gpg.", ".program"),
        ("includeif.", ".path"),
        ("remote.", ".uploadpack"),
        ("remote.", ".receivepack"),
        ("remote.", ".vcs"),
        ("submodule.", ".update"),
        ("man.", ".cmd"),
    ];
    EXACT.contains(&key) || FAMILIES.iter().any(|(first, last)| key.starts_with(first) && key.ends_with(last))
}

/// What of `found` nobody said yes to, and whether anything of its path was known. Pure.
pub fn unknown<'i>(found: &'i [Item], trusted: &[Item]) -> Vec<(&'i Item, Known)> {
    found
        .iter()
        .filter(|item| !trusted.contains(item))
        .map(|item| match trusted.iter().any(|t| t.path == item.path) {
            true => (item, Known::Otherwise),
            false => (item, Known::Not),
        })
        .collect()
}

/// What was known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Not,
    /// With another content.
    Otherwise,
}

impl Known {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Not => "new",
            Self::Otherwise => "changed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t16_settings_that_start_programs_count_and_others_do_not() {
        let listing = b"local\0core.bare\nfalse\0local\0core.fsmonitor\n/x\0global\0alias.a\n!x\0local\0alias.b\n!y\0\
            worktree\0filter.f.clean\nz\0local\0remote.o.url\nu\0local\0credential.helper\n1\0local\0credential.helper\n2\0";
        let found = starting(listing);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            ["alias.b", "core.fsmonitor", "credential.helper", "filter.f.clean"]
        );
        assert_eq!(found["credential.helper"], "1\n2");
    }

    #[test]
    fn t16_new_is_told_from_changed_and_a_hash_once_approved_stays_so() {
        let trusted = [Item::new("a", "1"), Item::new("a", "2"), Item::new("b", "1")];
        let found = [Item::new("a", "1"), Item::new("b", "2"), Item::new("c", "1")];
        assert_eq!(unknown(&found, &trusted), [(&found[1], Known::Otherwise), (&found[2], Known::Not)]);
        assert_eq!(unknown(&found[..1], &trusted), []);
    }

    #[test]
    fn t16_files_and_folders_are_found_down_to_where_the_agent_works() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        let write = |path: &str| {
            std::fs::create_dir_all(top.join(path).parent().unwrap()).unwrap();
            std::fs::write(top.join(path), path).unwrap();
        };
        ["sub/deep/set.json", "set.json", "hooks/a/b", "other/set.json", "hooks.md"].iter().for_each(|p| write(p));
        std::os::unix::fs::symlink("nowhere", top.join("sub/set.json")).unwrap();
        std::os::unix::fs::symlink(top, top.join("hooks/loop")).unwrap();
        let mut found = BTreeMap::new();
        for folder in ["sub/deep", "sub", ""] {
            for file in ["set.json", "hooks"] {
                look(top, &Path::new(folder).join(file), &mut found);
            }
        }
        assert_eq!(found.keys().collect::<Vec<_>>(), ["hooks/a/b", "set.json", "sub/deep/set.json", "sub/set.json"]);
    }
}
