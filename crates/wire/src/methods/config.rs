//! The configuration file.

use serde_json::Value;

use super::system::Nothing;
use crate::method::{methods, params};

params! {
    /// For `config.set`.
    ConfigSetParams {
        /// The whole file, JSON5.
        raw: text,
        base_hash?: text,
    }
    /// For `config.apply`.
    ConfigApplyParams { raw: text, base_hash?: text, session_key?: String, delivery_context?: Value, note?: String, restart_delay_ms?: int }
    /// For `config.patch`.
    ConfigPatchParams {
        /// A partial config, JSON5; `null` removes.
        raw: text,
        /// The `hash` of the last `config.get`.
        base_hash?: text,
        session_key?: String,
        delivery_context?: Value,
        note?: String,
        restart_delay_ms?: int,
        #[schemars(length(max = 256))]
        replace_paths?: Vec<String>,
    }
    /// For `config.schema.lookup`.
    LookupParams { path: text(1024) }
}

methods! {
    /// The configuration file. Secrets are never shown.
    trait ConfigApi {
        /// The config as written and as resolved, with its hash.
        Get: "config.get" => fn get(Nothing) -> Value, scope: Read;
        /// Replaces the file.
        Set: "config.set" => fn set(ConfigSetParams) -> Value, scope: Admin;
        /// Replaces the file and applies it.
        Apply: "config.apply" => fn apply(ConfigApplyParams) -> Value, scope: Admin, flags: [CONTROL];
        /// Merges a partial config into the file, keeping comments.
        Patch: "config.patch" => fn patch(ConfigPatchParams) -> Value, scope: Admin, flags: [CONTROL];
        /// The schema of the config.
        Schema: "config.schema" => fn schema(Nothing) -> Value, scope: Read;
        /// One place of the schema.
        SchemaLookup: "config.schema.lookup" => fn schema_lookup(LookupParams) -> Value, scope: Read;
    }
}
