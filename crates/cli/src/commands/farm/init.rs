use std::{io::IsTerminal as _, path::PathBuf};

use clawstead_cluster::keys::{FarmRoot, KeyStatus};
use clawstead_config::{BusKind, CONSUL_ADDR, CoordKind, FarmConfig, Snapshot, Strictness};
use clawstead_farm::{
    enrol::{all_records, approve, ask, records_of},
    key_files::{load_root, make_root},
};
use clawstead_world::SystemRng;
use serde_json::{Value, json};

use super::{
    facts::{self, Facts, Flags},
    site::{Consent, DAYS, Site, root_file, validity},
};
use crate::{
    commands::{Outcome, config},
    cx::Cx,
    fail::Fail,
    print,
};

/// Make a farm, with this gateway as its first.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw farm init --id octant --coord-addr http://10.0.0.1:8500 --agent bobby --agent billy\n  openclaw farm init --id octant --bus nats --bus-addr nats://10.0.0.1:4222 --peer-listen 10.0.0.5:18790\n\nMakes the farm's root key, writes the farm section of the config (comments stay, and so does what a section without a\nfarm says already) with a starter policy, makes this gateway's key and approves it. The gateway takes it at its next\nstart. With --root-only nothing but the root key is made, on a machine that is no gateway."
)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    /// An agent that will live on another gateway: it comes into the starter policy
    #[arg(long, value_name = "ID")]
    agent: Vec<String>,
    /// Where the farm's root key is written [default: farm-root.pem in the state folder]
    #[arg(long, value_name = "FILE")]
    root_file: Option<PathBuf>,
    /// Make the farm's root key and nothing else; the config is not read
    #[arg(long, conflicts_with = "agent")]
    root_only: bool,
    /// Ask nothing
    #[arg(long)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    if args.root_only {
        return root_only(args, cx);
    }
    let (snapshot, loaded) = cx.loaded()?;
    let here = loaded.config.farm.as_ref();
    if let Some(farm) = here.filter(|farm| farm.has_others() && !farm.roots.is_empty()) {
        let what = farm.id.as_deref().map_or_else(|| "a farm".to_owned(), |id| format!("the farm {id}"));
        return Err(Fail::new(format!("The config has a farm already ({what}); it is not replaced.")).hint(
            "openclaw farm status; to begin anew: openclaw config unset farm, and where Consul keeps the old farm: consul kv delete -recurse openclaw/",
        ));
    }
    let path = root_file(cx, args.root_file.as_ref());
    let (farm_facts, policy) = (first_facts(args, here)?, facts::starter(&loaded.config, &args.agent));
    // Everything that can be wrong with the config is found before a key is made; the root's text comes in later.
    let trial = Facts { roots: vec![FarmRoot::generate(&SystemRng).pin().text()], ..farm_facts.clone() };
    let planned = config::apply(cx, &snapshot, &facts::edits(&snapshot, &trial, &args.flags, &policy)?, true)?;
    let there = cx.block_on(existing(cx, &planned.snapshot))?;
    if let Existing::Farm(gateways) = &there {
        return Err(Fail::new(format!("A farm keeps its keys in this store already, with {}: there is one farm for each store.", gateways.join(", ")))
            .hint("openclaw farm join <invitation>, with openclaw farm invite typed on one of these"));
    }
    if !args.json && std::io::stdin().is_terminal() {
        print::line(&format!("Farm {}, gateway {}; keys in {}, letters over {}.", farm_facts.farm, farm_facts.gateway, farm_facts.coord, farm_facts.bus));
        print::line(&format!("Root key: {}", cx.paths.display(&path)));
        Consent::from_flag(args.yes).to("Make this farm?")?;
    }
    let (root, made) = if path.exists() { (load_root(&path)?, false) } else { (make_root(&path, &SystemRng)?, true) };
    let farm_facts = Facts { roots: vec![root.pin().text()], ..farm_facts };
    config::apply(cx, &snapshot, &facts::edits(&snapshot, &farm_facts, &args.flags, &policy)?, false)?;
    let key = cx.block_on(async { first_key(cx, &root).await })?;
    tell(args, cx, &farm_facts, &root, &path, made, &key);
    Ok(0)
}

/// The root key alone: for a machine that is kept in a drawer, before there is a gateway.
fn root_only(args: &Args, cx: &Cx) -> Outcome {
    let path = root_file(cx, args.root_file.as_ref());
    let (root, made) = if path.exists() { (load_root(&path)?, false) } else { (make_root(&path, &SystemRng)?, true) };
    let pin = root.pin();
    let next = [
        format!("on each gateway: openclaw config set farm.roots '[\"{}\"]'; then openclaw farm enroll", pin.text()),
        format!("here, with a config that names the farm and its store: openclaw farm approve <gateway> --root-file {}", cx.paths.display(&path)),
    ];
    if args.json {
        print::json(&json!({"ok": true, "root": {"pin": pin.text(), "kid": pin.kid(), "file": path, "made": made}, "next": next}));
        return Ok(0);
    }
    print::line(&format!("Root    {} ({}{})", pin.text(), if made { "" } else { "was there already: " }, cx.paths.display(&path)));
    print::line("Next:");
    for (number, step) in (1..).zip(&next) {
        print::line(&format!("  {number}. {step}"));
    }
    Ok(0)
}

/// What flags say, else what a section that is no farm yet says, else the defaults.
fn first_facts(args: &Args, here: Option<&FarmConfig>) -> Result<Facts, Fail> {
    let flags = &args.flags;
    let known = here.map(|farm| Facts::of(farm, farm.id.as_deref().unwrap_or_default(), farm.gateway.as_deref().unwrap_or_default()));
    let shares = |kind: bool| known.as_ref().filter(|_| kind);
    let coord_known = shares(here.is_some_and(|farm| farm.coord.kind != CoordKind::Embedded));
    let bus_known = shares(here.is_some_and(|farm| farm.bus.kind != BusKind::Embedded));
    let coord = flags.coord.clone().or_else(|| coord_known.map(|facts| facts.coord.clone())).unwrap_or_else(|| "consul".into());
    let bus = flags.bus.clone().or_else(|| bus_known.map(|facts| facts.bus.clone()));
    let bus = bus.unwrap_or_else(|| if coord == "consul" { "consul".into() } else { "peer".into() });
    let listens = flags.peer_listen.is_some() || here.is_some_and(|farm| farm.peer.as_ref().is_some_and(|peer| peer.listen.is_some()));
    if bus == "peer" && !listens {
        return Err(Fail::new("Letters over the peer link need a place where other gateways can call.")
            .hint("--peer-listen <address:port>, or --bus consul|redis|nats"));
    }
    let coord_addr = match (coord.as_str(), &flags.coord_addr) {
        ("consul", Some(addr)) => vec![addr.clone()],
        ("consul", None) => coord_known.filter(|facts| facts.coord == "consul").map_or_else(|| vec![CONSUL_ADDR.to_owned()], |facts| facts.coord_addr.clone()),
        _ => Vec::new(),
    };
    let named = |flag: &Option<String>, config: Option<String>| flag.clone().or(config);
    let bus_addr = match &flags.bus_addr {
        Some(addr) => vec![addr.clone()],
        None => bus_known.filter(|facts| facts.bus == bus).map(|facts| facts.bus_addr.clone()).unwrap_or_default(),
    };
    Ok(Facts {
        farm: named(&flags.id, here.and_then(|farm| farm.id.clone())).unwrap_or_else(|| "farm".into()),
        gateway: named(&flags.gateway, here.and_then(|farm| farm.gateway.clone())).unwrap_or_else(|| facts::gateway_name(&facts::host())),
        coord,
        coord_addr,
        bus,
        bus_addr,
        roots: Vec::new(),
        secret: None,
    })
}

/// What the store holds before we write.
enum Existing {
    /// Nothing.
    Empty,
    /// It does not answer; why.
    Silent,
    /// Keys of these gateways.
    Farm(Vec<String>),
}

async fn existing(cx: &Cx, planned: &Snapshot) -> Result<Existing, Fail> {
    let site = Site::open(cx, &farm_of(planned)?)?;
    Ok(match all_records(&*site.coord).await {
        Ok(records) => {
            let mut names: Vec<String> = records.into_iter().filter(|record| record.status != KeyStatus::Revoked).map(|record| record.gateway).collect();
            names.dedup();
            if names.is_empty() { Existing::Empty } else { Existing::Farm(names) }
        }
        Err(_) => Existing::Silent,
    })
}

/// The farm section of a config that is not written yet.
pub fn farm_of(planned: &Snapshot) -> Result<FarmConfig, Fail> {
    let options = clawstead_config::SecretOptions { exec: clawstead_config::ExecRefs::Run, store: None };
    let loaded = planned.load(Strictness::Tolerant, options).map_err(|invalid| crate::cx::invalid_config(&invalid))?;
    loaded.config.farm.clone().ok_or_else(super::site::no_farm)
}

/// This gateway's first key, approved where the store answers: its name, and why it is not approved.
async fn first_key(cx: &Cx, root: &FarmRoot) -> Result<(String, Option<Fail>), Fail> {
    let site = Site::of(cx)?;
    let key = site.keys.load_or_make(&site.gateway, &*site.world.rng)?;
    let now = site.world.clock.now();
    let (from, until) = validity(now, DAYS);
    let done = async {
        let known = records_of(&*site.coord, &site.gateway).await?;
        if known.iter().any(|record| record.kid == key.kid() && record.status == KeyStatus::Revoked) {
            return Err(Fail::new(format!("{} was revoked.", key.kid())).hint("openclaw farm enroll, which makes a new key"));
        }
        let request = ask(&*site.coord, &site.id, &key, now, None).await?;
        approve(&*site.coord, &site.id, root, &request, from, until).await?;
        Ok(())
    };
    Ok((key.kid().to_owned(), done.await.err()))
}

fn tell(args: &Args, cx: &Cx, facts: &Facts, root: &FarmRoot, path: &std::path::Path, made: bool, (kid, failed): &(String, Option<Fail>)) {
    let shown = cx.paths.display(path);
    let mut next = vec![format!("move the root key to a safe place that is no gateway: mv {shown} <usb stick, password manager>")];
    if failed.is_some() {
        next.insert(0, format!("when the coordination store answers: openclaw farm enroll, then openclaw farm approve {}", facts.gateway));
    }
    next.push("start the gateway anew: openclaw gateway restart".into());
    next.push("for each further gateway: openclaw farm invite <name>, and type on its node what that prints".into());
    if args.json {
        let mut out = json!({
            "ok": true, "farm": facts.farm, "gateway": facts.gateway, "kid": kid, "approved": failed.is_none(),
            "root": {"pin": root.pin().text(), "kid": root.pin().kid(), "file": path, "made": made}, "next": next,
        });
        if let Some(fail) = failed {
            out["why"] = Value::from(fail.message.as_str());
        }
        print::json(&out);
        return;
    }
    print::headline(&format!("The farm {} is made; {} is its first gateway.", facts.farm, facts.gateway));
    print::line(&format!("Root    {} ({}{shown})", root.pin().text(), if made { "" } else { "was there already: " }));
    match failed {
        None => print::line(&format!("Key     {kid}, approved for {DAYS} days")),
        Some(fail) => print::line(&format!("Key     {kid}, not approved yet: {}", fail.message)),
    }
    print::line("Policy  farm.policy lets the farm's own agents write to each other, nothing else: openclaw farm policy show");
    print::line("Next:");
    for (number, step) in (1..).zip(&next) {
        print::line(&format!("  {number}. {step}"));
    }
}
