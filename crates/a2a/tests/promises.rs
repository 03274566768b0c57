//! What must hold whatever happens: once, durable, really cancelled, nothing missed, nobody private called.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use std::sync::{Arc, Mutex};

use axum::{Router, extract::State, http::HeaderMap, routing::post};
use clawstead_a2a::{
    client::{Client, ClientError, Verify},
    proto::{AuthenticationInfo, ErrorKind, ListTasksRequest, SendMessageConfiguration, StreamResponse, TaskPushNotificationConfig, TaskState},
    server::{MemoryTasks, StoreError, Table, Tasks, Write},
    sign::{CardKey, CardPublicKey},
};
use futures_util::{StreamExt as _, future::join_all};
use serde_json::Value;
use support::{ANN, BOB, echo::store::FileTasks, house, on, quick, says, serve, settings, task, until, world};

#[tokio::test]
async fn a_message_sent_again_is_the_same_task_and_one_run() {
    let house = house().await;
    for remote in house.both(ANN).await {
        let id = format!("once-{:?}", remote.binding());
        let before = house.agents.started().len();
        let all = join_all((0..8).map(|_| remote.send(says(&id, "echo once")))).await;
        let ids: std::collections::BTreeSet<String> = all.into_iter().map(|one| task(one.unwrap()).id).collect();
        assert_eq!((ids.len(), house.agents.started().len() - before), (1, 1));
        let mut again = remote.stream(says(&id, "echo once")).await.unwrap();
        let (_, first) = again.next().await.unwrap().unwrap();
        assert!(matches!(first, StreamResponse::Task(task) if ids.contains(&task.id) && task.status.state == TaskState::Completed));
        assert!(again.next().await.is_none());
        let other = remote.send(says(&id, "echo something else")).await.unwrap_err();
        assert_eq!(other.refusal().map(|error| error.kind), Some(ErrorKind::InvalidParams), "an id stands for one message");
    }
    let bob = house.caller(BOB).await;
    let before = house.agents.started().len();
    task(bob.send(says("once-JsonRpc", "echo once")).await.unwrap());
    assert_eq!(house.agents.started().len() - before, 1, "the id of another caller is another message");
}

#[tokio::test]
async fn cancelling_stops_the_work() {
    let house = house().await;
    for remote in house.both(ANN).await {
        let mut events = remote.stream(says(&format!("c-{:?}", remote.binding()), "hang")).await.unwrap();
        let (_, first) = events.next().await.unwrap().unwrap();
        let StreamResponse::Task(made) = first else { panic!("{first:?}") };
        until("the agent is at it", async || house.agents.at_work() == 1).await;
        let canceled = remote.cancel(&made.id).await.unwrap();
        assert_eq!(canceled.status.state, TaskState::Canceled);
        assert_eq!(house.agents.at_work(), 0, "nothing runs any more when the answer comes");
        let mut last = None;
        while let Some(event) = events.next().await {
            last = event.unwrap().1.state().or(last);
        }
        assert_eq!(last, Some(TaskState::Canceled), "its readers are told");
        let again = remote.cancel(&made.id).await.unwrap_err();
        assert_eq!(again.refusal().map(|error| error.kind), Some(ErrorKind::TaskNotCancelable));
        let asking = task(remote.send(says(&format!("i-{:?}", remote.binding()), "ask")).await.unwrap());
        assert_eq!(remote.cancel(&asking.id).await.unwrap().status.state, TaskState::Canceled, "one that waits can be cancelled too");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancelled_task_is_cancelled_whoever_is_faster() {
    let house = house().await;
    let remote = house.caller(ANN).await;
    let one = async |number: usize| {
        let made = task(remote.send(quick(&format!("r-{number}"), "hang")).await.unwrap());
        // The turn's stream ends when its work is stopped; that end must not be taken for a failure.
        let canceled = remote.cancel(&made.id).await.unwrap();
        assert_eq!(canceled.status.state, TaskState::Canceled);
        let asking = task(remote.send(says(&format!("a-{number}"), "ask")).await.unwrap());
        // A message that goes on with a task, and a cancel at the same time: whichever comes first, nothing stays at work.
        let (_, canceled) = tokio::join!(remote.send(on(quick(&format!("b-{number}"), "hang"), &asking)), remote.cancel(&asking.id));
        assert_eq!(canceled.unwrap().status.state, TaskState::Canceled);
    };
    for round in 0..25 {
        join_all((0..8).map(|number| one(round * 8 + number))).await;
    }
    assert_eq!(house.agents.at_work(), 0);
}

#[tokio::test]
async fn a_cut_stream_goes_on_where_it_was() {
    let house = house().await;
    for remote in house.both(ANN).await {
        let mut events = remote.stream(says(&format!("s-{:?}", remote.binding()), "pieces a b c d e")).await.unwrap();
        let (_, first) = events.next().await.unwrap().unwrap();
        let StreamResponse::Task(mut mine) = first else { panic!("{first:?}") };
        house.agents.let_through(2);
        let mut seen = None;
        while mine.answer() != "a b " {
            let (id, event) = events.next().await.unwrap().unwrap();
            mine.apply(&event);
            seen = id;
        }
        drop(events);
        house.agents.let_through(2);
        until("the server is ahead", async || remote.get(&mine.id).await.unwrap().answer() == "a b c d ").await;
        let mut events = remote.subscribe(&mine.id, seen.as_deref()).await.unwrap();
        let (_, known) = events.next().await.unwrap().unwrap();
        assert!(matches!(&known, StreamResponse::Task(task) if task.answer() == "a b "), "it begins where the reader was: {known:?}");
        house.agents.let_through(1);
        let mut missed = Vec::new();
        while let Some(event) = events.next().await {
            let (_, event) = event.unwrap();
            if let StreamResponse::ArtifactUpdate(update) = &event
                && update.append
            {
                missed.push(update.artifact.text());
            }
            mine.apply(&event);
        }
        assert_eq!(missed, ["c ", "d ", "e "]);
        assert_eq!((mine.status.state, mine.answer().as_str()), (TaskState::Completed, "a b c d e"));
        let late = remote.subscribe(&mine.id, None).await.err().unwrap();
        assert_eq!(late.refusal().map(|error| error.kind), Some(ErrorKind::UnsupportedOperation));
    }
}

#[tokio::test]
async fn every_reader_gets_the_same_events_and_one_that_leaves_disturbs_nobody() {
    let house = house().await;
    let remote = house.caller(ANN).await;
    let made = task(remote.send(quick("m", "pieces a b c")).await.unwrap());
    until("the agent is at it", async || remote.get(&made.id).await.unwrap().status.state == TaskState::Working).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut events = remote.subscribe(&made.id, None).await.unwrap();
        events.next().await.unwrap().unwrap();
        readers.push(events);
    }
    drop(readers.pop());
    house.agents.let_through(3);
    let mut told = Vec::new();
    for events in readers {
        told.push(events.map(|event| event.unwrap().1).collect::<Vec<_>>().await);
    }
    assert!(told[0].len() >= 4);
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn tasks_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks");
    let store = || -> Arc<dyn Tasks> { Arc::new(FileTasks::open(&file).unwrap()) };
    let first = serve(store(), |_| {}).await;
    let remote = first.caller(ANN).await;
    let done = task(remote.send(says("done", "echo kept")).await.unwrap());
    let asking = task(remote.send(says("asking", "ask")).await.unwrap());
    let hanging = task(remote.send(quick("hanging", "hang")).await.unwrap());
    let piecewise = task(remote.send(quick("pieces", "pieces x y")).await.unwrap());
    first.agents.let_through(1);
    until("half an answer", async || remote.get(&piecewise.id).await.unwrap().answer() == "x ").await;
    // The process ends: no turn tells anything any more, and nothing is said to the store.
    first.world.tasks.stop(std::time::Duration::from_secs(5)).await;
    drop(first);

    let second = serve(store(), |_| {}).await;
    let remote = second.caller(ANN).await;
    assert_eq!(remote.get(&done.id).await.unwrap(), done);
    let lost = remote.get(&hanging.id).await.unwrap();
    assert_eq!(lost.status.state, TaskState::Failed);
    assert!(lost.status.message.unwrap().text().contains("restarted"), "it ends with words");
    second.agents.let_through(2);
    until("the interrupted answer is whole", async || remote.get(&piecewise.id).await.unwrap().status.state == TaskState::Completed).await;
    assert_eq!(remote.get(&piecewise.id).await.unwrap().answer(), "x y");
    let again = task(remote.send(says("done", "echo kept")).await.unwrap());
    assert_eq!(again, done, "the message of before is known");
    assert_eq!(second.agents.started().len(), 1, "only the interrupted answer was run again");
    let answered = task(remote.send(on(says("go-on", "echo this one"), &asking)).await.unwrap());
    assert_eq!((answered.id, answered.status.state), (asking.id, TaskState::Completed));
    assert_eq!(remote.list(ListTasksRequest::default()).await.unwrap().total_size, 4);
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_task_unbegun() {
    let house = house().await;
    let remote = house.caller(ANN).await;
    let left = remote.clone();
    let call = tokio::spawn(async move { left.send(says("late", "late words")).await });
    until("the task is stored", async || remote.list(ListTasksRequest::default()).await.unwrap().total_size == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // One more round trip, after which the server knows that the caller is gone.
    remote.list(ListTasksRequest::default()).await.unwrap();
    house.agents.let_through(1);
    until("the task ends", async || {
        let page = remote.list(ListTasksRequest { status: Some(TaskState::Completed), ..ListTasksRequest::default() }).await.unwrap();
        page.total_size == 1
    })
    .await;
    assert_eq!(house.agents.started().len(), 1);
}

/// A store that can be told to take no more writes, as a fenced one does.
#[derive(Default)]
struct Fenced {
    inner: MemoryTasks,
    closed: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl Tasks for Fenced {
    async fn get(&self, agent: &str, table: Table, key: &str) -> Result<Option<Value>, StoreError> {
        self.inner.get(agent, table, key).await
    }

    async fn commit(&self, agent: &str, writes: Vec<Write>) -> Result<(), StoreError> {
        if self.closed.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError("an old fence".into()));
        }
        self.inner.commit(agent, writes).await
    }

    async fn scan(&self, agent: &str, table: Table, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Value)>, StoreError> {
        self.inner.scan(agent, table, prefix, after, limit).await
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_told() {
    let store = Arc::new(Fenced::default());
    let house = serve(Arc::clone(&store) as _, |_| {}).await;
    let remote = house.caller(ANN).await;
    let mut events = remote.stream(says("m", "pieces a")).await.unwrap();
    let (_, first) = events.next().await.unwrap().unwrap();
    let StreamResponse::Task(made) = first else { panic!("{first:?}") };
    until("it is at work", async || remote.get(&made.id).await.unwrap().status.state == TaskState::Working).await;
    store.closed.store(true, std::sync::atomic::Ordering::SeqCst);
    house.agents.let_through(1);
    let told: Vec<_> = events.map(|event| event.unwrap().1.state()).collect().await;
    assert!(!told.contains(&Some(TaskState::Completed)), "the stream ends without the end of the task: {told:?}");
    assert_eq!(remote.get(&made.id).await.unwrap().status.state, TaskState::Working);
    let refused = remote.send(says("n", "echo x")).await.unwrap_err();
    assert_eq!(refused.refusal().map(|error| error.kind), Some(ErrorKind::Unavailable));
    assert_eq!(house.agents.started().len(), 1, "a message that is not stored is not given to an agent");
}

#[tokio::test]
async fn an_agent_that_moves_takes_its_tasks_along() {
    let store: Arc<dyn Tasks> = Arc::new(MemoryTasks::default());
    let here = serve(Arc::clone(&store), |_| {}).await;
    let remote = here.caller(ANN).await;
    let mut events = remote.stream(says("m", "pieces a b")).await.unwrap();
    let (_, first) = events.next().await.unwrap().unwrap();
    let StreamResponse::Task(made) = first else { panic!("{first:?}") };
    assert_eq!(here.a2a.recover("echo").await.unwrap(), 1, "one that is heard of is not asked about again");
    assert_eq!(here.agents.started().len(), 1);
    here.a2a.release("echo").await;
    let rest: Vec<_> = events.collect().await;
    assert!(rest.iter().all(|event| event.as_ref().is_ok_and(|(_, event)| event.state().is_none_or(|state| !state.is_terminal()))), "{rest:?}");
    let there = serve(store, |_| {}).await;
    let remote = there.caller(ANN).await;
    there.agents.let_through(2);
    let mut events = remote.stream(says("m", "pieces a b")).await.unwrap();
    let mut task = made.clone();
    while let Some(event) = events.next().await {
        task.apply(&event.unwrap().1);
    }
    assert_eq!((task.id, task.status.state), (made.id, TaskState::Completed), "the message sent again there is the same task");
    here.agents.let_through(2);
    until("the turn that was left behind has ended", async || here.agents.at_work() == 0).await;
    assert_eq!(there.agents.started().len(), 1);
}

type Letters = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

async fn mailbox(refusals: u16) -> (String, Letters) {
    let letters = Letters::default();
    let left = Arc::new(Mutex::new(refusals));
    let take = async move |State(letters): State<Letters>, headers: HeaderMap, body: String| {
        let mut left = left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return axum::http::StatusCode::SERVICE_UNAVAILABLE;
        }
        letters.lock().unwrap().push((headers, serde_json::from_str(&body).unwrap()));
        axum::http::StatusCode::NO_CONTENT
    };
    let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&letters));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (host, letters)
}

fn target(url: String) -> TaskPushNotificationConfig {
    let authentication = Some(AuthenticationInfo { scheme: "Bearer".into(), credentials: Some("credential".into()) });
    TaskPushNotificationConfig { tenant: None, id: Some("hook".into()), task_id: None, url, token: Some("token".into()), authentication }
}

#[tokio::test]
async fn changes_are_sent_in_order_and_again_until_they_are_taken() {
    let (host, letters) = mailbox(2).await;
    let allowed = host.clone();
    let house = serve(Arc::new(MemoryTasks::default()), |settings| settings.push_targets.hosts.push(allowed)).await;
    let remote = house.caller(ANN).await;
    let mut request = says("m", "ask");
    request.configuration =
        Some(SendMessageConfiguration { task_push_notification_config: Some(target(format!("http://{host}/hook"))), ..SendMessageConfiguration::default() });
    let asking = task(remote.send(request).await.unwrap());
    assert_eq!(remote.push_targets(&asking.id).await.unwrap().configs.len(), 1);
    let done = task(remote.send(on(says("n", "echo it is done"), &asking)).await.unwrap());
    assert_eq!(done.status.state, TaskState::Completed);
    let told = |state: &str| letters.lock().unwrap().iter().any(|(_, body)| body["statusUpdate"]["status"]["state"] == state);
    until("the last letter came", async || told("TASK_STATE_COMPLETED")).await;
    let taken = letters.lock().unwrap().clone();
    let kinds: Vec<String> = taken.iter().map(|(_, body)| body["statusUpdate"]["status"]["state"].as_str().unwrap_or("artifact").to_owned()).collect();
    assert_eq!(kinds, ["TASK_STATE_INPUT_REQUIRED", "artifact", "TASK_STATE_COMPLETED"]);
    assert_eq!(taken[1].1["artifactUpdate"]["artifact"]["parts"][0]["text"], "it is done");
    for (headers, _) in &taken {
        assert_eq!((headers["authorization"].to_str().unwrap(), headers["x-a2a-notification-token"].to_str().unwrap()), ("Bearer credential", "token"));
        assert_eq!(headers["content-type"], "application/a2a+json");
    }
    remote.push_no_more(&asking.id, "hook").await.unwrap();
    remote.push_no_more(&asking.id, "hook").await.unwrap();
    assert!(remote.push_target(&asking.id, "hook").await.is_err());
}

#[tokio::test]
async fn letters_that_were_not_sent_are_sent_after_a_restart() {
    let (host, letters) = mailbox(0).await;
    let store = Arc::new(MemoryTasks::default());
    // The first process may not reach the target, so that its letters stay; the operator then allows it.
    let first = serve(Arc::clone(&store) as _, |settings| settings.push_targets.hosts.push(host.clone())).await;
    let remote = first.caller(ANN).await;
    let asking = task(remote.send(says("m", "ask")).await.unwrap());
    remote.push_to(TaskPushNotificationConfig { task_id: Some(asking.id.clone()), ..target(format!("http://{host}/hook")) }).await.unwrap();
    let body = serde_json::json!({"task": asking});
    let key = format!("ann/{}/hook/{:020}", asking.id, 9);
    store.commit("echo", vec![Write::Put(Table::Delivery, key, body.clone())]).await.unwrap();
    drop(first);
    let second = serve(Arc::clone(&store) as _, |settings| settings.push_targets.hosts.push(host.clone())).await;
    until("the letter came", async || letters.lock().unwrap().iter().any(|(_, letter)| *letter == body)).await;
    until("it is not kept", async || !store.rows().iter().any(|row| row.1 == Table::Delivery)).await;
    drop(second);
}

#[tokio::test]
async fn private_addresses_are_not_called() {
    let (host, letters) = mailbox(0).await;
    let house = house().await;
    for remote in house.both(ANN).await {
        let made = task(remote.send(says(&format!("m-{:?}", remote.binding()), "ask")).await.unwrap());
        for url in [
            format!("http://{host}/hook"),
            "http://localhost/hook".into(),
            "http://[::1]/".into(),
            "http://169.254.169.254/latest".into(),
            "file:///etc/passwd".into(),
        ] {
            let err = remote.push_to(TaskPushNotificationConfig { task_id: Some(made.id.clone()), ..target(url.clone()) }).await.unwrap_err();
            assert_eq!(err.refusal().map(|error| error.kind), Some(ErrorKind::InvalidParams), "{url}");
        }
        let mut request = says(&format!("n-{:?}", remote.binding()), "echo x");
        request.configuration = Some(SendMessageConfiguration {
            task_push_notification_config: Some(target(format!("http://{host}/hook"))),
            ..SendMessageConfiguration::default()
        });
        let before = house.agents.started().len();
        assert!(remote.send(request).await.is_err());
        assert_eq!(house.agents.started().len(), before, "nothing begins with a target that is refused");
    }
    assert!(letters.lock().unwrap().is_empty());
}

#[tokio::test]
async fn cards_are_signed_twice_and_checked() {
    let keys = [CardKey::es256("one", &CardKey::new_es256().unwrap()).unwrap(), CardKey::ed25519("two", ed25519_dalek::SigningKey::from_bytes(&[3; 32]))];
    let public: Vec<CardPublicKey> = keys.iter().map(CardKey::public).collect();
    let house = serve(Arc::new(MemoryTasks::default()), |settings| settings.card_keys = keys.into_iter().map(Arc::new).collect()).await;
    for known in &public {
        let mut asks = settings(ANN);
        asks.verify = Verify::Signed(vec![known.clone()]);
        let remote = Client::new(world(), asks).discover(&house.url).await.unwrap();
        assert_eq!(remote.card().signatures.len(), 2);
    }
    let mut asks = settings(ANN);
    asks.verify = Verify::Signed(vec![CardPublicKey { kid: "three".into(), ..public[0].clone() }]);
    assert!(matches!(Client::new(world(), asks).discover(&house.url).await, Err(ClientError::Card(_))));
}
