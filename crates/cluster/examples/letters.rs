//! Runs the letter storm over many seeds, or one: `letters [seed | from..to]`; 0..10000 when nothing is said.

#[path = "../tests/storm/mod.rs"]
mod storm;

fn main() -> Result<(), String> {
    let text = std::env::args().nth(1).unwrap_or_else(|| "0..10000".into());
    let number = |part: &str| part.parse::<u64>().map_err(|_| format!("{text:?} is neither a seed nor from..to"));
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (number(from)?, number(to)?),
        None => number(&text).map(|seed| (seed, seed + 1))?,
    };
    let (mut acked, mut sends, mut crashes, mut broken, mut dead) = (0, 0, 0, 0, std::collections::BTreeMap::<String, usize>::new());
    for seed in from..to {
        match storm::run(seed) {
            Ok(report) => {
                acked += report.acked;
                sends += report.sends;
                crashes += report.crashes;
                for (reason, count) in report.dead {
                    *dead.entry(reason).or_default() += count;
                }
            }
            Err(what) => {
                broken += 1;
                println!("{what}");
            }
        }
    }
    println!("{} seeds: {acked} letters acked, {sends} attempts, {crashes} crashes, dead letters by reason {dead:?}, {broken} seeds broken", to - from);
    if broken == 0 { Ok(()) } else { Err(format!("{broken} seeds broke a promise")) }
}
