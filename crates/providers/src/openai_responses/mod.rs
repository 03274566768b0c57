//! OpenAI responses. Nothing is stored at the provider; reasoning travels encrypted in our own transcript.

mod decode;
mod request;
#[cfg(test)]
mod tests;

use async_trait::async_trait;

use crate::{Ask, ChunkStream, Endpoint, Provider, ProviderError};

/// One model behind a responses endpoint.
pub struct OpenAiResponses {
    /// Where it is.
    pub endpoint: Endpoint,
}

#[async_trait]
impl Provider for OpenAiResponses {
    async fn stream(&self, ask: Ask) -> Result<ChunkStream, ProviderError> {
        let body = request::body(&ask, &self.endpoint.spec);
        self.endpoint.ask("/responses", body, decode::Decoder::new(self.endpoint.rng.clone())).await
    }
}

/// The body alone, for tests across dialects.
#[cfg(test)]
pub(crate) fn body(ask: &Ask, spec: &crate::ModelSpec) -> Vec<u8> {
    request::body(ask, spec)
}
