//! What goes over a link: JSON, each frame behind its length (four bytes, most significant first).
//!
//! Gateways of neighbouring versions talk to each other: kinds and fields that are not known are passed over. Another
//! first number of the protocol is refused, with words.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use clawstead_bus::{MailBox, Sealed};
use clawstead_terms::{Failure, FailureCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use thiserror::Error;
use tokio_util::codec::LengthDelimitedCodec;

/// First number of the protocol: others are refused.
pub const PROTOCOL_MAJOR: u32 = 1;
/// Second number of the protocol: others are welcome.
pub const PROTOCOL_MINOR: u32 = 0;
/// Largest frame, bytes: 25 MiB.
pub const FRAME_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Largest frame before both sides said who they are, bytes.
pub(crate) const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Largest piece of a blob in one frame, bytes.
pub const BLOB_PART_BYTES_MAX: usize = 256 * 1024;

/// Why a frame cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Larger than a frame may be.
    #[error("a frame of {bytes} bytes; {FRAME_BYTES_MAX} is the limit of a link, larger things go as blobs")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not what its kind should be.
    #[error("a frame cannot be read: {0}")]
    Malformed(String),
}

/// Who a side is; the first frame in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_MAJOR`].
    pub major: u32,
    /// [`PROTOCOL_MINOR`].
    pub minor: u32,
    /// The farm.
    pub farm: String,
    /// The gateway.
    pub gateway: String,
    /// Grows with each start of the gateway.
    pub incarnation: u64,
    /// Its version, for people.
    pub build: String,
}

/// A frame.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Frame {
    Hello(Hello),
    Call(Call),
    Answer(Answer),
    Event(Event),
    Cancel(Id),
    Letter(Letter),
    Took(Answer),
    Depth(DepthAsk),
    BlobAsk(BlobAsk),
    Blob(Blob),
    Ping(Id),
    Pong(Id),
    /// No more calls will come from this side; the answers that are owed will.
    Drain,
    Bye(Bye),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Id {
    pub id: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub id: u64,
    pub method: String,
    #[serde(default)]
    pub params: Value,
    #[serde(default)]
    pub caller: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    pub deadline_ms: u64,
}

/// Answers calls and questions (`ok`), or says what went wrong.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub id: u64,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub ok: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// With `took`: which letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

impl Answer {
    pub(crate) fn new(id: u64, outcome: Result<Value, Failure>) -> Self {
        match outcome {
            Ok(ok) => Self { id, ok, error: None, message_id: None },
            Err(failure) => Self { id, ok: Value::Null, error: Some(as_value(&failure)), message_id: None },
        }
    }

    pub(crate) fn outcome(self) -> Result<Value, Failure> {
        self.error.map_or(Ok(self.ok), |error| Err(as_failure(error)))
    }
}

fn as_value(failure: &Failure) -> Value {
    serde_json::to_value(failure).unwrap_or_else(|_| Value::String(failure.message.clone()))
}

/// A failure as the other side wrote it. A code of a later version is a fault of theirs to us.
fn as_failure(error: Value) -> Failure {
    let words = error.get("message").and_then(Value::as_str).map(str::to_owned);
    serde_json::from_value(error)
        .unwrap_or_else(|_| Failure::new(FailureCode::Internal, words.unwrap_or_else(|| "the other gateway failed without words".into())))
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    /// The call it belongs to; none for what nobody asked for in a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    pub topic: String,
    #[serde(default)]
    pub payload: Value,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum To {
    Unit(String),
    Gateway(String),
}

impl From<&MailBox> for To {
    fn from(of: &MailBox) -> Self {
        match of {
            MailBox::Unit(name) => Self::Unit(name.clone()),
            MailBox::Gateway(name) => Self::Gateway(name.clone()),
        }
    }
}

impl From<To> for MailBox {
    fn from(of: To) -> Self {
        match of {
            To::Unit(name) => Self::Unit(name),
            To::Gateway(name) => Self::Gateway(name),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub id: u64,
    #[serde(rename = "box")]
    pub to: To,
    pub message_id: String,
    pub attempt: u32,
    /// The letter where it is a JSON object: byte for byte, as its signature needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Box<RawValue>>,
    /// Anything else, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

impl Letter {
    pub(crate) fn new(id: u64, to: &MailBox, letter: &Sealed) -> Self {
        // Space around it would be lost.
        let object = letter.bytes.starts_with(b"{") && letter.bytes.ends_with(b"}");
        let json = object.then(|| serde_json::from_slice::<Box<RawValue>>(&letter.bytes).ok()).flatten();
        let bytes = json.is_none().then(|| STANDARD.encode(&letter.bytes));
        Self { id, to: to.into(), message_id: letter.message_id.clone(), attempt: letter.attempt, json, bytes }
    }

    pub(crate) fn open(self) -> Result<(u64, MailBox, Sealed), FrameError> {
        let bytes = match (self.json, self.bytes) {
            (Some(json), _) => Bytes::copy_from_slice(json.get().as_bytes()),
            (None, Some(text)) => decode_bytes(&text)?,
            (None, None) => return Err(FrameError::Malformed("a letter without content".into())),
        };
        Ok((self.id, self.to.into(), Sealed { message_id: self.message_id, attempt: self.attempt, bytes }))
    }
}

fn decode_bytes(text: &str) -> Result<Bytes, FrameError> {
    STANDARD.decode(text).map(Bytes::from).map_err(|err| FrameError::Malformed(format!("base64: {err}")))
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DepthAsk {
    pub id: u64,
    #[serde(rename = "box")]
    pub of: To,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BlobAsk {
    pub id: u64,
    pub hash: String,
    pub offset: u64,
}

/// Answers [`BlobAsk`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub id: u64,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub bytes: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
}

/// A piece of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobPart {
    /// Size of the whole, bytes.
    pub size: u64,
    /// The bytes from the offset that was asked for, [`BLOB_PART_BYTES_MAX`] at most; none at the end.
    pub bytes: Bytes,
}

impl Blob {
    pub(crate) fn new(id: u64, part: Result<BlobPart, Failure>) -> Self {
        match part {
            Ok(part) => Self { id, size: part.size, bytes: STANDARD.encode(&part.bytes), error: None },
            Err(failure) => Self { id, size: 0, bytes: String::new(), error: Some(as_value(&failure)) },
        }
    }

    pub(crate) fn open(self) -> Result<BlobPart, Failure> {
        if let Some(error) = self.error {
            return Err(as_failure(error));
        }
        let bytes = decode_bytes(&self.bytes).map_err(|err| Failure::internal(err.to_string()))?;
        if bytes.len() > BLOB_PART_BYTES_MAX {
            return Err(Failure::internal(format!("a piece of a blob has {} bytes, {BLOB_PART_BYTES_MAX} is the limit", bytes.len())));
        }
        Ok(BlobPart { size: self.size, bytes })
    }
}

/// The last frame: why the side that writes it closes the link.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bye {
    pub why: String,
}

impl Frame {
    pub(crate) fn encode(&self) -> Result<Bytes, FrameError> {
        let text = serde_json::to_vec(self).map_err(|err| FrameError::Malformed(err.to_string()))?;
        if text.len() > FRAME_BYTES_MAX { Err(FrameError::TooLarge { bytes: text.len() }) } else { Ok(text.into()) }
    }

    /// None for a kind that a later version may know.
    pub(crate) fn decode(text: &[u8]) -> Result<Option<Self>, FrameError> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow)]
            kind: Cow<'a, str>,
        }
        fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, FrameError> {
            serde_json::from_slice(text).map_err(|err| FrameError::Malformed(err.to_string()))
        }
        Ok(Some(match &*read::<Head<'_>>(text)?.kind {
            "hello" => Self::Hello(read(text)?),
            "call" => Self::Call(read(text)?),
            "answer" => Self::Answer(read(text)?),
            "event" => Self::Event(read(text)?),
            "cancel" => Self::Cancel(read(text)?),
            "letter" => Self::Letter(read(text)?),
            "took" => Self::Took(read(text)?),
            "depth" => Self::Depth(read(text)?),
            "blob_ask" => Self::BlobAsk(read(text)?),
            "blob" => Self::Blob(read(text)?),
            "ping" => Self::Ping(read(text)?),
            "pong" => Self::Pong(read(text)?),
            "drain" => Self::Drain,
            "bye" => Self::Bye(read(text)?),
            _ => return Ok(None),
        }))
    }
}

/// Cuts the stream into frames; the bound is small until both sides said who they are.
pub(crate) fn codec(bytes_max: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_type::<u32>().max_frame_length(bytes_max).new_codec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn carried(bytes: &[u8]) -> (Vec<u8>, bool) {
        let letter = Sealed { message_id: "m".into(), attempt: 2, bytes: bytes.to_vec().into() };
        let frame = Letter::new(7, &MailBox::Unit("bobby".into()), &letter);
        let raw = frame.json.is_some();
        let text = Frame::Letter(frame).encode().unwrap();
        let Some(Frame::Letter(read)) = Frame::decode(&text).unwrap() else { panic!("not a letter") };
        let (id, to, sealed) = read.open().unwrap();
        assert_eq!((id, to, &*sealed.message_id, sealed.attempt), (7, MailBox::Unit("bobby".into()), "m", 2));
        (sealed.bytes.to_vec(), raw)
    }

    #[test]
    fn letters_arrive_byte_for_byte() {
        for (bytes, raw) in
            [(&b"{\"a\" : 1.0e2,\n \"b\":\"\\u00e4\xc3\xa4\"}"[..], true), (b" {}", false), (b"{}\n", false), (b"", false), (b"{\xff}", false), (b"{]}", false)]
        {
            assert_eq!(carried(bytes), (bytes.to_vec(), raw), "{bytes:?}");
        }
    }

    #[test]
    fn what_a_later_version_says_is_passed_over() {
        assert!(Frame::decode(br#"{"kind":"weather","sun":true}"#).unwrap().is_none());
        assert!(matches!(Frame::decode(br#"{"more":1,"kind":"ping","id":3}"#), Ok(Some(Frame::Ping(Id { id: 3 })))));
        for bad in [&b""[..], b"7", b"{}", br#"{"kind":"ping"}"#, br#"{"kind":"call","id":-1}"#, b"\xff"] {
            assert!(matches!(Frame::decode(bad), Err(FrameError::Malformed(_))), "{bad:?}");
        }
        let failure = as_failure(serde_json::json!({"code": "TIRED", "message": "not today", "retry": "Never"}));
        assert_eq!((failure.code, &*failure.message), (FailureCode::Internal, "not today"));
    }

    #[test]
    fn an_answer_is_what_was_said() {
        for outcome in [Ok(Value::Null), Ok(serde_json::json!({"error": 1})), Err(Failure::busy("later", 20).with_hint("wait"))] {
            let text = Frame::Answer(Answer::new(1, outcome.clone())).encode().unwrap();
            let Some(Frame::Answer(answer)) = Frame::decode(&text).unwrap() else { panic!("no answer") };
            assert_eq!(answer.outcome(), outcome);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_carried(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(carried(&bytes).0, bytes);
        }

        #[test]
        fn nothing_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes);
        }
    }
}
