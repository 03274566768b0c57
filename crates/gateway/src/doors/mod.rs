//! The doors: one port for WebSocket and HTTP.
//!
//! [`bind`] opens the listeners, [`Doors::new`] takes what the doors need, [`serve`] runs one listener until the
//! gateway stops. Other parts add their HTTP routes with [`Mounts`].

pub mod auth;
pub mod handshake;
pub mod history;
pub mod hooks;
mod http;
mod js_json;
pub mod limits;
pub mod openai;
mod ui;
mod ws;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;
use tokio::{net::TcpListener, sync::Semaphore};

use clawstead_config::{AuthMode, Bind, GatewayConfig};
use clawstead_wire::limits::{HANDSHAKE_MS, PREAUTH_SOCKETS_PER_IP_MAX, TICK_MS};
use clawstead_world::World;

pub use self::http::{HttpCaller, Mounts, TOOLS_DENIED, ToolCall, ToolDoor, ToolDoorError, error_response, json_response, text_response};
use self::{
    auth::{AuthSettings, OriginRules, TrustedProxySettings},
    limits::{FailureLimiter, FailureRule, SocketLimiter},
};
use crate::{devices::Devices, fanout::Fanout, presence::Presence, rpc::Router};

/// TCP connections at once on one listener.
const CONNECTIONS_MAX: usize = 8_192;
/// Time to send the headers of a request.
const HEADER_READ: Duration = Duration::from_secs(10);
/// Largest request head, bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after a failed accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the doors obey. Replaced whole when the config changes.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// Who may come in.
    pub auth: AuthSettings,
    /// Proxies whose forwarding headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// `X-Real-IP` of a trusted proxy counts too.
    pub real_ip: bool,
    /// Which pages may connect.
    pub origins: OriginRules,
    /// Devices of this machine are paired without asking.
    pub approve_local: bool,
    /// `dangerouslyDisableDeviceAuth`: the Control UI may come without a device, from this machine.
    pub control_ui_without_device: bool,
    /// The Control UI is served.
    pub control_ui: bool,
    /// Without trailing slash; empty for `/`.
    pub base_path: String,
    /// A folder with another build of the Control UI.
    pub control_ui_root: Option<std::path::PathBuf>,
    /// `POST /tools/invoke`: further tools that are denied.
    pub tools_deny: Vec<String>,
    /// `POST /tools/invoke`: tools allowed although denied by default.
    pub tools_allow: Vec<String>,
    /// Time from accept to `hello-ok`, ms.
    pub handshake_ms: u64,
    /// Unauthenticated sockets of one address.
    pub sockets_per_ip_max: usize,
}

impl DoorSettings {
    /// Settings of a gateway with this authentication and nothing else configured.
    #[must_use]
    pub fn new(auth: AuthSettings) -> Self {
        Self {
            auth,
            trusted_proxies: Vec::new(),
            real_ip: false,
            origins: OriginRules::default(),
            approve_local: true,
            control_ui_without_device: false,
            control_ui: true,
            base_path: String::new(),
            control_ui_root: None,
            tools_deny: Vec::new(),
            tools_allow: Vec::new(),
            handshake_ms: HANDSHAKE_MS,
            sockets_per_ip_max: PREAUTH_SOCKETS_PER_IP_MAX,
        }
    }

    /// The settings of a config. Entries of `trustedProxies` that are no address are left out with a warning.
    #[must_use]
    pub fn from_config(config: &GatewayConfig) -> Self {
        let auth = &config.auth;
        let secret = |secret: &Option<clawstead_config::Secret>| secret.as_ref().map(|s| s.expose().to_owned());
        let rule = &auth.rate_limit;
        let millis = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let settings = AuthSettings {
            mode: auth.mode,
            token: secret(&auth.token),
            password: secret(&auth.password),
            failures: FailureRule {
                attempts_max: rule.max_attempts,
                window_ms: millis(rule.window_ms),
                lockout_ms: millis(rule.lockout_ms),
                exempt_loopback: rule.exempt_loopback,
            },
            trusted_proxy: TrustedProxySettings {
                user_header: auth.trusted_proxy.user_header.clone(),
                required_headers: auth.trusted_proxy.required_headers.clone(),
                allow_users: auth.trusted_proxy.allow_users.clone(),
                allow_loopback: auth.trusted_proxy.allow_loopback,
            },
        };
        let read_net = |text: &String| {
            let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            if net.is_none() {
                tracing::warn!(entry = text, "gateway.trustedProxies has an entry that is no address");
            }
            net
        };
        Self {
            trusted_proxies: config.trusted_proxies.iter().filter_map(read_net).collect(),
            real_ip: config.allow_real_ip_fallback,
            origins: OriginRules { allowed: config.control_ui.allowed_origins.clone(), host_fallback: config.control_ui.host_header_origin_fallback },
            approve_local: config.raw.pointer("/nodes/pairing/autoApproveLocal").and_then(Value::as_bool).unwrap_or(true),
            control_ui_without_device: config.control_ui.disable_device_auth,
            control_ui: config.control_ui.enabled,
            base_path: config.control_ui.base_path.clone(),
            control_ui_root: config.control_ui.root.as_ref().map(Into::into),
            tools_deny: config.tools_deny.clone(),
            tools_allow: config.tools_allow.clone().unwrap_or_default(),
            ..Self::new(settings)
        }
    }
}

/// What the doors tell about the gateway. Replaced whole when it changes.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `{defaultAgentId, modelConfigured, ownership, selectionRequired, mainKey, mainSessionKey, scope}`.
    pub session_defaults: Value,
    /// The config file, shown to admins.
    pub config_path: String,
    /// The state folder, shown to admins.
    pub state_dir: String,
    /// The hash of the config in force.
    pub applied_config_hash: Option<String>,
    /// Abilities for `features.capabilities`; only those that are here.
    pub capabilities: Vec<&'static str>,
    /// The default agent's id.
    pub default_agent: String,
    /// The default agent's name.
    pub assistant_name: String,
    /// What `readyz` says is not ready.
    pub failing: Vec<String>,
}

/// Where the gateway stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Parts are still starting; clients are told to come again.
    Starting,
    /// Everything runs.
    Ready,
    /// It is about to stop or restart; nobody new comes in.
    Draining,
}

/// What the doors need.
pub struct DoorParts {
    /// Clock, ids, tasks.
    pub world: World,
    /// What they obey.
    pub settings: DoorSettings,
    /// What they tell.
    pub facts: Facts,
    /// The register of devices.
    pub devices: Arc<Devices>,
    /// Who is connected.
    pub presence: Arc<Presence>,
    /// Who listens.
    pub fanout: Fanout,
    /// The methods.
    pub router: Arc<Router>,
    /// Further HTTP routes.
    pub mounts: Mounts,
}

/// The doors of one gateway.
pub struct Doors {
    parts: Parts,
    settings: ArcSwap<DoorSettings>,
    facts: ArcSwap<Facts>,
    phase: AtomicU8,
    failures: FailureLimiter,
    sockets: SocketLimiter,
    boot_id: String,
    started_at_ms: i64,
}

struct Parts {
    world: World,
    devices: Arc<Devices>,
    presence: Arc<Presence>,
    fanout: Fanout,
    router: Arc<Router>,
    mounts: Mounts,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

impl Doors {
    /// Answers an HTTP request that another gateway passed on for its client.
    pub async fn answer_passed_on(&self, caller: crate::rpc::Caller, request: ::http::Request<axum::body::Body>) -> ::http::Response<axum::body::Body> {
        http::answer_passed_on(self, caller, request).await
    }

    /// The doors, in phase [`Phase::Starting`]. Starts the `tick` task.
    #[must_use]
    pub fn new(parts: DoorParts) -> Arc<Self> {
        let DoorParts { world, settings, facts, devices, presence, fanout, router, mounts } = parts;
        let (boot_id, started_at_ms) = (world.rng.uuid(), world.clock.now().0);
        let doors = Arc::new(Self {
            parts: Parts { world, devices, presence, fanout, router, mounts },
            settings: ArcSwap::from_pointee(settings),
            facts: ArcSwap::from_pointee(facts),
            phase: AtomicU8::new(0),
            failures: FailureLimiter::default(),
            sockets: SocketLimiter::default(),
            boot_id,
            started_at_ms,
        });
        let ticking = Arc::clone(&doors);
        doors.world().tasks.spawn::<_, std::convert::Infallible>(clawstead_world::TaskKind::logged("tick"), async move {
            let stop = ticking.world().tasks.stopping();
            let period = Duration::from_millis(TICK_MS);
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    _ = ticks.tick() => ticking.fanout().tick(ticking.world().clock.now().0),
                }
            }
        });
        doors
    }

    /// The outside.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.parts.world
    }

    /// The register of devices.
    #[must_use]
    pub const fn devices(&self) -> &Arc<Devices> {
        &self.parts.devices
    }

    /// Who is connected.
    #[must_use]
    pub const fn presence(&self) -> &Arc<Presence> {
        &self.parts.presence
    }

    /// Who listens.
    #[must_use]
    pub const fn fanout(&self) -> &Fanout {
        &self.parts.fanout
    }

    /// The methods.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.parts.router
    }

    const fn mounts(&self) -> &Mounts {
        &self.parts.mounts
    }

    /// Failed authentications; hook routes count theirs here too.
    #[must_use]
    pub const fn failures(&self) -> &FailureLimiter {
        &self.failures
    }

    const fn sockets(&self) -> &SocketLimiter {
        &self.sockets
    }

    /// One per start.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// When the gateway started.
    #[must_use]
    pub const fn started_at_ms(&self) -> i64 {
        self.started_at_ms
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<DoorSettings> {
        self.settings.load_full()
    }

    /// Replaces the settings. Clients that showed a shared secret which is not valid any more are sent away.
    pub fn set_settings(&self, settings: DoorSettings) {
        let old = self.settings();
        let changed = old.auth.mode != settings.auth.mode || old.auth.token != settings.auth.token || old.auth.password != settings.auth.password;
        self.settings.store(Arc::new(settings));
        if changed {
            self.fanout().close_shared_secret();
        }
    }

    /// The facts told.
    #[must_use]
    pub fn facts(&self) -> Arc<Facts> {
        self.facts.load_full()
    }

    /// Replaces the facts.
    pub fn set_facts(&self, facts: Facts) {
        self.facts.store(Arc::new(facts));
    }

    /// Where the gateway stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// True when everything runs.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Ready
    }

    /// Says where the gateway stands.
    pub fn set_phase(&self, phase: Phase) {
        let number = match phase {
            Phase::Starting => 0,
            Phase::Ready => 1,
            Phase::Draining => 2,
        };
        self.phase.store(number, Ordering::Relaxed);
    }

    /// Broadcasts the list of who is connected.
    pub fn send_presence(&self) {
        let (list, version) = self.presence().list(self.world().clock.now().0);
        self.fanout().presence(list, version);
    }

    /// Tells every client that the gateway goes, and closes their sockets with 1012. Nobody new comes in.
    pub fn say_goodbye(&self, restart_expected_ms: Option<u64>) {
        self.set_phase(Phase::Draining);
        self.fanout().shutdown("gateway stopping", restart_expected_ms);
    }
}

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error("port {port} on {host} is already in use; stop what listens there (another gateway?), or choose another with `--port` or gateway.port")]
    InUse {
        /// The address.
        host: IpAddr,
        /// The port.
        port: u16,
    },
    /// Everybody could come in.
    #[error("refusing to listen on {host} without a secret; set gateway.auth.token or gateway.auth.password, or bind to loopback")]
    NoSecret {
        /// The address.
        host: IpAddr,
    },
    /// The configured host is not an address.
    #[error("gateway.bind is custom, but gateway.customBindHost {host:?} is not an IP address")]
    BadHost {
        /// What is configured.
        host: String,
    },
    /// Anything else.
    #[error("cannot listen on {host} port {port}: {source}")]
    Io {
        /// The address.
        host: IpAddr,
        /// The port.
        port: u16,
        /// The cause.
        source: std::io::Error,
    },
}

/// The addresses to listen on. Interfaces other than loopback come with 127.0.0.1, so that local clients need not
/// know. `tailnet` is this machine's Tailscale address, where it has one.
///
/// # Errors
/// When the custom host is no address.
pub fn addresses(bind: Bind, custom_host: Option<&str>, tailnet: Option<IpAddr>) -> Result<Vec<IpAddr>, BindError> {
    let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Ok(match bind {
        Bind::Loopback | Bind::Auto => vec![home],
        Bind::Lan => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        Bind::Tailnet => tailnet.map_or_else(|| vec![home], |address| vec![address, home]),
        Bind::Custom => {
            let text = custom_host.unwrap_or("");
            let host: IpAddr = text.parse().map_err(|_| BindError::BadHost { host: text.to_owned() })?;
            if host.is_loopback() || host == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || host == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
                vec![host]
            } else {
                vec![host, home]
            }
        }
    })
}

/// Opens listeners. Anything but loopback needs a secret or a trusted proxy.
///
/// # Errors
/// As [`BindError`] says; nothing stays open then.
pub async fn bind(hosts: &[IpAddr], port: u16, auth: &AuthSettings) -> Result<Vec<TcpListener>, BindError> {
    let guarded = match auth.mode {
        AuthMode::None => false,
        AuthMode::Token => auth.token.as_deref().is_some_and(|t| !t.is_empty()),
        AuthMode::Password => auth.password.as_deref().is_some_and(|p| !p.is_empty()),
        AuthMode::TrustedProxy => true,
    };
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut port = port;
    for host in hosts {
        if !host.is_loopback() && !guarded {
            return Err(BindError::NoSecret { host: *host });
        }
        let listener = TcpListener::bind(SocketAddr::new(*host, port)).await.map_err(|source| {
            if source.kind() == std::io::ErrorKind::AddrInUse { BindError::InUse { host: *host, port } } else { BindError::Io { host: *host, port, source } }
        })?;
        if port == 0 {
            port = listener.local_addr().map_or(0, |address| address.port());
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Serves one listener until `world.tasks` stops. Start it as a vital task.
pub async fn serve(listener: TcpListener, doors: Arc<Doors>) {
    let stop = doors.world().tasks.stopping();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                tracing::warn!(%err, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(limit = CONNECTIONS_MAX, "too many connections; one was closed");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let doors = Arc::clone(&doors);
        tokio::spawn(async move {
            let place = Arc::new(place);
            let service = service_fn(move |request| http::handle(Arc::clone(&doors), address, Arc::clone(&place), request));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_READ)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(err) = served {
                tracing::debug!(%err, "an HTTP connection ended with an error");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use clawstead_config::Bind;

    use super::{AuthMode, AuthSettings, BindError, FailureRule, TrustedProxySettings, addresses, bind};

    fn auth(token: Option<&str>) -> AuthSettings {
        AuthSettings {
            mode: AuthMode::Token,
            token: token.map(str::to_owned),
            password: None,
            failures: FailureRule::default(),
            trusted_proxy: TrustedProxySettings::default(),
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_way_out() {
        let home = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let first = bind(&home, 0, &auth(None)).await.unwrap();
        let port = first[0].local_addr().unwrap().port();
        let err = bind(&home, port, &auth(None)).await.unwrap_err();
        assert!(matches!(err, BindError::InUse { .. }) && err.to_string().contains(&port.to_string()) && err.to_string().contains("--port"), "{err}");
    }

    #[tokio::test]
    async fn other_interfaces_need_a_secret() {
        let all = addresses(Bind::Lan, None, None).unwrap();
        assert!(matches!(bind(&all, 0, &auth(None)).await, Err(BindError::NoSecret { .. })));
        assert!(matches!(bind(&all, 0, &auth(Some(""))).await, Err(BindError::NoSecret { .. })));
        assert!(bind(&all, 0, &auth(Some("t"))).await.is_ok());
    }

    #[test]
    fn binds_mean_addresses() {
        let text = |bind, host, net: Option<&str>| {
            addresses(bind, host, net.map(|n| n.parse().unwrap())).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(text(Bind::Loopback, None, None).unwrap(), ["127.0.0.1"]);
        assert_eq!(text(Bind::Tailnet, None, None).unwrap(), ["127.0.0.1"]);
        assert_eq!(text(Bind::Tailnet, None, Some("100.64.0.3")).unwrap(), ["100.64.0.3", "127.0.0.1"]);
        assert_eq!(text(Bind::Custom, Some("10.0.0.5"), None).unwrap(), ["10.0.0.5", "127.0.0.1"]);
        assert!(text(Bind::Custom, Some("localhost"), None).is_err());
    }
}
