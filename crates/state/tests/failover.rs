//! Servers die under load: what was confirmed is there afterwards, once, and a server that lacks it is not used.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod load;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use clawstead_state::{
    PostgresStore, Store, Table, TxError,
    postgres::{Options, Recall, Tenancy, TenancyError},
    testing::Postgres,
};
use clawstead_terms::Unit;
use clawstead_world::Tasks;
use load::{Load, fence, line};

fn both(one: &Postgres, two: &Postgres) -> String {
    format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", one.port(), two.port())
}

async fn store(url: &str, recall: Option<&Path>) -> Result<PostgresStore, TxError> {
    let options = Options { recall: recall.map(Into::into), retry_limit: Duration::from_secs(30), ..Options::default() };
    PostgresStore::connect(url, "farm", options).await
}

async fn impatient(url: &str, recall: Option<&Path>) -> Result<PostgresStore, TxError> {
    let options = Options { recall: recall.map(Into::into), retry_limit: Duration::from_millis(500), ..Options::default() };
    PostgresStore::connect(url, "farm", options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_under_load_nothing_is_lost_or_doubled() {
    let Some(mut server) = Postgres::start().unwrap() else { return };
    let store = Arc::new(store(&server.url(), None).await.unwrap());
    store.claim(&Unit::Global, &fence()).await.unwrap();
    let load = Load::start(&store, 8);
    for _ in 0..3 {
        load.further(200).await;
        tokio::task::block_in_place(|| {
            server.kill().unwrap();
            server.run().unwrap();
        });
        let back = load.further(1).await;
        assert!(back < Duration::from_secs(30), "{back:?}");
    }
    assert!(load.settle(&store).await > 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_is_promoted_under_load_and_the_old_primary_is_refused() {
    let Some(mut old) = Postgres::start().unwrap() else { return };
    let new = tokio::task::block_in_place(|| old.synchronous_standby()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let recall = folder.path().join("state-store.json");
    // The old primary stands first: it is asked first, too.
    let url = both(&old, &new);
    let store = Arc::new(store(&url, Some(&recall)).await.unwrap());
    store.claim(&Unit::Global, &fence()).await.unwrap();
    let load = Load::start(&store, 8);
    load.further(500).await;
    tokio::task::block_in_place(|| {
        old.kill().unwrap();
        new.promote().unwrap();
    });
    let back = load.further(200).await;
    assert!(back < Duration::from_secs(30), "{back:?}");

    // The old one comes back, answers as primary, and waits for no standby: what it confirms would be lost. Connections
    // are cut, so that both are asked.
    old.set("synchronous_standby_names=");
    tokio::task::block_in_place(|| {
        old.run().unwrap();
        assert_eq!(old.sql("SELECT pg_is_in_recovery()").unwrap(), "f");
        new.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'openclaw%'").unwrap();
    });
    load.further(200).await;
    let confirmed = load.settle(&store).await;
    let on_old: u64 = old.sql("SELECT count(*) FROM farm.journal").unwrap().parse().unwrap();
    assert!(on_old < confirmed, "the old primary took writes: {on_old} of {confirmed}");

    // A process that asks the old one alone is told, whether it runs or starts with what the folder remembers.
    store.close().await;
    let remembered = until_remembered(&recall, |recall| recall.confirmed > 0 && recall.timeline == Some(2)).await;
    assert_eq!(remembered.timeline, Some(2));
    let told = impatient(&old.url(), Some(&recall)).await.err().unwrap().to_string();
    assert!(told.contains("timeline 1") && told.contains("an old primary came back"), "{told}");
    // One that never saw the new one cannot know by itself; with both addresses it takes the one further on.
    let fresh = impatient(&url, None).await.unwrap();
    assert_eq!(fresh.fence(&Unit::Global).await.unwrap(), Some(fence()));
    assert_eq!(
        fresh.journal_end(&Unit::Global, "writer-0").await.unwrap(),
        new.sql("SELECT max(seq) FROM farm.journal WHERE stream='writer-0'").unwrap().parse::<u64>().unwrap()
    );
}

async fn until_remembered(path: &Path, fits: impl Fn(&Recall) -> bool) -> Recall {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(recall) = Recall::read(path).filter(|recall| fits(recall)) {
            return recall;
        }
        assert!(Instant::now() < end, "{:?}", Recall::read(path));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_without_the_last_writes_is_refused() {
    let Some(mut old) = Postgres::start().unwrap() else { return };
    let new = tokio::task::block_in_place(|| old.standby()).unwrap();
    let options = Options { retry_limit: Duration::from_millis(1_500), ..Options::default() };
    let store = PostgresStore::connect(&both(&old, &new), "farm", options).await.unwrap();
    store.claim(&Unit::Global, &fence()).await.unwrap();
    store.commit(&fence(), line("j", 1)).await.unwrap();
    let has = |server: &Postgres, wanted: &str| server.sql("SELECT count(*) FROM farm.journal").is_ok_and(|said| said == wanted);
    while !has(&new, "1") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // From here on the standby gets nothing more.
    new.sql("ALTER SYSTEM SET primary_conninfo=''").unwrap();
    new.sql("SELECT pg_reload_conf()").unwrap();
    while old.sql("SELECT count(*) FROM pg_stat_replication").unwrap() != "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.commit(&fence(), line("j", 2)).await.unwrap();
    tokio::task::block_in_place(|| {
        old.kill().unwrap();
        new.promote().unwrap();
    });
    let refused = store.commit(&fence(), line("j", 3)).await;
    assert!(matches!(&refused, Err(TxError::Away { why, maybe: false, .. }) if why.contains("lacks writes that were confirmed")), "{refused:?}");
    let refused = store.get(&Unit::Global, Table::Meta, "j/1").await;
    assert!(refused.is_err(), "an old state was read: {refused:?}");
    // The one that has them comes back: work goes on.
    tokio::task::block_in_place(|| {
        drop(new);
        old.run().unwrap();
    });
    store.commit(&fence(), line("j", 3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_another_or_restored_store_is_not_taken_for_the_right_one() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let folder = tempfile::tempdir().unwrap();
    let recall = folder.path().join("state-store.json");
    let first = store(&server.url(), Some(&recall)).await.unwrap();
    first.claim(&Unit::Global, &fence()).await.unwrap();
    first.commit(&fence(), line("j", 1)).await.unwrap();
    first.close().await;
    until_remembered(&recall, |recall| recall.confirmed > 0).await;
    // A backup, then more writes, then the backup again.
    server.sql("CREATE DATABASE backup TEMPLATE postgres").unwrap();
    let second = store(&server.url(), Some(&recall)).await.unwrap();
    second.commit(&fence(), line("j", 2)).await.unwrap();
    let confirmed = until_remembered(&recall, |recall| recall.confirmed > 0 && recall.at_ms > 0).await;
    second.close().await;
    until_remembered(&recall, |recall| recall.confirmed >= confirmed.confirmed).await;
    let say = async |url: &str| impatient(url, Some(&recall)).await.err().unwrap();
    let told = say(&server.url().replace("/postgres", "/backup").replace("backup@", "postgres@")).await;
    assert!(
        matches!(&told, TxError::Invalid { why, .. } if why.contains("lacks writes that it had confirmed") && why.contains("openclaw state trust")),
        "{told}"
    );
    server.sql("CREATE DATABASE wiped").unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/wiped", server.port());
    let told = say(&url).await;
    assert!(matches!(&told, TxError::Invalid { why, .. } if why.contains("is empty")), "{told}");
    drop(impatient(&url, None).await.unwrap());
    let told = say(&url).await;
    assert!(matches!(&told, TxError::Invalid { why, .. } if why.contains("another store")), "{told}");
    // The right one is as good as before.
    store(&server.url(), Some(&recall)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_lives_once_in_a_schema() {
    let Some(mut server) = Postgres::start().unwrap() else { return };
    let url = server.url();
    let member = |name: &str| Tenancy::Member(name.to_owned());
    let tasks = Tasks::new();
    let a = PostgresStore::connect(&url, "farm", Options { tasks: tasks.clone(), ..Options::default() }).await.unwrap();
    a.move_in(member("a-gateway")).await.unwrap();
    let b = store(&url, None).await.unwrap();
    let told = b.move_in(member("a-gateway")).await.unwrap_err();
    assert!(matches!(&told, TenancyError::NameTaken { name, holder, .. } if name == "a-gateway" && holder.contains("127.0.0.1")), "{told}");
    b.move_in(member("b-gateway")).await.unwrap();
    let lone = store(&url, None).await.unwrap();
    let told = lone.move_in(Tenancy::Alone).await.unwrap_err();
    assert!(matches!(told, TenancyError::Occupied { .. }), "{told}");
    // Another schema is another house.
    PostgresStore::connect(&url, "other", Options::default()).await.unwrap().move_in(Tenancy::Alone).await.unwrap();

    // The place is kept over a restart of the server.
    tokio::task::block_in_place(|| {
        server.kill().unwrap();
        server.run().unwrap();
    });
    while server.sql("SELECT count(*) FROM pg_locks WHERE locktype='advisory' AND granted AND objsubid=1").unwrap() != "4" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = store(&url, None).await.unwrap().move_in(member("a-gateway")).await.unwrap_err();
    assert!(matches!(told, TenancyError::NameTaken { .. }), "{told}");

    // When it is lost and somebody else has it, the process that had it ends. Its own connection is kept away by a lock
    // that is there when it comes back.
    let c = store(&url, None).await.unwrap();
    let taking = tokio::spawn(async move {
        c.move_in(member("a-gateway")).await.unwrap();
        c
    });
    while server.sql("SELECT count(*) FROM pg_locks WHERE locktype='advisory' AND NOT granted").unwrap() != "1" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype='advisory' AND pg_locks.granted AND mode='ExclusiveLock' AND application_name='openclaw a-gateway'").unwrap();
    let c = taking.await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), tasks.failed().cancelled()).await.expect("the one that lost its name ends");
    // One that ends lets go at once.
    c.close().await;
    store(&url, None).await.unwrap().move_in(member("a-gateway")).await.unwrap();
}
