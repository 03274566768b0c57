//! `a2a`: agents of this gateway for others over the A2A protocol, and agents of others for ours. Absent or without
//! `enabled: true` nothing is served.

use std::path::PathBuf;

use super::Cx;
use crate::{secret::Secret, view::View};

/// Shortest token of a caller, characters: what a stranger cannot guess.
pub const TOKEN_CHARS_MIN: usize = 16;

/// Somebody who may call (`a2a.peers`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct A2aPeer {
    /// Its name in tasks, sessions and logs; 1 to 64 of letters, digits, `.`, `_`, `-`, `@`.
    pub name: String,
    /// What it proves itself with, at least [`TOKEN_CHARS_MIN`] characters. None when its reference has no value: then
    /// the peer is not served.
    pub token: Option<Secret>,
}

/// An agent of others that ours may call by name (`a2a.remotes`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct A2aRemote {
    /// How our agents name it.
    pub name: String,
    /// Its address, or that of its card.
    pub url: String,
    /// Sent to the origin of `url` only; none when it wants none.
    pub token: Option<Secret>,
}

/// A file that signs agent cards (`a2a.signing.keys`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct A2aSigningKey {
    /// A private key, P-256 or Ed25519, as PEM (PKCS #8). Relative to the folder of the config file; `~` is understood.
    pub file: PathBuf,
    /// Its name in signatures; none: made from its public half.
    pub kid: Option<String>,
}

/// `a2a.signing`: every card carries a signature of each key, so that a key is changed without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct A2aSigning {
    /// With the gateway's own key too: that of the farm, else that of the device; default true.
    pub own: bool,
    /// Further keys.
    pub keys: Vec<A2aSigningKey>,
}

/// `a2a`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct A2aConfig {
    /// Default false.
    pub enabled: bool,
    /// Where others reach this gateway, without a path's end; none means `http://127.0.0.1:<port>`.
    pub public_url: Option<String>,
    /// Who may call. Nobody else.
    pub peers: Vec<A2aPeer>,
    /// Streams are offered; default true.
    pub streaming: bool,
    /// Push notifications are offered (`push.enabled`); default true.
    pub push: bool,
    /// Where they may go beyond public addresses (`push.targets`): hosts with or without a port, addresses, networks.
    pub push_targets: Vec<String>,
    /// Agents of others.
    pub remotes: Vec<A2aRemote>,
    /// What signs the agent cards.
    pub signing: A2aSigning,
}

pub(crate) fn read(cx: &Cx<'_>) -> Option<A2aConfig> {
    let a2a = cx.root.at("a2a");
    a2a.object()?;
    Some(A2aConfig {
        enabled: a2a.at("enabled").bool() == Some(true),
        public_url: a2a.at("publicUrl").word(),
        peers: a2a.at("peers").list().filter_map(peer).collect(),
        streaming: a2a.at("streaming").bool() != Some(false),
        push: a2a.path("push.enabled").bool() != Some(false),
        push_targets: a2a.path("push.targets").texts().unwrap_or_default(),
        remotes: a2a.at("remotes").list().filter_map(remote).collect(),
        signing: A2aSigning {
            own: a2a.path("signing.own").bool() != Some(false),
            keys: a2a.path("signing.keys").list().filter_map(|key| signing_key(key, cx)).collect(),
        },
    })
}

fn peer(v: View<'_>) -> Option<A2aPeer> {
    Some(A2aPeer { name: v.at("name").word()?, token: v.at("token").secret() })
}

fn signing_key(v: View<'_>, cx: &Cx<'_>) -> Option<A2aSigningKey> {
    Some(A2aSigningKey { file: cx.paths.expand(&v.at("file").word()?), kid: v.at("kid").word() })
}

fn remote(v: View<'_>) -> Option<A2aRemote> {
    Some(A2aRemote { name: v.at("name").word()?, url: v.at("url").word()?, token: v.at("token").secret() })
}
