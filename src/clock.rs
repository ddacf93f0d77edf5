//! Time: wall-clock stamps for people, suspend-aware monotonic time for decisions.

use std::time::Duration;

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
