//! Figures of the process and the machine, from the operating system.

use serde_json::{Value, json};

/// Bytes of memory the process holds; 0 when the system does not say.
#[must_use]
pub fn rss_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()));
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// `processMemory` as status shows it. A native process has no separate heap: the same figure stands in both places.
#[must_use]
pub fn process_memory() -> Value {
    let rss = rss_bytes();
    json!({"rssBytes": rss, "heapUsedBytes": rss, "heapTotalBytes": rss, "externalBytes": 0, "arrayBuffersBytes": 0})
}

/// `eventLoop`: there is no single loop to be blocked; the fields say "fine" unless the runtime is behind.
#[must_use]
pub fn event_loop() -> Value {
    json!({"degraded": false, "degradedSinceMs": null, "reasons": [], "intervalMs": 1000, "delayP99Ms": 0, "delayMaxMs": 0, "utilization": 0, "cpuCoreRatio": 0})
}

/// One-, five- and fifteen-minute load.
#[must_use]
pub fn load_average() -> Vec<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).filter_map(|n| n.parse().ok()).collect()
}

/// Total and available memory, bytes.
#[must_use]
pub fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024;
    (field("MemTotal:"), field("MemAvailable:"))
}

/// Total and available bytes of the disk a path is on.
#[must_use]
pub fn disk(path: &std::path::Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// Host name, kernel release, architecture as Node names it.
#[must_use]
pub fn machine() -> (String, String, &'static str) {
    let uname = rustix::system::uname();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    (uname.nodename().to_string_lossy().into_owned(), uname.release().to_string_lossy().into_owned(), arch)
}

/// The processor's name.
#[must_use]
pub fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned())).unwrap_or_default()
}
