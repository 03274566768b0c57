use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{text}\" is not a valid {what}: {rule}")]
pub struct IdError {
    /// The kind of id asked for.
    pub what: &'static str,
    /// The text given.
    pub text: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

macro_rules! open_id {
    ($($name:ident),*) => {$(
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
    )*};
}

text_id!(
    /// An agent: `[a-z0-9][a-z0-9_-]{0,63}`, lower case.
    AgentId
);
text_id!(
    /// A chat platform, lower case: `slack`, `telegram`, `webchat`.
    ChannelId
);
text_id!(
    /// An account on a channel, lower case; `default` when the user named none.
    AccountId
);
text_id!(
    /// One run of an agent. It is the caller's idempotency key where there is one.
    RunId
);
text_id!(
    /// One transcript: a session key points to one session id at a time, a reset makes a new one.
    SessionId
);
text_id!(
    /// One message of a transcript.
    MessageId
);
text_id!(
    /// One letter: `UUIDv7` text, never reused, also not on replay.
    EnvelopeId
);
open_id!(ChannelId, AccountId, RunId, SessionId, MessageId, EnvelopeId);

impl AgentId {
    /// The id used when a config names no agent.
    pub const MAIN: &'static str = "main";

    /// Reads an id strictly.
    ///
    /// # Errors
    /// When the text is not `[a-z0-9][a-z0-9_-]{0,63}`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let ok = (1..=64).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
            && text.as_bytes()[0].is_ascii_alphanumeric();
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(IdError { what: "agent id", text: text.into(), rule: "letters a-z, digits, _ and -, at most 64, first a letter or digit" })
        }
    }

    /// Reads an id as OpenClaw does: lower-cased, other characters become `-`, trimmed of leading and
    /// trailing `-`, cut at 64; empty becomes `main`.
    #[must_use]
    pub fn normalise(text: &str) -> Self {
        let mapped: String =
            text.trim().to_lowercase().chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-' { c } else { '-' }).collect();
        let trimmed = mapped.trim_start_matches(['-', '_']).trim_end_matches('-');
        let cut: &str = &trimmed[..trimmed.len().min(64)];
        if cut.is_empty() { Self(Self::MAIN.into()) } else { Self(cut.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::AgentId;

    #[test]
    fn agent_ids_are_normalised_like_the_original() {
        for (given, want) in [("Main", "main"), ("Code Reviewer", "code-reviewer"), ("--x--", "x"), ("", "main"), ("ä", "main"), ("a_b-c", "a_b-c")] {
            assert_eq!(AgentId::normalise(given).as_str(), want, "{given}");
        }
        assert!(AgentId::parse("Jerry").is_err());
        assert!(AgentId::parse("-x").is_err());
        assert!(AgentId::parse(&"x".repeat(65)).is_err());
    }
}
