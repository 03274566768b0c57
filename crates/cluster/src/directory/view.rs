use std::collections::{BTreeMap, BTreeSet};

use clawstead_bus::Change;

use super::schema::{AGENTS, AgentEntry, CLUSTER, ClusterEntry, Entries, GATEWAYS, GatewayEntry, KEYS, MEMBERS, MemberRecord, split};
use crate::{keys::KeyRecord, names::is_gateway};

/// A gateway whose records did not change for this long is silent, ms: three of its heartbeats.
pub const SILENT_AFTER_MS: u64 = 30_000;
/// Problems remembered at most.
pub const PROBLEMS_MAX: usize = 200;
/// Nonces remembered of one name.
const NONCES_MAX: usize = 16;

/// How a gateway is, as we see it. Moments are on our boot clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It shows signs of life, without a gap since this moment.
    Healthy {
        /// Since when.
        since_ms: u64,
    },
    /// No sign of life for longer than it may be.
    Silent {
        /// When the last one was.
        since_ms: u64,
    },
    /// It said that it leaves.
    Stopped,
    /// We have not watched for long enough, or the store does not answer.
    Unknown,
}

/// A gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayView {
    /// What it published.
    pub entry: GatewayEntry,
    /// Its lease.
    pub member: Option<MemberRecord>,
    /// Records of its keys, as they lie in the store: not believed before a `KeyRing` believes them.
    pub keys: Vec<KeyRecord>,
    life: Life,
}

/// An agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentView {
    /// What was published of it.
    pub entry: AgentEntry,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Life {
    /// When we saw it first, or the store came back.
    watched_from_ms: u64,
    changed_ms: Option<u64>,
    healthy_from_ms: u64,
    /// Nonces under this name, oldest first, the present one last.
    nonces: Vec<String>,
    conflict: bool,
}

/// Everything that is known of the farm.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    cluster: ClusterEntry,
    gateways: Entries<GatewayView>,
    agents: Entries<AgentView>,
    problems: BTreeMap<String, String>,
    lost: BTreeMap<String, String>,
}

impl Directory {
    /// Takes what a watch of `prefix` told. Prefixes that are understood: [`GATEWAYS`], [`AGENTS`], [`CLUSTER`],
    /// [`MEMBERS`], [`KEYS`]; a shorter one that covers some of them too.
    pub fn apply(&mut self, prefix: &str, change: &Change, mono_ms: u64) {
        match change {
            Change::Snapshot(entries) => {
                let was_lost = self.lost.remove(prefix).is_some();
                self.forget(prefix, entries.keys());
                for (key, entry) in entries {
                    self.set(key, Some(&entry.value), mono_ms, Seen::AtOnce);
                }
                if was_lost {
                    self.watch_anew(mono_ms);
                }
            }
            Change::Put(entry) => self.set(&entry.key, Some(&entry.value), mono_ms, Seen::Changing),
            Change::Delete(key) => self.set(key, None, mono_ms, Seen::Changing),
            Change::Lost(why) => drop(self.lost.insert(prefix.to_owned(), why.clone())),
        }
    }

    /// The farm as published.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterEntry {
        &self.cluster
    }

    /// All gateways, by name.
    #[must_use]
    pub const fn gateways(&self) -> &BTreeMap<String, GatewayView> {
        &self.gateways
    }

    /// All agents, by id.
    #[must_use]
    pub const fn agents(&self) -> &BTreeMap<String, AgentView> {
        &self.agents
    }

    /// Key records of all gateways, for `KeyRing::replace`.
    pub fn key_records(&self) -> impl Iterator<Item = &KeyRecord> {
        self.gateways.values().flat_map(|view| &view.keys)
    }

    /// Why the store does not answer; `None` when all watches do.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.lost.values().next().map(String::as_str)
    }

    /// Values that could not be read, by key, in words.
    #[must_use]
    pub const fn problems(&self) -> &BTreeMap<String, String> {
        &self.problems
    }

    /// How a gateway is. One that nobody knows is `Unknown`.
    #[must_use]
    pub fn health(&self, gateway: &str, mono_ms: u64) -> Health {
        let Some(view) = self.gateways.get(gateway) else { return Health::Unknown };
        if matches!(view.entry.status.as_deref(), Some("stopped" | "offline")) {
            return Health::Stopped;
        }
        let (life, lost) = (&view.life, !self.lost.is_empty());
        let last = life.changed_ms.map_or(life.watched_from_ms, |at| at.max(life.watched_from_ms));
        let quiet_ms = mono_ms.saturating_sub(last);
        match life.changed_ms {
            _ if lost => Health::Unknown,
            _ if quiet_ms > SILENT_AFTER_MS => Health::Silent { since_ms: last },
            Some(_) => Health::Healthy { since_ms: life.healthy_from_ms },
            None => Health::Unknown,
        }
    }

    /// The gateway that an agent lives at: what the agent's own key says, else the one gateway that lists it.
    #[must_use]
    pub fn home(&self, agent: &str) -> Option<&str> {
        let said = self.agents.get(agent).and_then(|view| view.entry.gateway.as_deref());
        said.or_else(|| match self.listing(agent)[..] {
            [only] => Some(only),
            _ => None,
        })
    }

    /// Agents that more than one gateway lists, with those gateways.
    #[must_use]
    pub fn agents_listed_twice(&self) -> BTreeMap<&str, Vec<&str>> {
        let ids: BTreeSet<&str> = self.gateways.values().flat_map(|view| &view.entry.agents).map(String::as_str).collect();
        ids.into_iter().map(|id| (id, self.listing(id))).filter(|(_, gateways)| gateways.len() > 1).collect()
    }

    /// Names that two running processes use: a nonce came back that another one had replaced.
    #[must_use]
    pub fn name_conflicts(&self) -> Vec<&str> {
        self.gateways.iter().filter(|(_, view)| view.life.conflict).map(|(name, _)| name.as_str()).collect()
    }

    /// True when somebody else renews the lease under our own name since we did: the incarnation is at least ours and the
    /// nonce is another one.
    #[must_use]
    pub fn is_name_taken(&self, me: &str, ours: &MemberRecord) -> bool {
        let theirs = self.gateways.get(me).and_then(|view| view.member.as_ref());
        theirs.is_some_and(|theirs| theirs.nonce != ours.nonce && theirs.incarnation >= ours.incarnation)
    }

    fn listing(&self, agent: &str) -> Vec<&str> {
        self.gateways.iter().filter(|(_, view)| view.entry.agents.iter().any(|id| id == agent)).map(|(name, _)| name.as_str()).collect()
    }

    /// A snapshot: what is not in it is gone.
    fn forget<'a>(&mut self, prefix: &str, keys: impl Iterator<Item = &'a String>) {
        let there: BTreeSet<&str> = keys.map(String::as_str).collect();
        let covers = |part: &str| part.starts_with(prefix);
        self.problems.retain(|key, _| !key.starts_with(prefix) || there.contains(key.as_str()));
        if covers(CLUSTER) {
            self.cluster = ClusterEntry::default();
        }
        if covers(AGENTS) {
            self.agents.clear();
        }
        for (name, view) in &mut self.gateways {
            if covers(GATEWAYS) {
                view.entry = GatewayEntry::default();
            }
            if covers(MEMBERS) && !there.contains(format!("{MEMBERS}{name}").as_str()) {
                view.member = None;
            }
            if covers(KEYS) {
                view.keys.clear();
            }
        }
        let listed = |name: &str| there.iter().any(|key| split(GATEWAYS, key).is_some_and(|(gateway, _)| gateway == name));
        self.gateways.retain(|name, view| view.member.is_some() || !view.keys.is_empty() || !covers(GATEWAYS) || listed(name));
    }

    fn watch_anew(&mut self, mono_ms: u64) {
        for view in self.gateways.values_mut() {
            view.life.watched_from_ms = mono_ms;
        }
    }

    fn set(&mut self, key: &str, value: Option<&[u8]>, mono_ms: u64, seen: Seen) {
        let outcome = if let Some(field) = key.strip_prefix(CLUSTER) {
            self.cluster.read(field, value)
        } else if let Some((name, field)) = split(GATEWAYS, key) {
            self.set_gateway(name, field, value, mono_ms, seen)
        } else if let Some((id, field)) = split(AGENTS, key) {
            self.set_agent(id, field, value)
        } else if let Some(name) = key.strip_prefix(MEMBERS) {
            self.set_member(name, value, mono_ms, seen)
        } else if let Some((name, kid)) = split(KEYS, key) {
            self.set_key(name, kid, value, mono_ms)
        } else {
            Ok(())
        };
        match outcome {
            Ok(()) => drop(self.problems.remove(key)),
            Err(what) if self.problems.len() < PROBLEMS_MAX => drop(self.problems.insert(key.to_owned(), format!("{key} {what}"))),
            Err(_) => {}
        }
    }

    fn gateway(&mut self, name: &str, mono_ms: u64) -> Result<&mut GatewayView, &'static str> {
        if !is_gateway(name) {
            return Err("does not belong to a name that a gateway may have");
        }
        let new = || GatewayView { life: Life { watched_from_ms: mono_ms, ..Life::default() }, ..GatewayView::default() };
        Ok(self.gateways.entry(name.to_owned()).or_insert_with(new))
    }

    fn set_gateway(&mut self, name: &str, field: &str, value: Option<&[u8]>, mono_ms: u64, seen: Seen) -> Result<(), &'static str> {
        let view = self.gateway(name, mono_ms)?;
        let before = view.entry.last_heartbeat.clone();
        view.entry.read(field, value)?;
        if seen == Seen::Changing && view.entry.last_heartbeat.is_some() && view.entry.last_heartbeat != before {
            view.life.sign(mono_ms);
        }
        if view.entry == GatewayEntry::default() && view.member.is_none() && view.keys.is_empty() {
            self.gateways.remove(name);
        }
        Ok(())
    }

    fn set_agent(&mut self, id: &str, field: &str, value: Option<&[u8]>) -> Result<(), &'static str> {
        if field.contains('/') {
            // Letters in inbox and outbox: not ours to look at.
            return Ok(());
        }
        let view = self.agents.entry(id.to_owned()).or_default();
        view.entry.read(field, value)?;
        if view.entry == AgentEntry::default() {
            self.agents.remove(id);
        }
        Ok(())
    }

    fn set_member(&mut self, name: &str, value: Option<&[u8]>, mono_ms: u64, seen: Seen) -> Result<(), &'static str> {
        let record: Option<MemberRecord> = value.map(serde_json::from_slice).transpose().map_err(|_| "is not a lease")?;
        let view = self.gateway(name, mono_ms)?;
        if let Some(record) = &record
            && view.member.as_ref() != Some(record)
        {
            view.life.nonce(&record.nonce);
            if seen == Seen::Changing || view.member.is_some() {
                view.life.sign(mono_ms);
            }
        }
        view.member = record;
        Ok(())
    }

    fn set_key(&mut self, name: &str, kid: &str, value: Option<&[u8]>, mono_ms: u64) -> Result<(), &'static str> {
        let record: Option<KeyRecord> = value.map(serde_json::from_slice).transpose().map_err(|_| "is not a key record")?;
        if record.as_ref().is_some_and(|record| record.kid != kid || record.gateway != name) {
            return Err("names another key than its place says");
        }
        let view = self.gateway(name, mono_ms)?;
        view.keys.retain(|held| held.kid != kid);
        view.keys.extend(record);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Part of a snapshot: may be as old as it likes.
    AtOnce,
    /// It changed just now.
    Changing,
}

impl Life {
    fn sign(&mut self, mono_ms: u64) {
        let last = self.changed_ms.map(|at| at.max(self.watched_from_ms));
        if last.is_none_or(|at| mono_ms.saturating_sub(at) > SILENT_AFTER_MS) {
            self.healthy_from_ms = mono_ms;
        }
        self.changed_ms = Some(mono_ms);
    }

    fn nonce(&mut self, nonce: &str) {
        if self.nonces.last().is_some_and(|last| last == nonce) {
            return;
        }
        if self.nonces.iter().any(|known| known == nonce) {
            self.conflict = true;
        }
        self.nonces.retain(|known| known != nonce);
        self.nonces.push(nonce.to_owned());
        if self.nonces.len() > NONCES_MAX {
            self.nonces.remove(0);
        }
    }
}
