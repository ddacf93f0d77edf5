//! Gates: what decides whether a task is completed, run where the agent worked.

use std::time::Duration;

use serde_json::json;

use super::judge::{Next, When};
use super::{Driver, Step};
use crate::assign::env::{self, Env};
use crate::assign::gate::Gate;
use crate::assign::prereq;
use crate::extract::event::{GateSite, ProcId};
use crate::linux;
use crate::queue::store::Change;
use crate::queue::task::{Proof, TaskState};

impl Driver {
    /// Runs the gates, one after the other; the first that fails ends the attempt. `env` is made again where a new daemon
    /// does not have it.
    pub(super) async fn check(&self, env: Option<Env>) -> Step<Next> {
        self.to(TaskState::Verifying, Change::default()).await?;
        self.end_gate().await;
        let cwd = self.worktree().await?;
        if !cwd.is_dir() {
            return Ok(Next::fail("cwd_missing", format!("{} is gone", cwd.display())));
        }
        let env = match env {
            Some(env) => env,
            None => self.gate_env(&cwd).await?,
        };
        let limit = Duration::from_millis(self.task.spec.timeouts.gate_ms);
        let site = GateSite { ran: "in place".into(), ..GateSite::default() };
        for line in &self.task.spec.gates {
            let n = self.daemon.store.gate_started(self.key, line, &site).await?;
            let gate = Gate::start(line, &cwd, &env, limit);
            let proc = gate.proc();
            self.step("gate", json!({ "n": n, "proc": proc, "boot": linux::boot_id().ok() })).await?;
            let end = gate.wait().await;
            let (output, _) = crate::assign::deliver::clean(&end.output);
            let took = u64::try_from(end.took.as_millis()).unwrap_or(u64::MAX);
            self.daemon.store.gate_ended(self.key, n, end.passed, end.code, output.clone(), took).await?;
            self.event(end.event(site.clone()), "assign.gate", None).await?;
            if !end.passed {
                let last = output.trim_end().lines().next_back().unwrap_or_default();
                let detail = format!("gate `{line}` {}: {last}", end.how);
                let detail = detail.trim_end_matches([':', ' ']).to_owned();
                return Ok(Next::Retry { reason: "gate_failed".into(), detail, charged: true, when: When::Now });
            }
        }
        Ok(Next::Complete(Proof::Gate))
    }

    async fn gate_env(&self, cwd: &std::path::Path) -> Step<Env> {
        let session = self.daemon.store.session(&self.session).await?;
        let spec = &self.task.spec;
        let base = self.daemon.seats.read_env(&session).map_err(|e| Next::review("env_missing", e.to_string()))?;
        let env = env::with_task(env::base(base, &self.daemon.packs().unset()), &spec.env, cwd);
        let limit = Duration::from_millis(spec.timeouts.prepare_ms);
        Ok(prereq::run(&spec.prereqs, cwd, env, limit).await.map_err(|e| Next::review(e.reason(), e.to_string()))?)
    }

    /// Ends a gate that an earlier daemon, or the work that was just dropped, left running.
    pub(super) async fn end_gate(&self) {
        let Ok(steps) = self.daemon.store.attempt_steps(self.key).await else { return };
        let Some(step) = steps.into_iter().rfind(|s| s.step == "gate") else { return };
        if step.data["boot"].as_str() != linux::boot_id().ok().as_deref() {
            return;
        }
        let Ok(Some(gate)) = serde_json::from_value::<Option<ProcId>>(step.data["proc"].clone()) else { return };
        // A group keeps its leader's number taken: a number that is somebody else's now says that the group is gone (F19).
        if linux::proc_id(gate.pid).is_ok_and(|now| now != gate) {
            return;
        }
        if let Some(group) = rustix::process::Pid::from_raw(gate.pid) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
