//! Measures commits: latency of one at a time, throughput of 16 and 64 at once, disk syncs per commit.
//!
//! `cargo run --release -p clawstead-state --example commit_bench -- [sqlite:<folder> | memory | postgres://...]`
//! Without an argument: SQLite in a folder beside the current one, and PostgreSQL where it is installed.
//! A commit is what half a turn writes: a journal line of 1 KiB and a session row.
#![expect(clippy::print_stdout, reason = "its output is the result")]

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use clawstead_state::{Batch, MemoryStore, Op, PostgresStore, SqliteStore, Store, Table, postgres, sqlite, testing::Postgres};
use clawstead_terms::{Fence, Unit};

const ALONE: u64 = 1_000;
const TOGETHER_FOR: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::path::PathBuf::from(format!("commit-bench-{}", std::process::id()));
    match std::env::args().nth(1).as_deref() {
        Some("memory") => measure(Arc::new(MemoryStore::new())).await?,
        Some(url) if url.starts_with("postgres") => measure(Arc::new(PostgresStore::connect(url, "commit_bench", postgres::Options::default()).await?)).await?,
        Some(other) => measure(sqlite_in(other.strip_prefix("sqlite:").unwrap_or(other).as_ref())?).await?,
        None => {
            measure(sqlite_in(&folder)?).await?;
            std::fs::remove_dir_all(&folder)?;
            if let Some(server) = Postgres::start()? {
                measure(Arc::new(PostgresStore::connect(&server.url(), "commit_bench", postgres::Options::default()).await?)).await?;
            }
        }
    }
    Ok(())
}

fn sqlite_in(folder: &std::path::Path) -> Result<Arc<dyn Store>, Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    Ok(Arc::new(SqliteStore::open(folder.join("bench.db"), sqlite::Options::default())?))
}

fn batch(journal: &str, seq: u64) -> Batch {
    let event = format!("{{\"text\":\"{}\"}}", "x".repeat(1_000));
    Batch::new(Unit::Global).op(Op::Append { journal: journal.into(), seq, event }).op(Op::Put(Table::Sessions, journal.into(), format!("{{\"end\":{seq}}}")))
}

async fn measure(store: Arc<dyn Store>) -> Result<(), Box<dyn Error>> {
    let fence = Fence { epoch: store.fence(&Unit::Global).await?.map_or(1, |fence| fence.epoch + 1), owner: "bench".into(), incarnation: 1 };
    store.claim(&Unit::Global, &fence).await?;
    println!("{}", store.describe());
    let start = store.journal_end(&Unit::Global, "alone").await?;
    let mut times = Vec::new();
    for seq in 1..=ALONE {
        let begin = Instant::now();
        store.commit(&fence, batch("alone", start + seq)).await?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 1_000).copied().unwrap_or_default();
    println!("  one at a time     p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}", at(500), at(990), at(999));
    for committers in [16, 64] {
        let before = store.counters();
        let begin = Instant::now();
        let running = (0..committers).map(|number| {
            let (store, fence) = (Arc::clone(&store), fence.clone());
            tokio::spawn(async move {
                let journal = format!("together {committers} {number}");
                let mut seq = store.journal_end(&Unit::Global, &journal).await?;
                let mut slowest = Duration::ZERO;
                while begin.elapsed() < TOGETHER_FOR {
                    seq += 1;
                    let one = Instant::now();
                    store.commit(&fence, batch(&journal, seq)).await?;
                    slowest = slowest.max(one.elapsed());
                }
                Ok::<_, clawstead_state::TxError>(slowest)
            })
        });
        let mut slowest = Duration::ZERO;
        for handle in running.collect::<Vec<_>>() {
            slowest = slowest.max(handle.await??);
        }
        let took = begin.elapsed().as_secs_f64();
        let (batches, syncs) = (store.counters().batches - before.batches, store.counters().syncs - before.syncs);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let (rate, share) = (batches as f64 / took, syncs as f64 / batches as f64);
        println!("  {committers:>2} at a time      {rate:>7.0} commits/s, {share:.3} syncs a commit, slowest {slowest:.1?}");
    }
    store.close().await;
    Ok(())
}
