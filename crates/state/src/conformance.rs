//! The promises of a store as numbered checks, run for every backend. A check answers why it failed; nothing panics,
//! so that `doctor` could run it as well as tests.

use std::{future::Future, sync::Arc};

use clawstead_terms::{AgentId, Fence, Unit};
use futures_util::future::join_all;

use crate::{Batch, KEY_BYTES_MAX, Op, Scan, Store, Table, TxError};

type Checked = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

macro_rules! same {
    ($left:expr, $right:expr) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            return Err(format!("{}: {left:?} instead of {right:?}", stringify!($left)));
        }
    }};
}

/// Runs every check, each on a fresh empty store from `make`, and closes it. Answers how many there are.
///
/// # Errors
/// `"<number> <name>: <what went wrong>"` of the first promise that is not kept.
pub async fn run<F, Fut>(make: F) -> Result<usize, String>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    let mut number = 0;
    macro_rules! checks {
        ($($check:ident),+ $(,)?) => {$(
            number += 1;
            let store = make().await;
            let outcome = $check(&*store).await;
            store.close().await;
            outcome.map_err(|why| format!("{number} {}: {why}", stringify!($check).replace('_', " ")))?;
        )+};
    }
    checks!(
        rows_are_written_and_counted,
        a_batch_happens_whole_or_not_at_all,
        one_refused_batch_harms_no_other,
        inserts_and_expectations_are_kept,
        journals_have_no_holes_and_no_doubles,
        only_the_claimed_fence_writes,
        a_claim_waits_for_running_writes,
        calls_are_applied_in_their_order,
        a_dropped_future_takes_nothing_back,
        of_two_that_append_one_wins,
        many_append_at_once,
        an_answered_write_is_seen,
        scans_follow_byte_order,
        large_values_come_back,
        what_breaks_a_rule_is_refused,
        units_and_tables_are_apart,
        a_closed_store_says_so,
    );
    Ok(number)
}

fn agent(name: &str) -> Unit {
    Unit::Agent(AgentId::normalise(name))
}

fn fence(epoch: u64) -> Fence {
    Fence { epoch, owner: "gateway-a".into(), incarnation: 3 }
}

fn text(err: TxError) -> String {
    err.to_string()
}

async fn claimed(store: &dyn Store, unit: &Unit) -> Result<Fence, String> {
    store.claim(unit, &fence(1)).await.map_err(text)?;
    Ok(fence(1))
}

fn put(unit: &Unit, key: &str, value: &str) -> Batch {
    Batch::new(unit.clone()).op(Op::Put(Table::Meta, key.into(), value.into()))
}

fn line(unit: &Unit, journal: &str, seq: u64) -> Batch {
    Batch::new(unit.clone()).op(Op::Append { journal: journal.into(), seq, event: format!("{{\"n\":{seq}}}") })
}

async fn version(store: &dyn Store, unit: &Unit, key: &str) -> Result<Option<u64>, String> {
    Ok(store.get(unit, Table::Meta, key).await.map_err(text)?.map(|row| row.version))
}

async fn rows_are_written_and_counted(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    same!(version(store, &unit, "k").await?, None);
    let before = store.counters();
    for value in ["1", "2", "3"] {
        store.commit(&fence, put(&unit, "k", value)).await.map_err(text)?;
    }
    let row = store.get(&unit, Table::Meta, "k").await.map_err(text)?;
    same!(row.map(|row| (row.key, row.value, row.version)), Some(("k".to_owned(), "3".to_owned(), 3)));
    let after = store.counters();
    same!(after.batches - before.batches, 3);
    ensure!(after.syncs > before.syncs, "no sync was counted");
    store.commit(&fence, Batch::new(unit.clone()).delete(Table::Meta, "k")).await.map_err(text)?;
    same!(version(store, &unit, "k").await?, None);
    store.commit(&fence, put(&unit, "k", "4")).await.map_err(text)?;
    same!(version(store, &unit, "k").await?, Some(1));
    store.commit(&fence, Batch::new(unit.clone())).await.map_err(text)?;
    ensure!(!store.describe().is_empty(), "it has no name");
    Ok(())
}

async fn a_batch_happens_whole_or_not_at_all(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    store.commit(&fence, put(&unit, "old", "1")).await.map_err(text)?;
    store.commit(&fence, line(&unit, "j", 1)).await.map_err(text)?;
    store.commit(&fence, line(&unit, "gone", 1)).await.map_err(text)?;
    let half = Batch::new(unit.clone())
        .op(Op::Put(Table::Meta, "old".into(), "2".into()))
        .op(Op::Put(Table::Meta, "new".into(), "1".into()))
        .op(Op::Append { journal: "j".into(), seq: 2, event: "{}".into() })
        .op(Op::Append { journal: "k".into(), seq: 1, event: "{}".into() })
        .drop_journal("gone")
        .delete(Table::Meta, "old")
        .expect(Table::Meta, "never", Some(1));
    let refused = store.commit(&fence, half).await;
    ensure!(matches!(refused, Err(TxError::Changed { table: "meta", .. })), "{refused:?}");
    let rows = store.scan(&unit, Table::Meta, &Scan::prefix("")).await.map_err(text)?;
    same!(rows.iter().map(|row| (&*row.key, &*row.value, row.version)).collect::<Vec<_>>(), [("old", "1", 1)]);
    same!(store.journal_end(&unit, "j").await.map_err(text)?, 1);
    same!(store.journals(&unit, None, 10).await.map_err(text)?, ["gone", "j"]);
    Ok(())
}

async fn one_refused_batch_harms_no_other(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    let other = agent("not-ours");
    let waiting: Vec<_> = (0..30)
        .map(|at| match at % 3 {
            0 => store.commit(&fence, put(&unit, &format!("row {at}"), "1")),
            1 => store.commit(&fence, put(&unit, &format!("row {at}"), "1").expect(Table::Meta, "never", Some(7))),
            _ => store.commit(&fence, put(&other, &format!("row {at}"), "1")),
        })
        .collect();
    for (at, outcome) in join_all(waiting).await.into_iter().enumerate() {
        let fits = match at % 3 {
            0 => outcome.is_ok(),
            1 => matches!(outcome, Err(TxError::Changed { .. })),
            _ => matches!(outcome, Err(TxError::Fenced { held: 0, .. })),
        };
        ensure!(fits, "batch {at} was answered {outcome:?}");
    }
    same!(store.scan(&unit, Table::Meta, &Scan::prefix("")).await.map_err(text)?.len(), 10);
    same!(store.scan(&other, Table::Meta, &Scan::prefix("")).await.map_err(text)?.len(), 0);
    Ok(())
}

async fn inserts_and_expectations_are_kept(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    let insert = || Batch::new(unit.clone()).op(Op::Insert(Table::Runs, "r".into(), "1".into()));
    store.commit(&fence, insert()).await.map_err(text)?;
    same!(store.commit(&fence, insert()).await, Err(TxError::Exists { table: "runs", key: "r".into() }));
    let expect = |version| Batch::new(unit.clone()).expect(Table::Runs, "r", version).op(Op::Put(Table::Runs, "r".into(), "2".into()));
    for wrong in [None, Some(2), Some(0)] {
        same!(store.commit(&fence, expect(wrong)).await, Err(TxError::Changed { table: "runs", key: "r".into() }));
    }
    store.commit(&fence, expect(Some(1))).await.map_err(text)?;
    // Within a batch, later changes see earlier ones.
    let chain = Batch::new(unit.clone())
        .expect(Table::Runs, "r", Some(2))
        .delete(Table::Runs, "r")
        .expect(Table::Runs, "r", None)
        .op(Op::Insert(Table::Runs, "r".into(), "3".into()))
        .op(Op::Put(Table::Runs, "r".into(), "4".into()))
        .expect(Table::Runs, "r", Some(2));
    store.commit(&fence, chain).await.map_err(text)?;
    let twice = Batch::new(unit.clone()).op(Op::Insert(Table::Runs, "t".into(), "1".into())).op(Op::Insert(Table::Runs, "t".into(), "1".into()));
    same!(store.commit(&fence, twice).await, Err(TxError::Exists { table: "runs", key: "t".into() }));
    same!(store.get(&unit, Table::Runs, "t").await.map_err(text)?, None);
    Ok(())
}

async fn journals_have_no_holes_and_no_doubles(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    same!(store.journal_end(&unit, "j").await.map_err(text)?, 0);
    same!(store.commit(&fence, line(&unit, "j", 2)).await, Err(TxError::Gap { journal: "j".into(), have: 0, seq: 2 }));
    same!(store.commit(&fence, line(&unit, "j", 0)).await, Err(TxError::Gap { journal: "j".into(), have: 0, seq: 0 }));
    for seq in 1..=5 {
        store.commit(&fence, line(&unit, "j", seq)).await.map_err(text)?;
    }
    let three = (6..=8).fold(Batch::new(unit.clone()), |batch, seq| batch.op(Op::Append { journal: "j".into(), seq, event: format!("{{\"n\":{seq}}}") }));
    store.commit(&fence, three).await.map_err(text)?;
    same!(store.commit(&fence, line(&unit, "j", 3)).await, Err(TxError::Exists { table: "journal", key: "j/3".into() }));
    same!(store.commit(&fence, line(&unit, "j", 10)).await, Err(TxError::Gap { journal: "j".into(), have: 8, seq: 10 }));
    let lines = store.read_journal(&unit, "j", 3, 2).await.map_err(text)?;
    same!(lines, [(3, "{\"n\":3}".to_owned()), (4, "{\"n\":4}".to_owned())]);
    same!(store.read_journal(&unit, "j", 0, 100).await.map_err(text)?.len(), 8);
    same!(store.read_journal(&unit, "j", 9, 100).await.map_err(text)?.len(), 0);
    store.commit(&fence, line(&unit, "k", 1)).await.map_err(text)?;
    same!(store.journals(&unit, None, 10).await.map_err(text)?, ["j", "k"]);
    same!(store.journals(&unit, Some("j"), 10).await.map_err(text)?, ["k"]);
    same!(store.journals(&unit, None, 1).await.map_err(text)?, ["j"]);
    let again = Batch::new(unit.clone()).drop_journal("j").drop_journal("never").op(Op::Append { journal: "j".into(), seq: 1, event: "{}".into() });
    store.commit(&fence, again).await.map_err(text)?;
    same!(store.journal_end(&unit, "j").await.map_err(text)?, 1);
    Ok(())
}

async fn only_the_claimed_fence_writes(store: &dyn Store) -> Checked {
    let unit = agent("a");
    same!(store.fence(&unit).await.map_err(text)?, None);
    let refused = store.commit(&fence(1), put(&unit, "k", "1")).await;
    ensure!(matches!(refused, Err(TxError::Fenced { held: 0, ours: 1, .. })), "{refused:?}");
    store.claim(&unit, &fence(5)).await.map_err(text)?;
    store.claim(&unit, &fence(5)).await.map_err(text)?;
    same!(store.fence(&unit).await.map_err(text)?, Some(fence(5)));
    let strangers = [fence(4), fence(6), Fence { owner: "gateway-b".into(), ..fence(5) }, Fence { incarnation: 4, ..fence(5) }];
    for other in strangers {
        let refused = store.commit(&other, put(&unit, "k", "1")).await;
        let fits = matches!(&refused, Err(TxError::Fenced { held: 5, ours, owner, .. }) if *ours == other.epoch && owner == "gateway-a");
        ensure!(fits, "{other:?} was answered {refused:?}");
        if other.epoch <= 5 {
            let refused = store.claim(&unit, &other).await;
            ensure!(matches!(refused, Err(TxError::Fenced { held: 5, .. })), "the claim of {other:?} was answered {refused:?}");
        }
    }
    store.commit(&fence(5), put(&unit, "k", "1")).await.map_err(text)?;
    let next = Fence { epoch: 6, owner: "gateway-b".into(), incarnation: 1 };
    store.claim(&unit, &next).await.map_err(text)?;
    ensure!(matches!(store.commit(&fence(5), put(&unit, "k", "2")).await, Err(TxError::Fenced { .. })), "the old owner still writes");
    store.commit(&next, put(&unit, "k", "3")).await.map_err(text)?;
    same!(version(store, &unit, "k").await?, Some(2));
    store.claim(&Unit::Global, &fence(1)).await.map_err(text)?;
    same!(store.units().await.map_err(text)?, [unit, Unit::Global]);
    Ok(())
}

async fn a_claim_waits_for_running_writes(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let old = claimed(store, &unit).await?;
    let running: Vec<_> = (1..=100).map(|seq| store.commit(&old, line(&unit, "j", seq))).collect();
    let next = Fence { epoch: 2, owner: "gateway-b".into(), incarnation: 1 };
    let ((outcomes, late), end) = tokio::join!(
        async {
            let outcomes = join_all(running).await;
            let late = store.commit(&old, line(&unit, "j", 101)).await;
            (outcomes, late)
        },
        async {
            store.claim(&unit, &next).await?;
            store.journal_end(&unit, "j").await
        },
    );
    let end = end.map_err(text)?;
    let written = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    same!(written, end);
    ensure!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(TxError::Fenced { .. }))), "{outcomes:?}");
    // The last one may have been handed over before the claim was; then it is counted above or refused, never later.
    ensure!(late.is_err() || end == 101, "the old owner wrote line 101 after the claim");
    same!(store.journal_end(&unit, "j").await.map_err(text)?, end);
    store.commit(&next, line(&unit, "j", end + 1)).await.map_err(text)
}

async fn calls_are_applied_in_their_order(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    let mut waiting: Vec<_> = (1..=300).map(|seq| store.commit(&fence, line(&unit, "j", seq))).collect();
    waiting.reverse();
    for outcome in join_all(waiting).await {
        outcome.map_err(text)?;
    }
    let lines = store.read_journal(&unit, "j", 1, 1_000).await.map_err(text)?;
    same!(lines.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=300).collect::<Vec<u64>>());
    Ok(())
}

async fn a_dropped_future_takes_nothing_back(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    drop(store.commit(&fence, line(&unit, "j", 1)));
    store.commit(&fence, line(&unit, "j", 2)).await.map_err(text)
}

async fn of_two_that_append_one_wins(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    for seq in 1..=20 {
        let (one, two) = tokio::join!(store.commit(&fence, line(&unit, "j", seq)), store.commit(&fence, line(&unit, "j", seq)));
        let refused = TxError::Exists { table: "journal", key: format!("j/{seq}") };
        ensure!((one == Ok(()) && two == Err(refused.clone())) || (two == Ok(()) && one == Err(refused)), "line {seq} was written twice or never");
    }
    Ok(())
}

async fn many_append_at_once(store: &dyn Store) -> Checked {
    const LINES: u64 = 25;
    let units: Vec<Unit> = (0..4).map(|at| agent(&format!("agent-{at}"))).collect();
    for unit in &units {
        claimed(store, unit).await?;
    }
    let writers = (0..16).map(|at| {
        let unit = &units[at % 4];
        let journal = format!("journal {at}");
        async move {
            for seq in 1..=LINES {
                let both = line(unit, &journal, seq).op(Op::Put(Table::Sessions, journal.clone(), seq.to_string()));
                store.commit(&fence(1), both).await.map_err(text)?;
            }
            same!(store.journal_end(unit, &journal).await.map_err(text)?, LINES);
            same!(store.get(unit, Table::Sessions, &journal).await.map_err(text)?.map(|row| (row.value, row.version)), Some((LINES.to_string(), LINES)));
            Ok(())
        }
    });
    join_all(writers).await.into_iter().collect()
}

async fn an_answered_write_is_seen(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    for at in 1..=100_u64 {
        store.commit(&fence, put(&unit, "k", &at.to_string())).await.map_err(text)?;
        // More readers than a backend has connections.
        for seen in join_all((0..5).map(|_| store.get(&unit, Table::Meta, "k"))).await {
            same!(seen.map_err(text)?.map(|row| row.version), Some(at));
        }
    }
    Ok(())
}

async fn scans_follow_byte_order(store: &dyn Store) -> Checked {
    const KEYS: [&str; 18] = ["", "%", "%a", "A", "B", "_", "_a", "a", "a%", "a%b", "a/1", "a/10", "a/2", "ab", "a\u{d7ff}", "a\u{e000}", "ä", "🦀"];
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    for key in KEYS.iter().rev() {
        store.commit(&fence, put(&unit, key, "1").op(Op::Put(Table::Inbox, format!("{key}x"), "1".into()))).await.map_err(text)?;
    }
    let mut sorted = KEYS.to_vec();
    sorted.sort_unstable();
    for prefix in ["", "a", "a/", "a%", "%", "_", "a\u{d7ff}", "ä", "🦀", "nothing", "\u{10ffff}"] {
        for after in [None, Some(""), Some("A"), Some("a"), Some("a/1"), Some("a/15"), Some("zz"), Some("🦀")] {
            for limit in [0, 1, 3, 100] {
                for newest_first in [false, true] {
                    let scan = Scan { prefix: prefix.into(), after: after.map(Into::into), limit, newest_first };
                    let mut expected: Vec<&str> = sorted.iter().copied().filter(|key| key.starts_with(prefix)).collect();
                    if newest_first {
                        expected.reverse();
                    }
                    expected.retain(|key| after.is_none_or(|after| if newest_first { *key < after } else { *key > after }));
                    expected.truncate(limit);
                    let rows = store.scan(&unit, Table::Meta, &scan).await.map_err(text)?;
                    let found: Vec<&str> = rows.iter().map(|row| &*row.key).collect();
                    ensure!(found == expected, "{scan:?} found {found:?} instead of {expected:?}");
                }
            }
        }
    }
    Ok(())
}

async fn large_values_come_back(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    let large: String = (0..200_000).map(|at| format!("\"{at:>8}\",")).collect::<String>() + "\u{1f980}\u{1}\\u0000";
    ensure!(large.len() > 2 * 1024 * 1024, "the value is not large");
    let both = put(&unit, "k", &large).op(Op::Append { journal: "j".into(), seq: 1, event: large.clone() });
    store.commit(&fence, both).await.map_err(text)?;
    ensure!(store.get(&unit, Table::Meta, "k").await.map_err(text)?.is_some_and(|row| row.value == large), "the row differs");
    ensure!(store.read_journal(&unit, "j", 1, 1).await.map_err(text)? == [(1, large)], "the line differs");
    Ok(())
}

async fn what_breaks_a_rule_is_refused(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    let longest = "ä".repeat(KEY_BYTES_MAX / 2);
    store.commit(&fence, put(&unit, &longest, "1")).await.map_err(text)?;
    same!(version(store, &unit, &longest).await?, Some(1));
    let nul = Batch::new(unit.clone()).op(Op::Append { journal: "j\0".into(), seq: 1, event: "{}".into() });
    for wrong in [put(&unit, &format!("{longest}x"), "1"), put(&unit, "a\0b", "1"), put(&unit, "k", "a\0b"), nul] {
        let refused = store.commit(&fence, wrong).await;
        ensure!(matches!(refused, Err(TxError::Invalid { .. })), "{refused:?}");
    }
    same!(store.scan(&unit, Table::Meta, &Scan::prefix("")).await.map_err(text)?.len(), 1);
    Ok(())
}

async fn units_and_tables_are_apart(store: &dyn Store) -> Checked {
    let units = [agent("a"), agent("ab"), Unit::Account("slack".into(), "a.b".into()), Unit::Global];
    for unit in &units {
        let fence = claimed(store, unit).await?;
        for table in Table::ALL {
            let value = format!("{unit} {}", table.name());
            store.commit(&fence, Batch::new(unit.clone()).op(Op::Insert(table, "k".into(), value))).await.map_err(text)?;
        }
        store.commit(&fence, line(unit, "j", 1)).await.map_err(text)?;
    }
    store.commit(&fence(1), Batch::new(agent("a")).drop_journal("j")).await.map_err(text)?;
    for unit in &units {
        for table in Table::ALL {
            let rows = store.scan(unit, table, &Scan::prefix("")).await.map_err(text)?;
            same!(rows.into_iter().map(|row| row.value).collect::<Vec<_>>(), [format!("{unit} {}", table.name())]);
        }
        same!(store.journal_end(unit, "j").await.map_err(text)?, u64::from(*unit != agent("a")));
    }
    let mut expected = units.to_vec();
    expected.sort_by_key(ToString::to_string);
    same!(store.units().await.map_err(text)?, expected);
    Ok(())
}

async fn a_closed_store_says_so(store: &dyn Store) -> Checked {
    let unit = agent("a");
    let fence = claimed(store, &unit).await?;
    let handed_over = store.commit(&fence, put(&unit, "k", "1"));
    let (written, ()) = tokio::join!(handed_over, store.close());
    ensure!(written.is_ok(), "what was handed over before closing was answered {written:?}");
    let late = store.commit(&fence, put(&unit, "k", "2")).await;
    ensure!(matches!(late, Err(TxError::Away { maybe: false, .. })), "{late:?}");
    let read = store.get(&unit, Table::Meta, "k").await;
    ensure!(matches!(read, Err(TxError::Away { .. })), "{read:?}");
    store.close().await;
    Ok(())
}
