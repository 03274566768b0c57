//! The original's command line against our gateway: exit codes and output shapes as its own gateway gives them.

use clawstead_harness::{
    cli::Cli,
    engines::Engine,
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    golden::check_all,
    mock::{MockModel, Options},
};

const SUITE: &str = "the original's command line";

#[tokio::test]
async fn every_command_answers_as_from_its_own_gateway() {
    if Engine::Node.or_skip(SUITE).is_none() || Engine::OpenClaw.or_skip(SUITE).is_none() {
        return;
    }
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = free_port().unwrap();
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&config(port, &model.v1(), &["jerry", "bobby", "billy"])) }).await.unwrap();
    let wrong = check_all(&Cli::remote(Whose::Original, &gateway.ws()).unwrap()).await.unwrap();
    assert!(wrong.is_empty(), "{}\ngateway log:\n{}", wrong.join("\n"), gateway.log_tail(30));
}

#[tokio::test]
async fn the_agent_command_prints_the_answer() {
    if Engine::Node.or_skip(SUITE).is_none() || Engine::OpenClaw.or_skip(SUITE).is_none() {
        return;
    }
    let model = MockModel::start(Options { remember: true, ..Options::default() }).await.unwrap();
    let port = free_port().unwrap();
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&config(port, &model.v1(), &["jerry", "bobby"])) }).await.unwrap();
    let cli = Cli::remote(Whose::Original, &gateway.ws()).unwrap();
    let ran = cli.run(&["agent", "--agent", "jerry", "--message", "!say Plain words."]).await.unwrap();
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "Plain words."), "{}", ran.stderr);
    let ran = cli.run(&["agent", "--agent", "bobby", "--message", "count msg-000009", "--json"]).await.unwrap();
    let json = ran.json();
    assert!(json["result"]["payloads"][0]["text"].as_str().is_some_and(|text| text.contains("msg-000009")), "{}", ran.stdout);
    assert!(json["runId"].is_string() && json["result"]["meta"]["agentMeta"]["sessionId"].is_string(), "{}", ran.stdout);
    assert_eq!(model.seen().last().and_then(|entry| entry.mark.clone()).as_deref(), Some("msg-000009"));
}
