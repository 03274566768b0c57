//! Signing in with OAuth 2: authorization code with PKCE (RFC 7636), device code (RFC 8628), and fresh tokens for old
//! ones. [`AuthFile`] keeps what comes of it; [`crate::Models`] refreshes by itself what is about to expire.

mod file;
mod flow;
mod fresh;
#[cfg(test)]
mod tests;

use clawstead_config::Secret;
use clawstead_world::{HttpError, HttpRequest, NetPolicy, World};
use serde_json::{Map, Value};
use thiserror::Error;

pub use file::{AUTH_FILE, AuthFile, AuthFileError};
pub use flow::{CameBack, CodeRequest, DEVICE_WAIT_MAX_MS, DeviceCode, Pkce};
pub use fresh::REFRESH_AHEAD_MS;
pub(crate) use fresh::Stale;

use crate::sort;

/// Time until a token endpoint has answered, milliseconds.
pub const TOKEN_TIMEOUT_MS: u64 = 30_000;
/// Bytes of such an answer at most.
const TOKEN_BYTES_MAX: usize = 256 * 1024;
/// How long a token is used when the server does not say, milliseconds.
const LIFE_DEFAULT_MS: i64 = 3_600_000;

/// How a token endpoint wants to be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenBody {
    /// `application/x-www-form-urlencoded`, as the standard has it.
    #[default]
    Form,
    /// JSON.
    Json,
}

/// Who we are for a token endpoint, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthClient {
    /// Where tokens are given out: `https`, or this machine.
    pub token_url: String,
    /// The public id of the program that signs in.
    pub client_id: String,
    /// Only for clients that have one.
    pub client_secret: Option<Secret>,
    /// How it is asked.
    pub body: TokenBody,
}

/// Token endpoints of providers whose sign-ins older state folders hold: provider, endpoint, client, body.
const KNOWN: [(&str, &str, &str, TokenBody); 2] = [
    ("anthropic", "https://console.anthropic.com/v1/oauth/token", "9d1c250a-e61b-44d9-88ed-5944d1962f5e", TokenBody::Json),
    ("openai-codex", "https://auth.openai.com/oauth/token", "app_EMoamEEZ73f0CkXaXp7hrann", TokenBody::Form),
];

/// What an endpoint gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Sent to the provider.
    pub access: Secret,
    /// Exchanged for the next ones.
    pub refresh: Option<Secret>,
    /// Unix milliseconds.
    pub expires_at: i64,
    /// The mail address of an id token, where there is one; not verified, for people only.
    pub email: Option<String>,
}

/// Why there are no tokens.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OAuthError {
    /// The server says no, with one of the words of the standard.
    #[error("{url} refused: {words}")]
    Refused {
        /// The endpoint.
        url: String,
        /// `invalid_grant`, `authorization_pending`, ...; empty when it has none.
        code: String,
        /// The server's words, no secrets.
        words: String,
    },
    /// It does not answer, or breaks.
    #[error("{0}")]
    Unreachable(String),
    /// The answer makes no sense.
    #[error("{url} answered without {missing}")]
    Garbage {
        /// The endpoint.
        url: String,
        /// What is not there.
        missing: &'static str,
    },
    /// Secrets would travel in clear text.
    #[error("{0} is neither https nor on this machine; credentials are not sent there")]
    Insecure(String),
}

impl OAuthError {
    /// True when the sign-in itself is over: only signing in again helps.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if matches!(code.as_str(), "invalid_grant" | "invalid_client" | "unauthorized_client" | "access_denied" | "expired_token"))
    }
}

impl OAuthClient {
    /// The client of a stored profile: its own `tokenUrl` and `clientId`, else what is known of the provider.
    #[must_use]
    pub fn of(provider: &str, row: &Value) -> Option<Self> {
        let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
        let known = KNOWN.iter().find(|(id, ..)| *id == provider);
        let (token_url, client_id) = match (text("tokenUrl"), text("clientId"), known) {
            (Some(url), Some(id), _) => (url, id),
            (_, _, Some((_, url, id, _))) => (*url, *id),
            _ => return None,
        };
        let body = match text("tokenBody") {
            Some("json") => TokenBody::Json,
            Some(_) => TokenBody::Form,
            None => known.filter(|(_, url, ..)| *url == token_url).map_or(TokenBody::Form, |(.., body)| *body),
        };
        Some(Self { token_url: token_url.to_owned(), client_id: client_id.to_owned(), client_secret: text("clientSecret").map(Secret::new), body })
    }

    /// New tokens for a refresh token.
    ///
    /// # Errors
    /// As [`OAuthError`] lists.
    pub async fn refresh(&self, world: &World, token: &Secret) -> Result<Tokens, OAuthError> {
        self.tokens(world, &[("grant_type", "refresh_token"), ("refresh_token", token.expose())], &[token.expose()]).await
    }

    /// Asks the token endpoint. `secrets` are taken out of the server's words.
    async fn tokens(&self, world: &World, fields: &[(&str, &str)], secrets: &[&str]) -> Result<Tokens, OAuthError> {
        let mut all = fields.to_vec();
        all.push(("client_id", &self.client_id));
        if let Some(secret) = &self.client_secret {
            all.push(("client_secret", secret.expose()));
        }
        let answer = post(world, &self.token_url, &all, self.body, secrets).await?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
        let access = text("access_token").ok_or_else(|| OAuthError::Garbage { url: self.token_url.clone(), missing: "an access_token" })?;
        let life_ms = answer.get("expires_in").and_then(seconds).map_or(LIFE_DEFAULT_MS, |s| s.saturating_mul(1_000));
        Ok(Tokens {
            access: Secret::new(access),
            refresh: text("refresh_token").map(Secret::new),
            expires_at: world.clock.now().0.saturating_add(life_ms),
            email: text("id_token").and_then(email_of),
        })
    }
}

/// A number, or a number as text, as some servers write it.
fn seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|s| *s > 0)
}

/// The `email` claim of an id token.
fn email_of(token: &str) -> Option<String> {
    use base64::Engine as _;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims.get("email")?.as_str().filter(|e| e.len() <= 254 && !e.chars().any(char::is_control)).map(str::to_owned)
}

/// True for `https`, and for `http` on this machine.
fn is_safe(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| {
        url.scheme() == "https"
            || url.scheme() == "http"
                && match url.host() {
                    Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
                    Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
                    Some(url::Host::Domain(name)) => name == "localhost",
                    None => false,
                }
    })
}

async fn post(world: &World, url: &str, fields: &[(&str, &str)], body: TokenBody, secrets: &[&str]) -> Result<Value, OAuthError> {
    if !is_safe(url) {
        return Err(OAuthError::Insecure(url.to_owned()));
    }
    let mut request = HttpRequest::new(http::Method::POST, url, NetPolicy::Trusted);
    request.head_timeout_ms = TOKEN_TIMEOUT_MS;
    request.headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("application/json"));
    let (kind, bytes) = match body {
        TokenBody::Form => {
            ("application/x-www-form-urlencoded", url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into_bytes())
        }
        TokenBody::Json => {
            let map: Map<String, Value> = fields.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
            ("application/json", Value::Object(map).to_string().into_bytes())
        }
    };
    request.headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    request.body = Some(bytes.into());
    let unreachable = |err: HttpError| OAuthError::Unreachable(err.to_string());
    let limit = std::time::Duration::from_millis(TOKEN_TIMEOUT_MS);
    let read = async {
        let response = world.http.send(request).await.map_err(unreachable)?;
        let status = response.status;
        let (bytes, _) = response.read(TOKEN_BYTES_MAX).await.map_err(unreachable)?;
        Ok::<_, OAuthError>((status, bytes))
    };
    let (status, bytes) =
        tokio::time::timeout(limit, read).await.map_err(|_| OAuthError::Unreachable(format!("{url} did not answer within {TOKEN_TIMEOUT_MS} ms")))??;
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    // GitHub says its errors with status 200.
    let error = answer.get("error").filter(|e| !e.is_null());
    if status.is_success() && error.is_none() {
        return if answer.is_object() { Ok(answer) } else { Err(OAuthError::Garbage { url: url.to_owned(), missing: "a JSON object" }) };
    }
    let code = error
        .map(|e| e.as_str().or_else(|| e.get("type").or_else(|| e.get("code")).and_then(Value::as_str)).unwrap_or_default().to_owned())
        .unwrap_or_default();
    let said = answer
        .get("error_description")
        .or_else(|| error.and_then(|e| e.get("message")))
        .and_then(Value::as_str)
        .map_or_else(|| if code.is_empty() { format!("HTTP {}", status.as_u16()) } else { code.clone() }, str::to_owned);
    if status.is_server_error() {
        return Err(OAuthError::Unreachable(format!("{url} answered with HTTP {}", status.as_u16())));
    }
    let secrets: Vec<String> = secrets.iter().map(|s| (*s).to_owned()).collect();
    Err(OAuthError::Refused { url: url.to_owned(), code, words: sort::cut(&sort::without_secrets(&said, &secrets)) })
}
