//! What `openclaw doctor` says of the farm.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use clawstead_cluster::{
    keys::{KeyRecord, KeyStatus},
    names::glob,
    policy::{CLIENTS_READ, Effect, Policy},
};
use clawstead_config::FarmConfig;
use clawstead_farm::{enrol::records_of, key_files::KeyFolder};

use super::site::{DAY_MS, Site, fresh_now, pin, when};
use crate::{cx::Cx, format::now_ms};

/// A key that ends sooner is told about, ms.
const SOON_MS: i64 = 14 * DAY_MS;
/// The store may take so long to answer; every one of its servers is asked for 2 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// A gateway that runs here may take so long, ms; it asks its engines meanwhile.
const ASK_MS: u64 = 4_000;

/// One result: severity as doctor has them (`ok`, `info`, `warning`, `error`), what is so, what to do.
pub struct Said {
    /// Severity.
    pub severity: &'static str,
    /// What is so.
    pub message: String,
    /// What to do.
    pub next: Option<String>,
}

fn said(severity: &'static str, message: impl Into<String>, next: Option<&str>) -> Said {
    Said { severity, message: message.into(), next: next.map(str::to_owned) }
}

/// Looks at the farm of the config; nothing when there is none.
#[must_use]
pub fn farm(cx: &Cx) -> Vec<Said> {
    let (_, config) = cx.config_or_defaults();
    let Some(farm) = &config.farm else { return Vec::new() };
    if !farm.has_others() {
        return vec![said("info", "farm shares nothing with other gateways: coord and bus are embedded", None)];
    }
    let mut out = Vec::new();
    roots(&mut out, farm);
    files(&mut out, cx, farm);
    match super::policy::of(farm) {
        Err(why) => out.push(said("error", why.message, Some("openclaw config get farm.policy"))),
        Ok(_) if farm.policy.is_empty() => {
            out.push(said("warning", "farm.policy is empty: every letter from another gateway is refused", Some("openclaw farm policy starter --write")));
        }
        Ok(policy) if farm.peer.is_some() && !lets_clients_in(&policy) => {
            let message = "No rule of farm.policy lets clients of other gateways read (clients.read): people reach the agents here only through this gateway";
            out.push(said("info", message, Some("openclaw farm policy starter --write, if others are meant to")));
        }
        Ok(_) => {}
    }
    running(&mut out, cx);
    let answered = cx.block_on(async {
        let site = Site::open(cx, farm)?;
        let known = tokio::time::timeout(ANSWER_WITHIN, records_of(&*site.coord, &site.gateway)).await;
        Ok((site, known))
    });
    match answered {
        Err(fail) => out.push(Said { severity: "error", message: fail.message, next: fail.hint }),
        Ok((site, Ok(Ok(records)))) => {
            out.push(said("ok", format!("{} answers", site.coord.engine()), None));
            own_key(&mut out, &site, &records);
        }
        Ok((_, Ok(Err(err)))) => {
            let next = "openclaw config get farm.coord; agents that run go on, moves and joins wait";
            out.push(said("error", format!("the coordination store: {err}"), Some(next)));
        }
        Ok((site, Err(_))) => {
            let message = format!("{} does not answer within {} s", site.coord.engine(), ANSWER_WITHIN.as_secs());
            out.push(said("error", message, Some("openclaw config get farm.coord")));
        }
    }
    out
}

/// Whether some rule is for people who come through other gateways; a policy made before there were such rules has none.
fn lets_clients_in(policy: &Policy) -> bool {
    policy.rules().iter().any(|rule| rule.effect == Effect::Allow && rule.capabilities.iter().any(|pattern| glob(pattern, CLIENTS_READ)))
}

/// What a gateway that runs here says of its farm: engines that are away or slow, clocks, names, what was lost, what was
/// refused. Nothing when none runs: the rest of this command needs none.
fn running(out: &mut Vec<Said>, cx: &Cx) {
    let connect = crate::rpc::Connect::configured(Some(ASK_MS));
    let Ok(status) = crate::rpc::call(cx, &connect, ASK_MS, "farm.status", serde_json::json!({})) else { return };
    let problems = crate::format::list(&status, "problems").iter().filter_map(serde_json::Value::as_str);
    out.extend(problems.map(|problem| said("warning", problem, Some("openclaw farm status"))));
    for gateway in crate::format::list(&status, "gateways") {
        let name = crate::format::text(gateway, "name");
        let problems = crate::format::list(gateway, "problems").iter().filter_map(serde_json::Value::as_str);
        out.extend(problems.map(|problem| said("warning", format!("{name}: {problem}"), Some("openclaw farm gateways"))));
    }
    for (why, count) in status["refusals"].as_object().into_iter().flatten() {
        out.push(said("info", format!("{count} letters or calls of other gateways were refused: {why}"), Some(way_out(why))));
    }
}

/// What helps against a refusal.
fn way_out(code: &str) -> &'static str {
    match code {
        "forbidden" | "rate_limited" => "openclaw farm policy show; openclaw farm policy explain says which rule decides",
        "key_unknown" | "key_not_yet" | "key_retired" | "key_revoked" => "openclaw farm keys; openclaw farm requests",
        "clock_skew" | "expired" => "compare the clocks of the nodes (NTP); openclaw farm status",
        "keys_stale" => "the coordination store did not answer: openclaw config get farm.coord",
        "wrong_farm" => "two farms use the same store or bus: openclaw config get farm.id on both",
        _ => "openclaw farm letters; the log of this gateway names each",
    }
}

fn roots(out: &mut Vec<Said>, farm: &FarmConfig) {
    if farm.roots.is_empty() {
        out.push(said(
            "error",
            "farm.roots is empty: no key of another gateway is believed",
            Some("openclaw config set farm.roots '[\"<root>\"]', as openclaw farm init printed it"),
        ));
    } else if let Some(bad) = farm.roots.iter().find(|root| pin(root).is_err()) {
        out.push(said("error", format!("farm.roots: {bad:?} is no key"), Some("openclaw config get farm.roots")));
    } else if farm.roots.len() > 1 {
        out.push(said("info", "two roots are pinned: a change of the root is on its way", Some("openclaw farm rotate root")));
    }
}

fn files(out: &mut Vec<Said>, cx: &Cx, farm: &FarmConfig) {
    let keys = KeyFolder::of(&cx.paths.state_dir);
    let mut closed = true;
    for file in [keys.current(), keys.next(), cx.paths.state_dir.join("farm-root.pem"), cx.paths.state_dir.join("farm-root-next.pem")] {
        if let Some(mode) = open_mode(&file) {
            closed = false;
            let shown = cx.paths.display(&file);
            let next = format!("chmod 600 {shown}; and openclaw farm rotate, if somebody may have read it");
            out.push(said("error", format!("Others can read {shown} (mode {mode:o})"), Some(&next)));
        }
    }
    if !keys.current().exists() {
        out.push(said("error", "This gateway has no key for the farm", Some("openclaw farm enroll, or openclaw farm join <invitation>")));
    } else if closed && let Some(gateway) = &farm.gateway {
        match keys.load(gateway) {
            Ok(key) => out.push(said("ok", format!("key {}", key.kid()), None)),
            Err(err) => out.push(said("error", err.to_string(), Some("openclaw farm enroll"))),
        }
    }
    let root = cx.paths.state_dir.join("farm-root.pem");
    if root.exists() {
        let shown = cx.paths.display(&root);
        let next = format!("mv {shown} <a safe place that is no gateway>; commands that need it take --root-file");
        out.push(said(
            "warning",
            format!("The farm's root key lies beside the gateway ({shown}): whoever takes this machine can let any gateway in"),
            Some(&next),
        ));
    }
}

/// The mode of a file that others may read.
fn open_mode(file: &Path) -> Option<u32> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

fn own_key(out: &mut Vec<Said>, site: &Site, records: &[KeyRecord]) {
    let Ok(key) = site.keys.load(&site.gateway) else { return };
    let Some(record) = records.iter().find(|record| record.kid == key.kid()) else {
        let next = format!("openclaw farm enroll, then openclaw farm approve {}", site.gateway);
        out.push(said("error", format!("{} is not approved: the farm refuses what this gateway signs", key.kid()), Some(&next)));
        return;
    };
    let Ok((ring, skipped)) = site.ring(records) else { return };
    if let Some(skipped) = skipped.iter().find(|skipped| skipped.kid == key.kid()) {
        out.push(said("error", format!("{} is not believed: {}", skipped.kid, skipped.why), Some("openclaw config get farm.roots; openclaw farm keys")));
        return;
    }
    if let Err(why) = ring.key(key.kid(), &site.gateway, fresh_now()) {
        out.push(said("error", format!("{}: {why}", key.kid()), Some("openclaw farm enroll makes a new key; then openclaw farm approve")));
        return;
    }
    let left = record.not_after.0 - now_ms();
    match record.status {
        KeyStatus::Retiring => out.push(said(
            "warning",
            format!("{} is retiring, and this gateway still signs with it", key.kid()),
            Some("openclaw farm rotate gateway-key; openclaw gateway restart"),
        )),
        KeyStatus::Next => out.push(said("info", format!("{} is not in force yet", key.kid()), Some("openclaw farm rotate gateway-key"))),
        _ if left < SOON_MS => out.push(said("warning", format!("{} ends {}", key.kid(), when(record.not_after)), Some("openclaw farm rotate gateway-key"))),
        _ => out.push(said("ok", format!("{} is approved, ends {}", key.kid(), when(record.not_after)), None)),
    }
    if records.iter().any(|record| record.status == KeyStatus::Next && record.kid != key.kid()) {
        out.push(said("info", "A new key of this gateway waits for its turn", Some("openclaw farm rotate gateway-key")));
    }
}
