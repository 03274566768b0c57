//! Every fault happens, is counted, and is repeated by its seed. In simulated time over the embedded engine.

use clawstead_world::SeededRng;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::*;
use crate::memory::Memory;

const LETTERS: u32 = 1_000;

fn faulty(seed: u64) -> FaultyBus {
    FaultyBus::new(Memory::new().bus("a"), Arc::new(SeededRng::new(seed)), Tasks::simulated())
}

fn unit() -> MailBox {
    MailBox::Unit("agents/bobby".into())
}

/// Publishes letters one after another and reads until a minute brings nothing. Answers (answers that were an error,
/// letters in the order they came).
async fn run(bus: &FaultyBus, to: &MailBox, count: u32) -> (u32, Vec<u32>) {
    let mut mail = bus.subscribe(to, "a.1");
    let publish = async {
        let mut errors = 0;
        for n in 0..count {
            let letter = Sealed { message_id: n.to_string(), attempt: 0, bytes: n.to_be_bytes().to_vec().into() };
            errors += u32::from(bus.publish(to, &letter).await.is_err());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        errors
    };
    let read = async {
        let mut came = Vec::new();
        while let Ok(Some(delivery)) = timeout(Duration::from_secs(60), mail.next()).await {
            let delivery = delivery.unwrap();
            came.push(u32::from_be_bytes(delivery.raw[..].try_into().unwrap()));
            delivery.settle.done().await.unwrap();
        }
        came
    };
    tokio::join!(publish, read)
}

fn sorted(mut came: Vec<u32>) -> Vec<u32> {
    came.sort_unstable();
    came
}

#[tokio::test(start_paused = true)]
async fn without_faults_nothing_happens() {
    let bus = faulty(1);
    assert_eq!(run(&bus, &unit(), 100).await, (0, (0..100).collect()));
    assert_eq!(bus.injected(), Injected { asked: 100, ..Injected::default() });
}

#[tokio::test(start_paused = true)]
async fn dropped_letters_do_not_come_and_refused_ones_say_so() {
    let bus = faulty(2);
    bus.set(MailFaults { drop: 0.1, refuse: 0.1, ..MailFaults::default() });
    let (errors, came) = run(&bus, &unit(), LETTERS).await;
    let injected = bus.injected();
    assert!((50..200).contains(&injected.dropped) && (50..200).contains(&injected.refused), "{injected:?}");
    assert_eq!(u64::from(errors), injected.refused);
    assert_eq!(came.len() as u64, u64::from(LETTERS) - injected.dropped - injected.refused);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_an_error_and_the_letter_comes() {
    let bus = faulty(3);
    bus.set(MailFaults { lose_answer: 0.2, ..MailFaults::default() });
    let (errors, came) = run(&bus, &unit(), LETTERS).await;
    assert_eq!((u64::from(errors), came), (bus.injected().answers_lost, (0..LETTERS).collect()));
    assert!(errors > 100, "{errors}");
}

#[tokio::test(start_paused = true)]
async fn copies_come_after_their_time_also_through_an_engine_that_drops_repeats() {
    let bus = faulty(4);
    bus.set(MailFaults { duplicate: 1.0, duplicate_after: Delay::Fixed(Duration::from_secs(30)), ..MailFaults::default() });
    let began = Instant::now();
    let (errors, came) = run(&bus, &unit(), 100).await;
    assert_eq!((errors, sorted(came)), (0, (0..100).flat_map(|n| [n, n]).collect()));
    assert!(began.elapsed() > Duration::from_secs(30));
    assert_eq!(bus.injected(), Injected { asked: 100, duplicated: 100, ..Injected::default() });
}

#[tokio::test(start_paused = true)]
async fn late_and_overtaken_letters_all_come_in_another_order() {
    for faults in [
        MailFaults { reorder: 0.3, reorder_window: 10, ..MailFaults::default() },
        MailFaults { delay: Delay::Exponential { mean: Duration::from_millis(20), max: Duration::from_secs(10) }, ..MailFaults::default() },
    ] {
        let bus = faulty(5);
        bus.set(faults);
        let (errors, came) = run(&bus, &unit(), LETTERS).await;
        assert_ne!(came, (0..LETTERS).collect::<Vec<_>>());
        assert_eq!((errors, sorted(came.clone())), (0, (0..LETTERS).collect()));
        if faults.reorder > 0.0 {
            // Ten others at most, and those that were held with it.
            let farthest = came.iter().enumerate().map(|(at, n)| at.saturating_sub(*n as usize)).max();
            assert!(farthest.is_some_and(|farthest| (1..=30).contains(&farthest)), "{farthest:?}");
        }
        let injected = bus.injected();
        assert!(injected.reordered + injected.delayed > 200 && injected.lost_late == 0, "{injected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_letter_that_nobody_follows_comes_in_the_end() {
    let bus = faulty(6);
    bus.set(MailFaults { reorder: 1.0, reorder_window: 5, ..MailFaults::default() });
    assert_eq!(run(&bus, &unit(), 1).await, (0, vec![0]));
}

#[tokio::test(start_paused = true)]
async fn receipts_alone_can_be_lost() {
    let bus = faulty(7);
    bus.set_gateways(MailFaults { drop: 1.0, ..MailFaults::default() });
    assert_eq!(run(&bus, &unit(), 10).await, (0, (0..10).collect()));
    assert_eq!(run(&bus, &MailBox::Gateway("jerry".into()), 10).await, (0, vec![]));
    bus.heal();
    assert_eq!(run(&bus, &MailBox::Gateway("jerry".into()), 10).await, (0, (0..10).collect()));
}

#[tokio::test(start_paused = true)]
async fn a_seed_repeats_a_run() {
    let faults = MailFaults {
        drop: 0.1,
        duplicate: 0.2,
        duplicate_after: Delay::Even(Duration::from_millis(50)),
        delay: Delay::Exponential { mean: Duration::from_millis(5), max: Duration::from_secs(1) },
        reorder: 0.2,
        reorder_window: 20,
        ..MailFaults::default()
    };
    let mut runs = Vec::new();
    for seed in [8, 8, 9] {
        let bus = faulty(seed);
        bus.set(faults);
        runs.push((run(&bus, &unit(), LETTERS).await, bus.injected()));
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}
