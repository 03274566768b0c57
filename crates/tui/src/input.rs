//! The line that is being written, and those written before.

use ratatui_textarea::{CursorMove, TextArea, WrapMode};

/// Lines remembered for the Up key.
const RECALL_MAX: usize = 100;
/// Longest text that can be written or pasted, bytes.
pub const INPUT_BYTES_MAX: usize = 256 * 1024;

/// The input box.
#[derive(Clone)]
pub struct Input {
    area: TextArea<'static>,
    recall: Vec<String>,
    /// Which remembered text is shown; none for the one being written.
    at: Option<usize>,
    draft: String,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("lines", &self.area.lines()).finish_non_exhaustive()
    }
}

fn blank() -> TextArea<'static> {
    let mut area = TextArea::default();
    area.set_wrap_mode(WrapMode::WordOrGlyph);
    area.set_cursor_line_style(ratatui::style::Style::default());
    area.set_max_histories(100);
    area
}

impl Default for Input {
    fn default() -> Self {
        Self { area: blank(), recall: Vec::new(), at: None, draft: String::new() }
    }
}

impl Input {
    /// The widget's state, for painting and keys.
    pub fn area(&self) -> &TextArea<'static> {
        &self.area
    }

    /// The widget's state, to be changed by keys.
    pub fn area_mut(&mut self) -> &mut TextArea<'static> {
        &mut self.area
    }

    /// What is written.
    pub fn text(&self) -> String {
        self.area.lines().join("\n")
    }

    /// True when nothing is written.
    pub fn is_empty(&self) -> bool {
        self.area.is_empty()
    }

    /// Replaces what is written.
    pub fn set(&mut self, text: &str) {
        self.area = blank();
        self.area.insert_str(text);
    }

    /// Adds text at the cursor; what would exceed [`INPUT_BYTES_MAX`] is left out. Answers whether all fitted.
    pub fn paste(&mut self, text: &str) -> bool {
        let held: usize = self.area.lines().iter().map(|line| line.len() + 1).sum();
        let room = INPUT_BYTES_MAX.saturating_sub(held);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut end = text.len().min(room);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.area.insert_str(&text[..end]);
        end == text.len()
    }

    /// Takes what is written and remembers it.
    pub fn take(&mut self) -> String {
        let text = self.text();
        self.remember(&text);
        self.clear();
        text
    }

    /// Empties the box.
    pub fn clear(&mut self) {
        self.area = blank();
        self.at = None;
        self.draft.clear();
    }

    fn remember(&mut self, text: &str) {
        if text.trim().is_empty() || self.recall.last().is_some_and(|last| last == text) {
            return;
        }
        if self.recall.len() == RECALL_MAX {
            self.recall.remove(0);
        }
        self.recall.push(text.to_owned());
    }

    /// Shows the text written before this one. Answers false when the cursor is not in the first line or nothing
    /// older is remembered.
    pub fn older(&mut self) -> bool {
        if self.area.cursor().0 > 0 {
            return false;
        }
        let next = match self.at {
            None => self.recall.len().checked_sub(1),
            Some(at) => at.checked_sub(1),
        };
        let Some(next) = next else { return false };
        if self.at.is_none() {
            self.draft = self.text();
        }
        self.show(next);
        true
    }

    /// Shows the text written after this one, or what was being written. Answers false when the cursor is not in the
    /// last line or nothing newer is there.
    pub fn newer(&mut self) -> bool {
        if self.area.cursor().0 + 1 < self.area.lines().len() {
            return false;
        }
        let Some(at) = self.at else { return false };
        if at + 1 < self.recall.len() {
            self.show(at + 1);
        } else {
            self.at = None;
            let draft = std::mem::take(&mut self.draft);
            self.set(&draft);
        }
        true
    }

    fn show(&mut self, at: usize) {
        self.at = Some(at);
        let text = self.recall[at].clone();
        self.set(&text);
        self.area.move_cursor(CursorMove::End);
    }
}

#[cfg(test)]
mod tests {
    use super::{INPUT_BYTES_MAX, Input};

    #[test]
    fn what_was_written_comes_back_and_the_draft_is_kept() {
        let mut input = Input::default();
        for text in ["one", "two"] {
            input.set(text);
            assert_eq!(input.take(), text);
        }
        input.set("draft");
        assert!(input.older() && input.text() == "two");
        assert!(input.older() && input.text() == "one");
        assert!(!input.older());
        assert!(input.newer() && input.text() == "two");
        assert!(input.newer() && input.text() == "draft");
        assert!(!input.newer());
    }

    #[test]
    fn a_paste_is_bounded() {
        let mut input = Input::default();
        assert!(input.paste("a\r\nb"));
        assert_eq!(input.area().lines(), ["a", "b"]);
        assert!(!input.paste(&"ü".repeat(INPUT_BYTES_MAX)));
        assert!(input.text().len() <= INPUT_BYTES_MAX);
    }
}
