//! A length of time as people write it: `30s`, `5m`, `2h 30m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time, written `90s`, `30m`, `2h`, `14 days`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub Duration);

/// A text that is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no length of time: write it like 90s, 30m or 2h")]
pub struct BadPeriod(String);

impl Period {
    /// A period of `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// The period in milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Period {
    type Err = BadPeriod;

    fn from_str(s: &str) -> Result<Self, BadPeriod> {
        let bad = || BadPeriod(s.to_owned());
        // A bare number is seconds, as for timeout(1) and sleep(1).
        if let Ok(seconds) = s.trim().parse() {
            return Ok(Self(Duration::from_secs(seconds)));
        }
        // Days have no fixed length in jiff's exact durations; to us one is 24 hours.
        if let Some(days) = ["days", "day", "d"].iter().find_map(|unit| s.trim().strip_suffix(unit)) {
            let days: u64 = days.trim().parse().map_err(|_| bad())?;
            return Ok(Self(Duration::from_secs(days.checked_mul(86_400).ok_or_else(bad)?)));
        }
        let d: jiff::SignedDuration = s.parse().map_err(|_| bad())?;
        Duration::try_from(d).map(Self).map_err(|_| bad())
    }
}

impl TryFrom<String> for Period {
    type Error = BadPeriod;

    fn try_from(s: String) -> Result<Self, BadPeriod> {
        s.parse()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(d) => write!(f, "{d:#}"),
            Err(_) => f.write_str("forever"),
        }
    }
}

impl From<Period> for String {
    fn from(p: Period) -> String {
        p.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_written_as_people_write_them() {
        for (text, secs) in [
            ("60", 60),
            ("90s", 90),
            ("30m", 1800),
            ("2h", 7200),
            ("2h 30m", 9000),
            ("14 days", 14 * 86_400),
            ("1d", 86_400),
        ] {
            assert_eq!(text.parse::<Period>().unwrap().0.as_secs(), secs, "{text}");
        }
        for bad in ["", "soon", "-5m", "-5", "d"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
        assert_eq!(Period::from_millis(5_400_000).to_string().parse::<Period>().unwrap().as_millis(), 5_400_000);
    }
}
