//! One story from end to end: letters between agents, a death, the way home, maintenance.

use clawstead_harness::{
    ha::{Plan, Rig},
    mock::{Options, Rule},
};
use serde_json::json;

fn plan() -> Plan {
    let rules = vec![Rule {
        contains: "ask bobby to check".into(),
        tool: Some("sessions_send".into()),
        arguments: json!({"agentId": "bobby", "message": "Please check the nomad status", "timeoutSeconds": 40}),
        say: Some("Bobby answered: {result}".into()),
        ..Rule::default()
    }];
    Plan { model: Options { rules, ..Options::default() }, ..Plan::new("take-over") }
}

async fn say(farm: &Rig, at: &str, agent: &str, text: &str) -> String {
    let answer = farm.run(at, &["agent", "--agent", agent, "--message", text]).await.unwrap();
    answer.as_str().map_or_else(|| answer.to_string(), str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_dies_and_its_agents_go_on_elsewhere_with_their_conversations() {
    let Some(mut farm) = Rig::make(&plan()).await.unwrap() else { return };
    // Anybody reaches any agent through any gateway.
    for (at, agent) in [("one", "jerry"), ("one", "bobby"), ("two", "billy"), ("three", "bobby")] {
        let answer = say(&farm, at, agent, &format!("msg-1-{at}-{agent}")).await;
        assert!(answer.contains(&format!("msg-1-{at}-{agent}")), "{answer}");
    }
    let answer = say(&farm, "one", "jerry", "please ask bobby to check").await;
    assert!(answer.contains("nomad status"), "{answer}");

    // bobby's gateway dies without a word.
    farm.kill("two").await.unwrap();
    let took = farm.owned("agent.bobby", "three").await.unwrap();
    println!("take-over after {took:?}");
    let answer = say(&farm, "one", "bobby", "msg-2 after the death").await;
    assert!(answer.contains("msg-2"), "{answer}");
    let history = farm.history("three", "agent:bobby:main").await.unwrap().to_string();
    for mark in ["msg-1-one-bobby", "msg-1-three-bobby", "nomad status", "msg-2"] {
        assert!(history.contains(mark), "{mark} is lost: {history}");
    }
    let answer = say(&farm, "one", "jerry", "please ask bobby to check").await;
    assert!(answer.contains("nomad status"), "{answer}");

    // It is back: nothing moves by itself, and it is given back in order.
    farm.start("two").await.unwrap();
    let moved = farm.run("one", &["farm", "move", "bobby", "two", "--json"]).await.unwrap();
    println!("moved: {moved}");
    assert_eq!(moved["ok"], true, "{moved}");
    farm.owned("agent.bobby", "two").await.unwrap();
    let answer = say(&farm, "three", "bobby", "msg-3 home again").await;
    assert!(answer.contains("msg-3"), "{answer}");
    assert!(farm.history("two", "agent:bobby:main").await.unwrap().to_string().contains("msg-2"));

    // Emptied for maintenance, and filled again.
    let drained = farm.run("one", &["farm", "drain", "one", "--why", "test", "--json"]).await.unwrap();
    assert_eq!(drained["ok"], true, "{drained}\n{}", farm.logs());
    farm.owned("agent.jerry", "two").await.unwrap();
    assert!(say(&farm, "one", "jerry", "msg-4 while drained").await.contains("msg-4"));
    farm.run("two", &["farm", "drain", "one", "--undo", "--json"]).await.unwrap();
    farm.run("two", &["farm", "move", "jerry", "one", "--json"]).await.unwrap();
    farm.owned("agent.jerry", "one").await.unwrap();
}
