use clap::Subcommand;
use clawstead_config::{Config, Edit, MapWrite, Snapshot, split_model_ref};
use serde_json::{Map, Value, json};

use crate::{
    commands::{Outcome, config},
    cx::Cx,
    fail::Fail,
    print,
};

/// Providers that need no block in the config.
const KNOWN_PROVIDERS: [&str; 27] = [
    "anthropic",
    "openai",
    "openai-codex",
    "google",
    "openrouter",
    "ollama",
    "lmstudio",
    "litellm",
    "zai",
    "groq",
    "mistral",
    "xai",
    "deepseek",
    "together",
    "fireworks",
    "moonshot",
    "minimax",
    "cerebras",
    "venice",
    "huggingface",
    "nvidia",
    "vllm",
    "perplexity",
    "qwen",
    "kimi-coding",
    "github-copilot",
    "demo",
];

/// A model.
#[derive(clap::Args)]
pub struct SetArgs {
    /// provider/model, or an alias
    model: String,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Models that are asked when the first one fails.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct FallbackArgs {
    #[command(subcommand)]
    verb: FallbackVerb,
}

#[derive(Subcommand)]
enum FallbackVerb {
    /// Print them
    List {
        /// JSON
        #[arg(long)]
        json: bool,
        /// One per line
        #[arg(long)]
        plain: bool,
    },
    /// Add one at the end
    Add {
        /// provider/model
        model: String,
    },
    /// Take one away
    Remove {
        /// provider/model
        model: String,
    },
    /// Take all away
    Clear,
}

/// Short names of models.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct AliasArgs {
    #[command(subcommand)]
    verb: AliasVerb,
}

#[derive(Subcommand)]
enum AliasVerb {
    /// Print them
    List {
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Add one
    Add {
        /// Short name
        alias: String,
        /// provider/model
        model: String,
    },
    /// Take one away
    Remove {
        /// Short name
        alias: String,
    },
}

fn checked(config: &Config, text: &str) -> Result<String, Fail> {
    let reference = config.models.resolve(text).unwrap_or_else(|| text.to_owned());
    let Some((provider, _)) = split_model_ref(&reference) else {
        return Err(Fail::new(format!("\"{text}\" is not a model; use provider/model.")).hint("openclaw models list --all"));
    };
    if config.models.provider(provider).is_none() && !KNOWN_PROVIDERS.contains(&provider) {
        return Err(Fail::new(format!("Unknown model provider \"{provider}\". Nothing was written.")).hint("openclaw models list --all"));
    }
    Ok(reference)
}

fn path(segments: &[&str]) -> Vec<String> {
    segments.iter().map(|s| (*s).to_owned()).collect()
}

/// Writes and says where.
fn write(cx: &Cx, snapshot: &Snapshot, edits: &[Edit]) -> Result<(), Fail> {
    let planned = config::apply(cx, snapshot, edits, false)?;
    if planned.files.is_empty() {
        print::line("No change");
    } else {
        print::line(&format!("Updated config: {}", cx.paths.display(&cx.paths.config_path)));
        if snapshot.exists {
            print::line(&format!("Backup: {}.bak", cx.paths.display(&cx.paths.config_path)));
        }
    }
    Ok(())
}

/// The block as an object: a plain text becomes its `primary`.
fn block(snapshot: &Snapshot, name: &str) -> Map<String, Value> {
    match snapshot.get(&path(&["agents", "defaults", name])) {
        Some(Value::Object(map)) => map.clone(),
        Some(Value::String(text)) => Map::from_iter([("primary".to_owned(), text.as_str().into())]),
        _ => Map::new(),
    }
}

/// `models set` and `models set-image`.
pub fn set_model(args: &SetArgs, cx: &Cx, name: &str) -> Outcome {
    set_default(cx, &args.model, name)?;
    Ok(0)
}

/// Makes a model the default of its kind (`model`, `imageModel`).
///
/// # Errors
/// When its provider is unknown; then nothing is written.
pub fn set_default(cx: &Cx, model: &str, name: &str) -> Result<(), Fail> {
    let (snapshot, loaded) = cx.loaded()?;
    let reference = checked(&loaded.config, model)?;
    let mut value = block(&snapshot, name);
    value.insert("primary".into(), reference.as_str().into());
    write(cx, &snapshot, &[Edit::Set { path: path(&["agents", "defaults", name]), value: Value::Object(value), mode: MapWrite::Replace }])?;
    print::line(&format!("{}: {reference}", if name == "model" { "Default model" } else { "Image model" }));
    Ok(())
}

/// Writes what a scan chose: fallbacks of the models and image models, and the first of each where asked.
///
/// # Errors
/// When the config cannot be written.
pub fn choose(cx: &Cx, picks: &[Picked<'_>]) -> Result<(), Fail> {
    let (snapshot, edits) = chosen(cx, picks)?;
    write(cx, &snapshot, &edits)
}

/// As [`choose`], without a word.
///
/// # Errors
/// As [`choose`].
pub fn choose_quietly(cx: &Cx, picks: &[Picked<'_>]) -> Result<(), Fail> {
    let (snapshot, edits) = chosen(cx, picks)?;
    config::apply(cx, &snapshot, &edits, false).map(|_| ())
}

fn chosen(cx: &Cx, picks: &[Picked<'_>]) -> Result<(Snapshot, Vec<Edit>), Fail> {
    let (snapshot, _) = cx.loaded()?;
    let mut edits = Vec::new();
    for pick in picks.iter().filter(|pick| !pick.models.is_empty()) {
        let mut value = block(&snapshot, pick.name);
        if pick.first == First::Default {
            value.insert("primary".into(), pick.models[0].as_str().into());
        }
        value.insert("fallbacks".into(), json!(pick.models));
        edits.push(Edit::Set { path: path(&["agents", "defaults", pick.name]), value: Value::Object(value), mode: MapWrite::Replace });
    }
    Ok((snapshot, edits))
}

/// Models for one block of the config.
pub struct Picked<'a> {
    /// `model` or `imageModel`.
    pub name: &'a str,
    /// References, best first.
    pub models: &'a [String],
    /// What becomes of the first one.
    pub first: First,
}

/// What becomes of the first model chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The default.
    Default,
    /// A fallback like the others.
    Fallback,
}

/// `models fallbacks` and `models image-fallbacks`.
pub fn fallbacks(args: &FallbackArgs, cx: &Cx, name: &str) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let mut value = block(&snapshot, name);
    let mut list: Vec<String> = value.get("fallbacks").and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    match &args.verb {
        FallbackVerb::List { json, plain } => {
            if *json {
                print::json(&json!({"fallbacks": list}));
            } else if list.is_empty() && !plain {
                print::line("No fallbacks.");
            } else {
                list.iter().for_each(|item| print::line(&if *plain { item.clone() } else { format!("- {item}") }));
            }
            return Ok(0);
        }
        FallbackVerb::Add { model } => {
            let reference = checked(&loaded.config, model)?;
            if !list.contains(&reference) {
                list.push(reference);
            }
        }
        FallbackVerb::Remove { model } => {
            let reference = loaded.config.models.resolve(model).unwrap_or_else(|| model.clone());
            let before = list.len();
            list.retain(|item| *item != reference && item != model);
            if list.len() == before {
                return Err(Fail::new(format!("\"{model}\" is not a fallback.")).hint("openclaw models fallbacks list"));
            }
        }
        FallbackVerb::Clear => list.clear(),
    }
    value.insert("fallbacks".into(), json!(list));
    write(cx, &snapshot, &[Edit::Set { path: path(&["agents", "defaults", name]), value: Value::Object(value), mode: MapWrite::Replace }])?;
    print::line(&format!("Fallbacks: {}", if list.is_empty() { "none".to_owned() } else { list.join(", ") }));
    Ok(0)
}

/// Alias and model pairs.
#[must_use]
pub fn alias_map(config: &Config) -> Map<String, Value> {
    config.models.entries.iter().filter_map(|entry| Some((entry.alias.clone()?, Value::from(entry.reference.as_str())))).collect()
}

/// `models aliases`.
pub fn aliases(args: &AliasArgs, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let known = alias_map(&loaded.config);
    match &args.verb {
        AliasVerb::List { json } => {
            if *json {
                print::json(&json!({"aliases": known}));
            } else if known.is_empty() {
                print::line("No aliases.");
            } else {
                known.iter().for_each(|(alias, model)| print::line(&format!("{alias} -> {}", crate::format::scalar(model))));
            }
        }
        AliasVerb::Add { alias, model } => {
            let reference = checked(&loaded.config, model)?;
            if let Some(other) = known.get(alias).and_then(Value::as_str).filter(|other| *other != reference) {
                return Err(Fail::new(format!("Alias {alias} belongs to {other} already.")).hint(format!("openclaw models aliases remove {alias}")));
            }
            write(
                cx,
                &snapshot,
                &[Edit::Set { path: path(&["agents", "defaults", "models", &reference, "alias"]), value: alias.as_str().into(), mode: MapWrite::Merge }],
            )?;
            print::line(&format!("Alias {alias} -> {reference}"));
        }
        AliasVerb::Remove { alias } => {
            let Some(reference) = known.get(alias).and_then(Value::as_str) else {
                return Err(Fail::new(format!("There is no alias {alias}.")).hint("openclaw models aliases list"));
            };
            write(cx, &snapshot, &[Edit::Unset { path: path(&["agents", "defaults", "models", reference, "alias"]) }])?;
            print::line(&format!("Removed alias {alias}"));
        }
    }
    Ok(0)
}
