use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{engine::Engine, host::AgentProfile, send::modes};
use crate::{
    proto::{A2aError, AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Binding, ErrorKind, VERSION, VERSION_BEFORE},
    sign::{self, CardKey, CardPublicKey},
};

/// The path below which everything is served.
pub const BASE_PATH: &str = "/a2a/v1";

/// Where the public halves of the card keys are.
pub const KEYS_PATH: &str = "/a2a/v1/jwks.json";

/// The same where some look for it.
pub const KEYS_PATH_WELL_KNOWN: &str = "/.well-known/jwks.json";

/// The card of one agent, signed.
pub(crate) fn card_of(engine: &Engine, profile: &AgentProfile) -> Result<AgentCard, A2aError> {
    let skills = if profile.skills.is_empty() { vec![talking(profile)] } else { profile.skills.clone() };
    let url = format!("{}{BASE_PATH}/agents/{}", engine.settings.public_url, profile.id);
    finish(engine, profile, &url, skills)
}

/// The card at the well-known address: of the one agent, or of the house with one skill for each agent.
pub(crate) fn house_card(engine: &Engine) -> Result<AgentCard, A2aError> {
    let agents = engine.host.agents();
    let url = format!("{}{BASE_PATH}", engine.settings.public_url);
    match agents.as_slice() {
        [] => Err(A2aError::new(ErrorKind::Unavailable, "This house has no agents")),
        [only] => {
            let skills = if only.skills.is_empty() { vec![talking(only)] } else { only.skills.clone() };
            finish(engine, only, &url, skills)
        }
        [first, ..] => {
            let skills = agents.iter().map(|agent| AgentSkill { id: agent.id.clone(), ..talking(agent) }).collect();
            let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
            let house = AgentProfile {
                name: engine.settings.house_name.clone(),
                description: format!(
                    "Agents of this house: {}. Each has its own address, {url}/agents/<id>; messages sent here go to {}.",
                    names.join(", "),
                    first.name
                ),
                ..AgentProfile::clone(first)
            };
            finish(engine, &house, &url, skills)
        }
    }
}

fn talking(profile: &AgentProfile) -> AgentSkill {
    let description = if profile.description.is_empty() { format!("Talks with {}", profile.name) } else { profile.description.clone() };
    AgentSkill { id: "talk".into(), name: profile.name.clone(), description, tags: vec!["agent".into()], ..AgentSkill::default() }
}

fn finish(engine: &Engine, profile: &AgentProfile, url: &str, skills: Vec<AgentSkill>) -> Result<AgentCard, A2aError> {
    let settings = &engine.settings;
    let interface = |binding: Binding, version: &str| AgentInterface {
        url: url.to_owned(),
        protocol_binding: binding.name().into(),
        tenant: None,
        protocol_version: version.into(),
    };
    let mut card = AgentCard {
        name: profile.name.clone(),
        description: profile.description.clone(),
        supported_interfaces: vec![interface(Binding::JsonRpc, VERSION), interface(Binding::Rest, VERSION), interface(Binding::JsonRpc, VERSION_BEFORE)],
        provider: profile.provider.clone(),
        version: if profile.version.is_empty() { env!("CARGO_PKG_VERSION").into() } else { profile.version.clone() },
        capabilities: AgentCapabilities {
            streaming: Some(settings.streaming.yes()),
            push_notifications: Some(settings.push.yes()),
            extensions: settings.extensions.clone(),
            extended_agent_card: Some(settings.extended_card.yes()),
        },
        default_input_modes: modes(&profile.input_modes).into_iter().map(str::to_owned).collect(),
        default_output_modes: if profile.output_modes.is_empty() { vec!["text/plain".into()] } else { profile.output_modes.clone() },
        skills,
        ..AgentCard::default()
    };
    if settings.access.needs_token() {
        card.require_bearer();
    }
    let keys = keys(engine);
    if !keys.is_empty() {
        sign::sign_card(&mut card, keys.iter().map(Arc::as_ref)).map_err(|err| A2aError::new(ErrorKind::Internal, err.to_string()))?;
    }
    Ok(card)
}

/// What signs cards now.
fn keys(engine: &Engine) -> Vec<Arc<CardKey>> {
    engine.settings.card_keys.iter().cloned().chain(engine.host.card_keys()).collect()
}

/// The public halves of what signs cards, here and at the other gateways of a farm; each once.
pub(crate) fn key_set(engine: &Engine) -> Value {
    let mut all: Vec<CardPublicKey> = keys(engine).iter().map(|key| key.public()).collect();
    for known in engine.host.known_card_keys() {
        if !all.iter().any(|key| key.kid == known.kid) {
            all.push(known);
        }
    }
    json!({"keys": all.iter().map(CardPublicKey::jwk).collect::<Vec<_>>()})
}

/// A weak tag of what the card says. Signatures do not count: some differ each time over the same words.
pub(crate) fn tag(card: &AgentCard) -> String {
    let unsigned = AgentCard { signatures: Vec::new(), ..card.clone() };
    let digest = Sha256::digest(serde_json::to_vec(&unsigned).unwrap_or_default());
    let short: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("W/\"{short}\"")
}
