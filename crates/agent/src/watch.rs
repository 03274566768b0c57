//! What is counted of turns, model calls and tool calls, and their spans. Names are those of the original's exporter.
//! Nothing of what is said, no ids of sessions or runs.

use std::time::Duration;

use clawstead_terms::{Envelope, Origin, RunEnd, Usage};
use clawstead_world::{M, Metrics, Span, SpanKind, Tracer, World};
use tokio::time::Instant;

use crate::turn::Ending;

/// A turn that runs.
pub(crate) struct Run {
    span: Span,
    metrics: Metrics,
    since: Instant,
    agent: String,
    channel: String,
    trigger: &'static str,
}

/// On which channel a letter came, and what it is.
fn source(letter: &Envelope) -> (String, &'static str) {
    match &letter.from {
        _ if letter.options.heartbeat => ("none".into(), "heartbeat"),
        Origin::Client { .. } => ("webchat".into(), "user"),
        Origin::Channel { channel, .. } => (channel.to_string(), "user"),
        Origin::Agent { .. } => ("none".into(), "agent"),
        Origin::Cron { .. } => ("none".into(), "cron"),
        Origin::Heartbeat => ("none".into(), "heartbeat"),
        Origin::Hook { .. } => ("none".into(), "hook"),
    }
}

impl Run {
    pub fn begin(world: &World, letter: &Envelope, attempt: u32) -> Self {
        let (channel, trigger) = source(letter);
        let mut span = world.tracer.begin("openclaw.run", SpanKind::Internal, letter.traceparent.as_deref());
        if span.is_kept() {
            span.set("openclaw.agent", letter.to.agent.as_str());
            span.set("openclaw.channel", channel.as_str());
            span.set("openclaw.trigger", trigger);
            span.set("openclaw.attempt", u64::from(attempt));
            span.set("openclaw.queue_wait_ms", u64::try_from(world.clock.now().0 - letter.at.0).unwrap_or(0));
        }
        Self { span, metrics: world.metrics.clone(), since: Instant::now(), agent: letter.to.agent.to_string(), channel, trigger }
    }

    /// What the turn's calls are part of.
    pub fn traceparent(&self) -> Option<String> {
        self.span.traceparent()
    }

    pub fn ended(mut self, ending: &Ending) {
        let (provider, model) = ending.model.as_ref().map_or(("unknown", "unknown"), |(provider, model)| (provider.as_str(), model.as_str()));
        let outcome = match &ending.end {
            RunEnd::Error { .. } => "error",
            RunEnd::Aborted { .. } => "aborted",
            _ => "completed",
        };
        let (agent, channel) = (self.agent.as_str(), self.channel.as_str());
        self.metrics.inc(M::Runs, &[agent, channel, model, outcome, provider, self.trigger]);
        self.metrics.observe(M::RunSeconds, &[channel, outcome, self.trigger], Duration::as_secs_f64(&self.since.elapsed()));
        let Usage { input, output, cache_read, cache_write, cost_usd } = ending.usage;
        for (sort, count) in [("input", input), ("output", output), ("cache_read", cache_read), ("cache_write", cache_write)] {
            if count > 0 {
                #[expect(clippy::cast_precision_loss, reason = "tokens of one turn")]
                self.metrics.add(M::ModelTokens, &[agent, channel, model, provider, sort], count as f64);
            }
        }
        if cost_usd > 0.0 {
            self.metrics.add(M::ModelCost, &[agent, channel, model, provider], cost_usd);
        }
        if self.span.is_kept() {
            self.span.set("openclaw.outcome", outcome);
            self.span.set("openclaw.provider", provider);
            self.span.set("openclaw.model", model);
            self.span.set("gen_ai.usage.input_tokens", input);
            self.span.set("gen_ai.usage.output_tokens", output);
        }
        if let Some(kind) = ending.error_kind {
            self.span.set("openclaw.errorCategory", kind);
            self.span.fail(kind);
        }
    }
}

/// A question to models that waits for its answer.
pub(crate) struct Asked {
    span: Span,
    metrics: Metrics,
    since: Instant,
    provider: String,
    model: String,
}

impl Asked {
    /// `wanted` is `provider/model`; another one may answer.
    pub fn begin(world: &World, parent: Option<&str>, wanted: &str) -> Self {
        let mut span = world.tracer.begin("openclaw.model.call", SpanKind::Client, parent);
        span.set("gen_ai.operation.name", "chat");
        let (provider, model) = wanted.split_once('/').unwrap_or(("unknown", "unknown"));
        Self { span, metrics: world.metrics.clone(), since: Instant::now(), provider: provider.to_owned(), model: model.to_owned() }
    }

    pub fn chosen(&mut self, provider: &str, model: &str) {
        provider.clone_into(&mut self.provider);
        model.clone_into(&mut self.model);
    }

    /// A model failed, the next one is asked.
    pub fn failover(&mut self, from: &str, to: &str, failure: &clawstead_terms::Failure) {
        let reason = serde_json::to_value(failure.code).ok().and_then(|code| code.as_str().map(str::to_lowercase)).unwrap_or_else(|| "other".into());
        self.metrics.inc(M::ModelFailover, &[from, &reason, to]);
    }

    pub fn used(&mut self, usage: &Usage) {
        self.span.set("gen_ai.usage.input_tokens", usage.input);
        self.span.set("gen_ai.usage.output_tokens", usage.output);
    }

    /// `failed` is the kind of failure.
    pub fn ended(mut self, failed: Option<&str>) {
        let outcome = if failed.is_some() { "error" } else { "completed" };
        let (provider, model) = (self.provider.as_str(), self.model.as_str());
        self.metrics.inc(M::ModelCalls, &[failed.unwrap_or_default(), model, "request", outcome, provider]);
        self.metrics.observe(M::ModelSeconds, &[model, outcome, provider], Duration::as_secs_f64(&self.since.elapsed()));
        if self.span.is_kept() {
            self.span.set("openclaw.provider", provider);
            self.span.set("openclaw.model", model);
            self.span.set("gen_ai.request.model", model);
        }
        if let Some(kind) = failed {
            self.span.set("openclaw.errorCategory", kind);
            self.span.fail(kind);
        }
    }
}

/// The span of a tool call; it ends with the call.
pub(crate) fn tool_span(tracer: &Tracer, parent: Option<&str>, name: &str) -> Span {
    let mut span = tracer.begin("openclaw.tool.execution", SpanKind::Internal, parent);
    if span.is_kept() {
        span.set("gen_ai.operation.name", "execute_tool");
        span.set("gen_ai.tool.name", name);
        span.set("openclaw.toolName", name);
    }
    span
}

/// Calls that a crash broke off and that nobody may make again.
pub(crate) fn broken_off(metrics: &Metrics, calls: &[crate::turn::OpenCall]) {
    let unknown = calls.iter().filter(|call| matches!(call.intent, Some((_, clawstead_terms::EffectClass::Once)))).count();
    metrics.add(M::UncertainEffects, &["tool"], f64::from(u32::try_from(unknown).unwrap_or(u32::MAX)));
}

/// A tool call ended.
pub(crate) fn tool_ended(metrics: &Metrics, name: &str, is_error: bool, took: Duration) {
    let outcome = if is_error { "error" } else { "completed" };
    metrics.inc(M::ToolCalls, &[outcome, name]);
    metrics.observe(M::ToolSeconds, &[outcome, name], took.as_secs_f64());
}

/// How busy all lanes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Turns that run.
    pub running: usize,
    /// Letters that wait for one.
    pub waiting: usize,
}

impl crate::Lanes {
    /// How busy they are now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let running = *self.inner.going.borrow();
        let rooms = self.inner.rooms.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let open: usize = rooms.values().flat_map(|room| room.rows()).map(|row| row.open.len()).sum();
        Figures { running, waiting: open.saturating_sub(running) }
    }
}
