//! `farm alerts`: the alert rules that belong to this version's figures.

use crate::{commands::Outcome, print};

/// The rules; the file beside the examples.
pub const RULES: &str = include_str!("../../../../../examples/prometheus/openclaw.rules.yml");

/// Alert rules for Prometheus.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw farm alerts > /etc/prometheus/openclaw.rules.yml\n\nGateways answer Prometheus at /api/diagnostics/prometheus, with the gateway's token as bearer."
)]
pub struct Args {}

/// Runs it.
pub fn run(_: &Args) -> Outcome {
    print::piece(RULES);
    Ok(0)
}
