//! A gateway that dies at every single write of a conversation, once before it and once after it: each letter is
//! answered once, in order, and no tool with an effect runs twice.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod kit;

use std::{sync::Arc, time::Duration};

use clawstead_agent::{HistoryPage, LetterRow, OutboxRow};
use clawstead_state::{Image, MemoryStore, Scan, Store, Table, scan_json};
use clawstead_terms::{Address, ChannelId, DeliveryTarget, Envelope, RunStatus, Unit};

use kit::{Build, Death, Dying, Effects, Tools, agent, key, letter, shown};

fn conversation() -> Vec<Envelope> {
    let main = key("jerry", "main");
    let mut out: Vec<Envelope> =
        ["hello", "exec one", "put two", "read three", "bye"].iter().enumerate().map(|(at, text)| letter(&main, &format!("run-{at}"), text)).collect();
    for letter in &mut out {
        letter.options.queue_mode = Some(clawstead_terms::QueueMode::Followup);
    }
    out[1].options.deliver_to =
        Some(DeliveryTarget { channel: ChannelId::from("slack"), account: "default".into(), to: "C1".into(), thread_id: None, reply_to: None });
    out[4].reply_to = Some(Address { agent: agent("bobby"), session: key("bobby", "main") });
    out
}

/// One life of the gateway: offers the letters that were not taken yet and waits for all runs. Answers the image it
/// leaves, and whether it lived to the end.
fn live(image: Image, at: usize, death: Death, epoch: u64, effects: &Effects, taken: &mut usize) -> (Image, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (store, dead) = runtime.block_on(async {
        let dying = Dying::new(image, at, death);
        (dying.memory.clone(), Arc::new(dying))
    });
    let signal = Arc::clone(&dead.dead);
    let lived = runtime.block_on(async {
        let work = async {
            let tools = Tools { effects: Arc::clone(effects), ..Tools::default() };
            let house = Build { store: dead, tools, epoch, seed: epoch, ..Build::default() }.up().await;
            let letters = conversation();
            while *taken < letters.len() {
                house.lanes.accept(letters[*taken].clone()).await.unwrap();
                *taken += 1;
            }
            for letter in &letters {
                let row = house.lanes.wait(&letter.run_id, Duration::from_secs(600)).await.unwrap().expect("every run ends");
                assert_eq!(row.status, RunStatus::Ok, "{}: {:?}", letter.run_id, row.failure);
            }
            // The owed letter has arrived when nothing is owed any more.
            loop {
                let unit = Unit::Agent(agent("jerry"));
                let owed = house.store.scan(&unit, Table::Outbox, &Scan::prefix(LetterRow::PREFIX)).await.unwrap();
                if owed.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            house.lanes.drain(Duration::from_secs(5)).await;
        };
        tokio::select! { biased;
            () = signal.notified() => false,
            () = work => true,
        }
    });
    // Everything that ran dies with the runtime.
    drop(runtime);
    (store.image(), lived)
}

fn verify(image: Image, effects: &Effects, what: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::on(image));
        let house = Build { store: Arc::clone(&store), epoch: 1_000, ..Build::default() }.up().await;
        let said = house.said(&key("jerry", "main")).await;
        let users: Vec<&String> = said.iter().filter(|line| line.starts_with("u:")).collect();
        assert_eq!(users, ["u:hello", "u:exec one", "u:put two", "u:read three", "u:bye"], "{what}: every text once, in order");
        let finals: Vec<&String> = said.iter().filter(|line| line.starts_with("a:") && !line.contains('<')).collect();
        assert_eq!(finals, ["a:echo hello", "a:done", "a:done", "a:done", "a:echo bye"], "{what}: every letter answered once: {said:?}");
        let calls = said.iter().filter(|line| line.starts_with("a:<")).count();
        let results = said.iter().filter(|line| line.starts_with("t:")).count();
        assert_eq!(calls, results, "{what}: {said:?}");
        let effects = effects.lock().unwrap().clone();
        let execs = effects.iter().filter(|(tool, ..)| tool == "exec").count();
        let unknown = said.iter().any(|line| line.starts_with("t:!") && line.contains("unknown"));
        assert!(execs == 1 || (execs == 0 && unknown), "{what}: {execs} effects of a tool that runs once; {said:?}");
        if !unknown {
            assert_eq!(execs, 1, "{what}");
        }
        let mut puts: Vec<&String> = effects.iter().filter(|(tool, ..)| tool == "put").map(|(_, _, id)| id).collect();
        puts.dedup();
        assert_eq!(puts.len(), 1, "{what}: repeats carry the same effect id");
        let outbox = scan_json::<OutboxRow>(&*store, &Unit::Agent(agent("jerry")), Table::Outbox, &Scan::prefix(OutboxRow::PREFIX)).await.unwrap();
        assert_eq!(outbox.len(), 1, "{what}: one reply leaves");
        let told = house.lanes.history(&key("bobby", "main"), HistoryPage::Newest { limit: 10, skip: 0 }).await.unwrap();
        let told: Vec<String> = told.items.iter().map(|item| shown(&item.message)).collect();
        assert_eq!(told, ["s:[Answer of agent jerry, session agent:jerry:main]|echo bye"], "{what}");
        let row = house.lanes.session(&key("jerry", "main")).unwrap();
        assert!(row.open.is_empty(), "{what}: nothing is left open");
        // The next request is legal and whole: the brain checks it.
        let next = house.send(letter(&key("jerry", "main"), "run-next", "say fine")).await;
        assert_eq!(next.text.as_deref(), Some("fine"), "{what}");
    });
}

#[test]
fn a_crash_at_every_write_loses_and_doubles_nothing() {
    for death in [Death::Before, Death::After] {
        let mut at = 1;
        loop {
            let effects = Effects::default();
            let mut taken = 0;
            let (image, lived) = live(Image::default(), at, death, 1, &effects, &mut taken);
            if lived {
                assert!(at > 12, "the conversation has more than {at} writes");
                verify(image, &effects, "no crash");
                break;
            }
            let (image, lived) = live(image, usize::MAX, death, 2, &effects, &mut taken);
            assert!(lived, "{death:?} write {at}: the second life ends its work");
            verify(image, &effects, &format!("{death:?} write {at}"));
            at += 1;
        }
    }
}

#[test]
fn two_crashes_in_a_row_are_no_worse() {
    for first in [2, 5, 7, 9] {
        for second in 1..10 {
            let effects = Effects::default();
            let mut taken = 0;
            let (image, _) = live(Image::default(), first, Death::After, 1, &effects, &mut taken);
            let (image, _) = live(image, second, Death::Before, 2, &effects, &mut taken);
            let (image, lived) = live(image, usize::MAX, Death::After, 3, &effects, &mut taken);
            assert!(lived);
            verify(image, &effects, &format!("writes {first} and {second}"));
        }
    }
}

/// A question that brings the gateway down each time is given up; the next answer speaks to the next question only.
#[test]
fn a_run_that_is_given_up_leaves_a_word_in_the_place_of_its_answer() {
    let main = key("jerry", "main");
    let mut image = Image::default();
    let life = |image: Image, epoch: u64| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let store = MemoryStore::on(image);
        let house = runtime.block_on(async { Build { store: Arc::new(store.clone()), epoch, seed: epoch, ..Build::default() }.up().await });
        (runtime, store, house)
    };
    for epoch in 1..=u64::from(clawstead_agent::ATTEMPTS_MAX) {
        let (runtime, store, house) = life(image, epoch);
        runtime.block_on(async {
            if epoch == 1 {
                house.lanes.accept(letter(&main, "r1", "hang on")).await.unwrap();
            }
            house.asked(1).await;
        });
        drop((house, runtime));
        image = store.image();
    }
    let (runtime, _, house) = life(image, 10);
    runtime.block_on(async {
        let row = house.lanes.wait(&"r1".into(), Duration::from_secs(60)).await.unwrap().expect("it is over");
        assert_eq!((row.status, row.error_kind.as_deref()), (RunStatus::Error, Some("interrupted")));
        let next = house.send(letter(&main, "r2", "say fine")).await;
        assert_eq!(next.text.as_deref(), Some("fine"));
        let asked = house.brain.texts();
        let last = asked.last().unwrap();
        assert_eq!((last.len(), last[0].as_str(), last[2].as_str()), (3, "u:hang on", "u:say fine"), "{last:?}");
        assert!(last[1].starts_with("a:[Not answered: the run was interrupted by restarts too often"), "{last:?}");
    });
}
