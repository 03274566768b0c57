use std::time::Duration;

use clawstead_cluster::{
    keys::{GatewayKey, KeyRecord, KeyStatus, issue_join_token},
    names::is_farm,
};
use clawstead_config::FarmConfig;
use clawstead_farm::enrol::{ask, records_of};
use clawstead_world::Rng as _;
use serde_json::json;

use super::{
    facts::{self, Facts, Flags, vouched},
    init::farm_of,
    site::{Site, fresh_now, pin, when},
};
use crate::{
    commands::{Outcome, config},
    cx::Cx,
    fail::Fail,
    print,
};

/// An approval is waited for at most so long: the life of an invitation.
const WAIT: Duration = Duration::from_mins(10);
/// The store is asked so often while we wait.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Make this gateway one of a farm that invited it.
#[derive(clap::Args)]
#[command(
    after_help = "The invitation comes from `openclaw farm invite <gateway>`, typed on a gateway of the farm. It holds no credentials of\nengines: where Consul wants a token, add --coord-token '${CONSUL_HTTP_TOKEN}'."
)]
pub struct JoinArgs {
    /// What `openclaw farm invite` printed
    invitation: String,
    #[command(flatten)]
    rest: Rest,
}

/// Ask to be one of a farm.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw farm enroll                    The config names the farm; prints what the operator compares\n  openclaw farm enroll --id octant --gateway bobby-gateway --coord-addr http://10.0.0.1:8500 --root <root> --wait\n\nThen, where the farm's root is: openclaw farm approve <gateway>."
)]
pub struct EnrollArgs {
    /// An invitation, as for `farm join`
    #[arg(long, value_name = "TEXT")]
    invitation: Option<String>,
    /// Root of the farm, as `farm init` printed it; two while it changes
    // A key as base64url may begin with a dash.
    #[arg(long, value_name = "ROOT", allow_hyphen_values = true)]
    root: Vec<String>,
    /// Wait until the operator approves
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    rest: Rest,
}

#[derive(clap::Args)]
struct Rest {
    #[command(flatten)]
    flags: Flags,
    /// An agent on another gateway of the farm: it comes into the starter policy
    #[arg(long, value_name = "ID")]
    agent: Vec<String>,
    /// Accepted for scripts (nothing is asked)
    #[arg(long)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `farm join`.
pub fn join(args: &JoinArgs, cx: &Cx) -> Outcome {
    enroll(cx, &args.rest, Some(Facts::parse(&args.invitation)?), Patience::Wait)
}

/// `farm enroll`.
pub fn run(args: &EnrollArgs, cx: &Cx) -> Outcome {
    let invited = args.invitation.as_deref().map(Facts::parse).transpose()?;
    let mut known = match invited {
        Some(facts) => Some(facts),
        None => by_flags(cx, args)?,
    };
    for root in &args.root {
        pin(root)?;
    }
    if let (Some(known), false) = (&mut known, args.root.is_empty()) {
        known.roots.clone_from(&args.root);
    }
    let patience = if args.wait || args.invitation.is_some() { Patience::Wait } else { Patience::No };
    enroll(cx, &args.rest, known, patience)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Wait,
    No,
}

/// What flags and config say of the farm together; none when the config says it all.
fn by_flags(cx: &Cx, args: &EnrollArgs) -> Result<Option<Facts>, Fail> {
    let flags = &args.rest.flags;
    let (_, loaded) = cx.loaded()?;
    let here = loaded.config.farm.as_ref();
    let known = |farm: &FarmConfig| farm.id.is_some() && farm.gateway.is_some() && !farm.roots.is_empty() && farm.has_others();
    if here.is_some_and(known) && flags.id.is_none() && flags.gateway.is_none() && args.root.is_empty() {
        return Ok(None);
    }
    let id = flags.id.clone().or_else(|| here.and_then(|farm| farm.id.clone()));
    let id = id
        .ok_or_else(|| super::site::no_farm().hint("openclaw farm join <invitation>, or --id, --coord-addr and --root as `openclaw farm init` printed them"))?;
    let roots = if args.root.is_empty() { here.map(|farm| farm.roots.clone()).unwrap_or_default() } else { args.root.clone() };
    if roots.is_empty() {
        return Err(Fail::new("Which root does the farm have? Without it no key of another gateway can be believed.")
            .hint("--root <root>, as `openclaw farm init` printed it"));
    }
    let gateway = flags.gateway.clone().or_else(|| here.and_then(|farm| farm.gateway.clone())).unwrap_or_else(|| facts::gateway_name(&facts::host()));
    let mut facts = match here.filter(|farm| farm.has_others()) {
        Some(farm) => Facts::of(farm, &id, &gateway),
        None => Facts { farm: id, gateway, coord: "consul".into(), bus: String::new(), ..Facts::default() },
    };
    if let Some(coord) = &flags.coord {
        facts.coord.clone_from(coord);
    }
    if let (Some(addr), "consul") = (&flags.coord_addr, facts.coord.as_str()) {
        facts.coord_addr = vec![addr.clone()];
    }
    match &flags.bus {
        Some(bus) => facts.bus.clone_from(bus),
        None if facts.bus.is_empty() => facts.bus = if facts.coord == "consul" { "consul".into() } else { "peer".into() },
        None => {}
    }
    if let Some(addr) = &flags.bus_addr {
        facts.bus_addr = vec![addr.clone()];
    }
    facts.roots = roots;
    Ok(Some(facts))
}

fn enroll(cx: &Cx, rest: &Rest, known: Option<Facts>, patience: Patience) -> Outcome {
    if let Some(facts) = &known {
        write_config(cx, rest, facts)?;
    }
    let secret = known.as_ref().map(Facts::secret).transpose()?.flatten();
    cx.block_on(async {
        let site = Site::of(cx)?;
        if !is_farm(&site.id) {
            return Err(Fail::new(format!("farm.id {:?} is not a farm's name.", site.id)));
        }
        site.pins()?;
        let records = records_of(&*site.coord, &site.gateway).await?;
        let key = own_key(&site, &records)?;
        if let Some(record) = records.iter().find(|record| record.kid == key.kid()) {
            return joined(rest, &site, &key, record, "Nothing to do: this key is approved already");
        }
        let now = site.world.clock.now();
        let token = secret.map(|secret| issue_join_token(&secret, &vouched(&site.id, key.kid()), &site.gateway, now, &*site.world.rng));
        ask(&*site.coord, &site.id, &key, now, token).await?;
        if patience == Patience::No {
            return asked(rest, &site, &key);
        }
        if !rest.json {
            print::line(&format!(
                "{} asks to join {} with the key {}; waiting for the approval (Ctrl-C stops waiting only).",
                site.gateway,
                site.id,
                key.kid()
            ));
        }
        match tokio::time::timeout(WAIT, approved(&site, &key)).await {
            Ok(record) => joined(rest, &site, &key, &record?, "Approved"),
            Err(_) => Err(Fail::new(format!("{} was not approved within ten minutes. The request stays.", key.kid()))
                .hint(format!("openclaw farm approve {}, where the farm's root is; or a new invitation", site.gateway))),
        }
    })
}

fn write_config(cx: &Cx, rest: &Rest, facts: &Facts) -> Result<(), Fail> {
    let (snapshot, loaded) = cx.loaded()?;
    let mut facts = facts.clone();
    let flags = &rest.flags;
    for (flag, fact, name) in [(&flags.id, &facts.farm, "farm"), (&flags.gateway, &facts.gateway, "gateway")] {
        if let Some(flag) = flag.as_ref().filter(|flag| *flag != fact) {
            return Err(
                Fail::new(format!("The invitation is for the {name} {fact}, and not for {flag}.")).hint("openclaw farm invite <gateway>, with the right name")
            );
        }
    }
    if let (Some(addr), "consul") = (&flags.coord_addr, facts.coord.as_str()) {
        facts.coord_addr = vec![addr.clone()];
    }
    if let Some(addr) = &flags.bus_addr {
        facts.bus_addr = vec![addr.clone()];
    }
    let edits = facts::edits(&snapshot, &facts, flags, &facts::starter(&loaded.config, &rest.agent))?;
    if !edits.is_empty() {
        let planned = config::apply(cx, &snapshot, &edits, true)?;
        // Wrong engines are found before the file changes.
        cx.block_on(async { Site::open(cx, &farm_of(&planned.snapshot)?).map(|_| ()) })?;
        config::apply(cx, &snapshot, &edits, false)?;
    }
    Ok(())
}

/// The key to ask with: the one that is there, or a new one when the farm took that back.
fn own_key(site: &Site, records: &[KeyRecord]) -> Result<GatewayKey, Fail> {
    let key = site.keys.load_or_make(&site.gateway, &*site.world.rng)?;
    let over = |record: &KeyRecord| {
        record.kid == key.kid() && (matches!(record.status, KeyStatus::Revoked | KeyStatus::Retiring) || record.not_after < site.world.clock.now())
    };
    if !records.iter().any(over) {
        return Ok(key);
    }
    site.keys.next_or_make(&site.gateway, &*site.world.rng)?;
    Ok(site.keys.promote(&site.gateway)?)
}

async fn approved(site: &Site, key: &GatewayKey) -> Result<KeyRecord, Fail> {
    loop {
        match records_of(&*site.coord, &site.gateway).await {
            Ok(records) => {
                if let Some(record) = records.into_iter().find(|record| record.kid == key.kid()) {
                    return Ok(record);
                }
            }
            // A server that is away for a moment is no reason to give up.
            Err(err) => tracing::debug!(%err, "the store does not answer"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn asked(rest: &Rest, site: &Site, key: &GatewayKey) -> Outcome {
    if rest.json {
        print::json(&json!({"ok": true, "farm": site.id, "gateway": site.gateway, "kid": key.kid(), "approved": false}));
        return Ok(0);
    }
    print::line(&format!("{} asks to join {}.", site.gateway, site.id));
    print::line(&format!("Key  {}", key.kid()));
    print::line(&format!("Next: where the farm's root is, openclaw farm approve {}; it must show the same key.", site.gateway));
    Ok(0)
}

fn joined(rest: &Rest, site: &Site, key: &GatewayKey, record: &KeyRecord, word: &str) -> Outcome {
    let (ring, skipped) = site.ring(std::slice::from_ref(record))?;
    if let Some(skipped) = skipped.first() {
        return Err(Fail::new(format!("The record of {} is not believed: {}.", skipped.kid, skipped.why))
            .hint("compare farm.roots with the root that `openclaw farm init` printed"));
    }
    ring.key(key.kid(), &site.gateway, fresh_now())
        .map_err(|why| Fail::new(format!("The key of this gateway cannot be used: {why}.")).hint("openclaw farm keys"))?;
    if rest.json {
        print::json(
            &json!({"ok": true, "farm": site.id, "gateway": site.gateway, "kid": key.kid(), "approved": true, "status": record.status, "until": record.not_after}),
        );
        return Ok(0);
    }
    print::line(&format!("{word}: {} ({:?}, ends {}).", key.kid(), record.status, when(record.not_after)));
    print::line("Next: openclaw gateway restart, then openclaw farm status");
    Ok(0)
}

/// 32 bytes that nobody can guess.
#[must_use]
pub fn new_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    clawstead_world::SystemRng.fill(&mut secret);
    secret
}
