use clap::Subcommand;
use clawstead_providers::provider_id;
use serde_json::{Value, json};

use super::Keyring;
use crate::{commands::Outcome, fail::Fail, print};

/// Which credentials of a provider are tried first.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print the agent's order
    Get {
        /// Provider
        #[arg(long, value_name = "ID")]
        provider: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Set the agent's order
    Set {
        /// Provider
        #[arg(long, value_name = "ID")]
        provider: String,
        /// Profiles, first one first
        #[arg(required = true)]
        profiles: Vec<String>,
    },
    /// Forget it: the config's order or the automatic one counts again
    Clear {
        /// Provider
        #[arg(long, value_name = "ID")]
        provider: String,
    },
}

/// Runs it.
pub fn run(args: &Args, keys: &Keyring<'_>) -> Outcome {
    match &args.verb {
        Verb::Get { provider, json } => {
            let provider = provider_id(provider);
            let order = keys.file.read()?["order"].get(&provider).cloned().unwrap_or(Value::Null);
            if *json {
                print::json(&json!({"agentId": keys.agent, "agentDir": keys.dir, "authStatePath": keys.file.path(), "provider": provider, "order": order}));
            } else {
                let shown: Vec<&str> = order.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                print::line(&format!("Order of {provider}: {}", if shown.is_empty() { "none (automatic)".to_owned() } else { shown.join(", ") }));
            }
        }
        Verb::Set { provider, profiles } => {
            let provider = provider_id(provider);
            set(keys, &provider, profiles)?;
            print::line(&format!("Order of {provider}: {}", profiles.join(", ")));
        }
        Verb::Clear { provider } => {
            let provider = provider_id(provider);
            keys.file.change(|store| {
                if let Some(orders) = store.get_mut("order").and_then(Value::as_object_mut) {
                    orders.shift_remove(&provider);
                }
            })?;
            print::line(&format!("Order of {provider}: none (automatic)"));
        }
    }
    Ok(0)
}

/// Writes an order of profiles that exist.
pub fn set(keys: &Keyring<'_>, provider: &str, profiles: &[String]) -> Result<(), Fail> {
    let there = keys.ids(Some(provider))?;
    if let Some(unknown) = profiles.iter().find(|id| !there.contains(id)) {
        return Err(Fail::new(format!("\"{unknown}\" is no stored credential of {provider}. Nothing was written.")).hint("openclaw models auth list"));
    }
    keys.file.change(|store| {
        if !store["order"].is_object() {
            store["order"] = json!({});
        }
        store["order"][provider] = json!(profiles);
    })?;
    Ok(())
}
