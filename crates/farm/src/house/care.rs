//! What a farm does by itself while it runs, and what it takes up from an edited config.

use std::sync::Arc;

use clawstead_cluster::keys::RootPin;
use clawstead_config::FarmConfig;
use clawstead_terms::Failure;
use clawstead_world::{TaskKind, World};
use serde_json::json;

use super::{Farm, KEY_ELSEWHERE, PRUNE_EVERY, SWEEP_ROUNDS, policy_of, root_pin, rules_of};

impl Farm {
    /// What changes elsewhere is taken up; what nobody needs is removed.
    pub(super) fn look_after(&self, world: &World) {
        let (farm, stop) = (self.clone(), world.tasks.stopping());
        world.tasks.spawn::<_, Failure>(TaskKind::logged("farm"), async move {
            let mut changes = farm.membership.changes();
            let mut rounds = 0_u64;
            let mut prune = tokio::time::interval_at(tokio::time::Instant::now() + PRUNE_EVERY, PRUNE_EVERY);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    changed = changes.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        farm.renew_key();
                        farm.mailroom.look_again();
                        if let Some(links) = &farm.links {
                            links.recheck();
                        }
                    }
                    _ = prune.tick() => {
                        farm.renew_key();
                        farm.prune().await;
                        rounds += 1;
                        if rounds % SWEEP_ROUNDS == 0 {
                            farm.sweep().await;
                        }
                    }
                }
            }
        });
    }

    /// The key that the farm's records call ours now signs from now on: `farm rotate gateway-key` makes it active in the
    /// store and puts its file into its place; whichever comes first, both files are looked at.
    fn renew_key(&self) {
        let Some(folder) = &self.folder else { return };
        let gateway = &self.membership.me().gateway;
        let signs = self.key.load().kid().to_owned();
        let Some(active) = self.membership.active_kid() else { return };
        if active == signs {
            return self.membership.settled(KEY_ELSEWHERE);
        }
        let found = [folder.load(gateway), folder.load_next(gateway)].into_iter().flatten().find(|key| key.kid() == active);
        let Some(key) = found else {
            let text = format!("the farm's active key of {gateway} is {active}, its file is not here, and this gateway signs with {signs}");
            return self.membership.trouble(KEY_ELSEWHERE, text);
        };
        if let Some(links) = &self.links
            && let Err(err) = links.set_key(key.clone())
        {
            tracing::error!(%err, kid = active, "links do not take the new key; they keep the old one");
        }
        self.key.store(Arc::new(key));
        self.membership.settled(KEY_ELSEWHERE);
        tracing::info!(kid = active, before = signs, "this gateway signs with its new key");
        let told = json!({"gateway": gateway, "kid": active, "before": signs});
        self.events.tell("farm.key.signs", "", told.as_object().cloned().unwrap_or_default());
    }

    /// Removes what the bus's engine keeps of large bodies beyond their time.
    async fn sweep(&self) {
        if let Some(blobs) = self.bus.blobs()
            && let Err(err) = blobs.sweep().await
        {
            tracing::debug!(%err, "bodies whose time is over could not be removed; it is tried again");
        }
    }

    async fn prune(&self) {
        for unit in self.units() {
            if let Err(failure) = self.mailroom.prune(&unit).await {
                tracing::warn!(%unit, err = %failure, "old letters could not be removed; it is tried again in a minute");
            }
        }
    }

    /// A new policy, from a config that was edited.
    ///
    /// # Errors
    /// When a rule cannot be used; the one before stays.
    pub fn set_policy(&self, config: &FarmConfig) -> Result<(), String> {
        self.policy.store(Arc::new(policy_of(config).map_err(|why| format!("farm.policy: {why}"))?));
        self.mailroom.look_again();
        Ok(())
    }

    /// Takes up what may change while a gateway runs: policy, roots, the time letters wait, unsigned letters.
    ///
    /// # Errors
    /// When a part cannot be used; what was before of it stays.
    pub fn take_up(&self, config: &FarmConfig) -> Result<(), String> {
        self.rules.store(Arc::new(rules_of(config)));
        let roots: Result<Vec<RootPin>, String> = config.roots.iter().map(|text| root_pin(text)).collect();
        let believed = roots.and_then(|roots| self.membership.believe(roots)).map_err(|why| format!("farm.roots: {why}"));
        let allowed = self.set_policy(config);
        if let Some(links) = &self.links {
            links.recheck();
        }
        believed.and(allowed)
    }
}
