//! An older OpenClaw's state folder is taken over: every message, job, device and allow list once, whatever crashes in
//! between, and without a change to the old files. All fixtures are made up.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clawstead_agent::{HistoryPage, SessionRow};
use clawstead_config::{Config, DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
use clawstead_gateway::{
    building::{Building, Ground, SetUpWorkspaces},
    cron::job::{Job, Payload, Schedule, SlotRow},
    devices::{Devices, PairedDevice},
    import::{self, LINE_BYTES_MAX, Looks, MARK_KEY, Report, SourceRow},
    keeper::{Claims, Keeper},
    live::Live,
    rpc::system::Process,
};
use clawstead_state::{Crash, MemoryStore, Scan, Store, Table, TxError, read_journal_json};
use clawstead_terms::{AgentId, JournalEvent, Message, Millis, Part, Role, SessionKey, StopReason, Unit};
use clawstead_tools::{Places, approvals::ApprovalsFile};
use clawstead_wire::device::DeviceIdentity;
use clawstead_world::World;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Folder {
    dir: tempfile::TempDir,
    config: Arc<Config>,
    snapshot: Snapshot,
    env: Env,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

impl Folder {
    fn new(fixture: Option<&str>, agents: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some(name) = fixture {
            copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import").join(name), dir.path());
        }
        let home = dir.path().display().to_string();
        let env = Env::from_pairs([("HOME", home.as_str()), ("OPENCLAW_STATE_DIR", home.as_str())]);
        let paths = Paths::resolve(Profile::from_flags(None, DevFlag::Off).unwrap(), &env);
        let list: Vec<Value> = agents.iter().map(|id| json!({"id": id})).collect();
        let text =
            json!({"agents": {"defaults": {"heartbeat": {"every": "0m"}}, "list": list}, "gateway": {"mode": "local", "auth": {"mode": "none"}}}).to_string();
        let snapshot = Snapshot::from_bytes(text.as_bytes(), &paths, &env, ReadOptions::default());
        let config = snapshot.load(Strictness::Tolerant, SecretOptions::default()).unwrap().config;
        Self { dir, config, snapshot, env }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// One session of agent `main` with these transcript lines.
    fn session(&self, lines: &str) {
        self.write("agents/main/sessions/sessions.json", json!({"main": {"sessionId": "s-1", "updatedAt": 1_772_359_200_000_i64}}).to_string());
        self.write("agents/main/sessions/s-1.jsonl", lines);
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, out) } else { drop(out.insert(path.clone(), fs::read(&path).unwrap())) }
            }
        }
        let mut out = BTreeMap::new();
        walk(self.dir.path(), &mut out);
        out
    }
}

async fn keeper(store: MemoryStore, config: &Config) -> Keeper {
    let keeper = Keeper { store: Arc::new(store), claims: Arc::new(Claims::default()) };
    let mut units = vec![Unit::Global];
    units.extend(config.agents.list.iter().map(|one| Unit::Agent(one.id.clone())));
    keeper.claim(&units, "test", 1).await.unwrap();
    keeper
}

async fn imported(folder: &Folder) -> (Keeper, Report) {
    let keeper = keeper(MemoryStore::new(), &folder.config).await;
    let report = import::run(&keeper, &folder.config, &World::simulated(1)).await.unwrap();
    (keeper, report)
}

fn main_unit() -> Unit {
    Unit::Agent(AgentId::normalise("main"))
}

async fn row(keeper: &Keeper, key: &str) -> SessionRow {
    keeper.get(&main_unit(), Table::Sessions, key).await.unwrap().unwrap_or_else(|| panic!("no session {key}"))
}

async fn events(keeper: &Keeper, session: &str) -> Vec<JournalEvent> {
    read_journal_json::<JournalEvent>(&*keeper.store, &main_unit(), session, 1, 10_000).await.unwrap().into_iter().map(|(_, event)| event).collect()
}

fn told(event: &JournalEvent) -> String {
    match event {
        JournalEvent::Said { message } => format!("{:?} {} {}", message.role, message.id, message.plain_text()).trim().to_lowercase(),
        JournalEvent::Compacted { summary, first_kept, tokens_before, .. } => format!("compacted {summary} from {first_kept:?} at {tokens_before}"),
        JournalEvent::Reset { reason, .. } => format!("reset {reason}"),
        other => format!("{other:?}"),
    }
}

const MAIN: &str = "11111111-0000-4000-8000-000000000001";

#[tokio::test]
async fn files_of_march_become_sessions_jobs_devices_and_allow_lists() {
    let folder = Folder::new(Some("march"), &["main"]);
    let before = folder.files();
    let (keeper, report) = imported(&folder).await;
    assert_eq!(folder.files(), before, "the old files were changed");
    assert_eq!((report.sessions, report.messages, report.jobs, report.runs, report.devices, report.approvals), (3, 11, 2, 2, 1, 2), "{report:#?}");

    let main = events(&keeper, MAIN).await;
    let want = [
        "user e2 first question",
        "assistant e3 first answer",
        "user e7 read the file",
        "assistant e8",
        "tool e9",
        "assistant e10 it says: the text",
        "compacted they read a file from Some(\"e7\") at 900",
        "system e13 mind the gap",
        "user e14 and now?",
        "assistant e15",
    ];
    assert_eq!(main.iter().map(told).collect::<Vec<_>>(), want);
    let said = |at: usize| match &main[at] {
        JournalEvent::Said { message } => (**message).clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(said(2).parts[1], Part::Image { mime_type: "image/png".into(), data: "aGk=".into() });
    let call = said(3);
    assert_eq!(call.parts[0], Part::Thinking { text: "hm".into(), signature: Some("sig".into()) });
    assert_eq!(call.parts[1], Part::ToolCall { id: "call_1".into(), name: "read".into(), arguments: json!({"path": "a.md"}) });
    assert_eq!((call.model.as_deref(), call.stop_reason, call.at), (Some("mock/m1"), Some(StopReason::ToolUse), Millis(1_772_359_208_000)));
    let usage = call.usage.unwrap();
    assert_eq!((usage.input, usage.output, usage.cache_read, usage.cost_usd), (10, 2, 1, 0.5));
    assert!(matches!(&said(4).parts[0], Part::ToolResult { id, name, is_error: false, details: Some(_), .. } if id == "call_1" && name == "read"));
    assert_eq!((said(9).stop_reason, said(9).meta), (Some(StopReason::Error), Some(json!({"error": "overloaded"}))));

    let one = row(&keeper, "agent:main:main").await;
    // The context is built from line 3, the first message the compaction keeps.
    assert_eq!((one.session_id.as_str(), one.message_count, one.reset_seq, one.base_seq), (MAIN, 9, 0, 3));
    assert_eq!((one.derived_title.as_deref(), one.last_message_preview.as_deref()), (Some("first question"), Some("and now?")));
    assert_eq!((one.model_override.as_deref(), one.thinking_level.as_deref(), one.context_tokens), (Some("mock/m2"), Some("low"), Some(200_000)));
    assert_eq!(one.extra.keys().map(String::as_str).collect::<Vec<_>>(), ["verboseLevel", "importedFrom"]);
    let group = row(&keeper, "agent:main:telegram:group:-100").await;
    assert_eq!((group.message_count, group.display_name.as_deref()), (2, Some("Family")));
    let direct = row(&keeper, "agent:main:telegram:direct:42").await;
    assert_eq!(direct.delivery_context.unwrap().to, "42");

    let jobs = keeper.scan::<Job>(&main_unit(), Table::CronJobs, &Scan::prefix("")).await.unwrap();
    let jobs: BTreeMap<String, Job> = jobs.into_iter().map(|row| (row.value.id.clone(), row.value)).collect();
    assert_eq!(jobs.keys().map(String::as_str).collect::<Vec<_>>(), ["job-night", "job-once"]);
    let night = &jobs["job-night"];
    assert_eq!(night.schedule, Schedule::Cron { expr: "0 3 * * *".into(), tz: Some("Europe/Berlin".into()), stagger_ms: None });
    assert_eq!(night.state.next_run_at_ms, Some(1_900_000_000_000));
    assert_eq!(night.delivery.as_ref().unwrap().to.as_deref(), Some("42"));
    assert!(matches!(&night.payload, Payload::AgentTurn { message, .. } if message == "report"));
    assert!(matches!(&jobs["job-once"].schedule, Schedule::At { at } if at.starts_with("2030-03-17T")));
    let runs = keeper.scan::<SlotRow>(&main_unit(), Table::CronRuns, &Scan::prefix("job-night/")).await.unwrap();
    assert_eq!(runs.iter().map(|run| run.value.entry.as_ref().unwrap().status.as_str()).collect::<Vec<_>>(), ["ok", "error"]);

    // The token of a device is still good.
    let fence = keeper.claims.get(&Unit::Global).unwrap();
    let devices = Devices::load(keeper.store.clone(), fence, World::simulated(1)).await.unwrap();
    let paired: Vec<PairedDevice> = devices.paired();
    assert_eq!(paired.len(), 1);
    assert_eq!(devices.check_token(&paired[0].device_id, "operator", "synthetic-device-token"), Some(vec!["operator.admin".to_owned()]));
    let file: ApprovalsFile = keeper.get(&Unit::Global, Table::Approvals, "exec-approvals").await.unwrap().unwrap();
    assert_eq!(file.of("main").allowlist[0].pattern, "/usr/bin/rg");

    let source: SourceRow = keeper.get(&main_unit(), Table::Meta, &format!("import/source/agents/main/sessions/{MAIN}.jsonl")).await.unwrap().unwrap();
    let text = fs::read(folder.path(&format!("agents/main/sessions/{MAIN}.jsonl"))).unwrap();
    assert_eq!(source.bytes, text.len() as u64);
    assert_eq!(source.sha256, hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&text)));
    assert!(source.mtime_ms > 0);
    let words = report.skipped.join("\n");
    for part in [
        "1 torn last line",
        "\"hologram\"",
        "has no session id",
        "has no transcript",
        "on-exit",
        "\"script\"",
        "\"away\"",
        "its id does not belong to its key",
        "agent old",
        "1 archives",
        "approved by pairing",
    ] {
        assert!(words.contains(part), "{part} is not named in:\n{words}");
    }
    assert!(!words.contains("synthetic"), "a secret is named");
}

#[tokio::test]
async fn a_second_import_changes_nothing_and_the_mark_makes_it_free() {
    let folder = Folder::new(Some("march"), &["main"]);
    let store = MemoryStore::new();
    let keeper = keeper(store.clone(), &folder.config).await;
    let world = World::simulated(1);
    let first = import::run(&keeper, &folder.config, &world).await.unwrap();
    let image = sum(&keeper).await;
    let batches = store.counters().batches;
    assert!(import::run(&keeper, &folder.config, &world).await.unwrap().is_empty());
    assert_eq!(store.counters().batches, batches, "a marked folder is written for");
    let again = import::run_with(&keeper, &folder.config, &world, Looks::Again).await.unwrap();
    assert_eq!((again.sessions, again.messages, again.jobs, again.devices, again.approvals), (0, 0, 0, 0, 0));
    assert_eq!(again.already, first.sessions + first.jobs + first.devices + 1);
    assert_eq!(sum(&keeper).await, image);
    let plan = import::plan(&folder.config, Millis(1));
    assert_eq!(
        (plan.sessions, plan.messages, plan.jobs, plan.runs, plan.devices),
        (first.sessions, first.messages, first.jobs + 1, first.runs, first.devices),
        "{plan:#?}"
    );
}

/// Everything but moments and marks.
async fn sum(keeper: &Keeper) -> Vec<String> {
    let mut out = Vec::new();
    for unit in [Unit::Global, main_unit()] {
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Meta) {
            out.extend(
                keeper
                    .store
                    .scan(&unit, table, &Scan::prefix(""))
                    .await
                    .unwrap()
                    .into_iter()
                    .map(|row| format!("{unit} {} {} {}", table.name(), row.key, row.value)),
            );
        }
        for journal in keeper.store.journals(&unit, None, 1000).await.unwrap() {
            out.extend(keeper.store.read_journal(&unit, &journal, 1, 100_000).await.unwrap().into_iter().map(|(seq, line)| format!("{journal} {seq} {line}")));
        }
    }
    out
}

/// Whichever commit fails or whose answer is lost: the next start brings it to the same end.
#[tokio::test]
async fn a_crash_at_any_commit_is_made_good_by_the_next_start() {
    let folder = Folder::new(Some("march"), &["main"]);
    // More than one batch of lines in one session.
    let mut long = String::new();
    for n in 0..1_300 {
        let line =
            json!({"type": "message", "id": format!("n{n}"), "timestamp": "2026-03-01T10:00:00Z", "message": {"role": "user", "content": format!("line {n}")}});
        long.push_str(&format!("{line}\n"));
    }
    folder.write("agents/main/sessions/33333333-0000-4000-8000-000000000003.jsonl", &long);
    let (whole, report) = imported(&folder).await;
    assert_eq!(report.messages, 11 + 1_300);
    let want = sum(&whole).await;
    let world = World::simulated(1);
    for lost in [false, true] {
        let mut at = 0;
        loop {
            let store = MemoryStore::new();
            let first = keeper(store.clone(), &folder.config).await;
            let failing = Failing { store: store.clone(), left: std::sync::Mutex::new(at), lost };
            let broken = Keeper { store: Arc::new(failing), claims: first.claims.clone() };
            let ended = import::run(&broken, &folder.config, &world).await;
            if ended.is_ok() {
                assert!(at > 5, "only {at} commits");
                break;
            }
            // The next start, under a new fence.
            let next = keeper(MemoryStore::on(store.image()), &folder.config).await;
            assert!(next.get::<Value>(&Unit::Global, Table::Meta, MARK_KEY).await.unwrap().is_none() || lost, "marked before all was in");
            import::run(&next, &folder.config, &world).await.unwrap();
            for (have, want) in sum(&next).await.iter().zip(&want) {
                assert_eq!(have, want, "after a fault at commit {at}");
            }
            assert_eq!(sum(&next).await.len(), want.len(), "after a fault at commit {at}");
            at += 1;
        }
    }
}

/// A store whose n-th commit fails, before or after it was written, and everything after it.
struct Failing {
    store: MemoryStore,
    left: std::sync::Mutex<usize>,
    lost: bool,
}

#[async_trait::async_trait]
impl Store for Failing {
    async fn claim(&self, unit: &Unit, fence: &clawstead_terms::Fence) -> Result<(), TxError> {
        self.store.claim(unit, fence).await
    }
    async fn fence(&self, unit: &Unit) -> Result<Option<clawstead_terms::Fence>, TxError> {
        self.store.fence(unit).await
    }
    async fn commit(&self, fence: &clawstead_terms::Fence, batch: clawstead_state::Batch) -> Result<(), TxError> {
        let now = {
            let mut left = self.left.lock().unwrap();
            let now = *left == 0;
            *left = left.saturating_sub(1);
            now
        };
        if now {
            if self.lost {
                self.store.commit(fence, batch).await?;
            }
            self.store.crash(Crash::LoseUnanswered);
            return Err(TxError::Away { path: "memory".into(), why: "crash".into(), maybe: self.lost });
        }
        self.store.commit(fence, batch).await
    }
    async fn get(&self, unit: &Unit, table: Table, key: &str) -> Result<Option<clawstead_state::Row>, TxError> {
        self.store.get(unit, table, key).await
    }
    async fn scan(&self, unit: &Unit, table: Table, scan: &Scan) -> Result<Vec<clawstead_state::Row>, TxError> {
        self.store.scan(unit, table, scan).await
    }
    async fn read_journal(&self, unit: &Unit, journal: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, TxError> {
        self.store.read_journal(unit, journal, from, limit).await
    }
    async fn journal_end(&self, unit: &Unit, journal: &str) -> Result<u64, TxError> {
        self.store.journal_end(unit, journal).await
    }
    async fn journals(&self, unit: &Unit, after: Option<&str>, limit: usize) -> Result<Vec<String>, TxError> {
        self.store.journals(unit, after, limit).await
    }
    async fn units(&self) -> Result<Vec<Unit>, TxError> {
        self.store.units().await
    }
    fn describe(&self) -> String {
        self.store.describe()
    }
    fn counters(&self) -> clawstead_state::StoreCounters {
        self.store.counters()
    }
    async fn close(&self) {
        self.store.close().await;
    }
}

fn said(id: &str, parent: &str, text: &str) -> String {
    format!(
        "{}\n",
        json!({"type": "message", "id": id, "parentId": if parent.is_empty() { Value::Null } else { json!(parent) }, "timestamp": "2026-03-01T10:00:00Z", "message": {"role": "user", "content": text}})
    )
}

async fn conversation(lines: &str) -> (Vec<String>, Report) {
    let folder = Folder::new(None, &["main"]);
    folder.session(lines);
    let (keeper, report) = imported(&folder).await;
    (events(&keeper, "s-1").await.iter().map(told).collect(), report)
}

#[tokio::test]
async fn broken_transcripts_keep_what_can_be_kept() {
    // A ring and a parent that is nowhere: the line before takes the place.
    let ring = said("a", "c", "one") + &said("b", "a", "two") + &said("c", "b", "three") + &said("d", "lost", "four");
    let (told, report) = conversation(&ring).await;
    assert_eq!(told, ["user a one", "user b two", "user c three", "user d four"]);
    assert!(report.skipped[0].contains("2 broken links"), "{report:?}");
    // An entry that is its own parent.
    assert_eq!(conversation(&said("a", "a", "self")).await.0, ["user a self"]);
    // Rubbish in the middle, bytes that are no UTF-8, an empty line.
    let (told, report) = conversation(&(said("a", "", "one") + "not json\n\n{\"type\":7}\n[]\n" + &said("b", "a", "two"))).await;
    assert_eq!(told, ["user a one", "user b two"]);
    assert!(report.skipped[0].contains("unreadable"), "{report:?}");
    // Cut anywhere: never more than the last message is lost, and nothing is made up.
    let whole = said("a", "", "one") + &said("b", "a", "two") + &said("c", "b", "three");
    let all = ["user a one", "user b two", "user c three"];
    for cut in (0..=whole.len()).step_by(7) {
        let (told, _) = conversation(&whole[..cut]).await;
        let ends = whole[..cut].matches('\n').count();
        assert!(told == all[..ends] || told == all[..(ends + 1).min(3)], "cut at {cut}: {told:?}");
    }
    // Going back to an earlier entry, as the original writes it today.
    let back = said("a", "", "one")
        + &said("b", "a", "left")
        + "{\"type\":\"leaf\",\"id\":\"l\",\"parentId\":\"b\",\"targetId\":\"a\"}\n"
        + &said("c", "a", "instead");
    assert_eq!(conversation(&back).await.0, ["user a one", "user c instead"]);
    // A reset that keeps the end.
    let reset = said("a", "", "one")
        + &said("b", "a", "two")
        + "{\"type\":\"reset\",\"id\":\"r\",\"parentId\":\"b\",\"reason\":\"daily\",\"firstKeptEntryId\":\"b\"}\n"
        + &said("c", "r", "three");
    assert_eq!(conversation(&reset).await.0, ["user a one", "user b two", "reset daily", "user b two", "user c three"]);
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_is_left_out_and_the_chain_holds() {
    let folder = Folder::new(None, &["main"]);
    folder.session("");
    let path = folder.path("agents/main/sessions/s-1.jsonl");
    let mut text = said("a", "", "one").into_bytes();
    text.extend_from_slice(b"{\"type\":\"message\",\"id\":\"b\",\"parentId\":\"a\",\"message\":{\"role\":\"user\",\"content\":\"");
    text.resize(text.len() + 100 * 1024 * 1024, b'x');
    assert!(text.len() > LINE_BYTES_MAX);
    text.extend_from_slice(b"\"}}\n");
    text.extend_from_slice(said("c", "b", "three").as_bytes());
    fs::write(path, text).unwrap();
    let (keeper, report) = imported(&folder).await;
    assert_eq!(events(&keeper, "s-1").await.iter().map(told).collect::<Vec<_>>(), ["user a one", "user c three"]);
    assert!(report.skipped[0].contains("1 lines too long"), "{report:?}");
}

#[tokio::test]
async fn lines_of_mission_003_are_the_main_conversation() {
    let folder = Folder::new(Some("bare"), &["main"]);
    let (keeper, report) = imported(&folder).await;
    assert_eq!((report.sessions, report.messages), (1, 4), "{report:?}");
    let told: Vec<String> = events(&keeper, "s-new").await.iter().map(told).collect();
    assert_eq!(told, ["user line-1 old talk", "assistant line-2 old answer", "reset new", "user line-3 new talk", "assistant line-4 new answer"]);
    let row = row(&keeper, "agent:main:main").await;
    assert_eq!((row.message_count, row.reset_seq, row.derived_title.as_deref()), (2, 3, Some("new talk")));
}

fn databases(folder: &Folder, packed: bool) {
    fs::create_dir_all(folder.path("state")).unwrap();
    fs::create_dir_all(folder.path("agents/main/agent")).unwrap();
    let meta = "create table schema_meta (meta_key text primary key, role text, schema_version integer);";
    let shared = rusqlite::Connection::open(folder.path("state/openclaw.sqlite")).unwrap();
    shared
        .execute_batch(&format!(
            "{meta} insert into schema_meta values ('primary', 'global', 18);
            create table cron_jobs (job_id text, job_json text, state_json text, sort_order integer, updated_at integer);
            create table device_pairing_paired (device_id text, public_key text, display_name text, platform text, device_family text, client_id text, client_mode text, role text, roles_json text, scopes_json text, approved_scopes_json text, tokens_json text, approved_via text, created_at_ms integer, approved_at_ms integer, last_seen_at_ms integer);
            create table exec_approvals_config (config_key text, raw_json text);
            insert into exec_approvals_config values ('x', '{{\"version\":1,\"defaults\":{{\"security\":\"deny\"}}}}');"
        ))
        .unwrap();
    let job = |id: &str, payload: Value, key: Value| json!({"id": id, "name": id, "declarationKey": key, "enabled": true, "createdAtMs": 5, "schedule": {"kind": "every", "everyMs": 60_000}, "sessionTarget": "isolated", "wakeMode": "now", "payload": payload, "state": {}});
    for one in [
        job("mine", json!({"kind": "agentTurn", "message": "x", "toolsAllow": ["*"]}), Value::Null),
        job("beat", json!({"kind": "heartbeat"}), json!("heartbeat:main")),
        job("dream", json!({"kind": "agentTurn", "message": "__x__"}), json!("memory-core:dream")),
    ] {
        shared
            .execute("insert into cron_jobs values (?1, ?2, '{\"nextRunAtMs\":1900000000000}', 0, 7)", [one["id"].as_str().unwrap(), &one.to_string()])
            .unwrap();
    }
    let identity = DeviceIdentity::from_seed(&[3; 32]);
    shared
        .execute(
            "insert into device_pairing_paired values (?1, ?2, null, 'ios', null, 'openclaw-ios', 'ui', 'operator', '[\"operator\"]', '[\"operator.read\"]', '[\"operator.read\"]', '{\"operator\":{\"token\":\"t-1\",\"role\":\"operator\",\"scopes\":[\"operator.read\"],\"createdAtMs\":5}}', 'silent', 5, 5, 6)",
            [identity.id().to_owned(), identity.public_key()],
        )
        .unwrap();
    let own = rusqlite::Connection::open(folder.path("agents/main/agent/openclaw-agent.sqlite")).unwrap();
    own.execute_batch(&format!(
        "{meta} insert into schema_meta values ('primary', 'agent', 23);
        create table session_nodes (session_key text, current_session_id text, entry_json text, updated_at integer, created_at integer, archived_at integer, pinned_at integer, label text, display_name text, status text, last_interaction_at integer);
        create table transcript_events (session_id text, seq integer, event_json text, event_zstd blob, primary key (session_id, seq));
        create table auth_profile_store (store_key text, store_json text);
        insert into auth_profile_store values ('default', '{{\"key\":\"secret\"}}');
        insert into session_nodes values ('agent:main:main', 'd-1', '{{\"sessionId\":\"d-1\",\"lifecycleRevision\":\"u\",\"delivery\":{{\"kind\":\"none\"}}}}', 9000, 1000, null, null, 'Named', null, 'running', 9000);"
    ))
    .unwrap();
    let lines = [
        "{\"type\":\"session\",\"version\":4,\"id\":\"d-1\"}\n".to_owned(),
        said("a", "", "one"),
        said("b", "a", "two"),
        "{\"type\":\"reset\",\"id\":\"r\",\"parentId\":\"b\",\"timestamp\":\"2026-11-20T14:26:35Z\",\"reason\":\"reset\"}".to_owned(),
        said("c", "r", &"three ".repeat(50)),
    ];
    for (seq, line) in lines.iter().enumerate() {
        let line = line.trim_end();
        if packed && seq == 4 {
            let blob = ruzstd::encoding::compress_to_vec(line.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
            own.execute("insert into transcript_events values ('d-1', ?1, null, ?2)", rusqlite::params![seq as i64, blob]).unwrap();
        } else {
            own.execute("insert into transcript_events values ('d-1', ?1, ?2, null)", rusqlite::params![seq as i64, line]).unwrap();
        }
    }
    own.execute("insert into transcript_events values ('d-1', 90, null, x'00ff')", []).unwrap();
}

#[tokio::test]
async fn databases_of_today_are_read_and_not_touched() {
    let folder = Folder::new(None, &["main"]);
    databases(&folder, true);
    let before = folder.files();
    let (keeper, report) = imported(&folder).await;
    assert_eq!(folder.files(), before, "the old files were changed, or something was left beside them");
    assert_eq!((report.sessions, report.messages, report.jobs, report.devices), (1, 3, 1, 1), "{report:#?}");
    let told: Vec<String> = events(&keeper, "d-1").await.iter().map(told).collect();
    assert_eq!(told, ["user a one".to_owned(), "user b two".into(), "reset reset".into(), format!("user c {}", "three ".repeat(50)).trim().into()]);
    let row = row(&keeper, "agent:main:main").await;
    assert_eq!((row.message_count, row.reset_seq, row.base_seq, row.label.as_deref(), row.aborted_last_run), (1, 3, 3, Some("Named"), true));
    let words = report.skipped.join("\n");
    for part in ["\"beat\"", "\"dream\"", "1 unreadable", "1 stores of sign-in profiles"] {
        assert!(words.contains(part), "{part} is not named in:\n{words}");
    }
    assert!(!words.contains("secret"));
}

/// A database that was not closed has a write-ahead log: it is read too, through a copy.
#[tokio::test]
async fn a_write_ahead_log_is_read_through_a_copy() {
    let folder = Folder::new(None, &["main"]);
    databases(&folder, false);
    let path = folder.path("agents/main/agent/openclaw-agent.sqlite");
    let open = rusqlite::Connection::open(&path).unwrap();
    open.pragma_update(None, "journal_mode", "wal").unwrap();
    open.execute("insert into transcript_events values ('d-1', 91, ?1, null)", [said("e", "c", "in the log").trim_end()]).unwrap();
    let before = folder.files();
    assert!(before.contains_key(&folder.path("agents/main/agent/openclaw-agent.sqlite-wal")));
    let (keeper, report) = imported(&folder).await;
    assert_eq!(report.messages, 4, "{report:#?}");
    assert!(events(&keeper, "d-1").await.iter().any(|event| told(event).contains("in the log")));
    assert_eq!(folder.files(), before);
    drop(open);
}

#[tokio::test]
async fn a_running_original_is_not_taken_over_from() {
    let folder = Folder::new(Some("march"), &["main"]);
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let lock = json!({"pid": other.id(), "port": 18789, "stateDir": folder.dir.path()});
    folder.write("tmp/openclaw-0/gateway.state.lock", format!("{lock}\n \t \t  \n"));
    let keeper = keeper(MemoryStore::new(), &folder.config).await;
    let world = World::simulated(1);
    let failure = import::run(&keeper, &folder.config, &world).await.unwrap_err();
    assert!(failure.message.contains(&other.id().to_string()) && failure.message.contains("18789") && failure.message.contains("stop it"), "{failure}");
    assert!(import::plan(&folder.config, Millis(1)).refused.is_some());
    other.kill().unwrap();
    other.wait().unwrap();
    // What a dead gateway left does not block.
    assert_eq!(import::run(&keeper, &folder.config, &world).await.unwrap().sessions, 3);
}

#[tokio::test]
async fn an_empty_folder_and_agents_that_come_later() {
    let empty = Folder::new(None, &["main"]);
    let (keeper_of_empty, report) = imported(&empty).await;
    assert!(report.is_empty());
    assert!(keeper_of_empty.get::<Value>(&Unit::Global, Table::Meta, MARK_KEY).await.unwrap().is_none());
    // An agent that is put into the config later brings its sessions then, and nothing else comes twice.
    let store = MemoryStore::new();
    let folder = Folder::new(Some("march"), &["other"]);
    let world = World::simulated(1);
    assert_eq!(import::run(&keeper(store.clone(), &folder.config).await, &folder.config, &world).await.unwrap().sessions, 0);
    let later = Folder::new(Some("march"), &["other", "main"]);
    let keeper = keeper(MemoryStore::on(store.image()), &later.config).await;
    let report = import::run(&keeper, &later.config, &world).await.unwrap();
    assert_eq!((report.sessions, report.devices), (3, 0), "{report:#?}");
}

async fn raise(folder: &Folder) -> Building {
    let (live, reloads) = Live::new(folder.snapshot.clone(), folder.config.clone(), folder.env.clone(), None, Strictness::Tolerant);
    let process = Process {
        version: "test".into(),
        instance: "test".into(),
        started: tokio::time::Instant::now(),
        port: 0,
        storage: "memory".into(),
        log_dir: folder.dir.path().to_owned(),
        log_file: None,
        restart: CancellationToken::new(),
    };
    Building::raise(Ground {
        world: World::simulated(5),
        store: Arc::new(MemoryStore::new()),
        live,
        reloads,
        identity: DeviceIdentity::from_seed(&[1; 32]),
        name: "test".into(),
        process: Arc::new(process),
        brain: None,
        places: Places { state_dir: folder.dir.path().to_owned(), home: folder.dir.path().to_owned(), env: BTreeMap::new() },
        further_tools: Vec::new(),
        set_up_workspaces: SetUpWorkspaces::No,
        farm: None,
    })
    .await
    .unwrap()
}

async fn messages(building: &Building, key: &SessionKey) -> Vec<(Role, Vec<Part>, Option<String>, Option<StopReason>, Millis, Option<Value>)> {
    let history = building.lanes.history(key, HistoryPage::Newest { limit: 1_000, skip: 0 }).await.unwrap();
    let told = |m: Message| (m.role, m.parts, m.model, m.stop_reason, m.at, m.meta.filter(|_| m.role == Role::Assistant));
    history.items.into_iter().map(|item| told(item.message)).collect()
}

/// A gateway that starts on the old folder shows the old conversation; what it exports comes back as the same one.
#[tokio::test]
async fn an_export_comes_back_as_the_same_messages() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = Folder::new(Some("march"), &["main"]);
    let first = raise(&folder).await;
    let key = SessionKey::main(&AgentId::normalise("main"));
    let want = messages(&first, &key).await;
    assert_eq!(want.len(), 9);
    let mut text = String::new();
    first.lanes.export_jsonl(&key, &mut |line| text.push_str(&line)).await.unwrap();
    let second = Folder::new(None, &["main"]);
    second.session(&text);
    let again = raise(&second).await;
    assert_eq!(messages(&again, &key).await, want);
    let compacted = |events: Vec<JournalEvent>| events.iter().filter(|event| matches!(event, JournalEvent::Compacted { first_kept: Some(_), .. })).count();
    let keeper = &again.keeper;
    assert_eq!(compacted(events(keeper, "s-1").await), 1);
}
