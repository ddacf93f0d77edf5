//! The stream: bytes and reports in, typed events out. Everything here is pure; time is an argument.

pub mod adapters;
pub mod event;
pub mod pattern;
pub(crate) mod scanner;
pub mod signal;
pub(crate) mod status;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::extract::adapters::AdapterError;
use crate::extract::event::{Ask, AskKind, Draft, SessionState};
use crate::extract::pattern::Pack;
use crate::term::screen::ScreenText;

/// How an [`Extractor`] is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Columns of the terminal.
    pub cols: u16,
    /// Rows of the terminal.
    pub rows: u16,
    /// Reports are expected from this launch: a turn's end waits a moment for the one that carries its answer.
    pub reports: bool,
}

/// What a run is doing right now.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its state.
    pub state: SessionState,
    /// When it entered it.
    pub since: Duration,
    /// What the agent waits for.
    pub asking: Option<(AskKind, Ask)>,
    /// A human's half-typed line stands in the input box.
    pub draft: bool,
    /// When a human last pressed a key.
    pub last_key: Option<Duration>,
    /// Turns started so far.
    pub turns: u64,
    /// Conversation id as the agent calls it.
    pub conversation: Option<String>,
    /// The agent's session file, where it told.
    pub transcript: Option<std::path::PathBuf>,
    /// Why it needs a human, in state `setup`.
    pub setup: Option<String>,
    /// The agent switched bracketed paste on.
    pub bracketed_paste: bool,
    /// Text in the input box, if the box is visible; placeholders count as empty.
    pub composer: Option<String>,
}

/// One run's reader: bytes, keys and reports in, events out.
///
/// Times count from the start of the run and never go back. Any split of the same bytes, fed at the same times, gives
/// the same events.
#[derive(Debug)]
pub struct Extractor {
    _pack: Arc<Pack>,
    options: Options,
}

impl Extractor {
    /// A reader for a run of `pack`'s agent that starts now, at time zero.
    pub fn new(pack: Arc<Pack>, options: Options) -> Self {
        Self { _pack: pack, options }
    }

    /// Takes output of the agent; `off` counts from the start of the run.
    pub fn feed(&mut self, _bytes: &[u8], _off: u64, _now: Duration) {}

    /// Takes what a human typed; terminal replies in it (focus, DA1, CPR, ..) are not keys.
    pub fn typed(&mut self, _bytes: &[u8], _now: Duration) {}

    /// Takes a prompt of ours at the moment its Enter is written.
    pub fn prompt(&mut self, _hash: &str, _text: &str, _now: Duration) {}

    /// Takes a report of a side channel.
    pub fn report(&mut self, adapter: &str, payload: &Value, _now: Duration) -> Result<(), AdapterError> {
        adapters::decode(adapter, payload).map(drop)
    }

    /// Takes a new size of the terminal.
    pub fn resize(&mut self, cols: u16, rows: u16, _now: Duration) {
        self.options = Options { cols, rows, ..self.options };
    }

    /// Takes the time; to be called when [`Self::deadline`] is reached.
    pub fn tick(&mut self, _now: Duration) {}

    /// Returns when [`Self::tick`] is wanted next; none while nothing is pending.
    pub fn deadline(&self) -> Option<Duration> {
        None
    }

    /// Takes the end of the agent, as exit code or signal; none where it is not known.
    pub fn exited(&mut self, _ended: Option<(Option<i32>, Option<i32>)>, _now: Duration) {}

    /// Returns the events since the last call.
    pub fn drain(&mut self) -> Vec<Draft> {
        Vec::new()
    }

    /// Returns what the run is doing.
    pub fn view(&self) -> View {
        View {
            state: SessionState::Starting,
            since: Duration::ZERO,
            asking: None,
            draft: false,
            last_key: None,
            turns: 0,
            conversation: None,
            transcript: None,
            setup: None,
            bracketed_paste: false,
            composer: None,
        }
    }

    /// Returns the visible rows.
    pub fn screen(&self) -> ScreenText {
        let Options { cols, rows, .. } = self.options;
        ScreenText { cols, rows, lines: Vec::new(), cursor: (0, 0), alternate: false }
    }
}
