//! When a limit ends, from an agent's words: `12:53am (UTC)`, `Nov 21st, 2026 12:50 AM`, `3pm (Europe/Berlin)`.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// Reads a time of day or a date with one; a time of day is the next one after `now`. Without a zone it is the local
/// one: agents format for the person in front of them.
pub(crate) fn parse(words: &str, now: Timestamp) -> Option<Timestamp> {
    let zone = match words.split_once('(') {
        Some((_, rest)) => TimeZone::get(rest.trim_end().trim_end_matches(')')).ok()?,
        None => TimeZone::system(),
    };
    let words = words.split('(').next().unwrap_or(words);
    let tokens: Vec<String> = words
        .split([' ', ',', '\u{202f}', '\u{a0}'])
        .map(|t| t.trim_end_matches('.').to_ascii_lowercase())
        .filter(|t| !t.is_empty() && t != "at")
        .collect();
    let time = time(&tokens)?;
    if let Some(date) = date(&tokens, now, &zone) {
        return date.to_datetime(time).to_zoned(zone).ok().map(|z| z.timestamp());
    }
    let here = now.to_zoned(zone);
    let today = here.date().to_datetime(time).to_zoned(here.time_zone().clone()).ok()?;
    let next = if today.timestamp() > now { today } else { today.checked_add(1.day()).ok()? };
    Some(next.timestamp())
}

fn time(tokens: &[String]) -> Option<Time> {
    tokens.iter().enumerate().find_map(|(i, token)| {
        let half = |t: &str| if t.ends_with("am") { Some(0) } else { t.ends_with("pm").then_some(12) };
        let (digits, plus) = match half(token) {
            Some(plus) => (&token[..token.len() - 2], Some(plus)),
            None => (token.as_str(), tokens.get(i + 1).and_then(|t| half(t).filter(|_| t.len() == 2))),
        };
        let (hour, minute) = match digits.split_once(':') {
            Some((h, m)) => (h.parse::<i8>().ok()?, m.parse::<i8>().ok()?),
            None => (plus.and_then(|_| digits.parse::<i8>().ok())?, 0),
        };
        let hour = match plus {
            Some(plus) => hour % 12 + plus,
            None => hour,
        };
        Time::new(hour, minute, 0, 0).ok()
    })
}

fn date(tokens: &[String], now: Timestamp, zone: &TimeZone) -> Option<Date> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let (i, month) = tokens.iter().enumerate().find_map(|(i, t)| {
        let m = MONTHS.iter().position(|m| t.starts_with(m))?;
        Some((i, i8::try_from(m + 1).ok()?))
    })?;
    let digits: String = tokens.get(i + 1)?.chars().take_while(char::is_ascii_digit).collect();
    let this_year = now.to_zoned(zone.clone()).year();
    let year = tokens.get(i + 2).filter(|t| t.len() == 4).and_then(|t| t.parse().ok()).unwrap_or(this_year);
    Date::new(year, month, digits.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(words: &str, now: &str) -> Option<String> {
        parse(words, now.parse().unwrap()).map(|t| t.to_string())
    }

    #[test]
    fn a_time_of_day_is_the_next_one() {
        assert_eq!(at("12:53am (UTC)", "2026-11-20T23:50:00Z").as_deref(), Some("2026-11-21T00:53:00Z"));
        assert_eq!(at("3pm (UTC)", "2026-11-20T12:00:00Z").as_deref(), Some("2026-11-20T15:00:00Z"));
        assert_eq!(at("3pm (Europe/Berlin)", "2026-11-20T12:00:00Z").as_deref(), Some("2026-11-20T14:00:00Z"));
    }

    #[test]
    fn a_date_is_taken_as_it_stands() {
        assert_eq!(
            at("Nov 21st, 2026 12:50 AM (UTC)", "2026-11-20T23:50:00Z").as_deref(),
            Some("2026-11-21T00:50:00Z")
        );
        assert_eq!(at("Nov 24 at 3am (UTC)", "2026-11-20T23:50:00Z").as_deref(), Some("2026-11-24T03:00:00Z"));
    }

    #[test]
    fn words_that_are_no_time_are_none() {
        assert_eq!(at("soon", "2026-11-20T23:50:00Z"), None);
        assert_eq!(at("", "2026-11-20T23:50:00Z"), None);
    }
}
