//! Replies for channel accounts that another gateway has: an agent may live at one gateway and the account that it
//! answers through at another.

use async_trait::async_trait;
use clawstead_agent::OutboxRow;
use clawstead_farm::{Located, link::Call};
use clawstead_terms::{Failure, Unit};
use serde_json::{Value, json};
use std::time::Duration;

use super::Cell;
use crate::outbox::{Carrier, Outbox};

/// Takes a reply in: `{row}`.
pub const REPLY: &str = "gateway.reply";
/// How long a gateway may take to store one, ms.
const REPLY_MS: u64 = 10_000;

/// Carries replies over the links.
pub struct ReplyCarrier(pub Cell);

#[async_trait]
impl Carrier for ReplyCarrier {
    async fn carry(&self, row: &OutboxRow) -> Option<Result<(), Failure>> {
        let farm = self.0.get()?;
        let unit = Unit::Account(row.target.channel.clone(), row.target.account.clone());
        if !farm.is_movable(&unit) {
            return None;
        }
        let Located::At(gateway) = farm.located(&unit, Duration::ZERO).await else { return None };
        let links = farm.links.as_ref()?;
        let call = Call { deadline_ms: REPLY_MS, ..Call::new(REPLY, json!({ "row": row })) };
        Some(links.call(&gateway, call).await.map(drop))
    }
}

/// The answer to [`REPLY`].
///
/// # Errors
/// When the row cannot be read, the account is not here, or it cannot be stored.
pub async fn take_in(farm: &Cell, outbox: &Outbox, params: &Value) -> Result<Value, Failure> {
    let row: OutboxRow = serde_json::from_value(params["row"].clone()).map_err(|err| Failure::invalid(format!("no reply: {err}")))?;
    let unit = Unit::Account(row.target.channel.clone(), row.target.account.clone());
    // Gateways that share their state may send for each other's agents; others may not.
    let agent = Unit::Agent(row.session.agent());
    if !farm.get().is_some_and(|farm| farm.is_movable(&unit) && farm.is_movable(&agent)) {
        return Err(Failure::new(clawstead_terms::FailureCode::Forbidden, format!("{unit} sends for agents of this farm's shared state only")));
    }
    outbox.take_in(row).await?;
    Ok(json!({ "ok": true }))
}
