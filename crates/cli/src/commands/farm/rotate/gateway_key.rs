use std::time::Duration;

use clawstead_cluster::keys::{GatewayKey, KeyStatus, Rotation};
use clawstead_farm::{
    enrol::{advance, all_records, approve, ask, records_of},
    key_files::KeyError,
};

use super::{
    Args,
    progress::{Carried, Kept, Progress, show, told},
};
use crate::{
    commands::{
        Outcome,
        farm::site::{Consent, DAYS, Site, root_file, validity},
    },
    cx::Cx,
    fail::Fail,
    local, print,
};

/// The store is asked so often whether the operator approved.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let done = cx.block_on(async {
        let site = Site::of(cx)?;
        let gateway = site.gateway.clone();
        let mut kept = Kept::read(&*site.coord, &format!("gateway-key/{gateway}")).await?;
        if args.dry_run {
            return match &kept.progress {
                Some(progress) => show(args, progress),
                None => {
                    // Nothing is made, so the new key has no name yet, unless one waits already.
                    let new_kid = waiting(&site)?.map_or_else(|| "the new key".to_owned(), |key| key.kid().to_owned());
                    super::dry(args, &super::plan(&site, &Rotation::GatewayKey { gateway, new_kid }).await?)
                }
            };
        }
        if kept.progress.is_none() {
            let current = site.keys.load(&gateway)?;
            let active = all_records(&*site.coord).await?.into_iter().find(|record| record.gateway == gateway && record.status == KeyStatus::Active);
            if let Some(active) = active.filter(|active| active.kid != current.kid()) {
                let message = format!(
                    "The farm's active key of {gateway} is {}, and the one in {} is {}: this is not where it lives.",
                    active.kid,
                    site.keys.current().display(),
                    current.kid()
                );
                return Err(Fail::new(message).hint("openclaw farm keys; openclaw farm enroll for a gateway that lost its key"));
            }
            // Asked before anything is made: a gateway without an active key cannot change it.
            super::plan(&site, &Rotation::GatewayKey { gateway: gateway.clone(), new_kid: "the new key".into() }).await?;
            Consent::from_flag(args.yes).to(&format!("Give {gateway} a new key? Old and new overlap for a day."))?;
            let next = site.keys.next_or_make(&gateway, &*site.world.rng)?;
            let steps = super::plan(&site, &Rotation::GatewayKey { gateway: gateway.clone(), new_kid: next.kid().into() }).await?;
            kept.begin(&*site.coord, current.kid(), next.kid(), &steps, site.world.clock.now()).await?;
        }
        kept.carry_out(args, &site, async |step, progress| match step {
            0 => publish(args, cx, &site, progress).await,
            1 => switch(args, cx, &site, progress).await,
            _ => retire(&site, progress).await,
        })
        .await
    });
    told(args, done)
}

fn waiting(site: &Site) -> Result<Option<GatewayKey>, Fail> {
    if site.keys.next().exists() { Ok(Some(site.keys.next_or_make(&site.gateway, &*site.world.rng)?)) } else { Ok(None) }
}

async fn publish(args: &Args, cx: &Cx, site: &Site, progress: &Progress) -> Result<Carried, Fail> {
    let known = async || -> Result<bool, Fail> { Ok(records_of(&*site.coord, &site.gateway).await?.iter().any(|record| record.kid == progress.new)) };
    if known().await? {
        return Ok(Carried::Done);
    }
    let next = site.keys.next_or_make(&site.gateway, &*site.world.rng)?;
    if next.kid() != progress.new {
        return Err(lost(site, &progress.new));
    }
    let now = site.world.clock.now();
    let request = ask(&*site.coord, &site.id, &next, now, None).await?;
    if args.root_file.is_some() || root_file(cx, None).exists() {
        let root = site.root(cx, args.root_file.as_ref())?;
        let (from, until) = validity(now, DAYS);
        approve(&*site.coord, &site.id, &root, &request, from, until).await?;
        return Ok(Carried::Done);
    }
    let what = format!("Where the farm's root is: openclaw farm approve {} --kid {}", site.gateway, progress.new);
    if args.no_wait {
        return Ok(Carried::NotYet(format!("{what}; then the same command here.")));
    }
    if !args.json {
        print::line(&format!("{what}; waiting for it (Ctrl-C stops waiting, the same command goes on later)."));
    }
    while !known().await? {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Carried::Done)
}

/// The new key becomes active in the store before the file changes: in between, and until the running gateway has seen both,
/// it signs with the old one, which others believe for a day more.
async fn switch(args: &Args, cx: &Cx, site: &Site, progress: &Progress) -> Result<Carried, Fail> {
    let current = site.keys.load(&site.gateway)?;
    if current.kid() != progress.new && waiting(site)?.is_none_or(|next| next.kid() != progress.new) {
        return Err(lost(site, &progress.new));
    }
    advance(&*site.coord, &site.gateway, &progress.new, KeyStatus::Active).await?;
    advance(&*site.coord, &site.gateway, &progress.old, KeyStatus::Retiring).await?;
    if current.kid() != progress.new {
        site.keys.promote(&site.gateway)?;
    }
    if !args.json && local::running(cx).is_some() {
        print::line("The running gateway takes it up within a minute (openclaw farm status).");
    }
    Ok(Carried::Done)
}

async fn retire(site: &Site, progress: &Progress) -> Result<Carried, Fail> {
    advance(&*site.coord, &site.gateway, &progress.old, KeyStatus::Revoked).await?;
    let file = site.keys.current().with_file_name(format!("{}.pem", progress.old));
    match std::fs::remove_file(&file) {
        Ok(()) => {}
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
        Err(why) => return Err(KeyError::File { path: file.display().to_string(), why }.into()),
    }
    Ok(Carried::Done)
}

fn lost(site: &Site, kid: &str) -> Fail {
    Fail::new(format!("The change began with the key {kid}, which is not in {} any more.", site.keys.next().display()))
        .hint(format!("openclaw farm revoke {kid} once it is published, then openclaw farm enroll"))
}
