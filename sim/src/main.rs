//! `clawstead-sim --seed N | --seeds A..B [--verbose]`: runs seeds, prints what breaks and how to run it again.

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use clawstead_sim::{
    Report,
    farm::{self, Listen, plan::Storage, row::Row},
};

const USAGE: &str = "usage: clawstead-sim [--farm [--row M1 | --all-rows] [--shared]] (--seed N | --seeds A..B) [--verbose] [--threads N]

  --farm      several gateways instead of one
  --row NAME  what goes wrong in the farm, a row of the fault matrix; without it each seed takes the next row
  --all-rows  every seed under every row
  --shared    the gateways keep their rows in one store, and agents move between them";
/// Broken seeds after which a row of seeds ends.
const BROKEN_MAX: usize = 20;

struct Wishes {
    from: u64,
    below: u64,
    verbose: bool,
    threads: usize,
    farm: Option<Farm>,
    storage: Storage,
}

/// Which farms are wanted.
#[derive(Clone, Copy)]
enum Farm {
    /// Each seed under the next row.
    InTurn,
    /// Under this row.
    Row(Row),
    /// Each seed under all rows.
    AllRows,
}

impl Wishes {
    /// How many simulations there are.
    fn count(&self) -> u64 {
        let rows = if matches!(self.farm, Some(Farm::AllRows)) { Row::ALL.len() as u64 } else { 1 };
        self.below.saturating_sub(self.from) * rows
    }

    /// Runs one of them.
    fn run(&self, number: u64) -> Report {
        let listen = if self.verbose { Listen::Aloud } else { Listen::InSilence };
        match self.farm {
            None => clawstead_sim::run(self.from + number),
            Some(Farm::InTurn) => farm::run_and(self.from + number, Row::of(self.from + number), self.storage, listen),
            Some(Farm::Row(row)) => farm::run_and(self.from + number, row, self.storage, listen),
            Some(Farm::AllRows) => {
                let rows = Row::ALL.len() as u64;
                farm::run_and(self.from + number / rows, Row::of(number % rows), self.storage, listen)
            }
        }
    }
}

fn wishes(mut args: impl Iterator<Item = String>) -> Option<Wishes> {
    let mut wishes = Wishes {
        from: 0,
        below: 100,
        verbose: false,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        farm: None,
        storage: Storage::Own,
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seed" => {
                wishes.from = args.next()?.parse().ok()?;
                wishes.below = wishes.from + 1;
            }
            "--seeds" => {
                let range = args.next()?;
                let (from, below) = range.split_once("..")?;
                (wishes.from, wishes.below) = (from.parse().ok()?, below.parse().ok()?);
            }
            "--threads" => wishes.threads = args.next()?.parse().ok()?,
            "--farm" => wishes.farm = wishes.farm.or(Some(Farm::InTurn)),
            "--row" => wishes.farm = Some(Farm::Row(Row::parse(&args.next()?)?)),
            "--shared" => {
                wishes.farm = wishes.farm.or(Some(Farm::InTurn));
                wishes.storage = Storage::Shared;
            }
            "--all-rows" => wishes.farm = Some(Farm::AllRows),
            "--verbose" => wishes.verbose = true,
            _ => return None,
        }
    }
    Some(wishes)
}

#[expect(clippy::disallowed_methods, reason = "a tool on the command line says how long it took")]
fn main() -> ExitCode {
    let Some(wishes) = wishes(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if wishes.verbose && wishes.farm.is_none() {
        tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_env_filter("info,clawstead_agent=debug").init();
    }
    let began = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let broken: Mutex<Vec<String>> = Mutex::default();
    let counts: Mutex<std::collections::BTreeMap<&str, u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..wishes.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= wishes.count() || broken.lock().unwrap_or_else(PoisonError::into_inner).len() >= BROKEN_MAX {
                        return;
                    }
                    let report = wishes.run(number);
                    let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    for (what, count) in &report.counts {
                        *all.entry(what).or_default() += count;
                    }
                    drop(all);
                    if wishes.verbose {
                        print!("{}", report.log);
                    }
                    if !report.violations.is_empty() {
                        let name = report.farm.map_or_else(|| report.seed.to_string(), |(row, _)| format!("{row:?}/{}", report.seed));
                        for violation in &report.violations {
                            println!("seed {name}: {violation}");
                        }
                        println!("  again: {}", report.rerun());
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seeds = next.load(Ordering::Relaxed).min(wishes.count());
    println!("{seeds} seeds in {:.1} s, {} broken {broken:?}", began.elapsed().as_secs_f64(), broken.len());
    println!("{:?}", counts.into_inner().unwrap_or_else(PoisonError::into_inner));
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
