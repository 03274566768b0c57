//! OpenAI chat completions, and the many hosts that speak it: LiteLLM, LM Studio, Ollama, llama.cpp, vLLM, Z.AI,
//! OpenRouter, Groq, Mistral, DeepSeek and others.

mod decode;
mod request;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::{Ask, ChunkStream, Endpoint, ErrorKind, Provider, ProviderError, endpoint::EMPTY_STREAM};
pub(crate) use request::{EMPTY_RESULT, arguments_text, effort};

/// One model behind a chat completions endpoint.
pub struct OpenAiChat {
    /// Where it is.
    pub endpoint: Endpoint,
}

/// Request fields that a host turned out not to know; found out by its error and left out in the second try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Without {
    stream_options: bool,
    temperature: bool,
    /// Use the other name of the output limit.
    other_max_tokens: bool,
    effort: bool,
    /// Ask for the answer in one piece.
    streaming: bool,
}

impl Without {
    /// Learns from an error; `false` when there is nothing new in it.
    fn learn(&mut self, error: &ProviderError) -> bool {
        if error.kind != ErrorKind::Request {
            return false;
        }
        let before = *self;
        let says = |word: &str| error.message.contains(word);
        self.stream_options |= says("stream_options");
        self.other_max_tokens |= says("max_completion_tokens") || says("'max_tokens'");
        self.effort |= says("reasoning_effort") || says("UnsupportedParamsError");
        self.temperature |= says("temperature");
        *self != before
    }
}

#[async_trait]
impl Provider for OpenAiChat {
    async fn stream(&self, ask: Ask) -> Result<ChunkStream, ProviderError> {
        let mut without = Without::default();
        loop {
            let body = request::body(&ask, &self.endpoint.spec, without);
            match self.endpoint.ask("/chat/completions", body, decode::Decoder::new(self.endpoint.rng.clone())).await {
                // Each round leaves out one thing more, so this ends.
                Err(error) if without.learn(&error) => {}
                Err(error) => return Err(error),
                Ok(mut stream) => {
                    let first = stream.next().await;
                    // llama-cpp-python closes a stream in silence when the prompt is too long; asked for one piece, it
                    // says why. Nothing was answered yet, so asking again is harmless.
                    if let Some(Err(error)) = &first
                        && error.message == EMPTY_STREAM
                        && !std::mem::replace(&mut without.streaming, true)
                    {
                        continue;
                    }
                    return Ok(stream::iter(first).chain(stream).boxed());
                }
            }
        }
    }
}

/// The body alone, for tests across dialects.
#[cfg(test)]
pub(crate) fn body(ask: &Ask, spec: &crate::ModelSpec) -> Vec<u8> {
    request::body(ask, spec, Without::default())
}
