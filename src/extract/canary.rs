//! The canary: an agent newer than its pack was tested with is watched more closely during its first turns.
//!
//! What reports and status reports say is compared with what the rules of the screen see. The machine goes by its order of
//! trust either way; a disagreement means that rules no longer fit this version, and is told once instead of guessed away.

use std::time::Duration;

use crate::extract::rules::Level;
use crate::extract::signal::Claim;

/// How many turns are watched.
const TURNS: u32 = 3;
/// How long the screen may take to show what a better witness said.
const PATIENCE: Duration = Duration::from_secs(3);
/// A shorter turn may be over before a frame shows it.
const SHORTEST: Duration = Duration::from_secs(2);
/// How long an input box may stand while a better witness says that work goes on.
const STANDING: Duration = Duration::from_secs(10);

/// Something that a better witness said, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    rule: String,
    at: Duration,
}

/// What better witnesses say about the turn.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Story {
    /// Nothing yet.
    Silent,
    /// It is under way.
    Working(Told),
    /// It has ended, and began that long before.
    Ended(Told, Duration),
}

/// The canary of a run; see the module.
#[derive(Debug)]
pub(crate) struct Canary {
    left: u32,
    story: Story,
    /// What the screen shows as long as it says anything, by which rule and since when.
    level: Option<(bool, String, Duration)>,
    /// A frame of this turn showed it at work.
    shown: bool,
}

impl Canary {
    pub(crate) fn new() -> Self {
        Self { left: TURNS, story: Story::Silent, level: None, shown: false }
    }

    /// Takes what a report or a status report says.
    pub(crate) fn told(&mut self, claim: &Claim, rule: &str, now: Duration) {
        let told = || Told { rule: rule.to_owned(), at: now };
        match (claim, &self.story) {
            (Claim::Working | Claim::PromptTaken { .. }, Story::Silent | Story::Ended(..)) => {
                self.shown = self.level.as_ref().is_some_and(|(working, ..)| *working);
                self.story = Story::Working(told());
            }
            (
                Claim::TurnDone { .. } | Claim::TurnFailed { .. } | Claim::Interrupted | Claim::Idle,
                Story::Working(since),
            ) => {
                self.story = Story::Ended(told(), now.saturating_sub(since.at));
            }
            // Whoever waits for an answer is neither at work nor at rest.
            (Claim::Asked { .. } | Claim::Setup { .. } | Claim::Limit { .. }, _) => self.story = Story::Silent,
            _ => {}
        }
    }

    /// Takes what the screen shows.
    pub(crate) fn saw(&mut self, level: &Level, rule: &str, now: Duration) {
        let working = match level {
            Level::Working => true,
            Level::Idle => false,
            Level::Asked(_) | Level::Setup(_) => return self.level = None,
            Level::Unknown | Level::Hold => return,
        };
        self.shown |= working;
        match &mut self.level {
            Some((was, by, _)) if *was == working => rule.clone_into(by),
            _ => self.level = Some((working, rule.to_owned(), now)),
        }
    }

    /// When [`Self::tick`] is wanted.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match (&self.story, &self.level) {
            (Story::Ended(told, _), _) => Some(told.at + PATIENCE),
            (Story::Working(told), Some((false, _, since))) => Some(told.at.max(*since) + STANDING),
            _ => None,
        }
    }

    /// Takes the time; returns the disagreement, if there is one.
    pub(crate) fn tick(&mut self, now: Duration) -> Option<String> {
        if self.deadline().is_none_or(|due| due > now) {
            return None;
        }
        let said = match (&self.story, &self.level) {
            (Story::Ended(told, _), Some((true, rule, _))) => {
                Some(format!("{} told the end of the turn, and {rule} still sees it at work", told.rule))
            }
            (Story::Ended(told, _), None) => {
                Some(format!("{} told the end of the turn, and no rule sees the input box", told.rule))
            }
            (Story::Ended(told, lasted), Some(_)) if !self.shown && *lasted >= SHORTEST => {
                Some(format!("{} told a turn of {} s, and no rule saw it at work", told.rule, lasted.as_secs()))
            }
            (Story::Working(told), Some((false, rule, _))) => {
                Some(format!("{} told that a turn goes on, and {rule} sees the input box waiting", told.rule))
            }
            _ => None,
        };
        self.story = Story::Silent;
        self.left = self.left.saturating_sub(1);
        said
    }

    /// Whether there is nothing more to watch.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn done() -> Claim {
        Claim::TurnDone { answer: None }
    }

    #[test]
    fn witnesses_that_agree_are_not_mentioned_and_watched_no_longer_than_three_turns() {
        let mut c = Canary::new();
        for turn in 0..3 {
            let at = s(turn * 100);
            assert!(!c.is_over());
            c.told(&Claim::Working, "status.working", at);
            c.saw(&Level::Working, "x.spinner", at + s(1));
            c.told(&done(), "x.stop", at + s(20));
            c.saw(&Level::Idle, "x.ready", at + s(21));
            assert_eq!(c.tick(at + s(23)), None);
        }
        assert!(c.is_over());
    }

    #[test]
    fn a_spinner_that_stands_after_the_end_disagrees() {
        let mut c = Canary::new();
        c.told(&Claim::Working, "status.working", s(1));
        c.saw(&Level::Working, "x.spinner", s(1));
        c.told(&done(), "x.stop", s(5));
        assert_eq!(c.tick(s(7)), None, "it may take a moment");
        assert_eq!(c.tick(s(8)).unwrap(), "x.stop told the end of the turn, and x.spinner still sees it at work");
    }

    #[test]
    fn rules_that_see_nothing_any_more_disagree() {
        let mut c = Canary::new();
        c.saw(&Level::Idle, "x.ready", s(0));
        c.told(&Claim::PromptTaken { text: None }, "x.prompt", s(1));
        c.told(&done(), "x.stop", s(9));
        assert!(c.tick(s(12)).unwrap().contains("a turn of 8 s"));
        let mut c = Canary::new();
        c.told(&Claim::Working, "x.prompt", s(1));
        c.told(&done(), "x.stop", s(9));
        assert!(c.tick(s(12)).unwrap().contains("no rule sees the input box"));
    }

    #[test]
    fn an_input_box_that_stands_through_a_turn_disagrees_and_one_beside_a_question_does_not() {
        let mut c = Canary::new();
        c.saw(&Level::Idle, "x.ready", s(0));
        c.told(&Claim::Working, "status.working", s(1));
        assert_eq!(c.deadline(), Some(s(11)));
        assert!(c.tick(s(11)).unwrap().contains("x.ready sees the input box"));
        let mut c = Canary::new();
        c.saw(&Level::Idle, "x.ready", s(0));
        c.told(&Claim::Working, "status.working", s(1));
        let asked = Claim::Asked {
            kind: crate::extract::event::AskKind::Permission,
            tool: None,
            text: String::new(),
            options: vec![],
            exact: true,
        };
        c.told(&asked, "x.ask", s(2));
        assert_eq!(c.deadline(), None);
    }
}
