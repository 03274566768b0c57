use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use clawstead_terms::Failure;

use crate::{ToolError, test_kit::Kit};

async fn text(kit: &Kit, command: &str) -> String {
    kit.call("exec", json!({"command": command})).await.unwrap().plain_text()
}

fn alive(pid: &str) -> bool {
    // A killed process may stay as a zombie until its new parent looks; that is no life.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

/// Waits until a file has a whole line, and gives it.
async fn line_of(path: &Path) -> String {
    loop {
        if let Ok(text) = std::fs::read_to_string(path)
            && text.ends_with('\n')
        {
            return text.trim().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn gone(pid: &str) {
    while alive(pid) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_command_runs_in_the_workspace_and_tells_its_end() {
    let kit = Kit::new();
    let seen = kit.call("Bash", json!({"command": "echo hi; pwd; echo $A; echo \"[$OPENCLAW_GATEWAY_TOKEN]\"", "env": {"A": "b"}})).await.unwrap();
    assert_eq!(seen.plain_text(), format!("hi\n{}\nb\n[]", kit.path("").display().to_string().trim_end_matches('/')));
    let details = seen.details.unwrap();
    assert_eq!((&details["status"], &details["exitCode"], &details["exitReason"]), (&json!("completed"), &json!(0), &json!("exit")));
    let seen = kit.call("exec", json!({"command": "echo out; echo err >&2; exit 3"})).await.unwrap();
    assert!(seen.plain_text().contains("out") && seen.plain_text().contains("err") && seen.plain_text().ends_with("Command exited with code 3"));
    assert_eq!(text(&kit, "true").await, "(no output)");
    assert_eq!(text(&kit, "printf 'a\\377b'").await, "a\u{fffd}b");
    assert_eq!(text(&kit, "cat").await, "(no output)", "input is closed");
    let err = kit.call("exec", json!({"command": "true", "workdir": "nowhere"})).await.unwrap_err().to_string();
    assert!(err.contains("`workdir`"), "{err}");
    let err = kit.call("exec", json!({"command": "true", "env": {"LD_PRELOAD": "x"}})).await.unwrap_err();
    assert!(matches!(&err, ToolError::Denied(why) if why.contains("LD_PRELOAD")), "{err}");
}

#[tokio::test]
async fn a_child_that_ignores_term_is_killed_with_its_group_at_the_limit() {
    let kit = Kit::new();
    let script = "trap '' TERM; (trap '' TERM; sh -c 'echo $PPID > grand; exec sleep 1000') & echo $$ > pid; while :; do sleep 1; done";
    let err = kit.call("exec", json!({"command": script, "timeout": 0.3})).await.unwrap_err().to_string();
    assert!(err.contains("timed out"), "{err}");
    gone(&line_of(&kit.path("pid")).await).await;
    gone(&line_of(&kit.path("grand")).await).await;
}

#[tokio::test]
async fn dropping_the_call_kills_the_group() {
    let kit = Kit::new();
    let pid = kit.path("pid");
    {
        let call = kit.call("exec", json!({"command": "echo $$ > pid; sleep 1000 & wait"}));
        tokio::pin!(call);
        tokio::select! {
            biased;
            _ = &mut call => panic!("it must not end"),
            _ = line_of(&pid) => {}
        }
    }
    gone(&line_of(&pid).await).await;
}

#[tokio::test]
async fn a_flood_is_bounded_and_progress_is_told() {
    let kit = Kit::new();
    let err = kit.call("exec", json!({"command": "yes flood", "timeout": 0.8})).await.unwrap_err().to_string();
    assert!(err.len() <= crate::OUTPUT_BYTES_MAX + 200 && err.contains("left out"), "{}", err.len());
    let mut progress = kit.progress.lock().unwrap();
    let mut steps = 0;
    while let Ok(step) = progress.try_recv() {
        assert!(step.len() <= 8 * 1024);
        steps += 1;
    }
    assert!((1..=16).contains(&steps), "{steps} steps in under 3 s");
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipe_does_not_hold_the_call() {
    let kit = Kit::new();
    let seen = text(&kit, "sleep 1000 & echo $!").await;
    assert!(alive(&seen), "it was left to itself");
    std::process::Command::new("kill").arg(&seen).status().unwrap();
}

#[tokio::test]
async fn a_dead_gateway_takes_its_commands_along() {
    let mut group = tokio::process::Command::new("/bin/sh").args(["-c", "sleep 1000 & sleep 1000"]).process_group(0).spawn().unwrap();
    let number = i32::try_from(group.id().unwrap()).unwrap();
    super::child::Watchdog::start(number).unwrap().dismiss().await;
    assert!(group.try_wait().unwrap().is_none(), "a dismissed one does nothing");
    super::child::Watchdog::start(number).unwrap().let_go().await;
    let status = group.wait().await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

fn allowlist(kit: &Kit, exec: Value, patterns: &[&str]) {
    kit.set(json!({"exec": exec}));
    let list: Vec<Value> = patterns.iter().map(|p| json!({"pattern": p})).collect();
    kit.answer("internal.exec.policy", move |_| Ok(json!({"file": {"version": 1, "agents": {"jerry": {"allowlist": list}}}})));
}

#[tokio::test]
async fn allowed_programs_run_without_a_shell() {
    let kit = Kit::new();
    allowlist(&kit, json!({"security": "allowlist", "ask": "off"}), &["/usr/bin/printf", "printf"]);
    assert_eq!(text(&kit, "printf '%s|' 'a;b' '$HOME' '*'").await, "a;b|$HOME|*|");
    assert_eq!(text(&kit, "printf 'b\\na\\n' | head -1").await, "b");
    assert!(!kit.calls("internal.exec.used").is_empty());
    for bad in [
        "printf a; touch x",
        "printf $(touch x)",
        "touch x",
        "printf a | tee x",
        "env touch x",
        "printf a > x",
        "sh -c 'touch x'",
        "head -1 /etc/passwd",
        "./printf a",
    ] {
        let err = kit.call("exec", json!({"command": bad})).await.unwrap_err();
        assert!(matches!(err, ToolError::Denied(_)), "{bad}: {err}");
    }
    assert!(!kit.path("x").exists());
    assert!(kit.calls("exec.approval.request").is_empty());
}

#[tokio::test]
async fn a_person_is_asked_and_gets_what_was_shown() {
    let kit = Kit::new();
    allowlist(&kit, json!({"security": "allowlist"}), &[]);
    kit.answer("exec.approval.request", |p| Ok(json!({"status": "accepted", "id": p["id"]})));
    kit.answer("exec.approval.waitDecision", |_| Ok(json!({"decision": "allow-once"})));
    assert_eq!(text(&kit, "printf 'x y'").await, "x y");
    let asked = kit.calls("exec.approval.request").remove(0);
    assert_eq!(asked["commandArgv"][1], "x y");
    assert_eq!(asked["allowAlwaysPatterns"][0], asked["resolvedPath"]);
    assert_eq!(text(&kit, "printf a; printf b").await, "ab", "approved as shell text");
    let asked = kit.calls("exec.approval.request").remove(1);
    assert_eq!((&asked["commandArgv"][1], &asked["commandArgv"][2]), (&json!("-c"), &json!("printf a; printf b")));
    assert_eq!(asked["allowAlwaysPatterns"], json!([]));
    for word in [json!("deny"), json!("yes!"), json!(null)] {
        kit.answer("exec.approval.waitDecision", move |_| Ok(json!({"decision": word})));
        assert!(matches!(kit.call("exec", json!({"command": "touch x"})).await, Err(ToolError::Denied(_))));
    }
    kit.answer("exec.approval.request", |_| Err(Failure::internal("broken")));
    assert!(matches!(kit.call("exec", json!({"command": "touch x"})).await, Err(ToolError::Denied(_))));
    assert!(!kit.path("x").exists());
}

#[tokio::test]
async fn a_program_swapped_during_the_approval_is_not_run() {
    let kit = Kit::new();
    allowlist(&kit, json!({"security": "allowlist"}), &[]);
    let tool = kit.file("tool", "#!/bin/sh\necho good\n");
    std::process::Command::new("chmod").arg("755").arg(&tool).status().unwrap();
    kit.answer("exec.approval.request", move |_| {
        std::fs::write(&tool, "#!/bin/sh\necho evil evil\n").unwrap();
        Ok(json!({"decision": "allow-once"}))
    });
    let err = kit.call("exec", json!({"command": "./tool"})).await.unwrap_err().to_string();
    assert!(err.contains("changed while"), "{err}");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_approval_is_a_no() {
    let kit = Kit::new();
    allowlist(&kit, json!({"security": "allowlist"}), &[]);
    kit.answer("exec.approval.request", |p| Ok(json!({"id": p["id"]})));
    kit.answer("exec.approval.waitDecision", |_| Ok(json!("hang")));
    let err = kit.call("exec", json!({"command": "touch x"})).await.unwrap_err().to_string();
    assert!(err.contains("nobody answered"), "{err}");
}

#[tokio::test]
async fn deny_sandbox_and_unreadable_approvals_fail_closed() {
    let kit = Kit::new();
    kit.set(json!({"exec": {"security": "deny"}}));
    assert!(matches!(kit.call("exec", json!({"command": "touch x"})).await, Err(ToolError::Denied(_))));
    kit.set(json!({"exec": {"host": "sandbox"}}));
    assert!(kit.call("exec", json!({"command": "touch x", "host": "gateway"})).await.unwrap_err().to_string().contains("no sandbox engine"));
    kit.set(json!({}));
    kit.answer("internal.exec.policy", |_| Err(Failure::internal("store away")));
    assert!(kit.call("exec", json!({"command": "touch x"})).await.is_err());
    kit.answer("internal.exec.policy", |_| Ok(json!({"file": {"defaults": {"security": "whatever"}}})));
    assert!(kit.call("exec", json!({"command": "touch x"})).await.is_err());
    assert!(!kit.path("x").exists());
}
