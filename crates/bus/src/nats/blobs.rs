//! Blobs in JetStream: pieces as messages of the farm's own stream, one subject each, and a last one that says how many
//! there are. Nobody subscribes to these subjects; the stream forgets them with its oldest letters.

use std::time::Duration;

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::{ENGINE, NatsBus, names};
use crate::{
    BusError, Published,
    blobs::{BLOB_BYTES_MAX, Blobs, check, pieces},
};

impl NatsBus {
    async fn keep(&self, subject: &str, bytes: &Bytes, id: &str) -> Result<(), BusError> {
        match self.shared.link.publish(subject, id, bytes).await? {
            Published::Accepted | Published::Duplicate => Ok(()),
            Published::Busy(_) => Err(self.shared.link.away("its storage is full")),
        }
    }

    async fn whole(&self, subject: &str) -> Result<Option<(usize, usize)>, BusError> {
        let Some(bytes) = self.shared.link.last_of(&format!("{subject}.whole")).await? else { return Ok(None) };
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let number = |key: &str| said.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        Ok(number("pieces").zip(number("size")).filter(|(_, size)| *size <= BLOB_BYTES_MAX))
    }
}

#[async_trait]
impl Blobs for NatsBus {
    async fn put(&self, name: &str, bytes: &Bytes, _keep: Duration) -> Result<(), BusError> {
        check(ENGINE, bytes)?;
        let subject = names::blob(&self.shared.config.farm_id, name);
        if self.whole(&subject).await?.is_some_and(|(_, size)| size == bytes.len()) {
            return Ok(());
        }
        // What is left of an earlier attempt would be taken for a repeat by its id.
        let attempt = self.shared.clock.now().0;
        let mut count = 0;
        for (n, piece) in pieces(bytes) {
            let at = format!("{subject}.{n}");
            self.keep(&at, &piece, &format!("{at}:{attempt}")).await?;
            count = n + 1;
        }
        let whole = json!({"pieces": count, "size": bytes.len()}).to_string();
        self.keep(&format!("{subject}.whole"), &whole.into(), &format!("{subject}:{attempt}")).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, BusError> {
        let subject = names::blob(&self.shared.config.farm_id, name);
        let Some((count, size)) = self.whole(&subject).await? else { return Ok(None) };
        let mut bytes = BytesMut::with_capacity(size);
        for n in 0..count {
            let Some(piece) = self.shared.link.last_of(&format!("{subject}.{n}")).await? else { return Ok(None) };
            bytes.extend_from_slice(&piece);
            if bytes.len() > size {
                return Ok(None);
            }
        }
        Ok((bytes.len() == size).then(|| bytes.freeze()))
    }

    async fn remove(&self, name: &str) -> Result<(), BusError> {
        let subject = names::blob(&self.shared.config.farm_id, name);
        self.shared.link.purge(&format!("{subject}.>")).await
    }
}

/// The bytes of a message as the interface shows it.
pub(super) fn data_of(answer: &Value) -> Option<Bytes> {
    let text = answer.pointer("/message/data").and_then(Value::as_str).unwrap_or_default();
    STANDARD.decode(text).ok().map(Bytes::from)
}
