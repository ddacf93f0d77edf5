//! Codex: hooks by `-c`, each with the hash that makes it trusted for this launch only.
//!
//! `--dangerously-bypass-hook-trust` would also run hooks that a repository brings along unreviewed, so it is never
//! used: `-c hooks.state` trusts exactly our commands. An untrusted hook would stop the start with a review dialog.
//! The user's `notify` stays what it is: the rollout tells more, and of failures too.

use sha2::{Digest, Sha256};

use super::{FollowRule, Plan, PlanError, Site, Version, hook_command};

/// Hooks: name in the configuration, and in the key of their trust.
const HOOKS: &[(&str, &str)] = &[
    ("SessionStart", "session_start"),
    ("UserPromptSubmit", "user_prompt_submit"),
    ("PermissionRequest", "permission_request"),
    ("Stop", "stop"),
];

/// First version whose trust works by this hash.
const TRUST_SINCE: Version = (0, 150, 0);

/// First version known to have `--no-daemon`.
const DAEMON_SINCE: Version = (0, 169, 0);

/// Patience of the agent with one hook, in seconds; it allows no more than three for some.
const HOOK_TIMEOUT: u32 = 3;

/// Commands that are sessions of the TUI; every other command is none.
const SESSIONS: &[&str] = &["resume", "fork"];

/// First words that are commands and no prompt.
const COMMANDS: &[&str] = &[
    "agents",
    "app-server",
    "apply",
    "a",
    "archive",
    "cloud",
    "completion",
    "debug",
    "delete",
    "doctor",
    "e",
    "exec",
    "exec-server",
    "features",
    "fork",
    "help",
    "login",
    "logout",
    "mcp",
    "mcp-server",
    "migrate-nfs-db",
    "migrate-rollouts",
    "plugin",
    "proto",
    "queue",
    "remote-control",
    "resume",
    "review",
    "sandbox",
    "unarchive",
    "update",
];

/// Options whose value is the next word.
const VALUED: &[&str] = &[
    "-c",
    "--config",
    "--enable",
    "--disable",
    "--remote-auth-token-env",
    "-i",
    "--image",
    "-m",
    "--model",
    "--local-provider",
    "-p",
    "--profile",
    "-s",
    "--sandbox",
    "-C",
    "--cd",
    "--add-dir",
    "-a",
    "--ask-for-approval",
];

pub(super) fn plan(site: &Site<'_>, plan: &mut Plan) -> Result<(), PlanError> {
    let given = &site.argv[1..];
    let command = first_word(given).filter(|word| COMMANDS.contains(word));
    let no_session = command.is_some_and(|c| !SESSIONS.contains(&c))
        || given
            .iter()
            .take_while(|a| *a != "--")
            .any(|a| ["-h", "--help", "-V", "--version"].contains(&a.as_str()) || a.starts_with("--remote"));
    if no_session {
        return Ok(());
    }
    if let Some(id) = site.resume.filter(|_| command.is_none()) {
        // `resume` comes before a prompt and after options; the one-shot has its own, after `exec`.
        let at = plan.argv.iter().position(|a| a == "exec").map_or(1, |exec| exec + 1);
        plan.argv.splice(at..at, ["resume".to_owned(), id.to_owned()]);
    }
    if site.oneshot {
        return Ok(());
    }
    let mut added = Vec::new();
    // The shared server has another folder and another environment than the seat that a task was prepared in.
    if site.takes_tasks && site.version >= Some(DAEMON_SINCE) && !given.iter().any(|a| a == "--no-daemon") {
        added.push("--no-daemon".to_owned());
    }
    if site.reports {
        match hooks(site, given)? {
            Ok(args) => {
                added.extend(args);
                plan.follow = Some(FollowRule { adapter: "codex-rollout/1".to_owned() });
                plan.reports = true;
            }
            Err(why) => plan.notes.push(why),
        }
    }
    plan.argv.splice(1..1, added);
    Ok(())
}

/// The first word that is no option.
fn first_word(args: &[String]) -> Option<&str> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            return None;
        }
        if VALUED.contains(&arg.as_str()) {
            args.next();
        } else if !arg.starts_with('-') {
            return Some(arg);
        }
    }
    None
}

/// The arguments that register our hooks; `Err` says why there are none.
fn hooks(site: &Site<'_>, given: &[String]) -> Result<Result<Vec<String>, String>, PlanError> {
    if site.version < Some(TRUST_SINCE) {
        let why = "no hooks: the agent's version is unknown or before 0.150, and would stop its start to review them";
        return Ok(Err(why.to_owned()));
    }
    // Two lists of the same hook do not add up, and ours would not be the first.
    if given.iter().any(|a| ["hooks.", "-chooks.", "--config=hooks."].iter().any(|p| a.starts_with(p))) {
        return Ok(Err("no hooks: the command line sets hooks of its own".to_owned()));
    }
    let command = hook_command(site, "codex-hooks/1")?;
    let mut args = Vec::new();
    let mut trust = Vec::new();
    for (name, key) in HOOKS {
        let toml = toml::Value::from(command.as_str());
        args.push("-c".to_owned());
        args.push(format!("hooks.{name}=[{{hooks=[{{type=\"command\",command={toml},timeout={HOOK_TIMEOUT}}}]}}]"));
        trust.push(format!(
            "\"/<session-flags>/config.toml:{key}:0:0\"={{trusted_hash=\"{}\"}}",
            trusted_hash(key, &command)
        ));
    }
    args.push("-c".to_owned());
    args.push(format!("hooks.state={{{}}}", trust.join(",")));
    Ok(Ok(args))
}

/// The hash of a hook's identity: sha256 over its JSON, keys sorted, no spaces.
fn trusted_hash(event: &str, command: &str) -> String {
    let command = serde_json::Value::from(command);
    let identity = format!(
        "{{\"event_name\":\"{event}\",\"hooks\":[{{\"async\":false,\"command\":{command},\"timeout\":{HOOK_TIMEOUT},\"type\":\"command\"}}]}}"
    );
    let digest = Sha256::digest(identity.as_bytes());
    digest.iter().fold("sha256:".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::extract::pattern::Packs;

    fn planned(args: &[&str], change: impl FnOnce(&mut Site<'_>)) -> Plan {
        let argv: Vec<String> = std::iter::once("codex").chain(args.iter().copied()).map(str::to_owned).collect();
        let mut site = Site {
            argv: &argv,
            cwd: Path::new("/w"),
            run_dir: Path::new("/state/runs/abcdefgh1234"),
            exe: Path::new("/usr/bin/orchwrap"),
            version: Some((0, 169, 0)),
            reports: true,
            takes_tasks: false,
            oneshot: false,
            resume: None,
            read: &|_| Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        change(&mut site);
        super::super::plan(Packs::builtin().get("codex").unwrap(), &site).unwrap()
    }

    #[test]
    fn our_hooks_are_trusted_and_nothing_else_is() {
        let plan = planned(&["--no-alt-screen", "fix it"], |_| ());
        assert!(plan.argv.contains(
            &"hooks.Stop=[{hooks=[{type=\"command\",command=\"/usr/bin/orchwrap __hook codex-hooks/1 /state/runs/abcdefgh1234\",timeout=3}]}]".to_owned()
        ), "{:#?}", plan.argv);
        assert!(plan.argv.iter().any(|a| {
            a.starts_with("hooks.state={\"/<session-flags>/config.toml:session_start:0:0\"={trusted_hash=\"sha256:")
        }));
        assert!(!plan.argv.iter().any(|a| a.contains("bypass")));
        assert!(plan.argv.ends_with(&["--no-alt-screen".to_owned(), "fix it".to_owned()]));
    }

    #[test]
    fn the_hash_is_the_agents_own() {
        // Told by `hooks/list` of 0.169.0 for this hook.
        assert_eq!(
            trusted_hash("stop", "/bin/true \"x\" é"),
            "sha256:bde2f848462fc3d9f9133c5c8d34db6bfef6b21a36f135f04efff5eee54f383f"
        );
    }

    #[test]
    fn what_is_no_session_is_run_as_given() {
        for args in
            [&["exec", "hi"][..], &["login"], &["-m", "x", "mcp", "list"], &["--version"], &["--remote", "unix://"]]
        {
            assert_eq!(planned(args, |_| ()).argv[1..], args.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        }
        assert!(planned(&["resume", "--last"], |_| ()).reports);
    }

    #[test]
    fn an_unknown_version_is_not_hooked() {
        for version in [None, Some((0, 120, 0))] {
            let plan = planned(&[], |s| s.version = version);
            assert_eq!((plan.argv.len(), plan.notes.len(), plan.reports), (1, 1, false));
        }
        assert!(!planned(&["-c", "hooks.Stop=[]"], |_| ()).reports);
    }

    #[test]
    fn a_seat_for_tasks_runs_without_the_shared_server() {
        let plan = planned(&[], |s| s.takes_tasks = true);
        assert_eq!(plan.argv[1], "--no-daemon");
        let oneshot = planned(&["-m", "x"], |s| s.oneshot = true);
        assert_eq!(oneshot.argv[1..], ["-m", "x", "exec", "--json", "-"]);
        let resumed = planned(&["-m", "x"], |s| (s.oneshot, s.resume) = (true, Some("t")));
        assert_eq!(resumed.argv[1..], ["-m", "x", "exec", "resume", "t", "--json", "-"]);
    }
}
