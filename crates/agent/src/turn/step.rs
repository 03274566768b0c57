use serde_json::{Value, json};

use clawstead_providers::{Chunk, ErrorKind, ProviderError};
use clawstead_terms::{EffectClass, Failure, FailureCode, JournalEvent, Message, MessageId, Millis, Part, Role, RunEnd, RunEventKind, StopReason, Usage};

use super::{
    ANSWER_BYTES_MAX, Call, CallState, CallTool, Command, Durability, Ending, REPEATS_MAX, REPEATS_WARN, RESULT_BYTES_MAX, RESULT_CHARS_MAX,
    STREAM_RETRIES_MAX, Seen, State, Turn, TurnEvent, effect_id, message_id, stop_of, text_of,
};
use crate::silence;

impl Turn {
    /// Takes what happened and says what to do. After [`Command::End`] it answers nothing any more: results of
    /// calls that were stopped and come back late change nothing.
    pub fn step(&mut self, event: TurnEvent, now: Millis) -> Vec<Command> {
        let mut out = Vec::new();
        match (&self.state, event) {
            (State::Over, _) => {}
            (_, TurnEvent::Abort(reason)) => self.stop(&reason, now, &mut out),
            (_, TurnEvent::Deadline) => self.stop("timeout", now, &mut out),
            (State::Fresh, TurnEvent::Started) => self.start(now, &mut out),
            (State::Asking, TurnEvent::Chosen { provider, model }) => {
                self.model = Some((provider.clone(), model.clone()));
                out.push(Command::Emit(Box::new(RunEventKind::Model(Some((provider, model))))));
            }
            (State::Asking, TurnEvent::Fallback) => self.forget_answer(),
            (State::Asking, TurnEvent::Chunk(chunk)) => self.chunk(chunk, now, &mut out),
            (State::Asking, TurnEvent::ModelDone) => {
                let (provider, model) = self.model.clone().unwrap_or_default();
                let broke =
                    ProviderError { kind: ErrorKind::Network, provider, model, message: "the answer broke off".into(), status: None, retry_after_ms: None };
                self.model_failed(&broke, now, &mut out);
            }
            (State::Asking, TurnEvent::ModelFailed(err)) => self.model_failed(&err, now, &mut out),
            (State::Calling(_), TurnEvent::Persisted) => self.start_announced(&mut out),
            (State::Calling(_), TurnEvent::ToolDone { index, content, details, is_error }) => self.tool_done(index, content, details, is_error, now, &mut out),
            (State::AtBoundary, TurnEvent::Steered(_)) => self.ask(now, &mut out),
            (State::Compacting, TurnEvent::Compacted(true)) => self.ask(now, &mut out),
            (State::Compacting, TurnEvent::Compacted(false)) => {
                self.fail(
                    "context",
                    Failure::new(FailureCode::InvalidRequest, "the conversation is longer than the model's context and could not be made shorter")
                        .with_hint("start afresh with /new, or choose a model with a larger context"),
                    now,
                    &mut out,
                );
            }
            // A chunk after the answer was complete, a result of a call we no longer wait for.
            _ => {}
        }
        out
    }

    fn start(&mut self, now: Millis, out: &mut Vec<Command>) {
        if self.plan.timeout_ms > 0 {
            out.push(Command::SetTimer(self.plan.timeout_ms));
        }
        if self.plan.open_calls.is_empty() {
            self.ask(now, out);
            return;
        }
        let mut calls = Vec::new();
        let mut lost = Vec::new();
        let step = self.step;
        for open in std::mem::take(&mut self.plan.open_calls) {
            let fresh_id = || effect_id(&self.plan.run_id, step, open.index);
            let (effect_id, class) = match &open.intent {
                Some((id, EffectClass::Once)) => {
                    lost.push((open.index, id.clone()));
                    (id.clone(), EffectClass::Once)
                }
                Some((id, class)) => (id.clone(), *class),
                None => (fresh_id(), self.class_of(&open.name).unwrap_or(EffectClass::Once)),
            };
            calls.push(Call {
                index: open.index,
                call_id: open.call_id,
                name: open.name,
                arguments: open.arguments,
                effect_id,
                class,
                state: CallState::Waiting,
            });
        }
        self.state = State::Calling(calls);
        for (index, _) in lost {
            self.settle(
                index,
                vec![Part::text("The gateway was interrupted during this call. Its outcome is unknown: it may have happened. Check before you repeat it.")],
                Some(json!({ "status": "unknown" })),
                true,
                now,
                out,
            );
        }
        self.go_on(Vec::new(), now, out);
    }

    fn ask(&mut self, now: Millis, out: &mut Vec<Command>) {
        self.forget_answer();
        if self.asked >= self.plan.model_calls_max {
            let failure = Failure::new(FailureCode::Busy, format!("the turn was stopped after {} model calls", self.asked))
                .with_hint("ask the agent to go on, or raise the limit");
            self.fail("model", failure, now, out);
            return;
        }
        self.asked += 1;
        self.step += 1;
        self.state = State::Asking;
        out.push(Command::AskModel);
    }

    fn forget_answer(&mut self) {
        self.answer_bytes = 0;
        self.parts.clear();
        self.answer_usage = None;
    }

    fn item_id(&self) -> String {
        // A retried answer is another item for whoever watches: what it said before is void.
        message_id(&self.plan.run_id, self.plan.attempt, self.number + 1_000 * (self.stream_retries + self.empty_retries))
    }

    fn chunk(&mut self, chunk: Chunk, now: Millis, out: &mut Vec<Command>) {
        self.answer_bytes += match &chunk {
            Chunk::Text(text) | Chunk::Thinking(text) | Chunk::ThinkingSignature(text) => text.len(),
            Chunk::ToolCall { arguments, .. } => arguments.to_string().len(),
            Chunk::Usage(_) | Chunk::Done(_) => 0,
        };
        if self.answer_bytes > ANSWER_BYTES_MAX {
            self.parts.clear();
            self.fail("model", Failure::new(FailureCode::Unavailable, format!("the model's answer is longer than {ANSWER_BYTES_MAX} bytes")), now, out);
            return;
        }
        match chunk {
            Chunk::Text(text) => {
                if text.is_empty() {
                    return;
                }
                out.push(Command::Delta { item_id: self.item_id(), text: text.clone() });
                if let Some(Part::Text { text: last }) = self.parts.last_mut() {
                    last.push_str(&text);
                } else {
                    self.parts.push(Part::Text { text });
                }
            }
            Chunk::Thinking(delta) => {
                if let Some(Part::Thinking { text, signature: None }) = self.parts.last_mut() {
                    text.push_str(&delta);
                } else {
                    self.parts.push(Part::Thinking { text: delta.clone(), signature: None });
                }
                out.push(Command::Emit(Box::new(RunEventKind::Thinking { delta })));
            }
            Chunk::ThinkingSignature(sign) => {
                if let Some(Part::Thinking { signature: signature @ None, .. }) = self.parts.last_mut() {
                    *signature = Some(sign);
                } else {
                    self.parts.push(Part::Thinking { text: String::new(), signature: Some(sign) });
                }
            }
            Chunk::ToolCall { id, name, arguments } => self.parts.push(Part::ToolCall { id, name, arguments }),
            Chunk::Usage(usage) => self.answer_usage = Some(usage),
            Chunk::Done(reason) => self.answered(reason, now, out),
        }
    }

    fn answered(&mut self, reason: StopReason, now: Millis, out: &mut Vec<Command>) {
        if let Some(usage) = self.answer_usage {
            self.usage.add(&usage);
            self.last_usage = Some(usage);
            out.push(Command::Emit(Box::new(RunEventKind::Usage(usage))));
        }
        self.tidy_calls();
        let has_calls = self.parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
        if has_calls {
            self.begin_calls(now, out);
            return;
        }
        let text = text_of(&self.parts);
        if text.trim().is_empty() {
            self.empty_answer(reason, now, out);
            return;
        }
        let reason = if reason == StopReason::ToolUse { StopReason::Stop } else { reason };
        let heard = silence::judge(&text, self.plan.heartbeat, self.plan.ack_chars_max);
        let meta = (heard.silent && self.plan.heartbeat).then(|| json!({ "heartbeatAck": true }));
        let message = self.assistant(reason, meta, now);
        self.end(vec![said(message)], RunEnd::Ok, heard.text, reason, None, heard.silent, out);
    }

    /// Drops calls without a name and makes call ids unique within the message.
    fn tidy_calls(&mut self) {
        let mut seen = Seen::new();
        let mut number = 0;
        self.parts.retain_mut(|part| {
            let Part::ToolCall { id, name, .. } = part else { return true };
            if name.trim().is_empty() {
                return false;
            }
            number += 1;
            if id.is_empty() || seen.contains_key(id.as_str()) {
                *id = format!("{id}_{number}");
            }
            seen.insert(id.clone(), ());
            true
        });
    }

    fn empty_answer(&mut self, reason: StopReason, now: Millis, out: &mut Vec<Command>) {
        match reason {
            StopReason::Length => {
                let failure = Failure::new(FailureCode::InvalidRequest, "the model used all its output tokens before it said anything")
                    .with_hint("raise maxTokens or lower the thinking level");
                self.fail("model", failure, now, out);
            }
            StopReason::Refusal => self.fail("content", Failure::new(FailureCode::Forbidden, "the model refused to answer"), now, out),
            // After tool calls, in a heartbeat or in a resumed turn silence is an answer.
            _ if self.step > 1 || self.plan.heartbeat => self.end(Vec::new(), RunEnd::Ok, String::new(), StopReason::Stop, None, self.plan.heartbeat, out),
            _ if self.empty_retries == 0 => {
                self.empty_retries += 1;
                self.step -= 1;
                self.ask(now, out);
            }
            _ => self.fail("model", Failure::new(FailureCode::Unavailable, "the model gave an empty answer twice"), now, out),
        }
    }

    fn begin_calls(&mut self, now: Millis, out: &mut Vec<Command>) {
        let mut calls = Vec::new();
        let mut signature = String::new();
        for part in &self.parts {
            let Part::ToolCall { id, name, arguments } = part else { continue };
            signature.push_str(name);
            signature.push_str(&arguments.to_string());
            let index = calls.len();
            calls.push(Call {
                index,
                call_id: id.clone(),
                name: name.clone(),
                arguments: arguments.clone(),
                effect_id: effect_id(&self.plan.run_id, self.step, index),
                class: self.class_of(name).unwrap_or(EffectClass::Read),
                state: CallState::Waiting,
            });
        }
        let repeats = match self.last_calls.take() {
            Some((last, count)) if last == signature => count + 1,
            _ => 1,
        };
        self.last_calls = Some((signature, repeats));
        let message = self.assistant(stop_of(true), None, now);
        self.state = State::Calling(calls.clone());
        if repeats >= REPEATS_MAX {
            out.push(Command::Persist(vec![said(message)], Durability::Soon));
            self.settle_all(&format!("This call was made {repeats} times in a row; the turn ends here."), now, out);
            let failure = Failure::new(FailureCode::Busy, format!("the model made the same tool calls {repeats} times in a row"));
            self.fail("model", failure, now, out);
        } else if repeats >= REPEATS_WARN {
            out.push(Command::Persist(vec![said(message)], Durability::Soon));
            self.settle_all(
                &format!("You made this same call {repeats} times in a row; it was not run again. Use the results above or do something else."),
                now,
                out,
            );
            self.boundary(out);
        } else {
            self.go_on(vec![said(message)], now, out);
        }
    }

    /// Starts what may start now; `first` goes into the same write as the first intent.
    fn go_on(&mut self, mut first: Vec<JournalEvent>, now: Millis, out: &mut Vec<Command>) {
        loop {
            let State::Calling(calls) = &self.state else { return };
            // Calls that cannot run get their result at once, after the message they belong to.
            let bad = calls.iter().find(|call| call.state == CallState::Waiting).and_then(|call| self.cannot_run(call).map(|why| (call.index, why)));
            if let Some((index, why)) = bad {
                if !first.is_empty() {
                    out.push(Command::Persist(std::mem::take(&mut first), Durability::Soon));
                }
                self.settle(index, vec![Part::text(why)], None, true, now, out);
                continue;
            }
            break;
        }
        let parallel_max = self.plan.parallel_max.max(1);
        let run_id = self.plan.run_id.clone();
        let State::Calling(calls) = &mut self.state else { return };
        if calls.iter().all(|call| call.state == CallState::Done) {
            if !first.is_empty() {
                out.push(Command::Persist(first, Durability::Soon));
            }
            self.boundary(out);
            return;
        }
        let all_read = calls.iter().all(|call| call.class == EffectClass::Read);
        if all_read {
            if !first.is_empty() {
                out.push(Command::Persist(first, Durability::Soon));
            }
            let running = calls.iter().filter(|call| call.state == CallState::Running).count();
            for call in calls.iter_mut().filter(|call| call.state == CallState::Waiting).take(parallel_max.saturating_sub(running)) {
                call.state = CallState::Running;
                push_call(call, out);
            }
            return;
        }
        if calls.iter().any(|call| matches!(call.state, CallState::Running | CallState::Announced)) {
            return;
        }
        let Some(call) = calls.iter_mut().find(|call| call.state == CallState::Waiting) else { return };
        if call.class == EffectClass::Read {
            if !first.is_empty() {
                out.push(Command::Persist(first, Durability::Soon));
            }
            call.state = CallState::Running;
            push_call(call, out);
        } else {
            call.state = CallState::Announced;
            first.push(JournalEvent::ToolIntent { run_id, call_id: call.call_id.clone(), effect_id: call.effect_id.clone(), class: call.class });
            out.push(Command::Persist(first, Durability::Awaited));
        }
    }

    fn cannot_run(&self, call: &Call) -> Option<String> {
        if self.class_of(&call.name).is_none() {
            return Some(format!("There is no tool named \"{}\".", call.name));
        }
        match &call.arguments {
            Value::Object(_) => None,
            Value::Null => None,
            Value::String(raw) => Some(format!("The arguments are not valid JSON: {}", raw.chars().take(200).collect::<String>())),
            _ => Some("The arguments must be a JSON object.".into()),
        }
    }

    fn start_announced(&mut self, out: &mut Vec<Command>) {
        let State::Calling(calls) = &mut self.state else { return };
        if let Some(call) = calls.iter_mut().find(|call| call.state == CallState::Announced) {
            call.state = CallState::Running;
            push_call(call, out);
        }
    }

    fn tool_done(&mut self, index: usize, content: Vec<Part>, details: Option<Value>, is_error: bool, now: Millis, out: &mut Vec<Command>) {
        let State::Calling(calls) = &self.state else { return };
        let Some(call) = calls.iter().find(|call| call.index == index && call.state == CallState::Running) else { return };
        if !is_error && !self.tools_used.contains(&call.name) {
            let name = call.name.clone();
            self.tools_used.push(name);
        }
        self.settle(index, content, details, is_error, now, out);
        self.go_on(Vec::new(), now, out);
    }

    /// Writes the one result of a call.
    fn settle(&mut self, index: usize, content: Vec<Part>, details: Option<Value>, is_error: bool, now: Millis, out: &mut Vec<Command>) {
        let State::Calling(calls) = &mut self.state else { return };
        let Some(call) = calls.iter_mut().find(|call| call.index == index && call.state != CallState::Done) else { return };
        call.state = CallState::Done;
        let part = Part::ToolResult { id: call.call_id.clone(), name: call.name.clone(), content: bounded(content), details, is_error };
        let message = self.message(Role::Tool, vec![part], now);
        out.push(Command::Persist(vec![said(message)], Durability::Soon));
    }

    fn settle_all(&mut self, why: &str, now: Millis, out: &mut Vec<Command>) {
        let State::Calling(calls) = &self.state else { return };
        let open: Vec<(usize, bool)> = calls
            .iter()
            .filter(|call| call.state != CallState::Done)
            .map(|call| (call.index, call.state == CallState::Running && call.class != EffectClass::Read))
            .collect();
        for (index, may_have_happened) in open {
            let text = if may_have_happened { format!("{why} It had started: its outcome is unknown, check before you repeat it.") } else { why.to_owned() };
            self.settle(index, vec![Part::text(text)], None, true, now, out);
        }
    }

    fn boundary(&mut self, out: &mut Vec<Command>) {
        self.state = State::AtBoundary;
        out.push(Command::Boundary);
    }

    fn model_failed(&mut self, err: &ProviderError, now: Millis, out: &mut Vec<Command>) {
        let transient = matches!(err.kind, ErrorKind::Network | ErrorKind::Timeout | ErrorKind::Overloaded | ErrorKind::Garbage);
        if err.kind == ErrorKind::Context && !self.compacted {
            self.compacted = true;
            self.step -= 1;
            self.asked -= 1;
            self.state = State::Compacting;
            out.push(Command::Compact);
        } else if transient && !self.parts.is_empty() && self.stream_retries < STREAM_RETRIES_MAX {
            self.stream_retries += 1;
            self.step -= 1;
            out.push(Command::CancelModel);
            self.ask(now, out);
        } else {
            self.fail(err.kind.word(), err.to_failure(), now, out);
        }
    }

    fn fail(&mut self, kind: &'static str, failure: Failure, now: Millis, out: &mut Vec<Command>) {
        out.push(Command::CancelModel);
        // A request that a server rejects for its content would be rejected again with every later turn: the
        // messages of this run stay out of later requests.
        let poison = matches!(kind, "content" | "internal");
        let text = text_of(&self.parts);
        self.keep_spoken_parts();
        let meta = json!({ "error": failure.message, "errorKind": kind, "leftOut": poison });
        let message = self.assistant(StopReason::Error, Some(meta), now);
        self.end(vec![said(message)], RunEnd::Error { failure }, text, StopReason::Error, Some(kind), false, out);
    }

    fn stop(&mut self, reason: &str, now: Millis, out: &mut Vec<Command>) {
        let mut events = Vec::new();
        let mut text = String::new();
        match &self.state {
            State::Asking => {
                out.push(Command::CancelModel);
                text = text_of(&self.parts);
                if !text.trim().is_empty() {
                    self.keep_spoken_parts();
                    let message = self.assistant(StopReason::Aborted, None, now);
                    events.push(said(message));
                }
            }
            State::Calling(_) => {
                out.push(Command::CancelTools);
                self.settle_all("The run was stopped during this call.", now, out);
            }
            _ => {}
        }
        self.end(events, RunEnd::Aborted { reason: reason.into() }, text, StopReason::Aborted, None, false, out);
    }

    /// Of a broken answer only its text is kept: half a call or unsigned reasoning is not legal in a request.
    fn keep_spoken_parts(&mut self) {
        self.parts.retain(|part| matches!(part, Part::Text { text } if !text.trim().is_empty()));
    }

    #[expect(clippy::too_many_arguments, reason = "one place builds the end from its few facts")]
    fn end(
        &mut self,
        events: Vec<JournalEvent>,
        end: RunEnd,
        text: String,
        stop_reason: StopReason,
        error_kind: Option<&'static str>,
        silent: bool,
        out: &mut Vec<Command>,
    ) {
        self.state = State::Over;
        out.push(Command::End(Box::new(Ending {
            events,
            end,
            text,
            stop_reason,
            usage: self.usage,
            last_usage: self.last_usage,
            model: self.model.take(),
            tools_used: std::mem::take(&mut self.tools_used),
            error_kind,
            silent,
        })));
    }

    fn assistant(&mut self, reason: StopReason, meta: Option<Value>, now: Millis) -> Message {
        let parts = std::mem::take(&mut self.parts);
        let usage: Option<Usage> = self.answer_usage.take();
        let id = self.item_id();
        let mut message = self.message(Role::Assistant, parts, now);
        message.id = MessageId::from(id);
        message.model = self.model.as_ref().map(|(provider, model)| format!("{provider}/{model}"));
        message.usage = usage;
        message.stop_reason = Some(reason);
        message.meta = meta;
        message
    }

    fn message(&mut self, role: Role, parts: Vec<Part>, now: Millis) -> Message {
        let id = message_id(&self.plan.run_id, self.plan.attempt, self.number);
        self.number += 1;
        Message { id: id.into(), role, parts, at: now, run_id: Some(self.plan.run_id.clone()), model: None, usage: None, stop_reason: None, meta: None }
    }
}

fn push_call(call: &Call, out: &mut Vec<Command>) {
    out.push(Command::Emit(Box::new(RunEventKind::ToolStart { call_id: call.call_id.clone(), name: call.name.clone(), args: call.arguments.clone() })));
    out.push(Command::CallTool(CallTool {
        index: call.index,
        call_id: call.call_id.clone(),
        name: call.name.clone(),
        arguments: if call.arguments.is_null() { json!({}) } else { call.arguments.clone() },
        effect_id: call.effect_id.clone(),
        class: call.class,
    }));
}

fn said(message: Message) -> JournalEvent {
    JournalEvent::Said { message: Box::new(message) }
}

/// Cuts long text in the middle: the end often says how it went.
fn bounded(content: Vec<Part>) -> Vec<Part> {
    let mut bytes = 0;
    content
        .into_iter()
        .map(|part| match &part {
            Part::Image { data, .. } if bytes + data.len() > RESULT_BYTES_MAX => Part::text("[picture left out: the result is too large]"),
            Part::Image { data, .. } => {
                bytes += data.len();
                part
            }
            _ => part,
        })
        .map(|part| match part {
            Part::Text { text } if text.len() > RESULT_CHARS_MAX => {
                let head: String = text.chars().take(RESULT_CHARS_MAX * 3 / 4).collect();
                let tail_from = text.char_indices().rev().nth(RESULT_CHARS_MAX / 4).map_or(0, |(at, _)| at).max(head.len());
                let cut = tail_from - head.len();
                if cut == 0 { Part::Text { text } } else { Part::text(format!("{head}\n[... {cut} bytes left out ...]\n{}", &text[tail_from..])) }
            }
            other => other,
        })
        .collect()
}
