//! Reading, writing, transactions, limits.

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use super::{Checked, Rig, ensure, same, text};
use crate::{
    CasError, Check, Coord, CoordError, Op, Version,
    coord::{KEY_MAX, TXN_OPS_MAX, VALUE_MAX},
};

fn bytes(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

fn conflict<T: std::fmt::Debug>(outcome: Result<T, CasError>, key: &str) -> Checked {
    match outcome {
        Err(CasError::Conflict { key: told }) if told == key => Ok(()),
        other => Err(format!("{other:?} instead of a conflict over {key}")),
    }
}

fn invalid<T: std::fmt::Debug>(outcome: Result<T, CoordError>, what: &str) -> Checked {
    match outcome {
        Err(CoordError::Invalid(_)) => Ok(()),
        other => Err(format!("{what}: {other:?} instead of a refusal")),
    }
}

fn invalid_cas<T: std::fmt::Debug>(outcome: Result<T, CasError>, what: &str) -> Checked {
    match outcome {
        Err(CasError::Coord(CoordError::Invalid(_))) => Ok(()),
        other => Err(format!("{what}: {other:?} instead of a refusal")),
    }
}

async fn value(coord: &dyn Coord, key: &str) -> Result<Option<String>, String> {
    Ok(coord.get(key).await.map_err(text)?.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

async fn version(coord: &dyn Coord, key: &str) -> Result<Version, String> {
    coord.get(key).await.map_err(text)?.map(|entry| entry.version).ok_or_else(|| format!("{key} is not there"))
}

pub(super) async fn keys_are_written_read_and_removed(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let (key, other) = (format!("{place}/key"), format!("{place}/other"));
    same!(coord.get(&key).await.map_err(text)?, None);
    let first = coord.put_if(&key, bytes("1"), None).await.map_err(text)?;
    let read = coord.get(&key).await.map_err(text)?.ok_or("the key is not there")?;
    same!((read.key, read.value, read.version), (key.clone(), bytes("1"), first));
    coord.put(&other, bytes("x")).await.map_err(text)?;
    same!(version(&*coord, &key).await?, first);
    let second = coord.put(&key, bytes("2")).await.map_err(text)?;
    let third = coord.put_if(&key, bytes("2"), Some(second)).await.map_err(text)?;
    ensure!(first < second && second < third, "the version did not grow: {first:?}, {second:?}, {third:?}");
    same!(version(&*coord, &key).await?, third);
    coord.delete(&key, None).await.map_err(text)?;
    same!(coord.get(&key).await.map_err(text)?, None);
    coord.delete(&key, None).await.map_err(|err| format!("removing what is not there: {err}"))?;
    coord.delete(&key, Some(third)).await.map_err(|err| format!("removing a version that is not there: {err}"))?;
    let anew = coord.put_if(&key, bytes("1"), None).await.map_err(text)?;
    ensure!(![first, second, third].contains(&anew), "the version {anew:?} came again");
    ensure!(!coord.engine().is_empty(), "it has no name");
    Ok(())
}

pub(super) async fn a_write_needs_the_version_it_names(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let key = format!("{place}/key");
    let first = coord.put_if(&key, bytes("1"), None).await.map_err(text)?;
    conflict(coord.put_if(&key, bytes("x"), None).await, &key)?;
    conflict(coord.put_if(&key, bytes("x"), Some(Version(first.0 + 1_000_000))).await, &key)?;
    let second = coord.put_if(&key, bytes("2"), Some(first)).await.map_err(text)?;
    conflict(coord.put_if(&key, bytes("x"), Some(first)).await, &key)?;
    conflict(coord.delete(&key, Some(first)).await, &key)?;
    same!(value(&*coord, &key).await?.as_deref(), Some("2"));
    coord.delete(&key, Some(second)).await.map_err(text)?;
    same!(value(&*coord, &key).await?, None);
    conflict(coord.put_if(&key, bytes("x"), Some(second)).await, &key)?;
    same!(value(&*coord, &key).await?, None);
    Ok(())
}

pub(super) async fn one_of_many_writers_wins(rig: &dyn Rig, place: &str) -> Checked {
    let clients = try_join_all((0..4).map(|_| rig.coord())).await?;
    let key = format!("{place}/key");
    let mut expect = None;
    for round in 0..5 {
        let writers = (0..32).map(|writer| clients[writer % 4].put_if(&key, bytes(&format!("{round}.{writer}")), expect));
        let outcomes = join_all(writers).await;
        let won: Vec<_> = outcomes.iter().enumerate().filter_map(|(writer, outcome)| Some((writer, *outcome.as_ref().ok()?))).collect();
        let [(winner, version)] = won[..] else { return Err(format!("{} of 32 writers won", won.len())) };
        for outcome in outcomes.into_iter().filter(Result::is_err) {
            conflict(outcome, &key)?;
        }
        let read = clients[round % 4].get(&key).await.map_err(text)?.ok_or("the key is not there")?;
        same!((read.value, read.version), (bytes(&format!("{round}.{winner}")), version));
        expect = Some(version);
    }
    Ok(())
}

pub(super) async fn of_equal_writers_one_wins(rig: &dyn Rig, place: &str) -> Checked {
    // Some engines take writing the same value for no write: then all of them would win.
    let clients = try_join_all((0..4).map(|_| rig.coord())).await?;
    let key = format!("{place}/key");
    let first = clients[0].put(&key, bytes("same")).await.map_err(text)?;
    let outcomes = join_all(clients.iter().map(|coord| coord.put_if(&key, bytes("same"), Some(first)))).await;
    same!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let second = version(&*clients[0], &key).await?;
    ensure!(second > first, "the version did not grow");
    let check = || [Check { key: key.clone(), expect: Some(second) }];
    let ops = [Op::Put { key: key.clone(), value: bytes("same") }];
    let outcomes = join_all(clients.iter().map(|coord| {
        let (checks, ops) = (check(), &ops);
        async move { coord.txn(&checks, ops).await }
    }));
    same!(outcomes.await.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    Ok(())
}

pub(super) async fn no_increment_is_lost(rig: &dyn Rig, place: &str) -> Checked {
    let clients = try_join_all((0..4).map(|_| rig.coord())).await?;
    let key = format!("{place}/counter");
    clients[0].put(&key, bytes("0")).await.map_err(text)?;
    let writers = (0..16).map(async |writer: usize| {
        let coord = &clients[writer % 4];
        loop {
            let entry = coord.get(&key).await.map_err(text)?.ok_or("the counter is gone")?;
            let count: u64 = String::from_utf8_lossy(&entry.value).parse().map_err(text)?;
            match coord.put_if(&key, bytes(&(count + 1).to_string()), Some(entry.version)).await {
                Ok(_) => return Ok(()),
                Err(CasError::Conflict { .. }) => {}
                Err(err) => return Err(err.to_string()),
            }
        }
    });
    try_join_all(writers).await?;
    same!(value(&*clients[0], &key).await?.as_deref(), Some("16"));
    Ok(())
}

pub(super) async fn what_one_wrote_all_see(rig: &dyn Rig, place: &str) -> Checked {
    let (writer, reader) = (rig.coord().await?, rig.coord().await?);
    let key = format!("{place}/key");
    for number in 0..30 {
        let version = writer.put(&key, bytes(&number.to_string())).await.map_err(text)?;
        let read = reader.get(&key).await.map_err(text)?.ok_or("the key is not there")?;
        same!((read.value, read.version), (bytes(&number.to_string()), version));
        let listed = reader.list(&format!("{place}/")).await.map_err(text)?;
        same!(listed.iter().map(|entry| entry.version).collect::<Vec<_>>(), [version]);
    }
    Ok(())
}

pub(super) async fn a_transaction_happens_whole_or_not_at_all(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let key = |name: &str| format!("{place}/{name}");
    let put = |name: &str, value: &str| Op::Put { key: key(name), value: bytes(value) };
    let delete = |name: &str| Op::Delete { key: key(name) };
    let check = |name: &str, expect| Check { key: key(name), expect };
    let a = coord.put(&key("a"), bytes("1")).await.map_err(text)?;
    let b = coord.put(&key("b"), bytes("1")).await.map_err(text)?;

    let ops = [put("a", "2"), delete("b"), put("c", "2"), delete("never")];
    conflict(coord.txn(&[check("a", Some(a)), check("b", None)], &ops).await, &key("b"))?;
    conflict(coord.txn(&[check("gone", Some(a)), check("a", Some(a))], &ops).await, &key("gone"))?;
    conflict(coord.txn(&[check("a", Some(b))], &ops).await, &key("a"))?;
    same!((value(&*coord, &key("a")).await?.as_deref(), value(&*coord, &key("b")).await?.as_deref()), (Some("1"), Some("1")));
    same!(value(&*coord, &key("c")).await?, None);

    coord.txn(&[check("a", Some(a)), check("b", Some(b)), check("c", None)], &ops).await.map_err(text)?;
    same!((value(&*coord, &key("a")).await?.as_deref(), value(&*coord, &key("b")).await?), (Some("2"), None));
    let c = version(&*coord, &key("c")).await?;

    // What a settled letter is: one key goes if it is still the one that was read, another comes.
    conflict(coord.txn(&[check("c", Some(a))], &[delete("c"), put("receipt", "1")]).await, &key("c"))?;
    coord.txn(&[check("c", Some(c))], &[delete("c"), put("receipt", "1")]).await.map_err(text)?;
    same!((value(&*coord, &key("c")).await?, value(&*coord, &key("receipt")).await?.as_deref()), (None, Some("1")));

    coord.txn(&[], &[put("free", "1")]).await.map_err(text)?;
    coord.txn(&[check("free", Some(version(&*coord, &key("free")).await?))], &[]).await.map_err(text)?;
    coord.txn(&[], &[]).await.map_err(text)?;
    Ok(())
}

pub(super) async fn of_many_transactions_one_wins(rig: &dyn Rig, place: &str) -> Checked {
    let clients = try_join_all((0..4).map(|_| rig.coord())).await?;
    // Each checks that a key is absent which none of them writes under that name twice: the classic gap.
    let keys: Vec<String> = (0..8).map(|n| format!("{place}/{n}")).collect();
    let claims = (0..8).map(|n: usize| {
        let checks: Vec<Check> = keys.iter().map(|key| Check { key: key.clone(), expect: None }).collect();
        let ops = [Op::Put { key: keys[n].clone(), value: bytes("mine") }];
        let coord = &clients[n % 4];
        async move { coord.txn(&checks, &ops).await }
    });
    let won = join_all(claims).await.into_iter().filter(Result::is_ok).count();
    same!(won, 1);
    same!(clients[0].list(&format!("{place}/")).await.map_err(text)?.len(), 1);
    Ok(())
}

pub(super) async fn lists_follow_byte_order(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let mut names =
        ["a/b", "a", "a.b", "a/b/c", "B", "b", "z z", "100%", "q?x=1&y", "#5", "übung", "a+b", "[x]"].map(|name| format!("{place}/in/{name}")).to_vec();
    for name in &names {
        coord.put(name, bytes(name)).await.map_err(text)?;
    }
    coord.put(&format!("{place}/inner"), bytes("out")).await.map_err(text)?;
    names.sort();
    let listed = coord.list(&format!("{place}/in/")).await.map_err(text)?;
    same!(listed.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), names);
    for entry in &listed {
        same!(entry.value, bytes(&entry.key));
        same!(coord.get(&entry.key).await.map_err(text)?.as_ref(), Some(entry));
    }
    same!(coord.list(&format!("{place}/in")).await.map_err(text)?.len(), names.len() + 1);
    same!(coord.list(&format!("{place}/none/")).await.map_err(text)?, []);
    Ok(())
}

pub(super) async fn values_up_to_the_limit_come_back(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let key = |name: &str| format!("{place}/{name}");
    let binary: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let largest: Bytes = (0..VALUE_MAX).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into();
    for (name, value) in [("empty", Bytes::new()), ("binary", binary), ("largest", largest.clone())] {
        coord.put(&key(name), value.clone()).await.map_err(text)?;
        let read = coord.get(&key(name)).await.map_err(text)?.ok_or("the key is not there")?;
        ensure!(read.value == value, "the value {name} came back with {} bytes instead of {}, or others", read.value.len(), value.len());
    }
    coord.txn(&[], &[Op::Put { key: key("whole"), value: largest.clone() }]).await.map_err(text)?;
    coord.put_if(&key("alone"), largest.clone(), None).await.map_err(text)?;
    let listed = coord.list(&format!("{place}/")).await.map_err(text)?;
    same!(listed.iter().filter(|entry| entry.value == largest).count(), 3);

    let larger: Bytes = vec![b'x'; VALUE_MAX + 1].into();
    invalid(coord.put(&key("no"), larger.clone()).await, "a value that is too large")?;
    invalid_cas(coord.put_if(&key("no"), larger.clone(), None).await, "a value that is too large")?;
    invalid_cas(coord.txn(&[], &[Op::Put { key: key("no"), value: larger }]).await, "a value that is too large")?;
    let two_thirds: Bytes = vec![b'x'; VALUE_MAX / 3 * 2].into();
    let both = ["no", "neither"].map(|name| Op::Put { key: key(name), value: two_thirds.clone() });
    invalid_cas(coord.txn(&[], &both).await, "values that are too large together")?;
    same!(coord.get(&key("no")).await.map_err(text)?, None);
    Ok(())
}

pub(super) async fn what_breaks_a_rule_is_refused(rig: &dyn Rig, place: &str) -> Checked {
    let coord = rig.coord().await?;
    let long = format!("{place}/{}", "x".repeat(KEY_MAX));
    let slash = format!("/{place}");
    for key in ["", "/", "/a", &slash, &long, "a\nb", "a\0b", "a//b", "./a", "a/..", "a/./b"] {
        invalid(coord.get(key).await, key)?;
        invalid(coord.put(key, bytes("1")).await, key)?;
        invalid_cas(coord.put_if(key, bytes("1"), None).await, key)?;
        invalid_cas(coord.delete(key, None).await, key)?;
        invalid_cas(coord.txn(&[Check { key: key.into(), expect: None }], &[]).await, key)?;
        invalid_cas(coord.txn(&[], &[Op::Delete { key: key.into() }]).await, key)?;
    }
    invalid(coord.list("/a").await, "a list below a slash")?;

    let put = |n: usize| Op::Put { key: format!("{place}/{n}"), value: bytes("1") };
    let check = |n: usize| Check { key: format!("{place}/{n}"), expect: None };
    let half = TXN_OPS_MAX / 2;
    let (checks, ops): (Vec<_>, Vec<_>) = ((0..half).map(check).collect(), (0..half).map(put).collect());
    invalid_cas(coord.txn(&checks, &(0..=half).map(put).collect::<Vec<_>>()).await, "too many operations")?;
    invalid_cas(coord.txn(&[], &[put(0), Op::Delete { key: format!("{place}/0") }]).await, "one key written twice")?;
    same!(coord.list(&format!("{place}/")).await.map_err(text)?.len(), 0);
    coord.txn(&checks, &ops).await.map_err(text)?;
    same!(coord.list(&format!("{place}/")).await.map_err(text)?.len(), half);
    Ok(())
}
