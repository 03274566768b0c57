//! Large bodies: kept beside the outbox until their letter ended, fetched by the receiver over the link from the gateway
//! that wrote them, or through the bus's engine where there is no such link, kept beside the inbox until the work ended.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clawstead_bus::{Settle, blobs::Blobs};
use clawstead_cluster::{
    Now,
    envelope::{BODY_BYTES_MAX, Envelope, Receipt, Refusal, by_reference, whole},
};
use clawstead_state::{Op, Scan, Table, keeper::sort};
use clawstead_terms::{Failure, Unit};

use super::{
    Head, Mailroom, Parts, RemoteRun, TakenRow,
    clerk::{Clerk, Command},
};
use crate::link::{BLOB_PART_BYTES_MAX, BlobPart, Links};

/// Before the key of a body: in the outbox `<hash>/<message id>` follows, in the inbox the rest of the letter's key.
const BODY: &str = "farm/body/";
/// Bodies that are fetched at once; for more the senders are asked to wait.
const FETCHES_MAX: usize = 4;
/// How long senders are asked to wait then, ms.
const FETCH_BUSY_MS: u64 = 2_000;
/// One body is there within this time, or it cannot be had now.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// A link that breaks on the way is asked so often to go on.
const RESUMES_MAX: usize = 3;
/// Bytes of large bodies that wait in one agent's outbox; above, its letters are told to wait.
const WAITING_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How much longer than its letter a body is kept by an engine.
const ENGINE_MARGIN: Duration = Duration::from_secs(600);

/// The link to other gateways, for bodies.
#[async_trait]
pub trait Peers: Send + Sync {
    /// The body with this hash from the gateway that wrote it, `size` bytes at most. The caller checks the hash.
    ///
    /// # Errors
    /// `NotFound` when it has none, otherwise why it cannot be asked.
    async fn body(&self, gateway: &str, hash: &str, size: u64) -> Result<Vec<u8>, Failure>;
}

#[async_trait]
impl Peers for Links {
    async fn body(&self, gateway: &str, hash: &str, size: u64) -> Result<Vec<u8>, Failure> {
        let (mut have, mut resumes) = (Vec::new(), 0);
        loop {
            let broken = match self.fetch_blob(gateway, hash, std::mem::take(&mut have), size).await {
                Ok(bytes) => return Ok(bytes),
                Err(broken) => broken,
            };
            if broken.have.is_empty() || resumes >= RESUMES_MAX {
                return Err(broken.failure);
            }
            (have, resumes) = (broken.have, resumes + 1);
        }
    }
}

/// A letter to be stored, and its body where that travels by reference.
pub(super) struct Signed {
    pub envelope: Envelope,
    pub body: Option<String>,
}

impl Signed {
    /// The row of the body.
    pub(super) fn body_op(&self) -> Option<Op> {
        let text = self.body.clone()?;
        Some(Op::Put(Table::Outbox, sent_key(&self.envelope)?, text))
    }
}

/// A body that came and was checked.
pub(super) struct Came {
    pub text: String,
    pub whole: Envelope,
}

/// What a body is fetched for.
pub(super) enum Wanted {
    New(Option<Box<RemoteRun>>),
    Again(Box<TakenRow>),
}

/// A letter whose body is fetched.
pub(super) struct Fetched {
    pub place: (Unit, String),
    pub letter: Envelope,
    pub wanted: Wanted,
    pub settle: Settle,
    pub got: Result<Vec<u8>, Refusal>,
}

/// The key of a sent letter's body; none when it has none apart.
pub(super) fn sent_key(letter: &Envelope) -> Option<String> {
    let hash = letter.body_ref.as_ref()?.hash.strip_prefix("sha256:")?;
    Some(format!("{BODY}{hash}/{}", letter.message_id))
}

/// The key of a received letter's body.
pub(super) fn taken_key(in_key: &str) -> String {
    format!("{BODY}{}", in_key.trim_start_matches(super::rows::IN))
}

async fn text_of(parts: &Parts, unit: &Unit, table: Table, key: &str) -> Result<Option<String>, Failure> {
    Ok(parts.keeper.store.get(unit, table, key).await.map_err(sort)?.map(|row| row.value))
}

/// The body of a sent letter.
pub(super) async fn sent_body(parts: &Parts, unit: &Unit, letter: &Envelope) -> Result<Option<String>, Failure> {
    match sent_key(letter) {
        Some(key) => text_of(parts, unit, Table::Outbox, &key).await,
        None => Ok(None),
    }
}

/// A received letter with its body, where that lies apart.
pub(super) async fn filled(parts: &Parts, unit: &Unit, in_key: &str, letter: Arc<Envelope>) -> Result<Arc<Envelope>, Failure> {
    if letter.body_ref.is_none() {
        return Ok(letter);
    }
    let text = text_of(parts, unit, Table::Inbox, &taken_key(in_key)).await?;
    let text = text.ok_or_else(|| Failure::internal("the body of a letter is not in the store any more"))?;
    whole(&letter, text.as_bytes()).map(Arc::new).map_err(|refusal| Failure::internal(refusal.to_string()))
}

/// Asks the gateway that wrote the letter, then the engine.
async fn fetch(parts: &Parts, letter: &Envelope) -> Result<Vec<u8>, Refusal> {
    let Some(body) = &letter.body_ref else { return Ok(Vec::new()) };
    let writer = letter.hop.hops.first().unwrap_or(&letter.source_gateway);
    let mut tried: Vec<String> = Vec::new();
    let mut wrong = None;
    if let Some(peers) = &parts.peers {
        match peers.body(writer, &body.hash, body.size).await {
            Ok(bytes) => match whole(letter, &bytes) {
                Err(refusal @ Refusal::BodyMismatch { .. }) => wrong = Some(refusal),
                _ => return Ok(bytes),
            },
            Err(failure) => tried.push(format!("{writer}: {}", failure.message)),
        }
    } else {
        tried.push(format!("there is no link to {writer} (farm.peer)"));
    }
    if let Some(blobs) = parts.bus.blobs() {
        match blobs.get(&letter.message_id).await {
            Ok(Some(bytes)) => match whole(letter, &bytes) {
                Err(refusal @ Refusal::BodyMismatch { .. }) => wrong = Some(refusal),
                _ => return Ok(bytes.to_vec()),
            },
            Ok(None) => tried.push(format!("{} does not have it", parts.bus.engine())),
            Err(err) => tried.push(err.to_string()),
        }
    }
    Err(wrong.unwrap_or_else(|| Refusal::BodyUnavailable { why: tried.join("; ") }))
}

/// Puts the body of a letter into the engine for the time its letter lives.
pub(super) async fn offer(parts: &Parts, blobs: &dyn Blobs, unit: &Unit, letter: &Envelope) -> Result<(), String> {
    let text = sent_body(parts, unit, letter).await.map_err(|failure| failure.message)?;
    let text = text.ok_or_else(|| "its body is not in the store any more".to_owned())?;
    let left = u64::try_from(letter.expires_at().since(parts.world.clock.now())).unwrap_or(0);
    blobs.put(&letter.message_id, &Bytes::from(text), Duration::from_millis(left) + ENGINE_MARGIN).await.map_err(|err| err.to_string())
}

impl Clerk {
    /// Takes a body that is too large for the bus out of a letter, and signs it.
    pub(super) fn seal_up(&self, mut envelope: Envelope) -> Result<Signed, Failure> {
        let inline_max = self.parts.bus.caps().inline_max;
        let body = by_reference(&mut envelope, inline_max).map_err(|err| Failure::invalid(err.to_string()))?;
        envelope.sign(&self.parts.key.load()).map_err(|refusal| Failure::invalid(refusal.to_string()))?;
        Ok(Signed { envelope, body })
    }

    /// Asks for room before a large body is stored.
    pub(super) fn room_for_body(&self, unit: &Unit, signed: &Signed) -> Result<(), Failure> {
        let Some(body) = &signed.body else { return Ok(()) };
        let waiting: u64 = self.large_bodies(unit).map(|body| body.size).sum();
        if waiting + body.len() as u64 <= WAITING_BYTES_MAX {
            return Ok(());
        }
        Err(Failure::busy(format!("{unit} has {waiting} bytes of large letters waiting to be sent; wait until some are delivered"), 5_000))
    }

    /// Fetches the body of a letter that was checked. It comes back as a command.
    pub(super) fn fetch(&mut self, place: (Unit, String), letter: Envelope, wanted: Wanted, settle: Settle) {
        let Some(epoch) = self.parts.keeper.claims.get(&place.0).map(|fence| fence.epoch) else { return };
        if self.fetching.contains(&place) {
            // The one that is on its way serves this attempt too.
            return self.settle(settle);
        }
        if self.fetching.len() >= FETCHES_MAX {
            self.busy_receipt(letter, FETCH_BUSY_MS, epoch);
            return self.settle(settle);
        }
        self.fetching.insert(place.clone());
        let (parts, commands) = (Arc::clone(&self.parts), self.command_line());
        clawstead_world::spawn(async move {
            let late = || Refusal::BodyUnavailable { why: format!("it did not come within {} s", FETCH_TIMEOUT.as_secs()) };
            let got = tokio::time::timeout(FETCH_TIMEOUT, fetch(&parts, &letter)).await.unwrap_or_else(|_| Err(late()));
            let _ = commands.send(Command::Fetched(Box::new(Fetched { place, letter, wanted, settle, got }))).await;
        });
    }

    /// A body came, or it cannot be had.
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let Fetched { place, letter, wanted, settle, got } = fetched;
        self.fetching.remove(&place);
        let Some(epoch) = self.parts.keeper.claims.get(&place.0).map(|fence| fence.epoch) else { return };
        let now: Now = self.parts.now();
        let came = got.and_then(|bytes| {
            let whole = whole(&letter, &bytes)?;
            let text = String::from_utf8(bytes).map_err(|_| Refusal::BodyMismatch { why: "it is no text".into() })?;
            Ok(Came { text, whole })
        });
        match (came, wanted) {
            (Ok(came), Wanted::New(asked)) => self.take_whole(place, letter, Some(came), asked.map(|asked| *asked), settle, now),
            (Ok(came), Wanted::Again(taken)) => self.again_whole(place, *taken, letter, Some(came), settle, now),
            (Err(refusal), _) => {
                self.parts.witness.rejected(Some(&Head::of(&letter)), refusal.code(), &refusal.to_string());
                let receipt = Receipt::refused(letter.message_id.clone(), &refusal, epoch);
                self.send_receipt(Arc::new(letter), receipt);
                self.settle(settle);
            }
        }
    }
}

/// Letters whose bodies are on their way.
pub(super) type Fetching = BTreeSet<(Unit, String)>;

impl Mailroom {
    /// A piece of a body that waits in an outbox here, from `offset` on, for the gateway it was written to. Whoever asks
    /// must know its hash, which only the letter says.
    ///
    /// # Errors
    /// `NotFound` when there is none, or the store cannot be read.
    pub async fn body_part(&self, hash: &str, offset: u64) -> Result<BlobPart, Failure> {
        let none = || Failure::not_found(format!("no body {} is kept here; its letter may have ended", hash.chars().take(80).collect::<String>()));
        let hex = hash.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())).ok_or_else(none)?;
        let held = self.served().clone().filter(|(of, _)| of == hash).map(|(_, bytes)| bytes);
        let bytes = match held {
            Some(bytes) => bytes,
            None => {
                let bytes = self.find_body(hex).await?.ok_or_else(none)?;
                *self.served() = Some((hash.to_owned(), bytes.clone()));
                bytes
            }
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let to = bytes.len().min(from + BLOB_PART_BYTES_MAX);
        if to == bytes.len() {
            *self.served() = None;
        }
        Ok(BlobPart { size: bytes.len() as u64, bytes: bytes.slice(from..to) })
    }

    async fn find_body(&self, hex: &str) -> Result<Option<Bytes>, Failure> {
        let scan = Scan::prefix(format!("{BODY}{hex}/")).limit(1);
        for (unit, _) in self.parts.keeper.claims.all() {
            let found = self.parts.keeper.store.scan(&unit, Table::Outbox, &scan).await.map_err(sort)?;
            if let Some(row) = found.into_iter().next().filter(|row| row.value.len() <= BODY_BYTES_MAX) {
                return Ok(Some(Bytes::from(row.value)));
            }
        }
        Ok(None)
    }
}
