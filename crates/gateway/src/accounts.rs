//! Runs the channel accounts of the config: starts them, starts them again after a failure, stops them, and knows how
//! they are.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use clawstead_channels::{self as channels, Channel, KNOWN};
use clawstead_terms::{AccountId, ChannelId, Failure, FailureCode, Unit};
use clawstead_world::{Post, TaskKind, World};

use crate::{
    keeper::Keeper,
    outbox::Outlets,
    reception::{Book, Reception, account_status},
};

/// First and longest wait before a failed account starts again.
const RESTART_MS: (u64, u64) = (1_000, 300_000);

/// All accounts.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    world: World,
    keeper: Keeper,
    post: Arc<dyn Post>,
    book: Arc<ArcSwap<Book>>,
    outlets: Arc<Outlets>,
    running: Mutex<BTreeMap<(ChannelId, AccountId), Running>>,
    /// Channels that the config names and this build does not run, with the reason.
    absent: Mutex<BTreeMap<String, String>>,
}

struct Running {
    section: Value,
    stop: CancellationToken,
    health: Arc<Mutex<Health>>,
}

#[derive(Clone, Debug, Default)]
struct Health {
    since: Option<i64>,
    error: Option<String>,
}

impl Accounts {
    /// Nothing runs yet; see [`Accounts::apply`].
    #[must_use]
    pub fn new(world: World, keeper: Keeper, post: Arc<dyn Post>, book: Arc<ArcSwap<Book>>, outlets: Arc<Outlets>) -> Self {
        Self(Arc::new(Inner { world, keeper, post, book, outlets, running: Mutex::default(), absent: Mutex::default() }))
    }

    /// The units of all accounts in a `channels` section that this build runs.
    #[must_use]
    pub fn units(section: &Value) -> Vec<Unit> {
        let mut units = Vec::new();
        for (id, channel) in section.as_object().into_iter().flatten().filter(|(id, _)| channels::find(id).is_some()) {
            units.extend(channels::accounts(channel).into_keys().map(|account| Unit::Account(id.as_str().into(), account)));
        }
        units
    }

    /// Makes what runs agree with the `channels` section: starts, stops, restarts what changed. Answers one warning for
    /// each channel that the config names and this build does not run.
    pub fn apply(&self, section: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut wanted = BTreeMap::new();
        let mut absent = BTreeMap::new();
        for (id, channel) in section.as_object().into_iter().flatten().filter(|(id, value)| id.as_str() != "defaults" && value.is_object()) {
            if channels::find(id).is_none() {
                if !channels::accounts(channel).is_empty() {
                    let label = KNOWN.iter().find(|(known, _)| known == id).map_or(id.as_str(), |(_, label)| label);
                    warnings.push(format!("channels.{id}: {label} is not available in this version yet; its messages are not received or sent"));
                    absent.insert(id.clone(), label.to_owned());
                }
                continue;
            }
            for (account, section) in channels::accounts(channel) {
                if self.0.keeper.claims.get(&Unit::Account(id.as_str().into(), account.clone())).is_none() {
                    // Another gateway of the farm runs it.
                    continue;
                }
                wanted.insert((ChannelId::from(id.as_str()), account), section);
            }
        }
        *lock(&self.0.absent) = absent;
        let mut running = lock(&self.0.running);
        running.retain(|key, one| {
            let keep = wanted.get(key) == Some(&one.section);
            if !keep {
                one.stop.cancel();
                self.0.outlets.remove(&key.0, &key.1);
            }
            keep
        });
        for (key, section) in wanted {
            if let Entry::Vacant(free) = running.entry(key) {
                let (channel, account) = free.key().clone();
                free.insert(self.start(channel, account, section));
            }
        }
        warnings
    }

    fn start(&self, channel: ChannelId, account: AccountId, section: Value) -> Running {
        let stop = CancellationToken::new();
        let health = Arc::new(Mutex::new(Health::default()));
        let (this, one) = (self.clone(), Running { section: section.clone(), stop: stop.clone(), health: health.clone() });
        self.0.world.tasks.spawn(TaskKind::logged("channel account"), async move {
            let over = this.0.world.tasks.stopping();
            let stopped = async {
                tokio::select! { biased; () = over.cancelled() => {}, () = stop.cancelled() => {} }
                stop.cancel();
            };
            let work = this.keep_running(&channel, &account, &section, &health, &stop);
            tokio::join!(stopped, work);
            Ok::<(), Failure>(())
        });
        one
    }

    async fn keep_running(&self, channel: &ChannelId, account: &AccountId, section: &Value, health: &Mutex<Health>, stop: &CancellationToken) {
        let mut wait_ms = RESTART_MS.0;
        while !stop.is_cancelled() {
            let failure = match self.run_once(channel, account, section, health, stop).await {
                Ok(()) => return,
                Err(failure) => failure,
            };
            tracing::error!(channel = %channel, account = %account, err = %failure, retry_ms = wait_ms, "a channel account stopped");
            *lock(health) = Health { since: None, error: Some(failure.message.clone()) };
            if failure.code == FailureCode::InvalidRequest {
                // Only another config helps.
                stop.cancelled().await;
                return;
            }
            tokio::select! { biased; () = stop.cancelled() => return, () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {} }
            wait_ms = (wait_ms * 2).min(RESTART_MS.1);
        }
    }

    async fn run_once(
        &self,
        channel: &ChannelId,
        account: &AccountId,
        section: &Value,
        health: &Mutex<Health>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let spec = channels::find(channel.as_str()).ok_or_else(|| Failure::invalid(format!("there is no channel {channel}")))?;
        let Channel { ingress, outlet } = (spec.build)(&self.0.world, account, section)?;
        if let Some(outlet) = outlet {
            self.0.outlets.add(channel.clone(), account.clone(), outlet);
        }
        *lock(health) = Health { since: Some(self.0.world.clock.now().0), error: None };
        let Some(ingress) = ingress else {
            stop.cancelled().await;
            return Ok(());
        };
        let reception = Reception {
            post: self.0.post.clone(),
            keeper: self.0.keeper.clone(),
            world: self.0.world.clone(),
            book: self.0.book.clone(),
            channel: channel.clone(),
            account: account.clone(),
            section: section.clone(),
            // The operator pointed this channel at a service of their own: who can reach that may speak.
            dm_default: if channel.as_str() == "loopback" { "open" } else { "pairing" },
        };
        ingress.run(Arc::new(reception), stop.clone()).await
    }

    /// Starts accounts of a channel again (all, or the one named). Answers false when none is configured.
    #[must_use]
    pub fn restart(&self, channel: &str, account: Option<&str>) -> bool {
        let mut running = lock(&self.0.running);
        let keys: Vec<(ChannelId, AccountId)> =
            running.keys().filter(|(c, a)| c.as_str() == channel && account.is_none_or(|name| a.as_str() == name.to_lowercase())).cloned().collect();
        for key in &keys {
            if let Some(one) = running.remove(key) {
                one.stop.cancel();
                let fresh = self.start(key.0.clone(), key.1.clone(), one.section);
                running.insert(key.clone(), fresh);
            }
        }
        !keys.is_empty()
    }

    /// Stops accounts of a channel until the next start, reload or [`Accounts::restart`]. Answers how many.
    #[must_use]
    pub fn stop(&self, channel: &str, account: Option<&str>) -> usize {
        let running = lock(&self.0.running);
        let mut stopped = 0;
        for (key, one) in running.iter().filter(|((c, a), _)| c.as_str() == channel && account.is_none_or(|name| a.as_str() == name.to_lowercase())) {
            one.stop.cancel();
            self.0.outlets.remove(&key.0, &key.1);
            *lock(&one.health) = Health { since: None, error: Some("stopped by an operator".into()) };
            stopped += 1;
        }
        stopped
    }

    /// `channels.status` without the event-loop figures.
    #[must_use]
    pub fn status(&self) -> Value {
        let (running, absent) = (lock(&self.0.running), lock(&self.0.absent));
        let mut accounts: Map<String, Value> = Map::new();
        for ((channel, account), one) in running.iter() {
            let health = lock(&one.health).clone();
            let shown = account_status(account, health.since, health.error.as_deref());
            if let Some(list) = accounts.entry(channel.to_string()).or_insert_with(|| json!([])).as_array_mut() {
                list.push(shown);
            }
        }
        for (id, label) in absent.iter() {
            let error = format!("{label} is not available in this version yet");
            accounts.insert(id.clone(), json!([account_status(&AccountId::from("default"), None, Some(&error))]));
        }
        let order: Vec<&String> = accounts.keys().collect();
        let label = |id: &str| KNOWN.iter().find(|(known, _)| *known == id).map_or(id.to_owned(), |(_, label)| (*label).to_owned());
        let labels: Map<String, Value> = order.iter().map(|id| ((*id).clone(), json!(label(id)))).collect();
        let channels: Map<String, Value> = accounts
            .iter()
            .map(|(id, list)| {
                let first = &list[0];
                (id.clone(), json!({"configured": true, "running": first["running"], "lastError": first["lastError"], "lastStartAt": first["lastStartAt"]}))
            })
            .collect();
        let defaults: Map<String, Value> = accounts.iter().map(|(id, list)| (id.clone(), list[0]["accountId"].clone())).collect();
        let meta: Vec<Value> = order.iter().map(|id| json!({"id": id, "label": label(id), "detailLabel": label(id)})).collect();
        json!({
            "ts": self.0.world.clock.now(),
            "channelOrder": order,
            "channelLabels": labels,
            "channelDetailLabels": labels,
            "channelSystemImages": {},
            "channelMeta": meta,
            "channels": channels,
            "channelAccounts": accounts,
            "channelDefaultAccountId": defaults,
            "statusIssues": [],
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
