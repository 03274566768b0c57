//! The log: JSON lines in one file a day, in the shape that OpenClaw's tools read, and the reader of `logs.tail`.

mod layer;
mod tail;

pub use layer::{FileLog, FileLogOptions};
pub use tail::{Tail, file_of_today, newest, tail};
