//! Server-sent events over bytes: incremental, tolerant of bad UTF-8 and of hosts that bend the format, and bounded,
//! because the server may be hostile.

use thiserror::Error;

/// Bytes of one line at most. A tool's arguments may come in one piece, so this is generous.
pub const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one event's data at most.
pub const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its `event:` name; empty when it has none.
    pub name: String,
    /// Its `data:` lines, joined by newlines.
    pub data: String,
}

/// A bound was exceeded; the stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the server sent {what} of more than {limit} bytes")]
pub struct SseTooLong {
    /// What was too long.
    pub what: &'static str,
    /// The limit in bytes.
    pub limit: usize,
}

/// The parser. Feed it what arrives; it hands out whole events.
#[derive(Debug)]
pub struct SseParser {
    line: Vec<u8>,
    name: String,
    data: Vec<u8>,
    has_data: bool,
    skip_newline: bool,
    at_start: bool,
    line_max: usize,
    event_max: usize,
}

impl Default for SseParser {
    fn default() -> Self {
        Self::with_limits(LINE_BYTES_MAX, EVENT_BYTES_MAX)
    }
}

impl SseParser {
    /// A parser with other bounds than the default ones.
    #[must_use]
    pub fn with_limits(line_max: usize, event_max: usize) -> Self {
        Self { line: Vec::new(), name: String::new(), data: Vec::new(), has_data: false, skip_newline: false, at_start: true, line_max, event_max }
    }

    /// Takes bytes and appends the events they complete to `out`.
    ///
    /// # Errors
    /// When a line or an event is longer than its bound.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut impl Extend<SseEvent>) -> Result<(), SseTooLong> {
        if self.skip_newline && !bytes.is_empty() {
            self.skip_newline = false;
            if bytes[0] == b'\n' {
                bytes = &bytes[1..];
            }
        }
        while let Some(end) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            self.take(&bytes[..end])?;
            let was_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if was_cr {
                if bytes.is_empty() {
                    self.skip_newline = true;
                } else if bytes[0] == b'\n' {
                    bytes = &bytes[1..];
                }
            }
            self.end_line(out)?;
        }
        self.take(bytes)
    }

    /// The stream ended: hands out an event that lacks its blank line, as some hosts leave it.
    ///
    /// # Errors
    /// When the last line makes the event too long.
    pub fn finish(&mut self, out: &mut impl Extend<SseEvent>) -> Result<(), SseTooLong> {
        if !self.line.is_empty() {
            self.end_line(out)?;
        }
        self.dispatch(out);
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), SseTooLong> {
        if self.line.len() + bytes.len() > self.line_max {
            return Err(SseTooLong { what: "a line", limit: self.line_max });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, out: &mut impl Extend<SseEvent>) -> Result<(), SseTooLong> {
        let line = std::mem::take(&mut self.line);
        let mut text: &[u8] = &line;
        if std::mem::take(&mut self.at_start) {
            text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        }
        if text.is_empty() {
            self.dispatch(out);
        } else if text[0] == b'{' {
            // Some hosts answer 200 and then write an error as bare JSON into the stream.
            self.push_data(text)?;
        } else {
            let colon = text.iter().position(|b| *b == b':').unwrap_or(text.len());
            let rest = text.get(colon + 1..).unwrap_or_default();
            let rest = rest.strip_prefix(b" ").unwrap_or(rest);
            match &text[..colon] {
                b"data" => self.push_data(rest)?,
                b"event" => self.name = String::from_utf8_lossy(rest).into_owned(),
                // llama.cpp writes `error: {...}`.
                b"error" => {
                    self.name = "error".into();
                    self.push_data(rest)?;
                }
                _ => {}
            }
        }
        // Keep the allocation for the next line unless it was a giant.
        if line.capacity() <= 64 * 1024 {
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    fn push_data(&mut self, text: &[u8]) -> Result<(), SseTooLong> {
        if self.data.len() + text.len() + 1 > self.event_max {
            return Err(SseTooLong { what: "an event", limit: self.event_max });
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(text);
        Ok(())
    }

    fn dispatch(&mut self, out: &mut impl Extend<SseEvent>) {
        let name = std::mem::take(&mut self.name);
        if !std::mem::take(&mut self.has_data) {
            return;
        }
        let data = match String::from_utf8(std::mem::take(&mut self.data)) {
            Ok(text) => text,
            Err(bad) => String::from_utf8_lossy(bad.as_bytes()).into_owned(),
        };
        out.extend([SseEvent { name, data }]);
    }
}

#[cfg(test)]
mod tests {
    use super::{SseEvent, SseParser};
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = SseParser::default();
        let mut out = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut out).unwrap();
        }
        parser.finish(&mut out).unwrap();
        out
    }

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.into(), data: data.into() }
    }

    #[test]
    fn the_usual_and_the_bent_formats() {
        let text = b"\xef\xbb\xbfevent: a\r\ndata: 1\r\ndata:2\r\n\r\n: comment\nid: 7\n\ndata\n\nerror: {\"x\":1}\n\n{\"error\":\"late\"}\n\ndata: caf\xc3\xa9\r\rdata: bad\xff\n\ndata: last";
        let want = [
            event("a", "1\n2"),
            event("", ""),
            event("error", "{\"x\":1}"),
            event("", "{\"error\":\"late\"}"),
            event("", "caf\u{e9}"),
            event("", "bad\u{fffd}"),
            event("", "last"),
        ];
        assert_eq!(parse(&[text]), want);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(parse(&bytes), want, "byte by byte");
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let mut parser = SseParser::with_limits(100, 150);
        let mut out: Vec<SseEvent> = Vec::new();
        assert!(parser.feed(&[b'x'; 101], &mut out).is_err());
        let mut parser = SseParser::with_limits(100, 150);
        let line = [b"data: ".as_slice(), &[b'y'; 80], b"\n"].concat();
        parser.feed(&line, &mut out).unwrap();
        assert!(parser.feed(&line, &mut out).is_err());
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(b' '), Just(b'{'), any::<u8>()], 0..300),
                                    cuts in proptest::collection::vec(0usize..300, 0..12), good in "(data: [a-z]{0,9}\r?\n(event: x\n)?\r?\n){0,5}") {
            let bytes = [bytes.as_slice(), b"\n\n", good.as_bytes()].concat();
            let whole = parse(&[&bytes]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            prop_assert_eq!(parse(&pieces), whole);
        }
    }
}
