use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{AgentId, IdError};

/// The name of a conversation with one agent: `agent:<agent>:<rest>`, lower case, at most 512 bytes.
///
/// Forms (see `docs/reference`): `agent:a:main`, `agent:a:direct:<peer>`, `agent:a:<channel>:direct:<peer>`,
/// `agent:a:<channel>:<account>:direct:<peer>`, `agent:a:<channel>:group:<id>`, `...:thread:<id>`,
/// `agent:a:cron:<job>`, `agent:a:subagent:<uuid>`, `agent:a:openai:<uuid>`, `agent:a:explicit:<id>`, ...
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionKey(Arc<str>);

/// How direct messages share sessions (`session.dmScope`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DmScope {
    /// All direct messages share the agent's main session.
    #[default]
    Main,
    /// One session a person, over all channels.
    PerPeer,
    /// One session a person and channel.
    PerChannelPeer,
    /// One session a person, channel and account.
    PerAccountChannelPeer,
}

/// The kind of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatType {
    /// One to one.
    Direct,
    /// A group.
    Group,
    /// A channel or room.
    Channel,
}

/// The kind of a peer in bindings and session keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// A person; `dm` is the older spelling.
    #[serde(alias = "dm")]
    Direct,
    /// A group; matches `channel` too in bindings.
    Group,
    /// A channel or room; matches `group` too in bindings.
    Channel,
}

/// Somebody or some place on a chat platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its kind.
    pub kind: PeerKind,
    /// The platform's id.
    pub id: String,
}

impl SessionKey {
    /// Longest key, bytes.
    pub const BYTES_MAX: usize = 512;

    /// The agent's main session: `agent:<agent>:main`.
    #[must_use]
    pub fn main(agent: &AgentId) -> Self {
        Self::of(agent, "main")
    }

    /// `agent:<agent>:<rest>`; `rest` is lower-cased.
    #[must_use]
    pub fn of(agent: &AgentId, rest: &str) -> Self {
        Self(format!("agent:{agent}:{}", rest.to_lowercase()).into())
    }

    /// Reads a key as users and clients write it: `main` and other bare keys belong to `default_agent`,
    /// the older `dm` spelling of `direct` is mapped, case is folded.
    ///
    /// # Errors
    /// When it is empty, too long, has control characters, or names an invalid agent.
    pub fn resolve(text: &str, default_agent: &AgentId) -> Result<Self, IdError> {
        let bad = |rule| IdError { what: "session key", text: text.chars().take(80).collect(), rule };
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(bad("must not be empty"));
        }
        if trimmed.len() > Self::BYTES_MAX {
            return Err(bad("at most 512 bytes"));
        }
        if trimmed.chars().any(char::is_control) {
            return Err(bad("no control characters"));
        }
        let lower = trimmed.to_lowercase();
        let Some(rest) = lower.strip_prefix("agent:") else {
            return Ok(Self::of(default_agent, &lower.replace(":dm:", ":direct:")));
        };
        let (agent, tail) = rest.split_once(':').ok_or_else(|| bad("needs agent:<id>:<rest>"))?;
        let agent = AgentId::parse(agent).map_err(|_| bad("the agent id is not valid"))?;
        if tail.is_empty() {
            return Err(bad("needs agent:<id>:<rest>"));
        }
        let tail = if let Some(peer) = tail.strip_prefix("dm:") { format!("direct:{peer}") } else { tail.replace(":dm:", ":direct:") };
        Ok(Self::of(&agent, &tail))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The agent it belongs to.
    #[must_use]
    pub fn agent(&self) -> AgentId {
        let rest = self.0.strip_prefix("agent:").unwrap_or(&self.0);
        AgentId::normalise(rest.split_once(':').map_or(rest, |(agent, _)| agent))
    }

    /// What follows `agent:<id>:`.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.0.splitn(3, ':').nth(2).unwrap_or("")
    }

    /// True for `agent:<id>:main`.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.rest() == "main"
    }

    /// True for sessions of cron jobs.
    #[must_use]
    pub fn is_cron(&self) -> bool {
        self.rest().starts_with("cron:")
    }

    /// True for sub-agent sessions, nested ones included.
    #[must_use]
    pub fn is_subagent(&self) -> bool {
        let rest = self.rest();
        rest.starts_with("subagent:") || rest.contains(":subagent:")
    }

    /// The kind of chat, read from the key: `group`, `channel` where it says so, otherwise direct.
    #[must_use]
    pub fn chat_type(&self) -> ChatType {
        let mut words = self.rest().split(':');
        if words.clone().any(|word| word == "group") {
            ChatType::Group
        } else if words.any(|word| word == "channel") {
            ChatType::Channel
        } else {
            ChatType::Direct
        }
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for SessionKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for SessionKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{ChatType, SessionKey};
    use crate::AgentId;

    #[test]
    fn keys_are_read_as_clients_write_them() {
        let jerry = AgentId::normalise("jerry");
        for (given, want) in [
            ("main", "agent:jerry:main"),
            ("agent:Bobby:Main", "agent:bobby:main"),
            ("agent:bobby:slack:dm:U1", "agent:bobby:slack:direct:u1"),
            ("agent:bobby:dm:u1", "agent:bobby:direct:u1"),
            ("telegram:group:-100", "agent:jerry:telegram:group:-100"),
        ] {
            assert_eq!(SessionKey::resolve(given, &jerry).unwrap().as_str(), want);
        }
        for bad in ["", " ", "agent:x", "agent:x:", "agent:é:main", "a\u{7}b"] {
            assert!(SessionKey::resolve(bad, &jerry).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parts_of_a_key() {
        let jerry = AgentId::normalise("jerry");
        let key = SessionKey::resolve("agent:jerry:telegram:group:-100:topic:7", &jerry).unwrap();
        assert_eq!((key.agent(), key.rest(), key.chat_type()), (jerry.clone(), "telegram:group:-100:topic:7", ChatType::Group));
        assert!(SessionKey::main(&jerry).is_main());
        assert!(SessionKey::of(&jerry, "subagent:1").is_subagent());
    }
}
