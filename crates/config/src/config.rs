use std::sync::Arc;

use clawstead_terms::AgentId;
use serde_json::Value;

use crate::{
    env::Env,
    issue::split_path,
    paths::Paths,
    ports::{DerivedPorts, derived_ports},
    sections::{
        Cx,
        a2a::{self, A2aConfig},
        agents::{self, AgentsConfig},
        bindings::{self, Binding},
        diagnostics::{self, DiagnosticsConfig},
        farm::{self, FarmConfig},
        gateway::{self, GatewayConfig},
        models::{self, ModelsConfig},
        rest::{
            self, AuthProfiles, BrowserConfig, ChannelsConfig, CronConfig, HooksConfig, LoggingConfig, McpServer, MessagesConfig, SkillsConfig, ToolsConfig,
        },
        session::{self, SessionConfig},
    },
    view::{View, value_at},
};

/// One immutable configuration with everything resolved: includes, variables, secrets, old spellings, defaults.
/// Cheap to clone by its [`Arc`]; a part of the gateway receives its own section.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// Where everything lies.
    pub paths: Paths,
    /// Variables in force: process, `.env` files, the file's own `env`.
    pub env: Env,
    /// `gateway`.
    pub gateway: GatewayConfig,
    /// `agents`.
    pub agents: AgentsConfig,
    /// `bindings`.
    pub bindings: Vec<Binding>,
    /// `session`.
    pub session: SessionConfig,
    /// `models`.
    pub models: ModelsConfig,
    /// `auth`.
    pub auth: AuthProfiles,
    /// `tools`.
    pub tools: ToolsConfig,
    /// `cron`.
    pub cron: CronConfig,
    /// `channels`.
    pub channels: ChannelsConfig,
    /// `messages`.
    pub messages: MessagesConfig,
    /// `hooks`.
    pub hooks: HooksConfig,
    /// `skills`.
    pub skills: SkillsConfig,
    /// `logging`.
    pub logging: LoggingConfig,
    /// `diagnostics`.
    pub diagnostics: DiagnosticsConfig,
    /// `browser` and `canvasHost`.
    pub browser: BrowserConfig,
    /// `farm`; none means an ordinary gateway.
    pub farm: Option<FarmConfig>,
    /// `a2a`; none means that nothing is served and nobody is called by name.
    pub a2a: Option<A2aConfig>,
    /// `mcp.servers`.
    pub mcp_servers: Vec<McpServer>,
    /// False when there was no file.
    pub file_exists: bool,
    /// Opaque mark of the file's content, for `baseHash`.
    pub hash: String,
    root: Arc<Value>,
}

impl Config {
    /// Builds the typed form from a normalised value whose types were checked; anything odd becomes its default.
    pub(crate) fn from_value(root: Value, paths: &Paths, env: &Env, file_exists: bool, hash: String) -> Self {
        let cx = Cx { root: View(Some(&root)), paths, env };
        Self {
            gateway: gateway::read(&cx),
            agents: agents::read(&cx),
            bindings: bindings::read(&cx),
            session: session::read(&cx),
            models: models::read(&cx),
            auth: rest::auth(&cx),
            tools: rest::tools(&cx),
            cron: rest::cron(&cx),
            channels: rest::channels(&cx),
            messages: rest::messages(&cx),
            hooks: rest::hooks(&cx),
            skills: rest::skills(&cx),
            logging: rest::logging(&cx),
            diagnostics: diagnostics::read(&cx),
            browser: rest::browser(&cx),
            farm: farm::read(&cx),
            a2a: a2a::read(&cx),
            mcp_servers: rest::mcp(&cx),
            paths: paths.clone(),
            env: env.clone(),
            file_exists,
            hash,
            root: Arc::new(root),
        }
    }

    /// The configuration of no file at all.
    #[must_use]
    pub fn defaults(paths: &Paths, env: &Env) -> Arc<Self> {
        Arc::new(Self::from_value(Value::Object(serde_json::Map::new()), paths, env, false, String::new()))
    }

    /// A place of the normalised value: `tools.exec.safeBins`, `bindings[0]`. Holds resolved secrets: not for output.
    #[must_use]
    pub fn raw(&self, path: &str) -> Option<&Value> {
        value_at(&self.root, &split_path(path).ok()?)
    }

    /// The whole normalised value. Holds resolved secrets: not for output.
    #[must_use]
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// The default agent's id.
    #[must_use]
    pub fn default_agent(&self) -> &AgentId {
        &self.agents.default_agent().id
    }

    /// The ports that follow from the base port.
    #[must_use]
    pub fn ports(&self) -> DerivedPorts {
        derived_ports(self.gateway.port)
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("config_path", &self.paths.config_path).field("hash", &self.hash).finish_non_exhaustive()
    }
}
