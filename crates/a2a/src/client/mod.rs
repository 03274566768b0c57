//! Agents of others for this house: their cards, messages to them, and the tasks these make.
//!
//! Everything goes through the guarded client of `world`. A card is written by a stranger: an address it names is
//! reached like an address from the config only on the origin that the card itself came from, and the token goes
//! nowhere else.

mod ask;
mod sse;
mod wire;

use std::fmt;

use clawstead_world::{HttpError, HttpRequest, NetPolicy, World};
use http::{HeaderValue, Method, header};
use thiserror::Error;
use url::Url;

pub use ask::{Asked, Told};
pub use wire::Events;

use crate::{
    proto::{A2aError, AgentCard, AgentInterface, Binding, TaskState},
    sign::{self, CardError, CardPublicKey},
};

/// Largest card, bytes.
const CARD_BYTES_MAX: usize = 1024 * 1024;

/// Largest answer that is no stream, and largest event of a stream, bytes, unless the settings say otherwise.
pub const ANSWER_BYTES_DEFAULT: usize = 16 * 1024 * 1024;

/// What a card must prove.
#[derive(Clone, Debug, Default)]
pub enum Verify {
    /// Nothing.
    #[default]
    Nothing,
    /// That one of these keys signed it.
    Signed(Vec<CardPublicKey>),
}

/// How to talk to an agent.
#[derive(Clone)]
pub struct ClientSettings {
    /// [`NetPolicy::Trusted`] for an address from the config, [`NetPolicy::Public`] for one that a model named.
    pub policy: NetPolicy,
    /// Sent as `Authorization: Bearer`, to the origin of the card only. A secret.
    pub token: Option<String>,
    /// What the card must prove.
    pub verify: Verify,
    /// Time until an answer begins, milliseconds; default 60,000. A call that waits for a task's end needs more.
    pub answer_ms_max: u64,
    /// Time without a sign of life after which a stream counts as cut, milliseconds; default 60,000.
    pub quiet_ms_max: u64,
    /// Largest answer or event, bytes.
    pub answer_bytes_max: usize,
}

impl ClientSettings {
    /// Defaults for an address of this kind, without a token.
    #[must_use]
    pub const fn new(policy: NetPolicy) -> Self {
        Self { policy, token: None, verify: Verify::Nothing, answer_ms_max: 60_000, quiet_ms_max: 60_000, answer_bytes_max: ANSWER_BYTES_DEFAULT }
    }
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings").field("policy", &self.policy).field("token", &self.token.as_ref().map(|_| "hidden")).finish_non_exhaustive()
    }
}

/// What can go wrong with another's agent.
#[derive(Debug, Error)]
pub enum ClientError {
    /// It could not be reached.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Its card is not believed.
    #[error(transparent)]
    Card(#[from] CardError),
    /// It answered with an error.
    #[error("the agent at {url} answered: {error}")]
    Refused {
        /// Where.
        url: String,
        /// What it said.
        error: A2aError,
    },
    /// What it answered is not the protocol.
    #[error("{url} does not speak A2A as expected: {why}")]
    Protocol {
        /// Where.
        url: String,
        /// What was wrong.
        why: String,
    },
    /// Its card names no way to it that we speak.
    #[error("the card of {agent} names no JSON-RPC or HTTP+JSON address of version 1.0 that may be used here ({seen})")]
    NoWay {
        /// Its name.
        agent: String,
        /// What the card names.
        seen: String,
    },
    /// It takes too long. The task goes on there.
    #[error("the task {task_id} is still {} after {ms} ms; ask again later or cancel it", state.word())]
    TooLong {
        /// The task.
        task_id: String,
        /// Its state.
        state: TaskState,
        /// The limit.
        ms: u64,
    },
}

impl ClientError {
    /// What the agent said, if it was the agent.
    #[must_use]
    pub const fn refusal(&self) -> Option<&A2aError> {
        match self {
            Self::Refused { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Finds agents of others.
#[derive(Clone)]
pub struct Client {
    world: World,
    settings: ClientSettings,
}

/// An agent of others, by its card.
#[derive(Clone)]
pub struct Remote {
    world: World,
    settings: ClientSettings,
    card: AgentCard,
    binding: Binding,
    interface: AgentInterface,
    policy: NetPolicy,
}

impl Client {
    /// A client of this world.
    #[must_use]
    pub const fn new(world: World, settings: ClientSettings) -> Self {
        Self { world, settings }
    }

    /// Fetches a card and checks it as the settings ask. `address` is the card itself (ends with `.json`), the agent's
    /// address, or its host.
    ///
    /// # Errors
    /// [`ClientError`]: not reached, no card, not believed, no way to it.
    pub async fn discover(&self, address: &str) -> Result<Remote, ClientError> {
        let wrong = |why: String| ClientError::Protocol { url: "the address".into(), why };
        let origin = Url::parse(address).map_err(|err| wrong(err.to_string()))?;
        let bare = address.trim_end_matches('/');
        let mut places = if bare.ends_with(".json") { vec![bare.to_owned()] } else { vec![format!("{bare}/.well-known/agent-card.json")] };
        if !bare.ends_with(".json") && !origin.path().trim_end_matches('/').is_empty() {
            places.push(format!("{}/.well-known/agent-card.json", origin.origin().ascii_serialization()));
        }
        let mut last = None;
        for place in places {
            match self.fetch(&place).await {
                Ok(card) => return self.remote(card, &origin),
                Err(err @ ClientError::Refused { .. }) => last = Some(err),
                Err(err) => return Err(err),
            }
        }
        Err(last.unwrap_or_else(|| wrong("it names no place for a card".into())))
    }

    async fn fetch(&self, place: &str) -> Result<AgentCard, ClientError> {
        let mut request = HttpRequest::new(Method::GET, place, self.settings.policy);
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        request.head_timeout_ms = self.settings.answer_ms_max;
        let response = self.world.http.send(request).await?;
        let (status, url) = (response.status, response.url.clone());
        let (body, cut) = response.read(CARD_BYTES_MAX).await?;
        if !status.is_success() {
            return Err(ClientError::Refused {
                url,
                error: A2aError::read(&serde_json::json!({"code": status.as_u16(), "message": format!("no card: status {status}")})),
            });
        }
        if cut {
            return Err(ClientError::Protocol { url, why: format!("its card is larger than {CARD_BYTES_MAX} bytes") });
        }
        let card: AgentCard = serde_json::from_slice(&body).map_err(|err| ClientError::Protocol { url, why: format!("its card cannot be read: {err}") })?;
        match &self.settings.verify {
            Verify::Nothing => {}
            Verify::Signed(keys) => drop(sign::verify_card(&card, keys)?),
        }
        Ok(card)
    }

    /// An agent by a card that is known already and came from `origin`.
    ///
    /// # Errors
    /// [`ClientError::NoWay`].
    pub fn remote(&self, card: AgentCard, origin: &Url) -> Result<Remote, ClientError> {
        let way = |interface: &AgentInterface| {
            let binding = [Binding::JsonRpc, Binding::Rest].into_iter().find(|one| interface.protocol_binding.eq_ignore_ascii_case(one.name()))?;
            let at_home = Url::parse(&interface.url).ok()?.origin() == origin.origin();
            let usable = interface.protocol_version.starts_with("1.") && (at_home || self.settings.token.is_none());
            usable.then(|| (binding, interface.clone(), if at_home { self.settings.policy } else { NetPolicy::Public }))
        };
        let Some((binding, interface, policy)) = card.supported_interfaces.iter().find_map(way) else {
            let seen: Vec<String> =
                card.supported_interfaces.iter().map(|one| format!("{} {} at {}", one.protocol_binding, one.protocol_version, one.url)).collect();
            return Err(ClientError::NoWay { agent: card.name, seen: seen.join(", ") });
        };
        Ok(Remote { world: self.world.clone(), settings: self.settings.clone(), card, binding, interface, policy })
    }
}

impl Remote {
    /// Its card.
    #[must_use]
    pub const fn card(&self) -> &AgentCard {
        &self.card
    }

    /// Which binding is used: the first of the card that is spoken here.
    #[must_use]
    pub const fn binding(&self) -> Binding {
        self.binding
    }

    /// The same over another binding of the card, if it has one on the same origin.
    #[must_use]
    pub fn over(mut self, binding: Binding) -> Option<Self> {
        let origin = Url::parse(&self.interface.url).ok()?.origin();
        let found = self.card.interface(binding).filter(|one| Url::parse(&one.url).is_ok_and(|url| url.origin() == origin))?.clone();
        self.interface = found;
        self.binding = binding;
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use clawstead_world::{NetPolicy, World};
    use serde_json::json;
    use url::Url;

    use super::{Client, ClientError, ClientSettings};
    use crate::proto::AgentCard;

    fn card(urls: &[&str]) -> AgentCard {
        let interfaces: Vec<_> = urls.iter().map(|url| json!({"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"})).collect();
        serde_json::from_value(json!({"name": "a", "description": "", "version": "1", "capabilities": {}, "supportedInterfaces": interfaces,
            "defaultInputModes": [], "defaultOutputModes": [], "skills": []}))
        .unwrap()
    }

    #[tokio::test]
    async fn a_card_cannot_lead_a_token_or_our_trust_elsewhere() {
        let home = Url::parse("https://house.example/").unwrap();
        let mut settings = ClientSettings::new(NetPolicy::Trusted);
        let client = |settings: &ClientSettings| Client::new(World::simulated(1), settings.clone());
        let there = client(&settings).remote(card(&["http://169.254.169.254/a2a"]), &home).ok().unwrap();
        assert_eq!(there.policy, NetPolicy::Public, "an address of a card is a stranger's");
        settings.token = Some("secret".into());
        assert!(matches!(client(&settings).remote(card(&["https://other.example/a2a"]), &home), Err(ClientError::NoWay { .. })));
        let both = client(&settings).remote(card(&["https://other.example/a2a", "https://house.example/a2a"]), &home).ok().unwrap();
        assert_eq!((both.interface.url.as_str(), both.policy), ("https://house.example/a2a", NetPolicy::Trusted));
    }
}
