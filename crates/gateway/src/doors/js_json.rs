//! JSON bodies, with the parser messages that clients of the original see.

use serde_json::Value;

/// Characters shown on each side of a token that does not belong.
const CONTEXT_CHARS: usize = 10;

/// Reads a body; an empty one counts as `{}`.
///
/// # Errors
/// A sentence that names what is wrong and where.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let text = String::from_utf8_lossy(bytes);
    serde_json::from_str(&text).map_err(|err| sentence(&text, &err))
}

fn sentence(text: &str, err: &serde_json::Error) -> String {
    let shown = err.to_string();
    let what = shown.rsplit_once(" at line ").map_or(shown.as_str(), |(what, _)| what);
    let mut at = offset(text, err.line(), err.column());
    let last = text.trim_end().bytes().last();
    let words = match what {
        "key must be a string" if before(text, at) == Some('{') => "Expected property name or '}'",
        "key must be a string" | "trailing comma" if !text[at..].starts_with(']') => "Expected double-quoted property name",
        "expected `:`" => "Expected ':' after property name",
        "expected `,` or `}`" => "Expected ',' or '}' after property value",
        "expected `,` or `]`" => "Expected ',' or ']' after array element",
        "trailing characters" => "Unexpected non-whitespace character after JSON",
        "invalid escape" => "Bad escaped character",
        "EOF while parsing a string" => {
            at = text.len();
            "Unterminated string"
        }
        "EOF while parsing an object" if last == Some(b'{') => {
            at = text.len();
            "Expected property name or '}'"
        }
        "EOF while parsing an object" if last == Some(b',') => {
            at = text.len();
            "Expected double-quoted property name"
        }
        "EOF while parsing an object" if last != Some(b':') => {
            at = text.len();
            "Expected ',' or '}' after property value"
        }
        _ if what.starts_with("control character") => "Bad control character in string literal",
        _ if err.is_eof() => return "Unexpected end of JSON input".into(),
        _ => return unexpected(text, at),
    };
    // In an unfinished string the name of what is broken comes first, too.
    let words = if words == "Unexpected non-whitespace character after JSON" { words.to_owned() } else { format!("{words} in JSON") };
    let (line, column) = place(text, at);
    format!("{words} at position {} (line {line} column {column})", text[..at].encode_utf16().count())
}

/// The byte that a line and column of the parser mean, on a character's begin.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start = if line <= 1 { 0 } else { text.match_indices('\n').nth(line - 2).map_or(0, |(at, _)| at + 1) };
    let mut at = (start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn before(text: &str, at: usize) -> Option<char> {
    text[..at].trim_end().chars().next_back()
}

fn place(text: &str, at: usize) -> (usize, usize) {
    let head = &text[..at];
    let line_start = head.rfind('\n').map_or(0, |at| at + 1);
    (head.matches('\n').count() + 1, head[line_start..].encode_utf16().count() + 1)
}

fn unexpected(text: &str, at: usize) -> String {
    let Some(token) = text[at..].chars().next() else { return "Unexpected end of JSON input".into() };
    let all: Vec<char> = text.chars().collect();
    let here = text[..at].chars().count();
    if all.len() <= 2 * CONTEXT_CHARS {
        return format!("Unexpected token '{token}', \"{text}\" is not valid JSON");
    }
    let (from, to) = (here.saturating_sub(CONTEXT_CHARS), (here + CONTEXT_CHARS).min(all.len()));
    let cut: String = all[from..to].iter().collect();
    let (head, tail) = (if from > 0 { "..." } else { "" }, if to < all.len() { "... " } else { " " });
    format!("Unexpected token '{token}', {head}\"{cut}\"{tail}is not valid JSON")
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn mistakes_are_named_as_clients_know_them() {
        for (text, message) in [
            ("{nope", "Expected property name or '}' in JSON at position 1 (line 1 column 2)"),
            ("{", "Expected property name or '}' in JSON at position 1 (line 1 column 2)"),
            ("{\"a\":1,}", "Expected double-quoted property name in JSON at position 7 (line 1 column 8)"),
            ("{\"a\" 1}", "Expected ':' after property name in JSON at position 5 (line 1 column 6)"),
            ("{\"a\":1 2}", "Expected ',' or '}' after property value in JSON at position 7 (line 1 column 8)"),
            ("[1\n 2]", "Expected ',' or ']' after array element in JSON at position 4 (line 2 column 2)"),
            ("{} x", "Unexpected non-whitespace character after JSON at position 3 (line 1 column 4)"),
            ("{\"ä\": nope}", "Unexpected token 'o', \"{\"ä\": nope}\" is not valid JSON"),
            ("nope", "Unexpected token 'o', \"nope\" is not valid JSON"),
            ("[1,", "Unexpected end of JSON input"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), message, "{text}");
        }
        assert!(parse(b" ").unwrap().is_object());
        assert_eq!(parse("{\"ä\": 1}".as_bytes()).unwrap()["ä"], 1);
    }
}
