//! Loopback: a chat platform in one small HTTP service, for trying things out, for tests and for bridges that people
//! write themselves. It behaves like platforms with offset polling: updates stay until a later offset confirms them,
//! and a send carries a nonce by which the platform knows repeats.
//!
//! The service answers three calls, all JSON, with `Authorization: Bearer <token>` when one is configured:
//!
//! | call | answer |
//! |---|---|
//! | `GET <url>/updates?offset=N&timeout=S` | `{"updates":[{"id":7,"message":{...}}]}`: updates with id ≥ N, waiting up to S seconds for one |
//! | `POST <url>/send` `{nonce,to,threadId?,replyTo?,text}` | `{"messageId":"..."}`; the same nonce again gives the same answer and shows nothing twice |
//! | `GET <url>/sent?nonce=...` | `{"messageId":"..."}` or 404: was it shown? |
//!
//! A message is `{id, chat:{kind:"direct"|"group"|"channel", id}, sender:{id,name}, text, threadId?, mentioned?, at?}`.

mod config;
mod ingress;
mod send;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use clawstead_terms::{AccountId, Failure};
use clawstead_world::World;

use crate::channel::{Channel, ChannelSpec};

/// The channel's entry.
pub const SPEC: ChannelSpec = ChannelSpec { id: "loopback", label: "Loopback", build };

fn build(world: &World, account: &AccountId, section: &Value) -> Result<Channel, Failure> {
    let config = Arc::new(config::Config::read(section)?);
    Ok(Channel {
        ingress: Some(Arc::new(ingress::Polling { world: world.clone(), account: account.clone(), config: config.clone() })),
        outlet: Some(Arc::new(send::Sender { world: world.clone(), config })),
    })
}
