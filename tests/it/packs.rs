//! Packs as people meet them: the schema, `orchwrap patterns`, and sessions that no recording shows.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use orchwrap::extract::event::{FailReason, LimitKind};
use orchwrap::extract::pattern::{
    Answers, AskRule, Bracketed, ComposerRule, Condition, FailureRule, LaunchRule, Mode, Oneshot, Pack, Paste, Rule,
    Says, TranscriptRule,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::support::Home;

fn repo(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn schema() -> Value {
    serde_json::from_str(&std::fs::read_to_string(repo("docs/pack.schema.json")).unwrap()).unwrap()
}

/// The names between backticks in what the parser says to a text that cannot be right, the wrong one left out.
fn known<T: DeserializeOwned>(text: &str) -> BTreeSet<String> {
    let said = toml::from_str::<T>(text).err().expect("nothing is called so").to_string();
    let line = said.lines().last().unwrap().to_owned();
    assert!(line.contains("expected"), "{said}");
    line.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
}

#[derive(serde::Deserialize)]
struct Word<T> {
    #[expect(dead_code, reason = "only its type is asked for")]
    word: T,
}

#[test]
fn the_schema_has_every_key_and_every_word_of_the_format() {
    let schema = schema();
    let keys = |v: &Value| v["properties"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let of = |name: &str| keys(&schema["$defs"][name]);
    let bogus = "no_such_key = 1";
    assert_eq!(keys(&schema), known::<Pack>(bogus));
    assert_eq!(of("launch"), known::<LaunchRule>(bogus));
    assert_eq!(of("paste"), known::<Paste>(bogus));
    assert_eq!(of("answers"), known::<Answers>(bogus));
    assert_eq!(of("oneshot"), known::<Oneshot>(bogus));
    assert_eq!(of("composer"), known::<ComposerRule>(bogus));
    assert_eq!(of("transcript"), known::<TranscriptRule>(bogus));
    assert_eq!(of("rule"), known::<Rule>(bogus));
    assert_eq!(of("condition"), known::<Condition>(bogus));
    assert_eq!(of("ask"), known::<AskRule>(bogus));
    assert_eq!(of("failure"), known::<FailureRule>(bogus));

    let words = |v: &Value| v["enum"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect();
    let property = |def: &str, key: &str| words(&schema["$defs"][def]["properties"][key]);
    let bogus = "word = 'no such word'";
    let spoken: [(BTreeSet<String>, BTreeSet<String>); 5] = [
        (words(&schema["properties"]["mode"]), known::<Word<Mode>>(bogus)),
        (property("rule", "says"), known::<Word<Says>>(bogus)),
        (property("paste", "bracketed"), known::<Word<Bracketed>>(bogus)),
        (property("failure", "reason"), known::<Word<FailReason>>(bogus)),
        (property("failure", "limit"), known::<Word<LimitKind>>(bogus)),
    ];
    for (said, known) in spoken {
        assert_eq!(said, known);
    }
}

#[test]
fn built_in_packs_are_as_the_schema_says() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for entry in std::fs::read_dir(repo("patterns")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let pack: Value = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            if let Some(e) = validator.iter_errors(&pack).next() {
                panic!("{}: {e} at {}", path.display(), e.instance_path());
            }
        }
    }
    assert!(!validator.is_valid(&serde_json::json!({"id": "x", "mode": "tui"})));
    assert!(validator.is_valid(&serde_json::json!({"extends": "claude", "idle_ms": 5})));
}

fn patterns(home: &Home, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = home.orchwrap(["patterns"].iter().chain(args)).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn with_pack(home: &Home, name: &str, text: &str) -> std::path::PathBuf {
    let dir = home.join("config/orchwrap/patterns");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn patterns_ls_says_where_each_pack_comes_from() {
    let home = Home::new();
    let file = with_pack(&home, "mine.toml", "extends = \"claude\"\nidle_ms = 2000\n");
    let (code, out, _) = patterns(&home, &["ls", "--json"]);
    assert_eq!(code, Some(0));
    let listed: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |id: &str| listed.iter().find(|l| l["id"] == id).unwrap_or_else(|| panic!("{id}: {out}"));
    assert_eq!(of("claude")["from"], file.to_str().unwrap());
    assert_eq!(of("codex")["from"], "built-in");
    assert_eq!(of("gemini")["tested_versions"], serde_json::json!(["0.61.0"]));
    assert!(of("claude")["adapters"].as_array().unwrap().iter().any(|a| a == "status-7501/1"));
    let (_, out, _) = patterns(&home, &["ls"]);
    assert!(out.starts_with("ID ") && out.contains("0.61.0"), "{out}");
}

#[test]
fn patterns_check_points_at_line_and_column_and_names_the_nearest_key() {
    let home = Home::new();
    let (code, _, err) = patterns(&home, &["check"]);
    assert!(code == Some(0) && err.contains("built-in"), "{err}");
    let good = with_pack(&home, "claude.toml", "extends = \"claude\"\nidle_ms = 2000\n");
    assert_eq!(patterns(&home, &["check", good.to_str().unwrap()]).0, Some(0));
    let bad = with_pack(&home, "bad.toml", "extends = \"codex\"\n[transcript]\nmesage = '^x'\n");
    let (code, out, _) = patterns(&home, &["check", bad.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert_eq!(out.trim(), format!("{}:3:1: unknown key `mesage`, the nearest is `message`", bad.display()));
    let (code, out, _) = patterns(&home, &["check"]);
    assert!(code == Some(1) && out.contains("bad.toml:3:1") && out.contains("can be used"), "{out}");
    assert_eq!(patterns(&home, &["check", "/no/such/file"]).0, Some(1));
}

#[test]
fn patterns_test_scores_a_pack_and_says_what_it_missed() {
    let home = Home::new();
    let recordings = repo("tests/recordings/opencode");
    let recordings = recordings.to_str().unwrap();
    let (code, out, err) = patterns(&home, &["test", "opencode", recordings]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("turn.completed") && out.contains("1.00"), "{out}");
    assert_eq!(patterns(&home, &["test", "opencode", "--screen-only", recordings]).0, Some(0));
    // Without the rule of its menu a permission is missed.
    let text = "id = \"blind\"\nextends = \"opencode\"\n[[rule]]\nid = \"opencode.permission\"\noff = true\n";
    let blind = home.path().join("blind.toml");
    std::fs::write(&blind, text).unwrap();
    let (code, out, err) = patterns(&home, &["test", blind.to_str().unwrap(), recordings]);
    assert!(code == Some(1) && out.contains("missed permission.asked"), "{out}{err}");
    assert_eq!(patterns(&home, &["test", "opencode", home.path().to_str().unwrap()]).0, Some(2));
}
