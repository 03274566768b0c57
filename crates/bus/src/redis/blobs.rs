//! Blobs in Redis: one value with a time to live.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ENGINE, RedisBus, Shared, link::Fault};
use crate::{
    BusError,
    blobs::{Blobs, check},
};

impl Shared {
    fn blob_key(&self, name: &str) -> String {
        format!("openclaw:farm:{}:b:{name}", self.config.farm_id)
    }
}

#[async_trait]
impl Blobs for RedisBus {
    async fn put(&self, name: &str, bytes: &Bytes, keep: Duration) -> Result<(), BusError> {
        check(ENGINE, bytes)?;
        let key = self.shared.blob_key(name);
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX).clamp(1, 7 * 86_400_000);
        let put = self.shared.link.run(|mut on| {
            let mut set = redis::cmd("SET");
            set.arg(&key).arg(&bytes[..]).arg("PX").arg(keep_ms);
            async move { set.query_async::<()>(&mut on).await }
        });
        put.await.map_err(Fault::into_bus)
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, BusError> {
        let key = self.shared.blob_key(name);
        let got = self.shared.link.run(|mut on| {
            let mut get = redis::cmd("GET");
            get.arg(&key);
            async move { get.query_async::<Option<Vec<u8>>>(&mut on).await }
        });
        got.await.map(|found| found.map(Bytes::from)).map_err(Fault::into_bus)
    }

    async fn remove(&self, name: &str) -> Result<(), BusError> {
        let key = self.shared.blob_key(name);
        let gone = self.shared.link.run(|mut on| {
            let mut del = redis::cmd("DEL");
            del.arg(&key);
            async move { del.query_async::<i64>(&mut on).await }
        });
        gone.await.map(drop).map_err(Fault::into_bus)
    }
}
