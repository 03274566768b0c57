use std::collections::BTreeMap;

use serde_json::Value;

use super::Cx;
use crate::{
    secret::Secret,
    view::{Raw, View},
};

/// Prices in dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Input.
    pub input: f64,
    /// Output.
    pub output: f64,
    /// Input read from a cache.
    pub cache_read: f64,
    /// Input written to a cache.
    pub cache_write: f64,
}

/// One model of a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// As the provider calls it; may hold slashes.
    pub id: String,
    /// Shown name; the id when not given.
    pub name: String,
    /// API dialect when it differs from the provider's.
    pub api: Option<String>,
    /// Has thinking levels.
    pub reasoning: bool,
    /// Takes images.
    pub images: bool,
    /// Prices.
    pub cost: Cost,
    /// Tokens in all; default 200000.
    pub context_window: u64,
    /// Tokens of an answer; default 8192.
    pub max_tokens: u64,
    /// Headers beside the provider's.
    pub headers: BTreeMap<String, Secret>,
    /// `compat` as written, or null.
    pub compat: Raw,
    /// True when the id was only found in a reference, not in a list.
    pub implied: bool,
}

/// `models.providers.<id>`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderConfig {
    /// The part of a reference before the first slash, lower case.
    pub id: String,
    /// None for a bundled provider with its usual address.
    pub base_url: Option<String>,
    /// None when not given or not resolved; keyless servers need none.
    pub api_key: Option<Secret>,
    /// `openai-completions`, `anthropic-messages`, ...; none means as bundled.
    pub api: Option<String>,
    /// `api-key`, `aws-sdk`, `oauth`, `token`.
    pub auth: Option<String>,
    /// Sent with every call.
    pub headers: BTreeMap<String, Secret>,
    /// Send the key as `Authorization: Bearer`; none means as the dialect does.
    pub auth_header: Option<bool>,
    /// In the order of the file.
    pub models: Vec<Model>,
    /// True when the config gave no model list and any id is allowed.
    pub dynamic: bool,
    /// The block as written (without resolved secrets being hidden: never log it).
    pub raw: Raw,
}

/// `agents.defaults.models.<ref>`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEntry {
    /// `provider/model`.
    pub reference: String,
    /// Short name.
    pub alias: Option<String>,
    /// Call parameters, or null.
    pub params: Raw,
    /// False switches streaming off.
    pub streaming: Option<bool>,
}

/// `models` with the catalogue of `agents.defaults.models`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelsConfig {
    /// True for `mode: replace`: bundled providers do not count.
    pub replace: bool,
    /// In the order of the file.
    pub providers: Vec<ProviderConfig>,
    /// Aliases and parameters in the order of the file.
    pub entries: Vec<ModelEntry>,
    /// References that `/model` and overrides may choose; none means all (`agents.defaults.modelPolicy.allow`).
    pub allow: Option<Vec<String>>,
}

impl ModelsConfig {
    /// By id.
    #[must_use]
    pub fn provider(&self, id: &str) -> Option<&ProviderConfig> {
        self.providers.iter().find(|p| p.id == id)
    }

    /// Makes a full reference of what a user wrote: an alias (any case), a reference with provider, or a bare model
    /// id that exactly one provider has. None when it is none of these.
    #[must_use]
    pub fn resolve(&self, text: &str) -> Option<String> {
        let text = text.trim();
        if let Some(e) = self.entries.iter().find(|e| e.alias.as_deref().is_some_and(|a| a.eq_ignore_ascii_case(text))) {
            return Some(e.reference.clone());
        }
        if let Some((provider, model)) = split_model_ref(text)
            && (self.provider(&provider.to_lowercase()).is_some() || !self.has_model(text))
        {
            return Some(format!("{}/{model}", provider.to_lowercase()));
        }
        let mut found = self.providers.iter().filter(|p| p.models.iter().any(|m| m.id == text));
        match (found.next(), found.next()) {
            (Some(p), None) => Some(format!("{}/{text}", p.id)),
            _ => None,
        }
    }

    fn has_model(&self, id: &str) -> bool {
        self.providers.iter().any(|p| p.models.iter().any(|m| m.id == id))
    }
}

/// Splits `provider/model` at the first slash; none without one or with an empty side.
#[must_use]
pub fn split_model_ref(text: &str) -> Option<(&str, &str)> {
    text.trim().split_once('/').filter(|(p, m)| !p.is_empty() && !m.is_empty())
}

fn headers(v: View<'_>) -> BTreeMap<String, Secret> {
    v.map().filter_map(|(k, v)| Some((k.to_owned(), v.secret()?))).collect()
}

fn model(v: View<'_>) -> Option<Model> {
    let id = v.at("id").word()?;
    let cost = v.at("cost");
    let price = |key: &str| cost.at(key).f64().unwrap_or_default();
    Some(Model {
        name: v.at("name").word().unwrap_or_else(|| id.clone()),
        id,
        api: v.at("api").word(),
        reasoning: v.at("reasoning").flag(false),
        images: v.at("input").texts().is_some_and(|kinds| kinds.iter().any(|k| k == "image")),
        cost: Cost { input: price("input"), output: price("output"), cache_read: price("cacheRead"), cache_write: price("cacheWrite") },
        context_window: v.at("contextWindow").u64().filter(|n| *n > 0).unwrap_or(200_000),
        max_tokens: v.at("maxTokens").u64().filter(|n| *n > 0).unwrap_or(8192),
        headers: headers(v.at("headers")),
        compat: v.at("compat").cloned(),
        implied: v.at("implied").flag(false),
    })
}

pub(crate) fn read(cx: &Cx<'_>) -> ModelsConfig {
    let m = cx.root.at("models");
    let d = cx.root.path("agents.defaults");
    let refs = collect_refs(cx.root);
    ModelsConfig {
        replace: m.at("mode").str() == Some("replace"),
        providers: m.at("providers").map().map(|(id, v)| provider(id, v, &refs)).collect(),
        entries: d
            .at("models")
            .map()
            .map(|(reference, v)| ModelEntry {
                reference: reference.to_owned(),
                alias: v.at("alias").word(),
                params: v.at("params").cloned(),
                streaming: v.at("streaming").bool(),
            })
            .collect(),
        allow: d.path("modelPolicy.allow").texts(),
    }
}

fn provider(id: &str, v: View<'_>, refs: &[String]) -> ProviderConfig {
    let id = id.trim().to_lowercase();
    let base_url = v.at("baseUrl").word();
    let mut models: Vec<Model> = v.at("models").list().filter_map(model).collect();
    let dynamic = models.is_empty();
    if dynamic && base_url.is_some() {
        for name in refs.iter().filter_map(|r| split_model_ref(r)).filter(|(p, _)| p.eq_ignore_ascii_case(&id)).map(|(_, m)| m) {
            if models.iter().all(|m| m.id != name) {
                let made = serde_json::json!({"id": name, "implied": true});
                models.extend(model(View(Some(&made))));
            }
        }
    }
    let has_address = base_url.is_some();
    ProviderConfig {
        api: v
            .at("api")
            .word()
            .map(|a| if a == "openai" { "openai-completions".into() } else { a })
            .or_else(|| (dynamic && has_address).then(|| "openai-completions".into())),
        id,
        base_url,
        api_key: v.at("apiKey").secret(),
        auth: v.at("auth").word(),
        headers: headers(v.at("headers")),
        auth_header: v.at("authHeader").bool(),
        models,
        dynamic,
        raw: v.cloned(),
    }
}

/// Every model reference of the agents part, in order of appearance.
fn collect_refs(root: View<'_>) -> Vec<String> {
    fn walk(v: &Value, model_here: bool, out: &mut Vec<String>) {
        match v {
            Value::String(s) if model_here && !out.contains(s) => out.push(s.clone()),
            Value::Array(list) => list.iter().for_each(|v| walk(v, model_here, out)),
            Value::Object(map) => {
                for (key, v) in map {
                    let named = matches!(key.as_str(), "model" | "imageModel" | "primary" | "fallbacks" | "utilityModel" | "pdfModel" | "decisionModel");
                    walk(v, named, out);
                }
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    for part in ["agents", "hooks", "cron", "channels"] {
        if let Some(v) = root.at(part).0 {
            walk(v, false, &mut out);
        }
    }
    out.extend(root.path("agents.defaults.models").map().map(|(k, _)| k.to_owned()));
    out
}
