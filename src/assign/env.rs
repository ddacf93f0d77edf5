//! The environment of an agent: what it is made of, what may be in it, and a hash of the whole context.
//!
//! Pure but for [`read`]. Values are secrets: no error and no log of this module shows one (T19, T20).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Names and values, in the order of names.
pub type Env = BTreeMap<OsString, OsString>;

/// Longest `NAME=value` that the kernel accepts for one string (MAX_ARG_STRLEN), its NUL included.
pub const MAX_ENTRY_BYTES: usize = 128 * 1024;

/// Most bytes of a whole environment: half of what Linux grants arguments and environment with an 8 MiB stack, so that
/// what a pane, an agent's launcher and its tools add still fits (F61).
pub const MAX_TOTAL_BYTES: usize = 1024 * 1024;

/// Who wrote an environment entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The local user, on the command line: everything well-formed passes, what is dangerous with a warning.
    Local,
    /// A file, NDJSON, REST or MCP: the deny-list of T18 holds.
    Foreign,
}

/// An environment entry that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// Not `[A-Za-z_][A-Za-z0-9_]*`.
    #[error(
        "{0:?} is no name of an environment variable: letters, digits and _ are allowed, not beginning with a digit"
    )]
    Name(String),
    /// A NUL in the value.
    #[error("the value of {0} contains a NUL character")]
    Value(String),
    /// One of ours.
    #[error("{0} is set by orchwrap itself; choose another name")]
    Ours(String),
    /// It decides what a program loads or runs, and does not come from the local user.
    #[error("{0} decides what programs load or run and is accepted from the local command line only")]
    Denied(String),
    /// One entry is too large for the kernel.
    #[error("{name} has {bytes} bytes; the kernel passes at most {MAX_ENTRY_BYTES} in one variable")]
    Entry {
        /// Its name.
        name: String,
        /// Name and value.
        bytes: usize,
    },
    /// All of it is too large.
    #[error("the environment has {bytes} bytes; at most {MAX_TOTAL_BYTES} can be passed to an agent")]
    Total {
        /// Names and values.
        bytes: usize,
    },
}

impl EnvError {
    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Entry { .. } | Self::Total { .. } => "env_too_large",
            Self::Denied(_) | Self::Ours(_) => "env_denied",
            Self::Name(_) | Self::Value(_) => "env_invalid",
        }
    }
}

/// Checks what a submitter wants in the environment; returns the names to warn about.
pub fn check(entries: &BTreeMap<String, String>, origin: Origin) -> Result<Vec<String>, EnvError> {
    let mut warnings = Vec::new();
    for (name, value) in entries {
        let first = name.bytes().next();
        let grammar = first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !grammar {
            return Err(EnvError::Name(name.clone()));
        }
        if value.contains('\0') {
            return Err(EnvError::Value(name.clone()));
        }
        if name.starts_with("ORCHWRAP_") {
            return Err(EnvError::Ours(name.clone()));
        }
        if is_poisonous(name) {
            match origin {
                Origin::Foreign => return Err(EnvError::Denied(name.clone())),
                Origin::Local => warnings.push(name.clone()),
            }
        }
    }
    check_size(entries.iter().map(|(k, v)| (k.len(), v.len(), k.as_str())))?;
    Ok(warnings)
}

/// Checks that the kernel will take a whole environment (F61).
pub fn check_fits(env: &Env) -> Result<(), EnvError> {
    let names: Vec<_> = env.iter().map(|(k, v)| (k.len(), v.len(), k.to_string_lossy())).collect();
    check_size(names.iter().map(|(k, v, name)| (*k, *v, &**name)))
}

fn check_size<'a>(entries: impl Iterator<Item = (usize, usize, &'a str)>) -> Result<(), EnvError> {
    let mut total = 0;
    for (name_len, value_len, name) in entries {
        let bytes = name_len + value_len + 2;
        if bytes > MAX_ENTRY_BYTES {
            return Err(EnvError::Entry { name: name.to_owned(), bytes });
        }
        total += bytes;
    }
    if total > MAX_TOTAL_BYTES { Err(EnvError::Total { bytes: total }) } else { Ok(()) }
}

/// Whether a variable decides what programs load, run or talk to (T18).
pub fn is_poisonous(name: &str) -> bool {
    const EXACT: [&str; 37] = [
        "PATH",
        "IFS",
        "ENV",
        "SHELL",
        "HOME",
        "TMPDIR",
        "CDPATH",
        "BASH_ENV",
        "SHELLOPTS",
        "BASHOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "ZDOTDIR",
        "FPATH",
        "EDITOR",
        "VISUAL",
        "PAGER",
        "BROWSER",
        "LESSOPEN",
        "LESSCLOSE",
        "GCONV_PATH",
        "LOCPATH",
        "NLSPATH",
        "HOSTALIASES",
        "RESOLV_HOST_CONF",
        "RES_OPTIONS",
        "GETCONF_DIR",
        "MALLOC_TRACE",
        "RUSTC_WRAPPER",
        "RUSTC",
        "RUSTFLAGS",
        "CARGO_HOME",
        "CLASSPATH",
        "MAKEFLAGS",
        "CC",
        "CXX",
        "LOGNAME",
    ];
    const PREFIX: [&str; 24] = [
        "LD_",
        "DYLD_",
        "GIT_",
        "SSH_",
        "BASH_FUNC_",
        "NODE_",
        "NPM_CONFIG_",
        "npm_config_",
        "PYTHON",
        "PERL",
        "RUBY",
        "GEM_",
        "BUNDLE_",
        "JAVA_",
        "JDK_JAVA_",
        "_JAVA_",
        "GLIBC_TUNABLES",
        "XDG_",
        "BUN_",
        "DENO_",
        "PIP_",
        "UV_",
        "SSL_CERT_",
        "CURL_",
    ];
    let upper = name.to_ascii_uppercase();
    EXACT.contains(&name)
        || PREFIX.iter().any(|p| name.starts_with(p))
        // Where an agent sends its traffic and its key, whoever makes it.
        || ["_BASE_URL", "_API_BASE", "_ENDPOINT", "_PROXY", "_API_URL"].iter().any(|s| upper.ends_with(s))
}

/// Whether a variable describes the terminal or wrapper the person sat in, which is not where the agent will run.
pub fn is_removed(name: &OsStr) -> bool {
    const EXACT: [&[u8]; 7] = [b"TERM", b"COLORTERM", b"STY", b"WINDOWID", b"SSH_TTY", b"COLUMNS", b"LINES"];
    const PREFIX: [&[u8]; 7] = [b"TERM_PROGRAM", b"TMUX", b"KITTY_", b"WEZTERM_", b"ITERM_", b"VTE_", b"ORCHWRAP_"];
    let name = name.as_bytes();
    EXACT.contains(&name) || PREFIX.iter().any(|p| name.starts_with(p))
}

/// Whether a shell changes a variable by merely starting, so that it says nothing about a context.
pub fn is_volatile(name: &OsStr) -> bool {
    [OsStr::new("_"), OsStr::new("SHLVL"), OsStr::new("PWD"), OsStr::new("OLDPWD")].contains(&name)
}

/// Returns the environment that a session's agents start from: the person's, without what belongs to their terminal and
/// without `unset`, which tells an agent that it runs inside an agent (`launch.unset` of the packs).
pub fn base(theirs: impl IntoIterator<Item = (OsString, OsString)>, unset: &[String]) -> Env {
    let removed = |name: &OsStr| is_removed(name) || is_volatile(name) || unset.iter().any(|u| name == OsStr::new(u));
    theirs.into_iter().filter(|(k, _)| !removed(k)).collect()
}

/// Adds what the task asks for, and says where it will be.
pub fn with_task(mut env: Env, task: &BTreeMap<String, String>, cwd: &Path) -> Env {
    env.extend(task.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))));
    env.insert("PWD".into(), cwd.into());
    env
}

/// Reads `NAME=value` records separated by NUL; what has no name is skipped.
pub fn parse(bytes: &[u8]) -> Env {
    bytes
        .split(|b| *b == 0)
        .filter_map(|record| {
            let at = record.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
            Some((OsString::from_vec(record[..at].to_vec()), OsString::from_vec(record[at + 1..].to_vec())))
        })
        .collect()
}

/// Writes the form that [`parse`] reads.
pub fn serialize<'a>(env: impl IntoIterator<Item = (&'a OsString, &'a OsString)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in env {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Reads an environment file.
pub fn read(path: &Path) -> std::io::Result<Env> {
    fs_err::read(path).map(|bytes| parse(&bytes))
}

/// Returns the hash of a context (hex sha256): two runs with the same one can do each other's work.
///
/// Covers the folder, the branch, the prerequisite lines and every variable but the volatile ones.
pub fn context_hash(cwd: &Path, branch: Option<&str>, prereqs: &[String], env: &Env) -> String {
    let mut hash = Sha256::new();
    // Each part with its length, so that no two different lists of parts read the same.
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(b"context 1");
    part(cwd.as_os_str().as_bytes());
    part(branch.map_or(b"", |b| b.as_bytes()));
    part(&(prereqs.len() as u64).to_le_bytes());
    prereqs.iter().for_each(|line| part(line.as_bytes()));
    for (name, value) in env.iter().filter(|(name, _)| !is_volatile(name)) {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn t18_what_loads_code_is_refused_from_afar_and_warned_about_at_home() {
        for name in
            ["PATH", "LD_PRELOAD", "BASH_ENV", "NODE_OPTIONS", "GIT_SSH_COMMAND", "ANTHROPIC_BASE_URL", "https_proxy"]
        {
            let entry = one(name, "x");
            assert_eq!(check(&entry, Origin::Foreign), Err(EnvError::Denied(name.into())));
            assert_eq!(check(&entry, Origin::Local), Ok(vec![name.to_owned()]));
        }
        assert_eq!(check(&one("RUST_LOG", "debug"), Origin::Foreign), Ok(vec![]));
    }

    #[test]
    fn names_have_a_grammar_and_ours_are_ours() {
        for bad in ["", "1A", "A-B", "A=B", "A B", "BASH_FUNC_x%%", "É"] {
            assert!(matches!(check(&one(bad, "x"), Origin::Local), Err(EnvError::Name(_))), "{bad:?}");
        }
        assert!(matches!(check(&one("ORCHWRAP_RUN", "x"), Origin::Local), Err(EnvError::Ours(_))));
        assert!(matches!(check(&one("A", "x\0y"), Origin::Local), Err(EnvError::Value(_))));
    }

    #[test]
    fn f61_too_large_is_refused_with_sizes_and_without_the_value() {
        let error = check(&one("BIG", &"x".repeat(MAX_ENTRY_BYTES)), Origin::Local).unwrap_err();
        assert_eq!(error, EnvError::Entry { name: "BIG".into(), bytes: MAX_ENTRY_BYTES + 5 });
        let many: Env = (0..20).map(|n| (format!("V{n}").into(), "x".repeat(60_000).into())).collect();
        assert!(matches!(check_fits(&many), Err(EnvError::Total { bytes }) if bytes > 1_200_000));
    }

    #[test]
    fn the_terminal_a_person_sat_in_is_left_behind() {
        let theirs = ["TERM", "TERM_PROGRAM_VERSION", "TMUX_PANE", "KITTY_WINDOW_ID", "INSIDE", "ORCHWRAP_RUN", "_"];
        let pairs = theirs.iter().chain(&["HOME", "TERMINFO"]).map(|k| (OsString::from(k), OsString::from("x")));
        let env = base(pairs, &["INSIDE".to_owned()]);
        assert_eq!(env.keys().collect::<Vec<_>>(), ["HOME", "TERMINFO"]);
    }

    #[test]
    fn the_file_form_comes_back_equal_also_with_odd_bytes() {
        let mut env: Env = [("A".into(), "1=2\n3".into()), ("B".into(), "".into())].into();
        env.insert("C".into(), OsString::from_vec(vec![0xff, 0xfe]));
        assert_eq!(parse(&serialize(&env)), env);
        assert_eq!(parse(b"=x\0novalue\0A=1"), [("A".into(), "1".into())].into());
    }

    #[test]
    fn the_hash_changes_with_each_part_and_not_with_volatile_variables() {
        let env: Env = [("A".into(), "1".into())].into();
        let of = |cwd: &str, branch, lines: &[&str], env: &Env| {
            context_hash(Path::new(cwd), branch, &lines.iter().map(|s| s.to_string()).collect::<Vec<_>>(), env)
        };
        let first = of("/a", Some("b"), &["c"], &env);
        for other in [
            of("/ab", Some(""), &["c"], &env),
            of("/a", None, &["c"], &env),
            of("/a", Some("b"), &[], &env),
            of("/a", Some("b"), &["c"], &Env::new()),
        ] {
            assert_ne!(first, other);
        }
        assert_eq!(first, of("/a", Some("b"), &["c"], &with_task(env.clone(), &BTreeMap::new(), Path::new("/a"))));
    }
}
