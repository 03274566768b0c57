//! `openclaw state`: move stored state between databases.

use std::sync::Arc;

use clap::Subcommand;
use clawstead_state::{PostgresStore, SqliteStore, Store, copy, postgres, sqlite};
use serde_json::json;

use super::Outcome;
use crate::{cx::Cx, fail::Fail, local, print};

/// Move stored state between databases.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw state copy --to postgres://me@db/claw        From this profile's SQLite file\n  openclaw state copy --from postgres://me@db/claw --to ./copy.sqlite"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Copy everything into an empty database and verify it
    Copy {
        /// SQLite file or postgres:// URL [default: this profile's database]
        #[arg(long, value_name = "FILE|URL")]
        from: Option<String>,
        /// SQLite file or postgres:// URL; must be empty
        #[arg(long, value_name = "FILE|URL")]
        to: String,
        /// PostgreSQL schema
        #[arg(long, default_value = "clawstead", value_name = "NAME")]
        schema: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

async fn open(place: &str, schema: &str, must_exist: bool) -> Result<Arc<dyn Store>, Fail> {
    if place.starts_with("postgres://") || place.starts_with("postgresql://") {
        return Ok(Arc::new(PostgresStore::connect(place, schema, postgres::Options::default()).await?));
    }
    if must_exist && !std::path::Path::new(place).is_file() {
        return Err(Fail::new(format!("There is no database at {place}.")));
    }
    Ok(Arc::new(SqliteStore::open(place, sqlite::Options::default())?))
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    let Verb::Copy { from, to, schema, json } = args.verb;
    if let Some(holder) = local::running(cx) {
        return Err(Fail::new(format!("The gateway (pid {}) uses this state; stop it first.", holder.pid)).hint("openclaw gateway stop"));
    }
    let from = from.unwrap_or_else(|| cx.paths.state_dir.join(clawstead_gateway::run::DATABASE).display().to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(async {
        let (source, target) = (open(&from, &schema, true).await?, open(&to, &schema, false).await?);
        let done = copy(&*source, &*target).await;
        source.close().await;
        target.close().await;
        done.map_err(Fail::from)
    })?;
    let tables: serde_json::Map<String, serde_json::Value> =
        report.tables.iter().map(|(name, sum)| ((*name).to_owned(), json!({"count": sum.count, "bytes": sum.bytes}))).collect();
    if json {
        print::json(&json!({"ok": true, "units": report.units, "journals": report.journals, "tables": tables, "verified": true}));
    } else {
        print::line(&format!("Copied and verified {} units and {} journals.", report.units, report.journals));
        for (name, sum) in report.tables.iter().filter(|(_, s)| s.count > 0) {
            print::line(&format!("  {name}: {} rows", sum.count));
        }
    }
    Ok(0)
}
