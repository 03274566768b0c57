/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub id: Option<String>,
    pub data: String,
}

/// An event is larger than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Makes events of bytes, however they are cut.
#[derive(Debug)]
pub(crate) struct SseReader {
    line: Vec<u8>,
    after_cr: bool,
    id: Option<String>,
    data: Option<String>,
    bytes_max: usize,
}

impl SseReader {
    pub const fn new(bytes_max: usize) -> Self {
        Self { line: Vec::new(), after_cr: false, id: None, data: None, bytes_max }
    }

    /// Takes bytes in; answers with the events they complete.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let line_feed_of_cr = byte == b'\n' && std::mem::take(&mut self.after_cr);
            self.after_cr = byte == b'\r';
            match byte {
                b'\n' if line_feed_of_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > self.bytes_max {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        if line.is_empty() {
            return self.data.take().map(|data| SseEvent { id: self.id.clone(), data });
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()).filter(|id| !id.is_empty()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{SseEvent, SseReader, TooLarge};

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = ": hello\n\nid: 4\ndata: {\"a\":\ndata: \"ä\"}\n\nevent: x\r\ndata:two\r\n\r\ndata: never ends";
        let wanted = vec![SseEvent { id: Some("4".into()), data: "{\"a\":\n\"ä\"}".into() }, SseEvent { id: Some("4".into()), data: "two".into() }];
        for size in 1..text.len() {
            let mut reader = SseReader::new(1000);
            let events: Vec<SseEvent> = text.as_bytes().chunks(size).flat_map(|chunk| reader.take(chunk).unwrap()).collect();
            assert_eq!(events, wanted, "pieces of {size}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        assert_eq!(SseReader::new(10).take(b"data: 0123456789"), Err(TooLarge));
    }
}
