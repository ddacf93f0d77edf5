//! The packs in force, and which of them a command belongs to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::extract::pattern::read::{Layers, PackError};
use crate::extract::pattern::{GENERIC, Pack, Rule};

/// The packs that every build carries.
const BUILTIN: &[(&str, &str)] = &[
    ("patterns/aider.toml", include_str!("../../../patterns/aider.toml")),
    ("patterns/claude.toml", include_str!("../../../patterns/claude.toml")),
    ("patterns/codex.toml", include_str!("../../../patterns/codex.toml")),
    ("patterns/gemini.toml", include_str!("../../../patterns/gemini.toml")),
    ("patterns/generic.toml", include_str!("../../../patterns/generic.toml")),
    ("patterns/ollama.toml", include_str!("../../../patterns/ollama.toml")),
    ("patterns/opencode.toml", include_str!("../../../patterns/opencode.toml")),
    ("patterns/shell.toml", include_str!("../../../patterns/shell.toml")),
];

/// Where a pack comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is part of this build.
    BuiltIn,
    /// A file of the user.
    File(PathBuf),
}

#[derive(Debug, Clone)]
struct Entry {
    pack: Arc<Pack>,
    layers: Layers,
    origin: Origin,
}

/// The packs in force.
#[derive(Debug, Clone)]
pub struct Packs {
    by_id: BTreeMap<String, Entry>,
}

impl Packs {
    /// Returns the packs that are built in.
    pub fn builtin() -> Self {
        let mut packs = Self { by_id: BTreeMap::new() };
        let files = BUILTIN.iter().map(|(file, text)| Layers::of(Path::new(file), *text)).collect();
        let faults = packs.put(files, |_| Origin::BuiltIn, Layers::pack);
        assert!(faults.is_empty(), "built-in packs are valid: {faults:?}");
        packs
    }

    /// Puts files of the user in force, given as their paths and texts. A file that cannot be used is reported; what it
    /// made in `last`, the set in force until now, stays.
    pub fn put_files(&mut self, files: Vec<(PathBuf, String)>, last: Option<&Self>) -> Vec<PackError> {
        let layers = files.into_iter().map(|(file, text)| Layers::of(&file, text)).collect();
        let errors = self.put(layers, |file| Origin::File(file.to_owned()), Layers::checked);
        for (id, entry) in last.iter().flat_map(|l| &l.by_id) {
            if errors.iter().any(|e| entry.origin == Origin::File(e.file.clone())) {
                self.by_id.insert(id.clone(), entry.clone());
            }
        }
        errors
    }

    /// Returns what is wrong with a file, laid over what is in force, and nothing where it can be used.
    pub fn faults(&self, file: &Path, text: &str) -> Vec<PackError> {
        let layers = Layers::of(file, text.to_owned());
        match layers.heading().and_then(|heading| {
            let Some(base) = heading.extends else { return Ok(None) };
            let unknown = || layers.error(heading.at, self.no_base(&base));
            let entry = self.by_id.get(&base).ok_or_else(unknown)?;
            // Where it is in force already it lies over what was there before it.
            let own = entry.origin == Origin::File(file.to_owned());
            Ok(Some(if own { entry.layers.without_last() } else { entry.layers.clone() }))
        }) {
            Err(e) => vec![e],
            Ok(None) => layers.faults(),
            Ok(Some(base)) => layers.over(&base).faults(),
        }
    }

    /// Reads files in such an order that each finds the pack that it extends.
    fn put(
        &mut self,
        files: Vec<Layers>,
        origin: impl Fn(&Path) -> Origin,
        read: impl Fn(&Layers) -> Result<Pack, PackError>,
    ) -> Vec<PackError> {
        let mut errors = Vec::new();
        let mut waiting = Vec::new();
        for layers in files {
            match layers.heading() {
                Ok(heading) => waiting.push((heading, layers)),
                Err(e) => errors.push(e),
            }
        }
        while !waiting.is_empty() {
            let ids: Vec<Option<String>> =
                waiting.iter().map(|(h, _)| h.id.clone().or_else(|| h.extends.clone())).collect();
            let free = waiting.iter().enumerate().position(|(n, (h, _))| {
                h.extends.is_none() || !ids.iter().enumerate().any(|(m, id)| m != n && *id == h.extends)
            });
            let Some(free) = free else {
                let circle = |(h, l): &(_, Layers)| {
                    let h: &super::read::Heading = h;
                    l.error(h.at, "these packs extend each other in a circle".to_owned())
                };
                errors.extend(waiting.iter().map(circle));
                break;
            };
            let (heading, layers) = waiting.remove(free);
            let file = layers.0[0].file.clone();
            let layers = match &heading.extends {
                None => Ok(layers),
                Some(base) => match self.by_id.get(base) {
                    Some(entry) => Ok(layers.over(&entry.layers)),
                    None => Err(layers.error(heading.at, self.no_base(base))),
                },
            };
            match layers.and_then(|layers| Ok((read(&layers)?, layers))) {
                Ok((pack, layers)) => {
                    let id = pack.id.clone();
                    self.by_id.insert(id, Entry { pack: Arc::new(pack), layers, origin: origin(&file) });
                }
                Err(e) => errors.push(e),
            }
        }
        self.give_content();
        errors
    }

    /// Gives each pack the rules for the output of tools.
    fn give_content(&mut self) {
        let of_lines = |rules: &[Rule]| rules.iter().filter(|r| r.reads_lines()).cloned().collect::<Vec<_>>();
        let general = self.by_id.get(GENERIC).map(|e| of_lines(&e.pack.rules)).unwrap_or_default();
        for entry in self.by_id.values_mut() {
            let mut content = of_lines(&entry.pack.rules);
            let own: Vec<String> = content.iter().map(|r| r.id.clone()).collect();
            content.extend(general.iter().filter(|r| !own.contains(&r.id)).cloned());
            Arc::make_mut(&mut entry.pack).content = content;
        }
    }

    fn no_base(&self, id: &str) -> String {
        match self.nearest(id).first() {
            Some(near) => format!("no pack is called `{id}`, the nearest is `{near}`"),
            None => format!("no pack is called `{id}`; `orchwrap patterns ls` shows them"),
        }
    }

    /// Returns the pack with this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Pack>> {
        self.by_id.get(id).map(|e| &e.pack)
    }

    /// Returns where the pack with this id comes from.
    pub fn origin(&self, id: &str) -> Option<&Origin> {
        self.by_id.get(id).map(|e| &e.origin)
    }

    /// Returns the pack for programs that have none.
    pub fn generic(&self) -> &Arc<Pack> {
        self.get(GENERIC).expect("the generic pack is built in and never removed")
    }

    /// Returns the pack that claims the command: by its program's name (or path) and its first arguments. A program of an
    /// agent that is started as something else (a server, a list) is any program.
    pub fn for_command<S: AsRef<str>>(&self, argv: &[S]) -> Option<&Arc<Pack>> {
        let (program, args) = argv.split_first()?;
        let name = Path::new(program.as_ref()).file_name()?.to_str()?;
        let pack = self.iter().find(|p| p.launch.names.iter().any(|n| n == name))?;
        let first = args.first().map(AsRef::as_ref);
        let among = |list: &[String]| first.is_some_and(|f| list.iter().any(|a| a == f));
        if among(&pack.launch.launcher_args) {
            return self.for_command(&args[1..]).or(Some(self.generic()));
        }
        let whole = pack.launch.first_args.is_empty() || among(&pack.launch.first_args);
        Some(if whole { pack } else { self.generic() })
    }

    /// Returns the known names nearest to `name`, best first.
    pub fn nearest(&self, name: &str) -> Vec<String> {
        let mut scored: Vec<(f64, &String)> = self
            .iter()
            .flat_map(|p| std::iter::once(&p.id).chain(&p.launch.names))
            .map(|known| (strsim::jaro_winkler(name, known), known))
            .filter(|(score, _)| *score > 0.75)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        let mut names: Vec<String> = scored.into_iter().map(|(_, n)| n.clone()).collect();
        names.dedup();
        names.truncate(3);
        names
    }

    /// Returns the variables that no agent is given: `launch.unset` of every pack.
    pub fn unset(&self) -> Vec<String> {
        self.iter().flat_map(|p| p.launch.unset.iter().cloned()).collect()
    }

    /// Returns every pack, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.by_id.values().map(|e| &e.pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(packs: &mut Packs, files: &[(&str, &str)], last: Option<&Packs>) -> Vec<PackError> {
        packs.put_files(files.iter().map(|(f, t)| (PathBuf::from(f), (*t).to_owned())).collect(), last)
    }

    const OURS: &str = "extends = \"claude\"\nidle_ms = 7\n[launch]\nunset = []\n\
        [[rule]]\nid = \"claude.ready\"\npriority = 11\n\
        [[rule]]\nid = \"claude.title-busy\"\noff = true\n\
        [[rule]]\nid = \"ours\"\nsays = \"hold\"\nall = [{ in = \"title\", row = 'x' }]\n\
        [[failure]]\nlike = 'a word of ours'\nreason = \"server\"\n";

    #[test]
    fn a_file_may_change_a_few_things_of_a_pack() {
        let mut packs = Packs::builtin();
        let before = Arc::clone(packs.get("claude").unwrap());
        assert_eq!(put(&mut packs, &[("/c/claude.toml", OURS)], None), []);
        let after = packs.get("claude").unwrap();
        assert_eq!((after.idle_ms, after.launch.command.as_str()), (7, "claude"));
        assert!(after.launch.unset.is_empty() && after.launch.names == before.launch.names);
        assert_eq!(after.rules.len(), before.rules.len());
        let rule = |id: &str| after.rules.iter().find(|r| r.id == id);
        let ready = rule("claude.ready").unwrap();
        assert!(ready.priority == 11 && ready.all.len() == 1, "what is not given stays");
        assert!(rule("claude.title-busy").is_none() && rule("ours").is_some());
        assert_eq!(after.failures[0].like.get_ref(), "a word of ours", "ours are looked at first");
        assert_eq!(packs.origin("claude"), Some(&Origin::File("/c/claude.toml".into())));
        assert_eq!(packs.origin("codex"), Some(&Origin::BuiltIn));
    }

    #[test]
    fn a_pack_of_another_name_does_not_claim_the_commands_of_its_base() {
        let mut packs = Packs::builtin();
        // The one that is extended comes later.
        let files =
            [("a.toml", "id = \"night\"\nextends = \"day\"\n"), ("b.toml", "id = \"day\"\nextends = \"codex\"\n")];
        assert_eq!(put(&mut packs, &files, None), []);
        assert_eq!(packs.get("night").unwrap().rules, packs.get("codex").unwrap().rules);
        assert_eq!(packs.for_command(&["codex"]).unwrap().id, "codex");
    }

    #[test]
    fn a_base_that_is_not_there_and_a_circle_are_told() {
        let mut packs = Packs::builtin();
        let files = [
            ("a.toml", "id = \"a\"\nextends = \"b\"\n"),
            ("b.toml", "id = \"b\"\nextends = \"a\"\n"),
            ("c.toml", "id = \"c\"\nextends = \"claud\"\n"),
        ];
        let errors = put(&mut packs, &files, None);
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[0].why.contains("the nearest is `claude`") && (errors[0].line, errors[0].column) == (2, 11));
        assert!(errors[1].why.contains("circle"));
    }

    #[test]
    fn a_fault_in_a_file_over_another_is_told_in_its_own_lines() {
        let mut packs = Packs::builtin();
        let text = "extends = \"claude\"\n[composer]\nrow = '(x'\n";
        let errors = put(&mut packs, &[("mine.toml", text)], None);
        assert_eq!((errors[0].file.to_str(), errors[0].line, errors[0].column), (Some("mine.toml"), 3, 7));
        assert_eq!(packs.faults(Path::new("mine.toml"), text), errors);
        let both = "extends = \"claude\"\n[composer]\nrow = '(x'\nabove = '[x'\n";
        assert_eq!(packs.faults(Path::new("mine.toml"), both).len(), 2);
    }

    #[test]
    fn f55_what_a_file_made_stays_while_it_is_broken() {
        let mut last = Packs::builtin();
        let good = "version = 1\nid = \"mine\"\nmode = \"line\"\n[launch]\ncommand = \"mine\"\n";
        assert_eq!(put(&mut last, &[("mine.toml", good), ("claude.toml", OURS)], None), []);
        let mut next = Packs::builtin();
        let errors = put(
            &mut next,
            &[("mine.toml", "version = "), ("claude.toml", "extends = \"claude\"\nx = 1\n")],
            Some(&last),
        );
        assert_eq!(errors.len(), 2);
        assert!(next.get("mine").is_some());
        assert_eq!(next.get("claude").unwrap().idle_ms, 7);
        // A file that is gone takes its pack with it.
        let mut gone = Packs::builtin();
        assert_eq!(put(&mut gone, &[], Some(&last)), []);
        assert!(gone.get("mine").is_none() && gone.get("claude").unwrap().idle_ms == 1000);
    }

    #[test]
    fn t29_a_file_that_is_no_pack_is_not_read() {
        let mut packs = Packs::builtin();
        let long = format!("version = 1\n# {}\n", "x".repeat(300_000));
        assert!(put(&mut packs, &[("long.toml", &long)], None)[0].why.contains("at most"));
        let mut many = "version = 1\nid = \"many\"\nmode = \"tui\"\n[launch]\ncommand = \"many\"\n".to_owned();
        for n in 0..600 {
            many += &format!("[[failure]]\nlike = '{n}'\nreason = \"other\"\n");
        }
        let errors = put(&mut packs, &[("many.toml", &many)], None);
        assert!(errors[0].why.contains("512 patterns") && errors[0].line == 3 * 514 + 1, "{errors:?}");
    }

    #[test]
    fn a_program_belongs_to_the_agent_that_it_starts() {
        let packs = Packs::builtin();
        let pack = |argv: &str| packs.for_command(&argv.split(' ').collect::<Vec<_>>()).map(|p| p.id.clone());
        assert_eq!(pack("/usr/bin/claude -p").as_deref(), Some("claude"));
        assert_eq!(pack("ollama run llama").as_deref(), Some("ollama"));
        assert_eq!(pack("ollama launch claude --model x").as_deref(), Some("claude"));
        assert_eq!(pack("ollama launch something").as_deref(), Some("generic"));
        assert_eq!(pack("ollama serve").as_deref(), Some("generic"));
        assert_eq!(pack("ollama").as_deref(), Some("generic"));
        assert_eq!(pack("vi"), None);
    }
}
