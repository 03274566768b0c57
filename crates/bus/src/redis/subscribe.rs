//! One subscription: takes the box, reads, brings back what was not settled, and goes on after faults.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use redis::{RedisError, aio::MultiplexedConnection};
use tokio::time::Instant;

use super::{
    Shared,
    link::{Open, is_replica},
    scripts::{self, Letter, Taken},
};
use crate::{
    hand_back::Hands,
    mail::{BusError, Delivery, MailBox, Settle},
};

/// The longest wait inside Redis: bounds how late a dropped letter, a new owner or a dead server is noticed.
const BLOCK: Duration = Duration::from_secs(1);
/// Waits between attempts after a fault: the first, doubled each time up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Where `XAUTOCLAIM` begins and what it answers at the end.
const END: &str = "0-0";

/// The state between two letters.
pub(super) struct Subscription {
    shared: Arc<Shared>,
    key: String,
    owner_key: String,
    consumer: String,
    /// Our number among the owners of this box; none before the first success.
    number: Option<u64>,
    hands: Arc<Hands<String>>,
    /// Read, not handed out yet.
    ready: VecDeque<Letter>,
    open: Option<Open>,
    /// Taking over what lies unsettled, page by page.
    claiming: Option<Claiming>,
    /// When ownership and idle letters are looked at next.
    look: Instant,
    /// Faults in a row.
    faults: u32,
    /// A later owner has the box.
    displaced: bool,
}

impl Subscription {
    /// Does nothing until it is asked for a letter.
    pub(super) fn new(shared: Arc<Shared>, from: &MailBox, consumer: &str) -> Self {
        Self {
            key: shared.key(from),
            owner_key: shared.owner_key(from),
            consumer: consumer.to_owned(),
            number: None,
            hands: Hands::new(shared.config.again_after),
            ready: VecDeque::new(),
            open: None,
            claiming: None,
            look: Instant::now(),
            faults: 0,
            displaced: false,
            shared,
        }
    }

    /// The next letter, or the next fault.
    pub(super) async fn next(&mut self) -> Result<Delivery, BusError> {
        loop {
            if let Some(letter) = self.ready.pop_front() {
                return Ok(self.hand_out(letter));
            }
            if self.faults > 0 {
                let pause = PAUSE.0.saturating_mul(1 << (self.faults - 1).min(8)).min(PAUSE.1);
                tokio::time::sleep(pause).await;
            }
            match self.round().await {
                Ok(()) => self.faults = 0,
                Err(error) => {
                    self.faults = self.faults.saturating_add(1);
                    return Err(error);
                }
            }
        }
    }

    /// One step: connect, or look after the box, or read.
    async fn round(&mut self) -> Result<(), BusError> {
        if self.displaced {
            tokio::time::sleep_until(self.look).await;
        }
        let Some(open) = self.open.clone() else { return self.connect().await };
        let mut on = open.connection.clone();
        if Instant::now() >= self.look {
            if !self.shared.link.still_master(&open).await {
                self.open = None;
            } else if self.still_ours(&mut on).await? {
                self.claiming.get_or_insert_with(|| Claiming::of(self.shared.config.claim_idle, Held::Again));
            }
            return Ok(());
        }
        if let Some(claiming) = self.claiming.take() {
            return self.claim(&mut on, claiming).await;
        }
        let dropped = self.hands.due();
        let read = if dropped.is_empty() {
            let until = self.hands.next_due().map_or(BLOCK, |at| at.saturating_duration_since(Instant::now()));
            let block = until.min(BLOCK).min(self.look.saturating_duration_since(Instant::now()));
            scripts::read(&mut on, &self.key, &self.consumer, block).await
        } else {
            scripts::claim(&mut on, &self.key, &self.consumer, &dropped).await
        };
        match read {
            Ok(letters) => {
                self.ready.extend(letters);
                Ok(())
            }
            Err(error) => self.fell(&error).await,
        }
    }

    /// A connection of our own, the box, and everything in it that was read and not settled.
    async fn connect(&mut self) -> Result<(), BusError> {
        let open = self.shared.link.own(BLOCK).await?;
        let mut on = open.connection.clone();
        self.open = Some(open);
        // Also when something is told first: what was read and lost on the way is fetched afterwards.
        self.claiming = Some(Claiming::of(Duration::ZERO, Held::Skip));
        self.still_ours(&mut on).await.map(|_| ())
    }

    /// Takes the box or looks whether it is still ours.
    async fn still_ours(&mut self, on: &mut MultiplexedConnection) -> Result<bool, BusError> {
        self.look = Instant::now() + self.shared.config.claim_idle / 4;
        let now = self.shared.clock.now().0;
        match scripts::take(on, (&self.key, &self.owner_key), self.number, now, &self.consumer).await {
            Ok(Taken::Ours { number, made }) => {
                let lost = made && self.number.is_some();
                self.number = Some(number);
                self.displaced = false;
                if lost { Err(self.shared.link.away("the box was gone with what was in it; it is made again")) } else { Ok(true) }
            }
            Ok(Taken::Theirs(who)) => {
                self.look = Instant::now() + self.shared.config.claim_idle;
                if std::mem::replace(&mut self.displaced, true) {
                    return Ok(false);
                }
                Err(self.shared.link.away(format!("{who} has taken the box over; this subscription stands back")))
            }
            Err(error) => self.fell(&error).await.map(|()| false),
        }
    }

    /// One page of what lies unsettled. A page at a time: a full box does not fit into memory.
    async fn claim(&mut self, on: &mut MultiplexedConnection, mut page: Claiming) -> Result<(), BusError> {
        match scripts::claim_idle(on, &self.key, &self.consumer, page.idle, &page.cursor).await {
            Ok((next, letters)) => {
                let hands = &self.hands;
                self.ready.extend(letters.into_iter().filter(|letter| page.held == Held::Again || !hands.holds(&letter.id)));
                page.cursor = next;
                self.claiming = (page.cursor != END).then_some(page);
                Ok(())
            }
            Err(error) => self.fell(&error).await,
        }
    }

    /// A request failed: forget the connection where it is broken, look after the box where the group is gone.
    async fn fell(&mut self, error: &RedisError) -> Result<(), BusError> {
        let Some(open) = self.open.clone() else { return Ok(()) };
        if matches!(error.code(), Some("NOGROUP" | "UNBLOCKED")) {
            self.look = Instant::now();
            return Ok(());
        }
        let told = self.shared.link.fault_on(&open, error);
        if is_replica(error) {
            self.shared.link.lost(open.generation).await;
        }
        self.open = None;
        Err(told)
    }

    fn hand_out(&self, letter: Letter) -> Delivery {
        let in_hand = self.hands.give(letter.id.clone());
        let (shared, key, id) = (self.shared.clone(), self.key.clone(), letter.id);
        let settle = Settle::new(move || {
            async move {
                let done = shared.link.run(|on| scripts::settle(on, key.clone(), id.clone())).await;
                // Also after a failure: it comes again when it has been idle long enough, as the trait says.
                in_hand.settled();
                done.map_err(super::link::Fault::into_bus)
            }
            .boxed()
        });
        Delivery { raw: letter.raw, settle, name: None }
    }
}

/// Where taking over stands.
struct Claiming {
    cursor: String,
    idle: Duration,
    held: Held,
}

impl Claiming {
    fn of(idle: Duration, held: Held) -> Self {
        Self { cursor: END.to_owned(), idle, held }
    }
}

/// What happens to letters that are in the subscriber's hands right now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// They are not read again.
    Skip,
    /// They come again: held for long is as good as forgotten.
    Again,
}
