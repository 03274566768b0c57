//! Tokens that are about to expire are exchanged before they are used, once for all who wait, and across processes:
//! most servers take a refresh token once only.

use std::sync::{Arc, PoisonError};

use clawstead_config::Secret;

use super::{AuthFile, OAuthClient, OAuthError, Tokens, file};
use crate::{Models, models::Profile};

/// A token with less life than this is exchanged before use, milliseconds.
pub const REFRESH_AHEAD_MS: i64 = 60_000;

/// Why a profile cannot be used now.
#[derive(Debug)]
pub(crate) enum Stale {
    /// Only signing in again helps.
    Over(String),
    /// The server may answer later.
    Later(String),
}

impl Stale {
    /// The sentence.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Over(why) | Self::Later(why) => why,
        }
    }
}

impl Models {
    /// The profile with what was learned since the registry was built.
    pub(crate) fn overlaid(&self, mut profile: Profile) -> Profile {
        if profile.refresh.is_some()
            && let Some(tokens) = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&profile.id)
            && tokens.expires_at > profile.expires_at
        {
            profile.secret = tokens.access.clone();
            profile.expires_at = tokens.expires_at;
        }
        profile
    }

    /// The profile with a token that lives long enough for a request.
    pub(crate) async fn fresh(&self, profile: &Profile) -> Result<Profile, Stale> {
        let Some(refresh) = &profile.refresh else { return Ok(profile.clone()) };
        let due = |expires_at: i64| expires_at != 0 && expires_at <= self.world.clock.now().0.saturating_add(REFRESH_AHEAD_MS);
        if !due(profile.expires_at) {
            return Ok(profile.clone());
        }
        let gate = self.gates.lock().unwrap_or_else(PoisonError::into_inner).entry(profile.id.clone()).or_default().clone();
        let _gate = gate.lock().await;
        let mut now = self.overlaid(profile.clone());
        if !due(now.expires_at) {
            return Ok(now);
        }
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&profile.id).and_then(|t| t.refresh.clone());
        let renewed = self.exchange(&profile.id, &refresh.client, known.as_ref().unwrap_or(&refresh.token), profile.file.as_ref(), &due).await;
        match renewed {
            Ok(tokens) => {
                tracing::info!(profile = %profile.id, "the sign-in was renewed");
                now.secret = tokens.access.clone();
                now.expires_at = tokens.expires_at;
                self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(profile.id.clone(), tokens);
                Ok(now)
            }
            // A token with seconds to live is still better than none.
            Err(err) if !err.is_final() && now.expires_at > self.world.clock.now().0 => {
                tracing::warn!(profile = %profile.id, %err, "the sign-in could not be renewed yet");
                Ok(now)
            }
            Err(err) => {
                let provider = profile.id.split(':').next().unwrap_or(&profile.id);
                if err.is_final() {
                    Err(Stale::Over(format!("the sign-in {} is over ({err}); sign in again: openclaw models auth login --provider {provider}", profile.id)))
                } else {
                    Err(Stale::Later(format!("the sign-in {} could not be renewed: {err}", profile.id)))
                }
            }
        }
    }

    async fn exchange(
        &self,
        id: &str,
        client: &OAuthClient,
        token: &Secret,
        at: Option<&Arc<AuthFile>>,
        due: &(dyn Fn(i64) -> bool + Sync),
    ) -> Result<Tokens, OAuthError> {
        let disk = |err: &dyn std::fmt::Display| OAuthError::Unreachable(err.to_string());
        let Some(at) = at else { return client.refresh(&self.world, token).await };
        let (lock, row) = {
            let (at, id) = (at.clone(), id.to_owned());
            let work = move || at.lock().and_then(|lock| Ok((lock, at.read()?["profiles"][&id].clone())));
            self.world.tasks.blocking(work).await.ok_or_else(|| OAuthError::Unreachable("the gateway stops".into()))?.map_err(|err| disk(&err))?
        };
        let text = |key: &str| row.get(key).and_then(serde_json::Value::as_str).filter(|t| !t.is_empty()).map(Secret::new);
        // Another process may have been here since.
        let expires_at = row.get("expires").and_then(serde_json::Value::as_i64).unwrap_or(0);
        if let (Some(access), false) = (text("access"), due(expires_at)) {
            return Ok(Tokens { access, refresh: text("refresh"), expires_at, email: None });
        }
        let tokens = client.refresh(&self.world, text("refresh").as_ref().unwrap_or(token)).await?;
        let (at, id, kept) = (at.clone(), id.to_owned(), tokens.clone());
        let work = move || {
            at.change_locked(&lock, |store| {
                // A profile that was removed meanwhile stays away.
                if store["profiles"].get(&id).is_some() {
                    file::renew(&mut store["profiles"][&id], &kept);
                }
            })
        };
        match self.world.tasks.blocking(work).await {
            Some(Ok(())) => {}
            // The tokens work for this process; the next one has to sign in again, if the server takes the old one once only.
            Some(Err(err)) => tracing::error!(%err, "a renewed sign-in could not be stored"),
            None => {}
        }
        Ok(tokens)
    }
}
