//! Pairing of devices and their tokens.

use serde_json::Value;

use super::system::Nothing;
use crate::method::{methods, params};

params! {
    /// A pending request.
    RequestRef { request_id: text }
    /// A device.
    DeviceRef { device_id: text }
    /// For `device.pair.rename`.
    RenameParams { device_id: text, label: text(64) }
    /// For `device.token.rotate`.
    RotateParams { device_id: text, role: text, scopes?: Vec<String> }
    /// For `device.token.revoke`.
    RevokeParams { device_id: text, role: text }
    /// For `device.scopes.requestUpgrade`.
    UpgradeParams { scopes: Vec<String> }
    /// A rejected request.
    Rejected { request_id: String, device_id: String }
    /// A device that was removed.
    Removed { device_id: String }
    /// A device's new name.
    Renamed { device_id: String, label: String }
    /// A revoked token.
    Revoked { device_id: String, role: String, revoked_at_ms: i64 }
}

methods! {
    /// Pairing of devices and their tokens.
    trait DevicesApi {
        /// Pending requests and paired devices.
        PairList: "device.pair.list" => fn pair_list(Nothing) -> Value, scope: Pairing;
        /// Approves a request; nobody can approve scopes he does not have.
        PairApprove: "device.pair.approve" => fn pair_approve(RequestRef) -> Value, scope: Pairing;
        /// Rejects a request.
        PairReject: "device.pair.reject" => fn pair_reject(RequestRef) -> Rejected, scope: Pairing;
        /// Forgets a device, revokes its tokens and closes its sockets.
        PairRemove: "device.pair.remove" => fn pair_remove(DeviceRef) -> Removed, scope: Pairing;
        /// Names a device.
        PairRename: "device.pair.rename" => fn pair_rename(RenameParams) -> Renamed, scope: Pairing;
        /// Makes a new token for a device's role; only the device itself is told it.
        TokenRotate: "device.token.rotate" => fn token_rotate(RotateParams) -> Value, scope: Pairing;
        /// Revokes the token of a device's role.
        TokenRevoke: "device.token.revoke" => fn token_revoke(RevokeParams) -> Revoked, scope: Pairing;
        /// Asks for more scopes for the caller's own device.
        ScopesRequestUpgrade: "device.scopes.requestUpgrade" => fn scopes_request(UpgradeParams) -> Value, scope: Open;
        /// Waits for the answer to such a request.
        ScopesWaitUpgrade: "device.scopes.waitUpgrade" => fn scopes_wait(RequestRef) -> Value, scope: Open;
    }
}
