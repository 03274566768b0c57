//! One subscription: takes the box, pulls, gives dropped letters back, and goes on after faults.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    stream::{ConsumerError, ConsumerErrorKind},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Shared,
    names::{self, Owner},
    signals::Line,
};
use crate::{
    hand_back::Hands,
    mail::{BusError, Delivery, MailBox, Settle},
};

/// Letters on the way to a subscriber at once.
const BATCH: usize = 64;
/// Unsettled letters of one subscriber; the server sends no more.
const UNSETTLED_MAX: i64 = 1000;
/// How long one pull request stands, and how often the server says meanwhile that it does.
const PULL: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(2));
/// Waits between attempts after a fault: the first, doubled each time up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often a subscription that stood back looks whether the box is free again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Races with another new owner before a fault is told.
const RACES_MAX: usize = 5;

/// The state between two letters.
pub(super) struct Subscription {
    shared: Arc<Shared>,
    of: MailBox,
    owner: Owner,
    /// The box was ours once: `owner.number` is valid.
    owned: bool,
    hands: Arc<Hands<String>>,
    pull: Option<pull::Stream>,
    line: watch::Receiver<Line>,
    /// Faults in a row.
    faults: u32,
    /// A later owner has the box.
    displaced: bool,
}

impl Subscription {
    /// Does nothing until it is asked for a letter.
    pub(super) fn new(shared: Arc<Shared>, of: MailBox, consumer: &str) -> Self {
        Self {
            of,
            owner: Owner { number: 0, consumer: consumer.to_owned() },
            owned: false,
            hands: Hands::new(shared.config.again_after),
            pull: None,
            line: shared.link.line(),
            faults: 0,
            displaced: false,
            shared,
        }
    }

    /// The next letter, or the next fault.
    pub(super) async fn next(&mut self) -> Result<Delivery, BusError> {
        loop {
            if self.faults > 0 {
                let pause = PAUSE.0.saturating_mul(1 << (self.faults - 1).min(8)).min(PAUSE.1);
                tokio::time::sleep(pause).await;
            }
            match self.round().await {
                Ok(Some(delivery)) => {
                    self.faults = 0;
                    return Ok(delivery);
                }
                Ok(None) => self.faults = 0,
                Err(error) => {
                    // A line that comes back by itself needs no pause.
                    self.faults = if self.pull.is_some() { 0 } else { self.faults.saturating_add(1) };
                    return Err(error);
                }
            }
        }
    }

    /// One step: take the box, or wait for a letter.
    async fn round(&mut self) -> Result<Option<Delivery>, BusError> {
        if self.displaced {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let Some(pull) = &mut self.pull else { return self.take().await.map(|()| None) };
        let again = self.hands.next_due();
        tokio::select! {
            biased;
            () = self.hands.dropped() => Ok(None),
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => self.give_back().await.map(|()| None),
            // Told, and no more: the client makes connection and pull request again by itself.
            Ok(()) = self.line.changed() => Err(self.shared.link.away("the connection was lost")),
            message = pull.next() => match message {
                Some(Ok(message)) => Ok(self.hand_out(&message)),
                Some(Err(error)) => {
                    self.pull = None;
                    Err(self.shared.link.away(error.to_string()))
                }
                None => {
                    self.pull = None;
                    Err(self.shared.link.away("the server ended the pull request"))
                }
            },
        }
    }

    async fn give_back(&self) -> Result<(), BusError> {
        let ready = self.shared.link.up().await?;
        for reply in self.hands.due() {
            // Lost where the connection breaks: the letter comes after `ack_wait` then.
            ready.client.publish(reply, Bytes::from_static(b"-NAK")).await.map_err(|error| self.shared.link.away(error.to_string()))?;
        }
        Ok(())
    }

    /// Makes sure the box is ours and opens a pull request. Tells when it was lost in between.
    async fn take(&mut self) -> Result<(), BusError> {
        self.line.mark_unchanged();
        let link = &self.shared.link;
        link.up().await?;
        link.ensure_stream().await?;
        for _ in 0..RACES_MAX {
            let owners = link.owners(&self.of).await?;
            let newest = owners.iter().max_by_key(|owner| owner.number);
            let number = if self.owned { self.owner.number } else { self.free_number(newest) };
            if let Some(newer) = newest.filter(|newest| newest.number > number) {
                if std::mem::replace(&mut self.displaced, true) {
                    return Ok(());
                }
                return Err(link.away(format!("{} has taken the box over; this subscription stands back", newer.consumer)));
            }
            let owner = Owner { number, consumer: self.owner.consumer.clone() };
            let name = owner.consumer_name(&self.of);
            for other in owners.iter().filter(|other| **other != owner) {
                link.remove_consumer(&other.consumer_name(&self.of)).await?;
            }
            let there = owners.contains(&owner);
            let Some(consumer) = self.consumer(&name, there).await? else { continue };
            let opening = consumer.stream().max_messages_per_batch(BATCH).expires(PULL.0).heartbeat(PULL.1).messages();
            let pull = timeout(self.shared.config.request_timeout, opening).await;
            self.pull = match pull {
                Ok(Ok(pull)) => Some(pull),
                Ok(Err(error)) => return Err(link.away(error.to_string())),
                Err(_) => return Err(link.away("no pull request in time")),
            };
            self.owner = owner;
            self.displaced = false;
            if std::mem::replace(&mut self.owned, true) && !there {
                tracing::warn!(engine = super::ENGINE, consumer = name, "the consumer of a box was gone, with the stream or alone; it is made again");
            }
            return Ok(());
        }
        Err(link.away("several owners take this box over at the same time"))
    }

    /// A number nobody had. Follows the clock, so that it is the greatest also after everything was lost.
    fn free_number(&self, newest: Option<&Owner>) -> u64 {
        let now = u64::try_from(self.shared.clock.now().0).unwrap_or(0);
        newest.map_or(now, |newest| now.max(newest.number + 1))
    }

    /// Our consumer, made where it is missing. None: somebody else made one meanwhile.
    async fn consumer(&self, name: &str, there: bool) -> Result<Option<PullConsumer>, BusError> {
        let link = &self.shared.link;
        let ready = link.up().await?;
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            description: Some(format!("mail for {}", self.owner.consumer)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.shared.config.ack_wait,
            max_deliver: -1,
            max_ack_pending: UNSETTLED_MAX,
            filter_subject: names::subject(&self.shared.config.farm_id, &self.of),
            ..pull::Config::default()
        };
        let asking = async {
            if there {
                ready.jetstream.get_consumer_from_stream::<pull::Config, _, _>(name, link.stream()).await
            } else {
                ready.jetstream.create_consumer_on_stream(config, link.stream()).await
            }
        };
        match timeout(self.shared.config.request_timeout, asking).await {
            Ok(Ok(consumer)) => Ok(Some(consumer)),
            Ok(Err(error)) if is_race(&error) => Ok(None),
            Ok(Err(error)) => Err(link.away(error.to_string())),
            Err(_) => Err(link.away("the consumer of the box was not made in time")),
        }
    }

    fn hand_out(&self, message: &jetstream::Message) -> Option<Delivery> {
        let reply = message.reply.as_ref()?.to_string();
        let in_hand = self.hands.give(reply.clone());
        let shared = self.shared.clone();
        let settle = Settle::new(move || {
            async move {
                let done = shared.link.settle(&reply).await;
                // Also after a failure: it comes again after `ack_wait`, as the trait says.
                in_hand.settled();
                done
            }
            .boxed()
        });
        Some(Delivery { raw: message.payload.clone(), settle, name: None })
    }
}

fn is_race(error: &ConsumerError) -> bool {
    let ConsumerErrorKind::JetStream(refused) = error.kind() else { return false };
    matches!(refused.error_code(), ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE | ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::CONSUMER_NAME_EXIST)
}
