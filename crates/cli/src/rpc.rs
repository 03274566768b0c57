//! Talking to a gateway: which one, with which credentials, and what its refusals mean.

use std::time::{Duration, Instant};

use clap::Args;
use clawstead_config::{AuthMode, Config, GatewayMode, Secret, Snapshot};
use clawstead_wire::{
    client::{Client, ClientError, ConnectOptions},
    error::ErrorShape,
    scope::ALL_OPERATOR_SCOPES,
};
use serde_json::{Value, json};

use crate::{
    COMPATIBLE,
    cx::Cx,
    device,
    fail::{Fail, Kind},
    local,
};

/// Waits between two tries while a gateway starts.
const STARTING_RETRY: Duration = Duration::from_millis(250);

/// How to reach the gateway.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Gateway connection")]
pub struct Connect {
    /// Gateway address (ws:// or wss://); stored credentials are not used with it
    #[arg(long, value_name = "WS-URL")]
    pub url: Option<String>,
    /// Local gateway on this port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Gateway token
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Gateway password
    #[arg(long, value_name = "PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Budget for the whole call, milliseconds
    #[arg(long, value_name = "MS")]
    pub timeout: Option<u64>,
    /// Wait for the final answer of methods that acknowledge first
    #[arg(long)]
    pub expect_final: bool,
}

/// What commands that only talk to the gateway have in common.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// How to reach it.
    #[command(flatten)]
    pub gateway: Connect,
    /// JSON
    #[arg(long)]
    pub json: bool,
}

impl Connect {
    /// The configured gateway, with a time limit only.
    pub fn configured(timeout: Option<u64>) -> Self {
        Self { timeout, ..Self::default() }
    }
}

/// Where a call goes and what it shows.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address.
    pub url: String,
    /// Where the address comes from, in words.
    pub source: &'static str,
    /// Shared token.
    pub token: Option<Secret>,
    /// Shared password.
    pub password: Option<Secret>,
    /// True for an address given by hand: nothing stored may be sent there.
    pub by_hand: bool,
}

impl Target {
    /// Works out the target and its credentials.
    ///
    /// # Errors
    /// For contradicting flags, and for an address by hand without credentials.
    pub fn resolve(cx: &Cx, flags: &Connect, snapshot: &Snapshot, config: &Config) -> Result<Self, Fail> {
        if flags.url.is_some() && flags.port.is_some() {
            return Err(Fail::new("--url and --port cannot be used together.").hint("openclaw gateway call --help"));
        }
        let flag_token = flags.token.as_deref().filter(|t| !t.is_empty()).map(Secret::new);
        let flag_password = flags.password.as_deref().filter(|t| !t.is_empty()).map(Secret::new);
        let override_url = flags.url.as_deref().map(|url| (url, "cli --url")).or_else(|| {
            let from_env = snapshot.env.trimmed("OPENCLAW_GATEWAY_URL").filter(|_| flags.port.is_none())?;
            Some((from_env, "env OPENCLAW_GATEWAY_URL"))
        });
        if let Some((url, source)) = override_url {
            if flag_token.is_none() && flag_password.is_none() {
                let message = format!(
                    "gateway url override requires explicit credentials: pass --token or --password ({source} is {url}). Stored credentials are never sent to an address given by hand. Config: {}",
                    cx.paths.display(&cx.paths.config_path)
                );
                return Err(Fail::of(Kind::Credentials, message).hint("add --token <token> or --password <password>"));
            }
            let url = checked_url(url, &snapshot.env)?;
            return Ok(Self { url, source, token: flag_token, password: flag_password, by_hand: true });
        }
        let gateway = &config.gateway;
        if flags.port.is_none() && gateway.mode == Some(GatewayMode::Remote) {
            let Some(url) = &gateway.remote.url else {
                return Err(
                    Fail::new("gateway.mode is remote, but gateway.remote.url is not set.").hint("openclaw config set gateway.remote.url ws://host:18789")
                );
            };
            let env = |name: &str| snapshot.env.trimmed(name).map(Secret::new);
            let url = checked_url(url, &snapshot.env)?;
            let token = flag_token.or_else(|| gateway.remote.token.clone()).or_else(|| env("OPENCLAW_GATEWAY_TOKEN"));
            let password = flag_password.or_else(|| gateway.remote.password.clone()).or_else(|| env("OPENCLAW_GATEWAY_PASSWORD"));
            return Ok(Self { url, source: "config gateway.remote.url", token, password, by_hand: false });
        }
        let scheme = if gateway.tls.enabled { "wss" } else { "ws" };
        let url = format!("{scheme}://127.0.0.1:{}", flags.port.unwrap_or(gateway.port));
        let env = |name: &str| snapshot.env.trimmed(name).map(Secret::new);
        let explicit = flag_token.is_some() || flag_password.is_some();
        let token = flag_token.or_else(|| if explicit { None } else { env("OPENCLAW_GATEWAY_TOKEN").or_else(|| local::gateway_token(cx, config)) });
        let password = flag_password.or_else(|| if explicit { None } else { env("OPENCLAW_GATEWAY_PASSWORD").or_else(|| gateway.auth.password.clone()) });
        // One kind only: the one the gateway asks for.
        let (token, password) = match gateway.auth.mode {
            _ if explicit => (token, password),
            AuthMode::Password | AuthMode::TrustedProxy => (None, password),
            AuthMode::Token => (token, None),
            AuthMode::None => (None, None),
        };
        let source = if flags.port.is_some() { "cli --port" } else { "local loopback" };
        Ok(Self { url, source, token, password, by_hand: false })
    }

    fn is_loopback(&self) -> bool {
        url::Url::parse(&self.url).is_ok_and(|url| match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        })
    }

    /// `{url, urlSource}` for error envelopes.
    #[must_use]
    pub fn about(&self) -> Value {
        json!({"url": self.url, "urlSource": self.source})
    }
}

/// An address that may be used: WebSocket, and in clear text only to this machine.
fn checked_url(text: &str, env: &clawstead_config::Env) -> Result<String, Fail> {
    let bad = |why: &str| Fail::new(format!("Invalid gateway URL \"{text}\": {why}.")).hint("use ws://127.0.0.1:18789 or wss://host:port");
    let url = url::Url::parse(text).map_err(|err| bad(&err.to_string()))?;
    let host_is_near = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback() || (env.flag("OPENCLAW_ALLOW_INSECURE_PRIVATE_WS") && ip.is_private()),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || env.flag("OPENCLAW_ALLOW_INSECURE_PRIVATE_WS"),
        None => return Err(bad("it names no host")),
    };
    match url.scheme() {
        "wss" => {}
        "ws" if host_is_near => {}
        "ws" => {
            return Err(bad(
                "ws:// sends credentials in clear text; use wss://, an SSH tunnel, or set OPENCLAW_ALLOW_INSECURE_PRIVATE_WS=1 for a private network",
            ));
        }
        _ => return Err(bad("use ws:// or wss://")),
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A connection for one command.
pub struct Gateway {
    /// The client.
    pub client: Client,
    /// Where it is connected to.
    pub target: Target,
    /// What is left of the budget is counted from here.
    started: Instant,
    limit: Duration,
}

/// Opens a connection. `default_ms` is the budget when the flag gives none.
///
/// # Errors
/// As a [`Fail`] of the right kind.
pub async fn open(cx: &Cx, flags: &Connect, default_ms: u64) -> Result<Gateway, Fail> {
    let (snapshot, config) = cx.config_or_defaults();
    let target = Target::resolve(cx, flags, &snapshot, &config)?;
    open_target(cx, target, flags.timeout.unwrap_or(default_ms)).await
}

/// Opens a connection to a target.
///
/// # Errors
/// As a [`Fail`] of the right kind.
pub async fn open_target(cx: &Cx, target: Target, timeout_ms: u64) -> Result<Gateway, Fail> {
    let started = Instant::now();
    let limit = Duration::from_millis(timeout_ms.max(1));
    loop {
        match connect(cx, &target, limit.saturating_sub(started.elapsed())).await {
            Ok(client) => return Ok(Gateway { client, target, started, limit }),
            Err(err) => {
                let starting = err.shape().is_some_and(is_starting);
                if starting && started.elapsed() + STARTING_RETRY < limit {
                    tokio::time::sleep(STARTING_RETRY).await;
                    continue;
                }
                return Err(explain(&err, &target));
            }
        }
    }
}

/// True for the answer of a gateway that is not ready yet.
#[must_use]
pub fn is_starting(shape: &ErrorShape) -> bool {
    shape.code == "UNAVAILABLE" && shape.retryable == Some(true)
}

/// One attempt to connect.
///
/// # Errors
/// As the client says.
pub async fn connect(cx: &Cx, target: &Target, limit: Duration) -> Result<Client, ClientError> {
    let mut options = ConnectOptions::cli(&target.url, COMPATIBLE).scopes(ALL_OPERATOR_SCOPES).caps(["tool-events", "agent-kind"]);
    options.connect_timeout = limit.max(Duration::from_millis(1));
    options.auth.token = target.token.as_ref().map(|t| t.expose().to_owned());
    options.auth.password = target.password.as_ref().map(|p| p.expose().to_owned());
    let has_secret = options.auth.token.is_some() || options.auth.password.is_some();
    if !(target.is_loopback() && has_secret) {
        // Other machines, and gateways without a shared secret, know us by our key.
        match device::identity(&cx.paths.state_dir) {
            Ok(identity) => {
                if !has_secret && !target.by_hand {
                    options.auth.device_token = device::token(&cx.paths.state_dir, identity.id());
                }
                options.device = Some(identity);
            }
            Err(why) => tracing::debug!(err = %why, "no device identity"),
        }
    }
    let with_device = options.device.as_ref().map(|d| d.id().to_owned());
    let client = Client::connect(options).await?;
    if let (Some(id), Some(token)) = (with_device, &client.hello().auth.device_token)
        && !target.by_hand
    {
        device::keep_token(&cx.paths.state_dir, &id, token, &client.hello().auth.scopes);
    }
    Ok(client)
}

impl Gateway {
    /// Time left of the budget.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed()).max(Duration::from_millis(1))
    }

    /// Calls a method within what is left of the budget.
    ///
    /// # Errors
    /// As a [`Fail`] of the right kind.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, Fail> {
        self.client.call_within(method, params, self.left()).await.map_err(|err| self.fail(&err))
    }

    /// Calls a method and waits for its final answer.
    ///
    /// # Errors
    /// As a [`Fail`] of the right kind.
    pub async fn call_final(&self, method: &str, params: Value, limit: Duration) -> Result<Value, Fail> {
        self.client.call_final(method, &params, limit).await.map_err(|err| self.fail(&err))
    }

    /// What an error of this connection means.
    #[must_use]
    pub fn fail(&self, err: &ClientError) -> Fail {
        explain(err, &self.target)
    }
}

/// One call on a fresh connection.
///
/// # Errors
/// As a [`Fail`] of the right kind.
pub fn call(cx: &Cx, flags: &Connect, default_ms: u64, method: &str, params: Value) -> Result<Value, Fail> {
    cx.block_on(async {
        let gateway = open(cx, flags, default_ms).await?;
        let done = if flags.expect_final { gateway.call_final(method, params, gateway.left()).await } else { gateway.call(method, params).await };
        gateway.client.close().await;
        done
    })
}

/// Turns a client's error into what the command says.
#[must_use]
pub fn explain(err: &ClientError, target: &Target) -> Fail {
    let transport = |kind: &str, reason: &str, message: String| {
        Fail::of(Kind::Transport, message).with("kind", kind.into()).with("reason", reason.into()).beside("gateway", target.about())
    };
    match err {
        ClientError::BadUrl { why, .. } => Fail::new(format!("Invalid gateway URL \"{}\": {why}.", target.url)),
        ClientError::NotReachable { why, .. } => {
            let reason = if why.contains("refused") { "ECONNREFUSED" } else { why };
            transport("closed", reason, format!("Gateway not reachable at {} ({reason}).", target.url))
                .hint("openclaw gateway status, or start one with: openclaw gateway")
        }
        ClientError::Refused { status, .. } => {
            transport("closed", &format!("HTTP {status}"), format!("{} answered HTTP {status} instead of a WebSocket; is this a gateway?", target.url))
        }
        ClientError::Closed { code, reason } => transport("closed", reason, format!("gateway closed ({code}): {reason}")),
        ClientError::Timeout { what, ms } => transport("timeout", "timeout", format!("gateway timeout after {ms}ms ({what})")),
        ClientError::Auth(shape) => {
            let hint = match shape.detail_code() {
                Some("PAIRING_REQUIRED") => "openclaw devices list, then openclaw devices approve <requestId> on the gateway's host",
                _ => "check gateway.auth.token, OPENCLAW_GATEWAY_TOKEN or --token",
            };
            let mut fail = transport("closed", &shape.message, format!("gateway closed (1008): {}", shape.message)).hint(hint);
            fail.error.insert("code".into(), shape.code.as_str().into());
            if let Some(details) = &shape.details {
                fail.error.insert("details".into(), details.clone());
            }
            fail
        }
        ClientError::Failed(shape) => {
            let fail = Fail::of(Kind::Request, shape.message.clone())
                .with("code", shape.code.as_str().into())
                .with("retryable", shape.retryable.unwrap_or(false).into());
            match &shape.details {
                Some(details) => fail.with("details", details.clone()),
                None => fail,
            }
        }
        ClientError::Protocol(what) => transport("closed", what, format!("the gateway sent something unexpected: {what}")),
    }
}
