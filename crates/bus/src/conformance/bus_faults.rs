//! A burst, and an engine that goes away and comes back.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout};

use super::{AWAY_WITHIN, BACK_WITHIN, Checked, Rig, SOON, ensure, letter, next, same, send, text, unit, until};
use crate::{BusError, MailBox};

/// Letters of the burst.
const BURST: u32 = 1_000;
/// Publishers at the same time.
const PUBLISHERS: usize = 16;

pub(super) async fn a_burst_arrives_whole(rig: &dyn Rig, place: &str) -> Checked {
    let (sender, receiver) = (rig.bus().await?, rig.bus().await?);
    let to = unit(place, "box");
    let mut mail = receiver.subscribe(&to, "a.1");
    let publish = async {
        let sent = stream::iter(0..BURST).map(|n| {
            let (sender, to) = (&sender, &to);
            async move { send(&**sender, to, &letter(&format!("{place}-{n}"), 0, &n.to_be_bytes())).await }
        });
        let mut sent = std::pin::pin!(sent.buffer_unordered(PUBLISHERS));
        while let Some(outcome) = sent.next().await {
            outcome?;
        }
        Ok::<_, String>(())
    };
    let read = async {
        let mut seen = BTreeSet::new();
        while seen.len() < BURST as usize {
            let delivery = next(&mut mail, SOON + rig.again_within()).await.map_err(|err| format!("{err} after {} of {BURST}", seen.len()))?;
            seen.insert(delivery.raw.to_vec());
            delivery.settle.done().await.map_err(text)?;
        }
        Ok::<_, String>(seen)
    };
    let ((), seen) = futures_util::try_join!(publish, read)?;
    same!(seen, (0..BURST).map(|n| n.to_be_bytes().to_vec()).collect::<BTreeSet<_>>());
    let empty = until(SOON + rig.again_within(), async || receiver.depth(&to).await.ok().filter(|depth| depth.letters == 0)).await;
    ensure!(empty.is_some(), "after the burst the depth is {:?}", receiver.depth(&to).await);
    Ok(())
}

pub(super) async fn an_engine_that_is_away_is_said_to_be(rig: &dyn Rig, place: &str) -> Checked {
    let bus = rig.bus().await?;
    let to = unit(place, "box");
    let waiting = MailBox::Gateway(format!("{}-waiting", place.replace('/', "-")));
    let mut mail = bus.subscribe(&to, "a.1");
    send(&*bus, &to, &letter(&format!("{place}-before"), 0, b"before")).await?;
    next(&mut mail, SOON).await?.settle.done().await.map_err(text)?;
    send(&*bus, &waiting, &letter(&format!("{place}-waiting"), 0, b"waiting")).await?;

    rig.stop().await?;
    let began = Instant::now();
    let sent = bus.publish(&to, &letter(&format!("{place}-away"), 0, b"away")).await;
    ensure!(matches!(sent, Err(BusError::Unavailable { .. })), "publishing: {sent:?}");
    ensure!(began.elapsed() < AWAY_WITHIN, "the error took {:?}", began.elapsed());
    let depth = timeout(AWAY_WITHIN, bus.depth(&to)).await;
    ensure!(matches!(depth, Ok(Err(BusError::Unavailable { .. }))), "asking for the depth: {depth:?}");
    match timeout(SOON, mail.next()).await {
        Ok(Some(Err(BusError::Unavailable { .. }))) => {}
        other => return Err(format!("the subscription told {other:?} instead of the loss")),
    }

    rig.start().await?;
    let after = letter(&format!("{place}-after"), 0, b"after");
    until(BACK_WITHIN, async || bus.publish(&to, &after).await.ok()).await.ok_or("it does not come back")?;
    // The attempt that failed may have got through; the one after the gap must.
    let end = Instant::now() + BACK_WITHIN;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(item) = timeout(left, mail.next()).await else { return Err("nothing comes after the gap".into()) };
        let Ok(delivery) = item.ok_or("a subscription ended")? else { continue };
        let raw = delivery.raw.clone();
        delivery.settle.done().await.map_err(text)?;
        if *raw == b"after"[..] {
            break;
        }
    }
    if bus.caps().durable {
        let mut mail = bus.subscribe(&waiting, "a.1");
        let delivery = next(&mut mail, SOON + rig.again_within()).await.map_err(|err| format!("what was accepted before the gap: {err}"))?;
        same!(delivery.raw, &b"waiting"[..]);
        delivery.settle.done().await.map_err(text)?;
    }
    Ok(())
}
