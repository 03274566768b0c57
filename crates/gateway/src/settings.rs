//! From the config to what each room needs. A reload makes everything here anew and swaps it.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use clawstead_agent::{self as agent, AgentSettings, CompactionSettings, LaneLimits, SubagentSettings};
use clawstead_config::{self as config, Agent, Config};
use clawstead_providers::{AUTH_FILE, ModelsInput, ProfileInput};
use clawstead_terms::{AccountId, AgentId, ChannelId, DmScope, Peer, PeerKind};

use crate::{
    cron::{
        self,
        heartbeat::{ActiveHours, PROMPT, Plan},
    },
    reception::Book,
    routing::{AccountMatch, PeerMatch, Rule, SessionRules},
};

/// Bindings and session rules.
#[must_use]
pub fn book(config: &Config) -> Book {
    Book {
        rules: config.bindings.iter().filter(|b| !b.acp).map(rule).collect(),
        default_agent: config.default_agent().clone(),
        sessions: session_rules(config),
    }
}

/// The agent that an account mostly talks to: of its first binding without a peer, else the default agent.
#[must_use]
pub fn agent_of(config: &Config, channel: &ChannelId, account: &AccountId) -> AgentId {
    let fits = |binding: &&config::Binding| {
        let account_fits = match &binding.account {
            config::AccountMatch::Default => account.as_str() == "default",
            config::AccountMatch::Any => true,
            config::AccountMatch::Exact(name) => name.as_str() == account.as_str(),
        };
        !binding.acp && !binding.dead && binding.peer.is_none() && binding.channel.as_str() == channel.as_str() && account_fits
    };
    config.bindings.iter().find(fits).map_or_else(|| config.default_agent().clone(), |binding| binding.agent.clone())
}

fn rule(binding: &config::Binding) -> Rule {
    let kind = |kind| match kind {
        config::PeerKind::Direct => PeerKind::Direct,
        config::PeerKind::Group => PeerKind::Group,
        config::PeerKind::Channel => PeerKind::Channel,
    };
    let peer = match &binding.peer {
        _ if binding.dead => Some(PeerMatch::Never),
        Some(peer) if peer.id == "*" => Some(PeerMatch::AnyOf(kind(peer.kind))),
        Some(peer) => Some(PeerMatch::Exact(Peer { kind: kind(peer.kind), id: peer.id.clone() })),
        None => None,
    };
    Rule {
        agent: binding.agent.clone(),
        channel: binding.channel.clone(),
        account: match &binding.account {
            config::AccountMatch::Default => AccountMatch::Exact("default".into()),
            config::AccountMatch::Any => AccountMatch::Any,
            config::AccountMatch::Exact(account) => AccountMatch::Exact(account.clone()),
        },
        peer,
        guild: binding.guild_id.clone(),
        team: binding.team_id.clone(),
        roles: binding.roles.clone(),
    }
}

fn session_rules(config: &Config) -> SessionRules {
    SessionRules {
        dm_scope: match config.session.dm_scope {
            config::DmScope::Main => DmScope::Main,
            config::DmScope::PerPeer => DmScope::PerPeer,
            config::DmScope::PerChannelPeer => DmScope::PerChannelPeer,
            config::DmScope::PerAccountChannelPeer => DmScope::PerAccountChannelPeer,
        },
        identity_links: SessionRules::links(&config.session.identity_links),
    }
}

/// The settings of every agent, in force; a reload swaps them.
#[derive(Debug, Default)]
pub struct Agents(ArcSwap<BTreeMap<AgentId, Arc<AgentSettings>>>);

impl Agents {
    /// As the config says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self(ArcSwap::from_pointee(agents(config)))
    }

    /// From now on as this config says. Turns that are going keep what they began with.
    pub fn replace(&self, config: &Config) {
        self.0.store(Arc::new(agents(config)));
    }
}

impl agent::Settings for Agents {
    fn agent(&self, id: &AgentId) -> Option<Arc<AgentSettings>> {
        self.0.load().get(id).cloned()
    }
}

/// The settings of every agent.
#[must_use]
pub fn agents(config: &Config) -> BTreeMap<AgentId, Arc<AgentSettings>> {
    config.agents.list.iter().map(|one| (one.id.clone(), Arc::new(agent_settings(config, one)))).collect()
}

fn agent_settings(config: &Config, one: &Agent) -> AgentSettings {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
    let compaction = CompactionSettings {
        reserve_tokens: number(&one.compaction, "reserveTokens")
            .or_else(|| number(&one.compaction, "reserveTokensFloor"))
            .unwrap_or(CompactionSettings::default().reserve_tokens),
        keep_recent_tokens: number(&one.compaction, "keepRecentTokens").unwrap_or(CompactionSettings::default().keep_recent_tokens),
        model: one.compaction.get("model").and_then(Value::as_str).map(str::to_owned),
        instructions: one.compaction.get("customInstructions").and_then(Value::as_str).map(str::to_owned),
    };
    let mut settings = AgentSettings::new(one.id.clone(), one.workspace.clone());
    settings.identity =
        agent::Identity { name: one.identity.name.clone().or_else(|| one.name.clone()), theme: one.identity.theme.clone(), emoji: one.identity.emoji.clone() };
    settings.model.clone_from(&one.model.primary);
    settings.fallbacks.clone_from(&one.model.fallbacks);
    settings.thinking.clone_from(&one.thinking_default);
    settings.timeout_ms = one.timeout_seconds.saturating_mul(1_000);
    settings.max_tokens = number(&one.params, "maxTokens").and_then(|n| u32::try_from(n).ok());
    settings.temperature = one.params.get("temperature").and_then(Value::as_f64);
    settings.params = extra_params(&one.params);
    settings.bootstrap_chars_max = one.bootstrap_max_chars as usize;
    settings.bootstrap_total_chars_max = one.bootstrap_total_max_chars as usize;
    settings.timezone = one.user_timezone.clone().or_else(|| jiff::tz::TimeZone::system().iana_name().map(str::to_owned));
    settings.skills.clone_from(&one.skills);
    settings.skill_dirs = std::iter::once(config.paths.state_dir.join("skills")).chain(config.skills.extra_dirs.iter().cloned()).collect();
    settings.tool_settings = Arc::new(one.tools.0.clone());
    settings.queue = queue_rules(&config.messages);
    settings.reply_prefix = reply_prefix(config);
    settings.reset = reset_plan(&config.session);
    settings.reset_triggers.clone_from(&config.session.reset_triggers);
    settings.compaction = compaction;
    if let Some(heartbeat) = &one.heartbeat {
        settings.heartbeat_ack_chars_max = heartbeat.ack_max_chars as usize;
    }
    settings.subagents = SubagentSettings {
        spawn_depth_max: one.subagents.max_spawn_depth,
        children_max: one.subagents.max_children_per_agent as usize,
        archive_after_minutes: one.subagents.archive_after_minutes,
        allow_agents: one.subagents.allow_agents.clone().unwrap_or_default(),
        model: one.subagents.model.as_ref().and_then(|m| m.primary.clone()),
        thinking: one.subagents.thinking.clone(),
    };
    settings
}

fn reset_plan(session: &config::SessionConfig) -> agent::reset::ResetPlan {
    let rules = |rule: &config::ResetRule| agent::reset::ResetRules { daily_at_hour: rule.daily_at_hour, idle_minutes: rule.idle_minutes };
    let all = |by: &BTreeMap<String, config::ResetRule>| by.iter().map(|(name, rule)| (name.clone(), rules(rule))).collect();
    agent::reset::ResetPlan { general: rules(&session.reset), by_type: all(&session.reset_by_type), by_channel: all(&session.reset_by_channel) }
}

fn queue_rules(messages: &config::MessagesConfig) -> agent::queue::QueueRules {
    use agent::queue::{Overflow, QueueRules};
    QueueRules {
        mode: messages.queue_mode,
        mode_by_channel: messages.queue_by_channel.clone(),
        cap: messages.queue_cap.map(|cap| cap as usize),
        overflow: match messages.queue_drop.as_str() {
            "old" => Overflow::Old,
            "new" => Overflow::New,
            _ => Overflow::Summarize,
        },
        debounce_ms: messages.queue_debounce_ms,
        debounce_by_channel: messages.queue_debounce_by_channel.clone(),
        inbound_ms: messages.inbound_debounce_ms,
        inbound_by_channel: messages.inbound_debounce_by_channel.clone(),
    }
}

/// `responsePrefix` of messages, platforms and accounts.
fn reply_prefix(config: &Config) -> agent::prefix::ReplyPrefix {
    let mut by_place = BTreeMap::new();
    let text = |block: &Value| block.get("responsePrefix").and_then(Value::as_str).map(str::to_owned);
    for (channel, block) in &config.channels.blocks {
        by_place.extend(text(block).map(|prefix| (channel.clone(), prefix)));
        for (account, own) in block.get("accounts").and_then(Value::as_object).into_iter().flatten() {
            by_place.extend(text(own).map(|prefix| (format!("{channel}/{account}"), prefix)));
        }
    }
    agent::prefix::ReplyPrefix { general: config.messages.response_prefix.clone(), by_place }
}

/// `params` without what has a place of its own.
fn extra_params(params: &Value) -> Option<Value> {
    let mut map = params.as_object()?.clone();
    map.remove("maxTokens");
    map.remove("temperature");
    (!map.is_empty()).then_some(Value::Object(map))
}

/// The bounds of all lanes.
#[must_use]
pub fn lane_limits(config: &Config) -> LaneLimits {
    let subagents = config.agents.list.iter().map(|a| a.subagents.max_concurrent).max().unwrap_or(8);
    LaneLimits { runs_max: config.agents.max_concurrent as usize, subagent_runs_max: subagents as usize, ..LaneLimits::default() }
}

/// What cron needs.
#[must_use]
pub fn cron(config: &Config) -> cron::Settings {
    let private = config.raw("cron.webhookSsrfPolicy.dangerouslyAllowPrivateNetwork").and_then(Value::as_bool) == Some(true);
    cron::Settings {
        clock: cron::clock::Settings {
            enabled: config.cron.enabled,
            concurrent_max: config.cron.max_concurrent_runs as usize,
            skip_missed: config.cron.skip_missed_jobs,
        },
        agents: config.agents.list.iter().map(|a| a.id.clone()).collect(),
        default_agent: config.cron.default_agent.clone().unwrap_or_else(|| config.default_agent().clone()),
        heartbeats: config.agents.list.iter().filter_map(plan).collect(),
        session_retention_ms: config.cron.session_retention_ms.and_then(|ms| i64::try_from(ms).ok()),
        webhook_private: private,
        webhook_token: config.cron.webhook_token.as_ref().map(|secret| secret.expose().to_owned()),
    }
}

fn plan(one: &Agent) -> Option<Plan> {
    let beat = one.heartbeat.as_ref()?;
    Some(Plan {
        agent: one.id.clone(),
        every_ms: i64::try_from(beat.every_ms).unwrap_or(i64::MAX),
        active: beat.active_hours.as_ref().map(|hours| ActiveHours {
            start: hours.start_minute,
            end: hours.end_minute,
            timezone: hours
                .timezone
                .clone()
                .filter(|zone| zone != "local")
                .map(|zone| if zone == "user" { one.user_timezone.clone().unwrap_or(zone) } else { zone }),
        }),
        prompt: beat.prompt.clone().unwrap_or_else(|| PROMPT.into()),
        target: beat.target.clone().unwrap_or_else(|| "none".into()),
        to: beat.to.clone(),
        account: beat.account_id.clone(),
        model: beat.model.clone(),
        session: beat.session.clone().or_else(|| beat.isolated_session.then(|| "main:heartbeat".into())),
        light_context: beat.light_context,
        timeout_ms: beat.timeout_seconds.map(|s| s.saturating_mul(1_000)),
    })
}

/// What the model registry is built from: the config, the auth profiles of every agent (the first to name one wins)
/// and the environment.
#[must_use]
pub fn models(config: &Config) -> ModelsInput {
    let env = |name: &str| config.env.get(name).map(str::to_owned);
    let mut profiles: Vec<ProfileInput> = Vec::new();
    let mut input = ModelsInput::from_config(config, None);
    for one in &config.agents.list {
        let path = one.agent_dir.join(AUTH_FILE);
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        match serde_json::from_str::<Value>(&text) {
            Ok(store) => {
                let more = ModelsInput::read(&json!({}), Some(&store), &env);
                for mut profile in more.profiles {
                    profile.file = Some(path.clone());
                    if !profiles.iter().any(|known| known.id == profile.id) {
                        profiles.push(profile);
                    }
                }
                for (provider, order) in more.order {
                    input.order.entry(provider).or_insert(order);
                }
            }
            Err(err) => input.warnings.push(format!("{} is not valid JSON (line {}); its profiles are not used", config.paths.display(&path), err.line())),
        }
    }
    input.profiles = profiles;
    input
}

/// What the files of stored sign-ins look like from outside, by agent: size and last change. Another look tells
/// whether they have to be read again.
#[must_use]
pub fn sign_ins(config: &Config) -> Vec<(u64, Option<std::time::SystemTime>)> {
    let look = |one: &Agent| std::fs::metadata(one.agent_dir.join(AUTH_FILE)).map_or((0, None), |meta| (meta.len(), meta.modified().ok()));
    config.agents.list.iter().map(look).collect()
}

/// The `channels` section with accounts as the runner reads them.
#[must_use]
pub fn channels(config: &Config) -> Value {
    config.raw("channels").cloned().unwrap_or_else(|| json!({}))
}
