//! Prerequisites: the submitter's own shell lines, run where the agent will run; what they leave is its environment.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::assign::child::{Job, Keep};
use crate::assign::env::{self, Env};

/// Most of an output that is kept, from its end.
const MAX_OUTPUT_BYTES: usize = 16 * 1024;

/// Runs the line given as `$1`, then writes the environment it left to what was stdout; the line's own output goes to
/// stderr. The trap also covers a line that calls `exit`.
const WRAPPER: &str = r#"exec 3>&1 1>&2
trap 'code=$?; trap - EXIT; [ "$code" -eq 0 ] && /usr/bin/env -0 >&3; exit "$code"' EXIT
eval "$1""#;

/// A line that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum PrereqError {
    /// It failed or took too long.
    #[error("prerequisite `{line}` {how}")]
    Failed {
        /// The line.
        line: String,
        /// How it ended.
        how: String,
        /// The end of what it wrote.
        output: String,
    },
    /// It succeeded and yet left no environment, like `exec true`.
    #[error("prerequisite `{line}` replaced its shell, so its environment is lost; do not use exec there")]
    NoEnvironment {
        /// The line.
        line: String,
    },
    /// The shell could not be started.
    #[error("run /bin/sh for prerequisite `{line}`")]
    Start {
        /// The line.
        line: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl PrereqError {
    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        "prereq_failed"
    }

    /// What the line wrote, for people.
    pub fn output(&self) -> &str {
        match self {
            Self::Failed { output, .. } => output,
            _ => "",
        }
    }
}

/// Runs `lines` one after the other in `cwd`, each in the environment that the one before left, all within `limit`.
///
/// What a line starts in the background stays, unless a line fails to end in time: then its process group is killed.
pub async fn run(lines: &[String], cwd: &Path, mut env: Env, limit: Duration) -> Result<Env, PrereqError> {
    let deadline = Instant::now() + limit;
    for line in lines {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WRAPPER, "prerequisite", line]).current_dir(cwd).env_clear().envs(&env);
        let job = Job {
            command,
            limit: deadline.saturating_duration_since(Instant::now()),
            // The environment, which may be as large as the kernel passes.
            keep: Keep::Head(2 * env::MAX_TOTAL_BYTES),
            merge: false,
            sweep: false,
            input: None,
        };
        let end = job.run().await.map_err(|source| PrereqError::Start { line: line.clone(), source })?;
        if !end.ok() {
            let from = end.err.len().saturating_sub(MAX_OUTPUT_BYTES);
            let output = String::from_utf8_lossy(&end.err[from..]).into_owned();
            return Err(PrereqError::Failed { line: line.clone(), how: end.how(), output });
        }
        if end.out.last() != Some(&0) {
            return Err(PrereqError::NoEnvironment { line: line.clone() });
        }
        // The line runs without a terminal's variables, but may set them; the pane supplies its own.
        env = env::base(env::parse(&end.out), &[]);
        env.insert("PWD".into(), cwd.into());
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn go(lines: &[&str]) -> Result<Env, PrereqError> {
        let lines: Vec<String> = lines.iter().map(|s| s.to_string()).collect();
        let env = [("PATH".into(), "/usr/bin:/bin".into()), ("A".into(), "1".into())].into();
        run(&lines, &std::env::temp_dir(), env, Duration::from_secs(60)).await
    }

    fn get<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
        env.get(std::ffi::OsStr::new(name)).and_then(|v| v.to_str())
    }

    #[tokio::test]
    async fn the_environment_a_line_leaves_is_passed_on_path_and_all() {
        let env =
            go(&["export B='x\ny' PATH=/opt:$PATH; unset A; cd /", "export C=\"$B$B\"; echo noise; exit 0"]).await;
        let env = env.unwrap();
        assert_eq!(get(&env, "B"), Some("x\ny"));
        assert_eq!(get(&env, "C"), Some("x\nyx\ny"));
        assert_eq!(get(&env, "PATH"), Some("/opt:/usr/bin:/bin"));
        assert_eq!(get(&env, "A"), None);
        assert_eq!(get(&env, "PWD"), std::env::temp_dir().to_str());
    }

    #[tokio::test]
    async fn a_failing_line_is_named_with_its_output_and_nothing_after_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let error = go(&["echo why >&2; false", &format!("touch {}", mark.display())]).await.unwrap_err();
        assert_eq!(error.reason(), "prereq_failed");
        assert_eq!(error.output(), "why\n");
        assert_eq!(error.to_string(), "prerequisite `echo why >&2; false` exited with 1");
        assert!(!mark.exists());
    }

    #[tokio::test]
    async fn syntax_errors_lost_shells_and_endless_lines_are_failures() {
        assert!(matches!(go(&["if ("]).await, Err(PrereqError::Failed { .. })));
        assert!(matches!(go(&["exec true"]).await, Err(PrereqError::NoEnvironment { .. })));
        let env = [("PATH".into(), "/usr/bin:/bin".into())].into();
        let lines = ["sleep 1000".to_owned()];
        let error = run(&lines, Path::new("/"), env, Duration::from_millis(200)).await.unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
    }

    #[tokio::test]
    async fn t13_nothing_but_the_line_itself_is_read_by_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        let cwd = dir.path().join("$(touch a)`touch b`;touch c");
        std::fs::create_dir(&cwd).unwrap();
        let env: Env = [("PATH".into(), "/usr/bin:/bin".into()), ("X".into(), "$(touch d); touch e".into())].into();
        let env = run(&["export Y=\"$X\"".to_owned()], &cwd, env, Duration::from_secs(60)).await.unwrap();
        assert_eq!(get(&env, "Y"), Some("$(touch d); touch e"));
        assert_eq!(std::fs::read_dir(&cwd).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
