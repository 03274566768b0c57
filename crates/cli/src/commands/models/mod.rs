//! `openclaw models`: models, fallbacks, aliases, credentials.

mod auth;
mod edit;
mod list;
mod scan;
mod status;

use clap::Subcommand;

use super::Outcome;
use crate::cx::Cx;
pub use auth::store_profile;
pub use status::key_variable;

/// Models, fallbacks, aliases and credentials.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  openclaw models status\n  openclaw models list --all\n  openclaw models set anthropic/claude-sonnet-4-5\n  openclaw models fallbacks add openai/gpt-5\n  openclaw models aliases add fast mock/mock-1"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    status: status::Args,
}

#[derive(Subcommand)]
enum Verb {
    /// Default model, fallbacks and credentials
    Status(status::Args),
    /// Models that can be used
    List(list::Args),
    /// Set the default model
    Set(edit::SetArgs),
    /// Set the model for images
    SetImage(edit::SetArgs),
    /// Models that are asked when the first one fails
    Fallbacks(edit::FallbackArgs),
    /// The same for the image model
    ImageFallbacks(edit::FallbackArgs),
    /// Short names of models
    Aliases(edit::AliasArgs),
    /// Ask providers and this machine which models they have, and try them
    Scan(scan::Args),
    /// Credentials of providers
    Auth(auth::Args),
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        None => status::run(&args.status, cx),
        Some(Verb::Status(args)) => status::run(&args, cx),
        Some(Verb::List(args)) => list::run(&args, cx),
        Some(Verb::Set(args)) => edit::set_model(&args, cx, "model"),
        Some(Verb::SetImage(args)) => edit::set_model(&args, cx, "imageModel"),
        Some(Verb::Fallbacks(args)) => edit::fallbacks(&args, cx, "model"),
        Some(Verb::ImageFallbacks(args)) => edit::fallbacks(&args, cx, "imageModel"),
        Some(Verb::Aliases(args)) => edit::aliases(&args, cx),
        Some(Verb::Scan(args)) => scan::run(&args, cx),
        Some(Verb::Auth(args)) => auth::run(&args, cx),
    }
}
