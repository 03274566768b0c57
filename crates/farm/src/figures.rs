//! Looks at the farm once a second: what changed since the last look is an event, what is so now is a figure.

use std::{collections::BTreeMap, time::Duration};

use clawstead_bus::MailBox;
use clawstead_cluster::{envelope::MailState, keys::KeyStatus, parse_stamp};
use clawstead_state::{Scan, Table, keeper::sort};
use clawstead_terms::{Failure, Millis};
use clawstead_world::{M, Metrics, TaskKind, World};
use serde_json::{Map, Value, json};

use crate::{
    Farm,
    mailroom::{SentRow, env_key, out_key},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A bus that does not answer within this time counts as away.
const BUS_WAIT: Duration = Duration::from_secs(2);
/// Letters under way that are looked through for the oldest one.
const OPEN_MAX: usize = 256;
/// Dead letters that are counted.
const DEAD_MAX: usize = 1_000;

/// What was seen at the last look.
#[derive(Default)]
struct Seen {
    health: BTreeMap<String, &'static str>,
    stamps: BTreeMap<String, String>,
    places: BTreeMap<String, (String, u64)>,
    keys: BTreeMap<String, KeyStatus>,
    /// The first look finds everything new and tells nothing.
    begun: bool,
}

/// Starts to look.
pub(crate) fn watch(farm: Farm, world: &World) {
    let (tasks, world) = (world.tasks.clone(), world.clone());
    tasks.spawn::<_, Failure>(TaskKind::logged("farm figures"), async move {
        let (mut seen, stop) = (Seen::default(), world.tasks.stopping());
        let mut changes = farm.membership.changes();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = look.tick() => {}
                // A heartbeat's stamp is compared with our clock when it comes, not up to a second later.
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
            }
            seen.look(&farm, &world);
        }
    });
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl Seen {
    fn look(&mut self, farm: &Farm, world: &World) {
        let metrics = &world.metrics;
        self.gateways(farm, metrics, world.clock.now());
        self.agents(farm, metrics);
        self.keys(farm, metrics);
        links(farm, metrics);
        let up = farm.membership.lost().is_none();
        metrics.set(M::FarmCoordUp, &[farm.coord().engine()], f64::from(u8::from(up)));
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        metrics.set(M::FarmProblems, &[], farm.membership.problems().len() as f64);
        self.begun = true;
    }

    fn gateways(&mut self, farm: &Farm, metrics: &Metrics, now: Millis) {
        let gateways = farm.membership.gateways();
        let mut states: BTreeMap<&'static str, u32> = BTreeMap::from([("healthy", 0), ("silent", 0), ("stopped", 0), ("unknown", 0)]);
        let gone: Vec<String> = self.health.keys().filter(|name| !gateways.iter().any(|gateway| gateway.name == **name)).cloned().collect();
        if !gone.is_empty() {
            metrics.clear(M::FarmMemberUp);
            metrics.clear(M::FarmClockSkew);
            self.health.retain(|name, _| !gone.contains(name));
        }
        for gateway in &gateways {
            *states.entry(gateway.health).or_default() += 1;
            metrics.set(M::FarmMemberUp, &[&gateway.name], f64::from(u8::from(gateway.healthy)));
            let before = self.health.insert(gateway.name.clone(), gateway.health);
            if self.begun && before != Some(gateway.health) {
                let name = match gateway.health {
                    "healthy" => "farm.member.healthy",
                    "silent" => "farm.member.silent",
                    "stopped" => "farm.member.stopped",
                    _ => "farm.member.unknown",
                };
                tracing::info!(event = name, gateway = gateway.name, was = before.unwrap_or("unknown"), "a gateway of the farm");
                farm.events.tell(name, "", fields(json!({"gateway": gateway.name, "was": before, "version": gateway.version})));
            }
            if let Some(stamp) = &gateway.last_heartbeat {
                let before = self.stamps.insert(gateway.name.clone(), stamp.clone());
                // Only one that came just now says something about clocks.
                if let (true, Some(at)) = (before.is_some_and(|before| before != *stamp), published(stamp)) {
                    metrics.set(M::FarmClockSkew, &[&gateway.name], skew(at, now));
                }
            }
        }
        for (state, count) in states {
            metrics.set(M::FarmMembers, &[state], f64::from(count));
        }
    }

    fn agents(&mut self, farm: &Farm, metrics: &Metrics) {
        let (mut owned, mut unowned) = (0_u32, 0_u32);
        for agent in farm.membership.agents() {
            if agent.healthy {
                owned += 1
            } else {
                unowned += 1
            }
            let (Some(gateway), Some(epoch)) = (agent.gateway, agent.epoch) else { continue };
            let place = (gateway, epoch);
            let before = self.places.insert(agent.id.clone(), place.clone());
            if before.as_ref() == Some(&place) {
                continue;
            }
            metrics.add(M::FarmEpochs, &[&agent.id], f64::from(u8::from(before.is_some())));
            if self.begun {
                let more = fields(json!({"agent": agent.id, "gateway": place.0, "epoch": place.1, "was": before.map(|(gateway, _)| gateway)}));
                farm.events.tell("farm.shard.claimed", "", more);
            }
        }
        metrics.set(M::FarmUnits, &["owned"], f64::from(owned));
        metrics.set(M::FarmUnits, &["unowned"], f64::from(unowned));
    }

    fn keys(&mut self, farm: &Farm, metrics: &Metrics) {
        let ring = farm.membership.ring();
        let now = ring.read().unwrap_or_else(std::sync::PoisonError::into_inner).stages().clone();
        if now == self.keys {
            return;
        }
        for (kid, stage) in &now {
            if self.keys.get(kid) == Some(stage) {
                continue;
            }
            let name = match stage {
                KeyStatus::Next => "farm.key.next",
                KeyStatus::Active => "farm.key.active",
                KeyStatus::Retiring => "farm.key.retiring",
                KeyStatus::Revoked => "farm.key.revoked",
            };
            if self.begun {
                metrics.inc(M::FarmKeyEvents, &[name]);
                tracing::info!(event = name, kid, "a key of the farm");
                farm.events.tell(name, "", fields(json!({"kid": kid})));
            }
        }
        self.keys = now;
    }
}

/// A stamp of the published schema, which has no milliseconds.
fn published(stamp: &str) -> Option<Millis> {
    parse_stamp(&format!("{}.000Z", stamp.strip_suffix('Z')?))
}

/// Seconds by which a stamp is ahead of us. Stamps are cut to the second, so up to one second is no skew.
fn skew(stamp: Millis, now: Millis) -> f64 {
    let behind = now.0 - stamp.0;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds between two clocks")]
    match behind {
        ..0 => -behind as f64 / 1_000.0,
        0..=1_000 => 0.0,
        _ => -(behind - 1_000) as f64 / 1_000.0,
    }
}

fn links(farm: &Farm, metrics: &Metrics) {
    let Some(links) = &farm.links else { return };
    for peer in links.status().peers {
        let up = peer.links.iter().any(|link| !link.draining);
        metrics.set(M::FarmLinkUp, &[&peer.gateway], f64::from(u8::from(up)));
    }
}

impl Farm {
    /// Figures that only the store knows: letters under way by state, the oldest one that nobody has confirmed, dead
    /// letters. Reads rows, so whoever asks does not ask more often than every few seconds.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn measure(&self, metrics: &Metrics, now: Millis) -> Result<(), Failure> {
        let mut states: BTreeMap<&str, u32> = BTreeMap::from([("queued", 0), ("in_flight", 0), ("delivered", 0), ("failed", 0)]);
        let (mut oldest, mut dead) = (now, 0_u32);
        for unit in self.units() {
            // An envelope is kept as long as its letter is under way, and ids are in the order of time.
            let prefix = env_key("");
            let open = self.keeper.store.scan(&unit, Table::Outbox, &Scan::prefix(prefix.as_str()).limit(OPEN_MAX)).await.map_err(sort)?;
            for id in open.iter().filter_map(|row| row.key.strip_prefix(&prefix)) {
                let Some(sent) = self.keeper.get::<SentRow>(&unit, Table::Outbox, &out_key(id)).await? else { continue };
                let state = match sent.row.state {
                    MailState::Queued if sent.row.sends > 0 => "in_flight",
                    MailState::Queued => "queued",
                    MailState::Delivered => "delivered",
                    MailState::Failed => "failed",
                    MailState::Acked | MailState::DeadLetter => continue,
                };
                *states.entry(state).or_default() += 1;
                if sent.row.state == MailState::Queued {
                    oldest = oldest.min(sent.head.created_at);
                }
            }
            let kept = self.mailroom.dead(&unit, DEAD_MAX).await?;
            dead += u32::try_from(kept.iter().filter(|dead| dead.replayed_as.is_none()).count()).unwrap_or(u32::MAX);
        }
        for (state, count) in states {
            metrics.set(M::FarmLetters, &[state], f64::from(count));
        }
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a letter's life")]
        metrics.set(M::FarmOldestQueued, &[], (now.0 - oldest.0).max(0) as f64 / 1_000.0);
        metrics.set(M::FarmDeadKept, &[], f64::from(dead));
        let us = MailBox::Gateway(self.membership.me().gateway.clone());
        let answers = matches!(tokio::time::timeout(BUS_WAIT, self.bus.depth(&us)).await, Ok(Ok(_)));
        metrics.set(M::FarmBusUp, &[self.bus.engine()], f64::from(u8::from(answers)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{published, skew};
    use clawstead_terms::Millis;

    #[test]
    fn a_clock_that_is_right_is_not_skewed_by_the_cut_of_its_stamp() {
        assert_eq!(skew(Millis(10_000), Millis(10_900)), 0.0);
        assert_eq!(skew(Millis(15_000), Millis(10_000)), 5.0);
        assert_eq!(skew(Millis(10_000), Millis(14_000)), -3.0);
        assert_eq!(published("1970-01-01T00:00:05Z"), Some(Millis(5_000)));
        assert_eq!(published("yesterday"), None);
    }
}
