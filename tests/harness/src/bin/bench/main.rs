//! `clawstead-bench`: measures our gateway beside the original in one run, with one model server, and writes a table.

mod measure;
mod report;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use clawstead_harness::{
    engines::{Engine, our_binary},
    gateway::Whose,
};

use measure::{Counts, Figures};

/// Measures our gateway beside the original.
#[derive(Parser)]
struct Args {
    /// The table to write.
    #[arg(long, default_value = "benches/results.md")]
    out: PathBuf,
    /// Fewer starts and turns: for trying the benchmark out, not for the record.
    #[arg(long)]
    quick: bool,
    /// Measure only one of the two.
    #[arg(long)]
    only: Option<Only>,
    /// Leave out the parts that take long: 2,000 turns of one session, 1,000 clients.
    #[arg(long)]
    short: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Ours,
    Original,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let counts = if args.quick { Counts::QUICK } else { Counts::FULL };
    let ours = match (args.only, our_binary()) {
        (Some(Only::Original), _) => Err("left out".to_owned()),
        (_, Err(why)) => Err(why),
        (_, Ok(_)) => measured(Whose::Ours, &counts.ours(), args.short).await,
    };
    let original = match (args.only, Engine::Node.find().and_then(|_| Engine::OpenClaw.find())) {
        (Some(Only::Ours), _) => Err("left out".to_owned()),
        (_, Err(why)) => Err(why),
        (_, Ok(_)) => measured(Whose::Original, &counts.original(), true).await,
    };
    let text = report::table(&counts, &ours, &original);
    println!("{text}");
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&args.out, &text)?;
    Ok(if ours.is_ok() || args.only == Some(Only::Original) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measured(whose: Whose, counts: &Counts, short: bool) -> Result<Figures, String> {
    let mut figures = Figures::default();
    match measure::all(whose, counts, short, &mut figures).await {
        Ok(()) => Ok(figures),
        Err(error) => {
            eprintln!("{whose:?}: {error:#}");
            // What was measured before the fault still goes into the table.
            figures.fault = Some(format!("{error:#}").lines().next().unwrap_or_default().to_owned());
            Ok(figures)
        }
    }
}
