//! Events of the farm for clients: `farm`, some at a time. Whoever needs every one asks `farm.events` by number.

use std::{sync::Arc, time::Duration};

use clawstead_farm::events::{Events, Told};
use clawstead_terms::Failure;
use clawstead_world::{TaskKind, World};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::fanout::Fanout;

/// Events of this long go out together.
const TOGETHER: Duration = Duration::from_millis(200);
/// Events of one frame; more of them are counted as `lost`, the newest stay.
const FRAME_MAX: usize = 64;

/// Tells clients of the farm's events from now on.
pub fn broadcast(events: &Arc<Events>, fanout: Fanout, world: &World) {
    let (mut heard, stop) = (events.listen(), world.tasks.stopping());
    world.tasks.spawn::<_, Failure>(TaskKind::logged("farm events"), async move {
        loop {
            let mut frame: Frame<Arc<Told>> = Frame::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                first = heard.recv() => if !frame.take(first) { return Ok(()) },
            }
            let until = tokio::time::Instant::now() + TOGETHER;
            loop {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(until) => break,
                    next = heard.recv() => if !frame.take(next) { break },
                }
            }
            if fanout.listeners() > 0 {
                let events = frame.events.iter().map(|told| told.json()).collect();
                fanout.send("farm", &payload(events, frame.lost));
            }
        }
    });
}

struct Frame<T> {
    events: std::collections::VecDeque<T>,
    lost: u64,
}

impl<T> Frame<T> {
    const fn new() -> Self {
        Self { events: std::collections::VecDeque::new(), lost: 0 }
    }

    /// False when there will be no more.
    fn take(&mut self, heard: Result<T, RecvError>) -> bool {
        match heard {
            Ok(event) => {
                self.events.push_back(event);
                if self.events.len() > FRAME_MAX {
                    self.events.pop_front();
                    self.lost += 1;
                }
                true
            }
            Err(RecvError::Lagged(count)) => {
                self.lost += count;
                true
            }
            Err(RecvError::Closed) => false,
        }
    }
}

fn payload(events: Vec<Value>, lost: u64) -> Value {
    json!({"events": events, "lost": lost})
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::RecvError;

    use super::{FRAME_MAX, Frame};

    #[test]
    fn a_frame_keeps_the_newest_and_counts_the_rest() {
        let mut frame = Frame::new();
        for seq in 0..FRAME_MAX + 3 {
            assert!(frame.take(Ok(seq)));
        }
        assert!(frame.take(Err(RecvError::Lagged(7))));
        assert_eq!((frame.events.len(), frame.lost), (FRAME_MAX, 10));
        assert_eq!(frame.events[0], 3);
        assert!(!frame.take(Err(RecvError::Closed)));
    }
}
