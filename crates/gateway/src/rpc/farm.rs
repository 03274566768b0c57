//! `farm.*`: what this gateway knows of the farm, and the letters between its gateways.

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_farm::Farm;
use clawstead_terms::{Failure, FailureCode};
use clawstead_wire::{
    ErrorShape,
    farm::{FarmApi, FarmDrainParams, FarmEventsParams, FarmLetterRef, FarmLettersParams, FarmMoveParams, FarmUnitRef},
    system::Nothing,
};

use super::Cx;
use crate::farm::Cell;

/// Letters of a list without a limit.
const LETTERS_DEFAULT: usize = 50;
/// Letters of a list at most.
const LETTERS_MAX: i64 = 500;

/// Events of one answer at most: all that are kept.
const EVENTS_MAX: usize = clawstead_farm::events::KEPT_MAX;

/// The handlers of `farm.*`.
pub struct FarmRpc {
    /// The farm.
    pub farm: Cell,
}

impl FarmRpc {
    fn farm(&self) -> Result<&Farm, ErrorShape> {
        let none = || Failure::new(FailureCode::Unavailable, "this gateway is no part of a farm").with_hint("openclaw farm init");
        self.farm.get().ok_or_else(|| ErrorShape::from(none()))
    }
}

fn limit(params: &FarmLettersParams) -> usize {
    params.limit.map_or(LETTERS_DEFAULT, |limit| usize::try_from(i64::try_from(limit).unwrap_or(LETTERS_MAX).clamp(1, LETTERS_MAX)).unwrap_or(LETTERS_DEFAULT))
}

#[async_trait]
impl FarmApi<Cx> for FarmRpc {
    async fn status(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(self.farm()?.status().await?)
    }

    async fn gateways(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(json!({ "gateways": self.farm()?.membership.gateways() }))
    }

    async fn agents(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(json!({ "agents": self.farm()?.agents() }))
    }

    async fn shards(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(self.farm()?.shards())
    }

    async fn move_unit(&self, _: &Cx, params: FarmMoveParams) -> Result<Value, ErrorShape> {
        let began = tokio::time::Instant::now();
        let (unit, before) = self.farm()?.move_unit(&params.unit, &params.to).await?;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(json!({"ok": true, "unit": unit.to_string(), "from": before, "to": params.to, "tookMs": ms}))
    }

    async fn repair(&self, _: &Cx, params: FarmUnitRef) -> Result<Value, ErrorShape> {
        let (unit, epoch) = self.farm()?.repair(&params.unit).await?;
        Ok(json!({"ok": true, "unit": unit.to_string(), "epoch": epoch}))
    }

    async fn drain(&self, _: &Cx, params: FarmDrainParams) -> Result<Value, ErrorShape> {
        let undo = params.undo == Some(true);
        let farm = self.farm()?;
        let left = if undo {
            farm.undrain(&params.gateway).await?;
            Vec::new()
        } else {
            farm.drain(&params.gateway, params.why.as_deref().unwrap_or_default()).await?
        };
        Ok(json!({"ok": left.is_empty(), "gateway": params.gateway, "drained": !undo, "left": left}))
    }

    async fn letters(&self, _: &Cx, params: FarmLettersParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "letters": self.farm()?.letters(params.agent.as_deref(), limit(&params)).await? }))
    }

    async fn events(&self, _: &Cx, params: FarmEventsParams) -> Result<Value, ErrorShape> {
        let limit = params.limit.map_or(EVENTS_MAX, |limit| usize::try_from(limit).unwrap_or(EVENTS_MAX).clamp(1, EVENTS_MAX));
        let after = params.after.map(|after| u64::try_from(after).unwrap_or(0));
        let (events, newest) = self.farm()?.events.since(after, limit);
        let events: Vec<&Value> = events.iter().map(AsRef::as_ref).collect();
        Ok(json!({ "events": events, "newest": newest }))
    }

    async fn letter(&self, _: &Cx, params: FarmLetterRef) -> Result<Value, ErrorShape> {
        Ok(self.farm()?.letter(&params.id).await?)
    }

    async fn dlq_list(&self, _: &Cx, params: FarmLettersParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "letters": self.farm()?.dead_letters(params.agent.as_deref(), limit(&params)).await? }))
    }

    async fn dlq_show(&self, _: &Cx, params: FarmLetterRef) -> Result<Value, ErrorShape> {
        Ok(self.farm()?.dead_letter(&params.id).await?)
    }

    async fn dlq_replay(&self, _: &Cx, params: FarmLetterRef) -> Result<Value, ErrorShape> {
        Ok(json!({ "ok": true, "replayedAs": self.farm()?.replay(&params.id).await? }))
    }

    async fn dlq_drop(&self, _: &Cx, params: FarmLetterRef) -> Result<Value, ErrorShape> {
        self.farm()?.drop_dead(&params.id).await?;
        Ok(json!({ "ok": true }))
    }
}
