use thiserror::Error;

/// Why a letter is not taken. Each reason has a stable code, which receipts, dead letters, events and metrics carry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Larger than a letter may be.
    #[error("the letter has {bytes} bytes, {bytes_max} is the limit; send a large body by reference")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Not JSON, or not the shape of an envelope.
    #[error("the letter cannot be read: {why}")]
    Malformed {
        /// What is wrong, without content of the letter.
        why: String,
    },
    /// A version whose first number we do not know.
    #[error("schema version {version:?} is not known here; this gateway reads 1.x")]
    SchemaUnsupported {
        /// The version.
        version: String,
    },
    /// Meant for another farm.
    #[error("the letter belongs to farm {theirs:?}")]
    WrongFarm {
        /// The farm it names.
        theirs: String,
    },
    /// No record of this key, signed by the farm's root, is known.
    #[error("the key {kid} is not known; has its gateway been approved?")]
    KeyUnknown {
        /// The key.
        kid: String,
    },
    /// The key's time is over.
    #[error("the key {kid} is no longer valid")]
    KeyRetired {
        /// The key.
        kid: String,
    },
    /// The key's time has not begun.
    #[error("the key {kid} is not valid yet; compare the clocks")]
    KeyNotYet {
        /// The key.
        kid: String,
    },
    /// The key was revoked.
    #[error("the key {kid} was revoked")]
    KeyRevoked {
        /// The key.
        kid: String,
    },
    /// We have not heard of keys for too long to trust what we know.
    #[error("the key list is {age_ms} ms old; the coordination store does not answer")]
    KeysStale {
        /// Its age.
        age_ms: u64,
    },
    /// Signature over the letter or over its hop data does not hold.
    #[error("the {part} signature does not hold")]
    BadSignature {
        /// `letter` or `hop`.
        part: &'static str,
    },
    /// Written too far in the future.
    #[error("the letter was written {ahead_ms} ms in the future; compare the clocks")]
    ClockSkew {
        /// How far.
        ahead_ms: u64,
    },
    /// Its time is over.
    #[error("the letter's time was over {late_ms} ms ago")]
    Expired {
        /// How long ago.
        late_ms: u64,
    },
    /// It passed as many gateways as it may.
    #[error("the letter passed {hops} gateways, it may pass {hops_max}")]
    MaxHops {
        /// Gateways passed.
        hops: usize,
        /// Its bound.
        hops_max: usize,
    },
    /// It came round to a gateway it has passed.
    #[error("the letter came round to {gateway}")]
    Loop {
        /// The gateway that is there twice.
        gateway: String,
    },
    /// Sent under an epoch that is over.
    #[error("the sender's epoch {epoch} of {unit} is over, {seen} was seen")]
    Fenced {
        /// The source unit.
        unit: String,
        /// The epoch it carries.
        epoch: u64,
        /// The highest seen.
        seen: u64,
    },
    /// The gateway that signed does not own the agent it writes for.
    #[error("{gateway} does not own {unit} in epoch {epoch}")]
    SourceMismatch {
        /// The gateway.
        gateway: String,
        /// The unit it writes for.
        unit: String,
        /// The epoch it claims.
        epoch: u64,
    },
    /// The target lives elsewhere.
    #[error("{unit} does not live here")]
    NotOwner {
        /// The target unit.
        unit: String,
    },
    /// No rule allows it, or a rule forbids it.
    #[error("not allowed: {why}")]
    Forbidden {
        /// The rule, or that there is none.
        why: String,
    },
    /// A rule's limit is reached.
    #[error("more than {per_minute} letters a minute; wait {wait_ms} ms")]
    RateLimited {
        /// The limit.
        per_minute: u32,
        /// When there is room again.
        wait_ms: u64,
    },
    /// The text looks like a command for the gateway; a letter from elsewhere never is one.
    #[error("a letter from another gateway may not begin with a slash")]
    CommandRefused,
    /// The body that came is not the one that was signed.
    #[error("the body is not the one that was signed: {why}")]
    BodyMismatch {
        /// What differs.
        why: String,
    },
    /// The body travels by reference and cannot be had now.
    #[error("the body cannot be had: {why}")]
    BodyUnavailable {
        /// Who was asked, and what came of it.
        why: String,
    },
    /// Somebody wrote it by hand, without a signature.
    #[error("an unsigned letter: {why}")]
    Unsigned {
        /// Why it is not taken.
        why: String,
    },
    /// A receipt for a letter that nobody here sent to its writer.
    #[error("a receipt for a letter that was not sent from here")]
    ReceiptUnknown,
}

impl Refusal {
    /// Every code there is.
    pub const CODES: [&'static str; 24] = [
        "too_large",
        "malformed",
        "schema_unsupported",
        "wrong_farm",
        "key_unknown",
        "key_retired",
        "key_not_yet",
        "key_revoked",
        "keys_stale",
        "bad_signature",
        "clock_skew",
        "expired",
        "max_hops",
        "loop",
        "fenced",
        "source_mismatch",
        "not_owner",
        "forbidden",
        "rate_limited",
        "command_refused",
        "receipt_unknown",
        "body_mismatch",
        "body_unavailable",
        "unsigned",
    ];

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::SchemaUnsupported { .. } => "schema_unsupported",
            Self::WrongFarm { .. } => "wrong_farm",
            Self::KeyUnknown { .. } => "key_unknown",
            Self::KeyRetired { .. } => "key_retired",
            Self::KeyNotYet { .. } => "key_not_yet",
            Self::KeyRevoked { .. } => "key_revoked",
            Self::KeysStale { .. } => "keys_stale",
            Self::BadSignature { .. } => "bad_signature",
            Self::ClockSkew { .. } => "clock_skew",
            Self::Expired { .. } => "expired",
            Self::MaxHops { .. } => "max_hops",
            Self::Loop { .. } => "loop",
            Self::Fenced { .. } => "fenced",
            Self::SourceMismatch { .. } => "source_mismatch",
            Self::NotOwner { .. } => "not_owner",
            Self::Forbidden { .. } => "forbidden",
            Self::RateLimited { .. } => "rate_limited",
            Self::CommandRefused => "command_refused",
            Self::ReceiptUnknown => "receipt_unknown",
            Self::BodyMismatch { .. } => "body_mismatch",
            Self::BodyUnavailable { .. } => "body_unavailable",
            Self::Unsigned { .. } => "unsigned",
        }
    }

    /// True when the same letter may be taken later: keys and owners become known, limits free up.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(
            self,
            Self::KeyUnknown { .. }
                | Self::KeyNotYet { .. }
                | Self::KeysStale { .. }
                | Self::NotOwner { .. }
                | Self::RateLimited { .. }
                | Self::Fenced { .. }
                | Self::BodyUnavailable { .. }
        )
    }

    /// True when the sender is told by a receipt. Only reasons found after the signatures held: nobody answers a letter
    /// that anybody could have written. A stale epoch is not answered either: its letter is the business of a newer
    /// owner, who must not be confused by what an old attempt met.
    #[must_use]
    pub const fn answered(&self) -> bool {
        matches!(
            self,
            Self::TooLarge { .. }
                | Self::BodyMismatch { .. }
                | Self::BodyUnavailable { .. }
                | Self::ClockSkew { .. }
                | Self::Expired { .. }
                | Self::MaxHops { .. }
                | Self::Loop { .. }
                | Self::SourceMismatch { .. }
                | Self::NotOwner { .. }
                | Self::Forbidden { .. }
                | Self::RateLimited { .. }
                | Self::CommandRefused
        )
    }

    /// Not before this many milliseconds, where the reason knows; 0 otherwise.
    #[must_use]
    pub const fn retry_after_ms(&self) -> u64 {
        match self {
            Self::RateLimited { wait_ms, .. } => *wait_ms,
            _ => 0,
        }
    }

    pub(crate) fn malformed(why: impl Into<String>) -> Self {
        let why: String = why.into();
        Self::Malformed { why: why.chars().take(200).collect() }
    }
}
