//! Points in time as people type them: `10m`, `2026-11-21T09:00`, `2026-11-21T09:00:00Z`.

use crate::clock::Timestamp;
use crate::config::Period;

/// Parses a time: a length of time before or after `now`, an RFC 3339 time, or a local date and time.
pub(super) fn parse(text: &str, now: Timestamp, past: bool) -> Result<Timestamp, String> {
    if let Ok(period) = text.trim_start_matches('+').parse::<Period>() {
        let d = jiff::SignedDuration::try_from(period.0).map_err(|e| e.to_string())?;
        let at = if past { now.checked_sub(d) } else { now.checked_add(d) };
        return at.map_err(|e| e.to_string());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let local: jiff::civil::DateTime = text
        .parse()
        .map_err(|_| format!("{text:?} is no time: write it like 10m, 2026-11-21T09:00 or 2026-11-21T09:00:00Z"))?;
    local.to_zoned(jiff::tz::TimeZone::system()).map(|z| z.timestamp()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_lengths_or_points() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        assert_eq!(parse("10m", now, true).unwrap().to_string(), "2026-11-21T09:50:00Z");
        assert_eq!(parse("+2h", now, false).unwrap().to_string(), "2026-11-21T12:00:00Z");
        assert_eq!(parse("2026-11-21T09:00:00Z", now, true).unwrap().to_string(), "2026-11-21T09:00:00Z");
        assert!(parse("2026-11-21T09:00", now, true).is_ok());
        assert!(parse("soon", now, true).unwrap_err().contains("write it like"));
    }
}
