//! `cargo xtask tck`: the A2A protocol's compatibility kit against the gateway, with its table.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    engines::{Fetch, prepare},
    run::not_of_this_package,
};

/// Builds the gateway and runs the kit; what it finds missing is told. The kit is not fetched: it is an outside program,
/// `CLAWSTEAD_A2A_TCK` names its folder and `CLAWSTEAD_A2A_PYTHON` a Python with its packages.
///
/// # Errors
/// When the build fails, or a mandatory requirement is not met.
pub fn command(repo: &Path) -> anyhow::Result<()> {
    let found = prepare(repo, Fetch::No)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "-p", "clawstead-cli"]).current_dir(repo);
    finish(cargo)?;
    let mut tests = Command::new("cargo");
    tests.args(["test", "-p", "clawstead-harness", "--test", "tck", "--", "--nocapture"]).current_dir(repo).envs(&found.variables);
    not_of_this_package(&mut tests);
    finish(tests)
}

fn finish(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
