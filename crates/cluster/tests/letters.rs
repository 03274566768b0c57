//! Many seeds of the storm; `cargo run --release -p clawstead-cluster --example letters` runs 10,000.

mod storm;

#[test]
fn nothing_is_lost_or_handled_twice_in_500_storms() {
    let (mut acked, mut dead, mut crashes, mut replays) = (0, 0, 0, 0);
    for seed in 0..500 {
        let report = storm::run(seed).unwrap_or_else(|broken| panic!("{broken}"));
        acked += report.acked;
        dead += report.dead.values().sum::<usize>();
        crashes += report.crashes;
        replays += report.replays;
    }
    // The storms are worth their name: all of this happened.
    assert!(acked > 10_000 && dead > 100 && crashes > 1_000 && replays > 100, "{acked} acked, {dead} dead, {crashes} crashes, {replays} replays");
}

#[test]
fn one_seed_gives_one_history() {
    for seed in [3, 77, 123] {
        assert_eq!(storm::run(seed), storm::run(seed));
    }
}
