//! Which files a gate rests on, by their names and by its own words. Pure.

use regex::RegexSet;

use crate::config::Gate;

/// The files that the gates of one task rest on.
#[derive(Debug, Clone)]
pub struct Watch {
    watched: Globs,
    protected: Globs,
    named: Vec<String>,
}

impl Watch {
    /// Those of `lines`, which run in the folder `prefix` below the top.
    pub fn new(gate: &Gate, lines: &[String], prefix: &str) -> Self {
        let (watched, protected) = (Globs::new(&gate.watch), Globs::new(&gate.protect));
        Self { watched, protected, named: named_in(lines, prefix) }
    }

    /// Whether a gate obviously rests on the file.
    pub fn rests_on(&self, path: &str) -> bool {
        self.is_protected(path) || self.watched.matches(path) || self.named.iter().any(|named| named == path)
    }

    /// Whether the gates run on the file as it was before the agent began.
    pub fn is_protected(&self, path: &str) -> bool {
        self.protected.matches(path)
    }
}

/// Whether a change of a file of this name leaves what a gate runs as it was: in a package manifest with scripts, only
/// those count.
pub fn is_harmless(path: &str, old: &[u8], new: &[u8]) -> bool {
    let scripts = |text: &[u8]| -> Option<serde_json::Value> {
        serde_json::from_slice::<serde_json::Value>(text).ok().map(|v| v["scripts"].clone())
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    name == "package.json" && matches!((scripts(old), scripts(new)), (Some(old), Some(new)) if old == new)
}

/// `a, b and 3 more`.
pub fn summary(paths: &[String]) -> String {
    const SHOWN: usize = 8;
    match paths.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{} and {more} more", paths[..SHOWN].join(", ")),
        _ => paths.join(", "),
    }
}

/// Patterns of paths, as in `.gitignore`: one without a slash holds at any depth, `**` stands for any folders.
#[derive(Debug, Clone)]
pub struct Globs(RegexSet);

impl Globs {
    /// Reads patterns; every text is one.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Self {
        let patterns: Vec<_> = patterns.iter().map(|p| to_regex(p.as_ref())).collect();
        // Only too many of them can be refused; then nothing matches, which is what no patterns mean.
        Self(RegexSet::new(patterns).unwrap_or_else(|_| RegexSet::empty()))
    }

    /// Whether the path, relative to the top, fits one of them.
    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }
}

fn to_regex(pattern: &str) -> String {
    let mut rest = pattern.strip_prefix("./").unwrap_or(pattern);
    let anchored = rest.trim_end_matches('/').contains('/');
    rest = rest.strip_prefix('/').unwrap_or(rest);
    let mut text = String::from(if anchored { "(?s)^" } else { "(?s)^(?:.*/)?" });
    let folder = rest.ends_with('/');
    while let Some(c) = rest.chars().next() {
        let (taken, part) = match c {
            '*' if rest.starts_with("**/") => (3, "(?:.*/)?".to_owned()),
            '*' if rest.starts_with("**") => (2, ".*".to_owned()),
            '*' => (1, "[^/]*".to_owned()),
            '?' => (1, "[^/]".to_owned()),
            c => (c.len_utf8(), regex::escape(&rest[..c.len_utf8()])),
        };
        text.push_str(&part);
        rest = &rest[taken..];
    }
    text.push_str(if folder { ".*$" } else { "$" });
    text
}

/// The files that gate lines name, as they would stand below the top: `prefix` is the folder they run in.
pub fn named_in(lines: &[String], prefix: &str) -> Vec<String> {
    let mut named = Vec::new();
    for line in lines {
        let words = shlex::split(line).unwrap_or_else(|| line.split_whitespace().map(str::to_owned).collect());
        for word in words {
            // `file::test`, `file:12` and `--flag=file` name a file too.
            let word = word.rsplit('=').next().unwrap_or_default();
            let word = word.split(':').next().unwrap_or_default().trim_matches(|c| ";&|()<>".contains(c));
            if let Some(path) = below(prefix, word)
                && !named.contains(&path)
            {
                named.push(path);
            }
        }
    }
    named
}

/// `word` taken from `prefix`, without `.` and `..`; none where it leads out or names no file.
fn below(prefix: &str, word: &str) -> Option<String> {
    if word.is_empty() || word.starts_with(['/', '-', '$', '~']) {
        return None;
    }
    let mut parts: Vec<&str> = prefix.split('/').filter(|p| !p.is_empty()).collect();
    for part in word.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_read_as_in_gitignore() {
        let yes = [
            ("tests/**", "tests/a/b.rs"),
            ("**/tests/**", "tests/a.rs"),
            ("**/tests/**", "a/tests/b/c.rs"),
            ("test_*", "a/test_x.py"),
            ("*.test.*", "web/x.test.ts"),
            ("Makefile", "sub/Makefile"),
            ("/Makefile", "Makefile"),
            ("ci/", "ci/deep/run.sh"),
            ("a?c.(x)", "abc.(x)"),
        ];
        for (pattern, path) in yes {
            assert!(Globs::new(&[pattern]).matches(path), "{pattern} {path}");
        }
        let no = [
            ("tests/**", "a/tests/b.rs"),
            ("tests/**", "tests"),
            ("/Makefile", "sub/Makefile"),
            ("*.rs", "a.rsx"),
            ("a/*.rs", "a/b/c.rs"),
            ("test_*", "test_x/file"),
        ];
        for (pattern, path) in no {
            assert!(!Globs::new(&[pattern]).matches(path), "{pattern} {path}");
        }
        assert!(!Globs::new::<&str>(&[]).matches("x"));
    }

    #[test]
    fn t04_a_gate_names_the_scripts_it_runs() {
        let lines =
            ["./ci.sh && sh -c tests/run; pytest t/x.py::test_a --config=cfg.ini".to_owned(), "../up.sh".into()];
        let named = named_in(&lines, "sub/");
        for path in ["sub/ci.sh", "sub/tests/run", "sub/t/x.py", "sub/cfg.ini", "up.sh"] {
            assert!(named.iter().any(|n| n == path), "{path}: {named:?}");
        }
        assert_eq!(named_in(&["cat /etc/passwd . $HOME ~ -q ../../out".into()], "sub"), ["sub/cat", "sub"]);
    }

    #[test]
    fn of_a_manifest_only_the_scripts_count() {
        let manifest = |test: &str, dep: &str| {
            format!(r#"{{"scripts":{{"test":"{test}"}},"dependencies":{{"a":"{dep}"}}}}"#).into_bytes()
        };
        assert!(is_harmless("web/package.json", &manifest("jest", "1"), &manifest("jest", "2")));
        assert!(!is_harmless("package.json", &manifest("jest", "1"), &manifest("true", "1")));
        assert!(!is_harmless("package.json", b"{", &manifest("jest", "1")));
        assert!(!is_harmless("Makefile", b"{}", b"{}"));
    }
}
