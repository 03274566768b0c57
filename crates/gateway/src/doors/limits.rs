//! Counting: failed authentications, control-plane writes, unauthenticated sockets.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;

use clawstead_wire::{
    ErrorShape,
    limits::{CONTROL_CALLS_MAX, CONTROL_WINDOW_MS},
};

/// Keys that a limiter remembers; when full, the oldest are forgotten.
const KEYS_MAX: usize = 10_000;
/// The first delay of a failed local attempt, ms; it doubles with each further one.
const DELAY_FIRST_MS: u64 = 250;
/// The longest delay, ms.
const DELAY_MAX_MS: u64 = 5_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts control-plane writes by client and method.
#[derive(Debug, Default)]
pub struct CallLimiter {
    windows: Mutex<BTreeMap<(String, &'static str), (i64, u32)>>,
}

impl CallLimiter {
    /// Counts one call.
    ///
    /// # Errors
    /// `rate limit exceeded for <method>; retry after <n>s` after 30 calls in 60 s.
    pub fn count(&self, client: &str, method: &'static str, now_ms: i64) -> Result<(), ErrorShape> {
        let mut windows = lock(&self.windows);
        if windows.len() >= KEYS_MAX {
            windows.retain(|_, (start, _)| now_ms - *start < CONTROL_WINDOW_MS);
            if windows.len() >= KEYS_MAX {
                windows.clear();
            }
        }
        let (start, count) = windows.entry((client.to_owned(), method)).or_insert((now_ms, 0));
        if now_ms - *start >= CONTROL_WINDOW_MS {
            (*start, *count) = (now_ms, 0);
        }
        *count += 1;
        if *count <= CONTROL_CALLS_MAX {
            return Ok(());
        }
        let wait = u64::try_from((*start + CONTROL_WINDOW_MS - now_ms).max(1)).unwrap_or(1);
        let message = format!("rate limit exceeded for {method}; retry after {}s", wait.div_ceil(1000));
        Err(ErrorShape::retry(message, wait).with_details(json!({ "method": method, "limit": "30 per 60s" })))
    }
}

/// What kind of credential failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credential {
    /// The gateway's token or password.
    SharedSecret,
    /// A device's token.
    DeviceToken,
    /// A hook's token.
    Hook,
    /// The token of an A2A caller.
    A2a,
}

/// Whom failures are counted for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspect {
    /// A local program: never locked out, answered later and later.
    Local(IpAddr),
    /// A browser page, by its origin.
    Origin(String),
    /// Anybody else.
    Remote(IpAddr),
}

/// `gateway.auth.rateLimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRule {
    /// Failures in the window before a lock.
    pub attempts_max: u32,
    /// The window, ms.
    pub window_ms: i64,
    /// The lock, ms.
    pub lockout_ms: i64,
    /// True never locks local programs out.
    pub exempt_loopback: bool,
}

impl Default for FailureRule {
    fn default() -> Self {
        Self { attempts_max: 10, window_ms: 60_000, lockout_ms: 300_000, exempt_loopback: true }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    window_start: i64,
    failures: u32,
    locked_until: i64,
}

/// Counts failed authentications.
#[derive(Debug, Default)]
pub struct FailureLimiter {
    records: Mutex<BTreeMap<(Suspect, Credential), Record>>,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// Answer only after this time.
    pub delay: Duration,
}

impl FailureLimiter {
    /// Milliseconds that `suspect` must wait before its credential is looked at; none when it need not.
    #[must_use]
    pub fn locked_for(&self, suspect: &Suspect, credential: Credential, now_ms: i64) -> Option<u64> {
        let records = lock(&self.records);
        let left = records.get(&(suspect.clone(), credential))?.locked_until - now_ms;
        u64::try_from(left).ok().filter(|left| *left > 0)
    }

    /// Counts a failure.
    pub fn failed(&self, suspect: &Suspect, credential: Credential, rule: FailureRule, now_ms: i64) -> Penalty {
        let mut records = lock(&self.records);
        if records.len() >= KEYS_MAX {
            records.retain(|_, record| now_ms - record.window_start < rule.window_ms || record.locked_until > now_ms);
            while records.len() >= KEYS_MAX {
                records.pop_first();
            }
        }
        let record = records.entry((suspect.clone(), credential)).or_insert(Record { window_start: now_ms, ..Record::default() });
        if now_ms - record.window_start >= rule.window_ms {
            (record.window_start, record.failures) = (now_ms, 0);
        }
        record.failures += 1;
        if matches!(suspect, Suspect::Local(_)) && rule.exempt_loopback {
            let doublings = (record.failures - 1).min(10);
            return Penalty { delay: Duration::from_millis((DELAY_FIRST_MS << doublings).min(DELAY_MAX_MS)) };
        }
        if record.failures >= rule.attempts_max {
            record.locked_until = now_ms + rule.lockout_ms;
        }
        Penalty { delay: Duration::ZERO }
    }

    /// Forgets the failures of somebody who showed the right credential.
    pub fn succeeded(&self, suspect: &Suspect, credential: Credential) {
        lock(&self.records).remove(&(suspect.clone(), credential));
    }
}

/// Counts unauthenticated sockets by address.
#[derive(Clone, Debug, Default)]
pub struct SocketLimiter {
    open: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// One counted socket; dropping it gives the place back.
#[derive(Debug)]
pub struct SocketPlace {
    open: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl SocketLimiter {
    /// Takes a place, unless `max` are taken.
    #[must_use]
    pub fn take(&self, ip: IpAddr, max: usize) -> Option<SocketPlace> {
        let mut open = lock(&self.open);
        let count = open.entry(ip).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(SocketPlace { open: Arc::clone(&self.open), ip })
    }
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if let Some(count) = open.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::{Credential, FailureLimiter, FailureRule, SocketLimiter, Suspect};

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn local_failures_are_answered_later_and_later_but_never_locked() {
        let limiter = FailureLimiter::default();
        let delays: Vec<_> = (0..7).map(|at| limiter.failed(&Suspect::Local(HOME), Credential::SharedSecret, FailureRule::default(), at).delay).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 5000, 5000].map(Duration::from_millis));
        for at in 0..30 {
            limiter.failed(&Suspect::Local(HOME), Credential::SharedSecret, FailureRule::default(), at);
        }
        assert_eq!(limiter.locked_for(&Suspect::Local(HOME), Credential::SharedSecret, 31), None);
    }

    #[test]
    fn ten_failures_of_an_origin_lock_it_for_five_minutes() {
        let (limiter, page) = (FailureLimiter::default(), Suspect::Origin("http://x".into()));
        for at in 0..10 {
            assert_eq!(limiter.locked_for(&page, Credential::SharedSecret, at), None);
            assert_eq!(limiter.failed(&page, Credential::SharedSecret, FailureRule::default(), at).delay, Duration::ZERO);
        }
        assert_eq!(limiter.locked_for(&page, Credential::SharedSecret, 10), Some(299_999));
        assert_eq!(limiter.locked_for(&page, Credential::DeviceToken, 10), None);
        assert_eq!(limiter.locked_for(&page, Credential::SharedSecret, 300_009), None);
    }

    #[test]
    fn places_are_given_back() {
        let limiter = SocketLimiter::default();
        let first = limiter.take(HOME, 2).unwrap();
        let _second = limiter.take(HOME, 2).unwrap();
        assert!(limiter.take(HOME, 2).is_none());
        drop(first);
        assert!(limiter.take(HOME, 2).is_some());
    }
}
