//! Calls the programs that want to be told: hooks with a payload on stdin, notify programs with one as an argument.
//!
//! A thread of its own calls them one after the other, so that a slow one delays the next, not the screen.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::tool;

/// One call.
#[derive(Debug)]
pub(super) enum Call {
    /// A shell line, and what it reads on its input.
    Hook { line: String, payload: String },
    /// A program with arguments, the payload last.
    Notify { argv: Vec<String>, payload: String },
}

/// The calling thread.
#[derive(Debug)]
pub(super) struct Reports {
    calls: Option<Sender<Call>>,
    thread: Option<JoinHandle<()>>,
}

impl Reports {
    pub(super) fn new(cwd: PathBuf) -> Self {
        let (calls, todo) = channel();
        let thread = std::thread::spawn(move || work(&todo, &cwd));
        Self { calls: Some(calls), thread: Some(thread) }
    }

    pub(super) fn call(&self, call: Call) {
        if let Some(calls) = &self.calls {
            let _ = calls.send(call);
        }
    }
}

impl Drop for Reports {
    /// Real agents wait for their last hooks too.
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(todo: &Receiver<Call>, cwd: &std::path::Path) {
    for call in todo {
        let (mut command, input) = match call {
            Call::Hook { line, payload } => (tool::command(&line, cwd), Some(payload)),
            Call::Notify { argv, payload } => {
                let Some((program, rest)) = argv.split_first() else { continue };
                let mut command = Command::new(program);
                command.args(rest).arg(payload).current_dir(cwd);
                (command, None)
            }
        };
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = child else { continue };
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // A hook that does not read its input is its own affair.
            let _ = stdin.write_all(input.as_bytes());
        }
        let _ = child.wait();
    }
}
