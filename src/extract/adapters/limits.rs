//! When a usage limit ends, in an agent's words.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

use crate::clock::Timestamp;

/// Returns the time in `resets 12:49am (UTC)`, `resets Nov 24, 3pm (Europe/Berlin)`, `try again at 3:05 PM`: the first
/// such time after `now`. A zone that is not named is taken for the machine's, as the agent does.
pub(crate) fn resets_at(message: &str, now: Timestamp) -> Option<Timestamp> {
    let lower = message.to_lowercase();
    let tail = ["resets ", "try again at "].iter().find_map(|cue| lower.split_once(cue)).map(|(_, tail)| tail)?;
    // The zone's name keeps its case: take it from the original, which has the same length in ASCII text.
    let zone = message
        .rsplit_once('(')
        .and_then(|(_, z)| z.split_once(')'))
        .and_then(|(name, _)| TimeZone::get(name).ok())
        .unwrap_or_else(TimeZone::system);
    let today = now.to_zoned(zone.clone()).date();
    let (day, tail) = match month_day(tail, today) {
        Some((day, tail)) => (Some(day), tail),
        None => (None, tail),
    };
    let time = clock(tail.trim_start_matches([',', ' ']).trim_start_matches("at ").trim_start())?;
    let at = |day: Date| day.to_datetime(time).to_zoned(zone.clone()).ok().map(|z| z.timestamp());
    match day {
        Some(day) => at(day),
        None => at(today).filter(|t| *t > now).or_else(|| at(today.tomorrow().ok()?)),
    }
}

/// `nov 24` or `nov 24th` at the start of `text`: the date in or after `today`'s year, and the rest.
fn month_day(text: &str, today: Date) -> Option<(Date, &str)> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let month = MONTHS.iter().position(|m| text.starts_with(m))?;
    let rest = text.trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim_start();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let day: i8 = rest[..digits].parse().ok()?;
    let rest = rest[digits..].trim_start_matches(|c: char| c.is_ascii_alphabetic());
    // A year may follow: `nov 24th, 2026 3:05 pm`.
    let after = rest.trim_start_matches([',', ' ']);
    let (year, rest) = match after.get(..4).and_then(|y| y.parse::<i16>().ok()) {
        Some(year) => (Some(year), &after[4..]),
        None => (None, rest),
    };
    let of = |year| Date::new(year, i8::try_from(month + 1).ok()?, day).ok();
    let date = match year {
        Some(year) => of(year)?,
        None => of(today.year()).filter(|d| *d >= today).or_else(|| of(today.year() + 1))?,
    };
    Some((date, rest))
}

/// `3pm`, `12:49am`, `3:05 pm` or `15:05` at the start of `text`.
fn clock(text: &str) -> Option<Time> {
    let end = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b':').count();
    let (hour, minute) = match text[..end].split_once(':') {
        Some((h, m)) => (h.parse::<i8>().ok()?, m.parse::<i8>().ok()?),
        None => (text[..end].parse::<i8>().ok()?, 0),
    };
    let half = text[end..].trim_start();
    let hour = if half.starts_with("pm") {
        hour % 12 + 12
    } else if half.starts_with("am") {
        hour % 12
    } else {
        hour
    };
    Time::new(hour, minute, 0, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_the_next_such_time() {
        let now: Timestamp = "2026-11-21T23:50:00Z".parse().unwrap();
        let at = |text| resets_at(text, now).map(|t| t.to_string());
        assert_eq!(at("You've hit your limit · resets 12:49am (UTC)").as_deref(), Some("2026-11-22T00:49:00Z"));
        assert_eq!(at("You've hit your limit · resets 11:55pm (UTC)").as_deref(), Some("2026-11-21T23:55:00Z"));
        assert_eq!(at("limit · resets Nov 24, 3pm (UTC)").as_deref(), Some("2026-11-24T15:00:00Z"));
        assert_eq!(at("limit · resets Jan 2 at 3pm (UTC)").as_deref(), Some("2027-01-02T15:00:00Z"));
        assert_eq!(at("nothing to see"), None);
    }
}
