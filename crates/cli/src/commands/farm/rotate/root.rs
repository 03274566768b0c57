//! A new root: pinned beside the old one, then every record is signed again, then the old one is taken out.
//!
//! Only records that a pinned root signed are signed again. Whoever can write to the store must not get a key in by
//! having it lie there when the root changes.

use std::path::Path;

use clawstead_bus::CasError;
use clawstead_cluster::keys::{FarmRoot, KeyRecord, KeyRing, KeyStatus, RootPin, Rotation, read_public};
use clawstead_config::{Edit, MapWrite};
use clawstead_farm::{
    enrol::{APPROVED, KEYS, all_records},
    key_files::{load_root, make_root},
};
use serde_json::json;

use super::{
    Args,
    progress::{Carried, Kept, Progress, show, told},
};
use crate::{
    commands::{
        Outcome, config,
        farm::site::{Consent, Site, pin, root_file},
    },
    cx::Cx,
    fail::Fail,
    print,
};

pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let new_file = match &args.new_root_file {
        Some(_) => root_file(cx, args.new_root_file.as_ref()),
        None => cx.paths.state_dir.join("farm-root-next.pem"),
    };
    let done = cx.block_on(async {
        let site = Site::of(cx)?;
        let mut kept = Kept::read(&*site.coord, "root").await?;
        if args.dry_run {
            return match &kept.progress {
                Some(progress) => show(args, progress),
                None => {
                    let new_root = if new_file.exists() { load_root(&new_file)?.pin().kid().to_owned() } else { "the new root".to_owned() };
                    super::dry(args, &super::plan(&site, &Rotation::Root { new_root }).await?)
                }
            };
        }
        if kept.progress.is_none() {
            let pins = site.pins()?;
            let [old] = &pins[..] else {
                return Err(Fail::new("farm.roots pins two roots already: a change is on its way, or was not finished.")
                    .hint("openclaw config get farm.roots, and take out the one that no key is signed with (openclaw farm keys)"));
            };
            Consent::from_flag(args.yes).to("Give the farm a new root? Every gateway's config has to be changed twice.")?;
            let new = if new_file.exists() { load_root(&new_file)? } else { make_root(&new_file, &*site.world.rng)? };
            let steps = super::plan(&site, &Rotation::Root { new_root: new.pin().kid().into() }).await?;
            kept.begin(&*site.coord, old.kid(), new.pin().kid(), &steps, site.world.clock.now()).await?;
        }
        kept.carry_out(args, &site, async |step, progress| match step {
            0 => pin_both(args, cx, &site, progress, &new_root(&new_file, progress)?),
            1 => sign_again(args, cx, &site, &new_root(&new_file, progress)?).await,
            _ => unpin(args, cx, &site, progress, &new_file).await,
        })
        .await
    });
    told(args, done)
}

fn new_root(file: &Path, progress: &Progress) -> Result<FarmRoot, Fail> {
    let root = load_root(file)?;
    if root.pin().kid() == progress.new {
        return Ok(root);
    }
    Err(Fail::new(format!("{} is {}, and the change began with {}.", file.display(), root.pin().kid(), progress.new))
        .hint("--new-root-file <where that one lies>"))
}

fn write_roots(cx: &Cx, roots: &[String]) -> Result<(), Fail> {
    let edit = Edit::Set { path: vec!["farm".into(), "roots".into()], value: json!(roots), mode: MapWrite::Merge };
    config::apply(cx, &cx.snapshot(), &[edit], false).map(|_| ())
}

/// What has to be typed on every other gateway; we cannot reach their files.
fn elsewhere(args: &Args, site: &Site, roots: &[String], gateways: &[String]) {
    let others: Vec<&str> = gateways.iter().map(String::as_str).filter(|name| *name != site.gateway).collect();
    let value = json!(roots).to_string();
    let text = format!(
        "Written here. By hand on {}: openclaw config set farm.roots '{value}'. Gateways that run take it up.",
        if others.is_empty() { "every other gateway".to_owned() } else { others.join(", ") }
    );
    if args.json { anstream::eprintln!("{text}") } else { print::line(&text) }
}

fn pin_both(args: &Args, cx: &Cx, site: &Site, progress: &Progress, new: &FarmRoot) -> Result<Carried, Fail> {
    let mut roots = site.farm.roots.clone();
    let known: Vec<RootPin> = site.pins()?;
    if !known.contains(&new.pin()) {
        if known.len() > 1 {
            return Err(Fail::new(format!("farm.roots pins two roots, and {} is none of them.", progress.new)).hint("openclaw config get farm.roots"));
        }
        roots.push(new.pin().text());
        write_roots(cx, &roots)?;
    }
    elsewhere(args, site, &roots, &[]);
    Ok(Carried::Done)
}

async fn sign_again(args: &Args, cx: &Cx, site: &Site, new: &FarmRoot) -> Result<Carried, Fail> {
    let records = all_records(&*site.coord).await?;
    let mut gateways: Vec<String> = records.iter().map(|record| record.gateway.clone()).collect();
    gateways.dedup();
    Consent::from_flag(args.yes).to(&format!(
        "Do all of {} pin {} and run with it? One that does not will believe no key any more.",
        gateways.join(", "),
        new.pin().kid()
    ))?;
    sign_records(args, cx, site, new).await?;
    Ok(Carried::Done)
}

/// Signs every record that a pinned root signed, where the new root did not yet.
async fn sign_records(args: &Args, cx: &Cx, site: &Site, new: &FarmRoot) -> Result<(), Fail> {
    // The pins of now, not of when the command began: the first step may just have changed them.
    let (_, loaded) = cx.loaded()?;
    let roots = loaded.config.farm.as_ref().map(|farm| farm.roots.as_slice()).unwrap_or_default();
    let pins: Vec<RootPin> = roots.iter().map(|text| pin(text)).collect::<Result<_, _>>()?;
    if !pins.contains(&new.pin()) {
        return Err(Fail::new(format!("farm.roots does not pin {} any more.", new.pin().kid())).hint("openclaw config get farm.roots"));
    }
    for entry in site.coord.list(KEYS).await? {
        let Ok(record) = serde_json::from_slice::<KeyRecord>(&entry.value) else {
            say(args, &format!("{} cannot be read and is left as it is.", entry.key));
            continue;
        };
        if record.store_key() != entry.key {
            say(args, &format!("{} holds the record of another key and is left as it is.", entry.key));
            continue;
        }
        let mut ring = KeyRing::new(pins.clone()).map_err(|err| Fail::new(err.to_string()))?;
        if let Err(skipped) = ring.put(&record) {
            say(args, &format!("{} is not signed again: {}.", skipped.kid, skipped.why));
            continue;
        }
        if record.root_kid == new.pin().kid() {
            continue;
        }
        let signed = new.approve(&record.gateway, &read_public(&record.public)?, record.not_before, record.not_after);
        let stages = format!("{APPROVED}{}/{}", record.gateway, record.kid);
        if record.status == KeyStatus::Revoked {
            // No earlier stage of it is left to be put back.
            match site.coord.delete(&stages, None).await {
                Ok(()) | Err(CasError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        } else {
            site.coord.put(&stages, serde_json::to_vec(&signed).unwrap_or_default().into()).await?;
        }
        let value = serde_json::to_vec(signed.stage(record.status)).unwrap_or_default();
        site.coord.put_if(&entry.key, value.into(), Some(entry.version)).await?;
    }
    Ok(())
}

async fn unpin(args: &Args, cx: &Cx, site: &Site, progress: &Progress, new_file: &Path) -> Result<Carried, Fail> {
    let file = root_file(cx, args.root_file.as_ref());
    let root = match new_root(new_file, progress) {
        Ok(root) => root,
        // The files were moved already, by an earlier run that was cut off.
        Err(fail) => load_root(&file).ok().filter(|root| root.pin().kid() == progress.new).ok_or(fail)?,
    };
    let new = root.pin();
    // What was approved with the old root while we waited.
    sign_records(args, cx, site, &root).await?;
    let records = all_records(&*site.coord).await?;
    write_roots(cx, &[new.text()])?;
    let mut gateways: Vec<String> = records.into_iter().map(|record| record.gateway).collect();
    gateways.dedup();
    elsewhere(args, site, &[new.text()], &gateways);
    put_in_place(&file, new_file, progress)?;
    say(
        args,
        &format!(
            "The new root is in {}: move it to where the old one was kept, and destroy the old one when every gateway runs with the new.",
            cx.paths.display(&file)
        ),
    );
    Ok(Carried::Done)
}

/// The new root's file takes the name of the old one, which is kept beside it.
fn put_in_place(file: &Path, new_file: &Path, progress: &Progress) -> Result<(), Fail> {
    if !new_file.exists() {
        return Ok(());
    }
    if file.exists() {
        let other = load_root(file)?;
        if other.pin().kid() != progress.old {
            return Err(Fail::new(format!("{} is {}, neither the old root nor the new one; it is not replaced.", file.display(), other.pin().kid()))
                .hint("--root-file <file>"));
        }
        std::fs::rename(file, file.with_file_name(format!("farm-{}.pem", progress.old)))?;
    }
    std::fs::rename(new_file, file)?;
    Ok(())
}

fn say(args: &Args, text: &str) {
    if args.json { anstream::eprintln!("{text}") } else { print::line(text) }
}
