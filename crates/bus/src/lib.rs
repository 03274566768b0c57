//! What gateways share, and nothing else: [`Coord`], versioned keys that can be watched (ownership, membership,
//! keys, policy), and [`Bus`], mail that arrives at least once and in any order. Each engine is a folder; all of
//! them pass the same [conformance] suite.
//!
//! Nothing here knows what an agent is. Neither trait is trusted with safety beyond its sentence: ownership rests on
//! [`Coord::put_if`] and on the fence of the state store; delivery rests on receipts between the two ends.

pub mod blobs;
pub mod conformance;
pub mod consul;
pub mod coord;
pub mod faulty;
mod hand_back;
pub mod mail;
pub mod memory;
pub mod nats;
pub mod postgres;
pub mod redis;
pub mod rules;
mod tls;

pub use blobs::{BLOB_BYTES_MAX, Blobs};
pub use coord::{CasError, Change, Check, Coord, CoordError, Entry, Member, Op, Version};
pub use mail::{Bus, BusCaps, BusError, Delivery, Depth, MailBox, Published, Sealed, Settle};
pub use tls::Tls;
