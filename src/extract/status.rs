//! OSC 7501, the Program Status Protocol (`status-7501/1`): the state of a program, in its own words, in the stream.

use base64::Engine as _;

use crate::extract::event::{AskKind, FailReason, Source};
use crate::extract::signal::{Claim, Signal};

/// Name by which packs ask for this witness.
pub(crate) const PROTOCOL: &str = "status-7501/1";

/// What a report says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Status {
    /// One of the states that mean something to a turn.
    Says(Signal),
    /// The program takes its record back: it is about to end.
    Clear,
}

/// Reads the payload after `7501;`; queries, unknown states and malformed reports are nothing.
pub(crate) fn parse(payload: &[u8]) -> Option<Status> {
    let clean: String = payload.iter().filter(|b| **b >= 0x20 && **b < 0x7f).map(|b| char::from(*b)).collect();
    let (mut state, mut kind, mut msg) = (None, None, None);
    for field in clean.split(':') {
        match field.split_once('=') {
            Some(("state", v)) => state = Some(v),
            Some(("kind", v)) => kind = Some(v),
            Some(("msg", v)) => msg = decode(v),
            _ => {}
        }
    }
    let claim = match state? {
        "idle" => Claim::Idle,
        "working" => Claim::Working,
        "done" => Claim::TurnDone { answer: None },
        "error" => Claim::TurnFailed { reason: FailReason::Other, message: msg.unwrap_or_default() },
        // Nobody can answer a request for credentials by keys: the turn has failed.
        "blocked" if kind == Some("auth") => Claim::TurnFailed {
            reason: FailReason::Auth,
            message: msg.unwrap_or_else(|| "credentials are wanted".into()),
        },
        "blocked" => Claim::Asked {
            kind: if kind == Some("question") { AskKind::Question } else { AskKind::Permission },
            tool: None,
            text: msg.unwrap_or_default(),
            options: Vec::new(),
            exact: false,
        },
        "clear" => return Some(Status::Clear),
        _ => return None,
    };
    Some(Status::Says(Signal { source: Source::Osc, rule: PROTOCOL.to_owned(), claim }))
}

fn decode(base64: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.chars().filter(|c| !c.is_control() || *c == '\n').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(payload: &str) -> Option<Claim> {
        match parse(payload.as_bytes())? {
            Status::Says(s) => Some(s.claim),
            Status::Clear => None,
        }
    }

    #[test]
    fn reports_become_claims() {
        assert_eq!(claim("state=idle:app=x"), Some(Claim::Idle));
        assert_eq!(claim("state=done"), Some(Claim::TurnDone { answer: None }));
        let asked = claim("state=blocked:kind=permission:msg=YXBwcm92ZQ==");
        assert!(matches!(asked, Some(Claim::Asked { kind: AskKind::Permission, text, .. }) if text == "approve"));
        let auth = claim("state=blocked:kind=auth");
        assert!(matches!(auth, Some(Claim::TurnFailed { reason: FailReason::Auth, .. })));
        assert_eq!(parse(b"state=clear"), Some(Status::Clear));
    }

    #[test]
    fn queries_and_unknown_states_are_nothing() {
        for none in ["?", "", "state=dancing", "app=x"] {
            assert_eq!(parse(none.as_bytes()), None, "{none}");
        }
    }
}
