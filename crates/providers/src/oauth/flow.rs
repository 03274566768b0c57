//! The two ways of signing in: a browser that comes back with a code, and a code that is typed elsewhere.

use std::time::Duration;

use base64::Engine as _;
use clawstead_config::Secret;
use clawstead_world::World;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{OAuthClient, OAuthError, Tokens, post, seconds};

/// How long a device code is waited for, milliseconds, whatever the server allows.
pub const DEVICE_WAIT_MAX_MS: i64 = 15 * 60_000;
/// Seconds between two questions when the server names none.
const INTERVAL_DEFAULT_S: i64 = 5;
/// What `slow_down` adds, seconds.
const SLOW_DOWN_S: i64 = 5;

/// One sign-in with a browser: what is sent along, and what must come back.
#[derive(Clone, Debug)]
pub struct Pkce {
    verifier: Secret,
    state: String,
}

/// What a browser brought that is no code.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CameBack {
    /// Its state is another one's: whoever sent it is not who was asked.
    #[error("the answer belongs to another sign-in (its state does not match)")]
    Foreign,
    /// The provider, or the person, said no.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// Neither a code nor an error.
    #[error("the answer has no code")]
    Empty,
}

/// Where the browser is sent.
#[derive(Clone, Copy, Debug)]
pub struct CodeRequest<'a> {
    /// The page of the provider.
    pub authorize_url: &'a str,
    /// The program's id.
    pub client_id: &'a str,
    /// Where the browser goes afterwards.
    pub redirect_uri: &'a str,
    /// What is asked for; words with spaces between.
    pub scope: &'a str,
}

impl Pkce {
    /// A new one; nobody can guess it.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let mut bytes = [0; 48];
        world.rng.fill(&mut bytes);
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let mut state = [0; 16];
        world.rng.fill(&mut state);
        Self { verifier: Secret::new(text), state: base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(state) }
    }

    /// The address to open in a browser.
    ///
    /// # Errors
    /// When `authorize_url` is no address.
    pub fn address(&self, request: &CodeRequest<'_>) -> Result<String, String> {
        let mut url = url::Url::parse(request.authorize_url).map_err(|err| format!("{} is no address: {err}", request.authorize_url))?;
        let challenge = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier.expose()));
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code");
            query.append_pair("client_id", request.client_id);
            query.append_pair("redirect_uri", request.redirect_uri);
            if !request.scope.is_empty() {
                query.append_pair("scope", request.scope);
            }
            query.append_pair("code_challenge", &challenge).append_pair("code_challenge_method", "S256").append_pair("state", &self.state);
        }
        Ok(url.into())
    }

    /// The code in what the browser brought: the path and query of the redirect, or the whole address.
    ///
    /// # Errors
    /// As [`CameBack`] lists.
    pub fn code(&self, came: &str) -> Result<Secret, CameBack> {
        let query = came.split_once('?').map_or("", |(_, query)| query);
        let query = query.split('#').next().unwrap_or_default();
        let get = |name: &str| url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        if get("state").as_deref() != Some(self.state.as_str()) {
            return Err(CameBack::Foreign);
        }
        if let Some(error) = get("error") {
            return Err(CameBack::Refused(crate::sort::cut(&get("error_description").unwrap_or(error))));
        }
        get("code").filter(|code| !code.is_empty()).map(Secret::new).ok_or(CameBack::Empty)
    }

    /// Exchanges the code for tokens.
    ///
    /// # Errors
    /// As [`OAuthError`] lists.
    pub async fn exchange(&self, world: &World, client: &OAuthClient, code: &Secret, redirect_uri: &str) -> Result<Tokens, OAuthError> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", redirect_uri),
            ("code_verifier", self.verifier.expose()),
            ("state", self.state.as_str()),
        ];
        client.tokens(world, &fields, &[code.expose(), self.verifier.expose()]).await
    }
}

/// A sign-in on another device.
#[derive(Clone, Debug)]
pub struct DeviceCode {
    code: Secret,
    /// What the person types.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    interval_s: i64,
    expires_at: i64,
}

impl DeviceCode {
    /// Asks for a code.
    ///
    /// # Errors
    /// As [`OAuthError`] lists.
    pub async fn request(world: &World, device_url: &str, client: &OAuthClient, scope: &str) -> Result<Self, OAuthError> {
        let mut fields = vec![("client_id", client.client_id.as_str())];
        if !scope.is_empty() {
            fields.push(("scope", scope));
        }
        let answer = post(world, device_url, &fields, client.body, &[]).await?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
        let missing = |missing| OAuthError::Garbage { url: device_url.to_owned(), missing };
        let life_ms = answer.get("expires_in").and_then(seconds).map_or(DEVICE_WAIT_MAX_MS, |s| s.saturating_mul(1_000)).min(DEVICE_WAIT_MAX_MS);
        Ok(Self {
            code: Secret::new(text("device_code").ok_or_else(|| missing("a device_code"))?),
            user_code: text("user_code").ok_or_else(|| missing("a user_code"))?,
            verification_uri: text("verification_uri").or_else(|| text("verification_url")).ok_or_else(|| missing("a verification_uri"))?,
            interval_s: answer.get("interval").and_then(Value::as_i64).unwrap_or(INTERVAL_DEFAULT_S).clamp(0, 60),
            expires_at: world.clock.now().0.saturating_add(life_ms),
        })
    }

    /// Asks again and again, as often as the server likes, until the person is done.
    ///
    /// # Errors
    /// As [`OAuthError`] lists; with `expired_token` when the time is over.
    pub async fn wait(mut self, world: &World, client: &OAuthClient) -> Result<Tokens, OAuthError> {
        loop {
            let fields = [("grant_type", "urn:ietf:params:oauth:grant-type:device_code"), ("device_code", self.code.expose())];
            match client.tokens(world, &fields, &[self.code.expose()]).await {
                Err(OAuthError::Refused { code, .. }) if code == "authorization_pending" => {}
                Err(OAuthError::Refused { code, .. }) if code == "slow_down" => self.interval_s = self.interval_s.saturating_add(SLOW_DOWN_S),
                other => return other,
            }
            let pause_ms = self.interval_s.saturating_mul(1_000);
            if world.clock.now().0.saturating_add(pause_ms) >= self.expires_at {
                return Err(OAuthError::Refused {
                    url: client.token_url.clone(),
                    code: "expired_token".into(),
                    words: "the code was not confirmed in time".into(),
                });
            }
            tokio::time::sleep(Duration::from_millis(u64::try_from(pause_ms).unwrap_or(0))).await;
        }
    }
}
