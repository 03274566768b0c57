//! Who is connected, and who the gateway is.

use serde_json::Value;

use crate::method::{Loose, methods, params};

params! {
    /// Who the gateway is.
    GatewayIdentity {
        /// Lower-case hex SHA-256 of the public key.
        device_id: String,
        /// Raw Ed25519 key, base64url.
        public_key: String,
    }
}

methods! {
    /// Who is connected, and who the gateway is.
    trait PresenceApi {
        /// Who is connected, as a bare list.
        SystemPresence: "system-presence" => fn system_presence(Loose) -> Value, scope: Read;
        /// The gateway's own device identity.
        GatewayIdentityGet: "gateway.identity.get" => fn gateway_identity(Loose) -> GatewayIdentity, scope: Read;
    }
}
