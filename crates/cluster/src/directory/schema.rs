use std::collections::BTreeMap;

use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};

use crate::format_stamp;

/// Where gateways are published.
pub const GATEWAYS: &str = "openclaw/gateways/";
/// Where agents are published.
pub const AGENTS: &str = "openclaw/agents/";
/// Where the farm as a whole is published.
pub const CLUSTER: &str = "openclaw/cluster/";
/// Where leases are renewed.
pub const MEMBERS: &str = "openclaw/farm/v1/members/";
/// Where key records lie.
pub const KEYS: &str = "openclaw/farm/v1/keys/";

/// A key and its value, to be written.
pub type Pair = (String, Vec<u8>);

/// A moment as the published schema writes it: UTC, to the second, `2026-02-16T12:00:00Z`.
#[must_use]
pub fn published_stamp(at: Millis) -> String {
    let text = format_stamp(at);
    format!("{}Z", &text[..19])
}

/// `openclaw/cluster/{id,members,deployment}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterEntry {
    /// The farm.
    pub id: Option<String>,
    /// Gateways that are meant to be there.
    pub members: Vec<String>,
    /// For people: `option-3-hybrid`.
    pub deployment: Option<String>,
}

/// `openclaw/gateways/<gw>/{url,agents,status,last_heartbeat}`: written by the gateway every 10 s and on change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayEntry {
    /// Where clients and peers reach it: `wss://jerry.tailscale:18789`.
    pub url: Option<String>,
    /// The agents that live there.
    pub agents: Vec<String>,
    /// `healthy`, `degraded`, `stopping`, `stopped`: what it says of itself.
    pub status: Option<String>,
    /// Its own clock. Shown, never compared.
    pub last_heartbeat: Option<String>,
}

/// `openclaw/agents/<id>/...`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentEntry {
    /// Where it lives.
    pub gateway: Option<String>,
    /// What it can be asked for.
    pub capabilities: Vec<String>,
    /// `active`, `online`, `idle`, ...
    pub status: Option<String>,
    /// Whether it looks after things by itself.
    pub heartbeat_enabled: Option<bool>,
    /// When it looked last.
    pub last_check: Option<String>,
    /// What it found.
    pub last_check_result: Option<String>,
    /// What it warned of last.
    pub last_alert: Option<String>,
    /// Which model it uses.
    pub model_provider: Option<String>,
}

/// `openclaw/farm/v1/members/<gw>`: the lease. `beat` grows with every renewal, so that each one is a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Grows with each start of the gateway.
    pub incarnation: u64,
    /// Made anew at each start: two processes with one name have two.
    pub nonce: String,
    /// How busy it is, in thousandths.
    #[serde(default)]
    pub load: u32,
    /// The version it runs.
    #[serde(default)]
    pub version: String,
    /// Where peers reach it, `host:port`; none when it only dials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Grows with each renewal.
    #[serde(default)]
    pub beat: u64,
    /// True while the shared state store does not answer it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub state_lost: bool,
}

impl MemberRecord {
    /// Where the lease of `gateway` lies.
    #[must_use]
    pub fn store_key(gateway: &str) -> String {
        format!("{MEMBERS}{gateway}")
    }
}

impl ClusterEntry {
    /// The keys of this entry.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        let mut out = Vec::new();
        put(&mut out, CLUSTER, "id", self.id.as_deref());
        out.push((format!("{CLUSTER}members"), list(&self.members)));
        put(&mut out, CLUSTER, "deployment", self.deployment.as_deref());
        out
    }

    pub(super) fn read(&mut self, field: &str, value: Option<&[u8]>) -> Result<(), &'static str> {
        match field {
            "id" => self.id = text(value)?,
            "members" => self.members = names(value)?,
            "deployment" => self.deployment = text(value)?,
            _ => {}
        }
        Ok(())
    }
}

impl GatewayEntry {
    /// The keys of this entry.
    #[must_use]
    pub fn pairs(&self, gateway: &str) -> Vec<Pair> {
        let (mut out, base) = (Vec::new(), format!("{GATEWAYS}{gateway}/"));
        put(&mut out, &base, "url", self.url.as_deref());
        out.push((format!("{base}agents"), list(&self.agents)));
        put(&mut out, &base, "status", self.status.as_deref());
        put(&mut out, &base, "last_heartbeat", self.last_heartbeat.as_deref());
        out
    }

    pub(super) fn read(&mut self, field: &str, value: Option<&[u8]>) -> Result<(), &'static str> {
        match field {
            "url" => self.url = text(value)?,
            "agents" => self.agents = names(value)?,
            "status" => self.status = text(value)?,
            "last_heartbeat" => self.last_heartbeat = text(value)?,
            _ => {}
        }
        Ok(())
    }
}

impl AgentEntry {
    /// The keys of this entry.
    #[must_use]
    pub fn pairs(&self, agent: &str) -> Vec<Pair> {
        let (mut out, base) = (Vec::new(), format!("{AGENTS}{agent}/"));
        put(&mut out, &base, "gateway", self.gateway.as_deref());
        out.push((format!("{base}capabilities"), list(&self.capabilities)));
        put(&mut out, &base, "status", self.status.as_deref());
        put(&mut out, &base, "heartbeat_enabled", self.heartbeat_enabled.map(|on| if on { "true" } else { "false" }));
        for (field, value) in [
            ("last_check", &self.last_check),
            ("last_check_result", &self.last_check_result),
            ("last_alert", &self.last_alert),
            ("model_provider", &self.model_provider),
        ] {
            put(&mut out, &base, field, value.as_deref());
        }
        out
    }

    pub(super) fn read(&mut self, field: &str, value: Option<&[u8]>) -> Result<(), &'static str> {
        match field {
            "gateway" => self.gateway = text(value)?,
            "capabilities" => self.capabilities = names(value)?,
            "status" => self.status = text(value)?,
            "heartbeat_enabled" => {
                self.heartbeat_enabled = match text(value)?.as_deref() {
                    None => None,
                    Some("true") => Some(true),
                    Some("false") => Some(false),
                    Some(_) => return Err("is neither true nor false"),
                }
            }
            "last_check" => self.last_check = text(value)?,
            "last_check_result" => self.last_check_result = text(value)?,
            "last_alert" => self.last_alert = text(value)?,
            "model_provider" => self.model_provider = text(value)?,
            _ => {}
        }
        Ok(())
    }
}

fn put(out: &mut Vec<Pair>, base: &str, field: &str, value: Option<&str>) {
    if let Some(value) = value {
        out.push((format!("{base}{field}"), value.as_bytes().to_vec()));
    }
}

fn list(names: &[String]) -> Vec<u8> {
    serde_json::to_vec(names).unwrap_or_default()
}

/// A plain text; one in JSON quotes, as some scripts write it, is the same text.
fn text(value: Option<&[u8]>) -> Result<Option<String>, &'static str> {
    const TEXT_MAX: usize = 4096;
    let Some(value) = value else { return Ok(None) };
    if value.len() > TEXT_MAX {
        return Err("is longer than 4096 bytes");
    }
    let plain = std::str::from_utf8(value).map_err(|_| "is not UTF-8")?;
    Ok(Some(if plain.starts_with('"') { serde_json::from_str(plain).unwrap_or_else(|_| plain.to_owned()) } else { plain.to_owned() }))
}

/// A JSON list of texts, at most 1000.
fn names(value: Option<&[u8]>) -> Result<Vec<String>, &'static str> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let names: Vec<String> = serde_json::from_slice(value).map_err(|_| "is not a JSON list of texts")?;
    if names.len() > 1000 { Err("has more than 1000 entries") } else { Ok(names) }
}

/// The fields of all keys below a prefix, by name: `<name>/<field>`.
pub(super) fn split<'a>(prefix: &str, key: &'a str) -> Option<(&'a str, &'a str)> {
    key.strip_prefix(prefix)?.split_once('/').filter(|(name, _)| !name.is_empty() && name.len() <= 128)
}

/// Entries by name.
pub(super) type Entries<T> = BTreeMap<String, T>;
