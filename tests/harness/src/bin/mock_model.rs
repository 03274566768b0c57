//! `mock-model`: the model server of the tests as a program. Prints its base address, then serves until killed.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use clawstead_harness::mock::{MockModel, Options};

/// A model server for tests: OpenAI chat completions and responses, Anthropic messages.
#[derive(Parser)]
struct Args {
    /// Port on 127.0.0.1; 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Wait before the first byte, ms.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Wait between pieces of a stream, ms.
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// Pieces of a streamed answer.
    #[arg(long, default_value_t = 8)]
    pieces: usize,
    /// Words added to the echo.
    #[arg(long, default_value_t = 0)]
    words: usize,
    /// Every n-th request fails with HTTP 500.
    #[arg(long, default_value_t = 0)]
    fail_every: u64,
    /// JSON file with a list of rules: `contains`, `model`, `tool`, `arguments`, `say`.
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Append one JSON line a request.
    #[arg(long)]
    ledger: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let rules = match &args.rules {
        Some(path) => serde_json::from_slice(&std::fs::read(path).with_context(|| path.display().to_string())?)?,
        None => Vec::new(),
    };
    let server = MockModel::start(Options {
        port: args.port,
        delay_ms: args.delay_ms,
        pace_ms: args.pace_ms,
        pieces: args.pieces,
        words: args.words,
        fail_every: args.fail_every,
        rules,
        ledger: args.ledger,
        ..Options::default()
    })
    .await?;
    println!("{}", server.url());
    server.join().await;
    Ok(())
}
