//! Taking over the state folder of an older OpenClaw: the files of February and March 2026 (`sessions.json`, JSONL
//! transcripts, `cron/jobs.json`, `devices/paired.json`, `exec-approvals.json`), the databases since 2026.7, and
//! `session.jsonl` as some collectives keep it. The old files are only read.
//!
//! It happens once, at the first start that finds something: a row in `Table::Meta` says for which agents. Everything
//! is in place before lanes adopt the agents, so that nobody talks to a session whose past is still on its way; a
//! start that takes longer than [`LIMIT`] goes on with what it has, newest sessions first, and the next start
//! continues. A crash in the middle costs nothing but the session it was at.

mod convert;
mod database;
mod jobs;
mod lines;
mod people;
mod rows;
mod running;
mod sessions;
mod survey;
mod tree;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clawstead_config::Config;
use clawstead_state::{Batch, Op, Table};
use clawstead_terms::{AgentId, Failure, FailureCode, Millis, Unit};
use clawstead_tools::approvals::ApprovalsFile;
use clawstead_world::World;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub use lines::LINE_BYTES_MAX;

use crate::{
    cron::job::{Job, SlotRow},
    devices::PairedDevice,
    keeper::{self, Keeper},
};
use database::Database;
use sessions::{Done, Index, Planned};
use survey::{AgentSources, House, Survey, left_behind, survey};

/// How long the first start may import; what is left waits for the next start.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The mark in `Table::Meta` of the global unit.
pub const MARK_KEY: &str = "import";
/// Things named as skipped at most; further ones are counted.
const NAMED_MAX: usize = 100;
/// A JSON file that is read whole, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The end of a run log that is looked at, bytes.
const RUN_LOG_BYTES: u64 = 128 * 1024;

/// The mark: what was imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// When it was written last.
    pub at: Millis,
    /// The agents whose sessions are in, all of them.
    pub agents: Vec<AgentId>,
}

/// A source that was imported: `Table::Meta`, key `import/source/<path>`, in the unit it went to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRow {
    /// Below the state folder; `<database>#<session id>` for a session in a database.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its last change, ms.
    pub mtime_ms: i64,
    /// Of its bytes; for a session in a database of its lines.
    pub sha256: String,
    /// When it was imported.
    pub imported_at: Millis,
}

impl SourceRow {
    const PREFIX: &'static str = "import/source/";
    const KEY_BYTES_MAX: usize = 900;

    fn key_of(path: &str) -> String {
        if path.len() <= Self::KEY_BYTES_MAX { format!("{}{path}", Self::PREFIX) } else { format!("{}{}", Self::PREFIX, hex::encode(Sha256::digest(path))) }
    }

    fn key(&self) -> String {
        Self::key_of(&self.path)
    }

    fn of_file(path: &Path, name: &str, now: Millis) -> Result<Self, String> {
        let mut file = fs::File::open(path).map_err(|e| e.to_string())?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut buffer).map_err(|e| e.to_string())?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            bytes += count as u64;
        }
        Ok(Self { path: name.to_owned(), bytes, mtime_ms: assessed(path).1, sha256: hex::encode(hash.finalize()), imported_at: now })
    }
}

/// Size and last change of a file; zeros when it is not there.
fn assessed(path: &Path) -> (u64, i64) {
    let Ok(meta) = fs::metadata(path) else { return (0, 0) };
    let since = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    (meta.len(), since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

/// Whether an import looks again at what the mark says is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// At what is not marked: the gateway's start.
    Once,
    /// At everything: `openclaw sessions import`. What is there stays as it is.
    Again,
}

/// What an import did, or what a dry run found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Files and databases that were read, below the state folder.
    pub sources: Vec<String>,
    /// Sessions stored now.
    pub sessions: u64,
    /// Their messages.
    pub messages: u64,
    /// Cron jobs.
    pub jobs: u64,
    /// Entries of cron run logs.
    pub runs: u64,
    /// Paired devices.
    pub devices: u64,
    /// Allow lists of commands: agents and entries.
    pub approvals: u64,
    /// What was there before.
    pub already: u64,
    /// Sessions that wait for the next start, because the time was over.
    pub waiting: u64,
    /// What was not imported, in words.
    pub skipped: Vec<String>,
    /// A gateway of the original that runs (dry runs only; an import is refused).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Report {
    /// True when nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// One line for logs.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!(
            "taken over from OpenClaw: {} sessions with {} messages, {} cron jobs, {} devices; {} things were not",
            self.sessions,
            self.messages,
            self.jobs,
            self.devices,
            self.skipped.len()
        );
        if self.waiting > 0 {
            line.push_str(&format!("; {} older sessions follow at the next start", self.waiting));
        }
        line
    }

    fn bounded(mut self) -> Self {
        if self.skipped.len() > NAMED_MAX {
            let more = self.skipped.len() - NAMED_MAX;
            self.skipped.truncate(NAMED_MAX);
            self.skipped.push(format!("and {more} more"));
        }
        self
    }
}

/// Takes over what an older OpenClaw left, unless the mark says that it was. Costs one read and a few looks at the
/// folder when there is nothing.
///
/// # Errors
/// When an original gateway still runs on the folder; when the store cannot be read or written (the next call
/// continues).
pub async fn run(keeper: &Keeper, config: &Arc<Config>, world: &World) -> Result<Report, Failure> {
    let report = run_with(keeper, config, world, Looks::Once).await?;
    if !report.is_empty() {
        tracing::info!("{}", report.line());
        for skipped in &report.skipped {
            tracing::warn!("not taken over from OpenClaw: {skipped}");
        }
    }
    Ok(report)
}

/// As [`run`], also again. The units of `keeper` must be claimed.
///
/// # Errors
/// As [`run`].
pub async fn run_with(keeper: &Keeper, config: &Arc<Config>, world: &World, looks: Looks) -> Result<Report, Failure> {
    run_watched(keeper, config, world, Pace { looks, limit: LIMIT, watch: &|_, _| () }).await
}

/// How an import goes about it.
pub struct Pace<'a> {
    /// Whether it looks again at what is done.
    pub looks: Looks,
    /// Sessions that are not begun by then wait for the next import.
    pub limit: Duration,
    /// Hears after each session how many of how many are done.
    pub watch: &'a (dyn Fn(usize, usize) + Sync),
}

/// As [`run_with`], at a pace of one's own.
///
/// # Errors
/// As [`run`].
pub async fn run_watched(keeper: &Keeper, config: &Arc<Config>, world: &World, pace: Pace<'_>) -> Result<Report, Failure> {
    let looks = pace.looks;
    let mark: Option<Mark> = keeper.get(&Unit::Global, Table::Meta, MARK_KEY).await?;
    let all: Vec<AgentId> = config.agents.list.iter().map(|one| one.id.clone()).collect();
    let (agents, house) = match &mark {
        Some(mark) if looks == Looks::Once => (all.iter().filter(|id| !mark.agents.contains(id)).cloned().collect(), House::Not),
        _ => (all.clone(), House::Too),
    };
    if agents.is_empty() && house == House::Not {
        return Ok(Report::default());
    }
    let found = {
        let config = config.clone();
        world.tasks.blocking(move || survey(&config, &agents, house)).await.ok_or_else(ended)?
    };
    if found.is_empty() {
        return Ok(Report::default());
    }
    let (read, refused) = {
        let (config, found, now) = (config.clone(), found.clone(), world.clock.now());
        let work = move || match running::refusal(&config.paths.state_dir) {
            Some(words) => (None, Some(words)),
            None => (Some(Read::all(&config, &found, now)), None),
        };
        world.tasks.blocking(work).await.ok_or_else(ended)?
    };
    if let Some(words) = refused {
        return Err(Failure::new(FailureCode::Unavailable, words));
    }
    let mut read = read.ok_or_else(ended)?;
    let mut report = std::mem::take(&mut read.report);
    if house == House::Too {
        store_house(keeper, config, world, &read, &mut report).await?;
    }
    let complete = store_sessions(keeper, world, read.sessions, &mut report, &pace).await?;
    let mut done = mark.map(|mark| mark.agents).unwrap_or_default();
    done.extend(found.agents.iter().map(|sources| sources.agent.clone()).filter(|agent| complete.get(agent).copied().unwrap_or(true)));
    done.sort();
    done.dedup();
    keeper.put(&Unit::Global, Table::Meta, MARK_KEY, &Mark { at: world.clock.now(), agents: done }).await?;
    Ok(report.bounded())
}

/// What an import would find, without a store: for `doctor` and dry runs. Blocks: reads every transcript.
#[must_use]
pub fn plan(config: &Config, now: Millis) -> Report {
    let agents: Vec<AgentId> = config.agents.list.iter().map(|one| one.id.clone()).collect();
    let found = survey(config, &agents, House::Too);
    if found.is_empty() {
        return Report::default();
    }
    let mut read = Read::all(config, &found, now);
    let mut report = std::mem::take(&mut read.report);
    report.refused = running::refusal(&config.paths.state_dir);
    report.jobs = read.jobs.len() as u64;
    report.runs = read.runs.values().map(|rows| rows.len() as u64).sum();
    report.devices = read.devices.len() as u64;
    report.approvals = read.approvals.as_ref().map_or(0, approvals_count);
    for planned in read.sessions {
        match planned.origin.conversation() {
            Ok(conversation) => {
                report.sessions += 1;
                report.messages += conversation.said;
                let words = conversation.odd.words();
                if !words.is_empty() {
                    report.skipped.push(format!("{}: {}", planned.source, words.join(", ")));
                }
            }
            Err(why) => report.skipped.push(format!("{}: {why}", planned.source)),
        }
    }
    report.bounded()
}

fn ended() -> Failure {
    Failure::unavailable("the import ended early", 1_000)
}

fn approvals_count(file: &ApprovalsFile) -> u64 {
    (file.agents.len() + file.agents.values().map(|rules| rules.allowlist.len()).sum::<usize>()) as u64
}

/// Everything but the transcripts, read.
#[derive(Default)]
struct Read {
    report: Report,
    sessions: Vec<Planned>,
    jobs: Vec<Job>,
    /// Rows of run logs by job.
    runs: BTreeMap<String, Vec<(Millis, SlotRow)>>,
    devices: Vec<PairedDevice>,
    approvals: Option<ApprovalsFile>,
    /// Sources that belong to no agent.
    house: Vec<SourceRow>,
}

/// Reads a JSON file whole.
fn json_file(path: &Path) -> Result<Value, String> {
    let bytes = assessed(path).0;
    if bytes > FILE_BYTES_MAX {
        return Err(format!("it has {bytes} bytes, {FILE_BYTES_MAX} are read at most"));
    }
    let text = fs::read(path).map_err(|e| e.to_string())?;
    serde_json::from_slice(&text).map_err(|e| format!("it is no valid JSON (line {})", e.line()))
}

impl Read {
    fn all(config: &Config, found: &Survey, now: Millis) -> Self {
        let mut read = Self::default();
        let state = &config.paths.state_dir;
        let name = |path: &Path| path.strip_prefix(state).unwrap_or(path).display().to_string();
        if let Some(path) = &found.database {
            let source = name(path);
            match Database::open(path, &scratch(state, 0)) {
                Ok(database) => {
                    read.report.skipped.extend(database.notice.iter().map(|notice| format!("{source}: {notice}")));
                    read.house_of(&database, &source, now);
                    read.record(path, &source, now);
                }
                Err(why) => read.report.skipped.push(format!("{source}: {why}")),
            }
        }
        if let Some(path) = &found.jobs {
            let source = name(path);
            match json_file(path) {
                Ok(file) => {
                    let known: Vec<String> = read.jobs.iter().map(|job| job.id.clone()).collect();
                    let more = jobs::jobs(&file, now, &mut read.report.skipped);
                    for job in more.into_iter().filter(|job| !known.contains(&job.id)) {
                        let log = state.join("cron/runs").join(format!("{}.jsonl", job.id));
                        let rows = run_log(&log, &job);
                        if !rows.is_empty() {
                            read.runs.insert(job.id.clone(), rows);
                        }
                        read.jobs.push(job);
                    }
                    read.record(path, &source, now);
                }
                Err(why) => read.report.skipped.push(format!("{source}: {why}")),
            }
        }
        if let Some(path) = &found.devices {
            let source = name(path);
            match json_file(path) {
                Ok(file) => {
                    let more = people::devices(&file, &mut read.report.skipped);
                    let fresh: Vec<PairedDevice> =
                        more.into_iter().filter(|device| read.devices.iter().all(|known| known.device_id != device.device_id)).collect();
                    read.devices.extend(fresh);
                    read.record(path, &source, now);
                }
                Err(why) => read.report.skipped.push(format!("{source}: {why}")),
            }
        }
        if let Some(path) = found.approvals.as_ref().filter(|_| read.approvals.is_none()) {
            let source = name(path);
            match fs::read_to_string(path).map_err(|e| e.to_string()).and_then(|text| people::approvals(&text)) {
                Ok(file) => {
                    read.approvals = Some(file);
                    read.record(path, &source, now);
                }
                Err(why) => read.report.skipped.push(format!("{source}: {why}")),
            }
        }
        for (number, sources) in found.agents.iter().enumerate() {
            read.agent(config, sources, &scratch(state, number + 1), now);
        }
        read.report.skipped.extend(left_behind(config, found));
        read
    }

    fn record(&mut self, path: &Path, source: &str, now: Millis) {
        self.report.sources.push(source.to_owned());
        if let Ok(row) = SourceRow::of_file(path, source, now) {
            self.house.push(row);
        }
    }

    fn house_of(&mut self, database: &Database, source: &str, now: Millis) {
        match jobs::jobs_of(database, now, &mut self.report.skipped) {
            Ok(jobs) => self.jobs = jobs,
            Err(why) => self.report.skipped.push(format!("{source}: cron jobs: {why}")),
        }
        match people::devices_of(database, &mut self.report.skipped) {
            Ok(devices) => self.devices = devices,
            Err(why) => self.report.skipped.push(format!("{source}: devices: {why}")),
        }
        if database.has("exec_approvals_config")
            && let Ok(rows) = database.rows("select raw_json from exec_approvals_config limit 1", |row| row.get::<_, String>(0))
            && let Some(text) = rows.first()
        {
            match people::approvals(text) {
                Ok(file) => self.approvals = Some(file),
                Err(why) => self.report.skipped.push(format!("{source}: exec approvals: {why}")),
            }
        }
        for (table, what) in [
            ("channel_pairing_allow_entries", "senders approved by pairing: put them into channels.<channel>.allowFrom"),
            ("delivery_queue_entries", "messages that OpenClaw had not sent yet"),
            ("secret_store_entries", "stored secrets: set them again"),
        ] {
            let count = database.count(table);
            if count > 0 {
                self.report.skipped.push(format!("{source}: {count} {what}"));
            }
        }
    }

    fn agent(&mut self, config: &Config, sources: &AgentSources, scratch: &Path, now: Millis) {
        let state = &config.paths.state_dir;
        let name = |path: &PathBuf| path.strip_prefix(state).unwrap_or(path).display().to_string();
        let main_key = config.raw("session.mainKey").and_then(Value::as_str);
        let mut found: Vec<Planned> = Vec::new();
        let report = &mut self.report;
        let mut index = |skipped: &mut Vec<String>, read: &mut dyn FnMut(&mut Index<'_>) -> Result<Vec<Planned>, String>, source: String| {
            let mut index = Index { agent: &sources.agent, main_key, now, skipped };
            match read(&mut index) {
                Ok(more) => {
                    for planned in more {
                        if found.iter().all(|known| known.row.session_id != planned.row.session_id) {
                            found.push(planned);
                        }
                    }
                    true
                }
                Err(why) => {
                    skipped.push(format!("{source}: {why}"));
                    false
                }
            }
        };
        if let Some(path) = &sources.database {
            let source = name(path);
            let opened = Database::open(path, scratch).map(Arc::new);
            match opened {
                Ok(database) => {
                    report.skipped.extend(database.notice.iter().map(|notice| format!("{source}: {notice}")));
                    if index(&mut report.skipped, &mut |index| index.of_database(&database, &source, assessed(path).1), source.clone()) {
                        report.sources.push(source.clone());
                    }
                    for (table, what) in [
                        ("auth_profile_store", "stores of sign-in profiles: give their keys by config, environment or auth-profiles.json"),
                        ("session_transcript_archives", "archives of ended conversations"),
                        ("session_transcript_cold_archives", "conversations in cold archives"),
                    ] {
                        let count = database.count(table);
                        if count > 0 {
                            report.skipped.push(format!("{source}: {count} {what}"));
                        }
                    }
                }
                Err(why) => report.skipped.push(format!("{source}: {why}")),
            }
        }
        if let Some(path) = &sources.store {
            let source = name(path);
            if index(&mut report.skipped, &mut |index| index.of_store(path, &source), source.clone()) {
                report.sources.push(source);
            }
        }
        if let Some(path) = &sources.bare {
            let source = name(path);
            if index(&mut report.skipped, &mut |index| index.of_bare(path, &source), source.clone()) {
                report.sources.push(source);
            }
        }
        // The newest first: they keep their key when two want it, and they are in when the time is over.
        found.sort_by(|a, b| b.row.updated_at.cmp(&a.row.updated_at).then_with(|| a.row.key.cmp(&b.row.key)));
        if found.len() > sessions::SESSIONS_MAX {
            report.skipped.push(format!(
                "agent {}: {} sessions beyond the newest {}",
                sources.agent,
                found.len() - sessions::SESSIONS_MAX,
                sessions::SESSIONS_MAX
            ));
            found.truncate(sessions::SESSIONS_MAX);
        }
        self.sessions.extend(found);
    }
}

/// A folder for the copy of a database with a log.
fn scratch(state: &Path, number: usize) -> PathBuf {
    state.join(format!("clawstead-import-copy-{}-{number}", std::process::id()))
}

/// The end of a job's run log.
fn run_log(path: &Path, job: &Job) -> Vec<(Millis, SlotRow)> {
    use std::io::Seek as _;
    let Ok(mut file) = fs::File::open(path) else { return Vec::new() };
    let from = assessed(path).0.saturating_sub(RUN_LOG_BYTES);
    let mut text = Vec::new();
    if file.seek(std::io::SeekFrom::Start(from)).is_err() || file.take(RUN_LOG_BYTES).read_to_end(&mut text).is_err() {
        return Vec::new();
    }
    // The first line may be cut.
    let lines = text.split(|b| *b == b'\n').skip(usize::from(from > 0));
    let mut rows: Vec<(Millis, SlotRow)> = lines.filter_map(|line| jobs::run(&serde_json::from_slice(line).ok()?, job)).collect();
    rows.drain(..rows.len().saturating_sub(jobs::RUNS_MAX));
    rows
}

/// Stores what belongs to no agent, and jobs. What is there stays.
async fn store_house(keeper: &Keeper, config: &Config, world: &World, read: &Read, report: &mut Report) -> Result<(), Failure> {
    let default = config.agents.default_agent().id.clone();
    let mut by_agent: BTreeMap<AgentId, Vec<&Job>> = BTreeMap::new();
    for job in &read.jobs {
        by_agent.entry(job.agent(&default)).or_default().push(job);
    }
    for (agent, jobs) in by_agent {
        let unit = Unit::Agent(agent.clone());
        if keeper.claims.get(&unit).is_none() {
            let names: Vec<String> = jobs.iter().map(|job| format!("{:?}", job.name)).collect();
            report.skipped.push(format!("cron jobs {} of agent {agent}: it is not in the config (afterwards: `openclaw sessions import`)", names.join(", ")));
            continue;
        }
        for job in jobs {
            if keeper.store.get(&unit, Table::CronJobs, &job.id).await.map_err(keeper::sort)?.is_some() {
                report.already += 1;
                continue;
            }
            let mut batch = Batch::new(unit.clone()).insert_json(Table::CronJobs, job.id.clone(), job).map_err(keeper::sort)?;
            let rows = read.runs.get(&job.id).map(Vec::as_slice).unwrap_or_default();
            for (at, row) in rows {
                batch = batch.put_json(Table::CronRuns, format!("{}/{:020}", job.id, at.0), row).map_err(keeper::sort)?;
            }
            keeper.commit(batch).await.map_err(keeper::sort)?;
            report.jobs += 1;
            report.runs += rows.len() as u64;
        }
    }
    let mut batch = Batch::new(Unit::Global);
    for device in &read.devices {
        let key = format!("device/{}", device.device_id);
        if keeper.store.get(&Unit::Global, Table::Devices, &key).await.map_err(keeper::sort)?.is_some() {
            report.already += 1;
        } else {
            batch = batch.insert_json(Table::Devices, key, device).map_err(keeper::sort)?;
            report.devices += 1;
        }
    }
    if let Some(file) = &read.approvals {
        if keeper.store.get(&Unit::Global, Table::Approvals, crate::approvals::FILE_KEY).await.map_err(keeper::sort)?.is_some() {
            report.already += 1;
        } else {
            batch = batch.insert_json(Table::Approvals, crate::approvals::FILE_KEY, file).map_err(keeper::sort)?;
            report.approvals = approvals_count(file);
        }
    }
    for source in &read.house {
        batch = batch.put_json(Table::Meta, source.key(), &SourceRow { imported_at: world.clock.now(), ..source.clone() }).map_err(keeper::sort)?;
    }
    if batch.ops.iter().any(|op| !matches!(op, Op::Put(Table::Meta, ..))) || !batch.is_empty() {
        keeper.commit(batch).await.map_err(keeper::sort)?;
    }
    Ok(())
}

/// Stores sessions until the time is over. Answers for each agent whether all of its sessions are in.
async fn store_sessions(
    keeper: &Keeper,
    world: &World,
    planned: Vec<Planned>,
    report: &mut Report,
    pace: &Pace<'_>,
) -> Result<BTreeMap<AgentId, bool>, Failure> {
    let (began, total) = (tokio::time::Instant::now(), planned.len());
    let mut complete: BTreeMap<AgentId, bool> = BTreeMap::new();
    let mut taken = BTreeMap::new();
    for (done, one) in planned.into_iter().enumerate() {
        let agent = one.row.agent_id.clone();
        let unit = Unit::Agent(agent.clone());
        if keeper.claims.get(&unit).is_none() {
            report.skipped.push(format!("session {}: agent {agent} is not in the config", one.row.key));
            continue;
        }
        let all = complete.entry(agent.clone()).or_insert(true);
        if began.elapsed() > pace.limit {
            *all = false;
            report.waiting += 1;
            continue;
        }
        let taken = match taken.entry(agent) {
            std::collections::btree_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => free.insert(sessions::taken(keeper, &unit).await?),
        };
        match sessions::store(keeper, world, one, taken, &mut report.skipped).await? {
            Done::Stored(messages) => {
                report.sessions += 1;
                report.messages += messages;
            }
            Done::There => report.already += 1,
            Done::Not => {}
        }
        (pace.watch)(done + 1, total);
    }
    Ok(complete)
}
