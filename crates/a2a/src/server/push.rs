//! Push notifications: where the changes of a task are sent, and the sending.
//!
//! A change and the letters that tell of it are stored in one batch, so that a crash loses none. One task for each
//! target sends them in order; a letter that is not taken is sent again with longer and longer waits, then given up.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use clawstead_world::{Guard, HttpRequest, NetPolicy, TaskKind};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Value, json};
use url::{Host, Url};

use super::{
    engine::{Caller, Engine, away, is_plain_id, task_key},
    host::TaskRef,
    live::{Live, Record},
    settings::PushTargets,
    store::{StoreError, Table, Write},
};
use crate::proto::{
    A2aError, ErrorKind, ListPushConfigsRequest, ListPushConfigsResponse, MEDIA_TYPE, PushConfigRequest, StreamResponse, TaskArtifactUpdateEvent,
    TaskPushNotificationConfig, VERSION,
};

/// Most targets of one task.
pub(crate) const CONFIGS_MAX: usize = 16;

/// How often a letter is sent before it is given up.
const ATTEMPTS_MAX: u32 = 8;

/// Wait before the second attempt, milliseconds; doubled each time, with up to a quarter more by chance.
const BACKOFF_MS: u64 = 500;

/// Longest wait between two attempts, milliseconds.
const BACKOFF_MS_MAX: u64 = 60_000;

/// How long a target may take to answer, milliseconds.
const ANSWER_MS_MAX: u64 = 20_000;

/// Longest address, bytes.
const URL_BYTES_MAX: usize = 2048;

/// Letters that are looked through at a time when the process starts.
const SCAN_ROWS: usize = 500;

const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-a2a-notification-token");

impl Engine {
    pub async fn create_config(&self, caller: &Caller, config: TaskPushNotificationConfig) -> Result<TaskPushNotificationConfig, A2aError> {
        let id = config.task_id.clone().ok_or_else(|| A2aError::field("taskId", "is needed"))?;
        let live = self.load(caller, &id).await?;
        let _door = live.door.lock().await;
        let known = self.configs(&live).await.map_err(away)?;
        let replaced = known.iter().any(|one| one.id == config.id && config.id.is_some());
        let (config, write) = self.new_config(&live.at, config, known.len() - usize::from(replaced))?;
        self.tasks.commit(&live.at.agent, vec![write]).await.map_err(away)?;
        live.lock().push = None;
        Ok(config)
    }

    pub async fn get_config(&self, caller: &Caller, request: PushConfigRequest) -> Result<TaskPushNotificationConfig, A2aError> {
        let live = self.load(caller, &request.task_id).await?;
        let found = self.configs(&live).await.map_err(away)?.into_iter().find(|config| config.id.as_deref() == Some(&request.id));
        found.ok_or_else(|| {
            A2aError::new(ErrorKind::TaskNotFound, format!("The task {} has no push notification config {}", request.task_id, request.id))
                .with("taskId", request.task_id)
        })
    }

    pub async fn list_configs(&self, caller: &Caller, request: ListPushConfigsRequest) -> Result<ListPushConfigsResponse, A2aError> {
        let live = self.load(caller, &request.task_id).await?;
        let after = request.page_token.as_deref().unwrap_or_default();
        let mut configs = self.configs(&live).await.map_err(away)?;
        configs.retain(|config| after.is_empty() || config.id.as_deref() > Some(after));
        let size = if request.page_size == 0 { CONFIGS_MAX } else { usize::try_from(request.page_size).unwrap_or(CONFIGS_MAX) };
        let more = configs.len() > size;
        configs.truncate(size);
        let next_page_token = configs.last().filter(|_| more).and_then(|last| last.id.clone()).unwrap_or_default();
        Ok(ListPushConfigsResponse { configs, next_page_token })
    }

    pub async fn delete_config(&self, caller: &Caller, request: PushConfigRequest) -> Result<(), A2aError> {
        let live = self.load(caller, &request.task_id).await?;
        if !is_plain_id(&request.id) {
            return Ok(());
        }
        let _door = live.door.lock().await;
        let key = format!("{}/{}", task_key(live.peer(), &live.at.task_id), request.id);
        let mut writes = vec![Write::Delete(Table::Push, key.clone())];
        let waiting = self.tasks.scan(&live.at.agent, Table::Delivery, &format!("{key}/"), None, SCAN_ROWS).await.map_err(away)?;
        writes.extend(waiting.into_iter().map(|(key, _)| Write::Delete(Table::Delivery, key)));
        self.tasks.commit(&live.at.agent, writes).await.map_err(away)?;
        live.lock().push = None;
        Ok(())
    }

    /// The targets of a task, by id.
    pub async fn configs(&self, live: &Live) -> Result<Vec<TaskPushNotificationConfig>, StoreError> {
        if let Some(known) = live.lock().push.clone() {
            return Ok(known);
        }
        let prefix = format!("{}/", task_key(live.peer(), &live.at.task_id));
        let rows = self.tasks.scan(&live.at.agent, Table::Push, &prefix, None, CONFIGS_MAX).await?;
        let configs: Vec<TaskPushNotificationConfig> = rows.into_iter().filter_map(|(_, row)| serde_json::from_value(row).ok()).collect();
        live.lock().push = Some(configs.clone());
        Ok(configs)
    }

    /// Checks a new target of a task that has `there` others.
    pub fn new_config(&self, at: &TaskRef, mut config: TaskPushNotificationConfig, there: usize) -> Result<(TaskPushNotificationConfig, Write), A2aError> {
        if !self.settings.push.yes() {
            return Err(not_supported());
        }
        if there >= CONFIGS_MAX {
            return Err(A2aError::field("", format!("a task has at most {CONFIGS_MAX} push notification configs; delete one")));
        }
        let id = config.id.take().unwrap_or_else(|| self.world.rng.uuid());
        if !is_plain_id(&id) {
            return Err(A2aError::field("id", "at most 128 visible characters without '/'"));
        }
        if let Err(why) = policy_of(&config.url, &self.settings.push_targets) {
            return Err(A2aError::field("url", why));
        }
        headers_of(&config).map_err(|field| A2aError::field(field, "cannot be part of an HTTP header"))?;
        config.id = Some(id.clone());
        config.task_id = Some(at.task_id.clone());
        let write = Write::Put(Table::Push, format!("{}/{id}", task_key(&at.peer, &at.task_id)), json!(config));
        Ok((config, write))
    }

    /// The letters that tell the targets of a task of these events: a key of the target with each.
    pub async fn deliveries(&self, live: &Live, record: &Record, events: &[StreamResponse]) -> Result<Vec<(String, Write)>, StoreError> {
        if !self.settings.push.yes() {
            return Ok(Vec::new());
        }
        let configs = self.configs(live).await?;
        let first = record.seq + 1 - u64::try_from(events.len()).unwrap_or(0);
        let mut letters = Vec::new();
        for config in &configs {
            let target = format!("{}/{}", task_key(live.peer(), &live.at.task_id), config.id.as_deref().unwrap_or_default());
            for (seq, event) in (first..).zip(events) {
                let key = format!("{target}/{seq:020}");
                letters.push((target.clone(), Write::Put(Table::Delivery, key, json!(whole(event, record)))));
            }
        }
        Ok(letters)
    }

    /// Sends what waits for a target, unless that is already being done.
    pub fn start_sending(self: &Arc<Self>, agent: &str, target: &str) {
        if self.is_sending(agent, target) {
            return;
        }
        let (engine, agent, target) = (Arc::clone(self), agent.to_owned(), target.to_owned());
        self.world.tasks.spawn(TaskKind::logged("a2a push"), async move {
            let outcome = engine.send_waiting(&agent, &target).await;
            engine.sent_all(&agent, &target);
            // What was stored between the last look and now.
            if outcome.is_ok()
                && !engine.tasks.scan(&agent, Table::Delivery, &format!("{target}/"), None, 1).await?.is_empty()
                && !engine.world.tasks.stopping().is_cancelled()
            {
                engine.start_sending(&agent, &target);
            }
            outcome
        });
    }

    pub async fn recover_deliveries(self: &Arc<Self>, agent: &str) -> Result<(), StoreError> {
        let mut after: Option<String> = None;
        let mut targets = BTreeSet::new();
        loop {
            let rows = self.tasks.scan(agent, Table::Delivery, "", after.as_deref(), SCAN_ROWS).await?;
            let full = rows.len() == SCAN_ROWS;
            after = rows.last().map(|row| row.0.clone());
            targets.extend(rows.iter().filter_map(|(key, _)| key.rsplit_once('/')).map(|(target, _)| target.to_owned()));
            if !full {
                break;
            }
        }
        for target in targets {
            self.start_sending(agent, &target);
        }
        Ok(())
    }

    async fn send_waiting(&self, agent: &str, target: &str) -> Result<(), StoreError> {
        let stopping = self.world.tasks.stopping();
        loop {
            let Some((key, body)) = self.tasks.scan(agent, Table::Delivery, &format!("{target}/"), None, 1).await?.into_iter().next() else { return Ok(()) };
            let config = self.tasks.get(agent, Table::Push, target).await?.and_then(|row| serde_json::from_value::<TaskPushNotificationConfig>(row).ok());
            if let Some(config) = config {
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return Ok(()),
                    () = self.send_letter(agent, target, &config, &body) => {}
                }
            }
            self.tasks.commit(agent, vec![Write::Delete(Table::Delivery, key)]).await?;
        }
    }

    async fn send_letter(&self, agent: &str, target: &str, config: &TaskPushNotificationConfig, body: &Value) {
        let Ok(headers) = headers_of(config) else { return };
        let body = Bytes::from(body.to_string());
        for attempt in 1..=ATTEMPTS_MAX {
            // Asked anew each time: the settings of this process decide, not those of the one that stored the target.
            let policy = match policy_of(&config.url, &self.settings.push_targets) {
                Ok(policy) => policy,
                Err(why) => {
                    tracing::warn!(agent, target, err = why, "a push notification is not sent");
                    return;
                }
            };
            let mut request = HttpRequest::new(Method::POST, config.url.clone(), policy);
            request.headers = headers.clone();
            request.body = Some(body.clone());
            request.head_timeout_ms = ANSWER_MS_MAX;
            let problem = match self.world.http.send(request).await {
                Ok(response) if response.status.is_success() => return,
                Ok(response) => {
                    let status = response.status.as_u16();
                    if (400..500).contains(&status) && !matches!(status, 408 | 425 | 429) {
                        tracing::warn!(agent, target, status, "a push notification was refused and is given up");
                        return;
                    }
                    format!("status {status}")
                }
                Err(err @ clawstead_world::HttpError::Blocked { .. }) => {
                    tracing::warn!(agent, target, err = %err, "a push notification is not sent");
                    return;
                }
                Err(err) => err.to_string(),
            };
            if attempt == ATTEMPTS_MAX {
                tracing::warn!(agent, target, attempts = attempt, err = problem, "a push notification is given up");
                return;
            }
            let wait = (BACKOFF_MS << (attempt - 1)).min(BACKOFF_MS_MAX);
            tokio::time::sleep(Duration::from_millis(wait + self.world.rng.below(wait / 4))).await;
        }
    }
}

pub(crate) fn not_supported() -> A2aError {
    A2aError::new(ErrorKind::PushNotificationNotSupported, "This server sends no push notifications; use streams or GetTask")
}

/// A piece of an artifact becomes the whole artifact: a target does not get the pieces in between.
fn whole(event: &StreamResponse, record: &Record) -> StreamResponse {
    let StreamResponse::ArtifactUpdate(update) = event else { return event.clone() };
    let all = record.task.artifacts.iter().flatten().find(|artifact| artifact.artifact_id == update.artifact.artifact_id);
    StreamResponse::ArtifactUpdate(TaskArtifactUpdateEvent { artifact: all.unwrap_or(&update.artifact).clone(), append: false, ..update.clone() })
}

fn headers_of(config: &TaskPushNotificationConfig) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert("a2a-version", HeaderValue::from_static(VERSION));
    if let Some(how) = &config.authentication {
        let text = format!("{} {}", how.scheme, how.credentials.as_deref().unwrap_or_default());
        let mut value = HeaderValue::from_str(text.trim()).map_err(|_| "authentication")?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    if let Some(token) = &config.token {
        let mut value = HeaderValue::from_str(token).map_err(|_| "token")?;
        value.set_sensitive(true);
        headers.insert(TOKEN_HEADER, value);
    }
    Ok(headers)
}

/// How an address may be reached: freely where the operator named it, else only on public addresses. What a name
/// resolves to is checked by the client when it connects.
fn policy_of(address: &str, targets: &PushTargets) -> Result<NetPolicy, &'static str> {
    if address.len() > URL_BYTES_MAX {
        return Err("the address is too long");
    }
    let url = Url::parse(address).map_err(|_| "not an address")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http and https addresses are called");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials belong into authentication, not into the address");
    }
    let private = "it is a private address; the operator of this server can allow it as a push target";
    let host = url.host().ok_or("it names no host")?;
    let name = host.to_string();
    let with_port = url.port_or_known_default().map(|port| format!("{name}:{port}"));
    if targets.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&name) || with_port.as_ref().is_some_and(|full| allowed.eq_ignore_ascii_case(full))) {
        return Ok(NetPolicy::Trusted);
    }
    let ip = match host {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(ip.into()),
        Host::Domain(_) => None,
    };
    match ip {
        Some(ip) if targets.networks.iter().any(|net| net.contains(&ip)) => Ok(NetPolicy::Trusted),
        Some(ip) if !Guard::is_public(ip) => Err(private),
        None if name == "localhost" || [".localhost", ".local", ".internal"].iter().any(|end| name.ends_with(end)) => Err(private),
        _ => Ok(NetPolicy::Public),
    }
}

#[cfg(test)]
mod tests {
    use clawstead_world::NetPolicy;

    use super::{PushTargets, policy_of};

    #[test]
    fn private_targets_need_the_operators_word() {
        let none = PushTargets::default();
        for address in [
            "http://127.0.0.1/x",
            "http://10.0.0.1",
            "http://[::1]:8/",
            "http://localhost:1/",
            "http://2130706433/",
            "http://db.internal/",
            "ftp://example.com/",
            "http://u:p@example.com",
            "x",
        ] {
            assert!(policy_of(address, &none).is_err(), "{address}");
        }
        assert_eq!(policy_of("https://example.com/hook?x=1", &none), Ok(NetPolicy::Public));
        let some = PushTargets { hosts: vec!["Hooks.home:8080".into()], networks: vec!["10.1.0.0/16".parse().unwrap()] };
        assert_eq!(policy_of("http://hooks.home:8080/x", &some), Ok(NetPolicy::Trusted));
        assert_eq!(policy_of("http://10.1.2.3/x", &some), Ok(NetPolicy::Trusted));
        assert!(policy_of("http://10.2.2.3/x", &some).is_err());
    }
}
