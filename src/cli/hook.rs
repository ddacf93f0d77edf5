//! `orchwrap __hook ADAPTER RUNDIR [PAYLOAD]`: what an agent's hooks call. Hands the payload to the run's wrapper.
//!
//! Whatever happens it prints nothing, ends with 0 and is quick: a hook that fails or waits would disturb the agent.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::clock;
use crate::ctl::{MAX_REQUEST_BYTES, ReportRequest, Stamp};
use crate::paths::RunDir;
use crate::pty::client::Ctl;

/// The hidden verb.
pub(super) const VERB: &str = "__hook";
/// After this the agent goes on, whether the report arrived or not.
const PATIENCE: Duration = Duration::from_millis(900);

/// Runs the verb with the arguments after its name.
pub(super) fn main(args: &[OsString]) -> ExitCode {
    let args = args.to_vec();
    let (done, arrived) = crossbeam_channel::bounded::<()>(1);
    // On a thread that is left behind when it takes too long: reading and connecting may both wait for others.
    let sending = std::thread::Builder::new().spawn(move || {
        report(&args);
        drop(done);
    });
    if sending.is_ok() {
        arrived.recv_timeout(PATIENCE).ok();
    }
    ExitCode::SUCCESS
}

fn report(args: &[OsString]) -> Option<()> {
    let called = clock::since_boot();
    let (adapter, dir) = (args.first()?.to_str()?, RunDir::at(PathBuf::from(args.get(1)?)));
    let payload = match args.get(2) {
        Some(payload) => payload.to_str()?.to_owned(),
        None => {
            let mut text = String::new();
            // Escaping and the envelope need room; a payload at the limit is refused by the wrapper.
            std::io::stdin().lock().take(MAX_REQUEST_BYTES as u64).read_to_string(&mut text).ok()?;
            text
        }
    };
    let payload = serde_json::from_str(&payload).ok()?;
    let token = std::fs::read_to_string(dir.token()).ok()?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).ok()?;
    let stamp = Stamp { at_us: u64::try_from(called.as_micros()).ok()?, nonce: u64::from_le_bytes(nonce) };
    Ctl::connect(&dir).ok()?.report(ReportRequest { token, adapter: adapter.to_owned(), payload, stamp }).ok()
}
