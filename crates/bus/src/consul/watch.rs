//! Watches: blocking queries by Consul's rules.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http::StatusCode;
use tokio::{sync::watch, time::sleep};

use super::{
    client::{Answer, Ask, Client, Fault, in_path},
    coord,
};
use crate::{Change, Entry, Version, coord::REQUEST_TIMEOUT, rules};

/// Consul answers a question about a prefix that has no keys at every write of any key. Not sooner than this, then.
const EMPTY_PAUSE: Duration = Duration::from_millis(100);

/// A blocking question about everything below a prefix, asked again and again.
pub(super) struct Blocking {
    client: Arc<Client>,
    preferred: watch::Receiver<usize>,
    path: String,
    wait: Duration,
    index: u64,
    /// How many answers in a row said that there is nothing.
    empty: u32,
}

impl Blocking {
    /// `kind` is `recurse` or `keys`.
    pub(super) fn new(client: Arc<Client>, prefix: &str, kind: &str, wait: Duration) -> Self {
        let preferred = client.preferred();
        Self { path: format!("/v1/kv/{}?{kind}", in_path(prefix)), preferred, client, wait, index: 0, empty: 0 }
    }

    /// The next answer, as soon as something changed or the wait is over. `Err` when no server answers; then the next
    /// call asks for everything at once.
    pub(super) async fn next(&mut self) -> Result<Answer, Fault> {
        let mut failed = 0;
        if self.empty > 1 {
            sleep(EMPTY_PAUSE).await;
        }
        loop {
            let server = *self.preferred.borrow_and_update();
            let ask = Ask::get(format!("{}&index={}&wait={}ms", self.path, self.index, self.wait.as_millis()));
            // Consul adds up to a sixteenth of the wait, so that watches do not come back all at once.
            let limit = if self.index == 0 { REQUEST_TIMEOUT } else { self.wait + self.wait / 16 + REQUEST_TIMEOUT };
            let outcome = tokio::select! {
                biased;
                outcome = self.client.ask_one(server, &ask, limit) => outcome,
                // Another request found that this server hangs. Indexes are those of the cluster: go on elsewhere.
                _ = self.preferred.changed() => continue,
            };
            match outcome {
                Ok(answer) => {
                    // Backwards after a restored snapshot, or when traces of removed keys were forgotten.
                    self.index = if answer.index < self.index { 0 } else { answer.index };
                    if self.index == 0 {
                        // The next question does not block.
                        self.client.jitter().await;
                    }
                    self.empty = if answer.status == StatusCode::NOT_FOUND { self.empty.saturating_add(1) } else { 0 };
                    return Ok(answer);
                }
                Err(fault) => {
                    failed += 1;
                    if failed >= self.client.count() {
                        self.index = 0;
                        return Err(fault);
                    }
                    self.client.jitter().await;
                }
            }
        }
    }
}

/// What a watcher knows.
enum Sees {
    Nothing,
    Lost,
    Keys(BTreeMap<String, Version>),
}

struct Watch {
    client: Arc<Client>,
    blocking: Blocking,
    sees: Sees,
    told: VecDeque<Change>,
    /// Failures in a row.
    failures: u32,
}

/// Follows everything below the prefix.
pub(super) fn watch(client: Arc<Client>, prefix: &str, wait: Duration) -> BoxStream<'static, Change> {
    if let Err(err) = rules::prefix(prefix) {
        return stream::iter([Change::Lost(err.to_string())]).chain(stream::pending()).boxed();
    }
    let blocking = Blocking::new(client.clone(), prefix, "recurse", wait);
    let watch = Watch { client, blocking, sees: Sees::Nothing, told: VecDeque::new(), failures: 0 };
    stream::unfold(watch, async |mut watch| {
        let change = watch.next().await;
        Some((change, watch))
    })
    .boxed()
}

impl Watch {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.told.pop_front() {
                return change;
            }
            let read = match self.blocking.next().await {
                Ok(answer) => coord::entries(&self.client, &answer),
                Err(fault) => Err(fault.err),
            };
            match read {
                Ok(entries) => {
                    self.failures = 0;
                    self.learn(entries);
                }
                Err(err) => {
                    if !matches!(self.sees, Sees::Lost) {
                        self.sees = Sees::Lost;
                        self.told.push_back(Change::Lost(err.to_string()));
                    } else {
                        self.failures = self.failures.saturating_add(1);
                        self.client.pause(self.failures, &err).await;
                    }
                }
            }
        }
    }

    fn learn(&mut self, entries: Vec<Entry>) {
        let now: BTreeMap<String, Entry> = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
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
