//! Blobs in Consul: pieces as keys, and a last key whose name says how many there are, how large they are together and
//! until when they are wanted. Consul forgets nothing by itself; whoever sweeps removes what is over.

use std::time::Duration;

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http::Method;
use serde_json::json;

use super::{
    ENGINE,
    bus::{ConsulBus, mail_error},
    client::{Ask, in_path, mail},
    coord::{Txn, entries, txn},
    inbox, part,
};
use crate::{
    BusError,
    blobs::{Blobs, check, pieces},
};

/// Before the name of the last key.
const WHOLE: &str = "whole.";

/// What the last key's name says.
struct Whole {
    pieces: usize,
    size: usize,
    until_ms: i64,
}

impl Whole {
    fn name(&self) -> String {
        format!("{WHOLE}{}.{}.{}", self.pieces, self.size, self.until_ms)
    }

    fn read(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix(WHOLE)?.split('.');
        let whole = Self { pieces: numbers.next()?.parse().ok()?, size: numbers.next()?.parse().ok()?, until_ms: numbers.next()?.parse().ok()? };
        numbers.next().is_none().then_some(whole)
    }
}

impl ConsulBus {
    fn folder(&self, name: &str) -> String {
        format!("{}/blobs/{}/", self.names().farm, part(name))
    }

    async fn keys_below(&self, prefix: &str) -> Result<Vec<String>, BusError> {
        let answer = self.client().ask(Ask::get(format!("/v1/kv/{}?keys", in_path(prefix)))).await?;
        inbox::keys(self.client(), &answer).map_err(mail)
    }

    async fn set(&self, key: &str, value: &[u8]) -> Result<(), BusError> {
        // Pieces are writes of the whole cluster as letters are.
        while let Err(wait) = self.bucket().take() {
            tokio::time::sleep(wait).await;
        }
        let parts = [json!({"KV": {"Verb": "set", "Key": key, "Value": STANDARD.encode(value), "Flags": self.client().flags()}})];
        match txn(self.client(), &parts).await {
            Ok(Txn::Done(_)) => Ok(()),
            Ok(Txn::Refused(_, why)) => Err(BusError::Denied { engine: ENGINE, at: key.to_owned(), why }),
            Err(err) => Err(mail_error(err)),
        }
    }

    async fn whole(&self, folder: &str) -> Result<Option<Whole>, BusError> {
        let keys = self.keys_below(folder).await?;
        Ok(keys.iter().find_map(|key| Whole::read(key.strip_prefix(folder)?)))
    }

    async fn remove_folder(&self, folder: &str) -> Result<(), BusError> {
        self.client().ask(Ask { method: Method::DELETE, path: format!("/v1/kv/{}?recurse", in_path(folder)), body: None }).await?;
        Ok(())
    }
}

#[async_trait]
impl Blobs for ConsulBus {
    async fn put(&self, name: &str, bytes: &Bytes, keep: Duration) -> Result<(), BusError> {
        check(ENGINE, bytes)?;
        let folder = self.folder(name);
        if self.whole(&folder).await?.is_some_and(|whole| whole.size == bytes.len()) {
            return Ok(());
        }
        let mut count = 0;
        for (n, piece) in pieces(bytes) {
            self.set(&format!("{folder}{n:04}"), &piece).await?;
            count = n + 1;
        }
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let whole = Whole { pieces: count, size: bytes.len(), until_ms: self.now().plus(keep_ms).0 };
        self.set(&format!("{folder}{}", whole.name()), b"").await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, BusError> {
        let folder = self.folder(name);
        let Some(whole) = self.whole(&folder).await? else { return Ok(None) };
        let mut bytes = BytesMut::with_capacity(whole.size.min(crate::blobs::BLOB_BYTES_MAX));
        for n in 0..whole.pieces {
            let key = format!("{folder}{n:04}");
            let answer = self.client().ask(Ask::get(format!("/v1/kv/{}", in_path(&key)))).await?;
            let Some(entry) = entries(self.client(), &answer).map_err(mail)?.pop() else { return Ok(None) };
            bytes.extend_from_slice(&entry.value);
            if bytes.len() > whole.size {
                return Ok(None);
            }
        }
        Ok((bytes.len() == whole.size).then(|| bytes.freeze()))
    }

    async fn remove(&self, name: &str) -> Result<(), BusError> {
        self.remove_folder(&self.folder(name)).await
    }

    async fn sweep(&self) -> Result<(), BusError> {
        let all = format!("{}/blobs/", self.names().farm);
        let now = self.now().0;
        for key in self.keys_below(&all).await? {
            let Some((folder, last)) = key.rsplit_once('/') else { continue };
            if Whole::read(last).is_some_and(|whole| whole.until_ms < now) {
                self.remove_folder(&format!("{folder}/")).await?;
            }
        }
        Ok(())
    }
}
