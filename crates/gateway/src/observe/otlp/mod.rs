//! OTLP over HTTP in its JSON form: spans in batches, figures at an interval. A collector that is slow or away costs
//! spans, which are counted, and nothing else.

mod json;

use std::time::Duration;

use bytes::Bytes;
use clawstead_config::OtelConfig;
use clawstead_terms::Failure;
use clawstead_world::{Http, HttpError, HttpRequest, M, Metrics, NetPolicy, TaskKind, World, trace::SpanRecord};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

pub(super) use json::Resource;

/// Spans of one request.
const BATCH_MAX: usize = 512;
/// Spans wait no longer than this.
const SPANS_EVERY: Duration = Duration::from_secs(5);
/// How long a collector may take, ms.
const ANSWER_MS: u64 = 10_000;
/// How long it may take when we are about to stop, ms.
const LAST_ANSWER_MS: u64 = 2_000;
/// Tries of one batch.
const TRIES_MAX: u32 = 3;
/// Before the second try; twice as long before the third.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Starts what the config wants.
pub(super) fn start(config: &OtelConfig, world: &World, resource: &Resource) {
    if config.wants_more {
        tracing::warn!("diagnostics.otel.logs and diagnostics.otel.captureContent are not done here: spans and figures only, without what is said");
    }
    let headers = headers(config);
    if let Some(url) = &config.traces_url {
        match world.tracer.switch_on(world.clock.clone(), world.rng.clone(), world.metrics.clone(), config.sample_rate) {
            Some(spans) => {
                let every = SPANS_EVERY.min(Duration::from_millis(config.flush_interval_ms));
                let exporter = Exporter::new(url, &headers, world, "traces");
                let (resource, stop) = (resource.clone(), world.tasks.stopping());
                world.tasks.spawn::<_, Failure>(TaskKind::logged("span exporter"), async move {
                    exporter.spans(spans, &resource, every, stop).await;
                    Ok(())
                });
            }
            None => tracing::warn!("spans are exported already"),
        }
    }
    if let Some(url) = &config.metrics_url {
        let exporter = Exporter::new(url, &headers, world, "metrics");
        let (world, resource, config) = (world.clone(), resource.clone(), config.clone());
        let tasks = world.tasks.clone();
        tasks.spawn::<_, Failure>(TaskKind::logged("figure exporter"), async move {
            exporter.figures(&world, &resource, &config).await;
            Ok(())
        });
    }
}

fn headers(config: &OtelConfig) -> HeaderMap {
    let mut out = HeaderMap::new();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &config.headers {
        match (HeaderName::try_from(name.as_str()), HeaderValue::from_str(value.expose())) {
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                out.insert(name, value);
            }
            _ => tracing::warn!(name, "diagnostics.otel.headers: a header cannot be sent with this name or value"),
        }
    }
    out
}

/// Why a batch was given up; the words are a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Unreachable,
    Timeout,
    Refused,
    Overloaded,
}

impl Lost {
    const fn word(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
        }
    }
}

struct Exporter {
    url: String,
    headers: HeaderMap,
    http: Http,
    metrics: Metrics,
    signal: &'static str,
    troubled: std::sync::atomic::AtomicBool,
}

impl Exporter {
    fn new(url: &str, headers: &HeaderMap, world: &World, signal: &'static str) -> Self {
        for status in ["success", "failure"] {
            world.metrics.add(M::Exporter, &["otlp", "none", signal, status], 0.0);
        }
        Self { url: url.to_owned(), headers: headers.clone(), http: world.http.clone(), metrics: world.metrics.clone(), signal, troubled: false.into() }
    }

    async fn spans(&self, mut spans: mpsc::Receiver<SpanRecord>, resource: &Resource, every: Duration, stop: tokio_util::sync::CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut flush = tokio::time::interval_at(Instant::now() + every, every);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = flush.tick() => {}
                count = spans.recv_many(&mut batch, BATCH_MAX), if batch.len() < BATCH_MAX => {
                    if count == 0 {
                        break;
                    }
                    if batch.len() < BATCH_MAX {
                        continue;
                    }
                }
            }
            if !batch.is_empty() {
                let body = json::spans(resource, &batch);
                let lost = tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    sent = self.send(body, ANSWER_MS) => sent.is_err(),
                };
                if lost {
                    self.metrics.add(M::SpansDropped, &[], f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
                }
                batch.clear();
            }
        }
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        for part in batch.chunks(BATCH_MAX) {
            // The last words; a collector that is away is not waited for.
            if self.once(json::spans(resource, part), LAST_ANSWER_MS).await.is_err() {
                break;
            }
        }
    }

    async fn figures(&self, world: &World, resource: &Resource, config: &OtelConfig) {
        let (stop, began) = (world.tasks.stopping(), world.clock.now());
        let every = Duration::from_millis(config.flush_interval_ms);
        let mut flush = tokio::time::interval_at(Instant::now() + every, every);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = flush.tick() => {}
            }
            let body = json::figures(resource, &world.metrics.samples(), config.metric_name_prefix.as_deref(), began, world.clock.now());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Figures only grow: the next ones say all that these would have.
                _ = self.send(body, ANSWER_MS) => {}
            }
        }
    }

    /// Sends with a few tries where that may help.
    async fn send(&self, body: Bytes, answer_ms: u64) -> Result<(), Lost> {
        let mut pause = PAUSE;
        let mut tries = 1;
        let sent = loop {
            match self.once(body.clone(), answer_ms).await {
                Err(Lost::Refused) => break Err(Lost::Refused),
                Err(_) if tries < TRIES_MAX => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    tries += 1;
                }
                outcome => break outcome,
            }
        };
        let (reason, status) = sent.map_or_else(|lost| (lost.word(), "failure"), |()| ("none", "success"));
        self.metrics.inc(M::Exporter, &["otlp", reason, self.signal, status]);
        let was = self.troubled.swap(sent.is_err(), std::sync::atomic::Ordering::Relaxed);
        match sent {
            Err(lost) if !was => {
                tracing::warn!(signal = self.signal, reason = lost.word(), "the OpenTelemetry collector does not take what we send; it goes on by itself")
            }
            Ok(()) if was => tracing::info!(signal = self.signal, "the OpenTelemetry collector takes what we send again"),
            _ => {}
        }
        sent
    }

    async fn once(&self, body: Bytes, answer_ms: u64) -> Result<(), Lost> {
        let mut request = HttpRequest::new(Method::POST, self.url.as_str(), NetPolicy::Trusted);
        request.headers.clone_from(&self.headers);
        request.body = Some(body);
        request.head_timeout_ms = answer_ms;
        let response = self.http.send(request).await.map_err(|err| match err {
            HttpError::Timeout { .. } => Lost::Timeout,
            HttpError::Blocked { .. } => Lost::Refused,
            _ => Lost::Unreachable,
        })?;
        let status = response.status;
        // Read, so that the connection can be used again.
        let _ = tokio::time::timeout(Duration::from_millis(answer_ms), response.read(ANSWER_BYTES_MAX)).await;
        match status.as_u16() {
            200..=299 => Ok(()),
            429 | 502..=504 => Err(Lost::Overloaded),
            _ => Err(Lost::Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, body::Bytes, http::StatusCode, routing::post};
    use clawstead_config::{OtelConfig, Secret};
    use clawstead_world::{M, SpanKind, World};
    use serde_json::Value;
    use tokio::sync::mpsc;

    use super::{Resource, start};

    async fn collector(answers: StatusCode) -> (String, mpsc::UnboundedReceiver<(String, Value)>) {
        let (told, heard) = mpsc::unbounded_channel();
        let router = Router::new().route(
            "/v1/{signal}",
            post(move |headers: axum::http::HeaderMap, body: Bytes| {
                let told = told.clone();
                async move {
                    let key = headers.get("x-key").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
                    let _ = told.send((key, serde_json::from_slice(&body).unwrap()));
                    answers
                }
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { hyper_server(listener, router).await });
        (url, heard)
    }

    async fn hyper_server(listener: tokio::net::TcpListener, router: Router) {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(socket), service).await;
            });
        }
    }

    fn config(url: &str) -> OtelConfig {
        OtelConfig {
            traces_url: Some(format!("{url}/v1/traces")),
            metrics_url: Some(format!("{url}/v1/metrics")),
            headers: vec![("x-key".into(), Secret::new("hush"))],
            service_name: "openclaw".into(),
            sample_rate: 1.0,
            flush_interval_ms: 50,
            metric_name_prefix: None,
            wants_more: false,
        }
    }

    fn resource() -> Resource {
        Resource { service: "openclaw".into(), version: "1".into(), instance: "i".into(), gateway: "jerry-gateway".into() }
    }

    fn world() -> World {
        let _ = rustls::crypto::ring::default_provider().install_default();
        World::real().unwrap()
    }

    #[tokio::test]
    async fn spans_and_figures_reach_a_collector_with_their_headers() {
        let (url, mut heard) = collector(StatusCode::OK).await;
        let world = world();
        start(&config(&url), &world, &resource());
        world.metrics.inc(M::ToolCalls, &["completed", "read"]);
        drop(world.tracer.begin("openclaw.run", SpanKind::Internal, None));
        let (mut spans, mut figures) = (false, false);
        while !(spans && figures) {
            let (key, body) = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await.unwrap().unwrap();
            assert_eq!(key, "hush");
            spans |= body.pointer("/resourceSpans/0/scopeSpans/0/spans/0/name").is_some_and(|name| name == "openclaw.run");
            figures |= body.to_string().contains("openclaw_tool_execution_total");
        }
        world.tasks.stop(Duration::from_secs(5)).await;
    }

    #[tokio::test]
    async fn what_a_collector_refuses_is_counted_and_not_repeated() {
        let (url, mut heard) = collector(StatusCode::BAD_REQUEST).await;
        let world = world();
        start(&OtelConfig { metrics_url: None, ..config(&url) }, &world, &resource());
        drop(world.tracer.begin("openclaw.run", SpanKind::Internal, None));
        heard.recv().await.unwrap();
        let counted = async {
            while world.metrics.value(M::Exporter, &["otlp", "refused", "traces", "failure"]) != Some(1.0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), counted).await.unwrap();
        assert_eq!(world.metrics.value(M::SpansDropped, &[]), Some(1.0));
        assert!(heard.try_recv().is_err());
        world.tasks.stop(Duration::from_secs(5)).await;
    }

    #[tokio::test]
    async fn what_waits_when_the_gateway_stops_is_sent() {
        let (url, mut heard) = collector(StatusCode::OK).await;
        let world = world();
        start(&OtelConfig { metrics_url: None, flush_interval_ms: 60_000, ..config(&url) }, &world, &resource());
        // Spans wait five seconds; the stop comes at once.
        drop(world.tracer.begin("openclaw.run", SpanKind::Internal, None));
        assert!(world.tasks.stop(Duration::from_secs(5)).await);
        assert!(heard.try_recv().is_ok());
    }
}
