//! Who may do what: pure functions. Channel senders here; agents among each other below.

use serde_json::Value;

use clawstead_channels::Inbound;
use clawstead_terms::{AgentId, PeerKind};

/// What a channel message may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It gets a turn.
    Turn,
    /// It is dropped; the reason is for the log.
    Drop(String),
}

/// Decides about a message by its channel section (`dmPolicy`, `allowFrom`, `groupPolicy`, `groupAllowFrom`, `groups`,
/// `requireMention`), account settings merged in. `dm_default` is used where the section has no `dmPolicy`.
#[must_use]
pub fn admit(section: &Value, message: &Inbound, dm_default: &str) -> Admission {
    let text = |key: &str| section.get(key).and_then(Value::as_str);
    if message.peer.kind == PeerKind::Direct {
        return match text("dmPolicy").unwrap_or(dm_default) {
            "open" => Admission::Turn,
            "disabled" => Admission::Drop("direct messages are disabled (dmPolicy)".into()),
            // Pairing codes are not handed out yet: whoever is not on the list is refused, as with `allowlist`.
            policy => listed(section.get("allowFrom"), message, policy),
        };
    }
    let group = section.get("groups").and_then(|groups| groups.get(&message.peer.id).or_else(|| groups.get("*")));
    match text("groupPolicy").unwrap_or("open") {
        "disabled" => return Admission::Drop("groups are disabled (groupPolicy)".into()),
        "allowlist" => {
            let senders = section.get("groupAllowFrom").or_else(|| section.get("allowFrom"));
            if group.is_none()
                && let Admission::Drop(why) = listed(senders, message, "groupPolicy allowlist")
            {
                return Admission::Drop(why);
            }
        }
        _ => {}
    }
    let setting = |key| group.and_then(|g| g.get(key)).or_else(|| section.get(key)).and_then(Value::as_bool);
    if setting("requireMention").unwrap_or(true) && !message.mentioned {
        return Admission::Drop("not mentioned (requireMention)".into());
    }
    Admission::Turn
}

fn listed(list: Option<&Value>, message: &Inbound, policy: &str) -> Admission {
    let entries = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let matches = |entry: &Value| {
        let entry = entry.as_str().map_or_else(|| entry.to_string(), str::to_owned);
        let entry = entry.trim();
        entry == "*"
            || entry.eq_ignore_ascii_case(&message.sender_id)
            || entry
                .strip_prefix(message.channel.as_str())
                .and_then(|rest| rest.strip_prefix(':'))
                .is_some_and(|id| id.eq_ignore_ascii_case(&message.sender_id))
    };
    if entries.iter().any(matches) { Admission::Turn } else { Admission::Drop(format!("sender is not in allowFrom ({policy})")) }
}

/// Whether an agent may write to another one on the same gateway: `tools.agentToAgent {enabled, allow}` (off unless
/// switched on; `allow` empty means all). An agent may always write to its own sessions.
pub fn may_reach(agent_to_agent: &Value, from: &AgentId, to: &AgentId) -> Result<(), String> {
    if from == to {
        return Ok(());
    }
    if agent_to_agent.get("enabled").and_then(Value::as_bool) != Some(true) {
        return Err(format!("agent {from} may not write to agent {to}: set tools.agentToAgent.enabled to true"));
    }
    let Some(allow) = agent_to_agent.get("allow").and_then(Value::as_array).filter(|list| !list.is_empty()) else {
        return Ok(());
    };
    let named = |id: &AgentId| allow.iter().filter_map(Value::as_str).any(|pattern| matches(pattern, id.as_str()));
    if named(from) && named(to) { Ok(()) } else { Err(format!("agent {from} may not write to agent {to}: tools.agentToAgent.allow must name both")) }
}

/// `*` matches any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern = pattern.to_lowercase();
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut tail = None;
    for part in parts {
        tail = Some(part);
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    tail.map_or(rest.is_empty(), |last| text.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::{Admission, admit, matches, may_reach};
    use clawstead_channels::Inbound;
    use clawstead_terms::{AgentId, DeliveryTarget, Millis, Peer, PeerKind};
    use serde_json::{Value, json};

    fn from(kind: PeerKind, mentioned: bool) -> Inbound {
        Inbound {
            channel: "slack".into(),
            account: "default".into(),
            message_id: "1".into(),
            peer: Peer { kind, id: "C1".into() },
            parent_peer: None,
            thread_id: None,
            guild_id: None,
            team_id: None,
            roles: vec![],
            sender_id: "U1".into(),
            sender_name: "n".into(),
            mentioned,
            body: vec![],
            at: Millis(0),
            reply: DeliveryTarget { channel: "slack".into(), account: "default".into(), to: "C1".into(), thread_id: None, reply_to: None },
        }
    }

    #[test]
    fn direct_messages_need_an_open_policy_or_a_listed_sender() {
        let turn = |section: Value| admit(&section, &from(PeerKind::Direct, false), "pairing") == Admission::Turn;
        assert!(!turn(json!({})));
        assert!(turn(json!({"dmPolicy": "open"})));
        assert!(!turn(json!({"dmPolicy": "disabled", "allowFrom": ["*"]})));
        assert!(turn(json!({"allowFrom": ["u1"]})));
        assert!(turn(json!({"dmPolicy": "allowlist", "allowFrom": ["slack:U1"]})));
        assert!(!turn(json!({"dmPolicy": "allowlist", "allowFrom": ["U2"]})));
    }

    #[test]
    fn groups_want_a_mention_unless_told_otherwise() {
        let turn = |section: Value, mentioned| admit(&section, &from(PeerKind::Channel, mentioned), "pairing") == Admission::Turn;
        assert!(turn(json!({}), true));
        assert!(!turn(json!({}), false));
        assert!(turn(json!({"requireMention": false}), false));
        assert!(turn(json!({"groups": {"C1": {"requireMention": false}}}), false));
        assert!(!turn(json!({"groupPolicy": "allowlist"}), true));
        assert!(turn(json!({"groupPolicy": "allowlist", "groups": {"C1": {}}}), true));
        assert!(turn(json!({"groupPolicy": "allowlist", "groupAllowFrom": ["U1"]}), true));
    }

    #[test]
    fn agents_reach_each_other_only_when_both_are_named() {
        let [jerry, bobby] = ["jerry", "bobby"].map(AgentId::normalise);
        assert!(may_reach(&json!({}), &jerry, &jerry).is_ok());
        assert!(may_reach(&json!({}), &jerry, &bobby).is_err());
        assert!(may_reach(&json!({"enabled": true}), &jerry, &bobby).is_ok());
        assert!(may_reach(&json!({"enabled": true, "allow": ["jerry"]}), &jerry, &bobby).is_err());
        assert!(may_reach(&json!({"enabled": true, "allow": ["jerry", "b*"]}), &jerry, &bobby).is_ok());
        for (pattern, text, want) in [("*", "x", true), ("a*c", "abc", true), ("a*c", "abd", false), ("ab", "abc", false), ("*b", "ab", true)] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }
}
