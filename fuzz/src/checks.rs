//! What must hold for any bytes at the entries that strangers reach. Each function panics when it does not.

use std::sync::Arc;

use serde_json::{Value, json};

use clawstead_agent::transcript::Transcript;
use clawstead_config::parse_any;
use clawstead_providers::{CallIds, Piece, Side, SseEvent, SseParser, Target, repair};
use clawstead_terms::{JournalEvent, Message};
use clawstead_wire::{
    ErrorShape,
    connect::ConnectParams,
    frame::{FrameFault, Request, RequestFrame, response_text},
};

/// A message from a client: read, answered, and, when it is a request, written and read again.
pub fn frame(bytes: &[u8]) {
    match Request::parse(bytes) {
        Ok(request) => {
            assert!(!request.id.is_empty() && !request.method.is_empty());
            connect(request.params.clone());
            let text = serde_json::to_vec(&RequestFrame::new(&request.id, &request.method, &request.params)).expect("a request has a JSON form");
            let again = Request::parse(&text).expect("what was written can be read");
            assert_eq!((&again.id, &again.method, &again.params), (&request.id, &request.method, &request.params));
        }
        Err(FrameFault::NotJson) => assert!(serde_json::from_slice::<Value>(bytes).is_err(), "JSON was called something else"),
        Err(FrameFault::NotRequest { id, detail }) => {
            assert!(!detail.is_empty());
            let answer = response_text(&id, Err(&ErrorShape::invalid(detail)));
            let answer: Value = serde_json::from_str(&answer).expect("an answer is JSON");
            assert_eq!(answer["ok"], json!(false));
        }
    }
    if let Ok(params) = serde_json::from_slice(bytes) {
        connect(params);
    }
}

fn connect(params: Value) {
    if let Err(why) = ConnectParams::parse(params) {
        assert!(!why.is_empty(), "a refusal says why");
    }
}

/// A config file: read through all steps; what a strict reader takes, it takes again.
pub fn config(bytes: &[u8]) {
    match parse_any(bytes) {
        Ok(normal) => {
            if let Err(issues) = parse_any(normal.to_string().as_bytes()) {
                panic!("the normalised form is refused: {issues:?}");
            }
        }
        Err(issues) => assert!(!issues.is_empty(), "a refusal says why"),
    }
}

/// A journal, one event a line; lines that are none are left out. Whatever is left makes a legal request.
pub fn journal(bytes: &[u8]) {
    let mut transcript = Transcript::default();
    let mut seq = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<JournalEvent>(line) else { continue };
        let text = serde_json::to_vec(&event).expect("an event has a JSON form");
        assert_eq!(serde_json::from_slice::<JournalEvent>(&text).expect("what was written can be read"), event);
        seq += 1;
        transcript.apply(seq, &event);
    }
    let count = transcript.len();
    assert_eq!(transcript.is_empty(), count == 0);
    let messages = transcript.request();
    for (provider, call_ids) in [("anthropic", CallIds::Word40), ("mistral", CallIds::Alnum9)] {
        legal(&messages, &Target { provider, images: true, reasoning: true, call_ids });
    }
}

fn legal(messages: &[Arc<Message>], target: &Target<'_>) {
    let pieces = repair(messages, target);
    assert_eq!(pieces.first().map(Piece::side), Some(Side::User), "a request begins with the user");
    assert_eq!(pieces.last().map(Piece::side), Some(Side::User), "a request ends with the user");
    let mut open: Vec<&str> = Vec::new();
    let mut all: Vec<&str> = Vec::new();
    for piece in &pieces {
        match piece {
            Piece::Call { id, name, .. } => {
                assert!(!name.is_empty() && !all.contains(&id.as_ref()), "a call has a name and an id of its own");
                let legal = match target.call_ids {
                    CallIds::Word40 => id.len() <= 40 && !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
                    CallIds::Alnum9 => id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()),
                };
                assert!(legal, "{id:?} is no id of a call");
                open.push(id);
                all.push(id);
            }
            Piece::Result { id, .. } => {
                let at = open.iter().position(|open| open == id).expect("a result has its call");
                open.remove(at);
            }
            other => assert!(open.is_empty() || other.side() == Side::Assistant, "a result is missing"),
        }
    }
    assert!(open.is_empty(), "a call has its result");
}

/// A stream of server-sent events: how it is cut into pieces says nothing. The first byte says how it is cut.
pub fn sse(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else { return };
    let whole = parsed(&mut std::iter::once(bytes));
    let cut = parsed(&mut bytes.chunks(usize::from(step).max(1)));
    // Pieces may meet the bound of a line at another place, but then both do not go on.
    if let (Some(whole), Some(cut)) = (whole, cut) {
        assert_eq!(whole, cut);
    }
}

fn parsed(pieces: &mut dyn Iterator<Item = &[u8]>) -> Option<Vec<SseEvent>> {
    let mut parser = SseParser::with_limits(4_096, 8_192);
    let mut out = Vec::new();
    for piece in pieces {
        parser.feed(piece, &mut out).ok()?;
    }
    parser.finish(&mut out).ok()?;
    Some(out)
}
