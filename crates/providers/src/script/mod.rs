//! Models without a server: the labelled demo model, and scripted ones for tests and the simulator.

mod demo;
#[cfg(test)]
mod tests;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_terms::{Part, Role, StopReason, Usage};
use futures_util::{StreamExt, stream};
use serde_json::Value;

pub use demo::{DEMO_LABEL, DEMO_MODEL, DEMO_PROVIDER, Demo};

use crate::{Ask, Chunk, ChunkStream, ErrorKind, Provider, ProviderError};

/// When a rule of a script applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Any,
    /// The last message of the user holds this text, and nothing came after it.
    Says(String),
    /// The last message is a result of this tool.
    ResultOf(String),
    /// The request is for this model.
    Model(String),
}

/// What a scripted model does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Says text.
    Text(String),
    /// Says the last message of the user back.
    Echo,
    /// Reasons.
    Think(String),
    /// Calls a tool. The id is `call-<number of messages>-<number of the step>`.
    Call {
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
    /// Reports tokens.
    Usage(Usage),
    /// Waits this many milliseconds (tokio time).
    Wait(u64),
    /// Says nothing more, ever.
    Hang,
    /// Fails. As the first step (waits aside) the call itself fails, later the stream does.
    Fail(ErrorKind, String),
    /// The connection breaks.
    Cut,
    /// Ends; added by itself when the steps end otherwise.
    Done(StopReason),
}

#[derive(Clone, Debug)]
struct Rule {
    when: When,
    steps: Vec<Step>,
    /// Uses left; `None` is without end.
    left: Option<u32>,
}

/// A scripted model: the first rule that applies answers. Deterministic.
#[derive(Debug, Default)]
pub struct Script {
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<Ask>>,
}

/// Requests that a script remembers at most.
const ASKED_MAX: usize = 1_000;

impl Script {
    /// A script without rules: every request fails with [`ErrorKind::Request`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule.
    #[must_use]
    pub fn on(self, when: When, steps: Vec<Step>) -> Self {
        self.add(when, steps, None);
        self
    }

    /// Adds a rule that applies `times` times.
    #[must_use]
    pub fn on_times(self, times: u32, when: When, steps: Vec<Step>) -> Self {
        self.add(when, steps, Some(times));
        self
    }

    /// Adds a rule while the script is in use; `times` of `None` is without end.
    pub fn add(&self, when: When, steps: Vec<Step>, times: Option<u32>) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(Rule { when, steps, left: times });
    }

    /// The requests so far (the first 1,000).
    #[must_use]
    pub fn asked(&self) -> Vec<Ask> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn steps(&self, ask: &Ask) -> Option<Vec<Step>> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = rules.iter_mut().find(|r| r.left != Some(0) && applies(&r.when, ask))?;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        Some(rule.steps.clone())
    }
}

fn applies(when: &When, ask: &Ask) -> bool {
    match when {
        When::Any => true,
        When::Says(text) => ask.messages.last().is_some_and(|m| m.role == Role::User && m.plain_text().contains(text.as_str())),
        When::ResultOf(tool) => last_result(ask).is_some_and(|(name, _)| name == tool),
        When::Model(model) => ask.model == *model,
    }
}

/// The last message, when it is a tool result: tool and text.
fn last_result(ask: &Ask) -> Option<(&str, String)> {
    let last = ask.messages.last()?;
    last.parts.iter().rev().find_map(|part| match part {
        Part::ToolResult { name, content, .. } => {
            let text: Vec<&str> = content.iter().filter_map(|p| if let Part::Text { text } = p { Some(text.as_str()) } else { None }).collect();
            Some((name.as_str(), text.join("\n")))
        }
        _ => None,
    })
}

fn last_user_text(ask: &Ask) -> String {
    ask.messages.iter().rev().find(|m| m.role == Role::User).map(|m| m.plain_text()).unwrap_or_default()
}

fn failure(ask: &Ask, kind: ErrorKind, message: &str) -> ProviderError {
    ProviderError { kind, provider: "script".into(), model: ask.model.clone(), message: message.into(), status: None, retry_after_ms: None }
}

#[async_trait]
impl Provider for Script {
    async fn stream(&self, ask: Ask) -> Result<ChunkStream, ProviderError> {
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.len() < ASKED_MAX {
                asked.push(ask.clone());
            }
        }
        let Some(steps) = self.steps(&ask) else {
            return Err(failure(&ask, ErrorKind::Request, "no rule of the script applies"));
        };
        let mut at = 0;
        while let Some(Step::Wait(ms)) = steps.get(at) {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            at += 1;
        }
        match steps.get(at) {
            Some(Step::Fail(kind, message)) => return Err(failure(&ask, *kind, message)),
            Some(Step::Hang) => return std::future::pending().await,
            _ => {}
        }
        let state = (steps, at, ask, false, false);
        Ok(stream::unfold(state, |(steps, mut at, ask, mut called, ended)| async move {
            if ended {
                return None;
            }
            loop {
                let step = steps.get(at).cloned();
                at += 1;
                let item = match step {
                    Some(Step::Text(text)) => Ok(Chunk::Text(text)),
                    Some(Step::Echo) => Ok(Chunk::Text(last_user_text(&ask))),
                    Some(Step::Think(text)) => Ok(Chunk::Thinking(text)),
                    Some(Step::Call { name, arguments }) => {
                        called = true;
                        Ok(Chunk::ToolCall { id: format!("call-{}-{at}", ask.messages.len()), name, arguments })
                    }
                    Some(Step::Usage(usage)) => Ok(Chunk::Usage(usage)),
                    Some(Step::Wait(ms)) => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        continue;
                    }
                    Some(Step::Hang) => std::future::pending().await,
                    Some(Step::Fail(kind, message)) => Err(failure(&ask, kind, &message)),
                    Some(Step::Cut) => Err(failure(&ask, ErrorKind::Network, "the answer broke off")),
                    Some(Step::Done(reason)) => Ok(Chunk::Done(reason)),
                    None => Ok(Chunk::Done(if called { StopReason::ToolUse } else { StopReason::Stop })),
                };
                let ended = matches!(item, Err(_) | Ok(Chunk::Done(_)));
                return Some((item, (steps, at, ask, called, ended)));
            }
        })
        .boxed())
    }
}
