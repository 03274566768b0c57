//! Requests: several servers, time limits, what an answer means.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clawstead_world::{Http, HttpError, HttpRequest, NetPolicy, Rng, World};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::watch;

use super::{ENGINE, Settings};
use crate::{BusError, CoordError, coord::REQUEST_TIMEOUT};

/// Largest answer that is read: a whole prefix.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// Characters of a server's words that are repeated.
const WORDS_MAX: usize = 200;
/// Watches that failed ask again after at most this time, a random part of it.
const JITTER_MS: u64 = 250;
/// The longest pause while nobody answers, ms: an election takes a few seconds.
const AWAY_PAUSE_MS: u64 = 1_000;
/// The longest pause while our token is refused, ms: somebody has to do something about it.
const DENIED_PAUSE_MS: u64 = 5_000;

/// A client of all servers. One server is asked as long as it answers.
pub(super) struct Client {
    http: Http,
    rng: Arc<dyn Rng>,
    servers: Vec<String>,
    headers: HeaderMap,
    /// Which server is asked. Watches look at it: a server that others left is left by them too.
    preferred: watch::Sender<usize>,
}

/// A request.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query, beginning with `/v1/`.
    pub(super) path: String,
    pub(super) body: Option<Bytes>,
}

impl Ask {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None }
    }

    pub(super) fn put(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::PUT, path: path.into(), body: Some(body.into()) }
    }
}

/// An answer of 200, 404 or 409; of 500 where an agent does not know a check.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `X-Consul-Index`; 0 when there is none.
    pub(super) index: u64,
    pub(super) body: Vec<u8>,
    /// A server asked before this one may have done the same already.
    pub(super) maybe_before: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) err: CoordError,
    /// The request may have been carried out.
    pub(super) maybe: bool,
    /// Another server may do better.
    passing: bool,
}

impl From<Fault> for CoordError {
    fn from(fault: Fault) -> Self {
        fault.err
    }
}

impl From<Fault> for BusError {
    fn from(fault: Fault) -> Self {
        mail(fault.err)
    }
}

/// The same for mail.
pub(super) fn mail(err: CoordError) -> BusError {
    match err {
        CoordError::Denied { engine, at, why } => BusError::Denied { engine, at, why },
        CoordError::Unavailable { engine, at, why } => BusError::Unavailable { engine, at, why },
        other => BusError::Unavailable { engine: ENGINE, at: "this address".into(), why: other.to_string() },
    }
}

impl Client {
    pub(super) fn new(settings: &Settings, world: &World) -> Result<Self, CoordError> {
        if settings.servers.is_empty() {
            return Err(CoordError::Invalid("no address of Consul is given; one is like http://127.0.0.1:8500".into()));
        }
        let mut servers = Vec::new();
        for server in &settings.servers {
            let rest = server.strip_prefix("http://").or_else(|| server.strip_prefix("https://")).map(|rest| rest.trim_end_matches('/'));
            // Credentials do not belong there; that one could not be printed.
            if !rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '@', '?', '#', ' '])) {
                return Err(CoordError::Invalid("an address of Consul is not like http://127.0.0.1:8500: scheme, host and port, nothing else".into()));
            }
            servers.push(server.trim_end_matches('/').to_owned());
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = &settings.token {
            let mut value = HeaderValue::from_str(token).map_err(|_| CoordError::Invalid("the token of Consul holds characters that none has".into()))?;
            value.set_sensitive(true);
            headers.insert("x-consul-token", value);
        }
        let invalid = |why: String| CoordError::Invalid(format!("TLS to Consul: {why}"));
        let http = if settings.tls.is_default() {
            world.http.clone()
        } else {
            let identity = settings.tls.identity_pem().map_err(invalid)?.map(|(certificate, key)| [certificate, b"\n".to_vec(), key].concat());
            Http::with_certificates(settings.tls.ca_pem().map_err(invalid)?.as_deref(), identity.as_deref()).map_err(|err| invalid(err.to_string()))?
        };
        Ok(Self { http, rng: world.rng.clone(), servers, headers, preferred: watch::Sender::new(0) })
    }

    /// How many servers there are.
    pub(super) fn count(&self) -> usize {
        self.servers.len()
    }

    /// Follows which server is asked.
    pub(super) fn preferred(&self) -> watch::Receiver<usize> {
        self.preferred.subscribe()
    }

    /// Flags for a write. Consul takes writing what is there already for no write at all: the version stays, and of two
    /// conditional writes of the same value both succeed. Flags of its own make each write another one.
    pub(super) fn flags(&self) -> u64 {
        self.rng.below(u64::MAX)
    }

    /// A moment before a watch asks again.
    pub(super) async fn jitter(&self) {
        tokio::time::sleep(Duration::from_millis(self.rng.below(JITTER_MS + 1))).await;
    }

    /// A pause after so many failures in a row, the first being 1; doubled each time, and half of it random.
    pub(super) async fn pause(&self, failures: u32, err: &CoordError) {
        let longest = if matches!(err, CoordError::Denied { .. }) { DENIED_PAUSE_MS } else { AWAY_PAUSE_MS };
        let ms = JITTER_MS.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(longest);
        tokio::time::sleep(Duration::from_millis(ms / 2 + self.rng.below(ms / 2 + 1))).await;
    }

    /// Asks one server after the other until one answers, 2 s each.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, Fault> {
        let mut maybe = false;
        let mut last = None;
        for _ in 0..self.servers.len() {
            let server = *self.preferred.borrow();
            match self.ask_one(server, &ask, REQUEST_TIMEOUT).await {
                Ok(answer) => return Ok(Answer { maybe_before: maybe, ..answer }),
                Err(fault) => {
                    maybe |= fault.maybe;
                    let fault = Fault { maybe, ..fault };
                    if !fault.passing {
                        return Err(fault);
                    }
                    last = Some(fault);
                }
            }
        }
        Err(last.unwrap_or_else(|| fault(self.unavailable(0, "no server is configured"), Maybe::No, Passing::No)))
    }

    /// Asks this server only. When it fails, others are preferred from now on.
    pub(super) async fn ask_one(&self, server: usize, ask: &Ask, limit: Duration) -> Result<Answer, Fault> {
        let outcome = match tokio::time::timeout(limit, self.exchange(server, ask, limit)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(fault(self.unavailable(server, &format!("no answer within {} ms", limit.as_millis())), Maybe::Yes, Passing::Yes)),
        };
        if let Err(Fault { err, passing: true, .. }) = &outcome {
            tracing::debug!(%err, "a Consul server failed");
            let count = self.servers.len();
            self.preferred.send_if_modified(|preferred| {
                let ours = *preferred == server && count > 1;
                if ours {
                    *preferred = (server + 1) % count;
                }
                ours
            });
        }
        outcome
    }

    async fn exchange(&self, server: usize, ask: &Ask, limit: Duration) -> Result<Answer, Fault> {
        let mut request = HttpRequest::new(ask.method.clone(), format!("{}{}", self.servers[server], ask.path), NetPolicy::Trusted);
        request.headers.clone_from(&self.headers);
        request.body.clone_from(&ask.body);
        request.head_timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let response = self.http.send(request).await.map_err(|err| self.sort(server, err))?;
        let status = response.status;
        let index = response.headers.get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        let (body, cut) = response.read(ANSWER_MAX).await.map_err(|err| self.sort(server, err))?;
        if cut {
            return Err(fault(CoordError::Invalid(format!("an answer of {ENGINE} has more than {ANSWER_MAX} bytes")), Maybe::Yes, Passing::No));
        }
        let words = || {
            let text = String::from_utf8_lossy(&body);
            let text: String = text.trim().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
            if text.is_empty() { format!("status {status}") } else { format!("status {}: {text}", status.as_u16()) }
        };
        match status.as_u16() {
            200 | 404 | 409 => Ok(Answer { status, index, body, maybe_before: false }),
            // How Consul 1.8 says that it does not know a check; later ones say 404.
            500 if words().contains("associated TTL") => Ok(Answer { status, index, body, maybe_before: false }),
            401 | 403 => {
                let at = self.servers[server].clone();
                Err(fault(CoordError::Denied { engine: ENGINE, at, why: format!("{}; check its ACL token", words()) }, Maybe::No, Passing::No))
            }
            400 | 405 | 413 => Err(fault(CoordError::Invalid(format!("{ENGINE} refuses the request: {}", words())), Maybe::No, Passing::No)),
            // No leader, a lost leader, too many connections, a proxy between us: another server may do better.
            _ => Err(fault(self.unavailable(server, &words()), Maybe::Yes, Passing::Yes)),
        }
    }

    fn sort(&self, server: usize, err: HttpError) -> Fault {
        match err {
            // Only a refused connection proves that nobody read the request.
            HttpError::Connect { why, .. } => {
                let maybe = if why.contains("refused") { Maybe::No } else { Maybe::Yes };
                fault(self.unavailable(server, &why), maybe, Passing::Yes)
            }
            HttpError::Timeout { ms, .. } => fault(self.unavailable(server, &format!("no answer within {ms} ms")), Maybe::Yes, Passing::Yes),
            HttpError::Body { why, .. } => fault(self.unavailable(server, &format!("the answer broke off: {why}")), Maybe::Yes, Passing::Yes),
            other => fault(CoordError::Invalid(format!("{ENGINE} cannot be asked: {other}")), Maybe::No, Passing::No),
        }
    }

    fn unavailable(&self, server: usize, why: &str) -> CoordError {
        CoordError::Unavailable { engine: ENGINE, at: self.servers[server].clone(), why: why.to_owned() }
    }

    /// An answer that is not what it should be.
    pub(super) fn odd(&self, what: &str) -> CoordError {
        self.unavailable(*self.preferred.borrow(), &format!("it answers {what}"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Maybe {
    Yes,
    No,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Passing {
    Yes,
    No,
}

fn fault(err: CoordError, maybe: Maybe, passing: Passing) -> Fault {
    Fault { err, maybe: maybe == Maybe::Yes, passing: passing == Passing::Yes }
}

/// A key as part of a path: everything but what is safe is written as `%..`.
pub(super) fn in_path(key: &str) -> String {
    key.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_never_repeated() {
        let world = World::simulated(1);
        for bad in ["", "127.0.0.1:8500", "http://", "http://user:hunter2@host:8500", "http://host:8500/v1", "ftp://host"] {
            let err = Client::new(&Settings::at([bad.to_owned()]), &world).err().unwrap().to_string();
            assert!(err.contains("http://127.0.0.1:8500") && !err.contains("hunter2"), "{err}");
        }
        assert!(Client::new(&Settings::at([]), &world).is_err());
        assert!(Client::new(&Settings::at(["https://consul.service.home:8501/".into()]), &world).is_ok());
    }

    #[test]
    fn keys_are_written_safely() {
        assert_eq!(in_path("a/b c%?#+ü"), "a/b%20c%25%3F%23%2B%C3%BC");
    }
}
