//! `edit`: exact pieces of a text file, replaced.

use std::{io::Read as _, sync::Arc};

use async_trait::async_trait;
use imara_diff::{Algorithm, BasicLineDiffPrinter, Diff, InternedInput, UnifiedDiffConfig};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use clawstead_terms::EffectClass;

use crate::{Places, Tool, ToolCx, ToolError, ToolOutput, ToolSpec, bound, paths::Paths, read::blocking};

/// The longest file that can be edited, bytes.
const BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Edits of one call.
const EDITS_MAX: usize = 100;
/// The diff kept for user interfaces, bytes.
const DIFF_BYTES_MAX: usize = 32 * 1024;

/// Edits a file.
pub struct Edit {
    /// The host.
    pub places: Arc<Places>,
}

/// Arguments of `edit`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// The file: relative to the workspace, or absolute.
    #[serde(alias = "file_path", alias = "filePath", alias = "file")]
    path: String,
    /// The exact text to replace, spaces and line ends included; it must occur exactly once.
    #[serde(default, alias = "old_text", alias = "old_string", alias = "oldString", alias = "old_str")]
    old_text: Option<String>,
    /// The text to put in its place.
    #[serde(default, alias = "new_text", alias = "new_string", alias = "newString", alias = "new_str")]
    new_text: Option<String>,
    /// Several replacements in one go, instead of oldText and newText; all or none happen.
    #[serde(default)]
    edits: Vec<Piece>,
}

/// One replacement.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    /// The exact text to replace; it must occur exactly once.
    #[serde(alias = "old_text", alias = "old_string", alias = "oldString")]
    old_text: String,
    /// The text to put in its place.
    #[serde(alias = "new_text", alias = "new_string", alias = "newString")]
    new_text: String,
}

#[async_trait]
impl Tool for Edit {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "edit",
        title: "Edit",
        description: "Replace exact text in a file. oldText must match exactly, spaces included, and occur once. For several places give edits.",
        group: "group:fs",
        class: EffectClass::Once,
        timeout_ms: 30_000,
    };

    async fn call(&self, cx: ToolCx, mut args: Args) -> Result<ToolOutput, ToolError> {
        match (args.old_text.take(), args.new_text.take()) {
            (Some(old_text), Some(new_text)) => args.edits.insert(0, Piece { old_text, new_text }),
            (None, None) => {}
            (None, Some(_)) => return Err(ToolError::BadArguments("missing field `oldText`".into())),
            (Some(_), None) => return Err(ToolError::BadArguments("missing field `newText`".into())),
        }
        if args.edits.is_empty() || args.edits.len() > EDITS_MAX {
            return Err(ToolError::BadArguments(format!("give fields `oldText` and `newText`, or 1 to {EDITS_MAX} entries in `edits`")));
        }
        let paths = Paths::of(&cx, &self.places);
        let unique = cx.world.rng.uuid();
        blocking(move || edit(&paths, &args, &unique)).await
    }
}

fn edit(paths: &Paths, args: &Args, unique: &str) -> Result<ToolOutput, ToolError> {
    let opened = paths.open(&args.path)?;
    let name = opened.shown.display().to_string();
    if opened.size > BYTES_MAX {
        return Err(ToolError::Failed(format!("{name} has {} bytes; at most {BYTES_MAX} can be edited", opened.size)));
    }
    let mut bytes = Vec::new();
    opened.file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(|e| ToolError::Failed(format!("cannot read {name}: {e}")))?;
    let before = String::from_utf8(bytes).map_err(|_| ToolError::Failed(format!("{name} is not UTF-8 text; it cannot be edited")))?;
    let after = apply(&name, &before, &args.edits)?;
    let (path, _) = paths.write(&args.path, after.as_bytes(), unique)?;
    let first = before.lines().zip(after.lines()).take_while(|(a, b)| a == b).count() + 1;
    let diff = diff(&before, &after, &name);
    let count = args.edits.len();
    let text = format!("Replaced {count} {} in {}", if count == 1 { "piece" } else { "pieces" }, path.display());
    Ok(ToolOutput::text(text).with_details(json!({"path": path, "diff": diff, "firstChangedLine": first})))
}

/// Applies all pieces, one after the other; none is applied when one fails.
fn apply(name: &str, before: &str, edits: &[Piece]) -> Result<String, ToolError> {
    let crlf = before.contains("\r\n");
    let mut text = before.to_owned();
    for (index, piece) in edits.iter().enumerate() {
        let which = if edits.len() == 1 { String::new() } else { format!(" (edit {})", index + 1) };
        if piece.old_text.is_empty() {
            return Err(ToolError::BadArguments(format!("field `oldText`{which} must not be empty")));
        }
        if piece.old_text == piece.new_text {
            return Err(ToolError::BadArguments(format!("fields `oldText` and `newText`{which} are the same")));
        }
        // Models write LF; a file with CRLF keeps its line ends.
        let (old, new) = if crlf && !piece.old_text.contains("\r\n") {
            (piece.old_text.replace('\n', "\r\n"), piece.new_text.replace("\r\n", "\n").replace('\n', "\r\n"))
        } else {
            (piece.old_text.clone(), piece.new_text.clone())
        };
        let places: Vec<usize> = overlapping(&text, &old).take(6).collect();
        match places[..] {
            [at] => text.replace_range(at..at + old.len(), &new),
            [] => return Err(ToolError::Failed(format!("oldText{which} was not found in {name}{}", near(&text, &old)))),
            _ => {
                let lines: Vec<String> = places.iter().take(5).map(|at| (text[..*at].matches('\n').count() + 1).to_string()).collect();
                let more = if places.len() > 5 { " and more" } else { "" };
                return Err(ToolError::Failed(format!(
                    "oldText{which} occurs more than once in {name} (lines {}{more}); give more text around it so that it occurs once",
                    lines.join(", ")
                )));
            }
        }
    }
    Ok(text)
}

/// Where `needle` begins in `text`, overlapping places included.
fn overlapping<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + text.get(from..)?.find(needle)?;
        from = bound::ceil(text, at + 1);
        Some(at)
    })
}

/// A hint for text that is nearly there.
fn near(text: &str, old: &str) -> String {
    let bare = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some(first) = old.lines().map(bare).find(|line| !line.is_empty()) else { return String::new() };
    match text.lines().position(|line| bare(line) == first) {
        Some(at) => format!("; line {} is alike but for spaces or what follows: read it again and copy it exactly", at + 1),
        None => "; read the file again and copy the text exactly".into(),
    }
}

fn diff(before: &str, after: &str, name: &str) -> String {
    let lines = InternedInput::new(before, after);
    let mut diff = Diff::compute(Algorithm::Histogram, &lines);
    diff.postprocess_lines(&lines);
    let printer = BasicLineDiffPrinter(&lines.interner);
    let hunks = diff.unified_diff(&printer, UnifiedDiffConfig::default(), &lines);
    bound::cut(format!("--- {name}\n+++ {name}\n{hunks}"), DIFF_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{Piece, apply};
    use crate::test_kit::Kit;

    #[tokio::test]
    async fn a_unique_piece_is_replaced_and_the_diff_shown() {
        let kit = Kit::new();
        kit.file("a.txt", "one\ntwo\nthree\n");
        let seen = kit.call("edit", json!({"path": "a.txt", "old_string": "two", "new_string": "2"})).await.unwrap();
        assert_eq!(std::fs::read_to_string(kit.path("a.txt")).unwrap(), "one\n2\nthree\n");
        let details = seen.details.unwrap();
        assert!(details["diff"].as_str().unwrap().contains("-two\n+2"), "{details}");
        assert_eq!(details["firstChangedLine"], 2);
    }

    #[tokio::test]
    async fn missing_and_double_pieces_are_refused_with_the_reason() {
        let kit = Kit::new();
        kit.file("a.txt", "x = 1\n  y = 2\nx = 1\n");
        for (old, want) in [("x = 1", "lines 1, 3"), ("y  = 2", "line 2 is alike"), ("zzz", "copy the text exactly"), ("", "`oldText`")] {
            let err = kit.call("edit", json!({"path": "a.txt", "oldText": old, "newText": "n"})).await.unwrap_err().to_string();
            assert!(err.contains(want), "{old}: {err}");
        }
        let both = json!({"path": "a.txt", "edits": [{"oldText": "y = 2", "newText": "z"}, {"oldText": "nope", "newText": "z"}]});
        assert!(kit.call("edit", both).await.unwrap_err().to_string().contains("edit 2"));
        assert_eq!(std::fs::read_to_string(kit.path("a.txt")).unwrap(), "x = 1\n  y = 2\nx = 1\n");
    }

    #[test]
    fn line_ends_are_kept() {
        let piece = |a: &str, b: &str| vec![Piece { old_text: a.into(), new_text: b.into() }];
        assert_eq!(apply("f", "a\r\nb\r\nc\r\n", &piece("a\nb", "x\ny")).unwrap(), "x\r\ny\r\nc\r\n");
        assert!(apply("f", "aaa", &piece("aa", "b")).unwrap_err().to_string().contains("more than once"));
    }

    proptest! {
        #[test]
        fn an_edit_changes_exactly_its_piece(head in "[a-f\\n]{0,20}", old in "[g-k]{1,5}", tail in "[a-f\\n]{0,20}", new in "[l-p]{1,5}") {
            let got = apply("f", &format!("{head}{old}{tail}"), &[Piece { old_text: old, new_text: new.clone() }]).unwrap();
            prop_assert_eq!(got, format!("{head}{new}{tail}"));
        }
    }
}
