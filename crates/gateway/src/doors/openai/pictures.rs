//! Pictures of a request: how many, how large, and those that lie elsewhere.

use std::time::Duration;

use ::http::{Method, header};
use base64::Engine as _;
use serde_json::Value;

use clawstead_world::{HttpRequest, NetPolicy};

use super::{Dialect, Refusal, Surface, said::Thing};
use crate::letters::IMAGE_BYTES_MAX;

/// Pictures and files of one message (`maxImageParts`).
const THINGS_MAX: u64 = 8;
/// Decoded bytes of all of them (`maxTotalImageBytes`).
const TOTAL_BYTES_MAX: u64 = 20 * 1024 * 1024;
/// What a picture elsewhere may take, ms (`images.timeoutMs`).
const FETCH_MS: u64 = 10_000;
/// Kinds of pictures (`images.allowedMimes`).
const MIMES: [&str; 6] = ["image/jpeg", "image/png", "image/gif", "image/webp", "image/heic", "image/heif"];

impl Surface {
    /// Checks what came with a message, and fetches what lies elsewhere where the config allows it. Fetching reaches
    /// public addresses only.
    pub(super) async fn collect(&self, dialect: Dialect, things: Vec<Thing>) -> Result<Vec<Thing>, Refusal> {
        let number = |path: &str, default: u64| self.setting(dialect, path).and_then(|v| v.as_u64()).unwrap_or(default);
        let most = number("maxImageParts", THINGS_MAX);
        if u64::try_from(things.len()).unwrap_or(u64::MAX) > most {
            return Err(Refusal::invalid(format!("too many pictures and files: {}, at most {most} are taken", things.len())));
        }
        let mut here = Vec::with_capacity(things.len());
        let mut total = 0;
        for thing in things {
            let thing = match thing {
                Thing::There { url } => self.fetch(dialect, &url).await?,
                here @ Thing::Here { .. } => here,
            };
            if let Thing::Here { mime, data, picture, .. } = &thing {
                total += u64::try_from(data.len() / 4 * 3).unwrap_or(u64::MAX);
                if *picture {
                    self.check_mime(dialect, mime.as_deref().unwrap_or_default())?;
                }
            }
            here.push(thing);
        }
        let most = number("maxTotalImageBytes", TOTAL_BYTES_MAX);
        if total > most {
            return Err(Refusal::invalid(format!("pictures and files have {total} bytes, at most {most} are taken")));
        }
        Ok(here)
    }

    fn texts(&self, dialect: Dialect, path: &str) -> Option<Vec<String>> {
        let list = self.setting(dialect, path)?;
        Some(list.as_array()?.iter().filter_map(Value::as_str).map(str::to_lowercase).collect())
    }

    fn check_mime(&self, dialect: Dialect, mime: &str) -> Result<(), Refusal> {
        let allowed = self.texts(dialect, "images.allowedMimes").unwrap_or_else(|| MIMES.iter().map(|&m| m.to_owned()).collect());
        if allowed.iter().any(|one| one == mime) {
            Ok(())
        } else {
            Err(Refusal::invalid(format!("pictures of type {mime:?} are not taken; allowed are {}", allowed.join(", "))))
        }
    }

    async fn fetch(&self, dialect: Dialect, url: &str) -> Result<Thing, Refusal> {
        // The two endpoints differ in what they allow by themselves.
        let allowed = self.setting(dialect, "images.allowUrl").and_then(|v| v.as_bool()).unwrap_or(dialect == Dialect::Responses);
        if !allowed {
            return Err(Refusal::invalid(format!(
                "image URLs are not allowed here; send base64 data, or set gateway.http.endpoints.{}.images.allowUrl",
                dialect.block()
            )));
        }
        let bad = |why: String| Refusal::invalid(format!("the picture could not be fetched: {why}"));
        let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_lowercase)).ok_or_else(|| bad("its URL cannot be read".into()))?;
        if let Some(hosts) = self.texts(dialect, "images.urlAllowlist")
            && !hosts.iter().any(|one| *one == host || one.strip_prefix("*.").is_some_and(|tail| host.ends_with(&format!(".{tail}"))))
        {
            return Err(bad(format!("{host} is not in images.urlAllowlist")));
        }
        let time = self.setting(dialect, "images.timeoutMs").and_then(|v| v.as_u64()).unwrap_or(FETCH_MS);
        let most = self
            .setting(dialect, "images.maxBytes")
            .and_then(|v| v.as_u64())
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(IMAGE_BYTES_MAX)
            .min(IMAGE_BYTES_MAX);
        let mut request = HttpRequest::new(Method::GET, url, NetPolicy::Public);
        request.head_timeout_ms = time;
        let fetched = async {
            let response = self.chat.world.http.send(request).await.map_err(|err| bad(err.to_string()))?;
            if !response.status.is_success() {
                return Err(bad(format!("{host} answered {}", response.status)));
            }
            let mime = response
                .headers
                .get(header::CONTENT_TYPE)
                .and_then(|v| v.to_str().ok())
                .map(|text| text.split(';').next().unwrap_or_default().trim().to_lowercase());
            let (bytes, cut) = response.read(most).await.map_err(|err| bad(err.to_string()))?;
            if cut {
                return Err(bad(format!("it has more than {most} bytes")));
            }
            Ok(Thing::Here { name: None, mime, data: base64::engine::general_purpose::STANDARD.encode(bytes), picture: true })
        };
        tokio::time::timeout(Duration::from_millis(time), fetched).await.map_err(|_| bad(format!("it took longer than {time} ms")))?
    }
}
