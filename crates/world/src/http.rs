//! The one HTTP client. Two ways in: [`NetPolicy::Trusted`] for addresses from the config (model servers on the
//! home network are the normal case) and [`NetPolicy::Public`] for addresses that a model or a stranger named:
//! those may only reach public addresses, checked after resolution and at every redirect.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use url::{Host, Url};

/// Most redirects that are followed for a public address.
const REDIRECTS_MAX: usize = 5;

/// Which addresses a request may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetPolicy {
    /// The address comes from the operator's config: everything is allowed, redirects are not followed.
    Trusted,
    /// The address comes from outside: only public addresses, http and https, up to 5 checked redirects.
    Public,
}

/// What can go wrong with a request.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The address is not one we may reach.
    #[error("refused to fetch {url}: {why}")]
    Blocked {
        /// Without user info and query.
        url: String,
        /// The rule.
        why: String,
    },
    /// No connection, no name, no TLS.
    #[error("could not reach {url}: {why}")]
    Connect {
        /// Without user info and query.
        url: String,
        /// The cause.
        why: String,
    },
    /// Took too long.
    #[error("{url} did not answer within {ms} ms")]
    Timeout {
        /// Without user info and query.
        url: String,
        /// The limit.
        ms: u64,
    },
    /// The answer broke off.
    #[error("the answer of {url} broke off: {why}")]
    Body {
        /// Without user info and query.
        url: String,
        /// The cause.
        why: String,
    },
    /// The client itself cannot be built.
    #[error("no HTTP client: {0}")]
    Setup(String),
}

/// A request.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// `GET`, `POST`, ...
    pub method: http::Method,
    /// Where to.
    pub url: String,
    /// Headers; values never reach a log.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Option<Bytes>,
    /// Which addresses it may reach.
    pub policy: NetPolicy,
    /// Time until the response head, milliseconds; default 60,000.
    pub head_timeout_ms: u64,
}

impl HttpRequest {
    /// A request without headers or body, head timeout 60 s.
    pub fn new(method: http::Method, url: impl Into<String>, policy: NetPolicy) -> Self {
        Self { method, url: url.into(), headers: http::HeaderMap::new(), body: None, policy, head_timeout_ms: 60_000 }
    }
}

/// A response: its head and its body as it comes.
pub struct HttpResponse {
    /// The status.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The address that answered, after redirects.
    pub url: String,
    /// The body; each item is what arrived.
    pub body: BoxStream<'static, Result<Bytes, HttpError>>,
}

impl HttpResponse {
    /// The whole body, cut at `bytes_max`; the flag says whether it was cut.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn read(mut self, bytes_max: usize) -> Result<(Vec<u8>, bool), HttpError> {
        let mut out = Vec::new();
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk?;
            let room = bytes_max - out.len();
            if chunk.len() > room {
                out.extend_from_slice(&chunk[..room]);
                return Ok((out, true));
            }
            out.extend_from_slice(&chunk);
        }
        Ok((out, false))
    }
}

/// Decides about addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guard;

impl Guard {
    /// True for addresses of the public Internet.
    #[must_use]
    pub fn is_public(ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => Self::is_public_v4(v4),
            IpAddr::V6(v6) => {
                if let Some(v4) = v6.to_ipv4_mapped() {
                    return Self::is_public_v4(v4);
                }
                Self::is_public_v6(v6)
            }
        }
    }

    fn is_public_v4(ip: Ipv4Addr) -> bool {
        let [a, b, c, _] = ip.octets();
        !(ip.is_private()
            || ip.is_loopback()
            || ip.is_link_local()
            || ip.is_broadcast()
            || ip.is_documentation()
            || ip.is_multicast()
            || a == 0
            || a >= 240
            || (a == 100 && (64..128).contains(&b)) // carrier-grade NAT and Tailscale
            || (a == 192 && b == 0 && c == 0)
            || (a == 198 && (b == 18 || b == 19)))
    }

    fn is_public_v6(ip: Ipv6Addr) -> bool {
        let first = ip.segments()[0];
        // Only 2000::/3 is handed out; of it documentation, 6to4 and Teredo can hide an IPv4 address.
        (first & 0xe000) == 0x2000 && !(first == 0x2001 && ip.segments()[1] == 0x0db8) && first != 0x2002 && !(first == 0x2001 && ip.segments()[1] == 0)
    }

    fn check_url(url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("the scheme {} is not allowed", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials in the address are not allowed".into());
        }
        match url.host() {
            None => Err("it names no host".into()),
            Some(Host::Ipv4(ip)) if !Self::is_public(ip.into()) => Err(format!("{ip} is not a public address")),
            Some(Host::Ipv6(ip)) if !Self::is_public(ip.into()) => Err(format!("{ip} is not a public address")),
            Some(Host::Domain(name)) if name == "localhost" || name.ends_with(".localhost") || name.ends_with(".internal") || name.ends_with(".local") => {
                Err(format!("{name} is a private name"))
            }
            Some(_) => Ok(()),
        }
    }
}

struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> = found.iter().copied().filter(|a| Guard::is_public(a.ip())).collect();
            if public.is_empty() {
                return Err(format!("{host} has no public address").into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[derive(Clone)]
enum Kind {
    Real { trusted: reqwest::Client, public: Arc<std::sync::OnceLock<reqwest::Client>> },
    Refusing,
}

/// The one HTTP client.
#[derive(Clone)]
pub struct Http(Kind);

impl Http {
    /// The real client.
    ///
    /// # Errors
    /// When TLS roots cannot be loaded.
    pub fn new() -> Result<Self, HttpError> {
        let trusted = base().redirect(reqwest::redirect::Policy::none()).build().map_err(|e| HttpError::Setup(e.to_string()))?;
        Ok(Self(Kind::Real { trusted, public: Arc::new(std::sync::OnceLock::new()) }))
    }

    /// A real client that believes these certificate authorities only, and shows this certificate with its key; both as
    /// PEM. What is none is as with [`Http::new`].
    ///
    /// # Errors
    /// When a PEM cannot be used.
    pub fn with_certificates(authorities: Option<&[u8]>, identity: Option<&[u8]>) -> Result<Self, HttpError> {
        let setup = |what: &'static str| move |err: reqwest::Error| HttpError::Setup(format!("{what}: {}", causes(&err)));
        let mut builder = base().redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = authorities {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(setup("the certificate authorities"))?;
            if certificates.is_empty() {
                return Err(HttpError::Setup("the file of certificate authorities holds none".into()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        if let Some(pem) = identity {
            builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(setup("our certificate and its key"))?);
        }
        let trusted = builder.build().map_err(setup("TLS"))?;
        Ok(Self(Kind::Real { trusted, public: Arc::new(std::sync::OnceLock::new()) }))
    }

    /// A client for simulations: every request fails.
    #[must_use]
    pub const fn refusing() -> Self {
        Self(Kind::Refusing)
    }

    /// Sends a request and answers when the response head is there.
    ///
    /// # Errors
    /// As [`HttpError`] lists; an HTTP status of 400 and more is not an error here.
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let url = Url::parse(&request.url).map_err(|e| HttpError::Blocked { url: "the address".into(), why: e.to_string() })?;
        let shown = shown(&url);
        let Kind::Real { trusted, public } = &self.0 else {
            return Err(HttpError::Connect { url: shown, why: "this world has no network".into() });
        };
        let client = match request.policy {
            NetPolicy::Trusted => trusted.clone(),
            NetPolicy::Public => {
                Guard::check_url(&url).map_err(|why| HttpError::Blocked { url: shown.clone(), why })?;
                public.get_or_init(public_client).clone()
            }
        };
        let mut builder = client.request(request.method, url).headers(request.headers);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let limit = Duration::from_millis(request.head_timeout_ms);
        let response = match tokio::time::timeout(limit, builder.send()).await {
            Err(_) => return Err(HttpError::Timeout { url: shown, ms: request.head_timeout_ms }),
            Ok(Err(err)) => return Err(sort(&shown, &err)),
            Ok(Ok(response)) => response,
        };
        let final_url = response.url().to_string();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes_stream().map(move |chunk| chunk.map_err(|e| HttpError::Body { url: shown.clone(), why: causes(&e) })).boxed();
        Ok(HttpResponse { status, headers, url: final_url, body })
    }
}

fn base() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("clawstead/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(16)
        .tcp_nodelay(true)
}

fn public_client() -> reqwest::Client {
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("too many redirects");
        }
        match Guard::check_url(attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(why) => attempt.error(why),
        }
    });
    base().redirect(redirects).dns_resolver(Arc::new(PublicResolver)).build().unwrap_or_default()
}

/// Host and path only: queries and user info can carry secrets.
fn shown(url: &Url) -> String {
    format!("{}://{}{}{}", url.scheme(), url.host_str().unwrap_or("?"), url.port().map(|p| format!(":{p}")).unwrap_or_default(), url.path())
}

fn causes(err: &dyn std::error::Error) -> String {
    let mut deepest = err;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn sort(url: &str, err: &reqwest::Error) -> HttpError {
    if err.is_redirect() || err.is_builder() {
        HttpError::Blocked { url: url.into(), why: causes(err) }
    } else {
        HttpError::Connect { url: url.into(), why: causes(err) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Guard, Http, HttpError, HttpRequest, NetPolicy};

    #[test]
    fn only_public_addresses_are_public() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.100.1.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "2002:7f00:1::",
            "255.255.255.255",
        ] {
            assert!(!Guard::is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "93.184.216.34", "2606:4700::1111"] {
            assert!(Guard::is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[tokio::test]
    async fn private_targets_are_refused_before_a_packet_leaves() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Http::new().unwrap();
        for url in [
            "http://127.0.0.1:1/",
            "http://localhost/",
            "http://2130706433/",
            "http://[::1]/",
            "file:///etc/passwd",
            "http://u:p@example.com/",
            "http://metadata.internal/",
        ] {
            let err = http.send(HttpRequest::new(http::Method::GET, url, NetPolicy::Public)).await.err().unwrap();
            assert!(matches!(err, HttpError::Blocked { .. }), "{url}: {err}");
        }
    }
}
