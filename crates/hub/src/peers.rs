//! Who calls the hub and what they may do: named peers with a bearer token each, or the local user of a stdio process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use clawstead_terms::{Failure, FailureCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Shortest bearer token that is taken, bytes. Shorter ones can be guessed.
pub const TOKEN_BYTES_MIN: usize = 24;

/// Longest bearer token, bytes.
pub const TOKEN_BYTES_MAX: usize = 512;

/// What a peer may do. A peer without a scope gets `FORBIDDEN` with the scope's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Register agents of its own and say that they live.
    Register,
    /// See who is in the farm.
    Discover,
    /// Send letters as its own agents.
    Send,
    /// Read and settle the inboxes of its own agents.
    Inbox,
    /// Read shared memory, events and the task queue.
    MemoryRead,
    /// Write the memory of its own agents and the shared space; push events.
    MemoryWrite,
    /// Put tasks into the queue and take them.
    Tasks,
    /// Read the shared vault.
    VaultRead,
    /// Write the notes of its own agents in the vault, and add to the shared logs there.
    VaultWrite,
    /// See dead letters from or to its own agents.
    Dlq,
    /// See and replay every dead letter. For people who run the farm, never for an agent.
    Operator,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 11] = [
        Self::Register,
        Self::Discover,
        Self::Send,
        Self::Inbox,
        Self::MemoryRead,
        Self::MemoryWrite,
        Self::Tasks,
        Self::VaultRead,
        Self::VaultWrite,
        Self::Dlq,
        Self::Operator,
    ];

    /// Its name in config and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Discover => "discover",
            Self::Send => "send",
            Self::Inbox => "inbox",
            Self::MemoryRead => "memory-read",
            Self::MemoryWrite => "memory-write",
            Self::Tasks => "tasks",
            Self::VaultRead => "vault-read",
            Self::VaultWrite => "vault-write",
            Self::Dlq => "dlq",
            Self::Operator => "operator",
        }
    }

    /// What a peer gets when its config names no scopes: everything but [`Self::Operator`].
    #[must_use]
    pub fn usual() -> BTreeSet<Self> {
        Self::ALL.into_iter().filter(|scope| *scope != Self::Operator).collect()
    }
}

/// A program that may call the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, unique in the farm: owner of the agents it registers.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
}

/// Whoever makes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The person or program that started us and speaks over standard input and output: every scope.
    Local,
    /// A peer that showed its token.
    Peer(Arc<Peer>),
}

/// Who registered an agent. The host stores it beside the agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner(String);

impl Owner {
    /// As it is stored: `local` or `peer:<name>`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a host stored before.
    pub fn stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Caller {
    /// As the owner of agents.
    #[must_use]
    pub fn owner(&self) -> Owner {
        match self {
            Self::Local => Owner("local".into()),
            Self::Peer(peer) => Owner(format!("peer:{}", peer.name)),
        }
    }

    /// True when it has the scope.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        match self {
            Self::Local => true,
            Self::Peer(peer) => peer.scopes.contains(&scope),
        }
    }

    /// Refuses a caller without the scope.
    ///
    /// # Errors
    /// `FORBIDDEN`, naming the peer and the scope.
    pub fn need(&self, scope: Scope) -> Result<(), Failure> {
        if self.has(scope) {
            return Ok(());
        }
        let name = scope.name();
        Err(Failure::new(FailureCode::Forbidden, format!("{} has no scope \"{name}\"", self.owner()))
            .with_hint(format!("the operator adds \"{name}\" to the scopes of this peer in the gateway's config")))
    }
}

/// Finds the peer of a bearer token.
pub trait PeerBook: Send + Sync {
    /// The peer, or `None` for a token nobody has. Called once per HTTP request: must be fast.
    fn find(&self, token: &str) -> Option<Arc<Peer>>;
}

/// Peers from a config. It keeps digests of tokens, never tokens, so neither memory dumps nor timing tell them.
#[derive(Clone, Default)]
pub struct PeerList(BTreeMap<[u8; 32], Arc<Peer>>);

/// Why a list of peers cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The token is too short or too long.
    #[error("the token of peer \"{name}\" has {bytes} bytes; it needs {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} (try: openssl rand -hex 32)")]
    Token {
        /// The peer.
        name: String,
        /// Its length.
        bytes: usize,
    },
    /// Two peers have one token.
    #[error("peers \"{first}\" and \"{second}\" have the same token; give each its own")]
    Shared {
        /// The one that was there.
        first: String,
        /// The other.
        second: String,
    },
    /// The name would not read well in an owner.
    #[error("\"{0}\" is not a peer name: letters, digits, dot, _ and -, at most 64")]
    Name(String),
}

impl PeerList {
    /// Adds a peer. A peer may have several tokens (rotation with overlap): add it again with the other one.
    ///
    /// # Errors
    /// As [`PeerError`] lists.
    pub fn add(&mut self, peer: Arc<Peer>, token: &str) -> Result<(), PeerError> {
        let name_ok = (1..=64).contains(&peer.name.len()) && peer.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !name_ok {
            return Err(PeerError::Name(peer.name.clone()));
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(PeerError::Token { name: peer.name.clone(), bytes: token.len() });
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(there) = self.0.get(&digest).filter(|there| there.name != peer.name) {
            return Err(PeerError::Shared { first: there.name.clone(), second: peer.name.clone() });
        }
        self.0.insert(digest, peer);
        Ok(())
    }
}

impl PeerBook for PeerList {
    fn find(&self, token: &str) -> Option<Arc<Peer>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.0.get(&digest).cloned()
    }
}

impl fmt::Debug for PeerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.values().map(|peer| &peer.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> Arc<Peer> {
        Arc::new(Peer { name: name.into(), scopes: Scope::usual() })
    }

    #[test]
    fn a_token_names_its_peer_and_nothing_prints_it() {
        let mut list = PeerList::default();
        let (old, new) = ("a-token-of-thirty-two-characters", "another-token-of-thirty-two-char");
        list.add(peer("laptop"), old).unwrap();
        list.add(peer("laptop"), new).unwrap();
        assert_eq!(list.find(old).unwrap().name, "laptop");
        assert_eq!(list.find(new).unwrap().name, "laptop");
        assert!(list.find("").is_none() && list.find(&old[1..]).is_none());
        assert!(!format!("{list:?}").contains("token"));
        assert!(matches!(list.add(peer("phone"), old), Err(PeerError::Shared { .. })));
        assert!(matches!(list.add(peer("phone"), "short"), Err(PeerError::Token { bytes: 5, .. })));
        assert!(matches!(list.add(peer("a b"), "x".repeat(40).as_str()), Err(PeerError::Name(_))));
    }

    #[test]
    fn a_missing_scope_is_named() {
        let caller = Caller::Peer(peer("laptop"));
        assert!(caller.need(Scope::Send).is_ok());
        let failure = caller.need(Scope::Operator).unwrap_err();
        assert_eq!(failure.code, FailureCode::Forbidden);
        assert!(failure.message.contains("peer:laptop") && failure.message.contains("operator"), "{failure}");
        assert!(Caller::Local.need(Scope::Operator).is_ok());
    }
}
