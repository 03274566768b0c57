//! Repository chores: floors, docs, schema.
fn main() {}
