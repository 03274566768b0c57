//! What happens in the farm, counted and told: one line in the log, one count, one event for whoever listens. The
//! latest events are kept, so that whoever looks later sees them too.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use clawstead_cluster::letter::Event;
use clawstead_terms::Millis;
use clawstead_world::{Clock, M, Metrics, World};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use crate::mailroom::{Head, Witness};

/// Events that a slow listener may be behind; older ones are lost to it.
const BEHIND_MAX: usize = 1024;
/// Characters of a reason in words that an event has.
const WHY_MAX: usize = 300;
/// Events that are kept for whoever looks later.
pub const KEPT_MAX: usize = 512;

#[derive(Default)]
struct Kept {
    counts: BTreeMap<(&'static str, String), u64>,
    latest: VecDeque<Arc<Told>>,
    /// The number of the newest one.
    seq: u64,
}

/// An event as it is kept; its JSON form is made when somebody looks, because most are never looked at.
#[derive(Clone, Debug)]
pub struct Told {
    /// Counts from 1 since the start of this gateway.
    pub seq: u64,
    /// When, by our clock.
    pub at: Millis,
    /// `farm.msg.sent`, ...
    pub name: &'static str,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Letter(Box<Head>, Event),
    /// Whose letter, the reason's code, the reason in words.
    Refused(Option<Box<Head>>, &'static str, String),
    Other(Map<String, Value>),
}

impl Told {
    /// `{seq, at, event, ...}`.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut out = Map::new();
        out.insert("seq".into(), self.seq.into());
        out.insert("at".into(), self.at.0.into());
        out.insert("event".into(), self.name.into());
        match &self.what {
            What::Letter(head, event) => out.extend(about(head, event)),
            What::Refused(head, code, why) => {
                out.extend(head.as_deref().map(head_of).unwrap_or_default());
                out.insert("reason".into(), (*code).into());
                out.insert("why".into(), why.clone().into());
            }
            What::Other(more) => out.extend(more.clone()),
        }
        Value::Object(out)
    }
}

/// Counts and tells. An event is `{seq, at, event, ...}`: `seq` counts from 1 since the start of this gateway, `at` is its
/// wall clock, `event` one of `farm.msg.*`, `farm.member.*`, `farm.key.*`, `farm.shard.*`. No bodies.
pub struct Events {
    kept: Mutex<Kept>,
    listeners: broadcast::Sender<Arc<Told>>,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

impl Events {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let events =
            Self { kept: Mutex::default(), listeners: broadcast::Sender::new(BEHIND_MAX), metrics: world.metrics.clone(), clock: Arc::clone(&world.clock) };
        events.begin_counting();
        events
    }

    /// Series that alerts look at are there from the start: the first event is an increase then.
    fn begin_counting(&self) {
        for of in [M::FarmSends, M::FarmRetries, M::FarmDead, M::FarmDuplicates, M::FarmSelfFenced] {
            self.metrics.add(of, &[], 0.0);
        }
        for reason in ["bad_signature", "fenced"] {
            self.metrics.add(M::FarmRejected, &[reason], 0.0);
        }
        for outcome in ["ok", "missed"] {
            self.metrics.add(M::FarmHeartbeats, &[outcome], 0.0);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every event from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Arc<Told>> {
        self.listeners.subscribe()
    }

    /// Events after number `after`, oldest first, at most `limit` of them (the newest when `after` is none), and the
    /// number of the newest. Those that are kept no more are missing: their numbers are.
    #[must_use]
    pub fn since(&self, after: Option<u64>, limit: usize) -> (Vec<Arc<Value>>, u64) {
        let kept = self.kept();
        // A number from before a restart of this gateway is above ours: everything is new then.
        let after = after.map(|after| if after > kept.seq { 0 } else { after });
        let found: Vec<Arc<Told>> = match after {
            Some(after) => kept.latest.iter().filter(|told| told.seq > after).take(limit).cloned().collect(),
            None => kept.latest.iter().skip(kept.latest.len().saturating_sub(limit)).cloned().collect(),
        };
        let newest = kept.seq;
        drop(kept);
        (found.iter().map(|told| Arc::new(told.json())).collect(), newest)
    }

    /// How often each event happened since the start, by name and reason (empty where there is none).
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(&'static str, String), u64> {
        self.kept().counts.clone()
    }

    /// How often an event happened, whatever its reason.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.kept().counts.iter().filter(|((event, _), _)| *event == name).map(|(_, count)| count).sum()
    }

    /// Something happened: `more` says what else there is to say of it. Never secrets, never bodies.
    pub fn tell(&self, name: &'static str, reason: &str, more: Map<String, Value>) {
        self.keep(name, reason, What::Other(more));
    }

    fn keep(&self, name: &'static str, reason: &str, what: What) {
        self.metrics.inc(M::FarmEvents, &[name, reason]);
        let at = self.clock.now();
        let told = {
            let mut kept = self.kept();
            *kept.counts.entry((name, reason.to_owned())).or_default() += 1;
            kept.seq += 1;
            let told = Arc::new(Told { seq: kept.seq, at, name, what });
            kept.latest.push_back(Arc::clone(&told));
            if kept.latest.len() > KEPT_MAX {
                kept.latest.pop_front();
            }
            told
        };
        // An error says that nobody listens.
        let _ = self.listeners.send(told);
    }

    /// The figures of one transition.
    fn measure(&self, head: &Head, event: &Event) {
        let metrics = &self.metrics;
        let receipt = |direction: &str, sort: &str| metrics.inc(M::FarmReceipts, &[direction, sort]);
        match event {
            Event::Sent { .. } => metrics.inc(M::FarmSends, &[]),
            Event::Delivered => {
                receipt("in", "delivered");
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of a letter's life")]
                metrics.observe(M::FarmDelivery, &[], (self.clock.now().0 - head.created_at.0).max(0) as f64 / 1_000.0);
            }
            Event::Acked => receipt("in", "acked"),
            Event::Failed { .. } => receipt("in", "failed"),
            Event::Retry { reason, .. } => {
                if reason == "busy" {
                    receipt("in", "busy");
                }
                metrics.inc(M::FarmRetries, &[]);
            }
            Event::Redeliver { .. } => metrics.inc(M::FarmRetries, &[]),
            Event::DeadLetter { .. } => metrics.inc(M::FarmDead, &[]),
            Event::Received => receipt("out", "delivered"),
            Event::Completed { failed: None } => receipt("out", "acked"),
            Event::Completed { failed: Some(_) } => receipt("out", "failed"),
            Event::Duplicate => metrics.inc(M::FarmDuplicates, &[]),
            Event::Rejected { reason } => metrics.inc(M::FarmRejected, &[reason]),
            Event::Queued | Event::Replayed | Event::Reopened | Event::Processing | Event::Recovered { .. } => {}
        }
    }
}

impl Witness for Events {
    fn told(&self, head: &Head, event: &Event) {
        let (name, reason) = (event.name(), reason(event));
        match event {
            Event::DeadLetter { .. } | Event::Failed { .. } | Event::Recovered { .. } => {
                tracing::warn!(event = name, message = head.message_id, from = head.from, to = head.to, reason, "a letter between gateways");
            }
            _ => tracing::debug!(event = name, message = head.message_id, from = head.from, to = head.to, reason, "a letter between gateways"),
        }
        self.measure(head, event);
        self.keep(name, reason, What::Letter(Box::new(head.clone()), event.clone()));
    }

    fn rejected(&self, head: Option<&Head>, code: &'static str, why: &str) {
        let (from, message) = head.map_or(("", ""), |head| (head.from.as_str(), head.message_id.as_str()));
        tracing::warn!(event = "farm.msg.rejected", message, from, reason = code, "a letter was not taken: {why}");
        self.metrics.inc(M::FarmRejected, &[code]);
        self.keep("farm.msg.rejected", code, What::Refused(head.cloned().map(Box::new), code, why.chars().take(WHY_MAX).collect()));
    }
}

fn head_of(head: &Head) -> Map<String, Value> {
    match json!({"messageId": head.message_id, "correlationId": head.correlation_id, "kind": head.kind, "from": head.from, "to": head.to,
        "fromGateway": head.from_gateway, "capability": head.capability})
    {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn about(head: &Head, event: &Event) -> Map<String, Value> {
    let mut more = head_of(head);
    // What the transition says besides its name: attempt, reason, delay_ms, code, ...
    if let Ok(Value::Object(detail)) = serde_json::to_value(event) {
        more.extend(detail.into_iter().filter(|(name, value)| name != "event" && !value.is_null()));
    }
    more
}

fn reason(event: &Event) -> &str {
    match event {
        Event::Retry { reason, .. } | Event::DeadLetter { reason } | Event::Redeliver { reason } | Event::Rejected { reason } => reason,
        Event::Failed { code, .. } => code,
        Event::Completed { failed: Some(code) } => code,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use clawstead_cluster::{
        envelope::{Kind, Priority},
        letter::Event,
    };
    use clawstead_terms::Millis;
    use clawstead_world::{M, World};
    use serde_json::json;

    use super::{Events, KEPT_MAX};
    use crate::mailroom::{Head, Witness as _};

    fn head(world: &World) -> Head {
        Head {
            message_id: "m1".into(),
            correlation_id: "m1".into(),
            causation_id: None,
            kind: Kind::Request,
            from: "jerry".into(),
            from_gateway: "jerry-gateway".into(),
            to: "bobby".into(),
            session: Some("agent:bobby:main".into()),
            capability: "sessions.send".into(),
            priority: Priority::Normal,
            created_at: world.clock.now().plus(-40),
            expires_at: Millis(i64::MAX),
        }
    }

    #[tokio::test]
    async fn transitions_are_counted_told_and_kept() {
        let world = World::simulated(1);
        let events = Events::new(&world);
        let mut listener = events.listen();
        let head = head(&world);
        for event in [
            Event::Queued,
            Event::Sent { attempt: 0 },
            Event::Retry { reason: "no_answer".into(), delay_ms: 200 },
            Event::Sent { attempt: 1 },
            Event::Delivered,
            Event::Acked,
        ] {
            events.told(&head, &event);
        }
        events.rejected(None, "bad_signature", "the signature does not fit");
        let metrics = &world.metrics;
        assert_eq!(metrics.value(M::FarmSends, &[]), Some(2.0));
        assert_eq!(metrics.value(M::FarmRetries, &[]), Some(1.0));
        assert_eq!(metrics.value(M::FarmRejected, &["bad_signature"]), Some(1.0));
        assert_eq!(metrics.value(M::FarmReceipts, &["in", "acked"]), Some(1.0));
        assert!(metrics.text().contains("openclaw_farm_delivery_seconds_sum 0.04\n"));
        assert_eq!(events.count("farm.msg.sent"), 2);
        let first = listener.try_recv().unwrap().json();
        assert_eq!((&first["seq"], &first["event"], &first["to"]), (&json!(1), &json!("farm.msg.queued"), &json!("bobby")));
        let (page, newest) = events.since(Some(2), 2);
        assert_eq!((page.len(), newest), (2, 7));
        assert_eq!((&page[0]["event"], &page[0]["reason"], &page[0]["delay_ms"]), (&json!("farm.msg.retry"), &json!("no_answer"), &json!(200)));
        assert_eq!(events.since(None, 1).0[0]["reason"], "bad_signature");
        assert_eq!(events.since(Some(900), 500).0.len(), 7, "a number of an earlier start is none of ours");
    }

    #[tokio::test]
    async fn only_the_latest_are_kept() {
        let events = Events::new(&World::simulated(1));
        for _ in 0..KEPT_MAX + 10 {
            events.tell("farm.member.healthy", "", serde_json::Map::new());
        }
        let (kept, newest) = events.since(Some(0), usize::MAX);
        assert_eq!((kept.len(), newest), (KEPT_MAX, KEPT_MAX as u64 + 10));
        assert_eq!(kept[0]["seq"], 11);
    }
}
