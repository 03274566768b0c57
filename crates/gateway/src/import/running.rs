//! Whether a gateway of the original still runs on a state folder: its lock files name a process.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Bytes of a lock file that are read; the original writes JSON and then blanks.
const LOCK_BYTES_MAX: usize = 16 * 1024;

/// Words that refuse the import, when an original gateway runs on `state_dir`.
#[must_use]
pub fn refusal(state_dir: &Path) -> Option<String> {
    let mut places: Vec<PathBuf> = folders(&state_dir.join("tmp"));
    // March wrote its lock into the temporary folder of the system.
    places.extend(folders(&std::env::temp_dir()));
    places.iter().flat_map(|folder| locks(folder)).find_map(|path| {
        let lock = read(&path)?;
        let own = path.starts_with(state_dir) || lock.get("configPath").and_then(Value::as_str).is_some_and(|config| Path::new(config).starts_with(state_dir));
        let pid = lock.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok())?;
        (own && lives(pid, lock.get("startTime").and_then(Value::as_u64))).then(|| {
            let port = lock.get("port").and_then(Value::as_u64).map_or_else(String::new, |port| format!(", port {port}"));
            format!(
                "an OpenClaw gateway (pid {pid}{port}) still runs on {}, so its sessions cannot be taken over: stop it with its own `openclaw gateway stop` (or `kill {pid}`) and start again, or set another OPENCLAW_STATE_DIR",
                state_dir.display()
            )
        })
    })
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(parent).into_iter().flatten().flatten();
    found.filter(|entry| entry.file_name().to_string_lossy().starts_with("openclaw-")).map(|entry| entry.path()).collect()
}

fn locks(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("gateway.") && name.ends_with(".lock")
        })
        .map(|entry| entry.path())
        .collect()
}

fn read(path: &Path) -> Option<Value> {
    let text = fs::read(path).ok()?;
    serde_json::from_slice(&text[..text.len().min(LOCK_BYTES_MAX)]).ok()
}

/// True when this process lives and, where the system tells, began when the lock says.
fn lives(pid: i32, start: Option<u64>) -> bool {
    if u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()) {
        return false;
    }
    if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name in brackets may hold blanks; after it the start time is the 20th field.
        let began = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse::<u64>().ok());
        return match (start, began) {
            (Some(start), Some(began)) => start == began,
            _ => true,
        };
    }
    if Path::new("/proc/self/stat").exists() {
        return false;
    }
    rustix::process::Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}
