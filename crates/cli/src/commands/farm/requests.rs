use std::path::PathBuf;

use clawstead_cluster::keys::{KeyRecord, KeyStatus};
use clawstead_farm::enrol::{approve as sign, records_of, request_of, requests};
use serde_json::json;

use super::site::{Consent, DAYS, Site, validity, when};
use crate::{commands::Outcome, cx::Cx, fail::Fail, print};

/// Days a key may sign at most.
const DAYS_MAX: u16 = 3650;

/// Gateways that ask to join.
#[derive(clap::Args)]
pub struct ListArgs {
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Let a gateway in: the farm's root signs its key.
#[derive(clap::Args)]
#[command(after_help = "Compare the key it shows with the one that `openclaw farm enroll` printed on that gateway: a request proves nothing by itself.")]
pub struct ApproveArgs {
    /// Gateway
    gateway: String,
    /// The key it must have asked with
    #[arg(long, value_name = "KEY")]
    kid: Option<String>,
    /// The farm's root key [default: farm-root.pem in the state folder]
    #[arg(long, value_name = "FILE")]
    root_file: Option<PathBuf>,
    /// Days the key may sign
    #[arg(long, default_value_t = DAYS, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=i64::from(DAYS_MAX)))]
    days: u16,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `farm requests`.
pub fn list(args: &ListArgs, cx: &Cx) -> Outcome {
    let found = cx.block_on(async { Ok(requests(&*Site::of(cx)?.coord).await?) })?;
    if args.json {
        let rows: Vec<_> =
            found.iter().map(|r| json!({"gateway": r.gateway, "kid": r.kid, "farm": r.farm, "at": r.at, "invited": r.invitation.is_some()})).collect();
        print::json(&json!({"requests": rows}));
        return Ok(0);
    }
    if found.is_empty() {
        print::line("No gateway asks to join. On the new one: openclaw farm enroll");
        return Ok(0);
    }
    let rows: Vec<Vec<String>> =
        found.iter().map(|r| vec![r.gateway.clone(), r.kid.clone(), when(r.at), if r.invitation.is_some() { "yes" } else { "no" }.into()]).collect();
    print::columns(&["Gateway", "Key", "Asked", "Invited"], &rows);
    print::line("Let one in: openclaw farm approve <gateway>");
    Ok(0)
}

/// `farm approve`.
pub fn approve(args: &ApproveArgs, cx: &Cx) -> Outcome {
    let record = cx.block_on(async {
        let site = Site::of(cx)?;
        let root = site.root(cx, args.root_file.as_ref())?;
        let request = request_of(&*site.coord, &args.gateway).await?;
        if let Some(kid) = args.kid.as_ref().filter(|kid| **kid != request.kid) {
            return Err(Fail::new(format!("{} asks with the key {}, and not with {kid}; it is not let in.", args.gateway, request.kid))
                .hint(format!("openclaw farm enroll on {}, and compare again", args.gateway)));
        }
        let known = records_of(&*site.coord, &args.gateway).await?;
        refuse_known(&known, &request.kid)?;
        if !args.json {
            print::line(&format!("{} asks to join {} ({}).", request.gateway, site.id, when(request.at)));
            print::line(&format!("Key  {}", request.kid));
            for old in known.iter().filter(|record| record.status != KeyStatus::Revoked) {
                print::line(&format!("It has the key {} ({:?}) already; the new one waits for its turn.", old.kid, old.status));
            }
        }
        if args.kid.is_none() {
            Consent::from_flag(args.yes).to(&format!("Is this the key that {} shows, and may it join?", args.gateway))?;
        }
        let (from, until) = validity(site.world.clock.now(), args.days);
        Ok(sign(&*site.coord, &site.id, &root, &request, from, until).await?)
    })?;
    if args.json {
        print::json(&json!({"ok": true, "record": record}));
    } else {
        print::line(&format!("Approved: {} is {:?}, ends {}. All gateways know it within a minute.", record.kid, record.status, when(record.not_after)));
    }
    Ok(0)
}

/// A key is approved once: a revoked one never comes back, and one that signs is not put back to its first stage.
///
/// # Errors
/// When it was.
pub fn refuse_known(records: &[KeyRecord], kid: &str) -> Result<(), Fail> {
    match records.iter().find(|record| record.kid == kid) {
        Some(record) if record.status == KeyStatus::Revoked => {
            Err(Fail::new(format!("{kid} was revoked; a key never comes back."))
                .hint(format!("openclaw farm enroll on {}: it makes a new key", record.gateway)))
        }
        Some(record) => Err(Fail::new(format!("{kid} is approved already ({:?}).", record.status))
            .hint(format!("openclaw farm rotate gateway-key on {}, for a new one", record.gateway))),
        None => Ok(()),
    }
}
