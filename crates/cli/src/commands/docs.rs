//! Reference pages made from the commands.

use super::Outcome;
use crate::{print, reference};

/// Reference pages made from the commands.
#[derive(clap::Args)]
pub struct Args {
    /// Page
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["cli"]))]
    page: String,
}

/// Runs it.
pub fn run(args: &Args) -> Outcome {
    let _ = &args.page;
    print::piece(&reference::cli());
    Ok(0)
}
