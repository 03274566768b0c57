//! Letters of clients: from the parameters of a call to an envelope.

use base64::Engine as _;
use serde_json::Value;

use clawstead_terms::{Address, Envelope, EnvelopeKind, Failure, Origin, Part, RunId, SessionKey, TurnOptions};
use clawstead_world::World;

use crate::rpc::Caller;

/// Bytes of one attachment, decoded (`policy.attachments.maxBytes`).
pub const ATTACHMENT_BYTES_MAX: usize = 19_464_192;
/// Bytes of one picture, decoded (`policy.attachments.maxImageBytes`).
pub const IMAGE_BYTES_MAX: usize = 6_291_456;
/// Characters of a text attachment that are put into the message.
const TEXT_CHARS_MAX: usize = 200_000;

/// The origin of a caller's letter: the person or program, or the agent whose tool calls.
#[must_use]
pub fn origin(caller: &Caller) -> Origin {
    if let Some(session) = &caller.session {
        return Origin::Agent { agent: session.agent(), session: session.clone() };
    }
    Origin::Client {
        client_id: caller.client_id.map_or_else(|| caller.conn_id.clone(), |id| id.as_str().to_owned()),
        device_id: caller.device_id.clone(),
        owner: caller.is_admin(),
    }
}

/// A request for a turn.
#[must_use]
pub fn request(world: &World, caller: &Caller, session: SessionKey, run_id: RunId, body: Vec<Part>, options: TurnOptions) -> Envelope {
    letter(world, origin(caller), session, run_id, body, options)
}

/// A request for a turn, from anybody.
#[must_use]
pub fn letter(world: &World, from: Origin, session: SessionKey, run_id: RunId, body: Vec<Part>, options: TurnOptions) -> Envelope {
    let now = world.clock.now();
    let path = if let Origin::Agent { agent, .. } = &from { vec![agent.clone()] } else { Vec::new() };
    Envelope {
        id: world.rng.uuid_v7(now).into(),
        run_id,
        kind: EnvelopeKind::Request,
        from,
        to: Address { agent: session.agent(), session },
        reply_to: None,
        cause: None,
        body,
        options,
        path,
        at: now,
        expires: None,
        traceparent: clawstead_world::trace::current(),
    }
}

/// Text and attachments as parts.
///
/// # Errors
/// `InvalidRequest` for an attachment that is too large or cannot be read.
pub fn body(message: &str, attachments: &[Value]) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::with_capacity(1 + attachments.len());
    if !message.is_empty() {
        parts.push(Part::text(message));
    }
    for (index, attachment) in attachments.iter().enumerate() {
        parts.push(part(index, attachment)?);
    }
    Ok(parts)
}

fn part(index: usize, attachment: &Value) -> Result<Part, Failure> {
    let text = |key: &str| attachment.get(key).and_then(Value::as_str);
    let name = text("fileName").unwrap_or("attachment");
    let bad = |why: &str| Failure::invalid(format!("attachment {} ({name}): {why}", index + 1));
    let content = text("content").or_else(|| attachment.pointer("/source/data").and_then(Value::as_str)).ok_or_else(|| bad("it has no base64 content"))?;
    let (declared, data) = match content.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((mime, data)) => (Some(mime), data),
        None => (None, content),
    };
    if data.len() / 4 * 3 > ATTACHMENT_BYTES_MAX {
        return Err(bad(&format!("larger than {ATTACHMENT_BYTES_MAX} bytes")));
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim()).map_err(|_| bad("its content is not base64"))?;
    let mime = text("mimeType").or_else(|| attachment.pointer("/source/media_type").and_then(Value::as_str)).or(declared).unwrap_or("application/octet-stream");
    if mime.starts_with("image/") {
        if bytes.len() > IMAGE_BYTES_MAX {
            return Err(bad(&format!("pictures may have {IMAGE_BYTES_MAX} bytes")));
        }
        return Ok(Part::Image { mime_type: mime.to_owned(), data: data.trim().to_owned() });
    }
    match String::from_utf8(bytes) {
        Ok(text) => {
            let cut: String = text.chars().take(TEXT_CHARS_MAX).collect();
            Ok(Part::text(format!("<file name=\"{name}\">\n{cut}\n</file>")))
        }
        Err(_) => Err(bad(&format!("files of type {mime} cannot be read in this version; send text or a picture"))),
    }
}

#[cfg(test)]
mod tests {
    use super::body;
    use clawstead_terms::Part;
    use serde_json::json;

    #[test]
    fn attachments_become_parts() {
        let parts = body(
            "hi",
            &[
                json!({"mimeType": "image/png", "content": "iVBORw0KGgo="}),
                json!({"fileName": "a.txt", "mimeType": "text/plain", "content": "aGVsbG8="}),
                json!({"content": "data:image/gif;base64,R0lGODlh"}),
            ],
        )
        .unwrap();
        assert!(matches!(&parts[1], Part::Image { mime_type, .. } if mime_type == "image/png"));
        assert_eq!(parts[2], Part::text("<file name=\"a.txt\">\nhello\n</file>"));
        assert!(matches!(&parts[3], Part::Image { mime_type, .. } if mime_type == "image/gif"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (bad, word) in [
            (json!({"fileName": "x"}), "no base64"),
            (json!({"content": "***"}), "not base64"),
            (json!({"content": "//8=", "mimeType": "video/mp4"}), "video/mp4"),
        ] {
            let err = body("", &[bad]).unwrap_err();
            assert!(err.message.contains(word), "{}", err.message);
        }
    }
}
