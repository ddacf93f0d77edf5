//! Gates: what decides whether a task is completed.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::judge::{Next, When};
use super::{Driver, Step};
use crate::assign::env::Env;
use crate::assign::gate::{Gate, Outcome};
use crate::assign::gate_files;
use crate::config::OnEdit;
use crate::extract::event::GateSite;
use crate::queue::store::Change;
use crate::queue::task::{Proof, TaskState};

impl Driver {
    /// Runs the gates, one after the other; the first that fails ends the attempt. `env` is that of the context; a new
    /// daemon does not have it.
    pub(super) async fn check(&self, env: Option<Env>) -> Step<Next> {
        self.to(TaskState::Verifying, Change::default()).await?;
        self.end_gate().await;
        let next = self.run_gates(env).await;
        self.end_gate().await;
        next
    }

    async fn run_gates(&self, env: Option<Env>) -> Step<Next> {
        let cwd = self.worktree().await?;
        if !cwd.is_dir() {
            return Ok(Next::fail("cwd_missing", format!("{} is gone", cwd.display())));
        }
        let site = match self.site(&cwd, env).await? {
            Ok(site) => site,
            Err((outcome, on)) => {
                let n = self.daemon.store.gate_started(self.key, &outcome.command, &on).await?;
                return self.failed(n, &outcome, &on, None).await;
            }
        };
        self.step("gates", json!({ "cwd": site.cwd, "on": site.on })).await?;
        let limit = Duration::from_millis(self.task.spec.timeouts.gate_ms);
        for line in &self.task.spec.gates {
            let n = self.daemon.store.gate_started(self.key, line, &site.on).await?;
            let end = Gate::start(line, &site.cwd, &site.env, limit).wait().await;
            if !end.passed {
                return self.failed(n, &end, &site.on, site.made_from.as_deref()).await;
            }
            self.record(n, &end, &site.on).await?;
        }
        Ok(self.passed(&site.on))
    }

    /// What follows once all have passed.
    fn passed(&self, on: &GateSite) -> Next {
        if on.gate_edited.is_empty() {
            return Next::Complete(Proof::Gate);
        }
        let reason = "gate_edited".to_owned();
        let detail = format!("gate passed, but the agent edited: {}", gate_files::summary(&on.gate_edited));
        match self.task.spec.gate_rules.as_ref().map(|r| r.gate.on_edit) {
            Some(OnEdit::Review) => Next::Review { reason, detail },
            _ => Next::Flag { reason, detail },
        }
    }

    async fn failed(&self, n: u32, end: &Outcome, on: &GateSite, tree: Option<&Path>) -> Step<Next> {
        let output = self.record(n, end, on).await?;
        let last = output.trim_end().lines().next_back().unwrap_or_default();
        let detail = format!("gate `{}` {}: {last}", end.command, end.how);
        let mut detail = detail.trim_end_matches([':', ' ']).to_owned();
        let lacks = match tree {
            Some(tree) => self.lacks(tree).await,
            None => Vec::new(),
        };
        if !lacks.is_empty() {
            let lacks = gate_files::summary(&lacks);
            detail.push_str(&format!(" (on a fresh checkout, without {lacks}: see --gate-in-place)"));
        }
        Ok(Next::Retry { reason: "gate_failed".into(), detail, charged: true, when: When::Now })
    }

    /// Keeps how a gate ended; returns its output as it is kept.
    async fn record(&self, n: u32, end: &Outcome, on: &GateSite) -> Step<String> {
        let output = self.mask.cover_text(crate::assign::deliver::clean(&end.output).0);
        let took = u64::try_from(end.took.as_millis()).unwrap_or(u64::MAX);
        self.daemon.store.gate_ended(self.key, n, end.passed, end.code, output.clone(), took).await?;
        self.event(end.event(on.clone()), "assign.gate", None).await?;
        Ok(output)
    }
}
