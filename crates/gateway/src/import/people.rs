//! Paired devices with their tokens, and the allow lists of commands.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clawstead_tools::approvals::ApprovalsFile;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{convert::moment, database::Database};
use crate::devices::{DeviceToken, PairedDevice};

/// Devices of `devices/paired.json`: an object by device id, or a list.
pub fn devices(file: &Value, skipped: &mut Vec<String>) -> Vec<PairedDevice> {
    let all: Vec<&Value> = match file {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    };
    all.into_iter().filter_map(|one| device(one, skipped)).collect()
}

/// Devices of the shared database.
///
/// # Errors
/// When its table cannot be read.
pub fn devices_of(database: &Database, skipped: &mut Vec<String>) -> Result<Vec<PairedDevice>, String> {
    if !database.has("device_pairing_paired") {
        return Ok(Vec::new());
    }
    let names = ["device_id", "public_key", "display_name", "platform", "device_family", "client_id", "client_mode", "role", "approved_via"];
    let objects = ["roles_json", "scopes_json", "approved_scopes_json", "tokens_json"];
    let numbers = ["created_at_ms", "approved_at_ms", "last_seen_at_ms"];
    let sql = format!("select {}, {}, {} from device_pairing_paired", names.join(", "), objects.join(", "), numbers.join(", "));
    let camel = ["deviceId", "publicKey", "displayName", "platform", "deviceFamily", "clientId", "clientMode", "role", "approvedVia"];
    let rows = database.rows(&sql, |row| {
        let mut one = json!({});
        for (at, name) in camel.iter().enumerate() {
            one[*name] = json!(row.get::<_, Option<String>>(at)?);
        }
        for (at, name) in ["roles", "scopes", "approvedScopes", "tokens"].iter().enumerate() {
            let text = row.get::<_, Option<String>>(names.len() + at)?.unwrap_or_default();
            one[*name] = serde_json::from_str(&text).unwrap_or(Value::Null);
        }
        for (at, name) in ["createdAtMs", "approvedAtMs", "lastSeenAtMs"].iter().enumerate() {
            one[*name] = json!(row.get::<_, Option<i64>>(names.len() + objects.len() + at)?);
        }
        Ok(one)
    })?;
    Ok(rows.iter().filter_map(|one| device(one, skipped)).collect())
}

fn device(one: &Value, skipped: &mut Vec<String>) -> Option<PairedDevice> {
    let word = |name: &str| one.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let (id, public_key) = (word("deviceId")?, word("publicKey")?);
    let raw = URL_SAFE_NO_PAD.decode(public_key.trim_end_matches('='));
    if raw.is_err() || raw.is_ok_and(|raw| raw.len() != 32 || hex::encode(Sha256::digest(&raw)) != id) {
        skipped.push(format!("device {}: its id does not belong to its key", id.chars().take(16).collect::<String>()));
        return None;
    }
    let role = word("role").unwrap_or_else(|| "operator".into());
    let roles = words(one.get("roles")).filter(|roles| !roles.is_empty()).unwrap_or_else(|| vec![role.clone()]);
    let scopes = words(one.get("approvedScopes")).filter(|s| !s.is_empty()).or_else(|| words(one.get("scopes"))).unwrap_or_default();
    let created = moment(one.get("createdAtMs")).map_or(0, |at| at.0);
    let approved = moment(one.get("approvedAtMs")).map_or(created, |at| at.0);
    let mut tokens = BTreeMap::new();
    for (name, token) in one.get("tokens").and_then(Value::as_object).into_iter().flatten() {
        let Some(secret) = token.get("token").and_then(Value::as_str).filter(|secret| !secret.is_empty()) else { continue };
        let made = DeviceToken {
            token: secret.to_owned(),
            role: name.clone(),
            scopes: words(token.get("scopes")).unwrap_or_default(),
            created_at_ms: moment(token.get("createdAtMs")).map_or(created, |at| at.0),
            rotated_at_ms: moment(token.get("rotatedAtMs")).map(|at| at.0),
            revoked_at_ms: moment(token.get("revokedAtMs")).map(|at| at.0),
        };
        tokens.insert(name.clone(), made);
    }
    Some(PairedDevice {
        device_id: id,
        public_key,
        display_name: word("displayName"),
        platform: word("platform"),
        device_family: word("deviceFamily"),
        client_id: word("clientId").unwrap_or_else(|| "cli".into()),
        client_mode: word("clientMode").unwrap_or_else(|| "cli".into()),
        role,
        roles,
        scopes,
        approved_via: word("approvedVia").unwrap_or_else(|| "owner".into()),
        created_at_ms: created,
        approved_at_ms: approved,
        last_seen_at_ms: moment(one.get("lastSeenAtMs")).map_or(approved, |at| at.0),
        tokens,
    })
}

fn words(value: Option<&Value>) -> Option<Vec<String>> {
    Some(value?.as_array()?.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect())
}

/// The allow lists, when they have the known form.
///
/// # Errors
/// With the line where they have not.
pub fn approvals(text: &str) -> Result<ApprovalsFile, String> {
    serde_json::from_str(text).map_err(|e| format!("it does not have the known form (line {})", e.line()))
}
