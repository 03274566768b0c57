use clawstead_terms::AgentId;

use super::Cx;
use crate::view::{Raw, View};

/// What kind of conversation a binding wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// One person.
    Direct,
    /// A group; matches channels too.
    Group,
    /// A channel or room; matches groups too.
    Channel,
}

impl PeerKind {
    /// Reads the config word; `dm` is an old word for `direct`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "direct" | "dm" => Self::Direct,
            "group" => Self::Group,
            "channel" => Self::Channel,
            _ => return None,
        })
    }
}

/// `match.peer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMatch {
    /// The kind.
    pub kind: PeerKind,
    /// Trimmed; `*` means any of the kind.
    pub id: String,
}

/// `match.accountId`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountMatch {
    /// Not given: only the account `default`.
    Default,
    /// `*`.
    Any,
    /// This one, lower case.
    Exact(String),
}

/// A rule that chooses an agent for what comes in.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Position in the file from 0; rules of one tier are tried in this order.
    pub index: usize,
    /// The agent.
    pub agent: AgentId,
    /// Lower case; `cron` chooses the agent of jobs that name none.
    pub channel: String,
    /// The account.
    pub account: AccountMatch,
    /// The conversation; all given fields must match.
    pub peer: Option<PeerMatch>,
    /// True when the file has a peer that cannot match: the rule never does.
    pub dead: bool,
    /// Discord server.
    pub guild_id: Option<String>,
    /// Slack workspace.
    pub team_id: Option<String>,
    /// Any one of these.
    pub roles: Vec<String>,
    /// True for `type: "acp"`: matched by exact conversation only, outside the tiers.
    pub acp: bool,
    /// `session.dmScope` of this rule.
    pub dm_scope: Option<String>,
    /// `session.groupScope` of this rule.
    pub group_scope: Option<String>,
    /// The rule as written.
    pub raw: Raw,
}

pub(crate) fn read(cx: &Cx<'_>) -> Vec<Binding> {
    cx.root.at("bindings").list().enumerate().filter_map(|(index, b)| binding(index, b)).collect()
}

fn binding(index: usize, b: View<'_>) -> Option<Binding> {
    let m = b.at("match");
    let peer = m.at("peer");
    let parsed = peer
        .at("kind")
        .str()
        .and_then(PeerKind::parse)
        .zip(peer.at("id").text().map(|i| i.trim().to_owned()).filter(|i| !i.is_empty()))
        .map(|(kind, id)| PeerMatch { kind, id });
    Some(Binding {
        index,
        agent: AgentId::normalise(b.at("agentId").str()?),
        channel: m.at("channel").word()?.to_lowercase(),
        account: match m.at("accountId").word() {
            None => AccountMatch::Default,
            Some(a) if a == "*" => AccountMatch::Any,
            Some(a) => AccountMatch::Exact(a.to_lowercase()),
        },
        dead: peer.present() && parsed.is_none(),
        peer: parsed,
        guild_id: m.at("guildId").text().map(|t| t.trim().to_owned()),
        team_id: m.at("teamId").text().map(|t| t.trim().to_owned()),
        roles: m.at("roles").texts().unwrap_or_default(),
        acp: b.at("type").str() == Some("acp"),
        dm_scope: b.path("session.dmScope").word(),
        group_scope: b.path("session.groupScope").word(),
        raw: b.cloned(),
    })
}
