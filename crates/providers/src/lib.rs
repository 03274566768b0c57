//! Talking to models: one trait, one folder per API dialect, a data file for compatible hosts.
//!
//! [`Models`] is the way in: built from the config, it resolves references, asks chains of models with fallbacks and
//! key rotation, and lists what there is. Below it, a [`Provider`] is one model behind one address and key.

mod anthropic;
mod ask;
#[cfg(test)]
mod ask_tests;
pub mod catalog;
#[cfg(test)]
mod cost_tests;
mod discovery;
mod endpoint;
#[cfg(test)]
mod faults;
mod google;
mod health;
mod input;
mod json;
mod models;
mod oauth;
mod openai_chat;
mod openai_responses;
mod provider;
mod repair;
#[cfg(test)]
mod repair_tests;
mod scan;
#[cfg(test)]
mod scan_tests;
mod script;
mod sort;
#[cfg(test)]
mod sort_tests;
mod spec;
mod sse;
#[cfg(test)]
mod testing;

pub use anthropic::Anthropic;
pub use ask::{Answer, AskError, CANDIDATES_MAX, FallbackEvent, Observer, ROUNDS_MAX, WAIT_MAX_MS};
pub use discovery::{LIST_KEPT_MS, LIST_TIMEOUT_MS, LISTED_MAX, PROBE_TIMEOUT_MS, Refresh};
pub use endpoint::{ANSWER_BYTES_MAX, EVENT_TIMEOUT_MS, Endpoint, HEAD_TIMEOUT_MS, IDLE_TIMEOUT_MS};
pub use google::Google;
pub use health::{HealthLog, ModelRest, NoHealthLog, ProfileStats};
pub use input::{Cooldowns, MergeMode, ModelChain, ModelInput, ModelsInput, ProfileInput, ProfileKind, ProviderInput, RefreshInput, provider_id};
pub use models::{ModelRef, ModelRow, Models, ResolveError};
pub use oauth::{
    AUTH_FILE, AuthFile, AuthFileError, CameBack, CodeRequest, DEVICE_WAIT_MAX_MS, DeviceCode, OAuthClient, OAuthError, Pkce, REFRESH_AHEAD_MS,
    TOKEN_TIMEOUT_MS, TokenBody, Tokens,
};
pub use openai_chat::OpenAiChat;
pub use openai_responses::OpenAiResponses;
pub use provider::{Ask, Chunk, ChunkStream, ErrorKind, Provider, ProviderError};
pub use repair::{CONTINUE, CallIds, EARLIER, IMAGE_OMITTED, INTERRUPTED, Piece, Side, Target, file_note, repair};
pub use scan::{CONCURRENCY_DEFAULT, HostScan, PROBES_PER_HOST, Probed, Probing, SCAN_TIMEOUT_MS, ScanOptions, ScanRow, Scanned};
pub use script::{DEMO_LABEL, DEMO_MODEL, DEMO_PROVIDER, Demo, Script, Step, When};
pub use sort::MESSAGE_CHARS_MAX;
pub use spec::{CONTEXT_WINDOW_DEFAULT, Compat, Cost, Dialect, MAX_TOKENS_DEFAULT, ModelSpec, ThinkingStyle};
pub use sse::{EVENT_BYTES_MAX, LINE_BYTES_MAX, SseEvent, SseParser, SseTooLong};
