//! Every backend keeps every promise, and they agree with each other.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
};

use clawstead_state::{Batch, Crash, MemoryStore, Op, Scan, SqliteStore, Store, Table, TxError, conformance, copy, sqlite};
use clawstead_terms::{Fence, Unit};
use proptest::prelude::*;

fn fence() -> Fence {
    Fence { epoch: 1, owner: "here".into(), incarnation: 1 }
}

#[tokio::test]
async fn memory_conforms() {
    conformance::run(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn memory_conforms_with_a_slow_disk() {
    let slow = || async { Arc::new(MemoryStore::new().with_sync_time(std::time::Duration::from_millis(3))) as Arc<dyn Store> };
    conformance::run(slow).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    let make = || async {
        let name = format!("{}.db", count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Arc::new(SqliteStore::open(folder.path().join(name), sqlite::Options::default()).unwrap()) as Arc<dyn Store>
    };
    conformance::run(make).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_memory_keeps_what_was_answered() {
    let store = MemoryStore::new().with_sync_time(std::time::Duration::from_millis(5));
    store.claim(&Unit::Global, &fence()).await.unwrap();
    let line = |seq| Batch::new(Unit::Global).append("j", seq, &seq).unwrap();
    store.commit(&fence(), line(1)).await.unwrap();
    let sibling = store.sibling();
    for (crash, there) in [(Crash::LoseUnanswered, 1), (Crash::KeepUnanswered(2), 3)] {
        let store = MemoryStore::on(store.image()).with_sync_time(std::time::Duration::from_millis(5));
        let fence = fence();
        let waiting: Vec<_> = (2..5).map(|seq| store.commit(&fence, line(seq))).collect();
        store.crash(crash);
        for answer in futures_util::future::join_all(waiting).await {
            assert!(matches!(answer, Err(TxError::Away { maybe: true, .. })), "{answer:?}");
        }
        assert!(matches!(store.get(&Unit::Global, Table::Meta, "k").await, Err(TxError::Away { .. })));
        let again = MemoryStore::on(store.image());
        assert_eq!(again.journal_end(&Unit::Global, "j").await.unwrap(), there);
    }
    assert_eq!(sibling.journal_end(&Unit::Global, "j").await.unwrap(), 1);
    let full = TxError::Full { path: "disk".into() };
    sibling.fail_next(1, &full);
    sibling.lose_next_answers(1);
    assert_eq!(sibling.commit(&fence(), line(2)).await, Err(full));
    assert!(matches!(sibling.commit(&fence(), line(2)).await, Err(TxError::Away { maybe: true, .. })));
    assert_eq!(sibling.journal_end(&Unit::Global, "j").await.unwrap(), 2);
    sibling.disconnect("network");
    assert!(matches!(sibling.commit(&fence(), line(3)).await, Err(TxError::Away { maybe: false, .. })));
    sibling.reconnect();
    sibling.commit(&fence(), line(3)).await.unwrap();
    // What a sibling took cannot be written by the other.
    sibling.claim(&Unit::Global, &Fence { epoch: 2, ..fence() }).await.unwrap();
    assert!(matches!(store.commit(&fence(), line(4)).await, Err(TxError::Fenced { .. })));
}

#[tokio::test]
async fn a_copy_to_another_backend_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let from = MemoryStore::new();
    for unit in [Unit::Global, Unit::parse("agent.main").unwrap()] {
        from.claim(&unit, &Fence { epoch: 7, ..fence() }).await.unwrap();
        for at in 0..150 {
            let batch =
                Batch::new(unit.clone()).put_json(Table::Meta, format!("ä {at}"), &at).unwrap().append(format!("j{}", at % 70), at / 70 + 1, &at).unwrap();
            from.commit(&Fence { epoch: 7, ..fence() }, batch).await.unwrap();
        }
    }
    let to = SqliteStore::open(folder.path().join("to.db"), sqlite::Options::default()).unwrap();
    let report = copy(&from, &to).await.unwrap();
    assert_eq!((report.units, report.journals, report.tables["meta"].count, report.tables["journal"].count), (2, 140, 300, 300));
    let fence_now = to.fence(&Unit::Global).await.unwrap().unwrap();
    assert_eq!((fence_now.epoch, &*fence_now.owner), (8, "here"));
    assert!(matches!(copy(&from, &to).await, Err(TxError::Invalid { .. })));
    // The proof notices a changed value.
    let mut changed = report.clone();
    to.commit(&fence_now, Batch::new(Unit::Global).put_json(Table::Meta, "ä 7", &8).unwrap()).await.unwrap();
    changed.tables = clawstead_state::sum(&to).await.unwrap().tables;
    assert_ne!(changed, report);
}

const KILL_FOLDER: &str = "CLAWSTEAD_STATE_KILL_FOLDER";
const WRITERS: u64 = 8;

/// Not a test: the process that `answered_commits_survive_kill_9` starts and kills.
#[test]
#[ignore = "started by answered_commits_survive_kill_9"]
fn a_process_that_commits_until_it_is_killed() {
    let Some(folder) = std::env::var_os(KILL_FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(SqliteStore::open(std::path::Path::new(&folder).join("state.db"), sqlite::Options::default()).unwrap());
        store.claim(&Unit::Global, &fence()).await.unwrap();
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let journal = format!("{writer}");
                let mut seq = store.journal_end(&Unit::Global, &journal).await.unwrap();
                loop {
                    seq += 1;
                    let batch = Batch::new(Unit::Global)
                        .append(journal.clone(), seq, &"x".repeat(700))
                        .unwrap()
                        .put_json(Table::Meta, format!("{writer}/{seq}"), &seq)
                        .unwrap()
                        .put_json(Table::Runs, journal.clone(), &seq)
                        .unwrap();
                    store.commit(&fence(), batch).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "stored {writer} {seq}").and_then(|()| out.flush()).unwrap();
                }
            })
        });
        futures_util::future::join_all(writers).await;
    });
}

#[tokio::test]
async fn answered_commits_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_commits_until_it_is_killed", "--ignored", "--nocapture"])
            .env(KILL_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stored = vec![0_u64; WRITERS as usize];
        let mut count = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(Ok(line)) = lines.next() {
            let Some(rest) = line.strip_prefix("stored ") else { continue };
            let (writer, seq) = rest.split_once(' ').unwrap();
            // The last line may be cut by the kill.
            let (Ok(writer), Ok(seq)) = (writer.parse::<usize>(), seq.parse::<u64>()) else { continue };
            stored[writer] = stored[writer].max(seq);
            count += 1;
            if count == 150 + 37 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= 150, "the process ended early");
        let store = SqliteStore::open(folder.path().join("state.db"), sqlite::Options::default()).unwrap();
        for (writer, stored) in stored.iter().enumerate() {
            let journal = writer.to_string();
            let end = store.journal_end(&Unit::Global, &journal).await.unwrap();
            assert!(end >= *stored, "writer {writer} was told {stored} is stored, the journal ends with {end}");
            let rows = store.scan(&Unit::Global, Table::Meta, &Scan::prefix(format!("{writer}/"))).await.unwrap();
            assert_eq!(rows.len() as u64, end, "a batch was written in half");
            let row = store.get(&Unit::Global, Table::Runs, &journal).await.unwrap();
            assert_eq!(row.map_or("0".into(), |row| row.value), end.to_string());
        }
        store.close().await;
    }
}

fn some_op() -> impl Strategy<Value = Op> {
    let key = prop_oneof![Just("a"), Just("ab"), Just("%"), Just("ä")].prop_map(String::from);
    let table = prop_oneof![Just(Table::Meta), Just(Table::Runs)];
    let row = (table, key.clone(), 0..4_u64);
    prop_oneof![
        row.clone().prop_map(|(table, key, n)| Op::Put(table, key, n.to_string())),
        row.clone().prop_map(|(table, key, n)| Op::Insert(table, key, n.to_string())),
        row.clone().prop_map(|(table, key, _)| Op::Delete(table, key)),
        row.prop_map(|(table, key, n)| Op::Expect(table, key, n.checked_sub(1))),
        (key.clone(), 1..4_u64).prop_map(|(journal, seq)| Op::Append { journal, seq, event: "{}".into() }),
        (key.clone(), 1..4_u64).prop_map(|(journal, seq)| Op::Append { journal, seq, event: "{}".into() }),
        key.prop_map(Op::DropJournal),
    ]
}

async fn content(store: &dyn Store, unit: &Unit) -> Vec<String> {
    let mut all = Vec::new();
    for table in [Table::Meta, Table::Runs] {
        all.extend(store.scan(unit, table, &Scan::prefix("")).await.unwrap().iter().map(|row| format!("{} {row:?}", table.name())));
    }
    for journal in store.journals(unit, None, 100).await.unwrap() {
        all.push(format!("{journal} {:?}", store.read_journal(unit, &journal, 1, 100).await.unwrap()));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn memory_and_sqlite_agree(batches in prop::collection::vec(prop::collection::vec(some_op(), 0..4), 1..30)) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let memory = MemoryStore::new();
            let sqlite = SqliteStore::open(folder.path().join("state.db"), sqlite::Options::default()).unwrap();
            memory.claim(&Unit::Global, &fence()).await.unwrap();
            sqlite.claim(&Unit::Global, &fence()).await.unwrap();
            // Handed over together, so that SQLite puts several into one transaction.
            let fence = fence();
            let all = || batches.iter().map(|ops| Batch { unit: Unit::Global, ops: ops.clone() });
            let in_memory = futures_util::future::join_all(all().map(|batch| memory.commit(&fence, batch)).collect::<Vec<_>>()).await;
            let in_sqlite = futures_util::future::join_all(all().map(|batch| sqlite.commit(&fence, batch)).collect::<Vec<_>>()).await;
            assert_eq!(in_memory, in_sqlite);
            assert_eq!(content(&memory, &Unit::Global).await, content(&sqlite, &Unit::Global).await);
        });
    }
}
