//! Events of the farm for clients: `farm`, some at a time. Whoever needs every one asks `farm.events` by number.

use std::{sync::Arc, time::Duration};

use clawstead_farm::events::Events;
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
            let mut frame = Frame::default();
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
                fanout.send("farm", &frame.payload());
            }
        }
    });
}

#[derive(Default)]
struct Frame {
    events: std::collections::VecDeque<Arc<Value>>,
    lost: u64,
}

impl Frame {
    /// False when there will be no more.
    fn take(&mut self, heard: Result<Arc<Value>, RecvError>) -> bool {
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

    fn payload(&self) -> Value {
        let events: Vec<&Value> = self.events.iter().map(AsRef::as_ref).collect();
        json!({"events": events, "lost": self.lost})
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tokio::sync::broadcast::error::RecvError;

    use super::{FRAME_MAX, Frame};

    #[test]
    fn a_frame_keeps_the_newest_and_counts_the_rest() {
        let mut frame = Frame::default();
        for seq in 0..FRAME_MAX + 3 {
            assert!(frame.take(Ok(Arc::new(json!({"seq": seq})))));
        }
        assert!(frame.take(Err(RecvError::Lagged(7))));
        let payload = frame.payload();
        assert_eq!((payload["events"].as_array().unwrap().len(), &payload["lost"]), (FRAME_MAX, &json!(10)));
        assert_eq!(payload["events"][0]["seq"], 3);
        assert!(!frame.take(Err(RecvError::Closed)));
    }
}
