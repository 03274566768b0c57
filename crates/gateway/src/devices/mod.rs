//! Paired devices, their tokens, and requests that wait for an approval. Kept in `Table::Devices` of the global
//! unit, with an index in memory: a connect reads no disk, and writes only when something changed.

mod common;
mod pairing;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use clawstead_state::{Batch, Store, Table, TxError};
use clawstead_terms::{Fence, Unit};
use clawstead_wire::event::PairRequest;
use clawstead_world::World;

pub use common::Gone;
use common::changing;
pub use pairing::{Claim, Decision, Grant, Need, Verdict, store_error};

/// Pending requests at most; a new one above that replaces the oldest.
pub const PENDING_MAX: usize = 100;
/// How long a request waits for an approval, ms.
pub const PENDING_MS: i64 = 5 * 60_000;
/// How old the stored `lastSeen` may be before it is written again, ms.
const SEEN_WRITTEN_EVERY_MS: i64 = 60_000;

/// A token of a device's role.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceToken {
    /// The secret.
    pub token: String,
    /// The role.
    pub role: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was first made.
    pub created_at_ms: i64,
    /// When it was made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at_ms: Option<i64>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<i64>,
}

impl std::fmt::Debug for DeviceToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceToken").field("role", &self.role).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl DeviceToken {
    fn issued_at_ms(&self) -> i64 {
        self.rotated_at_ms.unwrap_or(self.created_at_ms)
    }

    /// As shown in lists: without the secret.
    fn shown(&self) -> Value {
        let mut row = json!({ "role": self.role, "scopes": self.scopes, "createdAtMs": self.created_at_ms });
        for (name, at) in [("rotatedAtMs", self.rotated_at_ms), ("revokedAtMs", self.revoked_at_ms)] {
            if let Some(at) = at {
                row[name] = at.into();
            }
        }
        row
    }
}

/// A device that was approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairedDevice {
    /// Lower-case hex SHA-256 of the public key.
    pub device_id: String,
    /// Raw key, base64url.
    pub public_key: String,
    /// The name its owner gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// As claimed at the approval; a change needs a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// As claimed at the approval; a change needs a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// The program.
    pub client_id: String,
    /// How it connects.
    pub client_mode: String,
    /// The role asked for last.
    pub role: String,
    /// All approved roles.
    pub roles: Vec<String>,
    /// All approved scopes.
    pub scopes: Vec<String>,
    /// `silent` or `owner`.
    pub approved_via: String,
    /// First approval.
    pub created_at_ms: i64,
    /// Last approval.
    pub approved_at_ms: i64,
    /// Last connect.
    pub last_seen_at_ms: i64,
    /// By role.
    #[serde(default)]
    pub tokens: BTreeMap<String, DeviceToken>,
}

impl PairedDevice {
    /// As shown by `device.pair.list`; tokens without their secrets.
    #[must_use]
    pub fn shown(&self, connected: Option<bool>) -> Value {
        let mut row = json!({ "deviceId": self.device_id, "publicKey": self.public_key });
        for (name, text) in [("displayName", &self.display_name), ("platform", &self.platform), ("deviceFamily", &self.device_family)] {
            if let Some(text) = text {
                row[name] = text.as_str().into();
            }
        }
        for (name, value) in [
            ("clientId", json!(self.client_id)),
            ("clientMode", json!(self.client_mode)),
            ("role", json!(self.role)),
            ("roles", json!(self.roles)),
            ("scopes", json!(self.scopes)),
            ("approvedVia", json!(self.approved_via)),
            ("createdAtMs", json!(self.created_at_ms)),
            ("approvedAtMs", json!(self.approved_at_ms)),
            ("lastSeenAtMs", json!(self.last_seen_at_ms)),
            ("lastSeenReason", json!("connect")),
        ] {
            row[name] = value;
        }
        if let Some(connected) = connected {
            row["connected"] = connected.into();
        }
        row["tokens"] = self.tokens.values().filter(|token| token.revoked_at_ms.is_none()).map(DeviceToken::shown).collect();
        row
    }
}

/// A device token as told to the device itself.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The secret.
    pub token: String,
    /// When it was made.
    pub issued_at_ms: i64,
    /// What it may do.
    pub scopes: Vec<String>,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Index {
    paired: BTreeMap<String, PairedDevice>,
    pending: BTreeMap<String, PairRequest>,
    seen_written: BTreeMap<String, i64>,
    /// The version of the row that counts changes, where several gateways make them.
    changes: Option<u64>,
}

/// The register of devices.
pub struct Devices {
    store: Arc<dyn Store>,
    fence: Fence,
    world: World,
    index: Arc<Mutex<Index>>,
    /// One change at a time, so that the index follows the store.
    changes: Arc<tokio::sync::Mutex<()>>,
    /// Who ends connections.
    gone: Arc<OnceLock<Gone>>,
}

impl Devices {
    /// Reads what is stored. `fence` is the one of [`Unit::Global`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>, fence: Fence, world: World) -> Result<Self, TxError> {
        let index = Arc::new(Mutex::new(common::read(&*store).await?));
        let devices = Self { store, fence, index, changes: Arc::default(), gone: Arc::default(), world: world.clone() };
        devices.follow(&world);
        Ok(devices)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> i64 {
        self.world.clock.now().0
    }

    /// A paired device.
    #[must_use]
    pub fn find(&self, device_id: &str) -> Option<PairedDevice> {
        self.lock().paired.get(device_id).cloned()
    }

    /// All paired devices, newest approval first.
    #[must_use]
    pub fn paired(&self) -> Vec<PairedDevice> {
        let mut all: Vec<_> = self.lock().paired.values().cloned().collect();
        all.sort_by_key(|device| std::cmp::Reverse(device.approved_at_ms));
        all
    }

    /// Requests that still wait, newest first.
    #[must_use]
    pub fn pending(&self) -> Vec<PairRequest> {
        let now = self.now();
        let mut all: Vec<_> = self.lock().pending.values().filter(|request| now - request.ts < PENDING_MS).cloned().collect();
        all.sort_by_key(|request| std::cmp::Reverse(request.ts));
        all
    }

    /// The scopes of a device's token, when `token` is it.
    #[must_use]
    pub fn check_token(&self, device_id: &str, role: &str, token: &str) -> Option<Vec<String>> {
        let index = self.lock();
        let held = index.paired.get(device_id)?.tokens.get(role)?;
        let same: bool = held.token.as_bytes().ct_eq(token.as_bytes()).into();
        (same && held.revoked_at_ms.is_none()).then(|| held.scopes.clone())
    }

    /// The device that holds this operator token, for HTTP callers.
    #[must_use]
    pub fn find_by_token(&self, token: &str) -> Option<(String, Vec<String>)> {
        let index = self.lock();
        index.paired.values().find_map(|device| {
            let held = device.tokens.get("operator")?;
            let same: bool = held.token.as_bytes().ct_eq(token.as_bytes()).into();
            (same && held.revoked_at_ms.is_none()).then(|| (device.device_id.clone(), held.scopes.clone()))
        })
    }

    fn new_token(&self) -> String {
        let mut bytes = [0; 32];
        self.world.rng.fill(&mut bytes);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    async fn write_device(&self, device: PairedDevice, drop_pending: Option<&str>) -> Result<(), TxError> {
        let mut batch = Batch::new(Unit::Global).put_json(Table::Devices, format!("device/{}", device.device_id), &device)?;
        if let Some(request_id) = drop_pending {
            batch = batch.delete(Table::Devices, format!("pending/{request_id}"));
        }
        self.commit(batch).await?;
        let mut index = self.lock();
        if let Some(request_id) = drop_pending {
            index.pending.remove(request_id);
        }
        index.paired.insert(device.device_id.clone(), device);
        Ok(())
    }

    /// Notes a connect. The store is told at most once a minute for each device, in the background.
    pub fn seen(self: &Arc<Self>, device_id: &str) {
        let now = self.now();
        let mut index = self.lock();
        let Some(device) = index.paired.get_mut(device_id) else { return };
        device.last_seen_at_ms = now;
        let written = index.seen_written.get(device_id).copied().unwrap_or(i64::MIN);
        if now.saturating_sub(written) < SEEN_WRITTEN_EVERY_MS {
            return;
        }
        index.seen_written.insert(device_id.to_owned(), now);
        drop(index);
        let (devices, id) = (Arc::clone(self), device_id.to_owned());
        self.world.tasks.spawn(clawstead_world::TaskKind::logged("device last seen"), async move {
            changing!(&devices, {
                let Some(mut device) = devices.find(&id) else { return Ok(()) };
                device.last_seen_at_ms = device.last_seen_at_ms.max(now);
                devices.write_device(device, None).await
            })
        });
    }

    /// Names a device. Answers false when it is not paired.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn rename(&self, device_id: &str, label: &str) -> Result<bool, TxError> {
        changing!(self, {
            let Some(mut device) = self.find(device_id) else { return Ok(false) };
            device.display_name = Some(label.to_owned());
            self.write_device(device, None).await?;
            Ok(true)
        })
    }

    /// Forgets a device with its tokens and requests. Answers false when it is not paired.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn remove(&self, device_id: &str) -> Result<bool, TxError> {
        changing!(self, {
            if self.find(device_id).is_none() {
                return Ok(false);
            }
            let requests: Vec<String> = self.lock().pending.values().filter(|r| r.device_id == device_id).map(|r| r.request_id.clone()).collect();
            let mut batch = Batch::new(Unit::Global).delete(Table::Devices, format!("device/{device_id}"));
            for request in &requests {
                batch = batch.delete(Table::Devices, format!("pending/{request}"));
            }
            self.commit(batch).await?;
            let mut index = self.lock();
            index.paired.remove(device_id);
            index.pending.retain(|id, _| !requests.contains(id));
            Ok(true)
        })
    }

    /// Makes a new token for a role, with `scopes` or those of the old one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn rotate(&self, device_id: &str, role: &str, scopes: Option<Vec<String>>) -> Result<Option<IssuedToken>, TxError> {
        changing!(self, {
            let Some(mut device) = self.find(device_id) else { return Ok(None) };
            if !device.roles.iter().any(|r| r == role) {
                return Ok(None);
            }
            let (now, old) = (self.now(), device.tokens.get(role).cloned());
            let token = DeviceToken {
                token: self.new_token(),
                role: role.to_owned(),
                scopes: scopes.clone().or_else(|| old.as_ref().map(|t| t.scopes.clone())).unwrap_or_else(|| device.scopes.clone()),
                created_at_ms: old.map_or(now, |t| t.created_at_ms),
                rotated_at_ms: Some(now),
                revoked_at_ms: None,
            };
            let issued = IssuedToken { token: token.token.clone(), issued_at_ms: now, scopes: token.scopes.clone() };
            device.tokens.insert(role.to_owned(), token);
            self.write_device(device, None).await?;
            Ok(Some(issued))
        })
    }

    /// Revokes the token of a role. Answers when, or nothing where there is no such token.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn revoke(&self, device_id: &str, role: &str) -> Result<Option<i64>, TxError> {
        changing!(self, {
            let Some(mut device) = self.find(device_id) else { return Ok(None) };
            let now = self.now();
            let Some(token) = device.tokens.get_mut(role) else { return Ok(None) };
            token.revoked_at_ms = Some(now);
            self.write_device(device, None).await?;
            Ok(Some(now))
        })
    }
}
