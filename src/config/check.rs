//! Reading one file strictly: every key must be known, and a mistake says where it stands.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Agent, Config};
use crate::linux;

/// What is wrong with a configuration file, in one line.
#[derive(Debug)]
pub struct ConfigError {
    file: Option<PathBuf>,
    line: Option<usize>,
    message: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

impl ConfigError {
    pub(super) fn within(mut self, file: &Path) -> Self {
        self.file.get_or_insert_with(|| file.to_owned());
        self
    }
}

/// Longest file that is read; a person's has a few hundred bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads `file` into a table whose every key is known; a missing file is an empty table.
pub(super) fn read(file: &Path, only: Option<&[&str]>) -> Result<Table, ConfigError> {
    let text = match linux::read_regular(file, MAX_BYTES) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Table::new()),
        Err(e) => return Err(ConfigError { file: Some(file.to_owned()), line: None, message: e.to_string() }),
    };
    parse(&text, only).map_err(|e| e.within(file))
}

fn parse(text: &str, only: Option<&[&str]>) -> Result<Table, ConfigError> {
    let line_of = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
    let at = |offset: Option<usize>, message: String| ConfigError { file: None, line: offset.map(line_of), message };
    let from_toml =
        |e: toml::de::Error| at(e.span().map(|s| s.start), e.message().lines().next().unwrap_or_default().to_owned());

    let spans = toml::de::DeTable::parse(text).map_err(from_toml)?;
    if let (Some(only), Some(key)) =
        (only, spans.get_ref().keys().find(|k| only.is_some_and(|o| !o.contains(&k.get_ref().as_ref()))))
    {
        let message =
            format!("`{}` belongs into config.toml; a project file may hold {}", key.get_ref(), only.join(", "));
        return Err(at(Some(key.span().start), message));
    }
    let mut unknown: Option<Vec<String>> = None;
    let _: Config = serde_ignored::deserialize(toml::Deserializer::parse(text).map_err(from_toml)?, |path| {
        unknown.get_or_insert_with(|| segments(&path));
    })
    .map_err(from_toml)?;
    if let Some(path) = unknown {
        return Err(at(offset_of(spans.get_ref(), &path), unknown_key(&path)));
    }
    text.parse().map_err(from_toml)
}

fn segments(path: &serde_ignored::Path<'_>) -> Vec<String> {
    use serde_ignored::Path as P;
    match path {
        P::Root => Vec::new(),
        P::Map { parent, key } => {
            let mut up = segments(parent);
            up.push(key.clone());
            up
        }
        P::Seq { parent, .. } | P::Some { parent } | P::NewtypeStruct { parent } | P::NewtypeVariant { parent } => {
            segments(parent)
        }
    }
}

fn offset_of(table: &toml::de::DeTable<'_>, path: &[String]) -> Option<usize> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(k, _)| k.get_ref().as_ref() == first)?;
    match (rest, value.get_ref()) {
        ([_, ..], toml::de::DeValue::Table(inner)) => offset_of(inner, rest),
        _ => Some(key.span().start),
    }
}

fn unknown_key(path: &[String]) -> String {
    let (last, parents) = path.split_last().expect("an ignored key has a name");
    let known = known_keys(parents);
    let near = known
        .iter()
        .map(|k| (strsim::jaro_winkler(last, k), k))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| format!(", the nearest is `{k}`"))
        .unwrap_or_else(|| format!("; known here: {}", known.join(", ")));
    format!("unknown key `{}`{near}", path.join("."))
}

/// The keys that may stand below `parents`: those of the defaults, which hold every key.
fn known_keys(parents: &[String]) -> Vec<String> {
    let mut table = Table::try_from(Config::default()).expect("the defaults are plain values");
    for parent in parents {
        table = match table.remove(parent) {
            Some(Value::Table(inner)) => inner,
            _ => Table::try_from(Agent::default()).expect("the defaults are plain values"),
        };
    }
    table.into_iter().map(|(k, _)| k).collect()
}

/// Lays `ORCHWRAP_<SECTION>_<KEY>` over the table; other variables with our prefix mean something else.
pub(super) fn overlay_vars(table: &mut Table, vars: impl Iterator<Item = (String, String)>) {
    let defaults = Table::try_from(Config::default()).expect("the defaults are plain values");
    for (name, text) in vars {
        let Some(rest) = name.strip_prefix("ORCHWRAP_").map(str::to_lowercase) else { continue };
        let Some((section, key)) = rest.split_once('_') else { continue };
        let Some(old) = defaults.get(section).and_then(|s| s.get(key)) else { continue };
        let value = match old {
            Value::String(_) => Value::String(text),
            // Numbers and lists are written as in the file.
            _ => format!("v = {text}")
                .parse::<Table>()
                .ok()
                .and_then(|mut t| t.remove("v"))
                .unwrap_or(Value::String(text)),
        };
        if let Value::Table(inner) = table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
            inner.insert(key.to_owned(), value);
        }
    }
}

/// Turns a checked table into the configuration; only a variable's value can still be wrong here.
pub(super) fn decode(table: Table) -> Result<Config, ConfigError> {
    table.try_into().map_err(|e: toml::de::Error| ConfigError {
        file: None,
        line: None,
        message: e.message().to_owned(),
    })
}
