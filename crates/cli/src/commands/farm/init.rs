use std::{io::IsTerminal as _, path::PathBuf};

use clawstead_cluster::keys::{FarmRoot, KeyStatus};
use clawstead_config::{CONSUL_ADDR, FarmConfig, Snapshot, Strictness};
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
    after_help = "Examples:\n  openclaw farm init --id octant --coord-addr http://10.0.0.1:8500 --agent bobby --agent billy\n  openclaw farm init --id octant --bus nats --bus-addr nats://10.0.0.1:4222 --peer-listen 10.0.0.5:18790\n\nMakes the farm's root key, writes the farm section of the config (comments stay) with a starter policy, makes this\ngateway's key and approves it. The gateway takes it at its next start."
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
    /// Ask nothing
    #[arg(long)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    if let Some(farm) = &loaded.config.farm {
        let what = farm.id.as_deref().map_or_else(|| "a farm".to_owned(), |id| format!("the farm {id}"));
        return Err(Fail::new(format!("The config has a farm section already ({what}); it is not replaced."))
            .hint("openclaw farm status; to begin anew, openclaw config unset farm first"));
    }
    let path = root_file(cx, args.root_file.as_ref());
    let (farm_facts, policy) = (first_facts(args)?, facts::starter(&loaded.config, &args.agent));
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

fn first_facts(args: &Args) -> Result<Facts, Fail> {
    let flags = &args.flags;
    let coord = flags.coord.clone().unwrap_or_else(|| "consul".into());
    let bus = flags.bus.clone().unwrap_or_else(|| if coord == "consul" { "consul".into() } else { "peer".into() });
    if bus == "peer" && flags.peer_listen.is_none() {
        return Err(Fail::new("Letters over the peer link need a place where other gateways can call.")
            .hint("--peer-listen <address:port>, or --bus consul|redis|nats"));
    }
    let coord_addr = match (coord.as_str(), &flags.coord_addr) {
        ("consul", addr) => vec![addr.clone().unwrap_or_else(|| CONSUL_ADDR.to_owned())],
        _ => Vec::new(),
    };
    Ok(Facts {
        farm: flags.id.clone().unwrap_or_else(|| "farm".into()),
        gateway: flags.gateway.clone().unwrap_or_else(|| facts::gateway_name(&facts::host())),
        coord,
        coord_addr,
        bus,
        bus_addr: flags.bus_addr.iter().cloned().collect(),
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
