//! `clawstead-farm-bench`: measures the farm on real engines and writes `benches/results-farm.md`.

mod engines;
mod node;
mod report;
mod room;
mod store;
mod storm;
mod throughput;
mod trips;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use report::{Line, ms};

/// Measures the farm on real engines.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// The page to write.
    #[arg(long, default_value = "benches/results-farm.md")]
    out: PathBuf,
    /// A tenth of everything: for trying the benchmark out, not for the record.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// The seed of what goes wrong in the storm.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Role {
    /// One gateway's mailroom, for the storm: started by the benchmark itself.
    #[command(hide = true)]
    Node(node::Args),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Round trips of whole gateways.
    Trips,
    /// Writes, discovery and heartbeats.
    Store,
    /// Letters a second.
    Throughput,
    /// Letters under faults.
    Storm,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    if let Some(Role::Node(node)) = args.role {
        return node::run(node).await.map(|()| ExitCode::SUCCESS);
    }
    let of = |count: usize| if args.quick { count.div_ceil(10) } else { count };
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let mut lines: Vec<Line> = Vec::new();
    if wanted(Part::Trips) {
        for kind in ["alone", "nats", "redis", "consul"] {
            push(&mut lines, &format!("round trip ({kind})"), trips::measure(kind, of(500)).await.map(|line| vec![line]));
        }
    }
    if wanted(Part::Store) {
        let beats = Duration::from_secs(if args.quick { 20 } else { 400 });
        push(&mut lines, "the store", store::measure(of(1_000), of(200), beats).await);
    }
    if wanted(Part::Throughput) {
        for (kind, name, bar) in [("nats", "NATS", Some(2_000.0)), ("redis", "Redis", None)] {
            let letters = of(40_000);
            let measured = throughput::run(kind, letters, 512).await.map(|figures| vec![figures.line(name, letters, bar)]);
            push(&mut lines, &format!("throughput ({kind})"), measured);
        }
    }
    if wanted(Part::Storm) {
        push(&mut lines, "the storm", storm::run(of(100_000), args.seed).await.map(|line| vec![line]));
    }
    let page = report::page(&lines, &machine(), if args.quick { " with `--quick`, so not for the record" } else { "" });
    println!("{page}");
    std::fs::write(&args.out, &page)?;
    Ok(if lines.iter().all(|line| line.met != Some(false)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A part that cannot be measured is a line of its own, and fails the run.
fn push(lines: &mut Vec<Line>, what: &str, measured: anyhow::Result<Vec<Line>>) {
    let new = measured.unwrap_or_else(|error| {
        let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
        vec![Line { what: what.into(), bar: String::new(), value: "not measured".into(), met: Some(false), method: first }]
    });
    for line in &new {
        eprintln!("{}: {} ({})", line.what, line.value, line.bar);
    }
    lines.extend(new);
}

impl throughput::Figures {
    fn line(&self, name: &str, letters: usize, bar: Option<f64>) -> Line {
        let [sender, receiver] = self.stores;
        Line {
            what: format!("durable letters a second over {name}"),
            bar: bar.map_or_else(String::new, |bar| format!("≥ {bar}")),
            value: format!("{:.0} ({} of processor time a letter in both gateways, {} given up)", self.per_second, ms(self.cpu_per_letter), self.dead),
            met: bar.map(|bar| self.per_second >= bar && self.dead == 0),
            method: format!(
                "{letters} letters of kind `event` from {agents} agents of one gateway to {agents} of the other, 512 sessions, {window} under way at once; mailrooms with SQLite and signatures as in the product, in one process, the engine in another, all on this machine; the handler does nothing, at once, because turns have a benchmark of their own; from the first letter written to the last `acked` on the sender's disk; {} and {} commits in {} and {} syncs",
                sender.batches,
                receiver.batches,
                sender.syncs,
                receiver.syncs,
                agents = throughput::AGENTS,
                window = throughput::WINDOW,
            ),
        }
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
    format!("{cores} cores, Linux {release}, load average {load} at the end; {} build", if cfg!(debug_assertions) { "debug" } else { "release" })
}
