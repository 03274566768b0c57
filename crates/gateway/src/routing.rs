//! Which agent and which session a channel message belongs to: pure functions with their cases.

use std::collections::BTreeMap;

use clawstead_channels::Inbound;
use clawstead_terms::{AgentId, DmScope, Peer, PeerKind, SessionKey};

/// Which accounts a binding is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountMatch {
    /// `accountId: "*"`.
    Any,
    /// A named one, lower case; bindings without `accountId` mean `default`.
    Exact(String),
}

/// Which peers a binding is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMatch {
    /// This one.
    Exact(Peer),
    /// `id: "*"`: all of a kind.
    AnyOf(PeerKind),
    /// A peer that cannot be read; the binding never matches.
    Never,
}

/// One binding, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The agent it leads to.
    pub agent: AgentId,
    /// The channel, lower case.
    pub channel: String,
    /// The accounts.
    pub account: AccountMatch,
    /// The peers.
    pub peer: Option<PeerMatch>,
    /// The guild.
    pub guild: Option<String>,
    /// The team.
    pub team: Option<String>,
    /// Any of these roles.
    pub roles: Vec<String>,
}

/// Where a message goes and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The agent.
    pub agent: AgentId,
    /// `binding.peer`, `binding.peer.parent`, ... `default`.
    pub matched_by: &'static str,
}

/// The tiers, most specific first. The names are those OpenClaw reports.
const TIERS: [&str; 8] = [
    "binding.peer",
    "binding.peer.parent",
    "binding.peer.wildcard",
    "binding.guild+roles",
    "binding.guild",
    "binding.team",
    "binding.account",
    "binding.channel",
];

/// Finds the agent for a message: the most specific tier wins, config order inside a tier, `default` at the end.
#[must_use]
pub fn route(rules: &[Rule], message: &Inbound, default: &AgentId) -> Routed {
    let mut best: Option<(usize, &Rule)> = None;
    for rule in rules {
        if let Some(tier) = tier_of(rule, message)
            && best.is_none_or(|(found, _)| tier < found)
        {
            best = Some((tier, rule));
        }
    }
    best.map_or_else(|| Routed { agent: default.clone(), matched_by: "default" }, |(tier, rule)| Routed { agent: rule.agent.clone(), matched_by: TIERS[tier] })
}

fn tier_of(rule: &Rule, message: &Inbound) -> Option<usize> {
    if rule.channel != message.channel.as_str() {
        return None;
    }
    if let AccountMatch::Exact(account) = &rule.account
        && account != message.account.as_str()
    {
        return None;
    }
    if rule.guild.as_ref().is_some_and(|guild| message.guild_id.as_ref() != Some(guild))
        || rule.team.as_ref().is_some_and(|team| message.team_id.as_ref() != Some(team))
    {
        return None;
    }
    if !rule.roles.is_empty() && !rule.roles.iter().any(|role| message.roles.contains(role)) {
        return None;
    }
    match &rule.peer {
        Some(PeerMatch::Never) => None,
        Some(PeerMatch::Exact(peer)) if same_peer(peer, &message.peer) => Some(0),
        Some(PeerMatch::Exact(peer)) => message.parent_peer.as_ref().filter(|parent| same_peer(peer, parent)).map(|_| 1),
        Some(PeerMatch::AnyOf(kind)) => same_kind(*kind, message.peer.kind).then_some(2),
        None if rule.guild.is_some() && !rule.roles.is_empty() => Some(3),
        // Roles without a guild cannot be checked against anything.
        None if !rule.roles.is_empty() => None,
        None if rule.guild.is_some() => Some(4),
        None if rule.team.is_some() => Some(5),
        None => Some(if rule.account == AccountMatch::Any { 7 } else { 6 }),
    }
}

fn same_peer(a: &Peer, b: &Peer) -> bool {
    same_kind(a.kind, b.kind) && a.id.trim() == b.id.trim()
}

/// `group` and `channel` match each other.
fn same_kind(a: PeerKind, b: PeerKind) -> bool {
    (a == PeerKind::Direct) == (b == PeerKind::Direct)
}

/// How sessions of channels are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRules {
    /// How direct messages share sessions.
    pub dm_scope: DmScope,
    /// Canonical name by `<id>` or `<channel>:<id>`, lower case.
    pub identity_links: BTreeMap<String, String>,
}

impl SessionRules {
    /// Turns `session.identityLinks` (`canonical: [ids]`) around.
    #[must_use]
    pub fn links(configured: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, String> {
        configured.iter().flat_map(|(name, ids)| ids.iter().map(move |id| (id.trim().to_lowercase(), name.to_lowercase()))).collect()
    }
}

/// The session of a message with an agent.
#[must_use]
pub fn session_key(rules: &SessionRules, agent: &AgentId, message: &Inbound) -> SessionKey {
    let channel = message.channel.as_str();
    let id = message.peer.id.trim().to_lowercase();
    let base = match message.peer.kind {
        PeerKind::Direct => {
            let peer = || rules.identity_links.get(&format!("{channel}:{id}")).or_else(|| rules.identity_links.get(&id)).cloned().unwrap_or_else(|| id.clone());
            let base = match rules.dm_scope {
                DmScope::Main => "main".to_owned(),
                DmScope::PerPeer => format!("direct:{}", peer()),
                DmScope::PerChannelPeer => format!("{channel}:direct:{}", peer()),
                DmScope::PerAccountChannelPeer => format!("{channel}:{}:direct:{}", message.account, peer()),
            };
            return match &message.thread_id {
                // Telegram names the chat in the threads of direct chats too.
                Some(thread) if channel == "telegram" => SessionKey::of(agent, &format!("{base}:thread:{id}:{thread}")),
                Some(thread) => SessionKey::of(agent, &format!("{base}:thread:{thread}")),
                None => SessionKey::of(agent, &base),
            };
        }
        PeerKind::Group => format!("{channel}:group:{id}"),
        PeerKind::Channel => format!("{channel}:channel:{id}"),
    };
    match &message.thread_id {
        Some(topic) if channel == "telegram" => SessionKey::of(agent, &format!("{base}:topic:{topic}")),
        Some(thread) => SessionKey::of(agent, &format!("{base}:thread:{thread}")),
        None => SessionKey::of(agent, &base),
    }
}

#[cfg(test)]
mod tests {
    use super::{AccountMatch, PeerMatch, Rule, SessionRules, route, session_key};
    use clawstead_channels::Inbound;
    use clawstead_terms::{AgentId, DeliveryTarget, DmScope, Millis, Peer, PeerKind};

    fn message(channel: &str, kind: PeerKind, id: &str) -> Inbound {
        Inbound {
            channel: channel.into(),
            account: "default".into(),
            message_id: "1".into(),
            peer: Peer { kind, id: id.into() },
            parent_peer: None,
            thread_id: None,
            guild_id: None,
            team_id: None,
            roles: vec![],
            sender_id: id.into(),
            sender_name: "n".into(),
            mentioned: false,
            body: vec![],
            at: Millis(0),
            reply: DeliveryTarget { channel: channel.into(), account: "default".into(), to: id.into(), thread_id: None, reply_to: None },
        }
    }

    fn rule(agent: &str, channel: &str) -> Rule {
        Rule {
            agent: AgentId::normalise(agent),
            channel: channel.into(),
            account: AccountMatch::Exact("default".into()),
            peer: None,
            guild: None,
            team: None,
            roles: vec![],
        }
    }

    fn peer(kind: PeerKind, id: &str) -> Option<PeerMatch> {
        Some(PeerMatch::Exact(Peer { kind, id: id.into() }))
    }

    #[test]
    fn the_most_specific_binding_wins_in_any_order() {
        let rules = vec![
            Rule { account: AccountMatch::Any, ..rule("channel", "discord") },
            rule("account", "discord"),
            Rule { team: Some("T".into()), ..rule("team", "discord") },
            Rule { guild: Some("G".into()), ..rule("guild", "discord") },
            Rule { guild: Some("G".into()), roles: vec!["admin".into(), "dev".into()], ..rule("roles", "discord") },
            Rule { peer: Some(PeerMatch::AnyOf(PeerKind::Group)), ..rule("wildcard", "discord") },
            Rule { peer: peer(PeerKind::Channel, "P"), ..rule("parent", "discord") },
            Rule { peer: peer(PeerKind::Channel, "C"), ..rule("peer", "discord") },
            Rule { peer: Some(PeerMatch::Never), ..rule("never", "discord") },
        ];
        let default = AgentId::normalise("jerry");
        let mut at = message("discord", PeerKind::Channel, "C");
        at.guild_id = Some("G".into());
        at.team_id = Some("T".into());
        at.roles = vec!["dev".into()];
        at.parent_peer = Some(Peer { kind: PeerKind::Group, id: "P".into() });
        let mut said = Vec::new();
        let mut left = rules.clone();
        loop {
            let found = route(&left, &at, &default);
            said.push(format!("{} {}", found.agent, found.matched_by));
            if found.matched_by == "default" {
                break;
            }
            left.retain(|r| r.agent != found.agent);
        }
        assert_eq!(
            said,
            [
                "peer binding.peer",
                "parent binding.peer.parent",
                "wildcard binding.peer.wildcard",
                "roles binding.guild+roles",
                "guild binding.guild",
                "team binding.team",
                "account binding.account",
                "channel binding.channel",
                "jerry default"
            ]
        );
        left = rules;
        left.reverse();
        assert_eq!(route(&left, &at, &default).matched_by, "binding.peer", "order between tiers does not matter");
    }

    #[test]
    fn everything_named_must_match() {
        let default = AgentId::normalise("jerry");
        let dm = message("whatsapp", PeerKind::Direct, "+1");
        let matched = |rule: Rule, message: &Inbound| route(&[rule], message, &default).matched_by;
        assert_eq!(matched(rule("a", "whatsapp"), &dm), "binding.account");
        assert_eq!(matched(rule("a", "slack"), &dm), "default");
        let work = Inbound { account: "work".into(), ..dm.clone() };
        assert_eq!(matched(rule("a", "whatsapp"), &work), "default", "no accountId means the default account");
        assert_eq!(matched(Rule { account: AccountMatch::Exact("work".into()), ..rule("a", "whatsapp") }, &work), "binding.account");
        assert_eq!(matched(Rule { peer: peer(PeerKind::Direct, " +1 "), ..rule("a", "whatsapp") }, &dm), "binding.peer");
        assert_eq!(matched(Rule { peer: peer(PeerKind::Group, "+1"), ..rule("a", "whatsapp") }, &dm), "default", "a person is no group");
        assert_eq!(matched(Rule { guild: Some("G".into()), ..rule("a", "whatsapp") }, &dm), "default");
        assert_eq!(matched(Rule { roles: vec!["x".into()], ..rule("a", "whatsapp") }, &dm), "default");
        let two = vec![rule("first", "whatsapp"), rule("second", "whatsapp")];
        assert_eq!(route(&two, &dm, &default).agent.as_str(), "first", "config order inside a tier");
    }

    #[test]
    fn session_keys_for_every_kind_of_chat() {
        let a = AgentId::normalise("a");
        let dm = message("slack", PeerKind::Direct, "U1");
        let scope = |dm_scope| SessionRules { dm_scope, ..SessionRules::default() };
        for (dm_scope, want) in [
            (DmScope::Main, "agent:a:main"),
            (DmScope::PerPeer, "agent:a:direct:u1"),
            (DmScope::PerChannelPeer, "agent:a:slack:direct:u1"),
            (DmScope::PerAccountChannelPeer, "agent:a:slack:default:direct:u1"),
        ] {
            assert_eq!(session_key(&scope(dm_scope), &a, &dm).as_str(), want);
        }
        let rules = scope(DmScope::PerPeer);
        for (message, want) in [
            (message("slack", PeerKind::Channel, "C9"), "agent:a:slack:channel:c9"),
            (message("whatsapp", PeerKind::Group, "123@g.us"), "agent:a:whatsapp:group:123@g.us"),
            (Inbound { thread_id: Some("17.5".into()), ..message("slack", PeerKind::Channel, "C9") }, "agent:a:slack:channel:c9:thread:17.5"),
            (Inbound { thread_id: Some("7".into()), ..message("telegram", PeerKind::Group, "-100") }, "agent:a:telegram:group:-100:topic:7"),
            (Inbound { thread_id: Some("7".into()), ..message("telegram", PeerKind::Direct, "55") }, "agent:a:direct:55:thread:55:7"),
        ] {
            assert_eq!(session_key(&rules, &a, &message).as_str(), want);
        }
        let mut linked = rules;
        linked.identity_links = SessionRules::links(&[("Ann".to_owned(), vec!["Slack:U1".to_owned(), "discord:9".to_owned()])].into());
        assert_eq!(session_key(&linked, &a, &dm).as_str(), "agent:a:direct:ann");
    }
}
