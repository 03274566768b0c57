//! Large bodies: what does not fit into a carrier's letter is taken out of it and travels beside it.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{BodyRef, DEPTH_MAX, Envelope, Refusal, begins_with_slash, canonical, json, letter_of};

/// Largest body, bytes of its JSON text: 8 MiB.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Room that a letter needs besides what it has when it is written: hop data grows with attempts and relays, and the two
/// signatures are not there yet.
const GROWTH_BYTES: usize = 2 * 1024;

/// More than a letter of ours has besides its body: its texts are bounded.
const ROUGH_BYTES: usize = 8 * 1024;

/// The body is larger than any letter may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the letter's content has {bytes} bytes, {BODY_BYTES_MAX} (8 MiB) is the limit: put it into a file or a shared place and send where it is")]
pub struct BodyTooLarge {
    /// Its size.
    pub bytes: usize,
}

impl BodyRef {
    /// The reference to a body with this JSON text.
    #[must_use]
    pub fn to_text(text: &str) -> Self {
        Self { hash: hash_of(text.as_bytes()), size: text.len() as u64 }
    }
}

fn hash_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Takes the body out of a letter that is not signed yet, where the letter would not fit into `inline_max` bytes with it.
/// Gives the JSON text of the body then; the letter has its hash and size instead.
///
/// # Errors
/// When the body has more than [`BODY_BYTES_MAX`] bytes.
pub fn by_reference(letter: &mut Envelope, inline_max: usize) -> Result<Option<String>, BodyTooLarge> {
    let Some(body) = letter.body.take() else { return Ok(None) };
    let text = body.to_string();
    if text.len() > BODY_BYTES_MAX {
        letter.body = Some(body);
        return Err(BodyTooLarge { bytes: text.len() });
    }
    // Most letters are small: no need to measure them closely. The canonical form is never twice as long.
    if text.len() * 2 + ROUGH_BYTES <= inline_max {
        letter.body = Some(body);
        return Ok(None);
    }
    let rest = serde_json::to_vec(&*letter).map_or(0, |bytes| bytes.len());
    // The canonical form spells some numbers longer.
    let inline = text.len() <= inline_max && canonical(&body).is_ok_and(|bytes| rest + bytes.len() + GROWTH_BYTES <= inline_max);
    if inline {
        letter.body = Some(body);
        return Ok(None);
    }
    letter.body_ref = Some(BodyRef::to_text(&text));
    Ok(Some(text))
}

/// The letter with the body that came for it. The letter itself was checked already; here the body is: its size and hash
/// are those that were signed, it is JSON as letters may have it, it is no command, and it is of one mind with the letter.
///
/// # Errors
/// `BodyMismatch`, `Malformed`, `CommandRefused`, `Forbidden`.
pub fn whole(letter: &Envelope, text: &[u8]) -> Result<Envelope, Refusal> {
    let Some(wanted) = &letter.body_ref else { return Ok(letter.clone()) };
    let mismatch = |why: String| Err(Refusal::BodyMismatch { why });
    if text.len() as u64 != wanted.size {
        return mismatch(format!("it has {} bytes instead of {}", text.len(), wanted.size));
    }
    let hash = hash_of(text);
    if hash != wanted.hash {
        return mismatch(format!("its hash is {hash} instead of {}", wanted.hash));
    }
    let body: Value = json::parse_within(text, BODY_BYTES_MAX)?;
    json::check_value(&body, DEPTH_MAX - 1)?;
    let mut letter = letter.clone();
    (letter.body, letter.body_ref) = (Some(body), None);
    if begins_with_slash(&letter) {
        return Err(Refusal::CommandRefused);
    }
    letter_of(&letter)?;
    Ok(letter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testkit::Farm;

    /// Fault row M12: around the limit of a carrier, and around the limit of all.
    #[test]
    fn what_does_not_fit_goes_by_reference_and_what_is_too_large_is_refused() {
        let farm = Farm::new(1);
        let mut letter = farm.letter();
        letter.body = Some(json!({"text": ""}));
        let empty = {
            let mut bare = letter.clone();
            bare.body = None;
            serde_json::to_vec(&bare).unwrap().len()
        } + json!({"text": ""}).to_string().len();
        let limit = 64 * 1024;
        let room = limit - GROWTH_BYTES - empty;
        for (size, apart) in [(1, false), (room - 1, false), (room, false), (room + 1, true), (1024 * 1024 + 1, true), (BODY_BYTES_MAX - 11, true)] {
            let mut sized = letter.clone();
            sized.body = Some(json!({"text": "x".repeat(size)}));
            let text = by_reference(&mut sized, limit).unwrap();
            assert_eq!((text.is_some(), sized.body_ref.is_some(), sized.body.is_none()), (apart, apart, apart), "{size}");
            if let Some(text) = text {
                assert_eq!(whole(&sized, text.as_bytes()).unwrap().body, Some(json!({"text": "x".repeat(size)})));
                sized.sign(&farm.jerry).unwrap();
                assert!(sized.to_bytes().unwrap().len() < limit);
            } else {
                sized.sign(&farm.jerry).unwrap();
                assert!(sized.to_bytes().unwrap().len() <= limit, "{size}");
            }
        }
        letter.body = Some(json!("x".repeat(BODY_BYTES_MAX - 1)));
        let refused = by_reference(&mut letter, limit).unwrap_err();
        assert!(refused.to_string().contains("8388609 bytes") && refused.to_string().contains("8 MiB"), "{refused}");
    }

    /// Fault row M12: a body that is not the one that was signed is refused with its reason.
    #[test]
    fn another_body_than_the_one_that_was_signed_is_refused() {
        let farm = Farm::new(2);
        let mut letter = farm.letter();
        letter.body = Some(json!({"text": "x".repeat(5_000)}));
        let text = by_reference(&mut letter, 4_096).unwrap().unwrap();
        let mut other = text.clone().into_bytes();
        other[100] = b'y';
        assert_eq!(whole(&letter, &other).unwrap_err().code(), "body_mismatch");
        assert_eq!(whole(&letter, &text.as_bytes()[1..]).unwrap_err().code(), "body_mismatch");
        assert!(whole(&letter, text.as_bytes()).is_ok());
        letter.body_ref = None;
        letter.body = Some(json!({"text": format!("/exec {}", "x".repeat(5_000))}));
        let text = by_reference(&mut letter, 4_096).unwrap().unwrap();
        assert_eq!(whole(&letter, text.as_bytes()).unwrap_err().code(), "command_refused");
        letter.body_ref = Some(BodyRef::to_text(r#"{"a":1,"a":2}"#));
        assert_eq!(whole(&letter, br#"{"a":1,"a":2}"#).unwrap_err().code(), "malformed");
    }
}
