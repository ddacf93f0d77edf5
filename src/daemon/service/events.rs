//! The stream of events: history from the store, then the bus, each event once and in order.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::ctl::Refusal;
use crate::daemon::Daemon;
use crate::daemon::rpc::EventQuery;
use crate::extract::event::Event;
use crate::queue::store::EventFilter;

/// Events read from the store at a time.
const PAGE: usize = 500;

/// Who takes the items of a stream.
pub(crate) trait Sink {
    /// Takes one; an error ends the stream.
    async fn item(&mut self, event: &Event) -> Result<(), Refusal>;
}

impl From<&EventQuery> for EventFilter {
    fn from(q: &EventQuery) -> Self {
        Self { session: q.session.clone(), task: q.task, kinds: q.types.clone(), since: q.since, ..Self::default() }
    }
}

impl Daemon {
    /// Sends the events of a query to `sink`, and the live ones too if it follows.
    pub(crate) async fn events(&self, query: EventQuery, sink: &mut impl Sink) -> Result<Value, Refusal> {
        let filter = EventFilter::from(&query);
        // Listening begins first, so that nothing falls in between; what comes twice is told by its id.
        let mut live = self.bus.subscribe();
        let mut after = query.after.unwrap_or(0);
        if query.last == Some(0) {
            let newest = self.store.last_events(EventFilter::default(), 1).await?;
            after = newest.last().and_then(|e| e.id).unwrap_or(after);
        } else if let Some(n) = query.last {
            for event in self.store.last_events(filter.clone(), n).await? {
                let id = event.id.unwrap_or(0);
                if id > after {
                    after = id;
                    sink.item(&event).await?;
                }
            }
        }
        // With `last`, whatever matched is sent; what is committed meanwhile comes from here or from the bus.
        after = self.history(&filter, after, sink).await?;
        if query.follow {
            self.live(&filter, after, &mut live, sink).await?;
        }
        Ok(Value::Null)
    }

    /// Sends what comes from now on, until the client is gone.
    async fn live(
        &self,
        filter: &EventFilter,
        mut after: i64,
        bus: &mut Receiver<Arc<Event>>,
        sink: &mut impl Sink,
    ) -> Result<(), Refusal> {
        loop {
            match bus.recv().await {
                Ok(event) => {
                    let id = event.id.unwrap_or(0);
                    if id > after && filter.takes(&event) {
                        after = id;
                        sink.item(&event).await?;
                    }
                }
                Err(RecvError::Lagged(_)) => after = self.history(filter, after, sink).await?,
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Sends what the store has after `after`; returns the last id looked at.
    async fn history(&self, filter: &EventFilter, mut after: i64, sink: &mut impl Sink) -> Result<i64, Refusal> {
        loop {
            let page = self.store.events(filter.clone(), after, PAGE).await?;
            for event in &page {
                sink.item(event).await?;
                after = event.id.unwrap_or(after);
            }
            if page.len() < PAGE {
                return Ok(after);
            }
        }
    }
}
