//! Writing config files: whole or not at all, with the last five versions kept.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    edit::{EditError, Planned},
    redact::has_placeholder,
    snapshot::Snapshot,
    view::View,
};

/// Versions kept beside a file: `.bak`, `.bak.1` .. `.bak.4`.
pub const BACKUPS: usize = 5;
/// Files smaller than this may shrink as they like.
const SHRINK_BYTES_MIN: usize = 512;

/// Whether a write that loses much is let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Refused; the payload is kept as `<file>.rejected.<time>`.
    #[default]
    On,
    /// Let through.
    Off,
}

/// Writes a planned change. `now_ms` names a refused payload.
///
/// # Errors
/// [`EditError::Destructive`] when the guard refuses, [`EditError::Conflict`] when a file changed meanwhile,
/// [`EditError::Io`] from the disk. Files already written stay written; each one is whole.
pub fn write(planned: &Planned, guard: Guard, now_ms: u64) -> Result<(), EditError> {
    for change in &planned.files {
        let now = fs::read(&change.path).ok().map(|b| crate::text::strip_bom(&String::from_utf8_lossy(&b)).to_owned());
        if now != change.before {
            return Err(EditError::Conflict);
        }
    }
    if guard == Guard::On {
        for change in &planned.files {
            if let Some(why) = destructive(planned, change.before.as_deref().unwrap_or_default(), &change.after) {
                let kept = with_suffix(&change.path, &format!(".rejected.{now_ms}"));
                write_atomic(&kept, change.after.as_bytes()).map_err(|e| io(&kept, &e))?;
                return Err(EditError::Destructive(format!("{why}; the refused version is in {}", kept.display())));
            }
        }
    }
    for change in &planned.files {
        if change.before.is_some() {
            rotate(&change.path).map_err(|e| io(&change.path, &e))?;
        }
        write_atomic(&change.path, change.after.as_bytes()).map_err(|e| io(&change.path, &e))?;
    }
    Ok(())
}

fn destructive(planned: &Planned, before: &str, after: &str) -> Option<String> {
    let mode = |s: &Snapshot| View(Some(&s.normal)).path("gateway.mode").present();
    if mode(&planned.before) && !mode(&planned.snapshot) {
        return Some("Refusing to write: gateway.mode would be lost".into());
    }
    (before.len() >= SHRINK_BYTES_MIN && after.len() * 2 < before.len())
        .then(|| format!("Refusing to write: the file would shrink from {} to {} bytes", before.len(), after.len()))
}

/// Copies a file that was just used with success to `<file>.last-good`, unless it holds a redaction placeholder.
/// Gives back whether it did.
///
/// # Errors
/// From the disk, in words.
pub fn keep_last_good(snapshot: &Snapshot) -> Result<bool, EditError> {
    if !snapshot.exists || has_placeholder(&snapshot.parsed) {
        return Ok(false);
    }
    let path = last_good_path(&snapshot.paths.config_path);
    if fs::read(&path).is_ok_and(|old| old == snapshot.text.as_bytes()) {
        return Ok(true);
    }
    write_atomic(&path, snapshot.text.as_bytes()).map_err(|e| io(&path, &e))?;
    Ok(true)
}

/// `<file>.last-good`.
#[must_use]
pub fn last_good_path(config: &Path) -> PathBuf {
    with_suffix(config, ".last-good")
}

/// Makes a first file; refuses when there is one.
///
/// # Errors
/// From the disk, in words.
pub fn create(path: &Path, value: &Value) -> Result<(), EditError> {
    if path.exists() {
        return Err(EditError::Conflict);
    }
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    write_atomic(path, text.as_bytes()).map_err(|e| io(path, &e))
}

fn io(path: &Path, e: &std::io::Error) -> EditError {
    EditError::Io(format!("cannot write {}: {e}", path.display()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn rotate(path: &Path) -> std::io::Result<()> {
    let name = |n: usize| with_suffix(path, &if n == 0 { ".bak".to_owned() } else { format!(".bak.{n}") });
    for n in (0..BACKUPS - 1).rev() {
        match fs::rename(name(n), name(n + 1)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    write_atomic(&name(0), &fs::read(path)?)
}

/// Temporary file in the same folder, synced, renamed; mode 0600; a missing folder is made with mode 0700.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        make_dir(dir)?;
    }
    let mut attempt = 0u32;
    let (temp, mut file) = loop {
        let temp = with_suffix(path, &format!(".tmp.{}.{attempt}", std::process::id()));
        match open_new(&temp) {
            Ok(file) => break (temp, file),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && attempt < 16 => attempt += 1,
            Err(e) => return Err(e),
        }
    };
    let done = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temp, path));
    if done.is_err() {
        let _ = fs::remove_file(&temp);
    }
    done?;
    File::open(dir)?.sync_all()
}

fn open_new(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}
