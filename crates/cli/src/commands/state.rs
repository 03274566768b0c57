//! `openclaw state`: move stored state between databases, and say which one is right.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clap::Subcommand;
use clawstead_config::{Config, FarmConfig, StateKind};
use clawstead_gateway::stores;
use clawstead_state::{
    Holder, PostgresStore, Report, Shared, SqliteStore, StateDirLock, Store, copy_units,
    postgres::{self, RECALL_FILE, Recall, Tenancy},
    sqlite,
};
use clawstead_terms::{AgentId, Millis, Unit};
use serde_json::{Value, json};

use super::Outcome;
use crate::{cx::Cx, fail::Fail, format::now_ms, local, print};

/// Between two lines of progress.
const SAID_EVERY: Duration = Duration::from_millis(100);

/// Move stored state between databases.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw state copy --to farm                 From this profile's SQLite file to the PostgreSQL of farm.state\n  openclaw state copy --from farm --to local    And back\n  openclaw state copy --to farm --agent jerry   One agent\n  openclaw state copy --to postgres://me@db/claw --schema claw\n  openclaw state trust                          After a database was replaced on purpose"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Copy state into a database that has none of it yet, and verify it
    #[command(
        after_help = "A place is `local` (this profile's SQLite file), `farm` (the PostgreSQL of farm.state), a SQLite file, or a postgres:// URL.\nNo gateway may use either place with these agents meanwhile. The source stays as it is; a copy that was interrupted goes on when it is started again."
    )]
    Copy(CopyArgs),
    /// Take the database of farm.state for the right one from now on
    #[command(
        after_help = "A gateway remembers which database it used and how far that was, and refuses one that is empty, another, or older. Use this after a backup was restored on purpose."
    )]
    Trust {
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct CopyArgs {
    /// Where from
    #[arg(long, value_name = "PLACE", default_value = "local")]
    from: String,
    /// Where to; may hold other agents, not these
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// PostgreSQL schema of a postgres:// URL
    #[arg(long, default_value = clawstead_config::STATE_SCHEMA, value_name = "NAME")]
    schema: String,
    /// Only this agent; may be repeated [default: everything of this gateway]
    #[arg(long, value_name = "ID")]
    agent: Vec<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// An end of a copy.
#[derive(Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Server { url: String, schema: String, member: Option<String>, ca_file: Option<PathBuf> },
}

impl Place {
    fn of(text: &str, args: &CopyArgs, cx: &Cx, config: &Config) -> Result<Self, Fail> {
        if text == "local" {
            return Ok(Self::File(cx.paths.state_dir.join(stores::DATABASE)));
        }
        if text == "farm" {
            let farm = config.farm.as_ref().filter(|farm| farm.state.kind == StateKind::Postgres);
            let farm = farm.ok_or_else(|| Fail::new("farm.state names no PostgreSQL.").hint("openclaw config set farm.state.kind postgres"))?;
            let url = farm.state.url.as_ref().ok_or_else(|| Fail::new("farm.state.url has no value: set what its secret reference names."))?;
            let member = Some(farm).filter(|farm| farm.has_others()).and_then(|farm: &FarmConfig| farm.gateway.clone());
            return Ok(Self::Server { url: url.expose().to_owned(), schema: farm.state.schema.clone(), member, ca_file: farm.state.ca_file.clone() });
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Server { url: text.to_owned(), schema: args.schema.clone(), member: None, ca_file: None });
        }
        Ok(Self::File(PathBuf::from(text)))
    }

    /// Opens it, alone: who else uses it is told.
    async fn open(&self, must_exist: bool) -> Result<Arc<dyn Store>, Fail> {
        match self {
            Self::File(path) => {
                if must_exist && !path.is_file() {
                    return Err(Fail::new(format!("There is no database at {}.", path.display())));
                }
                Ok(Arc::new(SqliteStore::open(path, sqlite::Options::default())?))
            }
            Self::Server { url, schema, member, ca_file } => {
                let options = postgres::Options { ca_file: ca_file.clone(), ..postgres::Options::default() };
                let store = PostgresStore::connect(url, schema, options).await?;
                let tenancy = member.clone().map_or(Tenancy::Alone, Tenancy::Member);
                if let Err(err) = store.move_in(tenancy).await {
                    store.close().await;
                    return Err(Fail::new(format!("{err}.")));
                }
                let store: Arc<dyn Store> = Arc::new(store);
                Ok(match member {
                    Some(name) => Arc::new(Shared::new(store, name, stores::COMMON_META)),
                    None => store,
                })
            }
        }
    }

    fn member(&self) -> Option<&str> {
        match self {
            Self::Server { member, .. } => member.as_deref(),
            Self::File(_) => None,
        }
    }
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Copy(args) => run_copy(&args, cx),
        Verb::Trust { json } => trust(json, cx),
    }
}

fn run_copy(args: &CopyArgs, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    let (from, to) = (Place::of(&args.from, args, cx, &config)?, Place::of(&args.to, args, cx, &config)?);
    if from == to {
        return Err(Fail::new("Source and target are the same."));
    }
    let _lock = folder_for_ourselves(cx)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (report, left) = runtime.block_on(async {
        let source = from.open(true).await?;
        let target = match to.open(false).await {
            Ok(target) => target,
            Err(fail) => {
                source.close().await;
                return Err(fail);
            }
        };
        let done = copied(args, &from, &*source, &*target).await;
        source.close().await;
        target.close().await;
        done
    })?;
    show(args, &report, &left);
    Ok(0)
}

/// The state folder, so that no gateway starts in it meanwhile.
fn folder_for_ourselves(cx: &Cx) -> Result<Option<StateDirLock>, Fail> {
    let dir = &cx.paths.state_dir;
    if let Some(holder) = local::running(cx) {
        return Err(Fail::new(format!("The gateway (pid {}) uses this state; stop it first.", holder.pid)).hint("openclaw gateway stop"));
    }
    if !dir.is_dir() {
        return Ok(None);
    }
    let holder = Holder { pid: std::process::id(), port: 0, config_path: cx.paths.config_path.clone(), started_at_ms: Millis(now_ms()) };
    StateDirLock::acquire(dir, &holder).map(Some).map_err(|err| Fail::new(format!("{err}.")).hint("openclaw gateway stop"))
}

/// Copies what was asked for; answers what stayed because it is another gateway's.
async fn copied(args: &CopyArgs, from: &Place, source: &dyn Store, target: &dyn Store) -> Result<(Report, Vec<String>), Fail> {
    let (mut units, mut left) = (Vec::new(), Vec::new());
    if args.agent.is_empty() {
        for unit in source.units().await? {
            // Of a store that the farm shares: what this gateway holds, or held last.
            let ours = match from.member() {
                None => true,
                Some(_) if unit == Unit::Global => true,
                Some(member) => source.fence(&unit).await?.is_some_and(|fence| fence.owner == member),
            };
            if ours { units.push(unit) } else { left.push(unit.to_string()) }
        }
    } else {
        units.extend(args.agent.iter().map(|id| Unit::Agent(AgentId::normalise(id))));
        units.dedup();
        for unit in &units {
            let (Some(member), Some(fence)) = (from.member(), source.fence(unit).await?) else { continue };
            if fence.owner != member {
                return Err(Fail::new(format!("{unit} is held by {}: copy it from there, or move it here first.", fence.owner)).hint("openclaw farm map"));
            }
        }
    }
    if units.is_empty() {
        return Err(Fail::new(format!("{} holds nothing to copy.", source.describe())));
    }
    let shows = !args.json && std::io::stderr().is_terminal();
    let said = Mutex::new(Instant::now());
    let mut told = |progress: &clawstead_state::Progress| {
        let Ok(mut said) = said.lock() else { return };
        let last = progress.done == progress.units;
        if shows && (last || said.elapsed() >= SAID_EVERY) {
            *said = Instant::now();
            anstream::eprint!("\r\x1b[2K{} of {} units, {} rows and lines, now {} ", progress.done, progress.units, progress.written, progress.unit);
            if last {
                anstream::eprintln!();
            }
        }
    };
    let report = copy_units(source, target, &units, &mut told).await?;
    Ok((report, left))
}

fn show(args: &CopyArgs, report: &Report, left: &[String]) {
    let sum = |sum: &clawstead_state::TableSum| json!({"count": sum.count, "bytes": sum.bytes, "checksum": format!("{:016x}", sum.checksum)});
    if args.json {
        let tables: serde_json::Map<String, Value> = report.tables.iter().map(|(name, one)| ((*name).to_owned(), sum(one))).collect();
        let units: serde_json::Map<String, Value> = report.per_unit.iter().map(|(name, one)| (name.clone(), sum(one))).collect();
        return print::json(&json!({
            "ok": true,
            "verified": true,
            "units": report.units,
            "journals": report.journals,
            "tables": tables,
            "perUnit": units,
            "kept": report.kept,
            "leftToOthers": left,
        }));
    }
    print::line(&format!("Copied and verified {} units and {} journals.", report.units, report.journals));
    for (name, sum) in &report.per_unit {
        print::line(&format!("  {name}: {} rows and lines, checksum {:016x}", sum.count, sum.checksum));
    }
    if !report.kept.is_empty() {
        print::line(&format!("Of the whole farm and there already, so they stay as they are: {}", report.kept.join(", ")));
    }
    if !left.is_empty() {
        print::line(&format!("Not copied, because other gateways hold them: {} (--agent copies one)", left.join(", ")));
    }
    print::line("The source is as it was. What uses it must not go on there: change farm.state, or the agents of the config.");
}

fn trust(json: bool, cx: &Cx) -> Outcome {
    let path = cx.paths.state_dir.join(RECALL_FILE);
    let _lock = folder_for_ourselves(cx)?;
    let known = forgotten(&path)?;
    if json {
        print::json(&json!({"ok": true, "forgotten": known}));
        return Ok(0);
    }
    match known {
        Some(known) => {
            print::line(&format!("Forgotten: {}. The next start takes the database of farm.state for the right one, whatever it holds.", known.place))
        }
        None => print::line("Nothing is remembered: the next start takes the database of farm.state for the right one anyway."),
    }
    Ok(0)
}

fn forgotten(path: &Path) -> Result<Option<Recall>, Fail> {
    let known = Recall::read(path);
    match std::fs::remove_file(path) {
        Ok(()) => Ok(known),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Fail::new(format!("{} cannot be removed: {err}", path.display()))),
    }
}
