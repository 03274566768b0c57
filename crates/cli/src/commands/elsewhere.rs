use super::Outcome;
use crate::{complain, cx::Cx};
/// Later.
pub fn run(words: &[String], cx: &Cx) -> Outcome { Ok(complain::unknown_command(words.first().map_or("", String::as_str), cx.json)) }
