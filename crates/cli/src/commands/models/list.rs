use serde_json::{Value, json};

use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Kind,
    format::{list, number, text},
    print,
    rpc::{self, Connect},
};

/// Models that can be used.
#[derive(clap::Args)]
pub struct Args {
    /// Not only configured ones
    #[arg(long)]
    all: bool,
    /// Only local ones
    #[arg(long)]
    local: bool,
    /// One provider
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// One per line
    #[arg(long)]
    plain: bool,
    /// Ask the providers again
    #[arg(long)]
    refresh: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `models list`: from the gateway, which knows what it found; from the config when none runs.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let mut params = json!({"view": if args.all { "all" } else { "default" }});
    if let Some(provider) = &args.provider {
        params["provider"] = provider.as_str().into();
    }
    if args.refresh {
        params["refresh"] = true.into();
    }
    let (_, config) = cx.config_or_defaults();
    let default = config.agents.default_agent().model.primary.clone().unwrap_or_default();
    let fallbacks = config.agents.default_agent().model.fallbacks.clone();
    let mut models = match rpc::call(cx, &Connect::configured(None), 10_000, "models.list", params) {
        Ok(found) => list(&found, "models").iter().map(|m| row(m, &default, &fallbacks)).collect(),
        Err(fail) if fail.kind == Kind::Transport => configured(&config, &default, &fallbacks),
        Err(fail) => return Err(fail),
    };
    if let Some(provider) = &args.provider {
        models.retain(|m: &Value| text(m, "key").starts_with(&format!("{provider}/")));
    }
    if args.local {
        models.retain(|m| m["local"] == true);
    }
    if args.json {
        print::json(&json!({"count": models.len(), "models": models}));
        return Ok(0);
    }
    if args.plain {
        models.iter().for_each(|m| print::line(text(m, "key")));
        return Ok(0);
    }
    if models.is_empty() {
        print::line("No models found. Set one: openclaw models set <provider/model>");
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|m| {
            let window = number(m, "contextWindow").map_or_else(|| "-".to_owned(), |n| format!("{}k", n / 1000));
            let yes = |name: &str| match &m[name] {
                Value::Bool(true) => "yes".to_owned(),
                Value::Bool(false) => "no".to_owned(),
                _ => "-".to_owned(),
            };
            let tags: Vec<&str> = list(m, "tags").iter().filter_map(Value::as_str).collect();
            vec![text(m, "key").to_owned(), text(m, "input").to_owned(), window, yes("local"), yes("available"), tags.join(",")]
        })
        .collect();
    print::columns(&["Model", "Input", "Ctx", "Local", "Auth", "Tags"], &rows);
    Ok(0)
}

fn tags(key: &str, default: &str, fallbacks: &[String]) -> Vec<String> {
    let mut tags = Vec::new();
    if key == default {
        tags.push("default".to_owned());
    }
    if let Some(at) = fallbacks.iter().position(|f| f == key) {
        tags.push(format!("fallback#{}", at + 1));
    }
    tags
}

fn row(model: &Value, default: &str, fallbacks: &[String]) -> Value {
    let id = text(model, "id");
    let provider = text(model, "provider");
    let key = if id.starts_with(&format!("{provider}/")) || provider.is_empty() { id.to_owned() } else { format!("{provider}/{id}") };
    let input = match &model["input"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("+"),
        Value::String(kind) => kind.clone(),
        _ => "text".into(),
    };
    let local = model.get("local").and_then(Value::as_bool).unwrap_or(matches!(provider, "ollama" | "lmstudio" | "litellm" | "vllm" | "demo"));
    json!({
        "key": key, "name": model["name"], "input": input, "contextWindow": model["contextWindow"], "local": local,
        "available": model.get("available").cloned().unwrap_or(true.into()), "tags": tags(&key, default, fallbacks), "missing": false,
    })
}

fn configured(config: &clawstead_config::Config, default: &str, fallbacks: &[String]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for provider in &config.models.providers {
        for model in &provider.models {
            let key = format!("{}/{}", provider.id, model.id);
            let near = provider.base_url.as_deref().is_some_and(|u| u.contains("127.0.0.1") || u.contains("localhost"));
            out.push(json!({"key": key, "name": model.name, "input": if model.images { "text+image" } else { "text" }, "contextWindow": model.context_window, "local": near, "available": provider.api_key.is_some() || near, "tags": tags(&key, default, fallbacks), "missing": false}));
        }
    }
    let named = config
        .models
        .entries
        .iter()
        .map(|e| e.reference.as_str())
        .chain(std::iter::once(default))
        .chain(fallbacks.iter().map(String::as_str))
        .filter(|k| !k.is_empty());
    for key in named {
        if !out.iter().any(|m| text(m, "key") == key) {
            out.push(json!({"key": key, "name": key, "input": "text", "contextWindow": null, "local": false, "available": null, "tags": tags(key, default, fallbacks), "missing": false}));
        }
    }
    out
}
