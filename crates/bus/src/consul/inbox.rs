//! Reading a box: one blocking question for its keys, and each letter read once when somebody has a hand free.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::join_all,
    stream::{self, BoxStream},
};
use http::StatusCode;
use serde_json::json;
use tokio::time::sleep_until;

use super::{
    ENGINE,
    bus::{Read, Removed, Settler},
    client::{Answer, Ask, Client, in_path, mail},
    coord,
    watch::Blocking,
};
use crate::{BusError, CoordError, Delivery, Settle, hand_back::Hands};

/// Letters read at the same time, and so kept in memory before somebody asks for them.
const READ_AT_ONCE: usize = 16;
/// A letter that was dropped unsettled comes again after this time.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Removed letters that are remembered, so that an answer that is older than the removal does not bring them again.
const REMEMBERED: usize = 1024;

/// The keys of an answer; none for 404.
pub(super) fn keys(client: &Client, answer: &Answer) -> Result<Vec<String>, CoordError> {
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    let mut keys: Vec<String> = serde_json::from_slice(&answer.body).map_err(|err| client.odd(&err.to_string()))?;
    // Some interfaces make folders, which are keys with a slash at their end.
    keys.retain(|key| !key.ends_with('/'));
    Ok(keys)
}

/// The letters of a box, as long as somebody asks.
pub(super) fn open(client: Arc<Client>, settler: Arc<Settler>, prefix: String, wait: Duration) -> BoxStream<'static, Result<Delivery, BusError>> {
    let inbox = Inbox {
        blocking: Blocking::new(client.clone(), &prefix, "keys", wait),
        client,
        settler,
        hands: Hands::new(AGAIN_AFTER),
        gone: Arc::default(),
        due: VecDeque::new(),
        read: VecDeque::new(),
        told_away: false,
        failures: 0,
        folder: Some(prefix),
    };
    stream::unfold(inbox, async |mut inbox| {
        let item = inbox.next().await;
        Some((item, inbox))
    })
    .boxed()
}

struct Inbox {
    client: Arc<Client>,
    settler: Arc<Settler>,
    blocking: Blocking,
    hands: Arc<Hands<String>>,
    gone: Arc<Mutex<Gone>>,
    /// Keys to read.
    due: VecDeque<String>,
    /// Letters nobody has yet.
    read: VecDeque<(Read, Bytes)>,
    told_away: bool,
    /// Failures in a row since it was told.
    failures: u32,
    /// The key that keeps the box from being empty, until it was written.
    folder: Option<String>,
}

/// Letters that were removed lately.
#[derive(Default)]
struct Gone {
    versions: BTreeMap<String, u64>,
    order: VecDeque<String>,
}

impl Gone {
    fn remember(&mut self, letter: &Read) {
        if self.versions.insert(letter.key.clone(), letter.index).is_none() {
            self.order.push_back(letter.key.clone());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.versions.remove(&oldest);
        }
    }
}

/// The same for the client, whose pauses know denials.
fn refused(err: &BusError) -> CoordError {
    match err {
        BusError::Denied { engine, at, why } => CoordError::Denied { engine, at: at.clone(), why: why.clone() },
        other => CoordError::Unavailable { engine: ENGINE, at: String::new(), why: other.to_string() },
    }
}

impl Inbox {
    async fn next(&mut self) -> Result<Delivery, BusError> {
        loop {
            if let Some((letter, bytes)) = self.read.pop_front() {
                return Ok(self.hand_out(letter, bytes));
            }
            let dropped = self.hands.due();
            self.queue(dropped);
            let outcome = if self.due.is_empty() { self.look().await } else { self.read_some().await };
            match outcome {
                Ok(()) => (self.told_away, self.failures) = (false, 0),
                Err(err) if self.told_away => {
                    tracing::debug!(%err, "the box is still out of reach");
                    self.failures = self.failures.saturating_add(1);
                    self.client.pause(self.failures, &refused(&err)).await;
                }
                Err(err) => {
                    self.told_away = true;
                    return Err(err);
                }
            }
        }
    }

    /// Waits for news: a change of the box, or a letter that was dropped.
    async fn look(&mut self) -> Result<(), BusError> {
        let again = self.hands.next_due();
        let wait = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => self.hands.dropped().await,
            }
        };
        let answer = tokio::select! {
            biased;
            answer = self.blocking.next() => answer?,
            () = wait => return Ok(()),
        };
        if answer.status == StatusCode::NOT_FOUND {
            self.keep_folder().await;
        }
        let keys = keys(&self.client, &answer).map_err(mail)?;
        self.queue(keys);
        Ok(())
    }

    /// A question about a prefix without any key is answered at every write of the whole store. A folder, as Consul's
    /// own interface makes them, keeps the question quiet. Once is enough; without it reading is only dearer.
    async fn keep_folder(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let parts = [json!({"KV": {"Verb": "set", "Key": folder, "Value": ""}})];
        if let Err(err) = coord::txn(&self.client, &parts).await {
            tracing::debug!(%err, "the folder of a box was not made");
        }
    }

    fn queue(&mut self, keys: Vec<String>) {
        let known: BTreeSet<String> = self.due.iter().cloned().chain(self.read.iter().map(|(letter, _)| letter.key.clone())).collect();
        self.due.extend(keys.into_iter().filter(|key| !known.contains(key) && !self.hands.holds(key)));
    }

    async fn read_some(&mut self) -> Result<(), BusError> {
        let count = self.due.len().min(READ_AT_ONCE);
        let (client, due) = (&self.client, &self.due);
        let reads = join_all(due.iter().take(count).map(|key| client.ask(Ask::get(format!("/v1/kv/{}", in_path(key)))))).await;
        for outcome in reads {
            // What fails stays due, and what comes after it.
            let entry = coord::entries(&self.client, &outcome?).map_err(mail)?.pop();
            let Some(key) = self.due.pop_front() else { break };
            let Some(entry) = entry else { continue };
            let letter = Read { key, index: entry.version.0 };
            let removed = self.gone.lock().unwrap_or_else(PoisonError::into_inner).versions.get(&letter.key) == Some(&letter.index);
            if !removed {
                self.read.push_back((letter, entry.value));
            }
        }
        Ok(())
    }

    fn hand_out(&self, letter: Read, raw: Bytes) -> Delivery {
        let in_hand = self.hands.give(letter.key.clone());
        let name = letter.key.rsplit('/').next().map(str::to_owned);
        let (settler, gone) = (self.settler.clone(), self.gone.clone());
        let settle = async move {
            // Remembered while it is still in hand: in between, an older list could bring it again.
            match settler.settle(letter.clone()).await? {
                Removed::This => {
                    gone.lock().unwrap_or_else(PoisonError::into_inner).remember(&letter);
                    in_hand.settled();
                }
                // Dropped, so that the attempt that took its place comes.
                Removed::Another => drop(in_hand),
            }
            Ok(())
        };
        Delivery { raw, settle: Settle::new(move || settle.boxed()), name }
    }
}
