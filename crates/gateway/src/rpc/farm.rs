//! `farm.*`: what this gateway knows of the farm, and the letters between its gateways.

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_farm::Farm;
use clawstead_terms::{Failure, FailureCode};
use clawstead_wire::{
    ErrorShape,
    farm::{FarmApi, FarmLetterRef, FarmLettersParams},
    system::Nothing,
};

use super::Cx;
use crate::farm::Cell;

/// Letters of a list without a limit.
const LETTERS_DEFAULT: usize = 50;
/// Letters of a list at most.
const LETTERS_MAX: i64 = 500;

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
        Ok(json!({ "agents": self.farm()?.membership.agents() }))
    }

    async fn letters(&self, _: &Cx, params: FarmLettersParams) -> Result<Value, ErrorShape> {
        Ok(json!({ "letters": self.farm()?.letters(params.agent.as_deref(), limit(&params)).await? }))
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
