//! Bounds on text that reaches a model.

use clawstead_terms::Part;

use crate::ToolOutput;

/// What a model sees of one call at most, bytes of text; pictures count apart.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// The largest index not above `at` that is a character boundary.
pub fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The smallest index not below `at` that is a character boundary.
pub fn ceil(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// The last `bytes_max` bytes of a text, cut at a character.
pub fn tail(text: &str, bytes_max: usize) -> &str {
    &text[ceil(text, text.len().saturating_sub(bytes_max))..]
}

/// The first `bytes_max` bytes of a text, cut at a character.
pub fn head(text: &str, bytes_max: usize) -> &str {
    &text[..floor(text, bytes_max)]
}

/// Keeps the first and the last half of a text that is longer than `bytes_max`, with a notice between.
#[must_use]
pub fn cut(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let half = bytes_max / 2;
    let (first, last) = (head(&text, half), tail(&text, half));
    let missing = text.len() - first.len() - last.len();
    format!("{first}\n\n[... {missing} of {} bytes left out; ask for a smaller part ...]\n\n{last}", text.len())
}

/// Cuts all text parts of an output to `bytes_max` bytes in total.
pub fn cut_output(mut output: ToolOutput, bytes_max: usize) -> ToolOutput {
    let mut room = bytes_max;
    for part in &mut output.content {
        if let Part::Text { text } = part {
            let whole = std::mem::take(text);
            let size = whole.len();
            *text = cut(whole, room);
            room = room.saturating_sub(size);
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::{cut, cut_output};
    use crate::ToolOutput;

    #[test]
    fn long_text_keeps_both_ends_and_says_so() {
        let text = format!("first{}last", "ä".repeat(100_000));
        let seen = cut(text, 1000);
        assert!(seen.len() < 1100 && seen.starts_with("first") && seen.ends_with("last") && seen.contains("left out"));
        assert_eq!(cut("short".into(), 1000), "short");
    }

    #[test]
    fn all_parts_share_one_bound() {
        let part = clawstead_terms::Part::text("x".repeat(900));
        let seen = cut_output(ToolOutput { content: vec![part.clone(), part.clone(), part], details: None }, 1000);
        assert!(seen.plain_text().len() < 1300);
    }
}
