//! Working trees, with the real git.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use orchwrap::assign::env::Env;
use orchwrap::assign::git::{Branch, Git, GitError, Head, Place};
use orchwrap::assign::worktree::{Tree, TreeError, Trees, Wanted};
use orchwrap::ids::TaskId;
use orchwrap::queue::task::TreeRule;

/// A repository `app` with one commit on `main` and a folder `sub`, a HOME of its own, and our trees beside it.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let new = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(new.app().join("sub")).unwrap();
        std::fs::create_dir(new.dir.path().join("home")).unwrap();
        new.git(&["init", "-q", "-b", "main"]);
        std::fs::write(new.app().join("file"), "one\n").unwrap();
        std::fs::write(new.app().join("sub/file"), "one\n").unwrap();
        new.git(&["add", "."]);
        new.git(&["commit", "-q", "-m", "one"]);
        new
    }

    pub(crate) fn app(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("app")
    }

    fn trees_root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("state/worktrees")
    }

    pub(crate) fn env(&self) -> Vec<(OsString, OsString)> {
        let path = std::env::var_os("PATH").unwrap();
        vec![("PATH".into(), path), ("HOME".into(), self.dir.path().join("home").into())]
    }

    /// The user's own git.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_in(&self.app(), args)
    }

    pub(crate) fn git_in(&self, dir: &Path, args: &[&str]) -> String {
        let who = ["-c", "user.name=u", "-c", "user.email=u@localhost"];
        let out =
            Command::new("git").args(who).args(args).current_dir(dir).env_clear().envs(self.env()).output().unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    pub(crate) fn our_git(&self) -> Git {
        Git::with_env(self.env())
    }

    fn trees(&self) -> Trees {
        Trees::new(self.our_git(), self.trees_root())
    }

    fn wanted(&self, branch: Option<&str>) -> Wanted {
        Wanted {
            task: TaskId(7),
            cwd: self.app(),
            branch: branch.map(|b| b.parse().unwrap()),
            base_sha: None,
            rule: TreeRule::Auto,
        }
    }

    async fn prepare(&self, wanted: &Wanted) -> Result<Tree, TreeError> {
        let env: Env = self.env().into_iter().collect();
        self.trees().prepare(wanted, &env, Duration::from_secs(60)).await
    }

    /// What must not change when something is refused.
    fn snapshot(&self) -> (String, String, String) {
        let refs = self.git(&["for-each-ref"]);
        (refs, self.git(&["status", "--porcelain=v2", "--branch"]), self.git(&["worktree", "list", "--porcelain"]))
    }
}

pub(crate) fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_branch_that_is_checked_out_is_used_where_it_is() {
    let f = Fixture::new();
    for branch in [None, Some("main")] {
        let mut wanted = f.wanted(branch);
        wanted.cwd = f.app().join("sub");
        let tree = f.prepare(&wanted).await.unwrap();
        let expected = Tree { cwd: wanted.cwd.clone(), top: f.app(), branch: branch.map(str::to_owned), ours: false };
        assert_eq!(tree, expected);
    }
    assert!(!f.trees_root().exists());
}

#[tokio::test]
async fn a_missing_branch_gets_a_tree_of_ours_from_the_pinned_base_at_the_same_subfolder() {
    let f = Fixture::new();
    let base = f.git(&["rev-parse", "HEAD"]);
    std::fs::write(f.app().join("file"), "two\n").unwrap();
    f.git(&["commit", "-q", "-a", "-m", "two"]);
    let mut wanted = f.wanted(Some("fix/x"));
    wanted.cwd = f.app().join("sub");
    wanted.base_sha = Some(base.clone());

    let located = f.trees().locate(&wanted).await.unwrap();
    assert!(!f.trees_root().exists(), "looking makes nothing");
    let tree = f.prepare(&wanted).await.unwrap();
    assert_eq!(tree, located);
    assert_eq!(tree.cwd, f.trees_root().join("app/fix/x/sub"));
    assert_eq!(f.git_in(&tree.cwd, &["rev-parse", "HEAD"]), base);
    assert_eq!(f.git_in(&tree.cwd, &["symbolic-ref", "HEAD"]), "refs/heads/fix/x");

    // Once more is the same tree, with what an attempt left in it.
    std::fs::write(tree.cwd.join("left"), "x").unwrap();
    assert_eq!(f.prepare(&wanted).await.unwrap(), tree);
    assert!(tree.cwd.join("left").exists());
    assert_eq!(f.git(&["symbolic-ref", "HEAD"]), "refs/heads/main", "the user's checkout stays");
}

#[tokio::test]
async fn an_isolated_task_has_a_tree_and_a_branch_of_its_own() {
    let f = Fixture::new();
    let mut wanted = f.wanted(Some("main"));
    wanted.rule = TreeRule::Isolate;
    let tree = f.prepare(&wanted).await.unwrap();
    assert_eq!(tree.cwd, f.trees_root().join("app/orchwrap/task-7"));
    assert_eq!(tree.branch.as_deref(), Some("orchwrap/task-7"));
    assert_eq!(f.prepare(&wanted).await.unwrap(), tree);
}

#[tokio::test]
async fn two_repositories_of_one_name_have_folders_of_their_own() {
    let (f, g) = (Fixture::new(), Fixture::new());
    let first = f.prepare(&f.wanted(Some("x"))).await.unwrap();
    let trees = Trees::new(g.our_git(), f.trees_root());
    let second = trees.prepare(&g.wanted(Some("x")), &Env::new(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(first.top, f.trees_root().join("app/x"));
    assert!(second.top.starts_with(f.trees_root()) && second.top != first.top, "{}", second.top.display());
    assert_eq!(trees.prepare(&g.wanted(Some("x")), &Env::new(), Duration::from_secs(60)).await.unwrap(), second);
}

#[tokio::test]
async fn f58_each_odd_place_is_typed_and_nothing_changes() {
    let f = Fixture::new();
    // Checked out elsewhere by the user.
    let elsewhere = f.dir.path().canonicalize().unwrap().join("elsewhere");
    f.git(&["worktree", "add", "-q", "-b", "theirs", elsewhere.to_str().unwrap()]);
    let before = f.snapshot();
    for rule in [TreeRule::Auto, TreeRule::InPlace] {
        let wanted = Wanted { rule, ..f.wanted(Some("theirs")) };
        let e = f.prepare(&wanted).await.unwrap_err();
        assert!(matches!(&e, TreeError::BranchElsewhere { path, .. } if *path == elsewhere), "{e}");
        assert_eq!(e.reason(), "branch_elsewhere");
    }
    assert_eq!(f.snapshot(), before);

    // Detached: a branch still gets a tree of ours; no branch is used as it is.
    f.git(&["switch", "-q", "--detach"]);
    assert_eq!(f.prepare(&f.wanted(None)).await.unwrap().branch, None);
    assert!(f.prepare(&f.wanted(Some("detached-ok"))).await.unwrap().ours);
    f.git(&["switch", "-q", "main"]);

    // In the middle of a rebase of the wanted branch.
    f.git(&["switch", "-q", "-c", "topic"]);
    std::fs::write(f.app().join("file"), "topic\n").unwrap();
    f.git(&["commit", "-q", "-a", "-m", "topic"]);
    f.git(&["switch", "-q", "main"]);
    std::fs::write(f.app().join("file"), "main\n").unwrap();
    f.git(&["commit", "-q", "-a", "-m", "main"]);
    f.git(&["switch", "-q", "topic"]);
    let rebase =
        Command::new("git").args(["rebase", "-q", "main"]).current_dir(f.app()).envs(f.env()).output().unwrap();
    assert!(!rebase.status.success());
    let before = f.snapshot();
    let e = f.prepare(&f.wanted(Some("topic"))).await.unwrap_err();
    assert!(matches!(e, TreeError::Busy { what: "rebase", .. }), "{e}");
    let e = f.prepare(&Wanted { rule: TreeRule::InPlace, ..f.wanted(Some("main")) }).await.unwrap_err();
    assert_eq!(e.reason(), "tree_busy");
    assert_eq!(f.snapshot(), before);

    // Unborn, bare, and no repository at all.
    let dir = f.dir.path().canonicalize().unwrap();
    f.git_in(&dir, &["init", "-q", "-b", "main", "unborn"]);
    let at = |name: &str, branch| Wanted { cwd: dir.join(name), ..f.wanted(branch) };
    assert_eq!(f.prepare(&at("unborn", Some("x"))).await.unwrap_err().reason(), "unborn_branch");
    assert_eq!(f.prepare(&at("unborn", Some("main"))).await.unwrap().branch.as_deref(), Some("main"));
    f.git_in(&dir, &["init", "-q", "--bare", "bare.git"]);
    assert_eq!(f.prepare(&at("bare.git", Some("x"))).await.unwrap_err().reason(), "bare_repository");
    assert_eq!(f.prepare(&at("home", Some("x"))).await.unwrap_err().reason(), "not_a_repository");
    assert_eq!(f.prepare(&at("home", None)).await.unwrap().cwd, dir.join("home"));
    assert_eq!(f.prepare(&at("gone", None)).await.unwrap_err().reason(), "cwd_missing");
}

#[tokio::test]
async fn f57_a_dirty_checkout_is_never_switched_and_never_changed() {
    let f = Fixture::new();
    f.git(&["branch", "other"]);
    std::fs::write(f.app().join("file"), "mine\n").unwrap();
    std::fs::write(f.app().join("untracked"), "mine\n").unwrap();
    let before = f.snapshot();
    let in_place = Wanted { rule: TreeRule::InPlace, ..f.wanted(Some("other")) };
    assert_eq!(f.prepare(&in_place).await.unwrap_err().reason(), "tree_dirty");
    assert_eq!(f.snapshot(), before);
    // A tree of its own does not care, and does not carry the changes over.
    let tree = f.prepare(&f.wanted(Some("other"))).await.unwrap();
    assert_eq!(std::fs::read_to_string(tree.top.join("file")).unwrap(), "one\n");
    assert_eq!(std::fs::read_to_string(f.app().join("file")).unwrap(), "mine\n");
    assert_eq!(f.git(&["stash", "list"]), "");
}

#[tokio::test]
async fn a_clean_checkout_is_switched_when_asked_for() {
    let f = Fixture::new();
    std::fs::write(f.app().join("untracked"), "mine\n").unwrap();
    let tree = f.prepare(&Wanted { rule: TreeRule::InPlace, ..f.wanted(Some("new")) }).await.unwrap();
    assert_eq!((tree.cwd, tree.ours), (f.app(), false));
    assert_eq!(f.git(&["symbolic-ref", "HEAD"]), "refs/heads/new");
    assert!(f.app().join("untracked").exists());
}

#[tokio::test]
async fn f03_a_tree_whose_making_was_cut_anywhere_is_made_again() {
    let f = Fixture::new();
    let wanted = f.wanted(Some("fix/x"));
    let path = f.trees_root().join("app/fix/x");
    let mark = f.trees_root().join("app/.made/fix~x");

    // Died before git came to anything, and with the folder begun.
    std::fs::create_dir_all(mark.parent().unwrap()).unwrap();
    std::fs::write(f.trees_root().join("app/.repo"), f.app().join(".git").to_str().unwrap()).unwrap();
    std::fs::write(&mark, "adding\n").unwrap();
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("half"), "x").unwrap();
    let tree = f.prepare(&wanted).await.unwrap();
    assert!(!path.join("half").exists() && path.join("file").exists());

    // Died inside git: listed, locked, incomplete.
    f.git(&["worktree", "lock", "--reason", "initializing", path.to_str().unwrap()]);
    std::fs::remove_file(path.join("file")).unwrap();
    std::fs::write(&mark, "adding\n").unwrap();
    assert_eq!(f.prepare(&wanted).await.unwrap(), tree);
    assert!(path.join("file").exists());

    // The folder was lost: nothing was in it, so it is made again.
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!(f.prepare(&wanted).await.unwrap(), tree);
    assert!(path.join("file").exists());

    // Ready: what is in it stays.
    std::fs::remove_file(path.join("file")).unwrap();
    assert_eq!(f.prepare(&wanted).await.unwrap(), tree);
    assert!(!path.join("file").exists());
}

#[tokio::test]
async fn what_is_not_ours_is_never_replaced() {
    let f = Fixture::new();
    let path = f.trees_root().join("app/x");
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("precious"), "x").unwrap();
    assert_eq!(f.prepare(&f.wanted(Some("x"))).await.unwrap_err().reason(), "worktree_taken");
    assert!(path.join("precious").exists());
    assert_eq!(f.git(&["branch", "--list", "x"]), "");

    // An agent switched our tree to another branch: the user decides.
    let tree = f.prepare(&f.wanted(Some("y"))).await.unwrap();
    f.git_in(&tree.top, &["switch", "-q", "-c", "z"]);
    let e = f.prepare(&f.wanted(Some("y"))).await.unwrap_err();
    assert!(e.to_string().contains("holds z now"), "{e}");
}

#[tokio::test]
async fn copy_link_and_setup_make_the_tree_ready_once() {
    let f = Fixture::new();
    std::fs::write(f.app().join(".env"), "SECRET=1").unwrap();
    std::fs::create_dir(f.app().join("node_modules")).unwrap();
    let rules =
        "[worktree]\ncopy = [\".env\", \"none\"]\nlink = [\"node_modules\"]\nsetup = \"echo run >> setup.log\"\n";
    std::fs::write(f.app().join(".orchwrap.toml"), rules).unwrap();
    let tree = f.prepare(&f.wanted(Some("x"))).await.unwrap();
    f.prepare(&f.wanted(Some("x"))).await.unwrap();
    assert_eq!(std::fs::read_to_string(tree.top.join(".env")).unwrap(), "SECRET=1");
    assert_eq!(std::fs::read_link(tree.top.join("node_modules")).unwrap(), f.app().join("node_modules"));
    assert_eq!(std::fs::read_to_string(tree.top.join("setup.log")).unwrap(), "run\n");

    // A set-up that fails is told, and tried again.
    std::fs::write(f.app().join(".orchwrap.toml"), "[worktree]\nsetup = \"echo why; test -e ok\"\n").unwrap();
    let e = f.prepare(&f.wanted(Some("y"))).await.unwrap_err();
    assert!(matches!(&e, TreeError::Setup { output, .. } if output == "why\n"), "{e}");
    std::fs::write(f.trees_root().join("app/y/ok"), "").unwrap();
    assert!(f.prepare(&f.wanted(Some("y"))).await.is_ok());
}

#[tokio::test]
async fn t15_nothing_that_a_repository_configures_is_run_by_us() {
    let f = Fixture::new();
    let evil = f.dir.path().join("evil");
    let bait = f.dir.path().join("bait");
    script(&evil, &format!("echo \"$0 $*\" >> {}; cat", bait.display()));
    let evil = evil.to_str().unwrap();
    // A tracked file under a filter, then every setting by which a repository can name a program.
    std::fs::write(f.app().join(".gitattributes"), "file filter=bad diff=bad\n").unwrap();
    f.git(&["add", "."]);
    f.git(&["commit", "-q", "-m", "attributes"]);
    f.git(&["branch", "other"]);
    for hook in ["post-checkout", "post-index-change", "reference-transaction", "pre-commit"] {
        script(&f.app().join(".git/hooks").join(hook), &format!("echo hook >> {}", bait.display()));
    }
    for key in [
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "core.sshCommand",
        "core.askPass",
        "filter.bad.smudge",
        "filter.bad.clean",
        "filter.bad.process",
        "diff.bad.textconv",
        "diff.external",
        "credential.helper",
        "alias.worktree",
        "alias.status",
        "gpg.program",
    ] {
        f.git(&["config", key, evil]);
    }
    f.git(&["config", "filter.bad.required", "true"]);
    f.git(&["config", "alias.switch", &format!("!{evil}")]);
    std::fs::write(f.app().join("file"), "changed\n").unwrap();

    let git = f.our_git();
    assert!(git.is_dirty(&f.app()).await.unwrap());
    std::fs::write(f.app().join("file"), "one\n").unwrap();
    assert!(f.prepare(&f.wanted(Some("x"))).await.unwrap().ours);
    f.prepare(&Wanted { rule: TreeRule::InPlace, ..f.wanted(Some("other")) }).await.unwrap();
    assert!(matches!(git.place(&f.app()).await.unwrap(), Place::Tree(_)));
    let seen = std::fs::read_to_string(&bait).unwrap_or_default();
    assert_eq!(seen, "");
}

#[tokio::test]
async fn t14_no_name_becomes_an_option() {
    let f = Fixture::new();
    for bad in ["--detach", "-b", "--upload-pack=touch x", "a b", "../x", "HEAD"] {
        assert!(bad.parse::<Branch>().is_err(), "{bad}");
    }
    let git = f.our_git();
    for odd in ["--help", "-x", "HEAD^{/x", "a..b", "HEAD:file"] {
        assert_eq!(git.sha(&f.app(), odd).await.unwrap(), None, "{odd}");
    }
    // A tag of the same name as the branch does not win.
    f.git(&["tag", "same", "HEAD"]);
    std::fs::write(f.app().join("file"), "two\n").unwrap();
    f.git(&["commit", "-q", "-a", "-m", "two"]);
    f.git(&["branch", "same"]);
    let tree = f.prepare(&f.wanted(Some("same"))).await.unwrap();
    let head = git.head(&tree.top).await.unwrap();
    assert_eq!(head, Head::Branch { name: "same".into(), sha: f.git(&["rev-parse", "HEAD"]) });
}

#[tokio::test]
async fn t13_a_folder_with_a_command_in_its_name_is_only_a_folder() {
    let f = Fixture::new();
    let odd = f.app().join("$(touch pwned) `touch pwned`;touch pwned");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join("file"), "x").unwrap();
    f.git(&["add", "."]);
    f.git(&["commit", "-q", "-m", "odd"]);
    std::fs::write(f.app().join(".orchwrap.toml"), "[worktree]\nsetup = \"true\"\n").unwrap();
    let tree = f.prepare(&Wanted { cwd: odd.clone(), ..f.wanted(Some("x")) }).await.unwrap();
    assert_eq!(tree.cwd.file_name(), odd.file_name());
    let pwned = [f.app(), tree.top, tree.cwd, odd].iter().any(|d| d.join("pwned").exists());
    assert!(!pwned);
}

#[tokio::test]
async fn f59_a_lock_of_somebody_else_is_waited_for_and_never_removed() {
    let f = Fixture::new();
    f.git(&["branch", "other"]);
    let lock = f.app().join(".git/index.lock");
    std::fs::write(&lock, "").unwrap();
    let wanted = Wanted { rule: TreeRule::InPlace, ..f.wanted(Some("other")) };
    let work = f.prepare(&wanted);
    let release = async {
        // Polling works meanwhile, and takes no lock.
        assert!(!f.our_git().is_dirty(&f.app()).await.unwrap());
        assert!(lock.exists());
        std::fs::remove_file(&lock).unwrap();
    };
    let (tree, ()) = tokio::join!(work, release);
    assert_eq!(tree.unwrap().branch.as_deref(), Some("other"));
}

#[tokio::test]
async fn f60_a_git_that_hangs_is_ended_and_what_it_began_is_undone() {
    let f = Fixture::new();
    // A git that hangs in `worktree add` after making the folder, and is the real one otherwise.
    let bin = f.dir.path().join("bin");
    let real = String::from_utf8(Command::new("sh").args(["-c", "command -v git"]).output().unwrap().stdout).unwrap();
    let real = real.trim();
    let text =
        format!("case \" $* \" in *' worktree add '*) {real} \"$@\"; exec sleep 1000;; esac\nexec {real} \"$@\"");
    script(&bin.join("git"), &text);
    let mut env = f.env();
    env[0].1 = format!("{}:{}", bin.display(), env[0].1.to_str().unwrap()).into();
    let git = Git::with_env(env).with_limit(Duration::from_secs(3));
    let before = f.snapshot();
    let trees = Trees::new(git, f.trees_root());
    let e = trees.prepare(&f.wanted(Some("x")), &Env::new(), Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(e, TreeError::Git(GitError::TimedOut { .. })), "{e}");
    assert_eq!(f.snapshot(), before);
    assert!(!f.trees_root().join("app/x").exists());
    // And it works once git does.
    assert!(f.prepare(&f.wanted(Some("x"))).await.is_ok());
}
