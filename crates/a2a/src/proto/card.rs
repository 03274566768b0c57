use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Object, filled, nullable};

/// How the operations are put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// JSON-RPC 2.0 over HTTP.
    JsonRpc,
    /// Resources and verbs.
    Rest,
}

impl Binding {
    /// The name a card uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::JsonRpc => "JSONRPC",
            Self::Rest => "HTTP+JSON",
        }
    }
}

/// One way to reach an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentInterface {
    /// Where.
    pub url: String,
    /// `JSONRPC`, `HTTP+JSON`, `GRPC` or another name.
    pub protocol_binding: String,
    /// To be sent as `tenant` with every request to this address.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `1.0`, `0.3`.
    pub protocol_version: String,
}

/// Who runs an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentProvider {
    /// A page about them.
    pub url: String,
    /// Their name.
    pub organization: String,
}

/// An extension of the protocol that an agent knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentExtension {
    /// Its name.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// What it does.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// True when a client must know it too.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Object>,
}

/// What of the protocol an agent offers. None and `Some(false)` mean the same, but are signed differently.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentCapabilities {
    /// Streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streaming: Option<bool>,
    /// Push notifications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_notifications: Option<bool>,
    /// Extensions.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<AgentExtension>,
    /// A longer card for those who prove who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_agent_card: Option<bool>,
}

/// Schemes that are needed together, each with its scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityRequirement {
    /// By the name of the scheme.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub schemes: BTreeMap<String, StringList>,
}

/// A list of strings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StringList {
    /// The strings.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<String>,
}

/// Something an agent can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentSkill {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Words to find it by.
    #[serde(deserialize_with = "nullable")]
    pub tags: Vec<String>,
    /// Examples of what to ask.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
    /// Media types it takes, if others than the agent's.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub input_modes: Vec<String>,
    /// Media types it makes, if others than the agent's.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub output_modes: Vec<String>,
    /// What it needs beyond the agent's.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub security_requirements: Vec<SecurityRequirement>,
}

/// A signature of a card: a JWS whose payload is the card in canonical form without its signatures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentCardSignature {
    /// The protected header, base64url.
    pub protected: String,
    /// The signature, base64url.
    pub signature: String,
    /// The header that is not protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Object>,
}

/// What an agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentCard {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Where it is; the first is preferred.
    #[serde(deserialize_with = "nullable")]
    pub supported_interfaces: Vec<AgentInterface>,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<AgentProvider>,
    /// Its version.
    pub version: String,
    /// More to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation_url: Option<String>,
    /// What of the protocol it offers.
    pub capabilities: AgentCapabilities,
    /// How a client proves who it is, by name; each value is a scheme as the protocol writes it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub security_schemes: BTreeMap<String, Value>,
    /// Which of them are needed; one of the list is enough.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub security_requirements: Vec<SecurityRequirement>,
    /// Media types it takes.
    #[serde(deserialize_with = "nullable")]
    pub default_input_modes: Vec<String>,
    /// Media types it makes.
    #[serde(deserialize_with = "nullable")]
    pub default_output_modes: Vec<String>,
    /// What it can do.
    #[serde(deserialize_with = "nullable")]
    pub skills: Vec<AgentSkill>,
    /// Who vouches for this card.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<AgentCardSignature>,
    /// A picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icon_url: Option<String>,
}

impl AgentCard {
    /// The first address of this binding and version 1.x.
    #[must_use]
    pub fn interface(&self, binding: Binding) -> Option<&AgentInterface> {
        self.supported_interfaces.iter().find(|found| found.protocol_binding.eq_ignore_ascii_case(binding.name()) && found.protocol_version.starts_with("1."))
    }

    /// Asks for a bearer token. The requirement names a role: some readers drop empty lists before they check a
    /// signature, and would then see another card.
    pub fn require_bearer(&mut self) {
        self.security_schemes.insert("bearer".into(), json!({"httpAuthSecurityScheme": {"scheme": "Bearer"}}));
        self.security_requirements = vec![SecurityRequirement { schemes: BTreeMap::from([("bearer".into(), StringList { list: vec!["peer".into()] })]) }];
    }
}
