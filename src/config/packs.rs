//! The user's own packs: files that override what is built in.

use std::path::{Path, PathBuf};

use crate::extract::pattern::{PackError, Packs};

impl Packs {
    /// Returns the built-in packs with the files `*.toml` of `user_dir` over them; a file that cannot be used is reported
    /// and leaves what was there.
    pub fn load(user_dir: &Path) -> (Self, Vec<PackError>) {
        Self::load_after(user_dir, None)
    }

    /// The same while `last` is in force: what a file made in it stays if the file cannot be used any more (F55).
    pub fn load_after(user_dir: &Path, last: Option<&Self>) -> (Self, Vec<PackError>) {
        let mut packs = Self::builtin();
        let mut files: Vec<PathBuf> = match fs_err::read_dir(user_dir) {
            Ok(entries) => {
                entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "toml")).collect()
            }
            Err(_) => Vec::new(), // no folder, no packs of the user
        };
        files.sort();
        let (mut texts, mut errors) = (Vec::new(), Vec::new());
        for file in files {
            match fs_err::read_to_string(&file) {
                Ok(text) => texts.push((file, text)),
                Err(e) => errors.push(PackError { file, line: 1, column: 1, why: e.to_string() }),
            }
        }
        errors.extend(packs.put_files(texts, last));
        (packs, errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pack_is_named_by_line_and_leaves_the_good_ones() {
        let dir = tempfile::tempdir().unwrap();
        let text = "version = 1\nid = \"mine\"\nmode = \"line\"\n[launch]\ncommand = \"mine\"\nnames = [\"mine\"]\n";
        std::fs::write(dir.path().join("mine.toml"), text).unwrap();
        std::fs::write(dir.path().join("bad.toml"), "version = 1\nid = \"bad\"\nmode = \"sideways\"\n").unwrap();
        let (packs, errors) = Packs::load(dir.path());
        assert_eq!(packs.for_command(&["/usr/bin/mine"]).unwrap().id, "mine");
        assert_eq!((errors.len(), errors[0].line), (1, 3));
        assert!(errors[0].to_string().contains("bad.toml:3:8"));
        assert!(packs.get("bad").is_none() && packs.get("claude").is_some());
    }

    #[test]
    fn without_a_folder_the_built_in_packs_stand() {
        let (packs, errors) = Packs::load(Path::new("/nonexistent"));
        assert!(errors.is_empty() && packs.get("codex").is_some());
        assert_eq!(packs.nearest("claud"), ["claude"]);
    }
}
