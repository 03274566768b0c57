use std::{
    io::IsTerminal as _,
    sync::Arc,
    time::{Duration, Instant},
};

use clawstead_config::{Config, StateKind};
use clawstead_gateway::{
    import::{self, Looks, Pace, Report},
    keeper::{Claims, Keeper},
    stores,
};
use clawstead_state::{Holder, StateDirLock};
use clawstead_terms::{Millis, Unit};
use clawstead_world::World;
use serde_json::{Value, json};

use crate::{commands::Outcome, cx::Cx, fail::Fail, format::now_ms, local, print};

/// A command has no other work: it takes the time it needs, a day at most.
const LIMIT: Duration = Duration::from_secs(86_400);
/// Between two lines of progress.
const SAID_EVERY: Duration = Duration::from_millis(100);

/// Take over what an older OpenClaw left in this state folder.
#[derive(clap::Args)]
#[command(
    after_help = "The gateway does this by itself at its first start. This command looks again: at files that came later, or that were skipped.\nWhat is there stays as it is, and the old files are only read.\n\nExamples:\n  openclaw sessions import --dry-run\n  openclaw sessions import --json"
)]
pub struct Args {
    /// Only say what would be taken over
    #[arg(long)]
    dry_run: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `sessions import`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let config = &loaded.config;
    let report = if args.dry_run {
        let plan = import::plan(config, Millis(now_ms()));
        if let Some(why) = &plan.refused {
            anstream::eprintln!("{why}");
        }
        plan
    } else {
        take_over(cx, config, !args.json)?
    };
    if args.json {
        let mut value = serde_json::to_value(&report).unwrap_or_default();
        if let Value::Object(map) = &mut value {
            map.insert("ok".into(), json!(true));
            map.insert("dryRun".into(), json!(args.dry_run));
        }
        print::json(&value);
    } else {
        show(&report, args.dry_run);
    }
    Ok(0)
}

fn take_over(cx: &Cx, config: &Arc<Config>, aloud: bool) -> Result<Report, Fail> {
    let dir = &cx.paths.state_dir;
    if config.farm.as_ref().is_some_and(|farm| farm.state.kind == StateKind::Postgres) {
        return Err(Fail::new("The state is kept in PostgreSQL, where other gateways may write: a gateway of this folder imports by itself when it starts.")
            .hint("openclaw gateway restart"));
    }
    if !dir.is_dir() {
        return Ok(Report::default());
    }
    let holder = Holder { pid: std::process::id(), port: 0, config_path: cx.paths.config_path.clone(), started_at_ms: Millis(now_ms()) };
    let _lock = StateDirLock::acquire(dir, &holder).map_err(|err| {
        let hint = if local::running(cx).is_some() { "openclaw gateway stop" } else { "openclaw doctor" };
        Fail::new(format!("{err}. An import needs the folder for itself; --dry-run does not.")).hint(hint)
    })?;
    let world = World::real().map_err(|err| Fail::new(err.to_string()))?;
    let shows = aloud && std::io::stderr().is_terminal();
    let said = std::sync::Mutex::new(Instant::now());
    let watch = |done: usize, total: usize| {
        let Ok(mut said) = said.lock() else { return };
        if shows && (done == total || said.elapsed() >= SAID_EVERY) {
            *said = Instant::now();
            anstream::eprint!("\rSessions {done}/{total} ");
            if done == total {
                anstream::eprintln!();
            }
        }
    };
    cx.block_on(async {
        let opened = stores::open(config, &world).await.map_err(|err| Fail::new(err.to_string()))?;
        let keeper = Keeper { store: opened.store.clone(), claims: Arc::new(Claims::default()) };
        let mut units = vec![Unit::Global];
        units.extend(config.agents.list.iter().map(|one| Unit::Agent(one.id.clone())));
        let incarnation = u64::try_from(world.clock.now().0).unwrap_or(0);
        let done = async {
            keeper.claim(&units, "sessions import", incarnation).await?;
            import::run_watched(&keeper, config, &world, Pace { looks: Looks::Again, limit: LIMIT, watch: &watch }).await
        }
        .await;
        opened.store.close().await;
        done.map_err(|failure| {
            let fail = Fail::new(failure.message);
            match failure.hint {
                Some(hint) => fail.hint(hint),
                None => fail,
            }
        })
    })
}

fn show(report: &Report, dry: bool) {
    if report.is_empty() {
        print::line("Nothing of an older OpenClaw was found.");
        return;
    }
    let word = if dry { "Would take over" } else { "Took over" };
    print::line(&format!(
        "{word} {} sessions with {} messages, {} cron jobs ({} runs), {} devices, {} approvals.",
        report.sessions, report.messages, report.jobs, report.runs, report.devices, report.approvals
    ));
    if report.already > 0 {
        print::line(&format!("There already: {}.", report.already));
    }
    for source in &report.sources {
        print::line(&format!("  read {source}"));
    }
    for skipped in &report.skipped {
        print::line(&format!("  not taken over: {skipped}"));
    }
}
