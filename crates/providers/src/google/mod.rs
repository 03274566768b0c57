//! Google's Generative Language API: `generateContent`, streamed as events.

mod decode;
mod request;
#[cfg(test)]
mod tests;

use async_trait::async_trait;

use crate::{Ask, ChunkStream, Endpoint, Provider, ProviderError};

/// One model behind a `generateContent` endpoint.
pub struct Google {
    /// Where it is; the address ends with the version (`/v1beta`).
    pub endpoint: Endpoint,
}

#[async_trait]
impl Provider for Google {
    async fn stream(&self, ask: Ask) -> Result<ChunkStream, ProviderError> {
        let body = request::body(&ask, &self.endpoint.spec);
        let path = format!("{}:streamGenerateContent?alt=sse", request::model_path(&self.endpoint.spec.id));
        self.endpoint.ask(&path, body, decode::Decoder::new(self.endpoint.rng.clone())).await
    }
}

/// The body alone, for tests across dialects.
#[cfg(test)]
pub(crate) fn body(ask: &Ask, spec: &crate::ModelSpec) -> Vec<u8> {
    request::body(ask, spec)
}
