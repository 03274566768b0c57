//! The original's command line against our gateway: exit codes and output shapes as its own gateway gives them.

use std::collections::BTreeSet;

use clawstead_harness::{
    cli::Cli,
    engines::Engine,
    gateway::{Gateway, Setup, Whose, config},
    golden::{COMMANDS, Recorded, run_all},
    mock::{MockModel, Options},
};

const SUITE: &str = "the original's command line";

/// Top-level keys the original's gateway adds from parts we do not have; each needs a reason here.
const NOT_OURS: &[(&str, &str)] = &[];

fn golden() -> Vec<Recorded> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/openclaw-cli.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn every_command_answers_as_from_its_own_gateway() {
    if Engine::Node.or_skip(SUITE).is_none() || Engine::OpenClaw.or_skip(SUITE).is_none() {
        return;
    }
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = clawstead_harness::free_port().unwrap();
    let setup = Setup { port, ..Setup::ours(&config(port, &model.v1(), &["jerry", "bobby", "billy"])) };
    let gateway = Gateway::start(setup).await.unwrap();
    let cli = Cli::remote(Whose::Original, &gateway.ws()).unwrap();
    let (ours, outputs) = run_all(&cli, COMMANDS).await.unwrap();

    let mut wrong = Vec::new();
    let (mut nested_want, mut nested_have) = (0, 0);
    for (want, (have, ran)) in golden().iter().zip(ours.iter().zip(&outputs)) {
        assert_eq!(want.name, have.name, "the recording has other commands: run record-cli");
        if want.code != have.code {
            wrong.push(format!("{}: exit code {:?}, the original {:?}\n  stdout: {}\n  stderr: {}", want.name, have.code, want.code, ran.stdout, ran.stderr));
            continue;
        }
        if want.error != have.error {
            wrong.push(format!("{}: error {:?}, the original {:?}", want.name, have.error, want.error));
        }
        let top = |one: &Recorded| one.shape.iter().filter(|path| !path.contains('.')).cloned().collect::<BTreeSet<_>>();
        let missing: Vec<_> = top(want).difference(&top(have)).filter(|key| !NOT_OURS.contains(&(want.name.as_str(), key.as_str()))).cloned().collect();
        if !missing.is_empty() {
            wrong.push(format!("{}: keys missing: {}", want.name, missing.join(", ")));
        }
        let kinds: Vec<_> =
            want.kinds.difference(&have.kinds).filter(|kind| !missing.iter().any(|key| kind.starts_with(&format!("{key}:")))).cloned().collect();
        if !kinds.is_empty() {
            wrong.push(format!("{}: another type or null: {}", want.name, kinds.join(", ")));
        }
        nested_want += want.shape.len();
        nested_have += want.shape.intersection(&have.shape).count();
        let deeper: Vec<_> = want.shape.difference(&have.shape).filter(|path| path.contains('.')).cloned().collect();
        if !deeper.is_empty() {
            println!("{}: second-level keys not given: {}", want.name, deeper.join(" "));
        }
    }
    println!("{nested_have} of {nested_want} recorded key paths are there");
    let seen = model.count();
    assert!(wrong.is_empty(), "{}\n({seen} model requests)\ngateway log:\n{}", wrong.join("\n"), gateway.log_tail(30));
}

#[tokio::test]
async fn the_agent_command_prints_the_answer() {
    if Engine::Node.or_skip(SUITE).is_none() || Engine::OpenClaw.or_skip(SUITE).is_none() {
        return;
    }
    let model = MockModel::start(Options { remember: true, ..Options::default() }).await.unwrap();
    let port = clawstead_harness::free_port().unwrap();
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
