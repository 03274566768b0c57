//! `openclaw farm`: several gateways that act as one.
//!
//! What concerns trust (root, keys, invitations, rotation) works without a gateway, on the coordination store of the
//! config; what concerns life (who is there, letters) asks the running gateway.

mod alerts;
pub mod check;
mod demo;
mod enroll;
mod events;
mod facts;
mod init;
mod invite;
mod keys;
mod letters;
mod moving;
mod policy;
mod requests;
mod rotate;
mod site;
mod status;

use clap::Subcommand;

use super::Outcome;
use crate::cx::Cx;

/// Several gateways that act as one.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw farm init --id octant --coord consul --coord-addr http://10.0.0.1:8500   The first gateway\n  openclaw farm invite bobby-gateway                  Prints what to type on the other node\n  openclaw farm join ocfarm1.…                        There\n  openclaw farm status                                Who is where\n  openclaw farm rotate gateway-key --dry-run          What a change of keys would do\n\nThe playbook of keys is docs/runbook/farm-keys.md."
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a farm, with this gateway as its first
    Init(init::Args),
    /// Make this gateway one of a farm that invited it
    Join(enroll::JoinArgs),
    /// Ask to be one of a farm
    Enroll(enroll::EnrollArgs),
    /// Gateways that ask to join
    Requests(requests::ListArgs),
    /// Let a gateway in: the farm's root signs its key
    Approve(requests::ApproveArgs),
    /// Invite a gateway, wait until it asks, and let it in
    Invite(invite::Args),
    /// Keys of all gateways
    Keys(keys::ListArgs),
    /// Take a key back at once (emergency)
    Revoke(keys::RevokeArgs),
    /// Change keys and credentials, old and new overlapping
    Rotate(rotate::Args),
    /// Who may ask what of whom
    Policy(policy::Args),
    /// Show a farm on this machine: letters, the death of a gateway, its return
    Demo(demo::Args),
    /// The farm in one screen
    Status(status::Args),
    /// Gateways
    Gateways(status::Args),
    /// Agents and where they live
    Agents(status::Args),
    /// Gateways and their agents as a tree
    Map(status::Args),
    /// Which gateway owns what, under which epoch
    Shards(moving::ShardsArgs),
    /// Give an agent or a channel account to another gateway
    Move(moving::MoveArgs),
    /// Empty a gateway, for maintenance
    Drain(moving::DrainArgs),
    /// Have an agent claimed anew, after the coordination store lost records
    Repair(moving::RepairArgs),
    /// Letters between agents
    Letters(letters::ListArgs),
    /// The life of one letter
    Letter(letters::OneArgs),
    /// What happens: letters, members, keys, ownership
    Events(events::Args),
    /// Alert rules for Prometheus
    Alerts(alerts::Args),
    /// Letters that could not be delivered
    Dlq(letters::DlqArgs),
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Init(args) => init::run(&args, cx),
        Verb::Join(args) => enroll::join(&args, cx),
        Verb::Enroll(args) => enroll::run(&args, cx),
        Verb::Requests(args) => requests::list(&args, cx),
        Verb::Approve(args) => requests::approve(&args, cx),
        Verb::Invite(args) => invite::run(&args, cx),
        Verb::Keys(args) => keys::list(&args, cx),
        Verb::Revoke(args) => keys::revoke(&args, cx),
        Verb::Rotate(args) => rotate::run(&args, cx),
        Verb::Policy(args) => policy::run(args, cx),
        Verb::Demo(args) => demo::run(&args, cx),
        Verb::Status(args) => status::status(&args, cx),
        Verb::Gateways(args) => status::gateways(&args, cx),
        Verb::Agents(args) => status::agents(&args, cx),
        Verb::Map(args) => status::map(&args, cx),
        Verb::Shards(args) => moving::shards(&args, cx),
        Verb::Move(args) => moving::move_unit(&args, cx),
        Verb::Drain(args) => moving::drain(&args, cx),
        Verb::Repair(args) => moving::repair(&args, cx),
        Verb::Letters(args) => letters::list(&args, cx),
        Verb::Letter(args) => letters::one(&args, cx),
        Verb::Events(args) => events::run(&args, cx),
        Verb::Alerts(args) => alerts::run(&args),
        Verb::Dlq(args) => letters::dlq(args, cx),
    }
}
