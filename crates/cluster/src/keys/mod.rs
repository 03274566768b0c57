//! Who may sign for the farm.
//!
//! The farm's root key signs *key records*; a record that the root did not sign does not exist for us, so that somebody
//! who can write to the coordination store cannot introduce a key. Decisions where the design leaves room:
//! - The root's signature covers the whole record, its status included. Since the root is kept offline, it signs a key's
//!   four stages ([`FarmRoot::approve`]) when the key is approved; the gateway publishes the one that is due.
//! - A [`KeyRing`] never goes back: a key seen as `retiring` or `revoked` stays so, also when somebody writes an older,
//!   rightly signed record again.
//! - `next`, `active` and `retiring` keys verify; `next` because others hear of a change up to a minute apart.
//! - Files are the caller's: a private key is PKCS#8 PEM and belongs into a file of mode 0600.

mod join;
mod pair;
mod record;
mod ring;
mod rotation;
#[cfg(test)]
mod tests;

pub use join::{JOIN_TOKEN_TTL_MS, JoinClaim, JoinError, SpentTokens, issue_join_token, read_join_token};
pub use pair::{FarmRoot, GatewayKey, KeyFileError, RootPin, kid_of, read_public, write_public};
pub use record::{ApprovedKey, KEY_LIFE_DEFAULT_MS, KeyRecord, KeyStatus};
pub use ring::{KEYS_AGE_MAX_MS, KeyRing, RingError, Skipped};
pub use rotation::{Rotation, RotationError, RotationStep, emergency_revoke, rotation_plan};
