//! The table: each number beside its bar and the way it was measured.

use std::{fmt::Write as _, time::Duration};

/// One line.
pub struct Line {
    pub what: String,
    pub bar: String,
    pub value: String,
    /// Whether the bar is met; none where there is no bar.
    pub met: Option<bool>,
    pub method: String,
}

/// Sorted times.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// By nearest rank; zero when there are none.
    pub fn at(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// A line with a bar for the 95th of a hundred.
    pub fn line(&self, what: &str, bar: Duration, method: String) -> Line {
        let p95 = self.at(95);
        Line {
            what: what.to_owned(),
            bar: format!("p95 ≤ {} ms", bar.as_millis()),
            value: format!("p50 {}, p95 {}, p99 {} ({} samples)", ms(self.at(50)), ms(p95), ms(self.at(99)), self.0.len()),
            met: Some(!self.0.is_empty() && p95 <= bar),
            method,
        }
    }
}

/// Milliseconds for people.
pub fn ms(time: Duration) -> String {
    let value = time.as_secs_f64() * 1000.0;
    if value >= 100.0 { format!("{value:.0} ms") } else { format!("{value:.1} ms") }
}

/// The page.
pub fn page(lines: &[Line], machine: &str, kind: &str) -> String {
    let mut text = format!(
        "# The farm, measured\n\nWritten by `cargo xtask bench farm`{kind}: real engines, started by the benchmark on loopback addresses of the machine that the gateways run on. [How each number comes about](README.md).\n\nMachine: {machine}.\n\n| | bar | measured | met | method |\n|---|---|---|---|---|\n"
    );
    for line in lines {
        let met = line.met.map_or("", |met| if met { "yes" } else { "**no**" });
        let _ = writeln!(text, "| {} | {} | {} | {met} | {} |", line.what, line.bar, line.value, line.method);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn quantiles_are_nearest_rank_and_nothing_meets_no_bar() {
        let times = super::Times::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!((times.at(50), times.at(95)), (Duration::from_millis(50), Duration::from_millis(95)));
        assert_eq!(times.line("x", Duration::from_millis(95), String::new()).met, Some(true));
        assert_eq!(times.line("x", Duration::from_millis(94), String::new()).met, Some(false));
        assert_eq!(super::Times::new(Vec::new()).line("x", Duration::from_secs(1), String::new()).met, Some(false));
    }
}
