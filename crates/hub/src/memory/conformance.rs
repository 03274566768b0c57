//! What every [`SharedMemory`] promises, as a suite that each implementation runs (those over real servers too).
//!
//! A store may be shared with other programs; the suite uses names of its own and expects its task queue to be empty.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use clawstead_terms::{AgentId, Millis};
use serde_json::{Value, json};

use super::{
    EVENT_BYTES_MAX, EVENTS_MAX, Event, Expect, MemoryError, MemoryKey, RESERVED, Removed, SharedMemory, Space, Stamp, TASK_BYTES_MAX, TTL_MAX, Task,
    VALUE_BYTES_MAX,
};

/// How many take tasks at the same time in the suite.
const POPPERS: usize = 16;

/// Runs everything, one after the other.
///
/// # Panics
/// When a promise is broken.
pub async fn suite(memory: Arc<dyn SharedMemory>) {
    values(&*memory).await;
    conditions(&*memory).await;
    times(&*memory).await;
    bounds(&*memory).await;
    racing_writers(&memory).await;
    events(&memory).await;
    tasks(&memory).await;
}

fn key(space: &Space, name: &str) -> MemoryKey {
    MemoryKey::new(space.clone(), name).unwrap_or_else(|err| panic!("{err}"))
}

fn agent(id: &str) -> AgentId {
    AgentId::parse(id).unwrap_or_else(|err| panic!("{err}"))
}

fn good<T>(what: &str, result: Result<T, MemoryError>) -> T {
    result.unwrap_or_else(|err| panic!("{what}: {err}"))
}

async fn values(memory: &dyn SharedMemory) {
    let (one, two) = (Space::Agent(agent("suite-one")), Space::Agent(agent("suite-two")));
    assert_eq!(good("get of nothing", memory.get(&key(&one, "a")).await), None);
    let samples = [json!("plain"), json!("7"), json!(7), json!(null), json!({"a": {"b": [1, "é", true]}}), json!([]), json!("")];
    for value in &samples {
        good("set", memory.set(&key(&one, "a"), value, None, &Expect::Any).await);
        let read = good("get", memory.get(&key(&one, "a")).await).unwrap_or_else(|| panic!("{value} is not there"));
        assert_eq!((&read.value, read.expires), (value, None));
    }
    assert_eq!(good("spaces are apart", memory.get(&key(&two, "a")).await), None);
    for space in [Space::Shared, Space::State] {
        assert_eq!(good("spaces of all are apart", memory.get(&key(&space, "a")).await), None);
        good("set", memory.set(&key(&space, "suite-apart"), &json!(format!("{space:?}")), None, &Expect::Any).await);
    }
    for space in [Space::Shared, Space::State] {
        let read = good("get", memory.get(&key(&space, "suite-apart")).await);
        assert_eq!(read.map(|r| r.value), Some(json!(format!("{space:?}"))));
        good("remove", memory.remove(&key(&space, "suite-apart"), &Expect::Any).await);
    }
    good("set", memory.set(&key(&one, "b.c_d-e"), &json!(1), None, &Expect::Any).await);
    good("set", memory.set(&key(&Space::Shared, "suite-shared"), &json!(2), None, &Expect::Any).await);
    assert_eq!(good("keys", memory.keys(&one).await), ["a", "b.c_d-e"]);
    let shared = good("keys", memory.keys(&Space::Shared).await);
    assert!(shared.contains(&"suite-shared".to_owned()) && RESERVED.iter().all(|name| !shared.iter().any(|k| k == name)), "{shared:?}");
    assert_eq!(good("remove", memory.remove(&key(&one, "a"), &Expect::Any).await), Removed::Gone);
    assert_eq!(good("remove", memory.remove(&key(&one, "a"), &Expect::Any).await), Removed::NotThere);
    assert_eq!(good("keys", memory.keys(&one).await), ["b.c_d-e"]);
    good("remove", memory.remove(&key(&one, "b.c_d-e"), &Expect::Any).await);
    good("remove", memory.remove(&key(&Space::Shared, "suite-shared"), &Expect::Any).await);
}

async fn conditions(memory: &dyn SharedMemory) {
    let k = key(&Space::Agent(agent("suite-cas")), "counter");
    let conflict = |what: &str, result: Result<Stamp, MemoryError>| assert!(matches!(result, Err(MemoryError::Conflict { .. })), "{what}: {result:?}");
    conflict("a version of nothing", memory.set(&k, &json!(1), None, &Expect::Version(Stamp("1".into()))).await);
    let first = good("absent", memory.set(&k, &json!(1), None, &Expect::Absent).await);
    conflict("absent twice", memory.set(&k, &json!(1), None, &Expect::Absent).await);
    assert_eq!(good("get", memory.get(&k).await).map(|r| r.stamp), Some(first.clone()));
    let second = good("version", memory.set(&k, &json!(2), None, &Expect::Version(first.clone())).await);
    conflict("an old version", memory.set(&k, &json!(3), None, &Expect::Version(first.clone())).await);
    conflict("no version at all", memory.set(&k, &json!(3), None, &Expect::Version(Stamp("what?".into()))).await);
    assert_eq!(good("get", memory.get(&k).await).map(|r| r.value), Some(json!(2)));
    let stale = memory.remove(&k, &Expect::Version(first)).await;
    assert!(matches!(stale, Err(MemoryError::Conflict { .. })), "{stale:?}");
    assert_eq!(good("remove", memory.remove(&k, &Expect::Version(second.clone())).await), Removed::Gone);
    let gone = memory.remove(&k, &Expect::Version(second)).await;
    assert!(matches!(gone, Err(MemoryError::Conflict { .. })), "{gone:?}");
}

async fn times(memory: &dyn SharedMemory) {
    let k = key(&Space::Agent(agent("suite-ttl")), "short");
    good("set", memory.set(&k, &json!("soon gone"), Some(Duration::from_secs(1)), &Expect::Any).await);
    let read = good("get", memory.get(&k).await);
    assert!(read.is_some_and(|r| r.expires.is_some() && r.value == json!("soon gone")));
    let mut looks = 0;
    while good("get", memory.get(&k).await).is_some() {
        looks += 1;
        assert!(looks < 400, "a value of one second lives for ever");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(good("keys", memory.keys(&k.space).await).is_empty());
    good("an expired key is absent", memory.set(&k, &json!("again"), Some(Duration::from_secs(60)), &Expect::Absent).await);
    good("a value without a time", memory.set(&k, &json!("for ever"), None, &Expect::Any).await);
    assert_eq!(good("get", memory.get(&k).await).and_then(|r| r.expires), None);
    good("remove", memory.remove(&k, &Expect::Any).await);
}

async fn bounds(memory: &dyn SharedMemory) {
    let k = key(&Space::Agent(agent("suite-bounds")), "big");
    let fits = json!("x".repeat(VALUE_BYTES_MAX - 2));
    good("the largest value", memory.set(&k, &fits, Some(Duration::from_secs(60)), &Expect::Any).await);
    let invalid = |what: &str, result: Result<Stamp, MemoryError>| assert!(matches!(result, Err(MemoryError::Invalid(_))), "{what}: {result:?}");
    invalid("a larger one", memory.set(&k, &json!("x".repeat(VALUE_BYTES_MAX - 1)), None, &Expect::Any).await);
    invalid("no time", memory.set(&k, &json!(1), Some(Duration::ZERO), &Expect::Any).await);
    invalid("too long", memory.set(&k, &json!(1), Some(TTL_MAX + Duration::from_secs(1)), &Expect::Any).await);
    invalid("our wrapping", memory.set(&k, &json!({"$value": 1, "$expires": "x"}), None, &Expect::Any).await);
    good("remove", memory.remove(&k, &Expect::Any).await);
    for name in ["", "../x", "a/b", "a:b", " ", ".hidden", "ä", &"x".repeat(129)] {
        assert!(MemoryKey::new(Space::Shared, name).is_err(), "{name:?}");
    }
    for name in RESERVED {
        assert!(MemoryKey::new(Space::Shared, name).is_err() && MemoryKey::new(Space::State, name).is_err(), "{name:?}");
    }
    let long = Event { at: None, agent: None, event: "x".repeat(EVENT_BYTES_MAX + 1), id: None };
    assert!(matches!(memory.push_event(&long).await, Err(MemoryError::Invalid(_))));
    let large = Task { id: "large".into(), task: json!("x".repeat(TASK_BYTES_MAX)), by: None, at: None };
    assert!(matches!(memory.push_task(&large).await, Err(MemoryError::Invalid(_))));
    assert!(matches!(memory.pop_task("x", "a/b").await, Err(MemoryError::Invalid(_))));
}

/// Several writers add one to a number with compare-and-swap: every addition counts.
async fn racing_writers(memory: &Arc<dyn SharedMemory>) {
    let k = key(&Space::Agent(agent("suite-race")), "sum");
    good("set", memory.set(&k, &json!(0), None, &Expect::Any).await);
    let writers = (0..8).map(|_| {
        let (memory, k) = (memory.clone(), k.clone());
        tokio::spawn(async move {
            for _ in 0..5 {
                loop {
                    let read = good("get", memory.get(&k).await).unwrap_or_else(|| panic!("the number is gone"));
                    let next = json!(read.value.as_u64().unwrap_or_default() + 1);
                    match memory.set(&k, &next, None, &Expect::Version(read.stamp)).await {
                        Ok(_) => break,
                        Err(MemoryError::Conflict { .. }) => tokio::task::yield_now().await,
                        Err(err) => panic!("{err}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap_or_else(|err| panic!("{err}"));
    }
    assert_eq!(good("get", memory.get(&k).await).map(|r| r.value), Some(json!(40)));
    good("remove", memory.remove(&k, &Expect::Any).await);
}

async fn events(memory: &Arc<dyn SharedMemory>) {
    let event = |n: usize| Event {
        at: Some(Millis(1_771_243_200_000 + i64::try_from(n).unwrap_or_default())),
        agent: Some(agent("suite-events")),
        event: format!("event {n}: with a colon, \"quotes\" and\na line"),
        id: Some(format!("suite-event-{n}")),
    };
    for n in 0..12 {
        good("push", memory.push_event(&event(n)).await);
    }
    good("the same event again", memory.push_event(&event(11)).await);
    let plain = |e: Event| Event { id: None, ..e };
    let newest: Vec<Event> = good("recent", memory.recent_events(3).await).into_iter().map(plain).collect();
    assert_eq!(newest, [9, 10, 11].map(|n| plain(event(n))));
    let pushers = (0..4).map(|part| {
        let memory = memory.clone();
        tokio::spawn(async move {
            for n in 0..10 {
                let id = format!("p{part}-{n}");
                good("push", memory.push_event(&Event { at: None, agent: None, event: id.clone(), id: Some(id) }).await);
            }
        })
    });
    for pusher in pushers.collect::<Vec<_>>() {
        pusher.await.unwrap_or_else(|err| panic!("{err}"));
    }
    let all: BTreeSet<String> = good("recent", memory.recent_events(40).await).into_iter().map(|e| e.event).collect();
    assert_eq!(all.len(), 40, "an event of four concurrent writers was lost: {all:?}");
    for n in 0..EVENTS_MAX {
        let id = format!("cap-{n}");
        good("push", memory.push_event(&Event { at: None, agent: None, event: id.clone(), id: Some(id) }).await);
    }
    let kept = good("recent", memory.recent_events(usize::MAX).await);
    assert_eq!((kept.len(), kept[0].event.as_str(), kept[EVENTS_MAX - 1].event.as_str()), (EVENTS_MAX, "cap-0", "cap-999"));
}

async fn tasks(memory: &Arc<dyn SharedMemory>) {
    assert_eq!(good("pop of nothing", memory.pop_task("suite", "r-none").await), None);
    let task = |n: usize| Task { id: format!("suite-task-{n:04}"), task: json!({ "n": n }), by: Some("suite".into()), at: Some(Millis(1_771_243_200_000)) };
    assert_eq!(good("push", memory.push_task(&task(0)).await), 1);
    assert_eq!(good("push", memory.push_task(&task(1)).await), 2);
    assert_eq!(good("the same task again", memory.push_task(&task(1)).await), 2);
    assert_eq!(good("waiting", memory.waiting_tasks(1).await), [task(0)]);
    let first = good("pop", memory.pop_task("suite", "r-1").await).map(|p| (p.task, p.remaining));
    assert_eq!(first, Some((task(0), 1)));
    let again = good("the same request", memory.pop_task("suite", "r-1").await).map(|p| (p.task, p.remaining));
    assert_eq!(again, Some((task(0), 1)));
    assert_eq!(good("a taken task is no new one", memory.push_task(&task(0)).await), 1);
    assert_eq!(good("pop", memory.pop_task("suite", "r-2").await).map(|p| p.task), Some(task(1)));
    assert_eq!(good("pop of nothing", memory.pop_task("suite", "r-3").await), None);

    let total = 64;
    for n in 100..100 + total {
        good("push", memory.push_task(&task(n)).await);
    }
    let poppers = (0..POPPERS).map(|who| {
        let memory = memory.clone();
        tokio::spawn(async move {
            let mut got: Vec<Value> = Vec::new();
            while let Some(popped) = good("pop", memory.pop_task("suite", &format!("w{who}-{}", got.len())).await) {
                got.push(popped.task.task);
            }
            got
        })
    });
    let mut given = Vec::new();
    for popper in poppers.collect::<Vec<_>>() {
        given.extend(popper.await.unwrap_or_else(|err| panic!("{err}")).iter().map(|task| task["n"].as_u64().unwrap_or_default()));
    }
    given.sort_unstable();
    assert_eq!(given, (100..100 + total as u64).collect::<Vec<_>>(), "each task once to {POPPERS} takers");
}
