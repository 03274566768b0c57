//! Models as a lane asks them: the chain of the agent, failover, who answers.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use clawstead_agent::{Brain, BrainAsk, BrainChunk, BrainStream, ModelLimits};
use clawstead_providers::{Ask, FallbackEvent, HealthLog, ModelChain, Models, Observer, ProviderError};
use clawstead_state::Table;
use clawstead_terms::{AgentId, Unit};
use clawstead_world::{TaskKind, World};

use crate::keeper::Keeper;

/// Rows of model health that wait for the disk; newer ones of the same key replace older ones.
const HEALTH_ROWS_MAX: usize = 256;

/// The models in force.
pub struct Minds {
    /// Swapped by a reload.
    pub models: ArcSwap<Models>,
}

impl Minds {
    fn chain(&self, models: &[String]) -> ModelChain {
        match models.split_first() {
            Some((primary, rest)) => ModelChain { primary: primary.clone(), fallbacks: rest.to_vec() },
            None => self.models.load().default_chain(),
        }
    }
}

#[derive(Default)]
struct Seen(Mutex<Vec<FallbackEvent>>);

impl Observer for Seen {
    fn fallback(&self, event: &FallbackEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}

#[async_trait]
impl Brain for Minds {
    async fn ask(&self, ask: BrainAsk) -> Result<BrainStream, ProviderError> {
        let chain = self.chain(&ask.models);
        let seen = Seen::default();
        let wanted = Ask {
            model: String::new(),
            system: ask.system.to_string(),
            messages: ask.messages,
            tools: ask.tools,
            tool_choice: None,
            max_tokens: ask.max_tokens,
            temperature: ask.temperature,
            thinking: ask.thinking,
            params: ask.params,
            session_hint: Some(ask.session.to_string()),
        };
        let answer = self.models.load_full().ask(&chain, wanted, &seen).await.map_err(|err| {
            let message = err.to_string();
            ProviderError {
                message: message.strip_prefix(&format!("{}/{}: ", err.error.provider, err.error.model)).unwrap_or(&message).to_owned(),
                ..err.error
            }
        });
        let answer = match answer {
            Ok(answer) => answer,
            // Who refused is told before the refusal, so that whoever watches can name it.
            Err(err) if !err.model.is_empty() => {
                let refused = BrainChunk::Chosen { provider: err.provider.clone(), model: err.model.clone() };
                return Ok(stream::iter([Ok(refused), Err(err)]).boxed());
            }
            Err(err) => return Err(err),
        };
        let events = seen.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut first: Vec<Result<BrainChunk, ProviderError>> =
            events.into_iter().map(|e| Ok(BrainChunk::Fallback { from: e.from, to: e.to, failure: e.error.to_failure(), delay_ms: e.delay_ms })).collect();
        first.push(Ok(BrainChunk::Chosen { provider: answer.model.provider.clone(), model: answer.model.model.clone() }));
        Ok(stream::iter(first).chain(answer.stream.map(|chunk| chunk.map(BrainChunk::Piece))).boxed())
    }

    fn limits(&self, _: &AgentId, model: &str) -> ModelLimits {
        let models = self.models.load();
        let found = if model.is_empty() {
            models.resolve(&models.default_chain().primary).ok().or_else(|| Some(models.default_model()))
        } else {
            models.resolve(model).ok()
        };
        found
            .and_then(|found| models.spec(&found))
            .map_or_else(ModelLimits::default, |spec| ModelLimits { context_window: u64::from(spec.context_window), output_max: u64::from(spec.max_tokens) })
    }
}

/// Keeps the registry's memory of failures in the store, off the turn's path.
pub struct HealthRows(mpsc::Sender<(String, String)>);

impl HealthRows {
    /// Starts the writer.
    #[must_use]
    pub fn start(keeper: Keeper, world: &World) -> Arc<Self> {
        let (rows, mut waiting) = mpsc::channel::<(String, String)>(HEALTH_ROWS_MAX);
        let stop = world.tasks.stopping();
        world.tasks.spawn::<_, String>(TaskKind::logged("model health"), async move {
            loop {
                let (key, json) = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    row = waiting.recv() => match row { Some(row) => row, None => return Ok(()) },
                };
                let Ok(value) = serde_json::from_str::<serde_json::Value>(&json) else { continue };
                if let Err(failure) = keeper.put(&Unit::Global, Table::Models, &key, &value).await {
                    tracing::warn!(err = %failure, "what is remembered of a model's failures could not be stored");
                }
            }
        });
        Arc::new(Self(rows))
    }
}

impl HealthLog for HealthRows {
    fn save(&self, key: &str, json: String) {
        // Full: this memory is a help, not a promise.
        let _ = self.0.try_send((key.to_owned(), json));
    }
}
