//! Real configurations of both eras and of the mission texts.

use std::sync::Arc;

use clawstead_config::*;

fn paths() -> Paths {
    Paths::resolve(Profile::Main, &Env::from_pairs([("HOME", "/root")]))
}

fn snapshot(text: &str, env: &[(&str, &str)]) -> Snapshot {
    let env = Env::from_pairs(std::iter::once(("HOME", "/root")).chain(env.iter().copied()));
    Snapshot::from_bytes(text.as_bytes(), &Paths::resolve(Profile::Main, &env), &env, ReadOptions::default())
}

fn load(text: &str, env: &[(&str, &str)]) -> (Arc<Config>, Vec<String>) {
    let loaded = snapshot(text, env).load(Strictness::Tolerant, SecretOptions::default()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    (loaded.config, loaded.notices.iter().map(ToString::to_string).collect())
}

fn said(notices: &[String], part: &str) -> bool {
    notices.iter().any(|n| n.contains(part))
}

fn ids(config: &Config) -> Vec<&str> {
    config.agents.list.iter().map(|a| a.id.as_str()).collect()
}

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("golden/", $name, ".json5"))
    };
}

#[test]
fn mission_000() {
    let (c, n) = load(golden!("mission_000_1"), &[]);
    assert_eq!(ids(&c), ["main", "work"]);
    assert_eq!(c.default_agent().as_str(), "main");
    assert_eq!(c.gateway.bind, Bind::Tailnet);
    assert_eq!(c.agents.list[1].workspace.to_str(), Some("/root/.openclaw/workspace-work"));
    assert_eq!(c.bindings[1].account, AccountMatch::Default);
    assert!(n.iter().all(|l| !l.contains("Unrecognized")), "{n:?}");
    let (c, _) = load(golden!("mission_000_2"), &[]);
    assert_eq!(c.agents.list[1].model.primary.as_deref(), Some("anthropic/claude-opus-4-5"));
}

#[test]
fn mission_001() {
    let (c, n) = load(golden!("mission_001_1"), &[]);
    assert_eq!(c.cron.default_agent.as_ref().map(|a| a.as_str()), Some("billy"));
    assert_eq!(c.bindings[1].peer, Some(PeerMatch { kind: PeerKind::Direct, id: "bobby-dm".into() }));
    assert!(said(&n, "Cron jobs without an agent run as \"billy\""), "{n:?}");
    assert!(!said(&n, "dm"), "{n:?}");

    let (c, n) = load(golden!("mission_001_2"), &[]);
    assert_eq!(c.mcp_servers[0].name, "shared-memory");
    assert!(said(&n, "mcp.servers"));

    let (c, n) = load(golden!("mission_001_3"), &[]);
    let p = c.models.provider("litellm").unwrap();
    assert_eq!((p.api.as_deref(), p.models[0].id.as_str(), p.dynamic), (Some("openai-completions"), "ollama/llama3.1", true));
    assert!(said(&n, "models.providers"));

    let (c, _) = load(golden!("mission_001_4"), &[("ANTHROPIC_API_KEY", "k")]);
    assert_eq!(c.models.provider("anthropic").unwrap().api_key.as_ref().unwrap().expose(), "k");
    assert_eq!(c.models.provider("anthropic").unwrap().base_url, None);
    let (_, n) = load(golden!("mission_001_4"), &[]);
    assert!(said(&n, "Missing env var \"ANTHROPIC_API_KEY\""));

    let (c, n) = load(golden!("mission_001_5"), &[]);
    assert_eq!(c.agents.list[0].model.fallbacks, ["anthropic/claude-haiku-4-6"]);
    assert!(said(&n, "fallbackModel"));
}

#[test]
fn mission_002() {
    for text in [golden!("mission_002_1"), golden!("mission_002_2")] {
        let env = [
            ("LITELLM_BASE_URL", "http://h:4000"),
            ("LITELLM_API_KEY", "k"),
            ("SLACK_BOT_TOKEN", "xoxb"),
            ("SLACK_APP_TOKEN", "xapp"),
            ("DISCORD_TOKEN", "d"),
            ("OPENCLAW_GATEWAY_TOKEN", "t"),
        ];
        let (c, n) = load(text, &env);
        assert_eq!(ids(&c), ["jerry", "bobby", "billy"]);
        assert!(c.agents.list[0].description.is_some());
        assert!(!said(&n, "Unrecognized"), "{n:?}");
        assert_eq!(c.gateway.auth.token.as_ref().map(Secret::expose), Some("t"));
    }
    let (c, n) = load(golden!("mission_002_2"), &[("LITELLM_BASE_URL", "http://h:4000"), ("LITELLM_API_KEY", "k")]);
    let p = c.models.provider("litellm").unwrap();
    assert_eq!(p.base_url.as_deref(), Some("http://h:4000"));
    assert_eq!(p.models[0].context_window, 32768);
    assert_eq!(c.agents.get("jerry").unwrap().sandbox.mode, "off");
    assert_eq!(c.agents.get("bobby").unwrap().sandbox.scope, "agent");
    assert!(said(&n, "safeBins"), "{n:?}");
}

#[test]
fn mission_003() {
    let (c, n) = load(golden!("mission_003_1"), &[]);
    let a = &c.agents.list[0];
    assert_eq!((a.id.as_str(), a.role.as_deref()), ("steward", Some("orchestrator")));
    assert_eq!(a.capabilities, ["orchestration", "coordination"]);
    assert_eq!(a.skills.as_ref().unwrap().len(), 2);
    assert_eq!(c.models.resolve("steward").as_deref(), Some("litellm/agent/steward"));
    assert_eq!(a.workspace.to_str(), Some("/root/.openclaw/workspace"));
    for part in
        ["agents have no port", "model_routing.aliases", "passthrough_endpoints", "names the state folder", "memory.pgvector", "read as \"agents.list\""]
    {
        assert!(said(&n, part), "{part} in {n:#?}");
    }
    let strict = snapshot(golden!("mission_003_1"), &[]).load(Strictness::Strict, SecretOptions::default()).unwrap_err();
    assert!(strict.issues.iter().all(|i| i.path.starts_with("memory.")), "{strict}");
}

#[test]
fn mission_004() {
    let (c, _) = load(golden!("mission_004_1"), &[]);
    assert_eq!(c.gateway.mode, Some(GatewayMode::Remote));
    assert_eq!(c.gateway.remote.url.as_deref(), Some("ws://127.0.0.1:19001"));
    assert_eq!(c.gateway.remote.token.as_ref().map(Secret::expose), Some("your-token"));
}

#[test]
fn march() {
    let s = snapshot(golden!("march_onboarded"), &[]);
    assert!(s.blocking(Strictness::Strict).is_empty(), "{:?}", s.issues);
    let c = s.load(Strictness::Strict, SecretOptions::default()).unwrap().config;
    assert_eq!(ids(&c), ["main", "code-reviewer"]);
    assert_eq!(c.agents.list[1].model.fallbacks, ["anthropic/claude-sonnet-4-5"]);
    assert_eq!(c.agents.list[1].skills, Some(vec![]));
    assert_eq!(c.agents.list[1].identity.emoji.as_deref(), Some("🦞"));
    assert_eq!(c.agents.list[0].heartbeat.as_ref().unwrap().active_hours.as_ref().unwrap().end_minute, 1440);
    assert!(c.agents.list[1].heartbeat.is_none());
    assert_eq!(c.tools.exec.timeout_sec, 60);
    assert_eq!(c.messages.queue_mode, clawstead_terms::QueueMode::Followup);
    assert_eq!(c.session.reset_for("telegram", "direct").idle_minutes, Some(90));
    assert_eq!((c.cron.max_concurrent_runs, c.cron.session_retention_ms), (3, Some(43_200_000)));
    assert!(!c.gateway.tailscale_reset_on_exit);
    assert_eq!(c.bindings[0].channel, "discord");
    assert_eq!(c.models.resolve("Opus").as_deref(), Some("anthropic/claude-opus-4-6"));
}

#[test]
fn today() {
    let s = snapshot(golden!("today"), &[("GW", "gw"), ("LITELLM_API_KEY", "k")]);
    assert!(s.blocking(Strictness::Strict).is_empty(), "{:?}", s.issues);
    let l = s.load(Strictness::Strict, SecretOptions::default()).unwrap();
    let c = l.config;
    assert!(l.unresolved.is_empty());
    assert_eq!(c.default_agent().as_str(), "ops");
    assert_eq!(c.agents.get("ops").unwrap().workspace.to_str(), Some("/srv/agents"));
    assert_eq!(c.agents.get("writer").unwrap().workspace.to_str(), Some("/srv/agents/writer"));
    assert!(c.agents.get("writer").unwrap().heartbeat.is_none());
    assert_eq!(c.agents.get("ops").unwrap().heartbeat.as_ref().unwrap().every_ms, 600_000);
    assert_eq!(c.agents.get("ops").unwrap().timeout_seconds, 900);
    assert_eq!(c.gateway.auth.token.as_ref().unwrap().expose(), "gw");
    let accounts = c.channels.accounts("slack");
    assert_eq!(accounts.iter().map(|a| (a.id.as_str(), a.enabled, a.is_default)).collect::<Vec<_>>(), [("a", true, false), ("b", false, true)]);
    assert!(!format!("{c:?} {:?} {:?}", c.models, c.channels).contains("\"k\""));
    let missing = snapshot(golden!("today"), &[]).load(Strictness::Tolerant, SecretOptions::default()).unwrap();
    assert_eq!(missing.unresolved.len(), 2);
    assert!(missing.config.gateway.auth.token.is_none());
}

#[test]
fn issues_name_the_place() {
    for (text, path, message, suggestion, line) in [
        ("{\n  gateway: { foo: 1 },\n}", "gateway", "Unrecognized key: \"foo\"", None, 2),
        ("{\n  gatway: {},\n}", "<root>", "Unrecognized key: \"gatway\"", Some("gateway"), 2),
        ("{ gateway: {\n  prot: 1, bnid: 2 } }", "gateway", "Unrecognized keys: \"prot\", \"bnid\"", Some("port"), 2),
        ("{ gateway: {\n port: \"x\" } }", "gateway.port", "Invalid input: expected number, received string", None, 2),
        ("{ gateway: { port: 0 } }", "gateway.port", "Too small: expected number to be >=1", None, 1),
        ("{ gateway: { port: 70000 } }", "gateway.port", "Too big: expected number to be <=65535", None, 1),
        ("{ gateway: { port: 1.5 } }", "gateway.port", "Invalid input: expected int, received number", None, 1),
        ("{ gateway: { bind: \"lna\" } }", "gateway.bind", "Invalid input (allowed: \"auto\", \"lan\", \"loopback\", \"custom\", \"tailnet\")", Some("lan"), 1),
        ("{ agents: { list: [{ id: \"a\" },\n { id: \"b\", foo: 1 }] } }", "agents.list.1", "Unrecognized key: \"foo\"", None, 2),
        ("{ agents: { list: [{ id: \"a\" },\n { id: \"A\" }] } }", "agents.list.1.id", "Duplicate agent id: \"a\"", None, 2),
        ("{ agents: [{}] }", "agents.0.id", "Invalid input: expected string, received undefined", None, 1),
        ("{ bindings: [{ agentId: \"main\" }] }", "bindings.0.match", "Invalid input: expected object, received undefined", None, 1),
        (
            "{ channels: { telegram: { dmPolicy: \"open\" } } }",
            "channels.telegram.allowFrom",
            "channels.telegram.dmPolicy=\"open\" requires channels.telegram.allowFrom to include \"*\"",
            None,
            1,
        ),
        ("{ channels: { slcak: {} } }", "channels.slcak", "unknown channel id: slcak", Some("slack"), 1),
        ("{ channels: { discord: { allowFrom: [\"1\", 2] } } }", "channels.discord.allowFrom.1", "Invalid input: expected string, received number", None, 1),
        (
            "{ tools: { allow: [\"a\"], alsoAllow: [\"b\"] } }",
            "tools",
            "tools policy cannot set both allow and alsoAllow in the same scope (merge alsoAllow into allow, or remove allow and use profile + alsoAllow)",
            None,
            1,
        ),
        ("{ cron: { sessionRetention: \"soon\" } }", "cron.sessionRetention", "invalid duration (use ms, s, m, h, d)", None, 1),
        ("{ browser: { profiles: { x: {} } } }", "browser.profiles.x", "Profile must set cdpPort or cdpUrl", None, 1),
        (
            "{ agents: { defaults: { heartbeat: { activeHours: { start: \"24:00\", end: \"9:00\" } } } } }",
            "agents.defaults.heartbeat.activeHours.end",
            "invalid time (use \"HH:MM\" 24h format)",
            None,
            1,
        ),
        (
            "{ agents: { list: [{ id: \"a\", identity: { avatar: \"../x.png\" } }] } }",
            "agents.list.0.identity.avatar",
            "identity.avatar must be a workspace-relative path, http(s) URL, or data URI",
            None,
            1,
        ),
        ("{ agents: { list: [{ id: \"a\" }] }, broadcast: { x: [\"b\"] } }", "broadcast.x.0", "Unknown agent id \"b\" (not in agents.list).", None, 1),
        (
            "{ gateway: { auth: { token: \"a\", password: \"b\" } } }",
            "gateway.auth",
            "gateway.auth.token and gateway.auth.password are both configured, but gateway.auth.mode is unset. Set gateway.auth.mode to token or password.",
            None,
            1,
        ),
        ("{ hooks: { enabled: true } }", "hooks.token", "hooks.enabled requires hooks.token", None, 1),
        ("{ __proto__: {} }", "__proto__", "Blocked key: \"__proto__\"", None, 1),
        ("[]", "<root>", "Invalid input: expected object, received array", None, 1),
        ("{", "<root>", "JSON5 parse failed: SyntaxError: JSON5: invalid end of input at 1:2", None, 1),
    ] {
        let s = snapshot(text, &[]);
        let found = s.blocking(Strictness::Strict).into_iter().find(|i| i.path == path && i.message == message);
        let i = found.unwrap_or_else(|| panic!("{text}\n{path} {message}\n{:#?}", s.issues));
        assert_eq!(i.suggestion.as_deref(), suggestion, "{text}");
        assert_eq!(i.line, Some(line), "{text}");
        assert!(i.located().starts_with(&format!("openclaw.json:{line} — ")), "{}", i.located());
    }
    let (_, n) = load("{ gateway: { foo: 1 } }", &[]);
    assert!(said(&n, "Unrecognized key: \"foo\" (ignored)"));
    for (text, env) in [("{ gateway: { foo: 1, strictConfig: true } }", &[][..]), ("{ gateway: { foo: 1 } }", &[("OPENCLAW_STRICT_CONFIG", "1")])] {
        assert!(snapshot(text, env).load(Strictness::Tolerant, SecretOptions::default()).is_err());
    }
    let s = snapshot("{ gateway: { bind: \"lan\", tailscale: { mode: \"serve\" }, auth: { token: \"x\" } } }", &[]);
    assert_eq!(s.blocking(Strictness::Strict).len(), 1);
    assert_eq!(s.load(Strictness::Tolerant, SecretOptions::default()).unwrap().config.gateway.bind, Bind::Loopback);
}

#[test]
fn old_words_are_read() {
    for (text, pointer, want) in [
        ("{ telegram: { botToken: 't' } }", "/channels/telegram/botToken", "t"),
        ("{ agent: { model: 'a/b', modelFallbacks: ['c/d'] } }", "/agents/defaults/model/primary", "a/b"),
        ("{ agent: { modelAliases: { x: 'a/b' } } }", "/agents/defaults/models/a~1b/alias", "x"),
        ("{ routing: { agents: [{ id: 'z' }], queue: { mode: 'collect' } } }", "/messages/queue/mode", "collect"),
        ("{ gateway: { token: 't' } }", "/gateway/auth/token", "t"),
        ("{ gateway: { bind: '0.0.0.0', auth: { token: 'x' } } }", "/gateway/bind", "lan"),
        ("{ tools: { bash: { security: 'deny' } } }", "/tools/exec/security", "deny"),
        ("{ channels: { slack: { dm: { policy: 'disabled' } } } }", "/channels/slack/dmPolicy", "disabled"),
        ("{ channels: { slack: { accounts: { a: { token: 't' } } } } }", "/channels/slack/accounts/a/botToken", "t"),
        ("{ identity: { name: 'Z' }, agents: { list: [{ id: 'a' }] } }", "/agents/entries/a/identity/name", "Z"),
        ("{ session: { maintenance: { pruneDays: 3 } } }", "/session/maintenance/pruneAfter", "3d"),
        ("{ env: { FOO: 'bar' }, gateway: { auth: { token: '${FOO}' } } }", "/gateway/auth/token", "bar"),
        ("{ models: { providers: { x: { baseUrl: 'http://h', api: 'openai' } } } }", "/models/providers/x/api", "openai-completions"),
        ("{ heartbeat: { every: '5m' } }", "/agents/defaults/heartbeat/every", "5m"),
        ("{ workspace: '/w' }", "/agents/defaults/workspace", "/w"),
    ] {
        let s = snapshot(text, &[]);
        assert!(s.blocking(Strictness::Strict).is_empty(), "{text}: {:?}", s.issues);
        assert_eq!(s.normal.pointer(pointer).and_then(|v| v.as_str()), Some(want), "{text}\n{}", s.normal);
    }
}

#[test]
fn no_file_is_the_defaults() {
    let c = Config::defaults(&paths(), &Env::from_pairs([("HOME", "/root")]));
    assert_eq!((c.gateway.port, c.gateway.bind, ids(&c)), (18789, Bind::Loopback, vec!["main"]));
    assert!(c.gateway.mode.is_none() && !c.file_exists);
    assert_eq!((c.messages.queue_cap, c.messages.queue_debounce_ms, c.messages.inbound_debounce_ms), (None, 0, 0));
}

#[test]
fn a2a_is_off_until_enabled_and_nobody_calls_without_a_token() {
    let (c, n) = load("{}", &[]);
    assert!(c.a2a.is_none() && n.is_empty());
    let text = r#"{ a2a: {
        enabled: true, publicUrl: "https://house.example", streaming: false,
        peers: [{ name: "ann", token: "${ANN_TOKEN}" }, { name: "bob", token: { source: "env", provider: "default", id: "GONE" } }],
        push: { targets: ["hooks.home.arpa:8080", "10.0.0.0/8"] },
        remotes: [{ name: "weather", url: "https://weather.example/agent", token: "t" }],
    } }"#;
    let (c, _) = load(text, &[("ANN_TOKEN", "a-token-of-ann-0001")]);
    let a2a = c.a2a.as_ref().unwrap();
    assert!(a2a.enabled && !a2a.streaming && a2a.push);
    assert_eq!(a2a.public_url.as_deref(), Some("https://house.example"));
    let peers: Vec<_> = a2a.peers.iter().map(|peer| (peer.name.as_str(), peer.token.as_ref().map(|token| token.expose()))).collect();
    assert_eq!(peers, [("ann", Some("a-token-of-ann-0001")), ("bob", None)]);
    assert_eq!(a2a.push_targets, ["hooks.home.arpa:8080", "10.0.0.0/8"]);
    assert_eq!((a2a.remotes[0].name.as_str(), a2a.remotes[0].url.as_str()), ("weather", "https://weather.example/agent"));
    assert!(!format!("{a2a:?}").contains("a-token-of-ann"));
    let (c, _) = load(r#"{ a2a: { remotes: [] } }"#, &[]);
    assert!(c.a2a.as_ref().is_some_and(|a2a| !a2a.enabled && a2a.streaming));

    let wrong = |a2a: &str| -> Vec<String> {
        let made = snapshot(&format!("{{ a2a: {a2a} }}"), &[]);
        made.blocking(Strictness::Tolerant).iter().map(|i| format!("{}: {}", i.path, i.message)).collect()
    };
    for (a2a, place, part) in [
        (r#"{ enabled: true }"#, "a2a.peers", "no access without a token"),
        (r#"{ peers: [{ name: "ann" }] }"#, "a2a.peers", "needs a token"),
        (r#"{ peers: [{ name: "ann", token: "short" }] }"#, "a2a.peers", "shorter than 16"),
        (r#"{ peers: [{ name: "a/b", token: "0123456789abcdef" }] }"#, "a2a.peers", "name of a peer"),
        (r#"{ peers: [{ name: "a", token: "0123456789abcdef" }, { name: "b", token: "0123456789abcdef" }] }"#, "a2a.peers", "two peers"),
        (r#"{ peers: [{ name: "a", token: "0123456789abcdef" }, { name: "a", token: "0123456789abcdeg" }] }"#, "a2a.peers", "twice"),
        (r#"{ publicUrl: "ftp://x" }"#, "a2a.publicUrl", "invalid address"),
        (r#"{ push: { targets: ["a b"] } }"#, "a2a.push.targets", "expected host"),
        (r#"{ remotes: [{ name: "x", url: "https://u:p@h" }] }"#, "a2a.remotes", "without credentials"),
        (r#"{ remotes: [{ name: "x" }] }"#, "a2a.remotes", "needs a url"),
    ] {
        let said = wrong(a2a);
        assert!(said.iter().any(|line| line.starts_with(place) && line.contains(part)), "{a2a}: {said:?}");
    }
}

#[test]
fn a_farm_is_read_with_its_defaults() {
    let (c, n) = load("{}", &[]);
    assert!(c.farm.is_none() && n.is_empty(), "without the section nothing changes");

    let text = r#"{ farm: {
        id: "homelab", gateway: "jerry-gateway",
        coord: { kind: "consul", token: "${CONSUL_TOKEN}" },
        bus: { kind: "consul" },
        state: { kind: "postgres", url: { source: "env", provider: "default", id: "DB_URL" } },
        peer: { listen: "0.0.0.0:18790", advertise: "jerry.lan:18790" },
        home: { Bobby: ["bobby-gateway", "jerry-gateway"] },
        policy: [{ from: { gateway: "*", agent: "jerry" }, to: { agent: "bobby" }, capabilities: ["infra.*"], effect: "allow", limits: { per_minute: 60, max_ttl: 600000 } }],
        acceptUnsigned: ["openclaw/agents/bobby/inbox/"], letterTtl: "12h",
        roots: ["00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"],
    } }"#;
    let (c, n) = load(text, &[("CONSUL_TOKEN", "t0ken"), ("DB_URL", "postgres://claw:pw@db/claw")]);
    assert!(n.is_empty(), "{n:?}");
    let farm = c.farm.as_ref().unwrap();
    assert!(farm.has_others());
    assert_eq!(farm.letter_ttl_ms, 12 * 3_600_000);
    assert_eq!((farm.id.as_deref(), farm.gateway.as_deref(), farm.lease), (Some("homelab"), Some("jerry-gateway"), LeaseProfile::Lan));
    assert_eq!((farm.coord.kind, farm.coord.addrs.as_slice()), (CoordKind::Consul, &[CONSUL_ADDR.to_owned()][..]));
    assert_eq!(farm.bus.addrs, farm.coord.addrs);
    assert_eq!(farm.bus.token.as_ref().unwrap().expose(), "t0ken");
    assert_eq!((farm.state.kind, farm.state.schema.as_str()), (StateKind::Postgres, STATE_SCHEMA));
    assert_eq!(farm.state.url.as_ref().unwrap().expose(), "postgres://claw:pw@db/claw");
    assert_eq!(farm.home.iter().next().map(|(agent, list)| (agent.as_str(), list.len())), Some(("bobby", 2)));
    let rule = &farm.policy[0];
    assert_eq!((rule.effect, rule.to.gateway.as_str(), rule.per_minute, rule.max_ttl_ms), (PolicyEffect::Allow, "*", Some(60), Some(600_000)));
    assert!(!format!("{farm:?}").contains("pw@"));
    // A database alone needs no names, and opens nothing.
    let (c, n) = load(r#"{ farm: { state: { kind: "postgres", url: "postgres://u@h/d" } } }"#, &[]);
    assert!(n.is_empty() && !c.farm.as_ref().unwrap().has_others());
    let (c, _) = load(
        r#"{ farm: { id: "lab", gateway: "gw-1", bus: { kind: "consul", addr: "http://other:8500" }, coord: { kind: "consul", token: "${T_X}" } } }"#,
        &[("T_X", "x")],
    );
    assert_eq!(c.farm.as_ref().unwrap().bus.token, None, "a token goes only to the server it was given for");
}

#[test]
fn the_hub_is_off_until_enabled_and_takes_the_memory_there_is() {
    let text = r#"{ farm: { hub: { peers: [
        { name: "laptop", token: "${HUB_TOKEN}" }, { name: "ops", token: { source: "env", provider: "default", id: "GONE" }, scopes: ["operator"] },
    ] } } }"#;
    let (c, _) = load(text, &[("HUB_TOKEN", "0123456789abcdef01234567")]);
    let farm = c.farm.as_ref().unwrap();
    assert!(!farm.hub.enabled && !farm.has_others());
    assert_eq!(farm.hub.peers[0].token.as_ref().map(|token| token.expose()), Some("0123456789abcdef01234567"));
    assert_eq!((&farm.hub.peers[1].token, farm.hub.peers[1].scopes.as_deref()), (&None, Some(&["operator".to_owned()][..])));
    assert!(!format!("{farm:?}").contains("0123456789abcdef"));
    for (coord, bus, settled) in [
        (CoordKind::Consul, BusKind::Redis, HubMemory::Coord),
        (CoordKind::Postgres, BusKind::Nats, HubMemory::Coord),
        (CoordKind::Embedded, BusKind::Redis, HubMemory::Redis),
        (CoordKind::Embedded, BusKind::Embedded, HubMemory::Local),
    ] {
        assert_eq!(HubMemory::Auto.settled(coord, bus), settled);
    }
    assert_eq!(HubMemory::Local.settled(CoordKind::Consul, BusKind::Redis), HubMemory::Local);
}

#[test]
fn a_farm_says_what_cannot_be() {
    let wrong = |farm: &str| -> Vec<String> {
        let made = snapshot(&format!("{{ farm: {farm} }}"), &[]);
        made.blocking(Strictness::Tolerant).iter().map(|i| format!("{}: {}", i.path, i.message)).collect()
    };
    for (farm, place, part) in [
        (r#"{ id: "lab", gateway: "gw", coord: { kind: "redis" } }"#, "farm.coord.kind", "two gateways own one agent"),
        (r#"{ id: "lab", gateway: "gw", coord: { kind: "nats" } }"#, "farm.coord.kind", "farm.bus.kind"),
        (r#"{ coord: { kind: "consul" } }"#, "farm.gateway", "farm.gateway is needed"),
        (r#"{ id: "Lab!", gateway: "gw" }"#, "farm.id", "a-z"),
        (r#"{ id: "lab", gateway: "gw", advertise: "0.0.0.0:18789" }"#, "farm.advertise", "other nodes"),
        (r#"{ id: "lab", gateway: "gw", advertise: "http://10.0.0.5" }"#, "farm.advertise", "host:port"),
        (r#"{ state: { kind: "postgres" } }"#, "farm.state.url", "needs farm.state.url"),
        (r#"{ state: { kind: "postgres", url: "mysql://x" } }"#, "farm.state.url", "invalid address"),
        (r#"{ state: { kind: "mongo" } }"#, "farm.state.kind", "unknown"),
        (r#"{ state: { kind: "postgres", url: "postgres://h/d", schema: "Has-Dash" } }"#, "farm.state.schema", "schema name"),
        (r#"{ id: "lab", gateway: "gw", bus: { kind: "postgres" } }"#, "farm.bus.kind", "does not carry letters"),
        (r#"{ id: "lab", gateway: "gw", bus: { kind: "redis" } }"#, "farm.bus.addr", "needs farm.bus.addr"),
        (r#"{ id: "lab", gateway: "gw", bus: { kind: "nats", addr: "nats://u:p@h" } }"#, "farm.bus.addr", "may not hold credentials"),
        (r#"{ id: "lab", gateway: "gw", bus: { kind: "peer" } }"#, "farm.peer", "needs farm.peer"),
        (r#"{ id: "lab", gateway: "gw", peer: { listen: "0.0.0.0:1879" } }"#, "farm.peer.advertise", "is needed"),
        (r#"{ id: "lab", gateway: "gw", peer: { advertise: "http://x" } }"#, "farm.peer.advertise", "always TLS"),
        (r#"{ polcy: [] }"#, "farm", "Unrecognized key"),
        (r#"{ policy: [{ to: { agent: "a" }, effect: "allow" }] }"#, "farm.policy", "needs from"),
        (r#"{ acceptUnsigned: [""] }"#, "farm.acceptUnsigned", "below openclaw/agents/"),
        (r#"{ letterTtl: "soon" }"#, "farm.letterTtl", "invalid duration"),
        (r#"{ letterTtl: "25h" }"#, "farm.letterTtl", "between 1s and 24h"),
        (r#"{ roots: ["abc"] }"#, "farm.roots", "32 bytes"),
        (r#"{ hub: { peers: [{ name: "a b", token: "0123456789abcdef01234567" }] } }"#, "farm.hub.peers", "needs a name"),
        (r#"{ hub: { peers: [{ name: "laptop", token: "short" }] } }"#, "farm.hub.peers", "24 bytes"),
        (r#"{ hub: { peers: [{ name: "laptop" }] } }"#, "farm.hub.peers", "token of its own"),
        (r#"{ hub: { peers: [{ name: "l", token: "0123456789abcdef01234567", scopes: ["root"] }] } }"#, "farm.hub.peers", "no scope"),
        (r#"{ hub: { enabled: true, memory: "coord" } }"#, "farm.hub.memory", "needs farm.coord.kind"),
        (r#"{ hub: { enabled: true, memory: "redis" } }"#, "farm.hub.memory", "needs farm.bus.kind"),
        (r#"{ home: { bobby: ["gw-1", "gw-1"] } }"#, "farm.home", "twice"),
        (r#"{ lease: "slow" }"#, "farm.lease", "Invalid input"),
        (r#"[]"#, "farm", "expected object"),
    ] {
        let said = wrong(farm);
        assert!(said.iter().any(|line| line.starts_with(place) && line.contains(part)), "{farm}: {said:?}");
    }
    // A credential is no credential in the shown form.
    let shown = redact(&serde_json::json!({"farm": {"state": {"url": "postgres://u:pw@h/d"}, "coord": {"token": "abc"}}}));
    assert!(!shown.to_string().contains("pw@") && !shown.to_string().contains("abc"), "{shown}");
}

#[test]
fn signing_keys_and_the_vault_have_their_rules_and_defaults() {
    let text = r#"{
        a2a: { signing: { keys: [{ file: "/keys/old.pem", kid: "old" }, { file: "~/new.pem" }] } },
        farm: { hub: { vault: { git: true } } },
    }"#;
    let (c, _) = load(text, &[]);
    let signing = &c.a2a.as_ref().unwrap().signing;
    assert!(signing.own && signing.keys.len() == 2 && signing.keys[0].kid.as_deref() == Some("old") && signing.keys[1].kid.is_none());
    assert!(signing.keys[0].file.ends_with("old.pem") && signing.keys[1].file.is_absolute());
    let vault = c.farm.as_ref().unwrap().hub.vault.as_ref().unwrap();
    assert_eq!((vault.path.clone(), vault.git.as_deref()), (c.paths.state_dir.join("shared-vault"), Some("git")));
    let (c, _) = load(r#"{ a2a: { signing: { own: false } }, farm: { hub: { vault: { enabled: false } } } }"#, &[]);
    assert!(!c.a2a.as_ref().unwrap().signing.own && c.farm.as_ref().unwrap().hub.vault.is_none());
    for (text, part) in [
        (r#"{ a2a: { signing: { keys: [{ kid: "a" }] } } }"#, "needs a file"),
        (r#"{ a2a: { signing: { keys: [{ file: "a", kid: "a" }, { file: "b", kid: "a" }] } } }"#, "two signing keys"),
        (r#"{ farm: { hub: { peers: [{ name: "a", token: "0123456789abcdef01234567", scopes: ["vault"] }] } } }"#, "no scope of the hub"),
    ] {
        let made = snapshot(text, &[]);
        assert!(made.issues.iter().any(|issue| issue.message.contains(part)), "{text}: {:?}", made.issues);
    }
}
