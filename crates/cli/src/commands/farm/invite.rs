//! `farm invite`: the secret of an invitation lives in this process and in the text that is carried over by hand, never
//! in the store; what comes back is a token over the name of the new key. So a reader or writer of the store can
//! neither use an invitation nor put another key under it.

use std::{path::PathBuf, time::Duration};

use clawstead_bus::Change;
use clawstead_cluster::{
    keys::{FarmRoot, JOIN_TOKEN_TTL_MS, KeyRecord},
    names::is_gateway,
};
use clawstead_farm::enrol::{EnrolError, REQUESTS, Request, accept_invitation, approve, records_of};
use futures_util::StreamExt as _;
use serde_json::json;

use super::{
    enroll::new_secret,
    facts::{Facts, vouched},
    requests::refuse_known,
    site::{DAYS, Site, stopped, validity, when},
};
use crate::{commands::Outcome, cx::Cx, fail::Fail, print};

/// Invite a gateway, wait until it asks, and let it in.
#[derive(clap::Args)]
#[command(
    after_help = "Type what it prints on the new gateway's node within ten minutes. The invitation is good once, for this gateway, and\nonly while this command runs; Ctrl-C takes it back. With --json: a line with the invitation, a line with the key."
)]
pub struct Args {
    /// Gateway, for example bobby-gateway
    gateway: String,
    /// The farm's root key [default: farm-root.pem in the state folder]
    #[arg(long, value_name = "FILE")]
    root_file: Option<PathBuf>,
    /// Days the key may sign
    #[arg(long, default_value_t = DAYS, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    if !is_gateway(&args.gateway) {
        return Err(Fail::new(format!("{:?} is not a gateway's name: 2 to 40 of a-z, 0-9 and -, the ends a letter or digit.", args.gateway)));
    }
    let life = Duration::from_millis(JOIN_TOKEN_TTL_MS.cast_unsigned());
    let done = cx.block_on(async {
        let site = Site::of(cx)?;
        if args.gateway == site.gateway {
            return Err(Fail::new(format!("{} is this gateway.", args.gateway)).hint("openclaw farm enroll"));
        }
        let root = site.root(cx, args.root_file.as_ref())?;
        // Asked before anything is shown: an invitation that cannot be answered is none.
        site.coord.list(&format!("{REQUESTS}{}", args.gateway)).await?;
        let secret = new_secret();
        show(args, &site, &secret);
        tokio::select! {
            biased;
            record = wait(args, &site, &root, &secret) => record,
            () = tokio::time::sleep(life) => Err(Fail::new(format!("{} did not ask within ten minutes; the invitation is over.", args.gateway)).hint(format!("openclaw farm invite {}", args.gateway))),
        }
    });
    if stopped(&done) && !args.json {
        print::line("The invitation is taken back; nothing was approved.");
    }
    let record = done?;
    if args.json {
        print::json_line(&json!({"ok": true, "approved": true, "record": record}));
    } else {
        print::line(&format!("Approved: {} is one of the farm, its key ends {}.", record.kid, when(record.not_after)));
    }
    Ok(0)
}

fn show(args: &Args, site: &Site, secret: &[u8; 32]) {
    let invitation = Facts { secret: Some(hex::encode(secret)), ..Facts::of(&site.farm, &site.id, &args.gateway) }.text();
    let command = format!("openclaw farm join {invitation}");
    if args.json {
        print::json_line(&json!({"gateway": args.gateway, "invitation": invitation, "command": command, "validMs": JOIN_TOKEN_TTL_MS}));
        return;
    }
    print::line(&format!("Type this on the node of {} within ten minutes (it is a secret until then):", args.gateway));
    print::line("");
    print::line(&format!("  {command}"));
    print::line("");
    if site.farm.coord.token.is_some() {
        print::line("Consul wants a token: add --coord-token '${CONSUL_HTTP_TOKEN}' there, with the variable set for its gateway.");
    }
    if site.farm.coord.kind == clawstead_config::CoordKind::Postgres {
        print::line("The connection to PostgreSQL is not in it: add --coord-addr '${FARM_DATABASE_URL}' there.");
    }
    print::line(&format!("Waiting for {} … (Ctrl-C takes the invitation back)", args.gateway));
}

async fn wait(args: &Args, site: &Site, root: &FarmRoot, secret: &[u8; 32]) -> Result<KeyRecord, Fail> {
    let key = format!("{REQUESTS}{}", args.gateway);
    let mut changes = site.coord.watch(REQUESTS);
    while let Some(change) = changes.next().await {
        let value = match change {
            Change::Snapshot(all) => all.get(&key).map(|entry| entry.value.clone()),
            Change::Put(entry) if entry.key == key => Some(entry.value),
            Change::Put(_) | Change::Delete(_) => None,
            Change::Lost(why) => {
                note(args, &format!("The store does not answer ({why}); still waiting."));
                None
            }
        };
        let Some(value) = value else { continue };
        match serde_json::from_slice::<Request>(&value) {
            Ok(request) if request.gateway == args.gateway => {
                if let Some(record) = judge(args, site, root, secret, &request).await? {
                    return Ok(record);
                }
            }
            _ => note(args, "Something that is no request lies in its place; still waiting."),
        }
    }
    Err(Fail::new("The store's watch ended.").hint(format!("openclaw farm invite {}", args.gateway)))
}

/// The record when the request shows this invitation; none when it does not.
async fn judge(args: &Args, site: &Site, root: &FarmRoot, secret: &[u8; 32], request: &Request) -> Result<Option<KeyRecord>, Fail> {
    match accept_invitation(&*site.coord, secret, &vouched(&site.id, &request.kid), request, site.world.clock.now()).await {
        Ok(_) => {}
        Err(EnrolError::Invitation { why, .. }) => {
            let by = if request.invitation.is_some() { format!("another invitation ({why})") } else { "no invitation".into() };
            note(args, &format!("{} asks with the key {} and {by}; not approved, still waiting.", request.gateway, request.kid));
            return Ok(None);
        }
        Err(other) => return Err(other.into()),
    }
    refuse_known(&records_of(&*site.coord, &args.gateway).await?, &request.kid)?;
    let (from, until) = validity(site.world.clock.now(), args.days);
    Ok(Some(approve(&*site.coord, &site.id, root, request, from, until).await?))
}

fn note(args: &Args, text: &str) {
    if args.json { anstream::eprintln!("{text}") } else { print::line(text) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use clawstead_bus::memory::Memory;
    use clawstead_cluster::keys::{GatewayKey, issue_join_token, write_public};
    use clawstead_farm::enrol::{accept_invitation, ask};
    use clawstead_terms::Millis;
    use clawstead_world::SeededRng;

    use super::vouched;

    #[tokio::test]
    async fn what_lies_in_the_store_vouches_for_no_other_key() {
        let (coord, rng, secret, now) = (Memory::new().coord("test"), SeededRng::new(1), [9; 32], Millis(1_000_000));
        let [bobby, eve] = [(); 2].map(|()| GatewayKey::generate("bobby-gateway", &rng).unwrap());
        let token = issue_join_token(&secret, &vouched("octant", bobby.kid()), "bobby-gateway", now, &rng);
        let request = ask(&*coord, "octant", &bobby, now, Some(token)).await.unwrap();
        // Eve reads the request and puts her own key under the same token.
        let mut forged = request.clone();
        (forged.kid, forged.public) = (eve.kid().to_owned(), write_public(&eve.public()));
        let judged = accept_invitation(&*coord, &secret, &vouched("octant", &forged.kid), &forged, now).await;
        assert!(judged.unwrap_err().to_string().contains("not a join token"));
        // That did not use it up.
        assert!(accept_invitation(&*coord, &secret, &vouched("octant", &request.kid), &request, now).await.is_ok());
        assert!(accept_invitation(&*coord, &secret, &vouched("octant", &request.kid), &request, now).await.is_err(), "good once");
    }
}
