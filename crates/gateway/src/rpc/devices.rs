//! `device.*`: pairing and tokens.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_wire::{
    ErrorShape,
    devices::{DeviceRef, DevicesApi, Rejected, Removed, RenameParams, Renamed, RequestRef, RevokeParams, Revoked, RotateParams, UpgradeParams},
    event::{PairDecision, PairResolved},
    scope::covers,
    system::Nothing,
};
use clawstead_world::World;

use super::Cx;
use crate::{
    devices::{Decision, Devices, PENDING_MS, store_error},
    fanout::Fanout,
};

/// How often `device.scopes.waitUpgrade` looks.
const WAIT_STEP: Duration = Duration::from_millis(250);
/// How long it waits, ms.
const WAIT_MS: i64 = 25_000;

/// The handlers of `device.*`.
pub struct DevicesRpc {
    /// The register.
    pub devices: Arc<Devices>,
    /// Who hears of changes.
    pub fanout: Fanout,
    /// The clock.
    pub world: World,
}

impl DevicesRpc {
    fn resolved(&self, request_id: &str, device_id: &str, decision: PairDecision) {
        let event = PairResolved { request_id: request_id.to_owned(), device_id: device_id.to_owned(), decision, ts: self.world.clock.now().0 };
        self.fanout.send("device.pair.resolved", &event);
    }
}

fn unknown_device() -> ErrorShape {
    ErrorShape::invalid("unknown deviceId")
}

/// A caller with less than admin may manage only his own device.
fn may_manage(cx: &Cx, device_id: &str) -> Result<(), ErrorShape> {
    match cx.caller.device_id.as_deref() {
        Some(own) if own != device_id && !cx.caller.is_admin() => Err(ErrorShape::missing_scope("operator.admin")),
        _ => Ok(()),
    }
}

#[async_trait]
impl DevicesApi<Cx> for DevicesRpc {
    async fn pair_list(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        let connected = self.fanout.connected_devices();
        let paired: Vec<Value> = self.devices.paired().iter().map(|device| device.shown(Some(connected.contains(&device.device_id)))).collect();
        Ok(json!({ "pending": self.devices.pending(), "paired": paired }))
    }

    async fn pair_approve(&self, cx: &Cx, params: RequestRef) -> Result<Value, ErrorShape> {
        let (request, device) = self.devices.decide(&params.request_id, Decision::Approve, &cx.caller.scopes).await?;
        self.resolved(&request.request_id, &request.device_id, PairDecision::Approved);
        Ok(json!({ "requestId": request.request_id, "device": device.map(|device| device.shown(None)) }))
    }

    async fn pair_reject(&self, cx: &Cx, params: RequestRef) -> Result<Rejected, ErrorShape> {
        let (request, _) = self.devices.decide(&params.request_id, Decision::Reject, &cx.caller.scopes).await?;
        self.resolved(&request.request_id, &request.device_id, PairDecision::Rejected);
        Ok(Rejected { request_id: request.request_id, device_id: request.device_id })
    }

    async fn pair_remove(&self, cx: &Cx, params: DeviceRef) -> Result<Removed, ErrorShape> {
        may_manage(cx, &params.device_id)?;
        if !self.devices.remove(&params.device_id).await.map_err(|err| store_error(&err))? {
            return Err(unknown_device());
        }
        self.fanout.close_device(&params.device_id, None, "client invalidated: device removed");
        Ok(Removed { device_id: params.device_id })
    }

    async fn pair_rename(&self, cx: &Cx, params: RenameParams) -> Result<Renamed, ErrorShape> {
        may_manage(cx, &params.device_id)?;
        if !self.devices.rename(&params.device_id, &params.label).await.map_err(|err| store_error(&err))? {
            return Err(unknown_device());
        }
        self.fanout.send("device.pair.changed", &json!({}));
        Ok(Renamed { device_id: params.device_id, label: params.label })
    }

    async fn token_rotate(&self, cx: &Cx, params: RotateParams) -> Result<Value, ErrorShape> {
        may_manage(cx, &params.device_id)?;
        let device = self.devices.find(&params.device_id).ok_or_else(unknown_device)?;
        if let Some(scopes) = &params.scopes {
            // Neither more than the device was approved for, nor more than the caller has.
            let beyond = scopes.iter().find(|s| !covers(&device.scopes, &[s.as_str()]) || !covers(&cx.caller.scopes, &[s.as_str()]));
            if let Some(scope) = beyond {
                return Err(ErrorShape::missing_scope(scope));
            }
        }
        let issued = self.devices.rotate(&params.device_id, &params.role, params.scopes).await.map_err(|err| store_error(&err))?;
        let issued = issued.ok_or_else(|| ErrorShape::invalid("unknown deviceId/role"))?;
        let mut answer = json!({ "deviceId": params.device_id, "role": params.role, "scopes": issued.scopes, "rotatedAtMs": issued.issued_at_ms });
        if cx.caller.device_id.as_deref() == Some(&params.device_id) {
            answer["token"] = issued.token.into();
        } else {
            answer["tokenDelivery"] = "withheld-cross-device".into();
            self.fanout.close_device(&params.device_id, Some(&params.role), "client invalidated: device token rotated");
        }
        Ok(answer)
    }

    async fn token_revoke(&self, cx: &Cx, params: RevokeParams) -> Result<Revoked, ErrorShape> {
        may_manage(cx, &params.device_id)?;
        let revoked = self.devices.revoke(&params.device_id, &params.role).await.map_err(|err| store_error(&err))?;
        let revoked_at_ms = revoked.ok_or_else(|| ErrorShape::invalid("unknown deviceId/role"))?;
        self.fanout.close_device(&params.device_id, Some(&params.role), "client invalidated: device token revoked");
        Ok(Revoked { device_id: params.device_id, role: params.role, revoked_at_ms })
    }

    async fn scopes_request(&self, cx: &Cx, params: UpgradeParams) -> Result<Value, ErrorShape> {
        let device_id = cx.caller.device_id.as_deref().ok_or_else(|| ErrorShape::invalid("only a paired device can ask for more scopes"))?;
        let (request, is_new) = self.devices.ask_for_scopes(device_id, &params.scopes).await?;
        let Some(request) = request else { return Ok(json!({ "status": "approved", "scopes": params.scopes })) };
        if is_new {
            self.fanout.send("device.pair.requested", &request);
        }
        Ok(json!({ "status": "pending", "requestId": request.request_id, "expiresAtMs": request.ts + PENDING_MS }))
    }

    async fn scopes_wait(&self, cx: &Cx, params: RequestRef) -> Result<Value, ErrorShape> {
        let device_id = cx.caller.device_id.clone().ok_or_else(|| ErrorShape::invalid("only a paired device can wait for scopes"))?;
        let end = self.world.clock.now().0 + WAIT_MS;
        let Some(asked) = self.devices.pending().into_iter().find(|r| r.request_id == params.request_id && r.device_id == device_id) else {
            return Err(ErrorShape::invalid("unknown requestId"));
        };
        while self.world.clock.now().0 < end {
            if !self.devices.pending().iter().any(|r| r.request_id == params.request_id) {
                let approved = self.devices.find(&device_id).is_some_and(|device| covers(&device.scopes, &asked.scopes));
                return Ok(json!({ "status": if approved { "approved" } else { "rejected" }, "scopes": asked.scopes }));
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
        Ok(json!({ "status": "pending", "requestId": params.request_id }))
    }
}
