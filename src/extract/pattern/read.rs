//! From the text of a pack file to a pack: one file over another, and a mistake with its place.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::extract::pattern::{PACK_VERSION, Pack};

/// A longer file is no pack (T29).
const MAX_FILE_BYTES: usize = 256 * 1024;

/// A pack file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {why}", file.display())]
pub struct PackError {
    /// The file.
    pub file: PathBuf,
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault in characters, from 1.
    pub column: usize,
    /// What is wrong and what was expected.
    pub why: String,
}

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PatternError {
    /// Where it begins, as its span tells.
    pub(crate) at: usize,
    /// What is wrong with it.
    pub(crate) why: String,
}

/// One file.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) file: PathBuf,
    pub(super) text: Cow<'static, str>,
}

/// The files that make a pack, each laid over those before it.
///
/// Places in them are counted through all of them, so that a place alone tells the file.
#[derive(Debug, Clone)]
pub(super) struct Layers(pub(super) Vec<Arc<Layer>>);

/// What a file says about itself before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heading {
    pub(super) id: Option<String>,
    pub(super) extends: Option<String>,
    /// Where `extends` stands.
    pub(super) at: usize,
}

impl Layers {
    pub(super) fn of(file: &Path, text: impl Into<Cow<'static, str>>) -> Self {
        Self(vec![Arc::new(Layer { file: file.to_owned(), text: text.into() })])
    }

    /// These files over `base`.
    pub(super) fn over(self, base: &Self) -> Self {
        Self(base.0.iter().cloned().chain(self.0).collect())
    }

    pub(super) fn without_last(&self) -> Self {
        Self(self.0[..self.0.len() - 1].to_vec())
    }

    /// Reads the pack; its patterns are not compiled.
    pub(super) fn pack(&self) -> Result<Pack, PackError> {
        let (mut merged, mut start) = (DeTable::new(), 0);
        let texts: Vec<String> = self.padded().collect();
        for (layer, text) in self.0.iter().zip(&texts) {
            if layer.text.len() > MAX_FILE_BYTES {
                return Err(self.error(start, format!("a pack has at most {} KiB", MAX_FILE_BYTES / 1024)));
            }
            let table = DeTable::parse(text).map_err(|e| self.toml_error(&e))?.into_inner();
            if start > 0 && table.get("id").is_some_and(|id| merged.get("id").is_some_and(|old| !same(old, id))) {
                disown(&mut merged);
            }
            lay(&mut merged, table);
            start += layer.text.len();
        }
        let whole = Spanned::new(0..start, merged);
        let mut pack = Pack::deserialize(toml::de::Deserializer::from(whole)).map_err(|e| self.toml_error(&e))?;
        if pack.version != PACK_VERSION {
            let why = format!("version {} is not supported; write version = {PACK_VERSION}", pack.version);
            return Err(self.error(self.last_start(), why));
        }
        pack.rules.retain(|r| !r.off);
        Ok(pack)
    }

    /// Reads the pack and tries its patterns.
    pub(super) fn checked(&self) -> Result<Pack, PackError> {
        let pack = self.pack()?;
        match crate::extract::rules::check(&pack).into_iter().next() {
            None => Ok(pack),
            Some(PatternError { at, why }) => Err(self.error(at, why)),
        }
    }

    /// Every fault that can be told at once: one of the form, or all of the patterns.
    pub(super) fn faults(&self) -> Vec<PackError> {
        match self.pack() {
            Err(e) => vec![e],
            Ok(pack) => {
                let faults = crate::extract::rules::check(&pack);
                faults.into_iter().map(|PatternError { at, why }| self.error(at, why)).collect()
            }
        }
    }

    /// What the last file says about itself.
    pub(super) fn heading(&self) -> Result<Heading, PackError> {
        let text = self.padded().last().unwrap_or_default();
        let table = DeTable::parse(&text).map_err(|e| self.toml_error(&e))?.into_inner();
        let string = |key: &str| match table.get(key).map(Spanned::get_ref) {
            Some(DeValue::String(s)) => Some(s.to_string()),
            _ => None,
        };
        let at = table.get("extends").map_or(self.last_start(), |v| v.span().start);
        Ok(Heading { id: string("id"), extends: string("extends"), at })
    }

    /// A fault at a place of these files.
    pub(super) fn error(&self, at: usize, why: String) -> PackError {
        let mut start = 0;
        for layer in &self.0 {
            let end = start + layer.text.len();
            if at < end || Arc::ptr_eq(layer, self.0.last().expect("there is a file")) {
                let before = layer.text.get(..at.saturating_sub(start).min(layer.text.len())).unwrap_or_default();
                let line_start = before.rfind('\n').map_or(0, |n| n + 1);
                return PackError {
                    file: layer.file.clone(),
                    line: before.matches('\n').count() + 1,
                    column: before[line_start..].chars().count() + 1,
                    why,
                };
            }
            start = end;
        }
        unreachable!("the last file takes every place")
    }

    fn toml_error(&self, e: &toml::de::Error) -> PackError {
        self.error(e.span().map_or(self.last_start(), |s| s.start), explained(e.message()))
    }

    fn last_start(&self) -> usize {
        self.0.iter().rev().skip(1).map(|l| l.text.len()).sum()
    }

    /// The texts, each behind as many blanks as the files before it have bytes.
    fn padded(&self) -> impl Iterator<Item = String> {
        self.0.iter().scan(0, |start, layer| {
            let text = " ".repeat(*start) + &layer.text;
            *start += layer.text.len();
            Some(text)
        })
    }
}

fn same(a: &Spanned<DeValue<'_>>, b: &Spanned<DeValue<'_>>) -> bool {
    matches!((a.get_ref(), b.get_ref()), (DeValue::String(a), DeValue::String(b)) if a == b)
}

/// A pack of another name takes over what its base knows, but not the program names that belong to the base.
fn disown(base: &mut DeTable<'_>) {
    if let Some(DeValue::Table(launch)) = base.get_mut("launch").map(Spanned::get_mut) {
        launch.remove("names");
    }
}

/// Lays `over` on `base`: tables key by key, rules by id, meanings of failures before those of the base; anything else
/// takes the place of what was there.
fn lay<'i>(base: &mut DeTable<'i>, over: DeTable<'i>) {
    for (key, value) in over {
        let name = key.get_ref().clone();
        let name: &str = &name;
        match (base.get_mut(name), value) {
            (Some(old), value) => {
                let span = value.span();
                match (old.get_mut(), value.into_inner()) {
                    (DeValue::Table(old), DeValue::Table(new)) => lay(old, new),
                    (DeValue::Array(old), DeValue::Array(new)) if name == "rule" => {
                        *old = by_id(old.iter().cloned().collect(), new);
                    }
                    (DeValue::Array(old), DeValue::Array(new)) if name == "failure" => {
                        *old = new.into_iter().chain(old.iter().cloned()).collect();
                    }
                    (_, new) => {
                        base.remove(name);
                        base.insert(key, Spanned::new(span, new));
                    }
                }
            }
            (None, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Rules over those with their ids, new ones behind them.
fn by_id<'i>(mut rules: Vec<Spanned<DeValue<'i>>>, over: DeArray<'i>) -> DeArray<'i> {
    let id = |v: &Spanned<DeValue<'i>>| v.get_ref().get("id").cloned();
    for rule in over {
        let wanted = id(&rule);
        let old = rules.iter_mut().find(|r| id(r).zip(wanted.as_ref()).is_some_and(|(a, b)| same(&a, b)));
        match old.map(Spanned::get_mut) {
            Some(DeValue::Table(old)) => match rule.into_inner() {
                DeValue::Table(new) => lay(old, new),
                _ => unreachable!("what has an id is a table"),
            },
            _ => rules.push(rule),
        }
    }
    rules.into_iter().collect()
}

/// A message of the parser, with the nearest name where one is wrong.
fn explained(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let mut quoted = line.split('`').skip(1).step_by(2);
    let (kind, wrong, known) = match line.split_once(" `") {
        Some(("unknown field", _)) => ("key", quoted.next(), quoted.collect::<Vec<_>>()),
        Some(("unknown variant", _)) => ("value", quoted.next(), quoted.collect::<Vec<_>>()),
        Some(("missing field", _)) => return format!("the key `{}` is missing", quoted.next().unwrap_or_default()),
        _ => return line.to_owned(),
    };
    let wrong = wrong.unwrap_or_default();
    let near = known
        .iter()
        .map(|k| (strsim::jaro_winkler(wrong, k), k))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, near)) => format!("unknown {kind} `{wrong}`, the nearest is `{near}`"),
        None => format!("unknown {kind} `{wrong}`; known here: {}", known.join(", ")),
    }
}

impl Pack {
    /// Parses the text of a pack file that stands by itself.
    pub fn parse(file: &Path, text: &str) -> Result<Self, PackError> {
        Layers::of(file, text.to_owned()).pack()
    }

    /// Parses the text of a pack file that stands by itself, its patterns included.
    pub fn parse_checked(file: &Path, text: &str) -> Result<Self, PackError> {
        Layers::of(file, text.to_owned()).checked()
    }
}
