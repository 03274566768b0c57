//! Path rules of the file tools.
//!
//! A relative path belongs to the workspace. With `tools.fs.workspaceOnly` nothing outside the workspace is
//! opened: the kernel resolves the path below a handle of the workspace (`openat2` with `RESOLVE_BENEATH`), so
//! that a folder swapped for a link between check and use changes nothing; where that call is missing, each
//! part is opened by itself and links are refused. Otherwise host paths are allowed. In both cases the file
//! that was really opened is looked at again: the gateway's own state (keys, tokens, stores) stays closed.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};

use crate::{Places, ToolCx, ToolError};

/// Folders of the state directory that agents may touch; workspaces (`workspace`, `workspace-<agent>`) too.
const STATE_OPEN: [&str; 7] = ["media", "skills", "sandboxes", "canvas", "extensions", "hooks", "tmp"];

/// Longest path, bytes.
const PATH_BYTES_MAX: usize = 4096;

/// Which paths the file tools may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confine {
    /// Only below the workspace.
    Workspace,
    /// The whole host, as the gateway's user may.
    Host,
}

/// The file system as one agent's tools see it.
#[derive(Clone, Debug)]
pub struct Paths {
    workspace: PathBuf,
    places: Arc<Places>,
    confine: Confine,
}

/// A file that was opened for reading.
#[derive(Debug)]
pub struct Opened {
    /// The file; always a regular one.
    pub file: File,
    /// Its size, bytes.
    pub size: u64,
    /// Its path for people.
    pub shown: PathBuf,
}

impl Paths {
    /// The paths of the calling agent, confined as `tools.fs.workspaceOnly` says (default false).
    #[must_use]
    pub fn of(cx: &ToolCx, places: &Arc<Places>) -> Self {
        let only = cx.setting(&["fs", "workspaceOnly"]).and_then(serde_json::Value::as_bool).unwrap_or(false);
        Self::new(cx.workspace.clone(), places.clone(), if only { Confine::Workspace } else { Confine::Host })
    }

    /// Paths below `workspace`, which is absolute.
    #[must_use]
    pub const fn new(workspace: PathBuf, places: Arc<Places>, confine: Confine) -> Self {
        Self { workspace, places, confine }
    }

    /// The absolute path a text names: `~` is the home directory, relative paths belong to the workspace, `.`
    /// and `..` are taken out. Touches no file.
    ///
    /// # Errors
    /// When the text is empty, too long or has a NUL.
    pub fn absolute(&self, text: &str) -> Result<PathBuf, ToolError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ToolError::BadArguments("field `path` must not be empty".into()));
        }
        if text.len() > PATH_BYTES_MAX || text.contains('\0') {
            return Err(ToolError::BadArguments(format!("field `path` must have at most {PATH_BYTES_MAX} bytes and no NUL")));
        }
        let joined = if text == "~" {
            self.places.home.clone()
        } else if let Some(rest) = text.strip_prefix("~/") {
            self.places.home.join(rest.trim_start_matches('/'))
        } else {
            self.workspace.join(text)
        };
        Ok(tidy(&joined))
    }

    /// Opens a regular file for reading. Pipes, devices and folders are refused without waiting on them.
    ///
    /// # Errors
    /// `Denied` outside the rules, `Failed` when it is not there or not a regular file.
    pub fn open(&self, text: &str) -> Result<Opened, ToolError> {
        let path = self.absolute(text)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match self.confine {
            Confine::Host => rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|e| failed("read", &path, e))?,
            Confine::Workspace => {
                let (root, rest) = self.beneath(&path)?;
                open_beneath(&root, &rest, flags).map_err(|e| failed("read", &path, e))?
            }
        };
        self.check_fd(&fd, &path)?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed("read", &path, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Opened { file: File::from(fd), size: u64::try_from(stat.st_size).unwrap_or(0), shown: path }),
            FileType::Directory => Err(ToolError::Failed(format!("{} is a folder, not a file", path.display()))),
            _ => Err(ToolError::Failed(format!("{} is not a regular file", path.display()))),
        }
    }

    /// Writes a whole file: into a temporary file beside it, then renamed over it, so that a reader sees the old
    /// text or the new one. Missing folders are made; the mode of a file that was there is kept. Answers with
    /// the path and whether the file is new. Not flushed to disk: a power cut may bring back the old text.
    ///
    /// # Errors
    /// `Denied` outside the rules, `Failed` when the system refuses.
    pub fn write(&self, text: &str, bytes: &[u8], unique: &str) -> Result<(PathBuf, bool), ToolError> {
        let mut path = self.absolute(text)?;
        if self.confine == Confine::Host && path.symlink_metadata().is_ok_and(|m| m.file_type().is_symlink()) {
            path = path.canonicalize().map_err(|e| ToolError::Failed(format!("cannot write {}: the link leads nowhere: {e}", path.display())))?;
        }
        let (Some(parent), Some(name)) = (path.parent().map(Path::to_path_buf), path.file_name().map(OsStr::to_os_string)) else {
            return Err(ToolError::Failed(format!("{} is not a file name", path.display())));
        };
        let dir = self.folder(&parent)?;
        let real = real_path(&dir, &parent).join(&name);
        self.check_real(&real, &path)?;
        let old = match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Some(Mode::from_raw_mode(stat.st_mode)),
                FileType::Symlink => return Err(ToolError::Denied(format!("{} is a symbolic link; write to the file itself", path.display()))),
                FileType::Directory => return Err(ToolError::Failed(format!("{} is a folder, not a file", path.display()))),
                _ => return Err(ToolError::Failed(format!("{} is not a regular file", path.display()))),
            },
            Err(Errno::NOENT) => None,
            Err(e) => return Err(failed("write", &path, e)),
        };
        let temp = format!(".{}.{unique}.tmp", crate::bound::head(&name.to_string_lossy(), 100));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, &temp, flags, Mode::from_raw_mode(0o644)).map_err(|e| failed("write", &path, e))?;
        let done = (|| {
            if let Some(mode) = old {
                rustix::fs::fchmod(&fd, mode)?;
            }
            let mut file = File::from(fd);
            io::Write::write_all(&mut file, bytes)?;
            drop(file);
            rustix::fs::renameat(&dir, &temp, &dir, &name).map_err(io::Error::from)
        })();
        if let Err(e) = done {
            let _ = rustix::fs::unlinkat(&dir, &temp, AtFlags::empty());
            return Err(ToolError::Failed(format!("cannot write {}: {e}", path.display())));
        }
        Ok((path, old.is_none()))
    }

    /// The names in a folder, sorted, at most `max`; folders end with `/`. The flag says whether some are missing.
    ///
    /// # Errors
    /// `Denied` outside the rules, `Failed` when it is not there or not a folder.
    pub fn list(&self, text: &str, max: usize) -> Result<(Vec<String>, bool), ToolError> {
        let path = self.absolute(text)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match self.confine {
            Confine::Host => rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|e| failed("list", &path, e))?,
            Confine::Workspace => {
                let (root, rest) = self.beneath(&path)?;
                open_beneath(&root, &rest, flags).map_err(|e| failed("list", &path, e))?
            }
        };
        self.check_fd(&fd, &path)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).map_err(|e| failed("list", &path, e))? {
            let entry = entry.map_err(|e| failed("list", &path, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            names.push(if entry.file_type() == FileType::Directory { name + "/" } else { name });
        }
        names.sort_unstable();
        let more = names.len() > max;
        names.truncate(max);
        Ok((names, more))
    }

    /// A handle of a folder, made with its parents where it is missing.
    fn folder(&self, path: &Path) -> Result<OwnedFd, ToolError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self.confine {
            Confine::Host => {
                let mut there = path.to_path_buf();
                while !there.exists() {
                    let Some(up) = there.parent() else { break };
                    there = up.to_path_buf();
                }
                let rest = path.strip_prefix(&there).unwrap_or(Path::new(""));
                let real = there.canonicalize().unwrap_or(there.clone()).join(rest);
                self.check_real(&real.join("x"), path)?;
                std::fs::create_dir_all(path).map_err(|e| ToolError::Failed(format!("cannot make the folder {}: {e}", path.display())))?;
                rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| failed("open", path, e))
            }
            Confine::Workspace => {
                let (root, rest) = self.beneath(path)?;
                let mut done = PathBuf::new();
                let mut dir = root.try_clone().map_err(|e| ToolError::Failed(e.to_string()))?;
                for part in rest.components() {
                    done.push(part);
                    dir = match open_beneath(&root, &done, flags) {
                        Ok(next) => next,
                        Err(Errno::NOENT) => {
                            match rustix::fs::mkdirat(&dir, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                                Ok(()) | Err(Errno::EXIST) => {}
                                Err(e) => return Err(failed("make", path, e)),
                            }
                            open_beneath(&root, &done, flags).map_err(|e| failed("open", path, e))?
                        }
                        Err(e) => return Err(failed("open", path, e)),
                    };
                }
                Ok(dir)
            }
        }
    }

    /// A handle of the workspace and the path below it.
    fn beneath(&self, path: &Path) -> Result<(OwnedFd, PathBuf), ToolError> {
        let real = self.workspace.canonicalize().map_err(|e| ToolError::Failed(format!("the workspace {} is not there: {e}", self.workspace.display())))?;
        let rest = path.strip_prefix(tidy(&self.workspace)).or_else(|_| path.strip_prefix(&real)).map_err(|_| outside(path))?.to_path_buf();
        let root = rustix::fs::openat(CWD, &real, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed("open", &self.workspace, e))?;
        Ok((root, rest))
    }

    fn check_fd(&self, fd: &OwnedFd, shown: &Path) -> Result<(), ToolError> {
        self.check_real(&real_path(fd, shown), shown)
    }

    /// Refuses what belongs to the gateway itself.
    fn check_real(&self, real: &Path, shown: &Path) -> Result<(), ToolError> {
        if self.places.state_dir.as_os_str().is_empty() {
            return Ok(());
        }
        let state = self.places.state_dir.canonicalize().unwrap_or_else(|_| tidy(&self.places.state_dir));
        let Ok(rest) = real.strip_prefix(&state) else { return Ok(()) };
        let workspace = self.workspace.canonicalize().unwrap_or_else(|_| self.workspace.clone());
        if workspace.starts_with(&state) && workspace != state && real.starts_with(&workspace) {
            return Ok(());
        }
        let first = rest.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        let inside = rest.components().count() > 1;
        if inside && (STATE_OPEN.contains(&first.as_str()) || first == "workspace" || first.starts_with("workspace-")) {
            return Ok(());
        }
        Err(ToolError::Denied(format!("{} belongs to the gateway's own state (keys, tokens, stores), which tools may not open", shown.display())))
    }
}

/// Opens `rest` below `root`; the kernel refuses any way out.
fn open_beneath(root: &OwnedFd, rest: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags;
        // EAGAIN: a folder was renamed while the kernel walked; a few more tries, then give up.
        for _ in 0..16 {
            match rustix::fs::openat2(root, rest, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => return walk_beneath(root, rest, flags),
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }
    #[cfg(not(target_os = "linux"))]
    walk_beneath(root, rest, flags)
}

/// The same part by part, links refused.
fn walk_beneath(root: &OwnedFd, rest: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let parts: Vec<&OsStr> = rest
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(Ok(name)),
            Component::CurDir => None,
            _ => Some(Err(Errno::XDEV)),
        })
        .collect::<Result<_, _>>()?;
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Some((last, before)) = parts.split_last() else {
        return rustix::fs::openat(root, ".", flags, Mode::empty());
    };
    let mut dir = rustix::fs::openat(root, ".", folder, Mode::empty())?;
    for part in before {
        dir = rustix::fs::openat(&dir, *part, folder, Mode::empty())?;
    }
    rustix::fs::openat(&dir, *last, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// The path of what was really opened.
fn real_path(fd: &OwnedFd, shown: &Path) -> PathBuf {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        if let Ok(real) = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())) {
            return real;
        }
    }
    let _ = fd.as_fd();
    shown.canonicalize().unwrap_or_else(|_| shown.to_path_buf())
}

/// Takes `.` and `..` out of an absolute path.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

fn outside(path: &Path) -> ToolError {
    ToolError::Denied(format!("{} is outside the workspace, and tools.fs.workspaceOnly is on", path.display()))
}

fn failed(verb: &str, path: &Path, err: Errno) -> ToolError {
    match err {
        Errno::XDEV | Errno::LOOP => ToolError::Denied(format!("{} leads out of the workspace through a link", path.display())),
        Errno::NOENT => ToolError::Failed(format!("{} does not exist", path.display())),
        other => ToolError::Failed(format!("cannot {verb} {}: {}", path.display(), io::Error::from(other))),
    }
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
