use clawstead_terms::Millis;

use crate::{
    envelope::{Envelope, Hop, Refusal},
    keys::GatewayKey,
};

/// What a replay is made with.
#[derive(Clone, Debug)]
pub struct Replay<'a> {
    /// The new letter's id, a `UUIDv7`.
    pub message_id: String,
    /// Now.
    pub at: Millis,
    /// The epoch under which the source is held now.
    pub epoch: u64,
    /// Where the target is believed to live.
    pub target_gateway: Option<&'a str>,
}

/// S11: the letter that an operator sends in place of a dead one. It has a new id, names the dead one as its cause and
/// keeps the idempotency key, so that work that was done after all is not done again. The gateway that holds the source
/// now signs it.
///
/// # Errors
/// `Malformed` when the new id is not one.
pub fn replay(dead: &Envelope, new: Replay<'_>, key: &GatewayKey) -> Result<Envelope, Refusal> {
    let mut letter = dead.clone();
    letter.idempotency_key = Some(dead.idempotency_key().to_owned());
    letter.causation_id = Some(dead.message_id.clone());
    letter.message_id = new.message_id;
    letter.created_at = new.at;
    letter.source_gateway = key.gateway().into();
    letter.source_epoch = new.epoch;
    letter.hop = Hop {
        hops: vec![key.gateway().into()],
        sender_gateway: key.gateway().into(),
        sender_epoch: new.epoch,
        target_gateway: new.target_gateway.map(Into::into),
        ..Hop::default()
    };
    letter.sign(key)?;
    Ok(letter)
}
