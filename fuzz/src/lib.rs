//! What is fuzzed. See `README.md`.

pub mod checks;
