//! An engine that goes away and comes back.

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{AWAY_WITHIN, BACK_WITHIN, Checked, Rig, SOON, coord_watch::Known, ensure, same, text, told, until};
use crate::{CasError, Change, CoordError};

pub(super) async fn an_engine_that_is_away_is_said_to_be(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let key = |name: &str| format!("{place}/{name}");
    let version = coord.put(&key("kept"), Bytes::from_static(b"1")).await.map_err(text)?;
    let (mut watch, mut known) = (coord.watch(&format!("{place}/")), Known::default());
    known.until(&mut watch, SOON, "the first key", |known| known.0.len() == 1).await?;

    rig.stop().await?;
    let began = Instant::now();
    let read = coord.get(&key("kept")).await;
    ensure!(matches!(read, Err(CoordError::Unavailable { .. })), "reading: {read:?}");
    ensure!(began.elapsed() < AWAY_WITHIN, "the error took {:?}", began.elapsed());
    let began = Instant::now();
    let written = coord.put_if(&key("kept"), Bytes::from_static(b"2"), Some(version)).await;
    ensure!(
        matches!(written, Err(CasError::Unknown(CoordError::Unavailable { .. }) | CasError::Coord(CoordError::Unavailable { .. }))),
        "writing: {written:?}"
    );
    ensure!(began.elapsed() < AWAY_WITHIN, "the error took {:?}", began.elapsed());
    let written = timeout(AWAY_WITHIN, coord.put(&key("while away"), Bytes::from_static(b"2"))).await;
    ensure!(matches!(written, Ok(Err(CoordError::Unavailable { .. }))), "writing: {written:?}");
    match told(&mut watch, SOON).await? {
        Change::Lost(why) => ensure!(!why.is_empty(), "no reason is given"),
        other => return Err(format!("the watch told {other:?} instead of the loss")),
    }

    rig.start().await?;
    let version = until(BACK_WITHIN, async || coord.put(&key("after"), Bytes::from_static(b"1")).await.ok()).await.ok_or("it does not come back")?;
    let end = Instant::now() + BACK_WITHIN;
    let snapshot = loop {
        match told(&mut watch, end.saturating_duration_since(Instant::now())).await? {
            Change::Lost(_) => {}
            Change::Snapshot(all) => break all,
            other => return Err(format!("the watch went on with {other:?} before a snapshot")),
        }
    };
    ensure!(snapshot.contains_key(&key("kept")), "the snapshot after the gap holds {:?}", snapshot.keys());
    let mut known = Known::default();
    known.learn(Change::Snapshot(snapshot))?;
    known.until(&mut watch, SOON, "what was written after the gap", |known| known.0.contains_key(&key("after"))).await?;
    same!(known.0[&key("after")].1, version);
    same!(coord.get(&key("kept")).await.map_err(text)?.map(|entry| entry.value), Some(Bytes::from_static(b"1")));
    coord.delete(&key("after"), Some(version)).await.map_err(text)?;
    known.until(&mut watch, SOON, "a removal after the gap", |known| !known.0.contains_key(&key("after"))).await
}
