use clawstead_terms::{Role, StopReason};
use serde_json::json;

use super::{DEMO_LABEL, Demo, Script, Step, When};
use crate::{
    Ask, Chunk, ErrorKind, Provider,
    testing::{all, ask, call, message, result, text_of, tool, user},
};

#[tokio::test]
async fn the_demo_is_labelled_and_streams() {
    let (chunks, _) = all(Demo.stream(ask(vec![user("hello there, how do you do?")])).await.unwrap()).await;
    assert_eq!(text_of(&chunks), format!("{DEMO_LABEL} you said: hello there, how do you do?"));
    assert!(chunks.iter().filter(|c| matches!(c, Chunk::Text(_))).count() > 2);
    assert_eq!(chunks.last(), Some(&Chunk::Done(StopReason::Stop)));
}

#[tokio::test]
async fn the_demo_calls_tools_on_offer_and_reports_back() {
    let asked = Ask { tools: vec![tool("read")].into(), ..ask(vec![user("please\nuse tool read {\"path\": \"a b\"}\nuse tool rm {}")]) };
    let (chunks, _) = all(Demo.stream(asked).await.unwrap()).await;
    assert!(matches!(&chunks[0], Chunk::ToolCall { name, arguments, .. } if name == "read" && *arguments == json!({"path": "a b"})));
    assert_eq!(chunks.last(), Some(&Chunk::Done(StopReason::ToolUse)));
    assert_eq!(chunks.len(), 3, "a tool that is not on offer is not called");
    let (chunks, _) = all(Demo.stream(ask(vec![user("x"), message(Role::Assistant, vec![call("c", "t")]), result("c", "file text")])).await.unwrap()).await;
    assert_eq!(text_of(&chunks), format!("{DEMO_LABEL} the tool t answered: file text"));
}

#[tokio::test(start_paused = true)]
async fn scripts_follow_their_rules() {
    let script = Script::new()
        .on_times(1, When::Any, vec![Step::Wait(50), Step::Fail(ErrorKind::Overloaded, "busy".into())])
        .on(When::Says("cut".into()), vec![Step::Text("half".into()), Step::Wait(1_000), Step::Cut])
        .on(When::Says("tool".into()), vec![Step::Call { name: "t".into(), arguments: json!({}) }])
        .on(When::ResultOf("t".into()), vec![Step::Echo]);
    assert_eq!(script.stream(ask(vec![user("cut")])).await.err().unwrap().kind, ErrorKind::Overloaded);
    let (chunks, error) = all(script.stream(ask(vec![user("cut")])).await.unwrap()).await;
    assert_eq!((text_of(&chunks).as_str(), error.unwrap().kind), ("half", ErrorKind::Network));
    let (chunks, _) = all(script.stream(ask(vec![user("tool")])).await.unwrap()).await;
    assert_eq!(chunks.last(), Some(&Chunk::Done(StopReason::ToolUse)));
    let (chunks, _) = all(script.stream(ask(vec![user("tool"), message(Role::Assistant, vec![call("c", "t")]), result("c", "r")])).await.unwrap()).await;
    assert_eq!(text_of(&chunks), "tool");
    assert_eq!(script.stream(ask(vec![user("?")])).await.err().unwrap().kind, ErrorKind::Request);
    assert_eq!(script.asked().len(), 5);
}
