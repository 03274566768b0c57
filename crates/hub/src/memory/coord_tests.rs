use std::collections::BTreeMap;

use clawstead_bus::{Change, Member};
use futures_util::stream::BoxStream;

use super::{super::conformance, *};

/// Versioned keys in a map; loses the answer of every `lossy`-th conditional write, after doing it.
#[derive(Default)]
pub struct FakeCoord {
    keys: Mutex<(BTreeMap<String, Entry>, u64)>,
    lossy: u64,
    writes: std::sync::atomic::AtomicU64,
}

impl FakeCoord {
    pub fn losing_every(lossy: u64) -> Self {
        Self { lossy, ..Self::default() }
    }

    fn answer(&self) -> Result<(), CasError> {
        let n = self.writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if self.lossy != 0 && n.is_multiple_of(self.lossy) {
            return Err(CasError::Unknown(CoordError::Unavailable { engine: "fake", at: "here".into(), why: "the answer was lost".into() }));
        }
        Ok(())
    }
}

#[async_trait]
impl Coord for FakeCoord {
    fn engine(&self) -> &'static str {
        "fake"
    }
    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordError> {
        Ok(self.keys.lock().await.0.get(key).cloned())
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, CoordError> {
        tokio::task::yield_now().await;
        Ok(self.keys.lock().await.0.range(prefix.to_owned()..).take_while(|(k, _)| k.starts_with(prefix)).map(|(_, e)| e.clone()).collect())
    }
    async fn put_if(&self, key: &str, value: Bytes, expect: Option<Version>) -> Result<Version, CasError> {
        self.txn(&[Check { key: key.into(), expect }], &[Op::Put { key: key.into(), value }]).await?;
        Ok(self.keys.lock().await.0.get(key).map_or(Version(0), |e| e.version))
    }
    async fn put(&self, key: &str, value: Bytes) -> Result<Version, CoordError> {
        let mut keys = self.keys.lock().await;
        keys.1 += 1;
        let version = Version(keys.1);
        keys.0.insert(key.into(), Entry { key: key.into(), value, version });
        Ok(version)
    }
    async fn txn(&self, checks: &[Check], ops: &[Op]) -> Result<(), CasError> {
        tokio::task::yield_now().await;
        let mut keys = self.keys.lock().await;
        for check in checks {
            if keys.0.get(&check.key).map(|e| e.version) != check.expect {
                return Err(CasError::Conflict { key: check.key.clone() });
            }
        }
        for op in ops {
            keys.1 += 1;
            let version = Version(keys.1);
            match op {
                Op::Put { key, value } => drop(keys.0.insert(key.clone(), Entry { key: key.clone(), value: value.clone(), version })),
                Op::Delete { key } => drop(keys.0.remove(key)),
            }
        }
        self.answer()
    }
    async fn delete(&self, key: &str, expect: Option<Version>) -> Result<(), CasError> {
        let checks: Vec<Check> = expect.map(|v| Check { key: key.into(), expect: Some(v) }).into_iter().collect();
        self.txn(&checks, &[Op::Delete { key: key.into() }]).await
    }
    fn watch(&self, _: &str) -> BoxStream<'static, Change> {
        Box::pin(futures_util::stream::pending())
    }
    async fn register(&self, _: &Member) -> Result<(), CoordError> {
        Err(CoordError::Unsupported { engine: "fake", what: "service discovery" })
    }
    async fn beat(&self, _: &Member, _: &str) -> Result<(), CoordError> {
        Err(CoordError::Unsupported { engine: "fake", what: "service discovery" })
    }
    async fn deregister(&self, _: &Member) -> Result<(), CoordError> {
        Err(CoordError::Unsupported { engine: "fake", what: "service discovery" })
    }
}

#[tokio::test(start_paused = true)]
async fn memory_over_versioned_keys_passes_the_suite() {
    conformance::suite(Arc::new(CoordMemory::new(Arc::new(FakeCoord::default()), World::simulated(1)))).await;
}

#[tokio::test(start_paused = true)]
async fn lost_answers_lose_and_double_nothing() {
    let memory = Arc::new(CoordMemory::new(Arc::new(FakeCoord::losing_every(3)), World::simulated(2)));
    for n in 0..30 {
        let task = Task { id: format!("t{n:03}"), task: json!(n), by: None, at: None };
        while let Err(err) = memory.push_task(&task).await {
            assert!(matches!(err, MemoryError::Unknown { .. }), "{err}");
        }
        memory.push_event(&Event { at: None, agent: None, event: format!("e{n}"), id: None }).await.unwrap();
    }
    let mut got = Vec::new();
    while let Some(popped) = memory.pop_task("billy", &format!("r{}", got.len())).await.unwrap() {
        got.push(popped.task.task);
    }
    assert_eq!(got, (0..30).map(|n| json!(n)).collect::<Vec<_>>());
    let events: Vec<String> = memory.recent_events(100).await.unwrap().into_iter().map(|e| e.event).collect();
    assert_eq!(events, (0..30).map(|n| format!("e{n}")).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_published_keys_and_forms_are_used() {
    let coord = Arc::new(FakeCoord::default());
    let memory = CoordMemory::new(coord.clone(), World::simulated(3));
    let bobby = clawstead_terms::AgentId::parse("bobby").unwrap();
    memory.set(&MemoryKey::new(Space::Agent(bobby.clone()), "current-task").unwrap(), &json!("x"), None, &Expect::Any).await.unwrap();
    memory.set(&MemoryKey::new(Space::Shared, "recommendations").unwrap(), &json!({"n": 3}), None, &Expect::Any).await.unwrap();
    let at = Some(Millis(1_771_243_200_000));
    memory.push_event(&Event { at, agent: Some(bobby), event: "nomad-alert-cleared".into(), id: Some("i".into()) }).await.unwrap();
    coord.put("openclaw/shared/task-queue/by-hand", "backup-consul".into()).await.unwrap();
    let all: BTreeMap<String, Value> = coord.list("openclaw/").await.unwrap().into_iter().map(|e| (e.key, format::lenient(&e.value))).collect();
    let event = json!([{"timestamp": "2026-02-16T12:00:00.000Z", "agent": "bobby", "event": "nomad-alert-cleared", "id": "i"}]);
    let want = [
        ("openclaw/shared-memory/bobby/current-task", json!("x")),
        ("openclaw/shared-state/recent-events", event),
        ("openclaw/shared/recommendations", json!({"n": 3})),
        ("openclaw/shared/task-queue/by-hand", json!("backup-consul")),
    ];
    assert_eq!(all, want.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    assert_eq!(memory.pop_task("billy", "r").await.unwrap().unwrap().task.task, json!("backup-consul"));
}

#[tokio::test(start_paused = true)]
async fn old_claims_are_swept() {
    let coord = Arc::new(FakeCoord::default());
    let memory = CoordMemory::new(coord.clone(), World::simulated(4));
    memory.push_task(&Task { id: "a".into(), task: json!(1), by: None, at: None }).await.unwrap();
    memory.pop_task("billy", "r1").await.unwrap();
    assert_eq!(coord.list("openclaw/shared/task-claims/").await.unwrap().len(), 2);
    tokio::time::advance(CLAIM_KEPT + Duration::from_secs(1)).await;
    assert_eq!(memory.pop_task("billy", "r2").await.unwrap(), None);
    assert_eq!(coord.list("openclaw/shared/task-claims/").await.unwrap().len(), 0);
}

#[test]
fn events_stay_within_their_bytes() {
    let events: Vec<Value> = (0..EVENTS_MAX).map(|n| json!({"event": format!("{n:04}{}", "x".repeat(2_000))})).collect();
    let text = bounded(events);
    assert!(text.len() <= EVENTS_BYTES_MAX && text.len() > EVENTS_BYTES_MAX - 2_100, "{}", text.len());
    assert!(text.contains("\"0999x") && !text.contains("\"0001x"));
}
