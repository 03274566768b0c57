use std::{collections::BTreeMap, path::PathBuf};

use clawstead_cluster::keys::{KeyRecord, KeyStatus, emergency_revoke, read_public};
use clawstead_farm::enrol::{EnrolError, advance, all_records};
use clawstead_terms::Millis;
use serde_json::{Value, json};

use super::site::{BEFORE_MS, Consent, Site, when};
use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    format::{now_ms, span},
    print,
};

/// Keys of all gateways.
#[derive(clap::Args)]
pub struct ListArgs {
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Take a key back at once (emergency).
#[derive(clap::Args)]
#[command(
    after_help = "For a key that somebody may have read. It is final, and every gateway refuses the key within 60 s. For an ordinary change\nuse `openclaw farm rotate gateway-key`."
)]
pub struct RevokeArgs {
    /// Key, as `openclaw farm keys` shows it
    kid: String,
    /// The farm's root key, needed only when the signed stages of the key are not in the store any more
    #[arg(long, value_name = "FILE")]
    root_file: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `farm keys`.
pub fn list(args: &ListArgs, cx: &Cx) -> Outcome {
    let (site, records) = cx.block_on(async {
        let site = Site::of(cx)?;
        let records = all_records(&*site.coord).await?;
        Ok((site, records))
    })?;
    let (_, skipped) = site.ring(&records)?;
    let doubts: BTreeMap<&str, &str> = skipped.iter().map(|skipped| (skipped.kid.as_str(), skipped.why)).collect();
    let own = site.keys.load(&site.gateway).ok().map(|key| key.kid().to_owned());
    let now = Millis(now_ms());
    if args.json {
        let rows: Vec<Value> = records
            .iter()
            .map(|record| {
                let mut row = serde_json::to_value(record).unwrap_or_default();
                row["believed"] = (!doubts.contains_key(record.kid.as_str())).into();
                row["why"] = doubts.get(record.kid.as_str()).copied().into();
                row["ageMs"] = age(record, now).into();
                row["ended"] = (record.not_after < now).into();
                row["ours"] = (own.as_ref() == Some(&record.kid)).into();
                row
            })
            .collect();
        print::json(&json!({"farm": site.id, "gateway": site.gateway, "roots": site.farm.roots, "keys": rows}));
        return Ok(0);
    }
    if records.is_empty() {
        print::line("The farm has no keys yet. Next: openclaw farm enroll, then openclaw farm approve <gateway>");
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            let note = match doubts.get(record.kid.as_str()) {
                Some(why) => format!("not believed: {why}"),
                None if record.not_after < now => "ended: openclaw farm enroll there".into(),
                None if own.as_ref() == Some(&record.kid) => "signs here".into(),
                None => String::new(),
            };
            vec![
                record.gateway.clone(),
                record.kid.clone(),
                stage(record.status).into(),
                span(age(record, now)),
                when(record.not_after),
                record.root_kid.clone(),
                note,
            ]
        })
        .collect();
    print::columns(&["Gateway", "Key", "Stage", "Age", "Ends", "Signed by", ""], &rows);
    if let Some(own) = own.filter(|own| records.iter().all(|record| record.kid != *own)) {
        print::line(&format!("The key of this gateway, {own}, is not among them: openclaw farm enroll"));
    }
    Ok(0)
}

/// Time since the approval, ms.
fn age(record: &KeyRecord, now: Millis) -> i64 {
    (now.0 - record.not_before.0 - BEFORE_MS).max(0)
}

/// The word of a stage.
#[must_use]
pub const fn stage(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Next => "next",
        KeyStatus::Active => "active",
        KeyStatus::Retiring => "retiring",
        KeyStatus::Revoked => "revoked",
    }
}

/// `farm revoke`.
pub fn revoke(args: &RevokeArgs, cx: &Cx) -> Outcome {
    let (record, steps, ours) = cx.block_on(async {
        let site = Site::of(cx)?;
        let records = all_records(&*site.coord).await?;
        let steps = emergency_revoke(&args.kid, &records)?;
        let before = records.iter().find(|record| record.kid == args.kid).cloned();
        let before = before.ok_or_else(|| Fail::new(format!("There is no key {}.", args.kid)))?;
        if !args.json {
            print::line(&format!("{} of {} is {}.", before.kid, before.gateway, stage(before.status)));
        }
        if before.status != KeyStatus::Revoked {
            Consent::from_flag(args.yes).to(&format!("Revoke {} at once? Letters it signed that are still on their way will be refused.", args.kid))?;
        }
        let record = match advance(&*site.coord, &before.gateway, &before.kid, KeyStatus::Revoked).await {
            Err(EnrolError::Stage(_)) => sign_revoked(cx, args, &site, &before).await?,
            other => other?,
        };
        let ours = site.keys.load(&site.gateway).is_ok_and(|key| key.kid() == record.kid);
        Ok((record, steps, ours))
    })?;
    tracing::info!(event = steps[0].event, kid = %record.kid, "a key was revoked");
    let left: Vec<String> = steps.iter().skip(1).map(ToString::to_string).collect();
    if args.json {
        print::json(&json!({"ok": true, "record": record, "left": left, "ours": ours}));
        return Ok(0);
    }
    print::line(&format!("Revoked: {}. Every gateway refuses it within 60 s.", record.kid));
    print::line("What is left:");
    for step in &left {
        print::line(&format!("  {step}"));
    }
    if ours {
        print::line("It was the key of this gateway: openclaw farm enroll makes a new one; then openclaw farm approve and openclaw gateway restart.");
    }
    Ok(0)
}

/// The signed stages are gone from the store: the root signs the last one anew.
async fn sign_revoked(cx: &Cx, args: &RevokeArgs, site: &Site, before: &KeyRecord) -> Result<KeyRecord, Fail> {
    let root = site.root(cx, args.root_file.as_ref()).map_err(|fail| {
        Fail::new(format!("The store does not hold the signed stages of {}, so the farm's root must sign: {}", before.kid, fail.message))
            .hint("--root-file <the farm's root>")
    })?;
    let public = read_public(&before.public)?;
    let record = root.approve(&before.gateway, &public, before.not_before, before.not_after).stage(KeyStatus::Revoked).clone();
    if record.kid != before.kid {
        return Err(Fail::new(format!("The record under {} holds another key ({}); nothing was signed.", before.kid, record.kid)).hint("openclaw farm keys"));
    }
    site.coord.put(&record.store_key(), serde_json::to_vec(&record).unwrap_or_default().into()).await?;
    Ok(record)
}
