//! What a gateway shows an engine. The engine's side cannot be done from here: its operator's rights are not ours.

use clawstead_bus::{BusError, MailBox};
use clawstead_cluster::keys::{Rotation, rotation_plan};
use clawstead_config::{BusKind, CoordKind, Edit, FarmConfig, MapWrite};
use clawstead_farm::engines;
use serde_json::json;

use super::Args;
use crate::{
    commands::{
        Outcome, config,
        farm::{
            init::farm_of,
            site::{Consent, Site},
        },
    },
    cx::Cx,
    fail::Fail,
    print,
};

pub fn run(args: &Args, cx: &Cx, engine: &str) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let farm = loaded.config.farm.as_ref().ok_or_else(super::super::site::no_farm)?;
    let places = places(farm, engine)?;
    let gateway = farm.gateway.clone().unwrap_or_default();
    let steps = rotation_plan(&Rotation::Credentials { engine: engine.into(), gateway: gateway.clone() }, &[])?;
    if args.dry_run {
        return super::dry(args, &steps);
    }
    let manual = manual(engine, &gateway, farm);
    let paths: Vec<String> = places.iter().map(|path| path.join(".")).collect();
    let mut written = false;
    if let Some(id) = &args.ref_id {
        let value = json!({"source": args.ref_source, "provider": args.ref_provider, "id": id});
        let mut edits: Vec<Edit> = places.iter().map(|path| Edit::Set { path: path.clone(), value: value.clone(), mode: MapWrite::Merge }).collect();
        if let Some(user) = &args.new_user {
            if !matches!(engine, "redis" | "nats") {
                return Err(Fail::new(format!("{engine} knows tokens, no users.")).hint("leave --new-user out"));
            }
            let path = ["farm", "bus", "user"].map(str::to_owned).to_vec();
            edits.push(Edit::Set { path, value: json!(user), mode: MapWrite::Merge });
        }
        let planned = config::apply(cx, &snapshot, &edits, true)?;
        let after = farm_of(&planned.snapshot)?;
        cx.block_on(tried(cx, &after, engine))?;
        Consent::from_flag(args.yes).to(&format!("The new credential works. Write it to {}?", paths.join(" and ")))?;
        config::apply(cx, &snapshot, &edits, false)?;
        written = true;
    }
    if args.json {
        print::json(&json!({"ok": true, "what": engine, "written": written, "paths": paths, "steps": super::steps_json(&steps), "manual": manual}));
        return Ok(0);
    }
    for (step, how) in steps.iter().zip(&manual) {
        print::line(&step.to_string());
        print::line(&format!("   {how}"));
    }
    if written {
        print::line(&format!("Step 2 is written here ({}); the gateway takes it with: openclaw gateway restart", paths.join(", ")));
    } else {
        print::line("Nothing was changed. Steps 1 and 3 are yours; step 2 is done here with --ref-source and --ref-id.");
    }
    Ok(0)
}

/// Where the config keeps what this engine is shown.
fn places(farm: &FarmConfig, engine: &str) -> Result<Vec<Vec<String>>, Fail> {
    let path = |keys: [&str; 2]| vec!["farm".to_owned(), keys[0].to_owned(), keys[1].to_owned()];
    let (coord, bus) = (farm.coord.kind, farm.bus.kind);
    let found = match engine {
        "consul" => {
            let mut found = Vec::new();
            if coord == CoordKind::Consul {
                found.push(path(["coord", "token"]));
            }
            // A bus on the same Consul takes the token of farm.coord by itself.
            if bus == BusKind::Consul && (coord != CoordKind::Consul || farm.bus.addrs != farm.coord.addrs) {
                found.push(path(["bus", "token"]));
            }
            found
        }
        "redis" if bus == BusKind::Redis => vec![path(["bus", "password"])],
        "nats" if bus == BusKind::Nats => vec![path(["bus", if farm.bus.password.is_some() { "password" } else { "token" }])],
        _ => Vec::new(),
    };
    if found.is_empty() {
        return Err(Fail::new(format!("This gateway uses no {engine}: farm.coord and farm.bus name other engines.")).hint("openclaw config get farm"));
    }
    Ok(found)
}

/// What each step of the plan is, with this engine's own tools.
fn manual(engine: &str, gateway: &str, farm: &FarmConfig) -> [String; 3] {
    let key = match engine {
        "consul" => "farm.coord.token",
        "redis" => "farm.bus.password",
        _ => "farm.bus",
    };
    let config = format!("by hand on other nodes, here with: openclaw farm rotate {engine} --ref-source env --ref-id <NAME> (writes {key})");
    match engine {
        "consul" => [
            format!("by hand: consul acl token create -description \"{gateway} (new)\" -policy-name <policy of {gateway}>"),
            config,
            "by hand: consul acl token delete -id <accessor of the old token>".into(),
        ],
        "redis" => {
            let user = farm.bus.user.as_deref().unwrap_or("default");
            [
                format!("by hand: redis-cli ACL SETUSER {user} '><new password>' (a user of Redis has several passwords at once), then ACL SAVE"),
                config,
                format!("by hand: redis-cli ACL SETUSER {user} '<<old password>', then ACL SAVE"),
            ]
        }
        _ => [
            "by hand: add a second user for this gateway with the same permissions to the servers' authorization block, then nats-server --signal reload on each".into(),
            if farm.bus.user.is_some() { config.replace(" (writes", " --new-user <second user> (writes") } else { config },
            "by hand: take the old user out of the authorization block, then nats-server --signal reload on each".into(),
        ],
    }
}

/// Asks the engine something small with the new credential.
async fn tried(cx: &Cx, farm: &FarmConfig, engine: &str) -> Result<(), Fail> {
    let site = Site::open(cx, farm)?;
    let refused =
        |why: String| Fail::new(format!("The new credential does not work, so nothing was written: {why}.")).hint("check it with the engine's own tools");
    if engine == "consul" && farm.coord.kind == CoordKind::Consul {
        return site.coord.get("openclaw/cluster/id").await.map(|_| ()).map_err(|err| refused(err.to_string()));
    }
    let Some(bus) = engines::open(farm, &site.id, &site.gateway, &site.world)?.bus else { return Ok(()) };
    match bus.depth(&MailBox::Gateway(site.gateway.clone())).await {
        Ok(_) => Ok(()),
        Err(err @ (BusError::Unavailable { .. } | BusError::Denied { .. })) => Err(refused(err.to_string())),
        // It answered: the credential was taken.
        Err(_) => Ok(()),
    }
}
