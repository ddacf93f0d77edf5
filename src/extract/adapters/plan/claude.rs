//! Claude Code: hooks by `--settings`, the conversation's id by `--session-id`.
//!
//! Of several `--settings` only the last counts, so the user's own is merged into ours. A hook of an unknown name makes
//! the agent stop at its start with a settings error, so only names are used that the version is known to have.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{FollowRule, Plan, PlanError, Site, Version, hook_command, text};

/// Our settings, in the run's folder.
const SETTINGS: &str = "claude-settings.json";

/// Hooks and the first version that has them.
const HOOKS: &[(&str, Version)] = &[
    ("SessionStart", (1, 0, 62)),
    ("UserPromptSubmit", (1, 0, 54)),
    ("PermissionRequest", (2, 0, 45)),
    ("Stop", (1, 0, 38)),
    ("StopFailure", (2, 1, 78)),
];

/// Patience of the agent with one hook, in seconds. Ours gives up after one.
const HOOK_TIMEOUT: u32 = 5;

/// Where these appear there is no session of ours to report about, or hooks are off.
const NO_SESSION: &[&str] = &[
    "-p",
    "--print",
    "-v",
    "--version",
    "-h",
    "--help",
    "--bare",
    "--safe-mode",
    "--bg",
    "--background",
    "--cloud",
    "--teleport",
    "--desktop",
];

/// The conversation is chosen by these.
const CHOOSES: &[&str] =
    &["--session-id", "-r", "--resume", "-c", "--continue", "--from-pr", "--fork-session", "--teleport"];

/// First words that are commands and no prompt.
const COMMANDS: &[&str] = &[
    "agents",
    "attach",
    "auth",
    "auto-mode",
    "config",
    "doctor",
    "gateway",
    "help",
    "import",
    "install",
    "kill",
    "logs",
    "mcp",
    "migrate-installer",
    "plugin",
    "plugins",
    "purge",
    "respawn",
    "rm",
    "setup-token",
    "stop",
    "ultrareview",
    "update",
    "upgrade",
];

/// Options whose value is the next word: it is no command.
const VALUED: &[&str] = &[
    "--agent",
    "--agents",
    "--append-system-prompt",
    "--autocompact",
    "--debug-file",
    "--effort",
    "--environment",
    "--fallback-model",
    "--input-format",
    "--json-schema",
    "--max-budget-usd",
    "--model",
    "-n",
    "--name",
    "--output-format",
    "--permission-mode",
    "--permission-prompts",
    "--plugin-dir",
    "--plugin-url",
    "--session-id",
    "--setting-sources",
    "--settings",
    "--system-prompt",
    "--system-prompt-snapshot",
    "--tools",
];

/// What the user's arguments say.
#[derive(Default)]
struct Given {
    no_session: bool,
    chooses: bool,
    settings: Option<String>,
    /// The arguments without `--settings`.
    rest: Vec<String>,
}

fn read_args(args: &[String]) -> Given {
    let mut given = Given::default();
    let mut args = args.iter();
    let mut first_word = true;
    while let Some(arg) = args.next() {
        let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
        if name == "--settings" {
            given.settings = match arg.split_once('=') {
                Some((_, value)) => Some(value.to_owned()),
                None => args.next().cloned(),
            };
            continue;
        }
        given.rest.push(arg.clone());
        if arg == "--" {
            given.rest.extend(args.cloned());
            break;
        }
        given.no_session |= NO_SESSION.contains(&name);
        given.chooses |= CHOOSES.contains(&name);
        // Short options may be written together (`-dp`).
        if let Some(letters) =
            arg.strip_prefix('-').filter(|l| l.len() > 1 && l.bytes().all(|b| b.is_ascii_lowercase()))
        {
            let flags = letters.split(['n', 'r', 'w']).next().unwrap_or_default(); // these take the rest as value
            given.no_session |= flags.contains(['p', 'v', 'h']);
            given.chooses |= flags.contains('c') || letters.starts_with('r');
        }
        if VALUED.contains(&arg.as_str()) {
            given.rest.extend(args.next().cloned());
        } else if !arg.starts_with('-') {
            given.no_session |= first_word && COMMANDS.contains(&arg.as_str());
            first_word = false;
        }
    }
    given
}

pub(super) fn plan(site: &Site<'_>, plan: &mut Plan) -> Result<(), PlanError> {
    let given = read_args(&plan.argv[1..]);
    let oneshot = site.oneshot && plan.reports;
    if given.no_session && !oneshot {
        return Ok(());
    }
    let mut added: Vec<String> = Vec::new();
    if !given.chooses {
        match site.resume {
            Some(id) => added.extend(["--resume".to_owned(), id.to_owned()]),
            None => {
                // From the run's id: the same for whoever plans this run again.
                let name = site.run_dir.file_name().unwrap_or_default().as_encoded_bytes();
                let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name).to_string();
                added.extend(["--session-id".to_owned(), id.clone()]);
                plan.conversation = Some(id);
            }
        }
    }
    // One-shot output is the report; hooks would tell the same twice.
    if site.reports && !given.no_session {
        match settings(site, given.settings.as_deref())? {
            Ok(content) => {
                plan.files.push((SETTINGS.into(), content));
                added.extend(["--settings".to_owned(), text(&site.run_dir.join(SETTINGS))?.to_owned()]);
                plan.argv.truncate(1);
                plan.argv.extend(given.rest);
                plan.follow = Some(FollowRule { adapter: "claude-transcript/1".to_owned() });
                plan.reports = true;
            }
            Err(why) => plan.notes.push(why),
        }
    }
    plan.argv.splice(1..1, added);
    Ok(())
}

/// The user's settings with our hooks added to them; `Err` says why they are left alone.
fn settings(site: &Site<'_>, given: Option<&str>) -> Result<Result<String, String>, PlanError> {
    let Some(version) = site.version else {
        return Ok(Err(
            "no hooks: the agent's version is not known, and a hook it does not know would stop its start".into()
        ));
    };
    let command = hook_command(site, "claude-hooks/1")?;
    let mut settings = match given.map(|given| user_settings(site, given)).transpose() {
        Ok(settings) => settings.unwrap_or_default(),
        Err(why) => return Ok(Err(format!("no hooks: --settings cannot be merged: {why}"))),
    };
    let hooks = settings.entry("hooks").or_insert_with(|| json!({}));
    let Some(hooks) = hooks.as_object_mut() else {
        return Ok(Err("no hooks: `hooks` in --settings is no object".into()));
    };
    for (name, _) in HOOKS.iter().filter(|(_, since)| version >= *since) {
        let entry = hooks.entry(*name).or_insert_with(|| json!([]));
        let Some(list) = entry.as_array_mut() else {
            return Ok(Err(format!("no hooks: `hooks.{name}` in --settings is no list")));
        };
        list.push(json!({ "hooks": [{ "type": "command", "command": command, "timeout": HOOK_TIMEOUT }] }));
    }
    Ok(Ok(serde_json::to_string_pretty(&settings).expect("a JSON value is written without fail")))
}

/// The value of `--settings`: inline JSON, or a file.
fn user_settings(site: &Site<'_>, given: &str) -> Result<Map<String, Value>, String> {
    let read;
    let json = if given.trim_start().starts_with('{') {
        given
    } else {
        let path = site.cwd.join(given);
        read = (site.read)(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        &read
    };
    serde_json::from_str(json).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::extract::pattern::Packs;

    const RUN: &str = "/state/runs/abcdefgh1234";

    fn planned(args: &[&str], change: impl FnOnce(&mut Site<'_>)) -> Plan {
        let argv: Vec<String> = std::iter::once("claude").chain(args.iter().copied()).map(str::to_owned).collect();
        let read = |p: &Path| match p.to_str() {
            Some("/w/mine.json") => Ok(r#"{"model":"opus","hooks":{"Stop":[{"hooks":[]}]}}"#.to_owned()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let mut site = Site {
            argv: &argv,
            cwd: Path::new("/w"),
            run_dir: Path::new(RUN),
            exe: Path::new("/opt/my tools/orchwrap"),
            version: Some((2, 1, 329)),
            reports: true,
            takes_tasks: false,
            oneshot: false,
            resume: None,
            read: &read,
        };
        change(&mut site);
        super::super::plan(Packs::builtin().get("claude").unwrap(), &site).unwrap()
    }

    fn hooks(plan: &Plan) -> Value {
        serde_json::from_str(&plan.files[0].1).unwrap()
    }

    #[test]
    fn hooks_come_in_a_file_of_the_run_and_no_secret_is_in_argv() {
        let plan = planned(&["--permission-mode", "manual", "fix it"], |_| ());
        let id = plan.conversation.clone().unwrap();
        let settings = format!("{RUN}/claude-settings.json");
        assert_eq!(
            plan.argv,
            ["claude", "--session-id", &id, "--settings", &settings, "--permission-mode", "manual", "fix it"]
        );
        let command = &hooks(&plan)["hooks"]["StopFailure"][0]["hooks"][0]["command"];
        assert_eq!(command, &format!("'/opt/my tools/orchwrap' __hook claude-hooks/1 {RUN}"));
        assert_eq!(hooks(&plan)["hooks"].as_object().unwrap().len(), HOOKS.len());
    }

    #[test]
    fn the_users_own_settings_are_merged_the_last_one_counts() {
        for args in [&["--settings", "{}", "--settings", "mine.json"][..], &["--settings=mine.json"]] {
            let plan = planned(args, |_| ());
            let settings = hooks(&plan);
            assert_eq!(settings["model"], "opus");
            assert_eq!(settings["hooks"]["Stop"].as_array().unwrap().len(), 2, "theirs and ours");
            assert_eq!(plan.argv.iter().filter(|a| a.starts_with("--settings")).count(), 1);
        }
    }

    #[test]
    fn settings_we_cannot_read_are_left_to_the_agent() {
        for given in ["missing.json", "{broken", "[]"] {
            let plan = planned(&["--settings", given], |_| ());
            assert!(plan.files.is_empty() && !plan.reports, "{given}");
            assert!(plan.argv.ends_with(&["--settings".to_owned(), given.to_owned()]), "{:?}", plan.argv);
            assert_eq!(plan.notes.len(), 1);
        }
    }

    #[test]
    fn what_is_no_session_is_run_as_given() {
        for args in [
            &["mcp", "list"][..],
            &["-p", "hello"],
            &["--print", "hello"],
            &["-dp", "hello"],
            &["--version"],
            &["--model", "opus", "mcp", "list"],
            &["update"],
            &["--help"],
        ] {
            let plan = planned(args, |_| ());
            assert_eq!(plan.argv[1..], args.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            assert!(plan.files.is_empty());
        }
    }

    #[test]
    fn words_that_only_look_like_commands_or_flags_are_a_prompt() {
        for args in [&["explain mcp"][..], &["fix", "mcp"], &["-n", "mcp"], &["--", "-p"], &["-npanel"]] {
            assert!(planned(args, |_| ()).reports, "{args:?}");
        }
    }

    #[test]
    fn a_chosen_conversation_stays_chosen() {
        for args in [&["-c"][..], &["--resume", "x"], &["--resume=x"], &["--session-id", "u"], &["--continue"]] {
            let plan = planned(args, |_| ());
            assert_eq!(plan.conversation, None, "{args:?}");
            assert!(plan.reports);
        }
        let resumed = planned(&[], |s| s.resume = Some("old"));
        assert_eq!(resumed.argv[1..3], ["--resume", "old"]);
    }

    #[test]
    fn only_hooks_the_version_has_are_registered() {
        let older = planned(&[], |s| s.version = Some((2, 1, 50)));
        assert!(hooks(&older)["hooks"].get("StopFailure").is_none());
        let unknown = planned(&[], |s| s.version = None);
        assert!(unknown.files.is_empty() && unknown.notes.len() == 1);
    }

    #[test]
    fn without_reports_and_in_a_oneshot_nothing_is_hooked() {
        let plain = planned(&["fix it"], |s| s.reports = false);
        assert!(plain.files.is_empty() && !plain.reports);
        let oneshot = planned(&["--permission-mode", "manual"], |s| s.oneshot = true);
        assert!(oneshot.files.is_empty() && oneshot.reports);
        assert_eq!(
            oneshot.argv[3..],
            ["--permission-mode", "manual", "-p", "--output-format", "stream-json", "--verbose"]
        );
    }
}
