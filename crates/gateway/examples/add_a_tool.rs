//! A gateway inside a program, with one tool more: `cargo run -p clawstead-gateway --example add_a_tool -- 20`.
//!
//! Rolls a die with so many sides, through the whole way: a client connects, calls `tools.invoke`, the policy is
//! asked, the tool runs. Agents of this gateway are offered it too. Everything is kept in memory and gone at the end.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use clawstead_config::{DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
use clawstead_gateway::{
    VERSION,
    building::{Building, Ground, SetUpWorkspaces},
    doors::{self, Phase},
    live::Live,
    rpc::system::Process,
};
use clawstead_state::MemoryStore;
use clawstead_terms::EffectClass;
use clawstead_tools::{Places, Tool, ToolCx, ToolError, ToolOutput, ToolSpec};
use clawstead_wire::{Client, ConnectOptions, device::DeviceIdentity};
use clawstead_world::World;
use tokio_util::sync::CancellationToken;

/// Rolls dice.
struct Dice;

/// What the model says; the comments become the descriptions it reads.
#[derive(Deserialize, JsonSchema)]
struct Roll {
    /// How many sides the die has, 2 to 1000.
    #[schemars(range(min = 2, max = 1000))]
    sides: u32,
}

#[async_trait]
impl Tool for Dice {
    type Args = Roll;
    const SPEC: ToolSpec = ToolSpec {
        name: "dice",
        title: "Roll a die",
        description: "Rolls one die and tells what it shows.",
        group: "group:runtime",
        class: EffectClass::Read,
        timeout_ms: 1_000,
    };

    async fn call(&self, cx: ToolCx, args: Roll) -> Result<ToolOutput, ToolError> {
        if !(2..=1000).contains(&args.sides) {
            return Err(ToolError::BadArguments(format!("a die with {} sides cannot be rolled", args.sides)));
        }
        // Chance comes from the world that was given, so that a simulation rolls the same again.
        let mut bytes = [0; 4];
        cx.world.rng.fill(&mut bytes);
        let shown = u32::from_le_bytes(bytes) % args.sides + 1;
        Ok(ToolOutput::text(format!("The die shows {shown}.")).with_details(json!({ "shown": shown })))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sides: u32 = std::env::args().nth(1).map_or(Ok(6), |text| text.parse())?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let world = World::real()?;

    // A config as it would stand in a file; its folder is never made.
    let env = Env::from_pairs([("HOME", "/nonexistent")]);
    let paths = Paths::resolve(Profile::from_flags(None, DevFlag::Off)?, &env);
    let text = br#"{ gateway: { mode: "local", auth: { token: "example" } }, tools: { profile: "full" } }"#;
    let snapshot = Snapshot::from_bytes(text, &paths, &env, ReadOptions::default());
    let config = snapshot.load(Strictness::Strict, SecretOptions::default())?.config;
    let (live, reloads) = Live::new(snapshot, config.clone(), env, None, Strictness::Strict);

    let settings = doors::DoorSettings::from_config(&config.gateway);
    let listeners = doors::bind(&["127.0.0.1".parse()?], 0, &settings.auth).await?;
    let port = listeners[0].local_addr()?.port();
    let mut seed = [0; 32];
    world.rng.fill(&mut seed);
    let process = Process {
        version: VERSION.into(),
        instance: world.rng.uuid(),
        started: tokio::time::Instant::now(),
        port,
        storage: "memory".into(),
        log_dir: config.paths.log_dir.clone(),
        log_file: None,
        restart: CancellationToken::new(),
    };
    let building = Building::raise(Ground {
        world: world.clone(),
        store: Arc::new(MemoryStore::new()),
        live,
        reloads,
        identity: DeviceIdentity::from_seed(&seed),
        name: "example".into(),
        process: Arc::new(process),
        brain: None,
        places: Places::default(),
        further_tools: vec![Arc::new(Dice)],
        set_up_workspaces: SetUpWorkspaces::No,
        farm: None,
    })
    .await?;
    building.doors.set_phase(Phase::Ready);
    for listener in listeners {
        tokio::spawn(doors::serve(listener, building.doors.clone()));
    }

    // From here on it is any client of any gateway.
    world.rng.fill(&mut seed);
    let options = ConnectOptions::cli(format!("ws://127.0.0.1:{port}"), VERSION)
        .token("example")
        .device(DeviceIdentity::from_seed(&seed))
        .scopes(["operator.admin", "operator.write"]);
    let client = Client::connect(options).await?;
    let answer = client.call_raw("tools.invoke", json!({ "name": "dice", "args": { "sides": sides } })).await?;
    println!("{answer:#}");
    client.close().await;
    Ok(())
}
