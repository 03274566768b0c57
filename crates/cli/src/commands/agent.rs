use super::Outcome;
use crate::{cx::Cx, fail::Fail};
/// Later.
#[derive(clap::Args)]
pub struct Args {}
/// Later.
pub fn run(_: &Args, _: &Cx) -> Outcome {
    Err(Fail::new("not written yet"))
}
