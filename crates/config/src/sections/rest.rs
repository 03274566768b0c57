//! The smaller sections.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::{Cx, gateway::u32_or};
use crate::{
    secret::Secret,
    view::{Raw, View},
};

/// `auth`: which credentials to use in which order; the credentials themselves are elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthProfiles {
    /// In the order of the file.
    pub profiles: Vec<AuthProfile>,
    /// Profile ids by provider.
    pub order: BTreeMap<String, Vec<String>>,
    /// Hours off after a billing failure, growing to the maximum; default 5.
    pub billing_backoff_hours: f64,
    /// Default 24.
    pub billing_max_hours: f64,
    /// Failures older than this do not count; default 24.
    pub failure_window_hours: f64,
}

/// `auth.profiles.<id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthProfile {
    /// Usually `provider:name`.
    pub id: String,
    /// The provider.
    pub provider: String,
    /// `api_key`, `oauth`, `token`, `aws-sdk`.
    pub mode: String,
    /// Account name.
    pub email: Option<String>,
}

pub(crate) fn auth(cx: &Cx<'_>) -> AuthProfiles {
    let a = cx.root.at("auth");
    let c = a.at("cooldowns");
    AuthProfiles {
        profiles: a
            .at("profiles")
            .map()
            .map(|(id, v)| AuthProfile {
                id: id.to_owned(),
                provider: v.at("provider").word().unwrap_or_default().to_lowercase(),
                mode: v.at("mode").word().unwrap_or_else(|| "api_key".into()),
                email: v.at("email").word(),
            })
            .collect(),
        order: a.at("order").map().map(|(k, v)| (k.to_lowercase(), v.texts().unwrap_or_default())).collect(),
        billing_backoff_hours: c.at("billingBackoffHours").f64().unwrap_or(5.0),
        billing_max_hours: c.at("billingMaxHours").f64().unwrap_or(24.0),
        failure_window_hours: c.at("failureWindowHours").f64().unwrap_or(24.0),
    }
}

/// Allow and deny lists of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolPolicy {
    /// `minimal`, `coding`, `messaging`, `full`.
    pub profile: Option<String>,
    /// None means no list.
    pub allow: Option<Vec<String>>,
    /// Added to the profile.
    pub also_allow: Vec<String>,
    /// Always wins.
    pub deny: Vec<String>,
}

impl ToolPolicy {
    /// Reads a `tools` block (global, of an agent, of a provider, of a group).
    #[must_use]
    pub fn from_value(tools: &Value) -> Self {
        let v = View(Some(tools));
        Self {
            profile: v.at("profile").word(),
            allow: v.at("allow").texts(),
            also_allow: v.at("alsoAllow").texts().unwrap_or_default(),
            deny: v.at("deny").texts().unwrap_or_default(),
        }
    }
}

/// `tools.exec`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecConfig {
    /// `sandbox`, `gateway`, `node`, `auto`; none means sandbox when there is one, else gateway.
    pub host: Option<String>,
    /// `deny`, `allowlist`, `full`; none means as the host decides.
    pub security: Option<String>,
    /// `off`, `on-miss` (default), `always`.
    pub ask: String,
    /// `deny`, `allowlist`, `ask`, `auto`, `full`: in place of `security` and `ask`.
    pub mode: Option<String>,
    /// Filters that need no approval; none means the built-in list.
    pub safe_bins: Option<Vec<String>>,
    /// Put before PATH.
    pub path_prepend: Vec<String>,
    /// A call that takes longer goes to the background; default 10000.
    pub background_ms: u64,
    /// Default 1800.
    pub timeout_sec: u64,
    /// How long finished ones are kept; default 1800000.
    pub cleanup_ms: u64,
    /// Tell the session when a background command ends; default true.
    pub notify_on_exit: bool,
    /// As written, or null.
    pub raw: Raw,
}

impl ExecConfig {
    /// Reads a `tools.exec` block.
    #[must_use]
    pub fn from_value(exec: &Value) -> Self {
        let v = View(Some(exec));
        Self {
            host: v.at("host").word(),
            security: v.at("security").word(),
            ask: v.at("ask").word().unwrap_or_else(|| "on-miss".into()),
            mode: v.at("mode").word(),
            safe_bins: v.at("safeBins").texts(),
            path_prepend: v.at("pathPrepend").texts().unwrap_or_default(),
            background_ms: v.at("backgroundMs").u64().unwrap_or(10_000),
            timeout_sec: v.at("timeoutSec").u64().or_else(|| v.at("timeoutSeconds").u64()).unwrap_or(1800),
            cleanup_ms: v.at("cleanupMs").u64().unwrap_or(1_800_000),
            notify_on_exit: v.at("notifyOnExit").flag(true),
            raw: exec.clone().into(),
        }
    }
}

/// `tools`, the global layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolsConfig {
    /// Profile, allow, deny.
    pub policy: ToolPolicy,
    /// By provider or `provider/model`.
    pub by_provider: BTreeMap<String, ToolPolicy>,
    /// Commands.
    pub exec: ExecConfig,
    /// `tools.web` as written, or null.
    pub web: Raw,
    /// Agents may write to each other; default true.
    pub agent_to_agent: bool,
    /// Agents that may take part; none means all.
    pub agent_to_agent_allow: Option<Vec<String>>,
    /// `self`, `tree`, `agent`, `all` (default).
    pub sessions_visibility: String,
    /// File tools stay in the workspace; default false.
    pub fs_workspace_only: bool,
    /// The block as written, or null.
    pub raw: Raw,
}

pub(crate) fn tools(cx: &Cx<'_>) -> ToolsConfig {
    let t = cx.root.at("tools");
    let raw = t.cloned();
    ToolsConfig {
        policy: ToolPolicy::from_value(&raw),
        by_provider: t.at("byProvider").map().map(|(k, v)| (k.to_lowercase(), ToolPolicy::from_value(&v.cloned()))).collect(),
        exec: ExecConfig::from_value(&t.at("exec").cloned()),
        web: t.at("web").cloned(),
        agent_to_agent: t.path("agentToAgent.enabled").flag(true),
        agent_to_agent_allow: t.path("agentToAgent.allow").texts(),
        sessions_visibility: t.path("sessions.visibility").word().unwrap_or_else(|| "all".into()),
        fs_workspace_only: t.path("fs.workspaceOnly").flag(false),
        raw,
    }
}

/// `cron`.
#[derive(Clone, Debug, PartialEq)]
pub struct CronConfig {
    /// Default true.
    pub enabled: bool,
    /// Jobs at once; default 1.
    pub max_concurrent_runs: u32,
    /// How long sessions of isolated runs stay; none means for ever. Default 24 hours.
    pub session_retention_ms: Option<u64>,
    /// Missed instants are not made up for at start; default false.
    pub skip_missed_jobs: bool,
    /// `cron.store`.
    pub store: Option<PathBuf>,
    /// Attempts after a failure that may pass; default 3.
    pub retry_max_attempts: u32,
    /// Waits between them.
    pub retry_backoff_ms: Vec<u64>,
    /// Lines kept per job; default 2000.
    pub run_log_keep_lines: u32,
    /// Token for the webhook of a finished run.
    pub webhook_token: Option<Secret>,
    /// `cron.failureAlert` as written, or null.
    pub failure_alert: Raw,
    /// Agent for jobs that name none, from a binding with `match.channel: "cron"`.
    pub default_agent: Option<clawstead_terms::AgentId>,
    /// The block as written.
    pub raw: Raw,
}

pub(crate) fn cron(cx: &Cx<'_>) -> CronConfig {
    let c = cx.root.at("cron");
    let retention = c.at("sessionRetention");
    let for_channel = |b: &View<'_>| b.path("match.channel").str().is_some_and(|c| c.trim().eq_ignore_ascii_case("cron"));
    CronConfig {
        enabled: c.at("enabled").flag(true),
        max_concurrent_runs: u32_or(c.at("maxConcurrentRuns"), 1).max(1),
        session_retention_ms: if retention.bool() == Some(false) { None } else { Some(retention.duration_ms(3_600_000).unwrap_or(86_400_000)) },
        skip_missed_jobs: c.at("skipMissedJobs").flag(false),
        store: c.at("store").word().map(|p| cx.paths.expand(&p)),
        retry_max_attempts: u32_or(c.path("retry.maxAttempts"), 3),
        retry_backoff_ms: {
            let list: Vec<u64> = c.path("retry.backoffMs").list().filter_map(View::u64).collect();
            if list.is_empty() { vec![30_000, 60_000, 300_000] } else { list }
        },
        run_log_keep_lines: u32_or(c.path("runLog.keepLines"), 2000),
        webhook_token: c.at("webhookToken").secret(),
        failure_alert: c.at("failureAlert").cloned(),
        default_agent: cx.root.at("bindings").list().find(for_channel).and_then(|b| b.at("agentId").str().map(clawstead_terms::AgentId::normalise)),
        raw: c.cloned(),
    }
}

/// `channels`: each platform decodes its own block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelsConfig {
    /// Block by platform, in the order of the file.
    pub blocks: Vec<(String, Raw)>,
    /// `channels.defaults`, or null.
    pub defaults: Raw,
    /// `channels.modelByChannel.<channel>.<peer>`.
    pub model_by_channel: BTreeMap<String, BTreeMap<String, String>>,
}

/// One account of a platform: the block's own keys under those of the account.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelAccount {
    /// Lower case.
    pub id: String,
    /// True when neither the block nor the account says `enabled: false`.
    pub enabled: bool,
    /// True for the account that environment tokens belong to.
    pub is_default: bool,
    /// Merged, without `accounts` and `defaultAccount`.
    pub config: Raw,
}

impl ChannelsConfig {
    /// The block of a platform.
    #[must_use]
    pub fn block(&self, channel: &str) -> Option<&Value> {
        self.blocks.iter().find(|(id, _)| id == channel).map(|(_, v)| &**v)
    }

    /// The accounts of a platform. A block without `accounts` is one account `default`; when it has own credentials
    /// beside `accounts`, `default` comes first.
    #[must_use]
    pub fn accounts(&self, channel: &str) -> Vec<ChannelAccount> {
        let Some(block) = self.block(channel) else { return Vec::new() };
        let v = View(Some(block));
        let mut base = block.clone();
        if let Value::Object(map) = &mut base {
            map.shift_remove("accounts");
            map.shift_remove("defaultAccount");
        }
        let on = v.at("enabled").flag(true);
        let mut accounts: Vec<(String, Value)> =
            v.at("accounts").map().map(|(id, a)| (id.trim().to_lowercase(), crate::view::overlay(&base, &a.cloned()))).collect();
        let own = ["token", "botToken", "appToken", "tokenFile", "authDir"].iter().any(|k| v.at(k).present());
        if accounts.is_empty() || (own && accounts.iter().all(|(id, _)| id != "default")) {
            accounts.insert(0, ("default".into(), base));
        }
        let chosen = default_account(v.at("defaultAccount").word().map(|d| d.to_lowercase()), &accounts);
        accounts
            .into_iter()
            .map(|(id, config)| ChannelAccount {
                enabled: on && View(Some(&config)).at("enabled").flag(true),
                is_default: id == chosen,
                id,
                config: config.into(),
            })
            .collect()
    }
}

fn default_account(named: Option<String>, accounts: &[(String, Value)]) -> String {
    let has = |id: &str| accounts.iter().any(|(a, _)| a == id);
    if has("default") {
        return "default".into();
    }
    named.filter(|n| has(n)).or_else(|| accounts.iter().map(|(id, _)| id.clone()).min()).unwrap_or_else(|| "default".into())
}

pub(crate) fn channels(cx: &Cx<'_>) -> ChannelsConfig {
    let c = cx.root.at("channels");
    ChannelsConfig {
        blocks: c
            .map()
            .filter(|(id, v)| !matches!(*id, "defaults" | "modelByChannel") && v.object().is_some())
            .map(|(id, v)| (id.to_lowercase(), v.cloned()))
            .collect(),
        defaults: c.at("defaults").cloned(),
        model_by_channel: c
            .at("modelByChannel")
            .map()
            .map(|(id, v)| (id.to_lowercase(), v.map().filter_map(|(p, m)| Some((p.to_owned(), m.string()?))).collect()))
            .collect(),
    }
}

/// `messages`.
#[derive(Clone, Debug, PartialEq)]
pub struct MessagesConfig {
    /// What to do with a message during a run; default steer.
    pub queue_mode: clawstead_terms::QueueMode,
    /// By platform.
    pub queue_by_channel: BTreeMap<String, clawstead_terms::QueueMode>,
    /// Wait for more before a follow-up; default 0.
    pub queue_debounce_ms: u64,
    /// By platform.
    pub queue_debounce_by_channel: BTreeMap<String, u64>,
    /// Waiting messages at most; none (the default) means that only the inbox bounds hold: what was accepted is not
    /// left out unless somebody wants it.
    pub queue_cap: Option<u32>,
    /// `old`, `new`, `summarize` (default).
    pub queue_drop: String,
    /// Wait for more before a first message is handed over; default 0.
    pub inbound_debounce_ms: u64,
    /// By platform.
    pub inbound_debounce_by_channel: BTreeMap<String, u64>,
    /// Before every answer; `auto` is `[name]`.
    pub response_prefix: Option<String>,
    /// None means the identity's emoji, else eyes; empty means none.
    pub ack_reaction: Option<String>,
    /// `group-mentions` (default), `group-all`, `direct`, `all`, `off`.
    pub ack_reaction_scope: String,
    /// Take it away after the answer.
    pub remove_ack_after_reply: bool,
    /// As written, or null.
    pub raw: Raw,
}

fn queue_mode(text: &str) -> Option<clawstead_terms::QueueMode> {
    use clawstead_terms::QueueMode;
    Some(match text {
        "steer" | "queue" => QueueMode::Steer,
        "followup" | "steer-backlog" | "steer+backlog" => QueueMode::Followup,
        "collect" => QueueMode::Collect,
        "interrupt" => QueueMode::Interrupt,
        _ => return None,
    })
}

pub(crate) fn messages(cx: &Cx<'_>) -> MessagesConfig {
    let m = cx.root.at("messages");
    let q = m.at("queue");
    let times = |v: View<'_>| v.map().filter_map(|(k, v)| Some((k.to_lowercase(), v.u64()?))).collect::<BTreeMap<_, _>>();
    MessagesConfig {
        queue_mode: q.at("mode").str().and_then(queue_mode).unwrap_or_default(),
        queue_by_channel: q.at("byChannel").map().filter_map(|(k, v)| Some((k.to_lowercase(), queue_mode(v.str()?)?))).collect(),
        queue_debounce_ms: q.at("debounceMs").u64().unwrap_or(0),
        queue_debounce_by_channel: times(q.at("debounceMsByChannel")),
        queue_cap: q.at("cap").u64().map(|n| u32::try_from(n).unwrap_or(u32::MAX).max(1)),
        queue_drop: q.at("drop").word().unwrap_or_else(|| "summarize".into()),
        inbound_debounce_ms: m.path("inbound.debounceMs").u64().unwrap_or(0),
        inbound_debounce_by_channel: times(m.path("inbound.byChannel")),
        response_prefix: m.at("responsePrefix").string(),
        ack_reaction: m.at("ackReaction").string(),
        ack_reaction_scope: m.at("ackReactionScope").word().unwrap_or_else(|| "group-mentions".into()),
        remove_ack_after_reply: m.at("removeAckAfterReply").flag(false),
        raw: m.cloned(),
    }
}

/// `hooks`.
#[derive(Clone, Debug, PartialEq)]
pub struct HooksConfig {
    /// Default false.
    pub enabled: bool,
    /// Never the gateway token.
    pub token: Option<Secret>,
    /// With leading and without trailing slash; default `/hooks`.
    pub path: String,
    /// Default 262144.
    pub max_body_bytes: u64,
    /// Session of hooks that name none.
    pub default_session_key: Option<String>,
    /// A caller may name the session; default false.
    pub allow_request_session_key: bool,
    /// And only such.
    pub allowed_session_key_prefixes: Option<Vec<String>>,
    /// Agents a caller may name; none means all.
    pub allowed_agent_ids: Option<Vec<String>>,
    /// `gmail`.
    pub presets: Vec<String>,
    /// As written.
    pub mappings: Vec<Raw>,
    /// `hooks.internal` as written, or null.
    pub internal: Raw,
    /// The block as written, or null.
    pub raw: Raw,
}

pub(crate) fn hooks(cx: &Cx<'_>) -> HooksConfig {
    let h = cx.root.at("hooks");
    let path = h.at("path").str().unwrap_or("/hooks").trim().trim_matches('/');
    HooksConfig {
        enabled: h.at("enabled").flag(false),
        token: h.at("token").secret(),
        path: format!("/{}", if path.is_empty() { "hooks" } else { path }),
        max_body_bytes: h.at("maxBodyBytes").u64().unwrap_or(262_144),
        default_session_key: h.at("defaultSessionKey").word(),
        allow_request_session_key: h.at("allowRequestSessionKey").flag(false),
        allowed_session_key_prefixes: h.at("allowedSessionKeyPrefixes").texts(),
        allowed_agent_ids: h.at("allowedAgentIds").texts(),
        presets: h.at("presets").texts().unwrap_or_default(),
        mappings: h.at("mappings").list().map(View::cloned).collect(),
        internal: h.at("internal").cloned(),
        raw: h.cloned(),
    }
}

/// `skills`.
#[derive(Clone, Debug, PartialEq)]
pub struct SkillsConfig {
    /// Bundled skills that may be used; none means all.
    pub allow_bundled: Option<Vec<String>>,
    /// Folders beside the usual ones.
    pub extra_dirs: Vec<PathBuf>,
    /// Watch folders; default true.
    pub watch: bool,
    /// Default 250.
    pub watch_debounce_ms: u64,
    /// By skill.
    pub entries: BTreeMap<String, SkillEntry>,
    /// The block as written, or null.
    pub raw: Raw,
}

/// `skills.entries.<key>`.
#[derive(Clone, Debug, PartialEq)]
pub struct SkillEntry {
    /// False hides it; none means as the skill says.
    pub enabled: Option<bool>,
    /// For the variable the skill names.
    pub api_key: Option<Secret>,
    /// Variables for its runs.
    pub env: BTreeMap<String, Secret>,
    /// Its own settings, or null.
    pub config: Raw,
}

pub(crate) fn skills(cx: &Cx<'_>) -> SkillsConfig {
    let s = cx.root.at("skills");
    SkillsConfig {
        allow_bundled: s.at("allowBundled").texts(),
        extra_dirs: s.path("load.extraDirs").texts().unwrap_or_default().iter().map(|p| cx.paths.expand(p)).collect(),
        watch: s.path("load.watch").flag(true),
        watch_debounce_ms: s.path("load.watchDebounceMs").u64().unwrap_or(250),
        entries: s
            .at("entries")
            .map()
            .map(|(k, v)| {
                let env = v.at("env").map().filter_map(|(k, v)| Some((k.to_owned(), v.secret()?))).collect();
                (k.to_owned(), SkillEntry { enabled: v.at("enabled").bool(), api_key: v.at("apiKey").secret(), env, config: v.at("config").cloned() })
            })
            .collect(),
        raw: s.cloned(),
    }
}

/// `logging`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggingConfig {
    /// Level of the file: `OPENCLAW_LOG_LEVEL`, else `logging.level`, else `info`.
    pub level: String,
    /// None means one file a day under `/tmp/openclaw`.
    pub file: Option<PathBuf>,
    /// Default as `level`.
    pub console_level: String,
    /// `pretty` (default), `compact`, `json`.
    pub console_style: String,
    /// Patterns whose matches are hidden beside the built-in ones.
    pub redact_patterns: Vec<String>,
    /// Default 100 MB.
    pub max_file_bytes: u64,
}

pub(crate) fn logging(cx: &Cx<'_>) -> LoggingConfig {
    let l = cx.root.at("logging");
    let env = cx.env.trimmed("OPENCLAW_LOG_LEVEL").map(str::to_lowercase);
    let level = env.clone().or_else(|| l.at("level").word()).unwrap_or_else(|| "info".into());
    LoggingConfig {
        console_level: env.or_else(|| l.at("consoleLevel").word()).unwrap_or_else(|| level.clone()),
        level,
        file: l.at("file").word().map(|p| cx.paths.expand(&p)),
        console_style: l.at("consoleStyle").word().unwrap_or_else(|| "pretty".into()),
        redact_patterns: l.at("redactPatterns").texts().unwrap_or_default(),
        max_file_bytes: l.at("maxFileBytes").u64().unwrap_or(100 * 1024 * 1024),
    }
}

/// `browser`, what port planning and doctor need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserConfig {
    /// Default true.
    pub enabled: bool,
    /// Ports that profiles name, so that they are not given out.
    pub used_cdp_ports: Vec<u16>,
    /// Remote debugging addresses: never the same in two gateways.
    pub cdp_urls: Vec<String>,
    /// `canvasHost.port` (old).
    pub canvas_port: Option<u16>,
}

pub(crate) fn browser(cx: &Cx<'_>) -> BrowserConfig {
    let b = cx.root.at("browser");
    let port = |v: View<'_>| v.u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    let mut urls: Vec<String> = b.at("cdpUrl").word().into_iter().collect();
    let mut used = Vec::new();
    for (_, profile) in b.at("profiles").map() {
        used.extend(port(profile.at("cdpPort")));
        urls.extend(profile.at("cdpUrl").word());
    }
    used.extend(urls.iter().filter_map(|u| url::Url::parse(u).ok()?.port_or_known_default()));
    used.sort_unstable();
    used.dedup();
    BrowserConfig { enabled: b.at("enabled").flag(true), used_cdp_ports: used, cdp_urls: urls, canvas_port: port(cx.root.path("canvasHost.port")) }
}

/// One server of `mcp.servers`.
#[derive(Clone, Debug, PartialEq)]
pub struct McpServer {
    /// Its name.
    pub name: String,
    /// Default true.
    pub enabled: bool,
    /// As written.
    pub raw: Raw,
}

pub(crate) fn mcp(cx: &Cx<'_>) -> Vec<McpServer> {
    cx.root.path("mcp.servers").map().map(|(name, v)| McpServer { name: name.to_owned(), enabled: v.at("enabled").flag(true), raw: v.cloned() }).collect()
}
