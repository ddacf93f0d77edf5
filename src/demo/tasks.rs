//! The five tasks, what the scripted agents do for them, and what has to be recorded.

use super::agent::{Rule, Run, Script, Step};

/// A task of the demo.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    /// Its number, once added.
    pub(super) id: i64,
    /// What it shows.
    pub(super) shows: &'static str,
    pub(super) prompt: &'static str,
    /// A word that stands in every prompt of this task, retries included, and in no other.
    pub(super) mark: &'static str,
    /// Further options of `task add`.
    pub(super) options: &'static [&'static str],
    pub(super) expected: Expected,
}

/// What has to be recorded, besides that it is completed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expected {
    pub(super) words: &'static str,
    pub(super) proof: &'static str,
    pub(super) attempts: u64,
    /// Language and text of each code block.
    pub(super) blocks: &'static [(&'static str, &'static str)],
    pub(super) branch: &'static str,
    /// Something is asked, and granted.
    pub(super) asks: bool,
}

const PLAIN: Expected =
    Expected { words: "completed", proof: "report", attempts: 1, blocks: &[], branch: "main", asks: false };

const RUST: &str = "fn add(a: i64, b: i64) -> i64 {\n    a + b\n}";
const SHELL: &str = "cargo run -- 2 3\n# prints 5";

const GATE: &str = "test \"$(sh greet.sh)\" = 'hello, world'";

/// The tasks, in the order they are added.
pub(super) fn all() -> Vec<Planned> {
    vec![
        Planned {
            id: 0,
            shows: "code blocks",
            prompt: "Show me an addition function and how to call it.",
            mark: "addition",
            options: &["--shared"],
            expected: Expected { words: "completed, 2 blocks", blocks: &[("rust", RUST), ("sh", SHELL)], ..PLAIN },
        },
        Planned {
            id: 0,
            shows: "gate fails, retry passes",
            prompt: "Write greet.sh so that it prints a greeting to the world.",
            mark: "greet.sh",
            options: &["--shared", "--gate", GATE],
            expected: Expected { words: "completed, 2 attempts", proof: "gate", attempts: 2, ..PLAIN },
        },
        Planned {
            id: 0,
            shows: "another branch",
            prompt: "Write the manual page for this project.",
            mark: "manual page",
            options: &["--branch", "docs/manual", "--gate", "test -s manual.txt"],
            expected: Expected { words: "completed on docs/manual", proof: "gate", branch: "docs/manual", ..PLAIN },
        },
        Planned {
            id: 0,
            shows: "asks permission",
            prompt: "Clear the old artefacts.",
            mark: "artefacts",
            options: &["--shared"],
            expected: Expected { words: "completed, asked once", asks: true, ..PLAIN },
        },
        Planned {
            id: 0,
            shows: "only talks of errors",
            prompt: "Explain what our error messages mean.",
            mark: "error messages",
            options: &["--shared"],
            expected: Expected { words: "completed, not failed", ..PLAIN },
        },
    ]
}

/// What the agents do for them.
pub(super) fn script() -> Script {
    let say = |text: &str| Step::Say(text.to_owned());
    let tool = |run: &str, about: &str| Run { run: run.to_owned(), about: about.to_owned() };
    let rule = |mark: &str, steps: Vec<Step>| Rule { when: vec![mark.to_owned()], steps, ..Rule::default() };
    let blocks =
        format!("The function:\n\n```rust\n{RUST}\n```\n\nCall it like this:\n\n```sh\n{SHELL}\n```\n\nThat is all.");
    // The first try forgets the comma; the second sees the file that is there and does better.
    let greet = "if [ -e greet.sh ]; then echo \"echo 'hello, world'\"; else echo \"echo 'hello world'\"; fi > greet.new && mv greet.new greet.sh";
    let talk = "You asked about our messages:\n\n- `API Error: 500 Internal server error` means the server is down. It is not down now.\n- `You've hit your limit · resets 3am` means what it says; you have not.\n- `Do you want to proceed?` with `❯ 1. Yes` is a prompt. This is none.\n- `✻ Cooked for 3s · done` ends a turn; this line does not, nor does `esc to interrupt` begin one.\n\nThe tests failed: that is what a failing test prints. Nothing failed here. Done.";
    Script {
        rules: vec![
            rule("addition", vec![Step::Think(300), say(&blocks)]),
            rule(
                "greet.sh",
                vec![Step::Think(200), Step::Tool(tool(greet, "Write greet.sh")), say("`greet.sh` is written.")],
            ),
            rule(
                "manual page",
                vec![
                    Step::Think(200),
                    Step::Tool(tool(
                        "echo 'see greet.sh' > manual.txt && git add manual.txt && git commit -qm 'manual: first page'",
                        "Write the page",
                    )),
                    say("The page is written and committed."),
                ],
            ),
            rule(
                "artefacts",
                vec![
                    Step::Think(200),
                    Step::Ask(tool("rm -rf artefacts && echo cleared", "Clear the artefacts")),
                    say("They are gone."),
                ],
            ),
            rule("error messages", vec![Step::Think(300), say(talk)]),
        ],
        ..Script::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_meets_its_own_rule_and_no_other() {
        let script = script();
        for (i, task) in all().iter().enumerate() {
            assert_eq!(script.rule(task.prompt).map(|(n, _)| n), Some(i), "{}", task.prompt);
            let owners = all().iter().filter(|t| task.prompt.contains(t.mark)).count();
            assert_eq!(owners, 1, "{}", task.prompt);
        }
    }
}
