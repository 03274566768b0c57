//! Lanes from outside: what is accepted, in which order it runs, how it can be stopped, and what is left behind.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod kit;

use std::{sync::Arc, time::Duration};

use clawstead_agent::{HistoryPage, LaneLimits, SessionFilter, SessionPatch, Spawn, is_conflict};
use clawstead_state::{Batch, MemoryStore, Op, Store, Table, TxError};
use clawstead_terms::{EnvelopeKind, FailureCode, Fence, JournalEvent, Millis, Origin, QueueMode, RunEnd, RunStatus, StopReason, Unit};
use clawstead_world::Accepted;
use tokio::sync::Semaphore;

use kit::{Build, House, Script, agent, key, letter, shown};

async fn up() -> House {
    Build::default().up().await
}

async fn gated() -> (House, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let house = Build { brain: Script { gate: Some(Arc::clone(&gate)), ..Script::default() }, ..Build::default() }.up().await;
    (house, gate)
}

fn followup(mut letter: clawstead_terms::Envelope) -> clawstead_terms::Envelope {
    letter.options.queue_mode = Some(QueueMode::Followup);
    letter
}

#[tokio::test(start_paused = true)]
async fn a_turn_costs_two_writes_and_tells_its_story_in_order() {
    let house = up().await;
    let before = house.store.counters().batches;
    let mut hello = letter(&key("jerry", "main"), "r1", "hello");
    hello.options.status_events = true;
    let row = house.send(hello).await;
    assert_eq!(house.store.counters().batches - before, 2, "letter and begin, answer and end");
    assert_eq!((row.status, row.text.as_deref(), row.stop_reason), (RunStatus::Ok, Some("echo hello"), Some(StopReason::Stop)));
    assert_eq!(
        house.sink.kinds("r1"),
        [
            "Phase(PreparingWorkspace)",
            "Phase(PreparingContext)",
            "started",
            "said 1 u:hello",
            "Phase(StartingModel)",
            "model true",
            "text echo hello",
            "usage",
            "said 2 a:echo hello",
            "model false",
            "finished echo hello"
        ]
    );
    let seqs: Vec<u64> = house.sink.events.lock().unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    let session = house.lanes.session(&key("jerry", "main")).unwrap();
    assert_eq!((session.input_tokens, session.output_tokens, session.total_tokens, session.message_count), (10, 2, 12, 2));
    assert_eq!((session.derived_title.as_deref(), session.last_message_preview.as_deref(), session.unread), (Some("hello"), Some("echo hello"), true));
    assert_eq!((session.model_provider.as_deref(), session.model.as_deref()), (Some("mock"), Some("m")));
}

#[tokio::test(start_paused = true)]
async fn repeats_are_told_and_another_text_is_a_conflict() {
    let house = up().await;
    let main = key("jerry", "main");
    house.send(letter(&main, "r1", "hello")).await;
    assert_eq!(house.lanes.accept(letter(&main, "r1", "hello")).await, Ok(Accepted::Duplicate(RunStatus::Ok)));
    let conflict = house.lanes.accept(letter(&main, "r1", "DIFFERENT")).await.unwrap_err();
    assert!(is_conflict(&conflict) && conflict.code == FailureCode::InvalidRequest);
    assert_eq!(house.said(&main).await.len(), 2);
    for (bad, code) in [
        (letter(&key("nobody", "main"), "x", "hi"), FailureCode::NotFound),
        (letter(&main, "x", "  "), FailureCode::InvalidRequest),
        (letter(&main, "", "hi"), FailureCode::InvalidRequest),
        (letter(&main, "a\u{0}b", "hi"), FailureCode::InvalidRequest),
        (letter(&main, "y", &"x".repeat(clawstead_agent::BODY_BYTES_MAX + 1)), FailureCode::InvalidRequest),
    ] {
        assert_eq!(house.lanes.accept(bad).await.unwrap_err().code, code);
    }
    assert_eq!(house.lanes.wait(&"nobody-knows".into(), Duration::from_secs(1)).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn letters_during_a_turn_run_after_it_in_order() {
    let (house, gate) = gated().await;
    let main = key("jerry", "main");
    house.lanes.accept(letter(&main, "r0", "wait 0")).await.unwrap();
    house.asked(1).await;
    for number in 1..=3 {
        assert_eq!(house.lanes.accept(followup(letter(&main, &format!("r{number}"), &format!("wait {number}")))).await, Ok(Accepted::Stored));
    }
    assert_eq!(house.lanes.session(&main).unwrap().open.len(), 4);
    gate.add_permits(4);
    house.lanes.wait(&"r3".into(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(house.said(&main).await, ["u:wait 0", "a:waited 0", "u:wait 1", "a:waited 1", "u:wait 2", "a:waited 2", "u:wait 3", "a:waited 3"]);
}

#[tokio::test(start_paused = true)]
async fn a_steered_letter_joins_between_two_model_calls() {
    let house = up().await;
    let main = key("jerry", "main");
    house.lanes.accept(letter(&main, "r1", "slow job")).await.unwrap();
    while house.tools.effects.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    house.lanes.accept(letter(&main, "r2", "also this")).await.unwrap();
    house.lanes.accept(followup(letter(&main, "r3", "later"))).await.unwrap();
    house.lanes.accept(letter(&main, "r4", "last")).await.unwrap();
    house.tools.slow.notify_one();
    let merged = house.lanes.wait(&"r2".into(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(merged.run_id.as_str(), "r1", "the running turn answers for it");
    house.lanes.wait(&"r4".into(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(
        house.said(&main).await,
        ["u:slow job", "a:<slow job>", "t:=did job", "u:also this", "a:echo also this", "u:later", "a:echo later", "u:last", "a:echo last"],
        "what may not join keeps everything behind it waiting"
    );
}

#[tokio::test(start_paused = true)]
async fn collected_letters_are_one_turn() {
    let (house, gate) = gated().await;
    let main = key("jerry", "main");
    house.lanes.accept(letter(&main, "r0", "wait 0")).await.unwrap();
    house.asked(1).await;
    for run in ["a", "b", "c"] {
        let mut one = letter(&main, run, &format!("say {run}"));
        one.options.queue_mode = Some(QueueMode::Collect);
        house.lanes.accept(one).await.unwrap();
    }
    gate.add_permits(1);
    let answer = house.lanes.wait(&"c".into(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!((answer.run_id.as_str(), answer.text.as_deref()), ("a", Some("c")));
    assert_eq!(house.said(&main).await, ["u:wait 0", "a:waited 0", "u:say a", "u:say b", "u:say c", "a:c"]);
    assert!(house.lanes.session(&main).unwrap().open.is_empty());
}

#[tokio::test(start_paused = true)]
async fn interrupt_and_abort_end_a_run_and_keep_the_session_usable() {
    let house = up().await;
    let main = key("jerry", "main");
    house.lanes.accept(letter(&main, "r1", "hang")).await.unwrap();
    house.asked(1).await;
    let mut now = letter(&main, "r2", "instead");
    now.options.queue_mode = Some(QueueMode::Interrupt);
    assert_eq!(house.send(now).await.text.as_deref(), Some("echo instead"));
    assert_eq!(house.lanes.report(&"r1".into()).await.unwrap().unwrap().abort_reason.as_deref(), Some("interrupt"));

    house.lanes.accept(letter(&main, "r3", "hang")).await.unwrap();
    house.asked(3).await;
    house.lanes.accept(followup(letter(&main, "r4", "waiting"))).await.unwrap();
    house.lanes.accept(followup(letter(&main, "r5", "waiting too"))).await.unwrap();
    assert_eq!(house.lanes.abort(&main, Some(&"r4".into()), "rpc").await.unwrap().runs.len(), 1, "one that waits");
    let stopped = house.lanes.abort(&main, None, "rpc").await.unwrap();
    assert_eq!(stopped.runs.iter().map(|run| run.as_str()).collect::<Vec<_>>(), ["r3", "r5"]);
    assert_eq!(house.sink.kinds("r3").last().unwrap(), "aborted rpc ");
    assert!(house.lanes.abort(&main, None, "rpc").await.unwrap().runs.is_empty());
    assert_eq!(house.send(letter(&main, "r6", "fine")).await.status, RunStatus::Ok);
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_in_the_queue() {
    let house = up().await;
    let main = key("jerry", "main");
    house.lanes.accept(letter(&main, "r1", "hang")).await.unwrap();
    house.asked(1).await;
    let answer = house.send(letter(&main, "r2", "/stop")).await;
    assert_eq!(answer.text.as_deref(), Some("Stopped."));
    assert_eq!(house.lanes.report(&"r1".into()).await.unwrap().unwrap().status, RunStatus::Aborted);
}

#[tokio::test(start_paused = true)]
async fn a_turn_has_a_time_limit() {
    let house = up().await;
    let mut slow = letter(&key("jerry", "main"), "r1", "slow thing");
    slow.options.timeout_ms = Some(5_000);
    let row = house.send(slow).await;
    assert_eq!((row.status, row.abort_reason.as_deref()), (RunStatus::Aborted, Some("timeout")));
    let said = house.said(&key("jerry", "main")).await;
    assert!(said[2].starts_with("t:!The run was stopped during this call. It had started"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn inboxes_are_bounded_and_repeats_are_still_told() {
    let limits = LaneLimits { session_inbox_soft_max: 3, session_inbox_hard_max: 4, agent_inbox_max: 5, ..LaneLimits::default() };
    let house = Build { limits, ..Build::default() }.up().await;
    let main = key("jerry", "main");
    for number in 0..3 {
        house.lanes.accept(followup(letter(&main, &format!("r{number}"), "hang"))).await.unwrap();
    }
    let full = house.lanes.accept(letter(&main, "r9", "more")).await.unwrap_err();
    assert_eq!(full.code, FailureCode::Busy);
    assert!(matches!(house.lanes.accept(followup(letter(&main, "r1", "hang"))).await, Ok(Accepted::Duplicate(RunStatus::Queued))));
    let mut event = letter(&main, "e1", "news");
    event.kind = EnvelopeKind::Event;
    house.lanes.accept(event).await.unwrap();
    house.lanes.accept(letter(&key("jerry", "other"), "o1", "hang")).await.unwrap();
    assert_eq!(house.lanes.accept(letter(&key("jerry", "third"), "o2", "hi")).await.unwrap_err().code, FailureCode::Busy);
    assert_eq!(house.lanes.accept(letter(&key("bobby", "main"), "b1", "hi")).await, Ok(Accepted::Stored), "other agents are not concerned");
}

#[tokio::test(start_paused = true)]
async fn runs_at_once_are_bounded_and_fair() {
    let gate = Arc::new(Semaphore::new(0));
    let limits = LaneLimits { runs_max: 2, ..LaneLimits::default() };
    let house = Build { limits, brain: Script { gate: Some(Arc::clone(&gate)), ..Script::default() }, ..Build::default() }.up().await;
    for number in 0..6 {
        house.lanes.accept(letter(&key("jerry", &format!("s{number}")), &format!("r{number}"), "wait x")).await.unwrap();
    }
    house.asked(2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((house.brain.asks.lock().unwrap().len(), house.lanes.turns_going()), (2, 2));
    gate.add_permits(6);
    for number in 0..6 {
        assert!(house.lanes.wait(&format!("r{number}").into(), Duration::from_secs(60)).await.unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn commands_answer_without_a_model() {
    let house = up().await;
    let main = key("jerry", "main");
    house.send(letter(&main, "r1", "hello")).await;
    for (run, text, want) in [
        ("c1", "/status", "Agent: jerry"),
        ("c2", "/model a/b", "Model: a/b (for this session)"),
        ("c3", "/model nonsense", "There is no model"),
        ("c4", "/think high", "Thinking: high"),
        ("c5", "/think strong", "There is no thinking level"),
        ("c6", "/help", "Commands:"),
        ("c7", "/new", "A new conversation has begun."),
    ] {
        let answer = house.send(letter(&main, run, text)).await;
        assert!(answer.text.as_deref().unwrap().starts_with(want), "{text}: {:?}", answer.text);
    }
    assert_eq!(house.brain.asks.lock().unwrap().len(), 1);
    assert!(house.said(&main).await.is_empty(), "the conversation began afresh");
    house.send(letter(&main, "r2", "/reset say hi")).await;
    assert_eq!(house.said(&main).await, ["u:say hi", "a:hi"]);
    let ask = house.brain.asks.lock().unwrap().last().unwrap().clone();
    assert_eq!((ask.models, ask.thinking.as_deref()), (vec!["a/b".to_owned()], Some("high")), "a person's choice outlives a reset");
    let mut hook = letter(&main, "r3", "/new");
    hook.from = Origin::Hook { name: "x".into() };
    assert_eq!(house.send(hook).await.text.as_deref(), Some("echo /new"), "only people give commands");
}

#[tokio::test(start_paused = true)]
async fn a_stale_session_starts_afresh_by_rule() {
    let house = Build { change: |settings| settings.reset.general.idle_minutes = Some(60), ..Build::default() }.up().await;
    let main = key("jerry", "main");
    house.send(letter(&main, "r1", "hello")).await;
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    house.send(letter(&main, "r2", "again")).await;
    assert_eq!(house.said(&main).await.len(), 4);
    tokio::time::sleep(Duration::from_secs(3_700)).await;
    let mut beat = letter(&main, "h1", "say HEARTBEAT_OK");
    beat.from = Origin::Heartbeat;
    beat.options.heartbeat = true;
    house.send(beat).await;
    house.send(letter(&main, "r3", "anew")).await;
    assert_eq!(house.said(&main).await, ["u:anew", "a:echo anew"], "a heartbeat is no interaction");
    assert_eq!(house.lanes.session(&main).unwrap().lifecycle_revision, 1);
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_chat_starts_afresh_by_its_own_rule() {
    let change = |settings: &mut clawstead_agent::AgentSettings| {
        let idle = |minutes| clawstead_agent::reset::ResetRules { daily_at_hour: None, idle_minutes: Some(minutes) };
        settings.reset.general = idle(10);
        settings.reset.by_type.insert("group".into(), idle(100));
        settings.reset.by_channel.insert("slack".into(), idle(1_000));
    };
    let house = Build { change, ..Build::default() }.up().await;
    let from = |to: &clawstead_terms::SessionKey, channel: &str, run: &str| by_person(letter(to, run, &format!("text {run}")), channel, "u1");
    let chats = [("main", "telegram"), ("telegram:group:g1", "telegram"), ("slack:group:g2", "slack")].map(|(rest, channel)| (key("jerry", rest), channel));
    for (minutes, revisions) in [(1, [0, 0, 0]), (20, [1, 0, 0]), (200, [2, 1, 0]), (2_000, [3, 2, 1])] {
        tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
        for (at, (chat, channel)) in chats.iter().enumerate() {
            house.send(from(chat, channel, &format!("{minutes}-{at}"))).await;
        }
        let now = chats.clone().map(|(chat, _)| house.lanes.session(&chat).unwrap().lifecycle_revision);
        assert_eq!(now, revisions, "after {minutes} minutes");
    }
    assert_eq!(house.said(&chats[0].0).await, ["u:text 2000-0", "a:echo text 2000-0"]);
}

fn by_person(mut letter: clawstead_terms::Envelope, channel: &str, person: &str) -> clawstead_terms::Envelope {
    letter.from = Origin::Channel {
        channel: channel.into(),
        account: "default".into(),
        sender_id: person.into(),
        sender_name: person.into(),
        message_id: letter.run_id.to_string(),
        owner: true,
    };
    letter
}

#[tokio::test(start_paused = true)]
async fn heartbeats_that_only_acknowledge_leave_no_trace_for_the_model() {
    let house = up().await;
    let main = key("jerry", "main");
    let mut beat = letter(&main, "h1", "say HEARTBEAT_OK");
    beat.options.heartbeat = true;
    beat.options.deliver_to = Some(target());
    let row = house.send(beat).await;
    assert!(row.silent && row.text.is_none());
    house.send(letter(&main, "r1", "hello")).await;
    assert_eq!(house.brain.texts().last().unwrap(), &["u:hello"]);
    assert!(outbox(&house).await.is_empty());
}

fn target() -> clawstead_terms::DeliveryTarget {
    clawstead_terms::DeliveryTarget { channel: "slack".into(), account: "default".into(), to: "C1".into(), thread_id: None, reply_to: None }
}

async fn outbox(house: &House) -> Vec<clawstead_agent::OutboxRow> {
    let unit = Unit::Agent(agent("jerry"));
    let scan = clawstead_state::Scan::prefix(clawstead_agent::OutboxRow::PREFIX);
    clawstead_state::scan_json(&*house.store, &unit, Table::Outbox, &scan).await.unwrap().into_iter().map(|row| row.value).collect()
}

#[tokio::test(start_paused = true)]
async fn errors_are_told_and_poison_nothing() {
    let house = up().await;
    let main = key("jerry", "main");
    let mut bad = letter(&main, "r1", "fail content");
    bad.options.deliver_to = Some(target());
    let row = house.send(bad).await;
    assert_eq!((row.status, row.error_kind.as_deref()), (RunStatus::Error, Some("content")));
    assert!(house.sink.kinds("r1").last().unwrap().starts_with("failed content"));
    let replies = outbox(&house).await;
    assert!(matches!(&replies[0].body[0], clawstead_terms::Part::Text { text } if text.starts_with("Error: ")));
    assert_eq!(house.send(letter(&main, "r2", "fail auth")).await.error_kind.as_deref(), Some("auth"));
    house.send(letter(&main, "r3", "fine")).await;
    assert_eq!(house.brain.texts().last().unwrap(), &["u:fail auth", "u:fine"], "what a server rejects for its content is not sent again");
    let session = house.lanes.session(&main).unwrap();
    assert_eq!((session.last_run_error.as_deref(), session.open.len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_breaks_costs_only_its_call() {
    let house = up().await;
    let main = key("jerry", "main");
    let row = house.send(letter(&main, "r1", "panic now")).await;
    assert_eq!(row.status, RunStatus::Ok);
    assert!(house.said(&main).await[2].contains("outcome is unknown"));
}

#[tokio::test(start_paused = true)]
async fn letters_too_old_are_not_run() {
    let (house, gate) = gated().await;
    let main = key("jerry", "main");
    house.lanes.accept(letter(&main, "r0", "wait 0")).await.unwrap();
    house.asked(1).await;
    let mut old = followup(letter(&main, "r1", "too late"));
    old.expires = Some(Millis(1_767_225_600_000 + 1_000));
    house.lanes.accept(old).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    gate.add_permits(1);
    let row = house.lanes.wait(&"r1".into(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!((row.status, row.error_kind.as_deref()), (RunStatus::Error, Some("expired")));
    assert_eq!(house.said(&main).await, ["u:wait 0", "a:waited 0"]);
}

#[tokio::test(start_paused = true)]
async fn events_are_known_at_the_next_turn_and_start_none() {
    let house = up().await;
    let main = key("jerry", "main");
    let mut event = letter(&main, "e1", "the door rang");
    event.kind = EnvelopeKind::Event;
    event.from = Origin::Hook { name: "door".into() };
    assert_eq!(house.lanes.accept(event.clone()).await, Ok(Accepted::Stored));
    assert_eq!(house.lanes.accept(event).await, Ok(Accepted::Duplicate(RunStatus::Ok)));
    assert!(house.brain.asks.lock().unwrap().is_empty());
    house.send(letter(&main, "r1", "hello")).await;
    assert_eq!(house.brain.texts()[0], ["s:[Event door]|the door rang", "u:hello"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_context_is_summarised_and_survives_a_restart() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let brain = || Script { window: Some(2_000), ..Script::default() };
    let small = |settings: &mut clawstead_agent::AgentSettings| settings.bootstrap_total_chars_max = 0;
    let house = Build { store: Arc::clone(&store), brain: brain(), change: small, ..Build::default() }.up().await;
    let main = key("jerry", "main");
    for number in 0..8 {
        house.send(letter(&main, &format!("r{number}"), &format!("say {}", "word ".repeat(120)))).await;
    }
    let session = house.lanes.session(&main).unwrap();
    assert!(session.compaction_count >= 1);
    let last = house.brain.texts().last().unwrap().clone();
    assert!(last[0].starts_with("s:[Earlier conversation, summarised]\nNOTES"), "{last:?}");
    assert!(last[1].starts_with("u:"), "the kept part begins with a person");
    assert_eq!(house.said(&main).await.len(), 16, "people still see everything");
    drop(house);
    let again = Build { store, brain: brain(), change: small, epoch: 2, ..Build::default() }.up().await;
    again.send(letter(&main, "r9", "hello")).await;
    let asked = again.brain.texts().last().unwrap().clone();
    assert_eq!(asked[0], last[0]);
    assert!(asked.len() < 12, "nothing of before the summary is sent: {}", asked.len());
}

#[tokio::test(start_paused = true)]
async fn a_summary_that_fails_twice_is_replaced_by_a_note() {
    let brain = Script { window: Some(2_000), fail_summaries: true, ..Script::default() };
    let house = Build { brain, ..Build::default() }.up().await;
    let main = key("jerry", "main");
    for number in 0..8 {
        assert_eq!(house.send(letter(&main, &format!("r{number}"), &format!("say {}", "word ".repeat(120)))).await.status, RunStatus::Ok);
    }
    assert!(house.brain.texts().last().unwrap()[0].contains("older messages were left out"));
    let answer = house.send(letter(&main, "c", "/compact")).await;
    assert_eq!(answer.status, RunStatus::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_person_can_have_a_session_summarised() {
    let house = Build { change: |settings| settings.compaction.keep_recent_tokens = 20, ..Build::default() }.up().await;
    let main = key("jerry", "main");
    let nothing = house.lanes.compact(&main, None, Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(nothing.code, FailureCode::NotFound);
    for number in 0..4 {
        house.send(letter(&main, &format!("r{number}"), &format!("say {}", "word ".repeat(20)))).await;
    }
    let made = house.lanes.compact(&main, Some("names"), Duration::from_secs(60)).await.unwrap();
    assert_eq!((made.compacted, made.summary.as_deref()), (true, Some("NOTES")));
    assert!(house.brain.texts().last().unwrap()[0].contains("Pay special attention to: names"));
    house.send(letter(&main, "r9", "hello")).await;
    assert!(house.brain.texts().last().unwrap()[0].contains("NOTES"));
}

#[tokio::test(start_paused = true)]
async fn a_ring_of_agents_is_cut_at_the_first_return() {
    let house = up().await;
    let mut ring = letter(&key("jerry", "main"), "r1", "pass it on");
    ring.from = Origin::Agent { agent: agent("bobby"), session: key("bobby", "main") };
    ring.path = vec![agent("jerry"), agent("bobby")];
    assert_eq!(house.lanes.accept(ring.clone()).await.unwrap_err().code, FailureCode::Forbidden);
    ring.path = vec![agent("bobby")];
    assert_eq!(house.lanes.accept(ring).await, Ok(Accepted::Stored));
}

#[tokio::test(start_paused = true)]
async fn a_refused_context_is_compacted_and_asked_again_or_explained() {
    let house = up().await;
    let main = key("jerry", "main");
    let row = house.send(letter(&main, "r1", "fail context")).await;
    assert_eq!((row.status, row.error_kind.as_deref()), (RunStatus::Error, Some("context")));
    assert_eq!(house.send(letter(&main, "r2", "/new")).await.status, RunStatus::Ok);
    assert_eq!(house.send(letter(&main, "r3", "hello")).await.status, RunStatus::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_leaves_nothing_and_a_full_disk_is_waited_out() {
    let memory = MemoryStore::new();
    let house = Build { store: Arc::new(memory.clone()), ..Build::default() }.up().await;
    let main = key("jerry", "main");
    let full = TxError::Full { path: "disk".into() };
    memory.fail_next(1, &full);
    assert_eq!(house.lanes.accept(letter(&main, "r1", "hello")).await.unwrap_err().code, FailureCode::Busy);
    assert!(house.lanes.session(&main).is_none(), "nothing of it is visible");
    assert_eq!(house.send(letter(&main, "r1", "hello")).await.text.as_deref(), Some("echo hello"));
    // The end of a turn waits for the disk and is not lost.
    house.lanes.accept(letter(&main, "r2", "slow x")).await.unwrap();
    while house.tools.effects.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    memory.fail_next(3, &full);
    house.tools.slow.notify_one();
    let row = house.lanes.wait(&"r2".into(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(row.status, RunStatus::Ok);
    assert_eq!(house.said(&main).await, ["u:hello", "a:echo hello", "u:slow x", "a:<slow x>", "t:=did x", "a:done"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_the_store_is_looked_up() {
    let memory = MemoryStore::new();
    let house = Build { store: Arc::new(memory.clone()), ..Build::default() }.up().await;
    let main = key("jerry", "main");
    for number in 0..3 {
        memory.lose_next_answers(2);
        let row = house.send(letter(&main, &format!("r{number}"), &format!("m{number}"))).await;
        assert_eq!(row.status, RunStatus::Ok);
    }
    assert_eq!(house.said(&main).await, ["u:m0", "a:echo m0", "u:m1", "a:echo m1", "u:m2", "a:echo m2"]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_taken_writes_nothing_more() {
    let memory = MemoryStore::new();
    let house = Build { store: Arc::new(memory.clone()), ..Build::default() }.up().await;
    let main = key("jerry", "main");
    house.lanes.accept(letter(&main, "r1", "slow x")).await.unwrap();
    while house.tools.effects.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let other = Build { store: Arc::new(memory.sibling()), tools: house.tools.clone(), epoch: 7, ..Build::default() }.up().await;
    house.tools.slow.notify_waiters();
    let row = other.lanes.wait(&"r1".into(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(row.status, RunStatus::Ok);
    let said = other.said(&main).await;
    assert!(said[2].contains("outcome is unknown") && said.len() == 4, "{said:?}");
    assert_eq!(house.tools.effects.lock().unwrap().len(), 1, "never twice");
    assert!(matches!(house.lanes.accept(letter(&main, "r2", "hi")).await, Err(f) if matches!(f.code, FailureCode::Fenced | FailureCode::Unavailable)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_order_puts_turns_aside_and_they_go_on() {
    let memory = MemoryStore::new();
    let main = key("jerry", "main");
    for epoch in 1..=6 {
        let house = Build { store: Arc::new(memory.clone()), epoch, seed: epoch, ..Build::default() }.up().await;
        if epoch == 1 {
            house.lanes.accept(letter(&main, "r1", "hang")).await.unwrap();
        }
        house.asked(1).await;
        assert_eq!(house.lanes.drain(Duration::from_secs(1)).await, 1);
        assert_eq!(house.lanes.accept(letter(&main, &format!("late{epoch}"), "hi")).await.unwrap_err().code, FailureCode::Unavailable);
    }
    let row = Build { store: Arc::new(memory.clone()), epoch: 7, ..Build::default() }.up().await.lanes.session(&main).unwrap().as_ref().clone();
    assert_eq!(row.open.len(), 1, "stops in order are no crashes: {:?}", row.open);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_crashes_the_gateway_again_and_again_is_given_up() {
    let memory = MemoryStore::new();
    let main = key("jerry", "main");
    let mut house = Build { store: Arc::new(memory.clone()), ..Build::default() }.up().await;
    house.lanes.accept(letter(&main, "r1", "hang")).await.unwrap();
    house.lanes.accept(followup(letter(&main, "r2", "hello"))).await.unwrap();
    house.asked(1).await;
    for epoch in 2..=4 {
        // A new owner takes over without a word, as after kill -9.
        house = Build { store: Arc::new(memory.sibling()), epoch, seed: epoch, ..Build::default() }.up().await;
        if epoch < 4 {
            house.asked(1).await;
        }
    }
    let row = house.lanes.wait(&"r1".into(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!((row.status, row.error_kind.as_deref()), (RunStatus::Error, Some("interrupted")));
    assert_eq!(house.lanes.wait(&"r2".into(), Duration::from_secs(60)).await.unwrap().unwrap().text.as_deref(), Some("echo hello"), "the next one runs");
}

#[tokio::test(start_paused = true)]
async fn sub_agents_report_to_their_parent_once() {
    let house = up().await;
    let main = key("jerry", "main");
    house.send(letter(&main, "r1", "hello")).await;
    let wish = |effect: &str, task: &str| Spawn {
        parent: main.clone(),
        agent: None,
        task: task.into(),
        label: Some("digger".into()),
        model: None,
        thinking: None,
        timeout_ms: None,
        effect_id: effect.into(),
        announce: clawstead_agent::Announce::ToParent,
    };
    let child = house.lanes.spawn(wish("e1", "say gold")).await.unwrap();
    assert_eq!(house.lanes.spawn(wish("e1", "say gold")).await.unwrap(), child, "the same wish is the same sub-agent");
    assert_eq!(house.lanes.wait(&child.run_id, Duration::from_secs(60)).await.unwrap().unwrap().text.as_deref(), Some("gold"));
    house.asked(3).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let said = house.said(&main).await;
    assert_eq!(said.iter().filter(|line| line.contains("sub-agent \"digger\" has ended") && line.contains("gold")).count(), 1, "told once: {said:?}");
    let row = house.lanes.session(&child.session).unwrap();
    assert_eq!((row.spawn_depth, row.spawned_by.as_ref()), (1, Some(&main)));
    let failed = house.lanes.spawn(wish("e2", "fail auth")).await.unwrap();
    house.lanes.wait(&failed.run_id, Duration::from_secs(60)).await.unwrap().unwrap();
    house.asked(5).await;
    assert!(house.brain.texts().last().unwrap().last().unwrap().contains("sub-agent \"digger\" failed"));
    for number in 0..5 {
        house.lanes.spawn(wish(&format!("h{number}"), "hang")).await.unwrap();
    }
    assert_eq!(house.lanes.spawn(wish("h9", "hang")).await.unwrap_err().code, FailureCode::Busy);
    let mut foreign = wish("f", "x");
    foreign.agent = Some(agent("bobby"));
    assert_eq!(house.lanes.spawn(foreign).await.unwrap_err().code, FailureCode::Forbidden);
    tokio::time::sleep(Duration::from_secs(3_700)).await;
    assert_eq!(house.lanes.tidy_subagents(&agent("jerry")).await.unwrap(), 2, "ended ones are archived after an hour");
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_patched_reset_and_deleted() {
    let house = up().await;
    for number in 0..5 {
        house.send(letter(&key("jerry", &format!("s{number}")), &format!("r{number}"), &format!("say number {number}"))).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let list = |filter: SessionFilter| house.lanes.list(&filter);
    let keys = |page: clawstead_agent::SessionPage| page.rows.iter().map(|row| row.key.rest().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(list(SessionFilter { limit: 2, offset: 1, ..SessionFilter::default() })), ["s3", "s2"]);
    assert_eq!(keys(list(SessionFilter { search: Some("NUMBER 1".into()), ..SessionFilter::default() })), ["s1"]);
    let s0 = key("jerry", "s0");
    let patched = house.lanes.patch(&s0, SessionPatch { pinned: Some(true), label: Some(Some("first".into())), ..SessionPatch::default() }).await.unwrap();
    assert_eq!(patched.label.as_deref(), Some("first"));
    assert_eq!(keys(list(SessionFilter { limit: 1, ..SessionFilter::default() })), ["s0"]);
    let taken = SessionPatch { label: Some(Some("first".into())), ..SessionPatch::default() };
    assert_eq!(house.lanes.patch(&key("jerry", "s1"), taken).await.unwrap_err().code, FailureCode::InvalidRequest);
    let mut extra = SessionPatch::default();
    extra.extra.insert("verboseLevel".into(), "on".into());
    assert_eq!(house.lanes.patch(&s0, extra).await.unwrap().extra["verboseLevel"], "on");
    let mut forbidden = SessionPatch::default();
    forbidden.extra.insert("sessionId".into(), "x".into());
    assert!(house.lanes.patch(&s0, forbidden).await.is_err());
    house.lanes.patch(&s0, SessionPatch { archived: Some(true), ..SessionPatch::default() }).await.unwrap();
    assert_eq!(list(SessionFilter::default()).total, 4);
    let reset = house.lanes.reset(&s0, "rpc").await.unwrap();
    assert_eq!((reset.lifecycle_revision, reset.session_id.clone()), (1, patched.session_id.clone()), "a reset keeps the session id");
    assert!(house.said(&s0).await.is_empty());
    house.lanes.inject(&s0, "note", Some("ops")).await.unwrap();
    assert_eq!(house.said(&s0).await, ["a:[ops]\n\nnote"]);
    assert!(house.lanes.delete(&s0).await.unwrap().deleted && !house.lanes.delete(&s0).await.unwrap().deleted);
    assert!(house.lanes.session(&s0).is_none());
    house.send(letter(&s0, "r10", "hello")).await;
    assert_eq!(house.said(&s0).await.len(), 2, "the key begins anew");
}

#[tokio::test(start_paused = true)]
async fn history_pages_follow_each_other() {
    let house = up().await;
    let main = key("jerry", "main");
    for number in 0..150 {
        house.send(letter(&main, &format!("r{number}"), &format!("m{number}"))).await;
    }
    let newest = house.lanes.history(&main, HistoryPage::Newest { limit: 3, skip: 0 }).await.unwrap();
    assert_eq!((newest.total, newest.more, newest.items[0].position), (300, true, 298));
    let older = house.lanes.history(&main, HistoryPage::Newest { limit: 400, skip: 3 }).await.unwrap();
    assert_eq!((older.items.len(), older.more, older.items[0].position, shown(&older.items[0].message)), (297, false, 1, "u:m0".into()));
    house.send(letter(&main, "x", "new")).await;
    let since = house.lanes.history(&main, HistoryPage::Since { cursor: newest.cursor, limit: 10 }).await.unwrap();
    assert_eq!(since.items.iter().map(|item| (item.position, shown(&item.message))).collect::<Vec<_>>(), [(301, "u:new".into()), (302, "a:echo new".into())]);
    let cut = house.lanes.history(&main, HistoryPage::Since { cursor: newest.cursor, limit: 1 }).await.unwrap();
    assert_eq!((cut.more, cut.items[0].position), (true, 301));
    house.lanes.reset(&main, "rpc").await.unwrap();
    assert!(!house.lanes.history(&main, HistoryPage::Since { cursor: newest.cursor, limit: 10 }).await.unwrap().cursor_valid);
    assert_eq!(house.lanes.preview(&main, 3, 20).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_exported_in_the_known_shape() {
    let house = up().await;
    let main = key("jerry", "main");
    house.send(letter(&main, "r1", "exec job")).await;
    let mut lines = Vec::new();
    let count = house.lanes.export_jsonl(&main, &mut |line| lines.push(line)).await.unwrap();
    let values: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(count, 6);
    let types: Vec<&str> = values.iter().map(|value| value["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["session", "message", "model_change", "message", "message", "message"]);
    assert_eq!((&values[0]["version"], values[1]["parentId"].is_null(), &values[1]["message"]["role"]), (&3.into(), true, &"user".into()));
    for pair in values[1..].windows(2) {
        assert_eq!(pair[1]["parentId"], pair[0]["id"], "a chain");
    }
    assert_eq!(values[3]["message"]["content"][0]["type"], "toolCall");
    assert_eq!(
        (&values[3]["message"]["stopReason"], &values[4]["message"]["role"], &values[4]["message"]["isError"]),
        (&"toolUse".into(), &"toolResult".into(), &false.into())
    );
}

#[tokio::test(start_paused = true)]
async fn idle_sessions_leave_memory_and_come_back() {
    let limits = LaneLimits { live_sessions_max: 8, ..LaneLimits::default() };
    let house = Build { limits, ..Build::default() }.up().await;
    for number in 0..40 {
        house.send(letter(&key("jerry", &format!("s{number}")), &format!("r{number}"), "hello")).await;
    }
    assert!(house.lanes.sessions_live() <= 9, "{}", house.lanes.sessions_live());
    house.send(letter(&key("jerry", "s0"), "again", "again")).await;
    assert_eq!(house.brain.texts().last().unwrap(), &["u:hello", "a:echo hello", "u:again"]);
}

#[tokio::test(start_paused = true)]
async fn old_runs_are_pruned_and_open_ones_stay() {
    let house = up().await;
    let main = key("jerry", "main");
    for number in 0..10 {
        house.send(letter(&main, &format!("r{number}"), "hello")).await;
    }
    house.lanes.accept(letter(&main, "open", "hang")).await.unwrap();
    let later = Millis(i64::MAX);
    assert_eq!(house.lanes.prune_runs(&agent("jerry"), later, 4).await.unwrap(), 4);
    assert_eq!(house.lanes.prune_runs(&agent("jerry"), later, 100).await.unwrap(), 6);
    assert!(house.lanes.report(&"open".into()).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_journal_cut_anywhere_builds_a_legal_request() {
    // A whole conversation with tools, then every shorter journal that a damaged or restored store could have.
    let memory = MemoryStore::new();
    let main = key("jerry", "main");
    {
        let house = Build { store: Arc::new(memory.clone()), ..Build::default() }.up().await;
        for (run, text) in [("r1", "exec one"), ("r2", "read two"), ("r3", "fail auth"), ("r4", "put three")] {
            house.send(letter(&main, run, text)).await;
        }
    }
    let unit = Unit::Agent(agent("jerry"));
    let row: clawstead_agent::SessionRow = clawstead_state::get_json(&memory, &unit, Table::Sessions, main.as_str()).await.unwrap().unwrap().value;
    let lines = memory.read_journal(&unit, row.session_id.as_str(), 1, 1_000).await.unwrap();
    for cut in 0..=lines.len() {
        let store = MemoryStore::new();
        let fence = Fence { epoch: 1, owner: "x".into(), incarnation: 1 };
        store.claim(&unit, &fence).await.unwrap();
        let mut batch = Batch::new(unit.clone()).put_json(Table::Sessions, main.as_str(), &row).unwrap();
        for (at, (_, line)) in lines[..cut].iter().enumerate() {
            batch.ops.push(Op::Append { journal: row.session_id.to_string(), seq: at as u64 + 1, event: line.clone() });
        }
        store.commit(&fence, batch).await.unwrap();
        let brain = Script { lenient: true, ..Script::default() };
        let house = Build { store: Arc::new(store), brain, epoch: 2, ..Build::default() }.up().await;
        let answer = house.send(letter(&main, "after", "hello")).await;
        assert_eq!(answer.text.as_deref(), Some("echo hello"), "cut at {cut}");
    }
    assert!(
        lines.iter().any(|(_, line)| matches!(serde_json::from_str::<JournalEvent>(line).unwrap(), JournalEvent::RunEnded { end: RunEnd::Error { .. }, .. }))
    );
}

/// A house whose first turn waits at a gate, with letters of one person behind it.
async fn crowded(change: fn(&mut clawstead_agent::AgentSettings), letters: usize) -> (House, clawstead_terms::SessionKey, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let house = Build { brain: Script { gate: Some(Arc::clone(&gate)), ..Script::default() }, change, ..Build::default() }.up().await;
    let main = key("jerry", "main");
    house.lanes.accept(by_person(letter(&main, "r0", "wait 0"), "slack", "u1")).await.unwrap();
    house.asked(1).await;
    for number in 1..=letters {
        house.lanes.accept(by_person(letter(&main, &format!("r{number}"), &format!("say {number}")), "slack", "u1")).await.unwrap();
    }
    (house, main, gate)
}

async fn end_of(house: &House, run: &str) -> clawstead_agent::RunRow {
    house.lanes.wait(&run.into(), Duration::from_secs(600)).await.unwrap().expect("the run ended")
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_leaves_out_what_the_config_says() {
    use clawstead_agent::queue::Overflow;
    // Old: the oldest go, and it is written down.
    let (house, main, gate) = crowded(
        |settings| {
            settings.queue.mode = QueueMode::Followup;
            (settings.queue.cap, settings.queue.overflow) = (Some(2), Overflow::Old);
        },
        4,
    )
    .await;
    gate.add_permits(1);
    assert_eq!(end_of(&house, "r4").await.text.as_deref(), Some("4"));
    assert_eq!(house.said(&main).await, ["u:wait 0", "a:waited 0", "u:say 3", "a:3", "u:say 4", "a:4"]);
    for run in ["r1", "r2"] {
        let row = end_of(&house, run).await;
        assert_eq!((row.status, row.abort_reason.as_deref()), (RunStatus::Aborted, Some("queue-full")));
        assert_eq!(house.sink.kinds(run), ["aborted queue-full "]);
    }
    assert!(house.lanes.session(&main).unwrap().open.is_empty());

    // Summarize: the next turn is told, and answers for them.
    let (house, main, gate) = crowded(
        |settings| {
            settings.queue.mode = QueueMode::Followup;
            (settings.queue.cap, settings.queue.overflow) = (Some(1), Overflow::Summarize);
        },
        3,
    )
    .await;
    // Somebody without the owner's rights is not spoken for: it keeps its own turn.
    let mut guest = by_person(letter(&main, "g", "say guest"), "slack", "u2");
    if let Origin::Channel { owner, .. } = &mut guest.from {
        *owner = false;
    }
    house.lanes.accept(guest).await.unwrap();
    house.lanes.accept(by_person(letter(&main, "r5", "say 5"), "slack", "u1")).await.unwrap();
    gate.add_permits(1);
    end_of(&house, "r5").await;
    assert_eq!(end_of(&house, "r1").await.run_id.as_str(), "r3", "answered by the turn that was told");
    let said = house.said(&main).await;
    assert!(said[2].contains("2 earlier messages were left out") && said[2].ends_with("\n- say 1\n- say 2"), "{said:?}");
    assert_eq!(said[3..], ["u:say 3", "a:3", "u:say guest", "a:guest", "u:say 5", "a:5"], "nobody is overtaken");
    assert!(house.lanes.session(&main).unwrap().open.is_empty());

    // New: a client is told to come again, what a platform brings is written down and goes.
    let (house, main, gate) = crowded(
        |settings| {
            settings.queue.mode = QueueMode::Followup;
            (settings.queue.cap, settings.queue.overflow) = (Some(2), Overflow::New);
        },
        3,
    )
    .await;
    let busy = house.lanes.accept(letter(&main, "c1", "say c")).await.unwrap_err();
    assert!(busy.code == FailureCode::Busy && busy.message.contains("messages.queue.cap"), "{busy:?}");
    assert_eq!(house.lanes.accept(letter(&main, "c2", "/status")).await, Ok(Accepted::Stored), "a command is no crowd");
    assert_eq!(end_of(&house, "r3").await.abort_reason.as_deref(), Some("queue-full"));
    assert_eq!(house.lanes.accept(by_person(letter(&main, "r3", "say 3"), "slack", "u1")).await, Ok(Accepted::Duplicate(RunStatus::Aborted)));
    gate.add_permits(1);
    end_of(&house, "c2").await;
    assert_eq!(house.said(&main).await, ["u:wait 0", "a:waited 0", "u:say 1", "a:1", "u:say 2", "a:2"]);
}

#[tokio::test(start_paused = true)]
async fn texts_in_one_breath_are_one_turn() {
    let change = |settings: &mut clawstead_agent::AgentSettings| {
        settings.queue.inbound_ms = 1_000;
        settings.queue.inbound_by_channel.insert("irc".into(), 0);
    };
    let house = Build { change, ..Build::default() }.up().await;
    let main = key("jerry", "main");
    let began = tokio::time::Instant::now();
    for (number, pause) in [(1, 600), (2, 600), (3, 0)] {
        house.lanes.accept(by_person(letter(&main, &format!("r{number}"), &format!("say {number}")), "slack", "u1")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    assert_eq!(end_of(&house, "r1").await.text.as_deref(), Some("3"));
    assert_eq!(began.elapsed().as_millis(), 2_200, "a second after the last text");
    assert_eq!(end_of(&house, "r3").await.run_id.as_str(), "r1");
    assert_eq!(house.said(&main).await, ["u:say 1", "u:say 2", "u:say 3", "a:3"]);

    // Another person, another breath; a command does not wait and ends the waiting; other platforms, other rules.
    let began = tokio::time::Instant::now();
    house.lanes.accept(by_person(letter(&main, "a1", "say a"), "slack", "u1")).await.unwrap();
    house.lanes.accept(by_person(letter(&main, "b1", "say b"), "slack", "u2")).await.unwrap();
    assert_eq!(end_of(&house, "a1").await.text.as_deref(), Some("a"));
    assert_eq!(end_of(&house, "b1").await.text.as_deref(), Some("b"));
    assert_eq!(began.elapsed().as_millis(), 1_000);
    let began = tokio::time::Instant::now();
    house.lanes.accept(by_person(letter(&main, "d1", "say d"), "slack", "u1")).await.unwrap();
    house.lanes.accept(by_person(letter(&main, "d2", "/status"), "slack", "u1")).await.unwrap();
    end_of(&house, "d2").await;
    house.send(by_person(letter(&main, "e1", "say e"), "irc", "u1")).await;
    house.send(letter(&main, "f1", "say f")).await;
    assert!(began.elapsed().as_millis() < 1_000, "{:?}", began.elapsed());
    // One who never stops writing is answered all the same.
    let began = tokio::time::Instant::now();
    let other = key("jerry", "other");
    for number in 0..15 {
        house.lanes.accept(by_person(letter(&other, &format!("x{number}"), "say x"), "slack", "u1")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    assert!(house.brain.texts().iter().any(|ask| ask.first().is_some_and(|line| line == "u:say x")), "{:?}", began.elapsed());
    end_of(&house, "x14").await;
}

#[tokio::test(start_paused = true)]
async fn follow_ups_wait_until_nobody_writes() {
    let (house, main, gate) = crowded(
        |settings| {
            settings.queue.mode_by_channel.insert("slack".into(), QueueMode::Collect);
            settings.queue.debounce_by_channel.insert("slack".into(), 5_000);
        },
        1,
    )
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = tokio::time::Instant::now();
    gate.add_permits(1);
    end_of(&house, "r0").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    house.lanes.accept(by_person(letter(&main, "r2", "say 2"), "slack", "u1")).await.unwrap();
    assert_eq!(end_of(&house, "r2").await.run_id.as_str(), "r1", "collected");
    assert_eq!(began.elapsed().as_secs(), 8, "five seconds after the last");
    house.send(by_person(letter(&main, "r3", "say 3"), "slack", "u1")).await;
    assert_eq!(began.elapsed().as_secs(), 8, "nobody waits in an idle session");
}

#[tokio::test(start_paused = true)]
async fn replies_to_platforms_have_their_prefix() {
    let change = |settings: &mut clawstead_agent::AgentSettings| {
        settings.identity.name = Some("Jerry".into());
        settings.reply_prefix.general = Some("[{identity.name} on {modelFull}]".into());
    };
    let house = Build { change, ..Build::default() }.up().await;
    let main = key("jerry", "main");
    let mut asked = letter(&main, "r1", "say hi");
    asked.options.deliver_to = Some(target());
    let row = house.send(asked).await;
    assert_eq!(row.text.as_deref(), Some("hi"), "clients and the transcript see the answer itself");
    assert_eq!(outbox(&house).await[0].body, [clawstead_terms::Part::text("[Jerry on mock/m] hi")]);
}

/// A letter that waits is stopped while a call runs: the call's intent must be known after a crash all the same.
#[test]
fn the_end_of_a_waiting_letter_leaves_open_calls_alone() {
    use clawstead_terms::{EffectClass, Message, Part, Role, Usage};
    let mut transcript = clawstead_agent::transcript::Transcript::default();
    let call = Part::ToolCall { id: "c".into(), name: "exec".into(), arguments: serde_json::json!({}) };
    let message = Message {
        id: "m".into(),
        role: Role::Assistant,
        parts: vec![call],
        at: Millis(0),
        run_id: Some("r1".into()),
        model: None,
        usage: None,
        stop_reason: None,
        meta: None,
    };
    transcript.apply(1, &JournalEvent::Said { message: Box::new(message) });
    transcript.apply(2, &JournalEvent::ToolIntent { run_id: "r1".into(), call_id: "c".into(), effect_id: "e".into(), class: EffectClass::Once });
    transcript.apply(3, &JournalEvent::RunEnded { run_id: "r2".into(), at: Millis(0), end: RunEnd::Aborted { reason: "rpc".into() }, usage: Usage::default() });
    assert_eq!(transcript.progress(&"r1".into()).2[0].intent, Some(("e".into(), EffectClass::Once)));
}

#[tokio::test(start_paused = true)]
async fn a_barrier_waits_for_what_was_accepted_before_it() {
    let (house, gate) = gated().await;
    let main = key("jerry", "main");
    assert_eq!(house.lanes.settled(&main, Duration::from_secs(1)).await.unwrap_err().code, FailureCode::NotFound);
    for run in ["r1", "r2"] {
        house.lanes.accept(followup(letter(&main, run, &format!("wait {run}")))).await.unwrap();
    }
    let late = house.lanes.settled(&main, Duration::from_secs(5)).await.unwrap();
    assert_eq!((late.runs, late.open.len()), (2, 2), "the time is over, nothing is settled");
    let barrier = tokio::spawn({
        let (lanes, main) = (house.lanes.clone(), main.clone());
        async move { lanes.settled(&main, Duration::from_secs(600)).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    house.lanes.accept(followup(letter(&main, "after", "wait after"))).await.unwrap();
    gate.add_permits(1);
    end_of(&house, "r1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!barrier.is_finished());
    gate.add_permits(1);
    let done = barrier.await.unwrap();
    assert_eq!((done.runs, done.open.len()), (2, 0), "what came after the call is not waited for");
    assert!(end_of(&house, "r2").await.is_over() && house.lanes.session(&main).unwrap().open.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_session_is_exported_whole_page_by_page() {
    let house = up().await;
    let main = key("jerry", "main");
    let long = "x".repeat(200_000);
    for number in 0..50 {
        house.send(letter(&main, &format!("r{number}"), &format!("say {number} {long}"))).await;
    }
    let (mut cursor, mut pages, mut ids) = (None::<String>, 0, Vec::new());
    loop {
        let page = house.lanes.export_page(&main, cursor.as_deref()).await.unwrap();
        pages += 1;
        assert!(page.lines.iter().map(String::len).sum::<usize>() < 5 << 20);
        ids.extend(page.lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()));
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert!(pages > 2, "{pages} pages");
    assert_eq!(ids.iter().filter(|line| line["type"] == "message").count(), 100);
    for pair in ids[1..].windows(2) {
        assert_eq!(pair[1]["parentId"], pair[0]["id"], "one chain over all pages");
    }
    let old = cursor.unwrap();
    house.lanes.reset(&main, "rpc").await.unwrap();
    assert_eq!(house.lanes.export_page(&main, Some(&old)).await.unwrap_err().code, FailureCode::InvalidRequest);
    assert_eq!(house.lanes.export_page(&main, Some("junk")).await.unwrap_err().code, FailureCode::InvalidRequest);
}
