//! `openclaw gateway`: run, ask, manage.

pub mod call;
pub mod more;
pub mod probe;
pub mod run;
pub mod service;
pub mod status;
pub mod suspend;
pub mod unit;

use clap::Subcommand;

use super::Outcome;
use crate::cx::Cx;

/// Run, ask and manage the gateway.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  openclaw gateway                       Start in the foreground on the configured port\n  openclaw gateway --port 19001          On another port\n  openclaw gateway status                Service, port and connection\n  openclaw gateway call agents.list      Call a method\n  openclaw gateway install               Start at login (systemd user service)"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: run::Args,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the gateway in the foreground
    Run(run::Args),
    /// Service, port, connection
    Status(status::Args),
    /// Call a method of the gateway protocol
    Call(call::Args),
    /// Health of the running gateway
    Health(more::HealthArgs),
    /// Which gateways answer
    Probe(probe::Args),
    /// Look for gateways in the local network
    Discover(more::DiscoverArgs),
    /// Tokens and cost of the last days
    UsageCost(more::UsageArgs),
    /// Print the shared token
    AuthToken(more::TokenArgs),
    /// Install the service
    Install(service::InstallArgs),
    /// Start the service
    Start(service::StartArgs),
    /// Stop the service, or the gateway that runs here
    Stop(service::StopArgs),
    /// Restart the service, or the gateway that runs here
    Restart(service::RestartArgs),
    /// Remove the service
    Uninstall(service::UninstallArgs),
    /// Let nothing new begin, so that the machine can sleep
    Suspend(suspend::SuspendArgs),
    /// Let work begin again
    Resume(suspend::ResumeArgs),
    /// Recent diagnostic events
    Stability(more::StabilityArgs),
}

/// Runs the verb.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        None => run::run(args.run, cx),
        Some(Verb::Run(args)) => run::run(args, cx),
        Some(Verb::Status(args)) => status::run(&args, cx),
        Some(Verb::Call(args)) => call::run(args, cx),
        Some(Verb::Health(args)) => more::health(&args, cx),
        Some(Verb::Probe(args)) => probe::run(&args, cx),
        Some(Verb::Discover(args)) => more::discover(&args, cx),
        Some(Verb::UsageCost(args)) => more::usage(&args, cx),
        Some(Verb::AuthToken(args)) => more::token(&args, cx),
        Some(Verb::Install(args)) => service::install(&args, cx),
        Some(Verb::Start(args)) => service::start(&args, cx),
        Some(Verb::Stop(args)) => service::stop(&args, cx),
        Some(Verb::Restart(args)) => service::restart(&args, cx),
        Some(Verb::Uninstall(args)) => service::uninstall(&args, cx),
        Some(Verb::Suspend(args)) => suspend::suspend(&args, cx),
        Some(Verb::Resume(args)) => suspend::resume(&args, cx),
        Some(Verb::Stability(args)) => more::stability(&args, cx),
    }
}
