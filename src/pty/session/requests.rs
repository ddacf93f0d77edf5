//! What clients of the control socket ask, answered from what the Observer knows.

use std::time::Duration;

use super::{Observer, Then};
use crate::assign::deliver::Seen;
use crate::ctl::{Done, ReportRequest, Request, Status, Withdrawn};
use crate::pty::ctl::{Answerer, Asked};

impl Observer {
    pub(super) fn asked(&mut self, asked: Asked) {
        let (request, answer) = asked.split();
        // What came before the request counts for it.
        self.drain();
        match request {
            Request::State => answer.ok(&self.status()),
            Request::Screen => answer.ok(&self.extractor.screen()),
            Request::Send(send) => self.send(&send, answer),
            Request::Withdraw { key } => {
                let unsent = self.withdraw(key);
                answer.ok(&Withdrawn { unsent });
            }
            Request::Answer { hash, text } => self.answer(&hash, &text, answer),
            Request::Interrupt => {
                let keys = self.ctx.pack.interrupt.clone().into_bytes();
                // As good a witness as a human's key, and yet no human's.
                self.extractor.interrupt(self.now);
                self.note("interrupt", "the interrupt key was pressed on request");
                self.write(keys, Then::Answer(answer));
            }
            Request::Resize { cols, rows } => match self.io.resize(sane(cols), sane(rows)) {
                Ok(()) => answer.ok(&Done {}),
                Err(e) => answer.refuse("exited", e.to_string()),
            },
            Request::Stop { grace_ms } => match self.io.stop(Duration::from_millis(grace_ms)) {
                Ok(()) => self.stopping.push(answer),
                Err(e) => answer.refuse("exited", e.to_string()),
            },
            Request::Report(report) => self.report(&report, answer),
            Request::Subscribe { .. } => answer.refuse("bad_request", "subscribers are served from the journal"),
        }
    }

    fn status(&self) -> Status {
        let view = self.extractor.view();
        let draft = Seen::from(&view).is_human_at_it(self.now);
        let untouched = self.intended.is_some_and(|at| view.last_key.is_none_or(|key| key < at));
        Status {
            run: self.ctx.spec.run.clone(),
            state: view.state,
            since_ms: u64::try_from(self.now.saturating_sub(view.since).as_millis()).unwrap_or(u64::MAX),
            seq: self.journal.seq(),
            asking: view.asking,
            draft,
            leftover: draft && untouched,
            turns: view.turns,
            last_send: self.last_send(),
            wrapper: self.started.wrapper,
            guard: self.started.guard,
            child: self.started.child,
            conversation: view.conversation.or_else(|| self.ctx.conversation.clone()),
            setup: view.setup,
        }
    }

    fn report(&mut self, report: &ReportRequest, answer: Answerer) {
        if !same(report.token.trim_end().as_bytes(), self.ctx.token.as_bytes()) {
            return answer.refuse("bad_token", "the report does not carry the token of this run");
        }
        if !self.reports.take(report.stamp) {
            self.note("replayed_report", format!("a report of {} came again and was not taken", report.adapter));
            return answer.refuse("replayed", "the report was taken already");
        }
        match self.extractor.report(&report.adapter, &report.payload, self.now) {
            Ok(()) => answer.ok(&Done {}),
            Err(e) => {
                self.note("bad_report", e.to_string());
                answer.refuse("bad_report", e.to_string());
            }
        }
    }
}

/// What a terminal may have of columns or rows: each cell of it takes memory.
fn sane(size: u16) -> u16 {
    size.clamp(1, 1000)
}

/// Compares without telling by its duration where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    !b.is_empty() && a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y)) == 0
}
