//! `openclaw onboard`: everything at once, with questions or from flags.

use std::io::IsTerminal as _;

use clap::builder::PossibleValuesParser;
use clawstead_config::{Edit, MapWrite};
use serde_json::{Value, json};

use super::{Outcome, config, models::store_profile, setup};
use crate::{cx::Cx, device, fail::Fail, local, print};

/// Providers with an `--<provider>-api-key` flag: choice, provider, model that is chosen with it.
const PROVIDERS: [(&str, &str, &str); 17] = [
    ("apiKey", "anthropic", "anthropic/claude-sonnet-4-5"),
    ("openai-api-key", "openai", "openai/gpt-5"),
    ("gemini-api-key", "google", "google/gemini-2.5-pro"),
    ("openrouter-api-key", "openrouter", "openrouter/auto"),
    ("mistral-api-key", "mistral", "mistral/mistral-large-latest"),
    ("groq-api-key", "groq", ""),
    ("xai-api-key", "xai", "xai/grok-4"),
    ("zai-api-key", "zai", "zai/glm-4.6"),
    ("moonshot-api-key", "moonshot", ""),
    ("minimax-api", "minimax", ""),
    ("together-api-key", "together", ""),
    ("deepseek-api-key", "deepseek", "deepseek/deepseek-chat"),
    ("fireworks-api-key", "fireworks", ""),
    ("ollama", "ollama", ""),
    ("lmstudio", "lmstudio", ""),
    ("litellm-api-key", "litellm", ""),
    ("anthropic-api-key", "anthropic", "anthropic/claude-sonnet-4-5"),
];

/// Set everything up, with questions or from flags.
#[derive(clap::Args)]
#[group(skip)]
#[command(
    after_help = "Examples:\n  openclaw onboard\n  openclaw onboard --non-interactive --accept-risk --auth-choice skip --skip-health\n  openclaw onboard --non-interactive --accept-risk --auth-choice custom-api-key --custom-base-url http://127.0.0.1:4000/v1 --custom-model-id gpt-4o --skip-health\n  openclaw onboard --non-interactive --accept-risk --mode remote --remote-url wss://host:18789 --remote-token <token>"
)]
pub struct Args {
    /// Ask nothing
    #[arg(long)]
    pub non_interactive: bool,
    /// Agents can run commands on this machine: needed with --non-interactive
    #[arg(long)]
    accept_risk: bool,
    /// A gateway here, or a client of another one
    #[arg(long, value_parser = PossibleValuesParser::new(["local", "remote"]))]
    pub mode: Option<String>,
    /// Wizard flavour
    #[arg(long, default_value = "quickstart", value_parser = PossibleValuesParser::new(["quickstart", "advanced", "manual", "import"]))]
    flow: String,
    /// Workspace folder
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<String>,
    /// Name of the first agent
    #[arg(long, value_name = "NAME")]
    agent_name: Option<String>,
    /// How models are paid: skip, ollama, apiKey, openai-api-key, custom-api-key, token, ...
    #[arg(long, value_name = "CHOICE")]
    pub auth_choice: Option<String>,
    /// Anthropic key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    anthropic_api_key: Option<String>,
    /// OpenAI key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    openai_api_key: Option<String>,
    /// Gemini key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    gemini_api_key: Option<String>,
    /// OpenRouter key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    openrouter_api_key: Option<String>,
    /// Mistral key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    mistral_api_key: Option<String>,
    /// Groq key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    groq_api_key: Option<String>,
    /// xAI key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    xai_api_key: Option<String>,
    /// Z.AI key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    zai_api_key: Option<String>,
    /// Moonshot key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    moonshot_api_key: Option<String>,
    /// MiniMax key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    minimax_api_key: Option<String>,
    /// Together key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    together_api_key: Option<String>,
    /// DeepSeek key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    deepseek_api_key: Option<String>,
    /// Fireworks key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    fireworks_api_key: Option<String>,
    /// LiteLLM key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    litellm_api_key: Option<String>,
    /// Any compatible endpoint
    #[arg(long, value_name = "URL", help_heading = "Models")]
    custom_base_url: Option<String>,
    /// Its model
    #[arg(long, value_name = "ID", help_heading = "Models")]
    custom_model_id: Option<String>,
    /// Its key
    #[arg(long, value_name = "KEY", help_heading = "Models")]
    custom_api_key: Option<String>,
    /// Its name in the config
    #[arg(long, value_name = "ID", default_value = "custom", help_heading = "Models")]
    custom_provider_id: String,
    /// Its dialect
    #[arg(long, default_value = "openai", value_parser = PossibleValuesParser::new(["openai", "openai-responses", "anthropic"]), help_heading = "Models")]
    custom_compatibility: String,
    /// It reads text (it always does)
    #[arg(long, hide = true)]
    custom_text_input: bool,
    /// It reads images
    #[arg(long, help_heading = "Models")]
    custom_image_input: bool,
    /// Bearer token
    #[arg(long, value_name = "TOKEN", help_heading = "Models")]
    token: Option<String>,
    /// Provider of the bearer token
    #[arg(long, value_name = "ID", default_value = "anthropic", help_heading = "Models")]
    token_provider: String,
    /// Profile name of the bearer token
    #[arg(long, value_name = "ID", help_heading = "Models")]
    token_profile_id: Option<String>,
    /// Store keys, or references to environment variables
    #[arg(long, default_value = "plaintext", value_parser = PossibleValuesParser::new(["plaintext", "ref"]), help_heading = "Models")]
    secret_input_mode: String,
    /// Address of the remote gateway
    #[arg(long, value_name = "WS-URL", help_heading = "Gateway")]
    remote_url: Option<String>,
    /// Its token
    #[arg(long, value_name = "TOKEN", help_heading = "Gateway")]
    remote_token: Option<String>,
    /// Its password
    #[arg(long, value_name = "PASSWORD", help_heading = "Gateway")]
    remote_password: Option<String>,
    /// Port
    #[arg(long, value_name = "PORT", help_heading = "Gateway")]
    gateway_port: Option<u16>,
    /// Who may reach it
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["loopback", "lan", "tailnet", "auto", "custom"]), help_heading = "Gateway")]
    gateway_bind: Option<String>,
    /// How clients show who they are
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["token", "password"]), help_heading = "Gateway")]
    gateway_auth: Option<String>,
    /// Token [default: a new one]
    #[arg(long, value_name = "TOKEN", help_heading = "Gateway")]
    gateway_token: Option<String>,
    /// Variable that holds the token
    #[arg(long, value_name = "VAR", conflicts_with = "gateway_token", help_heading = "Gateway")]
    gateway_token_ref_env: Option<String>,
    /// Password
    #[arg(long, value_name = "PASSWORD", help_heading = "Gateway")]
    gateway_password: Option<String>,
    /// Tailscale exposure
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["off", "serve", "funnel"]), help_heading = "Gateway")]
    tailscale: Option<String>,
    /// Install the service
    #[arg(long)]
    install_daemon: bool,
    /// Do not install the service
    #[arg(long, alias = "skip-daemon", conflicts_with = "install_daemon")]
    no_install_daemon: bool,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    daemon_runtime: Option<String>,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    node_manager: Option<String>,
    /// Leave channels out
    #[arg(long)]
    skip_channels: bool,
    /// Leave skills out
    #[arg(long)]
    skip_skills: bool,
    /// Leave web search out
    #[arg(long, hide = true)]
    skip_search: bool,
    /// Leave hooks out
    #[arg(long, hide = true)]
    skip_hooks: bool,
    /// Leave the dashboard out
    #[arg(long, hide = true)]
    skip_ui: bool,
    /// Do not look for a running gateway at the end
    #[arg(long)]
    skip_health: bool,
    /// No first conversation
    #[arg(long)]
    skip_bootstrap: bool,
    /// JSON
    #[arg(long)]
    pub json: bool,
}

/// Edit credentials, channels and gateway settings with questions.
#[derive(clap::Args)]
pub struct ConfigureArgs {
    /// Area: workspace, model, gateway, channels
    #[arg(long, value_name = "AREA")]
    pub section: Vec<String>,
}

/// What the answers come to.
struct Plan {
    edits: Vec<Edit>,
    profile: Option<(String, Value)>,
    auth_choice: String,
}

fn set(path: &str, value: Value) -> Edit {
    Edit::Set { path: path.split('.').map(str::to_owned).collect(), value, mode: MapWrite::Merge }
}

/// `onboard`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if args.non_interactive {
        if !args.accept_risk {
            return Err(Fail::new(
                "Non-interactive onboarding requires explicit risk acknowledgement: agents can run commands on this machine. Re-run with --accept-risk.",
            )
            .hint("openclaw onboard --non-interactive --accept-risk ..."));
        }
        let plan = from_flags(args, cx)?;
        return finish(args, cx, plan);
    }
    if !terminal {
        return Err(
            Fail::new("Onboarding asks questions and needs a terminal; in scripts use --non-interactive --accept-risk.").hint("openclaw onboard --help")
        );
    }
    let plan = ask(args, cx)?;
    finish(args, cx, plan)
}

/// `configure`: the same questions; areas narrow them.
pub fn configure(args: &ConfigureArgs, cx: &Cx) -> Outcome {
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(Fail::new("openclaw configure asks questions and needs a terminal; in scripts use openclaw config set.").hint("openclaw config --help"));
    }
    let mut areas = args.section.clone();
    if areas.is_empty() {
        areas = cliclack::multiselect("What do you want to change?")
            .item("workspace".to_owned(), "Workspace", "")
            .item("model".to_owned(), "Model and key", "")
            .item("gateway".to_owned(), "Gateway", "")
            .item("channels".to_owned(), "Channels", "")
            .interact()?;
    }
    let mut edits = Vec::new();
    let mut profile = None;
    for area in &areas {
        match area.as_str() {
            "workspace" => edits.push(set(
                "agents.defaults.workspace",
                cliclack::input("Workspace folder").default_input(&cx.paths.display(&cx.paths.default_workspace)).interact::<String>()?.into(),
            )),
            "model" => {
                let (more, stored, _) = ask_model()?;
                edits.extend(more);
                profile = stored.or(profile);
            }
            "gateway" => edits.extend(ask_gateway(cx)?),
            "channels" => print::line("Channels: openclaw channels add --channel <id> --help shows what each one needs."),
            other => return Err(Fail::new(format!("Unknown section \"{other}\" (use workspace, model, gateway, channels)."))),
        }
    }
    if !cx.paths.config_path.exists() {
        setup::baseline(cx, None)?;
    }
    apply(cx, &edits, profile)?;
    print::line(&format!("Saved {}.", cx.paths.display(&cx.paths.config_path)));
    Ok(0)
}

fn apply(cx: &Cx, edits: &[Edit], profile: Option<(String, Value)>) -> Result<(), Fail> {
    if !edits.is_empty() {
        config::apply(cx, &cx.snapshot(), edits, false)?;
    }
    if let Some((id, profile)) = profile {
        let (_, loaded) = cx.loaded()?;
        store_profile(&loaded.config.agents.default_agent().agent_dir.join("auth-profiles.json"), &id, profile)?;
    }
    Ok(())
}

impl Args {
    fn keys(&self) -> [(&'static str, &Option<String>); 14] {
        [
            ("anthropic", &self.anthropic_api_key),
            ("openai", &self.openai_api_key),
            ("google", &self.gemini_api_key),
            ("openrouter", &self.openrouter_api_key),
            ("mistral", &self.mistral_api_key),
            ("groq", &self.groq_api_key),
            ("xai", &self.xai_api_key),
            ("zai", &self.zai_api_key),
            ("moonshot", &self.moonshot_api_key),
            ("minimax", &self.minimax_api_key),
            ("together", &self.together_api_key),
            ("deepseek", &self.deepseek_api_key),
            ("fireworks", &self.fireworks_api_key),
            ("litellm", &self.litellm_api_key),
        ]
    }
}

fn custom(base: &str, model: &str, key: Option<Value>, id: &str, dialect: &str, images: bool) -> Vec<Edit> {
    let api = match dialect {
        "anthropic" => "anthropic-messages",
        "openai-responses" => "openai-responses",
        _ => "openai-completions",
    };
    let mut input = vec!["text"];
    if images {
        input.push("image");
    }
    let mut provider = json!({"baseUrl": base, "api": api, "models": [{"id": model, "name": model, "input": input}]});
    if let Some(key) = key {
        provider["apiKey"] = key;
    }
    vec![
        Edit::Set { path: vec!["models".into(), "providers".into(), id.to_owned()], value: provider, mode: MapWrite::Replace },
        set("agents.defaults.model.primary", format!("{id}/{model}").into()),
    ]
}

fn from_flags(args: &Args, cx: &Cx) -> Result<Plan, Fail> {
    let mut edits = Vec::new();
    let mut profile = None;
    if args.mode.as_deref() == Some("remote") {
        let url = args.remote_url.as_ref().ok_or_else(|| Fail::new("--mode remote needs --remote-url.").hint("openclaw onboard --help"))?;
        edits.push(set("gateway.mode", "remote".into()));
        edits.push(set("gateway.remote.url", url.as_str().into()));
        for (path, value) in [("gateway.remote.token", &args.remote_token), ("gateway.remote.password", &args.remote_password)] {
            if let Some(value) = value {
                edits.push(set(path, value.as_str().into()));
            }
        }
        return Ok(Plan { edits, profile, auth_choice: args.auth_choice.clone().unwrap_or_else(|| "skip".into()) });
    }
    edits.push(set("gateway.mode", "local".into()));
    let secret = |variable: &str, key: &str| -> Value {
        if args.secret_input_mode == "ref" { json!({"source": "env", "provider": "default", "id": variable}) } else { key.into() }
    };
    let given = args.keys().into_iter().find_map(|(provider, key)| key.as_ref().map(|key| (provider, key)));
    let choice = match (&args.auth_choice, given) {
        (Some(choice), _) => choice.clone(),
        (None, Some((provider, _))) => {
            PROVIDERS.iter().find(|(_, p, _)| *p == provider).map_or_else(|| "skip".to_owned(), |(choice, _, _)| (*choice).to_owned())
        }
        (None, None) if args.custom_base_url.is_some() => "custom-api-key".into(),
        (None, None) => "skip".into(),
    };
    match choice.as_str() {
        "skip" => {}
        "custom-api-key" => {
            let (Some(base), Some(model)) = (&args.custom_base_url, &args.custom_model_id) else {
                return Err(Fail::new("--auth-choice custom-api-key needs --custom-base-url and --custom-model-id.").hint("openclaw onboard --help"));
            };
            let key = args.custom_api_key.as_deref().map(|key| secret("CUSTOM_API_KEY", key));
            edits.extend(custom(base, model, key, &args.custom_provider_id, &args.custom_compatibility, args.custom_image_input));
        }
        "token" | "setup-token" => {
            let token = args.token.as_ref().ok_or_else(|| Fail::new(format!("--auth-choice {choice} needs --token.")))?;
            let id = args.token_profile_id.clone().unwrap_or_else(|| format!("{}:manual", args.token_provider));
            profile = Some((id, json!({"type": "token", "provider": args.token_provider, "token": token})));
        }
        name => {
            let Some((_, provider, model)) = PROVIDERS.iter().find(|(known, ..)| *known == name) else {
                return Err(Fail::new(format!(
                    "Unknown --auth-choice \"{name}\" (use {}, custom-api-key, token or skip).",
                    PROVIDERS.map(|(c, ..)| c).join(", ")
                )));
            };
            let key = args.keys().into_iter().find(|(p, _)| p == provider).and_then(|(_, key)| key.clone());
            let local = matches!(*provider, "ollama" | "lmstudio");
            let variable = super::models::key_variable(provider);
            match key {
                Some(key) if args.secret_input_mode == "ref" => {
                    let _ = key;
                    profile = Some((format!("{provider}:default"), json!({"type": "api_key", "provider": provider, "keyRef": secret(&variable, "")})));
                }
                Some(key) => profile = Some((format!("{provider}:default"), json!({"type": "api_key", "provider": provider, "key": key}))),
                None if local || cx.env.trimmed(&variable).is_some() => {}
                None => return Err(Fail::new(format!("--auth-choice {name} needs a key: pass its flag or set {variable}.")).hint("openclaw onboard --help")),
            }
            if !model.is_empty() {
                edits.push(set("agents.defaults.model.primary", (*model).into()));
            }
        }
    }
    if let Some(port) = args.gateway_port {
        edits.push(set("gateway.port", port.into()));
    }
    if let Some(bind) = &args.gateway_bind {
        edits.push(set("gateway.bind", bind.as_str().into()));
    }
    if let Some(mode) = args.tailscale.as_deref().filter(|m| *m != "off") {
        edits.push(set("gateway.tailscale.mode", mode.into()));
    }
    edits.extend(auth_edits(args, cx));
    if args.skip_bootstrap {
        edits.push(set("agents.defaults.skipBootstrap", true.into()));
    }
    if let Some(name) = &args.agent_name {
        let id = clawstead_terms::AgentId::normalise(name);
        edits.push(Edit::Set { path: vec!["agents".into(), "entries".into(), id.to_string()], value: json!({"name": name}), mode: MapWrite::Merge });
    }
    Ok(Plan { edits, profile, auth_choice: choice })
}

fn auth_edits(args: &Args, cx: &Cx) -> Vec<Edit> {
    let mode = args.gateway_auth.clone().unwrap_or_else(|| if args.gateway_password.is_some() { "password".into() } else { "token".into() });
    let mut edits = vec![set("gateway.auth.mode", mode.as_str().into())];
    if mode == "password" {
        if let Some(password) = &args.gateway_password {
            edits.push(set("gateway.auth.password", password.as_str().into()));
        }
        return edits;
    }
    let token = if let Some(variable) = &args.gateway_token_ref_env {
        Some(json!({"source": "env", "provider": "default", "id": variable}))
    } else if let Some(token) = &args.gateway_token {
        Some(token.as_str().into())
    } else if cx.snapshot().get(&["gateway".to_owned(), "auth".to_owned(), "token".to_owned()]).is_some() {
        None
    } else {
        // One that was made for a first run goes on being the token.
        let (_, config) = cx.config_or_defaults();
        Some(local::gateway_token(cx, &config).map_or_else(device::new_token, |t| t.expose().to_owned()).into())
    };
    edits.extend(token.map(|token| set("gateway.auth.token", token)));
    edits
}

fn ask(args: &Args, cx: &Cx) -> Result<Plan, Fail> {
    cliclack::intro("OpenClaw onboarding")?;
    cliclack::note(
        "Please know",
        "Agents read, write and run what you allow them on this machine.\nStart with loopback, a strong token and few tools; widen later.",
    )?;
    if !args.accept_risk && !cliclack::confirm("Go on?").interact()? {
        cliclack::outro_cancel("Nothing was changed.")?;
        return Err(Fail::silent(1));
    }
    let mut edits = vec![set("gateway.mode", "local".into())];
    let shown = args.workspace.clone().unwrap_or_else(|| cx.paths.display(&cx.paths.default_workspace));
    let workspace: String = cliclack::input("Workspace folder of your agent").default_input(&shown).interact()?;
    edits.push(set("agents.defaults.workspace", workspace.into()));
    let (more, profile, auth_choice) = ask_model()?;
    edits.extend(more);
    if args.flow != "quickstart" {
        edits.extend(ask_gateway(cx)?);
    }
    edits.extend(auth_edits(args, cx));
    Ok(Plan { edits, profile, auth_choice })
}

type Models = (Vec<Edit>, Option<(String, Value)>, String);

fn ask_model() -> Result<Models, Fail> {
    let choice: &str = cliclack::select("Which models?")
        .item("skip", "Find what is there", "environment keys, Ollama, LM Studio, LiteLLM, else a demo model")
        .item("apiKey", "Anthropic", "API key")
        .item("openai-api-key", "OpenAI", "API key")
        .item("gemini-api-key", "Google Gemini", "API key")
        .item("openrouter-api-key", "OpenRouter", "API key")
        .item("zai-api-key", "Z.AI", "API key")
        .item("custom", "Any compatible endpoint", "LiteLLM, LM Studio, vLLM, llama.cpp, ...")
        .interact()?;
    if choice == "skip" {
        return Ok((Vec::new(), None, "skip".into()));
    }
    if choice == "custom" {
        let base: String = cliclack::input("Base URL").default_input("http://127.0.0.1:4000/v1").interact()?;
        let model: String = cliclack::input("Model id").interact()?;
        let key = cliclack::password("API key (may be empty)").mask('*').allow_empty().interact()?;
        let key = (!key.is_empty()).then(|| Value::from(key));
        return Ok((custom(&base, &model, key, "custom", "openai", false), None, "custom-api-key".into()));
    }
    let (_, provider, model) = PROVIDERS.iter().find(|(known, ..)| *known == choice).copied().unwrap_or(PROVIDERS[0]);
    let key = cliclack::password(format!("API key of {provider}")).mask('*').interact()?;
    let model: String = cliclack::input("Model").default_input(model).interact()?;
    Ok((
        vec![set("agents.defaults.model.primary", model.into())],
        Some((format!("{provider}:default"), json!({"type": "api_key", "provider": provider, "key": key.trim()}))),
        choice.into(),
    ))
}

fn ask_gateway(cx: &Cx) -> Result<Vec<Edit>, Fail> {
    let (_, config) = cx.config_or_defaults();
    let port: u16 = cliclack::input("Port").default_input(&config.gateway.port.to_string()).interact()?;
    let bind: &str = cliclack::select("Who may reach the gateway?")
        .item("loopback", "This machine only", "")
        .item("lan", "The local network", "needs a strong token")
        .item("tailnet", "The tailnet", "")
        .interact()?;
    Ok(vec![set("gateway.port", port.into()), set("gateway.bind", bind.into())])
}

fn finish(args: &Args, cx: &Cx, plan: Plan) -> Outcome {
    let remote = args.mode.as_deref() == Some("remote");
    if remote {
        if !cx.paths.config_path.exists() {
            clawstead_config::create(&cx.paths.config_path, &json!({"gateway": {"mode": "remote"}}))?;
        }
        apply(cx, &plan.edits, None)?;
    } else {
        setup::baseline(cx, args.workspace.as_deref())?;
        apply(cx, &plan.edits, plan.profile)?;
        // Once more: the answers may name another workspace or agent.
        setup::baseline(cx, None)?;
    }
    let (_, loaded) = cx.loaded()?;
    let config = &loaded.config;
    if args.install_daemon && !remote {
        super::gateway::service::install(&super::gateway::service::InstallArgs::plain(), cx)?;
    }
    let healthy = args.skip_health || remote || local::port_busy(config.gateway.port);
    let workspace = &config.agents.default_agent().workspace;
    if args.json {
        print::json(&json!({
            "ok": healthy, "mode": if remote { "remote" } else { "local" }, "workspace": workspace, "authChoice": plan.auth_choice,
            "gateway": {"port": config.gateway.port, "bind": config.gateway.bind.as_str(), "authMode": config.gateway.auth.mode.as_str(), "tailscaleMode": args.tailscale.as_deref().unwrap_or("off")},
            "installDaemon": args.install_daemon, "skipSkills": args.skip_skills, "skipHealth": args.skip_health,
        }));
        return Ok(u8::from(!healthy));
    }
    print::line(&format!("Updated {}", cx.paths.display(&cx.paths.config_path)));
    if !remote {
        print::line(&format!("Workspace: {}", cx.paths.display(workspace)));
    }
    if args.non_interactive && !healthy {
        return Err(
            Fail::new(format!("Nothing answers on port {} yet. Start the gateway, or pass --skip-health.", config.gateway.port)).hint("openclaw gateway")
        );
    }
    print::line(if remote { "Next: openclaw status" } else { "Next: openclaw gateway, then openclaw dashboard" });
    Ok(0)
}
