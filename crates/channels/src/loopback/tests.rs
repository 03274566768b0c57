use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use clawstead_terms::{AccountId, Failure, Outcome, Part, PeerKind};
use clawstead_world::World;

use super::build;
use crate::channel::{Inbound, Intake, Outbound};

/// Answers each request by a function of its first line and body, one connection a request.
async fn service(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                let mut chunk = [0; 4096];
                let (head, body) = loop {
                    let n = socket.read(&mut chunk).await.unwrap();
                    bytes.extend_from_slice(&chunk[..n]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if let Some((head, body)) = text.split_once("\r\n\r\n") {
                        let length: usize =
                            head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse().ok())).unwrap_or(0);
                        if body.len() >= length {
                            break (head.to_owned(), body.to_owned());
                        }
                    }
                    assert!(n > 0, "request broke off");
                };
                let (status, body) = answer(head.lines().next().unwrap_or(""), &body);
                let reply = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                socket.write_all(reply.as_bytes()).await.unwrap();
            });
        }
    });
    url
}

struct Desk {
    kept: Mutex<Option<String>>,
    accepted: mpsc::UnboundedSender<Inbound>,
    refuse_first: Mutex<bool>,
}

#[async_trait]
impl Intake for Desk {
    async fn accept(&self, message: Inbound) -> Result<(), Failure> {
        if std::mem::take(&mut *self.refuse_first.lock().unwrap()) {
            return Err(Failure::busy("full", 10));
        }
        self.accepted.send(message).map_err(|_| Failure::internal("gone"))
    }
    async fn recall(&self, _: &str) -> Result<Option<String>, Failure> {
        Ok(self.kept.lock().unwrap().clone())
    }
    async fn keep(&self, _: &str, value: String) -> Result<(), Failure> {
        *self.kept.lock().unwrap() = Some(value);
        Ok(())
    }
}

fn world() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    World::real().unwrap()
}

#[tokio::test]
async fn updates_come_from_the_cursor_on_and_a_refused_one_comes_again() {
    let url = service(|line, _| {
        let offset: u64 = line.split("offset=").nth(1).and_then(|t| t.split('&').next()).and_then(|t| t.parse().ok()).unwrap_or(0);
        let all: Vec<_> = (offset..7).map(|id| json!({"id": id, "message": {"id": format!("m{id}"), "chat": {"kind": "dm", "id": "U1"}, "sender": {"id": "U1", "name": "Ann"}, "text": format!("hi {id}")}})).collect();
        (200, json!({"updates": all}).to_string())
    })
    .await;
    let channel = build(&world(), &AccountId::from("default"), &json!({"url": url, "pollSeconds": 1})).unwrap();
    let (accepted, mut inbox) = mpsc::unbounded_channel();
    let desk = Arc::new(Desk { kept: Mutex::new(Some("5".into())), accepted, refuse_first: Mutex::new(true) });
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (ingress, desk, stop) = (channel.ingress.unwrap(), desk.clone(), stop.clone());
        async move { ingress.run(desk, stop).await }
    });
    let first = inbox.recv().await.unwrap();
    assert_eq!((first.message_id.as_str(), first.peer.kind, first.reply.to.as_str()), ("m5", PeerKind::Direct, "U1"));
    assert_eq!(inbox.recv().await.unwrap().message_id, "m6");
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn sending_says_what_came_of_it() {
    let url = service(|_, body| {
        if body.contains("refuse") {
            (400, String::new())
        } else if body.contains("broken") {
            (503, String::new())
        } else {
            (200, r#"{"messageId":"9"}"#.into())
        }
    })
    .await;
    let outlet = |url: &str| build(&world(), &AccountId::from("default"), &json!({"url": url, "token": "t"})).unwrap().outlet.unwrap();
    let message = |text: &str| Outbound {
        effect_id: "e1".into(),
        target: clawstead_terms::DeliveryTarget { channel: "loopback".into(), account: "default".into(), to: "U1".into(), thread_id: None, reply_to: None },
        body: vec![Part::text(text)],
    };
    let sent = outlet(&url).send(&message("hello")).await;
    assert_eq!((sent.outcome, sent.message_id.as_deref()), (Outcome::Done, Some("9")));
    for (text, retry) in [("refuse", false), ("broken", true)] {
        let Outcome::Failed(failure) = outlet(&url).send(&message(text)).await.outcome else { panic!("{text}") };
        assert_eq!(failure.retry != clawstead_terms::Retry::Never, retry, "{text}");
    }
    let gone = outlet("http://127.0.0.1:9").send(&message("x")).await;
    assert!(matches!(gone.outcome, Outcome::Failed(_)), "a refused connection was never seen by the platform");
}
