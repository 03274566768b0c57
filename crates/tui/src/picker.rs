//! A list to choose from: sessions, agents, models.

use crate::text::clean;

/// Rows kept at most.
const ROWS_MAX: usize = 1_000;

/// What is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A session to show.
    Sessions,
    /// An agent to talk to.
    Agents,
    /// A model for this session.
    Models,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What choosing it means: a session key, an agent id, a model name.
    pub value: String,
    /// The main text.
    pub title: String,
    /// The text beside it.
    pub detail: String,
    /// The one in use.
    pub current: bool,
}

/// What the picker is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Typing filters.
    Choose,
    /// Typing writes a new name for the selected session.
    Rename(String),
    /// Waiting for yes or no.
    ConfirmDelete,
    /// Waiting for yes or no.
    ConfirmReset,
}

/// A list to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picker {
    /// What is chosen.
    pub subject: Subject,
    /// The text that rows must contain.
    pub filter: String,
    /// What it is doing.
    pub mode: Mode,
    /// No list came yet.
    pub loading: bool,
    /// What went wrong, in one sentence.
    pub fault: Option<String>,
    rows: Vec<Row>,
    selected: usize,
}

impl Picker {
    /// An empty one that waits for its rows.
    #[must_use]
    pub fn new(subject: Subject) -> Self {
        Self { subject, filter: String::new(), mode: Mode::Choose, loading: true, fault: None, rows: Vec::new(), selected: 0 }
    }

    /// Takes new rows; the selection stays on the same value where it can.
    pub fn fill(&mut self, rows: Vec<Row>) {
        let first = self.rows.is_empty() && self.loading;
        let held = self.selected().map(|row| row.value.clone());
        self.rows = rows;
        self.rows.truncate(ROWS_MAX);
        for row in &mut self.rows {
            row.title = clean(&row.title).replace('\n', " ");
            row.detail = clean(&row.detail).replace('\n', " ");
        }
        self.loading = false;
        let place = |wanted: &dyn Fn(&Row) -> bool| self.visible().position(wanted);
        let kept = held.and_then(|value| place(&|row: &Row| row.value == value));
        let current = if first { place(&|row: &Row| row.current) } else { None };
        self.selected = kept.or(current).unwrap_or(self.selected).min(self.visible().count().saturating_sub(1));
    }

    /// The rows that contain the filter.
    pub fn visible(&self) -> impl Iterator<Item = &Row> {
        let words: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        self.rows.iter().filter(move |row| {
            words.is_empty() || {
                let all = format!("{} {} {}", row.title, row.detail, row.value).to_lowercase();
                words.iter().all(|word| all.contains(word))
            }
        })
    }

    /// The place of the selection among the visible rows.
    #[must_use]
    pub const fn place(&self) -> usize {
        self.selected
    }

    /// The selected row.
    #[must_use]
    pub fn selected(&self) -> Option<&Row> {
        self.visible().nth(self.selected)
    }

    /// Moves the selection.
    pub fn step(&mut self, by: isize) {
        let last = self.visible().count().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    /// Changes the filter.
    pub fn filter_with(&mut self, change: impl FnOnce(&mut String)) {
        change(&mut self.filter);
        self.selected = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Picker, Row, Subject};

    fn row(value: &str, current: bool) -> Row {
        Row { value: value.into(), title: format!("title {value}"), detail: String::new(), current }
    }

    #[test]
    fn it_opens_on_the_current_row_and_stays_on_the_chosen_one() {
        let mut picker = Picker::new(Subject::Sessions);
        picker.fill(vec![row("a", false), row("b", true), row("c", false)]);
        assert_eq!(picker.selected().unwrap().value, "b");
        picker.step(1);
        picker.fill(vec![row("c", false), row("a", false), row("b", true)]);
        assert_eq!(picker.selected().unwrap().value, "c");
        picker.step(99);
        assert_eq!(picker.selected().unwrap().value, "b");
    }

    #[test]
    fn every_word_of_the_filter_must_be_there() {
        let mut picker = Picker::new(Subject::Sessions);
        picker.fill(vec![row("alpha", false), row("beta", true)]);
        picker.filter_with(|filter| filter.push_str("TITLE bet"));
        assert_eq!(picker.visible().count(), 1);
        assert_eq!(picker.selected().unwrap().value, "beta");
        picker.filter_with(|filter| filter.push('x'));
        assert!(picker.selected().is_none());
        picker.step(-1);
    }
}
