//! Which agent, session and model a request means.

use ::http::{HeaderMap, StatusCode};
use serde_json::Value;

use clawstead_terms::{AgentId, SessionKey};

use super::{Dialect, Refusal, Surface};

/// Namespaces of sessions that belong to the house.
const RESERVED: [&str; 3] = ["subagent:", "cron:", "acp:"];

/// What the `model` of a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `openclaw`, `openclaw/default`.
    Default,
    /// `openclaw/<agent>`, `openclaw:<agent>`, `agent:<agent>`.
    Agent(AgentId),
}

/// Reads a `model`.
pub(super) fn read_model(text: &str) -> Option<Wanted> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("openclaw") || text.eq_ignore_ascii_case("openclaw/default") {
        return Some(Wanted::Default);
    }
    let lower = text.to_lowercase();
    let name = ["openclaw/", "openclaw:", "agent:"].iter().find_map(|prefix| lower.strip_prefix(prefix))?;
    AgentId::parse(name).ok().map(Wanted::Agent)
}

/// The session a turn goes to.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub key: SessionKey,
    /// Made for this request alone: nothing was said in it before, whatever the store says of a repeat.
    pub own: bool,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

impl Surface {
    /// The agent: named by header, else by `model`, else the default one.
    pub(super) fn agent(&self, headers: &HeaderMap, model: Option<&Value>) -> Result<AgentId, Refusal> {
        let wanted = match model {
            None | Some(Value::Null) => Wanted::Default,
            Some(value) => value.as_str().and_then(read_model).ok_or_else(|| Refusal::invalid("Invalid `model`. Use `openclaw` or `openclaw/<agentId>`."))?,
        };
        let named = match (text(headers, "x-openclaw-agent-id"), wanted) {
            (Some(id), _) => Some(id.to_owned()),
            (None, Wanted::Agent(agent)) => Some(agent.to_string()),
            (None, Wanted::Default) => None,
        };
        self.chat.desk.agent(named.as_deref()).map_err(|_| unknown_agent(named.as_deref().unwrap_or_default()))
    }

    /// The session: named by header, else that of the `user`, else a new one named after the run.
    pub(super) fn room(&self, dialect: Dialect, headers: &HeaderMap, agent: &AgentId, user: Option<&str>, run_uuid: &str) -> Result<Room, Refusal> {
        if let Some(key) = text(headers, "x-openclaw-session-key") {
            let key = SessionKey::resolve(key, agent).map_err(|err| Refusal::invalid(format!("`x-openclaw-session-key`: {err}")))?;
            if RESERVED.iter().any(|space| key.rest().starts_with(space)) || key.is_subagent() || key.is_cron() {
                return Err(Refusal::invalid("`x-openclaw-session-key` cannot use reserved internal session namespaces."));
            }
            let owner = key.agent();
            self.chat.desk.agent(Some(owner.as_str())).map_err(|_| unknown_agent(owner.as_str()))?;
            return Ok(Room { key, own: false });
        }
        let prefix = dialect.session_prefix();
        let Some(user) = user.map(str::trim).filter(|user| !user.is_empty()) else {
            return Ok(Room { key: SessionKey::of(agent, &format!("{prefix}:{run_uuid}")), own: true });
        };
        // A colon would let a user name reach into another namespace.
        let name = user.replace('%', "%25").replace(':', "%3a");
        let key = SessionKey::resolve(&format!("agent:{agent}:{prefix}-user:{name}"), agent).map_err(|err| Refusal::invalid(format!("`user`: {err}")))?;
        Ok(Room { key, own: false })
    }

    /// The model of `x-openclaw-model`, as `provider/model`.
    pub(super) fn model_override(&self, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
        let Some(name) = text(headers, "x-openclaw-model") else { return Ok(None) };
        let Ok(found) = self.chat.minds.models.load().resolve(name) else {
            let provider = name.split_once('/').map_or(String::new(), |(provider, _)| format!(" --provider {provider}"));
            let message = format!(
                "Unknown model: {name}. Run `openclaw models list --refresh{provider}` to inspect this provider's model choices, then retry with a model supported by your account."
            );
            return Err(Refusal::new(StatusCode::NOT_FOUND, "invalid_request_error", message));
        };
        let full = format!("{}/{}", found.provider, found.model);
        let config = self.config.load();
        let allowed =
            config.models.allow.as_ref().is_none_or(|allow| allow.iter().any(|a| *a == full || a.strip_suffix("/*") == Some(found.provider.as_str())));
        if allowed { Ok(Some(full)) } else { Err(Refusal::invalid(format!("Model '{full}' is not among agents.defaults.modelPolicy.allow."))) }
    }
}

fn unknown_agent(name: &str) -> Refusal {
    Refusal::invalid(format!("Unknown agent '{name}'."))
}

#[cfg(test)]
mod tests {
    use super::{Wanted, read_model};
    use clawstead_terms::AgentId;

    #[test]
    fn models_name_agents() {
        let agent = |id: &str| Some(Wanted::Agent(AgentId::normalise(id)));
        for (text, wanted) in [
            ("openclaw", Some(Wanted::Default)),
            ("openclaw/default", Some(Wanted::Default)),
            ("openclaw/main", agent("main")),
            ("openclaw:Ops", agent("ops")),
            ("agent:ops", agent("ops")),
            ("gpt-4o", None),
            ("openclaw/", None),
            ("openclaw/a b", None),
        ] {
            assert_eq!(read_model(text), wanted, "{text}");
        }
    }
}
