//! The terminal interface: chat with an agent, switch sessions, agents and models, watch tools work.
//!
//! [`State`] is everything that is known, [`update`] decides what an [`Event`] changes and which [`Command`]s follow,
//! and [`View`] paints a state. All three are plain and synchronous; only [`run`] touches a terminal and a socket.

mod command;
mod driver;
mod entry;
mod event;
mod input;
mod log;
mod markdown;
mod options;
mod picker;
mod scroll;
mod state;
mod terminal;
mod text;
mod update;
mod view;

pub use command::{Command, Tag};
pub use driver::{drive, run};
pub use event::{Event, Link};
pub use options::{Colour, TuiError, TuiOptions};
pub use state::State;
pub use update::update;
pub use view::View;
