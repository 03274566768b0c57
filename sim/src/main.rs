//! `clawstead-sim --seed N | --seeds A..B [--verbose]`: runs seeds, prints what breaks and how to run it again.

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

const USAGE: &str = "usage: clawstead-sim (--seed N | --seeds A..B) [--verbose] [--threads N]";
/// Broken seeds after which a row of seeds ends.
const BROKEN_MAX: usize = 20;

struct Wishes {
    from: u64,
    below: u64,
    verbose: bool,
    threads: usize,
}

fn wishes(mut args: impl Iterator<Item = String>) -> Option<Wishes> {
    let mut wishes = Wishes { from: 0, below: 100, verbose: false, threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get) };
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
    if wishes.verbose {
        tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_env_filter("info,clawstead_agent=debug").init();
    }
    let began = std::time::Instant::now();
    let next = AtomicU64::new(wishes.from);
    let broken: Mutex<Vec<u64>> = Mutex::default();
    let counts: Mutex<std::collections::BTreeMap<&str, u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..wishes.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= wishes.below || broken.lock().unwrap_or_else(PoisonError::into_inner).len() >= BROKEN_MAX {
                        return;
                    }
                    let report = clawstead_sim::run(seed);
                    let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    for (what, count) in &report.counts {
                        *all.entry(what).or_default() += count;
                    }
                    drop(all);
                    if wishes.verbose {
                        print!("{}", report.log);
                    }
                    if !report.violations.is_empty() {
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                        for violation in &report.violations {
                            println!("seed {seed}: {violation}");
                        }
                        println!("  again: {}", report.rerun());
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seeds = next.load(Ordering::Relaxed).min(wishes.below) - wishes.from;
    println!("{seeds} seeds in {:.1} s, {} broken {broken:?}", began.elapsed().as_secs_f64(), broken.len());
    println!("{:?}", counts.into_inner().unwrap_or_else(PoisonError::into_inner));
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
