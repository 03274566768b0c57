//! Looking for model servers on this machine, and asking hosts which models they have.

use std::{sync::Arc, sync::PoisonError, time::Duration};

use clawstead_terms::Millis;
use clawstead_world::{HttpRequest, NetPolicy, TaskKind};
use futures_util::future::join_all;
use serde_json::Value;

use crate::{ErrorKind, ModelRow, Models, ProviderError, catalog, sort};

/// Time a local server has to list its models while it is looked for, milliseconds.
pub const PROBE_TIMEOUT_MS: u64 = 300;
/// Time a host has to list its models when asked for it, milliseconds.
pub const LIST_TIMEOUT_MS: u64 = 10_000;
/// How long a listing is kept, milliseconds.
pub const LIST_KEPT_MS: i64 = 300_000;
/// Bytes of a listing at most.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Models of one host that are kept at most.
pub const LISTED_MAX: usize = 2_000;

/// What a host said it has.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) models: Vec<String>,
    pub(crate) at: Millis,
}

impl Models {
    /// When nothing is configured: looks for Ollama, LM Studio and LiteLLM on this machine, in the background.
    /// Does nothing otherwise. The result shows in [`Models::default_model`] and [`Models::list`].
    pub fn discover_in_background(self: &Arc<Self>) {
        if self.nothing_configured() {
            let models = self.clone();
            self.world.tasks.spawn(TaskKind::logged("model discovery"), async move {
                models.discover().await;
                Ok::<(), std::convert::Infallible>(())
            });
        }
    }

    /// Looks for local servers, all at once; answers with the ids of those that have models.
    pub async fn discover(&self) -> Vec<String> {
        let probes = catalog::PROBED.iter().map(|id| async move {
            let models = self.fetch(id, PROBE_TIMEOUT_MS).await.ok().filter(|m| !m.is_empty())?;
            self.keep(id, models);
            Some((*id).to_owned())
        });
        let found: Vec<String> = join_all(probes).await.into_iter().flatten().collect();
        if !found.is_empty() {
            tracing::info!(hosts = %found.join(", "), "found model servers on this machine");
        }
        found
    }

    /// Asks a provider which models it has; an answer of the last five minutes is used again unless `refresh` says so.
    ///
    /// # Errors
    /// When the host does not answer with a list.
    pub async fn list_live(&self, provider: &str, refresh: Refresh) -> Result<Vec<ModelRow>, ProviderError> {
        let provider = crate::input::provider_id(provider);
        let now = self.world.clock.now();
        let fresh = self.found.read().unwrap_or_else(PoisonError::into_inner).get(&provider).is_some_and(|f| now.since(f.at) < LIST_KEPT_MS);
        if refresh == Refresh::Always || !fresh {
            let models = self.fetch(&provider, LIST_TIMEOUT_MS).await?;
            self.keep(&provider, models);
        }
        Ok(self.list().into_iter().filter(|row| row.provider == provider).collect())
    }

    fn keep(&self, provider: &str, models: Vec<String>) {
        let found = Found { models, at: self.world.clock.now() };
        self.found.write().unwrap_or_else(PoisonError::into_inner).insert(provider.to_owned(), found);
    }

    /// Model ids of a host.
    async fn fetch(&self, provider: &str, limit_ms: u64) -> Result<Vec<String>, ProviderError> {
        let value = self.listing(provider, limit_ms).await?;
        model_ids(&value).ok_or_else(|| self.listing_fault(provider, ErrorKind::Garbage, "the answer is no list of models"))
    }

    pub(crate) fn listing_fault(&self, provider: &str, kind: ErrorKind, message: &str) -> ProviderError {
        ProviderError { kind, provider: provider.to_owned(), model: "*".into(), message: message.to_owned(), status: None, retry_after_ms: None }
    }

    /// What a host says of its models: `/models`, for Ollama its own list.
    pub(crate) async fn listing(&self, provider: &str, limit_ms: u64) -> Result<Value, ProviderError> {
        let fault = |kind, message: &str| self.listing_fault(provider, kind, message);
        let endpoint = self.endpoint_of(provider).await.ok_or_else(|| fault(ErrorKind::Auth, "the provider is not known or has no key"))?;
        let base = endpoint.base_url.as_str();
        let url = if provider == "ollama" {
            format!("{}/api/tags", base.strip_suffix("/v1").unwrap_or(base))
        } else if endpoint.spec.dialect == crate::Dialect::Anthropic {
            format!("{}/v1/models?limit=1000", base.strip_suffix("/v1").unwrap_or(base))
        } else if endpoint.spec.dialect == crate::Dialect::Google {
            format!("{base}/models?pageSize=1000")
        } else {
            format!("{base}/models")
        };
        let mut request = HttpRequest::new(http::Method::GET, url, NetPolicy::Trusted);
        request.headers = endpoint.headers.clone();
        request.head_timeout_ms = limit_ms;
        let read = async {
            let response = self.world.http.send(request).await.map_err(|e| endpoint.http_error(&e))?;
            let (status, headers) = (response.status, response.headers.clone());
            let (body, _) = response.read(LIST_BYTES_MAX).await.map_err(|e| endpoint.http_error(&e))?;
            if status.is_success() { Ok(body) } else { Err(endpoint.error(sort::response(status.as_u16(), &headers, &body))) }
        };
        let body = tokio::time::timeout(Duration::from_millis(limit_ms), read)
            .await
            .map_err(|_| fault(ErrorKind::Timeout, &format!("no list of models came within {limit_ms} ms")))??;
        serde_json::from_slice(&body).map_err(|_| fault(ErrorKind::Garbage, "the list of models is no JSON"))
    }
}

/// Whether a remembered listing will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// One of the last five minutes will.
    WhenOld,
    /// Ask again.
    Always,
}

/// Reads `{"data": [{"id"}]}` and `{"models": [{"name"}]}` of Ollama and Google. Embedding models are left out.
fn model_ids(value: &Value) -> Option<Vec<String>> {
    Some(model_rows(value)?.map(|(id, _)| id).collect())
}

/// The same with all that is said of each.
pub(crate) fn model_rows(value: &Value) -> Option<impl Iterator<Item = (String, &Value)>> {
    let rows = value.get("data").or_else(|| value.get("models")).unwrap_or(value).as_array()?;
    let id = |row: &Value| {
        ["id", "model", "name"].iter().find_map(|k| row.get(*k).and_then(Value::as_str)).map(|s| s.strip_prefix("models/").unwrap_or(s).to_owned())
    };
    Some(rows.iter().filter_map(move |row| Some((id(row)?, row))).filter(|(id, _)| !id.is_empty() && !id.contains("embed")).take(LISTED_MAX))
}

#[cfg(test)]
mod tests {
    use super::model_ids;
    use serde_json::json;

    #[test]
    fn lists_of_all_shapes_are_read() {
        assert_eq!(model_ids(&json!({"data": [{"id": "a"}, {"id": "text-embedding-3"}, {}]})).unwrap(), ["a"]);
        assert_eq!(model_ids(&json!({"models": [{"name": "llama3.1:latest", "model": "llama3.1:latest"}]})).unwrap(), ["llama3.1:latest"]);
        assert_eq!(model_ids(&json!({"data": [{"id": "models/gemini-2.5-pro"}]})).unwrap(), ["gemini-2.5-pro"]);
        assert!(model_ids(&json!({"error": "no"})).is_none());
    }
}
