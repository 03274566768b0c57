//! Who is in the farm: tells the others of us, watches what they tell, keeps who may sign.
//!
//! Published names are those of the homelab schema (`openclaw/gateways/<gw>/..`, `openclaw/agents/<id>/..`); what others
//! must rely on is in the lease (`members/<gw>`), the key records and the ownership records (`shards/<unit>`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use clawstead_bus::{CasError, Change, Coord, CoordError, Member};
use clawstead_cluster::{
    Now,
    claim::{Failover, Record},
    directory::{AgentEntry, CLUSTER, ClusterEntry, Directory, GATEWAYS, GatewayEntry, Health, KEYS, MEMBERS, MemberRecord, published_stamp},
    format_stamp,
    keys::{KeyRecord, KeyRing},
    names::unit_party,
    parse_stamp,
};
use clawstead_state::keeper::Keeper;
use clawstead_terms::{Failure, Millis, Unit};
use clawstead_world::{Bell, Ear, TaskKind, World};
use futures_util::{StreamExt as _, stream::select_all};

use crate::{
    mailroom::{Place, Places},
    ownership::Heard,
};

/// Where ownership records lie.
pub const SHARDS: &str = "openclaw/farm/v1/shards/";
/// The name of a gateway's service in the engine's discovery.
pub const SERVICE: &str = "openclaw-gateway";
/// Gateways write what the published schema shows of them this often.
const PUBLISH_EVERY: Duration = Duration::from_secs(10);
/// A gateway's check turns critical after this silence.
const CHECK_TTL: Duration = Duration::from_secs(3);
/// Clocks that differ by more are told about, ms.
const SKEW_TOLD_MS: i64 = 2_000;
/// Clocks that differ by more make letters be refused, ms.
const SKEW_REFUSED_MS: i64 = 300_000;
/// The name of a problem: the store has older records than it had.
const WENT_BACK: &str = "epochs";
/// How long the start waits for the coordination store.
pub const START_WAIT: Duration = Duration::from_millis(2_500);

/// What is told of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFacts {
    /// Its id.
    pub id: String,
    /// What it can be asked for.
    pub capabilities: Vec<String>,
    /// `provider/model`.
    pub model: Option<String>,
    /// Whether it has a heartbeat.
    pub heartbeat: bool,
}

/// What is told of an agent that a program registered here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFacts {
    /// As of any other.
    pub facts: AgentFacts,
    /// What it says of itself.
    pub status: String,
    /// Its last sign of life.
    pub last_check: Option<String>,
    /// What that said.
    pub last_check_result: Option<String>,
    /// Its last alert.
    pub last_alert: Option<String>,
}

/// Ourselves.
#[derive(Clone, Debug)]
pub struct Me {
    /// The farm's name.
    pub farm: String,
    /// Ours.
    pub gateway: String,
    /// Where clients reach us, `ws://host:port`.
    pub url: String,
    /// Host and port that others reach us at, for the engine's discovery.
    pub address: (String, u16),
    /// Further tags of our service there.
    pub tags: Vec<String>,
    /// What the engine asks to see that we answer; none where it cannot reach us.
    pub check_url: Option<String>,
    /// Where peers reach us, `host:port`; none when nothing listens.
    pub peer: Option<String>,
    /// The version we run.
    pub version: String,
    /// Grows with each start.
    pub incarnation: u64,
    /// Between renewals of our lease.
    pub renew: Duration,
}

#[derive(Default)]
struct Known {
    directory: Directory,
    shards: BTreeMap<Unit, Record>,
    shards_lost: Option<String>,
    /// What is wrong with us, in words.
    problems: BTreeSet<String>,
    /// What is wrong now and may be right again, by a name.
    troubles: BTreeMap<&'static str, String>,
    /// The record with the highest epoch that was seen of each unit: the store must not go back.
    high: BTreeMap<Unit, Record>,
    /// Units of which the store has an older record now.
    below: BTreeSet<Unit>,
    /// Records of our own keys as they were seen, the furthest stage of each: put back when the store lost them.
    own_keys: BTreeMap<String, KeyRecord>,
    /// How far the clocks of others are ahead of ours, ms, and when that was seen.
    skews: BTreeMap<String, i64>,
    /// Why the last renewal failed.
    silent: Option<String>,
}

struct Shared {
    me: Me,
    ours: MemberRecord,
    coord: Arc<dyn Coord>,
    world: World,
    keeper: Keeper,
    known: RwLock<Known>,
    ring: Arc<RwLock<KeyRing>>,
    agents: RwLock<Vec<AgentFacts>>,
    /// Agents that programs registered here.
    guests: RwLock<Vec<GuestFacts>>,
    began: tokio::time::Instant,
    changed: Bell,
    /// The state store does not answer us; told with each renewal.
    state_lost: Arc<std::sync::atomic::AtomicBool>,
    beats: std::sync::atomic::AtomicU64,
    missed: std::sync::atomic::AtomicU64,
    /// Who claims units, where units move; it writes the ownership records then.
    owning: Option<tokio::sync::mpsc::UnboundedSender<Heard>>,
}

/// Membership of one gateway. Clones are the same one.
#[derive(Clone)]
pub struct Membership(Arc<Shared>);

/// A gateway as `farm status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Its name.
    pub name: String,
    /// True for the one that answers.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// `healthy`, `silent`, `stopped`, `unknown`.
    pub health: &'static str,
    /// True for `healthy`.
    pub healthy: bool,
    /// How long it has been so, ms, as far as we watched.
    pub since_ms: u64,
    /// Where clients reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The version it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its last heartbeat by its own clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<String>,
    /// The agents that live there.
    pub agents: Vec<String>,
    /// How many keys it has that are believed.
    pub keys: usize,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// An agent as `farm status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Its id.
    pub id: String,
    /// Where it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Whether that gateway is healthy.
    pub healthy: bool,
    /// The epoch under which it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// What it can be asked for; known of our own agents and of those that were asked about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Membership {
    /// Starts to tell and to watch. What cannot be told now is told later: a store that is away stops nothing. `owning`
    /// hears of records and leases, where units move.
    #[must_use]
    pub fn start(
        me: Me,
        coord: Arc<dyn Coord>,
        world: &World,
        keeper: Keeper,
        ring: Arc<RwLock<KeyRing>>,
        agents: Vec<AgentFacts>,
        owning: Option<tokio::sync::mpsc::UnboundedSender<Heard>>,
    ) -> Self {
        let ours = MemberRecord {
            incarnation: me.incarnation,
            nonce: world.rng.uuid(),
            load: 0,
            version: me.version.clone(),
            peer: me.peer.clone(),
            beat: 0,
            state_lost: false,
        };
        let shared = Shared {
            me,
            ours,
            coord,
            world: world.clone(),
            keeper,
            known: RwLock::default(),
            ring,
            agents: RwLock::new(agents),
            guests: RwLock::default(),
            began: tokio::time::Instant::now(),
            changed: Bell::default(),
            state_lost: Arc::default(),
            beats: 0.into(),
            missed: 0.into(),
            owning,
        };
        let membership = Self(Arc::new(shared));
        let (watching, telling) = (membership.clone(), membership.clone());
        world.tasks.spawn::<_, Failure>(TaskKind::vital("farm watch"), async move {
            watching.watch().await;
            Ok(())
        });
        world.tasks.spawn::<_, Failure>(TaskKind::vital("farm lease"), async move {
            telling.tell().await;
            Ok(())
        });
        membership
    }

    /// Boot and wall time, the same for everything of the farm.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { wall: self.0.world.clock.now(), mono_ms: self.mono_ms() }
    }

    /// Set while the state store does not answer us; others hear it with our lease.
    #[must_use]
    pub fn state_lost(&self) -> Arc<std::sync::atomic::AtomicBool> {
        Arc::clone(&self.0.state_lost)
    }

    /// Where boot time begins.
    #[must_use]
    pub fn began(&self) -> tokio::time::Instant {
        self.0.began
    }

    fn mono_ms(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.0.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grows with everything that was heard.
    #[must_use]
    pub fn changes(&self) -> Ear {
        self.0.changed.listen()
    }

    /// Who may sign, as far as the farm's root vouches for them.
    #[must_use]
    pub fn ring(&self) -> Arc<RwLock<KeyRing>> {
        Arc::clone(&self.0.ring)
    }

    /// Where peers reach a gateway.
    #[must_use]
    pub fn peer_address(&self, gateway: &str) -> Option<String> {
        let known = self.known();
        known.directory.gateways().get(gateway)?.member.as_ref()?.peer.clone()
    }

    /// Gateways besides us that show signs of life.
    #[must_use]
    pub fn peers(&self) -> Vec<String> {
        let (known, mono) = (self.known(), self.mono_ms());
        let alive = |name: &&String| **name != self.0.me.gateway && matches!(known.directory.health(name, mono), Health::Healthy { .. });
        known.directory.gateways().keys().filter(alive).cloned().collect()
    }

    /// Our agents changed: tells the others.
    pub async fn set_agents(&self, agents: Vec<AgentFacts>) {
        *self.0.agents.write().unwrap_or_else(PoisonError::into_inner) = agents;
        // Who holds it comes first: that is what others need to reach it.
        let told = async {
            self.own().await?;
            self.publish("healthy").await
        };
        if let Err(err) = told.await {
            tracing::debug!(%err, "our agents could not be published now; they are in ten seconds");
        }
    }

    /// Agents that programs registered here. Who comes or goes is told at once, what else changed within ten seconds.
    pub async fn set_guests(&self, guests: Vec<GuestFacts>) {
        let ids = |all: &[GuestFacts]| all.iter().map(|guest| guest.facts.id.clone()).collect::<Vec<_>>();
        let roster_changed = {
            let mut known = self.0.guests.write().unwrap_or_else(PoisonError::into_inner);
            let changed = ids(&known) != ids(&guests);
            *known = guests;
            changed
        };
        if roster_changed && let Err(err) = self.publish("healthy").await {
            tracing::debug!(%err, "agents of programs could not be published now; they are in ten seconds");
        }
    }

    async fn watch(&self) {
        let prefixes = [GATEWAYS, MEMBERS, KEYS, CLUSTER, SHARDS];
        let streams = prefixes.map(|prefix| self.0.coord.watch(prefix).map(move |change| (prefix, change)).boxed());
        let mut changes = select_all(streams);
        let stop = self.0.world.tasks.stopping();
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = changes.next() => next,
            };
            let Some((prefix, change)) = next else { return };
            self.hear(prefix, &change);
        }
    }

    fn hear(&self, prefix: &str, change: &Change) {
        let mono = self.mono_ms();
        if let Some(owning) = &self.0.owning {
            match prefix {
                SHARDS => drop(owning.send(Heard::Shards(change.clone()))),
                MEMBERS => drop(owning.send(Heard::Members(change.clone()))),
                _ => {}
            }
        }
        let mut known = self.known_mut();
        if prefix == SHARDS {
            known.hear_shard(change);
        } else {
            known.directory.apply(prefix, change, mono);
        }
        if known.directory.is_name_taken(&self.0.me.gateway, &self.0.ours) {
            let text = format!("another process calls itself {} too: give one of the two another farm.gateway", self.0.me.gateway);
            if known.problems.insert(text.clone()) {
                tracing::error!("{text}");
            }
        }
        if prefix == KEYS {
            let mut ring = self.0.ring.write().unwrap_or_else(PoisonError::into_inner);
            match change {
                Change::Lost(_) => {}
                _ => {
                    for skipped in ring.replace(known.directory.key_records(), mono) {
                        tracing::warn!(kid = skipped.kid, "a key record is not believed: {}", skipped.why);
                    }
                    let own = known.directory.gateways().get(&self.0.me.gateway).map(|view| view.keys.clone()).unwrap_or_default();
                    for record in own {
                        // Believed, and at least as far as the one we have.
                        let later = known.own_keys.get(&record.kid).is_none_or(|before| before.status <= record.status);
                        if later && ring.stage(&record.kid) == Some(record.status) {
                            known.own_keys.insert(record.kid.clone(), record);
                        }
                    }
                }
            }
        }
        if prefix == GATEWAYS
            && let Change::Put(entry) = change
        {
            known.hear_clock(entry, self.0.world.clock.now());
        }
        drop(known);
        self.0.changed.ring();
    }

    async fn tell(&self) {
        let stop = self.0.world.tasks.stopping();
        let member = self.member();
        let (mut registered, mut published) = (false, None::<tokio::time::Instant>);
        let mut beat = tokio::time::interval(self.0.me.renew);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut number = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = beat.tick() => {}
            }
            number += 1;
            let renewed = async {
                let state_lost = self.0.state_lost.load(std::sync::atomic::Ordering::Relaxed);
                let record = MemberRecord { beat: number, state_lost, ..self.0.ours.clone() };
                self.0.coord.put(&MemberRecord::store_key(&self.0.me.gateway), json(&record)).await?;
                if !registered {
                    match self.0.coord.register(&member).await {
                        Ok(()) | Err(CoordError::Unsupported { .. }) => registered = true,
                        Err(err) => return Err(err),
                    }
                }
                match self.0.coord.beat(&member, "").await {
                    Ok(()) | Err(CoordError::Unsupported { .. }) => {}
                    // It was forgotten (a restarted agent): told again at the next beat.
                    Err(err) => {
                        registered = false;
                        return Err(err);
                    }
                }
                if published.is_none_or(|at| at.elapsed() >= PUBLISH_EVERY) {
                    self.publish("healthy").await?;
                    self.put_back_keys().await?;
                    self.own().await?;
                    published = Some(tokio::time::Instant::now());
                }
                Ok::<(), CoordError>(())
            };
            self.note(renewed.await);
        }
        let leave = async {
            let _ = self.publish("stopped").await;
            let _ = self.0.coord.deregister(&member).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), leave).await;
    }

    fn note(&self, renewed: Result<(), CoordError>) {
        use std::sync::atomic::Ordering::Relaxed;
        self.0.beats.fetch_add(1, Relaxed);
        if let Some(owning) = &self.0.owning {
            let _ = owning.send(Heard::Beat(renewed.is_ok()));
        }
        match renewed {
            Ok(()) => {
                self.0.world.metrics.inc(clawstead_world::M::FarmHeartbeats, &["ok"]);
                // The store answered: what it told of keys is as young as now.
                self.0.ring.write().unwrap_or_else(PoisonError::into_inner).touch(self.mono_ms());
                if self.known_mut().silent.take().is_some() {
                    tracing::info!("the coordination store answers again");
                }
            }
            Err(err) => {
                self.0.missed.fetch_add(1, Relaxed);
                self.0.world.metrics.inc(clawstead_world::M::FarmHeartbeats, &["missed"]);
                let was = self.known_mut().silent.replace(err.to_string());
                if was.is_none() {
                    tracing::warn!(%err, "the coordination store does not take our heartbeat; running agents go on");
                }
            }
        }
    }

    fn member(&self) -> Member {
        let me = &self.0.me;
        Member {
            service: SERVICE.into(),
            id: me.gateway.clone(),
            address: me.address.0.clone(),
            port: me.address.1,
            tags: ["openclaw".to_owned(), format!("farm-{}", me.farm)].into_iter().chain(me.tags.iter().cloned()).collect(),
            meta: BTreeMap::from([("farm".to_owned(), me.farm.clone()), ("version".to_owned(), me.version.clone())]),
            check_ttl: CHECK_TTL,
            check_url: me.check_url.clone(),
        }
    }

    async fn publish(&self, status: &str) -> Result<(), CoordError> {
        let me = &self.0.me;
        let agents = self.0.agents.read().unwrap_or_else(PoisonError::into_inner).clone();
        let guests = self.0.guests.read().unwrap_or_else(PoisonError::into_inner).clone();
        let entry = GatewayEntry {
            url: Some(me.url.clone()),
            agents: agents.iter().chain(guests.iter().map(|guest| &guest.facts)).map(|facts| facts.id.clone()).collect(),
            status: Some(status.to_owned()),
            last_heartbeat: Some(published_stamp(self.0.world.clock.now())),
        };
        let mut pairs = entry.pairs(&me.gateway);
        for facts in &agents {
            // An agent that another gateway holds is not ours to describe.
            if self.known().shards.get(&agent_unit(&facts.id)).is_some_and(|record| record.owner != me.gateway) {
                continue;
            }
            let entry = AgentEntry {
                gateway: Some(me.gateway.clone()),
                capabilities: facts.capabilities.clone(),
                status: Some(if status == "healthy" { "active".to_owned() } else { "offline".to_owned() }),
                heartbeat_enabled: Some(facts.heartbeat),
                model_provider: facts.model.clone(),
                ..AgentEntry::default()
            };
            pairs.extend(entry.pairs(&facts.id));
        }
        for guest in &guests {
            let entry = AgentEntry {
                gateway: Some(me.gateway.clone()),
                capabilities: guest.facts.capabilities.clone(),
                status: Some(if status == "healthy" { guest.status.clone() } else { "offline".to_owned() }),
                heartbeat_enabled: Some(guest.facts.heartbeat),
                last_check: guest.last_check.clone(),
                last_check_result: guest.last_check_result.clone(),
                last_alert: guest.last_alert.clone(),
                model_provider: guest.facts.model.clone(),
            };
            pairs.extend(entry.pairs(&guest.facts.id));
        }
        for (key, value) in pairs {
            self.put_changed(&key, value.into()).await?;
        }
        if self.0.coord.get(&format!("{CLUSTER}id")).await?.is_none() {
            for (key, value) in (ClusterEntry { id: Some(me.farm.clone()), ..ClusterEntry::default() }).pairs() {
                if key.ends_with("/id") {
                    let _ = self.0.coord.put_if(&key, value.into(), None).await;
                }
            }
        }
        Ok(())
    }

    /// Writes what differs only: most of it never changes.
    async fn put_changed(&self, key: &str, value: Bytes) -> Result<(), CoordError> {
        if !key.ends_with("/last_heartbeat") && self.0.coord.get(key).await?.is_some_and(|entry| entry.value == value) {
            return Ok(());
        }
        self.0.coord.put(key, value).await.map(drop)
    }

    /// Writes that we own what we hold. A unit that a living gateway owns stays with it, and that is told.
    async fn own(&self) -> Result<(), CoordError> {
        let me = &self.0.me;
        if self.0.owning.is_some() {
            return Ok(());
        }
        for (unit, fence) in self.0.keeper.claims.all() {
            if unit_party(&unit).is_none() {
                continue;
            }
            let key = Record::store_key(&unit);
            let stored = self.0.coord.get(&key).await?;
            let record: Option<Record> = stored.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
            if record.as_ref().is_some_and(|record| record.owner == me.gateway && record.epoch == fence.epoch) {
                continue;
            }
            // A record from before an epoch of ours that was seen: the store went back, and what we hold stands.
            let ours_before =
                self.known().high.get(&unit).is_some_and(|high| high.owner == me.gateway && record.as_ref().is_some_and(|old| old.epoch < high.epoch));
            if let Some(record) = &record
                && !ours_before
                && record.owner != me.gateway
                && !record.owner.is_empty()
                && !matches!(self.known().directory.health(&record.owner, self.mono_ms()), Health::Stopped | Health::Silent { .. })
            {
                self.problem(format!("{unit} is configured here and lives at {}: others reach it there; take it out of one of the two configs", record.owner));
                continue;
            }
            if let Some(record) = record.as_ref().filter(|record| record.epoch >= fence.epoch) {
                self.problem(format!("{unit} is held here under epoch {} and recorded under {}: restart this gateway", fence.epoch, record.epoch));
                continue;
            }
            let ours = Record {
                epoch: fence.epoch,
                owner: me.gateway.clone(),
                incarnation: me.incarnation,
                prefer: vec![me.gateway.clone()],
                failover: Failover::None,
                since: format_stamp(self.0.world.clock.now()),
                handed: false,
            };
            match self.0.coord.put_if(&key, json(&ours), stored.map(|entry| entry.version)).await {
                Ok(_) | Err(CasError::Conflict { .. } | CasError::Unknown(_)) => {}
                Err(CasError::Coord(err)) => return Err(err),
            }
        }
        Ok(())
    }

    /// Something is wrong, under this name; told once.
    pub(crate) fn trouble(&self, name: &'static str, text: String) {
        if self.known_mut().troubles.insert(name, text.clone()).as_ref() != Some(&text) {
            tracing::error!("{text}");
        }
    }

    /// It is right again.
    pub(crate) fn settled(&self, name: &'static str) {
        if self.known_mut().troubles.remove(name).is_some() {
            tracing::info!(problem = name, "what was wrong with the farm here is right again");
        }
    }

    /// What this process renews its lease with.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.0.ours.nonce
    }

    /// Records of our own keys that the store had and has no more: put back. They are signed by the farm's root, so whoever
    /// puts them there; a revoked one must not be forgotten either.
    async fn put_back_keys(&self) -> Result<(), CoordError> {
        let lost: Vec<_> = {
            let known = self.known();
            let there = known.directory.gateways().get(&self.0.me.gateway).map(|view| view.keys.as_slice()).unwrap_or_default();
            let stage = |record: &KeyRecord| there.iter().find(|other| other.kid == record.kid).map(|other| other.status);
            known.own_keys.values().filter(|record| stage(record).is_none_or(|stage| stage < record.status)).cloned().collect()
        };
        for record in lost {
            let key = record.store_key();
            let stored = self.0.coord.get(&key).await?;
            let later =
                stored.as_ref().and_then(|entry| serde_json::from_slice::<KeyRecord>(&entry.value).ok()).is_some_and(|other| other.status >= record.status);
            if later {
                continue;
            }
            tracing::warn!(kid = record.kid, "the coordination store lost the record of our key; it is put back");
            match self.0.coord.put_if(&key, json(&record), stored.map(|entry| entry.version)).await {
                Ok(_) | Err(CasError::Conflict { .. } | CasError::Unknown(_)) => {}
                Err(CasError::Coord(err)) => return Err(err),
            }
        }
        Ok(())
    }

    /// The key that the farm's records call the active one of ours, as far as it is believed.
    #[must_use]
    pub fn active_kid(&self) -> Option<String> {
        use clawstead_cluster::keys::KeyStatus;
        let (known, ring, now) = (self.known(), self.0.ring.read().unwrap_or_else(PoisonError::into_inner), self.now());
        let keys = known.directory.gateways().get(&self.0.me.gateway).map(|view| view.keys.as_slice()).unwrap_or_default();
        let active = keys.iter().filter(|record| ring.stage(&record.kid) == Some(KeyStatus::Active) && ring.key(&record.kid, &self.0.me.gateway, now).is_ok());
        active.max_by_key(|record| record.not_before).map(|record| record.kid.clone())
    }

    /// Believes these roots from now on, and takes the records anew.
    ///
    /// # Errors
    /// When there is none or more than two; the ones before stay.
    pub fn believe(&self, roots: Vec<clawstead_cluster::keys::RootPin>) -> Result<(), String> {
        let known = self.known();
        let mut ring = self.0.ring.write().unwrap_or_else(PoisonError::into_inner);
        ring.set_roots(roots).map_err(|err| err.to_string())?;
        let fresh = ring.fresh_at();
        for skipped in ring.replace(known.directory.key_records(), fresh.unwrap_or_default()) {
            tracing::warn!(kid = skipped.kid, "a key record is not believed: {}", skipped.why);
        }
        if fresh.is_none() {
            ring.forget_age();
        }
        drop((ring, known));
        self.0.changed.ring();
        Ok(())
    }

    fn problem(&self, text: String) {
        if self.known_mut().problems.insert(text.clone()) {
            tracing::error!("{text}");
        }
    }

    /// All gateways, by name.
    #[must_use]
    pub fn gateways(&self) -> Vec<GatewayStatus> {
        let (known, mono) = (self.known(), self.mono_ms());
        let ring = self.0.ring.read().unwrap_or_else(PoisonError::into_inner);
        let conflicts = known.directory.name_conflicts();
        let twice = known.directory.agents_listed_twice();
        known
            .directory
            .gateways()
            .iter()
            .filter(|(_, view)| view.member.is_some() || view.entry.status.is_some())
            .map(|(name, view)| {
                let (health, since_ms) = match known.directory.health(name, mono) {
                    Health::Healthy { since_ms } => ("healthy", mono.saturating_sub(since_ms)),
                    Health::Silent { since_ms } => ("silent", mono.saturating_sub(since_ms)),
                    Health::Stopped => ("stopped", 0),
                    Health::Unknown => ("unknown", 0),
                };
                let keys = ring.keys_of(name, Now { wall: self.0.world.clock.now(), mono_ms: mono }).map_or(0, |keys| keys.len());
                let mut problems = Vec::new();
                if keys == 0 {
                    problems.push(format!("no key of it is believed: openclaw farm approve {name}"));
                }
                let ahead_ms = known.skews.get(name).copied().filter(|_| *name != self.0.me.gateway);
                if let Some(ahead) = ahead_ms.filter(|ahead| ahead.abs() > SKEW_TOLD_MS) {
                    let way = if ahead > 0 { "ahead of" } else { "behind" };
                    let more = if ahead.abs() > SKEW_REFUSED_MS { "; letters that seem to come from the future are refused (clock_skew)" } else { "" };
                    problems.push(format!("its clock is {} s {way} ours{more}: set both clocks (NTP)", ahead.abs() / 1_000));
                }
                if conflicts.contains(&name.as_str()) {
                    problems.push("two processes use this name".to_owned());
                }
                problems
                    .extend(twice.iter().filter(|(_, at)| at.contains(&name.as_str())).map(|(agent, at)| format!("agent {agent} is at {}", at.join(" and "))));
                GatewayStatus {
                    name: name.clone(),
                    is_self: *name == self.0.me.gateway,
                    health,
                    healthy: health == "healthy",
                    since_ms,
                    url: view.entry.url.clone(),
                    version: view.member.as_ref().map(|member| member.version.clone()),
                    last_heartbeat: view.entry.last_heartbeat.clone(),
                    agents: view.entry.agents.clone(),
                    keys,
                    problems,
                }
            })
            .collect()
    }

    /// All agents, by id.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentStatus> {
        let known = self.known();
        let own = self.0.agents.read().unwrap_or_else(PoisonError::into_inner);
        let ids: BTreeSet<&String> = known.directory.gateways().values().flat_map(|view| &view.entry.agents).collect();
        ids.into_iter()
            .map(|id| {
                let place = Self::place(&known, &agent_unit(id), self.mono_ms());
                let facts = own.iter().find(|facts| facts.id == *id).filter(|_| place.as_ref().is_none_or(|place| place.gateway == self.0.me.gateway));
                AgentStatus {
                    id: id.clone(),
                    gateway: place.as_ref().map(|place| place.gateway.clone()),
                    healthy: place.as_ref().is_some_and(|place| place.alive),
                    epoch: place.map(|place| place.epoch),
                    capabilities: facts.map(|facts| facts.capabilities.clone()).unwrap_or_default(),
                    model: facts.and_then(|facts| facts.model.clone()),
                }
            })
            .collect()
    }

    fn place(known: &Known, unit: &Unit, mono: u64) -> Option<Place> {
        let record = known.shards.get(unit).filter(|record| !record.owner.is_empty())?;
        // While the store does not answer nobody is called dead: letters are tried, and wait if need be.
        let alive = !matches!(known.directory.health(&record.owner, mono), Health::Silent { .. } | Health::Stopped);
        Some(Place { gateway: record.owner.clone(), epoch: record.epoch, alive })
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let known = self.known();
        let lost = known.directory.lost().or(known.shards_lost.as_deref()).or(known.silent.as_deref());
        let lost = lost.map(|why| format!("the coordination store does not answer: {why}"));
        let unread = known.directory.problems().iter().map(|(key, why)| format!("{key} {why}"));
        lost.into_iter().chain(known.problems.iter().cloned()).chain(known.troubles.values().cloned()).chain(unread).collect()
    }

    /// Why the coordination store does not answer; none when it does.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        let known = self.known();
        known.silent.clone().or_else(|| known.directory.lost().map(str::to_owned))
    }

    /// Heartbeats so far, and how many the store did not take.
    #[must_use]
    pub fn heartbeats(&self) -> (u64, u64) {
        use std::sync::atomic::Ordering::Relaxed;
        (self.0.beats.load(Relaxed), self.0.missed.load(Relaxed))
    }

    /// Ourselves.
    #[must_use]
    pub fn me(&self) -> &Me {
        &self.0.me
    }
}

impl Known {
    fn hear_shard(&mut self, change: &Change) {
        let read = |entry: &clawstead_bus::Entry| -> Option<(Unit, Record)> {
            Some((Unit::parse(entry.key.strip_prefix(SHARDS)?)?, serde_json::from_slice(&entry.value).ok()?))
        };
        let before = self.below.clone();
        match change {
            Change::Snapshot(entries) => {
                let found: BTreeMap<Unit, Record> = entries.values().filter_map(read).collect();
                self.shards.retain(|unit, _| found.contains_key(unit));
                self.below.retain(|unit| found.contains_key(unit));
                found.into_iter().for_each(|(unit, record)| self.take_shard(unit, record));
                self.shards_lost = None;
            }
            Change::Put(entry) => {
                if let Some((unit, record)) = read(entry) {
                    self.take_shard(unit, record);
                }
            }
            Change::Delete(key) => {
                if let Some(unit) = key.strip_prefix(SHARDS).and_then(Unit::parse) {
                    self.shards.remove(&unit);
                    self.below.remove(&unit);
                }
            }
            Change::Lost(why) => self.shards_lost = Some(why.clone()),
        }
        if self.below == before {
            return;
        }
        if self.below.is_empty() {
            self.troubles.remove(WENT_BACK);
            tracing::info!(event = "farm.shard.repaired", "the coordination store has the epochs again that were seen before");
            return;
        }
        let units: Vec<String> = self.below.iter().take(5).map(ToString::to_string).collect();
        let text = format!(
            "the coordination store went back: its records of {} unit(s) ({}) are older than what was seen before, and are not believed. Was it restored \
             from a backup? Gateways that run write theirs again; restart those that do not",
            self.below.len(),
            units.join(", ")
        );
        tracing::error!(event = "farm.shard.went_back", "{text}");
        self.troubles.insert(WENT_BACK, text);
    }

    /// A record, unless an earlier epoch than was seen of this unit.
    fn take_shard(&mut self, unit: Unit, record: Record) {
        match self.high.get(&unit) {
            Some(high) if high.epoch > record.epoch => {
                self.shards.insert(unit.clone(), high.clone());
                self.below.insert(unit);
            }
            _ => {
                self.below.remove(&unit);
                self.high.insert(unit.clone(), record.clone());
                self.shards.insert(unit, record);
            }
        }
    }

    /// A gateway's heartbeat, just now: what its clock says beside ours.
    fn hear_clock(&mut self, entry: &clawstead_bus::Entry, now: Millis) {
        let Some((gateway, "last_heartbeat")) = entry.key.strip_prefix(GATEWAYS).and_then(|rest| rest.split_once('/')) else { return };
        let text = String::from_utf8_lossy(&entry.value);
        let Some(at) = text.strip_suffix('Z').and_then(|text| parse_stamp(&format!("{text}.000Z"))) else { return };
        // The stamp is cut to the second.
        let ahead = if at > now { at.since(now) } else { (at.since(now) + 1_000).min(0) };
        let was = self.skews.insert(gateway.to_owned(), ahead).is_some_and(|was| was.abs() > SKEW_TOLD_MS);
        if ahead.abs() > SKEW_TOLD_MS && !was {
            tracing::warn!(event = "farm.clock.skew", gateway, ahead_ms = ahead, "a gateway's clock is not ours");
        }
    }
}

impl Places for Membership {
    fn of(&self, unit: &Unit) -> Option<Place> {
        Self::place(&self.known(), unit, self.mono_ms())
    }

    fn sure(&self) -> bool {
        self.lost().is_none()
    }
}

/// The epochs that are recorded of these units, so that a store that was lost or restored does not go back. Empty when
/// the coordination store does not answer in time.
pub async fn recorded_epochs(coord: &dyn Coord, units: &[Unit]) -> BTreeMap<Unit, u64> {
    let read = async {
        let mut out = BTreeMap::new();
        for unit in units {
            if let Some(entry) = coord.get(&Record::store_key(unit)).await?
                && let Ok(record) = serde_json::from_slice::<Record>(&entry.value)
            {
                out.insert(unit.clone(), record.epoch);
            }
        }
        Ok::<_, CoordError>(out)
    };
    match tokio::time::timeout(START_WAIT, read).await {
        Ok(Ok(epochs)) => epochs,
        Ok(Err(err)) => {
            tracing::warn!(%err, "the coordination store does not answer; the start goes on with what this gateway knows");
            BTreeMap::new()
        }
        Err(_) => {
            tracing::warn!("the coordination store does not answer in time; the start goes on with what this gateway knows");
            BTreeMap::new()
        }
    }
}

fn agent_unit(id: &str) -> Unit {
    Unit::Agent(clawstead_terms::AgentId::normalise(id))
}

/// A value as it is stored for others.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}
