use super::Outcome;
use crate::{cx::Cx, fail::Fail};
/// Later.
#[derive(clap::Args)]
pub struct Args {}
/// Later.
#[derive(clap::Args)]
pub struct ConfigureArgs {
    /// Area
    #[arg(long)]
    pub section: Vec<String>,
}
/// Later.
pub fn run(_: &Args, _: &Cx) -> Outcome { Err(Fail::new("not written yet")) }
/// Later.
pub fn configure(_: &ConfigureArgs, _: &Cx) -> Outcome { Err(Fail::new("not written yet")) }
