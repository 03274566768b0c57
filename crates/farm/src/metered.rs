//! The coordination store as it is measured: every request's time and outcome.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clawstead_bus::{CasError, Change, Check, Coord, CoordError, Entry, Member, Op, Version};
use clawstead_world::{M, Metrics};
use futures_util::stream::BoxStream;
use tokio::time::Instant;

/// A coordination store whose requests are timed.
pub struct Metered {
    inner: Arc<dyn Coord>,
    metrics: Metrics,
}

impl Metered {
    /// Times the requests to a store.
    #[must_use]
    pub fn over(inner: Arc<dyn Coord>, metrics: Metrics) -> Arc<dyn Coord> {
        Arc::new(Self { inner, metrics })
    }

    fn note<T, E: Outcome>(&self, op: &str, since: Instant, result: &Result<T, E>) {
        let outcome = result.as_ref().map_or_else(E::word, |_| "ok");
        self.metrics.observe(M::FarmCoordSeconds, &[op, outcome], Duration::as_secs_f64(&since.elapsed()));
    }
}

/// The word for a failure.
trait Outcome {
    fn word(&self) -> &'static str;
}

impl Outcome for CoordError {
    fn word(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Denied { .. } => "denied",
            Self::Invalid(_) => "invalid",
            Self::Unsupported { .. } => "unsupported",
            _ => "other",
        }
    }
}

impl Outcome for CasError {
    fn word(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::Unknown(_) => "unknown",
            Self::Coord(err) => err.word(),
        }
    }
}

#[async_trait]
impl Coord for Metered {
    fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordError> {
        let since = Instant::now();
        let result = self.inner.get(key).await;
        self.note("get", since, &result);
        result
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, CoordError> {
        let since = Instant::now();
        let result = self.inner.list(prefix).await;
        self.note("list", since, &result);
        result
    }

    async fn put_if(&self, key: &str, value: Bytes, expect: Option<Version>) -> Result<Version, CasError> {
        let since = Instant::now();
        let result = self.inner.put_if(key, value, expect).await;
        self.note("put_if", since, &result);
        result
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Version, CoordError> {
        let since = Instant::now();
        let result = self.inner.put(key, value).await;
        self.note("put", since, &result);
        result
    }

    async fn txn(&self, checks: &[Check], ops: &[Op]) -> Result<(), CasError> {
        let since = Instant::now();
        let result = self.inner.txn(checks, ops).await;
        self.note("txn", since, &result);
        result
    }

    async fn delete(&self, key: &str, expect: Option<Version>) -> Result<(), CasError> {
        let since = Instant::now();
        let result = self.inner.delete(key, expect).await;
        self.note("delete", since, &result);
        result
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Change> {
        self.inner.watch(prefix)
    }

    async fn register(&self, me: &Member) -> Result<(), CoordError> {
        self.inner.register(me).await
    }

    async fn beat(&self, me: &Member, note: &str) -> Result<(), CoordError> {
        let since = Instant::now();
        let result = self.inner.beat(me, note).await;
        self.note("beat", since, &result);
        result
    }

    async fn deregister(&self, me: &Member) -> Result<(), CoordError> {
        self.inner.deregister(me).await
    }
}
