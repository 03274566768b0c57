//! A house on a free port of loopback, and callers of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
#![allow(dead_code, reason = "each suite uses its part; one that uses all of it would break an expectation")]

use std::{sync::Arc, time::Duration};

use clawstead_a2a::{
    client::{Client, ClientSettings, Remote},
    proto::{Binding, Message, Part, Role, SendMessageConfiguration, SendMessageRequest, SendMessageResponse, Task},
    server::{A2a, Access, Anonymous, Host as _, MemoryTasks, Settings, Tasks},
};
use clawstead_world::{NetPolicy, World};

#[path = "../../examples/echo/mod.rs"]
pub mod echo;

use echo::host::{EchoHost, House};

pub const ANN: &str = "the-token-of-ann-0001";
pub const BOB: &str = "the-token-of-bob-0001";

/// A served house. Dropped, it stops listening as if it were killed.
pub struct Served {
    pub url: String,
    pub agents: Arc<EchoHost>,
    pub a2a: A2a,
    pub world: World,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn world() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    World::real().unwrap()
}

pub fn access() -> Access {
    Access::new([("ann", ANN), ("bob", BOB)], Anonymous::Refused).unwrap()
}

/// Serves a house whose peers are ann and bob.
pub async fn serve(tasks: Arc<dyn Tasks>, change: impl FnOnce(&mut Settings)) -> Served {
    let world = world();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut settings = Settings::new(&url, access()).unwrap();
    change(&mut settings);
    let house = House::default();
    let agents = Arc::clone(&house.agents);
    let ids: Vec<String> = house.agents().iter().map(|agent| agent.id.clone()).collect();
    let a2a = A2a::new(Arc::new(house), tasks, world.clone(), settings);
    for id in ids {
        a2a.recover(&id).await.unwrap();
    }
    let router = a2a.router();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Served { url, agents, a2a, world, task }
}

pub async fn house() -> Served {
    serve(Arc::new(MemoryTasks::default()), |_| {}).await
}

pub fn settings(token: &str) -> ClientSettings {
    ClientSettings { token: Some(token.into()), ..ClientSettings::new(NetPolicy::Trusted) }
}

impl Served {
    pub async fn caller(&self, token: &str) -> Remote {
        Client::new(world(), settings(token)).discover(&self.url).await.unwrap()
    }

    pub async fn both(&self, token: &str) -> [Remote; 2] {
        let remote = self.caller(token).await;
        [remote.clone().over(Binding::JsonRpc).unwrap(), remote.over(Binding::Rest).unwrap()]
    }
}

pub fn says(id: &str, text: &str) -> SendMessageRequest {
    SendMessageRequest::new(Message::new(id, Role::User, vec![Part::text(text)]))
}

/// The same, answered at once.
pub fn quick(id: &str, text: &str) -> SendMessageRequest {
    SendMessageRequest { configuration: Some(SendMessageConfiguration { return_immediately: true, ..SendMessageConfiguration::default() }), ..says(id, text) }
}

pub fn on(mut request: SendMessageRequest, task: &Task) -> SendMessageRequest {
    request.message.task_id = Some(task.id.clone());
    request
}

pub fn task(response: SendMessageResponse) -> Task {
    match response {
        SendMessageResponse::Task(task) => task,
        SendMessageResponse::Message(message) => panic!("a task was expected, not {message:?}"),
    }
}

/// Waits for a condition; a bound only keeps a broken test from hanging.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
