//! Both bindings from end to end: our client against our server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use clawstead_a2a::{
    client::{Asked, Client, ClientSettings},
    proto::{Content, ErrorKind, ListTasksRequest, Message, Part, Role, SendMessageRequest, SendMessageResponse, StreamResponse, TaskState},
    server::{MemoryTasks, Offer},
};
use clawstead_world::{HttpRequest, NetPolicy};
use futures_util::StreamExt as _;
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use std::sync::Arc;
use support::{ANN, BOB, house, on, quick, says, serve, task, world};

#[tokio::test]
async fn a_message_becomes_a_task_with_its_answer() {
    let house = house().await;
    for remote in house.both(ANN).await {
        let id = format!("m-{:?}", remote.binding());
        let done = task(remote.send(says(&id, "echo one two")).await.unwrap());
        assert_eq!((done.status.state, done.answer().as_str()), (TaskState::Completed, "one two"));
        assert_eq!(done.artifacts.as_ref().map(Vec::len), Some(1));
        let history = done.history.clone().unwrap();
        assert_eq!((history[0].role, history[0].text().as_str()), (Role::User, "echo one two"));
        assert_eq!(remote.get(&done.id).await.unwrap(), done);
    }
}

#[tokio::test]
async fn a_stream_tells_the_task_then_its_events_in_order() {
    let house = house().await;
    for remote in house.both(ANN).await {
        let id = format!("m-{:?}", remote.binding());
        let mut events = remote.stream(says(&id, "echo one two three")).await.unwrap();
        let (_, first) = events.next().await.unwrap().unwrap();
        let StreamResponse::Task(mut task) = first else { panic!("a stream begins with its task: {first:?}") };
        assert_eq!(task.status.state, TaskState::Submitted);
        let mut pieces = 0;
        while let Some(event) = events.next().await {
            let (_, event) = event.unwrap();
            pieces += usize::from(matches!(&event, StreamResponse::ArtifactUpdate(update) if update.append));
            task.apply(&event);
        }
        assert_eq!((task.status.state, task.answer().as_str(), pieces), (TaskState::Completed, "one two three", 2));
    }
}

#[tokio::test]
async fn some_agents_answer_at_once_and_some_end_without_words() {
    let house = house().await;
    for remote in house.both(ANN).await {
        let id = |word: &str| format!("{word}-{:?}", remote.binding());
        let SendMessageResponse::Message(reply) = remote.send(says(&id("r"), "reply")).await.unwrap() else { panic!("a message was expected") };
        assert_eq!((reply.text().as_str(), reply.role), ("at once", Role::Agent));
        assert!(reply.context_id.is_some() && reply.task_id.is_none());
        let SendMessageResponse::Message(again) = remote.send(says(&id("r"), "reply")).await.unwrap() else { panic!("a message was expected") };
        assert_eq!(again, reply, "the same message gets the same answer");
        for (text, state) in [("fail now", TaskState::Failed), ("reject", TaskState::Rejected), ("silent", TaskState::Failed)] {
            let ended = task(remote.send(says(&id(text), text)).await.unwrap());
            assert_eq!(ended.status.state, state, "{text}");
            assert!(ended.status.message.is_some_and(|words| !words.text().is_empty()), "{text} ends with words");
        }
        let busy = remote.send(says(&id("b"), "busy")).await.unwrap_err();
        assert_eq!(busy.refusal().map(|error| error.kind), Some(ErrorKind::Busy));
    }
    assert!(house.a2a.prune("echo", clawstead_terms::Millis(i64::MAX)).await.unwrap() >= 6, "a refused message leaves no task");
}

#[tokio::test]
async fn a_task_that_asks_goes_on_with_the_next_message() {
    let house = house().await;
    for remote in house.both(ANN).await {
        let id = |word: &str| format!("{word}-{:?}", remote.binding());
        let asked = task(remote.send(says(&id("a"), "ask")).await.unwrap());
        assert_eq!(asked.status.state, TaskState::InputRequired);
        assert_eq!(asked.status.message.as_ref().map(Message::text).as_deref(), Some("Which one?"));
        let mut elsewhere = on(says(&id("x"), "echo this"), &asked);
        elsewhere.message.context_id = Some("another".into());
        assert_eq!(remote.send(elsewhere).await.unwrap_err().refusal().map(|e| e.kind), Some(ErrorKind::InvalidParams));
        let done = task(remote.send(on(says(&id("b"), "echo this"), &asked)).await.unwrap());
        assert_eq!((done.id.as_str(), done.context_id.as_str()), (asked.id.as_str(), asked.context_id.as_str()));
        assert_eq!((done.status.state, done.answer().as_str()), (TaskState::Completed, "this"));
        let said: Vec<String> = done.history.unwrap().iter().map(Message::text).collect();
        assert_eq!(said, ["ask", "Which one?", "echo this"]);
        let late = remote.send(on(says(&id("c"), "echo more"), &asked)).await.unwrap_err();
        assert_eq!(late.refusal().map(|e| e.kind), Some(ErrorKind::UnsupportedOperation));
    }
}

#[tokio::test]
async fn tasks_are_listed_newest_first_in_pages_and_only_ones_own() {
    let house = house().await;
    let bob = house.caller(BOB).await;
    task(bob.send(says("bobs", "echo x")).await.unwrap());
    for remote in house.both(ANN).await {
        let mut ids = Vec::new();
        let context = format!("c-{:?}", remote.binding());
        for number in 0..5 {
            let mut request = says(&format!("{number}-{:?}", remote.binding()), if number == 3 { "ask" } else { "echo x" });
            request.message.context_id = Some(context.clone());
            ids.push(task(remote.send(request).await.unwrap()).id);
        }
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let page = remote
                .list(ListTasksRequest { context_id: Some(context.clone()), page_size: Some(2), page_token: token, ..ListTasksRequest::default() })
                .await
                .unwrap();
            assert_eq!((page.total_size, page.page_size), (5, 2));
            assert!(page.tasks.iter().all(|task| task.artifacts.is_none()));
            found.extend(page.tasks);
            token = Some(page.next_page_token).filter(|token| !token.is_empty());
            if token.is_none() {
                break;
            }
        }
        let stamps: Vec<_> = found.iter().map(|task| task.status.timestamp.clone()).collect();
        assert!(stamps.windows(2).all(|pair| pair[0] >= pair[1]), "{stamps:?}");
        let mut listed: Vec<_> = found.iter().map(|task| task.id.clone()).collect();
        listed.sort();
        ids.sort();
        assert_eq!(listed, ids);
        let asking = remote
            .list(ListTasksRequest { status: Some(TaskState::InputRequired), context_id: Some(context.clone()), ..ListTasksRequest::default() })
            .await
            .unwrap();
        assert_eq!(asking.tasks.len(), 1);
        let whole = remote
            .list(ListTasksRequest { context_id: Some(context), include_artifacts: Some(true), history_length: Some(0), ..ListTasksRequest::default() })
            .await
            .unwrap();
        assert!(whole.tasks.iter().all(|task| task.artifacts.is_some() && task.history.is_none()));
        for wrong in [Some(0), Some(101)] {
            let err = remote.list(ListTasksRequest { page_size: wrong, ..ListTasksRequest::default() }).await.unwrap_err();
            assert_eq!(err.refusal().map(|e| e.kind), Some(ErrorKind::InvalidParams));
        }
        assert!(bob.get(&ids[0]).await.unwrap_err().refusal().is_some_and(|e| e.kind == ErrorKind::TaskNotFound), "others' tasks are not there");
        assert!(bob.cancel(&ids[0]).await.unwrap_err().refusal().is_some_and(|e| e.kind == ErrorKind::TaskNotFound));
    }
    assert_eq!(bob.list(ListTasksRequest::default()).await.unwrap().total_size, 1);
}

#[tokio::test]
async fn what_is_not_taken_is_refused_by_its_kind() {
    let house = serve(Arc::new(MemoryTasks::default()), |settings| settings.body_bytes_max = 4096).await;
    for remote in house.both(ANN).await {
        let kind = |err: clawstead_a2a::client::ClientError| err.refusal().map(|error| error.kind);
        let with = |part: Part| SendMessageRequest::new(Message::new(format!("p-{:?}", remote.binding()), Role::User, vec![part]));
        let image = with(Part::file(b"x", "x.png", "image/png"));
        assert_eq!(kind(remote.send(image).await.unwrap_err()), Some(ErrorKind::ContentTypeNotSupported));
        assert_eq!(kind(remote.send(with(Part::new(Content::Raw("eA==".into())))).await.unwrap_err()), Some(ErrorKind::ContentTypeNotSupported));
        assert_eq!(kind(remote.send(SendMessageRequest::new(Message::new("e", Role::User, vec![]))).await.unwrap_err()), Some(ErrorKind::InvalidParams));
        assert_eq!(
            kind(remote.send(SendMessageRequest::new(Message::new("e", Role::Agent, vec![Part::text("x")]))).await.unwrap_err()),
            Some(ErrorKind::InvalidParams)
        );
        assert_eq!(kind(remote.send(says("large", &"x".repeat(5000))).await.unwrap_err()), Some(ErrorKind::TooLarge));
        assert_eq!(kind(remote.get("nobody").await.unwrap_err()), Some(ErrorKind::TaskNotFound));
        assert_eq!(kind(remote.get("a/b c").await.unwrap_err()), Some(ErrorKind::TaskNotFound));
        assert_eq!(kind(remote.extended_card().await.unwrap_err()), Some(ErrorKind::UnsupportedOperation));
        let mut foreign = says("f", "echo x");
        foreign.tenant = Some("nobody".into());
        assert_eq!(kind(remote.send(foreign).await.unwrap_err()), Some(ErrorKind::InvalidParams));
    }
}

#[tokio::test]
async fn tenants_and_addresses_choose_the_agent() {
    let house = house().await;
    let client = Client::new(world(), support::settings(ANN));
    let other = client.discover(&format!("{}/a2a/v1/agents/other", house.url)).await.unwrap();
    assert_eq!(other.card().name, "Other");
    assert_eq!(task(other.send(says("m", "hello")).await.unwrap()).answer(), "other heard: hello");
    for remote in house.both(ANN).await {
        let mut request = says(&format!("t-{:?}", remote.binding()), "hello");
        request.tenant = Some("other".into());
        let made = task(remote.send(request).await.unwrap());
        assert_eq!(made.answer(), "other heard: hello");
        assert!(remote.get(&made.id).await.is_err(), "the first agent does not have it");
        assert_eq!(other.get(&made.id).await.unwrap().id, made.id);
    }
}

#[tokio::test]
async fn without_a_token_there_is_the_card_and_nothing_else() {
    let house = serve(Arc::new(MemoryTasks::default()), |settings| settings.extended_card = Offer::Yes).await;
    let stranger = Client::new(world(), ClientSettings::new(NetPolicy::Trusted)).discover(&house.url).await.unwrap();
    assert!(!stranger.card().security_requirements.is_empty());
    for binding in [clawstead_a2a::proto::Binding::JsonRpc, clawstead_a2a::proto::Binding::Rest] {
        let remote = stranger.clone().over(binding).unwrap();
        let err = remote.send(says("m", "echo x")).await.unwrap_err();
        assert_eq!(err.refusal().map(|error| error.kind), Some(ErrorKind::Unauthenticated));
    }
    assert!(house.agents.started().is_empty());
    let known = house.caller(ANN).await;
    assert!(known.extended_card().await.unwrap().description.ends_with(", ann"));
}

#[tokio::test]
async fn ask_waits_to_the_end_with_and_without_streams() {
    for streaming in [Offer::Yes, Offer::No] {
        let house = serve(Arc::new(MemoryTasks::default()), |settings| settings.streaming = streaming).await;
        let remote = house.caller(ANN).await;
        let asked = remote.ask(says("m", "echo at last"), 20_000, &mut |_| {}).await.unwrap();
        let Asked::Task(done) = &asked else { panic!("a task was expected") };
        assert_eq!((done.status.state, asked.text().as_str()), (TaskState::Completed, "at last"));
        let slow = remote.ask(says("h", "hang"), 300, &mut |_| {}).await.unwrap_err();
        let clawstead_a2a::client::ClientError::TooLong { task_id, .. } = slow else { panic!("{slow}") };
        assert_eq!(remote.cancel(&task_id).await.unwrap().status.state, TaskState::Canceled);
        if streaming == Offer::No {
            let err = remote.subscribe(&done.id, None).await.err().unwrap();
            assert_eq!(err.refusal().map(|error| error.kind), Some(ErrorKind::UnsupportedOperation));
        }
    }
}

/// A JSON-RPC call by hand, with a version if one is given.
async fn by_hand(url: &str, version: Option<&'static str>, call: Value) -> Value {
    let mut request = HttpRequest::new(Method::POST, format!("{url}/a2a/v1"), NetPolicy::Trusted);
    request.headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {ANN}")).unwrap());
    request.headers.insert("content-type", HeaderValue::from_static("application/json"));
    if let Some(version) = version {
        request.headers.insert("a2a-version", HeaderValue::from_static(version));
    }
    request.body = Some(call.to_string().into());
    let (body, _) = world().http.send(request).await.unwrap().read(1 << 20).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn the_words_of_0_3_are_understood_and_answered_in_them() {
    let house = house().await;
    let params = json!({"message": {"kind": "message", "role": "user", "messageId": "old", "parts": [{"kind": "text", "text": "echo hi"}]}});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": params});
    let answer = by_hand(&house.url, None, call.clone()).await;
    let old = &answer["result"];
    assert_eq!((old["kind"].as_str(), old["status"]["state"].as_str()), (Some("task"), Some("completed")));
    assert_eq!(old["artifacts"][0]["parts"][0], json!({"text": "hi", "kind": "text"}));
    let id = old["id"].as_str().unwrap();
    let got = by_hand(&house.url, Some("0.3"), json!({"jsonrpc": "2.0", "id": 2, "method": "tasks/get", "params": {"id": id}})).await;
    assert_eq!(&got["result"], old);
    let late = by_hand(&house.url, None, json!({"jsonrpc": "2.0", "id": 3, "method": "tasks/cancel", "params": {"id": id}})).await;
    assert_eq!(late["error"]["code"], -32002);
    let refused = by_hand(&house.url, Some("2.0"), call).await;
    assert_eq!((refused["error"]["code"].as_i64(), refused["id"].as_i64()), (Some(-32009), Some(1)));
    let card = HttpRequest::new(Method::GET, format!("{}/.well-known/agent.json", house.url), NetPolicy::Trusted);
    let (body, _) = world().http.send(card).await.unwrap().read(1 << 20).await.unwrap();
    let card: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((card["url"].as_str(), card["preferredTransport"].as_str()), (Some(format!("{}/a2a/v1", house.url).as_str()), Some("JSONRPC")));
}

#[tokio::test]
async fn an_answer_at_once_does_not_wait_for_the_task() {
    let house = house().await;
    for remote in house.both(ANN).await {
        let made = task(remote.send(quick(&format!("q-{:?}", remote.binding()), "hang")).await.unwrap());
        assert!(!made.status.state.is_terminal());
        remote.cancel(&made.id).await.unwrap();
    }
}
