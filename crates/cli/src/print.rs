//! Standard output: JSON documents, aligned columns, boxed tables.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Prints one JSON document, two spaces deep.
pub fn json(value: &Value) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    line(&text);
}

/// Prints one JSON document on one line.
pub fn json_line(value: &Value) {
    line(&value.to_string());
}

/// Prints a line. A reader that went away ends the program quietly.
pub fn line(text: &str) {
    let mut out = anstream::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Prints a piece without a line end, at once.
pub fn piece(text: &str) {
    let mut out = anstream::stdout().lock();
    if write!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// The width to print for: the terminal's, `COLUMNS`, or none when neither is known.
fn width() -> Option<u16> {
    std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).filter(|w| *w >= 20)
}

/// Plain aligned columns, as `cron list` has them.
pub fn columns(head: &[&str], rows: &[Vec<String>]) {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = head.iter().map(|h| width(h)).collect();
    for row in rows {
        for (at, cell) in row.iter().enumerate().take(widths.len()) {
            widths[at] = widths[at].max(width(cell).min(60));
        }
    }
    let show = |cells: &[String]| {
        let mut text = String::new();
        for (at, cell) in cells.iter().enumerate().take(widths.len()) {
            let cut: String = if width(cell) > 60 { cell.chars().take(59).chain(['…']).collect() } else { cell.clone() };
            let pad = widths[at].saturating_sub(width(&cut));
            text.push_str(&cut);
            if at + 1 < widths.len() {
                text.push_str(&" ".repeat(pad + 2));
            }
        }
        line(text.trim_end());
    };
    show(&head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    for row in rows {
        show(row);
    }
}

/// A boxed table.
pub fn boxed(head: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width() {
        table.set_width(width);
    }
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    line(&table.to_string());
}

/// A headline in bold.
pub fn headline(text: &str) {
    use owo_colors::OwoColorize as _;
    line(&format!("{}", text.bold()));
}
