use std::{fmt, sync::Arc};

use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use super::host::Peer;
use crate::{
    proto::{A2aError, AgentExtension, ErrorKind},
    sign::CardKey,
};

/// Largest request body, bytes, unless the settings say otherwise.
pub const BODY_BYTES_DEFAULT: usize = 16 * 1024 * 1024;

/// How long a call waits for the end of a task, milliseconds, unless the settings say otherwise; then it answers with
/// the task as it is.
pub const WAIT_MS_DEFAULT: u64 = 600_000;

/// Whether something is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is.
    Yes,
    /// It is not: the card says so, and the calls are refused.
    No,
}

impl Offer {
    pub(crate) const fn yes(self) -> bool {
        matches!(self, Self::Yes)
    }
}

/// What to do with a caller who brings no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Refused.
    Refused,
    /// Served. All of them are one caller and see each other's tasks, and their messages are not known again: an id
    /// from nobody proves nothing.
    Served,
}

/// A caller and what it proves itself with.
#[derive(Clone)]
pub struct PeerToken {
    name: String,
    digest: [u8; 32],
}

impl fmt::Debug for PeerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerToken").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// A name that cannot be part of a key.
    #[error("the A2A peer name {0:?} is not usable: 1 to 64 of letters, digits, '.', '_', '-', '@'")]
    PeerName(String),
    /// A token that is easy to guess.
    #[error("the token of the A2A peer {0} is shorter than 16 characters; make a longer one")]
    ShortToken(String),
    /// Two peers with one name or one token.
    #[error("the A2A peer {0} is there twice, or shares its token with another")]
    Twice(String),
    /// An address nobody can call.
    #[error("the public address {0:?} of the A2A server is not an http or https address")]
    PublicUrl(String),
}

/// Who may call.
#[derive(Clone, Debug)]
pub struct Access {
    peers: Vec<PeerToken>,
    anonymous: Anonymous,
}

impl Access {
    /// Peers by name and token.
    ///
    /// # Errors
    /// When a name or a token cannot be used.
    pub fn new<'a>(peers: impl IntoIterator<Item = (&'a str, &'a str)>, anonymous: Anonymous) -> Result<Self, SettingsError> {
        let mut known: Vec<PeerToken> = Vec::new();
        for (name, token) in peers {
            let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@".contains(&b));
            if !fits {
                return Err(SettingsError::PeerName(name.into()));
            }
            if token.len() < 16 {
                return Err(SettingsError::ShortToken(name.into()));
            }
            let digest = Sha256::digest(token).into();
            if known.iter().any(|peer| peer.name == name || peer.digest == digest) {
                return Err(SettingsError::Twice(name.into()));
            }
            known.push(PeerToken { name: name.into(), digest });
        }
        Ok(Self { peers: known, anonymous })
    }

    /// True when a token is needed.
    #[must_use]
    pub const fn needs_token(&self) -> bool {
        matches!(self.anonymous, Anonymous::Refused)
    }

    /// True for a caller that may be served here, however it proved itself: what another gateway of the farm says of its
    /// caller counts only for those.
    #[must_use]
    pub fn lists(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Named(name) => self.peers.iter().any(|known| known.name == *name),
            Peer::Anonymous => self.anonymous == Anonymous::Served,
        }
    }

    /// Who calls. A wrong token is refused even where none is needed. Every known token is compared, in constant time.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`].
    pub fn who(&self, headers: &HeaderMap) -> Result<Peer, A2aError> {
        let refused =
            |why: &str| A2aError::new(ErrorKind::Unauthenticated, format!("{why}; send Authorization: Bearer <token> with a token this server knows"));
        let Some(header) = headers.get(http::header::AUTHORIZATION) else {
            return match self.anonymous {
                Anonymous::Served => Ok(Peer::Anonymous),
                Anonymous::Refused => Err(refused("The request names no caller")),
            };
        };
        let token = header
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| refused("The Authorization header is not a bearer token"))?;
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for peer in &self.peers {
            if bool::from(peer.digest.ct_eq(&digest)) {
                found = Some(peer.name.clone());
            }
        }
        found.map(Peer::Named).ok_or_else(|| refused("The token is not known"))
    }
}

/// Where push notifications may go beyond public addresses.
#[derive(Clone, Debug, Default)]
pub struct PushTargets {
    /// Hosts, with or without a port, as an address writes them: `hooks.home.arpa`, `127.0.0.1:8080`.
    pub hosts: Vec<String>,
    /// Networks, for addresses that name an IP.
    pub networks: Vec<ipnet::IpNet>,
}

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where others reach it, without a path's end: `https://house.example`.
    pub public_url: String,
    /// The name of the card that stands for several agents.
    pub house_name: String,
    /// Who may call.
    pub access: Access,
    /// Streams.
    pub streaming: Offer,
    /// Push notifications.
    pub push: Offer,
    /// Longer cards for known callers.
    pub extended_card: Offer,
    /// Extensions of the protocol that the cards name; a request has to know the required ones.
    pub extensions: Vec<AgentExtension>,
    /// Where push notifications may go beyond public addresses.
    pub push_targets: PushTargets,
    /// What signs the cards; none leaves them unsigned.
    pub card_keys: Vec<Arc<CardKey>>,
    /// Largest request body, bytes.
    pub body_bytes_max: usize,
    /// How long a call waits for the end of a task, milliseconds.
    pub wait_ms_max: u64,
}

impl Settings {
    /// Everything offered but longer cards, defaults elsewhere.
    ///
    /// # Errors
    /// [`SettingsError::PublicUrl`].
    pub fn new(public_url: &str, access: Access) -> Result<Self, SettingsError> {
        let usable = url::Url::parse(public_url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !usable {
            return Err(SettingsError::PublicUrl(public_url.into()));
        }
        Ok(Self {
            public_url: public_url.trim_end_matches('/').to_owned(),
            house_name: "OpenClaw gateway".into(),
            access,
            streaming: Offer::Yes,
            push: Offer::Yes,
            extended_card: Offer::No,
            extensions: Vec::new(),
            push_targets: PushTargets::default(),
            card_keys: Vec::new(),
            body_bytes_max: BODY_BYTES_DEFAULT,
            wait_ms_max: WAIT_MS_DEFAULT,
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

    use super::{Access, Anonymous, Peer, SettingsError};

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_caller_is_who_its_token_says() {
        let access = Access::new([("ann", "a-token-of-ann-0001"), ("bob", "a-token-of-bob-0001")], Anonymous::Served).unwrap();
        assert_eq!(access.who(&with("bearer a-token-of-bob-0001")).unwrap(), Peer::Named("bob".into()));
        assert_eq!(access.who(&HeaderMap::new()).unwrap(), Peer::Anonymous);
        assert!(access.who(&with("Bearer a-token-of-bob-0002")).is_err(), "a wrong token is not nobody");
        assert!(access.who(&with("Basic YTpi")).is_err());
        let closed = Access::new([], Anonymous::Refused).unwrap();
        assert!(closed.who(&HeaderMap::new()).is_err());
    }

    #[test]
    fn settings_that_would_not_hold_are_refused() {
        let one = |name, token| Access::new([(name, token)], Anonymous::Refused).err();
        assert!(matches!(one("a/b", "0123456789abcdef"), Some(SettingsError::PeerName(_))));
        assert!(matches!(one("a", "short"), Some(SettingsError::ShortToken(_))));
        assert!(matches!(Access::new([("a", "0123456789abcdef"), ("b", "0123456789abcdef")], Anonymous::Refused), Err(SettingsError::Twice(_))));
    }
}
