//! The mail.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::{Instant, sleep, sleep_until};

use super::{AGAIN_AFTER, BOX_BYTES_MAX, BOX_LETTERS_MAX, DEDUPE_MAX, ENGINE, FULL_RETRY, Fate, Hub, INLINE_MAX, Inner, Part};
use crate::{Blobs, Bus, BusCaps, BusError, Delivery, Depth, MailBox, Published, Sealed, Settle, coord::REQUEST_TIMEOUT};

/// One box.
#[derive(Default)]
pub(super) struct Held {
    letters: BTreeMap<u64, Letter>,
    bytes: usize,
    /// Who has the box now.
    subscription: Option<u64>,
    /// Attempts that came, in their order.
    seen: VecDeque<(String, u32)>,
    known: BTreeSet<(String, u32)>,
}

struct Letter {
    bytes: Bytes,
    /// Not to be handed out earlier.
    from: Instant,
    /// The subscription that has it in its hands.
    taken: Option<u64>,
}

impl Held {
    /// The mail and what is known of earlier mail are gone.
    pub(super) fn lose(&mut self) {
        *self = Self { subscription: self.subscription, ..Self::default() };
    }

    fn remember(&mut self, attempt: (String, u32)) {
        if self.known.insert(attempt.clone()) {
            self.seen.push_back(attempt);
            if self.seen.len() > DEDUPE_MAX
                && let Some(oldest) = self.seen.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(letter) = self.letters.remove(&number) {
            self.bytes -= letter.bytes.len();
        }
    }

    /// The next letter for a subscription, or when to look again.
    fn take(&mut self, subscription: u64) -> Result<(u64, Bytes), Option<Instant>> {
        let first = self.letters.iter_mut().filter(|(_, letter)| letter.taken != Some(subscription)).min_by_key(|(number, letter)| (letter.from, **number));
        let Some((number, letter)) = first else { return Err(None) };
        if letter.from > Instant::now() {
            return Err(Some(letter.from));
        }
        letter.taken = Some(subscription);
        Ok((*number, letter.bytes.clone()))
    }
}

pub(super) struct MemoryBus {
    hub: Arc<Hub>,
    who: String,
}

impl MemoryBus {
    pub(super) fn new(hub: Arc<Hub>, who: &str) -> Self {
        Self { hub, who: who.to_owned() }
    }

    async fn request<T>(&self, work: impl FnOnce(&mut Inner) -> T + Send) -> Result<T, BusError> {
        let answered = match self.hub.fate(&self.who, Part::Bus) {
            Fate::Answered => return Ok(self.hub.apply(work)),
            Fate::Late(by) => {
                let half = by / 2;
                sleep(half).await;
                let answer = self.hub.apply(work);
                sleep(by - half).await;
                (by <= REQUEST_TIMEOUT).then_some(answer)
            }
            Fate::Lost => {
                sleep(REQUEST_TIMEOUT).await;
                None
            }
            Fate::AnswerLost => {
                self.hub.apply(work);
                sleep(REQUEST_TIMEOUT).await;
                None
            }
        };
        answered.ok_or_else(|| away(&self.who))
    }
}

fn away(who: &str) -> BusError {
    BusError::Unavailable { engine: ENGINE, at: who.to_owned(), why: "no answer in time".into() }
}

#[async_trait]
impl Bus for MemoryBus {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn caps(&self) -> BusCaps {
        BusCaps { inline_max: INLINE_MAX, durable: false, dedupes: true }
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        if letter.bytes.len() > INLINE_MAX {
            return Err(BusError::TooLarge { engine: ENGINE, max: INLINE_MAX, size: letter.bytes.len() });
        }
        let copies = self.hub.faults.copies(&self.who, to, letter);
        self.request(|inner| {
            let Inner { boxes, number, writes, .. } = inner;
            let held = boxes.entry(to.clone()).or_default();
            let attempt = (letter.message_id.clone(), letter.attempt);
            if held.known.contains(&attempt) {
                return Published::Duplicate;
            }
            if held.letters.len() >= BOX_LETTERS_MAX || held.bytes + letter.bytes.len() > BOX_BYTES_MAX {
                return Published::Busy(FULL_RETRY);
            }
            *writes += 1;
            held.remember(attempt);
            for delay in copies {
                *number += 1;
                held.bytes += letter.bytes.len();
                held.letters.insert(*number, Letter { bytes: letter.bytes.clone(), from: Instant::now() + delay, taken: None });
            }
            Published::Accepted
        })
        .await
    }

    fn subscribe(&self, from: &MailBox, _consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        let mut inner = self.hub.lock();
        inner.number += 1;
        let number = inner.number;
        inner.boxes.entry(from.clone()).or_default().subscription = Some(number);
        drop(inner);
        self.hub.tell();
        let changed = self.hub.changed.listen();
        let subscription = Subscription { hub: self.hub.clone(), who: self.who.clone(), from: from.clone(), number, changed, told_away: false };
        stream::unfold(subscription, async |mut subscription| {
            let item = subscription.next().await?;
            Some((item, subscription))
        })
        .boxed()
    }

    fn blobs(&self) -> Option<&dyn Blobs> {
        Some(self)
    }

    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        self.request(|inner| match inner.boxes.get(of) {
            None => Depth::default(),
            Some(held) => Depth { letters: held.letters.len() as u64, bytes: Some(held.bytes as u64) },
        })
        .await
    }
}

#[async_trait]
impl Blobs for MemoryBus {
    async fn put(&self, name: &str, bytes: &Bytes, keep: Duration) -> Result<(), BusError> {
        crate::blobs::check(ENGINE, bytes)?;
        let until = Instant::now() + keep;
        self.request(|inner| drop(inner.blobs.insert(name.to_owned(), (bytes.clone(), until)))).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, BusError> {
        let now = Instant::now();
        self.request(|inner| {
            inner.blobs.retain(|_, (_, until)| *until > now);
            inner.blobs.get(name).map(|(bytes, _)| bytes.clone())
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<(), BusError> {
        self.request(|inner| drop(inner.blobs.remove(name))).await
    }
}

struct Subscription {
    hub: Arc<Hub>,
    who: String,
    from: MailBox,
    number: u64,
    changed: clawstead_world::Ear,
    told_away: bool,
}

impl Subscription {
    /// The stream goes on for ever; one that was taken over only hears nothing more.
    async fn next(&mut self) -> Option<Result<Delivery, BusError>> {
        loop {
            self.changed.mark_unchanged();
            let mut look_again = None;
            if self.hub.is_cut(&self.who, Part::Bus) {
                if !self.told_away {
                    self.told_away = true;
                    return Some(Err(away(&self.who)));
                }
            } else {
                self.told_away = false;
                let mut inner = self.hub.lock();
                let held = inner.boxes.entry(self.from.clone()).or_default();
                if held.subscription == Some(self.number) {
                    match held.take(self.number) {
                        Ok((number, raw)) => {
                            let unsettled =
                                Unsettled { hub: self.hub.clone(), who: self.who.clone(), from: self.from.clone(), number, subscription: self.number };
                            return Some(Ok(Delivery { raw, settle: Settle::new(move || unsettled.settle().boxed()), name: None }));
                        }
                        Err(at) => look_again = at,
                    }
                }
            }
            let changed = self.changed.changed();
            match look_again {
                None => changed.await.ok()?,
                Some(at) => tokio::select! {
                    biased;
                    changed = changed => changed.ok()?,
                    () = sleep_until(at) => {}
                },
            }
        }
    }
}

/// A letter in somebody's hands. Dropped, it comes again.
struct Unsettled {
    hub: Arc<Hub>,
    who: String,
    from: MailBox,
    number: u64,
    subscription: u64,
}

impl Unsettled {
    async fn settle(self) -> Result<(), BusError> {
        let bus = MemoryBus { hub: self.hub.clone(), who: self.who.clone() };
        let (from, number) = (self.from.clone(), self.number);
        bus.request(|inner| {
            if let Some(held) = inner.boxes.get_mut(&from) {
                held.remove(number);
            }
        })
        .await
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(letter) = self.hub.lock().boxes.get_mut(&self.from).and_then(|held| held.letters.get_mut(&self.number))
            && letter.taken == Some(self.subscription)
        {
            letter.taken = None;
            letter.from = Instant::now() + AGAIN_AFTER;
        }
        self.hub.tell();
    }
}
