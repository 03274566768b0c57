//! What the registry needs from the configuration, as plain data, and its reader.

use std::{collections::BTreeMap, path::PathBuf};

use clawstead_config::{Config, Secret};
use serde_json::{Map, Value};

use crate::{OAuthClient, catalog};

/// Models to try, in order, as the config names them: `provider/model`, an alias or a bare model id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelChain {
    /// The first choice; empty means whatever is there (see [`crate::Models::default_model`]).
    pub primary: String,
    /// The others.
    pub fallbacks: Vec<String>,
}

impl ModelChain {
    /// One model without fallbacks.
    pub fn only(primary: impl Into<String>) -> Self {
        Self { primary: primary.into(), fallbacks: Vec::new() }
    }

    /// Reads a `model` value of the config: a string, or `{primary, fallbacks}`.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(primary) => Some(Self::only(primary.trim())),
            Value::Object(map) => Some(Self {
                primary: map.get("primary").and_then(Value::as_str).unwrap_or_default().trim().to_owned(),
                fallbacks: strings(map.get("fallbacks")),
            }),
            _ => None,
        }
    }
}

/// Whether configured providers join the catalogue or replace it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeMode {
    /// They join it.
    #[default]
    Merge,
    /// Only they exist.
    Replace,
}

/// A provider section of the config. Absent fields come from the catalogue.
#[derive(Clone, Debug, Default)]
pub struct ProviderInput {
    /// Where it is.
    pub base_url: Option<String>,
    /// The address is from the environment, like the key that goes with it.
    pub from_environment: bool,
    /// The word for its dialect.
    pub api: Option<String>,
    /// Its keys, first one first.
    pub api_keys: Vec<Secret>,
    /// Extra headers; values may be secret.
    pub headers: BTreeMap<String, Secret>,
    /// True sends the key as `Authorization: Bearer` also where the dialect has another header.
    pub auth_header: bool,
    /// Request fields for all its models.
    pub params: Option<Value>,
    /// Output limit of its models, tokens.
    pub max_tokens: Option<u32>,
    /// Time until the response head, and between two pieces, seconds.
    pub timeout_s: Option<u64>,
    /// Its models.
    pub models: Vec<ModelInput>,
}

/// A model row of a provider section.
#[derive(Clone, Debug, Default)]
pub struct ModelInput {
    /// Its id.
    pub id: String,
    /// For people.
    pub name: Option<String>,
    /// The word for its dialect, where it differs from the provider's.
    pub api: Option<String>,
    /// Whether it reasons.
    pub reasoning: Option<bool>,
    /// What it reads: `text`, `image`.
    pub input: Option<Vec<String>>,
    /// Prices, US dollars per million tokens.
    pub cost: Option<Value>,
    /// Tokens it sees.
    pub context_window: Option<u32>,
    /// Tokens it writes.
    pub max_tokens: Option<u32>,
    /// Extra headers.
    pub headers: BTreeMap<String, String>,
    /// How its host bends the dialect.
    pub compat: Option<Value>,
    /// Request fields.
    pub params: Option<Value>,
}

/// How a profile authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProfileKind {
    /// An OAuth access token; it is exchanged before it expires when a refresh token is there.
    OAuth,
    /// A static token, sent as bearer.
    Token,
    /// An API key.
    ApiKey,
}

/// A way to authenticate at a provider.
#[derive(Clone, Debug)]
pub struct ProfileInput {
    /// `<provider>:<name>`.
    pub id: String,
    /// The provider.
    pub provider: String,
    /// How.
    pub kind: ProfileKind,
    /// The key or token.
    pub secret: Secret,
    /// Unix milliseconds; 0 when it does not expire.
    pub expires_at: i64,
    /// How a new token is got, where that is known.
    pub refresh: Option<RefreshInput>,
    /// The file it is stored in; new tokens are written there.
    pub file: Option<PathBuf>,
}

/// How an OAuth profile gets its next token.
#[derive(Clone, Debug)]
pub struct RefreshInput {
    /// The refresh token.
    pub token: Secret,
    /// Where it is exchanged.
    pub client: OAuthClient,
}

/// The bounds of cool-downs (`auth.cooldowns`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cooldowns {
    /// First rest of a profile without money, hours; doubles each time.
    pub billing_hours: f64,
    /// Longest such rest, hours.
    pub billing_max_hours: f64,
    /// Failures older than this are forgotten, hours.
    pub window_hours: f64,
}

impl Default for Cooldowns {
    fn default() -> Self {
        Self { billing_hours: 5.0, billing_max_hours: 24.0, window_hours: 24.0 }
    }
}

/// All the registry is built from.
#[derive(Clone, Debug, Default)]
pub struct ModelsInput {
    /// `models.mode`.
    pub mode: MergeMode,
    /// `models.providers`.
    pub providers: BTreeMap<String, ProviderInput>,
    /// Profiles with their secrets.
    pub profiles: Vec<ProfileInput>,
    /// `auth.order`: provider to profile ids.
    pub order: BTreeMap<String, Vec<String>>,
    /// Alias (lower case) to model reference.
    pub aliases: BTreeMap<String, String>,
    /// Model reference to request fields (`agents.defaults.models.*.params`).
    pub params: BTreeMap<String, Value>,
    /// References listed in `agents.defaults.models`, in order.
    pub listed: Vec<String>,
    /// `agents.defaults.model`.
    pub chain: Option<ModelChain>,
    /// `auth.cooldowns`.
    pub cooldowns: Cooldowns,
    /// Host id to key, from the environment.
    pub env_keys: BTreeMap<String, Secret>,
    /// What could not be understood, in words for the operator.
    pub warnings: Vec<String>,
}

impl ModelsInput {
    /// Reads a loaded config, and the value of an `auth-profiles.json` where there is one.
    #[must_use]
    pub fn from_config(config: &Config, auth_profiles: Option<&Value>) -> Self {
        Self::read(config.root(), auth_profiles, &|name| config.env.get(name).map(str::to_owned))
    }

    /// Reads a whole config (includes and `${ENV}` done), the text of an `auth-profiles.json` where there is one,
    /// and the environment through `env`. Never fails; what it cannot use becomes a warning.
    #[must_use]
    pub fn read(config: &Value, auth_profiles: Option<&Value>, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut input = Self::default();
        if config.pointer("/models/mode").and_then(Value::as_str) == Some("replace") {
            input.mode = MergeMode::Replace;
        }
        for (id, section) in object(config.pointer("/models/providers")) {
            let provider = input.provider(id, section, env);
            input.providers.insert(provider_id(id), provider);
        }
        for (reference, entry) in object(config.pointer("/agents/defaults/models")) {
            input.listed.push(reference.clone());
            if let Some(alias) = entry.get("alias").and_then(Value::as_str) {
                input.aliases.insert(alias.trim().to_lowercase(), reference.clone());
            }
            if let Some(params) = entry.get("params").filter(|p| p.is_object()) {
                input.params.insert(reference.clone(), params.clone());
            }
        }
        input.chain = config.pointer("/agents/defaults/model").and_then(ModelChain::read);
        for (provider, ids) in object(config.pointer("/auth/order")) {
            input.order.insert(provider_id(provider), strings(Some(ids)));
        }
        let hours = |key: &str| config.pointer("/auth/cooldowns").and_then(|c| c.get(key)).and_then(Value::as_f64).filter(|h| *h > 0.0);
        let defaults = Cooldowns::default();
        input.cooldowns = Cooldowns {
            billing_hours: hours("billingBackoffHours").unwrap_or(defaults.billing_hours),
            billing_max_hours: hours("billingMaxHours").unwrap_or(defaults.billing_max_hours),
            window_hours: hours("failureWindowHours").unwrap_or(defaults.window_hours),
        };
        if let Some(store) = auth_profiles {
            input.profile_store(store, env);
        }
        for host in catalog::HOSTS {
            if let Some(key) = host.env.iter().find_map(|name| env(name).filter(|v| !v.trim().is_empty())) {
                input.env_keys.insert(host.id.into(), Secret::new(key.trim()));
            }
            // `ANTHROPIC_BASE_URL` and the like, as the providers' own libraries read them; the config comes first.
            let name = format!("{}_BASE_URL", host.id.to_uppercase().replace('-', "_"));
            if input.mode == MergeMode::Merge
                && let Some(url) = env(&name).map(|url| url.trim().trim_end_matches('/').to_owned()).filter(|url| !url.is_empty())
            {
                let provider = input.providers.entry(host.id.into()).or_default();
                if provider.base_url.is_none() {
                    provider.base_url = Some(url);
                    provider.from_environment = true;
                }
            }
        }
        input
    }

    fn provider(&mut self, id: &str, section: &Value, env: &dyn Fn(&str) -> Option<String>) -> ProviderInput {
        let text = |key: &str| section.get(key).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
        let mut out = ProviderInput {
            base_url: text("baseUrl").map(|u| u.trim_end_matches('/').to_owned()),
            api: text("api"),
            auth_header: section.get("authHeader").and_then(Value::as_bool).unwrap_or(false),
            params: section.get("params").filter(|p| p.is_object()).cloned(),
            max_tokens: number(section.get("maxTokens")),
            timeout_s: section.get("timeoutSeconds").and_then(Value::as_u64),
            ..ProviderInput::default()
        };
        match section.get("apiKey") {
            None | Some(Value::Null) => {}
            Some(value) => match secret(value, env) {
                Some(key) => out.api_keys.push(key),
                None => self.warnings.push(format!("models.providers.{id}.apiKey is not resolved; the provider is asked without it")),
            },
        }
        for headers in [section.get("headers"), section.pointer("/request/headers")] {
            for (name, value) in object(headers) {
                match secret(value, env) {
                    Some(v) => {
                        out.headers.insert(name.clone(), v);
                    }
                    None => self.warnings.push(format!("models.providers.{id}: the header {name} is not resolved and is left out")),
                }
            }
        }
        if let Some(auth) = section.pointer("/request/auth") {
            let value = |key: &str| auth.get(key).and_then(|v| secret(v, env));
            match auth.get("mode").and_then(Value::as_str) {
                Some("authorization-bearer") => {
                    if let Some(token) = value("token") {
                        out.headers.insert("authorization".into(), Secret::new(format!("Bearer {}", token.expose())));
                    }
                }
                Some("header") => {
                    if let (Some(name), Some(v)) = (auth.get("headerName").and_then(Value::as_str), value("value")) {
                        let prefix = auth.get("prefix").and_then(Value::as_str).unwrap_or_default();
                        out.headers.insert(name.to_owned(), Secret::new(format!("{prefix}{}", v.expose())));
                    }
                }
                _ => {}
            }
        }
        for row in section.get("models").and_then(Value::as_array).into_iter().flatten() {
            let Some(model) = row.get("id").and_then(Value::as_str).filter(|m| !m.is_empty()) else {
                self.warnings.push(format!("models.providers.{id}.models has a row without an id"));
                continue;
            };
            out.models.push(ModelInput {
                id: model.to_owned(),
                name: row.get("name").and_then(Value::as_str).map(str::to_owned),
                api: row.get("api").and_then(Value::as_str).map(str::to_owned),
                reasoning: row.get("reasoning").and_then(Value::as_bool),
                input: row.get("input").map(|v| strings(Some(v))),
                cost: row.get("cost").cloned(),
                context_window: number(row.get("contextTokens")).or_else(|| number(row.get("contextWindow"))),
                max_tokens: number(row.get("maxTokens")),
                headers: object(row.get("headers")).filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
                compat: row.get("compat").cloned(),
                params: row.get("params").filter(|p| p.is_object()).cloned(),
            });
        }
        out
    }

    fn profile_store(&mut self, store: &Value, env: &dyn Fn(&str) -> Option<String>) {
        for (id, row) in object(store.get("profiles")) {
            let provider = row.get("provider").and_then(Value::as_str).or_else(|| id.split_once(':').map(|(p, _)| p)).unwrap_or(id);
            let (kind, keys): (_, &[&str]) = match row.get("type").or_else(|| row.get("mode")).and_then(Value::as_str) {
                Some("oauth") => (ProfileKind::OAuth, &["access"]),
                Some("token") => (ProfileKind::Token, &["token", "tokenRef"]),
                _ => (ProfileKind::ApiKey, &["key", "keyRef", "apiKey"]),
            };
            let refresh = (kind == ProfileKind::OAuth)
                .then(|| Some(RefreshInput { token: secret(row.get("refresh")?, env)?, client: OAuthClient::of(&provider_id(provider), row)? }))
                .flatten();
            match keys.iter().find_map(|k| row.get(*k)).and_then(|v| secret(v, env)) {
                Some(secret) => self.profiles.push(ProfileInput {
                    id: id.clone(),
                    provider: provider_id(provider),
                    kind,
                    secret,
                    expires_at: row.get("expires").and_then(Value::as_i64).unwrap_or(0),
                    refresh,
                    file: None,
                }),
                None => self.warnings.push(format!("the auth profile {id} has no usable secret")),
            }
        }
        for (provider, ids) in object(store.get("order")) {
            self.order.entry(provider_id(provider)).or_insert_with(|| strings(Some(ids)));
        }
    }
}

/// The id a provider is known by: lower case, catalogue spelling.
#[must_use]
pub fn provider_id(id: &str) -> String {
    let id = id.trim();
    catalog::host(id).map_or_else(|| id.to_lowercase(), |h| h.id.to_owned())
}

/// A secret value: text, `$NAME`, `${NAME}`, or a reference to the environment.
fn secret(value: &Value, env: &dyn Fn(&str) -> Option<String>) -> Option<Secret> {
    let found = match value {
        Value::String(text) => {
            let text = text.trim();
            let name = text.strip_prefix("${").and_then(|t| t.strip_suffix('}')).or_else(|| text.strip_prefix('$')).filter(|n| is_env_name(n));
            match name {
                Some(name) => env(name)?,
                None => text.to_owned(),
            }
        }
        Value::Object(map) if map.get("source").and_then(Value::as_str) == Some("env") => env(map.get("id")?.as_str()?)?,
        _ => return None,
    };
    (!found.is_empty()).then(|| Secret::new(found))
}

fn is_env_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn object(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn strings(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u32")]
fn number(value: Option<&Value>) -> Option<u32> {
    value.and_then(Value::as_f64).filter(|n| *n >= 1.0).map(|n| n.min(f64::from(u32::MAX)) as u32)
}
