//! Secrets that must not reach a file: known values are covered before anything is written (T19).

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::extract::event::Body;

/// Shorter values are too common to be covered without harm.
const MIN_BYTES: usize = 8;
/// Words in the name of a variable whose value is a secret.
const NAMES: [&str; 6] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"];
/// Fields of an event itself whose values are from fixed lists: covering one would make the event unreadable, not safer.
/// Below, in what a tool is given, fields of these names are anybody's.
const FIXED_FIELDS: [&str; 7] = ["state", "was", "verdict", "reason", "kind", "hash", "code"];

/// Covers known secret values.
#[derive(Clone, Default)]
pub struct Mask {
    /// None where there is no secret: the usual direct run costs nothing.
    find: Option<AhoCorasick>,
    secrets: Vec<Vec<u8>>,
}

impl fmt::Debug for Mask {
    /// Never shows what it covers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mask").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

impl Mask {
    /// Covers the values of variables whose names look like those of secrets.
    pub fn of_env(env: &[(OsString, OsString)]) -> Self {
        let secret_name = |key: &OsString| {
            let key = key.to_string_lossy().to_ascii_uppercase();
            NAMES.iter().any(|word| key.contains(word))
        };
        Self::of(
            env.iter()
                .filter(|(k, v)| secret_name(k) && v.len() >= MIN_BYTES && !looks_like_path(v.as_bytes()))
                .map(|(_, v)| v.as_bytes().to_vec())
                .collect(),
        )
    }

    /// Covers one more value, whatever it is called.
    #[must_use]
    pub fn and(mut self, secret: &[u8]) -> Self {
        if secret.len() < MIN_BYTES {
            return self;
        }
        self.secrets.push(secret.to_vec());
        Self::of(self.secrets)
    }

    /// Covers these values.
    pub fn of(mut secrets: Vec<Vec<u8>>) -> Self {
        secrets.sort();
        secrets.dedup();
        let find = (!secrets.is_empty())
            .then(|| AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&secrets).ok())
            .flatten();
        Self { find, secrets }
    }

    /// Covers secrets in `bytes` with `*`, each by as many bytes as it has: offsets stay what they are.
    pub(crate) fn cover(&self, bytes: &mut [u8]) {
        let Some(find) = &self.find else { return };
        let hits: Vec<_> = find.find_iter(&*bytes).map(|m| m.range()).collect();
        for range in hits {
            bytes[range].fill(b'*');
        }
    }

    /// Covers secrets in a text.
    pub(crate) fn cover_text(&self, text: String) -> String {
        let mut bytes = text.into_bytes();
        self.cover(&mut bytes);
        // A secret that begins or ends inside a character would leave half of one behind.
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// How many bytes at the end of `bytes` may be the beginning of a secret whose rest is yet to come.
    pub(crate) fn held(&self, bytes: &[u8]) -> usize {
        let longest =
            |s: &Vec<u8>| (1..s.len().min(bytes.len() + 1)).rev().find(|n| bytes.ends_with(&s[..*n])).unwrap_or(0);
        self.secrets.iter().map(longest).max().unwrap_or(0)
    }

    /// Covers secrets in the texts of an event.
    pub(crate) fn cover_body(&self, body: Body) -> Body {
        if self.find.is_none() {
            return body;
        }
        let mut json = serde_json::to_value(&body).unwrap_or_default();
        if let Some(data) = json.get_mut("data") {
            self.cover_data(data);
        }
        // Only free texts are covered, so it reads back; where it does not, the text is worth less than the secret.
        serde_json::from_value(json).unwrap_or(Body::Note { code: "masked".into(), text: body.kind() })
    }

    fn cover_data(&self, data: &mut Value) {
        let Value::Object(map) = data else { return self.cover_json(data) };
        map.iter_mut().filter(|(key, _)| !FIXED_FIELDS.contains(&key.as_str())).for_each(|(_, v)| self.cover_json(v));
    }

    fn cover_json(&self, data: &mut Value) {
        match data {
            Value::String(text) => *text = self.cover_text(std::mem::take(text)),
            Value::Array(items) => items.iter_mut().for_each(|v| self.cover_json(v)),
            Value::Object(map) => map.values_mut().for_each(|v| self.cover_json(v)),
            _ => {}
        }
    }
}

/// `SSH_AUTH_KEY=/home/me/.ssh/id` names a file, and covering it would hide every path.
fn looks_like_path(value: &[u8]) -> bool {
    value.starts_with(b"/") || value.starts_with(b"~/") || value.starts_with(b"./")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t19_values_of_secret_variables_are_covered_and_others_are_not() {
        let env = [
            ("API_KEY", "sk-12345678"),
            ("HOME", "/home/somebody"),
            ("MY_TOKEN", "short"),
            ("K_TOKEN", "/run/key.file"),
        ];
        let env: Vec<(OsString, OsString)> = env.iter().map(|(k, v)| (k.into(), v.into())).collect();
        let mask = Mask::of_env(&env);
        let mut data = serde_json::json!({"text": "key sk-12345678 in /home/somebody", "state": "sk-12345678"});
        mask.cover_data(&mut data);
        assert_eq!(data["text"], "key *********** in /home/somebody");
        assert_eq!(data["state"], "sk-12345678");
    }

    #[test]
    fn t19_what_a_tool_is_given_is_covered_whatever_its_fields_are_called() {
        let mask = Mask::of(vec![b"sk-12345678".to_vec()]);
        let input = serde_json::json!({"code": "key=sk-12345678", "deep": [{"reason": "sk-12345678"}]});
        let body = Body::ToolStarted { id: Some("t".into()), name: "run".into(), input: Some(input), truncated: false };
        let Body::ToolStarted { input: Some(input), .. } = mask.cover_body(body) else { panic!("another event") };
        assert_eq!(input, serde_json::json!({"code": "key=***********", "deep": [{"reason": "***********"}]}));
    }

    #[test]
    fn the_beginning_of_a_secret_is_held_back() {
        let mask = Mask::of(vec![b"abcdefgh".to_vec(), b"xyz-xyz-".to_vec()]);
        assert_eq!(mask.held(b"..abc"), 3);
        assert_eq!(mask.held(b"..xyz-x"), 5);
        assert_eq!(mask.held(b"..abcdefgh"), 0);
        assert_eq!(mask.held(b""), 0);
    }
}
