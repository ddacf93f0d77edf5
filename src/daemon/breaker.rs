//! When a session's process may be started again (F12): back-off with jitter, then a breaker. Pure.

use std::time::Duration;

/// A run that ends sooner than this after its start counts as a failed start.
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

/// Returns the failed starts in a row, one more process having ended after it `lived` so long.
pub fn count(before: u32, lived: Duration) -> u32 {
    if lived >= QUICK_DEATH { 1 } else { before.saturating_add(1) }
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
            failures = count(failures, Duration::from_millis(50));
            let Next::StartAfter(delay) = next(failures, 0.5) else { panic!("set aside after {failures}") };
            assert!(delay > last);
            last = delay;
        }
        assert_eq!(next(count(failures, Duration::ZERO), 0.5), Next::SetAside);
    }

    #[test]
    fn a_process_that_lived_starts_the_count_anew() {
        assert_eq!(count(4, Duration::from_secs(3600)), 1);
        assert_eq!(next(1, 1.0), Next::StartAfter(FIRST_DELAY.mul_f64(1.5)));
    }
}
