//! Lines of a transcript, from a file or a database: scanned once in order, then read one by one. Never more than one
//! line in memory, and of a line that is too long only its beginning.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::database::Database;

/// A longer line is not read: only its beginning, so that the chain of entries holds.
pub const LINE_BYTES_MAX: usize = 15 * 1024 * 1024;
/// So much of a line that is too long is looked at.
pub const BEGINNING_BYTES: usize = 4096;
const BUFFER_BYTES: usize = 256 * 1024;

/// Where a line lies: offset and length in a file; in a database its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    at: u64,
    len: usize,
}

/// How much of a line was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it, with its line end.
    Whole,
    /// All there is, but the line has no end: the last write may have been cut.
    Unended,
    /// Its beginning; it is longer than [`LINE_BYTES_MAX`].
    Beginning,
    /// Nothing: its compressed form cannot be read.
    Unreadable,
}

/// What a scan read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// All bytes.
    pub bytes: u64,
    /// Their SHA-256, hex.
    pub sha256: String,
}

/// Where the lines of one session come from.
pub enum Lines {
    /// A JSONL file.
    File(BufReader<File>),
    /// `transcript_events` of an agent's database.
    Database(Arc<Database>, String),
}

impl Lines {
    /// The lines of a file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        Ok(Self::File(BufReader::with_capacity(BUFFER_BYTES, file)))
    }

    /// Hands every line to `each`, in order. Empty lines are left out.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn scan(&mut self, each: &mut dyn FnMut(Place, &[u8], Extent)) -> Result<Scanned, String> {
        match self {
            Self::File(reader) => scan_file(reader, each).map_err(|e| e.to_string()),
            Self::Database(database, session) => {
                let (mut hash, mut bytes) = (Sha256::new(), 0);
                database.events(session, &mut |seq, line, extent| {
                    hash.update(line);
                    bytes += line.len() as u64;
                    each(Place { at: seq, len: line.len() }, line, extent);
                })?;
                Ok(Scanned { bytes, sha256: hex::encode(hash.finalize()) })
            }
        }
    }

    /// Reads one line again.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn read(&mut self, place: Place) -> Result<Vec<u8>, String> {
        match self {
            Self::File(reader) => {
                let mut line = vec![0; place.len.min(LINE_BYTES_MAX)];
                // Relative, so that neighbours come from the buffer.
                let here = reader.stream_position().map_err(|e| e.to_string())?;
                let step = i64::try_from(place.at).unwrap_or(i64::MAX) - i64::try_from(here).unwrap_or(i64::MAX);
                reader.seek_relative(step).and_then(|()| reader.read_exact(&mut line)).map_err(|e| e.to_string())?;
                Ok(line)
            }
            Self::Database(database, session) => database.event(session, place.at),
        }
    }
}

fn scan_file(reader: &mut BufReader<File>, each: &mut dyn FnMut(Place, &[u8], Extent)) -> std::io::Result<Scanned> {
    reader.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let (mut at, mut start) = (0_u64, 0_u64);
    let mut line: Vec<u8> = Vec::new();
    let mut length = 0_usize;
    let mut tell = |start: u64, line: &mut Vec<u8>, length: &mut usize, extent: Extent| {
        if *length > LINE_BYTES_MAX {
            line.truncate(BEGINNING_BYTES);
            each(Place { at: start, len: *length }, line, Extent::Beginning);
        } else if !line.iter().all(u8::is_ascii_whitespace) {
            each(Place { at: start, len: *length }, line, extent);
        }
        line.clear();
        *length = 0;
    };
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            if length > 0 {
                tell(start, &mut line, &mut length, Extent::Unended);
            }
            return Ok(Scanned { bytes: at, sha256: hex::encode(hash.finalize()) });
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let taken = end.map_or(buffer.len(), |end| end + 1);
        let piece = &buffer[..end.unwrap_or(buffer.len())];
        hash.update(&buffer[..taken]);
        length += piece.len();
        if length <= LINE_BYTES_MAX {
            line.extend_from_slice(piece);
        } else {
            // Too long: what was gathered shrinks to its beginning, the rest is only counted.
            line.extend_from_slice(&piece[..piece.len().min(BEGINNING_BYTES.saturating_sub(line.len()))]);
            line.truncate(BEGINNING_BYTES);
            line.shrink_to(BEGINNING_BYTES);
        }
        at += taken as u64;
        reader.consume(taken);
        if end.is_some() {
            tell(start, &mut line, &mut length, Extent::Whole);
            start = at;
        }
    }
}
