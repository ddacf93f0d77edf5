//! Gates: the submitter's own shell lines that must pass before a task is completed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::assign::child::{Job, Keep, Running};
use crate::assign::env::Env;
use crate::extract::event::{Body, GateSite};

/// Most of a gate's output that is kept, from its end: where test runners put their verdict.
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// How one gate line ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The line.
    pub command: String,
    /// It exited with 0.
    pub passed: bool,
    /// How it ended, in words.
    pub how: String,
    /// Its exit code; none where a signal or the time limit ended it, or where it did not start.
    pub code: Option<i32>,
    /// The end of what it wrote, both streams in the order written.
    pub output: String,
    /// Something of the output was dropped.
    pub truncated: bool,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// That of a line which had to pass before the gates could run.
    pub fn refused(line: &str, how: impl Into<String>, output: &str) -> Self {
        Self {
            command: line.to_owned(),
            passed: false,
            how: how.into(),
            code: None,
            output: output.to_owned(),
            truncated: false,
            took: Duration::ZERO,
        }
    }

    /// The event that records it, and what it ran on.
    pub fn event(&self, on: GateSite) -> Body {
        let duration_ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        if self.passed {
            return Body::GatePassed { command: self.command.clone(), duration_ms, on };
        }
        Body::GateFailed {
            command: self.command.clone(),
            code: self.code,
            output: self.output.clone(),
            duration_ms,
            truncated: self.truncated,
            on,
        }
    }
}

/// A gate line that runs; dropping it kills its process group.
pub struct Gate {
    line: String,
    state: Result<Running, std::io::Error>,
}

impl Gate {
    /// Starts `line` by `/bin/sh -c` in `cwd`. A shell that cannot start is a gate that fails.
    pub fn start(line: &str, cwd: &Path, env: &Env, limit: Duration) -> Self {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(line).current_dir(cwd).env_clear().envs(env);
        let job = Job { command, limit, keep: Keep::Tail(MAX_OUTPUT_BYTES), merge: true, sweep: true, input: None };
        Self { line: line.to_owned(), state: job.start() }
    }

    /// Waits for its end.
    pub async fn wait(self) -> Outcome {
        let end = match self.state {
            Ok(running) => running.wait().await,
            Err(e) => Err(e),
        };
        match end {
            Ok(end) => Outcome {
                command: self.line,
                passed: end.ok(),
                how: end.how(),
                code: end.code.filter(|_| !end.timed_out),
                output: end.text(),
                truncated: end.cut,
                took: end.took,
            },
            Err(e) => Outcome::refused(&self.line, format!("could not be run: {e}"), ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn gate(line: &str, limit: Duration) -> Outcome {
        let env = [("PATH".into(), "/usr/bin:/bin".into()), ("A".into(), "x y".into())].into();
        Gate::start(line, Path::new("/tmp"), &env, limit).wait().await
    }

    #[tokio::test]
    async fn a_gate_passes_on_zero_only_and_keeps_its_output() {
        let good = gate("test \"$A\" = 'x y' && pwd", Duration::from_secs(60)).await;
        assert!(good.passed, "{good:?}");
        assert_eq!(good.output, "/tmp\n");
        let bad = gate("echo out; echo err >&2; exit 7", Duration::from_secs(60)).await;
        assert!(
            matches!(bad.event(GateSite::default()), Body::GateFailed { code: Some(7), output, .. } if output == "out\nerr\n")
        );
    }

    #[tokio::test]
    async fn an_endless_gate_fails_and_says_so() {
        let end = gate("echo begun; sleep 1000", Duration::from_millis(300)).await;
        assert!(!end.passed && end.output == "begun\n" && end.how.starts_with("did not end within"), "{end:?}");
    }

    #[tokio::test]
    async fn f56_a_gate_in_a_folder_that_is_gone_fails_and_runs_nowhere_else() {
        let end = Gate::start("true", Path::new("/nowhere/at/all"), &Env::new(), Duration::from_secs(9)).wait().await;
        assert!(!end.passed && end.how.contains("could not be run"), "{end:?}");
    }
}
