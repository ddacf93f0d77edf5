//! Prints the events of a recording: `cargo run --example extract_cast -- claude FILE.cast`.

use std::time::Duration;

use orchwrap::extract::cast::Cast;
use orchwrap::extract::pattern::Packs;
use orchwrap::extract::{Extractor, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(agent), Some(file)) = (args.next(), args.next()) else { return Err("usage: AGENT FILE".into()) };
    let packs = Packs::builtin();
    let mut pack = packs.get(&agent).ok_or("no such agent")?.as_ref().clone();
    if args.next().as_deref() == Some("--screen-only") {
        pack.adapters.clear();
    }
    let cast = Cast::parse(&std::fs::read_to_string(file)?)?;
    let options = Options { cols: cast.cols, rows: cast.rows, reports: false };
    let mut extractor = Extractor::new(std::sync::Arc::new(pack), options);
    for (at, draft) in cast.replay(&mut extractor) {
        let at: Duration = at;
        println!("{:8.3} {:?} {} {:?}", at.as_secs_f64(), draft.source, draft.rule, draft.body);
    }
    Ok(())
}
