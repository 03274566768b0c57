//! Several gateways on one store: each has its own, all have the common rows, nobody fences anybody off.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use clawstead_state::{
    Batch, MemoryStore, Op, PostgresStore, Scan, Shared, Store, Table, TxError, claim_next, conformance, copy_units, get_json, postgres::Options,
    shared::FARM_OWNER, testing::Postgres,
};
use clawstead_terms::{AgentId, Fence, Unit};
use futures_util::future::join_all;

const COMMON: &[&str] = &["prefs", "groups"];

fn over(store: impl Store + 'static, gateway: &str) -> Shared {
    Shared::new(Arc::new(store), gateway, COMMON)
}

fn put(table: Table, key: &str, value: &str) -> Batch {
    Batch::new(Unit::Global).op(Op::Put(table, key.into(), format!("\"{value}\"")))
}

async fn value(store: &dyn Store, table: Table, key: &str) -> Option<String> {
    get_json::<String>(store, &Unit::Global, table, key).await.unwrap().map(|row| row.value)
}

async fn keys(store: &dyn Store, table: Table, scan: &Scan) -> Vec<String> {
    store.scan(&Unit::Global, table, scan).await.unwrap().into_iter().map(|row| row.key).collect()
}

#[tokio::test]
async fn a_view_conforms_over_memory() {
    conformance::run(|| async { Arc::new(over(MemoryStore::new(), "a-gateway")) as Arc<dyn Store> }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_conforms_over_postgres() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let count = AtomicU32::new(0);
    let (url, count) = (server.url(), &count);
    let make = || async {
        let schema = format!("test_{}", count.fetch_add(1, Ordering::Relaxed));
        Arc::new(over(PostgresStore::connect(&url, &schema, Options::default()).await.unwrap(), "a-gateway")) as Arc<dyn Store>
    };
    conformance::run(make).await.unwrap();
}

/// What two gateways may expect of each other; `a` and `b` are two processes, `again` is a second process of a's name.
async fn two_gateways(a: Shared, b: Shared, again: Shared) {
    let fence_a = claim_next(&a, &Unit::Global, "a-gateway", 1).await.unwrap();
    let fence_b = claim_next(&b, &Unit::Global, "b-gateway", 1).await.unwrap();

    // Each its own.
    a.commit(&fence_a, put(Table::Meta, "boot", "a").op(Op::Put(Table::Inbox, "letter".into(), "1".into()))).await.unwrap();
    b.commit(&fence_b, put(Table::Meta, "boot", "b")).await.unwrap();
    a.commit(&fence_a, put(Table::Models, "m", "a")).await.unwrap();
    assert_eq!((value(&a, Table::Meta, "boot").await.as_deref(), value(&b, Table::Meta, "boot").await.as_deref()), (Some("a"), Some("b")));
    assert_eq!(value(&b, Table::Models, "m").await, None);
    assert!(keys(&b, Table::Inbox, &Scan::prefix("")).await.is_empty());
    a.commit(&fence_a, Batch::new(Unit::Global).append("log", 1, &1).unwrap()).await.unwrap();
    assert_eq!((a.journal_end(&Unit::Global, "log").await.unwrap(), b.journal_end(&Unit::Global, "log").await.unwrap()), (1, 0));

    // And what is everybody's, written by turns.
    a.commit(&fence_a, put(Table::Devices, "device/1", "by a")).await.unwrap();
    b.commit(&fence_b, put(Table::Devices, "device/2", "by b")).await.unwrap();
    a.commit(&fence_a, put(Table::Devices, "device/3", "by a")).await.unwrap();
    b.commit(&fence_b, put(Table::Approvals, "file", "by b")).await.unwrap();
    b.commit(&fence_b, put(Table::Meta, "prefs", "by b")).await.unwrap();
    assert_eq!(keys(&a, Table::Devices, &Scan::prefix("device/")).await, keys(&b, Table::Devices, &Scan::prefix("device/")).await);
    assert_eq!(keys(&a, Table::Devices, &Scan::prefix("")).await.len(), 3);
    assert_eq!(value(&a, Table::Approvals, "file").await.as_deref(), Some("by b"));
    assert_eq!(keys(&a, Table::Meta, &Scan::prefix("")).await, ["boot", "prefs"]);
    assert_eq!(keys(&a, Table::Meta, &Scan::prefix("").newest_first().limit(1)).await, ["prefs"]);
    assert_eq!(keys(&a, Table::Meta, &Scan::prefix("").after("boot").limit(1)).await, ["prefs"]);
    assert_eq!(keys(&a, Table::Meta, &Scan::prefix("seal")).await, Vec::<String>::new());

    // Not both in one batch.
    let mixed = put(Table::Devices, "device/4", "x").op(Op::Put(Table::Meta, "boot".into(), "1".into()));
    let refused = a.commit(&fence_a, mixed).await;
    assert!(matches!(&refused, Err(TxError::Invalid { why, .. }) if why.contains("one after the other")), "{refused:?}");

    // Of two that change one common row at once, the second is told; nothing is lost.
    let add = async |view: &Shared, fence: &Fence, by: &str| {
        let mut tries = 0;
        for at in 0..10 {
            loop {
                tries += 1;
                let row = get_json::<Vec<String>>(view, &Unit::Global, Table::Meta, "groups").await.unwrap();
                let version = row.as_ref().map(|row| row.version);
                let mut all = row.map(|row| row.value).unwrap_or_default();
                all.push(format!("{by}{at}"));
                let batch = Batch::new(Unit::Global).expect(Table::Meta, "groups", version).put_json(Table::Meta, "groups", &all).unwrap();
                match view.commit(fence, batch).await {
                    Ok(()) => break,
                    Err(TxError::Changed { .. }) => {}
                    Err(err) => panic!("{err}"),
                }
            }
        }
        tries
    };
    tokio::join!(add(&a, &fence_a, "a"), add(&b, &fence_b, "b"));
    let all = get_json::<Vec<String>>(&a, &Unit::Global, Table::Meta, "groups").await.unwrap().unwrap().value;
    assert_eq!(all.len(), 20, "{all:?}");

    // Each sees itself as the global unit, and the other under its name.
    assert_eq!(a.units().await.unwrap(), [Unit::House("b-gateway".into()), Unit::Global]);
    assert_eq!(b.units().await.unwrap(), [Unit::House("a-gateway".into()), Unit::Global]);

    // An agent is fenced as ever.
    let agent = Unit::Agent(AgentId::normalise("jerry"));
    let of_a = claim_next(&a, &agent, "a-gateway", 1).await.unwrap();
    let of_b = claim_next(&b, &agent, "b-gateway", 1).await.unwrap();
    let line = || Batch::new(agent.clone()).append("j", 1, &1).unwrap();
    assert!(matches!(a.commit(&of_a, line()).await, Err(TxError::Fenced { held: 2, .. })));
    b.commit(&of_b, line()).await.unwrap();

    // A second process of the same name: the first one writes nothing more, neither its own nor common rows.
    let fence_again = claim_next(&again, &Unit::Global, "a-gateway", 2).await.unwrap();
    for batch in [put(Table::Meta, "boot", "old"), put(Table::Devices, "device/9", "old"), put(Table::Meta, "prefs", "old")] {
        let refused = a.commit(&fence_a, batch).await;
        assert!(matches!(&refused, Err(TxError::Fenced { unit, held: 2, ours: 1, .. }) if unit == "gateway.a-gateway"), "{refused:?}");
    }
    again.commit(&fence_again, put(Table::Devices, "device/9", "new")).await.unwrap();
    b.commit(&fence_b, put(Table::Devices, "device/10", "b")).await.unwrap();
    assert_eq!(value(&again, Table::Meta, "boot").await.as_deref(), Some("a"));
    let refused = a.claim(&Unit::Global, &fence_a).await;
    assert!(matches!(refused, Err(TxError::Fenced { .. })), "{refused:?}");
}

#[tokio::test]
async fn two_gateways_over_memory() {
    let store = MemoryStore::new();
    two_gateways(over(store.sibling(), "a-gateway"), over(store.sibling(), "b-gateway"), over(store.sibling(), "a-gateway")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_over_postgres() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let url = server.url();
    let connect = async || PostgresStore::connect(&url, "farm", Options::default()).await.unwrap();
    two_gateways(over(connect().await, "a-gateway"), over(connect().await, "b-gateway"), over(connect().await, "a-gateway")).await;
}

#[tokio::test]
async fn ten_gateways_come_in_at_once() {
    let store = MemoryStore::new();
    let views: Vec<(String, Shared)> = (0..10).map(|at| format!("g{at}")).map(|name| (name.clone(), over(store.sibling(), &name))).collect();
    let fences = join_all(views.iter().map(|(name, view)| claim_next(view, &Unit::Global, name, 1))).await;
    for ((name, view), fence) in views.iter().zip(fences) {
        view.commit(&fence.unwrap(), put(Table::Devices, &format!("device/{name}"), "1")).await.unwrap();
    }
    assert_eq!(keys(&views[0].1, Table::Devices, &Scan::prefix("device/")).await.len(), 10);
    assert_eq!(store.fence(&Unit::Global).await.unwrap().unwrap().owner, FARM_OWNER);
}

/// A store that one gateway used alone becomes the farm's: its own rows go to the first that comes, once.
#[tokio::test]
async fn the_first_gateway_inherits_what_was_there_also_over_crashes() {
    let lone = MemoryStore::new();
    let old = claim_next(&lone, &Unit::Global, "gateway", 1).await.unwrap();
    for at in 0..70 {
        lone.commit(&old, put(Table::Meta, &format!("row/{at:02}"), "1").append("log", at + 1, &at).unwrap()).await.unwrap();
    }
    lone.commit(&old, put(Table::Meta, "prefs", "dark").op(Op::Put(Table::Devices, "device/1".into(), "1".into()))).await.unwrap();
    lone.commit(&old, put(Table::Inbox, "letter", "1")).await.unwrap();

    let fence = Fence { epoch: 1, owner: "a-gateway".into(), incarnation: 1 };
    let crashed = TxError::Away { path: "memory".into(), why: "crash".into(), maybe: false };
    for writes in 0..12 {
        // The first `writes` commits work, then it dies.
        let disk = MemoryStore::on(lone.image());
        let dying = disk.sibling();
        let view = over(Dying::new(dying.clone(), writes), "a-gateway");
        let first = view.claim(&Unit::Global, &fence).await;
        assert!(first.is_ok() || first == Err(crashed.clone()), "{first:?}");
        // Another gateway comes first now, but is not the heir if there is one already.
        let b = over(disk.sibling(), "b-gateway");
        if writes > 1 {
            claim_next(&b, &Unit::Global, "b-gateway", 1).await.unwrap();
            assert!(keys(&b, Table::Inbox, &Scan::prefix("")).await.is_empty());
        }
        let a = over(disk.sibling(), "a-gateway");
        claim_next(&a, &Unit::Global, "a-gateway", 2).await.unwrap();
        assert_eq!(keys(&a, Table::Meta, &Scan::prefix("row/")).await.len(), 70, "after {writes} writes");
        assert_eq!(a.journal_end(&Unit::Global, "log").await.unwrap(), 70);
        assert_eq!(keys(&a, Table::Inbox, &Scan::prefix("")).await, ["letter"]);
        assert_eq!(value(&a, Table::Meta, "prefs").await.as_deref(), Some("dark"));
        assert_eq!(disk.journals(&Unit::Global, None, 10).await.unwrap(), Vec::<String>::new());
        assert!(disk.scan(&Unit::Global, Table::Meta, &Scan::prefix("row/")).await.unwrap().is_empty());
        assert_eq!(keys(&a, Table::Devices, &Scan::prefix("")).await, ["device/1"]);
    }
    // The gateway that was alone is fenced off what it had.
    let a = over(lone.sibling(), "a-gateway");
    a.claim(&Unit::Global, &fence).await.unwrap();
    assert!(matches!(lone.commit(&old, put(Table::Meta, "x", "1")).await, Err(TxError::Fenced { .. })));
}

/// A store whose gateway dies after some commits.
struct Dying {
    inner: MemoryStore,
    left: AtomicU32,
}

impl Dying {
    fn new(inner: MemoryStore, commits: u32) -> Self {
        Self { inner, left: AtomicU32::new(commits) }
    }
}

#[async_trait::async_trait]
impl Store for Dying {
    async fn claim(&self, unit: &Unit, fence: &Fence) -> Result<(), TxError> {
        self.inner.claim(unit, fence).await
    }
    async fn fence(&self, unit: &Unit) -> Result<Option<Fence>, TxError> {
        self.inner.fence(unit).await
    }
    async fn commit(&self, fence: &Fence, batch: Batch) -> Result<(), TxError> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(TxError::Away { path: "memory".into(), why: "crash".into(), maybe: false });
        }
        self.inner.commit(fence, batch).await
    }
    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<clawstead_state::Row>, TxError> {
        self.inner.get(unit, table, key).await
    }
    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<clawstead_state::Row>, TxError> {
        self.inner.scan(unit, table, scan).await
    }
    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        self.inner.read_journal(unit, journal, from, limit).await
    }
    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        self.inner.journal_end(unit, journal).await
    }
    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        self.inner.journals(unit, after, limit).await
    }
    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        self.inner.units().await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn counters(&self) -> clawstead_state::StoreCounters {
        self.inner.counters()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A gateway's state moves from a file into a store that others use already, and back; agents move alone too.
#[tokio::test]
async fn state_moves_into_a_shared_store_and_back() {
    let (jerry, bobby) = (Unit::Agent(AgentId::normalise("jerry")), Unit::Agent(AgentId::normalise("bobby")));
    let file = MemoryStore::new();
    let fence = claim_next(&file, &Unit::Global, "gateway", 1).await.unwrap();
    let mine = put(Table::Meta, "boot", "a").op(Op::Put(Table::Devices, "device/1".into(), "1".into())).op(Op::Put(Table::Inbox, "letter".into(), "1".into()));
    file.commit(&fence, mine).await.unwrap();
    file.commit(&fence, put(Table::Meta, "prefs", "mine").append("log", 1, &1).unwrap()).await.unwrap();
    for unit in [&jerry, &bobby] {
        let fence = claim_next(&file, unit, "gateway", 1).await.unwrap();
        for at in 1..=130_u64 {
            let batch = Batch::new(unit.clone()).append(format!("session {}", at % 2), at.div_ceil(2), &at).unwrap();
            file.commit(&fence, batch.put_json(Table::Sessions, format!("{at}"), &at).unwrap()).await.unwrap();
        }
    }
    // Another gateway lives there: with a device of the same id, and preferences.
    let farm = MemoryStore::new();
    let b = over(farm.sibling(), "b-gateway");
    let fence_b = claim_next(&b, &Unit::Global, "b-gateway", 1).await.unwrap();
    b.commit(&fence_b, put(Table::Devices, "device/1", "of b").op(Op::Put(Table::Devices, "device/2".into(), "2".into()))).await.unwrap();
    b.commit(&fence_b, put(Table::Meta, "prefs", "of b")).await.unwrap();

    // Jerry alone first; its connection is lost once on the way, and the copy goes on.
    let disk = farm.sibling();
    let a = over(Dying::new(disk, 2), "a-gateway");
    let cut = copy_units(&file, &a, std::slice::from_ref(&jerry), &mut |_| {}).await;
    assert!(matches!(cut, Err(TxError::Away { .. })), "{cut:?}");
    let a = over(farm.sibling(), "a-gateway");
    let mut seen = Vec::new();
    let report = copy_units(&file, &a, std::slice::from_ref(&jerry), &mut |progress| seen.push(progress.written)).await.unwrap();
    assert_eq!((report.units, report.journals, report.tables["journal"].count, report.tables["sessions"].count), (1, 2, 130, 130));
    assert!(seen.len() > 2 && seen.is_sorted(), "{seen:?}");
    let again = copy_units(&file, &a, std::slice::from_ref(&jerry), &mut |_| {}).await;
    assert!(matches!(&again, Err(TxError::Invalid { why, .. }) if why.contains("agent.jerry")), "{again:?}");

    // Then the rest: what is common and there already stays, and is told.
    let report = copy_units(&file, &a, &[Unit::Global, bobby.clone()], &mut |_| {}).await.unwrap();
    assert_eq!(report.kept, ["devices device/1", "meta prefs"]);
    assert_eq!((value(&b, Table::Meta, "prefs").await.as_deref(), value(&b, Table::Meta, "boot").await), (Some("of b"), None));
    assert_eq!(value(&a, Table::Meta, "boot").await.as_deref(), Some("a"));
    assert_eq!(keys(&b, Table::Devices, &Scan::prefix("device/")).await, ["device/1", "device/2"]);
    let refused = copy_units(&file, &a, &[Unit::Global], &mut |_| {}).await;
    assert!(matches!(&refused, Err(TxError::Invalid { why, .. }) if why.contains("own part")), "{refused:?}");
    // It works there.
    let fence_a = claim_next(&a, &Unit::Global, "a-gateway", 2).await.unwrap();
    a.commit(&fence_a, put(Table::Devices, "device/3", "a")).await.unwrap();

    // And back into a file.
    let back = MemoryStore::new();
    copy_units(&a, &back, &[Unit::Global, jerry.clone(), bobby], &mut |_| {}).await.unwrap();
    assert_eq!(keys(&back, Table::Devices, &Scan::prefix("device/")).await, ["device/1", "device/2", "device/3"]);
    assert_eq!(keys(&back, Table::Meta, &Scan::prefix("")).await, ["boot", "prefs"]);
    assert_eq!(back.journal_end(&jerry, "session 1").await.unwrap(), 65);
    assert_eq!(keys(&back, Table::Inbox, &Scan::prefix("")).await, ["letter"]);
}
