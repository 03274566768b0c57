//! `cargo xtask docs`: writes the reference pages that are made from the code.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, bail};

use crate::run::not_of_this_package;

/// Where they go.
const FOLDER: &str = "docs/reference";

/// Writes all pages.
///
/// # Errors
/// When a program that makes pages cannot be built or fails.
pub fn command(repo: &Path) -> anyhow::Result<()> {
    let pages = run(repo, &["-p", "clawstead-gateway", "--example", "reference", "--", FOLDER])?;
    print!("{pages}");
    let cli = run(repo, &["-p", "clawstead-cli", "--", "__docs", "cli"])?;
    if cli.trim().is_empty() {
        bail!("`openclaw __docs cli` printed nothing");
    }
    fs::write(repo.join(FOLDER).join("cli.md"), cli).context("docs/reference/cli.md")?;
    println!("{FOLDER}/cli.md");
    Ok(())
}

fn run(repo: &Path, args: &[&str]) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.args(["run", "--quiet"]).args(args).current_dir(repo);
    let output = not_of_this_package(&mut command).output().context("cargo run")?;
    if !output.status.success() {
        bail!("cargo run {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("a page that is not text")
}
