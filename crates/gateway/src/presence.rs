//! Who is connected.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use clawstead_wire::{
    connect::{ClientId, ClientMode},
    event::PresenceEntry,
};
use serde_json::Map;

/// Entries kept; the oldest disconnected ones go first.
const ENTRIES_MAX: usize = 200;
/// How long a disconnected entry stays, ms.
const GONE_KEPT_MS: i64 = 5 * 60_000;

/// True for programs that come and go for one question; they are not listed.
#[must_use]
pub const fn is_ephemeral(id: ClientId, mode: ClientMode) -> bool {
    matches!(mode, ClientMode::Cli | ClientMode::Probe | ClientMode::Backend) || matches!(id, ClientId::Cli | ClientId::Probe | ClientId::GatewayClient)
}

/// The list of who is connected, with a version that grows with every change.
#[derive(Debug)]
pub struct Presence {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    own: PresenceEntry,
    entries: BTreeMap<String, (PresenceEntry, bool)>,
    version: u64,
}

impl Presence {
    /// A list with only the gateway in it.
    #[must_use]
    pub fn new(host: &str, version: &str, instance_id: &str, now_ms: i64) -> Self {
        let mut own = blank(now_ms);
        own.host = Some(host.to_owned());
        own.version = Some(version.to_owned());
        own.platform = Some(std::env::consts::OS.to_owned());
        own.mode = Some("gateway".into());
        own.reason = Some("self".into());
        own.instance_id = Some(instance_id.to_owned());
        own.text = Some(format!("Gateway: {host} · app {version} · mode gateway · reason self"));
        Self { inner: Mutex::new(Inner { own, entries: BTreeMap::new(), version: 1 }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole list, the gateway first, and its version.
    #[must_use]
    pub fn list(&self, now_ms: i64) -> (Vec<PresenceEntry>, u64) {
        let mut inner = self.lock();
        inner.entries.retain(|_, (entry, online)| *online || now_ms - entry.ts < GONE_KEPT_MS);
        let mut own = inner.own.clone();
        own.ts = now_ms;
        (std::iter::once(own).chain(inner.entries.values().map(|(entry, _)| entry.clone())).collect(), inner.version)
    }

    /// The version of the list.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Adds or replaces an entry. `key` is the device or connection.
    pub fn joined(&self, key: &str, entry: PresenceEntry) {
        let mut inner = self.lock();
        if inner.entries.len() >= ENTRIES_MAX {
            let oldest = inner.entries.iter().filter(|(_, (_, online))| !online).min_by_key(|(_, (entry, _))| entry.ts).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                inner.entries.remove(&oldest);
            }
        }
        inner.entries.insert(key.to_owned(), (entry, true));
        inner.version += 1;
    }

    /// Marks an entry as gone. Answers whether there was one.
    pub fn left(&self, key: &str, now_ms: i64) -> bool {
        let mut inner = self.lock();
        let Some((entry, online)) = inner.entries.get_mut(key) else { return false };
        *online = false;
        entry.reason = Some("disconnect".into());
        entry.ts = now_ms;
        inner.version += 1;
        true
    }
}

/// An entry with nothing but a time.
#[must_use]
pub fn blank(ts: i64) -> PresenceEntry {
    PresenceEntry {
        host: None,
        client_id: None,
        ip: None,
        version: None,
        platform: None,
        device_family: None,
        mode: None,
        reason: None,
        device_id: None,
        instance_id: None,
        roles: None,
        scopes: None,
        online_since: None,
        text: None,
        ts,
        more: Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Presence, blank};

    #[test]
    fn who_left_is_shown_for_a_while() {
        let presence = Presence::new("host", "1", "i", 0);
        presence.joined("d", blank(10));
        assert!(presence.left("d", 20) && !presence.left("x", 20));
        assert_eq!((presence.list(30).0.len(), presence.version()), (2, 3));
        assert_eq!(presence.list(20 + 5 * 60_000).0.len(), 1);
    }
}
