//! The mail: a letter is a key, settling removes it.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::stream::BoxStream;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    Consul, ENGINE, INLINE_MAX, Names,
    bucket::Bucket,
    client::{Ask, Client, in_path, mail},
    coord::{Txn, txn},
    inbox, part,
};
use crate::{Blobs, Bus, BusCaps, BusError, CasError, CoordError, Delivery, Depth, MailBox, Published, Sealed, coord::TXN_OPS_MAX};

pub(super) struct ConsulBus {
    consul: Consul,
    settler: Arc<Settler>,
}

impl ConsulBus {
    pub(super) fn new(consul: &Consul) -> Self {
        Self { consul: consul.clone(), settler: Arc::new(Settler::new(consul.client.clone())) }
    }

    pub(super) fn client(&self) -> &Client {
        &self.consul.client
    }

    pub(super) fn names(&self) -> &Names {
        &self.consul.names
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.consul.bucket
    }

    pub(super) fn now(&self) -> clawstead_terms::Millis {
        self.consul.clock.now()
    }
}

#[async_trait]
impl Bus for ConsulBus {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn caps(&self) -> BusCaps {
        BusCaps { inline_max: INLINE_MAX, durable: true, dedupes: false }
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        if letter.bytes.len() > INLINE_MAX {
            return Err(BusError::TooLarge { engine: ENGINE, max: INLINE_MAX, size: letter.bytes.len() });
        }
        if let Err(wait) = self.bucket().take() {
            return Ok(Published::Busy(wait));
        }
        // A later attempt takes the place of an earlier one that was not settled.
        let key = format!("{}{}", self.names().of(to), part(&letter.message_id));
        let parts = [json!({"KV": {"Verb": "set", "Key": key, "Value": STANDARD.encode(&letter.bytes), "Flags": self.client().flags()}})];
        match txn(self.client(), &parts).await {
            Ok(Txn::Done(_)) => Ok(Published::Accepted),
            Ok(Txn::Refused(_, why)) => Err(BusError::Denied { engine: ENGINE, at: key, why }),
            Err(err) => {
                self.bucket().give_back();
                Err(mail_error(err))
            }
        }
    }

    fn subscribe(&self, from: &MailBox, _consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        inbox::open(self.consul.client.clone(), self.settler.clone(), self.names().of(from), self.consul.wait)
    }

    fn blobs(&self) -> Option<&dyn Blobs> {
        Some(self)
    }

    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        let answer = self.client().ask(Ask::get(format!("/v1/kv/{}?keys", in_path(&self.names().of(of))))).await?;
        let keys = inbox::keys(self.client(), &answer).map_err(mail)?;
        Ok(Depth { letters: keys.len() as u64, bytes: None })
    }
}

pub(super) fn mail_error(err: CasError) -> BusError {
    match err {
        CasError::Coord(err) | CasError::Unknown(err) => mail(err),
        conflict @ CasError::Conflict { .. } => mail(CoordError::Invalid(conflict.to_string())),
    }
}

/// A letter as it was read: only this version of the key is removed, a later attempt stays.
#[derive(Clone)]
pub(super) struct Read {
    pub(super) key: String,
    pub(super) index: u64,
}

/// What became of a removal. The error is shared by all that were in one transaction.
type Settled = Result<Removed, BusError>;

/// Which letter was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    /// The one that was read.
    This,
    /// A later attempt has its place and stays.
    Another,
}

/// Removes settled letters, all that wait in one transaction: each costs a write of the whole cluster.
pub(super) struct Settler {
    client: Arc<Client>,
    waiting: Mutex<Vec<(Read, oneshot::Sender<Settled>)>>,
    /// Held by whoever sends. Those who come meanwhile wait, and one of them sends for all.
    turn: tokio::sync::Mutex<()>,
}

impl Settler {
    fn new(client: Arc<Client>) -> Self {
        Self { client, waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Removes one letter; returns when it is gone.
    pub(super) async fn settle(&self, letter: Read) -> Settled {
        let (told, mut answer) = oneshot::channel();
        self.lock().push((letter, told));
        let _turn = self.turn.lock().await;
        loop {
            // Somebody before us may have sent ours.
            match answer.try_recv() {
                Ok(settled) => return settled,
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(BusError::Unavailable { engine: ENGINE, at: "this address".into(), why: "the removal was given up".into() });
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let batch: Vec<_> = {
                let mut waiting = self.lock();
                let count = waiting.len().min(TXN_OPS_MAX);
                waiting.drain(..count).collect()
            };
            self.send(batch).await;
        }
    }

    async fn send(&self, batch: Vec<(Read, oneshot::Sender<Settled>)>) {
        let parts: Vec<_> = batch.iter().map(|(letter, _)| json!({"KV": {"Verb": "delete-cas", "Key": letter.key, "Index": letter.index}})).collect();
        let all = match txn(&self.client, &parts).await {
            Ok(Txn::Done(_)) => Some(Ok(Removed::This)),
            // One of them was replaced: each by itself.
            Ok(Txn::Refused(..)) => None,
            Err(err) => Some(Err(mail_error(err))),
        };
        for (letter, told) in batch {
            let settled = match &all {
                Some(settled) => settled.clone(),
                None => self.remove(&letter).await,
            };
            // Whoever settled may have gone; the letter is gone all the same.
            let _ = told.send(settled);
        }
    }

    async fn remove(&self, letter: &Read) -> Settled {
        let path = format!("/v1/kv/{}?cas={}", in_path(&letter.key), letter.index);
        let answer = self.client.ask(Ask { method: Method::DELETE, path, body: None }).await?;
        let this = answer.status == StatusCode::OK && answer.body.trim_ascii() == b"true";
        Ok(if this { Removed::This } else { Removed::Another })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Read, oneshot::Sender<Settled>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
