//! Repository chores: `cargo xtask <chore>`.

mod bench;
mod debian;
mod docs;
mod engines;
mod floors;
mod run;
mod tck;
mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

const USAGE: &str = "usage: cargo xtask <chore>

  test [--quick] [filter]  all tests with the real programs they run against
  engines [--env]          fetch those programs (--env prints their variables)
  bench [--quick]          measure beside the original; writes benches/results.md
  bench farm [--quick]     measure the farm on real engines; writes benches/results-farm.md
  docs                     write docs/reference from the code
  tck                      the A2A compatibility kit against the gateway (CLAWSTEAD_A2A_TCK names its folder)
  floors                   check that every crate uses lower floors only
  soak                     kill the gateway 200 times under load and check the ledger
  soak sim [N]             simulate N (10000) seeds of one gateway, and of a farm under each row of faults";

fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let repo = repository();
    let (chore, rest) = args.split_first().map_or(("", &args[..]), |(chore, rest)| (chore.as_str(), rest));
    let good = match chore {
        "test" => test::command(&repo, rest)?,
        "engines" => engines::command(&repo, rest).map(|()| true)?,
        "bench" => bench::bench(&repo, rest).map(|()| true)?,
        "docs" => docs::command(&repo).map(|()| true)?,
        "tck" => tck::command(&repo).map(|()| true)?,
        "floors" => floors::command(&repo)?,
        "soak" => bench::soak(&repo, rest).map(|()| true)?,
        "" | "help" | "--help" | "-h" => {
            println!("{USAGE}");
            true
        }
        other => {
            eprintln!("unknown chore {other}\n{USAGE}");
            false
        }
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The root of the repository: the folder above this package.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}
