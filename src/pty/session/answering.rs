//! Answering what the agent asks: the keys are pressed once it listens, and again where it did not.

use std::time::Duration;

use super::Observer;
use crate::ctl::Done;
use crate::extract::event::AskKind;
use crate::pty::ctl::Answerer;

/// How long a question has to stand on the screen first. Agents draw a menu before they listen: a key 40 ms later was lost, for good.
const LISTENS: Duration = Duration::from_millis(500);
/// A question that is never seen on the screen is answered after this. Before, keys would go into the input box.
const UNSEEN: Duration = Duration::from_secs(5);
/// How long the question may stand after a press.
const TAKES: Duration = Duration::from_secs(2);
/// How often the keys are pressed at the most. The client waits ten seconds in all.
const PRESSES: u32 = 2;

/// What people are told whose answer names no choice.
fn ways(kind: AskKind, options: &[String]) -> String {
    match (kind, options) {
        (AskKind::Permission, []) => "this can be answered with: yes or no".to_owned(),
        (AskKind::Permission, _) => format!("this can be answered with: yes, no, {}", options.join(", ")),
        (AskKind::Question, []) => "this can only be answered at the agent's own terminal: attach".to_owned(),
        (AskKind::Question, _) => format!("this can be answered with: {}", options.join(", ")),
    }
}

/// An answer on its way. Its client hears of it once the question is gone.
pub(super) struct Answering {
    hash: String,
    keys: Vec<u8>,
    pub(super) client: Answerer,
    /// Whether the question was seen on the screen.
    seen: bool,
    /// When the keys are pressed next, or given up.
    due: Duration,
    pressed: u32,
}

impl Observer {
    /// Types the answer to what is asked now, if that is what the person saw (T32).
    pub(super) fn answer(&mut self, hash: &str, text: &str, client: Answerer) {
        let view = self.extractor.view();
        let Some((kind, ask)) = &view.asking else {
            return client.refuse("not_asking", "the agent asks nothing");
        };
        if ask.hash != hash {
            return client.refuse("stale_answer", "the agent asks something else by now: look again");
        }
        if self.answering.is_some() {
            return client.refuse("stale_answer", "this is being answered already");
        }
        let Some(keys) = self.ctx.pack.answers.keys(*kind, ask, text) else {
            return client.refuse("bad_answer", ways(*kind, &ask.options));
        };
        let due = self.now.max(view.since + if view.menu { LISTENS } else { UNSEEN });
        self.note("answer", format!("answered on request: {text}"));
        self.answering = Some(Answering { hash: hash.to_owned(), keys, client, seen: view.menu, due, pressed: 0 });
    }

    /// Presses what is due; tells the client once the question is gone.
    pub(super) fn step_answer(&mut self) {
        let Some(on_its_way) = &mut self.answering else { return };
        let view = self.extractor.view();
        let stands = view.asking.is_some_and(|(_, ask)| ask.hash == on_its_way.hash);
        if stands && view.menu && !on_its_way.seen {
            on_its_way.seen = true;
            on_its_way.due = self.now + LISTENS;
        }
        if stands && on_its_way.due > self.now {
            return;
        }
        if stands && on_its_way.pressed < PRESSES {
            on_its_way.pressed += 1;
            on_its_way.due = self.now + TAKES;
            // A write that fails leaves the question standing, and the end of the run tells why.
            drop(self.io.write(on_its_way.keys.clone()));
            return;
        }
        let Answering { client, pressed, .. } = self.answering.take().expect("it was just looked at");
        match (stands, pressed) {
            (true, _) => client.refuse("not_taken", "the agent does not take the answer: attach and look"),
            (false, 0) => client.refuse("stale_answer", "the agent asks something else by now: look again"),
            (false, _) => client.ok(&Done {}),
        }
    }

    /// When [`Self::step_answer`] is wanted next.
    pub(super) fn answer_deadline(&self) -> Option<Duration> {
        self.answering.as_ref().map(|a| a.due)
    }
}
