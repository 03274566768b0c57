use std::collections::BTreeMap;

use super::{Cx, gateway::u32_or};
use crate::view::{Raw, View};

/// Which direct messages share a session (`session.dmScope`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DmScope {
    /// All of an agent.
    #[default]
    Main,
    /// Each person.
    PerPeer,
    /// Each person on each platform.
    PerChannelPeer,
    /// Each person on each account of each platform.
    PerAccountChannelPeer,
}

impl DmScope {
    /// Reads the config word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "main" => Self::Main,
            "per-peer" => Self::PerPeer,
            "per-channel-peer" => Self::PerChannelPeer,
            "per-account-channel-peer" => Self::PerAccountChannelPeer,
            _ => return None,
        })
    }
}

/// When a session starts anew by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetRule {
    /// At this hour of the day, local time.
    pub daily_at_hour: Option<u8>,
    /// After so many minutes without a message. With both, whichever comes first.
    pub idle_minutes: Option<u64>,
}

/// `session.sendPolicy` rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendRule {
    /// True for `deny`; the first deny that matches wins.
    pub deny: bool,
    /// Platform.
    pub channel: Option<String>,
    /// `direct`, `group`, `channel`.
    pub chat_type: Option<String>,
    /// Start of the session key without the agent part.
    pub key_prefix: Option<String>,
    /// Start of the whole session key.
    pub raw_key_prefix: Option<String>,
}

/// `session.maintenance`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// False for `mode: warn`.
    pub enforce: bool,
    /// Sessions without a message for so long go; default 30 days.
    pub prune_after_ms: u64,
    /// Default 500.
    pub max_entries: u32,
    /// None means no limit.
    pub max_disk_bytes: Option<u64>,
    /// Clean down to this; none means 80 percent of the limit.
    pub high_water_bytes: Option<u64>,
    /// How long archives of resets stay; none means as `prune_after_ms`.
    pub reset_archive_retention_ms: Option<u64>,
}

/// `session`.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionConfig {
    /// Default main.
    pub dm_scope: DmScope,
    /// `scope: global`: one session for everything.
    pub global: bool,
    /// Canonical name to the ids it stands for (`telegram:123` or bare).
    pub identity_links: BTreeMap<String, Vec<String>>,
    /// Default none.
    pub reset: ResetRule,
    /// By `direct`, `group`, `thread`; beats `reset`.
    pub reset_by_type: BTreeMap<String, ResetRule>,
    /// By platform; beats all.
    pub reset_by_channel: BTreeMap<String, ResetRule>,
    /// Texts that start a session anew; default `/new` and `/reset`.
    pub reset_triggers: Vec<String>,
    /// False denies sending unless a rule allows; default true.
    pub send_default_allow: bool,
    /// In order.
    pub send_rules: Vec<SendRule>,
    /// Answers between two agents after the first; 0 to 5, default 5.
    pub agent_ping_pong_turns: u32,
    /// Cleaning.
    pub maintenance: Maintenance,
    /// `session.threadBindings` as written, or null.
    pub thread_bindings: Raw,
    /// The block as written, normalised.
    pub raw: Raw,
}

impl SessionConfig {
    /// The rule in force for a platform and chat type: platform, then type, then the general one.
    #[must_use]
    pub fn reset_for(&self, channel: &str, chat_type: &str) -> ResetRule {
        *self.reset_by_channel.get(channel).or_else(|| self.reset_by_type.get(chat_type)).unwrap_or(&self.reset)
    }
}

fn reset(v: View<'_>) -> ResetRule {
    let idle = v.at("idleMinutes").u64();
    let hour = || u8::try_from(v.at("atHour").u64().unwrap_or(4)).ok();
    match v.at("mode").str() {
        Some("daily") => ResetRule { daily_at_hour: hour(), idle_minutes: idle },
        Some("idle") => ResetRule { daily_at_hour: None, idle_minutes: Some(idle.unwrap_or(60)) },
        Some(_) => ResetRule::default(),
        None if v.at("atHour").present() => ResetRule { daily_at_hour: hour(), idle_minutes: idle },
        None => ResetRule { daily_at_hour: None, idle_minutes: idle },
    }
}

pub(crate) fn read(cx: &Cx<'_>) -> SessionConfig {
    let s = cx.root.at("session");
    let m = s.at("maintenance");
    let rules = |key: &str| s.at(key).map().map(|(k, v)| (k.to_lowercase(), reset(v))).collect::<BTreeMap<_, _>>();
    SessionConfig {
        dm_scope: s.at("dmScope").str().and_then(DmScope::parse).unwrap_or_default(),
        global: s.at("scope").str() == Some("global"),
        identity_links: s.at("identityLinks").map().map(|(k, v)| (k.to_owned(), v.texts().unwrap_or_default())).collect(),
        reset: reset(s.at("reset")),
        reset_by_type: rules("resetByType"),
        reset_by_channel: rules("resetByChannel"),
        reset_triggers: s.at("resetTriggers").texts().unwrap_or_else(|| vec!["/new".into(), "/reset".into()]),
        send_default_allow: s.path("sendPolicy.default").str() != Some("deny"),
        send_rules: s
            .path("sendPolicy.rules")
            .list()
            .map(|r| SendRule {
                deny: r.at("action").str() == Some("deny"),
                channel: r.path("match.channel").word(),
                chat_type: r.path("match.chatType").word(),
                key_prefix: r.path("match.keyPrefix").word(),
                raw_key_prefix: r.path("match.rawKeyPrefix").word(),
            })
            .collect(),
        agent_ping_pong_turns: u32_or(s.path("agentToAgent.maxPingPongTurns"), 5).min(5),
        maintenance: Maintenance {
            enforce: m.at("mode").str() != Some("warn"),
            prune_after_ms: m.at("pruneAfter").duration_ms(86_400_000).unwrap_or(30 * 86_400_000),
            max_entries: u32_or(m.at("maxEntries"), 500),
            max_disk_bytes: m.at("maxDiskBytes").size_bytes(),
            high_water_bytes: m.at("highWaterBytes").size_bytes(),
            reset_archive_retention_ms: m.at("resetArchiveRetention").duration_ms(86_400_000),
        },
        thread_bindings: s.at("threadBindings").cloned(),
        raw: s.cloned(),
    }
}
