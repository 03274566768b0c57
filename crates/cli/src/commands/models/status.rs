use clawstead_config::{Config, split_model_ref};
use clawstead_providers::AuthFile;
use serde_json::{Value, json};

use super::edit::alias_map;
use crate::{
    commands::Outcome,
    cx::Cx,
    format::{list, now_ms, number},
    print,
};

/// Default model, fallbacks and credentials.
#[derive(clap::Args, Default)]
#[group(skip)]
pub struct Args {
    /// Agent [default: the default agent]
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only the default model
    #[arg(long)]
    plain: bool,
    /// Exit 1 when a credential is missing or expired, 2 when one expires within a day
    #[arg(long)]
    check: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// A sign-in that ends within this time is warned about, milliseconds.
const WARN_AFTER_MS: i64 = 86_400_000;

/// The variable that usually holds a provider's key.
#[must_use]
pub fn key_variable(provider: &str) -> String {
    match provider {
        "google" => "GEMINI_API_KEY".into(),
        "huggingface" => "HF_TOKEN".into(),
        "github-copilot" => "GITHUB_TOKEN".into(),
        other => format!("{}_API_KEY", other.to_uppercase().replace('-', "_")),
    }
}

/// `sk...ck`.
fn masked(key: &str) -> String {
    let chars: Vec<char> = key.chars().collect();
    if chars.len() < 8 { "***".into() } else { format!("{}...{}", chars[..2].iter().collect::<String>(), chars[chars.len() - 2..].iter().collect::<String>()) }
}

/// Where the key of a provider comes from.
fn effective(config: &Config, profiles: &[Value], provider: &str) -> Value {
    if let Some(found) = profiles.iter().find(|p| crate::format::text(p, "provider") == provider) {
        return json!({"kind": "profiles", "detail": crate::format::text(found, "id")});
    }
    if let Some(key) = config.models.provider(provider).and_then(|p| p.api_key.as_ref()) {
        return json!({"kind": "models.json", "detail": masked(key.expose())});
    }
    let variable = key_variable(provider);
    match config.env.trimmed(&variable) {
        Some(key) => json!({"kind": "env", "detail": format!("{variable}={}", masked(key))}),
        None if matches!(provider, "ollama" | "lmstudio" | "litellm" | "vllm" | "demo") => json!({"kind": "none-needed", "detail": "local"}),
        None if config.models.provider(provider).is_some_and(|p| p.base_url.is_some()) => {
            json!({"kind": "none-needed", "detail": "configured address without key"})
        }
        None => json!({"kind": "missing", "detail": format!("set {variable} or openclaw models auth paste-api-key --provider {provider}")}),
    }
}

/// The stored profiles of an agent, without their secrets.
pub fn profiles(store: &Value) -> Vec<Value> {
    store["profiles"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(id, p)| json!({"id": id, "provider": p["provider"], "type": p["type"], "email": p.get("email"), "expires": p.get("expires"), "renews": p.get("refresh").is_some()}))
        .collect()
}

/// `models status`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let config = &loaded.config;
    let agent = crate::commands::agents::find(config, args.agent.as_deref())?;
    let default = agent.model.primary.clone();
    if args.plain {
        print::line(default.as_deref().unwrap_or("(found at start)"));
        return Ok(0);
    }
    let file = AuthFile::of(&agent.agent_dir);
    let (store, stored) = (file.path().to_path_buf(), profiles(&file.read()?));
    let mut in_use: Vec<String> = default.iter().chain(&agent.model.fallbacks).filter_map(|r| split_model_ref(r).map(|(p, _)| p.to_owned())).collect();
    in_use.extend(config.models.providers.iter().map(|p| p.id.clone()));
    in_use.extend(stored.iter().map(|p| crate::format::text(p, "provider").to_owned()));
    in_use.sort();
    in_use.dedup();
    let providers: Vec<Value> = in_use
        .iter()
        .map(|p| {
            let own: Vec<&Value> = stored.iter().filter(|s| crate::format::text(s, "provider") == p).collect();
            let count = |kind: &str| own.iter().filter(|s| crate::format::text(s, "type") == kind).count();
            json!({"provider": p, "effective": effective(config, &stored, p), "profiles": {"count": own.len(), "oauth": count("oauth"), "token": count("token"), "apiKey": count("api_key"), "labels": own.iter().map(|s| s["id"].clone()).collect::<Vec<_>>()}})
        })
        .collect();
    let now = now_ms();
    let life = |p: &Value| number(p, "expires").filter(|at| *at > 0).map(|at| at - now);
    // A sign-in that renews itself does not run out.
    let ends = |p: &Value| life(p).filter(|_| p["renews"] != true);
    let expired: Vec<&Value> = stored.iter().filter(|p| ends(p).is_some_and(|ms| ms <= 0)).collect();
    let closing = stored.iter().any(|p| ends(p).is_some_and(|ms| ms > 0 && ms < WARN_AFTER_MS));
    let oauth: Vec<Value> = stored
        .iter()
        .filter(|p| p["type"] != "api_key")
        .map(|p| {
            let status = match ends(p) {
                Some(ms) if ms <= 0 => "expired",
                Some(ms) if ms < WARN_AFTER_MS => "expiring",
                Some(_) => "ok",
                None if p["renews"] == true => "ok",
                None => "static",
            };
            json!({"profileId": p["id"], "provider": p["provider"], "type": p["type"], "status": status, "expiresAt": p["expires"], "remainingMs": life(p), "source": "store", "label": p["id"]})
        })
        .collect();
    let with_oauth: Vec<String> = providers
        .iter()
        .filter(|p| p["profiles"]["oauth"] != 0 || p["profiles"]["token"] != 0)
        .map(|p| crate::format::text(p, "provider").to_owned())
        .collect();
    let missing: Vec<&str> = providers.iter().filter(|p| p["effective"]["kind"] == "missing").map(|p| crate::format::text(p, "provider")).collect();
    let image = agent.image_model.clone();
    let aliases = alias_map(config);
    let report = json!({
        "configPath": cx.paths.config_path, "agentId": agent.id, "agentDir": agent.agent_dir,
        "defaultModel": default, "resolvedDefault": default, "fallbacks": agent.model.fallbacks,
        "imageModel": image.as_ref().and_then(|m| m.primary.clone()), "imageFallbacks": image.map(|m| m.fallbacks).unwrap_or_default(),
        "utilityModel": {"ref": null, "source": "none"}, "aliases": aliases, "allowed": config.models.allow.clone().unwrap_or_default(),
        "auth": {
            "storePath": store, "shellEnvFallback": {"enabled": false, "appliedKeys": []}, "providersWithOAuth": with_oauth, "missingProvidersInUse": missing,
            "modelRouteIssues": [], "runtimeAuthRoutes": [], "providers": providers, "unusableProfiles": expired.iter().map(|p| json!({"profileId": p["id"], "provider": p["provider"], "kind": "expired"})).collect::<Vec<_>>(),
            "oauth": {"warnAfterMs": WARN_AFTER_MS, "profiles": oauth, "providers": []},
        },
    });
    let exit = match args.check {
        true if !missing.is_empty() || !expired.is_empty() => 1,
        true if closing => 2,
        _ => 0,
    };
    if args.json {
        print::json(&report);
        return Ok(exit);
    }
    let row = |label: &str, value: String| print::line(&format!("{label:<22}: {value}"));
    let joined = |items: &[String]| if items.is_empty() { "-".to_owned() } else { items.join(", ") };
    row("Config", cx.paths.display(&cx.paths.config_path));
    row("Agent dir", cx.paths.display(&agent.agent_dir));
    row("Default", default.clone().unwrap_or_else(|| "(found at start: environment keys, Ollama, LM Studio, LiteLLM, else the demo model)".into()));
    row(&format!("Fallbacks ({})", agent.model.fallbacks.len()), joined(&agent.model.fallbacks));
    row("Image model", report["imageModel"].as_str().unwrap_or("-").to_owned());
    row(&format!("Aliases ({})", aliases.len()), joined(&aliases.iter().map(|(a, m)| format!("{a} -> {}", crate::format::scalar(m))).collect::<Vec<_>>()));
    row(
        &format!("Allowed models ({})", list(&report, "allowed").len()),
        if config.models.allow.is_none() { "all".into() } else { joined(&config.models.allow.clone().unwrap_or_default()) },
    );
    print::line("");
    print::headline("Auth overview");
    row("Auth store", cx.paths.display(&store));
    for provider in &providers {
        print::line(&format!(
            "- {} {}: {}",
            crate::format::text(provider, "provider"),
            crate::format::text(&provider["effective"], "kind"),
            crate::format::text(&provider["effective"], "detail")
        ));
    }
    for one in &oauth {
        print::line(&format!("- {} {}: {}", crate::format::text(one, "profileId"), crate::format::text(one, "type"), crate::format::text(one, "status")));
    }
    Ok(exit)
}
