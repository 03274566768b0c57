//! Asking a chain of models: profiles in turn, fallbacks, rounds, and what is remembered of failures.
//!
//! | kind | next profile | next model | another round | rests |
//! | --- | --- | --- | --- | --- |
//! | `Auth`, `Billing` | yes | yes | no | the profile |
//! | `Quota` | yes | yes | yes, when the server asks for 30 s at most | the profile, for this model |
//! | `Overloaded` | no | yes | yes | - |
//! | `Network` | no | yes | yes | the host |
//! | `Timeout` | no | yes | no | the host |
//! | `ModelNotFound`, `Garbage` | no | yes | no | - |
//! | `Context` | no | no: the caller compacts | no | - |
//! | `Content`, `Request` | no | no: another model would get the same fault | no | - |
//!
//! In one round no candidate is asked twice. After the first chunk nothing is repeated: the stream's error is the
//! caller's to judge.

use std::{collections::BTreeSet, sync::PoisonError, time::Duration};

use clawstead_terms::{Failure, FailureCode, Millis, Retry};
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use thiserror::Error;

use crate::{
    Ask, Chunk, ChunkStream, ErrorKind, ModelChain, ModelRef, ModelSpec, Models, ProviderError,
    models::{Profile, merged},
    oauth::Stale,
    sort::cut,
};

/// Rounds over a chain at most.
pub const ROUNDS_MAX: u32 = 3;
/// Models of a chain that are looked at, at most.
pub const CANDIDATES_MAX: usize = 32;
/// A wait the server asks for is kept within a call up to this, milliseconds; longer ones are the caller's matter.
pub const WAIT_MAX_MS: u64 = 30_000;
/// The first wait between rounds, milliseconds; doubles, plus up to half of it at random.
const BACKOFF_MS: u64 = 500;

/// What happens while a chain is asked. All methods do nothing by default.
pub trait Observer: Send + Sync {
    /// A model is about to be asked.
    fn trying(&self, _model: &ModelRef) {}
    /// A model failed and another (or the same again) is asked next.
    fn fallback(&self, _event: &FallbackEvent) {}
}

impl Observer for () {}

/// A step to another model, profile or round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackEvent {
    /// The model that failed, `provider/model`.
    pub from: String,
    /// The next one.
    pub to: String,
    /// Why.
    pub error: ProviderError,
    /// Milliseconds until then.
    pub delay_ms: u64,
}

/// An answer on its way.
pub struct Answer {
    /// Who answers.
    pub model: ModelRef,
    /// What is known of it.
    pub spec: Arc<ModelSpec>,
    /// The profile used.
    pub profile: String,
    /// Its place in the chain; 0 is the primary.
    pub candidate: usize,
    /// The pieces; usage carries its price where the catalogue or config knows it.
    pub stream: ChunkStream,
}

/// Nobody answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.sentence())]
pub struct AskError {
    /// The failure that decides what helps: the primary's, or the one that ended the chain.
    pub error: ProviderError,
    /// All failures, in order.
    pub attempts: Vec<ProviderError>,
}

impl AskError {
    fn sentence(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for attempt in &self.attempts {
            let said = attempt.to_string();
            if !parts.contains(&said) {
                parts.push(said);
            }
        }
        match parts.len() {
            0 | 1 => self.error.to_string(),
            _ => cut(&format!("no model answered: {}", parts.join("; "))),
        }
    }

    /// The same as a door says it.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let mut failure = self.error.to_failure();
        failure.message = self.sentence();
        failure
    }
}

impl ErrorKind {
    /// The word of run events: `auth`, `quota`, `context`, `content`, `network`, `timeout`, `model`, `internal`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Quota | Self::Billing => "quota",
            Self::Context => "context",
            Self::Content => "content",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Overloaded | Self::ModelNotFound | Self::Garbage => "model",
            Self::Request => "internal",
        }
    }

    /// Whether another model may do better (see the table of [`crate::Models::ask`]).
    #[must_use]
    pub const fn falls_back(self) -> bool {
        !matches!(self, Self::Context | Self::Content | Self::Request)
    }
}

impl ProviderError {
    /// The same as a door says it, with a way out.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let provider = &self.provider;
        let (code, retry, hint) = match self.kind {
            ErrorKind::Auth => (FailureCode::Unavailable, Retry::Never, format!("check the key of {provider}: openclaw models status")),
            ErrorKind::Quota => (FailureCode::Busy, Retry::AfterMs(self.retry_after_ms.unwrap_or(60_000)), "wait, or add a fallback model".into()),
            ErrorKind::Billing => (FailureCode::Unavailable, Retry::Never, format!("top up the account at {provider}, or add a fallback model")),
            ErrorKind::Overloaded | ErrorKind::Garbage => {
                (FailureCode::Unavailable, Retry::AfterMs(self.retry_after_ms.unwrap_or(5_000)), "try again, or add a fallback model".into())
            }
            ErrorKind::Network => (FailureCode::Unavailable, Retry::AfterMs(5_000), format!("is the server of {provider} running and reachable?")),
            ErrorKind::Timeout => {
                (FailureCode::Timeout, Retry::AfterMs(5_000), format!("raise models.providers.{provider}.timeoutSeconds if the model is slow"))
            }
            ErrorKind::Context => (FailureCode::InvalidRequest, Retry::Never, "compact or reset the session".into()),
            ErrorKind::Content => (FailureCode::InvalidRequest, Retry::Never, "the provider refused the content; rephrase it".into()),
            ErrorKind::Request => (FailureCode::InvalidRequest, Retry::Never, format!("check models.providers.{provider} in the config")),
            ErrorKind::ModelNotFound => (FailureCode::NotFound, Retry::Never, format!("openclaw models list --provider {provider}")),
        };
        Failure { code, message: self.to_string(), retry, hint: Some(hint) }
    }
}

struct Candidate {
    place: usize,
    model: ModelRef,
    spec: Arc<ModelSpec>,
}

/// How one candidate ended in a round.
enum Tried {
    Answered(Box<Answer>),
    Failed(ProviderError),
    /// It rests; until when, Unix milliseconds.
    Resting(i64),
}

impl Models {
    /// Asks the models of a chain in order until one begins to answer.
    ///
    /// # Errors
    /// When none did, or when the failure is one that no other model mends (see the table of this module).
    pub async fn ask(&self, chain: &ModelChain, ask: Ask, observer: &dyn Observer) -> Result<Answer, AskError> {
        let mut attempts = Vec::new();
        let candidates = self.candidates(chain, &mut attempts);
        let mut again: Vec<usize> = (0..candidates.len()).collect();
        let mut failed_last: Option<(String, ProviderError)> = attempts.last().map(|e: &ProviderError| (format!("{}/{}", e.provider, e.model), e.clone()));
        for round in 0..ROUNDS_MAX {
            let (mut next_round, mut wait_ms) = (Vec::new(), 0u64);
            let mut rests: Option<(i64, usize)> = None;
            for &i in &again {
                let candidate = &candidates[i];
                // A further round is wanted although the failure of the last one put the host or model to rest.
                let force = if round == 0 { Force::No } else { Force::Yes };
                match self.candidate(candidate, &ask, observer, &mut failed_last, &mut attempts, force).await {
                    Tried::Answered(answer) => return Ok(*answer),
                    Tried::Failed(error) if !error.kind.falls_back() => return Err(AskError { error, attempts }),
                    Tried::Failed(error) => {
                        let patient = error.retry_after_ms.is_none_or(|ms| ms <= WAIT_MAX_MS);
                        let repeat = match error.kind {
                            ErrorKind::Overloaded | ErrorKind::Network => patient,
                            ErrorKind::Quota => patient && error.retry_after_ms.is_some(),
                            _ => false,
                        };
                        if repeat {
                            next_round.push(i);
                            wait_ms = wait_ms.max(error.retry_after_ms.unwrap_or(0));
                        }
                        failed_last = Some((candidate.model.to_string(), error));
                    }
                    Tried::Resting(until) => {
                        if rests.is_none_or(|(u, _)| until < u) {
                            rests = Some((until, i));
                        }
                    }
                }
            }
            // All rest: now and then one of them may be tried anyway, so that a mended account or host is noticed.
            if let Some((until, i)) = rests.filter(|_| round == 0 && next_round.is_empty()) {
                let candidate = &candidates[i];
                let now = self.world.clock.now();
                let session = ask.session_hint.as_deref();
                let profiles = self.profiles(&candidate.model.provider, session, now);
                let may = {
                    let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                    // A host that failed a moment ago may be back, and a refused key may be mended at the provider. With
                    // nothing else to try, asking once a turn beats refusing.
                    let cheap = health.host_open(self.host_of(&candidate.model.provider), now).is_some()
                        || profiles.iter().all(|p| health.refused_only(&p.id, &candidate.model.model, now));
                    (cheap && attempts.is_empty()) || health.may_probe(&candidate.model.to_string(), now)
                };
                if may {
                    match self.candidate(candidate, &ask, observer, &mut failed_last, &mut attempts, Force::Yes).await {
                        Tried::Answered(answer) => return Ok(*answer),
                        Tried::Failed(error) if !error.kind.falls_back() => return Err(AskError { error, attempts }),
                        _ => {}
                    }
                } else {
                    attempts.push(self.resting_error(candidate, until, now));
                }
            }
            if next_round.is_empty() || round + 1 == ROUNDS_MAX {
                break;
            }
            let backoff = BACKOFF_MS << round;
            let delay_ms = wait_ms.max(backoff) + self.world.rng.below(backoff / 2 + 1);
            if let (Some((from, error)), Some(first)) = (&failed_last, next_round.first()) {
                let to = candidates[*first].model.to_string();
                observer.fallback(&FallbackEvent { from: from.clone(), to, error: error.clone(), delay_ms });
                failed_last = None;
            }
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            again = next_round;
        }
        let error = attempts
            .first()
            .cloned()
            .unwrap_or_else(|| plain(&ModelRef { provider: "models".into(), model: chain.primary.clone() }, ErrorKind::ModelNotFound, "the chain is empty"));
        Err(AskError { error, attempts })
    }

    /// The models of a chain, each once; references that mean nothing become failures.
    fn candidates(&self, chain: &ModelChain, attempts: &mut Vec<ProviderError>) -> Vec<Candidate> {
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        let default = self.default_chain_if_empty(chain);
        let chain = default.as_ref().unwrap_or(chain);
        for (place, reference) in std::iter::once(&chain.primary).chain(&chain.fallbacks).take(CANDIDATES_MAX).enumerate() {
            match self.resolve(reference) {
                Ok(model) => {
                    if let Some(spec) = self.spec(&model).filter(|_| seen.insert(model.clone())) {
                        out.push(Candidate { place, model, spec });
                    }
                }
                Err(err) => attempts.push(plain(&ModelRef { provider: "models".into(), model: reference.clone() }, ErrorKind::ModelNotFound, &err.to_string())),
            }
        }
        out
    }

    fn default_chain_if_empty(&self, chain: &ModelChain) -> Option<ModelChain> {
        chain.primary.is_empty().then(|| {
            let mut default = self.default_chain();
            if !chain.fallbacks.is_empty() {
                default.fallbacks.clone_from(&chain.fallbacks);
            }
            default
        })
    }

    fn resting_error(&self, candidate: &Candidate, until: i64, now: Millis) -> ProviderError {
        let wait = u64::try_from(until - now.0).unwrap_or(0);
        let host_down = self.health.lock().unwrap_or_else(PoisonError::into_inner).host_open(self.host_of(&candidate.model.provider), now).is_some();
        let (kind, why) =
            if host_down { (ErrorKind::Network, "its server did not answer a moment ago") } else { (ErrorKind::Quota, "all its keys rest after failures") };
        ProviderError { retry_after_ms: Some(wait), ..plain(&candidate.model, kind, &format!("{why}; the next try is in {} s", wait.div_ceil(1_000))) }
    }

    /// Asks one candidate with each of its profiles until one answers.
    async fn candidate(
        &self,
        candidate: &Candidate,
        ask: &Ask,
        observer: &dyn Observer,
        failed_last: &mut Option<(String, ProviderError)>,
        attempts: &mut Vec<ProviderError>,
        force: Force,
    ) -> Tried {
        let Candidate { model, spec, .. } = candidate;
        let now = self.world.clock.now();
        let host = self.host_of(&model.provider);
        let session = ask.session_hint.as_deref();
        let profiles = self.profiles(&model.provider, session, now);
        if profiles.is_empty() {
            let why = self.expired(&model.provider, now).map_or_else(
                || format!("no key is configured for {}", model.provider),
                |id| format!("the sign-in {id} has expired; sign in again: openclaw models auth login --provider {}", model.provider),
            );
            let error = plain(model, ErrorKind::Auth, &why);
            attempts.push(error.clone());
            return Tried::Failed(error);
        }
        let mut error: Option<ProviderError> = None;
        let mut rests_until = i64::MAX;
        for profile in &profiles {
            if force == Force::No {
                let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                let until = health.host_open(host, now).or_else(|| health.resting(&profile.id, &model.model, now));
                if let Some(until) = until {
                    rests_until = rests_until.min(until);
                    continue;
                }
            }
            if let Some((from, error)) = failed_last.take() {
                observer.fallback(&FallbackEvent { from, to: model.to_string(), error, delay_ms: 0 });
            }
            let fresh = self.fresh(profile).await;
            // The token endpoint's faults say nothing about the host of the models: another profile may do.
            let stale = fresh.is_err();
            let tried = match fresh {
                Ok(profile) => self.once(candidate, &profile, ask, observer).await,
                Err(Stale::Over(why)) => Err(plain(model, ErrorKind::Auth, &why)),
                Err(Stale::Later(why)) => Err(plain(model, ErrorKind::Overloaded, &why)),
            };
            match tried {
                Ok(answer) => return Tried::Answered(Box::new(answer)),
                Err(failed) => {
                    self.remember_failure(profile, spec, &failed);
                    attempts.push(failed.clone());
                    let next_profile = stale || matches!(failed.kind, ErrorKind::Auth | ErrorKind::Quota | ErrorKind::Billing);
                    *failed_last = Some((model.to_string(), failed.clone()));
                    error = Some(failed);
                    if !next_profile || force == Force::Yes {
                        break;
                    }
                }
            }
        }
        error.map_or(Tried::Resting(rests_until), Tried::Failed)
    }

    async fn once(&self, candidate: &Candidate, profile: &Profile, ask: &Ask, observer: &dyn Observer) -> Result<Answer, ProviderError> {
        let Candidate { place, model, spec } = candidate;
        let provider = self.provider(spec, profile).map_err(|why| plain(model, ErrorKind::ModelNotFound, &why))?;
        observer.trying(model);
        let mut own = ask.clone();
        own.model.clone_from(&model.model);
        own.params = merged(spec.params.as_ref(), ask.params.as_ref());
        let mut stream = provider.stream(own).await.map_err(|e| named(e, model))?;
        let first = match stream.next().await {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Err(named(error, model)),
            None => return Err(plain(model, ErrorKind::Garbage, "the answer was empty")),
        };
        self.remember_success(profile, spec, ask.session_hint.as_deref());
        let (cost, name) = (spec.cost, model.clone());
        let stream = stream::iter([Ok(first)])
            .chain(stream)
            .map(move |item| match item {
                Ok(Chunk::Usage(mut usage)) => {
                    usage.cost_usd = cost.map_or(0.0, |c| c.of(&usage));
                    Ok(Chunk::Usage(usage))
                }
                Err(error) => Err(named(error, &name)),
                other => other,
            })
            .boxed();
        Ok(Answer { model: model.clone(), spec: spec.clone(), profile: profile.id.clone(), candidate: *place, stream })
    }

    fn remember_success(&self, profile: &Profile, spec: &ModelSpec, session: Option<&str>) {
        let now = self.world.clock.now();
        let row = self.health.lock().unwrap_or_else(PoisonError::into_inner).succeeded(&profile.id, &spec.id, self.host_of(&spec.provider), session, now);
        if let Some((key, json)) = row {
            self.log.save(&key, json);
        }
    }

    fn remember_failure(&self, profile: &Profile, spec: &ModelSpec, error: &ProviderError) {
        let now = self.world.clock.now();
        let host = self.host_of(&spec.provider);
        tracing::warn!(model = %spec.key(), profile = %profile.id, kind = ?error.kind, err = %error.message, "a model call failed");
        let row = self.health.lock().unwrap_or_else(PoisonError::into_inner).failed(
            &profile.id,
            &spec.id,
            host,
            error.kind,
            error.retry_after_ms,
            &self.cooldowns,
            now,
        );
        if let Some((key, json)) = row {
            self.log.save(&key, json);
        }
    }
}

/// Whether a candidate is asked although it rests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Force {
    No,
    Yes,
}

fn plain(model: &ModelRef, kind: ErrorKind, message: &str) -> ProviderError {
    ProviderError { kind, provider: model.provider.clone(), model: model.model.clone(), message: message.to_owned(), status: None, retry_after_ms: None }
}

/// Given providers do not know what the config calls them.
fn named(mut error: ProviderError, model: &ModelRef) -> ProviderError {
    error.provider.clone_from(&model.provider);
    error.model.clone_from(&model.model);
    error
}
