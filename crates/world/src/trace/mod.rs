//! Spans of one conversation over gateways, by W3C Trace Context. Off, a span is nothing and costs nothing; what came
//! from outside is passed on as it came.
//!
//! A span that began ends when it is dropped, and waits in a bounded queue for an exporter; one that finds no room is
//! counted and forgotten. Nobody waits for an exporter.

mod context;
mod span;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use tokio::sync::mpsc;

pub use context::TraceContext;
pub use span::{Attribute, Span, SpanKind, SpanRecord};

use crate::{Clock, M, Metrics, Rng};

/// Spans that wait for the exporter; above, new ones are dropped and counted.
pub const WAITING_MAX: usize = 4096;

tokio::task_local! {
    static CURRENT: String;
}

/// Runs `work` as part of what `traceparent` names, so that [`current`] tells it. None changes nothing.
pub async fn within<F: Future>(traceparent: Option<String>, work: F) -> F::Output {
    match traceparent {
        Some(traceparent) => CURRENT.scope(traceparent, work).await,
        None => work.await,
    }
}

/// What the work that runs now is part of, as a `traceparent`; none when nobody said.
#[must_use]
pub fn current() -> Option<String> {
    CURRENT.try_with(Clone::clone).ok()
}

/// What it takes to begin spans.
struct On {
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    /// Of 2^64, how many traces that begin here are kept.
    keep_below: u64,
    ended: mpsc::Sender<SpanRecord>,
    metrics: Metrics,
}

/// Begins spans, where somebody wants them. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct Tracer(Arc<OnceLock<On>>);

impl Tracer {
    /// A tracer that begins nothing until it is switched on.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Begins spans from now on and answers with those that ended. `sample_rate` (0 to 1) says how many of the
    /// traces that begin here are kept; those that begin elsewhere say so themselves. None when it is on already.
    pub fn switch_on(&self, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>, metrics: Metrics, sample_rate: f64) -> Option<mpsc::Receiver<SpanRecord>> {
        let (ended, waiting) = mpsc::channel(WAITING_MAX);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "clamped; the last bits do not matter")]
        let keep_below = if sample_rate >= 1.0 { u64::MAX } else { (sample_rate.max(0.0) * u64::MAX as f64) as u64 };
        metrics.add(M::SpansDropped, &[], 0.0);
        self.0.set(On { clock, rng, keep_below, ended, metrics }).ok().map(|()| waiting)
    }

    /// Whether spans are begun.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.get().is_some()
    }

    /// Begins a span below `parent` (a `traceparent`; one that cannot be read counts as none). Off, the span is
    /// nothing and hands `parent` on.
    #[must_use]
    pub fn begin(&self, name: &'static str, kind: SpanKind, parent: Option<&str>) -> Span {
        let Some(on) = self.0.get() else { return Span::passing(parent) };
        let mut random = [0; 24];
        on.rng.fill(&mut random);
        let above = parent.and_then(TraceContext::parse);
        let context = TraceContext::new(above, &random, on.keep_below);
        Span::begun(name, kind, context, above.map(|above| above.span_id), on.clock.now(), on.ended.clone(), on.metrics.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{SpanKind, TraceContext, Tracer, WAITING_MAX, current, within};
    use crate::{M, Metrics, SeededRng, SimClock};

    fn on(rate: f64) -> (Tracer, tokio::sync::mpsc::Receiver<super::SpanRecord>, Metrics) {
        let (tracer, metrics) = (Tracer::off(), Metrics::new());
        let ended = tracer.switch_on(Arc::new(SimClock::starting_at(1_000)), Arc::new(SeededRng::new(1)), metrics.clone(), rate).unwrap();
        (tracer, ended, metrics)
    }

    #[tokio::test]
    async fn children_share_the_trace_and_name_their_parent() {
        let (tracer, mut ended, _) = on(1.0);
        let mut above = tracer.begin("turn", SpanKind::Internal, None);
        above.set("agent", "bobby");
        let below = tracer.begin("model", SpanKind::Client, above.traceparent().as_deref());
        drop(below);
        above.fail("timeout");
        drop(above);
        let (below, above) = (ended.try_recv().unwrap(), ended.try_recv().unwrap());
        assert_eq!(below.context.trace_id, above.context.trace_id);
        assert_eq!((below.parent, above.parent), (Some(above.context.span_id), None));
        assert_eq!(above.error.as_deref(), Some("timeout"));
        assert_eq!(above.attributes.len(), 1);
        assert!(above.end_nanos >= above.start_nanos && above.start_nanos >= 1_000_000_000);
    }

    #[tokio::test]
    async fn what_a_parent_decided_is_kept_and_what_is_not_wanted_is_not_told() {
        let (tracer, mut ended, _) = on(0.0);
        let root = tracer.begin("turn", SpanKind::Internal, None);
        assert!(root.traceparent().unwrap().ends_with("-00"));
        drop(tracer.begin("model", SpanKind::Client, root.traceparent().as_deref()));
        drop(root);
        assert!(ended.try_recv().is_err());
        drop(tracer.begin("turn", SpanKind::Internal, Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")));
        let span = ended.try_recv().unwrap();
        assert_eq!(format!("{:032x}", span.context.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.parent, Some(0x00f0_67aa_0ba9_02b7));
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_nobody_waits() {
        let (tracer, ended, metrics) = on(1.0);
        for _ in 0..WAITING_MAX + 5 {
            drop(tracer.begin("turn", SpanKind::Internal, None));
        }
        assert_eq!(metrics.value(M::SpansDropped, &[]), Some(5.0));
        drop(ended);
    }

    #[tokio::test]
    async fn off_nothing_begins_and_what_came_is_handed_on() {
        let tracer = Tracer::off();
        let came = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(tracer.begin("turn", SpanKind::Internal, Some(came)).traceparent().as_deref(), Some(came));
        assert_eq!(tracer.begin("turn", SpanKind::Internal, None).traceparent(), None);
        assert_eq!(within(Some(came.to_owned()), async { current() }).await.as_deref(), Some(came));
        assert_eq!(within(None, async { current() }).await, None);
    }

    #[test]
    fn contexts_are_read_as_the_standard_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::parse(good).unwrap().to_string(), good);
        // A later version may have more behind the flags.
        assert!(TraceContext::parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings").is_some());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(TraceContext::parse(bad).is_none(), "{bad}");
        }
    }
}
