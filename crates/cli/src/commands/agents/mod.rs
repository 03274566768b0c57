//! `openclaw agents`: agents, workspaces, routing.

mod add;
mod bind;
mod delete;
mod list;
mod set_identity;
mod status;

use clap::Subcommand;
use clawstead_config::{AccountMatch, Agent, Binding, Config, Edit, MapWrite, PeerKind, Snapshot};
use serde_json::{Value, json};

use super::Outcome;
use crate::{cx::Cx, fail::Fail};

/// Agents, their workspaces and routing.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw agents list --bindings\n  openclaw agents add ops --workspace ~/agents/ops --model anthropic/claude-sonnet-4-5 --bind telegram:alerts\n  openclaw agents bind --agent ops --bind slack\n  openclaw agents set-identity --agent ops --name Ops --emoji 🛠"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Configured agents
    #[command(alias = "ls")]
    List(list::Args),
    /// One agent in short
    Status(status::Args),
    /// Add an agent
    Add(add::Args),
    /// Remove an agent
    #[command(alias = "rm")]
    Delete(delete::Args),
    /// Route channels to an agent
    Bind(bind::BindArgs),
    /// Take routes away from an agent
    Unbind(bind::UnbindArgs),
    /// All routes
    Bindings(bind::ListArgs),
    /// Name, emoji, theme and avatar of an agent
    SetIdentity(set_identity::Args),
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::List(args) => list::run(&args, cx),
        Verb::Status(args) => status::run(&args, cx),
        Verb::Add(args) => add::run(&args, cx),
        Verb::Delete(args) => delete::run(&args, cx),
        Verb::Bind(args) => bind::bind(&args, cx),
        Verb::Unbind(args) => bind::unbind(&args, cx),
        Verb::Bindings(args) => bind::list(&args, cx),
        Verb::SetIdentity(args) => set_identity::run(&args, cx),
    }
}

/// An agent by id; the default one without.
///
/// # Errors
/// In the known words, when there is none with this id.
pub fn find<'a>(config: &'a Config, id: Option<&str>) -> Result<&'a Agent, Fail> {
    let Some(id) = id else { return Ok(config.agents.default_agent()) };
    config
        .agents
        .get(id)
        .or_else(|| config.agents.get(clawstead_terms::AgentId::normalise(id).as_str()))
        .ok_or_else(|| Fail::new(format!("Unknown agent id \"{id}\". Use \"openclaw agents list\" to see configured agents.")).hint("openclaw agents list"))
}

/// The bindings of an agent.
pub fn bindings_of<'a>(config: &'a Config, agent: &str) -> impl Iterator<Item = &'a Binding> {
    config.bindings.iter().filter(move |b| b.agent.as_str() == agent)
}

/// `telegram accountId=alerts`.
#[must_use]
pub fn describe(binding: &Binding) -> String {
    let mut out = binding.channel.clone();
    match &binding.account {
        AccountMatch::Default => {}
        AccountMatch::Any => out.push_str(" accountId=*"),
        AccountMatch::Exact(account) => out.push_str(&format!(" accountId={account}")),
    }
    if let Some(peer) = &binding.peer {
        out.push_str(&format!(" peer={}:{}", kind(peer.kind), peer.id));
    }
    for (name, value) in [("guildId", &binding.guild_id), ("teamId", &binding.team_id)] {
        if let Some(value) = value {
            out.push_str(&format!(" {name}={value}"));
        }
    }
    if !binding.roles.is_empty() {
        out.push_str(&format!(" roles={}", binding.roles.join(",")));
    }
    out
}

const fn kind(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Direct => "direct",
        PeerKind::Group => "group",
        PeerKind::Channel => "channel",
    }
}

/// `{channel, accountId?, peer?, ...}`.
#[must_use]
pub fn match_json(binding: &Binding) -> Value {
    let mut out = json!({"channel": binding.channel});
    match &binding.account {
        AccountMatch::Default => {}
        AccountMatch::Any => out["accountId"] = "*".into(),
        AccountMatch::Exact(account) => out["accountId"] = account.as_str().into(),
    }
    if let Some(peer) = &binding.peer {
        out["peer"] = json!({"kind": kind(peer.kind), "id": peer.id});
    }
    for (name, value) in [("guildId", &binding.guild_id), ("teamId", &binding.team_id)] {
        if let Some(value) = value {
            out[name] = value.as_str().into();
        }
    }
    if !binding.roles.is_empty() {
        out["roles"] = json!(binding.roles);
    }
    out
}

/// A channel and perhaps an account: `telegram:alerts`.
pub struct Spec {
    /// The channel, lower case.
    pub channel: String,
    /// The account, lower case.
    pub account: Option<String>,
}

impl Spec {
    /// Reads `channel[:accountId]`.
    ///
    /// # Errors
    /// When there is no channel.
    pub fn parse(text: &str) -> Result<Self, Fail> {
        let (channel, account) = text.split_once(':').map_or((text, None), |(c, a)| (c, Some(a)));
        let channel = channel.trim().to_lowercase();
        if channel.is_empty() {
            return Err(Fail::new(format!("\"{text}\" is not a binding; use channel or channel:account.")));
        }
        Ok(Self { channel, account: account.map(|a| a.trim().to_lowercase()).filter(|a| !a.is_empty()) })
    }

    /// As it was written.
    #[must_use]
    pub fn shown(&self) -> String {
        self.account.as_ref().map_or_else(|| self.channel.clone(), |a| format!("{}:{a}", self.channel))
    }

    fn matches(&self, binding: &Binding) -> bool {
        let account = match &binding.account {
            AccountMatch::Default => None,
            AccountMatch::Any => Some("*"),
            AccountMatch::Exact(account) => Some(account.as_str()),
        };
        plain(binding) && binding.channel == self.channel && account == self.account.as_deref()
    }
}

/// True for a binding that names nothing but channel and account.
fn plain(binding: &Binding) -> bool {
    binding.peer.is_none() && binding.guild_id.is_none() && binding.team_id.is_none() && binding.roles.is_empty() && !binding.acp
}

/// What adding bindings comes to.
#[derive(Default)]
pub struct Bound {
    /// The edits.
    pub edits: Vec<Edit>,
    /// New ones.
    pub added: Vec<String>,
    /// Channel bindings that got an account.
    pub updated: Vec<String>,
    /// There already.
    pub skipped: Vec<String>,
    /// Held by another agent.
    pub conflicts: Vec<String>,
}

impl Bound {
    /// Works out what `specs` mean for `agent`.
    ///
    /// # Errors
    /// For a text that is no binding.
    pub fn plan(snapshot: &Snapshot, config: &Config, agent: &str, specs: &[String]) -> Result<Self, Fail> {
        let mut out = Self::default();
        let mut next = snapshot.get(&["bindings".to_owned()]).and_then(Value::as_array).map_or(0, Vec::len);
        let mut fresh = next == 0;
        for text in specs {
            let spec = Spec::parse(text)?;
            let value = |account: &Option<String>| {
                let mut m = json!({"channel": spec.channel});
                if let Some(account) = account {
                    m["accountId"] = account.as_str().into();
                }
                json!({"agentId": agent, "match": m})
            };
            if let Some(there) = config.bindings.iter().find(|b| spec.matches(b)) {
                if there.agent.as_str() == agent {
                    out.skipped.push(spec.shown());
                } else {
                    out.conflicts.push(format!("{} (agent={})", spec.shown(), there.agent));
                }
                continue;
            }
            let whole = Spec { channel: spec.channel.clone(), account: None };
            let upgrade = spec.account.is_some().then(|| config.bindings.iter().find(|b| whole.matches(b) && b.agent.as_str() == agent)).flatten();
            if let Some(old) = upgrade {
                out.edits.push(set(&["bindings", &old.index.to_string()], value(&spec.account)));
                out.updated.push(spec.shown());
                continue;
            }
            if fresh {
                out.edits.push(set(&["bindings"], json!([value(&spec.account)])));
                fresh = false;
            } else {
                out.edits.push(set(&["bindings", &next.to_string()], value(&spec.account)));
            }
            next += 1;
            out.added.push(spec.shown());
        }
        Ok(out)
    }

    /// `{added, updated, skipped, conflicts}`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({"added": self.added, "updated": self.updated, "skipped": self.skipped, "conflicts": self.conflicts})
    }
}

/// A set edit.
#[must_use]
pub fn set(path: &[&str], value: Value) -> Edit {
    Edit::Set { path: path.iter().map(|s| (*s).to_owned()).collect(), value, mode: MapWrite::Merge }
}
