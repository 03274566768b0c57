//! `node.*`: paired nodes are listed; running commands on them is not built yet and says so.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_wire::{
    ErrorShape,
    nodes::{InvokeParams, NodeEventAck, NodeEventParams, NodeRef, NodeRenameParams, NodeRequestRef, NodesApi},
    system::Nothing,
};
use clawstead_world::World;

use super::Cx;
use crate::{
    devices::{Devices, PairedDevice, store_error},
    fanout::Fanout,
};

/// The handlers of `node.*`.
pub struct NodesRpc {
    /// The register; nodes are devices with role `node`.
    pub devices: Arc<Devices>,
    /// Who is connected.
    pub fanout: Fanout,
    /// The clock.
    pub world: World,
}

impl NodesRpc {
    fn nodes(&self) -> Vec<PairedDevice> {
        self.devices.paired().into_iter().filter(|device| device.roles.iter().any(|role| role == "node")).collect()
    }

    fn shown(&self, node: &PairedDevice) -> Value {
        json!({
            "nodeId": node.device_id,
            "displayName": node.display_name,
            "platform": node.platform,
            "clientId": node.client_id,
            "clientMode": node.client_mode,
            "deviceFamily": node.device_family,
            "caps": [],
            "commands": [],
            "sessionHost": false,
            "approvalState": "pending-approval",
            "lastSeenAtMs": node.last_seen_at_ms,
            "lastSeenReason": "connect",
            "approvedAtMs": node.approved_at_ms,
            "paired": true,
            "connected": self.fanout.connected_devices().contains(&node.device_id),
        })
    }

    fn find(&self, node_id: &str) -> Result<PairedDevice, ErrorShape> {
        self.nodes().into_iter().find(|node| node.device_id == node_id).ok_or_else(|| ErrorShape::invalid("unknown nodeId"))
    }
}

fn not_built() -> ErrorShape {
    ErrorShape::unavailable("this gateway does not run commands on nodes yet")
}

#[async_trait]
impl NodesApi<Cx> for NodesRpc {
    async fn list(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        let nodes: Vec<Value> = self.nodes().iter().map(|node| self.shown(node)).collect();
        Ok(json!({ "ts": self.world.clock.now().0, "nodes": nodes }))
    }

    async fn describe(&self, _: &Cx, params: NodeRef) -> Result<Value, ErrorShape> {
        Ok(self.shown(&self.find(&params.node_id)?))
    }

    async fn pair_list(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
        Ok(json!({ "pending": [], "paired": [] }))
    }

    async fn pair_approve(&self, _: &Cx, _: NodeRequestRef) -> Result<Value, ErrorShape> {
        Err(ErrorShape::invalid("unknown requestId"))
    }

    async fn pair_reject(&self, _: &Cx, _: NodeRequestRef) -> Result<Value, ErrorShape> {
        Err(ErrorShape::invalid("unknown requestId"))
    }

    async fn pair_remove(&self, _: &Cx, params: NodeRef) -> Result<Value, ErrorShape> {
        let node = self.find(&params.node_id)?;
        self.devices.remove(&node.device_id).await.map_err(|err| store_error(&err))?;
        self.fanout.close_device(&node.device_id, None, "client invalidated: device removed");
        Ok(json!({ "nodeId": node.device_id }))
    }

    async fn rename(&self, _: &Cx, params: NodeRenameParams) -> Result<Value, ErrorShape> {
        let node = self.find(&params.node_id)?;
        self.devices.rename(&node.device_id, &params.display_name).await.map_err(|err| store_error(&err))?;
        Ok(json!({ "nodeId": node.device_id, "displayName": params.display_name }))
    }

    async fn invoke(&self, _: &Cx, params: InvokeParams) -> Result<Value, ErrorShape> {
        if self.find(&params.node_id).is_err() {
            let mut error = ErrorShape::unavailable("node pairing changed while invocation was active").with_details(json!({ "code": "PAIRING_CHANGED" }));
            error.retryable = Some(true);
            return Err(error);
        }
        Err(not_built())
    }

    async fn event(&self, _: &Cx, params: NodeEventParams) -> Result<NodeEventAck, ErrorShape> {
        Ok(NodeEventAck { ok: true, event: params.event, handled: false, reason: Some("this gateway does not use node events yet".into()) })
    }
}
