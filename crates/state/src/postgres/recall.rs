//! What a state folder remembers of the store its gateway uses, so that another store, a wiped one, or one that fell
//! back to an older state is not taken for the right one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clawstead_world::{Clock, SystemClock, TaskKind};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_postgres::Client;

use super::{
    connect::Connector,
    fault,
    hosts::{MARKER_PROVES, Standing},
};
use crate::TxError;

/// The file in the state folder.
pub const RECALL_FILE: &str = "state-store.json";
/// How often it is brought up to date while something is written; it is behind by that much.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recall {
    /// Where the store was, for people.
    pub place: String,
    /// The store's own id.
    pub store: String,
    /// PostgreSQL's number of the cluster, where it tells.
    #[serde(default)]
    pub system: Option<i64>,
    /// Its timeline, where it tells.
    #[serde(default)]
    pub timeline: Option<u32>,
    /// The writer of the last process.
    pub writer: String,
    /// The last transaction that was confirmed to it.
    pub confirmed: i64,
    /// When this was written, in ms since 1970.
    pub at_ms: u64,
}

impl Recall {
    /// Reads what a state folder remembers; none when there is no such file, or nothing that can be read in it.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        match serde_json::from_slice(&fs::read(path).ok()?) {
            Ok(found) => Some(found),
            Err(err) => {
                tracing::warn!(path = %path.display(), %err, "what the state folder remembers of its store cannot be read, and is written anew");
                None
            }
        }
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let part = path.with_extension("json.part");
        fs::write(&part, serde_json::to_string_pretty(self)? + "\n")?;
        fs::rename(&part, path)
    }

    pub(super) const fn standing(&self) -> Standing {
        Standing { system: self.system, timeline: self.timeline }
    }

    /// Refuses a store that is not the one remembered, or lacks what it confirmed. `id` is none before it has one.
    pub(super) async fn check(&self, connector: &Connector, client: &Client, id: Option<&str>) -> Result<(), TxError> {
        let refuse = |why: String| {
            let why = format!(
                "{} schema {} {why}. Put the right one in place (farm.state.url, farm.state.schema, or its backup), or, if this is the store from now on, say so with `openclaw state trust`",
                connector.name, connector.schema
            );
            TxError::Invalid { what: "the state of this gateway".into(), why }
        };
        let Some(id) = id else {
            return Err(refuse(format!("is empty, but this state folder was used with {}", self.place)));
        };
        if id != self.store {
            return Err(refuse(format!("is another store than the one this state folder was used with ({})", self.place)));
        }
        if self.confirmed == 0 {
            return Ok(());
        }
        let explain = |err| fault::explain(&connector.name, &err, false);
        let row = client.query_opt("SELECT n FROM commit_marker WHERE writer=$1", &[&self.writer]).await.map_err(explain)?;
        let age = Duration::from_millis(now_ms().saturating_sub(self.at_ms));
        match row.map(|row| row.get::<_, i64>(0)) {
            Some(there) if there >= self.confirmed => Ok(()),
            None if age > MARKER_PROVES => Ok(()),
            _ => Err(refuse(
                "lacks writes that it had confirmed to this gateway: an old backup was restored, or a standby without the last writes was promoted".into(),
            )),
        }
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemClock.now().0).unwrap_or(0)
}

/// Keeps the file up to date: now, while something is written, and at the end.
pub(super) fn keep(connector: &Arc<Connector>, path: PathBuf, store: String, mut closed: watch::Receiver<bool>) {
    let (connector, tasks) = (Arc::clone(connector), connector.options.tasks.clone());
    let stop = tasks.stopping();
    tasks.clone().spawn::<_, std::convert::Infallible>(TaskKind::logged("state recall"), async move {
        let (mut told, mut last) = (None::<Recall>, false);
        loop {
            let standing = connector.known.standing();
            let now = Recall {
                place: format!("{} schema {}", connector.name, connector.schema),
                store: store.clone(),
                system: standing.system,
                timeline: standing.timeline,
                writer: connector.known.writer.clone(),
                confirmed: connector.known.confirmed.load(Ordering::Acquire),
                at_ms: told.as_ref().map_or(0, |told| told.at_ms),
            };
            if told.as_ref() != Some(&now) {
                let now = Recall { at_ms: now_ms(), ..now };
                let (fresh, file) = (now.clone(), path.clone());
                match tasks.blocking(move || fresh.write(&file)).await {
                    Some(Ok(())) => told = Some(now),
                    Some(Err(err)) => tracing::warn!(path = %path.display(), %err, "what is known of the state store could not be written down"),
                    None => {}
                }
            }
            if last {
                return Ok(());
            }
            // Once more at the end: closed, or its store was dropped.
            last = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                _ = closed.wait_for(|closed| *closed) => true,
                () = tokio::time::sleep(WRITE_EVERY) => false,
            };
        }
    });
}
