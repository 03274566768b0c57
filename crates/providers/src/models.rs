//! The registry: which models there are, how they are reached, what a reference means.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use clawstead_config::Secret;
use clawstead_terms::Millis;
use clawstead_world::World;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use crate::{
    DEMO_MODEL, DEMO_PROVIDER, Demo, Dialect, Endpoint, HealthLog, ModelChain, ModelSpec, ModelsInput, Provider,
    anthropic::Anthropic,
    catalog,
    discovery::Found,
    endpoint::{EVENT_TIMEOUT_MS, HEAD_TIMEOUT_MS, IDLE_TIMEOUT_MS},
    google::Google,
    health::{Health, NoHealthLog, ProfileStats},
    input::{MergeMode, ModelInput, ProfileInput, ProfileKind, ProviderInput, RefreshInput, provider_id},
    oauth::{AuthFile, Tokens},
    openai_chat::OpenAiChat,
    openai_responses::OpenAiResponses,
    spec::{Compat, Cost},
};

/// A resolved reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelRef {
    /// The provider's id.
    pub provider: String,
    /// The model's id there.
    pub model: String,
}

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// Why a reference means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// No such provider.
    #[error("no provider \"{provider}\" is known (in \"{reference}\"); add models.providers.{provider} to the config")]
    UnknownProvider {
        /// The provider.
        provider: String,
        /// The whole reference.
        reference: String,
    },
    /// A bare id that several providers have.
    #[error("\"{reference}\" is offered by {providers}; write provider/model")]
    Ambiguous {
        /// The reference.
        reference: String,
        /// The providers.
        providers: String,
    },
    /// Nothing was written.
    #[error("the model reference is empty")]
    Empty,
}

/// A row of `models.list`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRow {
    /// The model's id at its provider.
    pub id: String,
    /// For people.
    pub name: String,
    /// The provider.
    pub provider: String,
    /// Its alias, where the config gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Tokens it sees.
    pub context_window: u32,
    /// Whether it reasons.
    pub reasoning: bool,
    /// What it reads.
    pub input: Vec<&'static str>,
    /// Whether a key (or a local host) is there for it.
    pub available: bool,
}

/// A way to authenticate, ready for use.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) id: String,
    pub(crate) kind: ProfileKind,
    /// Empty for hosts that need no key.
    pub(crate) secret: Secret,
    pub(crate) expires_at: i64,
    pub(crate) refresh: Option<Arc<RefreshInput>>,
    pub(crate) file: Option<Arc<AuthFile>>,
}

impl Profile {
    const fn key(id: String, secret: Secret) -> Self {
        Self { id, kind: ProfileKind::ApiKey, secret, expires_at: 0, refresh: None, file: None }
    }
}

/// A provider as the registry uses it.
struct Entry {
    base_url: String,
    api: String,
    dialect: Dialect,
    compat: Compat,
    headers: BTreeMap<String, Secret>,
    auth_header: bool,
    head_timeout_ms: u64,
    idle_timeout_ms: u64,
    params: Option<Value>,
    max_tokens: Option<u32>,
    profiles: Vec<Profile>,
    ordered: bool,
    configured: bool,
    needs_key: bool,
    given: Option<Arc<dyn Provider>>,
    models: BTreeMap<String, Arc<ModelSpec>>,
    /// The order of the config.
    listed: Vec<String>,
}

/// All models a gateway can ask.
pub struct Models {
    pub(crate) world: World,
    entries: BTreeMap<String, Entry>,
    aliases: BTreeMap<String, String>,
    params: BTreeMap<String, Value>,
    default_chain: Option<ModelChain>,
    warnings: Vec<String>,
    pub(crate) cooldowns: crate::Cooldowns,
    pub(crate) health: Mutex<Health>,
    pub(crate) log: Arc<dyn HealthLog>,
    pub(crate) found: RwLock<BTreeMap<String, Found>>,
    /// Tokens renewed since the registry was built, by profile.
    pub(crate) tokens: Mutex<BTreeMap<String, Tokens>>,
    /// One renewal of a profile at a time.
    pub(crate) gates: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Models {
    /// Builds the registry. Asks nobody; see [`Models::discover`].
    #[must_use]
    pub fn new(world: World, input: ModelsInput) -> Self {
        let mut warnings = input.warnings.clone();
        let mut entries = BTreeMap::new();
        if input.mode == MergeMode::Merge {
            for host in catalog::HOSTS {
                entries.insert(host.id.to_owned(), entry(host.id, &ProviderInput::default(), &input, &mut warnings));
            }
        }
        for (id, section) in &input.providers {
            let mut made = entry(id, section, &input, &mut warnings);
            made.configured = true;
            entries.insert(id.clone(), made);
        }
        entries.insert(DEMO_PROVIDER.to_owned(), demo());
        Self {
            world,
            entries,
            aliases: input.aliases,
            params: input.params,
            default_chain: input.chain.filter(|c| !c.primary.is_empty()),
            warnings,
            cooldowns: input.cooldowns,
            health: Mutex::new(Health::default()),
            log: Arc::new(NoHealthLog),
            found: RwLock::new(BTreeMap::new()),
            tokens: Mutex::default(),
            gates: Mutex::default(),
        }
    }

    /// Keeps the memory of failures in `log`, and takes back the rows stored earlier.
    #[must_use]
    pub fn with_health(mut self, log: Arc<dyn HealthLog>, rows: impl IntoIterator<Item = (String, String)>) -> Self {
        self.log = log;
        {
            let health = self.health.get_mut().unwrap_or_else(PoisonError::into_inner);
            for (key, json) in rows {
                health.restore(&key, &json);
            }
        }
        self
    }

    /// The memory of failures as rows: hand them to [`Models::with_health`] of the registry that a reload builds.
    #[must_use]
    pub fn health_rows(&self) -> Vec<(String, String)> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).rows()
    }

    /// Adds a provider of the caller's own, for tests and simulations. A model without a spec here is unknown
    /// but usable.
    #[must_use]
    pub fn with_provider(mut self, id: &str, provider: Arc<dyn Provider>, specs: Vec<ModelSpec>) -> Self {
        let mut made = blank(Dialect::Given, "given");
        made.listed = specs.iter().map(|s| s.id.clone()).collect();
        made.models = specs.into_iter().map(|s| (s.id.clone(), Arc::new(s))).collect();
        // Nobody connects to it; it keeps the memory of failures apart.
        made.base_url = format!("given:{id}");
        made.given = Some(provider);
        made.configured = true;
        self.entries.insert(id.to_owned(), made);
        self
    }

    /// What in the config could not be used, in words for the operator.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What a reference means: an alias; else `provider/model`, split at the first slash; else the one configured
    /// model of that id; else a model of the default provider.
    ///
    /// # Errors
    /// As [`ResolveError`] lists.
    pub fn resolve(&self, reference: &str) -> Result<ModelRef, ResolveError> {
        let reference = reference.trim();
        if reference.is_empty() {
            return Err(ResolveError::Empty);
        }
        if let Some(target) = self.aliases.get(&reference.to_lowercase())
            && let Some(found) = self.split(target)
        {
            return Ok(found);
        }
        if let Some(found) = self.split(reference) {
            return Ok(found);
        }
        let mut owners: Vec<String> = self.entries.iter().filter(|(_, e)| e.configured && e.models.contains_key(reference)).map(|(id, _)| id.clone()).collect();
        match owners.len() {
            1 => return Ok(ModelRef { provider: owners.remove(0), model: reference.to_owned() }),
            0 => {}
            _ => return Err(ResolveError::Ambiguous { reference: reference.to_owned(), providers: owners.join(", ") }),
        }
        if let Some((provider, _)) = reference.split_once('/') {
            return Err(ResolveError::UnknownProvider { provider: provider.to_owned(), reference: reference.to_owned() });
        }
        let provider = self.default_provider();
        if self.entries.contains_key(&provider) {
            Ok(ModelRef { provider, model: reference.to_owned() })
        } else {
            Err(ResolveError::UnknownProvider { provider, reference: reference.to_owned() })
        }
    }

    fn split(&self, reference: &str) -> Option<ModelRef> {
        let (provider, model) = reference.split_once('/')?;
        let provider = provider_id(provider);
        let known = self.entries.contains_key(&provider) && !model.is_empty();
        known.then(|| ModelRef { provider, model: model.to_owned() })
    }

    /// The provider of a bare model id: that of the default model, else `anthropic`.
    fn default_provider(&self) -> String {
        self.default_chain.as_ref().and_then(|c| self.split(&c.primary)).map_or_else(|| "anthropic".to_owned(), |r| r.provider)
    }

    /// The model when nothing else is said: the config's default; else the best model of the first provider with a
    /// key; else what was found on this machine; else the first configured model; else `demo/echo`.
    #[must_use]
    pub fn default_model(&self) -> ModelRef {
        if let Some(found) = self.default_chain.as_ref().and_then(|c| self.resolve(&c.primary).ok()) {
            return found;
        }
        let first = |id: &str, e: &Entry| e.listed.first().map(|m| ModelRef { provider: id.to_owned(), model: m.clone() });
        if let Some(found) = self.entries.iter().filter(|(id, e)| e.configured && *id != DEMO_PROVIDER && e.usable()).find_map(|(id, e)| first(id, e)) {
            return found;
        }
        for host in catalog::HOSTS.iter().filter(|h| !h.default_model.is_empty()) {
            if self.entries.get(host.id).is_some_and(|e| e.needs_key && !e.profiles.is_empty()) {
                return ModelRef { provider: host.id.to_owned(), model: host.default_model.to_owned() };
            }
        }
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        for host in catalog::PROBED {
            if let Some(model) = found.get(*host).and_then(|f| f.models.first()) {
                return ModelRef { provider: (*host).to_owned(), model: model.clone() };
            }
        }
        ModelRef { provider: DEMO_PROVIDER.to_owned(), model: DEMO_MODEL.to_owned() }
    }

    /// The chain when an agent names none.
    #[must_use]
    pub fn default_chain(&self) -> ModelChain {
        self.default_chain.clone().unwrap_or_else(|| ModelChain::only(self.default_model().to_string()))
    }

    /// What is known of a model; also for models that no config lists. `None` when there is no such provider.
    #[must_use]
    pub fn spec(&self, model: &ModelRef) -> Option<Arc<ModelSpec>> {
        let entry = self.entries.get(&model.provider)?;
        let spec = match entry.models.get(&model.model) {
            Some(spec) => spec.clone(),
            None => Arc::new(describe(&model.provider, entry, &ModelInput { id: model.model.clone(), ..ModelInput::default() }, &mut Vec::new())),
        };
        // Params of `agents.defaults.models` are rare; only then is the spec copied.
        if self.params.is_empty() {
            return Some(spec);
        }
        match self.params.get(&spec.key()) {
            None => Some(spec),
            Some(params) => {
                let mut own = (*spec).clone();
                own.params = merged(own.params.as_ref(), Some(params));
                Some(Arc::new(own))
            }
        }
    }

    /// All models worth listing: configured ones, those of hosts with a key, those found on this machine.
    #[must_use]
    pub fn list(&self) -> Vec<ModelRow> {
        let mut rows = Vec::new();
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        let nothing_else = self.entries.iter().all(|(id, e)| id == DEMO_PROVIDER || !e.usable() || (!e.configured && !e.needs_key)) && found.is_empty();
        for (id, entry) in &self.entries {
            let available = entry.usable();
            let mut ids: Vec<String> = entry.listed.clone();
            if !entry.configured && available && entry.needs_key {
                ids.extend(catalog::MODELS.iter().filter(|k| k.host == id).map(|k| k.prefix.to_owned()));
            }
            for model in found.get(id).map(|f| f.models.as_slice()).unwrap_or_default() {
                if !ids.contains(model) {
                    ids.push(model.clone());
                }
            }
            if id == DEMO_PROVIDER && !nothing_else {
                continue;
            }
            for model in ids {
                let reference = ModelRef { provider: id.clone(), model };
                if let Some(spec) = self.spec(&reference) {
                    rows.push(self.row(&spec, available));
                }
            }
        }
        rows
    }

    fn row(&self, spec: &ModelSpec, available: bool) -> ModelRow {
        let key = spec.key();
        ModelRow {
            id: spec.id.clone(),
            name: spec.name.clone(),
            provider: spec.provider.clone(),
            alias: self.aliases.iter().find(|(_, target)| **target == key).map(|(alias, _)| alias.clone()),
            context_window: spec.context_window,
            reasoning: spec.reasoning,
            input: if spec.images { vec!["text", "image"] } else { vec!["text"] },
            available,
        }
    }

    /// The providers that can be asked, with their profiles and what is remembered of each. No secrets.
    #[must_use]
    pub fn auth_overview(&self) -> Vec<(String, Vec<(String, ProfileKind, ProfileStats)>)> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = |p: &Profile| (p.id.clone(), p.kind, health.stats(&p.id).cloned().unwrap_or_default());
        self.entries
            .iter()
            .filter(|(id, e)| *id != DEMO_PROVIDER && e.usable() && (e.configured || e.needs_key))
            .map(|(id, e)| (id.clone(), e.profiles.iter().map(stats).collect()))
            .collect()
    }

    /// The config's aliases: alias to reference.
    #[must_use]
    pub const fn aliases(&self) -> &BTreeMap<String, String> {
        &self.aliases
    }

    /// True when neither config nor environment names a usable model.
    #[must_use]
    pub fn nothing_configured(&self) -> bool {
        self.default_chain.is_none() && !self.entries.iter().any(|(id, e)| id != DEMO_PROVIDER && e.usable() && (e.configured || e.needs_key))
    }

    /// The profiles of a provider in the order in which they are tried now: the configured order; else by kind, the
    /// session's last one first, then the one that rested longest.
    pub(crate) fn profiles(&self, provider: &str, session: Option<&str>, now: Millis) -> Vec<Profile> {
        let Some(entry) = self.entries.get(provider) else { return Vec::new() };
        let mut list: Vec<Profile> =
            entry.profiles.iter().map(|p| self.overlaid(p.clone())).filter(|p| p.expires_at == 0 || p.expires_at > now.0 || p.refresh.is_some()).collect();
        if list.len() > 1 && !entry.ordered {
            let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            let sticky = session.and_then(|s| health.sticky(s, provider));
            list.sort_by_key(|p| (sticky != Some(p.id.as_str()), p.kind, health.stats(&p.id).map_or(0, |s| s.last_used)));
        }
        if list.is_empty() && !entry.needs_key {
            list.push(Profile::key(format!("{provider}:none"), Secret::new("")));
        }
        list
    }

    /// What stands behind a model and a profile; a sentence when it cannot be asked.
    pub(crate) fn provider(&self, spec: &Arc<ModelSpec>, profile: &Profile) -> Result<Arc<dyn Provider>, String> {
        let entry = self.entries.get(&spec.provider).ok_or_else(|| format!("no provider {}", spec.provider))?;
        if let Some(given) = &entry.given {
            return Ok(given.clone());
        }
        Ok(match spec.dialect {
            Dialect::OpenAiChat => Arc::new(OpenAiChat { endpoint: self.endpoint(entry, spec, profile)? }),
            Dialect::Anthropic => Arc::new(Anthropic { endpoint: self.endpoint(entry, spec, profile)? }),
            Dialect::OpenAiResponses => Arc::new(OpenAiResponses { endpoint: self.endpoint(entry, spec, profile)? }),
            Dialect::Google => Arc::new(Google { endpoint: self.endpoint(entry, spec, profile)? }),
            Dialect::Demo => Arc::new(Demo),
            Dialect::Given | Dialect::Unsupported => {
                return Err(format!(
                    "the api \"{}\" is not supported yet; use a host that speaks openai-completions, openai-responses, anthropic-messages or google-generative-ai",
                    spec.api
                ));
            }
        })
    }

    /// The providers that can be asked now, and the local ones that may be there: id, and whether it is a local host
    /// that nobody configured.
    pub(crate) fn askable(&self) -> Vec<(String, bool)> {
        let local = |id: &str, e: &Entry| !e.configured && !e.needs_key && catalog::host(id).is_some_and(|h| h.local_port != 0);
        self.entries
            .iter()
            .filter(|(id, e)| *id != DEMO_PROVIDER && e.given.is_none() && e.usable() && e.dialect != Dialect::Unsupported)
            .map(|(id, e)| (id.clone(), local(id, e)))
            .collect()
    }

    /// The models of a provider that the config lists, else those of the catalogue.
    pub(crate) fn listed_of(&self, provider: &str) -> Vec<String> {
        let own = self.entries.get(provider).map(|e| e.listed.clone()).unwrap_or_default();
        if own.is_empty() { catalog::MODELS.iter().filter(|k| k.host == provider).map(|k| k.prefix.to_owned()).collect() } else { own }
    }

    /// True for a provider on this machine.
    pub(crate) fn is_local(&self, provider: &str) -> bool {
        let host = self.host_of(provider);
        ["://127.", "://localhost", "://[::1]"].iter().any(|near| host.contains(near))
    }

    /// The address of a provider, the key for memory of hosts.
    pub(crate) fn host_of(&self, provider: &str) -> &str {
        self.entries.get(provider).map_or("", |e| e.base_url.as_str())
    }

    /// The profile that expired first of those a provider has and cannot use.
    pub(crate) fn expired(&self, provider: &str, now: Millis) -> Option<String> {
        let entry = self.entries.get(provider)?;
        entry.profiles.iter().filter(|p| p.expires_at != 0 && p.expires_at <= now.0 && p.refresh.is_none()).min_by_key(|p| p.expires_at).map(|p| p.id.clone())
    }

    pub(crate) async fn endpoint_of(&self, provider: &str) -> Option<Endpoint> {
        let entry = self.entries.get(provider)?;
        let spec = Arc::new(ModelSpec::unknown(provider, "", entry.dialect, &entry.api));
        let profile = self.profiles(provider, None, self.world.clock.now()).into_iter().next()?;
        let profile = self.fresh(&profile).await.ok()?;
        self.endpoint(entry, &spec, &profile).ok()
    }

    fn endpoint(&self, entry: &Entry, spec: &Arc<ModelSpec>, profile: &Profile) -> Result<Endpoint, String> {
        let mut headers = HeaderMap::new();
        let mut secrets = Vec::new();
        let mut set = |name: &str, value: &str| -> Result<(), String> {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name} is no header name"))?;
            let mut value = HeaderValue::from_str(value).map_err(|_| format!("the value of the header {name} has characters that headers cannot carry"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok(())
        };
        let key = profile.secret.expose();
        let token = profile.kind != ProfileKind::ApiKey || key.starts_with("sk-ant-oat");
        if !key.is_empty() {
            secrets.push(key.to_owned());
            match spec.dialect {
                Dialect::Anthropic if !token => {
                    set("x-api-key", key)?;
                    if entry.auth_header {
                        set("authorization", &format!("Bearer {key}"))?;
                    }
                }
                Dialect::Google if !token => {
                    set("x-goog-api-key", key)?;
                    if entry.auth_header {
                        set("authorization", &format!("Bearer {key}"))?;
                    }
                }
                _ => set("authorization", &format!("Bearer {key}"))?,
            }
        }
        if spec.dialect == Dialect::Anthropic {
            set("anthropic-version", "2023-06-01")?;
            if token && !key.is_empty() {
                set("anthropic-beta", "oauth-2025-04-20")?;
            }
        }
        for (name, value) in &entry.headers {
            secrets.push(value.expose().to_owned());
            set(name, value.expose())?;
        }
        for (name, value) in &spec.headers {
            set(name, value)?;
        }
        Ok(Endpoint {
            http: self.world.http.clone(),
            rng: self.world.rng.clone(),
            spec: spec.clone(),
            base_url: entry.base_url.clone(),
            headers,
            secrets,
            head_timeout_ms: entry.head_timeout_ms,
            idle_timeout_ms: entry.idle_timeout_ms,
            event_timeout_ms: EVENT_TIMEOUT_MS.max(entry.idle_timeout_ms),
        })
    }
}

impl Entry {
    fn usable(&self) -> bool {
        !self.needs_key || !self.profiles.is_empty()
    }
}

fn blank(dialect: Dialect, api: &str) -> Entry {
    Entry {
        base_url: String::new(),
        api: api.to_owned(),
        dialect,
        compat: Compat::default(),
        headers: BTreeMap::new(),
        auth_header: false,
        head_timeout_ms: HEAD_TIMEOUT_MS,
        idle_timeout_ms: IDLE_TIMEOUT_MS,
        params: None,
        max_tokens: None,
        profiles: Vec::new(),
        ordered: false,
        configured: false,
        needs_key: false,
        given: None,
        models: BTreeMap::new(),
        listed: Vec::new(),
    }
}

fn demo() -> Entry {
    let mut entry = blank(Dialect::Demo, "clawstead-demo");
    let mut spec = ModelSpec::unknown(DEMO_PROVIDER, DEMO_MODEL, Dialect::Demo, "clawstead-demo");
    spec.name = "Clawstead demo (no real model)".into();
    entry.listed.push(DEMO_MODEL.into());
    entry.models.insert(DEMO_MODEL.into(), Arc::new(spec));
    entry
}

fn entry(id: &str, section: &ProviderInput, input: &ModelsInput, warnings: &mut Vec<String>) -> Entry {
    let host = catalog::host(id);
    // An `api` on the rows alone is usual in older configs.
    let api = section
        .api
        .clone()
        .or_else(|| section.models.iter().find_map(|m| m.api.clone()))
        .or_else(|| compatible(section).then(|| "openai-completions".to_owned()))
        .or_else(|| host.map(|h| h.api.to_owned()))
        .unwrap_or_else(|| "openai-completions".into());
    let dialect = Dialect::parse(&api).unwrap_or_else(|| {
        warnings.push(format!("models.providers.{id}.api \"{api}\" is not known; openai-completions is used"));
        Dialect::OpenAiChat
    });
    let mut out = blank(dialect, &api);
    out.compat = host.map(catalog::Host::compat).unwrap_or_default();
    let own_address = !section.from_environment && (section.base_url.is_some());
    out.base_url = section.base_url.clone().or_else(|| host.map(|h| h.base_url.to_owned())).unwrap_or_default();
    if api == "ollama" && !out.base_url.ends_with("/v1") {
        out.base_url.push_str("/v1");
    }
    if out.base_url.is_empty() && dialect != Dialect::Unsupported && dialect != Dialect::Demo {
        warnings.push(format!("models.providers.{id} has no baseUrl and is no known host"));
    }
    // The real OpenAI differs from all who imitate it.
    if host.is_some_and(|h| h.id == "openai") && own_address && !out.base_url.contains("api.openai.com") {
        out.compat = Compat::default();
    }
    out.headers = section.headers.clone();
    out.auth_header = section.auth_header;
    out.params = section.params.clone();
    out.max_tokens = section.max_tokens;
    if let Some(s) = section.timeout_s {
        out.head_timeout_ms = s.saturating_mul(1_000);
        out.idle_timeout_ms = out.idle_timeout_ms.max(out.head_timeout_ms);
    }
    out.profiles = profiles(id, section, input, own_address);
    if let Some(order) = input.order.get(id) {
        out.ordered = true;
        let place = |p: &Profile| order.iter().position(|o| *o == p.id).unwrap_or(usize::MAX);
        out.profiles.sort_by_key(place);
    }
    // A host of one's own, or one on this machine, may be open.
    out.needs_key = dialect != Dialect::Demo && !own_address && host.is_none_or(|h| h.local_port == 0);
    for model in &section.models {
        let spec = describe(id, &out, model, warnings);
        if !out.models.contains_key(&model.id) {
            out.listed.push(model.id.clone());
        }
        out.models.insert(model.id.clone(), Arc::new(spec));
    }
    out
}

/// Google's OpenAI-compatible address, in configs that name no `api`.
fn compatible(section: &ProviderInput) -> bool {
    section.base_url.as_deref().is_some_and(|url| url.contains("googleapis.com") && url.ends_with("/openai"))
}

/// Stored profiles first, then the config's keys. A key of the environment is for the host's own address only: a
/// config that points elsewhere must name its key.
fn profiles(id: &str, section: &ProviderInput, input: &ModelsInput, own_address: bool) -> Vec<Profile> {
    let of = |p: &ProfileInput| Profile {
        id: p.id.clone(),
        kind: p.kind,
        secret: p.secret.clone(),
        expires_at: p.expires_at,
        refresh: p.refresh.clone().map(Arc::new),
        file: p.file.as_ref().map(|path| Arc::new(AuthFile::at(path))),
    };
    let mut out: Vec<Profile> = input.profiles.iter().filter(|p| p.provider == id).map(of).collect();
    for (i, key) in section.api_keys.iter().enumerate() {
        let name = if i == 0 { format!("{id}:config") } else { format!("{id}:config-{}", i + 1) };
        out.push(Profile::key(name, key.clone()));
    }
    if section.api_keys.is_empty()
        && !own_address
        && let Some(key) = input.env_keys.get(id)
    {
        out.push(Profile::key(format!("{id}:env"), key.clone()));
    }
    out
}

/// A model row with everything the catalogue adds.
fn describe(provider: &str, entry: &Entry, row: &ModelInput, warnings: &mut Vec<String>) -> ModelSpec {
    let (dialect, api) = match &row.api {
        Some(api) => (
            Dialect::parse(api).unwrap_or_else(|| {
                warnings.push(format!("models.providers.{provider}: the api \"{api}\" of {} is not known; openai-completions is used", row.id));
                Dialect::OpenAiChat
            }),
            api.as_str(),
        ),
        None => (entry.dialect, entry.api.as_str()),
    };
    let mut spec = ModelSpec::unknown(provider, &row.id, dialect, api);
    spec.compat = entry.compat;
    if let Some((known, priced)) = catalog::known(provider, &row.id) {
        known.name.clone_into(&mut spec.name);
        spec.context_window = known.context;
        spec.max_tokens = known.output;
        spec.max_tokens_known = true;
        spec.reasoning = known.reasoning;
        spec.images = known.images;
        spec.cost = priced.then(|| known.cost());
    }
    if let Some(name) = &row.name {
        spec.name.clone_from(name);
    }
    if let Some(v) = row.reasoning {
        spec.reasoning = v;
    }
    if let Some(input) = &row.input {
        spec.images = input.iter().any(|i| i == "image");
    }
    if let Some(tokens) = row.context_window {
        spec.context_window = tokens;
    }
    if let Some(tokens) = row.max_tokens.or(entry.max_tokens) {
        spec.max_tokens = tokens;
        spec.max_tokens_known = true;
    }
    if let Some(cost) = row.cost.as_ref().and_then(|c| serde_json::from_value::<Cost>(c.clone()).ok()) {
        spec.cost = Some(cost);
    }
    if let Some(compat) = &row.compat {
        spec.compat.apply(compat);
    }
    spec.headers.clone_from(&row.headers);
    spec.params = merged(entry.params.as_ref(), row.params.as_ref());
    spec
}

/// The fields of both; the second wins.
pub(crate) fn merged(base: Option<&Value>, over: Option<&Value>) -> Option<Value> {
    match (base, over) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let mut out = a.clone();
            out.extend(b.iter().map(|(k, v)| (k.clone(), v.clone())));
            Some(Value::Object(out))
        }
        (a, b) => b.or(a).cloned(),
    }
}
