//! Watches: a list, then the keys that are told to have changed. After a gap, a list again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError, error::TryRecvError},
        watch,
    },
    time::sleep,
};

use super::{
    coord::{list, some},
    link::Link,
    listen::{Line, Listener},
};
use crate::{Change, CoordError, Entry, Version, rules};

/// Pause after a list that failed while changes are heard of.
const PAUSE: Duration = Duration::from_millis(250);

/// What a watcher knows.
enum Sees {
    Nothing,
    Lost,
    /// These versions, heard of on this connection of the listener.
    Keys(u64, BTreeMap<String, Version>),
}

struct Watch {
    link: Arc<Link>,
    prefix: String,
    line: watch::Receiver<Line>,
    keys: broadcast::Receiver<String>,
    sees: Sees,
    told: VecDeque<Change>,
}

/// Follows everything below the prefix.
pub(super) fn watch(link: Arc<Link>, listener: &Arc<Listener>, prefix: &str) -> BoxStream<'static, Change> {
    if let Err(err) = rules::prefix(prefix) {
        return stream::iter([Change::Lost(err.to_string())]).chain(stream::pending()).boxed();
    }
    let (line, keys) = listener.hear();
    let watch = Watch { link, prefix: prefix.to_owned(), line, keys, sees: Sees::Nothing, told: VecDeque::new() };
    stream::unfold(watch, async |mut watch| {
        let change = watch.next().await?;
        Some((change, watch))
    })
    .boxed()
}

impl Watch {
    async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.told.pop_front() {
                return Some(change);
            }
            let line = self.line.borrow_and_update().clone();
            let outcome = match line {
                Line::Starting => {
                    // The sender lives as long as the process listens; without it nothing is told any more.
                    self.line.changed().await.ok()?;
                    Ok(())
                }
                Line::Down(err) if matches!(self.sees, Sees::Lost) => {
                    tracing::debug!(%err, "the farm's database is still away");
                    self.line.changed().await.ok()?;
                    Ok(())
                }
                Line::Down(err) => Err(err),
                Line::Up(number) if matches!(self.sees, Sees::Keys(known, _) if known == number) => self.follow().await,
                Line::Up(number) => self.read_all(number).await,
            };
            if let Err(err) = outcome {
                if matches!(self.sees, Sees::Lost) {
                    sleep(PAUSE).await;
                } else {
                    self.sees = Sees::Lost;
                    self.told.push_back(Change::Lost(err.to_string()));
                }
            }
        }
    }

    /// Lists everything. What is told from before the list is thrown away first, so that nothing in between is missed.
    async fn read_all(&mut self, number: u64) -> Result<(), CoordError> {
        self.keys = self.keys.resubscribe();
        let now: BTreeMap<String, Entry> = list(&self.link, &self.prefix).await?.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        self.sees = Sees::Keys(number, now.iter().map(|(key, entry)| (key.clone(), entry.version)).collect());
        self.told.push_back(Change::Snapshot(now));
        Ok(())
    }

    /// Waits for changed keys and reads them.
    async fn follow(&mut self) -> Result<(), CoordError> {
        let first = tokio::select! {
            biased;
            _ = self.line.changed() => return Ok(()),
            first = self.keys.recv() => first,
        };
        let mut changed = BTreeSet::new();
        let mut next = first.map_err(|err| matches!(err, RecvError::Lagged(_)));
        loop {
            match next {
                Ok(key) if key.starts_with(&self.prefix) => drop(changed.insert(key)),
                Ok(_) => {}
                Err(true) => {
                    // Too far behind to know what changed: everything again, as after a gap.
                    self.sees = Sees::Nothing;
                    return Ok(());
                }
                Err(false) => break,
            }
            next = self.keys.try_recv().map_err(|err| matches!(err, TryRecvError::Lagged(_)));
        }
        if changed.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = changed.into_iter().collect();
        let found = some(&self.link, &keys).await?;
        let Sees::Keys(_, known) = &mut self.sees else { return Ok(()) };
        let mut gone: BTreeSet<String> = keys.into_iter().collect();
        for entry in found {
            gone.remove(&entry.key);
            if known.insert(entry.key.clone(), entry.version) != Some(entry.version) {
                self.told.push_back(Change::Put(entry));
            }
        }
        self.told.extend(gone.into_iter().filter(|key| known.remove(key).is_some()).map(Change::Delete));
        Ok(())
    }
}
