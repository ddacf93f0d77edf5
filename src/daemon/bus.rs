//! The bus: every committed event, to whoever listens.
//!
//! A listener that falls more than [`CAPACITY`] events behind is told so and reads what it missed from the store by id,
//! so a slow reader costs nobody anything (F67).

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::extract::event::Event;

/// Events held for slow listeners.
pub const CAPACITY: usize = 4096;

/// Sender's end of the bus; cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    tx: broadcast::Sender<Arc<Event>>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { tx: broadcast::channel(CAPACITY).0 }
    }
}

impl Bus {
    /// Publishes committed events, in the order of their ids.
    pub fn publish(&self, events: impl IntoIterator<Item = Arc<Event>>) {
        for event in events {
            // Nobody listening is fine: the store has it.
            let _ = self.tx.send(event);
        }
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.tx.subscribe()
    }
}
