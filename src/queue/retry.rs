//! When a failed attempt is tried again, and whether. Pure; the random number is an argument.

use std::time::Duration;

use crate::clock::Timestamp;

/// Delay before the second attempt.
const FIRST: Duration = Duration::from_secs(5);

/// The longest delay: an outage of hours is looked at this often.
const LONGEST: Duration = Duration::from_secs(600);

/// Shortest wait for a limit whose end is unknown or past: the agent itself said no a moment ago.
const LIMIT_FLOOR: Duration = Duration::from_secs(60);

/// Wait for a limit that does not say when it ends.
const LIMIT_UNKNOWN: Duration = Duration::from_secs(900);

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, then.
    Retry(Timestamp),
    /// That was the last one.
    GiveUp,
}

/// Returns what follows attempt number `charged` of `max` (F69); `jitter` is a random number in 0..1.
pub fn after_failure(charged: u32, max: u32, now: Timestamp, jitter: f64) -> Next {
    if charged >= max.max(1) { Next::GiveUp } else { Next::Retry(later(now, backoff(charged, jitter))) }
}

/// Returns the delay after that many failures: doubling, and half to one and a half times of it, so that tasks which
/// failed together do not come back together.
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST).mul_f64(0.5 + jitter.clamp(0.0, 1.0))
}

/// Returns until when a provider is parked that reached a limit: its reset with a little after it (F68).
pub fn parked_until(resets_at: Option<Timestamp>, now: Timestamp, jitter: f64) -> Timestamp {
    let spread = Duration::from_secs(30).mul_f64(jitter.clamp(0.0, 1.0));
    match resets_at {
        Some(at) => later(at, spread).max(later(now, LIMIT_FLOOR)),
        None => later(now, LIMIT_UNKNOWN + spread),
    }
}

fn later(t: Timestamp, by: Duration) -> Timestamp {
    t.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_are_bounded() {
        assert_eq!(backoff(1, 0.5), FIRST);
        assert_eq!(backoff(3, 0.5), FIRST * 4);
        assert_eq!(backoff(1000, 0.5), LONGEST);
        for jitter in [0.0, 0.3, 1.0, 7.0] {
            let delay = backoff(2, jitter);
            assert!(delay >= FIRST && delay <= FIRST * 3, "{delay:?}");
        }
    }

    #[test]
    fn f69_the_last_attempt_is_the_last() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(matches!(after_failure(1, 3, now, 0.0), Next::Retry(at) if at > now));
        assert_eq!(after_failure(3, 3, now, 0.0), Next::GiveUp);
        assert_eq!(after_failure(1, 0, now, 0.0), Next::GiveUp);
    }

    #[test]
    fn f68_a_limit_is_waited_for_and_never_hammered() {
        let now = Timestamp::UNIX_EPOCH;
        let hour = later(now, Duration::from_secs(3600));
        assert!(parked_until(Some(hour), now, 0.5) >= hour);
        assert!(parked_until(Some(now), now, 0.0) >= later(now, LIMIT_FLOOR));
        assert!(parked_until(None, now, 0.0) >= later(now, LIMIT_FLOOR));
    }
}
