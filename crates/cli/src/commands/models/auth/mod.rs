//! `openclaw models auth`: credentials in an agent's `auth-profiles.json`. Secrets come from the terminal or from
//! standard input, never from the command line, and are never printed.

mod activate;
mod login;
mod order;
mod paste;

use clap::Subcommand;
use clawstead_config::Config;
use clawstead_providers::{AuthFile, provider_id};
use serde_json::{Value, json};

use super::status::profiles;
use crate::{
    commands::{Outcome, agents},
    cx::Cx,
    fail::Fail,
    format::{relative, text},
    local, print,
};

/// Credentials of providers.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw models auth add\n  openclaw models auth paste-api-key --provider openai < key.txt\n  openclaw models auth paste-token --provider anthropic --expires-in 365d\n  openclaw models auth order set --provider openai openai:work openai:home\n  openclaw models auth logout openai:home --yes"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// Agent [default: the default agent]
    #[arg(long, global = true, value_name = "ID")]
    agent: Option<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Stored credentials
    List(ListArgs),
    /// Store a credential, with questions
    Add,
    /// Sign in: API key, token, browser or device code
    Login(Box<login::Args>),
    /// Remove a stored credential
    Logout(LogoutArgs),
    /// Store an API key
    PasteApiKey(paste::KeyArgs),
    /// Store a bearer token
    PasteToken(paste::TokenArgs),
    /// Store a token made by a provider's own program
    SetupToken(paste::SetupArgs),
    /// Sign in to GitHub Copilot
    LoginGithubCopilot {
        /// Overwrite what is stored
        #[arg(long)]
        yes: bool,
    },
    /// Try a stored credential and prefer it
    Activate(activate::Args),
    /// Which credentials of a provider are tried first
    Order(order::Args),
}

#[derive(clap::Args)]
struct ListArgs {
    /// One provider
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct LogoutArgs {
    /// Profile, as `models auth list` shows it
    profile: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Whose credentials.
struct Keyring<'a> {
    cx: &'a Cx,
    config: &'a Config,
    agent: &'a str,
    dir: &'a std::path::Path,
    file: AuthFile,
}

impl Keyring<'_> {
    /// Says where something was stored, and when it counts.
    fn stored(&self, id: &str) {
        print::line(&format!("Stored {id} in {}.", self.cx.paths.display(self.file.path())));
        if local::running(self.cx).is_some() {
            print::line("The running gateway takes it up within a few seconds.");
        }
    }

    fn ids(&self, provider: Option<&str>) -> Result<Vec<String>, Fail> {
        let store = self.file.read()?;
        Ok(profiles(&store)
            .iter()
            .filter(|p| provider.is_none_or(|wanted| provider_id(text(p, "provider")) == wanted))
            .map(|p| text(p, "id").to_owned())
            .collect())
    }
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let agent = agents::find(&loaded.config, args.agent.as_deref())?;
    let keys = Keyring { cx, config: &loaded.config, agent: agent.id.as_str(), dir: &agent.agent_dir, file: AuthFile::of(&agent.agent_dir) };
    match &args.verb {
        Verb::List(args) => list(args, &keys),
        Verb::Add => paste::add(&keys),
        Verb::Login(args) => login::run(args, &keys),
        Verb::Logout(args) => logout(args, &keys),
        Verb::PasteApiKey(args) => paste::key(args, &keys),
        Verb::PasteToken(args) => paste::token(args, &keys),
        Verb::SetupToken(args) => paste::setup_token(args, &keys),
        Verb::LoginGithubCopilot { .. } => {
            Err(Fail::new("GitHub Copilot is not a provider here: its models are reached by a protocol of its own that is not built in.")
                .hint("openclaw models auth add"))
        }
        Verb::Activate(args) => activate::run(args, &keys),
        Verb::Order(args) => order::run(args, &keys),
    }
}

fn list(args: &ListArgs, keys: &Keyring<'_>) -> Outcome {
    let mut rows = profiles(&keys.file.read()?);
    let wanted = args.provider.as_deref().map(provider_id);
    rows.retain(|row| wanted.as_deref().is_none_or(|p| provider_id(text(row, "provider")) == p));
    if args.json {
        print::json(&json!({"agentId": keys.agent, "agentDir": keys.dir, "authStatePath": keys.file.path(), "provider": wanted, "profiles": rows}));
    } else if rows.is_empty() {
        print::line("No stored credentials.");
    }
    for row in rows.iter().filter(|_| !args.json) {
        let expires = row["expires"].as_i64().filter(|at| *at > 0);
        let when = match expires {
            _ if row["renews"] == true => ", renewed by itself".to_owned(),
            Some(at) if at <= crate::format::now_ms() => ", expired".to_owned(),
            Some(at) => format!(", expires {}", relative(Some(at))),
            None => String::new(),
        };
        let mail = row["email"].as_str().map(|mail| format!(", {mail}")).unwrap_or_default();
        print::line(&format!("- {} ({}{mail}{when})", text(row, "id"), text(row, "type")));
    }
    Ok(0)
}

fn logout(args: &LogoutArgs, keys: &Keyring<'_>) -> Outcome {
    use std::io::IsTerminal as _;
    if !keys.ids(None)?.contains(&args.profile) {
        return Err(Fail::new(format!("There is no stored credential \"{}\".", args.profile)).hint("openclaw models auth list"));
    }
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            return Err(Fail::new("Pass --yes: there is no terminal to ask on.").hint(format!("openclaw models auth logout {} --yes", args.profile)));
        }
        if !cliclack::confirm(format!("Remove {}?", args.profile)).initial_value(false).interact()? {
            print::line("Nothing was removed.");
            return Ok(0);
        }
    }
    keys.file.remove(&args.profile)?;
    print::line(&format!("Removed {}.", args.profile));
    Ok(0)
}

/// Puts a profile into `auth-profiles.json`.
///
/// # Errors
/// When the file holds something else or cannot be written.
pub fn store_profile(path: &std::path::Path, id: &str, profile: Value) -> Result<(), Fail> {
    Ok(AuthFile::at(path).put(id, profile)?)
}
