//! A model from a script: what it says depends on the seed, the run and what it was asked, on nothing else.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use clawstead_agent::{Brain, BrainAsk, BrainChunk, BrainStream, ModelLimits};
use clawstead_providers::{CallIds, Chunk, ErrorKind, ProviderError, Target, repair};
use clawstead_terms::{AgentId, Message, Part, Role, StopReason, Usage};

use crate::{dice::Dice, outside::Outside};

/// Tokens of a window in which nothing is ever compacted here.
const WINDOW: u64 = 200_000;

/// Stands in bodies of letters between gateways, and must stand nowhere that is no body.
pub const CANARY: &str = "canary-of-a-private-body";

/// The model.
pub struct Script {
    /// What everybody shares.
    pub outside: Arc<Outside>,
    /// The life of the gateway that asks.
    pub life: u64,
    /// Tokens its window has less: small windows make compactions.
    pub window: Option<u64>,
}

/// What a piece of an answer is preceded by.
struct Step {
    wait_ms: u64,
    piece: Result<BrainChunk, ProviderError>,
}

fn failed(kind: ErrorKind) -> ProviderError {
    ProviderError { kind, provider: "sim".into(), model: "m".into(), message: format!("simulated {}", kind.word()), status: None, retry_after_ms: None }
}

/// Every call has its one result before anybody else speaks; answers the first fault.
#[must_use]
pub fn unpaired(messages: &[Arc<Message>]) -> Option<String> {
    let mut open: Vec<&str> = Vec::new();
    for message in messages {
        for part in &message.parts {
            match part {
                Part::ToolResult { id, .. } => match open.iter().position(|call| call == id) {
                    Some(at) => drop(open.remove(at)),
                    None => return Some(format!("a result without a call: {id}")),
                },
                Part::ToolCall { id, .. } => {
                    if message.role != Role::Assistant {
                        return Some(format!("a call of somebody else: {id}"));
                    }
                    open.push(id);
                }
                _ if open.is_empty() || message.role == Role::Assistant => {}
                _ => return Some(format!("calls without results: {open:?}")),
            }
        }
    }
    (!open.is_empty()).then(|| format!("calls without results: {open:?}"))
}

/// The numbers of the messages (`#12 ...`) since the model last ended a turn.
fn asked(messages: &[Arc<Message>]) -> Vec<String> {
    let from = messages.iter().rposition(|m| m.role == Role::Assistant && m.stop_reason == Some(StopReason::Stop)).map_or(0, |at| at + 1);
    let words = messages[from..].iter().filter(|m| m.role == Role::User).map(|m| m.plain_text());
    words.flat_map(|text| text.split_whitespace().filter(|word| word.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()).collect()
}

impl Script {
    /// The calls of one round, from the words of the message that began the run.
    fn calls(&self, ask: &BrainAsk, round: u64, words: &str) -> Vec<Chunk> {
        let mut dice = Dice::of(self.outside.seed, &format!("calls {} {round}", ask.run));
        let verb = words.split_whitespace().find_map(|word| word.strip_prefix('@')).unwrap_or("say");
        // `@ask:bobby/billy` asks bobby to ask billy.
        let (verb, way) = verb.split_once(':').unwrap_or((verb, ""));
        let rounds = match verb {
            "once" | "idem" | "read" | "send" | "spawn" | "nothing" | "ask" | "give" => 1,
            "many" => 1 + dice.below(2),
            _ => 0,
        };
        if round >= rounds {
            return Vec::new();
        }
        let call = |index: u64, name: &str, mut arguments: Value| {
            arguments["call"] = json!(format!("{}/{round}/{index}", ask.run));
            Chunk::ToolCall { id: format!("c{round}-{index}-{}", ask.messages.len()), name: name.into(), arguments }
        };
        match verb {
            "once" => vec![call(0, "sim_once", json!({}))],
            "idem" => vec![call(0, "sim_idem", json!({}))],
            "read" => (0..=dice.below(3)).map(|index| call(index, "sim_read", json!({}))).collect(),
            "nothing" => vec![call(0, "no_such_tool", json!({}))],
            "send" => {
                let other = ["jerry", "bobby", "billy"].into_iter().find(|name| *name != ask.agent.as_str()).unwrap_or("jerry");
                let wait = if dice.often(500) { 0 } else { 20 };
                let id = format!("c{round}-0-{}", ask.messages.len());
                let message = format!("#sent-by-{} @say", ask.run);
                vec![Chunk::ToolCall { id, name: "sessions_send".into(), arguments: json!({"agentId": other, "message": message, "timeoutSeconds": wait}) }]
            }
            "ask" | "give" => {
                let (to, rest) = way.split_once('/').unwrap_or((way, ""));
                let further = if rest.is_empty() { "@once".to_owned() } else { format!("@ask:{rest}") };
                let id = format!("c{round}-0-{}", ask.messages.len());
                let message = format!("#{verb}-{} {CANARY} {further}", ask.run);
                let (name, arguments) = if verb == "ask" {
                    let wait = dice.pick(&[0, 20, 120]);
                    ("sessions_send", json!({"agentId": to, "message": message, "timeoutSeconds": wait}))
                } else {
                    ("sessions_spawn", json!({"agentId": to, "task": message}))
                };
                vec![Chunk::ToolCall { id, name: name.into(), arguments }]
            }
            "spawn" => {
                let id = format!("c{round}-0-{}", ask.messages.len());
                vec![Chunk::ToolCall { id, name: "sessions_spawn".into(), arguments: json!({"task": format!("#task-of-{} @read", ask.run)}) }]
            }
            _ => (0..1 + dice.below(4)).map(|index| call(index, dice.pick(&["sim_once", "sim_idem", "sim_read"]), json!({}))).collect(),
        }
    }

    fn script(&self, ask: &BrainAsk, number: u64) -> Vec<Step> {
        let seed = self.outside.seed;
        let healed = self.outside.is_healed();
        let mut dice = Dice::of(seed, &format!("ask {} {number}", ask.run));
        let chosen = BrainChunk::Chosen { provider: "sim".into(), model: "m".into() };
        let mut steps = vec![Step { wait_ms: if dice.often(300) { dice.below(4_000) } else { dice.below(60) }, piece: Ok(chosen) }];
        let summary = ask.messages.first().is_some_and(|m| m.id.as_str() == "summary-request");
        let words: String =
            ask.messages.iter().filter(|m| m.role == Role::User && m.run_id.as_ref() == Some(&ask.run)).map(|m| m.plain_text()).collect::<Vec<_>>().join(" ");
        let round = ask
            .messages
            .iter()
            .filter(|m| m.role == Role::Assistant && m.run_id.as_ref() == Some(&ask.run) && m.parts.iter().any(|p| matches!(p, Part::ToolCall { .. })))
            .count() as u64;
        if !healed {
            let fate = dice.below(1_000);
            if fate < 30 {
                let kinds =
                    [ErrorKind::Overloaded, ErrorKind::Auth, ErrorKind::Quota, ErrorKind::Content, ErrorKind::Network, ErrorKind::Garbage, ErrorKind::Request];
                return vec![Step { wait_ms: dice.below(2_000), piece: Err(failed(dice.pick(&kinds))) }];
            }
            if fate < 40 {
                return vec![Step { wait_ms: dice.below(300), piece: Err(failed(ErrorKind::Context)) }];
            }
            if fate < 55 {
                // It hangs: only a time limit or somebody who stops it ends this.
                steps.push(Step { wait_ms: u64::MAX, piece: Err(failed(ErrorKind::Timeout)) });
                return steps;
            }
        }
        let calls = if summary { Vec::new() } else { self.calls(ask, round, &words) };
        let text = if summary {
            "NOTES".to_owned()
        } else if words.contains("@silent") {
            "NO_REPLY".to_owned()
        } else {
            format!("echo {}", asked(&ask.messages).join(" "))
        };
        let cut = !healed && dice.often(40);
        let broken = !healed && dice.often(20);
        if calls.is_empty() || dice.often(200) {
            let mut rest = text.as_str();
            let pieces = dice.between(1, 4);
            for left in (1..=pieces).rev() {
                let mut at = rest.len() / usize::try_from(left).unwrap_or(1);
                while !rest.is_char_boundary(at) {
                    at -= 1;
                }
                let (piece, more) = rest.split_at(at);
                rest = more;
                steps.push(Step { wait_ms: dice.below(400), piece: Ok(BrainChunk::Piece(Chunk::Text(piece.into()))) });
                if cut && left == 1 {
                    steps.push(Step { wait_ms: dice.below(100), piece: Err(failed(ErrorKind::Network)) });
                    return steps;
                }
            }
        }
        if broken {
            // The stream ends without its last piece.
            return steps;
        }
        let stop = if calls.is_empty() { StopReason::Stop } else { StopReason::ToolUse };
        steps.extend(calls.into_iter().map(|call| Step { wait_ms: 0, piece: Ok(BrainChunk::Piece(call)) }));
        steps.push(Step { wait_ms: dice.below(50), piece: Ok(BrainChunk::Piece(Chunk::Usage(Usage { input: 10, output: 2, ..Usage::default() }))) });
        steps.push(Step { wait_ms: 0, piece: Ok(BrainChunk::Piece(Chunk::Done(stop))) });
        steps
    }
}

#[async_trait]
impl Brain for Script {
    async fn ask(&self, ask: BrainAsk) -> Result<BrainStream, ProviderError> {
        self.outside.alive(self.life).await;
        let number = {
            let mut seen = self.outside.seen();
            let number = seen.asks.entry(ask.run.to_string()).or_default();
            *number += 1;
            *number
        };
        self.outside.tell("ask", format!("{} {} number={number} messages={}", ask.session, ask.run, ask.messages.len()));
        if let Some(fault) = unpaired(&ask.messages) {
            let shape: Vec<String> = ask.messages.iter().map(|m| format!("{:?}:{}", m.role, m.parts.len())).collect();
            self.outside.violation(format!("valid_request: {} run {}: {fault} in {shape:?}", ask.session, ask.run));
        }
        let target = Target { provider: "sim", images: false, reasoning: false, call_ids: CallIds::Word40 };
        if repair(&ask.messages, &target).is_empty() {
            self.outside.violation(format!("valid_request: {} run {}: nothing to send", ask.session, ask.run));
        }
        let outside = Arc::clone(&self.outside);
        let life = self.life;
        let steps = self.script(&ask, number);
        let stream = stream::iter(steps).then(move |step| {
            let outside = Arc::clone(&outside);
            async move {
                match step.wait_ms {
                    0 => {}
                    u64::MAX => std::future::pending().await,
                    ms => tokio::time::sleep(Duration::from_millis(ms)).await,
                }
                outside.alive(life).await;
                step.piece
            }
        });
        Ok(stream.boxed())
    }

    fn limits(&self, _: &AgentId, _: &str) -> ModelLimits {
        ModelLimits { context_window: self.window.unwrap_or(WINDOW), output_max: 1_000 }
    }
}
