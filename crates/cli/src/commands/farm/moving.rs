//! Which gateway owns what, and moving it in order.

use serde_json::json;

use super::status::{ask, moment};
use crate::{
    commands::Outcome,
    cx::Cx,
    format::{dash, list, number, relative, text},
    print,
    rpc::Common,
};

/// Which gateway owns what.
#[derive(clap::Args)]
pub struct ShardsArgs {
    #[command(flatten)]
    common: Common,
}

/// Give an agent or a channel account to a gateway.
#[derive(clap::Args)]
#[command(
    after_help = "Running turns end first (30 s at most; longer ones go on there from their journal). Nothing is lost and nothing runs twice.\n\nExamples:\n  openclaw farm move bobby jerry-gateway\n  openclaw farm move chan.loopback.default jerry-gateway"
)]
pub struct MoveArgs {
    /// Agent, or unit as `openclaw farm shards` shows it
    unit: String,
    /// Gateway
    gateway: String,
    #[command(flatten)]
    common: Common,
}

/// Have a unit claimed anew, after the coordination store lost records.
#[derive(clap::Args)]
#[command(
    after_help = "Writes an ownership record that nobody owns, above every epoch that the coordination store, the state and this gateway know. Whoever acts for the unit stops, and one gateway claims it.\n\nExample:\n  openclaw farm repair bobby"
)]
pub struct RepairArgs {
    /// Agent, or unit as `openclaw farm shards` shows it
    unit: String,
    #[command(flatten)]
    common: Common,
}

/// Empty a gateway in order, for maintenance.
#[derive(clap::Args)]
#[command(
    after_help = "The gateway keeps running, and relays calls to those that have its agents now. It takes nothing until --undo.\n\nExamples:\n  openclaw farm drain bobby-gateway --why \"new memory\"\n  openclaw farm drain bobby-gateway --undo"
)]
pub struct DrainArgs {
    /// Gateway
    gateway: String,
    /// It may have units again
    #[arg(long)]
    undo: bool,
    /// Why, for others who look
    #[arg(long, default_value = "", value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    common: Common,
}

/// `farm shards`.
pub fn shards(args: &ShardsArgs, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.shards", json!({}))?;
    if args.common.json {
        print::json(&found);
        return Ok(0);
    }
    if found["moves"] != true {
        print::line("Nothing moves in this farm: each gateway keeps its state in its own folder (farm.state.kind \"postgres\" shares it).");
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = list(&found, "shards")
        .iter()
        .map(|row| {
            let owner = text(row, "owner");
            let state = match (owner.is_empty(), row["healthy"] == true) {
                (true, _) => "nobody has it",
                (false, true) => "running",
                (false, false) => "owner is silent",
            };
            let prefer: Vec<&str> = list(row, "prefer").iter().filter_map(serde_json::Value::as_str).collect();
            vec![
                text(row, "unit").to_owned(),
                dash(owner),
                number(row, "epoch").map_or_else(|| "-".into(), |epoch| epoch.to_string()),
                row["alert"].as_str().unwrap_or(state).to_owned(),
                relative(moment(&row["since"])),
                dash(text(row, "failover")),
                dash(&prefer.join(", ")),
            ]
        })
        .collect();
    print::columns(&["Unit", "Owner", "Epoch", "State", "Since", "Failover", "Should be at"], &rows);
    for (gateway, drain) in found["drains"].as_object().into_iter().flatten() {
        let why = text(drain, "why");
        print::line(&format!("{gateway} is drained{}: openclaw farm drain {gateway} --undo", if why.is_empty() { String::new() } else { format!(" ({why})") }));
    }
    Ok(0)
}

/// `farm move`.
pub fn move_unit(args: &MoveArgs, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.move", json!({"unit": args.unit, "to": args.gateway}))?;
    if args.common.json {
        print::json(&found);
    } else {
        let from = text(&found, "from");
        let from = if from.is_empty() { String::new() } else { format!(" from {from}") };
        print::line(&format!("{} went{from} to {} in {} ms.", text(&found, "unit"), args.gateway, number(&found, "tookMs").unwrap_or(0)));
    }
    Ok(0)
}

/// `farm repair`.
pub fn repair(args: &RepairArgs, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.repair", json!({"unit": args.unit}))?;
    if args.common.json {
        print::json(&found);
    } else {
        print::line(&format!("{} is claimed anew, from epoch {} on.", text(&found, "unit"), number(&found, "epoch").unwrap_or(0)));
    }
    Ok(0)
}

/// `farm drain`.
pub fn drain(args: &DrainArgs, cx: &Cx) -> Outcome {
    let found = ask(cx, &args.common, "farm.drain", json!({"gateway": args.gateway, "undo": args.undo, "why": args.why}))?;
    if args.common.json {
        print::json(&found);
        return Ok(u8::from(found["ok"] != true));
    }
    if args.undo {
        print::line(&format!("{} may have agents again.", args.gateway));
        return Ok(0);
    }
    let left: Vec<&str> = list(&found, "left").iter().filter_map(serde_json::Value::as_str).collect();
    if left.is_empty() {
        print::line(&format!("{} has nothing any more. It takes nothing until `openclaw farm drain {} --undo`.", args.gateway, args.gateway));
        return Ok(0);
    }
    print::line(&format!("{} is to have nothing, but still has {}; it goes on giving them away.", args.gateway, left.join(", ")));
    Ok(1)
}
