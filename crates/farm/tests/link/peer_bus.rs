//! Mail over links: the promises of a bus as far as they can hold without anything between the two ends.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clawstead_bus::{
    Bus, BusCaps, BusError, Coord, Delivery, Depth, MailBox, Published, Sealed,
    conformance::{self, Rig},
    memory::{Memory, Part},
};
use clawstead_farm::link::{FallbackBus, PeerBus};
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::time::{Instant, timeout};

use super::kit::{AllAt, Farm, Gateway, SOON};

fn bus(of: &Gateway, all_at: &'static str) -> Arc<PeerBus> {
    Arc::new(PeerBus::new(of.links.clone(), Arc::new(AllAt(all_at)), of.desk.boxes.clone()))
}

fn letter(id: &str, attempt: u32) -> Sealed {
    Sealed { message_id: id.into(), attempt, bytes: Bytes::from(format!("{{\"id\":\"{id}\"}}")) }
}

fn bobby_box() -> MailBox {
    MailBox::Unit("bobby".into())
}

/// Letters are put in at one gateway and read at the other.
struct Across {
    here: Arc<PeerBus>,
    there: Arc<PeerBus>,
}

#[async_trait]
impl Bus for Across {
    fn engine(&self) -> &'static str {
        self.here.engine()
    }

    fn caps(&self) -> BusCaps {
        self.here.caps()
    }

    async fn publish(&self, to: &MailBox, letter: &Sealed) -> Result<Published, BusError> {
        self.here.publish(to, letter).await
    }

    fn subscribe(&self, from: &MailBox, consumer: &str) -> BoxStream<'static, Result<Delivery, BusError>> {
        self.there.subscribe(from, consumer)
    }

    async fn depth(&self, of: &MailBox) -> Result<Depth, BusError> {
        self.here.depth(of).await
    }
}

struct TwoGateways {
    jerry: Gateway,
    bobby: Gateway,
}

#[async_trait]
impl Rig for TwoGateways {
    async fn coord(&self) -> Result<Arc<dyn Coord>, String> {
        Err("links have no keys".into())
    }

    async fn bus(&self) -> Result<Arc<dyn Bus>, String> {
        Ok(Arc::new(Across { here: bus(&self.jerry, "bobby"), there: bus(&self.bobby, "bobby") }))
    }

    async fn stop(&self) -> Result<(), String> {
        Err("there is no engine to stop".into())
    }

    async fn start(&self) -> Result<(), String> {
        Err("there is no engine to start".into())
    }

    fn again_within(&self) -> Duration {
        Duration::from_secs(2)
    }
}

async fn pair(farm: &Farm) -> (Gateway, Gateway) {
    let (jerry, bobby) = (farm.key("jerry"), farm.key("bobby"));
    (farm.gateway(jerry).await, farm.gateway(bobby).await)
}

#[tokio::test]
async fn the_promises_of_mail_hold_between_two_gateways() {
    let (jerry, bobby) = pair(&Farm::new()).await;
    assert_eq!(conformance::bus_to_a_reader(&TwoGateways { jerry, bobby }, "1").await, Ok(7));
}

/// What the checks above leave out, as it is here.
#[tokio::test]
async fn nothing_is_kept_without_a_reader_and_an_absence_is_told() {
    let farm = Farm::new();
    let (jerry, bobby) = pair(&farm).await;
    let (here, there) = (bus(&jerry, "bobby"), bus(&bobby, "bobby"));
    assert!(matches!(here.publish(&bobby_box(), &letter("1", 0)).await, Ok(Published::Busy(_))));
    assert!(matches!(there.publish(&bobby_box(), &letter("1", 0)).await, Ok(Published::Busy(_))));
    assert_eq!(here.depth(&bobby_box()).await.unwrap().letters, 0);
    // Held for the next reader of the process once somebody reads.
    let mut mail = there.subscribe(&bobby_box(), "bobby.1");
    assert_eq!(here.publish(&bobby_box(), &letter("1", 1)).await, Ok(Published::Accepted));
    assert_eq!(here.publish(&bobby_box(), &letter("1", 1)).await, Ok(Published::Accepted));
    assert_eq!(there.publish(&bobby_box(), &letter("2", 0)).await, Ok(Published::Accepted));
    // The attempt that was repeated is there once.
    assert_eq!(here.depth(&bobby_box()).await.unwrap().letters, 2);
    let first = timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.raw, &b"{\"id\":\"1\"}"[..]);
    drop((mail, first));
    let mut mail = there.subscribe(&bobby_box(), "bobby.2");
    for _ in 0..2 {
        timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap().settle.done().await.unwrap();
    }
    assert_eq!(here.depth(&bobby_box()).await, Ok(Depth { letters: 0, bytes: Some(0) }));
    // A box has a bound.
    let big = |n: usize| Sealed { message_id: format!("b{n}"), attempt: 0, bytes: vec![b'x'; 1024 * 1024].into() };
    let mut sent = Vec::new();
    for n in 0..9 {
        sent.push(here.publish(&bobby_box(), &big(n)).await.unwrap());
    }
    assert!(sent[..8].iter().all(|sent| *sent == Published::Accepted) && matches!(sent[8], Published::Busy(_)), "{sent:?}");
    // The other gateway is gone.
    bobby.die().await;
    let began = Instant::now();
    let lost = here.publish(&bobby_box(), &letter("3", 0)).await.unwrap_err();
    assert!(matches!(&lost, BusError::Unavailable { engine: "peer", at, .. } if at == "bobby"), "{lost}");
    assert!(began.elapsed() < conformance::AWAY_WITHIN, "{:?}", began.elapsed());
}

#[tokio::test]
async fn letters_go_over_the_link_while_the_engine_is_away() {
    let farm = Farm::new();
    let (jerry, bobby) = pair(&farm).await;
    let engine = Memory::new();
    let here = FallbackBus::new(engine.bus("jerry"), bus(&jerry, "bobby"));
    let there = FallbackBus::new(engine.bus("bobby"), bus(&bobby, "bobby"));
    let mut mail = there.subscribe(&bobby_box(), "bobby.1");
    let mut next = async || loop {
        if let Ok(delivery) = timeout(SOON, mail.next()).await.unwrap().unwrap() {
            let raw = delivery.raw.clone();
            delivery.settle.done().await.unwrap();
            return raw;
        }
    };
    assert_eq!(here.publish(&bobby_box(), &letter("1", 0)).await, Ok(Published::Accepted));
    assert_eq!(next().await, letter("1", 0).bytes);
    engine.cut("jerry", Part::Bus);
    let (sent, raw) = tokio::join!(
        async {
            let to = bobby_box();
            here.publish(&to, &letter("2", 0)).await
        },
        next()
    );
    assert_eq!((sent, raw), (Ok(Published::Accepted), letter("2", 0).bytes));
    engine.heal("jerry", Part::Bus);
    assert_eq!(here.publish(&bobby_box(), &letter("3", 0)).await, Ok(Published::Accepted));
    assert_eq!(next().await, letter("3", 0).bytes);
    // Both away: the sender hears of both.
    engine.cut("jerry", Part::Bus);
    bobby.die().await;
    let lost = here.publish(&bobby_box(), &letter("4", 0)).await.unwrap_err().to_string();
    assert!(lost.contains("no answer in time") && lost.contains("peer at bobby"), "{lost}");
}
