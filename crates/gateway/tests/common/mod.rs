//! Recorded conversations of real clients, and what makes a recorded `connect` work again.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by tests that each use a part; a test ends at the first surprise")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use clawstead_wire::{
    connect::ConnectParams,
    device::{DeviceIdentity, SignedText, signed_text},
};

/// Stands for `<GATEWAY_TOKEN>`.
pub const TOKEN: &str = "test-token";
/// Stands for `<GATEWAY_PASSWORD>`.
pub const PASSWORD: &str = "test-password";

/// One line of a recording.
#[derive(Clone, Debug)]
pub struct Line {
    /// `c2s` or `s2c`.
    pub dir: String,
    /// The frame, or a pseudo frame whose names begin with `__`.
    pub frame: Value,
}

impl Line {
    /// The client sent it.
    pub fn sent(&self) -> bool {
        self.dir == "c2s"
    }
}

/// Where the recordings are.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/golden")
}

/// The names of all recordings, sorted.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder()).unwrap().filter_map(|entry| entry.unwrap().path().file_stem().map(|stem| stem.to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

/// The sockets of a recording, one after the other.
pub fn sockets(name: &str) -> Vec<Vec<Line>> {
    let mut all: Vec<Vec<Line>> = vec![Vec::new()];
    for line in fs::read_to_string(folder().join(format!("{name}.jsonl"))).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let line = Line { dir: line["dir"].as_str().unwrap_or("").to_owned(), frame: line["frame"].clone() };
        let begins = line.frame["event"] == "connect.challenge" && all.last().unwrap().iter().any(|l| l.frame["event"] == "connect.challenge");
        if begins {
            all.push(Vec::new());
        }
        all.last_mut().unwrap().push(line);
    }
    all
}

/// Our key for a device of a recording.
pub fn identity(recorded_id: &str) -> DeviceIdentity {
    DeviceIdentity::from_seed(&Sha256::digest(recorded_id.as_bytes()).into())
}

/// Puts our secrets, key, nonce and times into a recorded `connect`. `old` and `new` are nonce and time of the
/// two challenges; `tokens` are device tokens by recorded device id.
pub fn prepare(name: &str, tokens: &BTreeMap<String, String>, params: &Value, old: (&str, i64), new: (&str, i64)) -> Value {
    let text = params.to_string().replace("<GATEWAY_TOKEN>", TOKEN).replace("<GATEWAY_PASSWORD>", PASSWORD);
    let mut params: Value = serde_json::from_str(&text).unwrap();
    let Some(device) = params.get("device").cloned() else { return params };
    let recorded_id = device["id"].as_str().unwrap();
    let key = identity(recorded_id);
    if let Some(token) = tokens.get(recorded_id)
        && !name.contains("bogus")
    {
        params = serde_json::from_str(&params.to_string().replace("<DEVICE_TOKEN>", token)).unwrap();
    }
    let raw = URL_SAFE_NO_PAD.decode(device["publicKey"].as_str().unwrap()).unwrap();
    let mut proof = device.clone();
    if hex::encode(Sha256::digest(&raw)) == recorded_id {
        proof["id"] = key.id().into();
    }
    proof["publicKey"] = key.public_key().into();
    let signed_at = new.1 + (device["signedAt"].as_i64().unwrap() - old.1);
    // The recorder wrote the challenge's time over the old one of this recording.
    let signed_at = if name.contains("stale-signedAt") { signed_at - 600_000 } else { signed_at };
    proof["signedAt"] = signed_at.into();
    if device["nonce"] == old.0 {
        proof["nonce"] = new.0.into();
    }
    let nonce = proof["nonce"].as_str().unwrap_or("").to_owned();
    params["device"] = proof;
    if let Ok(parsed) = ConnectParams::parse(params.clone()) {
        let version = if name.contains("v2-legacy") { SignedText::V2 } else { SignedText::V3 };
        let id = params["device"]["id"].as_str().unwrap().to_owned();
        let mut signature = key.sign(&signed_text(version, &parsed, &id, signed_at, &nonce));
        if name.contains("bad-signature") {
            signature = key.sign("something else");
        }
        params["device"]["signature"] = signature.into();
    }
    params
}
