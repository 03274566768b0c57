//! Clients that do it wrong: each gets a clear answer or is cut off, and everybody else is served meanwhile.

use std::time::Duration;

use clawstead_harness::{
    PATIENCE,
    client::{Client, Refused, Who},
    free_port,
    gateway::{Gateway, Setup, config},
    http,
    mock::{MockModel, Options},
    until,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

async fn gateway() -> (Gateway, MockModel) {
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = free_port().unwrap();
    let mut config = config(port, &model.v1(), &["main"]);
    // The original serves these paths only when told to.
    config["gateway"]["http"] = json!({"endpoints": {"chatCompletions": {"enabled": true}}});
    let setup = Setup { port, ..Setup::ours(&config) };
    (Gateway::start(setup).await.unwrap(), model)
}

fn code(error: &anyhow::Error) -> String {
    error.downcast_ref::<Refused>().and_then(|refused| refused.0["code"].as_str()).unwrap_or_default().to_owned()
}

async fn still_serves(gateway: &Gateway) {
    assert_eq!(http::get(gateway.port, "/readyz").await.unwrap().status, 200, "{}", gateway.log_tail(20));
    let mut client = Client::connect(gateway.port).await.unwrap();
    assert_eq!(client.turn("main", "!say still here", &format!("alive-{}", rand::random::<u64>())).await.unwrap().text, "still here");
    client.close().await;
}

#[tokio::test]
async fn malformed_frames_are_answered_and_the_connection_stays() {
    let (gateway, _model) = gateway().await;
    let mut client = Client::connect(gateway.port).await.unwrap();
    for (frame, id) in [
        (r#"{"type":"req","id":"x1"}"#, json!("x1")),
        (r#"{"type":"req","id":5,"method":"health"}"#, json!(5)),
        (r#"{"type":"event","event":"x"}"#, json!("invalid")),
        (r#"{"type":"req","id":"x2","method":"health","extra":1}"#, json!("x2")),
    ] {
        client.raw(Message::text(frame)).await.unwrap();
        let answer = loop {
            let frame = client.frame().await.unwrap();
            if frame["type"] == "res" {
                break frame;
            }
        };
        assert_eq!((&answer["id"], &answer["ok"], &answer["error"]["code"]), (&id, &json!(false), &json!("INVALID_REQUEST")), "{frame} -> {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().starts_with("invalid request frame"), "{answer}");
    }
    client.raw(Message::text("not json at all")).await.unwrap();
    client.raw(Message::text("")).await.unwrap();
    client.raw(Message::binary(br#"{"type":"req","id":"b1","method":"health"}"#.to_vec())).await.unwrap();
    assert_eq!(client.answer("b1").await.unwrap()["ok"], true, "a binary message with the same JSON is accepted");

    let error = client.call("no.such.method", json!({})).await.unwrap_err();
    assert!(code(&error) == "INVALID_REQUEST" && error.to_string().contains("unknown method"), "{error}");
    for (method, params) in [
        ("chat.send", json!({"sessionKey": 5, "message": "x", "idempotencyKey": "k"})),
        ("chat.send", json!({"sessionKey": "main", "message": "x"})),
        ("chat.send", json!({"sessionKey": "main", "message": "x", "idempotencyKey": "k", "surprise": true})),
        ("chat.send", json!([])),
        ("cron.add", json!({"name": "x"})),
        ("sessions.patch", json!({"key": {}})),
        ("agent", json!({"message": "x", "agentId": "nosuch", "idempotencyKey": "k2"})),
    ] {
        let error = client.call(method, params.clone()).await.unwrap_err();
        assert_eq!(code(&error), "INVALID_REQUEST", "{method} {params}: {error}");
    }
    client.call("health", json!({})).await.unwrap();
    still_serves(&gateway).await;
}

/// What the peer does after one raw message: the close code, or `None` when it just ends.
async fn close_after(port: u16, message: Message) -> Option<u16> {
    let (mut socket, _) = connect_async(format!("ws://127.0.0.1:{port}/")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    let _ = socket.send(message).await;
    tokio::time::timeout(PATIENCE, async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(close))) => return close.map(|close| close.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    })
    .await
    .expect("the gateway did not close the connection")
}

#[tokio::test]
async fn bad_handshakes_are_closed_with_their_code() {
    let (gateway, _model) = gateway().await;
    let port = gateway.port;
    assert_eq!(close_after(port, Message::text("x".repeat(70_000))).await, Some(1009));
    assert_eq!(close_after(port, Message::text("not json")).await, Some(1000));
    assert_eq!(close_after(port, Message::text("{}")).await, Some(1008));
    assert_eq!(close_after(port, Message::text(r#"{"type":"req","id":"1","method":"health"}"#)).await, Some(1008));
    let wrong = Client::connect_as(port, Who { token: Some("wrong".into()), ..Who::default() }).await;
    let error = wrong.err().expect("a wrong token must be refused");
    assert!(error.to_string().contains("unauthorized") && !error.to_string().contains("wrong\""), "{error}");
    still_serves(&gateway).await;
}

#[tokio::test]
async fn oversized_and_broken_messages_end_only_their_own_connection() {
    let (gateway, _model) = gateway().await;
    let mut client = Client::connect(gateway.port).await.unwrap();
    let mut other = Client::connect(gateway.port).await.unwrap();
    let frame =
        json!({"type": "req", "id": "big", "method": "chat.send", "params": {"sessionKey": "main", "message": "x".repeat(27 << 20), "idempotencyKey": "big"}});
    let _ = client.raw(Message::text(frame.to_string())).await;
    let error = loop {
        match client.frame().await {
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    // When the gateway stops reading, the kernel may reset the connection before the close frame is read.
    assert!(error.contains("1009") || error.to_lowercase().contains("reset") || error.contains("Broken pipe"), "{error}");
    other.call("health", json!({})).await.unwrap();

    // A text frame whose bytes are no UTF-8, written past the WebSocket library.
    let mut socket = TcpStream::connect(("127.0.0.1", gateway.port)).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        gateway.port
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&[0x81, 0x84, 0, 0, 0, 0, 0xff, 0xfe, 0xfd, 0xfc]).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("invalid UTF-8 must end the connection").ok();

    // Bytes that are no HTTP.
    let mut socket = TcpStream::connect(("127.0.0.1", gateway.port)).await.unwrap();
    socket.write_all(b"\x16\x03\x01\x02\x00 hello?\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("garbage must end the connection").ok();
    other.call("health", json!({})).await.unwrap();
    still_serves(&gateway).await;
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_nobody_waits_for_it() {
    let (gateway, _model) = gateway().await;
    let mut slow = Client::connect(gateway.port).await.unwrap();
    let mut quick = Client::connect(gateway.port).await.unwrap();
    // About 120 MB of events: every delta carries the text so far.
    slow.send("chat.send", json!({"sessionKey": "agent:main:slow", "message": "!words 20000 !pieces 2400", "idempotencyKey": "slow"})).await.unwrap();
    let end = tokio::time::timeout(PATIENCE * 2, quick.call("agent.wait", json!({"runId": "slow", "timeoutMs": 60_000}))).await.unwrap().unwrap();
    assert_eq!(end["status"], "ok", "{end}");
    still_serves(&gateway).await;
    let rss = gateway.usage().rss >> 20;
    assert!(rss < 400, "{rss} MiB are kept for one slow reader");
    // Whatever was decided about the connection: it must come to an end or to the newest state, never hang half way.
    let read = tokio::time::timeout(PATIENCE, async {
        loop {
            match slow.frame().await {
                Ok(frame) if frame["payload"]["runId"] == "slow" && frame["payload"]["state"] == "final" => return "final".to_owned(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    })
    .await;
    println!("the slow reader saw: {read:?}");
    assert!(read.is_ok());
}

#[tokio::test]
async fn half_open_connections_do_not_keep_others_out() {
    let (gateway, _model) = gateway().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(("127.0.0.1", gateway.port)).await.unwrap());
    }
    still_serves(&gateway).await;
    // Sockets that were upgraded and never introduced themselves: 32 for one address, the next is refused.
    let mut upgraded = Vec::new();
    let refused = until(PATIENCE, async || match connect_async(format!("ws://127.0.0.1:{}/", gateway.port)).await {
        Ok((socket, _)) => {
            upgraded.push(socket);
            (upgraded.len() > 40).then(|| "more than 40 were let in".to_owned())
        }
        Err(error) => Some(error.to_string()),
    })
    .await
    .unwrap();
    assert!(refused.contains("503"), "{refused} after {}", upgraded.len());
    assert_eq!(http::get(gateway.port, "/healthz").await.unwrap().status, 200);
    drop(upgraded);
    drop(silent);
    let again = until(PATIENCE, async || Client::connect(gateway.port).await.ok()).await;
    assert!(again.is_some(), "no connection is possible after the silent ones left");
    still_serves(&gateway).await;
}

#[tokio::test]
async fn bad_http_gets_an_http_answer() {
    let (gateway, _model) = gateway().await;
    let post = async |path: &str, token: Option<&str>, body: &[u8]| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("content-type", "application/json")];
        if let Some(bearer) = &bearer {
            headers.push(("authorization", bearer));
        }
        http::request(gateway.port, "POST", path, &headers, body, PATIENCE).await.unwrap()
    };
    let token = Some(clawstead_harness::gateway::TOKEN);
    let body = json!({"model": "openclaw", "messages": [{"role": "user", "content": "!say over http"}]}).to_string();
    let good = post("/v1/chat/completions", token, body.as_bytes()).await;
    assert_eq!((good.status, good.json()["choices"][0]["message"]["content"].as_str()), (200, Some("over http")), "{}", good.text());
    assert_eq!(post("/v1/chat/completions", None, body.as_bytes()).await.status, 401);
    assert_eq!(post("/v1/chat/completions", Some("wrong"), body.as_bytes()).await.status, 401);
    for bad in [&b"{"[..], b"[]", b"\xff\xfe", br#"{"messages": 5}"#, br#"{"model": "openclaw", "messages": []}"#] {
        let answer = post("/v1/chat/completions", token, bad).await;
        assert!(
            answer.status == 400 && answer.json()["error"]["message"].is_string(),
            "{:?}: {} {}",
            String::from_utf8_lossy(bad),
            answer.status,
            answer.text()
        );
    }
    assert_eq!(post("/v1/no-such-thing", token, b"{}").await.status, 404);
    let huge = vec![b' '; 30 << 20];
    let answer =
        http::request(gateway.port, "POST", "/v1/chat/completions", &[("authorization", &format!("Bearer {}", token.unwrap()))], &huge, PATIENCE).await;
    // Either the answer arrives or the gateway hangs up on the rest of the body; both are right.
    assert!(answer.as_ref().is_err() || answer.as_ref().is_ok_and(|answer| answer.status == 413), "{answer:?}");
    still_serves(&gateway).await;
}

#[tokio::test]
async fn a_stream_over_http_is_a_stream() {
    let (gateway, _model) = gateway().await;
    let bearer = format!("Bearer {}", clawstead_harness::gateway::TOKEN);
    let body = json!({"model": "openclaw", "stream": true, "messages": [{"role": "user", "content": "!pieces 6 !say a few words in a stream"}]}).to_string();
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let answer = http::request(gateway.port, "POST", "/v1/chat/completions", &headers, body.as_bytes(), Duration::from_secs(20)).await.unwrap();
    assert_eq!((answer.status, answer.header("content-type").map(|kind| kind.starts_with("text/event-stream"))), (200, Some(true)), "{}", answer.text());
    let text = answer.text();
    let said: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(said, "a few words in a stream", "{text}");
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
}
