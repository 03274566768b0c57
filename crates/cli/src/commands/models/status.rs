use clap::Subcommand;
use clawstead_config::{Config, split_model_ref};
use serde_json::{Value, json};

use super::edit::alias_map;
use crate::{commands::Outcome, cx::Cx, fail::Fail, format::list, print};

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
    /// Exit 1 when a credential in use is missing
    #[arg(long)]
    check: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Credentials of providers.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct AuthArgs {
    #[command(subcommand)]
    verb: AuthVerb,
}

#[derive(Subcommand)]
enum AuthVerb {
    /// Stored credentials
    List {
        /// One provider
        #[arg(long, value_name = "ID")]
        provider: Option<String>,
        /// Agent
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Store an API key
    PasteApiKey {
        /// Provider
        #[arg(long, value_name = "ID")]
        provider: String,
        /// Profile name
        #[arg(long, value_name = "ID")]
        profile_id: Option<String>,
        /// Agent
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
    },
    /// Store a bearer token
    PasteToken {
        /// Provider
        #[arg(long, value_name = "ID")]
        provider: String,
        /// Profile name
        #[arg(long, value_name = "ID")]
        profile_id: Option<String>,
        /// Agent
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
    },
}

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

fn profiles(path: &std::path::Path) -> Vec<Value> {
    let Ok(bytes) = std::fs::read(path) else { return Vec::new() };
    let store: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    store["profiles"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(id, p)| json!({"id": id, "provider": p["provider"], "type": p["type"], "email": p.get("email"), "expires": p.get("expires")}))
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
    let store = agent.agent_dir.join("auth-profiles.json");
    let stored = profiles(&store);
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
    let missing: Vec<&str> = providers.iter().filter(|p| p["effective"]["kind"] == "missing").map(|p| crate::format::text(p, "provider")).collect();
    let image = agent.image_model.clone();
    let aliases = alias_map(config);
    let report = json!({
        "configPath": cx.paths.config_path, "agentId": agent.id, "agentDir": agent.agent_dir,
        "defaultModel": default, "resolvedDefault": default, "fallbacks": agent.model.fallbacks,
        "imageModel": image.as_ref().and_then(|m| m.primary.clone()), "imageFallbacks": image.map(|m| m.fallbacks).unwrap_or_default(),
        "utilityModel": {"ref": null, "source": "none"}, "aliases": aliases, "allowed": config.models.allow.clone().unwrap_or_default(),
        "auth": {
            "storePath": store, "shellEnvFallback": {"enabled": false, "appliedKeys": []}, "providersWithOAuth": [], "missingProvidersInUse": missing,
            "modelRouteIssues": [], "runtimeAuthRoutes": [], "providers": providers, "unusableProfiles": [],
            "oauth": {"warnAfterMs": 86_400_000, "profiles": stored, "providers": []},
        },
    });
    let exit = u8::from(args.check && !missing.is_empty());
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
    Ok(exit)
}

/// `models auth`.
pub fn auth(args: &AuthArgs, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    match &args.verb {
        AuthVerb::List { provider, agent, json } => {
            let agent = crate::commands::agents::find(&loaded.config, agent.as_deref())?;
            let path = agent.agent_dir.join("auth-profiles.json");
            let mut rows = profiles(&path);
            rows.retain(|r| provider.as_deref().is_none_or(|p| crate::format::text(r, "provider") == p));
            if *json {
                print::json(&json!({"agentId": agent.id, "agentDir": agent.agent_dir, "authStatePath": path, "provider": provider, "profiles": rows}));
            } else if rows.is_empty() {
                print::line("No stored credentials.");
            } else {
                rows.iter().for_each(|r| print::line(&format!("- {} ({})", crate::format::text(r, "id"), crate::format::text(r, "type"))));
            }
            Ok(0)
        }
        AuthVerb::PasteApiKey { provider, profile_id, agent } => paste(cx, &loaded.config, provider, profile_id.as_deref(), agent.as_deref(), "api_key", "key"),
        AuthVerb::PasteToken { provider, profile_id, agent } => paste(cx, &loaded.config, provider, profile_id.as_deref(), agent.as_deref(), "token", "token"),
    }
}

fn paste(cx: &Cx, config: &Config, provider: &str, profile: Option<&str>, agent: Option<&str>, kind: &str, field: &str) -> Outcome {
    use std::io::{BufRead as _, IsTerminal as _};
    let agent = crate::commands::agents::find(config, agent)?;
    let secret = if std::io::stdin().is_terminal() {
        cliclack::password(format!("Paste the {} of {provider}", if kind == "token" { "token" } else { "API key" })).mask('*').interact()?
    } else {
        std::io::stdin().lock().lines().next().transpose()?.unwrap_or_default()
    };
    let secret = secret.trim();
    if secret.is_empty() {
        return Err(Fail::new("Nothing was pasted."));
    }
    let id = profile.map_or_else(|| format!("{provider}:{}", if kind == "token" { "manual" } else { "default" }), str::to_owned);
    let path = agent.agent_dir.join("auth-profiles.json");
    store_profile(&path, &id, json!({"type": kind, "provider": provider, field: secret}))?;
    print::line(&format!("Stored {id} in {}.", cx.paths.display(&path)));
    Ok(0)
}

/// Puts a profile into `auth-profiles.json`.
///
/// # Errors
/// When the file holds something else or cannot be written.
pub fn store_profile(path: &std::path::Path, id: &str, profile: Value) -> Result<(), Fail> {
    let mut store: Value = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|err| Fail::new(format!("{} is not valid JSON: {err}", path.display())))?,
        Err(_) => json!({"version": 1, "profiles": {}}),
    };
    if !store["profiles"].is_object() {
        store["profiles"] = json!({});
    }
    store["profiles"][id] = profile;
    crate::device::write_private(path, &(serde_json::to_string_pretty(&store).unwrap_or_default() + "\n"))
        .map_err(|err| Fail::new(format!("{}: {err}", path.display())))
}
