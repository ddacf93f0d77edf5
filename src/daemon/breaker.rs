//! When a session's process may be started again (F12): back-off with jitter, then a breaker. Pure.

use std::time::Duration;

/// A run that ends by itself sooner than this after its start counts as a failed start.
pub const QUICK_DEATH: Duration = Duration::from_secs(10);

/// Failed starts in a row that open the breaker: with the delays below, half a minute of trying.
pub const OPEN_AFTER: u32 = 5;

const FIRST_DELAY: Duration = Duration::from_secs(1);

/// No start waits longer.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// What follows the end of a session's process that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start it again, after this long.
    StartAfter(Duration),
    /// Leave it until a person says so.
    SetAside,
}

/// How a session's process ended that nobody asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// How long it lived.
    pub lived: Duration,
    /// It had been ready for a prompt.
    pub was_ready: bool,
    /// Somebody else ended it: a signal that no crash makes, or its terminal or wrapper went away.
    pub killed: bool,
}

/// The signals by which processes are ended from outside: HUP, INT, KILL, TERM.
const OUTSIDE: [i32; 4] = [1, 2, 9, 15];

/// Whether an end with this `reason` and `signal` came from outside.
pub fn was_killed(reason: &str, signal: Option<i32>) -> bool {
    matches!(reason, "wrapper_lost" | "tmux_lost" | "hangup") || signal.is_some_and(|s| OUTSIDE.contains(&s))
}

/// Returns the failed starts in a row, one more process having ended so.
///
/// A start has succeeded once the process lived for a while, or was ready and then killed.
pub fn count(before: u32, end: End) -> u32 {
    if end.lived >= QUICK_DEATH || (end.was_ready && end.killed) { 1 } else { before.saturating_add(1) }
}

/// Returns what follows after so many `failures` in a row; `jitter` is a random number in 0..1.
pub fn next(failures: u32, jitter: f64) -> Next {
    if failures >= OPEN_AFTER {
        return Next::SetAside;
    }
    let doublings = failures.saturating_sub(1).min(16);
    let delay = FIRST_DELAY.saturating_mul(1 << doublings);
    // Half to one and a half times: seats that died together do not come back together.
    Next::StartAfter(delay.mul_f64(0.5 + jitter.clamp(0.0, 1.0)).min(LONGEST_DELAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f12_delays_grow_and_then_the_seat_is_set_aside() {
        let mut failures = 0;
        let mut last = Duration::ZERO;
        for _ in 1..OPEN_AFTER {
            failures = count(failures, End { lived: Duration::from_millis(50), ..End::default() });
            let Next::StartAfter(delay) = next(failures, 0.5) else { panic!("set aside after {failures}") };
            assert!(delay > last);
            last = delay;
        }
        assert_eq!(next(count(failures, End::default()), 0.5), Next::SetAside);
    }

    #[test]
    fn f12_only_a_process_that_was_ready_and_then_killed_from_outside_is_no_failed_start() {
        let end = |was_ready, killed| End { lived: Duration::from_secs(1), was_ready, killed };
        assert_eq!(count(4, end(true, true)), 1);
        assert_eq!(count(4, end(true, false)), 5, "it crashes at its first prompt");
        assert_eq!(count(4, end(false, true)), 5, "something ends it each time before it is ready");
        assert!(was_killed("signal", Some(9)) && was_killed("wrapper_lost", None) && was_killed("tmux_lost", None));
        assert!(!was_killed("signal", Some(11)) && !was_killed("exit", None));
    }

    #[test]
    fn a_process_that_lived_starts_the_count_anew() {
        assert_eq!(count(4, End { lived: Duration::from_secs(3600), ..End::default() }), 1);
        assert_eq!(next(1, 1.0), Next::StartAfter(FIRST_DELAY.mul_f64(1.5)));
    }
}
