use super::Outcome;
/// Later.
#[derive(clap::Args)]
pub struct Args {}
/// Later.
pub fn run(_: &Args) -> Outcome { Ok(0) }
