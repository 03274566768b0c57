//! `record-cli`: runs the commands of the compatibility suite with the original's command line against the original's
//! gateway and writes down exit codes and the shapes of the `--json` output (`tests/golden/openclaw-cli.json`).
//! Run it once for a new version of the original; the suite compares our gateway with the file.

use std::{fs, path::PathBuf, process::ExitCode};

use clawstead_harness::{
    cli::Cli,
    gateway::{Gateway, Setup, Whose, config},
    golden::{COMMANDS, run_all},
    mock::{MockModel, Options},
};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let target = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("tests/golden/openclaw-cli.json"), PathBuf::from);
    let model = MockModel::start(Options::default()).await?;
    let port = clawstead_harness::free_port()?;
    let mut setup = Setup::original(&config(port, &model.v1(), &["jerry", "bobby", "billy"]));
    setup.port = port;
    let gateway = Gateway::start(setup).await?;
    eprintln!("ready after {:?}", gateway.ready_after);
    let cli = Cli::remote(Whose::Original, &gateway.ws())?;
    let (recorded, _) = run_all(&cli, COMMANDS).await?;
    for one in &recorded {
        eprintln!("{} -> {:?}, {} keys, {:?}", one.name, one.code, one.shape.len(), one.took);
    }
    fs::write(&target, serde_json::to_string_pretty(&recorded)? + "\n")?;
    Ok(ExitCode::SUCCESS)
}
