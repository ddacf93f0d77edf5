//! Clients of a run's control socket: blocking for the command line, tokio for the daemon.
//!
//! Each question has a connection of its own, so that one that waits for a verdict holds nobody else up.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::ctl::{
    Done, Refusal, ReportRequest, Request, Response, ScreenText, SendOutcome, SendRequest, Status, Withdrawn,
};
use crate::extract::event::Event;
use crate::ids::AttemptKey;
use crate::paths::RunDir;
use crate::sock;

/// Why a run did not answer, or said no.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// Nobody listens, or the connection broke: the run has ended or is about to.
    #[error("reach the run at {}: {source}", path.display())]
    Io {
        /// Its socket.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The run said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It answered something this version cannot read.
    #[error("the run answered what this version cannot read: {0}")]
    Protocol(String),
}

/// An answer to a plain question takes no longer unless the run is stuck.
const QUICK: Duration = Duration::from_secs(10);
/// What is added to the time that the run itself was given.
const SLACK: Duration = Duration::from_secs(20);

/// How long the answer to `request` may take.
fn patience(request: &Request) -> Duration {
    match request {
        // Readiness and the writing of a long prompt come on top of the acceptance.
        Request::Send(send) => Duration::from_millis(send.accept_timeout_ms) * 2 + SLACK,
        Request::Stop { grace_ms } => Duration::from_millis(*grace_ms) * 3 + SLACK,
        _ => QUICK,
    }
}

fn line_of(request: &Request) -> Vec<u8> {
    let mut line = serde_json::to_vec(request).expect("a request has string keys only");
    line.push(b'\n');
    line
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, CtlError> {
    match serde_json::from_str::<Response<T>>(line) {
        Ok(Response::Ok(value)) => Ok(value),
        Ok(Response::Error(refusal)) => Err(refusal.into()),
        Err(e) => Err(CtlError::Protocol(e.to_string())),
    }
}

fn parse_event(line: &str) -> Result<Event, CtlError> {
    serde_json::from_str(line).map_err(|e| match parse::<Done>(line) {
        Err(CtlError::Refused(refusal)) => refusal.into(),
        _ => CtlError::Protocol(e.to_string()),
    })
}

/// The blocking client.
#[derive(Debug, Clone)]
pub struct Ctl {
    dir: RunDir,
}

impl Ctl {
    /// A client of the run in `dir`, if it answers.
    pub fn connect(dir: &RunDir) -> Result<Self, CtlError> {
        let ctl = Self { dir: dir.clone() };
        ctl.open()?;
        Ok(ctl)
    }

    fn open(&self) -> Result<UnixStream, CtlError> {
        sock::connect(&self.dir.ctl_sock()).map_err(|e| self.io(e))
    }

    fn io(&self, source: io::Error) -> CtlError {
        CtlError::Io { path: self.dir.ctl_sock(), source }
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, CtlError> {
        let (_, line) = self.exchange(request)?;
        parse(&line)
    }

    fn exchange(&self, request: &Request) -> Result<(BufReader<UnixStream>, String), CtlError> {
        let mut stream = self.open()?;
        let io = |e| self.io(e);
        stream.set_read_timeout(Some(patience(request))).map_err(io)?;
        stream.set_write_timeout(Some(QUICK)).map_err(io)?;
        stream.write_all(&line_of(request)).map_err(io)?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        if reader.read_line(&mut line).map_err(io)? == 0 {
            return Err(self.io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok((reader, line))
    }

    /// What it is doing.
    pub fn state(&self) -> Result<Status, CtlError> {
        self.ask(&Request::State)
    }

    /// The visible rows.
    pub fn screen(&self) -> Result<ScreenText, CtlError> {
        self.ask(&Request::Screen)
    }

    /// Types a prompt and waits for its verdict.
    pub fn send(&self, send: SendRequest) -> Result<SendOutcome, CtlError> {
        self.ask(&Request::Send(send))
    }

    /// Takes the prompt of an attempt back; false where it was begun.
    pub fn withdraw(&self, key: AttemptKey) -> Result<bool, CtlError> {
        self.ask::<Withdrawn>(&Request::Withdraw { key }).map(|w| w.unsent)
    }

    /// Answers what it asks.
    pub fn answer(&self, hash: &str, text: &str) -> Result<(), CtlError> {
        self.ask::<Done>(&Request::Answer { hash: hash.into(), text: text.into() }).map(drop)
    }

    /// Presses the interrupt key.
    pub fn interrupt(&self) -> Result<(), CtlError> {
        self.ask::<Done>(&Request::Interrupt).map(drop)
    }

    /// Sets the size of a detached terminal.
    pub fn resize(&self, cols: u16, rows: u16) -> Result<(), CtlError> {
        self.ask::<Done>(&Request::Resize { cols, rows }).map(drop)
    }

    /// Ends the agent and waits until it is gone.
    pub fn stop(&self, grace: Duration) -> Result<(), CtlError> {
        self.ask::<Done>(&Request::Stop { grace_ms: millis(grace) }).map(drop)
    }

    /// Hands in a hook's report.
    pub fn report(&self, report: ReportRequest) -> Result<(), CtlError> {
        self.ask::<Done>(&Request::Report(report)).map(drop)
    }

    /// Its events from number `from` on, then live ones, until it ends.
    pub fn subscribe(&self, from: u64) -> Result<Events, CtlError> {
        let (reader, line) = self.exchange(&Request::Subscribe { from })?;
        parse::<Done>(&line)?;
        reader.get_ref().set_read_timeout(None).map_err(|e| self.io(e))?;
        Ok(Events { ctl: self.clone(), reader })
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// Events of a run as they come; ends with the run.
#[derive(Debug)]
pub struct Events {
    ctl: Ctl,
    reader: BufReader<UnixStream>,
}

impl Iterator for Events {
    type Item = Result<Event, CtlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            // A line without its end was cut off with the wrapper: whoever wants it reads the journal.
            Ok(_) if !line.ends_with('\n') => None,
            Ok(_) => Some(parse_event(&line)),
            Err(e) => Some(Err(self.ctl.io(e))),
        }
    }
}

/// The tokio client, for the daemon.
pub mod r#async {
    use std::time::Duration;

    use serde::de::DeserializeOwned;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
    use tokio::net::UnixStream;

    use super::{CtlError, io, line_of, millis, parse, parse_event, patience, sock};
    use crate::ctl::{Done, Request, ScreenText, SendOutcome, SendRequest, Status, Withdrawn};
    use crate::extract::event::Event;
    use crate::ids::AttemptKey;
    use crate::paths::RunDir;

    /// The client of one run.
    #[derive(Debug, Clone)]
    pub struct Ctl {
        dir: RunDir,
    }

    impl Ctl {
        /// A client of the run in `dir`, if it answers.
        pub async fn connect(dir: &RunDir) -> Result<Self, CtlError> {
            let ctl = Self { dir: dir.clone() };
            ctl.open()?;
            Ok(ctl)
        }

        fn io(&self, source: io::Error) -> CtlError {
            CtlError::Io { path: self.dir.ctl_sock(), source }
        }

        fn open(&self) -> Result<UnixStream, CtlError> {
            // A local connection is made or refused at once.
            let stream = sock::connect(&self.dir.ctl_sock()).map_err(|e| self.io(e))?;
            stream.set_nonblocking(true).map_err(|e| self.io(e))?;
            UnixStream::from_std(stream).map_err(|e| self.io(e))
        }

        async fn exchange(&self, request: &Request) -> Result<(Lines<BufReader<UnixStream>>, String), CtlError> {
            let talk = async {
                let mut stream = self.open()?;
                stream.write_all(&line_of(request)).await.map_err(|e| self.io(e))?;
                let mut lines = BufReader::new(stream).lines();
                match lines.next_line().await {
                    Ok(Some(line)) => Ok((lines, line)),
                    Ok(None) => Err(self.io(io::ErrorKind::UnexpectedEof.into())),
                    Err(e) => Err(self.io(e)),
                }
            };
            tokio::time::timeout(patience(request), talk)
                .await
                .unwrap_or_else(|_| Err(self.io(io::ErrorKind::TimedOut.into())))
        }

        async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, CtlError> {
            let (_, line) = self.exchange(request).await?;
            parse(&line)
        }

        /// What it is doing.
        pub async fn state(&self) -> Result<Status, CtlError> {
            self.ask(&Request::State).await
        }

        /// The visible rows.
        pub async fn screen(&self) -> Result<ScreenText, CtlError> {
            self.ask(&Request::Screen).await
        }

        /// Types a prompt and waits for its verdict.
        pub async fn send(&self, send: SendRequest) -> Result<SendOutcome, CtlError> {
            self.ask(&Request::Send(send)).await
        }

        /// Takes the prompt of an attempt back; false where it was begun.
        pub async fn withdraw(&self, key: AttemptKey) -> Result<bool, CtlError> {
            self.ask::<Withdrawn>(&Request::Withdraw { key }).await.map(|w| w.unsent)
        }

        /// Answers what it asks.
        pub async fn answer(&self, hash: &str, text: &str) -> Result<(), CtlError> {
            self.ask::<Done>(&Request::Answer { hash: hash.into(), text: text.into() }).await.map(drop)
        }

        /// Presses the interrupt key.
        pub async fn interrupt(&self) -> Result<(), CtlError> {
            self.ask::<Done>(&Request::Interrupt).await.map(drop)
        }

        /// Sets the size of a detached terminal.
        pub async fn resize(&self, cols: u16, rows: u16) -> Result<(), CtlError> {
            self.ask::<Done>(&Request::Resize { cols, rows }).await.map(drop)
        }

        /// Ends the agent and waits until it is gone.
        pub async fn stop(&self, grace: Duration) -> Result<(), CtlError> {
            self.ask::<Done>(&Request::Stop { grace_ms: millis(grace) }).await.map(drop)
        }

        /// Its events from number `from` on, then live ones, until it ends.
        pub async fn subscribe(&self, from: u64) -> Result<Events, CtlError> {
            let (lines, line) = self.exchange(&Request::Subscribe { from }).await?;
            parse::<Done>(&line)?;
            Ok(Events { ctl: self.clone(), lines })
        }
    }

    /// Events of a run as they come.
    #[derive(Debug)]
    pub struct Events {
        ctl: Ctl,
        lines: Lines<BufReader<UnixStream>>,
    }

    impl Events {
        /// Returns the next event; none once the run has ended (its journal file then holds everything).
        ///
        /// Cancel-safe: an event that was not returned comes with the next call.
        pub async fn next(&mut self) -> Result<Option<Event>, CtlError> {
            match self.lines.next_line().await {
                Ok(Some(line)) => match parse_event(&line) {
                    // The last line may be cut off with the wrapper.
                    Err(CtlError::Protocol(_)) if !line.ends_with('}') => Ok(None),
                    other => other.map(Some),
                },
                Ok(None) => Ok(None),
                Err(e) => Err(self.ctl.io(e)),
            }
        }
    }
}
