//! Figures of this process, from `/proc`.

use clawstead_world::{M, Metrics};

use crate::vitals;

/// Reads them; what the system does not say is left out.
pub(super) fn read(metrics: &Metrics) {
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
    let rss = vitals::rss_bytes() as f64;
    metrics.set(M::ProcessRss, &[], rss);
    metrics.set(M::MemoryBytes, &["rss"], rss);
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One of them is this look itself.
        metrics.set(M::ProcessFds, &[], f64::from(u32::try_from(open.count().saturating_sub(1)).unwrap_or(u32::MAX)));
    }
    let Some((cpu, started)) = times() else { return };
    metrics.set(M::ProcessCpu, &[], cpu);
    metrics.set(M::ProcessStart, &[], started);
}

/// Processor seconds, and when the process started in seconds since 1970.
fn times() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; counted from behind it, `state` is field 3 of proc(5).
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    #[expect(clippy::cast_precision_loss, reason = "a hundred or so")]
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let boot: f64 = std::fs::read_to_string("/proc/stat").ok()?.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Some(((ticks(14)? + ticks(15)?) / per_second, boot + ticks(22)? / per_second))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_process_started_before_now_and_after_its_machine() {
        let (cpu, started) = super::times().unwrap();
        assert!(cpu >= 0.0);
        #[expect(clippy::disallowed_methods, reason = "compared with the system's own time")]
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(started > 1_000_000_000.0 && started <= now + 1.0, "{started}");
    }
}
