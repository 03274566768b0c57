//! What `/proc` says of a process and its children.

use std::{collections::BTreeMap, fs, time::Duration};

/// Kernel clock ticks a second. Linux has reported 100 to programs on every platform for decades.
const TICKS_A_SECOND: u64 = 100;

/// Memory and processor time of a process tree at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Resident memory, bytes.
    pub rss: u64,
    /// User and system time since the start, exited and awaited children included.
    pub cpu: Duration,
    /// Processes counted.
    pub processes: usize,
}

/// Sums up a process and everything it started. Zero when it is gone.
#[must_use]
pub fn usage(pid: u32) -> Usage {
    let mut parents: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(parent) = stat(id).and_then(|fields| fields.get(1)?.parse().ok()) {
            parents.entry(parent).or_default().push(id);
        }
    }
    let mut sum = Usage::default();
    let mut open = vec![pid];
    while let Some(id) = open.pop() {
        if let Some(fields) = stat(id) {
            let ticks: u64 = fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
            sum.cpu += Duration::from_millis(ticks * 1000 / TICKS_A_SECOND);
            sum.rss += rss(id);
            sum.processes += 1;
        }
        open.extend(parents.remove(&id).unwrap_or_default());
    }
    sum
}

/// The fields of `/proc/<pid>/stat` after the name: state, parent, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

fn rss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Processor time of the live threads of a process, to the nanosecond where the kernel keeps it. Threads that ended are
/// not in it, so it is for differences over a short time. `None` when the kernel does not keep it.
#[must_use]
pub fn fine_cpu(pid: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let times = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    let sum: u64 = times.sum();
    (sum > 0).then(|| Duration::from_nanos(sum))
}

/// Peak resident memory of one process, bytes.
#[must_use]
pub fn peak_rss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Bytes of all files below a folder or of one file.
#[must_use]
pub fn size_on_disk(path: &std::path::Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size_on_disk(&entry.path())).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_uses_memory() {
        let usage = super::usage(std::process::id());
        assert!(usage.rss > 1 << 20 && usage.processes >= 1, "{usage:?}");
        assert_eq!(super::usage(u32::MAX).processes, 0);
    }
}
