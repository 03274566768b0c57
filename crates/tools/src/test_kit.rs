//! What tests of tools need: a workspace, a context and a gateway that answers from a table.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use clawstead_terms::{AgentId, Failure, SessionKey};
use clawstead_world::World;

use crate::{Places, Rpc, ToolCaller, ToolCx, ToolError, ToolOutput, Toolbox};

type Answer = Box<dyn Fn(&Value) -> Result<Value, Failure> + Send>;

/// A gateway that answers from a table and remembers what it was asked.
#[derive(Default)]
pub struct FakeGateway {
    answers: Mutex<Vec<(String, Answer)>>,
    pub calls: Mutex<Vec<(String, Value)>>,
}

#[async_trait]
impl Rpc for FakeGateway {
    async fn call(&self, _caller: &ToolCaller, method: &str, params: Value) -> Result<Value, Failure> {
        self.calls.lock().unwrap().push((method.to_owned(), params.clone()));
        // A waiting method that is never answered hangs, as a person who never looks does.
        let answer = self.answers.lock().unwrap().iter().rev().find(|(name, _)| name == method).map(|(_, answer)| answer(&params));
        match answer {
            Some(Ok(Value::String(word))) if word == "hang" => std::future::pending().await,
            Some(answer) => answer,
            None => Err(Failure::invalid(format!("unknown method: {method}"))),
        }
    }
}

pub struct Kit {
    temp: tempfile::TempDir,
    pub toolbox: Toolbox,
    pub gateway: Arc<FakeGateway>,
    pub settings: Mutex<Value>,
    world: World,
    pub progress: Mutex<mpsc::Receiver<String>>,
    sender: mpsc::Sender<String>,
}

impl Kit {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("state/workspace")).unwrap();
        let env = std::env::vars().chain([("OPENCLAW_GATEWAY_TOKEN".to_owned(), "hidden".to_owned())]).collect();
        let places = Places { state_dir: root.join("state"), home: root, env };
        let (sender, receiver) = mpsc::channel(64);
        let kit = Self {
            temp,
            toolbox: Toolbox::new(places),
            gateway: Arc::default(),
            settings: Mutex::new(json!({})),
            world: World::simulated(7),
            progress: Mutex::new(receiver),
            sender,
        };
        kit.answer("internal.exec.policy", |_| Ok(json!({"file": {"version": 1}})));
        kit.answer("internal.exec.used", |_| Ok(json!({})));
        kit.answer("wake", |_| Ok(json!({"ok": true})));
        kit
    }

    pub fn answer(&self, method: &str, answer: impl Fn(&Value) -> Result<Value, Failure> + Send + 'static) {
        self.gateway.answers.lock().unwrap().push((method.to_owned(), Box::new(answer)));
    }

    pub fn calls(&self, method: &str) -> Vec<Value> {
        self.gateway.calls.lock().unwrap().iter().filter(|(name, _)| name == method).map(|(_, params)| params.clone()).collect()
    }

    pub fn set(&self, settings: Value) {
        *self.settings.lock().unwrap() = settings;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join("state/workspace").join(name)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn cx(&self) -> ToolCx {
        let agent = AgentId::normalise("jerry");
        ToolCx {
            session: SessionKey::main(&agent),
            agent,
            run: "run-1".into(),
            owner: true,
            workspace: self.path(""),
            settings: Arc::new(self.settings.lock().unwrap().clone()),
            effect_id: "effect-1".into(),
            world: self.world.clone(),
            rpc: self.gateway.clone(),
            progress: self.sender.clone(),
        }
    }

    pub async fn call(&self, tool: &str, args: Value) -> Result<ToolOutput, ToolError> {
        self.toolbox.call(tool, self.cx(), args, None).await
    }
}
