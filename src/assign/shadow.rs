//! A git folder of our own beside a throwaway working tree: it borrows a repository's objects, so that what an agent
//! left becomes a tree, and a checkout, while the repository itself is only read.
//!
//! What the repository configures (filters, hooks, attributes beside the tree) does not hold here, and the agent's index
//! is asked for names only: neither its notes about unchanged files nor its settings decide what is taken (T4, T15).

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::assign::git::{Facts, Git, GitError, Head};

/// Longest listing of a working tree: 256 bytes a file for a million files.
const MAX_LISTING: usize = 256 << 20;

/// Most refs that a checkout knows.
const MAX_REFS: &str = "--count=50000";

/// Why there is no tree or no checkout.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// git said no.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A file of ours.
    #[error("write {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A file that two trees have differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where, from the top.
    pub path: String,
    /// Its blob before; none where it was not there.
    pub old: Option<String>,
    /// Its blob now.
    pub new: Option<String>,
}

/// A repository's shadow.
#[derive(Debug)]
pub struct Shadow {
    theirs: Git,
    ours: Git,
    facts: Facts,
    top: PathBuf,
}

impl Shadow {
    /// Makes the shadow of the repository of `facts` in the folder `top`, which is made.
    pub async fn make(git: &Git, facts: Facts, top: PathBuf) -> Result<Self, ShadowError> {
        let dot_git = top.join(".git");
        let ours = git.clone().with_vars([("GIT_DIR", dot_git.clone().into())]);
        let shadow = Self { theirs: git.clone(), ours, facts, top };
        shadow.write_git_folder(&dot_git).await?;
        Ok(shadow)
    }

    async fn write_git_folder(&self, dot_git: &Path) -> Result<(), ShadowError> {
        let Facts { top, common_dir, head, .. } = &self.facts;
        let format = self.theirs.run(top, &["rev-parse", "--show-object-format"]).await?;
        let config = match format.trim_ascii() {
            b"sha1" => "[core]\n\trepositoryformatversion = 0\n".to_owned(),
            other => format!(
                "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = {}\n",
                String::from_utf8_lossy(other)
            ),
        };
        let refs = ["for-each-ref", "--format=%(objectname) %(refname)", MAX_REFS];
        let refs = self.theirs.run_with(top, &refs, None, MAX_LISTING).await?;
        let head = match head {
            Head::Branch { name, .. } | Head::Unborn { name } => format!("ref: refs/heads/{name}\n"),
            Head::Detached { sha } => format!("{sha}\n"),
        };
        let mut objects = common_dir.join("objects").into_os_string();
        objects.push("\n");
        let shallow = std::fs::read(common_dir.join("shallow")).unwrap_or_default();
        let files: [(&str, &[u8]); 5] = [
            ("objects/info/alternates", objects.as_bytes()),
            ("HEAD", head.as_bytes()),
            ("config", config.as_bytes()),
            ("packed-refs", &refs),
            ("shallow", &shallow),
        ];
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| ShadowError::Io { path, source }
        };
        std::fs::create_dir_all(self.top.parent().unwrap_or(&self.top)).map_err(io(&self.top))?;
        // Never into what is there already.
        std::fs::create_dir(&self.top).map_err(io(&self.top))?;
        for folder in ["objects/info", "refs/heads"] {
            let path = dot_git.join(folder);
            std::fs::create_dir_all(&path).map_err(io(&path))?;
        }
        for (name, bytes) in files.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let path = dot_git.join(name);
            std::fs::write(&path, bytes).map_err(io(&path))?;
        }
        Ok(())
    }

    /// Our git, looking at a working tree.
    fn at(&self, tree: &Path) -> Git {
        self.ours.clone().with_vars([("GIT_WORK_TREE", tree.into())])
    }

    /// Writes what stands in the repository's working tree as a tree: what git tracks there and what it neither tracks
    /// nor ignores. Returns its id.
    pub async fn take(&self) -> Result<String, ShadowError> {
        let from = &self.facts.top;
        let tracked = self.theirs.run_with(from, &["ls-files", "-z", "-t", "--stage"], None, MAX_LISTING).await?;
        let others = ["ls-files", "-z", "--others", "--exclude-standard"];
        let others = self.theirs.run_with(from, &others, None, MAX_LISTING).await?;
        let (mut pinned, mut there) = (Vec::new(), Vec::new());
        let mut disk = Disk { top: from, folders: HashMap::new() };
        for record in tracked.split(|b| *b == 0).filter(|r| !r.is_empty()) {
            let Some(entry) = Entry::parse(record) else { continue };
            // A submodule is the commit it stands at; what is left out of a sparse checkout is as it was.
            if entry.tag == b'S' || entry.mode == b"160000" {
                if entry.stage == b"0" {
                    pinned.extend([entry.mode, b" ", entry.sha, b" 0\t", entry.path, b"\0"].concat());
                }
            } else if disk.has(entry.path) {
                there.extend([entry.path, b"\0"].concat());
            }
        }
        // A folder in this list is a repository of its own, which git does not look into either.
        for path in others.split(|b| *b == 0).filter(|p| !p.is_empty() && !p.ends_with(b"/") && disk.has(p)) {
            there.extend([path, b"\0"].concat());
        }
        let git = self.at(from);
        self.feed(&git, from, &["update-index", "-z", "--index-info"], &pinned).await?;
        self.feed(&git, from, &["update-index", "-z", "--add", "--replace", "--stdin"], &there).await?;
        let tree = git.run(from, &["write-tree"]).await?;
        Ok(String::from_utf8_lossy(tree.trim_ascii()).into_owned())
    }

    /// Puts the files for which `is_protected` holds back to what they are in the commit `base`: changed ones, removed
    /// ones, and away with those that are new. Before the checkout, and after the taking.
    pub async fn restore(&self, base: &str, is_protected: impl Fn(&str) -> bool) -> Result<(), ShadowError> {
        let listing = ["ls-tree", "-r", "-z", "--full-tree", "--end-of-options", base];
        let before = self.ours.run_with(&self.top, &listing, None, MAX_LISTING).await?;
        let now = self.ours.run_with(&self.top, &["ls-files", "-z", "-t", "--stage"], None, MAX_LISTING).await?;
        let none = "0".repeat(base.len());
        let mut wanted: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for record in now.split(|b| *b == 0).filter(|r| !r.is_empty()) {
            let Some(entry) = Entry::parse(record) else { continue };
            if is_protected(&String::from_utf8_lossy(entry.path)) {
                wanted.insert(entry.path.to_vec(), format!("0 {none}").into_bytes());
            }
        }
        for record in before.split(|b| *b == 0) {
            let Some(at) = record.iter().position(|b| *b == b'\t') else { continue };
            let (head, path) = (&record[..at], &record[at + 1..]);
            let mut words = head.split(|b| *b == b' ');
            let (Some(mode), Some(_), Some(sha)) = (words.next(), words.next(), words.next()) else { continue };
            if is_protected(&String::from_utf8_lossy(path)) {
                wanted.insert(path.to_vec(), [mode, b" ", sha].concat());
            }
        }
        let lines: Vec<u8> =
            wanted.into_iter().flat_map(|(path, what)| [&what[..], b"\t", &path, b"\0"].concat()).collect();
        self.feed(&self.ours, &self.top, &["update-index", "-z", "--replace", "--index-info"], &lines).await?;
        Ok(())
    }

    /// Writes the files of what was taken, and was put back, and leaves git there with the agent's commit as HEAD.
    pub async fn check_out(&self) -> Result<(), ShadowError> {
        let git = self.at(&self.top);
        git.run(&self.top, &["checkout-index", "--all", "--force", "--quiet", "--index"]).await?;
        // What was not committed there is not here either; entries that are equal keep what is known of their files.
        match self.facts.head.sha() {
            Some(sha) => git.run(&self.top, &["read-tree", "-m", sha]).await?,
            None => git.run(&self.top, &["read-tree", "--empty"]).await?,
        };
        Ok(())
    }

    /// The files that differ between a commit and a tree that was taken.
    pub async fn changes(&self, base: &str, tree: &str) -> Result<Vec<Changed>, ShadowError> {
        let args = ["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--end-of-options", base, tree];
        Ok(parse_raw(&self.ours.run_with(&self.top, &args, None, MAX_LISTING).await?))
    }

    /// The blobs that files of the repository's working tree would be, none for one that is not there.
    pub async fn blobs(&self, paths: &[String]) -> Result<BTreeMap<String, Option<String>>, ShadowError> {
        let from = &self.facts.top;
        let mut disk = Disk { top: from, folders: HashMap::new() };
        let (there, gone): (Vec<_>, Vec<_>) =
            paths.iter().filter(|p| !p.contains('\n')).partition(|p| disk.has(p.as_bytes()));
        let list: String = there.iter().map(|p| format!("{p}\n")).collect();
        let answer = self.feed(&self.at(from), from, &["hash-object", "--stdin-paths"], list.as_bytes()).await?;
        let answer = String::from_utf8_lossy(&answer);
        let known = there.into_iter().zip(answer.lines()).map(|(path, sha)| (path.clone(), Some(sha.to_owned())));
        Ok(known.chain(gone.into_iter().map(|path| (path.clone(), None))).collect())
    }

    /// The content of a blob.
    pub async fn blob(&self, sha: &str) -> Result<Vec<u8>, ShadowError> {
        Ok(self.ours.run(&self.top, &["cat-file", "blob", sha]).await?)
    }

    async fn feed(&self, git: &Git, dir: &Path, args: &[&str], input: &[u8]) -> Result<Vec<u8>, ShadowError> {
        let file = || {
            let mut file = tempfile::tempfile_in(self.top.join(".git"))?;
            file.write_all(input)?;
            file.rewind()?;
            Ok(file)
        };
        let file = file().map_err(|source| ShadowError::Io { path: self.top.join(".git"), source })?;
        Ok(git.run_with(dir, args, Some(file), MAX_LISTING).await?)
    }
}

/// The files of a working tree that are not as its HEAD has them, untracked ones included.
pub async fn unclean(git: &Git, top: &Path) -> Result<Vec<String>, GitError> {
    let args = ["status", "--porcelain=v1", "-z", "--untracked-files=all", "--ignore-submodules=dirty", "--no-renames"];
    let answer = git.run_writing(top, &args).await?;
    // Two letters and a blank before each path.
    let records = answer.split(|b| *b == 0).filter_map(|r| r.get(3..));
    Ok(records.map(|path| String::from_utf8_lossy(path).into_owned()).collect())
}

/// Removes a throwaway folder, also one with folders in it that may not be written to.
pub fn remove(folder: &Path) -> std::io::Result<()> {
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(folder);
            std::fs::remove_dir_all(folder)
        }
        Err(e) if gone(&e) => Ok(()),
        other => other,
    }
}

fn open_up(folder: &Path) {
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// A line of `ls-files -t --stage`.
struct Entry<'a> {
    tag: u8,
    mode: &'a [u8],
    sha: &'a [u8],
    stage: &'a [u8],
    path: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(record: &'a [u8]) -> Option<Self> {
        let at = record.iter().position(|b| *b == b'\t')?;
        let mut words = record[..at].split(|b| *b == b' ');
        let tag = *words.next()?.first()?;
        Some(Self { tag, mode: words.next()?, sha: words.next()?, stage: words.next()?, path: &record[at + 1..] })
    }
}

/// What stands in a working tree, looked at without following a link: git adds nothing behind one, and says so by failing.
struct Disk<'a> {
    top: &'a Path,
    folders: HashMap<OsString, bool>,
}

impl Disk<'_> {
    fn has(&mut self, path: &[u8]) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        path.parent().is_none_or(|folder| self.is_folder(folder))
            && std::fs::symlink_metadata(self.top.join(path)).is_ok_and(|m| m.is_file() || m.is_symlink())
    }

    fn is_folder(&mut self, path: &Path) -> bool {
        if path.as_os_str().is_empty() {
            return true;
        }
        if let Some(known) = self.folders.get(path.as_os_str()) {
            return *known;
        }
        let is = path.parent().is_none_or(|up| self.is_folder(up))
            && std::fs::symlink_metadata(self.top.join(path)).is_ok_and(|m| m.is_dir());
        self.folders.insert(path.into(), is);
        is
    }
}

/// Reads `diff-tree -z --raw`: `:mode mode sha sha letter NUL path NUL`.
fn parse_raw(answer: &[u8]) -> Vec<Changed> {
    let mut fields = answer.split(|b| *b == 0);
    let mut changes = Vec::new();
    while let (Some(head), Some(path)) = (fields.next(), fields.next()) {
        let head = String::from_utf8_lossy(head);
        let mut words = head.split(' ').skip(2);
        let blob = |word: Option<&str>| word.filter(|w| w.bytes().any(|b| b != b'0')).map(str::to_owned);
        let (old, new) = (blob(words.next()), blob(words.next()));
        changes.push(Changed { path: String::from_utf8_lossy(path).into_owned(), old, new });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_with_what_was_and_what_is() {
        let (a, b, none) = ("a".repeat(40), "b".repeat(40), "0".repeat(40));
        let answer =
            format!(":100644 100755 {a} {b} M\0x y\0:000000 100644 {none} {a} A\0n\0:100644 000000 {b} {none} D\0d\0");
        let changed = |path: &str, old: Option<&String>, new: Option<&String>| Changed {
            path: path.into(),
            old: old.cloned(),
            new: new.cloned(),
        };
        let expected = [changed("x y", Some(&a), Some(&b)), changed("n", None, Some(&a)), changed("d", Some(&b), None)];
        assert_eq!(parse_raw(answer.as_bytes()), expected);
    }
}
