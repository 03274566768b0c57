//! Commands without a gateway: errors, exit codes, profiles, config edits.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use common::Home;

#[test]
fn the_version_line_is_what_scripts_look_for() {
    let home = Home::new();
    for args in [["--version"], ["-V"], ["-v"]] {
        let ran = home.run(&args);
        assert_eq!(ran.code, 0);
        assert!(ran.out.starts_with("OpenClaw 2026.9.6 ("), "{}", ran.out);
    }
}

#[test]
fn mistakes_have_the_known_words_and_exit_code_1() {
    let home = Home::new();
    for (args, says) in [
        (&["helth"][..], "OpenClaw does not know the command \"helth\"."),
        (&["helth"], "Did you mean \"health\"?"),
        (&["health", "--url", "ws://127.0.0.1:1"], "OpenClaw does not recognize option \"--url\"."),
        (&["health", "--url", "ws://127.0.0.1:1"], "Try: openclaw health --help"),
        (&["gateway", "foo"], "OpenClaw gateway has no command \"foo\"."),
        (&["browser", "status"], "openclaw browser is not available here."),
        (&["agent", "--agent", "nosuch", "-m", "x"], "Unknown agent id \"nosuch\". Use \"openclaw agents list\" to see configured agents."),
        (&["agent", "--agent", "main"], "Missing message. Use openclaw agent --message"),
        (&["config", "get", "nope.nope"], "Unknown config path: nope.nope. Run openclaw config schema to inspect valid paths."),
        (&["onboard", "--non-interactive"], "--accept-risk"),
    ] {
        let ran = home.run(args);
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(says), "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "{args:?}: {}", ran.out);
    }
}

#[test]
fn wrong_global_flags_exit_2() {
    let home = Home::new();
    for args in [&["--profile", "a/b", "status"][..], &["--dev", "--profile", "x", "status"], &["status", "--log-level", "loud"]] {
        let ran = home.run(args);
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(ran.err.starts_with("[openclaw] "), "{}", ran.err);
    }
}

#[test]
fn failures_under_json_are_one_json_document() {
    let home = Home::new();
    let ran = home.run(&["config", "get", "nope.nope", "--json"]);
    assert_eq!((ran.code, ran.json()["error"]["type"].as_str()), (1, Some("cli_error")));
    let port = common::free_port().to_string();
    let ran = home.run_with(&["health", "--json"], &[("OPENCLAW_GATEWAY_PORT", &port)]);
    let json = ran.json();
    assert_eq!((ran.code, json["error"]["type"].as_str(), json["error"]["kind"].as_str()), (1, Some("gateway_transport_error"), Some("closed")));
    assert_eq!(json["error"]["message"], format!("Gateway not reachable at ws://127.0.0.1:{port} (ECONNREFUSED)."));
    assert_eq!(json["gateway"]["urlSource"], "local loopback");
}

#[test]
fn an_address_by_hand_gets_no_stored_credentials() {
    let home = Home::with_config("{gateway: {mode: 'local', auth: {token: 'stored-secret-token'}}}");
    for (args, vars) in [
        (&["gateway", "call", "health", "--url", "ws://127.0.0.1:9", "--json"][..], &[][..]),
        (&["cron", "list", "--json"], &[("OPENCLAW_GATEWAY_URL", "ws://127.0.0.1:9"), ("OPENCLAW_GATEWAY_TOKEN", "env-secret")][..]),
    ] {
        let ran = home.run_with(args, vars);
        let json = ran.json();
        assert_eq!((ran.code, json["error"]["type"].as_str()), (1, Some("gateway_credentials_required")), "{args:?}");
        assert!(json["error"]["message"].as_str().unwrap().starts_with("gateway url override requires explicit credentials"));
    }
    let ran = home.run(&["gateway", "call", "health", "--url", "ws://10.1.2.3:9", "--token", "x"]);
    assert!(ran.err.contains("clear text"), "{}", ran.err);
}

#[test]
fn edits_keep_comments_and_back_up() {
    let home = Home::with_config("// mine\n{\n  gateway: { mode: 'local' /* here */, port: 18789 }, // base\n}\n");
    let ran = home.run(&["config", "set", "gateway.reload.mode", "hybrid"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "Updated gateway.reload.mode. No gateway restart needed.\n"), "{}", ran.err);
    let text = home.text();
    assert!(text.contains("// mine") && text.contains("/* here */") && text.contains("// base"), "{text}");
    assert!(home.state().join("openclaw.json.bak").exists());
    assert_eq!(home.run(&["config", "get", "gateway.reload.mode"]).out, "hybrid\n");
    assert_eq!(home.run(&["config", "set", "gateway.reload.mode", "hybrid"]).out, "No change\n");
    let ran = home.run(&["config", "set", "gateway.foo", "1"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("Config validation failed: gateway: Unrecognized key: \"foo\""), "{}", ran.err);
    let ran = home.run(&["config", "unset", "gateway.reload.mode"]);
    assert!(ran.code == 0 && ran.out.starts_with("Removed gateway.reload.mode."), "{}", ran.out);
    let ran = home.run(&["config", "set", "gateway.port", "19000", "--expect-current-json", "1"]);
    assert_eq!(ran.code, 1);
    assert_eq!(home.run(&["config", "get", "gateway.port", "--json"]).json(), 18789);
}

#[test]
fn secrets_are_not_shown() {
    let home = Home::with_config("{gateway: {mode: 'local', auth: {token: 'stored-secret-token'}}}");
    for args in [
        &["config", "get", "gateway"][..],
        &["config", "get", "gateway.auth.token"],
        &["gateway", "status", "--no-probe", "--json"],
        &["doctor"],
        &["security", "audit", "--json"],
    ] {
        let ran = home.run(args);
        assert!(!ran.out.contains("stored-secret") && !ran.err.contains("stored-secret"), "{args:?}: {}", ran.out);
    }
    assert_eq!(home.run(&["config", "get", "gateway.auth.token"]).out, "__OPENCLAW_REDACTED__\n");
}

#[test]
fn validation_answers_on_one_line() {
    let home = Home::with_config("{gateway: {mode: 'local'}}");
    let ran = home.run(&["config", "validate", "--json"]);
    assert_eq!((ran.code, ran.out.lines().count()), (0, 1));
    assert_eq!((ran.json()["valid"].as_bool(), ran.json()["warnings"].is_array()), (Some(true), true));
    let home = Home::with_config("{\n  gateway: {\n    port: 'x',\n  },\n}");
    let ran = home.run(&["config", "validate", "--json"]);
    let json = ran.json();
    assert_eq!((ran.code, ran.out.lines().count(), json["ok"].as_bool(), json["issues"][0]["path"].as_str()), (1, 1, Some(false), Some("gateway.port")));
    let ran = home.run(&["gateway", "run"]);
    assert_eq!(ran.code, 78, "{}", ran.err);
    assert!(ran.err.contains("openclaw.json:3") && ran.err.contains("gateway.port"), "{}", ran.err);
    for args in [&["status"][..], &["gateway", "status"], &["config", "get", "gateway.port"], &["config", "file"]] {
        assert_eq!(home.run(args).code, 0, "{args:?}");
    }
    assert_eq!(home.run(&["doctor"]).code, 1);
}

#[test]
fn profiles_have_their_own_files() {
    let home = Home::new();
    assert_eq!(home.run(&["config", "file"]).out, "~/.openclaw/openclaw.json\n");
    assert_eq!(home.run(&["--profile", "rescue", "config", "file"]).out, "~/.openclaw-rescue/openclaw.json\n");
    assert_eq!(home.run(&["config", "file", "--dev"]).out, "~/.openclaw-dev/openclaw.json\n");
    let unit = home.run(&["--profile", "rescue", "gateway", "install", "--dry-run"]);
    assert_eq!(unit.code, 0);
    assert!(
        unit.out.contains("openclaw-gateway-rescue.service")
            && unit.out.contains("RestartPreventExitStatus=78")
            && unit.out.contains("--profile rescue gateway run"),
        "{}",
        unit.out
    );
}

#[test]
fn agents_and_bindings_are_written_where_the_file_keeps_them() {
    let home = Home::with_config("{gateway: {mode: 'local'}, agents: {list: [{id: 'main', default: true}]}} // end\n");
    let ran = home.run(&["agents", "add", "Ops", "--workspace", "~/ops", "--bind", "telegram:alerts", "--non-interactive", "--json"]);
    let json = ran.json();
    assert_eq!((json["agentId"].as_str(), json["bindings"]["added"][0].as_str()), (Some("ops"), Some("telegram:alerts")), "{}", ran.err);
    assert!(home.dir.path().join("ops/SOUL.md").exists());
    let rows = home.run(&["agents", "list", "--json"]).json();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!((rows[1]["id"].as_str(), rows[1]["bindings"].as_u64(), rows[0]["isDefault"].as_bool()), (Some("ops"), Some(1), Some(true)));
    assert_eq!(home.run(&["agents", "bindings"]).out, "Routing bindings:\n- ops <- telegram accountId=alerts\n");
    let ran = home.run(&["agents", "bind", "--agent", "main", "--bind", "telegram:alerts", "--json"]);
    assert_eq!((ran.code, ran.json()["conflicts"][0].as_str()), (1, Some("telegram:alerts (agent=ops)")));
    let ran = home.run(&["agents", "bind", "--agent", "ops", "--bind", "slack", "--bind", "telegram:alerts", "--json"]).json();
    assert_eq!((ran["added"][0].as_str(), ran["skipped"][0].as_str()), (Some("slack"), Some("telegram:alerts")));
    let ran = home.run(&["agents", "unbind", "--agent", "ops", "--all", "--json"]).json();
    assert_eq!(ran["removed"].as_array().unwrap().len(), 2);
    let ran = home.run(&["agents", "delete", "ops", "--force", "--json"]);
    assert_eq!(ran.json()["agentId"], "ops", "{}", ran.err);
    assert!(home.text().contains("// end") && !home.dir.path().join("ops").exists());
    let ran = home.run(&["agent", "list", "--json"]);
    assert_eq!(ran.json().as_array().unwrap().len(), 1);
    assert!(ran.err.contains("is now \"openclaw agents list --json\""), "{}", ran.err);
}

#[test]
fn onboarding_from_flags_writes_what_was_asked() {
    let home = Home::new();
    let ran = home.run(&[
        "onboard",
        "--non-interactive",
        "--accept-risk",
        "--auth-choice",
        "custom-api-key",
        "--custom-base-url",
        "http://127.0.0.1:9/v1",
        "--custom-model-id",
        "m",
        "--gateway-port",
        "19500",
        "--skip-health",
        "--json",
    ]);
    let json = ran.json();
    assert_eq!(
        (ran.code, json["ok"].as_bool(), json["gateway"]["port"].as_u64(), json["authChoice"].as_str()),
        (0, Some(true), Some(19500), Some("custom-api-key")),
        "{}",
        ran.err
    );
    assert_eq!(home.run(&["config", "get", "agents.defaults.model.primary"]).out, "custom/m\n");
    assert_eq!(home.run(&["config", "validate"]).code, 0);
    assert!(home.state().join("workspace/SOUL.md").exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(home.config()).unwrap().permissions()) & 0o777;
    assert_eq!(mode, 0o600);
    let ran = home.run(&["models", "set", "nosuch/x"]);
    assert_eq!(ran.code, 1);
    let ran = home.run(&["models", "aliases", "add", "fast", "custom/m"]);
    assert!(ran.out.contains("Alias fast -> custom/m"), "{} {}", ran.out, ran.err);
    assert_eq!(home.run(&["models", "aliases", "list", "--json"]).json()["aliases"]["fast"], "custom/m");
}

#[test]
fn completions_are_made_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let ran = home.run(&["completion", "--shell", shell]);
        assert!(ran.code == 0 && ran.out.contains("openclaw") && ran.out.contains("sessions"), "{shell}");
    }
}

#[test]
fn the_reference_page_is_fresh() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    let made = Home::new().run(&["__docs", "cli"]).out;
    let kept = std::fs::read_to_string(page).unwrap_or_default();
    assert!(made == kept, "docs/reference/cli.md is stale: write it anew with `openclaw __docs cli > docs/reference/cli.md`");
}

#[test]
fn a_first_change_makes_a_config_that_a_gateway_accepts() {
    let home = Home::new();
    assert_eq!(home.run(&["models", "set", "openai/gpt-5"]).code, 0);
    assert_eq!(home.run(&["config", "get", "gateway.mode"]).out, "local\n");
}

#[test]
fn channels_that_are_not_there_are_told_about_in_words() {
    let home = Home::with_config("{gateway: {mode: 'local'}, channels: {loopback: {enabled: true}}}");
    for (args, says) in [
        (&["channels", "login", "--channel", "whatsapp"][..], "WhatsApp is not run by this version"),
        (&["channels", "logout", "--channel", "telegram"], "Telegram is not run by this version"),
        (&["channels", "resolve", "--channel", "slack", "ann"], "Slack is not run by this version"),
        (&["channels", "login", "--channel", "nosuch"], "Unknown channel \"nosuch\""),
        (&["channels", "add", "--channel", "nosuch", "--token", "x"], "Unknown channel \"nosuch\""),
        (&["channels", "capabilities", "--channel", "nosuch"], "Unknown channel \"nosuch\""),
        (&["channels", "login"], "Loopback has no sign-in"),
        (&["channels", "capabilities", "--account", "x"], "--account needs --channel"),
        (&["channels", "resolve", "x", "--account", "nobody"], "no account \"nobody\""),
    ] {
        let ran = home.run(args);
        assert!(ran.code == 1 && ran.err.contains(says), "{args:?}: {} {}", ran.code, ran.err);
    }
    assert_eq!(home.run(&["channels", "logout"]).out, "Loopback: nothing to sign out of\n");
    let found = home.run(&["channels", "capabilities", "--json"]).json();
    assert_eq!((found["channels"][0]["channel"].as_str(), found["channels"][0]["support"]["text"].as_bool()), (Some("loopback"), Some(true)));
    let rows = home.run(&["channels", "resolve", "loopback:ann", "#room", "--json"]).json();
    assert_eq!((rows[0]["resolved"].as_bool(), rows[0]["id"].as_str(), rows[1]["resolved"].as_bool()), (Some(true), Some("ann"), Some(false)));
    let added = home.run(&["channels", "add", "--channel", "telegram", "--token", "123:abc"]);
    assert!(added.code == 0 && added.err.contains("Telegram is not run by this version"), "{}", added.err);
    assert_eq!(home.run(&["channels", "capabilities", "--channel", "telegram", "--json"]).json()["channels"][0]["available"], false);
    let removed = home.run(&["channels", "remove", "--channel", "telegram", "--delete", "--json"]);
    assert_eq!((removed.code, removed.json()["deleted"].as_bool()), (0, Some(true)));
}
