//! From bytes to a value, and from a place in a value back to line and column.

use jsonc_parser::{ParseOptions, ast, common::Ranged};
use serde_json::Value;

/// A config file may not be larger.
pub const FILE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Objects and lists in each other at most.
pub const DEPTH_MAX: usize = 64;
/// Keys that a JavaScript reader would treat specially.
pub const BLOCKED_KEYS: [&str; 3] = ["__proto__", "constructor", "prototype"];

/// Why a text is not a configuration. `line` and `column` count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseProblem {
    /// One line.
    pub message: String,
    /// Line, where there is one.
    pub line: Option<u32>,
    /// Column in characters.
    pub column: Option<u32>,
}

impl ParseProblem {
    fn plain(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None, column: None }
    }
}

/// Reads JSON5 from bytes: UTF-8 with or without a byte order mark, at most 2 MB and 64 levels. Never panics.
///
/// # Errors
/// With OpenClaw's words for syntax errors (`JSON5 parse failed: ...`).
pub fn parse_bytes(bytes: &[u8]) -> Result<Value, ParseProblem> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(ParseProblem::plain(format!("file is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| ParseProblem {
        message: format!("file is not UTF-8 (byte {})", e.valid_up_to()),
        line: Some(line_of(bytes, e.valid_up_to())),
        column: None,
    })?;
    parse_text(text)
}

/// As [`parse_bytes`], for text.
///
/// # Errors
/// As [`parse_bytes`].
pub fn parse_text(text: &str) -> Result<Value, ParseProblem> {
    let text = strip_bom(text);
    check_depth(text)?;
    json5::from_str::<Value>(text).map_err(|e| {
        let code = e.code().map(|c| format!("{c:?}")).unwrap_or_default();
        let ended = code.starts_with("Eof");
        let place = if ended { Some(line_column(text, text.len())) } else { e.position().map(|p| (p.line as u32 + 1, p.column as u32 + 1)) };
        let found = place.and_then(|(l, c)| text.split('\n').nth(l as usize - 1)?.chars().nth(c as usize - 1));
        let what = match found {
            _ if ended => "invalid end of input".to_owned(),
            Some(c) if code.starts_with("Expected") => format!("invalid character '{}'", c.escape_default()),
            _ => e.code().map_or_else(|| strip_place(&e.to_string()), |c| c.to_string()),
        };
        let at = place.map_or_else(String::new, |(l, c)| format!(" at {l}:{c}"));
        ParseProblem { message: format!("JSON5 parse failed: SyntaxError: JSON5: {what}{at}"), line: place.map(|p| p.0), column: place.map(|p| p.1) }
    })
}

fn strip_place(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(m, _)| m).to_owned()
}

fn line_of(bytes: &[u8], offset: usize) -> u32 {
    bytes.iter().take(offset).filter(|b| **b == b'\n').count() as u32 + 1
}

/// The text without a byte order mark.
#[must_use]
pub fn strip_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Counts brackets outside strings and comments before a recursive parser sees them.
fn check_depth(text: &str) -> Result<(), ParseProblem> {
    let bytes = text.as_bytes();
    let (mut i, mut depth) = (0, 0usize);
    while let Some(b) = bytes.get(i) {
        match b {
            b'"' | b'\'' => {
                i += 1;
                while let Some(c) = bytes.get(i) {
                    match c {
                        b'\\' => i += 1,
                        c if c == b => break,
                        _ => {}
                    }
                    i += 1;
                }
            }
            b'/' if bytes.get(i + 1) == Some(&b'/') => {
                // the two separators U+2028 and U+2029 end a line comment too; cutting at them would only count more
                while bytes.get(i).is_some_and(|c| !matches!(c, b'\n' | b'\r')) {
                    if bytes[i..].starts_with("\u{2028}".as_bytes()) || bytes[i..].starts_with("\u{2029}".as_bytes()) {
                        break;
                    }
                    i += 1;
                }
            }
            b'/' if bytes.get(i + 1) == Some(&b'*') => {
                i += 2;
                while i < bytes.len() && !bytes[i..].starts_with(b"*/") {
                    i += 1;
                }
                i += 1;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    let line = line_of(bytes, i);
                    return Err(ParseProblem { message: format!("more than {DEPTH_MAX} levels of objects and lists"), line: Some(line), column: None });
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    Ok(())
}

pub(crate) fn parse_options() -> ParseOptions {
    ParseOptions { allow_missing_commas: false, ..ParseOptions::default() }
}

/// Line and column (from 1) of a place: the deepest part of `path` that is in the text. The second value is how
/// many segments were found.
#[must_use]
pub fn locate(text: &str, path: &[String]) -> Option<((u32, u32), usize)> {
    let text = strip_bom(text);
    if check_depth(text).is_err() {
        return None;
    }
    let parsed = jsonc_parser::parse_to_ast(text, &jsonc_parser::CollectOptions::default(), &parse_options()).ok()?;
    let mut here = parsed.value.as_ref()?;
    let mut offset = here.range().start;
    let mut found = 0;
    for segment in path {
        let next = match here {
            ast::Value::Object(object) => object.properties.iter().rev().find(|p| p.name.as_str() == segment).map(|p| (p.range.start, &p.value)),
            ast::Value::Array(list) => segment.parse::<usize>().ok().and_then(|n| list.elements.get(n)).map(|v| (v.range().start, v)),
            _ => None,
        };
        let Some((start, value)) = next else { break };
        offset = start;
        here = value;
        found += 1;
    }
    Some((line_column(text, offset), found))
}

fn line_column(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() as u32 + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) as u32 + 1;
    (line, column)
}

/// Every blocked key in a value, as paths.
pub(crate) fn blocked_keys(value: &Value, at: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                at.push(key.clone());
                if BLOCKED_KEYS.contains(&key.as_str()) {
                    out.push(at.clone());
                } else {
                    blocked_keys(inner, at, out);
                }
                at.pop();
            }
        }
        Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                at.push(i.to_string());
                blocked_keys(inner, at, out);
                at.pop();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json5_is_read_with_places() {
        let v = parse_bytes(b"\xef\xbb\xbf{a: 0x744C, 'b': [1,2,], // c\n /* d */ \"e\": 'f'}").unwrap();
        assert_eq!(v, serde_json::json!({"a": 0x744C, "b": [1, 2], "e": "f"}));
        let e = parse_bytes(b"{\n").unwrap_err();
        assert!(e.message.starts_with("JSON5 parse failed: SyntaxError: JSON5: "), "{e:?}");
        assert_eq!(e.line, Some(2), "{e:?}");
        assert!(parse_bytes(&[b'['; 100]).unwrap_err().message.contains("levels"));
        assert!(parse_bytes(b"\xff\xfe").unwrap_err().message.contains("UTF-8"));
        assert!(parse_bytes(&vec![b' '; FILE_BYTES_MAX + 1]).unwrap_err().message.contains("larger"));
        let text = "{\n  a: {\n    b: [1, {c: 2}],\n  },\n}";
        let at = |p: &[&str]| locate(text, &p.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(at(&["a", "b", "1", "c"]), Some(((3, 13), 4)));
        assert_eq!(at(&["a", "nope"]), Some(((2, 3), 1)));
        assert_eq!(at(&[]), Some(((1, 1), 0)));
    }
}
