//! Names of gateways and of those who write letters.

use clawstead_terms::{AgentId, Unit};

/// Longest name of a gateway, bytes.
pub const GATEWAY_NAME_MAX: usize = 40;

/// True for `[a-z0-9][a-z0-9-]{0,38}[a-z0-9]`: what a gateway may be called. The name is part of keys, certificates and
/// host names, hence so narrow.
#[must_use]
pub fn is_gateway(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (2..=GATEWAY_NAME_MAX).contains(&bytes.len())
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// True for `[a-z0-9][a-z0-9._-]{0,63}`: what a farm may be called.
#[must_use]
pub fn is_farm(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

/// The unit behind `source_agent` or `target_agent`: an agent's id, or `chan.<channel>.<account>` for a channel
/// account. `None` when it is neither.
#[must_use]
pub fn party_unit(name: &str) -> Option<Unit> {
    if name.starts_with("chan.") {
        let unit = Unit::parse(name)?;
        let Unit::Account(channel, account) = &unit else { return None };
        let plain = |text: &str| {
            (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'))
        };
        return (plain(channel.as_str()) && plain(account.as_str())).then_some(unit);
    }
    AgentId::parse(name).ok().map(Unit::Agent)
}

/// The name of a unit in `source_agent` and `target_agent`. `None` for the unit that nobody can write to.
#[must_use]
pub fn unit_party(unit: &Unit) -> Option<String> {
    match unit {
        Unit::Agent(agent) => Some(agent.to_string()),
        Unit::Account(..) => Some(unit.to_string()),
        Unit::Global | Unit::House(_) => None,
    }
}

/// True when `text` is what `pattern` describes; `*` stands for any run of characters, everything else for itself.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            (p, t) = (at + 1, from + 1);
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["jerry-gateway", "g1", "a1b2"] {
            assert!(is_gateway(good), "{good}");
        }
        for bad in ["", "a", "-ab", "ab-", "Jerry", "a_b", &"x".repeat(41), "a.b"] {
            assert!(!is_gateway(bad), "{bad}");
        }
        assert_eq!(party_unit("bobby"), Some(Unit::Agent(AgentId::normalise("bobby"))));
        assert_eq!(party_unit("chan.slack.default").and_then(|unit| unit_party(&unit)).as_deref(), Some("chan.slack.default"));
        for bad in ["", "Bobby", "chan.slack", "chan..x", "a b", "agent.bobby", "chan.sl/ack.x"] {
            assert_eq!(party_unit(bad), None, "{bad}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "x", true),
            ("infra.*", "infra.query", true),
            ("infra.*", "infra", false),
            ("*.query", "infra.query", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("jerry", "jerry2", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }
}
