//! `read`: a text file by lines, or a picture.

use std::{
    io::{BufRead, BufReader, Read as _},
    sync::Arc,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use clawstead_terms::{EffectClass, Part};

use crate::{
    Places, Tool, ToolCx, ToolError, ToolOutput, ToolSpec,
    paths::{Opened, Paths},
};

/// Lines of one answer, when the caller names no limit.
const LINES_DEFAULT: u64 = 2000;
/// Text of one answer at most, bytes.
const TEXT_BYTES_MAX: usize = 50 * 1024;
/// The largest picture that is sent to a model, bytes.
const IMAGE_BYTES_MAX: u64 = 5 * 1024 * 1024;
/// How far into a file lines are counted, bytes.
const SCAN_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Reads a file.
pub struct Read {
    /// The host.
    pub places: Arc<Places>,
}

/// Arguments of `read`.
#[derive(Deserialize, JsonSchema)]
pub struct Args {
    /// The file: relative to the workspace, or absolute.
    #[serde(alias = "file_path", alias = "filePath", alias = "file")]
    path: String,
    /// The first line to read, counted from 1. Default 1.
    #[serde(default)]
    offset: Option<u64>,
    /// How many lines at most. Default 2000.
    #[serde(default)]
    limit: Option<u64>,
}

#[async_trait]
impl Tool for Read {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "read",
        title: "Read",
        description: "Read a file. Text comes back by lines, at most 2000 lines or 50 KB; use offset and limit for more. Pictures (png, jpeg, gif, webp) come back as pictures.",
        group: "group:fs",
        class: EffectClass::Read,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        let paths = Paths::of(&cx, &self.places);
        blocking(move || read(&paths, &args)).await
    }
}

/// Runs file work beside the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ToolError> + Send + 'static) -> Result<T, ToolError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ToolError::Failed(format!("the file work broke off: {e}")))?
}

fn read(paths: &Paths, args: &Args) -> Result<ToolOutput, ToolError> {
    let Opened { file, size, shown } = paths.open(&args.path)?;
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let broken = |e: std::io::Error| ToolError::Failed(format!("cannot read {}: {e}", shown.display()));
    let start = reader.fill_buf().map_err(broken)?;
    if let Some(mime) = image_type(start) {
        if size > IMAGE_BYTES_MAX {
            return Err(ToolError::Failed(format!("{} is a picture of {size} bytes; at most {IMAGE_BYTES_MAX} can be shown", shown.display())));
        }
        let mut bytes = Vec::new();
        reader.take(IMAGE_BYTES_MAX).read_to_end(&mut bytes).map_err(broken)?;
        let note = Part::text(format!("Picture {} ({mime}, {} bytes)", shown.display(), bytes.len()));
        let image = Part::Image { mime_type: mime.into(), data: STANDARD.encode(&bytes) };
        return Ok(ToolOutput { content: vec![note, image], details: Some(json!({"path": shown, "mimeType": mime, "bytes": bytes.len()})) });
    }
    if start[..start.len().min(8192)].contains(&0) {
        return Err(ToolError::Failed(format!("{} is a binary file of {size} bytes; it cannot be shown as text", shown.display())));
    }
    let first = args.offset.unwrap_or(1).max(1);
    let wanted = args.limit.unwrap_or(LINES_DEFAULT).max(1);
    lines(&mut reader, first, wanted).map_err(broken).and_then(|page| page.into_output(&shown, size, first))
}

struct Page {
    text: Vec<u8>,
    taken: u64,
    /// Lines seen before the page, when the file ended there.
    ended_at: Option<u64>,
    more: bool,
    line_cut: bool,
}

/// Collects the lines from `first` on; never holds more than [`TEXT_BYTES_MAX`] bytes of them.
fn lines(reader: &mut impl BufRead, first: u64, wanted: u64) -> std::io::Result<Page> {
    let mut page = Page { text: Vec::new(), taken: 0, ended_at: None, more: false, line_cut: false };
    let (mut line, mut scanned, mut fresh) = (1_u64, 0_u64, true);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            page.ended_at = Some(if fresh { line - 1 } else { line });
            if !fresh && line >= first {
                page.taken = line - first + 1;
            }
            return Ok(page);
        }
        if line >= first + wanted || scanned > SCAN_BYTES_MAX {
            page.more = true;
            return Ok(page);
        }
        let (piece, whole) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (&buffer[..=at], true),
            None => (buffer, false),
        };
        let used = piece.len();
        if line >= first {
            let room = TEXT_BYTES_MAX - page.text.len();
            if used > room {
                // A page ends at a whole line, unless one line alone is too long.
                page.more = true;
                if page.taken == 0 {
                    page.text.extend_from_slice(&piece[..room]);
                    page.taken = 1;
                    page.line_cut = true;
                } else if let Some(at) = page.text.iter().rposition(|b| *b == b'\n') {
                    page.text.truncate(at + 1);
                }
                return Ok(page);
            }
            page.text.extend_from_slice(piece);
        }
        reader.consume(used);
        scanned += used as u64;
        fresh = whole;
        if whole {
            if line >= first {
                page.taken = line - first + 1;
            }
            line += 1;
        }
    }
}

impl Page {
    fn into_output(self, shown: &std::path::Path, size: u64, first: u64) -> Result<ToolOutput, ToolError> {
        if self.taken == 0 {
            return match self.ended_at {
                Some(0) => Ok(ToolOutput::text("(empty file)").with_details(json!({"path": shown, "bytes": size, "lines": 0}))),
                Some(count) => Err(ToolError::BadArguments(format!("field `offset` is {first}, but {} has only {count} lines", shown.display()))),
                None => Err(ToolError::Failed(format!("line {first} of {} lies too far into the file", shown.display()))),
            };
        }
        let mut text = String::from_utf8_lossy(&self.text).into_owned();
        let last = first + self.taken - 1;
        if self.line_cut {
            text.push_str(&format!("\n\n[line {first} is longer than {TEXT_BYTES_MAX} bytes and was cut; the next line is offset={}]", first + 1));
        } else if self.more {
            text.push_str(&format!("\n[lines {first} to {last} shown; there is more: use offset={}]", last + 1));
        }
        Ok(ToolOutput::text(text).with_details(json!({"path": shown, "bytes": size, "firstLine": first, "lastLine": last, "more": self.more})))
    }
}

/// The type of a picture by its first bytes.
fn image_type(start: &[u8]) -> Option<&'static str> {
    if start.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if start.starts_with(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if start.starts_with(b"GIF87a") || start.starts_with(b"GIF89a") {
        Some("image/gif")
    } else if start.len() >= 12 && start.starts_with(b"RIFF") && &start[8..12] == b"WEBP" {
        Some("image/webp")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use serde_json::json;

    use super::{TEXT_BYTES_MAX, lines};
    use crate::test_kit::Kit;

    #[tokio::test]
    async fn text_is_read_by_lines_with_the_way_on() {
        let kit = Kit::new();
        kit.file("a.txt", "one\ntwo\nthree\nfour");
        let seen = kit.call("read", json!({"path": "a.txt", "offset": 2, "limit": 2})).await.unwrap().plain_text();
        assert_eq!(seen, "two\nthree\n\n[lines 2 to 3 shown; there is more: use offset=4]");
        assert_eq!(kit.call("read", json!({"path": "a.txt", "offset": 4})).await.unwrap().plain_text(), "four");
        let err = kit.call("read", json!({"path": "a.txt", "offset": 5})).await.unwrap_err().to_string();
        assert!(err.contains("`offset`") && err.contains("only 4 lines"), "{err}");
        kit.file("empty", "");
        assert_eq!(kit.call("Read", json!({"file_path": "empty"})).await.unwrap().plain_text(), "(empty file)");
    }

    #[tokio::test]
    async fn pictures_come_as_pictures_and_binary_is_refused() {
        let kit = Kit::new();
        std::fs::write(kit.path("p.png"), b"\x89PNG\r\n\x1a\n....").unwrap();
        std::fs::write(kit.path("b.bin"), b"ab\0cd").unwrap();
        let seen = kit.call("read", json!({"path": "p.png"})).await.unwrap();
        assert!(matches!(&seen.content[1], clawstead_terms::Part::Image { mime_type, .. } if mime_type == "image/png"));
        assert!(kit.call("read", json!({"path": "b.bin"})).await.unwrap_err().to_string().contains("binary"));
    }

    #[tokio::test]
    async fn a_huge_line_is_cut_and_latin_1_does_not_fail() {
        let kit = Kit::new();
        kit.file("long", &format!("{}\nnext\n", "x".repeat(200_000)));
        let seen = kit.call("read", json!({"path": "long"})).await.unwrap().plain_text();
        assert!(seen.len() < TEXT_BYTES_MAX + 200 && seen.contains("offset=2"));
        assert_eq!(kit.call("read", json!({"path": "long", "offset": 2})).await.unwrap().plain_text(), "next\n");
        std::fs::write(kit.path("latin"), b"caf\xe9\n").unwrap();
        assert_eq!(kit.call("read", json!({"path": "latin"})).await.unwrap().plain_text(), "caf\u{fffd}\n");
    }

    proptest! {
        #[test]
        fn pages_put_together_are_the_file(text in prop::collection::vec("[a-z]{0,6}", 0..30), limit in 1_u64..7, end in any::<bool>()) {
            let mut whole = text.join("\n");
            if end { whole.push('\n'); }
            let (mut got, mut first) = (String::new(), 1);
            loop {
                let page = lines(&mut Cursor::new(whole.as_bytes()), first, limit).unwrap();
                got.push_str(std::str::from_utf8(&page.text).unwrap());
                first += page.taken;
                if !page.more { break }
                prop_assert!(page.taken > 0);
            }
            prop_assert_eq!(got, whole);
        }
    }
}
