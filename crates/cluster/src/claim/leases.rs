use std::collections::BTreeMap;

use crate::directory::MemberRecord;

/// The leases of all gateways as this one sees them change, by its own boot clock.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    seen: BTreeMap<String, (MemberRecord, u64)>,
    /// Since when the store answers without a gap; none while it does not.
    since_ms: Option<u64>,
}

impl Leases {
    /// The store answers (again): every count begins now.
    pub fn back(&mut self, mono_ms: u64) {
        self.since_ms.get_or_insert(mono_ms);
    }

    /// The store does not answer: nobody's silence counts.
    pub const fn lost(&mut self) {
        self.since_ms = None;
    }

    /// True while the store answers.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.since_ms.is_some()
    }

    /// A lease as it is now; seeing the same value again is no sign of life.
    pub fn seen(&mut self, gateway: &str, record: Option<&MemberRecord>, mono_ms: u64) {
        match record {
            None => drop(self.seen.remove(gateway)),
            Some(record) if self.seen.get(gateway).is_some_and(|(known, _)| known == record) => {}
            Some(record) => drop(self.seen.insert(gateway.to_owned(), (record.clone(), mono_ms))),
        }
    }

    /// How long a gateway has been silent while the store answered, ms. `None` while the store does not answer. A gateway
    /// without a lease is silent since the store answers.
    #[must_use]
    pub fn silent_ms(&self, gateway: &str, mono_ms: u64) -> Option<u64> {
        let from = self.since_ms?.max(self.seen.get(gateway).map_or(0, |(_, at)| *at));
        Some(mono_ms.saturating_sub(from))
    }

    /// The incarnation in a gateway's lease.
    #[must_use]
    pub fn incarnation(&self, gateway: &str) -> Option<u64> {
        self.seen.get(gateway).map(|(record, _)| record.incarnation)
    }

    /// Gateways that were heard of within `wait_ms`, in order of their names.
    #[must_use]
    pub fn live(&self, wait_ms: u64, mono_ms: u64) -> Vec<&str> {
        self.seen.keys().filter(|name| self.silent_ms(name, mono_ms).is_some_and(|quiet| quiet <= wait_ms)).map(String::as_str).collect()
    }
}
