use std::{fmt::Write as _, fs, time::Duration};

use crate::measure::{AGENTS, AT_ONCE, Counts, Figures, IDLE_CLIENTS, STREAMS};

/// The table, with the method beside each number.
pub fn table(counts: &Counts, ours: &Result<Figures, String>, original: &Result<Figures, String>) -> String {
    let original_counts = counts.original();
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench`: both programs in one run, one after the other, with the same model server (no delay), the same client and the same config (`maxConcurrent` 200).\n\n",
    );
    let _ = writeln!(text, "Machine: {}.\n", machine());
    let _ = writeln!(text, "| | bar | Clawstead | OpenClaw 2026.9.6 | method |\n|---|---|---|---|---|");
    let mut row = |what: &str, bar: &str, method: &str, value: &dyn Fn(&Figures) -> Option<String>| {
        let cell = |side: &Result<Figures, String>| side.as_ref().ok().and_then(value).unwrap_or_else(|| "not measured".into());
        let _ = writeln!(text, "| {what} | {bar} | {} | {} | {method} |", cell(ours), cell(original));
    };
    row(
        "start to ready",
        "≤ 50 ms",
        &format!("median of {} starts in a used home; from `exec` to the first `200` of `/readyz`, asked every 2 to 50 ms", counts.starts),
        &|f| median(&f.starts).map(ms),
    );
    row("idle memory", "≤ 20 MiB", &format!("{AGENTS} agents, 5 s after ready; resident, all processes of the gateway"), &|f| f.idle_rss.map(mib));
    row("memory after the turns", "≤ 25 MiB", &format!("after {} turns over 10 sessions", counts.turns), &|f| f.rss_after.map(mib));
    row(
        "turn, p50 / p99",
        "≤ 5 / 15 ms",
        &format!("{} turns, one after another over 10 sessions, after one warm-up turn each; `chat.send` to the `final` event at the client", counts.turns),
        &|f| Some(format!("{} / {}", ms(quantile(&f.turns, 50)?), ms(quantile(&f.turns, 99)?))),
    );
    row("accepted, p50 / p99", "", "the same turns; `chat.send` to its `ok` (with us: the message is on disk)", &|f| {
        Some(format!("{} / {}", ms(quantile(&f.accepted, 50)?), ms(quantile(&f.accepted, 99)?)))
    });
    row("CPU per turn", "≤ 2 ms", "user and system time of the gateway over the same turns", &|f| f.cpu_per_turn.map(ms));
    row(
        &format!("{AT_ONCE} sessions at once"),
        "≥ 450 turns/s",
        &format!("a connection each, {} turns each (the original: {})", counts.turns_at_once, original_counts.turns_at_once),
        &|f| f.at_once.map(|rate| format!("{rate:.1} turns/s")),
    );
    row("CPU per turn at once", "", "the same", &|f| f.at_once_cpu.map(ms));
    row("CPU per turn, 10th to 60th turn", "≤ 2 ms", "one session", &|f| f.early_cpu.map(ms));
    row(&format!("CPU per turn, last 50 of {}", counts.long_session), "flat", "the same session", &|f| f.late_cpu.map(ms));
    row(
        "ready probe under load, p99",
        "< 50 ms",
        &format!("{IDLE_CLIENTS} idle WebSocket clients, {STREAMS} sessions streaming 80 pieces each at 10 a second; `/readyz` every 20 ms"),
        &|f| quantile(&f.probe, 99).map(|time| format!("{} ({} probes, {} streams done)", ms(time), f.probe.len(), f.streamed)),
    );
    row("memory under that load", "", "resident at its end", &|f| f.load_rss.map(mib));
    row("`--version`", "< 20 ms", &format!("median of {} (the original: {})", counts.commands, original_counts.commands), &|f| {
        median(&f.version_start).map(ms)
    });
    row("`health --json`", "", "the same; connects to the gateway", &|f| median(&f.health_command).map(ms));
    row("`cron list --json`", "", "the same", &|f| median(&f.list_command).map(ms));
    row("program or install", "≤ 30 MiB", "ours: the one program; the original: its npm package with dependencies, without Node", &|f| f.size.map(mib));
    for (name, side) in [("Clawstead", ours), ("OpenClaw", original)] {
        match side {
            Err(why) => {
                let _ = writeln!(text, "\n{name} was not measured: {why}.");
            }
            Ok(Figures { fault: Some(fault), .. }) => {
                let _ = writeln!(text, "\n{name} was not measured to the end: {fault}.");
            }
            Ok(_) => {}
        }
    }
    text
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The release without what the builder of the kernel added.
    let kernel = kernel.trim().split(['-', '+']).next().unwrap_or_default().to_owned();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) >> 20;
    let build = if cfg!(debug_assertions) { "debug build (do not quote)" } else { "release build" };
    format!("{cores} cores, {memory} GiB, Linux {kernel}, shared with other work; {build}")
}

fn median(times: &[Duration]) -> Option<Duration> {
    quantile(times, 50)
}

/// Nearest rank.
fn quantile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

fn ms(time: Duration) -> String {
    let value = time.as_secs_f64() * 1000.0;
    if value >= 1000.0 {
        format!("{:.2} s", value / 1000.0)
    } else if value >= 20.0 {
        format!("{value:.0} ms")
    } else {
        format!("{value:.1} ms")
    }
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn quantiles_are_nearest_rank() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(super::quantile(&times, 50), Some(Duration::from_millis(50)));
        assert_eq!(super::quantile(&times, 99), Some(Duration::from_millis(99)));
        assert_eq!(super::quantile(&times[..1], 99), Some(Duration::from_millis(100)));
        assert_eq!(super::quantile(&[], 50), None);
    }
}
