//! Which gateway is who, what it may say, where a letter stands and which gateway runs what: the farm's decisions as
//! plain synchronous code. Nothing here opens a socket, reads a clock or knows what an agent does; time, chance and
//! what the stores answered come in as arguments, and what is to be done goes out as values.
//!
//! - [`envelope`]: a letter on its way between gateways, its canonical bytes, its signatures and receipts
//! - [`keys`]: who may sign: gateway keys, the farm's root, key records, rotation, join tokens
//! - [`policy`]: who may ask what of whom
//! - [`receive`]: everything that is checked when a letter arrives, in one function
//! - [`letter`]: the life of a letter at its sender and at its receiver
//! - [`simple`]: letters that people put into an inbox by hand, unsigned
//! - [`directory`]: which gateways and agents there are, and who is healthy since when
//! - [`claim`]: which gateway owns which unit

pub mod claim;
pub mod directory;
pub mod envelope;
pub mod keys;
pub mod letter;
pub mod names;
pub mod policy;
pub mod receive;
pub mod simple;
mod stamp;
#[cfg(test)]
mod testkit;

pub use stamp::{format_stamp, parse_stamp};

/// The two times a decision may need. Wall time is compared between gateways (expiry) and kept over restarts; the boot
/// clock measures waiting and is never set back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Wall time.
    pub wall: clawstead_terms::Millis,
    /// Milliseconds of a clock that only goes forward while this process lives (boot time, so that a suspended machine
    /// counts too). Never compared between processes.
    pub mono_ms: u64,
}
