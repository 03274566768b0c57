//! PostgreSQL keeps the same promises, also over a crash of the server and a lost answer to COMMIT.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use clawstead_state::{Batch, MemoryStore, PostgresStore, SqliteStore, Store, Table, TxError, conformance, copy, postgres::Options, sqlite, testing::Postgres};
use clawstead_terms::{Fence, Unit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn fence(epoch: u64) -> Fence {
    Fence { epoch, owner: "here".into(), incarnation: 1 }
}

fn line(seq: u64) -> Batch {
    Batch::new(Unit::Global).append("j", seq, &seq).unwrap().put_json(Table::Meta, format!("{seq}"), &seq).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_conforms() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let count = AtomicU32::new(0);
    let (url, count) = (server.url(), &count);
    let make = || async {
        let schema = format!("test_{}", count.fetch_add(1, Ordering::Relaxed));
        Arc::new(PostgresStore::connect(&url, &schema, Options::default()).await.unwrap()) as Arc<dyn Store>
    };
    conformance::run(make).await.unwrap();

    // The same on a schema that is there; a newer one is refused; secrets stay out of the name.
    let with_password = url.replace("postgres@", "postgres:hunter2@");
    let store = PostgresStore::connect(&with_password, "test_0", Options::default()).await.unwrap();
    assert_eq!(store.describe(), "postgres:127.0.0.1/postgres");
    // Everything moves there and back.
    let memory = MemoryStore::new();
    memory.claim(&Unit::Global, &fence(3)).await.unwrap();
    for seq in 1..=100 {
        memory.commit(&fence(3), line(seq)).await.unwrap();
    }
    let target = PostgresStore::connect(&url, "copied", Options::default()).await.unwrap();
    let there = copy(&memory, &target).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let back = SqliteStore::open(folder.path().join("back.db"), sqlite::Options::default()).unwrap();
    assert_eq!(copy(&target, &back).await.unwrap(), there);
    assert_eq!(there.tables["journal"].count, 100);
    let refused = PostgresStore::connect(&url, "Bad-Name", Options::default()).await.err().unwrap();
    assert!(matches!(refused, TxError::Invalid { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_share_transactions_and_two_gateways_exclude_each_other() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let one = PostgresStore::connect(&server.url(), "farm", Options::default()).await.unwrap();
    let two = PostgresStore::connect(&server.url(), "farm", Options::default()).await.unwrap();
    one.claim(&Unit::Global, &fence(1)).await.unwrap();
    let before = one.counters();
    let ours = fence(1);
    let waiting: Vec<_> = (1..=200).map(|seq| one.commit(&ours, line(seq))).collect();
    let theirs = Fence { owner: "there".into(), ..fence(2) };
    let (outcomes, end) = tokio::join!(futures_util::future::join_all(waiting), async {
        two.claim(&Unit::Global, &theirs).await.unwrap();
        two.journal_end(&Unit::Global, "j").await.unwrap()
    });
    let written = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    assert_eq!(written, end, "a write of the old holder came after the claim");
    assert!(matches!(one.commit(&ours, line(end + 1)).await, Err(TxError::Fenced { held: 2, .. })));
    two.commit(&theirs, line(end + 1)).await.unwrap();
    let commits = one.counters().syncs - before.syncs;
    assert!(commits <= 20, "{written} batches took {commits} transactions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_server_is_waited_for() {
    let Some(mut server) = Postgres::start().unwrap() else { return };
    let store = Arc::new(PostgresStore::connect(&server.url(), "farm", Options::default()).await.unwrap());
    store.claim(&Unit::Global, &fence(1)).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for seq in 1..=400 {
                store.commit(&fence(1), line(seq)).await?;
            }
            Ok::<_, TxError>(())
        })
    };
    for wait_for in [50, 200] {
        while store.journal_end(&Unit::Global, "j").await.unwrap() < wait_for {
            assert!(!writer.is_finished(), "the writer gave up early");
            tokio::task::yield_now().await;
        }
        tokio::task::block_in_place(|| {
            server.crash().unwrap();
            server.run().unwrap();
        });
    }
    writer.await.unwrap().unwrap();
    // No line twice, none missing: each commit happened exactly once.
    assert_eq!(store.journal_end(&Unit::Global, "j").await.unwrap(), 400);
    let versions = store.scan(&Unit::Global, Table::Meta, &clawstead_state::Scan::prefix("")).await.unwrap();
    assert!(versions.len() == 400 && versions.iter().all(|row| row.version == 1));
}

/// Passes bytes on; when armed, it lets COMMIT reach the server, and cuts the line before the answer comes back.
async fn cutting_proxy(listener: TcpListener, server: u16, armed: Arc<AtomicU32>, cut: Arc<AtomicU32>) {
    while let Ok((client, _)) = listener.accept().await {
        let (armed, cut) = (armed.clone(), cut.clone());
        tokio::spawn(async move {
            let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)).await else { return };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
            loop {
                tokio::select! { biased;
                    read = from_client.read(&mut up) => {
                        let Ok(count @ 1..) = read else { return };
                        let is_commit = up[..count].windows(7).any(|part| part == b"COMMIT\0");
                        if to_server.write_all(&up[..count]).await.is_err() { return }
                        if is_commit && armed.load(Ordering::SeqCst) > 0 {
                            armed.fetch_sub(1, Ordering::SeqCst);
                            // The server answers COMMIT only when it is done; nobody hears it.
                            let _ = from_server.read(&mut down).await;
                            cut.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                    }
                    read = from_server.read(&mut down) => {
                        let Ok(count @ 1..) = read else { return };
                        if to_client.write_all(&down[..count]).await.is_err() { return }
                    }
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_commit_is_settled() {
    let Some(server) = Postgres::start().unwrap() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (armed, cut) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let proxy = tokio::spawn(cutting_proxy(listener, server.port(), armed.clone(), cut.clone()));
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let store = PostgresStore::connect(&url, "farm", Options::default()).await.unwrap();
    store.claim(&Unit::Global, &fence(1)).await.unwrap();
    let ours = fence(1);
    for round in 0..3_u64 {
        armed.store(1, Ordering::SeqCst);
        let first = round * 10 + 1;
        // One of the group is refused, so the answers differ and have to be remembered.
        let mut waiting: Vec<_> = (first..first + 10).map(|seq| store.commit(&ours, line(seq))).collect();
        waiting.push(store.commit(&ours, line(first)));
        let mut outcomes = futures_util::future::join_all(waiting).await;
        assert!(matches!(outcomes.pop(), Some(Err(TxError::Exists { .. }))));
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(store.journal_end(&Unit::Global, "j").await.unwrap(), first + 9);
    }
    assert_eq!(cut.load(Ordering::SeqCst), 3, "no answer was cut, the test shows nothing");
    // Without a way back the doubt is said.
    let impatient = Options { retry_limit: std::time::Duration::from_millis(300), ..Options::default() };
    let store = PostgresStore::connect(&url, "farm", impatient).await.unwrap();
    armed.store(u32::MAX, Ordering::SeqCst);
    let waiting = store.commit(&ours, line(31));
    let stop = async {
        while cut.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
        proxy.abort();
    };
    let (outcome, ()) = tokio::join!(waiting, stop);
    assert!(matches!(outcome, Err(TxError::Away { maybe: true, .. })), "{outcome:?}");
}
