use std::io::{BufRead as _, IsTerminal as _};

use clawstead_providers::{catalog, provider_id};
use serde_json::json;

use super::Keyring;
use crate::{
    commands::Outcome,
    fail::Fail,
    format::{duration, now_ms},
    print,
};

/// A credential of one line is cut off at this length, bytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Store an API key.
#[derive(clap::Args)]
pub struct KeyArgs {
    /// Provider
    #[arg(long, value_name = "ID")]
    provider: String,
    /// Profile [default: <provider>:manual]
    #[arg(long, value_name = "ID")]
    profile_id: Option<String>,
}

/// Store a bearer token.
#[derive(clap::Args)]
pub struct TokenArgs {
    /// Provider
    #[arg(long, value_name = "ID")]
    provider: String,
    /// Profile [default: <provider>:manual]
    #[arg(long, value_name = "ID")]
    profile_id: Option<String>,
    /// How long it is good (365d, 12h)
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
}

/// Store a token made by a provider's own program.
#[derive(clap::Args)]
pub struct SetupArgs {
    /// Provider
    #[arg(long, value_name = "ID", default_value = "anthropic")]
    provider: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What kind of credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ApiKey,
    Token,
}

impl Kind {
    const fn noun(self) -> &'static str {
        match self {
            Self::ApiKey => "API key",
            Self::Token => "token",
        }
    }
}

/// The profile's id: as given, with the provider in front when it is missing.
pub fn profile_id(provider: &str, given: Option<&str>) -> Result<String, Fail> {
    let id = given.map(str::trim).filter(|id| !id.is_empty()).unwrap_or("manual");
    if id.len() > 128 || id.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Fail::new("A profile id has no spaces and 128 characters at most."));
    }
    Ok(if id.contains(':') { id.to_owned() } else { format!("{provider}:{id}") })
}

/// Reads a secret from the terminal without showing it, or the first line of standard input.
pub fn secret(prompt: &str) -> Result<String, Fail> {
    use std::io::Read as _;
    let text = if std::io::stdin().is_terminal() {
        cliclack::password(prompt).mask('*').interact()?
    } else {
        let mut line = String::new();
        std::io::stdin().lock().take(SECRET_BYTES_MAX as u64).read_line(&mut line)?;
        line
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(Fail::new("Nothing was pasted: type it at the prompt, or give it on standard input.")
            .hint("openclaw models auth paste-api-key --provider <id> < file"));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Fail::new("That is no credential: it has spaces in it."));
    }
    Ok(text.to_owned())
}

/// Stores one.
pub fn store(keys: &Keyring<'_>, provider: &str, profile: Option<&str>, kind: Kind, expires: Option<i64>) -> Outcome {
    let provider = provider_id(provider);
    let id = profile_id(&provider, profile)?;
    let secret = secret(&format!("Paste the {} of {provider}", kind.noun()))?;
    let mut row = match kind {
        Kind::ApiKey => json!({"type": "api_key", "provider": provider, "key": secret}),
        Kind::Token => json!({"type": "token", "provider": provider, "token": secret}),
    };
    if let Some(at) = expires {
        row["expires"] = at.into();
    }
    keys.file.put(&id, row)?;
    keys.stored(&id);
    if catalog::host(&provider).is_none() && keys.config.models.provider(&provider).is_none() {
        print::line(&format!("No provider {provider} is known yet: it needs models.providers.{provider} with a baseUrl in the config."));
    }
    Ok(0)
}

/// `paste-api-key`.
pub fn key(args: &KeyArgs, keys: &Keyring<'_>) -> Outcome {
    store(keys, &args.provider, args.profile_id.as_deref(), Kind::ApiKey, None)
}

/// `paste-token`.
pub fn token(args: &TokenArgs, keys: &Keyring<'_>) -> Outcome {
    let expires = match &args.expires_in {
        None => None,
        Some(text) => {
            let ms = duration(text, 60_000).map_err(|_| Fail::new(format!("--expires-in \"{text}\" is no duration (365d, 12h).")))?;
            Some(now_ms().saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
        }
    };
    store(keys, &args.provider, args.profile_id.as_deref(), Kind::Token, expires)
}

/// `setup-token`.
pub fn setup_token(args: &SetupArgs, keys: &Keyring<'_>) -> Outcome {
    let provider = provider_id(&args.provider);
    if provider != "anthropic" {
        return Err(
            Fail::new(format!("No program that makes tokens is known for {provider}.")).hint(format!("openclaw models auth paste-token --provider {provider}"))
        );
    }
    if std::io::stdin().is_terminal() && !args.yes {
        print::line("In another terminal run `claude setup-token`, then paste what it prints here.");
    }
    store(keys, &provider, None, Kind::Token, None)
}

/// `add`.
pub fn add(keys: &Keyring<'_>) -> Outcome {
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(Fail::new("openclaw models auth add asks questions and needs a terminal; in scripts use paste-api-key or paste-token.")
            .hint("openclaw models auth paste-api-key --provider <id> < file"));
    }
    let mut select = cliclack::select("Provider");
    for host in catalog::HOSTS.iter().filter(|host| host.local_port == 0) {
        select = select.item(host.id.to_owned(), host.name, "");
    }
    for own in keys.config.models.providers.iter().filter(|own| catalog::host(&own.id).is_none()) {
        select = select.item(own.id.clone(), &own.id, "of your config");
    }
    let provider: String = select.item(String::new(), "Another", "").interact()?;
    let provider = if provider.is_empty() { cliclack::input("Provider id").interact::<String>()? } else { provider };
    let kind = cliclack::select("What do you have?").item(Kind::ApiKey, "API key", "").item(Kind::Token, "Token", "").interact()?;
    let name: String = cliclack::input("Profile").default_input("manual").interact()?;
    store(keys, &provider, Some(&name), kind, None)
}

/// Removes what a provider has, for `--force`.
pub fn forget(keys: &Keyring<'_>, provider: &str) -> Result<(), Fail> {
    for id in keys.ids(Some(provider))? {
        keys.file.remove(&id)?;
        print::line(&format!("Removed {id}."));
    }
    Ok(())
}

/// The provider's recommended model becomes the default, for `--set-default`.
pub fn prefer(keys: &Keyring<'_>, provider: &str) -> Result<(), Fail> {
    let Some(model) = catalog::host(provider).map(|host| host.default_model).filter(|model| !model.is_empty()) else {
        return Err(Fail::new(format!("No recommended model of {provider} is known.")).hint(format!("openclaw models set {provider}/<model>")));
    };
    super::super::edit::set_default(keys.cx, &format!("{provider}/{model}"), "model")
}
