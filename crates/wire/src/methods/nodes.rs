//! Nodes: devices that lend their capabilities.

use serde_json::Value;

use super::system::Nothing;
use crate::method::{methods, params};

params! {
    /// A node.
    NodeRef { node_id: text }
    /// A pending node request.
    NodeRequestRef { request_id: text }
    /// For `node.rename`.
    NodeRenameParams { node_id: text, display_name: text }
    /// For `node.invoke`.
    InvokeParams {
        node_id: text,
        command: text,
        params?: Value,
        timeout_ms?: int,
        idempotency_key: text,
        session_key?: text,
        turn_source_channel?: String,
        turn_source_to?: String,
        turn_source_account_id?: String,
        turn_source_thread_id?: Value,
    }
    /// For `node.event`.
    NodeEventParams { event: text, payload?: Value, #[serde(rename = "payloadJSON")] payload_json?: String }
    /// Whether a node's event was used.
    NodeEventAck { ok: bool, event: String, handled: bool, reason?: String }
}

methods! {
    /// Nodes: devices that lend their capabilities.
    trait NodesApi {
        /// Known nodes.
        List: "node.list" => fn list(Nothing) -> Value, scope: Read;
        /// One node.
        Describe: "node.describe" => fn describe(NodeRef) -> Value, scope: Read;
        /// Nodes whose capabilities wait for approval, and approved ones.
        PairList: "node.pair.list" => fn pair_list(Nothing) -> Value, scope: Pairing;
        /// Approves a node's capabilities.
        PairApprove: "node.pair.approve" => fn pair_approve(NodeRequestRef) -> Value, scope: Pairing;
        /// Rejects a node's capabilities.
        PairReject: "node.pair.reject" => fn pair_reject(NodeRequestRef) -> Value, scope: Pairing;
        /// Forgets a node.
        PairRemove: "node.pair.remove" => fn pair_remove(NodeRef) -> Value, scope: Pairing;
        /// Names a node.
        Rename: "node.rename" => fn rename(NodeRenameParams) -> Value, scope: Pairing;
        /// Runs a command on a node.
        Invoke: "node.invoke" => fn invoke(InvokeParams) -> Value, scope: Dynamic;
        /// Something happened on the calling node.
        Event: "node.event" => fn event(NodeEventParams) -> NodeEventAck, scope: Node;
    }
}
