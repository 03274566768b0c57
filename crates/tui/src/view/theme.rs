//! Styles, with and without colours.

use ratatui::style::{Color, Modifier, Style};

use crate::options::Colour;

/// The styles of everything. Without colours only bold, dim and the like tell things apart.
#[derive(Clone, Debug)]
pub struct Theme {
    pub(crate) dim: Style,
    pub(crate) bold: Style,
    pub(crate) italic: Style,
    pub(crate) struck: Style,
    pub(crate) heading: Style,
    pub(crate) code: Style,
    pub(crate) link: Style,
    pub(crate) user: Style,
    pub(crate) accent: Style,
    pub(crate) good: Style,
    pub(crate) warn: Style,
    pub(crate) error: Style,
    pub(crate) bar: Style,
    pub(crate) chosen: Style,
    pub(crate) cursor: Style,
}

impl Theme {
    /// The styles for a terminal with or without colours.
    #[must_use]
    pub fn new(colour: Colour) -> Self {
        let plain = Style::new();
        let of = |colour_of: Color| if colour == Colour::Full { plain.fg(colour_of) } else { plain };
        let bold = plain.add_modifier(Modifier::BOLD);
        Self {
            dim: plain.add_modifier(Modifier::DIM),
            bold,
            italic: plain.add_modifier(Modifier::ITALIC),
            struck: plain.add_modifier(Modifier::CROSSED_OUT),
            heading: of(Color::Cyan).add_modifier(Modifier::BOLD),
            code: of(Color::Yellow),
            link: of(Color::Blue).add_modifier(Modifier::UNDERLINED),
            user: of(Color::Green).add_modifier(Modifier::BOLD),
            accent: of(Color::Cyan),
            good: of(Color::Green),
            warn: of(Color::Yellow).add_modifier(Modifier::BOLD),
            error: of(Color::Red).add_modifier(Modifier::BOLD),
            bar: plain.add_modifier(Modifier::REVERSED),
            chosen: plain.add_modifier(Modifier::REVERSED),
            cursor: plain.add_modifier(Modifier::REVERSED),
        }
    }
}
