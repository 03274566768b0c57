//! Arriving, settling, coming again.

use std::collections::BTreeSet;

use super::{Checked, Rig, SOON, drain, ensure, letter, next, same, send, text, unit, until};
use crate::{
    BusError, MailBox, Published,
    blobs::{BLOB_BYTES_MAX, PIECE_BYTES},
};

pub(super) async fn letters_arrive_and_settled_ones_stay_away(rig: &dyn Rig, place: &str) -> Checked {
    let (sender, receiver) = (rig.bus().await?, rig.bus().await?);
    let to = unit(place, "box");
    let mut mail = receiver.subscribe(&to, "a.1");
    let bodies: BTreeSet<Vec<u8>> = (0..10).map(|n: u8| format!("{{\"n\":{n},\"text\":\"äöü €\"}}").into_bytes()).chain([(0..=255).collect()]).collect();
    for (n, body) in bodies.iter().enumerate() {
        same!(send(&*sender, &to, &letter(&format!("{place}-{n}"), 0, body)).await?, Published::Accepted);
    }
    let mut seen = BTreeSet::new();
    while seen.len() < bodies.len() {
        let delivery = next(&mut mail, SOON).await?;
        seen.insert(delivery.raw.to_vec());
        delivery.settle.done().await.map_err(text)?;
    }
    same!(seen, bodies);
    drop(mail);
    // Neither another reader nor the same one sees them again; a letter that comes later shows that it reads.
    for consumer in ["b.2", "a.1"] {
        let mut mail = receiver.subscribe(&to, consumer);
        send(&*sender, &to, &letter(&format!("{place}-{consumer}"), 0, consumer.as_bytes())).await?;
        let delivery = next(&mut mail, rig.again_within() + SOON).await?;
        same!(delivery.raw, consumer.as_bytes());
        delivery.settle.done().await.map_err(text)?;
        same!(drain(&mut mail).await?, Vec::<Vec<u8>>::new());
    }
    ensure!(!sender.engine().is_empty(), "it has no name");
    Ok(())
}

pub(super) async fn letters_wait_for_a_reader(rig: &dyn Rig, place: &str) -> Checked {
    let bus = rig.bus().await?;
    let to = unit(place, "chan.slack.main");
    for n in 0..5 {
        send(&*bus, &to, &letter(&format!("{place}-{n}"), 0, &[n])).await?;
    }
    let mut mail = rig.bus().await?.subscribe(&to, "late.1");
    let mut seen = BTreeSet::new();
    while seen.len() < 5 {
        let delivery = next(&mut mail, SOON).await?;
        seen.insert(delivery.raw[0]);
        delivery.settle.done().await.map_err(text)?;
    }
    Ok(())
}

pub(super) async fn an_unsettled_letter_comes_again(rig: &dyn Rig, place: &str) -> Checked {
    let bus = rig.bus().await?;
    let to = unit(place, "box");
    let mut mail = bus.subscribe(&to, "a.1");
    send(&*bus, &to, &letter(place, 0, b"again")).await?;
    for _ in 0..2 {
        // Dropped without settling.
        same!(next(&mut mail, SOON + rig.again_within()).await?.raw, &b"again"[..]);
    }
    let delivery = next(&mut mail, SOON + rig.again_within()).await?;
    delivery.settle.done().await.map_err(text)?;
    same!(drain(&mut mail).await?, Vec::<Vec<u8>>::new());
    Ok(())
}

pub(super) async fn the_next_consumer_gets_what_was_not_settled(rig: &dyn Rig, place: &str) -> Checked {
    let (first, second) = (rig.bus().await?, rig.bus().await?);
    let to = unit(place, "box");
    let mut mail = first.subscribe(&to, "a.1");
    for n in 0..6 {
        send(&*first, &to, &letter(&format!("{place}-{n}"), 0, &[n])).await?;
    }
    let mut held = Vec::new();
    let mut settled = BTreeSet::new();
    while held.len() + settled.len() < 4 {
        let delivery = next(&mut mail, SOON).await?;
        if settled.len() < 2 {
            settled.insert(delivery.raw[0]);
            delivery.settle.done().await.map_err(text)?;
        } else {
            held.push(delivery);
        }
    }
    // The first owner is gone as a killed process is: what it held is not given back by it.
    std::mem::forget(held);
    drop(mail);
    let mut mail = second.subscribe(&to, "b.2");
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        let delivery = next(&mut mail, SOON + rig.again_within()).await?;
        ensure!(!settled.contains(&delivery.raw[0]), "the settled letter {} came again", delivery.raw[0]);
        seen.insert(delivery.raw[0]);
        delivery.settle.done().await.map_err(text)?;
    }
    same!(settled.union(&seen).copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    Ok(())
}

pub(super) async fn repeats_are_dropped_where_promised(rig: &dyn Rig, place: &str) -> Checked {
    let bus = rig.bus().await?;
    let to = unit(place, "box");
    let mut mail = bus.subscribe(&to, "a.1");
    let dedupes = bus.caps().dedupes;
    same!(send(&*bus, &to, &letter(place, 0, b"0")).await?, Published::Accepted);
    let again = send(&*bus, &to, &letter(place, 0, b"0")).await?;
    ensure!(!dedupes || again == Published::Duplicate, "the same attempt was {again:?}");
    let first = next(&mut mail, SOON).await?;
    same!(first.raw, &b"0"[..]);
    first.settle.done().await.map_err(text)?;
    let rest = drain(&mut mail).await?;
    ensure!(rest.len() <= usize::from(!dedupes), "{} more copies came", rest.len());
    // The next attempt of the same letter must get through, or its receipt is never repeated.
    same!(send(&*bus, &to, &letter(place, 1, b"1")).await?, Published::Accepted);
    let second = next(&mut mail, SOON).await?;
    same!(second.raw, &b"1"[..]);
    second.settle.done().await.map_err(text)
}

pub(super) async fn the_depth_is_known(rig: &dyn Rig, place: &str) -> Checked {
    let bus = rig.bus().await?;
    let to = unit(place, "box");
    same!(bus.depth(&to).await.map_err(text)?.letters, 0);
    for n in 0..5 {
        send(&*bus, &to, &letter(&format!("{place}-{n}"), 0, b"12345678")).await?;
    }
    let depth = async |letters: u64| {
        let found = until(SOON, async || bus.depth(&to).await.ok().filter(|depth| depth.letters == letters)).await;
        match found {
            Some(found) => Ok(found),
            None => Err(format!("the depth is {:?} instead of {letters}", bus.depth(&to).await)),
        }
    };
    let found = depth(5).await?;
    ensure!(found.bytes.is_none_or(|bytes| bytes >= 40), "five letters of eight bytes are {:?} bytes", found.bytes);
    let mut mail = bus.subscribe(&to, "a.1");
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut mail, SOON).await?);
    }
    // In somebody's hands is not settled.
    depth(5).await?;
    for delivery in held {
        delivery.settle.done().await.map_err(text)?;
    }
    depth(0).await.map(|_| ())
}

pub(super) async fn boxes_do_not_mix(rig: &dyn Rig, place: &str) -> Checked {
    let bus = rig.bus().await?;
    let one = unit(place, "box");
    let MailBox::Unit(name) = &one else { return Err("not a unit".into()) };
    let boxes = [one.clone(), MailBox::Gateway(name.clone()), unit(place, "box2"), unit(place, "bo")];
    let mut mail: Vec<_> = boxes.iter().map(|from| bus.subscribe(from, "a.1")).collect();
    for (n, to) in (0_u8..).zip(&boxes) {
        // The same id in each: engines deduplicate within a box.
        same!(send(&*bus, to, &letter(place, 0, &[n])).await?, Published::Accepted);
    }
    for (n, mail) in (0_u8..).zip(&mut mail) {
        let delivery = next(mail, SOON).await?;
        same!(delivery.raw, &[n][..]);
        delivery.settle.done().await.map_err(text)?;
        same!(drain(mail).await?, Vec::<Vec<u8>>::new());
    }
    Ok(())
}

pub(super) async fn letters_up_to_the_limit_arrive(rig: &dyn Rig, place: &str) -> Checked {
    let bus = rig.bus().await?;
    let to = unit(place, "box");
    let max = bus.caps().inline_max;
    let mut mail = bus.subscribe(&to, "a.1");
    let largest: Vec<u8> = (0..max).map(|at| (at % 251) as u8).collect();
    same!(send(&*bus, &to, &letter(&format!("{place}-0"), 0, &largest)).await?, Published::Accepted);
    let delivery = next(&mut mail, SOON).await?;
    ensure!(delivery.raw == largest, "{} bytes came of {max}, or others", delivery.raw.len());
    delivery.settle.done().await.map_err(text)?;
    let larger = bus.publish(&to, &letter(&format!("{place}-1"), 0, &vec![b'x'; max + 1])).await;
    ensure!(matches!(larger, Err(BusError::TooLarge { max: told, size, .. }) if told == max && size == max + 1), "a larger letter: {larger:?}");
    Ok(())
}

pub(super) async fn blobs_come_back_whole_and_go(rig: &dyn Rig, place: &str) -> Checked {
    let (one, other) = (rig.bus().await?, rig.bus().await?);
    let (Some(here), Some(there)) = (one.blobs(), other.blobs()) else { return Ok(()) };
    let keep = std::time::Duration::from_secs(600);
    let name = |n: usize| format!("{}-{n}", place.replace('/', "-"));
    for size in [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 1024 * 1024 + 1, BLOB_BYTES_MAX] {
        let bytes: bytes::Bytes = (0..size).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
        same!(there.get(&name(size)).await.map_err(text)?, None);
        for _ in 0..2 {
            here.put(&name(size), &bytes, keep).await.map_err(text)?;
        }
        ensure!(there.get(&name(size)).await.map_err(text)?.as_ref() == Some(&bytes), "a blob of {size} bytes did not come back as it was");
        there.remove(&name(size)).await.map_err(text)?;
        same!(here.get(&name(size)).await.map_err(text)?, None);
    }
    let large = bytes::Bytes::from(vec![0; BLOB_BYTES_MAX + 1]);
    ensure!(matches!(here.put(&name(0), &large, keep).await, Err(BusError::TooLarge { .. })), "a blob above the limit was not refused");
    here.remove(&name(0)).await.map_err(text)?;
    here.sweep().await.map_err(text)
}
