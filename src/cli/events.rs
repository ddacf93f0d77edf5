//! `orchwrap events`: events as NDJSON, from the daemon, or merged from the journals where none runs.

use std::collections::{HashMap, HashSet};
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Exit, ask, when};
use crate::clock;
use crate::daemon::client::{self, Client, ClientError, Start};
use crate::daemon::rpc::{Call, EventQuery};
use crate::extract::event::Event;
use crate::ids::{Name, TaskId};
use crate::json;
use crate::paths::{RunDir, StateDir};
use crate::pty::journal::{JournalReader, Position};
use crate::queue::store::EventFilter;

/// Events shown where nothing narrows them.
const DEFAULT_LAST: usize = 50;

/// How often journals are looked at where no daemon pushes.
const LOOK: Duration = Duration::from_millis(200);

/// Print events, one JSON object a line
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Go on with live events
    #[arg(short, long)]
    follow: bool,
    /// The last so many; 50 unless --after or --since is given
    #[arg(short = 'n', value_name = "COUNT")]
    last: Option<usize>,
    /// Events with a higher id
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    /// Events not older than this: 10m, or a time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Events of this session
    #[arg(long)]
    session: Option<Name>,
    /// Events of this task
    #[arg(long)]
    task: Option<TaskId>,
    /// Events of these types: names or globs, comma-separated
    #[arg(long = "type", value_name = "TYPES", value_delimiter = ',')]
    types: Vec<String>,
}

impl EventsArgs {
    fn query(&self) -> Result<EventQuery, String> {
        let since = self.since.as_deref().map(|t| when::parse(t, clock::wall(), true)).transpose()?;
        let narrowed = self.after.is_some() || since.is_some();
        Ok(EventQuery {
            follow: self.follow,
            last: self.last.or((!narrowed).then_some(DEFAULT_LAST)),
            after: self.after,
            since,
            session: self.session.clone(),
            task: self.task,
            types: self.types.clone(),
        })
    }
}

pub(super) fn main(args: EventsArgs) -> anyhow::Result<ExitCode> {
    let dirs = ask::dirs()?;
    let query = match args.query() {
        Ok(query) => query,
        Err(why) => {
            eprintln!("orchwrap: {why}");
            return Ok(Exit::Usage.into());
        }
    };
    let end = match Client::connect(&dirs, Start::Never) {
        Ok(client) => from_daemon(&dirs, client, query),
        Err(ClientError::NotRunning) => {
            eprintln!(
                "orchwrap: no daemon is running: these are the runs' own journals, without ids and without task events"
            );
            from_journals(&dirs.state(), &query)
        }
        Err(e) => return Err(e.into()),
    };
    match end {
        // The reader of our output went away (`| head`).
        Err(e) if is_broken_pipe(&e) => Ok(Exit::Ok.into()),
        Err(e) => Err(e),
        Ok(()) => Ok(Exit::Ok.into()),
    }
}

fn is_broken_pipe(e: &anyhow::Error) -> bool {
    let kind = e.downcast_ref::<io::Error>().map(io::Error::kind).or_else(|| match e.downcast_ref::<ClientError>() {
        Some(ClientError::Io(e)) => Some(e.kind()),
        _ => None,
    });
    kind == Some(io::ErrorKind::BrokenPipe)
}

/// Streams from the daemon; one that is replaced meanwhile is found again.
fn from_daemon(dirs: &crate::config::Dirs, mut client: Client, mut query: EventQuery) -> anyhow::Result<()> {
    use io::Write;
    let mut out = io::stdout().lock();
    let mut gone = false;
    loop {
        let mut last = query.after;
        let end: Result<(), _> = client.stream(Call::Events(query.clone()), |item| {
            last = item["id"].as_i64().or(last);
            let written = writeln!(out, "{}", json::line(&item)?).and_then(|()| out.flush());
            gone |= written.is_err();
            written
        });
        match end {
            Err(e) if query.follow && !gone && client::is_disconnect(&e) => {
                query = EventQuery { after: last, last: None, ..query };
                client = loop {
                    match Client::connect(dirs, Start::Never) {
                        Ok(client) => break client,
                        Err(ClientError::NotRunning | ClientError::Io(_)) => std::thread::sleep(LOOK),
                        Err(e) => return Err(e.into()),
                    }
                };
            }
            other => return Ok(other?),
        }
    }
}

/// Merges the journals of all runs by time.
fn from_journals(state: &StateDir, query: &EventQuery) -> anyhow::Result<()> {
    use io::Write;
    let filter = EventFilter::from(query);
    let mut read = Read::default();
    let mut out = io::stdout().lock();
    let mut first = true;
    loop {
        let mut events = read.on(state);
        events.retain(|e| filter.takes(e));
        events.sort_by_key(|e| (e.ts, e.seq));
        if let Some(n) = query.last.filter(|n| first && *n < events.len()) {
            events.drain(..events.len() - n);
        }
        first = false;
        for event in &events {
            writeln!(out, "{}", json::line(event)?)?;
        }
        out.flush()?;
        if !query.follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// How far each journal was read. None is kept open: there may be more of them than descriptors.
#[derive(Default)]
struct Read {
    upto: HashMap<RunDir, Position>,
    /// Those that could not be read, each told once.
    told: HashSet<RunDir>,
}

impl Read {
    /// What the journals hold that was not read yet.
    fn on(&mut self, state: &StateDir) -> Vec<Event> {
        let mut events = Vec::new();
        let runs = match std::fs::read_dir(state.runs()) {
            Ok(runs) => runs,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return events,
            Err(e) => {
                self.tell(RunDir::at(state.runs()), &e);
                return events;
            }
        };
        for entry in runs {
            let dir = match entry {
                Ok(entry) => RunDir::at(entry.path()),
                Err(e) => {
                    self.tell(RunDir::at(state.runs()), &e);
                    continue;
                }
            };
            match self.read(&dir, &mut events) {
                Ok(()) => {}
                // A run that has no journal yet gets its turn with the next look.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => self.tell(dir, &e),
            }
        }
        events
    }

    fn read(&mut self, dir: &RunDir, events: &mut Vec<Event>) -> io::Result<()> {
        let upto = self.upto.get(dir).copied().unwrap_or_default();
        let mut reader = JournalReader::resume(&dir.events(), upto)?;
        while let Some(line) = reader.next_line()? {
            events.extend(line.event().ok());
        }
        self.upto.insert(dir.clone(), reader.position());
        Ok(())
    }

    fn tell(&mut self, dir: RunDir, e: &io::Error) {
        if !self.told.contains(&dir) {
            eprintln!("orchwrap: read the events in {}: {e}", dir.path().display());
            self.told.insert(dir);
        }
    }
}
