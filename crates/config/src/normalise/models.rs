//! Providers and aliases.

use serde_json::{Value, json};

use super::{Pass, own};

pub(super) fn normalise(pass: &mut Pass<'_>) {
    aliases(pass);
    let providers: Vec<String> = pass.get(&["models", "providers"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.clone()).collect();
    for id in providers {
        if pass.get(&["models", "providers", &id, "api"]).and_then(Value::as_str) == Some("openai")
            && let Some(provider) = pass.object(&["models", "providers", &id])
        {
            provider.insert("api".into(), json!("openai-completions"));
        }
    }
}

/// `model_routing.aliases {name: "model/id"}`: the first provider that has the model.
fn aliases(pass: &mut Pass<'_>) {
    let Some(Value::Object(aliases)) = pass.get(&["model_routing", "aliases"]).cloned() else {
        if pass.get(&["model_routing"]).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            pass.take(&["model_routing"]);
        }
        return;
    };
    pass.take(&["model_routing", "aliases"]);
    pass.warn(&own(&["model_routing", "aliases"]), "\"model_routing.aliases\" is read as \"agents.defaults.models.*.alias\"");
    for (alias, target) in aliases {
        let Some(target) = target.as_str() else { continue };
        let providers = pass.get(&["models", "providers"]).and_then(Value::as_object);
        let has = |p: &Value| p.get("models").and_then(Value::as_array).is_some_and(|l| l.iter().any(|m| m.get("id").and_then(Value::as_str) == Some(target)));
        let owner = providers.into_iter().flatten().find(|(_, p)| has(p)).map(|(id, _)| id.clone());
        let Some(reference) = owner.map(|id| format!("{id}/{target}")).or_else(|| {
            // already a full reference
            let known = crate::split_model_ref(target).is_some_and(|(p, _)| pass.get(&["models", "providers", p]).is_some());
            known.then(|| target.to_owned())
        }) else {
            pass.warn(&own(&["model_routing", "aliases", &alias]), format!("no provider has the model \"{target}\"; the alias \"{alias}\" is ignored"));
            continue;
        };
        if let Some(entry) = pass.object(&["agents", "defaults", "models", &reference]) {
            entry.entry("alias").or_insert(Value::String(alias));
        }
    }
    if pass.get(&["model_routing"]).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
        pass.take(&["model_routing"]);
    }
}
