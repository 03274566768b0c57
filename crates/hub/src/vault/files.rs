//! Files of the vault through handles: each folder is opened below its parent and no symbolic link is followed, so no
//! name and no link leads out, whatever changes meanwhile.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{NotePath, Revision, VaultError};

/// Largest note, bytes.
pub const NOTE_BYTES_MAX: usize = 1024 * 1024;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Whether folders on the way are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Folders {
    Make,
    MustBeThere,
}

pub(super) fn failed(verb: &'static str, path: &NotePath, err: Errno) -> VaultError {
    if matches!(err, Errno::LOOP | Errno::NOTDIR) {
        return VaultError::Link(path.to_string());
    }
    VaultError::File { verb, path: path.to_string(), why: err.to_string() }
}

fn io(verb: &'static str, path: &NotePath, err: &std::io::Error) -> VaultError {
    VaultError::File { verb, path: path.to_string(), why: err.to_string() }
}

/// The folder of a note; `None` when it is not there.
pub(super) fn folder(root: &Path, path: &NotePath, folders: Folders) -> Result<Option<OwnedFd>, VaultError> {
    // The root itself may be reached over links: the operator named it.
    let mut here = rustix::fs::openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|err| VaultError::Root { path: root.display().to_string(), why: err.to_string() })?;
    for name in path.folders() {
        if folders == Folders::Make {
            match rustix::fs::mkdirat(&here, name.as_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(err) => return Err(failed("make the folder of", path, err)),
            }
        }
        here = match rustix::fs::openat(&here, name.as_str(), FOLDER, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(None),
            Err(err) => return Err(failed("open the folder of", path, err)),
        };
    }
    Ok(Some(here))
}

/// The bytes of a note; `None` when it is not there.
pub(super) fn read(folder: &OwnedFd, path: &NotePath, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(err) => return Err(failed("read", path, err)),
    };
    let meta = file.metadata().map_err(|err| io("read", path, &err))?;
    if !meta.is_file() {
        return Err(VaultError::Link(path.to_string()));
    }
    let mut bytes = Vec::new();
    file.take(NOTE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|err| io("read", path, &err))?;
    if bytes.len() > NOTE_BYTES_MAX {
        return Err(VaultError::TooLarge { path: path.to_string(), max: NOTE_BYTES_MAX });
    }
    Ok(Some(bytes))
}

/// What a note's bytes are known by.
pub(super) fn revision(bytes: &[u8]) -> Revision {
    let digest = Sha256::digest(bytes);
    Revision(digest.iter().take(16).fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Puts a whole note in place, at once and on disk. A note that is neither `expected` nor the same (an editor was there) is kept beside
/// as `conflict`; answers where, then.
pub(super) fn replace(
    folder: &OwnedFd,
    path: &NotePath,
    text: &[u8],
    expected: Option<&Revision>,
    temp: &str,
    conflict: NotePath,
) -> Result<Option<NotePath>, VaultError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, temp, flags, Mode::from_raw_mode(0o644)).map_err(|err| failed("write", path, err))?;
    let mut file = File::from(fd);
    let written = file.write_all(text).and_then(|()| file.sync_all()).map_err(|err| io("write", path, &err));
    let done = written.and_then(|()| exchange(folder, path, text, expected, temp, conflict));
    if done.is_err() {
        let _ = rustix::fs::unlinkat(folder, temp, AtFlags::empty());
    }
    let replaced = done?;
    rustix::fs::fsync(folder).map_err(|err| failed("write", path, err))?;
    Ok(replaced)
}

fn exchange(
    folder: &OwnedFd,
    path: &NotePath,
    text: &[u8],
    expected: Option<&Revision>,
    temp: &str,
    conflict: NotePath,
) -> Result<Option<NotePath>, VaultError> {
    let name = path.file();
    // New and old change places in one step, so what an editor saved a moment ago is looked at, not lost.
    match rustix::fs::renameat_with(folder, temp, folder, name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(None),
        Err(Errno::EXIST) => {}
        Err(err) => return Err(failed("write", path, err)),
    }
    if read(folder, path, name)?.is_none() {
        // It went away between the two steps; the exchange below would fail.
        rustix::fs::renameat(folder, temp, folder, name).map_err(|err| failed("write", path, err))?;
        return Ok(None);
    }
    rustix::fs::renameat_with(folder, temp, folder, name, RenameFlags::EXCHANGE).map_err(|err| failed("write", path, err))?;
    let old = read(folder, path, temp)?.map(|bytes| revision(&bytes));
    if old.as_ref() == expected || old == Some(revision(text)) {
        rustix::fs::unlinkat(folder, temp, AtFlags::empty()).map_err(|err| failed("write", path, err))?;
        return Ok(None);
    }
    rustix::fs::renameat_with(folder, temp, folder, conflict.file(), RenameFlags::NOREPLACE).map_err(|err| failed("keep the other version of", path, err))?;
    Ok(Some(conflict))
}

/// How often a log that an editor replaces meanwhile is opened again.
const REPLACED_MAX: u32 = 8;

/// Adds one line at the end in one write, under a lock that other appenders take too; a new file gets `head` first. An
/// editor that left no line break at the end gets one; an editor that puts a new file in the place of the log (as most
/// do) gets the line into that one.
pub(super) fn append(folder: &OwnedFd, path: &NotePath, head: &str, line: &str) -> Result<(), VaultError> {
    for round in 0..REPLACED_MAX {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(folder, path.file(), flags, Mode::from_raw_mode(0o644)).map_err(|err| failed("append to", path, err))?;
        let mut file = File::from(fd);
        if !file.metadata().map_err(|err| io("append to", path, &err))?.is_file() {
            return Err(VaultError::Link(path.to_string()));
        }
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|err| failed("lock", path, err))?;
        if !in_place(folder, path, &file)? {
            continue;
        }
        let mut there = Vec::new();
        (&file).take(NOTE_BYTES_MAX as u64 + 1).read_to_end(&mut there).map_err(|err| io("append to", path, &err))?;
        // Written in a round before, and kept by the editor that came between.
        if round > 0 && there.windows(line.len()).any(|part| part == line.as_bytes()) {
            return Ok(());
        }
        let between = if there.is_empty() {
            head
        } else if there.ends_with(b"\n") {
            ""
        } else {
            "\n"
        };
        if there.len() + between.len() + line.len() > NOTE_BYTES_MAX {
            return Err(VaultError::TooLarge { path: path.to_string(), max: NOTE_BYTES_MAX });
        }
        file.write_all(format!("{between}{line}").as_bytes()).and_then(|()| file.sync_data()).map_err(|err| io("append to", path, &err))?;
        if in_place(folder, path, &file)? {
            return Ok(());
        }
        // The lock goes with the handle.
    }
    Err(VaultError::File { verb: "append to", path: path.to_string(), why: "another program replaces it again and again".into() })
}

/// True while the name still means this file.
fn in_place(folder: &OwnedFd, path: &NotePath, file: &File) -> Result<bool, VaultError> {
    let mine = rustix::fs::fstat(file).map_err(|err| failed("append to", path, err))?;
    match rustix::fs::statat(folder, path.file(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(err) => Err(failed("append to", path, err)),
    }
}
