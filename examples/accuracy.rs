//! Scores detection on every recording and prints `docs/ACCURACY.md`: `./x accuracy`.

#[path = "../tests/support/accuracy/mod.rs"]
mod accuracy;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use accuracy::{Case, KNOWN, Table, Witnesses, baselines, cases, retime};
use orchwrap::extract::cast::Cast;
use orchwrap::extract::score::{Counts, Kind, Score};

/// A way to read the same session otherwise.
type Variant = (&'static str, fn(&Cast) -> Cast);

const VARIANTS: &[Variant] = &[
    ("in pieces of 1 to 40 bytes", |cast| retime::shredded(cast, 7)),
    ("in reads 300 ms late and together", |cast| retime::bursty(cast, Duration::from_millis(300))),
    ("in reads 1 s late and together", |cast| retime::bursty(cast, Duration::from_secs(1))),
    ("half as fast", |cast| retime::slower(cast, 2)),
];

#[derive(Default)]
struct Results {
    ours: Table,
    methods: Table,
    variants: Vec<(usize, Counts)>,
    /// What other readings of the same session cost: recording, reading, what came of it.
    varied: Vec<(String, String)>,
    wrong: Vec<(String, Witnesses, Score)>,
}

fn main() {
    let cases = cases();
    let results = Mutex::new(Results { variants: vec![Default::default(); VARIANTS.len()], ..Results::default() });
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    score(case, &results);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.wrong.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    results.varied.sort();
    print!("{}", page(&cases, &results));
    for (name, witnesses, score) in &results.wrong {
        eprint!("{name}, {}:\n{score}", witnesses.name());
    }
}

fn score(case: &Case, results: &Mutex<Results>) {
    for witnesses in Witnesses::EACH {
        let Some(cast) = case.seen_by(witnesses) else { continue };
        let score = case.score(&cast.replay(&mut case.extractor(witnesses)));
        let mut results = results.lock().unwrap();
        results.ours.add(&case.agent, witnesses.name(), &score);
        if !score.is_perfect() {
            results.wrong.push((case.name.clone(), witnesses, score));
        }
    }
    for (n, (name, vary)) in VARIANTS.iter().enumerate() {
        for witnesses in [Witnesses::Stream, Witnesses::Screen] {
            let cast = vary(&case.recording.cast);
            let score = case.score(&cast.replay(&mut case.extractor(witnesses)));
            let mut results = results.lock().unwrap();
            results.variants[n].0 += 1;
            for kind in Kind::ALL {
                results.variants[n].1 += score.counts(kind);
            }
            if !score.is_perfect() {
                let what =
                    format!("{name}, {}: {}", witnesses.name(), score.to_string().trim_end().replace('\n', "; "));
                results.varied.push((case.name.clone(), what));
            }
        }
    }
    for method in baselines::NAMES {
        let score = baselines::score(case, method);
        results.lock().unwrap().methods.add(&case.agent, method, &score);
    }
}

fn page(cases: &[Case], results: &Results) -> String {
    let mut page = String::from(HEAD);
    let agents: std::collections::BTreeSet<&str> = cases.iter().map(|c| c.agent.as_str()).collect();
    let count = |agent: &str| cases.iter().filter(|c| c.agent == agent).count();
    let counts: Vec<String> = agents.iter().map(|a| format!("{a} {}", count(a))).collect();
    let _ = write!(page, "\n{} recordings: {}.\n\n## orchwrap\n\n", cases.len(), counts.join(", "));
    page +=
        "| agent | witnesses | event | found | missed | invented | precision | recall | median ms | p95 | longest |\n";
    page += "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for witnesses in Witnesses::EACH {
        for ((agent, how, kind), cell) in results.ours.cells.iter().filter(|((_, how, _), _)| how == witnesses.name()) {
            let _ = write!(page, "| {agent} | {how} | {} | {} |", kind.name(), figures(cell.counts));
            let _ = match cell.latency.summary() {
                Some([median, p95, longest]) => writeln!(page, " {median:.0} | {p95:.0} | {longest:.0} |"),
                None => writeln!(page, " | | |"),
            };
        }
    }
    page += "\n## What is wrong, and why\n\n";
    if results.wrong.is_empty() {
        page += "Nothing: every fact of every recording is told, and nothing that is none.\n";
    } else {
        page += "| recording | witnesses | what | why |\n|---|---|---|---|\n";
    }
    for (name, witnesses, score) in &results.wrong {
        let why = KNOWN.iter().find(|(n, w, _)| n == name && w == witnesses).map_or("not known yet", |(.., why)| why);
        let what = score.to_string().trim_end().replace('\n', "; ");
        let _ = writeln!(page, "| {name} | {} | {what} | {why} |", witnesses.name());
    }
    page += VARIED;
    for ((name, _), (readings, c)) in VARIANTS.iter().zip(&results.variants) {
        let _ = writeln!(page, "| {name} | {readings} | {} |", figures(*c));
    }
    page += "\n";
    for (name, what) in &results.varied {
        let _ = writeln!(page, "- {name}, {what}");
    }
    page += PEERS;
    for method in baselines::NAMES {
        let ends = [
            Kind::Started,
            Kind::Completed,
            Kind::Failed,
            Kind::Interrupted,
            Kind::PermissionAsked,
            Kind::QuestionAsked,
        ];
        for kind in ends {
            let mut all = Counts::default();
            let mut latency = accuracy::Latency::default();
            for cell in
                results.methods.cells.iter().filter(|((_, how, k), _)| how == method && *k == kind).map(|(_, c)| c)
            {
                all += cell.counts;
                latency.append(&cell.latency);
            }
            let median = latency.summary().map_or(String::new(), |[median, ..]| format!("{median:.0}"));
            let _ = writeln!(page, "| {method} | {} | {} | {median} |", kind.name(), figures(all));
        }
    }
    page
}

fn figures(c: Counts) -> String {
    format!("{} | {} | {} | {:.3} | {:.3}", c.found, c.missed, c.invented, c.precision(), c.recall())
}

const HEAD: &str = "# Accuracy

Made by `./x accuracy`; do not edit. What orchwrap tells of recorded sessions of real agents, compared with what truly
happened in them: the model's server knows when it had answered what, the script knows which keys it pressed. A fact
counts as found if it is told in the right order with what the truth knows of it: the reason of a failure, the command of
a permission, question and options word for word, given or refused. Anything else is missed or invented.

Witnesses: *all*: hooks and session files, status reports (OSC 7501), title and screen, on recordings made with hooks; *no hooks*: what
the stream tells; *screen and title*: what a person sees; *screen alone*: not even the title. Times run from the server's
last byte (or the key) to the event, so they hold the time that the agent itself takes to draw; below zero, it drew before the server had noted its own
last byte. A turn whose only witness is the screen waits until its input box has stood for a while.
";

const VARIED: &str = "
## Read otherwise

The same sessions, cut into other reads or played at another speed, with *no hooks* and with *screen and title*. What is
drawn and drawn over within one late read is never seen: a turn that is shorter than that leaves no trace on the screen.

| read | readings | found | missed | invented | precision | recall |
|---|--:|--:|--:|--:|--:|--:|
";

const PEERS: &str = "
## Beside other methods

The same recordings, read as other programs read agents; each method in plain words of our own
(`tests/support/accuracy/baselines.rs`), told when Enter is pressed and excused from reasons.

| method | event | found | missed | invented | precision | recall | median ms |
|---|---|--:|--:|--:|--:|--:|--:|
";
