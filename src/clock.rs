//! Time: wall-clock stamps for people, suspend-aware monotonic time for decisions.

use std::time::{Duration, Instant};

pub use jiff::Timestamp;

/// Returns the wall clock, for showing and for schedules only: it may jump (F64).
pub fn wall() -> Timestamp {
    Timestamp::now()
}

/// Returns the time since boot, suspended time included (`CLOCK_BOOTTIME`, F65): what leases and deadlines count in.
pub fn since_boot() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(t.tv_sec).expect("time since boot is never negative"),
        u32::try_from(t.tv_nsec).expect("nanoseconds are below 10^9"),
    )
}

/// What the times of a run count from. Suspended time counts too: a usage limit goes on while the machine sleeps (F65).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started(Duration);

/// Timers stand still while the machine sleeps, so nothing far away is waited for in one go.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Started {
    /// Counts from now.
    pub fn now() -> Self {
        Self(since_boot())
    }

    /// Returns the time since then.
    pub fn elapsed(self) -> Duration {
        since_boot().saturating_sub(self.0)
    }

    /// Returns when to look at the time again for what is due at `at`: then, or before.
    pub fn look_at(self, at: Duration) -> Instant {
        Instant::now() + at.saturating_sub(self.elapsed()).min(LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f65_run_time_goes_on_with_the_boot_clock_and_no_wait_is_longer_than_a_minute() {
        let slept = Started(since_boot().saturating_sub(Duration::from_secs(2)));
        assert!(slept.elapsed() >= Duration::from_secs(2));
        let now = Instant::now();
        assert!(slept.look_at(Duration::from_secs(1)) <= now + Duration::from_secs(1), "due");
        assert!(slept.look_at(Duration::from_secs(7200)) <= Instant::now() + LONGEST_WAIT);
    }
}
