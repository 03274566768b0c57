//! Spans and figures in the JSON form of OTLP: ids as hex, 64-bit numbers as text.

use bytes::Bytes;
use clawstead_terms::Millis;
use clawstead_world::{
    M,
    metrics::{Sample, Sort, Value as Figure},
    trace::{Attribute, SpanRecord},
};
use serde_json::{Map, Value, json};

/// Of the names of our own figures, what `metricNamePrefix` replaces.
const PREFIX: &str = "openclaw_";

/// Who tells.
#[derive(Clone, Debug)]
pub struct Resource {
    /// `service.name`.
    pub service: String,
    /// Our version.
    pub version: String,
    /// This process.
    pub instance: String,
    /// This gateway's name.
    pub gateway: String,
}

impl Resource {
    fn json(&self) -> Value {
        let pairs =
            [("service.name", &self.service), ("service.version", &self.version), ("service.instance.id", &self.instance), ("openclaw.gateway", &self.gateway)];
        json!({"attributes": pairs.map(|(key, value)| json!({"key": key, "value": {"stringValue": value}}))})
    }
}

fn scope() -> Value {
    json!({"name": "clawstead", "version": env!("CARGO_PKG_VERSION")})
}

fn bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

pub(super) fn spans(resource: &Resource, spans: &[SpanRecord]) -> Bytes {
    let spans: Vec<Value> = spans.iter().map(span).collect();
    bytes(&json!({"resourceSpans": [{"resource": resource.json(), "scopeSpans": [{"scope": scope(), "spans": spans}]}]}))
}

fn span(span: &SpanRecord) -> Value {
    let attributes: Vec<Value> = span.attributes.iter().map(|(key, value)| json!({"key": key, "value": attribute(value)})).collect();
    let mut out = json!({
        "traceId": format!("{:032x}", span.context.trace_id),
        "spanId": format!("{:016x}", span.context.span_id),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": span.start_nanos.to_string(),
        "endTimeUnixNano": span.end_nanos.to_string(),
        "attributes": attributes,
    });
    if let Some(parent) = span.parent {
        out["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(error) = &span.error {
        out["status"] = json!({"code": 2, "message": error});
    }
    out
}

fn attribute(value: &Attribute) -> Value {
    match value {
        Attribute::Text(text) => json!({"stringValue": text}),
        Attribute::Number(number) => json!({"intValue": number.to_string()}),
        Attribute::Flag(flag) => json!({"boolValue": flag}),
    }
}

pub(super) fn figures(resource: &Resource, families: &[(M, Vec<Sample>)], prefix: Option<&str>, began: Millis, now: Millis) -> Bytes {
    let metrics: Vec<Value> = families.iter().map(|(of, samples)| family(*of, samples, prefix, began, now)).collect();
    bytes(&json!({"resourceMetrics": [{"resource": resource.json(), "scopeMetrics": [{"scope": scope(), "metrics": metrics}]}]}))
}

fn nanos(at: Millis) -> String {
    format!("{}000000", at.0.max(0))
}

fn family(of: M, samples: &[Sample], prefix: Option<&str>, began: Millis, now: Millis) -> Value {
    let family = of.family();
    let name = match (prefix, family.name.strip_prefix(PREFIX)) {
        (Some(prefix), Some(rest)) => format!("{prefix}{rest}"),
        _ => family.name.to_owned(),
    };
    let points: Vec<Value> = samples.iter().map(|sample| point(sample, family.bounds(), began, now)).collect();
    // 2: counted since the beginning.
    let kind = match family.sort {
        Sort::Counter => ("sum", json!({"dataPoints": points, "aggregationTemporality": 2, "isMonotonic": true})),
        Sort::Gauge => ("gauge", json!({"dataPoints": points})),
        Sort::Histogram(_) => ("histogram", json!({"dataPoints": points, "aggregationTemporality": 2})),
    };
    let mut out = Map::new();
    out.insert("name".into(), name.into());
    out.insert("description".into(), family.help.into());
    out.insert(kind.0.into(), kind.1);
    Value::Object(out)
}

fn point(sample: &Sample, bounds: &[f64], began: Millis, now: Millis) -> Value {
    let attributes: Vec<Value> = sample.labels.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})).collect();
    let mut out = json!({"attributes": attributes, "startTimeUnixNano": nanos(began), "timeUnixNano": nanos(now)});
    match &sample.value {
        Figure::Number(number) => out["asDouble"] = json!(number),
        Figure::Histogram { counts, sum } => {
            out["count"] = counts.iter().sum::<u64>().to_string().into();
            out["sum"] = json!(sum);
            out["bucketCounts"] = counts.iter().map(ToString::to_string).collect();
            out["explicitBounds"] = json!(bounds);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use clawstead_terms::Millis;
    use clawstead_world::{
        M, Metrics, SpanKind,
        trace::{Attribute, SpanRecord, TraceContext},
    };
    use serde_json::{Value, json};

    use super::{Resource, figures, spans};

    fn resource() -> Resource {
        Resource { service: "openclaw".into(), version: "1".into(), instance: "i".into(), gateway: "g".into() }
    }

    #[test]
    fn a_span_has_the_form_that_collectors_read() {
        let record = SpanRecord {
            name: "openclaw.run",
            kind: SpanKind::Consumer,
            context: TraceContext { trace_id: 0xabc, span_id: 0x12, sampled: true },
            parent: Some(0x11),
            start_nanos: 5,
            end_nanos: 9,
            attributes: vec![("a", Attribute::Number(3)), ("b", Attribute::Flag(true))],
            error: Some("timeout".into()),
        };
        let body: Value = serde_json::from_slice(&spans(&resource(), &[record])).unwrap();
        let span = body.pointer("/resourceSpans/0/scopeSpans/0/spans/0").unwrap();
        assert_eq!(span["traceId"], "00000000000000000000000000000abc");
        assert_eq!((&span["spanId"], &span["parentSpanId"]), (&json!("0000000000000012"), &json!("0000000000000011")));
        assert_eq!((&span["kind"], &span["startTimeUnixNano"]), (&json!(5), &json!("5")));
        assert_eq!(span["attributes"][0], json!({"key": "a", "value": {"intValue": "3"}}));
        assert_eq!(span["status"], json!({"code": 2, "message": "timeout"}));
        assert_eq!(body.pointer("/resourceSpans/0/resource/attributes/0/value/stringValue").unwrap(), "openclaw");
    }

    #[test]
    fn figures_keep_their_kind_and_take_another_prefix() {
        let metrics = Metrics::new();
        metrics.inc(M::ToolCalls, &["completed", "read"]);
        metrics.set(M::Connections, &[], 2.0);
        metrics.observe(M::ToolSeconds, &["completed", "read"], 0.02);
        let body: Value = serde_json::from_slice(&figures(&resource(), &metrics.samples(), Some("acme."), Millis(1), Millis(2))).unwrap();
        let found = |name: &str| {
            body.pointer("/resourceMetrics/0/scopeMetrics/0/metrics").unwrap().as_array().unwrap().iter().find(|m| m["name"] == name).cloned().unwrap()
        };
        assert_eq!(found("acme.tool_execution_total")["sum"]["isMonotonic"], true);
        assert_eq!(found("acme.gateway_connections")["gauge"]["dataPoints"][0]["asDouble"], 2.0);
        let histogram = found("acme.tool_execution_duration_seconds")["histogram"]["dataPoints"][0].clone();
        assert_eq!(histogram["count"], "1");
        assert_eq!(histogram["bucketCounts"].as_array().unwrap().len(), histogram["explicitBounds"].as_array().unwrap().len() + 1);
        assert_eq!(histogram["timeUnixNano"], "2000000");
    }
}
