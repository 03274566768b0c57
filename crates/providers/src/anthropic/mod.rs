//! Anthropic Messages, also as LiteLLM, Z.AI, MiniMax and others offer it.

mod decode;
mod request;
#[cfg(test)]
mod tests;

use async_trait::async_trait;

use crate::{Ask, ChunkStream, Endpoint, Provider, ProviderError};

/// One model behind a Messages endpoint.
pub struct Anthropic {
    /// Where it is. The address may end with `/v1` or not.
    pub endpoint: Endpoint,
}

#[async_trait]
impl Provider for Anthropic {
    async fn stream(&self, ask: Ask) -> Result<ChunkStream, ProviderError> {
        let body = request::body(&ask, &self.endpoint.spec);
        let path = if self.endpoint.base_url.ends_with("/v1") { "/messages" } else { "/v1/messages" };
        self.endpoint.ask(path, body, decode::Decoder::new(self.endpoint.rng.clone())).await
    }
}

/// The body alone, for tests across dialects.
#[cfg(test)]
pub(crate) fn body(ask: &Ask, spec: &crate::ModelSpec) -> Vec<u8> {
    request::body(ask, spec)
}
