use std::fmt;

/// Where in which trace: W3C Trace Context, version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// Whether the trace is kept.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`; none when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let plain = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !plain(version, 2) || version == "ff" || !plain(trace, 32) || !plain(span, 16) || !plain(flags, 2) || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let (trace_id, span_id) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled })
    }

    /// A span below `above`, or the first of a new trace that is kept when chance wants it.
    pub(super) fn new(above: Option<Self>, random: &[u8; 24], keep_below: u64) -> Self {
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&random[..16]);
        span.copy_from_slice(&random[16..]);
        let span_id = u64::from_be_bytes(span).max(1);
        match above {
            Some(above) => Self { span_id, ..above },
            None => {
                let trace_id = u128::from_be_bytes(trace).max(1);
                #[expect(clippy::cast_possible_truncation, reason = "the lower half is as random as the whole")]
                let sampled = keep_below == u64::MAX || (trace_id as u64) < keep_below;
                Self { trace_id, span_id, sampled }
            }
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}
