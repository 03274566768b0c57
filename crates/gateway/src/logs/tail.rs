use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// New lines of a log file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Byte offset for the next call.
    pub cursor: u64,
    /// The file's size.
    pub size: u64,
    /// Whole lines, oldest first.
    pub lines: Vec<String>,
    /// True when older lines were left out.
    pub truncated: bool,
    /// True when the cursor was not one of this file (it was turned or replaced).
    pub reset: bool,
}

/// The name of today's file, local time: `openclaw-2026-11-20.log`.
#[must_use]
pub fn file_of_today() -> String {
    format!("openclaw-{}.log", jiff::Zoned::now().date())
}

/// The newest log file in a folder.
#[must_use]
pub fn newest(dir: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(dir).ok()?.filter_map(|e| e.ok()?.file_name().into_string().ok());
    names.filter(|n| n.starts_with("openclaw-") && n.ends_with(".log")).max().map(|n| dir.join(n))
}

/// Reads at most `limit` whole lines and `bytes_max` bytes: after `cursor`, or the newest ones without it. A torn last
/// line is left for the next call.
///
/// # Errors
/// When the file cannot be read. A file that is not there is an empty one.
pub fn tail(file: &Path, cursor: Option<u64>, limit: usize, bytes_max: u64) -> io::Result<Tail> {
    let mut open = match File::open(file) {
        Ok(open) => open,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Tail::default()),
        Err(err) => return Err(err),
    };
    let size = open.metadata()?.len();
    let reset = cursor.is_some_and(|at| at > size);
    let from = cursor.filter(|_| !reset).unwrap_or(0).max(size.saturating_sub(bytes_max));
    let mut truncated = from > cursor.filter(|_| !reset).unwrap_or(0);
    open.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    open.take(bytes_max).read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let mut start = 0;
    if truncated {
        // The first line is torn.
        start = bytes.iter().position(|b| *b == b'\n').map_or(end, |at| at + 1);
    }
    let mut lines: Vec<String> =
        bytes[start.min(end)..end].split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    if lines.len() > limit {
        truncated = true;
        lines.drain(..lines.len() - limit);
    }
    Ok(Tail { cursor: from + end as u64, size, lines, truncated, reset })
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn reads_on_from_its_cursor_and_never_half_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("l");
        assert!(tail(&file, None, 10, 1_000).unwrap().lines.is_empty(), "no file is an empty one");
        std::fs::write(&file, "one\ntwo\nthr").unwrap();
        let first = tail(&file, None, 10, 1_000).unwrap();
        assert_eq!((first.lines.as_slice(), first.cursor, first.truncated), (["one".to_owned(), "two".to_owned()].as_slice(), 8, false));
        std::fs::write(&file, "one\ntwo\nthree\n").unwrap();
        let second = tail(&file, Some(first.cursor), 10, 1_000).unwrap();
        assert_eq!(second.lines, ["three"]);
        assert!(tail(&file, Some(second.cursor), 10, 1_000).unwrap().lines.is_empty());
        let last = tail(&file, None, 1, 1_000).unwrap();
        assert_eq!((last.lines.as_slice(), last.truncated), (["three".to_owned()].as_slice(), true));
        let short = tail(&file, None, 10, 8).unwrap();
        assert_eq!((short.lines.as_slice(), short.truncated), (["three".to_owned()].as_slice(), true), "the torn first line is left out");
        std::fs::write(&file, "new\n").unwrap();
        let turned = tail(&file, Some(second.cursor), 10, 1_000).unwrap();
        assert_eq!((turned.lines.as_slice(), turned.reset), (["new".to_owned()].as_slice(), true));
    }
}
