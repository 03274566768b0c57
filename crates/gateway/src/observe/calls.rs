//! Calls of clients: counted, and with a span where they ask for work.

use std::{future::Future, time::Duration};

use clawstead_agent::OutboxRow;
use clawstead_cluster::envelope::Envelope;
use clawstead_terms::{ChannelId, Outcome};
use clawstead_wire::{ErrorShape, Scope, methods};
use clawstead_world::{M, Span, SpanKind, World, trace};
use http::HeaderMap;
use tokio::time::Instant;

/// Counts a call over WebSocket and gives it a span when it asks for work or is part of a trace.
pub async fn measured<T>(world: &World, method: &str, traceparent: Option<&str>, work: impl Future<Output = Result<T, ErrorShape>>) -> Result<T, ErrorShape> {
    let spec = methods::find(method);
    let name = spec.map_or("unknown", |spec| spec.name);
    world.metrics.inc(M::RpcRequests, &[name]);
    let since = Instant::now();
    // Looking around makes no traces: the dashboard does it all the time.
    let traced = traceparent.is_some() || spec.is_some_and(|spec| matches!(spec.scope, Scope::Write | Scope::Dynamic));
    let mut span = traced.then(|| world.tracer.begin("openclaw.gateway.rpc.handler", SpanKind::Server, traceparent));
    let within = span.as_ref().and_then(Span::traceparent);
    let outcome = trace::within(within, work).await;
    let word = if outcome.is_ok() { "ok" } else { "error" };
    world.metrics.observe(M::RpcHandler, &[name], Duration::as_secs_f64(&since.elapsed()));
    world.metrics.inc(M::RpcOutcomes, &["response", word]);
    if let Some(span) = &mut span {
        span.set("openclaw.gateway.rpc.method", name);
        span.set("openclaw.gateway.rpc.outcome", word);
        if let Err(err) = &outcome {
            span.fail(err.code.as_str());
        }
    }
    outcome
}

/// What a request says it is part of.
#[must_use]
pub fn traceparent(headers: &HeaderMap) -> Option<String> {
    headers.get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Gives a call over HTTP a span below `above`.
pub async fn http<T>(world: &World, route: &'static str, above: Option<String>, work: impl Future<Output = T>) -> T {
    let mut span = world.tracer.begin("openclaw.gateway.http", SpanKind::Server, above.as_deref());
    span.set("http.route", route);
    trace::within(span.traceparent(), work).await
}

/// A call of another gateway's client, as part of that client's trace. Calls that are none make no span.
pub async fn relayed<T>(world: &World, traceparent: Option<String>, work: impl Future<Output = T>) -> T {
    let Some(above) = traceparent else { return work.await };
    let span = world.tracer.begin("openclaw.farm.relay", SpanKind::Server, Some(&above));
    trace::within(span.traceparent(), work).await
}

/// A letter of another gateway that is being done.
#[must_use]
pub fn received(world: &World, envelope: &Envelope) -> Span {
    let mut span = world.tracer.begin("openclaw.farm.receive", SpanKind::Consumer, envelope.traceparent.as_deref());
    if span.is_kept() {
        span.set("openclaw.farm.source_gateway", envelope.source_gateway.as_str());
        span.set("openclaw.farm.source_agent", envelope.source_agent.as_str());
        span.set("openclaw.agent", envelope.target_agent.as_str());
        span.set("openclaw.farm.capability", envelope.capability.as_str());
    }
    span
}

/// A message of a chat platform that is taken in.
#[must_use]
pub fn message(world: &World, channel: &ChannelId) -> Span {
    world.metrics.inc(M::MessagesReceived, &[channel.as_str(), "channel"]);
    let mut span = world.tracer.begin("openclaw.message.received", SpanKind::Server, None);
    span.set("openclaw.channel", channel.as_str());
    span
}

/// A reply that is handed to its platform.
pub(crate) fn delivery(world: &World, row: &OutboxRow) -> Span {
    let mut span = world.tracer.begin("openclaw.message.delivery", SpanKind::Client, row.traceparent.as_deref());
    span.set("openclaw.channel", row.target.channel.as_str());
    span.set("openclaw.delivery.attempt", u64::from(row.attempts));
    span
}

const fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "completed",
        Outcome::Failed(_) => "error",
        Outcome::Expired => "expired",
        Outcome::Unknown => "unknown",
    }
}

/// What the platform said.
pub(crate) fn delivered(span: &mut Span, outcome: &Outcome) {
    span.set("openclaw.outcome", word(outcome));
    if *outcome != Outcome::Done {
        span.fail(word(outcome));
    }
}

/// What became of a reply in the end.
pub(crate) fn settled(world: &World, row: &OutboxRow, outcome: &Outcome) {
    world.metrics.inc(M::MessageDelivery, &[row.target.channel.as_str(), "text", word(outcome)]);
    if *outcome == Outcome::Unknown {
        world.metrics.inc(M::UncertainEffects, &["reply"]);
    }
}
