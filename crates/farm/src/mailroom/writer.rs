//! Writes batches in the order they were handed over, many at a time, and says which are durable.
//!
//! The mailroom never waits for the disk: it decides, hands a batch over with what follows from it, and goes on. What
//! follows (publishing, receipts, work) happens only after the batch is durable.

use std::sync::Arc;

use clawstead_state::{Batch, TxError, keeper::Keeper};
use clawstead_terms::Unit;
use futures_util::{StreamExt as _, stream::FuturesOrdered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Batches on their way to the disk at once. The store groups them.
const AT_ONCE_MAX: usize = 256;

/// A batch and what follows from it.
pub struct Job<T> {
    /// The changes of one unit.
    pub batch: Batch,
    /// What follows when they are durable.
    pub then: T,
}

/// What became of a batch.
pub enum Written<T> {
    /// Durable.
    Done(T),
    /// Not written, or nobody knows.
    Failed(Unit, TxError, T),
}

/// Carries batches to the store until `stop`, and what became of them to `told`.
pub async fn write<T: Send + 'static>(
    keeper: Keeper,
    mut jobs: mpsc::UnboundedReceiver<Job<T>>,
    told: mpsc::UnboundedSender<Written<T>>,
    stop: CancellationToken,
) {
    let store = Arc::clone(&keeper.store);
    let mut going = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            Some(written) = going.next(), if !going.is_empty() => {
                if told.send(written).is_err() {
                    return;
                }
            }
            job = jobs.recv(), if going.len() < AT_ONCE_MAX => match job {
                None => {
                    while let Some(written) = going.next().await {
                        let _ = told.send(written);
                    }
                    return;
                }
                Some(Job { batch, then }) => {
                    let (unit, fence) = (batch.unit.clone(), keeper.claims.get(&batch.unit));
                    let store = Arc::clone(&store);
                    going.push_back(Box::pin(async move {
                        let Some(fence) = fence else {
                            let gone = TxError::Fenced { unit: unit.to_string(), held: 0, ours: 0, owner: "somebody else".into() };
                            return Written::Failed(unit, gone, then);
                        };
                        match store.commit(&fence, batch).await {
                            Ok(()) => Written::Done(then),
                            Err(err) => Written::Failed(unit, err, then),
                        }
                    }) as futures_util::future::BoxFuture<'static, Written<T>>);
                }
            },
            () = stop.cancelled() => {
                jobs.close();
            }
        }
    }
}
