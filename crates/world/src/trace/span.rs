use tokio::{sync::mpsc, time::Instant};

use clawstead_terms::Millis;

use super::TraceContext;
use crate::{M, Metrics};

/// Attributes of one span at most.
const ATTRIBUTES_MAX: usize = 32;

/// Which side of a conversation a span is; numbers as in OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Work inside.
    Internal = 1,
    /// Answers a call from outside.
    Server = 2,
    /// Calls somebody.
    Client = 3,
    /// Writes a letter that is taken later.
    Producer = 4,
    /// Takes such a letter.
    Consumer = 5,
}

/// A value of an attribute. Never a body, a prompt, a secret or the id of a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A word.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Attribute {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A span that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanRecord {
    /// What it was.
    pub name: &'static str,
    /// Which side.
    pub kind: SpanKind,
    /// Where in which trace.
    pub context: TraceContext,
    /// The span above.
    pub parent: Option<u64>,
    /// When it began, nanoseconds since 1970.
    pub start_nanos: u64,
    /// When it ended.
    pub end_nanos: u64,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// The kind of failure it ended with.
    pub error: Option<String>,
}

struct Begun {
    record: SpanRecord,
    since: Instant,
    ended: mpsc::Sender<SpanRecord>,
    metrics: Metrics,
}

enum Inner {
    /// Nobody wants spans; what came from above.
    Passing(Option<String>),
    Begun(Box<Begun>),
}

/// A span that goes on until it is dropped.
pub struct Span(Inner);

impl Span {
    pub(super) fn passing(parent: Option<&str>) -> Self {
        Self(Inner::Passing(parent.map(str::to_owned)))
    }

    pub(super) fn begun(
        name: &'static str,
        kind: SpanKind,
        context: TraceContext,
        parent: Option<u64>,
        now: Millis,
        ended: mpsc::Sender<SpanRecord>,
        metrics: Metrics,
    ) -> Self {
        let start_nanos = u64::try_from(now.0).unwrap_or(0).saturating_mul(1_000_000);
        let record = SpanRecord { name, kind, context, parent, start_nanos, end_nanos: start_nanos, attributes: Vec::new(), error: None };
        Self(Inner::Begun(Box::new(Begun { record, since: Instant::now(), ended, metrics })))
    }

    /// What work below this span is part of.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        match &self.0 {
            Inner::Passing(parent) => parent.clone(),
            Inner::Begun(begun) => Some(begun.record.context.to_string()),
        }
    }

    /// Whether anybody will read it; saves making values that nobody reads.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        matches!(&self.0, Inner::Begun(begun) if begun.record.context.sampled)
    }

    /// Says something about it; what was said under the same name is replaced.
    pub fn set(&mut self, name: &'static str, value: impl Into<Attribute>) {
        if let Inner::Begun(begun) = &mut self.0
            && begun.record.context.sampled
        {
            let value = value.into();
            if let Some(known) = begun.record.attributes.iter_mut().find(|(known, _)| *known == name) {
                known.1 = value;
            } else if begun.record.attributes.len() < ATTRIBUTES_MAX {
                begun.record.attributes.push((name, value));
            }
        }
    }

    /// It failed; `kind` is a short code, not a message.
    pub fn fail(&mut self, kind: &str) {
        if let Inner::Begun(begun) = &mut self.0 {
            begun.record.error = Some(kind.to_owned());
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Inner::Begun(begun) = &mut self.0
            && begun.record.context.sampled
        {
            let took = u64::try_from(begun.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            begun.record.end_nanos = begun.record.start_nanos.saturating_add(took);
            if begun.ended.try_send(begun.record.clone()).is_err() {
                begun.metrics.inc(M::SpansDropped, &[]);
            }
        }
    }
}
