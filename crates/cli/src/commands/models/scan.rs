use std::{collections::BTreeSet, io::IsTerminal as _};

use clawstead_providers::{CONCURRENCY_DEFAULT, Models, ModelsInput, Probed, Probing, SCAN_TIMEOUT_MS, ScanOptions, ScanRow, Scanned};
use clawstead_world::World;
use serde_json::{Value, json};

use super::edit::{self, First, Picked};
use crate::{commands::Outcome, cx::Cx, fail::Fail, print};

/// Ask providers and this machine which models they have, and try them.
#[derive(clap::Args)]
#[command(
    after_help = "Models on this machine are all tried; at providers that take a key only those that the config or the catalogue names, because\nsomebody pays for the answer. The config changes only with --yes, --set-default, --set-image, or after a question.\n\nExamples:\n  openclaw models scan --no-probe\n  openclaw models scan --provider ollama --json\n  openclaw models scan --set-default --yes"
)]
pub struct Args {
    /// One provider
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Smallest size, billions of parameters, as names say it
    #[arg(long, value_name = "B", default_value_t = 0.0, hide_default_value = true)]
    min_params: f64,
    /// Leave out models that are known to be older
    #[arg(long, value_name = "DAYS", default_value_t = 0, hide_default_value = true)]
    max_age_days: u64,
    /// Models to take as fallbacks at most
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=32))]
    max_candidates: u16,
    /// Only list, ask nothing
    #[arg(long, conflicts_with_all = ["set_default", "set_image"])]
    no_probe: bool,
    /// Do not ask questions
    #[arg(long)]
    no_input: bool,
    /// Take the best ones as fallbacks without a question
    #[arg(long)]
    yes: bool,
    /// The best one becomes the default model
    #[arg(long)]
    set_default: bool,
    /// The best one that reads pictures becomes the image model
    #[arg(long)]
    set_image: bool,
    /// Time for one trial, milliseconds
    #[arg(long, value_name = "MS", default_value_t = SCAN_TIMEOUT_MS)]
    timeout: u64,
    /// Trials at a time
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY_DEFAULT as u16, value_parser = clap::value_parser!(u16).range(1..=32))]
    concurrency: u16,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `models scan`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let config = &loaded.config;
    let agent = config.agents.default_agent();
    let file = clawstead_providers::AuthFile::of(&agent.agent_dir);
    let mut input = ModelsInput::from_config(config, Some(&file.read()?));
    for profile in &mut input.profiles {
        profile.file = Some(file.path().to_path_buf());
    }
    let world = World::real().map_err(|err| Fail::new(err.to_string()))?;
    let models = Models::new(world, input);
    let options = ScanOptions {
        provider: args.provider.clone(),
        probing: if args.no_probe { Probing::ListOnly } else { Probing::Ask },
        timeout_ms: args.timeout,
        concurrency: usize::from(args.concurrency),
        min_params_b: args.min_params,
        max_age_days: args.max_age_days,
    };
    let shows = !args.json && std::io::stderr().is_terminal();
    let progress = |done: usize, total: usize| {
        if shows {
            anstream::eprint!("\rTrying models ({done}/{total}) ");
            if done == total {
                anstream::eprintln!();
            }
        }
    };
    let found = cx.block_on(async { Ok(models.scan(&options, progress).await) })?;
    let known: BTreeSet<&str> = found.hosts.iter().map(|host| host.provider.as_str()).collect();
    if let Some(wanted) = args.provider.as_deref().map(clawstead_providers::provider_id).filter(|id| !known.contains(id.as_str())) {
        return Err(Fail::new(format!("Provider {wanted} cannot be asked: it is not known or has no key.")).hint("openclaw models status"));
    }
    if args.no_probe {
        if args.json {
            print::json(&json!(found.results));
        } else {
            table(&found);
        }
        return Ok(0);
    }
    select(args, cx, &found)
}

fn select(args: &Args, cx: &Cx, found: &Scanned) -> Outcome {
    let best = |ok: fn(&ScanRow) -> bool| -> Vec<String> {
        found.results.iter().filter(|row| ok(row)).take(usize::from(args.max_candidates)).map(|row| row.model_ref.clone()).collect()
    };
    let mut picked = best(|row| row.tool.ok);
    let pictures = best(|row| row.image.ok);
    if !args.json {
        table(found);
    }
    let refuse = |what: &str| Fail::new(format!("No model {what} was found; nothing was written.")).hint("openclaw models scan --no-probe");
    if args.set_default && picked.is_empty() {
        return Err(refuse("that calls tools"));
    }
    if args.set_image && pictures.is_empty() {
        return Err(refuse("that reads pictures"));
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut write = args.yes || args.set_default || args.set_image;
    if !write && terminal && !args.no_input && !args.json && !picked.is_empty() {
        let mut ask = cliclack::multiselect("Take which as fallbacks? (none leaves the config alone)").required(false);
        for row in found.results.iter().filter(|row| row.tool.ok) {
            ask = ask.item(row.model_ref.clone(), &row.model_ref, latency(&row.tool));
        }
        picked = ask.initial_values(Vec::new()).interact()?;
        write = !picked.is_empty();
    }
    if args.json {
        let mut report = json!({
            "selected": picked, "selectedImages": pictures, "setDefault": args.set_default, "setImage": args.set_image, "written": write,
            "hosts": found.hosts, "results": found.results, "warnings": [],
        });
        if write && let Err(fail) = quietly(args, cx, &picked, &pictures) {
            report["written"] = Value::Bool(false);
            return Err(fail);
        }
        print::json(&report);
        return Ok(0);
    }
    if write {
        edit::choose(cx, &picks(args, &picked, &pictures))?;
        print::line(&format!("Fallbacks: {}", if picked.is_empty() { "unchanged".to_owned() } else { picked.join(", ") }));
        if args.set_default {
            print::line(&format!("Default model: {}", picked[0]));
        }
        if args.set_image {
            print::line(&format!("Image model: {}", pictures[0]));
        }
    }
    Ok(0)
}

fn picks<'a>(args: &Args, models: &'a [String], images: &'a [String]) -> [Picked<'a>; 2] {
    let first = |yes: bool| if yes { First::Default } else { First::Fallback };
    [
        Picked { name: "model", models, first: first(args.set_default) },
        Picked { name: "imageModel", models: if args.set_image || args.yes { images } else { &[] }, first: first(args.set_image) },
    ]
}

/// As [`edit::choose`] with nothing on standard output.
fn quietly(args: &Args, cx: &Cx, models: &[String], images: &[String]) -> Result<(), Fail> {
    edit::choose_quietly(cx, &picks(args, models, images))
}

fn latency(probed: &Probed) -> String {
    match (probed.skipped, probed.ok, probed.latency_ms) {
        (true, ..) | (_, _, None) => "-".into(),
        (_, true, Some(ms)) => format!("yes {ms}ms"),
        (_, false, _) => "no".into(),
    }
}

fn table(found: &Scanned) {
    for host in &found.hosts {
        match &host.error {
            None => print::line(&format!("{}: {} models, listed in {} ms", host.provider, host.models, host.latency_ms)),
            Some(error) => print::line(&format!("{}: not reached ({error})", host.provider)),
        }
    }
    if found.results.is_empty() {
        print::line("No models found. Start Ollama or LM Studio, or store a key: openclaw models auth add");
        return;
    }
    let rows: Vec<Vec<String>> = found
        .results
        .iter()
        .map(|row| {
            let context = row.context_length.map_or_else(|| "-".to_owned(), |n| format!("{}k", n / 1_000));
            let size = row.inferred_param_b.map_or_else(|| "-".to_owned(), |b| format!("{b}b"));
            let why = row.tool.error.clone().unwrap_or_default();
            vec![row.model_ref.clone(), latency(&row.tool), latency(&row.image), context, size, if row.local { "yes".into() } else { "no".into() }, why]
        })
        .collect();
    print::columns(&["Model", "Tools", "Images", "Ctx", "Size", "Local", "Note"], &rows);
}
