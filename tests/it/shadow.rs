//! What an agent left, taken and checked out beside a hostile repository, with the real git.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use orchwrap::assign::git::{Facts, Place};
use orchwrap::assign::shadow::{Shadow, remove};

use crate::worktree::{Fixture, script};

async fn facts(f: &Fixture) -> Facts {
    match f.our_git().place(&f.app()).await.unwrap() {
        Place::Tree(facts) => facts,
        other => panic!("{other:?}"),
    }
}

/// Takes what stands there and checks it out; returns the checkout and the tree's id.
async fn checkout(f: &Fixture, name: &str) -> (PathBuf, String) {
    let top = f.dir.path().canonicalize().unwrap().join("gates").join(name);
    let shadow = Shadow::make(&f.our_git(), facts(f).await, top.clone()).await.unwrap();
    let tree = shadow.take().await.unwrap();
    shadow.check_out().await.unwrap();
    (top, tree)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn t15_nothing_that_a_repository_configures_runs_and_nothing_is_left_in_it() {
    let f = Fixture::new();
    let (evil, bait) = (f.dir.path().join("evil"), f.dir.path().join("bait"));
    script(&evil, &format!("echo \"$0 $*\" >> {}; cat", bait.display()));
    let evil = evil.to_str().unwrap();
    std::fs::write(f.app().join(".gitattributes"), "file filter=bad diff=bad\n").unwrap();
    f.git(&["add", "."]);
    f.git(&["commit", "-q", "-m", "attributes"]);
    // A repository inside it, known as a submodule, with settings of its own and changes in it.
    let inner = f.app().join("inner");
    f.git(&["init", "-q", inner.to_str().unwrap()]);
    std::fs::write(inner.join("x"), "x").unwrap();
    f.git_in(&inner, &["add", "."]);
    f.git_in(&inner, &["commit", "-q", "-m", "inner"]);
    f.git(&["-c", "advice.addEmbeddedRepo=false", "add", "inner"]);
    f.git(&["commit", "-q", "-m", "submodule"]);
    std::fs::write(inner.join("x"), "changed").unwrap();
    f.git_in(&inner, &["config", "core.fsmonitor", evil]);
    for hook in ["post-checkout", "post-index-change", "reference-transaction"] {
        script(&f.app().join(".git/hooks").join(hook), &format!("echo hook >> {}", bait.display()));
    }
    for key in ["core.fsmonitor", "filter.bad.smudge", "filter.bad.clean", "filter.bad.process", "core.pager"] {
        f.git(&["config", key, evil]);
    }
    f.git(&["config", "filter.bad.required", "true"]);
    std::fs::write(f.app().join("file"), "changed\n").unwrap();
    let _ = std::fs::remove_file(&bait);
    // Somebody's lock is in nobody's way.
    std::fs::write(f.app().join(".git/index.lock"), "").unwrap();
    let before = crate::gates::files(&f.app().join(".git"));

    let (top, _) = checkout(&f, "1").await;
    assert_eq!(read(&top.join("file")), "changed\n");
    assert!(top.join("inner").is_dir() && !top.join("inner/x").exists(), "a submodule is its commit");
    let status = |dir: &Path| {
        Command::new("git").args(["status", "--porcelain"]).current_dir(dir).env_clear().envs(f.env()).output().unwrap()
    };
    assert_eq!(String::from_utf8_lossy(&status(&top).stdout), " M file\n");
    assert!(!bait.exists(), "{}", read(&bait));
    assert_eq!(crate::gates::files(&f.app().join(".git")), before);
    // It would have run.
    status(&f.app());
    assert!(bait.exists());
}

#[tokio::test]
async fn a_tree_is_what_git_would_commit_whatever_state_the_index_is_in() {
    let f = Fixture::new();
    let taken = async |name: &str| checkout(&f, name).await.1;
    let clean = f.git(&["rev-parse", "HEAD^{tree}"]);
    assert_eq!(taken("clean").await, clean);

    // Staged in the index alone, forced past an ignore rule, removed from the index and kept on the disk.
    std::fs::write(f.app().join(".gitignore"), "*.log\nkept\n").unwrap();
    std::fs::write(f.app().join("forced.log"), "x").unwrap();
    f.git(&["add", "-f", "forced.log"]);
    f.git(&["rm", "-q", "--cached", "sub/file"]);
    std::fs::write(f.app().join("odd \" name\n\u{e9}"), "x").unwrap();
    let (top, tree) = checkout(&f, "odd").await;
    for path in [".gitignore", "forced.log", "sub/file", "odd \" name\n\u{e9}"] {
        assert!(top.join(path).exists(), "{path:?}");
    }
    f.git(&["add", "-A"]);
    assert_eq!(tree, f.git(&["write-tree"]));

    // A file became a folder, and a folder a file; and HEAD is nowhere.
    f.git(&["commit", "-q", "-m", "two"]);
    std::fs::remove_file(f.app().join("file")).unwrap();
    std::fs::create_dir(f.app().join("file")).unwrap();
    std::fs::write(f.app().join("file/x"), "x").unwrap();
    std::fs::remove_dir_all(f.app().join("sub")).unwrap();
    std::fs::write(f.app().join("sub"), "x").unwrap();
    f.git(&["switch", "-q", "--detach"]);
    let (top, tree) = checkout(&f, "swapped").await;
    assert!(top.join("file/x").exists() && top.join("sub").is_file());
    f.git(&["add", "-A"]);
    assert_eq!(tree, f.git(&["write-tree"]));

    // In the middle of a merge.
    f.git(&["commit", "-q", "-m", "three"]);
    for (branch, text) in [("a", "a\n"), ("b", "b\n")] {
        f.git(&["switch", "-q", "-c", branch, "main"]);
        std::fs::write(f.app().join(".gitignore"), text).unwrap();
        f.git(&["commit", "-q", "-a", "-m", branch]);
    }
    let who = ["-c", "user.name=u", "-c", "user.email=u@localhost"];
    let mut merge = Command::new("git");
    merge.args(who).args(["merge", "-q", "a"]).current_dir(f.app()).env_clear().envs(f.env());
    assert_eq!(merge.output().unwrap().status.code(), Some(1));
    let (top, _) = checkout(&f, "merge").await;
    assert!(read(&top.join(".gitignore")).contains("<<<<<<<"));
}

#[tokio::test]
async fn a_checkout_is_never_made_into_what_is_there_and_goes_whole() {
    let f = Fixture::new();
    let (top, _) = checkout(&f, "1").await;
    assert!(Shadow::make(&f.our_git(), facts(&f).await, top.clone()).await.is_err());
    // Module caches are read-only.
    std::fs::create_dir_all(top.join("cache/deep")).unwrap();
    std::fs::write(top.join("cache/deep/file"), "x").unwrap();
    for folder in ["cache/deep", "cache"] {
        std::fs::set_permissions(top.join(folder), std::fs::Permissions::from_mode(0o500)).unwrap();
    }
    let outside = f.app().join("sub");
    std::os::unix::fs::symlink(&outside, top.join("link")).unwrap();
    remove(&top).unwrap();
    remove(&top).unwrap();
    assert!(!top.exists() && outside.join("file").exists());
}
