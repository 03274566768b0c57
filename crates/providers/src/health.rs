//! What the registry remembers of failures: profiles that rest, hosts that do not answer. Decisions are pure; rows
//! that change are handed to a [`HealthLog`], which the caller keeps in its store.

use std::collections::BTreeMap;

use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};

use crate::{ErrorKind, input::Cooldowns};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: f64 = 3_600_000.0;
/// Rests after the first, second, third and any further failure, minutes.
const REST_MINUTES: [i64; 4] = [1, 5, 25, 60];
/// Rests of a host that does not answer, seconds.
const CIRCUIT_SECONDS: [i64; 4] = [5, 15, 30, 60];
/// When everything rests, one request in this time may try anyway, milliseconds.
pub(crate) const PROBE_MS: i64 = 10_000;
/// Sessions whose profile is remembered at most.
const STICKY_MAX: usize = 1_024;

/// Keeps rows of the registry's memory. Called from the turn's path: hand the row to a queue, do not wait.
pub trait HealthLog: Send + Sync {
    /// Stores `json` under `key`.
    fn save(&self, key: &str, json: String);
}

/// A log that keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHealthLog;

impl HealthLog for NoHealthLog {
    fn save(&self, _key: &str, _json: String) {}
}

/// What is remembered of one profile, in the words of `usageStats` of `auth-profiles.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfileStats {
    /// Last use, Unix milliseconds. Saved only together with something else.
    pub last_used: i64,
    /// Rests until then.
    pub cooldown_until: i64,
    /// Has no money until then.
    pub disabled_until: i64,
    /// `billing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    /// Failures in a row.
    pub error_count: u32,
    /// Failures by reason.
    pub failure_counts: BTreeMap<String, u32>,
    /// The last failure.
    pub last_failure_at: i64,
    /// Models of this profile that rest alone (rate limits are per model).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelRest>,
}

/// One model's rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelRest {
    /// Rests until then.
    pub cooldown_until: i64,
    /// Failures in a row.
    pub error_count: u32,
    /// The last failure.
    pub last_failure_at: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Circuit {
    failures: usize,
    open_until: i64,
}

/// The memory.
#[derive(Debug, Default)]
pub(crate) struct Health {
    profiles: BTreeMap<String, ProfileStats>,
    hosts: BTreeMap<String, Circuit>,
    /// Session to profile, so that a provider's prompt cache stays warm.
    sticky: BTreeMap<String, String>,
    /// The last try although everything rested, by candidate.
    probes: BTreeMap<String, i64>,
}

fn at(list: &[i64], n: usize) -> i64 {
    list[n.min(list.len() - 1)]
}

fn ms(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Health {
    /// Takes a stored row back in; an unreadable one is forgotten.
    pub(crate) fn restore(&mut self, key: &str, json: &str) {
        if let Some(profile) = key.strip_prefix("profile/")
            && let Ok(stats) = serde_json::from_str(json)
        {
            self.profiles.insert(profile.to_owned(), stats);
        }
    }

    /// Everything that is stored, for the registry that a reload of the config builds.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        self.profiles.iter().map(|(profile, stats)| row(profile, stats)).collect()
    }

    pub(crate) fn stats(&self, profile: &str) -> Option<&ProfileStats> {
        self.profiles.get(profile)
    }

    /// Until when `profile` must not be asked for `model`; `None` when it may be now.
    pub(crate) fn resting(&self, profile: &str, model: &str, now: Millis) -> Option<i64> {
        let stats = self.profiles.get(profile)?;
        let model = stats.models.get(model).map_or(0, |m| m.cooldown_until);
        let until = stats.cooldown_until.max(stats.disabled_until).max(model);
        (until > now.0).then_some(until)
    }

    /// True when `profile` rests only because its key was refused (`Auth`), not for money or a limit.
    pub(crate) fn refused_only(&self, profile: &str, model: &str, now: Millis) -> bool {
        self.profiles.get(profile).is_some_and(|stats| {
            let limited = stats.models.get(model).is_some_and(|m| m.cooldown_until > now.0);
            stats.cooldown_until > now.0 && stats.disabled_until <= now.0 && !limited
        })
    }

    /// Until when a host must not be asked.
    pub(crate) fn host_open(&self, host: &str, now: Millis) -> Option<i64> {
        self.hosts.get(host).map(|c| c.open_until).filter(|until| *until > now.0)
    }

    /// When everything rests: may this candidate be tried anyway?
    pub(crate) fn may_probe(&mut self, candidate: &str, now: Millis) -> bool {
        let last = self.probes.entry(candidate.to_owned()).or_insert(i64::MIN / 2);
        if *last + PROBE_MS > now.0 {
            return false;
        }
        *last = now.0;
        true
    }

    /// The profile a session used last.
    pub(crate) fn sticky(&self, session: &str, provider: &str) -> Option<&str> {
        self.sticky.get(session).map(String::as_str).filter(|p| p.split(':').next() == Some(provider))
    }

    /// A call was answered. Gives the row to store when something stored changed.
    pub(crate) fn succeeded(&mut self, profile: &str, model: &str, host: &str, session: Option<&str>, now: Millis) -> Option<(String, String)> {
        self.hosts.remove(host);
        if let Some(session) = session
            && self.sticky.get(session).map(String::as_str) != Some(profile)
        {
            if self.sticky.len() >= STICKY_MAX {
                self.sticky.clear();
            }
            self.sticky.insert(session.to_owned(), profile.to_owned());
        }
        let stats = match self.profiles.get_mut(profile) {
            Some(stats) => stats,
            None => self.profiles.entry(profile.to_owned()).or_default(),
        };
        stats.last_used = now.0;
        let had_rest = stats.error_count > 0 || stats.disabled_until > 0 || stats.models.contains_key(model);
        if !had_rest {
            return None;
        }
        stats.error_count = 0;
        stats.cooldown_until = 0;
        stats.disabled_until = 0;
        stats.disabled_reason = None;
        stats.failure_counts.clear();
        stats.models.remove(model);
        Some(row(profile, stats))
    }

    /// A call failed. Gives the row to store when something stored changed.
    ///
    /// | kind | rests |
    /// | --- | --- |
    /// | `Auth` | the profile: 1, 5, 25, 60 minutes |
    /// | `Quota` | the profile for this model: the server's `Retry-After` (1 h at most), or 1, 5, 25, 60 minutes |
    /// | `Billing` | the profile: 5 h, doubling up to 24 h |
    /// | `Network`, `Timeout` | the host: 5, 15, 30, 60 seconds |
    /// | all others | nothing: they say nothing about the account or the host |
    #[expect(clippy::too_many_arguments, reason = "one fact of a failure each")]
    pub(crate) fn failed(
        &mut self,
        profile: &str,
        model: &str,
        host: &str,
        kind: ErrorKind,
        retry_after_ms: Option<u64>,
        rules: &Cooldowns,
        now: Millis,
    ) -> Option<(String, String)> {
        #[expect(clippy::cast_possible_truncation, reason = "`as` saturates; hours of a config stay small")]
        let hours = |h: f64| (h * HOUR_MS) as i64;
        match kind {
            ErrorKind::Network | ErrorKind::Timeout => {
                let circuit = self.hosts.entry(host.to_owned()).or_default();
                circuit.open_until = now.0 + at(&CIRCUIT_SECONDS, circuit.failures) * 1_000;
                circuit.failures += 1;
                None
            }
            ErrorKind::Auth | ErrorKind::Quota | ErrorKind::Billing => {
                let stats = self.profiles.entry(profile.to_owned()).or_default();
                let forgotten = |last: i64| now.0 - last > hours(rules.window_hours);
                if forgotten(stats.last_failure_at) {
                    stats.error_count = 0;
                    stats.failure_counts.clear();
                }
                let reason = match kind {
                    ErrorKind::Auth => "auth",
                    ErrorKind::Billing => "billing",
                    _ => "rate_limit",
                };
                let count = stats.failure_counts.entry(reason.into()).or_insert(0);
                *count += 1;
                let nth = *count;
                stats.last_failure_at = now.0;
                match kind {
                    ErrorKind::Billing => {
                        let wanted = rules.billing_hours * 2f64.powi(i32::try_from(nth.min(16)).unwrap_or(16) - 1);
                        stats.disabled_until = now.0 + hours(wanted.min(rules.billing_max_hours));
                        stats.disabled_reason = Some("billing".into());
                        stats.error_count += 1;
                    }
                    ErrorKind::Auth => {
                        stats.cooldown_until = now.0 + at(&REST_MINUTES, stats.error_count as usize) * MINUTE_MS;
                        stats.error_count += 1;
                    }
                    _ => {
                        let rest = stats.models.entry(model.to_owned()).or_default();
                        if forgotten(rest.last_failure_at) {
                            rest.error_count = 0;
                        }
                        let wait =
                            retry_after_ms.map_or_else(|| at(&REST_MINUTES, rest.error_count as usize) * MINUTE_MS, |w| ms(w).clamp(1_000, 60 * MINUTE_MS));
                        rest.cooldown_until = now.0 + wait;
                        rest.error_count += 1;
                        rest.last_failure_at = now.0;
                    }
                }
                Some(row(profile, stats))
            }
            _ => None,
        }
    }
}

fn row(profile: &str, stats: &ProfileStats) -> (String, String) {
    (format!("profile/{profile}"), serde_json::to_string(stats).unwrap_or_default())
}
