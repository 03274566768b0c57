//! Who stands at the door: addresses, forwarding headers, secrets.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::limits::{FailureRule, Suspect};

pub use clawstead_config::AuthMode;

/// Headers that say "somebody else is behind me".
const FORWARDING: [&str; 6] = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "forwarded", "x-real-ip"];

/// For mode `trusted-proxy`.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxySettings {
    /// The header that names the user.
    pub user_header: Option<String>,
    /// Headers that must be there.
    pub required_headers: Vec<String>,
    /// Only these users; empty means all.
    pub allow_users: Vec<String>,
    /// A proxy on loopback counts.
    pub allow_loopback: bool,
}

/// What the command line says about credentials; it beats the config, over reloads too.
#[derive(Clone, Default)]
pub struct AuthOverrides {
    /// `--token`.
    pub token: Option<String>,
    /// `--password`.
    pub password: Option<String>,
    /// `--auth`.
    pub mode: Option<AuthMode>,
}

/// Secrets are for nobody's log.
impl std::fmt::Debug for AuthOverrides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthOverrides")
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("password", &self.password.as_ref().map(|_| "..."))
            .field("mode", &self.mode)
            .finish()
    }
}

impl AuthOverrides {
    /// Puts what was said over a config's settings.
    #[must_use]
    pub fn over(&self, mut settings: super::DoorSettings) -> super::DoorSettings {
        let auth = &mut settings.auth;
        auth.mode = self.mode.unwrap_or(auth.mode);
        auth.token = self.token.clone().or(auth.token.take());
        auth.password = self.password.clone().or(auth.password.take());
        settings
    }
}

/// `gateway.auth` with its secrets resolved.
#[derive(Clone)]
pub struct AuthSettings {
    /// How callers show who they are.
    pub mode: AuthMode,
    /// The token.
    pub token: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// Limits of failed attempts.
    pub failures: FailureRule,
    /// For mode `trusted-proxy`.
    pub trusted_proxy: TrustedProxySettings,
}

impl std::fmt::Debug for AuthSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthSettings").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// What a shared secret proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretCheck {
    /// It is right; the word is the method.
    Right(&'static str),
    /// None was shown; the word is the reason.
    Missing(&'static str),
    /// A wrong one was shown.
    Wrong(&'static str),
    /// The gateway has none to compare with.
    NotConfigured(&'static str),
}

/// Compares two secrets in a time that does not depend on where they differ.
#[must_use]
pub fn same_secret(left: &str, right: &str) -> bool {
    Sha256::digest(left.as_bytes()).ct_eq(&Sha256::digest(right.as_bytes())).into()
}

impl AuthSettings {
    /// Checks what a client showed. Either field may carry the secret; the one of the mode counts first.
    #[must_use]
    pub fn check(&self, token: Option<&str>, password: Option<&str>) -> SecretCheck {
        let (token, password) = (token.filter(|t| !t.is_empty()), password.filter(|p| !p.is_empty()));
        let (held, shown, method, missing, wrong, unset) = match self.mode {
            AuthMode::None => return SecretCheck::Right("none"),
            AuthMode::Token => (&self.token, token.or(password), "token", "token_missing", "token_mismatch", "token_missing_config"),
            AuthMode::Password | AuthMode::TrustedProxy => {
                (&self.password, password.or(token), "password", "password_missing", "password_mismatch", "password_missing_config")
            }
        };
        match (held.as_deref().filter(|held| !held.is_empty()), shown) {
            (None, _) => SecretCheck::NotConfigured(unset),
            (Some(_), None) => SecretCheck::Missing(missing),
            (Some(held), Some(shown)) if same_secret(held, shown) => SecretCheck::Right(method),
            (Some(_), Some(_)) => SecretCheck::Wrong(wrong),
        }
    }
}

/// A forwarding header came from somebody who is not a trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProxy;

/// Who connected, as far as the connection itself says.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The other end of the TCP connection.
    pub addr: IpAddr,
    /// The client: `addr`, or what a trusted proxy says.
    pub client: IpAddr,
    /// The `Host` header.
    pub host: Option<String>,
    /// The `Origin` header.
    pub origin: Option<String>,
    /// True when the request came through a trusted proxy.
    pub proxied: bool,
    /// The user that a trusted proxy named, or the reason why not.
    pub user: Result<String, &'static str>,
}

impl Peer {
    /// Reads addresses and headers.
    ///
    /// # Errors
    /// When forwarding headers come from a peer that is not a trusted proxy.
    pub fn read(addr: IpAddr, headers: &HeaderMap, trusted: &[IpNet], real_ip: bool, auth: &AuthSettings) -> Result<Self, UnknownProxy> {
        let addr = addr.to_canonical();
        let forwarded = FORWARDING.iter().any(|name| headers.contains_key(*name));
        let is_proxy = trusted.iter().any(|net| net.contains(&addr));
        if forwarded && !is_proxy {
            return Err(UnknownProxy);
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).filter(|text| !text.is_empty());
        let mut client = addr;
        if forwarded {
            let hops: Vec<IpAddr> = text("x-forwarded-for").unwrap_or("").split(',').filter_map(|hop| hop.trim().parse().ok()).collect();
            // From the right: the last hop that is not one of our proxies is the client.
            let real = hops.iter().rev().find(|hop| !trusted.iter().any(|net| net.contains(*hop))).or(hops.first()).copied();
            client = real.or_else(|| if real_ip { text("x-real-ip").and_then(|ip| ip.parse().ok()) } else { None }).unwrap_or(addr);
        }
        let user = proxy_user(headers, addr, is_proxy, &auth.trusted_proxy);
        Ok(Self { addr, client, host: text("host").map(str::to_owned), origin: text("origin").map(str::to_owned), proxied: forwarded, user })
    }

    /// A loopback peer without anything in between. The `Host` header is not asked.
    #[must_use]
    pub fn is_direct_local(&self) -> bool {
        self.addr.is_loopback() && !self.proxied
    }

    /// Whom failed attempts are counted for.
    #[must_use]
    pub fn suspect(&self) -> Suspect {
        match &self.origin {
            Some(origin) => Suspect::Origin(format!("{}|{origin}", self.client)),
            None if self.is_direct_local() => Suspect::Local(self.client),
            None => Suspect::Remote(self.client),
        }
    }
}

fn proxy_user(headers: &HeaderMap, addr: IpAddr, is_proxy: bool, settings: &TrustedProxySettings) -> Result<String, &'static str> {
    if !is_proxy {
        return Err("trusted_proxy_untrusted_source");
    }
    if addr.is_loopback() && !settings.allow_loopback {
        return Err("trusted_proxy_loopback_source");
    }
    let header = settings.user_header.as_deref().ok_or("trusted_proxy_config_missing")?;
    let read = |name: &str| {
        let name: HeaderName = name.parse().ok()?;
        headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
    };
    for required in &settings.required_headers {
        if read(required).is_none() {
            return Err("trusted_proxy_missing_header");
        }
    }
    let user = read(header).ok_or("trusted_proxy_user_missing")?;
    if settings.allow_users.is_empty() || settings.allow_users.iter().any(|allowed| allowed.eq_ignore_ascii_case(user)) {
        Ok(user.to_owned())
    } else {
        Err("trusted_proxy_user_not_allowed")
    }
}

/// The host of a `Host` header or URL authority, without port and brackets.
#[must_use]
pub fn host_name(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// True for `localhost` and loopback addresses.
#[must_use]
pub fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// True for addresses of private networks (and loopback), written as numbers: names can be pointed anywhere.
#[must_use]
pub fn is_private_address(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback() || ip.is_link_local() || (ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1])),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => false,
    }
}

/// Why an origin may not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginFault {
    /// There is none, or it is no URL.
    MissingOrInvalid,
    /// It is not on the list.
    NotAllowed,
}

/// Which origins browsers may connect from.
#[derive(Clone, Debug, Default)]
pub struct OriginRules {
    /// `gateway.controlUi.allowedOrigins`; `*` allows all.
    pub allowed: Vec<String>,
    /// An origin that equals the `Host` header is allowed whatever its name.
    pub host_fallback: bool,
}

impl OriginRules {
    /// Checks the origin of a browser's connection.
    ///
    /// # Errors
    /// When it may not connect.
    pub fn check(&self, peer: &Peer) -> Result<(), OriginFault> {
        let origin = peer.origin.as_deref().ok_or(OriginFault::MissingOrInvalid)?;
        let url = url::Url::parse(origin).ok().filter(|url| url.has_host()).ok_or(OriginFault::MissingOrInvalid)?;
        if self.allowed.iter().any(|allowed| allowed == "*" || allowed.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
            return Ok(());
        }
        let host = url.host_str().unwrap_or("").trim_matches(['[', ']']);
        if peer.is_direct_local() && is_loopback_name(host) {
            return Ok(());
        }
        // Our own page: the origin is the host it connects to. Numbers only, because a name may be rebound.
        let authority = url.port().map_or_else(|| url.host_str().unwrap_or("").to_owned(), |port| format!("{}:{port}", url.host_str().unwrap_or("")));
        let own = peer.host.as_deref().is_some_and(|header| header.eq_ignore_ascii_case(&authority));
        if own && (self.host_fallback || is_private_address(host)) {
            return Ok(());
        }
        Err(OriginFault::NotAllowed)
    }
}

#[cfg(test)]
mod tests {
    use super::{AuthMode, AuthSettings, OriginFault, OriginRules, Peer, SecretCheck, TrustedProxySettings, UnknownProxy, host_name, is_private_address};
    use crate::doors::limits::FailureRule;
    use http::HeaderMap;

    fn auth(mode: AuthMode) -> AuthSettings {
        let trusted_proxy = TrustedProxySettings { user_header: Some("x-user".into()), allow_loopback: true, ..TrustedProxySettings::default() };
        AuthSettings { mode, token: Some("t".into()), password: Some("p".into()), failures: FailureRule::default(), trusted_proxy }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))).collect()
    }

    fn peer(addr: &str, pairs: &[(&'static str, &'static str)], trusted: &[&str]) -> Result<Peer, UnknownProxy> {
        let trusted: Vec<_> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        Peer::read(addr.parse().unwrap(), &headers(pairs), &trusted, false, &auth(AuthMode::TrustedProxy))
    }

    #[test]
    fn either_field_may_carry_the_secret() {
        let token = auth(AuthMode::Token);
        assert_eq!(token.check(Some("t"), None), SecretCheck::Right("token"));
        assert_eq!(token.check(None, Some("t")), SecretCheck::Right("token"));
        assert_eq!(token.check(Some("x"), Some("t")), SecretCheck::Wrong("token_mismatch"));
        assert_eq!(token.check(Some(""), None), SecretCheck::Missing("token_missing"));
        assert_eq!(auth(AuthMode::Password).check(Some("p"), None), SecretCheck::Right("password"));
        assert_eq!(auth(AuthMode::None).check(None, None), SecretCheck::Right("none"));
        let unset = AuthSettings { token: None, ..auth(AuthMode::Token) };
        assert_eq!(unset.check(Some("t"), None), SecretCheck::NotConfigured("token_missing_config"));
    }

    #[test]
    fn forwarding_headers_need_a_trusted_proxy() {
        assert_eq!(peer("127.0.0.1", &[("x-forwarded-for", "1.2.3.4")], &[]).unwrap_err(), UnknownProxy);
        let behind = peer("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, 10.0.0.7"), ("x-user", "ann")], &["10.0.0.0/8"]).unwrap();
        assert_eq!((behind.client.to_string().as_str(), behind.user.as_deref(), behind.is_direct_local()), ("1.2.3.4", Ok("ann"), false));
        assert_eq!(peer("127.0.0.1", &[], &["127.0.0.1/32"]).unwrap().user, Err("trusted_proxy_user_missing"));
        assert_eq!(peer("8.8.8.8", &[], &[]).unwrap().user, Err("trusted_proxy_untrusted_source"));
        assert!(peer("::ffff:127.0.0.1", &[], &[]).unwrap().is_direct_local());
    }

    #[test]
    fn origins_of_other_pages_are_refused() {
        let rules = OriginRules { allowed: vec!["https://ui.example".into()], host_fallback: false };
        let check = |addr: &str, pairs: &[(&'static str, &'static str)]| rules.check(&peer(addr, pairs, &[]).unwrap());
        assert_eq!(check("127.0.0.1", &[]), Err(OriginFault::MissingOrInvalid));
        assert_eq!(check("127.0.0.1", &[("origin", "null")]), Err(OriginFault::MissingOrInvalid));
        assert_eq!(check("127.0.0.1", &[("origin", "http://evil.example")]), Err(OriginFault::NotAllowed));
        assert_eq!(check("127.0.0.1", &[("origin", "http://localhost:5173")]), Ok(()));
        assert_eq!(check("192.168.1.9", &[("origin", "http://localhost:5173")]), Err(OriginFault::NotAllowed));
        assert_eq!(check("192.168.1.9", &[("origin", "http://192.168.1.2:18789"), ("host", "192.168.1.2:18789")]), Ok(()));
        assert_eq!(check("192.168.1.9", &[("origin", "http://rebound.example"), ("host", "rebound.example")]), Err(OriginFault::NotAllowed));
        assert_eq!(check("8.8.8.8", &[("origin", "https://ui.example")]), Ok(()));
    }

    #[test]
    fn hosts_are_read_without_ports() {
        assert_eq!((host_name("[::1]:80"), host_name("a.b:1"), host_name("a")), ("::1", "a.b", "a"));
        assert!(is_private_address("10.1.1.1") && is_private_address("100.64.0.1") && !is_private_address("8.8.8.8") && !is_private_address("x.local"));
    }
}
