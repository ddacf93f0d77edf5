//! Asks the daemon, starting it where the verb needs one. Blocking: the command line has nothing else to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::lock;
use super::rpc::{Call, Hello, PROTO, Reply, Request};
use crate::config::{Dirs, STATE_DIR_VAR};
use crate::ctl::Refusal;

/// How long a client waits for a daemon to start or to make room.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How long a plain question may take; a stream and a wait may take for ever.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// The variables that a daemon gets from whoever happens to start it; everything else is the session's own business.
const KEPT_VARS: &[&str] = &["PATH", "HOME", "LANG", "LC_ALL", STATE_DIR_VAR];

/// Why the daemon did not answer, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, and this verb starts none.
    #[error("no daemon is running; start it with: orchwrap daemon start")]
    NotRunning,
    /// It did not come up.
    #[error("start the daemon: {0}")]
    Start(String),
    /// Another version that must not be replaced.
    #[error("{0}")]
    Version(String),
    /// The connection broke; asking again may find the next daemon.
    #[error("talk to the daemon: {0}")]
    Io(#[from] io::Error),
    /// It took the question and gave no answer; it may still do what was asked.
    #[error("the daemon does not answer within {} s (is it stopped?); what was asked may still be done: look before you ask again", .0.as_secs())]
    Silent(Duration),
    /// It said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It answered something this version cannot read.
    #[error("the daemon answered what this version cannot read: {0}")]
    Protocol(String),
}

/// Whether a verb starts the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Start it if it does not run; replace an older idle one.
    IfNeeded,
    /// Never: looking must change nothing.
    Never,
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    read: BufReader<UnixStream>,
    hello: Hello,
    next_id: u64,
}

/// What a daemon of another version means for us.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    Same,
    /// Ask it to end and start ours.
    Replace,
    Refuse(String),
}

/// Compares versions: an older idle daemon is replaced, an older busy one is used while it speaks our protocol, a newer
/// one is refused.
fn compare(ours: &Hello, theirs: &Hello) -> Match {
    match theirs.version_numbers().cmp(&ours.version_numbers()) {
        std::cmp::Ordering::Greater => Match::Refuse(format!(
            "the running daemon is newer ({}) than this program ({}): use the newer orchwrap, or end it with that one's `orchwrap daemon stop`",
            theirs.version, ours.version
        )),
        std::cmp::Ordering::Less if theirs.idle => Match::Replace,
        _ if theirs.proto == PROTO => Match::Same,
        _ => Match::Refuse(format!(
            "the running daemon ({}) is busy and speaks another protocol: wait until its tasks are done, or run: orchwrap daemon restart",
            theirs.version
        )),
    }
}

impl Client {
    /// Connects to the daemon of `dirs`.
    pub fn connect(dirs: &Dirs, start: Start) -> Result<Self, ClientError> {
        let until = Instant::now() + START_PATIENCE;
        match Self::dial(dirs) {
            Ok(client) => match (compare(&Hello::ours(false), &client.hello), start) {
                (Match::Same, _) | (Match::Replace, Start::Never) if client.hello.proto == PROTO => Ok(client),
                (Match::Refuse(why), _) => Err(ClientError::Version(why)),
                (_, Start::Never) => Err(ClientError::NotRunning),
                _ => {
                    client.end(dirs, until)?;
                    launch(dirs, until)
                }
            },
            // One that just dies still takes connections, and breaks them.
            Err(e) if absent(&e) || broken(&e) => match start {
                Start::IfNeeded => launch(dirs, until),
                Start::Never => Err(ClientError::NotRunning),
            },
            Err(e) if silent(&e) => Err(ClientError::Silent(START_PATIENCE)),
            Err(e) => Err(e.into()),
        }
    }

    /// Connects to whatever daemon runs, without looking at its version.
    pub fn dial(dirs: &Dirs) -> io::Result<Self> {
        let mut stream = crate::sock::connect(&dirs.state().daemon_sock())?;
        stream.set_read_timeout(Some(START_PATIENCE))?;
        stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
        write_line(&mut stream, &Hello::ours(false))?;
        let mut read = BufReader::new(stream);
        let hello = match read_line(&mut read)? {
            Some(line) => serde_json::from_str(&line).map_err(io::Error::other)?,
            None => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        Ok(Self { read, hello, next_id: 0 })
    }

    /// What the daemon said it is.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks, and returns the answer.
    pub fn call<T: DeserializeOwned>(&mut self, call: Call) -> Result<T, ClientError> {
        self.ask(call, Some(ANSWER_PATIENCE), |_| Ok(()))
    }

    /// Asks something whose answer takes the daemon `more` than a plain question.
    pub fn call_long<T: DeserializeOwned>(&mut self, call: Call, more: Duration) -> Result<T, ClientError> {
        self.ask(call, Some(ANSWER_PATIENCE + more), |_| Ok(()))
    }

    /// Asks for a stream, and hands each item to `each` until the stream ends or `each` fails. Waits for ever.
    pub fn stream<T: DeserializeOwned>(
        &mut self,
        call: Call,
        each: impl FnMut(Value) -> io::Result<()>,
    ) -> Result<T, ClientError> {
        self.ask(call, None, each)
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        call: Call,
        patience: Option<Duration>,
        mut each: impl FnMut(Value) -> io::Result<()>,
    ) -> Result<T, ClientError> {
        self.next_id += 1;
        let id = self.next_id;
        self.read.get_ref().set_read_timeout(patience)?;
        write_line(self.read.get_mut(), &Request { id, call })?;
        loop {
            let line = read_line(&mut self.read).map_err(|e| match silent(&e) {
                true => ClientError::Silent(patience.unwrap_or_default()),
                false => e.into(),
            })?;
            let Some(line) = line else {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
            };
            let reply: Reply = serde_json::from_str(&line).map_err(|e| ClientError::Protocol(e.to_string()))?;
            match reply {
                Reply { id: other, .. } if other != id => {}
                Reply { error: Some(refusal), .. } => return Err(refusal.into()),
                Reply { result: Some(result), .. } => {
                    return serde_json::from_value(result).map_err(|e| ClientError::Protocol(e.to_string()));
                }
                Reply { item: Some(item), .. } => each(item)?,
                // A result of `null` reads as none.
                _ => return serde_json::from_value(Value::Null).map_err(|e| ClientError::Protocol(e.to_string())),
            }
        }
    }

    /// Asks the daemon to end and waits until its lock is free. Agents go on.
    pub fn end(mut self, dirs: &Dirs, until: Instant) -> Result<(), ClientError> {
        match self.call::<Value>(Call::Stop {}) {
            Ok(_) | Err(ClientError::Io(_)) => {}
            Err(e) => return Err(e),
        }
        let (state, pid) = (dirs.state(), self.hello.pid);
        while lock::holder(&state).is_some() || lock::alive(pid) {
            if Instant::now() > until {
                return Err(ClientError::Start(format!("the old daemon (pid {pid}) does not end")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Whether the error means that nobody listens.
fn absent(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotADirectory, NotFound, UnexpectedEof};
    // A daemon killed with our connection in its backlog resets it before it has said who it is.
    matches!(e.kind(), NotFound | ConnectionRefused | NotADirectory | ConnectionReset | BrokenPipe | UnexpectedEof)
}

/// Whether the error means that the other side took too long: the kernel's word for it is "try again".
fn silent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Whether the connection broke while it was made.
fn broken(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
}

/// Whether the connection went away, as it does when the daemon is replaced.
pub fn is_disconnect(e: &ClientError) -> bool {
    match e {
        ClientError::Io(e) => broken(e),
        _ => false,
    }
}

/// Starts the daemon and connects to it, or to the one that another verb started at the same moment.
fn launch(dirs: &Dirs, until: Instant) -> Result<Client, ClientError> {
    lock::prepare(&dirs.state()).map_err(|e| ClientError::Start(e.to_string()))?;
    loop {
        let said = spawn(until)?;
        match said.trim() {
            "ready" | "held" => match Client::dial(dirs) {
                Err(e) if (absent(&e) || broken(&e)) && Instant::now() < until => {
                    // The holder still starts, or is about to be gone: then the next try of ours wins.
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return Ok(other?),
            },
            "" => return Err(ClientError::Start(format!("it ended at once; see {}", logs(dirs).display()))),
            why => return Err(ClientError::Start(why.to_owned())),
        }
    }
}

/// Starts a daemon in the background; returns the one line it says about its start.
fn spawn(until: Instant) -> Result<String, ClientError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("__daemon").current_dir("/").env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    for (name, value) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| KEPT_VARS.contains(&n) || n.starts_with("XDG_")) {
            command.env(name, value);
        }
    }
    let mut child = command.spawn()?;
    first_line(child.stdout.as_mut().expect("stdout is a pipe"), until)
}

fn logs(dirs: &Dirs) -> PathBuf {
    dirs.state().logs()
}

/// Reads a line from a pipe, not longer than `until`.
fn first_line(pipe: &mut (impl Read + std::os::fd::AsFd), until: Instant) -> Result<String, ClientError> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = rustix::event::Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [rustix::event::PollFd::new(&*pipe, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(ClientError::Start("it is not ready after 5 seconds".into())),
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(io::Error::from)?,
        };
        match pipe.read(&mut byte)? {
            0 => break,
            _ if byte[0] == b'\n' => break,
            _ => line.push(byte[0]),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn write_line(stream: &mut UnixStream, value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn read_line(read: &mut BufReader<UnixStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    Ok((read.read_line(&mut line)? > 0 && line.ends_with('\n')).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_idle_daemon_is_replaced_and_a_newer_one_refused() {
        let ours = Hello { version: "1.2.0".into(), proto: PROTO, pid: 1, idle: false };
        let theirs = |version: &str, proto, idle| Hello { version: version.into(), proto, pid: 2, idle };
        assert_eq!(compare(&ours, &theirs("1.2.0", PROTO, true)), Match::Same);
        assert_eq!(compare(&ours, &theirs("1.1.9", PROTO, true)), Match::Replace);
        assert_eq!(compare(&ours, &theirs("1.1.9", PROTO, false)), Match::Same);
        assert!(matches!(compare(&ours, &theirs("1.1.9", PROTO - 1, false)), Match::Refuse(_)));
        assert!(matches!(compare(&ours, &theirs("1.3.0", PROTO, true)), Match::Refuse(m) if m.contains("newer")));
    }
}
