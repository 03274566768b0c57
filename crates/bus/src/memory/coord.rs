//! The keys.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::{Instant, sleep};

use super::{ENGINE, Fate, Hub, Inner, Part, Registered, WatchFate};
use crate::{CasError, Change, Check, Coord, CoordError, Entry, Member, Op, Version, coord::REQUEST_TIMEOUT, rules};

pub(super) struct MemoryCoord {
    hub: Arc<Hub>,
    who: String,
}

impl MemoryCoord {
    pub(super) fn new(hub: Arc<Hub>, who: &str) -> Self {
        Self { hub, who: who.to_owned() }
    }

    /// Does a request as its fate says. The error of a write does not tell whether it happened.
    async fn request<T>(&self, work: impl FnOnce(&mut Inner) -> T + Send) -> Result<T, CoordError> {
        let answered = match self.hub.fate(&self.who, Part::Coord) {
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
        answered.ok_or_else(|| CoordError::Unavailable { engine: ENGINE, at: self.who.clone(), why: "no answer in time".into() })
    }

    async fn cas<T: Send>(&self, work: impl FnOnce(&mut Inner) -> Result<T, CasError> + Send) -> Result<T, CasError> {
        self.request(work).await.unwrap_or_else(|err| Err(CasError::Unknown(err)))
    }
}

impl Inner {
    fn version(&self, key: &str) -> Option<Version> {
        self.keys.get(key).map(|(_, version)| *version)
    }

    fn check(&self, key: &str, expect: Option<Version>) -> Result<(), CasError> {
        if self.version(key) == expect { Ok(()) } else { Err(CasError::Conflict { key: key.to_owned() }) }
    }

    fn set(&mut self, key: &str, value: Bytes) -> Version {
        self.version += 1;
        self.writes += 1;
        let version = Version(self.version);
        self.keys.insert(key.to_owned(), (value, version));
        version
    }

    fn remove(&mut self, key: &str) {
        self.writes += u64::from(self.keys.remove(key).is_some());
    }

    fn below(&self, prefix: &str) -> impl Iterator<Item = (&String, &(Bytes, Version))> {
        self.keys.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

fn entry((key, (value, version)): (&String, &(Bytes, Version))) -> Entry {
    Entry { key: key.clone(), value: value.clone(), version: *version }
}

#[async_trait]
impl Coord for MemoryCoord {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordError> {
        rules::key(key)?;
        self.request(|inner| inner.keys.get_key_value(key).map(entry)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, CoordError> {
        rules::prefix(prefix)?;
        self.request(|inner| inner.below(prefix).map(entry).collect()).await
    }

    async fn put_if(&self, key: &str, value: Bytes, expect: Option<Version>) -> Result<Version, CasError> {
        rules::key(key)?;
        rules::value(key, value.len())?;
        self.cas(|inner| {
            inner.check(key, expect)?;
            Ok(inner.set(key, value))
        })
        .await
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Version, CoordError> {
        rules::key(key)?;
        rules::value(key, value.len())?;
        self.request(|inner| inner.set(key, value)).await
    }

    async fn txn(&self, checks: &[Check], ops: &[Op]) -> Result<(), CasError> {
        rules::txn(checks, ops)?;
        self.cas(|inner| {
            for check in checks {
                inner.check(&check.key, check.expect)?;
            }
            for op in ops {
                match op {
                    Op::Put { key, value } => {
                        inner.set(key, value.clone());
                    }
                    Op::Delete { key } => {
                        inner.remove(key);
                    }
                }
            }
            Ok(())
        })
        .await
    }

    async fn delete(&self, key: &str, expect: Option<Version>) -> Result<(), CasError> {
        rules::key(key)?;
        self.cas(|inner| {
            if let (Some(_), Some(_)) = (expect, inner.version(key)) {
                inner.check(key, expect)?;
            }
            inner.remove(key);
            Ok(())
        })
        .await
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Change> {
        if let Err(err) = rules::prefix(prefix) {
            return stream::iter([Change::Lost(err.to_string())]).chain(stream::pending()).boxed();
        }
        let changed = self.hub.changed.listen();
        let watch = Watch { hub: self.hub.clone(), who: self.who.clone(), prefix: prefix.to_owned(), changed, sees: Sees::Nothing, told: VecDeque::new() };
        stream::unfold(watch, async |mut watch| {
            let change = watch.next().await?;
            Some((change, watch))
        })
        .boxed()
    }

    async fn register(&self, me: &Member) -> Result<(), CoordError> {
        self.request(|inner| {
            let place = inner.members.entry((me.service.clone(), me.id.clone()));
            place.and_modify(|known| known.member = me.clone()).or_insert_with(|| Registered { member: me.clone(), note: String::new(), beat: None });
        })
        .await
    }

    async fn beat(&self, me: &Member, note: &str) -> Result<(), CoordError> {
        self.request(|inner| {
            inner.members.insert((me.service.clone(), me.id.clone()), Registered { member: me.clone(), note: note.to_owned(), beat: Some(Instant::now()) });
        })
        .await
    }

    async fn deregister(&self, me: &Member) -> Result<(), CoordError> {
        self.request(|inner| {
            inner.members.remove(&(me.service.clone(), me.id.clone()));
        })
        .await
    }
}

/// What a watcher knows.
enum Sees {
    /// Not even the first snapshot.
    Nothing,
    /// It was told that the store is away.
    Lost,
    /// These versions.
    Keys(BTreeMap<String, Version>),
}

struct Watch {
    hub: Arc<Hub>,
    who: String,
    prefix: String,
    changed: clawstead_world::Ear,
    sees: Sees,
    told: VecDeque<Change>,
}

impl Watch {
    async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.told.pop_front() {
                return Some(change);
            }
            // Marked as seen before looking, so that a change in between wakes us.
            self.changed.mark_unchanged();
            self.look();
            if self.told.is_empty() {
                // The sender lives in the hub that we hold.
                self.changed.changed().await.ok()?;
                let delay = self.hub.faults.watch_delay(&self.who);
                if !delay.is_zero() {
                    sleep(delay).await;
                }
            }
        }
    }

    fn look(&mut self) {
        if self.hub.is_cut(&self.who, Part::Coord) {
            if !matches!(self.sees, Sees::Lost) {
                self.sees = Sees::Lost;
                self.told.push_back(Change::Lost("no answer in time".into()));
            }
            return;
        }
        match self.hub.faults.watch(&self.who) {
            WatchFate::Told => {}
            WatchFate::Again => self.sees = Sees::Nothing,
            WatchFate::Lost => {
                self.sees = Sees::Lost;
                self.told.push_back(Change::Lost("the watch broke".into()));
            }
        }
        let inner = self.hub.lock();
        let now: BTreeMap<String, Entry> = inner.below(&self.prefix).map(|at| (at.0.clone(), entry(at))).collect();
        drop(inner);
        let versions = now.iter().map(|(key, entry)| (key.clone(), entry.version)).collect();
        match std::mem::replace(&mut self.sees, Sees::Keys(versions)) {
            Sees::Nothing | Sees::Lost => self.told.push_back(Change::Snapshot(now)),
            Sees::Keys(known) => {
                self.told.extend(known.keys().filter(|key| !now.contains_key(*key)).cloned().map(Change::Delete));
                self.told.extend(now.into_values().filter(|entry| known.get(&entry.key) != Some(&entry.version)).map(Change::Put));
            }
        }
    }
}
