//! This program's key pair and the tokens that gateways gave it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use clawstead_wire::device::DeviceIdentity;
use clawstead_world::{Rng as _, SystemRng};
use serde_json::{Value, json};

use crate::format::now_ms;

fn identity_file(state: &Path) -> PathBuf {
    state.join("identity/device.json")
}

fn tokens_file(state: &Path) -> PathBuf {
    state.join("identity/device-auth.json")
}

/// Our key pair, made at the first use.
///
/// # Errors
/// In words, when the file cannot be read or made.
pub fn identity(state: &Path) -> Result<DeviceIdentity, String> {
    let path = identity_file(state);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let value: Value = serde_json::from_str(&text).map_err(|err| format!("{}: {err}", path.display()))?;
            let pem = value.get("privateKeyPem").and_then(Value::as_str).ok_or_else(|| format!("{}: privateKeyPem is missing", path.display()))?;
            DeviceIdentity::from_pem(pem).map_err(|err| format!("{}: {err}", path.display()))
        }
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            SystemRng.fill(&mut seed);
            let made = DeviceIdentity::from_seed(&seed);
            let private = made.private_pem().map_err(|err| err.to_string())?;
            let public = made.public_pem().map_err(|err| err.to_string())?;
            let file = json!({"version": 1, "deviceId": made.id(), "publicKeyPem": public, "privateKeyPem": private, "createdAtMs": now_ms()});
            write_private(&path, &(serde_json::to_string_pretty(&file).unwrap_or_default() + "\n")).map_err(|err| format!("{}: {err}", path.display()))?;
            Ok(made)
        }
        Err(err) => Err(format!("{}: {err}", path.display())),
    }
}

/// A new shared token: 48 hex digits.
#[must_use]
pub fn new_token() -> String {
    let mut bytes = [0; 24];
    SystemRng.fill(&mut bytes);
    hex::encode(bytes)
}

/// A new id for runs and idempotency keys.
#[must_use]
pub fn new_id() -> String {
    SystemRng.uuid()
}

/// The token that a gateway gave this device as an operator.
#[must_use]
pub fn token(state: &Path, device: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(&fs::read(tokens_file(state)).ok()?).ok()?;
    if value.get("deviceId")?.as_str()? != device {
        return None;
    }
    Some(value.pointer("/tokens/operator/token")?.as_str()?.to_owned())
}

/// Keeps a token for the next time. A failure only costs a new pairing.
pub fn keep_token(state: &Path, device: &str, token: &str, scopes: &[String]) {
    let file =
        json!({"version": 1, "deviceId": device, "tokens": {"operator": {"token": token, "role": "operator", "scopes": scopes, "updatedAtMs": now_ms()}}});
    if let Err(err) = write_private(&tokens_file(state), &(serde_json::to_string_pretty(&file).unwrap_or_default() + "\n")) {
        tracing::debug!(%err, "the device token could not be kept");
    }
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// From the disk.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    if let Some(dir) = path.parent().filter(|d| !d.is_dir()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let part = path.with_extension(format!("part.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)
}
