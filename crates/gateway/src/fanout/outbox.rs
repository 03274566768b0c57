//! What waits to be written to one socket, with a bound.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use clawstead_wire::{
    event::Loss,
    frame::EventText,
    limits::{BUFFERED_BYTES_MAX, close},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Things that one write takes.
const BATCH_ITEMS_MAX: usize = 64;

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Item {
    /// A response, or an event for this socket only.
    Text(String),
    /// A shared event with this socket's number.
    Event(Arc<EventText>, Option<u64>),
    /// A WebSocket ping.
    Ping,
}

impl Item {
    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Event(event, _) => event.size(),
            Self::Ping => 2,
        }
    }
}

/// How a socket is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The close code.
    pub code: u16,
    /// The reason.
    pub reason: String,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Item>,
    bytes: usize,
    /// Number of the last event, counting skipped ones.
    seq: u64,
    farewell: Option<Farewell>,
}

/// The queue of one socket. Holds [`BUFFERED_BYTES_MAX`] bytes at most: above that, events that may be lost are
/// skipped (their number is used up, so that the client sees the gap) and anything else closes the socket.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
    changed: Notify,
    /// Cancelled when the client is too slow: a writer that hangs in a write must stop.
    overflow: CancellationToken,
    bytes_max: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::with_bound(BUFFERED_BYTES_MAX)
    }
}

/// What the writer does next.
#[derive(Debug)]
pub enum Next {
    /// Write these.
    Items(Vec<Item>),
    /// Close the socket.
    Farewell(Farewell),
}

impl Outbox {
    /// A queue with another bound.
    #[must_use]
    pub fn with_bound(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), overflow: CancellationToken::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame that must arrive.
    pub fn push_text(&self, text: String) {
        self.push(Item::Text(text), Loss::Close);
    }

    /// Queues a broadcast event with this socket's next number.
    pub fn push_event(&self, event: &Arc<EventText>, loss: Loss) {
        let mut state = self.lock();
        state.seq += 1;
        let item = Item::Event(Arc::clone(event), Some(state.seq));
        self.add(&mut state, item, loss);
    }

    /// Queues an event for this socket only, without a number.
    pub fn push_direct(&self, event: &EventText) {
        self.push(Item::Text(event.frame(None)), Loss::Skip);
    }

    /// Queues a ping.
    pub fn push_ping(&self) {
        self.push(Item::Ping, Loss::Skip);
    }

    fn push(&self, item: Item, loss: Loss) {
        let mut state = self.lock();
        self.add(&mut state, item, loss);
    }

    fn add(&self, state: &mut State, item: Item, loss: Loss) {
        if state.farewell.is_some() {
            return;
        }
        let size = item.size();
        if state.bytes + size > self.bytes_max {
            if loss == Loss::Close {
                state.queue.clear();
                state.farewell = Some(Farewell { code: close::POLICY, reason: "slow consumer".into() });
                self.overflow.cancel();
                self.changed.notify_one();
            }
            return;
        }
        state.bytes += size;
        state.queue.push_back(item);
        self.changed.notify_one();
    }

    /// Closes the socket after what is queued was written.
    pub fn close(&self, code: u16, reason: &str) {
        let mut state = self.lock();
        if state.farewell.is_none() {
            state.farewell = Some(Farewell { code, reason: reason.to_owned() });
        }
        self.changed.notify_one();
    }

    /// Closes the socket without writing what is queued.
    pub fn abort(&self, code: u16, reason: &str) {
        self.lock().queue.clear();
        self.close(code, reason);
    }

    /// Waits until the client proved too slow.
    pub async fn overflowed(&self) {
        self.overflow.cancelled().await;
    }

    /// Waits for something to do. One writer may wait at a time.
    pub async fn next(&self) -> Next {
        loop {
            {
                let mut state = self.lock();
                if !state.queue.is_empty() {
                    // A piece at a time: what is taken is held until it was written.
                    let count = state.queue.len().min(BATCH_ITEMS_MAX);
                    return Next::Items(state.queue.drain(..count).collect());
                }
                if let Some(farewell) = &state.farewell {
                    return Next::Farewell(farewell.clone());
                }
            }
            self.changed.notified().await;
        }
    }

    /// Gives the room of written items back.
    pub fn written(&self, items: &[Item]) {
        let size: usize = items.iter().map(Item::size).sum();
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(size);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawstead_wire::{event::Loss, frame::EventText};
    use serde_json::json;

    use super::{Farewell, Item, Next, Outbox};

    #[tokio::test]
    async fn a_full_queue_skips_what_may_be_lost_and_closes_otherwise() {
        let event = Arc::new(EventText::new("tick", &json!({"ts": 1}), None));
        let outbox = Outbox::with_bound(event.size() * 2);
        for _ in 0..3 {
            outbox.push_event(&event, Loss::Skip);
        }
        let Next::Items(items) = outbox.next().await else { panic!("nothing queued") };
        assert_eq!(items.len(), 2);
        outbox.written(&items);
        outbox.push_event(&event, Loss::Close);
        let Next::Items(items) = outbox.next().await else { panic!("nothing queued") };
        assert!(matches!(items.as_slice(), [Item::Event(_, Some(4))]), "the skipped event used number 3");
        outbox.push_event(&event, Loss::Close);
        outbox.push_event(&event, Loss::Close);
        let Next::Farewell(farewell) = outbox.next().await else { panic!("not closed") };
        assert_eq!(farewell, Farewell { code: 1008, reason: "slow consumer".into() });
    }

    #[tokio::test]
    async fn a_close_waits_for_what_is_queued() {
        let outbox = Outbox::default();
        outbox.push_text("a".into());
        outbox.close(1012, "service restart");
        outbox.push_text("too late".into());
        let Next::Items(items) = outbox.next().await else { panic!("nothing queued") };
        assert_eq!(items.len(), 1);
        assert!(matches!(outbox.next().await, Next::Farewell(f) if f.code == 1012));
    }
}
