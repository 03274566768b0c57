//! Our command line against our gateway: the shapes and exit codes scripts know from the original, and its speed.

use std::time::{Duration, Instant};

use clawstead_harness::{
    cli::Cli,
    client::Client,
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    golden::check_all,
    mock::{MockModel, Options},
};
use serde_json::json;

async fn gateway(agents: &[&str]) -> (Gateway, MockModel) {
    let model = MockModel::start(Options { remember: true, ..Options::default() }).await.unwrap();
    let port = free_port().unwrap();
    (Gateway::start(Setup { port, ..Setup::ours(&config(port, &model.v1(), agents)) }).await.unwrap(), model)
}

#[tokio::test]
async fn every_command_answers_as_the_original_does() {
    let (gateway, _model) = gateway(&["jerry", "bobby", "billy"]).await;
    let wrong = check_all(&Cli::remote(Whose::Ours, &gateway.ws()).unwrap()).await.unwrap();
    assert!(wrong.is_empty(), "{}\ngateway log:\n{}", wrong.join("\n"), gateway.log_tail(30));
}

#[tokio::test]
async fn the_url_rule_is_kept() {
    let (gateway, _model) = gateway(&["main"]).await;
    let cli = Cli::in_home(Whose::Ours, &gateway.home);
    let bare = cli.run(&["gateway", "health", "--url", &gateway.ws(), "--json"]).await.unwrap();
    assert_eq!((bare.code, &bare.json()["error"]["type"]), (Some(1), &json!("gateway_credentials_required")), "{}", bare.stdout);
    let given = cli.run(&["gateway", "health", "--url", &gateway.ws(), "--token", clawstead_harness::gateway::TOKEN, "--json"]).await.unwrap();
    assert_eq!((given.code, &given.json()["ok"]), (Some(0), &json!(true)), "{} {}", given.stdout, given.stderr);
    for args in [&["health", "--url", "ws://x"][..], &["nonsense"], &["agent", "--agent", "main"]] {
        let ran = cli.run(args).await.unwrap();
        assert_eq!(ran.code, Some(1), "{args:?}: {} {}", ran.stdout, ran.stderr);
    }
    let profile = cli.run(&["--profile", "not/good", "health"]).await.unwrap();
    assert_eq!(profile.code, Some(2), "{}", profile.stderr);
}

#[tokio::test]
async fn nobody_there_is_a_transport_error() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join(".openclaw")).unwrap();
    let port = free_port().unwrap();
    std::fs::write(home.path().join(".openclaw/openclaw.json"), config(port, "http://127.0.0.1:9/v1", &["main"]).to_string()).unwrap();
    let cli = Cli::in_home(Whose::Ours, home.path());
    let health = cli.run(&["health", "--json"]).await.unwrap();
    assert_eq!((health.code, &health.json()["error"]["type"]), (Some(1), &json!("gateway_transport_error")), "{} {}", health.stdout, health.stderr);
    let status = cli.run(&["status", "--json"]).await.unwrap();
    assert_eq!((status.code, &status.json()["gateway"]["reachable"]), (Some(0), &json!(false)), "{} {}", status.stdout, status.stderr);
}

#[tokio::test]
async fn sigterm_ends_the_gateway_with_zero_and_says_goodbye() {
    let (gateway, _model) = gateway(&["main"]).await;
    let mut client = Client::connect(gateway.port).await.unwrap();
    let began = Instant::now();
    let goodbye = tokio::spawn(async move { client.event(Duration::from_secs(20), |event| event["event"] == "shutdown").await });
    let (code, _home) = gateway.stop(Duration::from_secs(20)).await.unwrap();
    assert_eq!(code, Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "an idle gateway took {:?} to end", began.elapsed());
    goodbye.await.unwrap().expect("no shutdown event");
}
