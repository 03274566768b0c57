use std::path::PathBuf;

use super::Cx;
use crate::{
    secret::Secret,
    view::{Raw, View},
};

/// Whether this machine runs the gateway or is a client of one elsewhere (`gateway.mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayMode {
    /// Runs here.
    Local,
    /// Elsewhere, see [`RemoteConfig`].
    Remote,
}

/// Where the gateway listens (`gateway.bind`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bind {
    /// 127.0.0.1 and ::1.
    #[default]
    Loopback,
    /// All interfaces.
    Lan,
    /// The Tailscale address and loopback; only loopback when there is none.
    Tailnet,
    /// Loopback, all interfaces in a container.
    Auto,
    /// `gateway.customBindHost`.
    Custom,
}

impl Bind {
    /// Reads the config word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "loopback" => Self::Loopback,
            "lan" => Self::Lan,
            "tailnet" => Self::Tailnet,
            "auto" => Self::Auto,
            "custom" => Self::Custom,
            _ => return None,
        })
    }

    /// The config word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Lan => "lan",
            Self::Tailnet => "tailnet",
            Self::Auto => "auto",
            Self::Custom => "custom",
        }
    }
}

/// How callers show who they are (`gateway.auth.mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Anybody who reaches the port. Only when written down.
    None,
    /// A shared token.
    Token,
    /// A shared password.
    Password,
    /// A proxy in front names the user.
    TrustedProxy,
}

impl AuthMode {
    /// Reads the config word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "none" => Self::None,
            "token" => Self::Token,
            "password" => Self::Password,
            "trusted-proxy" => Self::TrustedProxy,
            _ => return None,
        })
    }

    /// The config word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::Password => "password",
            Self::TrustedProxy => "trusted-proxy",
        }
    }
}

/// Failed attempts (`gateway.auth.rateLimit`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Default 10.
    pub max_attempts: u32,
    /// Default 60000.
    pub window_ms: u64,
    /// Default 300000.
    pub lockout_ms: u64,
    /// Loopback is not counted; default true.
    pub exempt_loopback: bool,
}

/// `gateway.auth.trustedProxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxy {
    /// The header that names the user.
    pub user_header: Option<String>,
    /// Headers that must be there.
    pub required_headers: Vec<String>,
    /// Only these users; empty means all.
    pub allow_users: Vec<String>,
    /// A proxy on loopback counts.
    pub allow_loopback: bool,
}

/// `gateway.auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// The mode in force: as written; else password when only a password is there; else token.
    pub mode: AuthMode,
    /// True when the config names the mode.
    pub mode_explicit: bool,
    /// `gateway.auth.token`, else `OPENCLAW_GATEWAY_TOKEN`.
    pub token: Option<Secret>,
    /// `gateway.auth.password`, else `OPENCLAW_GATEWAY_PASSWORD`.
    pub password: Option<Secret>,
    /// Tailscale identity headers count for WebSocket and dashboard. Default: true with `tailscale.mode: serve`.
    pub allow_tailscale: bool,
    /// Limits of failed attempts.
    pub rate_limit: RateLimit,
    /// For mode `trusted-proxy`.
    pub trusted_proxy: TrustedProxy,
}

/// `gateway.controlUi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlUi {
    /// Default true.
    pub enabled: bool,
    /// Without trailing slash; empty for `/`.
    pub base_path: String,
    /// Folder with another dashboard build.
    pub root: Option<String>,
    /// Origins a browser may connect from beside our own.
    pub allowed_origins: Vec<String>,
    /// Compare the origin with the Host header instead.
    pub host_header_origin_fallback: bool,
    /// `allowInsecureAuth` (February and March).
    pub allow_insecure_auth: bool,
    /// `dangerouslyDisableDeviceAuth`.
    pub disable_device_auth: bool,
}

/// `gateway.http.endpoints`.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpEndpoints {
    /// `/v1/chat/completions` and `/v1/models`; default false.
    pub chat_completions: bool,
    /// `/v1/responses`; default false.
    pub responses: bool,
    /// Limits of both as written, or null.
    pub raw: Raw,
}

/// What a change of the file does to a running gateway (`gateway.reload.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReloadMode {
    /// Nothing.
    Off,
    /// Always a restart.
    Restart,
    /// Only what needs no restart; the rest waits.
    Hot,
    /// Hot where possible, else a restart in the process.
    #[default]
    Hybrid,
}

/// `gateway.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Default false.
    pub enabled: bool,
    /// Make a certificate when none is named; default true.
    pub auto_generate: bool,
    /// PEM chain.
    pub cert_path: Option<PathBuf>,
    /// PEM key.
    pub key_path: Option<PathBuf>,
    /// PEM of client authorities.
    pub ca_path: Option<PathBuf>,
}

/// `gateway.tailscale.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TailscaleMode {
    /// Not published.
    #[default]
    Off,
    /// On the tailnet.
    Serve,
    /// On the internet.
    Funnel,
}

/// `gateway.remote`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteConfig {
    /// `ws://` or `wss://`.
    pub url: Option<String>,
    /// `ssh` (default) or `direct`.
    pub transport: Option<String>,
    /// For clients.
    pub token: Option<Secret>,
    /// For clients.
    pub password: Option<Secret>,
    /// Expected certificate.
    pub tls_fingerprint: Option<String>,
    /// `user@host`.
    pub ssh_target: Option<String>,
    /// Key file.
    pub ssh_identity: Option<String>,
    /// Port of the gateway there.
    pub remote_port: Option<u16>,
}

/// `gateway`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayConfig {
    /// None when the file does not say: an existing file without it counts as damaged.
    pub mode: Option<GatewayMode>,
    /// `OPENCLAW_GATEWAY_PORT`, else `gateway.port`, else 18789 (19001 with `--dev`).
    pub port: u16,
    /// Default loopback.
    pub bind: Bind,
    /// For `bind: custom`.
    pub custom_bind_host: Option<String>,
    /// Credentials and limits.
    pub auth: AuthConfig,
    /// CIDR list of proxies whose forwarding headers count.
    pub trusted_proxies: Vec<String>,
    /// `X-Real-IP` counts too.
    pub allow_real_ip_fallback: bool,
    /// The dashboard.
    pub control_ui: ControlUi,
    /// OpenAI-compatible endpoints.
    pub http: HttpEndpoints,
    /// `gateway.tools.allow` and `.deny` for `POST /tools/invoke`.
    pub tools_allow: Option<Vec<String>>,
    /// See `tools_allow`.
    pub tools_deny: Vec<String>,
    /// Hot reload.
    pub reload: ReloadMode,
    /// Wait after an edit; default 300.
    pub reload_debounce_ms: u64,
    /// TLS on the port itself.
    pub tls: TlsConfig,
    /// Publish over Tailscale.
    pub tailscale: TailscaleMode,
    /// Withdraw it at the end.
    pub tailscale_reset_on_exit: bool,
    /// A gateway elsewhere.
    pub remote: RemoteConfig,
    /// 0 means off; default 5.
    pub channel_health_check_minutes: u32,
    /// Unknown keys stop a start.
    pub strict_config: bool,
    /// The block as written, normalised.
    pub raw: Raw,
}

pub(crate) fn read(cx: &Cx<'_>) -> GatewayConfig {
    let g = cx.root.at("gateway");
    let auth = g.at("auth");
    let tailscale = match g.path("tailscale.mode").str() {
        Some("serve") => TailscaleMode::Serve,
        Some("funnel") => TailscaleMode::Funnel,
        _ => TailscaleMode::Off,
    };
    let env_secret = |name: &str| cx.env.trimmed(name).map(Secret::new);
    let token = auth.at("token").secret().or_else(|| env_secret("OPENCLAW_GATEWAY_TOKEN"));
    let password = auth.at("password").secret().or_else(|| env_secret("OPENCLAW_GATEWAY_PASSWORD"));
    let explicit = auth.at("mode").str().and_then(AuthMode::parse);
    let limit = auth.at("rateLimit");
    let proxy = auth.at("trustedProxy");
    let ui = g.at("controlUi");
    let tls = g.at("tls");
    let file = |v: View<'_>| v.word().map(|p| cx.paths.expand(&p));
    GatewayConfig {
        mode: match g.at("mode").str() {
            Some("local") => Some(GatewayMode::Local),
            Some("remote") => Some(GatewayMode::Remote),
            _ => None,
        },
        port: cx
            .paths
            .env_port
            .or_else(|| g.at("port").u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0))
            .unwrap_or_else(|| cx.paths.default_port()),
        // Tailscale publishes the loopback port: another bind with it is a contradiction, read as the safe one
        bind: if tailscale == TailscaleMode::Off { g.at("bind").str().and_then(Bind::parse).unwrap_or_default() } else { Bind::Loopback },
        custom_bind_host: g.at("customBindHost").word(),
        auth: AuthConfig {
            mode: explicit.unwrap_or(if token.is_none() && password.is_some() { AuthMode::Password } else { AuthMode::Token }),
            mode_explicit: explicit.is_some(),
            token,
            password,
            allow_tailscale: auth.at("allowTailscale").flag(tailscale == TailscaleMode::Serve),
            rate_limit: RateLimit {
                max_attempts: u32_or(limit.at("maxAttempts"), 10),
                window_ms: limit.at("windowMs").u64().unwrap_or(60_000),
                lockout_ms: limit.at("lockoutMs").u64().unwrap_or(300_000),
                exempt_loopback: limit.at("exemptLoopback").flag(true),
            },
            trusted_proxy: TrustedProxy {
                user_header: proxy.at("userHeader").word(),
                required_headers: proxy.at("requiredHeaders").texts().unwrap_or_default(),
                allow_users: proxy.at("allowUsers").texts().unwrap_or_default(),
                allow_loopback: proxy.at("allowLoopback").flag(false),
            },
        },
        trusted_proxies: g.at("trustedProxies").texts().unwrap_or_default(),
        allow_real_ip_fallback: g.at("allowRealIpFallback").flag(false),
        control_ui: ControlUi {
            enabled: ui.at("enabled").flag(true),
            base_path: base_path(ui.at("basePath").str().unwrap_or_default()),
            root: ui.at("root").word(),
            allowed_origins: ui.at("allowedOrigins").texts().unwrap_or_default(),
            host_header_origin_fallback: ui.at("dangerouslyAllowHostHeaderOriginFallback").flag(false),
            allow_insecure_auth: ui.at("allowInsecureAuth").flag(false),
            disable_device_auth: ui.at("dangerouslyDisableDeviceAuth").flag(false),
        },
        http: HttpEndpoints {
            chat_completions: g.path("http.endpoints.chatCompletions.enabled").flag(false),
            responses: g.path("http.endpoints.responses.enabled").flag(false),
            raw: g.path("http.endpoints").cloned(),
        },
        tools_allow: g.path("tools.allow").texts(),
        tools_deny: g.path("tools.deny").texts().unwrap_or_default(),
        reload: match g.path("reload.mode").str() {
            Some("off") => ReloadMode::Off,
            Some("restart") => ReloadMode::Restart,
            Some("hot") => ReloadMode::Hot,
            _ => ReloadMode::Hybrid,
        },
        reload_debounce_ms: g.path("reload.debounceMs").u64().unwrap_or(300),
        tls: TlsConfig {
            enabled: tls.at("enabled").flag(false),
            auto_generate: tls.at("autoGenerate").flag(true),
            cert_path: file(tls.at("certPath")),
            key_path: file(tls.at("keyPath")),
            ca_path: file(tls.at("caPath")),
        },
        tailscale,
        tailscale_reset_on_exit: g.path("tailscale.resetOnExit").flag(true),
        remote: remote(g.at("remote")),
        channel_health_check_minutes: u32_or(g.at("channelHealthCheckMinutes"), 5),
        strict_config: g.at("strictConfig").flag(false),
        raw: g.cloned(),
    }
}

fn remote(r: View<'_>) -> RemoteConfig {
    RemoteConfig {
        url: r.at("url").word(),
        transport: r.at("transport").word(),
        token: r.at("token").secret(),
        password: r.at("password").secret(),
        tls_fingerprint: r.at("tlsFingerprint").word(),
        ssh_target: r.at("sshTarget").word(),
        ssh_identity: r.at("sshIdentity").word(),
        remote_port: r.at("remotePort").u64().and_then(|p| u16::try_from(p).ok()),
    }
}

pub(crate) fn u32_or(v: View<'_>, default: u32) -> u32 {
    v.u64().map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX))
}

fn base_path(text: &str) -> String {
    let inner = text.trim().trim_matches('/');
    if inner.is_empty() { String::new() } else { format!("/{inner}") }
}
