//! Preparing: a working tree, an environment, a process in them, all verified before anything is sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::judge::Next;
use super::{Driver, Halt, Step, excerpt};
use crate::assign::env::{self, Env};
use crate::assign::git::Branch;
use crate::assign::plan::{self, Refusal, Way};
use crate::assign::verify::{self, Expected, Mismatch};
use crate::assign::worktree::{Tree, TreeError, Wanted};
use crate::assign::{marked, prereq};
use crate::ctl::{SendRequest, Status};
use crate::daemon::LiveRun;
use crate::daemon::runs::LaunchError;
use crate::daemon::seats::{Launch, SeatError};
use crate::daemon::trust::{self, Doubt, TrustError};
use crate::extract::event::{Body, SessionState, Verdict};
use crate::queue::store::{Attempt, AttemptChange, Session};
use crate::queue::task::TreeRule;
use crate::run::Seat;

/// How soon a task that found its session or tree taken is looked at again.
const SOON: Duration = Duration::from_secs(5);

/// The step in which prerequisites run.
const PREREQS: &str = "prereqs";

/// How long `cd` may take to be done.
const CD_PATIENCE: Duration = Duration::from_secs(10);

/// A context that is prepared.
pub(super) struct Context {
    pub(super) tree: Tree,
    pub(super) env: Env,
    pub(super) hash: String,
}

/// A verified process in its context.
pub(super) struct Ready {
    pub(super) context: Context,
    pub(super) way: Way,
    /// None for a one-shot: its process is the sending.
    pub(super) run: Option<Arc<LiveRun>>,
    /// The agent remembers the conversation of the last attempt.
    pub(super) remembers: bool,
}

impl Driver {
    /// Prepares the context and a process in it. Every step can be done again.
    pub(super) async fn prepare(&self) -> Step<Ready> {
        let session = self.daemon.store.session(&self.session).await?;
        let context = self.context(&session).await?;
        let (way, run) = self.way(&session, &context).await?;
        let last = self.last_run().await?;
        let ready = match way {
            Way::Oneshot => Ready { context, way, run: None, remembers: false },
            Way::Reuse | Way::Shell => {
                let run = run.expect("there is one to reuse");
                match self.settle_in(&run, way, &context).await {
                    Ok(()) => Ready { remembers: last.as_ref() == Some(run.id()), context, way, run: Some(run) },
                    // What the session was said to be in is not true any more: a new process settles that.
                    Err(mismatch) => {
                        self.event(mismatch.event(), "assign.verify", Some(&run)).await?;
                        let run = self.respawn(&context).await?;
                        Ready { context, way: Way::Respawn, run: Some(run), remembers: false }
                    }
                }
            }
            Way::Respawn => {
                let run = self.respawn(&context).await?;
                Ready { context, way, run: Some(run), remembers: false }
            }
        };
        self.note_prepared(&ready).await?;
        Ok(ready)
    }

    /// Tree and environment.
    async fn context(&self, session: &Session) -> Step<Context> {
        let spec = &self.task.spec;
        let branch = spec.branch.as_deref().map(str::parse::<Branch>).transpose();
        let branch = branch.map_err(|e| Next::fail("bad_branch", e.to_string()))?;
        let wanted = Wanted {
            task: self.task.id,
            cwd: spec.cwd.clone(),
            branch,
            base_sha: spec.base_sha.clone(),
            rule: spec.tree,
        };
        let trees = &self.daemon.trees;
        let located = trees.locate(&wanted).await.map_err(|e| tree_failed(&e))?;
        if spec.tree != TreeRule::Shared
            && let Err(other) = self.daemon.store.take_tree(self.key, located.top.clone()).await?
        {
            let what = format!("tree {} (task {other})", located.top.display());
            return Err(Next::requeue("tree_taken", what, SOON).into());
        }
        self.step("tree", json!({ "top": located.top, "ours": located.ours, "branch": located.branch })).await?;
        let base = self.daemon.seats.read_env(session).map_err(|e| Next::retry("env_missing", e.to_string()))?;
        let base = env::base(base, &self.daemon.packs().unset());
        let limit = Duration::from_millis(spec.timeouts.prepare_ms);
        let env = env::with_task(base, &spec.env, &located.cwd);
        if located.ours {
            let depth = located.cwd.strip_prefix(&located.top).map_or(0, |below| below.components().count());
            let home = spec.cwd.ancestors().nth(depth).unwrap_or(&spec.cwd);
            self.is_known(self.daemon.doubt_of_set_up(home).await).await?;
        }
        let tree = trees.prepare(&wanted, &env, limit).await.map_err(|e| tree_failed(&e))?;
        self.is_known(self.daemon.doubt(&tree.top, &tree.cwd, &self.pack.config_files).await).await?;
        let change = AttemptChange { worktree: Some(tree.cwd.clone()), ..AttemptChange::default() };
        if !self.daemon.store.update_attempt(self.key, change).await? {
            return Err(Halt::Fenced);
        }
        if !spec.gates.is_empty() {
            self.note_base(&tree.cwd).await?;
        }
        let env = self.prerequisites(&tree.cwd, env, limit).await?;
        env::check_fits(&env).map_err(|e| Next::fail(e.reason(), e.to_string()))?;
        let hash = env::context_hash(&tree.cwd, tree.branch.as_deref(), &spec.prereqs, &env);
        Ok(Context { tree, env, hash })
    }

    /// Runs the prerequisites. Where an earlier daemon was killed in the middle of them, what still runs is ended first: the
    /// same line never runs twice at once (F3).
    async fn prerequisites(&self, cwd: &std::path::Path, mut env: Env, limit: Duration) -> Step<Env> {
        let lines = &self.task.spec.prereqs;
        if lines.is_empty() {
            return Ok(env);
        }
        let (mark, until) = (self.prereq_mark(), Instant::now() + limit);
        marked::end(&mark).await;
        self.step(PREREQS, json!({ "lines": lines })).await?;
        for line in lines {
            // The environment that a line leaves is without it: what is of ours never gets into an agent's.
            env.insert(marked::MARK.into(), mark.clone().into());
            let left = until.saturating_duration_since(Instant::now());
            env = prereq::run(std::slice::from_ref(line), cwd, env, left).await.map_err(|e| {
                let output = crate::assign::deliver::clean(e.output()).0;
                Next::fail(e.reason(), format!("{e}\n{}", output.trim_end()).trim_end())
            })?;
        }
        Ok(env)
    }

    /// Ends prerequisites that an earlier daemon left in the middle.
    pub(super) async fn end_prereqs(&self) {
        let steps = self.daemon.store.attempt_steps(self.key).await.unwrap_or_default();
        if steps.last().is_some_and(|s| s.step == PREREQS) {
            marked::end(&self.prereq_mark()).await;
        }
    }

    /// What the processes of this attempt's prerequisites are known by.
    fn prereq_mark(&self) -> String {
        format!("{}/prerequisites/{}.{}", self.daemon.state.root().display(), self.key.task, self.key.fence)
    }

    /// Asks a human about configuration of agents that nobody said yes to (T16).
    async fn is_known(&self, found: Result<Option<Doubt>, TrustError>) -> Step<()> {
        let Some(doubt) = found.map_err(|e| Next::retry("git_failed", e.to_string()))? else { return Ok(()) };
        self.step(trust::REASON, json!(doubt)).await?;
        let what = format!(
            "what configures agents here is not known: {}; look at it, then say: orchwrap task answer {} yes (or no, \
             which ends the task; --hash {})",
            doubt.words,
            self.key.task,
            &doubt.hash()[..16]
        );
        Err(Next::review(trust::REASON, what).into())
    }

    /// The cheapest way from the process that is there into the context.
    async fn way(&self, session: &Session, context: &Context) -> Step<(Way, Option<Arc<LiveRun>>)> {
        if session.spec.seat == Seat::Oneshot {
            return match self.pack.oneshot {
                Some(_) => Ok((Way::Oneshot, None)),
                None => Err(Next::fail("no_oneshot", format!("{} has no way to run one prompt", self.pack.id)).into()),
            };
        }
        let Some(run) = self.daemon.seats.run_of(session).filter(|r| r.is_alive()) else {
            return Ok((Way::Respawn, None));
        };
        self.wait_past(&run, |s| s != SessionState::Starting).await?;
        let Ok(status) = run.status().await else { return Ok((Way::Respawn, None)) };
        let conversation = self.conversation().await?;
        let hash = self.known_hash(session, &run, context)?;
        let cwd = status.child.and_then(|c| std::fs::read_link(format!("/proc/{}/cwd", c.pid)).ok());
        // A gate that failed is told to the agent that worked, while it is still there; and an agent that does not name its
        // conversations goes on in the process where the task ran, or not at all.
        let nameless = conversation.is_none() && self.continued_run().await?.as_ref() == Some(run.id());
        let follows_up = self.last_run().await?.as_ref() == Some(run.id()) && self.follows_up().await?;
        let same_run = nameless || follows_up;
        let wanted = plan::Wanted {
            cwd: &context.tree.cwd,
            hash: &context.hash,
            base_env: self.task.spec.env.is_empty() && self.task.spec.prereqs.is_empty(),
            conversation: conversation.as_deref().filter(|_| !same_run),
        };
        let found = plan::Found {
            state: status.state,
            setup: status.setup.as_deref(),
            draft: status.draft,
            turns: if same_run { 0 } else { status.turns },
            conversation: status.conversation.as_deref(),
            hash: hash.as_deref(),
            cwd,
            shell: self.pack.shell,
            oneshot: false,
        };
        match plan::plan(&wanted, &found) {
            Ok(way) => Ok((way, Some(run))),
            Err(refusal @ Refusal::Draft) => {
                let what = format!("your draft in {}", self.session);
                Err(Next::requeue(refusal.reason(), what, SOON).into())
            }
            Err(refusal @ Refusal::Setup(_)) => {
                Err(Next::requeue(refusal.reason(), format!("you in {}: {refusal}", self.session), SOON).into())
            }
            Err(refusal) => Err(Next::requeue(refusal.reason(), format!("{}: {refusal}", self.session), SOON).into()),
        }
    }

    /// The hash of the context that a session's process was started in. One that was never prepared for a task is in the
    /// session's own environment.
    fn known_hash(&self, session: &Session, run: &LiveRun, context: &Context) -> Step<Option<String>> {
        if session.context_hash.is_some() {
            return Ok(session.context_hash.clone());
        }
        let base = self.daemon.seats.read_env(session).map_err(|e| Next::retry("env_missing", e.to_string()))?;
        let base = env::base(base, &self.daemon.packs().unset());
        // The branch is verified by git afterwards, whatever it was when the process started.
        Ok(Some(env::context_hash(&run.spec.cwd, context.tree.branch.as_deref(), &[], &base)))
    }

    /// The conversation that this attempt must go on in, if any.
    async fn conversation(&self) -> Step<Option<String>> {
        let from = match self.task.spec.continue_task {
            Some(task) => self.daemon.store.attempts(task).await?.into_iter().rev().find(|a| a.conversation.is_some()),
            None if self.follows_up().await? => self.previous().await?,
            None => None,
        };
        Ok(from.and_then(|a| a.conversation))
    }

    /// The last attempt before this one that was sent to an agent.
    pub(super) async fn previous(&self) -> Step<Option<Attempt>> {
        let all = self.daemon.store.attempts(self.task.id).await?;
        Ok(last_sent(all, self.key.fence))
    }

    /// Whether this attempt tells the agent what was wrong with the one before.
    pub(super) async fn follows_up(&self) -> Step<bool> {
        let previous = self.previous().await?;
        Ok(previous.is_some_and(|a| a.reason.as_deref() == Some("gate_failed") && a.session == self.session))
    }

    async fn last_run(&self) -> Step<Option<crate::ids::RunId>> {
        Ok(self.previous().await?.and_then(|a| a.run))
    }

    /// The run in which the task to go on with was last at work.
    async fn continued_run(&self) -> Step<Option<crate::ids::RunId>> {
        let Some(task) = self.task.spec.continue_task else { return Ok(None) };
        Ok(self.daemon.store.attempts(task).await?.into_iter().rev().find_map(|a| a.run))
    }

    /// The conversation for a new process; refused where the task must go on in one that cannot be named (F73).
    pub(super) async fn resumed(&self) -> Step<Option<String>> {
        let conversation = self.conversation().await?;
        match (self.task.spec.continue_task, &conversation) {
            (Some(task), None) if !self.pack.shell => {
                let what = format!(
                    "task {task} cannot be gone on with: its process stands elsewhere or has ended, and {} told no \
                     conversation to resume; add it anew without --continue",
                    self.pack.id
                );
                Err(Next::fail("no_conversation", what).into())
            }
            _ => Ok(conversation),
        }
    }

    /// A new process in the session's seat, ready for a prompt and verified.
    async fn respawn(&self, context: &Context) -> Step<Arc<LiveRun>> {
        let resume = self.resumed().await?;
        self.step("respawn", json!({ "cwd": context.tree.cwd, "hash": context.hash })).await?;
        let launch = Launch {
            cwd: Some(context.tree.cwd.clone()),
            env: Some(context.env.clone()),
            resume,
            branch: context.tree.branch.clone(),
            ..Launch::default()
        };
        let run = self.daemon.seats.run_for(&self.session, launch).await.map_err(|e| seat_failed(&e))?;
        self.wait_idle(&run).await?;
        if let Err(mismatch) = self.verify(&run, Way::Respawn, context).await {
            self.event(mismatch.event(), "assign.verify", Some(&run)).await?;
            return Err(Next::retry(mismatch.reason(), mismatch.to_string()).into());
        }
        Ok(run)
    }

    /// Makes the process that is there stand in the context, and verifies that it does.
    async fn settle_in(&self, run: &Arc<LiveRun>, way: Way, context: &Context) -> Result<(), Mismatch> {
        if way == Way::Shell {
            self.change_dir(run, &context.tree.cwd).await?;
        }
        self.verify(run, way, context).await
    }

    /// Types `cd` at a shell's prompt; the wrapper types only at one that is proven to be empty.
    async fn change_dir(&self, run: &LiveRun, cwd: &std::path::Path) -> Result<(), Mismatch> {
        let failed = |why: String| Mismatch {
            what: "cwd".into(),
            wanted: cwd.display().to_string(),
            found: format!("unknown (cd: {why})"),
        };
        let text = cwd.to_str().ok_or_else(|| failed("the folder's name is not UTF-8".into()))?;
        let quoted = shlex::try_quote(text).map_err(|e| failed(e.to_string()))?;
        // A line break would be a second line to a shell that is not in bracketed paste.
        if quoted.contains(char::is_control) {
            return Err(failed("the folder's name holds control characters".into()));
        }
        let accept_timeout_ms = u64::try_from(CD_PATIENCE.as_millis()).expect("seconds fit");
        let send = SendRequest { key: None, text: format!("cd -- {quoted}"), accept_timeout_ms };
        let outcome = run.send(send).await.map_err(|e| failed(e.to_string()))?;
        if outcome.refused.is_some() || matches!(outcome.verdict, Some(Verdict::Stuck | Verdict::Dead)) {
            return Err(failed(outcome.why));
        }
        let mut seen = run.watch();
        let idle = seen.wait_for(|s| s.end.is_some() || s.state == SessionState::Idle);
        let waited = tokio::time::timeout(CD_PATIENCE, idle).await;
        if waited.is_err() { Err(failed("the shell is not back at its prompt".into())) } else { Ok(()) }
    }

    /// Looks at the process itself.
    async fn verify(&self, run: &LiveRun, way: Way, context: &Context) -> Result<(), Mismatch> {
        let gone = |found: String| Mismatch { what: "process".into(), wanted: "the agent".into(), found };
        let status = run.status().await.map_err(|e| gone(format!("unreachable ({e})")))?;
        let Some(head) = status.child else { return Err(gone("unknown to its wrapper".into())) };
        let expected = Expected {
            cwd: &context.tree.cwd,
            branch: context.tree.branch.as_deref(),
            env: &context.env,
            names: &self.pack.launch.names,
        };
        let git = &self.daemon.git;
        // Shells live long and people set variables in them: what they stand in is all that is promised.
        let long_lived_shell = self.pack.shell && way != Way::Respawn;
        match long_lived_shell {
            true => verify::check_place(head, &expected, git).await,
            false => verify::check(head, &expected, git).await,
        }
    }

    /// Waits until the agent takes prompts, or says why it never will.
    async fn wait_idle(&self, run: &Arc<LiveRun>) -> Step<()> {
        let mut told = false;
        loop {
            let status = self.wait_past(run, |s| s != SessionState::Starting && s != SessionState::Unknown).await?;
            match status.state {
                SessionState::Idle => {
                    if told {
                        self.waits(None).await?;
                    }
                    return Ok(());
                }
                SessionState::Setup => {
                    let what = status.setup.unwrap_or_else(|| "it needs you".to_owned());
                    self.waits(Some(format!("you in {}: {what}", self.session))).await?;
                    told = true;
                }
                _ => {}
            }
            let mut seen = run.watch();
            let before = seen.borrow_and_update().state;
            let changed = seen.wait_for(|s| s.end.is_some() || s.state != before);
            // A look now and then: what the events told may be older than what the wrapper knows.
            let _ = tokio::time::timeout(Duration::from_millis(500), changed).await;
        }
    }

    /// Waits for a state that satisfies `good`; the end of the run is an error.
    async fn wait_past(&self, run: &Arc<LiveRun>, good: impl Fn(SessionState) -> bool) -> Step<Status> {
        loop {
            if let Some(end) = run.seen().end {
                let how = match (end.code, end.signal) {
                    (Some(code @ (126 | 127)), _) => {
                        let detail = format!("{} could not be run (exit code {code})", run.spec.argv[0]);
                        return Err(Next::fail("binary_missing", detail).into());
                    }
                    (Some(code), _) => format!("exited with {code}"),
                    (None, Some(signal)) => format!("was ended by signal {signal}"),
                    (None, None) if end.reason == "start_failed" => {
                        let detail = format!("{} could not be started; is it installed?", run.spec.argv[0]);
                        return Err(Next::fail("binary_missing", detail).into());
                    }
                    (None, None) => format!("ended ({})", end.reason),
                };
                return Err(Next::retry("agent_exited", format!("the agent {how} before it was ready")).into());
            }
            if let Ok(status) = run.status().await
                && good(status.state)
            {
                return Ok(status);
            }
            let mut seen = run.watch();
            let before = seen.borrow_and_update().state;
            let changed = seen.wait_for(|s| s.end.is_some() || s.state != before);
            let _ = tokio::time::timeout(Duration::from_millis(500), changed).await;
        }
    }

    async fn note_prepared(&self, ready: &Ready) -> Step<()> {
        let Context { tree, hash, env } = &ready.context;
        let names: Vec<_> = env.keys().map(|k| k.to_string_lossy().into_owned()).collect();
        let context =
            json!({ "cwd": tree.cwd, "branch": tree.branch, "prereqs": self.task.spec.prereqs, "env": names });
        self.daemon.store.add_context(hash, context).await?;
        let change = AttemptChange { context_hash: Some(hash.clone()), ..AttemptChange::default() };
        if !self.daemon.store.update_attempt(self.key, change).await? {
            return Err(Halt::Fenced);
        }
        let (place, branch, kept): (PathBuf, _, _) = (tree.cwd.clone(), tree.branch.clone(), hash.clone());
        let change = move |s: &mut Session| {
            s.place = place;
            s.branch = branch;
            s.context_hash = Some(kept);
        };
        self.daemon.store.update_session(&self.session, change).await?;
        let body = Body::ContextPrepared {
            hash: hash.clone(),
            cwd: tree.cwd.clone(),
            branch: tree.branch.clone(),
            way: ready.way.as_str().to_owned(),
        };
        self.event(body, "assign.prepare", ready.run.as_deref()).await
    }
}

/// The last attempt before `fence` that was sent: those that went back into the queue before say nothing about the work.
fn last_sent(all: Vec<Attempt>, fence: i64) -> Option<Attempt> {
    all.into_iter().rfind(|a| a.key.fence < fence && !a.live && a.run.is_some())
}

fn tree_failed(e: &TreeError) -> Next {
    let reason = e.reason();
    let detail = match e {
        TreeError::Setup { output, .. } => {
            let output = crate::assign::deliver::clean(output).0;
            format!("{e}\n{}", output.trim_end()).trim_end().to_owned()
        }
        e => e.to_string(),
    };
    match e {
        // These may pass by themselves.
        TreeError::Git(_) | TreeError::Io { .. } => Next::retry(reason, detail),
        // These wait for somebody: trying again would find the same.
        _ => Next::fail(reason, detail),
    }
}

pub(super) fn seat_failed(e: &SeatError) -> Next {
    match e {
        SeatError::Launch(LaunchError::Died { .. }) => Next::retry("agent_exited", e.to_string()),
        SeatError::Launch(LaunchError::Silent { .. }) => Next::requeue("wrapper_silent", e.to_string(), SOON),
        // What the machine lacks for a moment says nothing about the task (F14, F63).
        e if e.passes() => Next::Requeue {
            reason: "start_delayed".into(),
            detail: e.to_string(),
            waiting_for: Some(e.to_string()),
            after: SOON,
        },
        e => Next::retry("start_failed", e.to_string()),
    }
}

/// The excerpt of a screen that is told with a refusal.
pub(super) async fn with_screen(why: &str, run: &LiveRun) -> String {
    format!("{why}{}", excerpt(run).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::ids::{AttemptKey, RunId, TaskId};

    #[test]
    fn what_a_gate_said_outlasts_attempts_that_were_never_sent() {
        let attempt = |fence: i64, run: Option<RunId>, reason: &str| Attempt {
            key: AttemptKey { task: TaskId(1), attempt: 1, fence },
            session: "p-1".parse().unwrap(),
            live: false,
            tree: None,
            worktree: None,
            context_hash: None,
            run,
            conversation: None,
            score: crate::assign::score::Score::default(),
            started: Timestamp::UNIX_EPOCH,
            ended: None,
            outcome: None,
            reason: Some(reason.into()),
            detail: None,
            charged: true,
        };
        let all = [
            attempt(1, Some(RunId::random()), "gate_failed"),
            attempt(2, None, "tree_taken"),
            attempt(3, None, "daemon_restarted"),
        ];
        assert_eq!(last_sent(all.to_vec(), 4).unwrap().reason.as_deref(), Some("gate_failed"));
        assert_eq!(last_sent(all.to_vec(), 1), None);
    }
}
