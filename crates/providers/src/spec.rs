//! What is known of a model.

use std::collections::BTreeMap;

use clawstead_terms::Usage;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Context window when nothing is known, tokens.
pub const CONTEXT_WINDOW_DEFAULT: u32 = 200_000;
/// Output limit when nothing is known, tokens.
pub const MAX_TOKENS_DEFAULT: u32 = 8_192;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI chat completions.
    OpenAiChat,
    /// OpenAI responses.
    OpenAiResponses,
    /// Google `generateContent`.
    Google,
    /// The built-in demo model.
    Demo,
    /// A provider given by the caller (tests, simulations).
    Given,
    /// Known by name, not built yet.
    Unsupported,
}

impl Dialect {
    /// Reads the config's `api`; `None` for a word nobody knows.
    #[must_use]
    pub fn parse(api: &str) -> Option<Self> {
        Some(match api {
            "anthropic-messages" => Self::Anthropic,
            "openai-completions" | "ollama" | "openai-chat" => Self::OpenAiChat,
            "openai-responses" => Self::OpenAiResponses,
            "clawstead-demo" => Self::Demo,
            "google-generative-ai" => Self::Google,
            "google-vertex"
            | "google-gemini-cli"
            | "github-copilot"
            | "bedrock-converse-stream"
            | "openai-codex-responses"
            | "openai-chatgpt-responses"
            | "azure-openai-responses" => Self::Unsupported,
            _ => return None,
        })
    }
}

/// Prices in US dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    /// Fresh input.
    pub input: f64,
    /// Output.
    pub output: f64,
    /// Read from the provider's cache.
    pub cache_read: f64,
    /// Written to the provider's cache.
    pub cache_write: f64,
}

impl Cost {
    /// The price of a call, US dollars.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "token counts stay far below 2^52")]
    pub fn of(&self, usage: &Usage) -> f64 {
        (usage.input as f64 * self.input
            + usage.output as f64 * self.output
            + usage.cache_read as f64 * self.cache_read
            + usage.cache_write as f64 * self.cache_write)
            / 1e6
    }
}

/// How a host wants to be told about reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThinkingStyle {
    /// `reasoning_effort`.
    #[default]
    Effort,
    /// `thinking: {type: enabled}` (Z.AI, DeepSeek).
    Switch,
    /// `reasoning: {effort}` (OpenRouter).
    Object,
    /// `enable_thinking: true` (Qwen).
    Enable,
    /// Anthropic: a token budget.
    Budget,
    /// Anthropic: adaptive, with an effort.
    Adaptive,
}

/// How a host differs from the dialect it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a host, not states")]
pub struct Compat {
    /// `max_completion_tokens` instead of `max_tokens`.
    pub max_completion_tokens: bool,
    /// `stream_options: {include_usage: true}` is understood.
    pub stream_usage: bool,
    /// `temperature` is understood.
    pub temperature: bool,
    /// `reasoning_effort` and its like are understood.
    pub effort: bool,
    /// How reasoning is asked for.
    pub thinking: ThinkingStyle,
    /// Call ids must be nine letters and digits.
    pub short_call_ids: bool,
    /// `prompt_cache_key` is understood.
    pub cache_key: bool,
    /// Prompt cache markers are sent (Anthropic).
    pub cache_markers: bool,
}

impl Default for Compat {
    fn default() -> Self {
        Self {
            max_completion_tokens: false,
            stream_usage: true,
            temperature: true,
            effort: true,
            thinking: ThinkingStyle::Effort,
            short_call_ids: false,
            cache_key: false,
            cache_markers: true,
        }
    }
}

impl Compat {
    /// Applies a model's `compat` object of the config.
    pub(crate) fn apply(&mut self, compat: &Value) {
        let flag = |key: &str| compat.get(key).and_then(Value::as_bool);
        if let Some(field) = compat.get("maxTokensField").and_then(Value::as_str) {
            self.max_completion_tokens = field == "max_completion_tokens";
        }
        if let Some(v) = flag("supportsUsageInStreaming") {
            self.stream_usage = v;
        }
        if let Some(v) = flag("supportsReasoningEffort") {
            self.effort = v;
        }
        if let Some(v) = flag("supportsTemperature") {
            self.temperature = v;
        }
        if let Some(v) = flag("requiresMistralToolIds") {
            self.short_call_ids = v;
        }
        if let Some(v) = flag("supportsPromptCacheKey") {
            self.cache_key = v;
        }
        match compat.get("thinkingFormat").and_then(Value::as_str) {
            Some("zai" | "deepseek") => self.thinking = ThinkingStyle::Switch,
            Some("openrouter") => self.thinking = ThinkingStyle::Object,
            Some("qwen" | "qwen-chat-template") => self.thinking = ThinkingStyle::Enable,
            Some("openai") => self.thinking = ThinkingStyle::Effort,
            _ => {}
        }
    }
}

/// A model as the registry knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The provider's id in the config.
    pub provider: String,
    /// The model's id at the provider; may contain slashes.
    pub id: String,
    /// For people.
    pub name: String,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// The config's word for it.
    pub api: String,
    /// Whether it can reason.
    pub reasoning: bool,
    /// Whether it reads pictures.
    pub images: bool,
    /// Tokens it can see.
    pub context_window: u32,
    /// Tokens it can write.
    pub max_tokens: u32,
    /// Whether `max_tokens` comes from the config or the catalogue; a guess is not sent to hosts that do not need it.
    pub max_tokens_known: bool,
    /// Prices, where known.
    pub cost: Option<Cost>,
    /// How its host differs.
    pub compat: Compat,
    /// Extra headers of this model.
    pub headers: BTreeMap<String, String>,
    /// Request fields of the config (`params` of provider, model and `agents.defaults.models`), merged.
    pub params: Option<Value>,
}

impl ModelSpec {
    /// `provider/model`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.provider, self.id)
    }

    /// A model of which nothing is known.
    #[must_use]
    pub fn unknown(provider: &str, id: &str, dialect: Dialect, api: &str) -> Self {
        Self {
            provider: provider.into(),
            id: id.into(),
            name: id.into(),
            dialect,
            api: api.into(),
            reasoning: false,
            images: false,
            context_window: CONTEXT_WINDOW_DEFAULT,
            max_tokens: MAX_TOKENS_DEFAULT,
            max_tokens_known: false,
            cost: None,
            compat: Compat::default(),
            headers: BTreeMap::new(),
            params: None,
        }
    }
}
