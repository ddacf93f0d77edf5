//! Decoders of side channels, by protocol name: what an agent reports about itself out of band.

use serde_json::Value;

use crate::extract::signal::Signal;

/// A report that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// No such protocol.
    #[error("no adapter is called {0:?}: is the hook of another version of orchwrap?")]
    Unknown(String),
    /// The payload is not what the protocol says.
    #[error("{adapter}: {why}")]
    Malformed {
        /// Protocol name.
        adapter: String,
        /// What is wrong.
        why: String,
    },
}

/// Turns one report of the protocol `adapter` into claims.
pub fn decode(adapter: &str, _payload: &Value) -> Result<Vec<Signal>, AdapterError> {
    Err(AdapterError::Unknown(adapter.to_owned()))
}
