//! One request in, one answer out: what both bindings share.

use std::sync::Arc;

use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    cards,
    engine::{Caller, Engine, whole},
    follow::Follower,
    host::{AgentProfile, Peer},
    push, relay,
};
use crate::proto::{A2aError, ErrorKind, VERSION, VERSION_BEFORE, json_names};

/// Longest list of extensions a request may ask for, entries.
const EXTENSIONS_MAX: usize = 64;

/// What an operation gives back.
pub(crate) enum Answer {
    Json(Value),
    Stream(Box<Follower>),
}

/// Which version a request was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Before,
    /// Nothing said: the protocol reads that as 0.3.
    Unsaid,
}

/// Reads `A2A-Version`, from the header or the query; of `1.0.3` only `1.0` counts.
pub(crate) fn version(headers: &HeaderMap, query: &[(String, String)]) -> Result<Version, A2aError> {
    let header = headers.get("a2a-version").map(|value| value.to_str().unwrap_or("?").trim().to_owned());
    let said = header
        .filter(|text| !text.is_empty())
        .or_else(|| query.iter().find(|(name, _)| name.eq_ignore_ascii_case("a2a-version")).map(|(_, value)| value.clone()));
    let Some(said) = said.filter(|text| !text.is_empty()) else { return Ok(Version::Unsaid) };
    let mut numbers = said.split('.');
    let both = [numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()].join(".");
    match both.as_str() {
        VERSION => Ok(Version::One),
        VERSION_BEFORE => Ok(Version::Before),
        _ => {
            let shown: String = said.chars().take(32).collect();
            Err(A2aError::new(ErrorKind::VersionNotSupported, format!("A2A version {shown} is not spoken here; {VERSION} and {VERSION_BEFORE} are"))
                .with("supportedVersions", format!("{VERSION}, {VERSION_BEFORE}")))
        }
    }
}

/// Who calls whom: the token decides who, the address or `tenant` decides whom.
pub(crate) fn caller(engine: &Engine, headers: &HeaderMap, agent_of_path: Option<&str>, tenant: Option<&str>) -> Result<Caller, A2aError> {
    let peer = engine.settings.access.who(headers)?;
    let agent = agent(engine, agent_of_path, tenant)?;
    let extensions: Vec<String> = headers
        .get_all("a2a-extensions")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|one| one.trim().to_owned())
        .filter(|one| !one.is_empty())
        .take(EXTENSIONS_MAX)
        .collect();
    let last_event = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|value| value.trim().parse().ok());
    Ok(Caller { agent, peer, extensions, last_event })
}

fn agent(engine: &Engine, of_path: Option<&str>, tenant: Option<&str>) -> Result<Arc<AgentProfile>, A2aError> {
    let tenant = tenant.filter(|tenant| !tenant.is_empty());
    let id = match (of_path, tenant) {
        (Some(path), Some(tenant)) if path != tenant => return Err(A2aError::field("tenant", format!("this is the address of {path}"))),
        (Some(id), _) | (None, Some(id)) => id,
        (None, None) => {
            let first = engine.host.agents().into_iter().next();
            return first.ok_or_else(|| A2aError::new(ErrorKind::Unavailable, "This house has no agents"));
        }
    };
    engine.host.agent(id).ok_or_else(|| match of_path {
        Some(_) => A2aError::new(ErrorKind::MethodNotFound, format!("There is no agent {id} here")),
        None => A2aError::field("tenant", format!("there is no agent {id} here")),
    })
}

/// Extensions that were asked for and are known, for the answer's header.
pub(crate) fn extensions_in_use(engine: &Engine, caller: &Caller) -> String {
    let known = engine.settings.extensions.iter().map(|one| one.uri.as_str());
    known.filter(|uri| caller.extensions.iter().any(|asked| asked == uri)).collect::<Vec<_>>().join(", ")
}

/// Does an operation by its name.
pub(crate) async fn call(engine: &Arc<Engine>, caller: &Caller, method: &str, params: Value) -> Result<Answer, A2aError> {
    if let Some(needed) = engine.settings.extensions.iter().find(|one| one.required && !caller.extensions.contains(&one.uri)) {
        let words = format!("This agent needs its callers to know the extension {}; name it in A2A-Extensions", needed.uri);
        return Err(A2aError::new(ErrorKind::ExtensionSupportRequired, words).with("extension", &needed.uri));
    }
    if let Some(gateway) = caller.agent.elsewhere.as_deref().filter(|_| method != "GetExtendedAgentCard") {
        return relay::carry(engine, caller, gateway, method, params).await;
    }
    let streams = || {
        let words = "This server opens no streams; use SendMessage and GetTask";
        if engine.settings.streaming.yes() { Ok(()) } else { Err(A2aError::new(ErrorKind::UnsupportedOperation, words)) }
    };
    let pushes = || if engine.settings.push.yes() { Ok(()) } else { Err(push::not_supported()) };
    let answer = match method {
        "SendMessage" => json!(engine.send_message(caller, read(params)?).await?),
        "SendStreamingMessage" => {
            streams()?;
            return Ok(Answer::Stream(Box::new(engine.send_streaming(caller, read(params)?).await?)));
        }
        "SubscribeToTask" => {
            streams()?;
            return Ok(Answer::Stream(Box::new(engine.subscribe(caller, read(params)?).await?)));
        }
        "GetTask" => json!(engine.get_task(caller, read(params)?).await?),
        "ListTasks" => json!(engine.list_tasks(caller, read(params)?).await?),
        "CancelTask" => json!(engine.cancel_task(caller, read(params)?).await?),
        "CreateTaskPushNotificationConfig" => {
            pushes()?;
            let (engine, caller, config) = (Arc::clone(engine), caller.clone(), read(params)?);
            json!(whole(async move { engine.create_config(&caller, config).await }).await?)
        }
        "GetTaskPushNotificationConfig" => {
            pushes()?;
            json!(engine.get_config(caller, read(params)?).await?)
        }
        "ListTaskPushNotificationConfigs" => {
            pushes()?;
            json!(engine.list_configs(caller, read(params)?).await?)
        }
        "DeleteTaskPushNotificationConfig" => {
            pushes()?;
            let (engine, caller, config) = (Arc::clone(engine), caller.clone(), read(params)?);
            whole(async move { engine.delete_config(&caller, config).await }).await?;
            json!({})
        }
        "GetExtendedAgentCard" => extended(engine, caller)?,
        _ => return Err(A2aError::new(ErrorKind::MethodNotFound, format!("There is no method {}", method.chars().take(64).collect::<String>()))),
    };
    Ok(Answer::Json(answer))
}

fn extended(engine: &Arc<Engine>, caller: &Caller) -> Result<Value, A2aError> {
    if !engine.settings.extended_card.yes() {
        return Err(A2aError::new(ErrorKind::UnsupportedOperation, "This agent has no extended card; its public card says everything"));
    }
    if caller.peer == Peer::Anonymous {
        return Err(A2aError::new(ErrorKind::Unauthenticated, "The extended card is for known callers; send Authorization: Bearer <token>"));
    }
    let profile = engine
        .host
        .extended(&caller.agent.id, &caller.peer)
        .ok_or_else(|| A2aError::new(ErrorKind::ExtendedAgentCardNotConfigured, format!("There is no extended card of {} for you", caller.agent.id)))?;
    cards::card_of(engine, &profile).map(|card| json!(card))
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, A2aError> {
    serde_json::from_value(json_names(params)).map_err(|err| {
        let why = err.to_string();
        let field = why.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()).unwrap_or_default().to_owned();
        A2aError::field(field, why)
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{Version, version};

    #[test]
    fn only_major_and_minor_count_and_nothing_means_before() {
        let said = |text: &'static str| version(&HeaderMap::from_iter([(http::HeaderName::from_static("a2a-version"), HeaderValue::from_static(text))]), &[]);
        assert_eq!(said("1.0"), Ok(Version::One));
        assert_eq!(said("1.0.7"), Ok(Version::One));
        assert_eq!(said("0.3"), Ok(Version::Before));
        assert_eq!(said(""), Ok(Version::Unsaid));
        assert_eq!(version(&HeaderMap::new(), &[("A2A-Version".into(), "1.0".into())]), Ok(Version::One));
        for no in ["99.0", "1", "1.1", "x"] {
            assert!(said(no).is_err(), "{no}");
        }
    }
}
