//! Talking to models: one trait, one folder per API dialect, a data file for compatible hosts.

mod provider;

pub use provider::{Ask, Chunk, ChunkStream, ErrorKind, Provider, ProviderError};
