//! One file for each noun and verb.

pub mod agent;
pub mod agents;
pub mod approvals;
pub mod backup;
pub mod channels;
pub mod completion;
pub mod config;
pub mod cron;
pub mod dashboard;
pub mod devices;
pub mod docs;
pub mod doctor;
pub mod elsewhere;
pub mod farm;
pub mod gateway;
pub mod health;
pub mod logs;
pub mod mcp;
pub mod message;
pub mod models;
pub mod nodes;
pub mod onboard;
pub mod pairing;
pub mod secrets;
pub mod security;
pub mod sessions;
pub mod setup;
pub mod skills;
pub mod state;
pub mod status;
pub mod system;
pub mod tui;

use clap::{Parser, Subcommand};

use crate::{cx::Cx, fail::Fail};

/// How a command ends: an exit code, or a refusal.
pub type Outcome = Result<u8, Fail>;

const AFTER: &str = "\
Global options (before or after the command):
  --profile <name>     Another gateway on this machine: state in ~/.openclaw-<name>
  --dev                Profile dev: state in ~/.openclaw-dev, port 19001
  --log-level <level>  silent, fatal, error, warn, info, debug, trace
  --no-color           No colours (same as NO_COLOR=1)
  -V, -v, --version    Print the version

Examples:
  openclaw gateway                                  Start the gateway in the foreground
  openclaw agent --agent main -m \"Good morning\"     Ask an agent
  openclaw status                                   What is running
  openclaw doctor                                   What is wrong and how to repair it";

/// Clawstead: the OpenClaw gateway written anew. Agents, channels and schedules in one small program.
#[derive(Parser)]
#[command(name = "openclaw", disable_version_flag = true, arg_required_else_help = true, subcommand_required = true, after_help = AFTER, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run, ask and manage the gateway
    #[command(alias = "daemon")]
    Gateway(gateway::Args),
    /// Ask the running gateway how it is
    Health(health::Args),
    /// Overview of gateway, agents, channels and sessions
    Status(status::Args),
    /// Read the gateway's log
    Logs(logs::Args),
    /// Check the installation and repair it
    Doctor(doctor::Args),
    /// Read and write the config file
    Config(config::Args),
    /// Edit credentials, channels and gateway settings with questions
    Configure(onboard::ConfigureArgs),
    /// Make config, workspace and session folders
    Setup(Box<setup::Args>),
    /// Set everything up, with questions or from flags
    Onboard(Box<onboard::Args>),
    /// One turn of an agent
    Agent(agent::Args),
    /// Agents, their workspaces and routing
    Agents(agents::Args),
    /// Stored sessions
    Sessions(sessions::Args),
    /// Scheduled work
    #[command(alias = "automations")]
    Cron(cron::Args),
    /// Models, fallbacks, aliases and credentials
    Models(models::Args),
    /// Send messages through channels
    Message(message::Args),
    /// Channel accounts
    Channels(channels::Args),
    /// Paired devices and their tokens
    Devices(devices::Args),
    /// Senders that ask to talk to an agent
    Pairing(pairing::Args),
    /// Rules and requests for commands that agents run
    #[command(alias = "exec-approvals")]
    Approvals(approvals::Args),
    /// Events, heartbeats and presence
    System(system::Args),
    /// Devices that lend their capabilities
    Nodes(nodes::Args),
    /// Several gateways that act as one
    Farm(farm::Args),
    /// Let MCP clients join the gateway's hub
    Mcp(mcp::Args),
    /// Open the dashboard in a browser
    Dashboard(dashboard::Args),
    /// Chat in the terminal
    #[command(alias = "terminal")]
    Tui(tui::Args),
    /// Skills that agents can use
    Skills(skills::Args),
    /// Secret references and plain-text credentials
    Secrets(secrets::Args),
    /// Look for weak settings and open files
    Security(security::Args),
    /// Archives of state and config
    Backup(backup::Args),
    /// Move stored state between databases
    State(state::Args),
    /// Completion scripts for your shell
    Completion(completion::Args),
    /// Reference pages made from the commands
    #[command(name = "__docs", hide = true)]
    Docs(docs::Args),
    #[command(external_subcommand)]
    Elsewhere(Vec<String>),
}

/// Runs a command.
pub fn run(cli: Cli, cx: &Cx) -> Outcome {
    match cli.command {
        Command::Gateway(args) => gateway::run(args, cx),
        Command::Health(args) => health::run(&args, cx),
        Command::Status(args) => status::run(&args, cx),
        Command::Logs(args) => logs::run(&args, cx),
        Command::Doctor(args) => doctor::run(&args, cx),
        Command::Config(args) => config::run(args, cx),
        Command::Configure(args) => onboard::configure(&args, cx),
        Command::Setup(args) => setup::run(&args, cx),
        Command::Onboard(args) => onboard::run(&args, cx),
        Command::Agent(args) => agent::run(&args, cx),
        Command::Agents(args) => agents::run(args, cx),
        Command::Sessions(args) => sessions::run(args, cx),
        Command::Cron(args) => cron::run(args, cx),
        Command::Models(args) => models::run(args, cx),
        Command::Message(args) => message::run(args, cx),
        Command::Channels(args) => channels::run(args, cx),
        Command::Devices(args) => devices::run(args, cx),
        Command::Pairing(args) => pairing::run(args, cx),
        Command::Approvals(args) => approvals::run(args, cx),
        Command::System(args) => system::run(args, cx),
        Command::Nodes(args) => nodes::run(args, cx),
        Command::Farm(args) => farm::run(args, cx),
        Command::Mcp(args) => mcp::run(args, cx),
        Command::Dashboard(args) => dashboard::run(&args, cx),
        Command::Tui(args) => tui::run(args, cx),
        Command::Skills(args) => skills::run(args, cx),
        Command::Secrets(args) => secrets::run(args, cx),
        Command::Security(args) => security::run(args, cx),
        Command::Backup(args) => backup::run(args, cx),
        Command::State(args) => state::run(args, cx),
        Command::Completion(args) => completion::run(&args, cx),
        Command::Docs(args) => docs::run(&args),
        Command::Elsewhere(words) => elsewhere::run(&words, cx),
    }
}
