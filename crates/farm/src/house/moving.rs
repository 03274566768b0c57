//! Who owns what, and moving it.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use clawstead_cluster::claim::Profile;
use clawstead_config::LeaseProfile;
use clawstead_state::keeper::Keeper;
use clawstead_terms::{Failure, Unit};
use clawstead_world::World;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Farm, Located};
use crate::{
    mailroom::Places,
    ownership::{self, Host, Movable, Ownership, Seen},
};

/// The numbers of `farm.lease`.
pub(super) const fn profile(lease: LeaseProfile) -> Profile {
    match lease {
        LeaseProfile::Fast => Profile::FAST,
        LeaseProfile::Lan => Profile::LAN,
        LeaseProfile::Wan => Profile::WAN,
    }
}

impl Farm {
    /// From now on units are claimed, and given up, as the ownership records say. Nothing happens where units do not
    /// move, or when it was called before.
    pub fn own(&self, world: &World, host: Arc<dyn Host>, seen: mpsc::UnboundedReceiver<Seen>, units: Vec<Movable>) {
        let Some(heard) = self.heard.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let me = self.membership.me();
        let profile = profile(self.lease);
        let parts = ownership::Parts {
            me: me.gateway.clone(),
            incarnation: me.incarnation,
            coord: self.coord.clone(),
            keeper: self.keeper.clone(),
            world: world.clone(),
            profile,
            failback: self.failback,
            began: self.membership.began(),
            state_lost: self.membership.state_lost(),
            host,
            heard,
            seen,
        };
        let _ = self.owning.set(Ownership::start(parts, units));
    }

    /// Who owns what; none where units do not move.
    #[must_use]
    pub fn ownership(&self) -> Option<&Ownership> {
        self.owning.get()
    }

    /// Which gateway owns what, for people and programs.
    #[must_use]
    pub fn shards(&self) -> Value {
        let Some(ownership) = self.ownership() else { return json!({"moves": false, "shards": [], "drains": {}}) };
        let alerts = ownership.alerts();
        let rows = ownership.standing().into_iter().map(|(unit, standing)| {
            let mut row = json!({"unit": unit.to_string(), "here": standing.acting});
            if let Some(record) = &standing.record {
                row["owner"] = record.owner.clone().into();
                row["epoch"] = record.epoch.into();
                row["since"] = record.since.clone().into();
                row["prefer"] = json!(record.prefer);
                row["failover"] = json!(record.failover);
                row["healthy"] = self.membership.of(&unit).is_some_and(|place| place.alive).into();
            }
            if let Some(alert) = alerts.get(&unit) {
                row["alert"] = (*alert).into();
            }
            row
        });
        json!({"moves": true, "shards": rows.collect::<Vec<_>>(), "drains": ownership.drains()})
    }

    /// True for a unit that moves between the gateways of this farm.
    #[must_use]
    pub fn is_movable(&self, unit: &Unit) -> bool {
        self.ownership().is_some_and(|ownership| ownership.moves(unit))
    }

    /// What we keep, with our fences.
    #[must_use]
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Where a unit is. One that moves and that nobody has just now is waited for, `limit` at most.
    pub async fn located(&self, unit: &Unit, limit: Duration) -> Located {
        let Some(ownership) = self.ownership().filter(|ownership| ownership.moves(unit)) else {
            return self.elsewhere(unit).map_or(Located::Here, Located::At);
        };
        let (mut owned, mut seen) = (ownership.changes(), self.membership.changes());
        let look = || {
            if ownership.is_ours(unit) {
                return Some(Located::Here);
            }
            let place = self.membership.of(unit).filter(|place| place.alive && place.gateway != self.membership.me().gateway)?;
            Some(Located::At(place.gateway))
        };
        let wait = async {
            loop {
                if let Some(found) = look() {
                    return found;
                }
                let gone = tokio::select! {
                    biased;
                    changed = owned.changed() => changed.is_err(),
                    changed = seen.changed() => changed.is_err(),
                };
                if gone {
                    return Located::Nobody;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.unwrap_or(Located::Nobody)
    }

    fn owning(&self) -> Result<&Ownership, Failure> {
        self.ownership().ok_or_else(|| {
            Failure::invalid("the agents of this gateway do not move: their state is in its own folder")
                .with_hint("farm.state.kind=\"postgres\" shares it; `openclaw state copy` takes it there")
        })
    }

    fn known_gateway(&self, name: &str) -> Result<(), Failure> {
        let all = self.membership.gateways();
        if all.iter().any(|gateway| gateway.name == name) {
            return Ok(());
        }
        let names: Vec<String> = all.into_iter().map(|gateway| gateway.name).collect();
        Err(Failure::not_found(format!("there is no gateway {name} in this farm")).with_hint(format!("gateways: {}", names.join(", "))))
    }

    /// Gives a unit (an agent's id, or a unit as [`Farm::shards`] shows it) to a gateway in order. Answers with the unit
    /// and who had it.
    ///
    /// # Errors
    /// `NotFound` for an unknown unit or gateway, `Unavailable` when the gateway is not healthy or it took too long.
    pub async fn move_unit(&self, unit: &str, to: &str) -> Result<(Unit, String), Failure> {
        let (ownership, wanted) = (self.owning()?, self.movable_named(unit)?);
        self.known_gateway(to)?;
        let healthy = self.membership.gateways().into_iter().any(|gateway| gateway.name == to && gateway.healthy);
        if !healthy {
            return Err(Failure::unavailable(format!("{to} is not healthy"), 5_000).with_hint("openclaw farm gateways"));
        }
        if ownership.drains().contains_key(to) {
            return Err(Failure::invalid(format!("{to} is drained")).with_hint(format!("openclaw farm drain {to} --undo")));
        }
        let before = ownership.standing().remove(&wanted).and_then(|standing| standing.record).map_or_else(String::new, |record| record.owner);
        ownership.move_to(&wanted, to).await?;
        Ok((wanted, before))
    }

    fn movable_named(&self, unit: &str) -> Result<Unit, Failure> {
        let all = self.owning()?.standing();
        let agent = Unit::Agent(clawstead_terms::AgentId::normalise(unit));
        let wanted = Unit::parse(unit).filter(|unit| all.contains_key(unit)).unwrap_or(agent);
        if all.contains_key(&wanted) {
            return Ok(wanted);
        }
        let units: Vec<String> = all.keys().map(ToString::to_string).collect();
        Err(Failure::not_found(format!("there is no {unit} that could move")).with_hint(format!("units: {}", units.join(", "))))
    }

    /// Gives a unit a new ownership record that nobody owns, above every epoch that is known, so that it is claimed anew.
    /// Answers with the unit and the epoch.
    ///
    /// # Errors
    /// `NotFound` for an unknown unit; what the two stores say.
    pub async fn repair(&self, unit: &str) -> Result<(Unit, u64), Failure> {
        let wanted = self.movable_named(unit)?;
        let epoch = self.owning()?.repair(&wanted).await?;
        Ok((wanted, epoch))
    }

    /// Lets a gateway that was drained have units again.
    ///
    /// # Errors
    /// As [`Farm::drain`].
    pub async fn undrain(&self, gateway: &str) -> Result<(), Failure> {
        self.known_gateway(gateway)?;
        self.owning()?.set_drain(gateway, None).await
    }

    /// Empties a gateway in order. Answers with what it still has.
    ///
    /// # Errors
    /// `NotFound` for an unknown gateway; what the coordination store says.
    pub async fn drain(&self, gateway: &str, why: &str) -> Result<Vec<String>, Failure> {
        let ownership = self.owning()?;
        self.known_gateway(gateway)?;
        let others =
            self.membership.gateways().into_iter().filter(|other| other.healthy && other.name != gateway && !ownership.drains().contains_key(&other.name));
        if others.count() == 0 {
            return Err(Failure::unavailable(format!("no other healthy gateway is there to take what {gateway} has"), 5_000));
        }
        let drain = ownership::Drain { at: self.membership.now().wall, by: self.membership.me().gateway.clone(), why: why.to_owned() };
        ownership.set_drain(gateway, Some(drain)).await?;
        Ok(ownership.wait_empty(gateway).await)
    }
}
