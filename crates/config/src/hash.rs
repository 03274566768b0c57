//! Marks of content: they change when the content changes and tell nothing about it.

use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const KEY: &[u8] = b"clawstead config content mark";

/// `hmac-sha256:v1:<base64url>` of the root file and the included ones. `None` stands for no file.
#[must_use]
pub(crate) fn content_hash<'a>(root: Option<&[u8]>, included: impl Iterator<Item = &'a str>) -> String {
    // HMAC takes keys of any length
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(KEY) else { return String::new() };
    match root {
        Some(bytes) => {
            mac.update(&(bytes.len() as u64).to_le_bytes());
            mac.update(bytes);
        }
        None => mac.update(&u64::MAX.to_le_bytes()),
    }
    for text in included {
        mac.update(&(text.len() as u64).to_le_bytes());
        mac.update(text.as_bytes());
    }
    format!("hmac-sha256:v1:{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}
