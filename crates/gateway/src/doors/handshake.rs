//! From `connect` to `hello-ok` or a refusal, in the order of checks that clients know.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use clawstead_wire::{
    ErrorShape,
    connect::{ClientId, ClientMode, ConnectParams, Features, HelloAuth, HelloOk, Policy, Refusal, ServerInfo, Snapshot},
    device::{ProvenDevice, verify},
    event::EVENTS,
    limits::{COMPATIBLE_VERSION, PROTOCOL, PROTOCOL_PROBE_MIN, close},
};

use super::{
    Doors, Phase,
    auth::{AuthMode, OriginFault, Peer, SecretCheck, host_name, is_loopback_name, is_private_address},
    limits::Credential,
};
use crate::{
    devices::{Claim, Grant, IssuedToken, Verdict, store_error},
    rpc::{Caller, Locality, Role},
};

/// A client that may come in.
#[derive(Debug)]
pub struct Admission {
    /// Who it is.
    pub caller: Arc<Caller>,
    /// What it is told.
    pub hello: HelloOk,
    /// What it said of itself, for presence.
    pub about: Value,
    /// What it wants models for, when it wants them at once.
    pub models_for: Option<Value>,
}

/// How the client showed who it is.
struct Proof {
    method: &'static str,
    user: Option<String>,
}

impl Doors {
    /// Decides about a `connect`. Failed attempts of local programs are answered late.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub async fn admit(&self, peer: &Peer, params: &ConnectParams, nonce: &str, conn_id: &str) -> Result<Admission, Refusal> {
        let is_node = params.role() == "node";
        self.check_phase(is_node)?;
        check_protocol(params)?;
        let role = match params.role() {
            "operator" => Role::Operator,
            "node" => Role::Node,
            _ => return Err(Refusal::policy(ErrorShape::invalid("invalid role"))),
        };
        self.check_origin(peer, params)?;
        let now = self.world().clock.now().0;
        let device = match &params.device {
            None => {
                self.check_without_device(peer, params, role)?;
                None
            }
            Some(proof) => Some(verify(params, proof, nonce, now).map_err(Refusal::policy)?),
        };
        let proof = self.check_credentials(peer, params, role, device.as_ref()).await?;
        let locality = locality(peer, params, proof.method);
        let (scopes, token) = match &device {
            None => (self.scopes_without_device(peer, params, proof.method), None),
            Some(device) => (params.scopes().to_vec(), Some(self.pair(peer, params, device, locality, proof.method).await?)),
        };
        let scopes = if role == Role::Node { Vec::new() } else { scopes };
        let caller = Caller {
            conn_id: conn_id.to_owned(),
            role,
            scopes,
            device_id: device.map(|device| device.id),
            addr: Some(peer.client),
            client_id: Some(params.client.id),
            client_mode: Some(params.client.mode),
            locality,
            caps: params.caps.clone().unwrap_or_default(),
            auth_method: proof.method,
            user: proof.user,
            session: None,
            run: None,
        };
        // Where nobody needs a secret, a page needs no token to remember.
        let token = token.filter(|_| !(caller.auth_method == "none" && is_control_ui(params.client.id)));
        let hello = self.hello(&caller, token);
        Ok(Admission { caller: Arc::new(caller), hello, about: Value::Null, models_for: None })
    }

    fn check_phase(&self, is_node: bool) -> Result<(), Refusal> {
        let (error, close_reason) = match self.phase() {
            Phase::Ready => return Ok(()),
            Phase::Starting if is_node => return Ok(()),
            Phase::Starting => {
                let error = ErrorShape::retry("gateway starting; retry shortly", 500).with_details(json!({ "reason": "startup-sidecars" }));
                (error, "gateway starting")
            }
            Phase::Draining => {
                let error = ErrorShape::retry("connect unavailable during gateway restart", 1000)
                    .with_details(json!({ "method": "connect", "reason": "gateway-restart", "phase": "draining" }));
                (error, "gateway restart in progress")
            }
        };
        Err(Refusal { error, close_code: close::TRY_LATER, close_reason: close_reason.into() })
    }

    fn check_origin(&self, peer: &Peer, params: &ConnectParams) -> Result<(), Refusal> {
        if peer.origin.is_none() && !is_control_ui(params.client.id) {
            return Ok(());
        }
        let reason = match self.settings().origins.check(peer) {
            Ok(()) => return Ok(()),
            Err(OriginFault::MissingOrInvalid) => "origin missing or invalid",
            Err(OriginFault::NotAllowed) => "origin not allowed",
        };
        let error = ErrorShape::invalid("origin not allowed (open the Control UI from the gateway host or allow it in gateway.controlUi.allowedOrigins)")
            .with_details(json!({ "code": "CONTROL_UI_ORIGIN_NOT_ALLOWED", "reason": reason }));
        Err(Refusal::policy(error))
    }

    /// What may come without a device at all, before its secret is looked at.
    fn check_without_device(&self, peer: &Peer, params: &ConnectParams, role: Role) -> Result<(), Refusal> {
        let settings = self.settings();
        let by_proxy = settings.auth.mode == AuthMode::TrustedProxy && peer.user.is_ok();
        if is_control_ui(params.client.id) {
            if by_proxy || (settings.control_ui_without_device && peer.is_direct_local()) {
                return Ok(());
            }
            let error = ErrorShape::invalid("control ui requires device identity (use HTTPS or localhost secure context)")
                .with_details(json!({ "code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED" }));
            return Err(Refusal::policy(error));
        }
        let auth = params.auth.as_ref();
        let shows_secret = auth.is_some_and(|a| [&a.token, &a.password].into_iter().flatten().any(|secret| !secret.is_empty()));
        let allowed = match (role, settings.auth.mode) {
            (Role::Node, _) => false,
            (Role::Operator, AuthMode::None) => is_backend(params) && peer.is_direct_local(),
            (Role::Operator, _) => shows_secret || by_proxy,
        };
        if allowed {
            return Ok(());
        }
        let error = ErrorShape::new("NOT_PAIRED", "device identity required").with_details(json!({ "code": "DEVICE_IDENTITY_REQUIRED" }));
        Err(Refusal::policy(error))
    }

    /// Scopes stay only for programs of this machine that speak for its owner.
    fn scopes_without_device(&self, peer: &Peer, params: &ConnectParams, method: &str) -> Vec<String> {
        let own_program = peer.is_direct_local() && (is_backend(params) || (is_cli(params) && method != "none"));
        let proxied_ui = method == "trusted-proxy" && is_control_ui(params.client.id);
        let open_ui = self.settings().control_ui_without_device && is_control_ui(params.client.id);
        if own_program || proxied_ui || open_ui { params.scopes().to_vec() } else { Vec::new() }
    }

    async fn check_credentials(&self, peer: &Peer, params: &ConnectParams, role: Role, device: Option<&ProvenDevice>) -> Result<Proof, Refusal> {
        let settings = self.settings();
        let auth = params.auth.clone().unwrap_or_default();
        let refused = |reason: &str| refuse(reason, peer, params, None);
        if settings.auth.mode == AuthMode::TrustedProxy {
            match &peer.user {
                Ok(user) => return Ok(Proof { method: "trusted-proxy", user: Some(user.clone()) }),
                Err(reason) if !(peer.is_direct_local() && auth.password.is_some() && settings.auth.password.is_some()) => return Err(refused(reason)),
                Err(_) => {}
            }
        }
        let now = self.world().clock.now().0;
        let suspect = peer.suspect();
        let wait = self.failures().locked_for(&suspect, Credential::SharedSecret, now);
        let shown = auth.token.is_some() || auth.password.is_some();
        let check = settings.auth.check(auth.token.as_deref(), auth.password.as_deref());
        if let SecretCheck::Right("none") = check {
            return Ok(Proof { method: "none", user: None });
        }
        if let Some(wait) = wait.filter(|_| shown) {
            return Err(refuse("rate_limited", peer, params, Some(wait)));
        }
        if let SecretCheck::Right(method) = check {
            self.failures().succeeded(&suspect, Credential::SharedSecret);
            return Ok(Proof { method, user: None });
        }
        if let Some(device) = device
            && let Some(token) = auth.device_token.as_deref().or(auth.token.as_deref()).filter(|t| !t.is_empty())
        {
            if let Some(wait) = self.failures().locked_for(&suspect, Credential::DeviceToken, now) {
                return Err(refuse("rate_limited", peer, params, Some(wait)));
            }
            if self.devices().check_token(&device.id, role.as_str(), token).is_some() {
                self.failures().succeeded(&suspect, Credential::DeviceToken);
                return Ok(Proof { method: "device-token", user: None });
            }
            if auth.device_token.is_some() {
                let penalty = self.failures().failed(&suspect, Credential::DeviceToken, settings.auth.failures, now);
                tokio::time::sleep(penalty.delay).await;
                return Err(refused("device_token_mismatch"));
            }
        }
        if auth.bootstrap_token.is_some() && !shown {
            return Err(refused("bootstrap_token_invalid"));
        }
        let reason = match check {
            SecretCheck::Missing(reason) | SecretCheck::NotConfigured(reason) => reason,
            SecretCheck::Wrong(reason) => {
                let penalty = self.failures().failed(&suspect, Credential::SharedSecret, settings.auth.failures, now);
                if penalty.delay > Duration::ZERO {
                    tokio::time::sleep(penalty.delay).await;
                }
                reason
            }
            SecretCheck::Right(_) => "token_mismatch",
        };
        Err(refused(reason))
    }

    async fn pair(&self, peer: &Peer, params: &ConnectParams, device: &ProvenDevice, locality: Locality, method: &str) -> Result<IssuedToken, Refusal> {
        let page = peer.origin.is_some();
        let known_page = is_control_ui(params.client.id) || matches!(params.client.id, ClientId::Webchat | ClientId::WebchatUi);
        let by_secret = matches!(method, "token" | "password" | "none");
        let silent = locality != Locality::Remote && self.settings().approve_local && by_secret && (!page || known_page);
        let claim = Claim {
            device_id: &device.id,
            public_key: &device.public_key,
            client: &params.client,
            role: params.role(),
            scopes: params.scopes(),
            remote_ip: (!peer.is_direct_local()).then(|| peer.client.to_string()),
        };
        let verdict = self.devices().admit(&claim, if silent { Grant::Silent } else { Grant::ByOwner }).await;
        match verdict.map_err(|err| Refusal::policy(store_error(&err)))? {
            Verdict::Admitted { token, resolved } => {
                if let Some(resolved) = resolved {
                    self.fanout().send("device.pair.resolved", &resolved);
                }
                self.devices().seen(&device.id);
                Ok(token)
            }
            Verdict::Refused { refusal, requested } => {
                if let Some(requested) = requested {
                    self.fanout().send("device.pair.requested", &requested);
                }
                Err(refusal)
            }
        }
    }

    fn hello(&self, caller: &Caller, token: Option<IssuedToken>) -> HelloOk {
        let facts = self.facts();
        let now = self.world().clock.now().0;
        let (presence, _) = self.presence().list(now);
        let mut more = Map::new();
        more.insert("suspension".into(), json!({ "phase": "accepting" }));
        if let Some(hash) = &facts.applied_config_hash {
            more.insert("appliedConfigHash".into(), hash.as_str().into());
        }
        more.insert("sessionDefaults".into(), facts.session_defaults.clone());
        if caller.is_admin() {
            more.insert("configPath".into(), facts.config_path.as_str().into());
            more.insert("stateDir".into(), facts.state_dir.as_str().into());
            more.insert("authMode".into(), self.settings().auth.mode.as_str().into());
        }
        let (device_token, issued_at_ms) = token.map_or((None, None), |token| (Some(token.token), Some(token.issued_at_ms)));
        HelloOk {
            r#type: "hello-ok".into(),
            protocol: PROTOCOL,
            server: ServerInfo {
                version: COMPATIBLE_VERSION.into(),
                build_id: None,
                boot_id: Some(self.boot_id().to_owned()),
                control_ui_build_source: None,
                conn_id: caller.conn_id.clone(),
            },
            features: Features {
                methods: self.router().advertised(),
                events: EVENTS.iter().map(|rule| rule.name.to_owned()).collect(),
                capabilities: facts.capabilities.iter().map(|name| (*name).to_owned()).collect(),
            },
            snapshot: Snapshot {
                presence: presence.into_iter().filter_map(|entry| serde_json::to_value(entry).ok()).collect(),
                health: self.fanout().last_health().map_or_else(|| json!({}), |health| (*health).clone()),
                state_version: self.fanout().versions(),
                uptime_ms: u64::try_from(now - self.started_at_ms()).unwrap_or(0),
                more,
            },
            auth: HelloAuth {
                method: Some(caller.auth_method.to_owned()),
                role: caller.role.as_str().to_owned(),
                scopes: caller.scopes.clone(),
                device_token,
                issued_at_ms,
                more: Map::new(),
            },
            policy: Policy::default(),
            more: Map::new(),
        }
    }
}

fn check_protocol(params: &ConnectParams) -> Result<(), Refusal> {
    let (min, max) = (params.min_protocol, params.max_protocol);
    let lenient = params.client.mode == ClientMode::Probe || params.role() == "node";
    let lowest = if lenient { PROTOCOL_PROBE_MIN } else { PROTOCOL };
    if min <= u64::from(PROTOCOL) && max >= u64::from(lowest) && min <= max {
        return Ok(());
    }
    let details = json!({ "code": "PROTOCOL_MISMATCH", "clientMinProtocol": min, "clientMaxProtocol": max, "expectedProtocol": PROTOCOL,
        "minimumProbeProtocol": PROTOCOL_PROBE_MIN });
    let error = ErrorShape::invalid("protocol mismatch").with_details(details);
    Err(Refusal { close_reason: error.message.clone(), error, close_code: close::PROTOCOL })
}

/// True for the Control UI.
#[must_use]
pub fn is_control_ui(id: ClientId) -> bool {
    id == ClientId::ControlUi
}

fn is_backend(params: &ConnectParams) -> bool {
    params.client.id == ClientId::GatewayClient && params.client.mode == ClientMode::Backend
}

fn is_cli(params: &ConnectParams) -> bool {
    params.client.id == ClientId::Cli && params.client.mode == ClientMode::Cli
}

fn locality(peer: &Peer, params: &ConnectParams, method: &str) -> Locality {
    if peer.is_direct_local() {
        return Locality::DirectLocal;
    }
    let secret = matches!(method, "token" | "password");
    let private = |authority: &str| is_loopback_name(host_name(authority)) || is_private_address(host_name(authority));
    let host_is_private = peer.host.as_deref().is_some_and(private);
    if secret && peer.addr.is_loopback() && host_is_private && peer.origin.is_none() {
        return Locality::SharedSecretLocal;
    }
    let origin_is_private = peer.origin.as_deref().and_then(|origin| origin.split_once("://")).is_some_and(|(_, authority)| private(authority));
    let here = is_private_address(&peer.client.to_string());
    if secret && is_control_ui(params.client.id) && host_is_private && origin_is_private && here {
        return Locality::BrowserContainerLocal;
    }
    Locality::Remote
}

/// The refusal for a credential that is missing or wrong.
fn refuse(reason: &str, peer: &Peer, params: &ConnectParams, retry_after_ms: Option<u64>) -> Refusal {
    let (code, step) = match reason {
        "token_missing" => ("AUTH_TOKEN_MISSING", "update_auth_configuration"),
        "token_mismatch" => ("AUTH_TOKEN_MISMATCH", "update_auth_credentials"),
        "token_missing_config" => ("AUTH_TOKEN_NOT_CONFIGURED", "update_auth_configuration"),
        "password_missing" => ("AUTH_PASSWORD_MISSING", "update_auth_configuration"),
        "password_mismatch" => ("AUTH_PASSWORD_MISMATCH", "update_auth_credentials"),
        "password_missing_config" => ("AUTH_PASSWORD_NOT_CONFIGURED", "update_auth_configuration"),
        "device_token_mismatch" => ("AUTH_DEVICE_TOKEN_MISMATCH", "update_auth_credentials"),
        "bootstrap_token_invalid" => ("AUTH_BOOTSTRAP_TOKEN_INVALID", "review_auth_configuration"),
        "rate_limited" => ("AUTH_RATE_LIMITED", "wait_then_retry"),
        "trusted_proxy_missing_header" => ("AUTH_IDENTITY_HEADER_REQUIRED", "review_auth_configuration"),
        _ => ("AUTH_UNAUTHORIZED", "review_auth_configuration"),
    };
    let no_device_token = params.auth.as_ref().is_none_or(|auth| auth.device_token.is_none());
    let by_device = reason == "token_mismatch" && params.device.is_some() && no_device_token;
    let step = if by_device { "retry_with_device_token" } else { step };
    let details = json!({ "code": code, "authReason": reason, "canRetryWithDeviceToken": by_device, "recommendedNextStep": step });
    let mut error = ErrorShape::invalid(refusal_text(reason, peer, params)).with_details(details);
    if let Some(ms) = retry_after_ms {
        error.retryable = Some(true);
        error.retry_after_ms = Some(ms);
    }
    Refusal::policy(error)
}

fn refusal_text(reason: &str, peer: &Peer, params: &ConnectParams) -> String {
    let cli = params.client.id == ClientId::Cli;
    let local = peer.is_direct_local();
    let hint = |what: &str| match (cli, is_control_ui(params.client.id)) {
        (true, _) if local && what == "token" => "use this gateway's gateway.auth.token or pair the device".to_owned(),
        (true, _) if local => format!("use this gateway's gateway.auth.{what}"),
        (true, _) => format!("set gateway.remote.{what} to match gateway.auth.{what}"),
        (_, true) => format!("enter the gateway's {what} in the Control UI"),
        _ => format!("provide gateway auth {what}"),
    };
    match reason {
        "token_missing" => format!("unauthorized: gateway token missing ({})", hint("token")),
        "token_mismatch" => format!("unauthorized: gateway token mismatch ({})", hint("token")),
        "token_missing_config" => "unauthorized: gateway token not configured on gateway (set gateway.auth.token)".into(),
        "password_missing" => format!("unauthorized: gateway password missing ({})", hint("password")),
        "password_mismatch" => format!("unauthorized: gateway password mismatch ({})", hint("password")),
        "password_missing_config" => "unauthorized: gateway password not configured on gateway (set gateway.auth.password)".into(),
        "device_token_mismatch" => "unauthorized: device token mismatch (rotate/reissue device token)".into(),
        "bootstrap_token_invalid" => "unauthorized: bootstrap token invalid or expired".into(),
        "rate_limited" => "unauthorized: too many failed authentication attempts (retry later)".into(),
        _ => "unauthorized".into(),
    }
}

/// True for cloud workers, which have a route of their own.
#[must_use]
pub fn claims_worker(params: &Value) -> bool {
    let client = params.get("client");
    params.get("role").is_some_and(|role| role == "worker")
        || client.and_then(|c| c.get("id")).is_some_and(|id| id == "openclaw-worker")
        || client.and_then(|c| c.get("mode")).is_some_and(|mode| mode == "worker")
}
