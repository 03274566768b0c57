use crate::{commands::Outcome, print};

/// Print the JSON Schema of the config.
#[derive(clap::Args)]
pub struct Args {
    /// JSON (it always is)
    #[arg(long)]
    json: bool,
}

/// `config schema`.
pub fn run(args: &Args) -> Outcome {
    let _ = args.json;
    print::json(&clawstead_config::json_schema());
    Ok(0)
}
