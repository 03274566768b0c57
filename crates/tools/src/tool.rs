use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::mpsc;

use clawstead_terms::{AgentId, EffectClass, Failure, FailureCode, Part, RunId, SessionKey};
use clawstead_world::World;

/// What a tool is, for the model, the policy and the docs.
#[derive(Clone, Copy, Debug)]
pub struct ToolSpec {
    /// The name the model calls.
    pub name: &'static str,
    /// The title for people.
    pub title: &'static str,
    /// What it does, for the model.
    pub description: &'static str,
    /// The policy group: `group:fs`, `group:runtime`, `group:sessions`, `group:web`, `group:automation`, `group:messaging`.
    pub group: &'static str,
    /// What may be done again after a crash.
    pub class: EffectClass,
    /// Time limit of one call, ms; the lane ends a call that takes longer. 0 means the tool keeps its own limit.
    pub timeout_ms: u64,
}

/// What a tool may use. Nothing else.
#[derive(Clone)]
pub struct ToolCx {
    /// The agent that calls.
    pub agent: AgentId,
    /// Its session.
    pub session: SessionKey,
    /// Its run.
    pub run: RunId,
    /// Who asked for the turn may do owner things (approve, elevated).
    pub owner: bool,
    /// The agent's workspace, absolute.
    pub workspace: PathBuf,
    /// The agent's resolved tool settings (`tools.*` merged over defaults), JSON as in the config.
    pub settings: Arc<Value>,
    /// `UUIDv5` of run, step and call: the idempotency key of this call's effect.
    pub effect_id: String,
    /// The outside.
    pub world: World,
    /// The gateway's methods, called with the agent's own scopes.
    pub rpc: Arc<dyn Rpc>,
    /// Output while the tool runs; each item is all output so far, cut to its last 8 KiB.
    pub progress: mpsc::Sender<String>,
}

impl ToolCx {
    /// Who calls, for [`Rpc::call`].
    #[must_use]
    pub fn caller(&self) -> ToolCaller {
        ToolCaller { agent: self.agent.clone(), session: self.session.clone(), run: self.run.clone() }
    }

    /// Calls a method of the gateway as this agent.
    ///
    /// # Errors
    /// `Denied` when policy said no, otherwise `Failed` with the method's own sentence and hint.
    pub async fn rpc(&self, method: &str, params: Value) -> Result<Value, ToolError> {
        self.rpc.call(&self.caller(), method, params).await.map_err(ToolError::from)
    }

    /// A setting below `tools.`, by its keys; absent and `null` are the same.
    #[must_use]
    pub fn setting(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter().try_fold(&*self.settings, |value, key| value.get(key)).filter(|value| !value.is_null())
    }
}

/// The gateway's methods as a tool calls them: one implementation, one policy.
#[async_trait]
pub trait Rpc: Send + Sync {
    /// Calls a method of the gateway protocol for an agent's session.
    ///
    /// # Errors
    /// As the method does.
    async fn call(&self, caller: &ToolCaller, method: &str, params: Value) -> Result<Value, Failure>;
}

/// Who calls a method from inside a turn.
#[derive(Clone, Debug)]
pub struct ToolCaller {
    /// The agent.
    pub agent: AgentId,
    /// Its session.
    pub session: SessionKey,
    /// Its run.
    pub run: RunId,
}

/// What a tool gave.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolOutput {
    /// For the model: text and images.
    pub content: Vec<Part>,
    /// For user interfaces.
    pub details: Option<Value>,
}

impl ToolOutput {
    /// Text without details.
    pub fn text(text: impl Into<String>) -> Self {
        Self { content: vec![Part::text(text)], details: None }
    }

    /// A value: printed as JSON for the model, kept as it is for user interfaces.
    #[must_use]
    pub fn json(value: Value) -> Self {
        let text = serde_json::to_string_pretty(&value).unwrap_or_else(|_| value.to_string());
        Self { content: vec![Part::text(text)], details: Some(value) }
    }

    /// The same with details for user interfaces.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// All text parts, joined by newlines.
    #[must_use]
    pub fn plain_text(&self) -> String {
        let texts: Vec<&str> = self.content.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
        texts.join("\n")
    }
}

/// Why a tool failed. The message goes to the model, so that it can do better.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ToolError {
    /// The arguments are wrong.
    #[error("{0}")]
    BadArguments(String),
    /// Policy, approval or sandbox said no.
    #[error("{0}")]
    Denied(String),
    /// It ran and failed.
    #[error("{0}")]
    Failed(String),
    /// It took too long and was stopped.
    #[error("timed out after {ms} ms")]
    Timeout {
        /// The limit.
        ms: u64,
    },
    /// It may have had its effect; it is not repeated.
    #[error("the outcome is unknown, check before repeating: {0}")]
    Unknown(String),
}

impl From<Failure> for ToolError {
    fn from(failure: Failure) -> Self {
        let text = match &failure.hint {
            Some(hint) => format!("{} ({hint})", failure.message),
            None => failure.message.clone(),
        };
        if failure.code == FailureCode::Forbidden { Self::Denied(text) } else { Self::Failed(text) }
    }
}

/// A tool, typed for its author.
#[async_trait]
pub trait Tool: Send + Sync + 'static {
    /// Its arguments; doc comments become descriptions for the model.
    type Args: DeserializeOwned + JsonSchema + Send;
    /// What it is.
    const SPEC: ToolSpec;

    /// Runs it. Dropping the future stops it, child processes included.
    ///
    /// # Errors
    /// As [`ToolError`] lists.
    async fn call(&self, cx: ToolCx, args: Self::Args) -> Result<ToolOutput, ToolError>;
}

/// A tool, erased for the registry.
#[async_trait]
pub trait AnyTool: Send + Sync {
    /// What it is.
    fn spec(&self) -> ToolSpec;
    /// JSON Schema of its arguments.
    fn parameters(&self) -> Value;
    /// Runs it with untyped arguments.
    ///
    /// # Errors
    /// As [`ToolError`] lists.
    async fn call(&self, cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError>;
}

#[async_trait]
impl<T: Tool> AnyTool for T {
    fn spec(&self) -> ToolSpec {
        T::SPEC
    }

    fn parameters(&self) -> Value {
        let mut schema = schemars::SchemaGenerator::new(schemars::generate::SchemaSettings::draft07().with(|s| s.inline_subschemas = true))
            .into_root_schema_for::<T::Args>()
            .to_value();
        if let Some(object) = schema.as_object_mut() {
            object.remove("$schema");
            object.remove("title");
            object.entry("properties").or_insert_with(|| Value::Object(serde_json::Map::new()));
        }
        crate::schema::simplify(&mut schema);
        schema
    }

    async fn call(&self, cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError> {
        let args = crate::args::as_object(T::SPEC.name, args)?;
        let kept = args.clone();
        let args = serde_json::from_value(Value::Object(args)).map_err(|e| crate::args::explain(T::SPEC.name, &AnyTool::parameters(self), &kept, &e))?;
        Tool::call(self, cx, args).await
    }
}
