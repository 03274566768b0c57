//! A pause that somebody outside asks for, so that the machine can be put to sleep or copied: nothing new begins, and
//! who asked is told when nothing goes on any more. It is a lease; when nobody renews it, work goes on by itself.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clawstead_terms::{Envelope, Failure, Millis, Origin};
use clawstead_world::World;
use tokio::sync::{RwLock, RwLockReadGuard, watch};

/// How long a suspension lasts unless it is asked for again, milliseconds.
pub const LEASE_MS: i64 = 120_000;
/// When a busy gateway may be asked again, milliseconds.
pub const BUSY_RETRY_MS: u64 = 2_500;
/// When somebody who was turned away may come again, milliseconds.
const TURNED_AWAY_MS: u64 = 1_000;

/// Whether work that goes on stops a suspension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    /// The suspension does not come about; everything goes on.
    Refuse,
    /// Nothing new begins, what goes on is waited for.
    Drain,
}

#[derive(Clone, Debug)]
struct Held {
    request: String,
    id: String,
    when_busy: WhenBusy,
    expires_at: Millis,
}

/// What an attempt came to. `active` are sessions at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing goes on and nothing begins.
    Ready {
        /// Its id.
        id: String,
        /// When it ends by itself.
        expires_at: Millis,
    },
    /// Nothing begins; something still goes on.
    Draining {
        /// Its id.
        id: String,
        /// When it ends by itself.
        expires_at: Millis,
        /// Sessions at work.
        active: Vec<String>,
    },
    /// Something goes on; nothing was changed.
    Busy {
        /// Sessions at work.
        active: Vec<String>,
    },
    /// Somebody else holds one.
    Conflict {
        /// Until when.
        expires_at: Millis,
    },
}

/// The gate before the one door.
pub struct Suspension {
    world: World,
    held: Mutex<Option<Held>>,
    /// Letters pass under the read half, so that none is on its way while somebody looks whether all is quiet.
    passing: RwLock<()>,
    changed: watch::Sender<()>,
}

impl Suspension {
    /// An open gate.
    #[must_use]
    pub fn new(world: World) -> Arc<Self> {
        Arc::new(Self { world, held: Mutex::default(), passing: RwLock::new(()), changed: watch::Sender::new(()) })
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.world.clock.now();
        if held.as_ref().is_some_and(|held| held.expires_at <= now) {
            tracing::warn!("the suspension was not renewed; work goes on");
            *held = None;
            self.changed.send_replace(());
        }
        held
    }

    /// The id of the suspension in force, and when it ends.
    #[must_use]
    pub fn current(&self) -> Option<(String, Millis)> {
        self.held().as_ref().map(|held| (held.id.clone(), held.expires_at))
    }

    /// Asks for a suspension, or renews it under the same request id. `active` says which sessions are at work.
    pub async fn prepare(&self, request: &str, when_busy: WhenBusy, active: impl Fn() -> Vec<String>) -> Prepared {
        // Letters on their way are stored first.
        let _passing = self.passing.write().await;
        let mut held = self.held();
        let expires_at = self.world.clock.now().plus(LEASE_MS);
        let at_work = active();
        let id = match &mut *held {
            Some(held) if held.request != request || held.when_busy != when_busy => return Prepared::Conflict { expires_at: held.expires_at },
            Some(held) => {
                held.expires_at = expires_at;
                held.id.clone()
            }
            None if !at_work.is_empty() && when_busy == WhenBusy::Refuse => return Prepared::Busy { active: at_work },
            none @ None => {
                let id = self.world.rng.uuid();
                *none = Some(Held { request: request.to_owned(), id: id.clone(), when_busy, expires_at });
                tracing::info!(request, "suspended: nothing new begins");
                id
            }
        };
        self.changed.send_replace(());
        if at_work.is_empty() { Prepared::Ready { id, expires_at } } else { Prepared::Draining { id, expires_at, active: at_work } }
    }

    /// Ends a suspension. `Some(false)` when none is in force, `None` when another one is.
    pub fn resume(&self, id: &str) -> Option<bool> {
        let mut held = self.held();
        match &*held {
            None => Some(false),
            Some(other) if other.id != id => None,
            Some(_) => {
                *held = None;
                self.changed.send_replace(());
                tracing::info!("resumed");
                Some(true)
            }
        }
    }

    /// Lets a letter through, or turns it away: people and programs come again; what the gateway itself sends on a
    /// schedule waits here; what belongs to work that goes on passes.
    ///
    /// # Errors
    /// `Unavailable` with a time.
    pub async fn pass(&self, letter: &Envelope) -> Result<RwLockReadGuard<'_, ()>, Failure> {
        loop {
            let mut changed = self.changed.subscribe();
            {
                let passing = self.passing.read().await;
                let wait_ms = match (&*self.held(), &letter.from) {
                    (None, _) | (_, Origin::Agent { .. }) => None,
                    (Some(held), Origin::Cron { .. } | Origin::Heartbeat) => Some(held.expires_at.since(self.world.clock.now())),
                    (Some(_), _) => return Err(Failure::unavailable("unavailable during gateway suspension", TURNED_AWAY_MS)),
                };
                let Some(wait_ms) = wait_ms else { return Ok(passing) };
                drop(passing);
                let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0).saturating_add(1));
                tokio::select! {
                    biased;
                    _ = changed.changed() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clawstead_terms::{Address, AgentId, EnvelopeKind, RunId, SessionKey, TurnOptions};

    use super::*;

    fn letter(from: Origin) -> Envelope {
        let agent = AgentId::normalise("main");
        Envelope {
            id: "l".into(),
            run_id: RunId::from("r".to_owned()),
            kind: EnvelopeKind::Request,
            from,
            to: Address { session: SessionKey::main(&agent), agent },
            reply_to: None,
            cause: None,
            body: Vec::new(),
            options: TurnOptions::default(),
            path: Vec::new(),
            at: Millis(0),
            expires: None,
            traceparent: None,
        }
    }

    fn person() -> Envelope {
        letter(Origin::Client { client_id: "cli".into(), device_id: None, owner: true })
    }

    fn quiet() -> Vec<String> {
        Vec::new()
    }

    #[tokio::test(start_paused = true)]
    async fn people_are_turned_away_schedules_wait_and_agents_pass() {
        let gate = Suspension::new(World::simulated(1));
        let Prepared::Ready { id, .. } = gate.prepare("a", WhenBusy::Refuse, quiet).await else { panic!("not ready") };
        let turned = gate.pass(&person()).await.map(drop).unwrap_err();
        assert_eq!(turned.retry, clawstead_terms::Retry::AfterMs(TURNED_AWAY_MS));
        let agent = AgentId::normalise("main");
        let inner = letter(Origin::Agent { session: SessionKey::main(&agent), agent });
        assert!(gate.pass(&inner).await.is_ok());
        let waits = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.pass(&letter(Origin::Heartbeat)).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        assert_eq!((gate.resume("other"), gate.resume(&id), gate.resume(&id)), (None, Some(true), Some(false)));
        assert!(waits.await.unwrap().is_ok() && gate.pass(&person()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_gateway_refuses_or_drains() {
        let gate = Suspension::new(World::simulated(1));
        let busy = || vec!["agent:main:main".to_owned()];
        assert!(matches!(gate.prepare("a", WhenBusy::Refuse, busy).await, Prepared::Busy { .. }));
        assert!(gate.pass(&person()).await.is_ok(), "nothing changed");
        assert!(matches!(gate.prepare("a", WhenBusy::Drain, busy).await, Prepared::Draining { .. }));
        assert!(gate.pass(&person()).await.is_err());
        assert!(matches!(gate.prepare("b", WhenBusy::Refuse, quiet).await, Prepared::Conflict { .. }));
        assert!(matches!(gate.prepare("a", WhenBusy::Drain, quiet).await, Prepared::Ready { .. }), "the same request finds it quiet later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_nobody_renews_ends_by_itself() {
        let gate = Suspension::new(World::simulated(1));
        gate.prepare("a", WhenBusy::Refuse, quiet).await;
        // Waits as long as the lease lasts: simulated time is this time.
        assert!(gate.pass(&letter(Origin::Cron { job_id: "j".into() })).await.is_ok());
        assert!(gate.current().is_none() && gate.pass(&person()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_letter_on_its_way_is_seen_before_all_is_called_quiet() {
        let gate = Suspension::new(World::simulated(1));
        let on_its_way = gate.pass(&person()).await.unwrap();
        let asks = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.prepare("a", WhenBusy::Refuse, quiet).await })
        };
        tokio::task::yield_now().await;
        assert!(!asks.is_finished());
        drop(on_its_way);
        assert!(matches!(asks.await.unwrap(), Prepared::Ready { .. }));
    }
}
