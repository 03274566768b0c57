//! `cargo xtask bench` and `cargo xtask soak`: long runs with a release build.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    engines::{Fetch, prepare},
    run::not_of_this_package,
};

/// Builds everything optimised and measures ours beside the original; writes `benches/results.md`.
/// Arguments go to the benchmark: `--quick` (fewer repeats), `--short` (without the long parts), `--only ours|original`.
///
/// # Errors
/// When the build or a measurement fails.
pub fn bench(repo: &Path, args: &[String]) -> anyhow::Result<()> {
    // Said before minutes of building, not after.
    if let Some(bad) = args.iter().find(|arg| !["--quick", "--short", "--only", "ours", "original"].contains(&arg.as_str())) {
        bail!("unknown argument {bad}; usage: cargo xtask bench [--quick] [--short] [--only ours|original]");
    }
    let found = prepare(repo, Fetch::Missing)?;
    cargo(repo, &["build", "--release", "-p", "clawstead-cli", "-p", "clawstead-harness"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), |dir| repo.join(dir));
    let mut command = Command::new(target.join("release/clawstead-bench"));
    command.args(args).arg("--out").arg(repo.join("benches/results.md")).current_dir(repo);
    command.env("CLAWSTEAD_BIN", target.join("release/openclaw")).envs(&found.variables);
    finish(command)
}

/// Seeds of a long simulation, for each row.
const SOAK_SEEDS: u64 = 10_000;

/// Kills the gateway 200 times under load (or as often as `CLAWSTEAD_KILLS` says) and checks the ledger.
///
/// # Errors
/// When a message was lost or answered twice.
pub fn soak(repo: &Path, args: &[String]) -> anyhow::Result<()> {
    if let Some((chore, rest)) = args.split_first()
        && chore == "sim"
    {
        return soak_sim(repo, rest);
    }
    cargo(repo, &["build", "--release", "-p", "clawstead-cli"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), |dir| repo.join(dir));
    let mut command = Command::new("cargo");
    command.args(["test", "-p", "clawstead-harness", "--test", "kill", "--", "--nocapture"]).args(args).current_dir(repo);
    not_of_this_package(command.env("CLAWSTEAD_BIN", target.join("release/openclaw")));
    if std::env::var_os("CLAWSTEAD_KILLS").is_none() {
        command.env("CLAWSTEAD_KILLS", "200");
    }
    finish(command)
}

/// Simulates many seeds: of one gateway alone, and of a farm under each row of the fault matrix.
fn soak_sim(repo: &Path, args: &[String]) -> anyhow::Result<()> {
    let seeds: u64 = match args.first() {
        Some(text) => text.parse().with_context(|| format!("{text} is no number of seeds"))?,
        None => SOAK_SEEDS,
    };
    cargo(repo, &["build", "--profile", "soak", "-p", "clawstead-sim"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), |dir| repo.join(dir));
    let simulate = |args: &[&str]| {
        println!("clawstead-sim {}", args.join(" "));
        let mut command = Command::new(target.join("soak/clawstead-sim"));
        command.args(args).current_dir(repo);
        finish(command)
    };
    let range = format!("0..{seeds}");
    simulate(&["--seeds", &range])?;
    simulate(&["--farm", "--all-rows", "--seeds", &range])
}

fn cargo(repo: &Path, args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    not_of_this_package(command.args(args).current_dir(repo));
    finish(command)
}

fn finish(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed", command.get_program().display());
    }
    Ok(())
}
