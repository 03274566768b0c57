//! Writing JSON straight into a byte buffer. A request of a long session is mostly text that is copied once;
//! going through a tree of values would copy and hash it several times.

use serde_json::Value;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Appends `text` as a JSON string. Clean stretches are copied eight bytes at a time.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

/// Appends `text` escaped, without the quotes.
pub(crate) fn escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    let (mut clean_from, mut at) = (0, 0);
    while at < bytes.len() {
        if let Some(word) = bytes.get(at..at + 8).and_then(|w| <[u8; 8]>::try_from(w).ok())
            && !may_need_escape(u64::from_le_bytes(word))
        {
            at += 8;
            continue;
        }
        let end = (at + 8).min(bytes.len());
        while at < end {
            let byte = bytes[at];
            if byte < 0x20 || byte == b'"' || byte == b'\\' {
                out.extend_from_slice(&bytes[clean_from..at]);
                escape(out, byte);
                clean_from = at + 1;
            }
            at += 1;
        }
    }
    out.extend_from_slice(&bytes[clean_from..]);
}

/// True when one of the eight bytes is below 0x20, a quote or a backslash; may be true for other bytes too.
const fn may_need_escape(word: u64) -> bool {
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = word ^ (ONES * b'"' as u64);
    let slash = word ^ (ONES * b'\\' as u64);
    (control | (quote.wrapping_sub(ONES) & !quote) | (slash.wrapping_sub(ONES) & !slash)) & HIGH != 0
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

/// Appends a value.
pub(crate) fn value(out: &mut Vec<u8>, value: &Value) {
    // Writing a `Value` into memory cannot fail: its keys are strings and its numbers are finite.
    let _ = serde_json::to_writer(out, value);
}

/// Appends a value as the JSON text inside a JSON string (tool arguments of the OpenAI dialects).
pub(crate) fn value_as_string(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(raw) => string(out, raw),
        other => string(out, &other.to_string()),
    }
}

/// Params of the config that steer us and are not fields of a request.
const OURS: [&str; 1] = ["cacheRetention"];

/// An object under construction: writes commas, and skips keys that `taken` holds (they come from the config's
/// `params` and are written last).
pub(crate) struct Fields<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    taken: Option<&'a serde_json::Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// Opens an object.
    pub(crate) fn open(out: &'a mut Vec<u8>, params: Option<&'a Value>) -> Self {
        out.push(b'{');
        Self { out, first: true, taken: params.and_then(Value::as_object) }
    }

    /// Writes `"key":` and answers the buffer for the value; nothing when the config's params hold that key.
    pub(crate) fn key(&mut self, key: &str) -> Option<&mut Vec<u8>> {
        if self.taken.is_some_and(|t| t.contains_key(key)) {
            return None;
        }
        Some(self.start(key))
    }

    fn start(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        string(self.out, key);
        self.out.push(b':');
        self.out
    }

    /// A text field.
    pub(crate) fn str(&mut self, key: &str, text: &str) {
        if let Some(out) = self.key(key) {
            string(out, text);
        }
    }

    /// A field whose value is JSON text already.
    pub(crate) fn raw(&mut self, key: &str, json: &str) {
        if let Some(out) = self.key(key) {
            out.extend_from_slice(json.as_bytes());
        }
    }

    /// Writes the params of the config and closes the object. A `null` there removes the field.
    pub(crate) fn close(mut self) {
        if let Some(params) = self.taken {
            for (key, v) in params {
                if !v.is_null() && !OURS.contains(&key.as_str()) {
                    value(self.start(key), v);
                }
            }
        }
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_reads_back(text in "(?s).{0,200}", tail in proptest::collection::vec(0u8..0x30, 0..40)) {
            let text = text + &String::from_utf8_lossy(&tail);
            let mut out = Vec::new();
            super::string(&mut out, &text);
            let back: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(back, text);
        }
    }
}
