//! When a session's process may be started again (F12): back-off with jitter, then a breaker. Pure.

use std::time::Duration;

/// A run that ends sooner than this after its start counts as a failed start.
pub const QUICK_DEATH: Duration = Duration::from_secs(10);

/// Failed starts in a row that open the breaker: with the delays below, half a minute of trying.
pub const OPEN_AFTER: u32 = 5;

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The memory of one seat's starts. Times are since boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    not_before: Duration,
    reason: Option<String>,
}

impl Breaker {
    /// Notes that a run ended: `lived` after its start, at `now`; `jitter` is a random number in 0..1.
    pub fn ended(&mut self, lived: Duration, why: &str, now: Duration, jitter: f64) {
        if lived >= QUICK_DEATH {
            self.failures = 0;
        }
        self.failures += 1;
        let doublings = self.failures.saturating_sub(1).min(16);
        let delay = FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY);
        // Half to one and a half times: seats that died together do not come back together.
        self.not_before = now + delay.mul_f64(0.5 + jitter.clamp(0.0, 1.0));
        self.reason = Some(why.to_owned());
    }

    /// Why the seat is set aside, once it has failed to start too often in a row.
    pub fn open(&self) -> Option<&str> {
        (self.failures >= OPEN_AFTER).then(|| self.reason.as_deref().unwrap_or("its process ends at once"))
    }

    /// When the next start may be tried; never, while open.
    pub fn next_start(&self) -> Option<Duration> {
        self.open().is_none().then_some(self.not_before)
    }

    /// Forgets everything: a person said `pool restart`.
    pub fn close(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(50);

    #[test]
    fn f12_delays_grow_and_then_the_breaker_opens_with_the_last_reason() {
        let mut b = Breaker::default();
        let mut last = Duration::ZERO;
        for n in 1..OPEN_AFTER {
            b.ended(QUICK, "exit 1", Duration::ZERO, 0.5);
            let next = b.next_start().expect("still closed");
            assert!(next > last, "start {n} waits longer than the one before");
            last = next;
        }
        b.ended(QUICK, "exit 127", Duration::ZERO, 0.5);
        assert_eq!((b.open(), b.next_start()), (Some("exit 127"), None));
        b.close();
        assert_eq!(b.next_start(), Some(Duration::ZERO));
    }

    #[test]
    fn a_run_that_lived_starts_the_count_anew() {
        let mut b = Breaker::default();
        for _ in 0..20 {
            b.ended(Duration::from_secs(3600), "signal 9", Duration::ZERO, 1.0);
            assert_eq!(b.next_start(), Some(FIRST_DELAY.mul_f64(1.5)));
        }
    }

    #[test]
    fn no_delay_is_longer_than_the_longest() {
        let mut b = Breaker::default();
        for _ in 0..OPEN_AFTER - 1 {
            b.ended(QUICK, "x", Duration::ZERO, 1.0);
        }
        assert!(b.next_start().unwrap() <= LONGEST_DELAY.mul_f64(1.5));
    }
}
