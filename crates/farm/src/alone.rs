//! One name, one gateway: a second process with the name of one that runs is refused before it writes anything.
//!
//! A lease that is renewed while we watch belongs to somebody who lives. After a crash the old lease is still there, and
//! nobody renews it; so that a restart need not watch, each start notes its lease in the state folder, whose lock proves
//! that the process before is dead. The note counts on the machine and for the folder it was written for only: a copy of a
//! running gateway's folder does not speak for it.

use std::{fs, path::PathBuf, time::Duration};

use clawstead_bus::{Coord, CoordError};
use clawstead_cluster::directory::{GATEWAYS, MemberRecord};
use serde::{Deserialize, Serialize};

use crate::key_files::KeyFolder;

/// Looks in one renewal of a lease.
const LOOKS: u32 = 4;
/// Renewals that are waited for.
const RENEWALS: u32 = 2;
/// What names this boot of this machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The note of a start.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    nonce: String,
    boot: String,
    folder: PathBuf,
}

fn place(folder: &KeyFolder) -> Option<(String, PathBuf)> {
    let boot = fs::read_to_string(BOOT_ID).ok()?.trim().to_owned();
    let path = folder.folder().canonicalize().ok()?;
    (!boot.is_empty()).then_some((boot, path))
}

/// Notes that this process renews the lease with this nonce. Without the note the next start only watches a little.
pub(crate) fn note(folder: &KeyFolder, nonce: &str) {
    let Some((boot, path)) = place(folder) else { return };
    let note = Note { nonce: nonce.to_owned(), boot, folder: path };
    let written = serde_json::to_vec(&note).map_err(std::io::Error::other).and_then(|text| fs::write(folder.lease(), text));
    if let Err(err) = written {
        tracing::debug!(%err, "the lease could not be noted; the next start watches it");
    }
}

/// True when the lease with this nonce was a process of this folder, which is dead: we have its lock.
fn was_ours(folder: &KeyFolder, nonce: &str) -> bool {
    let read = || -> Option<Note> { serde_json::from_slice(&fs::read(folder.lease()).ok()?).ok() };
    match (read(), place(folder)) {
        (Some(note), Some((boot, path))) => note == Note { nonce: nonce.to_owned(), boot, folder: path },
        _ => false,
    }
}

/// Whether somebody else runs under this name; what it says of itself.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn taken(coord: &dyn Coord, gateway: &str, folder: Option<&KeyFolder>, renew: Duration) -> Result<Option<MemberRecord>, CoordError> {
    let key = MemberRecord::store_key(gateway);
    let lease = async || -> Result<Option<MemberRecord>, CoordError> { Ok(coord.get(&key).await?.and_then(|entry| serde_json::from_slice(&entry.value).ok())) };
    let Some(first) = lease().await? else { return Ok(None) };
    let stopped = coord.get(&format!("{GATEWAYS}{gateway}/status")).await?.is_some_and(|entry| &entry.value[..] == b"stopped");
    if stopped || folder.is_some_and(|folder| was_ours(folder, &first.nonce)) {
        return Ok(None);
    }
    for _ in 0..LOOKS * RENEWALS + 1 {
        tokio::time::sleep(renew / LOOKS).await;
        match lease().await? {
            Some(now) if now != first => return Ok(Some(now)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clawstead_bus::memory::Memory;

    use super::*;

    fn record(nonce: &str, beat: u64) -> MemberRecord {
        MemberRecord { incarnation: 1, nonce: nonce.into(), load: 0, version: "1".into(), peer: None, beat, state_lost: false }
    }

    fn bytes(record: &MemberRecord) -> Bytes {
        serde_json::to_vec(record).unwrap().into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_renewed_is_somebodys_and_one_that_is_not_is_nobodys() {
        let (memory, renew) = (Memory::new(), Duration::from_secs(1));
        let coord = memory.coord("second");
        let look = async |folder: Option<&KeyFolder>| taken(&*coord, "jerry-gateway", folder, renew).await.unwrap();
        assert_eq!(look(None).await, None, "nobody was there ever");
        let key = MemberRecord::store_key("jerry-gateway");
        coord.put(&key, bytes(&record("a", 7))).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(look(None).await, None, "whoever it was is dead");
        assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
        let (first, other) = (memory.coord("first"), key.clone());
        let renews = tokio::spawn(async move {
            for beat in 8..100 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                first.put(&other, bytes(&record("a", beat))).await.unwrap();
            }
        });
        assert_eq!(look(None).await.map(|lease| lease.nonce).as_deref(), Some("a"));
        // The process before of this folder: known at once, its lock is ours. Another folder's note says nothing.
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = KeyFolder::of(dir.path());
        fs::create_dir_all(folder.folder()).unwrap();
        note(&folder, "a");
        let began = tokio::time::Instant::now();
        assert_eq!(look(Some(&folder)).await, None);
        assert!(began.elapsed() < Duration::from_millis(100));
        let copied = KeyFolder::of(copy.path());
        fs::create_dir_all(copied.folder()).unwrap();
        fs::copy(folder.lease(), copied.lease()).unwrap();
        assert!(look(Some(&copied)).await.is_some(), "a copy of a running gateway's folder is refused");
        renews.abort();
    }
}
