//! The boxes of this process that peers put letters into. They live in memory: what is lost with the process comes
//! again, because its sender has no receipt.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use clawstead_bus::{BusError, Delivery, Depth, MailBox, Sealed, Settle};
use clawstead_terms::Failure;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{Ready, ready},
    stream::{self, BoxStream},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

/// Letters in one box.
pub const BOX_LETTERS_MAX: usize = 1000;
/// Bytes in one box: 8 MiB.
pub const BOX_BYTES_MAX: usize = 8 * 1024 * 1024;
/// When to come again to a box that is full or that nobody reads, ms.
const BUSY_RETRY_MS: u64 = 500;
/// A letter that was dropped unsettled comes again after this.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long a sender waits for its letter to be settled. Then it hears that the letter is held here; its receipt tells
/// the rest.
const SETTLE_WAIT: Duration = Duration::from_millis(500);
/// A box that nobody reads is emptied after this long: the senders have sent its letters again, elsewhere.
const UNREAD_MAX: Duration = Duration::from_secs(600);

/// The boxes. Clones are the same.
#[derive(Clone, Default)]
pub struct Boxes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    boxes: BTreeMap<MailBox, Held>,
    number: u64,
}

struct Held {
    letters: BTreeMap<u64, Letter>,
    bytes: usize,
    subscription: Option<u64>,
    unread_since: Instant,
    wake: watch::Sender<u64>,
}

struct Letter {
    sealed: Sealed,
    /// Not to be handed out earlier.
    from: Instant,
    /// The subscription that has it in its hands.
    taken: Option<u64>,
    /// Senders that wait for it to be settled.
    settled: Vec<oneshot::Sender<()>>,
}

impl Held {
    fn new() -> Self {
        Self { letters: BTreeMap::new(), bytes: 0, subscription: None, unread_since: Instant::now(), wake: watch::Sender::new(0) }
    }

    fn wake(&self) {
        self.wake.send_modify(|times| *times += 1);
    }

    /// The next letter for a subscription, or when to look again.
    fn hand_out(&mut self, subscription: u64) -> Result<(u64, Bytes), Option<Instant>> {
        let free = self.letters.iter_mut().filter(|(_, letter)| letter.taken != Some(subscription));
        let (number, letter) = free.min_by_key(|(number, letter)| (letter.from, **number)).ok_or(None)?;
        if letter.from > Instant::now() {
            return Err(Some(letter.from));
        }
        letter.taken = Some(subscription);
        Ok((*number, letter.sealed.bytes.clone()))
    }
}

impl Boxes {
    /// No boxes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a letter into a box that somebody reads, and waits a moment for it to be settled. `Ok` means settled, or held
    /// here until it is.
    ///
    /// # Errors
    /// `Busy` when nobody reads the box here, or it is full.
    pub async fn take(&self, to: MailBox, letter: Sealed) -> Result<(), Failure> {
        let settled = {
            let mut state = self.lock();
            state.boxes.retain(|of, held| {
                let keep = held.subscription.is_some() || held.unread_since.elapsed() < UNREAD_MAX;
                if !keep && !held.letters.is_empty() {
                    tracing::warn!(?of, letters = held.letters.len(), "letters that nobody read were dropped; their senders repeat them");
                }
                keep
            });
            state.number += 1;
            let number = state.number;
            let name = name(&to);
            let held = state.boxes.get_mut(&to).filter(|held| held.subscription.is_some());
            let held = held.ok_or_else(|| Failure::busy(format!("nobody reads the box of {name} here"), BUSY_RETRY_MS))?;
            let (tell, settled) = oneshot::channel();
            let same = |other: &&mut Letter| (&other.sealed.message_id, other.sealed.attempt) == (&letter.message_id, letter.attempt);
            if let Some(other) = held.letters.values_mut().find(same) {
                other.settled.retain(|waiting| !waiting.is_closed());
                other.settled.push(tell);
            } else {
                if held.letters.len() >= BOX_LETTERS_MAX || held.bytes + letter.bytes.len() > BOX_BYTES_MAX {
                    return Err(Failure::busy(format!("the box of {name} is full"), BUSY_RETRY_MS));
                }
                held.bytes += letter.bytes.len();
                held.letters.insert(number, Letter { sealed: letter, from: Instant::now(), taken: None, settled: vec![tell] });
                held.wake();
            }
            settled
        };
        // Not settled in time: held, and said to be.
        let _ = timeout(SETTLE_WAIT, settled).await;
        Ok(())
    }

    /// Reads a box. Who reads it after us takes it over, with what was not settled; we hear nothing more then.
    #[must_use]
    pub fn subscribe(&self, from: &MailBox) -> BoxStream<'static, Result<Delivery, BusError>> {
        let mut state = self.lock();
        state.number += 1;
        let number = state.number;
        let held = state.boxes.entry(from.clone()).or_insert_with(Held::new);
        held.subscription = Some(number);
        let subscription = Subscription { boxes: self.clone(), from: from.clone(), number, changed: held.wake.subscribe() };
        drop(state);
        stream::unfold(subscription, async |mut subscription| {
            let delivery = subscription.next().await;
            Some((Ok(delivery), subscription))
        })
        .boxed()
    }

    /// How much waits or is in somebody's hands.
    #[must_use]
    pub fn depth(&self, of: &MailBox) -> Depth {
        self.lock().boxes.get(of).map_or_else(Depth::default, |held| Depth { letters: held.letters.len() as u64, bytes: Some(held.bytes as u64) })
    }

    fn settle(&self, of: &MailBox, number: u64) {
        let mut state = self.lock();
        let Some(held) = state.boxes.get_mut(of) else { return };
        if let Some(letter) = held.letters.remove(&number) {
            held.bytes -= letter.sealed.bytes.len();
            for waiting in letter.settled {
                let _ = waiting.send(());
            }
        }
        if held.letters.is_empty() && held.subscription.is_none() {
            state.boxes.remove(of);
        }
    }
}

/// The box, for people.
pub(super) fn name(of: &MailBox) -> &str {
    match of {
        MailBox::Unit(name) | MailBox::Gateway(name) => name,
    }
}

struct Subscription {
    boxes: Boxes,
    from: MailBox,
    number: u64,
    changed: watch::Receiver<u64>,
}

impl Subscription {
    async fn next(&mut self) -> Delivery {
        loop {
            self.changed.mark_unchanged();
            let mut again = None;
            if let Some(held) = self.boxes.lock().boxes.get_mut(&self.from)
                && held.subscription == Some(self.number)
            {
                match held.hand_out(self.number) {
                    Ok((letter, raw)) => {
                        let hand = InHand { boxes: self.boxes.clone(), of: self.from.clone(), letter, subscription: self.number };
                        return Delivery { raw, settle: Settle::new(move || hand.settle().boxed()), name: None };
                    }
                    Err(at) => again = at,
                }
            }
            tokio::select! {
                biased;
                changed = self.changed.changed() => if changed.is_err() {
                    // The box was taken over and is gone since.
                    std::future::pending::<()>().await;
                },
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.boxes.lock();
        let Some(held) = state.boxes.get_mut(&self.from).filter(|held| held.subscription == Some(self.number)) else { return };
        (held.subscription, held.unread_since) = (None, Instant::now());
        if held.letters.is_empty() {
            state.boxes.remove(&self.from);
        }
    }
}

/// A letter in somebody's hands. Dropped, it comes again.
struct InHand {
    boxes: Boxes,
    of: MailBox,
    letter: u64,
    subscription: u64,
}

impl InHand {
    fn settle(self) -> Ready<Result<(), BusError>> {
        self.boxes.settle(&self.of, self.letter);
        ready(Ok(()))
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut state = self.boxes.lock();
        let Some(held) = state.boxes.get_mut(&self.of) else { return };
        if let Some(letter) = held.letters.get_mut(&self.letter).filter(|letter| letter.taken == Some(self.subscription)) {
            (letter.taken, letter.from) = (None, Instant::now() + AGAIN_AFTER);
            held.wake();
        }
    }
}
