//! `system-presence`, `gateway.identity.get`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use clawstead_wire::{
    ErrorShape,
    device::DeviceIdentity,
    method::Loose,
    presence::{GatewayIdentity, PresenceApi},
};
use clawstead_world::World;

use crate::presence::Presence;

/// The handlers of presence and identity.
pub struct PresenceRpc {
    /// Who is connected.
    pub presence: Arc<Presence>,
    /// The gateway's own key.
    pub identity: DeviceIdentity,
    /// The clock.
    pub world: World,
}

#[async_trait]
impl<C: Send + Sync + 'static> PresenceApi<C> for PresenceRpc {
    async fn system_presence(&self, _: &C, _: Loose) -> Result<Value, ErrorShape> {
        let (list, _) = self.presence.list(self.world.clock.now().0);
        serde_json::to_value(list).map_err(|err| ErrorShape::unavailable(err.to_string()))
    }

    async fn gateway_identity(&self, _: &C, _: Loose) -> Result<GatewayIdentity, ErrorShape> {
        Ok(GatewayIdentity { device_id: self.identity.id().to_owned(), public_key: self.identity.public_key() })
    }
}
