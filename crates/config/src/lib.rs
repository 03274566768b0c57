//! Configuration: text in, one validated immutable [`Config`] out.
//!
//! A file (`openclaw.json`, JSON5) is read to a [`Snapshot`], which also exists for broken files so that diagnostic
//! commands work with them. [`Snapshot::load`] makes the typed [`Config`] of it, or says why not. Every spelling that
//! a release of OpenClaw accepted is understood; reading never changes the file.
//!
//! ```
//! use clawstead_config::{DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
//!
//! let env = Env::from_pairs([("HOME", "/home/ann"), ("KEY", "secret")]);
//! let paths = Paths::resolve(Profile::from_flags(None, DevFlag::Off)?, &env);
//! let text = br#"{ gateway: { port: 19000, auth: { token: "${KEY}" } }, agents: { list: [{ id: "jerry" }] } }"#;
//! let snapshot = Snapshot::from_bytes(text, &paths, &env, ReadOptions::default());
//! let loaded = snapshot.load(Strictness::Tolerant, SecretOptions::default())?;
//! assert_eq!(loaded.config.gateway.port, 19000);
//! assert_eq!(loaded.config.default_agent().as_str(), "jerry");
//! for notice in &loaded.notices {
//!     println!("{}", notice.located());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A gateway reads from disk with [`Snapshot::read`] and passes [`ExecRefs::Run`] (on a blocking thread).

mod a2a_rules;
mod config;
mod edit;
mod edit_text;
mod env;
mod farm_rules;
mod hash;
mod include;
mod issue;
mod json_schema;
mod normalise;
mod paths;
mod ports;
mod redact;
mod reload;
mod rules;
pub mod schema;
mod secret;
mod secret_exec;
mod secret_resolve;
mod sections;
mod snapshot;
mod subst;
mod text;
mod units;
mod validate;
mod view;
mod write;

pub use config::Config;
pub use edit::{Edit, EditError, EditOptions, FileChange, MapWrite, Planned, plan_edit};
pub use env::{Env, EnvTrust, login_shell_env};
pub use include::SourceFile;
pub use issue::{Invalid, Issue, Severity, join_path, split_path};
pub use json_schema::{Lookup, json_schema, lookup};
pub use paths::{DevFlag, Paths, Profile, ProfileError};
pub use ports::{DEFAULT_PORT, DEV_PORT, DerivedPorts, Overlap, OverlapKind, PortUser, SAFE_SPACING, Surfaces, derived_ports, overlaps};
pub use redact::{has_placeholder, redact, redact_at, restore_placeholders};
pub use reload::{HotPart, ReloadPlan, diff, plan};
pub use secret::{REDACTED, Secret, SecretRef, SecretSource};
pub use secret_resolve::{ExecRefs, StoreLookup, Unresolved, resolve_refs};
pub use sections::{
    a2a::{A2aConfig, A2aPeer, A2aRemote, A2aSigning, A2aSigningKey, TOKEN_CHARS_MIN},
    agents::{ActiveHours, Agent, AgentsConfig, GroupChat, Heartbeat, Identity, ModelChoice, Sandbox, Subagents},
    bindings::{AccountMatch, Binding, PeerKind, PeerMatch},
    diagnostics::{DiagnosticsConfig, OtelConfig},
    farm::{
        BusConfig, BusKind, CONSUL_ADDR, CoordConfig, CoordKind, FailoverKind, FarmConfig, HubConfig, HubMemory, HubPeer, LeaseProfile, PeerConfig,
        PolicyEffect, PolicyEnd, PolicyRule, STATE_SCHEMA, StateConfig, StateKind, TlsFiles, VAULT_FOLDER, VaultConfig,
    },
    gateway::{
        AuthConfig, AuthMode, Bind, ControlUi, GatewayConfig, GatewayMode, HttpEndpoints, RateLimit, ReloadMode, RemoteConfig, TailscaleMode, TlsConfig,
        TrustedProxy,
    },
    models::{Cost, Model, ModelEntry, ModelsConfig, ProviderConfig, split_model_ref},
    rest::{
        AuthProfile, AuthProfiles, BrowserConfig, ChannelAccount, ChannelsConfig, CronConfig, ExecConfig, HooksConfig, LoggingConfig, McpServer,
        MessagesConfig, SkillEntry, SkillsConfig, ToolPolicy, ToolsConfig,
    },
    session::{DmScope, Maintenance, ResetRule, SendRule, SessionConfig},
};
pub use snapshot::{Loaded, ReadOptions, SecretOptions, ShellImport, Snapshot, Strictness};
pub use text::{DEPTH_MAX, FILE_BYTES_MAX, ParseProblem};
pub use units::{duration_ms, size_bytes};
pub use view::Raw;
pub use write::{BACKUPS, Guard, create, keep_last_good, last_good_path, write};

/// Reads anything that might be a configuration, through all steps, and never panics: the entry for fuzzing and for
/// tools that look at unknown files. The result is the normalised value without secrets resolved.
///
/// # Errors
/// The issues that keep it from being used by a strict reader.
pub fn parse_any(bytes: &[u8]) -> Result<serde_json::Value, Vec<Issue>> {
    let env = Env::default();
    let paths = Paths::resolve(Profile::Main, &env);
    let snapshot = Snapshot::from_bytes(bytes, &paths, &env, ReadOptions::default());
    let blocking: Vec<Issue> = snapshot.blocking(Strictness::Strict).into_iter().cloned().collect();
    if blocking.is_empty() { Ok(snapshot.normal) } else { Err(blocking) }
}
