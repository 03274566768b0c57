//! Agents that live at another gateway: called here, answered there, streams included.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use clawstead_a2a::{
    proto::{A2aError, ErrorKind, ListTasksRequest, StreamResponse, TaskState},
    server::{A2a, AgentProfile, Host, MemoryTasks, Peer, RelayCall, Relayed, Resumed, Settings, Started, Stopped, TaskRef, Turn},
};
use clawstead_terms::Failure;
use futures_util::StreamExt as _;
use support::{ANN, BOB, access, house, on, says, settings, task, until, world};

/// A gateway without agents of its own: that of the other one is shown and reached.
struct Near {
    far: A2a,
}

#[async_trait]
impl Host for Near {
    fn agents(&self) -> Vec<Arc<AgentProfile>> {
        vec![Arc::new(AgentProfile { id: "echo".into(), name: "Echo".into(), elsewhere: Some("far-gateway".into()), ..AgentProfile::default() })]
    }

    async fn relay(&self, gateway: &str, call: RelayCall) -> Result<Relayed, A2aError> {
        assert_eq!(gateway, "far-gateway");
        // Over a link it is text.
        let call = serde_json::from_str(&serde_json::to_string(&call).unwrap()).unwrap();
        match self.far.answer(call).await {
            Err(err) => Err(A2aError::read(&err.json_rpc())),
            done => done,
        }
    }

    async fn start(&self, _: Turn) -> Result<Started, Failure> {
        Err(Failure::internal("nothing runs here"))
    }

    async fn cancel(&self, _: &TaskRef) -> Result<Stopped, Failure> {
        Err(Failure::internal("nothing runs here"))
    }

    async fn resume(&self, _: Turn) -> Result<Resumed, Failure> {
        Err(Failure::internal("nothing runs here"))
    }
}

async fn near(far: A2a) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let made = A2a::new(Arc::new(Near { far }), Arc::new(MemoryTasks::default()), world(), Settings::new(&url, access()).unwrap());
    let router = made.router();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test]
async fn a_call_for_an_agent_elsewhere_is_answered_there() {
    let far = house().await;
    let url = near(far.a2a.clone()).await;
    let remote = clawstead_a2a::client::Client::new(world(), settings(ANN)).discover(&url).await.unwrap();
    for remote in [remote.clone().over(clawstead_a2a::proto::Binding::JsonRpc).unwrap(), remote.over(clawstead_a2a::proto::Binding::Rest).unwrap()] {
        let name = |what: &str| format!("{what}-{:?}", remote.binding());
        let done = task(remote.send(says(&name("one"), "echo one two")).await.unwrap());
        assert_eq!((done.status.state, done.answer().as_str()), (TaskState::Completed, "one two"));
        let again = task(remote.send(says(&name("one"), "echo one two")).await.unwrap());
        assert_eq!(again.id, done.id, "the owner knows the message");
        assert_eq!(remote.get(&done.id).await.unwrap(), done);
        assert!(remote.list(ListTasksRequest::default()).await.unwrap().tasks.iter().any(|one| one.id == done.id));

        let mut events = remote.stream(says(&name("two"), "hang")).await.unwrap();
        let Some(Ok((_, StreamResponse::Task(made)))) = events.next().await else { panic!("a stream begins with its task") };
        until("the agent is at it", async || far.agents.at_work() == 1).await;
        assert_eq!(remote.cancel(&made.id).await.unwrap().status.state, TaskState::Canceled);
        let mut last = None;
        while let Some(event) = events.next().await {
            last = event.unwrap().1.state().or(last);
        }
        assert_eq!((last, far.agents.at_work()), (Some(TaskState::Canceled), 0), "its reader here is told");
        let refused = remote.cancel(&made.id).await.unwrap_err();
        assert_eq!(refused.refusal().map(|error| error.kind), Some(ErrorKind::TaskNotCancelable), "errors keep their kind");

        let asking = task(remote.send(says(&name("three"), "ask")).await.unwrap());
        assert_eq!(asking.status.state, TaskState::InputRequired);
        let done = task(remote.send(on(says(&name("four"), "echo that one"), &asking)).await.unwrap());
        assert_eq!((done.id, done.status.state), (asking.id, TaskState::Completed));
    }
    // What the one gateway's caller has the caller of the same name of the other one has too; nobody else.
    let direct = far.caller(ANN).await;
    assert_eq!(direct.list(ListTasksRequest::default()).await.unwrap().tasks.len(), 6);
    let bob = clawstead_a2a::client::Client::new(world(), settings(BOB)).discover(&url).await.unwrap();
    assert!(bob.list(ListTasksRequest::default()).await.unwrap().tasks.is_empty());
}

#[tokio::test]
async fn the_owner_decides_whom_it_serves_and_carries_nothing_on() {
    let far = house().await;
    let call = |peer: Peer, agent: &str| RelayCall {
        agent: agent.into(),
        peer: peer.key().into(),
        method: "ListTasks".into(),
        params: serde_json::json!({}),
        extensions: Vec::new(),
        last_event: None,
    };
    let kind = |result: Result<Relayed, A2aError>| result.err().map(|err| err.kind);
    assert_eq!(kind(far.a2a.answer(call(Peer::Named("ann".into()), "echo")).await), None);
    assert_eq!(kind(far.a2a.answer(call(Peer::Named("eve".into()), "echo")).await), Some(ErrorKind::Forbidden));
    assert_eq!(kind(far.a2a.answer(call(Peer::Anonymous, "echo")).await), Some(ErrorKind::Forbidden));
    assert_eq!(kind(far.a2a.answer(call(Peer::Named("ann".into()), "nobody")).await), Some(ErrorKind::Unavailable));
    let between =
        A2a::new(Arc::new(Near { far: far.a2a.clone() }), Arc::new(MemoryTasks::default()), world(), Settings::new("http://x.example", access()).unwrap());
    assert_eq!(kind(between.answer(call(Peer::Named("ann".into()), "echo")).await), Some(ErrorKind::Unavailable), "no ring of two");
}
