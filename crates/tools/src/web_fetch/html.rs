//! Web pages as Markdown, with bounds on what a hostile page can cost.

use htmd::HtmlToMarkdown;

/// The longest page that is converted, bytes; longer ones are cut before.
pub const HTML_BYTES_MAX: usize = 1024 * 1024;
/// Nesting beyond this is not converted but stripped: a tree that deep is no text for reading.
const DEPTH_MAX: i64 = 400;
/// Unclosed formatting is opened again in every block after it; this bounds the sum.
const REOPENED_MAX: i64 = 500_000;
/// Stack of the converting thread, bytes; only what is used is taken.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// Elements whose text is not for reading.
const SKIPPED: [&str; 10] = ["script", "style", "noscript", "svg", "iframe", "template", "head", "nav", "canvas", "form"];
/// Elements that end by themselves.
const NO_DEPTH: [&str; 26] = [
    "p", "li", "br", "img", "td", "tr", "th", "dt", "dd", "option", "input", "meta", "link", "hr", "source", "wbr", "area", "base", "col", "embed", "param",
    "track", "tbody", "thead", "tfoot", "colgroup",
];
/// Formatting elements, which parsers open again.
const FORMATTING: [&str; 14] = ["a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"];

/// How a page is turned into text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With headings, lists and links.
    Markdown,
    /// Words only.
    Text,
}

/// A page as text. Never fails: what cannot be converted is stripped of its tags.
pub async fn to_text(html: String, mode: Mode) -> String {
    let html = crate::bound::head(&html, HTML_BYTES_MAX).to_owned();
    if mode == Mode::Text || !tame(&html) {
        return strip(&html);
    }
    let (done, result) = tokio::sync::oneshot::channel();
    let copy = html.clone();
    let started = std::thread::Builder::new().name("html".into()).stack_size(STACK_BYTES).spawn(move || {
        let text = HtmlToMarkdown::builder().skip_tags(SKIPPED.to_vec()).build().convert(&copy).ok();
        let _ = done.send(text);
    });
    match (started, result.await) {
        (Ok(_), Ok(Some(text))) => text.trim().to_owned(),
        _ => strip(&html),
    }
}

/// The title of a page.
pub fn title(html: &str) -> Option<String> {
    let start = crate::bound::head(html, 64 * 1024);
    let lower = start.to_ascii_lowercase();
    let at = lower.find("<title")?;
    let open = at + lower[at..].find('>')? + 1;
    let close = open + lower[open..].find("</title")?;
    let text = unescape(&start[open..close]).split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then(|| crate::bound::head(&text, 300).to_owned())
}

/// The tags of a page: lower-case name and whether it closes.
fn tags(html: &str) -> impl Iterator<Item = (String, bool)> + '_ {
    html.split('<').skip(1).filter_map(|piece| {
        let (closes, rest) = piece.strip_prefix('/').map_or((false, piece), |rest| (true, rest));
        let end = rest.bytes().take(20).position(|b| !b.is_ascii_alphanumeric()).unwrap_or(rest.len().min(20));
        let name = rest.get(..end)?;
        name.starts_with(|c: char| c.is_ascii_alphabetic()).then(|| (name.to_ascii_lowercase(), closes))
    })
}

/// Whether a page can be converted at a bounded cost.
fn tame(html: &str) -> bool {
    let (mut depth, mut formatting, mut reopened) = (0_i64, 0_i64, 0_i64);
    for (name, closes) in tags(html) {
        let step = if closes { -1 } else { 1 };
        if FORMATTING.contains(&name.as_str()) {
            formatting = (formatting + step).max(0);
        }
        reopened += formatting;
        if !NO_DEPTH.contains(&name.as_str()) {
            depth = (depth + step).max(0);
        }
        if depth > DEPTH_MAX || reopened > REOPENED_MAX {
            return false;
        }
    }
    true
}

/// The words of a page: tags out, scripts and styles out, the common entities read.
fn strip(html: &str) -> String {
    let mut out = String::with_capacity(html.len() / 4);
    let lower = html.to_ascii_lowercase();
    let mut at = 0;
    while let Some(open) = lower[at..].find('<').map(|i| at + i) {
        out.push_str(&unescape(&html[at..open]));
        let rest = &lower[open..];
        let skip = ["script", "style", "noscript", "template", "svg"].iter().find(|name| rest[1..].starts_with(**name));
        let comment = rest.starts_with("<!--");
        let end = if comment { rest.find("-->").map(|i| i + 3) } else { rest.find('>').map(|i| i + 1) };
        let Some(end) = end else { return tidy(&out) };
        at = open + end;
        if let Some(name) = skip {
            let close = format!("</{name}");
            match lower[at..].find(&close) {
                Some(i) => at += i,
                None => return tidy(&out),
            }
        }
        let block = ["<p", "</p", "<br", "<div", "</div", "<li", "<tr", "<h", "</h", "<section", "<article", "<ul", "<table"];
        out.push(if block.iter().any(|b| rest.starts_with(b)) { '\n' } else { ' ' });
    }
    out.push_str(&unescape(&html[at..]));
    tidy(&out)
}

fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    // The ampersand last, so that nothing is read twice.
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&nbsp;", " ").replace("&amp;", "&")
}

fn tidy(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Mode, strip, tame, title, to_text};

    #[tokio::test]
    async fn a_page_becomes_markdown() {
        let page = "<html><head><title> My &amp; page </title><style>x{}</style></head><body><h1>Head</h1><p>Some <b>bold</b> <a href='https://e.org/x'>link</a></p><script>evil()</script><ul><li>one<li>two</ul></body></html>";
        let seen = to_text(page.into(), Mode::Markdown).await;
        assert!(seen.contains("# Head") && seen.contains("**bold**") && seen.contains("[link](https://e.org/x)") && !seen.contains("evil"), "{seen}");
        assert_eq!(title(page).unwrap(), "My & page");
        let seen = to_text(page.into(), Mode::Text).await;
        assert!(seen.contains("Some bold link") && !seen.contains("evil") && !seen.contains('<'), "{seen}");
    }

    #[tokio::test]
    async fn hostile_pages_are_stripped_not_parsed() {
        for page in ["<div>".repeat(200_000), (0..3000).map(|i| format!("<b id={i}>")).collect::<String>() + &"<p>x".repeat(100_000), "<a><p>".repeat(100_000)]
        {
            assert!(!tame(&page));
            let _ = to_text(page, Mode::Markdown).await;
        }
        assert!(tame(&"<p><b>x</b> <a href=x>y</a>".repeat(10_000)), "a long list of paragraphs is a normal page");
    }

    proptest! {
        #[test]
        fn stripping_never_fails(text in "[<>/!a-c &;é\\-]{0,60}|<(script|style|p|!--)[ >a-z<]{0,20}") {
            let _ = strip(&text);
            let _ = title(&text);
            let _ = tame(&text);
        }
    }
}
