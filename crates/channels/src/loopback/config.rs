use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde_json::Value;

use clawstead_terms::Failure;
use clawstead_world::{HttpRequest, NetPolicy};

/// `channels.loopback`.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Where the service listens, without a slash at the end.
    pub url: String,
    /// Bearer token; none sends no header.
    #[serde(default)]
    pub token: Option<String>,
    /// Seconds one poll waits, 1 to 50; default 25.
    #[serde(default = "poll_seconds")]
    pub poll_seconds: u64,
}

const fn poll_seconds() -> u64 {
    25
}

impl Config {
    pub fn read(section: &Value) -> Result<Self, Failure> {
        let mut config: Self = serde_json::from_value(section.clone()).map_err(|e| Failure::invalid(format!("channels.loopback: {e}")))?;
        config.url = config.url.trim_end_matches('/').to_owned();
        config.poll_seconds = config.poll_seconds.clamp(1, 50);
        Ok(config)
    }

    /// A request to the service with the token in place.
    pub fn request(&self, method: Method, path: &str) -> Result<HttpRequest, Failure> {
        let mut request = HttpRequest::new(method, format!("{}{path}", self.url), NetPolicy::Trusted);
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Failure::invalid("channels.loopback.token has characters that no header can carry"))?;
            value.set_sensitive(true);
            headers.insert(http::header::AUTHORIZATION, value);
        }
        request.headers = headers;
        Ok(request)
    }
}
