//! The register where several gateways share it: each has its index in memory, one row counts the changes of all.
//!
//! A change is made on what was just read, and expects that nobody changed anything meanwhile; else it is made again.
//! Between changes the row is looked at once a second, and everything is read again when it moved on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clawstead_state::{Batch, Op, Scan, Store, Table, TxError, scan_json, shared::CHANGES_ROW as CHANGES};
use clawstead_terms::Unit;
use clawstead_wire::event::PairRequest;
use clawstead_world::{TaskKind, World};

use super::{Devices, Index, PairedDevice};

/// How often it is looked at: a change at one gateway is known at the others this soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A change that others cross is made again so often.
pub(super) const TRIES_MAX: u32 = 16;

/// Told of a device, and of a role, whose connections must end: it was removed, or its token revoked, elsewhere.
pub type Gone = Box<dyn Fn(&str, Option<&str>) + Send + Sync>;

/// Makes a change, on a fresh index where others write too, and again where one of them was faster.
macro_rules! changing {
    ($devices:expr, $change:expr) => {{
        let devices = $devices;
        let _one = devices.changes.lock().await;
        let mut tries = 0;
        loop {
            devices.renew().await?;
            let outcome: Result<_, clawstead_state::TxError> = async { $change }.await;
            match outcome {
                Err(clawstead_state::TxError::Changed { .. }) if tries < $crate::devices::common::TRIES_MAX && devices.store.is_shared() => tries += 1,
                outcome => break outcome,
            }
        }
    }};
}
pub(super) use changing;

fn open(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn counted(store: &dyn Store) -> Result<Option<u64>, TxError> {
    Ok(store.get(&Unit::Global, Table::Devices, CHANGES).await?.map(|row| row.version))
}

/// Everything as it is stored. The count is read first, so that what is written meanwhile is seen the next time.
pub(super) async fn read(store: &dyn Store) -> Result<Index, TxError> {
    let changes = if store.is_shared() { counted(store).await? } else { None };
    let paired = scan_json::<PairedDevice>(store, &Unit::Global, Table::Devices, &Scan::prefix("device/")).await?;
    let pending = scan_json::<PairRequest>(store, &Unit::Global, Table::Devices, &Scan::prefix("pending/")).await?;
    Ok(Index {
        paired: paired.into_iter().map(|row| (row.value.device_id.clone(), row.value)).collect(),
        pending: pending.into_iter().map(|row| (row.value.request_id.clone(), row.value)).collect(),
        seen_written: std::collections::BTreeMap::new(),
        changes,
    })
}

/// Puts what was read in place of what was known; answers whose connections must end.
fn replace(index: &Mutex<Index>, fresh: Index) -> Vec<(String, Option<String>)> {
    let mut index = open(index);
    let mut gone = Vec::new();
    for (id, old) in &index.paired {
        let Some(new) = fresh.paired.get(id) else {
            gone.push((id.clone(), None));
            continue;
        };
        let revoked =
            old.tokens.iter().filter(|(role, old)| old.revoked_at_ms.is_none() && new.tokens.get(*role).is_none_or(|new| new.revoked_at_ms.is_some()));
        gone.extend(revoked.map(|(role, _)| (id.clone(), Some(role.clone()))));
    }
    let seen_written = std::mem::take(&mut index.seen_written);
    *index = Index { seen_written, ..fresh };
    gone
}

impl Devices {
    /// Calls `tell` for connections that must end because of what another gateway did. The first call counts.
    pub fn when_gone(&self, tell: impl Fn(&str, Option<&str>) + Send + Sync + 'static) {
        let _ = self.gone.set(Box::new(tell));
    }

    /// Reads everything again if another gateway changed something. The caller holds `changes`.
    pub(super) async fn renew(&self) -> Result<(), TxError> {
        if !self.store.is_shared() || counted(&*self.store).await? == self.lock().changes {
            return Ok(());
        }
        self.told(replace(&self.index, read(&*self.store).await?));
        Ok(())
    }

    fn told(&self, gone: Vec<(String, Option<String>)>) {
        let Some(tell) = self.gone.get() else { return };
        for (device, role) in gone {
            tell(&device, role.as_deref());
        }
    }

    /// Writes a change. Where others write too, it expects that nobody did since [`Self::renew`].
    pub(super) async fn commit(&self, mut batch: Batch) -> Result<(), TxError> {
        if !self.store.is_shared() {
            return self.store.commit(&self.fence, batch).await;
        }
        let known = self.lock().changes;
        batch.ops.insert(0, Op::Expect(Table::Devices, CHANGES.into(), known));
        batch.ops.push(Op::Put(Table::Devices, CHANGES.into(), "true".into()));
        self.store.commit(&self.fence, batch).await?;
        self.lock().changes = Some(known.map_or(1, |known| known + 1));
        Ok(())
    }

    /// Looks for changes of other gateways as long as somebody holds the register.
    pub(super) fn follow(&self, world: &World) {
        if !self.store.is_shared() {
            return;
        }
        let (store, changes) = (Arc::clone(&self.store), Arc::clone(&self.changes));
        let (index, gone) = (Arc::downgrade(&self.index), Arc::clone(&self.gone));
        let stop = world.tasks.stopping();
        world.tasks.spawn::<_, std::convert::Infallible>(TaskKind::logged("device register"), async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let Some(index) = index.upgrade() else { return Ok(()) };
                let look = async {
                    if counted(&*store).await? == open(&index).changes {
                        return Ok(Vec::new());
                    }
                    let _one = changes.lock().await;
                    Ok::<_, TxError>(replace(&index, read(&*store).await?))
                };
                match look.await {
                    Ok(ended) => {
                        for (device, role) in ended {
                            if let Some(tell) = gone.get() {
                                tell(&device, role.as_deref());
                            }
                        }
                    }
                    Err(err) => tracing::warn!(%err, "devices that other gateways changed could not be read; it is tried again in a second"),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use clawstead_state::{MemoryStore, Shared, Store, claim_next};
    use clawstead_terms::Unit;
    use clawstead_wire::connect::{ClientId, ClientInfo, ClientMode};
    use clawstead_world::World;

    use super::super::{Claim, Decision, Devices, Grant, Verdict};

    async fn register(store: &MemoryStore, gateway: &str, seed: u64) -> Devices {
        let store: Arc<dyn Store> = Arc::new(Shared::new(Arc::new(store.sibling()), gateway, &[]));
        let fence = claim_next(&*store, &Unit::Global, gateway, 1).await.unwrap();
        Devices::load(store, fence, World::simulated(seed)).await.unwrap()
    }

    async fn ask(devices: &Devices, id: &str, grant: Grant) -> Verdict {
        let client = ClientInfo {
            id: ClientId::Cli,
            display_name: None,
            version: "1".into(),
            build_id: None,
            platform: "linux".into(),
            device_family: None,
            model_identifier: None,
            time_zone: None,
            mode: ClientMode::Cli,
            instance_id: None,
        };
        let scopes = ["operator.read".to_owned()];
        let claim = Claim { device_id: id, public_key: "k", client: &client, role: "operator", scopes: &scopes, remote_ip: None };
        devices.admit(&claim, grant).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_gateway_pairs_the_others_know() {
        let store = MemoryStore::new();
        let (one, two) = (register(&store, "one", 1).await, register(&store, "two", 2).await);
        let ended = Arc::new(Mutex::new(Vec::new()));
        one.when_gone({
            let ended = ended.clone();
            move |device, role| ended.lock().unwrap().push((device.to_owned(), role.map(str::to_owned)))
        });

        // At once where it is asked for, and after two seconds everywhere.
        let Verdict::Admitted { token, .. } = ask(&one, "d1", Grant::Silent).await else { panic!("refused") };
        let Verdict::Admitted { token: same, .. } = ask(&two, "d1", Grant::ByOwner).await else { panic!("not known") };
        assert!(token == same);
        ask(&two, "d2", Grant::Silent).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(one.find("d2").is_some());
        assert_eq!(one.check_token("d1", "operator", &token.token).unwrap(), ["operator.read"]);

        // A request at one gateway is approved at the other.
        let Verdict::Refused { requested: Some(request), .. } = ask(&one, "d3", Grant::ByOwner).await else { panic!("let in") };
        two.decide(&request.request_id, Decision::Approve, &["operator.admin".into()]).await.unwrap();
        assert!(matches!(ask(&one, "d3", Grant::ByOwner).await, Verdict::Admitted { .. }));

        // What is revoked or removed elsewhere ends here too.
        two.revoke("d1", "operator").await.unwrap().unwrap();
        assert!(two.remove("d2").await.unwrap());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(one.check_token("d1", "operator", &token.token).is_none() && one.find("d2").is_none());
        assert_eq!(*ended.lock().unwrap(), [("d1".to_owned(), Some("operator".to_owned())), ("d2".to_owned(), None)]);

        // Many at once, on both: nothing is lost.
        let some = |gateway: &'static str, devices: Devices| async move {
            for at in 0..20 {
                assert!(matches!(ask(&devices, &format!("{gateway}-{at}"), Grant::Silent).await, Verdict::Admitted { .. }));
            }
            devices
        };
        let (one, two) = tokio::join!(some("one", one), some("two", two));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((one.paired().len(), two.paired().len()), (42, 42));

        // Nobody writes when nothing happens.
        let before = store.image();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(before == store.image());
    }
}
