use serde_json::{Value, json};

use super::{HTTP_INVOKE_DENY, PolicyInput, Rank, Sandboxed, ToolPolicy, canonical, matches};

fn policy(global: &Value, agent: &Value, rank: Rank, sandboxed: Sandboxed) -> ToolPolicy {
    ToolPolicy::of(&PolicyInput { global: Some(global), agent: Some(agent), provider: "anthropic", model: "claude", rank, sandboxed, ..Default::default() })
}

#[test]
fn the_table() {
    let none = json!({});
    let rows: Vec<(&str, Value, Value, &[&str], &[&str])> = vec![
        ("no config", none.clone(), none.clone(), &["exec", "message", "browser", "someplugin"], &[]),
        ("minimal", json!({"profile": "minimal"}), none.clone(), &["session_status"], &["exec", "read", "message"]),
        (
            "coding",
            json!({"profile": "coding"}),
            none.clone(),
            &["read", "exec", "process", "sessions_spawn", "memory_get", "cron", "image"],
            &["message", "browser", "gateway"],
        ),
        (
            "messaging",
            json!({"profile": "messaging"}),
            none.clone(),
            &["message", "sessions_list", "sessions_history", "sessions_send", "session_status"],
            &["exec", "read", "cron"],
        ),
        ("full", json!({"profile": "full"}), none.clone(), &["exec", "browser"], &[]),
        ("the agent's profile wins", json!({"profile": "minimal"}), json!({"profile": "coding"}), &["exec"], &["message"]),
        ("alsoAllow widens a profile", json!({"profile": "minimal", "alsoAllow": ["message"]}), none.clone(), &["message", "session_status"], &["exec"]),
        ("the agent's alsoAllow replaces", json!({"profile": "minimal", "alsoAllow": ["message"]}), json!({"alsoAllow": ["cron"]}), &["cron"], &["message"]),
        ("deny wins", json!({"allow": ["exec", "read"], "deny": ["exec"]}), none.clone(), &["read"], &["exec", "write"]),
        ("deny wins over the agent's allow", json!({"deny": ["group:runtime"]}), json!({"allow": ["exec", "read"]}), &["read"], &["exec", "process"]),
        ("an agent cannot widen the global list", json!({"allow": ["read"]}), json!({"allow": ["exec"]}), &[], &["read", "exec"]),
        ("case and aliases", json!({"allow": ["Bash", "Apply-Patch", "GROUP:FS"]}), none.clone(), &["exec", "apply_patch", "read", "BASH"], &["process"]),
        ("wildcards", json!({"deny": ["sessions_*"]}), none.clone(), &["session_status", "exec"], &["sessions_send", "sessions_list"]),
        ("star denies all", json!({"deny": ["*"]}), none.clone(), &[], &["exec", "read", "anything"]),
        ("an empty list is no list", json!({"allow": []}), none.clone(), &["exec"], &[]),
        ("only unknown names", json!({"allow": ["my_plugin_tool"]}), none.clone(), &["exec", "read"], &[]),
        ("unknown beside known", json!({"allow": ["my_plugin_tool", "read"]}), none.clone(), &["read", "my_plugin_tool"], &["exec"]),
        ("all built-in", json!({"allow": ["group:openclaw"]}), none.clone(), &["exec", "message", "cron"], &["my_plugin_tool"]),
        ("who may exec may patch", json!({"allow": ["exec"]}), none.clone(), &["exec", "apply_patch"], &["write"]),
        ("by provider", json!({"byProvider": {"anthropic": {"deny": ["exec"]}, "openai": {"deny": ["read"]}}}), none.clone(), &["read"], &["exec"]),
        (
            "provider/model before provider",
            json!({"byProvider": {"anthropic": {"deny": ["exec"]}, "anthropic/claude": {"profile": "minimal"}}}),
            none.clone(),
            &["session_status"],
            &["read"],
        ),
        ("the agent's by provider", none.clone(), json!({"byProvider": {"Anthropic": {"allow": ["read"]}}}), &["read"], &["exec"]),
    ];
    for (name, global, agent, yes, no) in rows {
        let policy = policy(&global, &agent, Rank::Main, Sandboxed::No);
        for tool in yes {
            assert_eq!(policy.why_denied(tool), None, "{name}");
        }
        for tool in no {
            assert!(!policy.allows(tool), "{name}: {tool} is allowed");
        }
    }
}

#[test]
fn a_sandbox_and_sub_agents_have_less() {
    let none = json!({});
    let sandbox = policy(&none, &none, Rank::Main, Sandboxed::Yes);
    assert!(sandbox.allows("exec") && !sandbox.allows("cron") && !sandbox.allows("message"));
    let wider = policy(&json!({"sandbox": {"tools": {"alsoAllow": ["message", "cron"]}}}), &none, Rank::Main, Sandboxed::Yes);
    assert!(wider.allows("message") && wider.allows("cron") && !wider.allows("browser"));
    let leaf = policy(&none, &none, Rank::Leaf, Sandboxed::No);
    assert!(leaf.allows("exec") && !leaf.allows("sessions_spawn") && !leaf.allows("cron") && !leaf.allows("sessions_send"));
    let boss = policy(&none, &none, Rank::Orchestrator, Sandboxed::No);
    assert!(boss.allows("sessions_spawn") && !boss.allows("gateway"));
    let named = policy(&json!({"subagents": {"tools": {"alsoAllow": ["cron"], "deny": ["exec"]}}}), &none, Rank::Leaf, Sandboxed::No);
    assert!(named.allows("cron") && !named.allows("exec") && named.allows("read"));
    let only = policy(&json!({"subagents": {"tools": {"allow": ["read"]}}}), &none, Rank::Leaf, Sandboxed::No);
    assert!(only.allows("read") && !only.allows("exec"));
}

#[test]
fn a_refusal_names_its_rule() {
    let global = json!({"profile": "coding", "deny": ["exec"], "allow": ["my_plugin_tool"]});
    let group = json!({"deny": ["read"]});
    let turn = ["cron".to_owned()];
    let policy = ToolPolicy::of(&PolicyInput {
        global: Some(&global),
        further: vec![("channels.slack.channels.C1.tools", &group)],
        turn_deny: &turn,
        ..Default::default()
    });
    for (tool, want) in
        [("exec", "tools.deny"), ("message", "tools.profile (coding)"), ("read", "channels.slack.channels.C1.tools.deny"), ("cron", "this turn")]
    {
        let why = policy.why_denied(tool).unwrap();
        assert!(why.contains(want), "{why}");
    }
    assert!(policy.warnings[0].contains("my_plugin_tool"));
}

#[test]
fn patterns() {
    for (pattern, name, want) in [
        ("*", "x", true),
        ("a*", "abc", true),
        ("*c", "abc", true),
        ("a*c", "ac", true),
        ("ab*bc", "abc", false),
        ("a**c", "abc", true),
        ("abc", "abcd", false),
    ] {
        assert_eq!(matches(pattern, name), want, "{pattern} {name}");
    }
    assert_eq!(canonical(" Bash "), "exec");
    assert!(HTTP_INVOKE_DENY.contains(&"exec"));
}
