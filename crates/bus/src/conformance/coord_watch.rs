//! Watches.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use super::{Checked, QUIET, Rig, SOON, ensure, same, text, told};
use crate::{Change, Version};

/// What a watcher knows when it believes what it is told.
#[derive(Default)]
pub(super) struct Known(pub(super) BTreeMap<String, (Bytes, Version)>);

impl Known {
    pub(super) fn learn(&mut self, change: Change) -> Checked {
        match change {
            Change::Snapshot(all) => self.0 = all.into_iter().map(|(key, entry)| (key, (entry.value, entry.version))).collect(),
            Change::Put(entry) => {
                if let Some((_, known)) = self.0.get(&entry.key)
                    && *known > entry.version
                {
                    return Err(format!("{} went back from {known:?} to {:?}", entry.key, entry.version));
                }
                self.0.insert(entry.key, (entry.value, entry.version));
            }
            Change::Delete(key) => {
                self.0.remove(&key);
            }
            Change::Lost(why) => return Err(format!("the watch lost the store: {why}")),
        }
        Ok(())
    }

    /// Learns until `enough` is known.
    pub(super) async fn until(&mut self, watch: &mut BoxStream<'static, Change>, within: Duration, what: &str, enough: impl Fn(&Self) -> bool) -> Checked {
        let end = Instant::now() + within;
        while !enough(self) {
            let left = end.saturating_duration_since(Instant::now());
            let change = told(watch, left).await.map_err(|err| format!("{err}, waiting for {what}; known are {:?}", self.0.keys().collect::<Vec<_>>()))?;
            self.learn(change)?;
        }
        Ok(())
    }

    pub(super) fn text(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(|(value, _)| &value[..])
    }
}

async fn snapshot(watch: &mut BoxStream<'static, Change>) -> Result<Vec<String>, String> {
    match told(watch, SOON).await? {
        Change::Snapshot(all) => Ok(all.into_keys().collect()),
        other => Err(format!("a watch began with {other:?}")),
    }
}

pub(super) async fn a_watch_begins_with_everything(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let mut early = coord.watch(&format!("{place}/"));
    same!(snapshot(&mut early).await?, Vec::<String>::new());
    let keys = ["a", "b", "c"].map(|name| format!("{place}/{name}"));
    for key in &keys {
        coord.put(key, Bytes::from_static(b"1")).await.map_err(text)?;
    }
    let mut late = rig.coord().await?.watch(&format!("{place}/"));
    same!(snapshot(&mut late).await?, keys);
    let mut known = Known::default();
    known.until(&mut early, SOON, "three keys", |known| known.0.len() == 3).await
}

pub(super) async fn a_watch_never_misses_the_last_value(rig: &dyn Rig, place: &str) -> Checked {
    let (writer, reader) = (rig.coord().await?, rig.coord().await?);
    let key = format!("{place}/busy");
    let (mut watch, mut known) = (reader.watch(&format!("{place}/")), Known::default());
    for round in 0..5 {
        // Faster than anybody is told: values in between may be skipped.
        let mut last = Version(0);
        for number in 0..40 {
            last = writer.put(&key, Bytes::from(format!("{round}.{number}"))).await.map_err(text)?;
        }
        let end = format!("{round}.39");
        known.until(&mut watch, SOON, "the last of 40 values", |known| known.text(&key) == Some(end.as_bytes())).await?;
        same!(known.0[&key].1, last);
    }
    Ok(())
}

pub(super) async fn a_watch_sees_removals(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let (one, two) = (format!("{place}/one"), format!("{place}/two"));
    let (mut watch, mut known) = (coord.watch(&format!("{place}/")), Known::default());
    for round in 0..3 {
        for key in [&one, &two] {
            coord.put(key, Bytes::from_static(b"1")).await.map_err(text)?;
        }
        known.until(&mut watch, SOON, "both keys", |known| known.0.len() == 2).await?;
        coord.delete(&one, None).await.map_err(text)?;
        known.until(&mut watch, SOON, "the removal of one key", |known| known.0.len() == 1).await?;
        ensure!(known.text(&two).is_some(), "round {round}: the wrong key went");
        // The last one of a prefix: some engines answer an empty prefix with an error.
        coord.delete(&two, None).await.map_err(text)?;
        known.until(&mut watch, SOON, "the removal of the last key", |known| known.0.is_empty()).await?;
    }
    Ok(())
}

pub(super) async fn watches_keep_to_their_prefix(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let (inside, outside) = (format!("{place}/in/key"), format!("{place}/out/key"));
    let mut watch = coord.watch(&format!("{place}/in/"));
    same!(snapshot(&mut watch).await?, Vec::<String>::new());
    for number in 0..5 {
        coord.put(&outside, Bytes::from(number.to_string())).await.map_err(text)?;
    }
    if let Ok(change) = told(&mut watch, QUIET).await {
        return Err(format!("a watch told of a key outside: {change:?}"));
    }
    let version = coord.put(&inside, Bytes::from_static(b"1")).await.map_err(text)?;
    match told(&mut watch, SOON).await? {
        Change::Put(entry) => same!((entry.key, entry.version), (inside, version)),
        other => return Err(format!("{other:?} instead of the key")),
    }
    let mut refused = coord.watch("/leading");
    match told(&mut refused, SOON).await? {
        Change::Lost(_) => Ok(()),
        other => Err(format!("{other:?} instead of a refusal of the prefix")),
    }
}
