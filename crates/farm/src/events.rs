//! What happens to letters, counted and told: one line in the log, one count, one event for whoever listens.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use clawstead_cluster::letter::Event;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::mailroom::{Head, Witness};

/// Events that a slow listener may be behind; older ones are lost to it.
const BEHIND_MAX: usize = 1024;

/// Counts and tells transitions.
pub struct Events {
    counts: Mutex<BTreeMap<(&'static str, String), u64>>,
    listeners: broadcast::Sender<Value>,
}

impl Default for Events {
    fn default() -> Self {
        Self { counts: Mutex::default(), listeners: broadcast::Sender::new(BEHIND_MAX) }
    }
}

impl Events {
    /// Every event from now on: `{event, messageId, ...}`.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Value> {
        self.listeners.subscribe()
    }

    /// How often each event happened since the start, by name and reason (empty where there is none).
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(&'static str, String), u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often an event happened, whatever its reason.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|((event, _), _)| *event == name).map(|(_, count)| count).sum()
    }

    fn add(&self, name: &'static str, reason: &str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry((name, reason.to_owned())).or_default() += 1;
    }
}

impl Witness for Events {
    fn told(&self, head: &Head, event: &Event) {
        let (name, reason) = (event.name(), reason(event));
        self.add(name, reason);
        match event {
            Event::DeadLetter { .. } | Event::Failed { .. } | Event::Recovered { .. } => {
                tracing::warn!(event = name, message = head.message_id, from = head.from, to = head.to, reason, "a letter between gateways");
            }
            _ => tracing::debug!(event = name, message = head.message_id, from = head.from, to = head.to, reason, "a letter between gateways"),
        }
        if self.listeners.receiver_count() > 0 {
            let _ = self.listeners.send(json!({"event": name, "detail": event, "messageId": head.message_id, "correlationId": head.correlation_id,
                "kind": head.kind, "from": head.from, "to": head.to, "fromGateway": head.from_gateway, "capability": head.capability}));
        }
    }

    fn rejected(&self, head: Option<&Head>, code: &'static str, why: &str) {
        self.add("farm.msg.rejected", code);
        let (from, message) = head.map_or(("", ""), |head| (head.from.as_str(), head.message_id.as_str()));
        tracing::warn!(event = "farm.msg.rejected", message, from, reason = code, "a letter was not taken: {why}");
    }
}

fn reason(event: &Event) -> &str {
    match event {
        Event::Retry { reason, .. } | Event::DeadLetter { reason } | Event::Redeliver { reason } | Event::Rejected { reason } => reason,
        Event::Failed { code, .. } => code,
        Event::Completed { failed: Some(code) } => code,
        _ => "",
    }
}
