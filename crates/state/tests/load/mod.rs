//! Writers that note what was confirmed to them: the ledger outside of the store.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clawstead_state::{Batch, PostgresStore, Scan, Store, Table, TxError};
use clawstead_terms::{Fence, Unit};

pub fn fence() -> Fence {
    Fence { epoch: 1, owner: "here".into(), incarnation: 1 }
}

pub fn line(journal: &str, seq: u64) -> Batch {
    Batch::new(Unit::Global).append(journal, seq, &seq).unwrap().put_json(Table::Meta, format!("{journal}/{seq}"), &seq).unwrap()
}

/// The writers.
pub struct Load {
    confirmed: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Result<(), TxError>>>,
}

impl Load {
    pub fn start(store: &Arc<PostgresStore>, writers: usize) -> Self {
        let stop = Arc::new(AtomicU64::new(0));
        let confirmed: Vec<_> = (0..writers).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let start = |(at, confirmed): (usize, &Arc<AtomicU64>)| {
            let (store, confirmed, stop) = (store.clone(), confirmed.clone(), stop.clone());
            tokio::spawn(async move {
                let journal = format!("writer-{at}");
                let mut seq = 0;
                while stop.load(Ordering::SeqCst) == 0 {
                    seq += 1;
                    store.commit(&fence(), line(&journal, seq)).await?;
                    confirmed.store(seq, Ordering::SeqCst);
                }
                Ok(())
            })
        };
        let tasks = confirmed.iter().enumerate().map(start).collect();
        Self { confirmed, stop, tasks }
    }

    pub fn total(&self) -> u64 {
        self.confirmed.iter().map(|one| one.load(Ordering::SeqCst)).sum()
    }

    /// Waits for `more` further commits; answers how long that took.
    pub async fn further(&self, more: u64) -> Duration {
        let (began, goal) = (Instant::now(), self.total() + more);
        while self.total() < goal {
            assert!(self.tasks.iter().all(|task| !task.is_finished()), "a writer gave up");
            assert!(began.elapsed() < Duration::from_secs(40), "no commits any more");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        began.elapsed()
    }

    /// Ends the writers and compares the store with the ledger: every confirmed line, each once.
    pub async fn settle(self, store: &PostgresStore) -> u64 {
        self.stop.store(1, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
        let mut sum = 0;
        for (at, confirmed) in self.confirmed.iter().enumerate() {
            let (journal, confirmed) = (format!("writer-{at}"), confirmed.load(Ordering::SeqCst));
            let lines = store.read_journal(&Unit::Global, &journal, 1, 100_000).await.unwrap();
            assert_eq!(lines.len() as u64, confirmed, "{journal}");
            let rows = store.scan(&Unit::Global, Table::Meta, &Scan::prefix(format!("{journal}/"))).await.unwrap();
            assert_eq!(rows.len() as u64, confirmed);
            assert!(rows.iter().all(|row| row.version == 1), "a row was written twice");
            sum += confirmed;
        }
        sum
    }
}
