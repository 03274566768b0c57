//! `diagnostics`: figures for Prometheus, traces and figures for OpenTelemetry. What the file leaves out is taken from the
//! variables that OpenTelemetry names (`OTEL_EXPORTER_OTLP_ENDPOINT` and so on).

use super::Cx;
use crate::{env::Env, secret::Secret, view::View};

/// Where a collector listens when nobody says.
const ENDPOINT: &str = "http://localhost:4318";
/// Between two exports of figures, ms.
const FLUSH_MS: u64 = 60_000;
/// Shortest time between two exports, ms.
const FLUSH_MS_MIN: u64 = 1_000;

/// `diagnostics`.
#[derive(Clone, Debug, PartialEq)]
pub struct DiagnosticsConfig {
    /// False: nothing is counted and no span is begun; default true.
    pub enabled: bool,
    /// `diagnostics.otel`; none unless it is enabled.
    pub otel: Option<OtelConfig>,
}

/// `diagnostics.otel`, enabled.
#[derive(Clone, Debug, PartialEq)]
pub struct OtelConfig {
    /// Where spans go; none means that there are none (`traces: false`).
    pub traces_url: Option<String>,
    /// Where figures go; none means nowhere (`metrics: false`).
    pub metrics_url: Option<String>,
    /// Sent with every request.
    pub headers: Vec<(String, Secret)>,
    /// Default `openclaw`.
    pub service_name: String,
    /// 0 to 1: how many of the traces that begin here are kept; default 1.
    pub sample_rate: f64,
    /// Between two exports of figures, ms; at least 1,000, default 60,000. Spans go every five seconds, or as often when
    /// this is shorter.
    pub flush_interval_ms: u64,
    /// In place of `openclaw.` before our figures' names.
    pub metric_name_prefix: Option<String>,
    /// `logs: true` or `captureContent: true` was asked for, which is not done here.
    pub wants_more: bool,
}

pub(crate) fn read(cx: &Cx<'_>) -> DiagnosticsConfig {
    let section = cx.root.at("diagnostics");
    let enabled = section.at("enabled").flag(true);
    let otel = section.at("otel");
    let disabled = cx.env.trimmed("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let wanted = enabled && !disabled && otel.at("enabled").flag(false);
    DiagnosticsConfig { enabled, otel: wanted.then(|| read_otel(otel, cx.env)) }
}

fn read_otel(otel: View<'_>, env: &Env) -> OtelConfig {
    let text = |key: &str, variable: &str| otel.at(key).word().or_else(|| env.trimmed(variable).map(str::to_owned));
    let shared = text("endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let url = |signal: &str, key: &str, variable: &str| text(key, variable).unwrap_or_else(|| joined(&shared, signal));
    let mut headers: Vec<(String, Secret)> = otel.at("headers").map().filter_map(|(name, value)| Some((name.to_owned(), value.secret()?))).collect();
    if headers.is_empty() {
        let pairs = env.trimmed("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default().split(',').filter_map(|pair| pair.split_once('='));
        headers = pairs.map(|(name, value)| (name.trim().to_owned(), Secret::new(value.trim()))).collect();
    }
    OtelConfig {
        traces_url: otel.at("traces").flag(true).then(|| url("traces", "tracesEndpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")),
        metrics_url: otel.at("metrics").flag(true).then(|| url("metrics", "metricsEndpoint", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")),
        headers,
        service_name: text("serviceName", "OTEL_SERVICE_NAME").unwrap_or_else(|| "openclaw".into()),
        sample_rate: otel.at("sampleRate").f64().unwrap_or(1.0).clamp(0.0, 1.0),
        flush_interval_ms: otel.at("flushIntervalMs").u64().map_or(FLUSH_MS, |ms| ms.max(FLUSH_MS_MIN)),
        metric_name_prefix: otel.at("metricNamePrefix").string(),
        wants_more: otel.at("logs").flag(false) || otel.at("captureContent").flag(false),
    }
}

/// The address of a signal below a shared one; one that names a signal already has it replaced.
fn joined(shared: &str, signal: &str) -> String {
    let base = shared.trim_end_matches('/');
    let base = ["/v1/traces", "/v1/metrics", "/v1/logs"].iter().find_map(|end| base.strip_suffix(end)).unwrap_or(base);
    format!("{base}/v1/{signal}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{DiagnosticsConfig, joined, read};
    use crate::{
        env::Env,
        paths::{Paths, Profile},
        sections::Cx,
        view::View,
    };

    fn of(root: &Value, variables: &[(&str, &str)]) -> DiagnosticsConfig {
        let env = Env::from_pairs(variables.iter().copied());
        read(&Cx { root: View(Some(root)), paths: &Paths::resolve(Profile::Main, &env), env: &env })
    }

    #[test]
    fn nothing_is_exported_unless_it_is_wanted() {
        assert_eq!(of(&json!({}), &[]), DiagnosticsConfig { enabled: true, otel: None });
        assert_eq!(of(&json!({"diagnostics": {"otel": {"endpoint": "http://c:4318"}}}), &[]).otel, None);
        assert_eq!(of(&json!({"diagnostics": {"enabled": false, "otel": {"enabled": true}}}), &[]), DiagnosticsConfig { enabled: false, otel: None });
        assert_eq!(of(&json!({"diagnostics": {"otel": {"enabled": true}}}), &[("OTEL_SDK_DISABLED", "True")]).otel, None);
    }

    #[test]
    fn the_file_wins_over_variables_and_signals_over_the_shared_address() {
        let config = json!({"diagnostics": {"otel": {"enabled": true, "endpoint": "http://c:4318/", "metrics": false, "headers": {"x-key": "k"}, "sampleRate": 0.2, "flushIntervalMs": 5}}});
        let otel = of(&config, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://other"), ("OTEL_SERVICE_NAME", "ours")]).otel.unwrap();
        assert_eq!((otel.traces_url.as_deref(), otel.metrics_url.as_deref()), (Some("http://c:4318/v1/traces"), None));
        assert_eq!((otel.service_name.as_str(), otel.sample_rate, otel.flush_interval_ms), ("ours", 0.2, 1_000));
        assert_eq!(otel.headers[0].0, "x-key");
        assert_eq!(format!("{:?}", otel.headers[0].1), "Secret(..)");
        let config = json!({"diagnostics": {"otel": {"enabled": true, "tracesEndpoint": "http://t/exact"}}});
        let otel = of(&config, &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m/exact"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=1, b=2")]).otel.unwrap();
        assert_eq!((otel.traces_url.as_deref(), otel.metrics_url.as_deref()), (Some("http://t/exact"), Some("http://m/exact")));
        assert_eq!(otel.headers.len(), 2);
    }

    #[test]
    fn a_shared_address_may_name_a_signal() {
        assert_eq!(joined("http://c/otlp/v1/traces", "metrics"), "http://c/otlp/v1/metrics");
        assert_eq!(joined("http://c/otlp", "traces"), "http://c/otlp/v1/traces");
    }
}
