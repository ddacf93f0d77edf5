//! What a line says: the event that a rule's groups make.

use crate::extract::event::{Body, MAX_TEXT_BYTES, capped};
use crate::extract::pattern::Says;

/// A longer link is none that anybody follows.
const MAX_URL_BYTES: usize = 2048;

/// Returns the event of `line` by a rule whose groups `group` tells; none if they hold nothing to tell.
pub(crate) fn body<'l>(rule: &str, says: Says, line: &'l str, group: impl Fn(&str) -> Option<&'l str>) -> Option<Body> {
    // A word where a number is expected stands for one.
    let count = |name: &str| group(name).map_or(0, |t| t.parse().unwrap_or(1));
    let owned = |name: &str| group(name).map(|t| t.trim().to_owned());
    let last = rule.rsplit('.').next().unwrap_or(rule);
    Some(match says {
        Says::Test => Body::TestResult {
            runner: group("runner").unwrap_or(last.split('-').next().unwrap_or(last)).to_owned(),
            passed: count("passed"),
            failed: count("failed"),
            skipped: count("skipped"),
        },
        Says::Url => url(group("url")?)?,
        Says::Commit => Body::Commit { sha: owned("sha")?, branch: owned("branch"), subject: owned("subject")? },
        Says::Usage => {
            let tokens = |name: &str| group(name).and_then(number).map(whole);
            let (input_tokens, output_tokens) = (tokens("input"), tokens("output"));
            let (cost_usd, context_used_percent) = (group("cost").and_then(number), group("context").and_then(number));
            if input_tokens.is_none() && output_tokens.is_none() && cost_usd.is_none() && context_used_percent.is_none()
            {
                return None;
            }
            Body::Usage { input_tokens, output_tokens, cost_usd, context_used_percent }
        }
        _ => Body::Error {
            message: capped(group("message").unwrap_or(line).trim().to_owned(), MAX_TEXT_BYTES).0,
            file: group("file").map(str::to_owned),
            line: group("line").and_then(|l| l.parse().ok()),
        },
    })
}

/// Returns the event of a link; none if it is not one that can be followed or told.
pub(crate) fn url(text: &str) -> Option<Body> {
    let known = ["https://", "http://", "file://"].iter().any(|scheme| text.starts_with(scheme));
    let plain = text.len() <= MAX_URL_BYTES && !text.contains(|c: char| c.is_control() || c.is_whitespace());
    (known && plain).then(|| Body::Url { url: text.to_owned() })
}

/// Reads `1,234`, `1.4k`, `2M`, `$0.012`.
fn number(text: &str) -> Option<f64> {
    let text = text.trim().trim_start_matches('$').replace(',', "");
    let (digits, factor) = match text.chars().last()? {
        'k' | 'K' => (&text[..text.len() - 1], 1e3),
        'm' | 'M' => (&text[..text.len() - 1], 1e6),
        _ => (text.as_str(), 1.0),
    };
    digits.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).map(|n| n * factor)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of tokens, not below zero")]
fn whole(n: f64) -> u64 {
    n.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(says: Says, groups: &[(&str, &'static str)]) -> Option<Body> {
        body("x.y-z", says, "line", |name| groups.iter().find(|(n, _)| *n == name).map(|(_, t)| *t))
    }

    #[test]
    fn numbers_are_read_as_agents_shorten_them() {
        let usage = made(Says::Usage, &[("input", "1.4k"), ("output", "1,034"), ("cost", "$0.0123")]).unwrap();
        let expected = Body::Usage {
            input_tokens: Some(1400),
            output_tokens: Some(1034),
            cost_usd: Some(0.0123),
            context_used_percent: None,
        };
        assert_eq!(usage, expected);
        assert_eq!(made(Says::Usage, &[("input", "many")]), None);
    }

    #[test]
    fn t7_a_link_that_a_terminal_would_obey_is_none() {
        assert!(url("https://example.org/a?b=c").is_some() && url("file:///tmp/x").is_some());
        assert!(url("javascript:alert(1)").is_none() && url("https://a b").is_none());
        assert!(url("https://a\u{1b}[2J").is_none() && url(&format!("https://{}", "a".repeat(3000))).is_none());
    }

    #[test]
    fn the_runner_is_the_last_part_of_the_rule_up_to_a_dash() {
        let test = made(Says::Test, &[("failed", "FAIL")]).unwrap();
        assert!(matches!(test, Body::TestResult { ref runner, failed: 1, passed: 0, .. } if runner == "y"), "{test:?}");
    }
}
