//! Changing one place of a JSON5 text and leaving every other byte alone: comments, order, quotes, blank lines.

use jsonc_parser::{
    ast::{ObjectPropName, Value as Ast},
    common::Ranged,
};
use serde_json::Value;

use crate::text::{parse_options, strip_bom};

/// Why a text cannot be changed this way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TextEditError {
    /// The text cannot be parsed.
    Syntax(String),
    /// A segment leads into something that is neither object nor list, or a list position is not there.
    Place(Vec<String>),
}

/// One step of the way: where the container lies and what is in it.
struct Container {
    start: usize,
    end: usize,
    /// Each item with its whole range.
    items: Vec<Item>,
    is_object: bool,
}

struct Item {
    name: Option<String>,
    bare: bool,
    start: usize,
    end: usize,
}

fn container(ast: &Ast<'_>) -> Option<Container> {
    match ast {
        Ast::Object(o) => Some(Container {
            start: o.range.start,
            end: o.range.end,
            is_object: true,
            items: o
                .properties
                .iter()
                .map(|p| Item {
                    name: Some(p.name.as_str().to_owned()),
                    bare: matches!(p.name, ObjectPropName::Word(_)),
                    start: p.range.start,
                    end: p.range.end,
                })
                .collect(),
        }),
        Ast::Array(a) => Some(Container {
            start: a.range.start,
            end: a.range.end,
            is_object: false,
            items: a.elements.iter().map(|v| Item { name: None, bare: false, start: v.range().start, end: v.range().end }).collect(),
        }),
        _ => None,
    }
}

fn child<'a, 'b>(ast: &'b Ast<'a>, segment: &str) -> Option<&'b Ast<'a>> {
    match ast {
        Ast::Object(o) => o.properties.iter().rev().find(|p| p.name.as_str() == segment).map(|p| &p.value),
        Ast::Array(a) => segment.parse::<usize>().ok().and_then(|i| a.elements.get(i)),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Option<Ast<'_>>, TextEditError> {
    jsonc_parser::parse_to_ast(text, &jsonc_parser::CollectOptions::default(), &parse_options())
        .map(|r| r.value)
        .map_err(|e| TextEditError::Syntax(e.to_string()))
}

/// Puts a value at a path; objects on the way are made. The rest of the text stays.
pub(crate) fn set(text: &str, path: &[String], value: &Value) -> Result<String, TextEditError> {
    let text = strip_bom(text);
    let Some(root) = parse(text)? else {
        let made = wrap(path, value);
        let kept = text.trim_end();
        let before = if kept.is_empty() { String::new() } else { format!("{kept}\n") };
        return Ok(format!("{before}{}\n", pretty(&made, "", newline(text))));
    };
    let mut here = &root;
    for (i, segment) in path.iter().enumerate() {
        match child(here, segment) {
            Some(next) => here = next,
            None => {
                let Some(c) = container(here) else { return Err(TextEditError::Place(path[..i].to_vec())) };
                if !c.is_object && segment.parse::<usize>() != Ok(c.items.len()) {
                    return Err(TextEditError::Place(path[..=i].to_vec()));
                }
                let made = wrap(&path[i + 1..], value);
                return Ok(insert(text, &c, c.is_object.then_some(segment), &made));
            }
        }
    }
    let range = here.range();
    let indent = indent_of(text, range.start);
    Ok(format!("{}{}{}", &text[..range.start], pretty(value, &indent, newline(text)), &text[range.end..]))
}

/// Takes a path out; the same text when it is not there.
pub(crate) fn unset(text: &str, path: &[String]) -> Result<String, TextEditError> {
    let text = strip_bom(text);
    let mut out = text.to_owned();
    // a key may stand there more than once; none may come back to life
    for _ in 0..64 {
        match unset_once(&out, path)? {
            Some(next) => out = next,
            None => break,
        }
        if path.last().is_some_and(|p| p.parse::<usize>().is_ok()) {
            break;
        }
    }
    Ok(out)
}

fn unset_once(text: &str, path: &[String]) -> Result<Option<String>, TextEditError> {
    let (Some(root), Some((last, parents))) = (parse(text)?, path.split_last()) else { return Ok(None) };
    let mut here = &root;
    for segment in parents {
        match child(here, segment) {
            Some(next) => here = next,
            None => return Ok(None),
        }
    }
    let Some(c) = container(here) else { return Ok(None) };
    let found =
        if c.is_object { c.items.iter().rposition(|i| i.name.as_deref() == Some(last)) } else { last.parse::<usize>().ok().filter(|i| *i < c.items.len()) };
    let Some(index) = found else { return Ok(None) };
    let item = &c.items[index];
    let after = skip_trivia(text, item.end, c.end);
    let mut cuts = vec![(item.start, item.end)];
    if text[after..].starts_with(',') {
        cuts.push((after, after + 1));
    } else if let Some(before) = index.checked_sub(1).map(|i| &c.items[i]) {
        let comma = skip_trivia(text, before.end, item.start);
        if text[comma..].starts_with(',') {
            cuts.push((comma, comma + 1));
        }
    }
    cuts.sort_unstable();
    Ok(Some(cut(text, &cuts)))
}

/// Takes ranges out, and lines that hold nothing afterwards.
fn cut(text: &str, cuts: &[(usize, usize)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for &(start, end) in cuts {
        out.push_str(text.get(from..start).unwrap_or_default());
        from = end;
        let rest = &text[end..];
        let line_start = out.rfind('\n').map_or(0, |p| p + 1);
        let line_end = rest.find('\n');
        let blank_before = out[line_start..].trim().is_empty();
        if blank_before
            && let Some(line_end) = line_end
            && rest[..line_end].trim_matches([' ', '\t', '\r', ',']).is_empty()
            && line_start > 0
        {
            // the comma of this line is the next cut; keep it to that one
            if rest[..line_end].contains(',') {
                continue;
            }
            out.truncate(line_start);
            from = end + line_end + 1;
        } else if blank_before || out.ends_with([' ', '\t', '{', '[']) {
            let spaces = rest.len() - rest.trim_start_matches([' ', '\t']).len();
            from = end + spaces;
        }
    }
    out.push_str(&text[from.min(text.len())..]);
    out
}

fn wrap(path: &[String], value: &Value) -> Value {
    path.iter().rev().fold(value.clone(), |inner, key| Value::Object([(key.clone(), inner)].into_iter().collect()))
}

fn insert(text: &str, c: &Container, key: Option<&String>, value: &Value) -> String {
    let nl = newline(text);
    let bare = key.is_some() && !c.items.is_empty() && c.items.iter().all(|i| i.bare);
    let label = key.map_or_else(String::new, |k| {
        let name = if bare && is_identifier(k) { k.clone() } else { Value::String(k.clone()).to_string() };
        format!("{name}: ")
    });
    let outer = indent_of(text, c.start);
    let multi = text[c.start..c.end].contains('\n');
    let Some(last) = c.items.last() else {
        let inner = format!("{outer}  ");
        let body = format!("{nl}{inner}{label}{}", pretty(value, &inner, nl));
        // comments of an empty container stay above
        let inside = text[c.start + 1..c.end - 1].trim_end();
        return format!("{}{}{body}{nl}{outer}{}", &text[..c.start + 1], inside, &text[c.end - 1..]);
    };
    if !multi {
        let comma = skip_trivia(text, last.end, c.end);
        let has_comma = text[comma..].starts_with(',');
        let at = if has_comma { comma + 1 } else { last.end };
        let before = if has_comma { " " } else { ", " };
        return format!("{}{before}{label}{value}{}", &text[..at], &text[at..]);
    }
    let inner = if starts_line(text, last.start) { indent_of(text, last.start) } else { format!("{outer}  ") };
    let body = format!("{nl}{inner}{label}{}", pretty(value, &inner, nl));
    let comma = skip_trivia(text, last.end, c.end);
    if text[comma..].starts_with(',') {
        let at = line_rest(text, comma + 1, c.end - 1);
        format!("{}{body},{}", &text[..at], &text[at..])
    } else {
        let at = line_rest(text, last.end, c.end - 1);
        let tail = if text[at..c.end - 1].contains('\n') { String::new() } else { format!("{nl}{outer}") };
        format!(
            "{},{}{body}{tail}{}",
            &text[..last.end],
            &text[last.end..at],
            text[at..].trim_start_matches(if tail.is_empty() { &[][..] } else { &[' ', '\t'][..] })
        )
    }
}

/// From `at` past spaces and comments that stand on the same line.
fn line_rest(text: &str, at: usize, end: usize) -> usize {
    let mut here = at;
    let mut best = at;
    while here < end {
        let rest = &text[here..end];
        if rest.starts_with("//") {
            return here + rest.find(['\n', '\r']).unwrap_or(rest.len());
        }
        if rest.starts_with("/*") {
            let Some(len) = rest.find("*/") else { break };
            if rest[..len].contains('\n') {
                break;
            }
            here += len + 2;
            best = here;
            continue;
        }
        match rest.chars().next() {
            Some(c @ (' ' | '\t')) => here += c.len_utf8(),
            _ => break,
        }
    }
    best
}

/// From `at` past white space and comments, at most to `end`.
fn skip_trivia(text: &str, at: usize, end: usize) -> usize {
    let mut here = at;
    while here < end {
        let rest = &text[here..end];
        if rest.starts_with("//") {
            here += rest.find(['\n', '\r', '\u{2028}', '\u{2029}']).unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            here += rest.find("*/").map_or(rest.len(), |l| l + 2);
        } else {
            match rest.chars().next() {
                Some(c) if c.is_whitespace() || c == '\u{feff}' => here += c.len_utf8(),
                _ => break,
            }
        }
    }
    here
}

fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

fn starts_line(text: &str, at: usize) -> bool {
    let line = text[..at].rfind('\n').map_or(0, |p| p + 1);
    text[line..at].trim().is_empty()
}

fn indent_of(text: &str, at: usize) -> String {
    let line = text[..at].rfind('\n').map_or(0, |p| p + 1);
    text[line..at].chars().take_while(|c| matches!(c, ' ' | '\t')).collect()
}

fn pretty(value: &Value, indent: &str, nl: &str) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| "null".into());
    text.replace('\n', &format!("{nl}{indent}"))
}

fn is_identifier(key: &str) -> bool {
    key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$') && key.as_bytes().first().is_some_and(|b| !b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn p(path: &str) -> Vec<String> {
        crate::split_path(path).unwrap()
    }

    #[test]
    fn a_value_is_put_in_and_the_rest_stays() {
        for (text, path, value, want) in [
            ("{\n  // c\n  a: 1, // x\n}\n", "a", json!(2), "{\n  // c\n  a: 2, // x\n}\n"),
            ("{\n  a: 1 // x\n}\n", "b", json!("y"), "{\n  a: 1, // x\n  b: \"y\"\n}\n"),
            ("{\n  a: 1, // x\n}\n", "b", json!(2), "{\n  a: 1, // x\n  b: 2,\n}\n"),
            ("{\"a\": 1}", "b", json!(2), "{\"a\": 1, \"b\": 2}"),
            ("{a: 1,}", "b", json!(2), "{a: 1, b: 2}"),
            ("{}", "a.b", json!(1), "{\n  \"a\": {\n    \"b\": 1\n  }\n}"),
            ("{ /* k */ }", "a", json!(1), "{ /* k */\n  \"a\": 1\n}"),
            ("{\n  a: [\n    1, // one\n  ],\n}", "a[1]", json!(2), "{\n  a: [\n    1, // one\n    2,\n  ],\n}"),
            ("", "a", json!(1), "{\n  \"a\": 1\n}\n"),
            ("{\n\ta: {\n\t\tb: 1\n\t}\n}", "a.c", json!(2), "{\n\ta: {\n\t\tb: 1,\n\t\tc: 2\n\t}\n}"),
            ("{a: {b: 1}}", "a", json!({"c": 1}), "{a: {\n  \"c\": 1\n}}"),
            ("{\r\n  a: 1\r\n}", "b", json!(2), "{\r\n  a: 1,\r\n  b: 2\r\n}"),
            ("{\n  a: 1 }", "b", json!(2), "{\n  a: 1,\n  b: 2\n}"),
        ] {
            let got = set(text, &p(path), &value).unwrap();
            assert_eq!(got, want, "{text:?} {path}");
            crate::text::parse_text(&got).unwrap();
        }
        assert_eq!(set("{a: 1}", &p("a.b"), &json!(1)), Err(TextEditError::Place(p("a"))));
        assert_eq!(set("{a: []}", &p("a[1]"), &json!(1)), Err(TextEditError::Place(p("a[1]"))));
    }

    #[test]
    fn a_value_is_taken_out_and_the_rest_stays() {
        for (text, path, want) in [
            ("{\n  a: 1, // x\n  b: 2,\n}", "b", "{\n  a: 1, // x\n}"),
            ("{\n  a: 1, // x\n  b: 2\n}", "b", "{\n  a: 1 // x\n}"),
            ("{\n  a: 1, // x\n  b: 2\n}", "a", "{\n  // x\n  b: 2\n}"),
            ("{\"a\": 1, \"b\": 2}", "a", "{\"b\": 2}"),
            ("{\"a\": 1, \"b\": 2}", "b", "{\"a\": 1 }"),
            ("{a: [1, 2, 3]}", "a[1]", "{a: [1, 3]}"),
            ("{a: 1}", "a", "{}"),
            ("{a: 1}", "b.c", "{a: 1}"),
            ("{a: 1, a: 2}", "a", "{}"),
        ] {
            let got = unset(text, &p(path)).unwrap();
            assert_eq!(got.replace(" }", "}"), want.replace(" }", "}"), "{text:?} {path}");
            crate::text::parse_text(&got).unwrap();
        }
    }
}
