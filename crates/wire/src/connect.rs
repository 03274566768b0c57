//! The handshake: challenge, `connect` parameters, `hello-ok`.

use std::{collections::BTreeMap, sync::OnceLock};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    check::check,
    error::ErrorShape,
    frame::StateVersion,
    limits,
    method::{Loose, params, schema_of, words},
};

words! {
    /// The programs that may connect.
    ClientId:
        "webchat-ui" => WebchatUi, "openclaw-control-ui" => ControlUi, "openclaw-browser-copilot" => BrowserCopilot,
        "openclaw-tui" => Tui, "webchat" => Webchat, "cli" => Cli, "gateway-client" => GatewayClient,
        "openclaw-macos" => Macos, "openclaw-linux" => Linux, "openclaw-ios" => Ios, "openclaw-watchos" => Watchos,
        "openclaw-android" => Android, "node-host" => NodeHost, "openclaw-worker" => Worker, "test" => Test,
        "fingerprint" => Fingerprint, "openclaw-probe" => Probe;
    /// How a program connects.
    ClientMode:
        "webchat" => Webchat, "cli" => Cli, "ui" => Ui, "backend" => Backend, "node" => Node, "worker" => Worker,
        "probe" => Probe, "test" => Test;
}

params! {
    /// Who connects.
    ClientInfo {
        id: ClientId,
        display_name?: text,
        version: text,
        build_id?: text(96),
        platform: text,
        device_family?: text,
        model_identifier?: text,
        /// IANA name.
        time_zone?: text(64),
        mode: ClientMode,
        instance_id?: text,
    }
    /// Proof of a device identity; see [`crate::device`].
    DeviceProof {
        id: text,
        /// Raw Ed25519 key, base64url.
        public_key: text,
        /// Base64url.
        signature: text,
        /// Milliseconds since the epoch.
        signed_at: int(0..),
        /// The challenge's nonce.
        nonce: text,
    }
    /// Credentials.
    #[derive(Default)]
    ConnectAuth {
        token?: String,
        bootstrap_token?: String,
        device_token?: String,
        password?: String,
        approval_runtime_token?: String,
        agent_runtime_identity_token?: String,
    }
    /// Parameters of `connect`.
    ConnectParams {
        min_protocol: int(1..),
        max_protocol: int(1..),
        client: ClientInfo,
        /// `operator` (default) or `node`.
        role?: text,
        scopes?: Vec<String>,
        caps?: Vec<String>,
        commands?: Vec<String>,
        permissions?: BTreeMap<String, bool>,
        path_env?: String,
        computer_use?: Value,
        worker_runs?: Value,
        model_catalog?: Loose,
        device?: DeviceProof,
        auth?: ConnectAuth,
        locale?: String,
        user_agent?: String,
    }
}

impl ConnectParams {
    /// Reads and checks parameters of `connect`.
    ///
    /// # Errors
    /// The detail that follows `invalid connect params: `.
    pub fn parse(params: Value) -> Result<Self, String> {
        static SCHEMA: OnceLock<Value> = OnceLock::new();
        check(SCHEMA.get_or_init(schema_of::<Self>), &params)?;
        serde_json::from_value(params).map_err(|err| err.to_string())
    }

    /// The role asked for.
    #[must_use]
    pub fn role(&self) -> &str {
        self.role.as_deref().unwrap_or("operator")
    }

    /// The scopes asked for.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        self.scopes.as_deref().unwrap_or_default()
    }

    /// True when the client has a capability.
    #[must_use]
    pub fn has_cap(&self, cap: &str) -> bool {
        self.caps.iter().flatten().any(|c| c == cap)
    }

    /// The secret that the device signature covers.
    #[must_use]
    pub fn signed_token(&self) -> &str {
        let auth = self.auth.as_ref();
        auth.and_then(|a| a.token.as_deref().or(a.device_token.as_deref()).or(a.bootstrap_token.as_deref())).unwrap_or("")
    }
}

/// Payload of `connect.challenge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// To be signed.
    pub nonce: String,
    /// The gateway's clock, milliseconds.
    pub ts: i64,
    /// What the gateway can do before `hello-ok`.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// The gateway in `hello-ok`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// The version it answers as.
    pub version: String,
    /// Its build, where it owns the Control UI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// One per start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Where the Control UI comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_ui_build_source: Option<String>,
    /// One per socket.
    pub conn_id: String,
}

/// What the gateway can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Method names.
    pub methods: Vec<String>,
    /// Event names.
    pub events: Vec<String>,
    /// Named abilities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// A token for a role of this device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloAuth {
    /// How the client was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The role of this socket.
    pub role: String,
    /// The scopes of this socket.
    pub scopes: Vec<String>,
    /// The device token, for the next connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_token: Option<String>,
    /// When it was made, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at_ms: Option<i64>,
    /// Fields we do not read.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl std::fmt::Debug for HelloAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HelloAuth").field("method", &self.method).field("role", &self.role).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// Limits of this socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Largest frame, bytes.
    pub max_payload: u64,
    /// Bytes queued before the socket counts as slow.
    pub max_buffered_bytes: u64,
    /// Time between ticks.
    pub tick_interval_ms: u64,
    /// Attachment limits and others.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Default for Policy {
    fn default() -> Self {
        let mut more = Map::new();
        more.insert("attachments".into(), serde_json::json!({ "maxBytes": limits::ATTACHMENT_BYTES_MAX, "maxImageBytes": limits::IMAGE_BYTES_MAX }));
        more.insert("allowedSessionVisibilities".into(), serde_json::json!(["shared"]));
        more.insert("hasMultipleSessionSharingIdentities".into(), false.into());
        Self { max_payload: limits::FRAME_BYTES_MAX as u64, max_buffered_bytes: limits::BUFFERED_BYTES_MAX as u64, tick_interval_ms: limits::TICK_MS, more }
    }
}

/// The state at the moment of connecting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Who is connected.
    pub presence: Vec<Value>,
    /// The last health report, or `{}`.
    pub health: Value,
    /// Their versions.
    pub state_version: StateVersion,
    /// Time since the gateway started.
    pub uptime_ms: u64,
    /// `sessionDefaults`, `configPath`, `authMode`, ...
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Payload of the response to `connect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloOk {
    /// Always `hello-ok`.
    pub r#type: String,
    /// 4.
    pub protocol: u32,
    /// The gateway.
    pub server: ServerInfo,
    /// What it can do.
    pub features: Features,
    /// The state now.
    pub snapshot: Snapshot,
    /// Who the client is.
    pub auth: HelloAuth,
    /// Limits.
    pub policy: Policy,
    /// Parts for user interfaces.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A refusal of `connect`: the error response, and the close that follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The response.
    pub error: ErrorShape,
    /// The close code.
    pub close_code: u16,
    /// The close reason; cut to what fits when sent.
    pub close_reason: String,
}

impl Refusal {
    /// A refusal that closes with 1008 and the error's message.
    #[must_use]
    pub fn policy(error: ErrorShape) -> Self {
        Self { close_reason: error.message.clone(), error, close_code: limits::close::POLICY }
    }
}

#[cfg(test)]
mod tests {
    use super::ConnectParams;
    use serde_json::json;

    #[test]
    fn connect_params_are_checked_with_the_known_texts() {
        let base = json!({"minProtocol": 4, "maxProtocol": 4, "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"}});
        assert!(ConnectParams::parse(base.clone()).is_ok());
        let with = |name: &str, value: serde_json::Value| {
            let mut copy = base.clone();
            copy[name] = value;
            ConnectParams::parse(copy).unwrap_err()
        };
        assert_eq!(ConnectParams::parse(json!({"minProtocol": 4, "maxProtocol": 4})).unwrap_err(), "must have required property 'client'");
        assert_eq!(with("foo", json!(1)), "at root: unexpected property 'foo'");
        assert_eq!(
            with("client", json!({"id": "my-client", "version": "1", "platform": "linux", "mode": "cli"})),
            "at /client/id: must be equal to one of the allowed values"
        );
        assert_eq!(with("device", json!({"id": "a", "publicKey": "b", "signature": "c", "signedAt": 1})), "at /device: must have required property 'nonce'");
    }
}
