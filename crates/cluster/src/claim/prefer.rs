use clawstead_terms::Unit;
use sha2::{Digest as _, Sha256};

/// How long a home must be healthy before a unit goes back to it, ms.
pub const FAILBACK_HOME_MS: u64 = 600_000;
/// How long an agent must be idle before it goes back home, ms.
pub const FAILBACK_IDLE_MS: u64 = 60_000;

/// Who should own a unit, best first: the gateways its config names, in that order, then the others by rendezvous hashing:
/// when a gateway comes or goes, only its own units move.
#[must_use]
pub fn preference<'a>(unit: &Unit, home: &[String], gateways: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut others: Vec<_> = gateways.into_iter().filter(|name| !home.iter().any(|at| at == name)).map(|name| (weight(unit, name), name.to_owned())).collect();
    others.sort_by(|a, b| b.cmp(a));
    others.dedup();
    home.iter().cloned().chain(others.into_iter().map(|(_, name)| name)).collect()
}

fn weight(unit: &Unit, gateway: &str) -> [u8; 32] {
    Sha256::digest(format!("{unit}\u{1f}{gateway}").as_bytes()).into()
}

/// True when a unit should go back to its home now: the home was healthy and the agent idle for long enough.
#[must_use]
pub const fn fails_back(home_healthy_ms: u64, idle_ms: u64) -> bool {
    home_healthy_ms >= FAILBACK_HOME_MS && idle_ms >= FAILBACK_IDLE_MS
}
