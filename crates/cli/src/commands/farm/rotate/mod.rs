//! `farm rotate`: what is changed, by the plan that `clawstead_cluster::keys::rotation_plan` makes.

mod credentials;
mod gateway_key;
mod progress;
mod root;

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clawstead_cluster::keys::{Rotation, RotationStep, rotation_plan};
use clawstead_farm::enrol::all_records;
use serde_json::{Value, json};

use super::site::Site;
use crate::{commands::Outcome, cx::Cx, fail::Fail, print};

/// Change keys and credentials, old and new overlapping.
#[derive(clap::Args)]
#[command(
    after_help = "gateway-key   The key this gateway signs with. Done here, step by step; waits are shown, Ctrl-C stops waiting only, and the\n              same command goes on later: how far it is lies in the coordination store.\nroot          The farm's root. Config and records are changed here, the config of other gateways by you.\ncertificate   Of the peer link. The gateway does it itself; this says how.\nconsul, redis, nats   What this gateway shows an engine. The engine's side is yours; with --ref-id the config is\n              changed here, after the new credential was tried.\n\nExamples:\n  openclaw farm rotate gateway-key --dry-run\n  openclaw farm rotate gateway-key --yes --no-wait\n  openclaw farm rotate consul --ref-source env --ref-id CONSUL_TOKEN_2"
)]
pub struct Args {
    /// What
    #[arg(value_name = "WHAT", value_parser = PossibleValuesParser::new(["gateway-key", "root", "certificate", "consul", "redis", "nats"]))]
    what: String,
    /// Print the steps and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do what is due now and say when to come again
    #[arg(long)]
    no_wait: bool,
    /// The farm's root key [default: farm-root.pem in the state folder]
    #[arg(long, value_name = "FILE")]
    root_file: Option<PathBuf>,
    /// Where a new root is written [default: farm-root-next.pem in the state folder]
    #[arg(long, value_name = "FILE")]
    new_root_file: Option<PathBuf>,
    /// Where the new credential is
    #[arg(long, value_name = "SOURCE", default_value = "env", value_parser = PossibleValuesParser::new(["env", "file", "exec"]))]
    ref_source: String,
    /// Provider of the reference
    #[arg(long, default_value = "default", value_name = "NAME")]
    ref_provider: String,
    /// Name of the variable, JSON pointer or key of the new credential
    #[arg(long, value_name = "ID")]
    ref_id: Option<String>,
    /// The user that the new credential belongs to, where it is another one (a user of NATS has one password)
    #[arg(long, value_name = "NAME", requires = "ref_id")]
    new_user: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    match args.what.as_str() {
        "gateway-key" => gateway_key::run(args, cx),
        "root" => root::run(args, cx),
        "certificate" => certificate(args, cx),
        engine => credentials::run(args, cx, engine),
    }
}

/// The plan for what is not under way.
async fn plan(site: &Site, what: &Rotation) -> Result<Vec<RotationStep>, Fail> {
    Ok(rotation_plan(what, &all_records(&*site.coord).await?)?)
}

fn certificate(args: &Args, cx: &Cx) -> Outcome {
    // The plan of a certificate asks nothing of the records, so the store need not answer.
    let steps = cx.block_on(async { Ok(rotation_plan(&Rotation::Certificate { gateway: Site::of(cx)?.gateway }, &[])?) })?;
    if args.dry_run {
        return dry(args, &steps);
    }
    let words = "The gateway makes the certificates of its links itself, with its key, and a new one after two thirds of their 7 days. A new one at once: openclaw gateway restart";
    if args.json {
        print::json(&json!({"ok": true, "what": args.what, "steps": steps_json(&steps), "manual": ["openclaw gateway restart"], "note": words}));
    } else {
        steps.iter().for_each(|step| print::line(&step.to_string()));
        print::line(words);
    }
    Ok(0)
}

fn dry(args: &Args, steps: &[RotationStep]) -> Outcome {
    if args.json {
        print::json(&json!({"ok": true, "what": args.what, "dryRun": true, "steps": steps_json(steps)}));
    } else {
        steps.iter().for_each(|step| print::line(&step.to_string()));
    }
    Ok(0)
}

fn steps_json(steps: &[RotationStep]) -> Value {
    steps.iter().map(|step| json!({"number": step.number, "waitMs": step.wait_ms, "what": step.what, "event": step.event})).collect()
}
