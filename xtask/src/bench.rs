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
    if let Some((first, rest)) = args.split_first()
        && first == "farm"
    {
        return farm(repo, rest);
    }
    // Said before minutes of building, not after.
    if let Some(bad) = args.iter().find(|arg| !["--quick", "--short", "--only", "ours", "original"].contains(&arg.as_str())) {
        bail!("unknown argument {bad}; usage: cargo xtask bench [--quick] [--short] [--only ours|original], or cargo xtask bench farm");
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

/// Builds everything optimised and measures the farm on real engines; writes `benches/results-farm.md`. Arguments go to the
/// benchmark: `--quick` (a tenth of everything), `--only trips,store,throughput,storm`, `--seed <n>`.
fn farm(repo: &Path, args: &[String]) -> anyhow::Result<()> {
    let found = prepare(repo, Fetch::Missing)?;
    cargo(repo, &["build", "--release", "-p", "clawstead-cli", "-p", "clawstead-farm-bench"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), |dir| repo.join(dir));
    let mut command = Command::new(target.join("release/clawstead-farm-bench"));
    command.arg("--out").arg(repo.join("benches/results-farm.md")).args(args).current_dir(repo);
    command.env("CLAWSTEAD_BIN", target.join("release/openclaw")).envs(&found.variables);
    finish(command)
}

/// Runs rows of the farm's fault matrix over real engines again and again, each time from another seed.
/// `--row <M1|M2|M3|M4|Q1|Q2|P>` (default all), `--runs <n>` (default 30), `--seed <first>`, `--scale <n>` (how long each
/// fault lasts, default 4 times the suite's).
fn soak_farm(repo: &Path, args: &[String]) -> anyhow::Result<()> {
    let (mut row, mut runs, mut seed, mut scale) = (String::new(), None, None, 4_u64);
    let mut rest = args.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().with_context(|| format!("{name}: {value} is not a number"));
        match name.as_str() {
            "--row" => row = value.to_lowercase(),
            "--runs" => runs = Some(number()?),
            "--seed" => seed = Some(number()?),
            "--scale" => scale = number()?,
            other => bail!("unknown argument {other}; usage: cargo xtask soak farm [--row M1] [--runs 30] [--seed 1] [--scale 4]"),
        }
    }
    let found = prepare(repo, Fetch::Missing)?;
    cargo(repo, &["build", "-p", "clawstead-cli"])?;
    // A seed that is named alone is one to repeat.
    let (first, runs) = (seed.unwrap_or(1), runs.unwrap_or(if seed.is_some() { 1 } else { 30 }));
    // The names of the tests begin with their row, or tell the engine: `P-redis` is about connections to Redis.
    let filter = match row.strip_prefix("p") {
        Some(rest) => format!("connections_to_{}", rest.trim_start_matches('-')),
        None if row.is_empty() => String::new(),
        None => format!("{row}_"),
    };
    let mut broken = Vec::new();
    for seed in first..first + runs {
        let mut command = Command::new("cargo");
        command.args(["test", "-p", "clawstead-harness", "--test", "farm_faults", "--", "--nocapture", "--test-threads=1"]).arg(&filter).current_dir(repo);
        not_of_this_package(command.envs(&found.variables).env("CLAWSTEAD_FAULT_SEED", seed.to_string()).env("CLAWSTEAD_FAULT_SCALE", scale.to_string()));
        if finish(command).is_err() {
            broken.push(seed.to_string());
        }
    }
    if !broken.is_empty() {
        bail!("{} of {runs} runs broke something: seeds {}; what each found, and the command that repeats it, is above", broken.len(), broken.join(", "));
    }
    println!("{runs} runs, nothing broken");
    Ok(())
}

/// Kills the gateway 200 times under load (or as often as `CLAWSTEAD_KILLS` says) and checks the ledger.
///
/// # Errors
/// When a message was lost or answered twice.
pub fn soak(repo: &Path, args: &[String]) -> anyhow::Result<()> {
    if let Some((first, rest)) = args.split_first()
        && first == "farm"
    {
        return soak_farm(repo, rest);
    }
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
