//! Child processes of the chores: printed, bounded in time, their output kept in a file.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Exit code 0.
    Good,
    /// Another exit code, or a signal.
    Bad,
    /// It ran longer than it may and was killed.
    TooLong,
}

/// Runs a command with its output going to `log`, for `limit` at most. Standard input is empty.
///
/// # Errors
/// When it cannot be started.
pub fn logged(command: &mut Command, log: &Path, limit: Duration) -> anyhow::Result<End> {
    use std::os::unix::process::CommandExt as _;
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let out = File::create(log).with_context(|| log.display().to_string())?;
    // A group of its own: what a test leaves behind is ended with it.
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { End::Good } else { End::Bad });
        }
        if Instant::now() >= end {
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            child.wait()?;
            return Ok(End::TooLong);
        }
        sleep(Duration::from_millis(20));
    }
}

/// Takes away what `cargo run` told us about our own package. Build scripts that look at these variables (that of
/// `ring` does) would run again, with everything above them, whenever `cargo xtask` and plain `cargo` take turns.
pub fn not_of_this_package(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let own = name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if own {
            command.env_remove(&name);
        }
    }
    command
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Where a program is, by name on the path or as a whole path.
pub fn which(program: &str) -> Option<std::path::PathBuf> {
    if program.contains('/') {
        return Some(program.into()).filter(|path: &std::path::PathBuf| path.exists());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// True when we may install packages: the user is root.
pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
