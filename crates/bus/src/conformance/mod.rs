//! The promises of [`Coord`] and [`Bus`] as numbered checks, run for every engine. A check answers why it failed;
//! nothing panics, so that a doctor could run it as well as tests.
//!
//! A test writes a [`Rig`] for its engine and calls [`coord`] and [`bus`]. One running engine serves all checks: each
//! works below a prefix, or with boxes, of its own; `salt` keeps runs apart.

mod bus_basics;
mod bus_faults;
mod coord_basics;
mod coord_faults;
mod coord_watch;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::time::{Instant, timeout};

use crate::{Bus, BusError, Change, Coord, Delivery, MailBox, Published, Sealed};

/// A request to an engine that is away ends within this time: the request timeout and a little.
pub const AWAY_WITHIN: Duration = Duration::from_millis(2500);
/// Something that needs no fault to be over happens within this time on a busy machine.
const SOON: Duration = Duration::from_secs(15);
/// An engine that was started again serves within this time.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at something that comes by itself.
const LOOK: Duration = Duration::from_millis(20);
/// What has not come after this time is taken not to come.
const QUIET: Duration = Duration::from_millis(400);

/// How the suites reach and command one engine. Clients made by it are independent, as those of several gateways.
#[async_trait]
pub trait Rig: Send + Sync {
    /// A new client of the keys. An engine without keys answers why; its suite is not called then.
    async fn coord(&self) -> Result<Arc<dyn Coord>, String>;

    /// A new client of the mail.
    async fn bus(&self) -> Result<Arc<dyn Bus>, String>;

    /// Takes the engine away from all clients, as a crash or a cut does. What it holds stays if it is durable.
    async fn stop(&self) -> Result<(), String>;

    /// Brings it back at the same address. May answer before it serves.
    async fn start(&self) -> Result<(), String>;

    /// A letter that was dropped unsettled, or whose consumer is gone, comes again within this time.
    fn again_within(&self) -> Duration {
        Duration::from_secs(15)
    }
}

type Checked = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

macro_rules! same {
    ($left:expr, $right:expr) => {
        // A match keeps what both sides borrow from alive.
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err(format!("{}: {left:?} instead of {right:?}", stringify!($left)));
                }
            }
        }
    };
}

use {ensure, same};

macro_rules! checks {
    ($rig:expr, $salt:expr, $($module:ident :: $check:ident),+ $(,)?) => {{
        let mut number = 0;
        $(
            number += 1;
            let place = format!("conformance/{}/{}", $salt, stringify!($check));
            let began = Instant::now();
            $module::$check($rig, &place).await.map_err(|why| format!("{number} {}: {why}", stringify!($check).replace('_', " ")))?;
            tracing::debug!(check = stringify!($check), ms = began.elapsed().as_millis(), "kept");
        )+
        Ok(number)
    }};
}

/// Runs every check of the keys. Answers how many there are. The engine is stopped and started once, at the end.
///
/// # Errors
/// `"<number> <name>: <what went wrong>"` of the first promise that is not kept.
pub async fn coord(rig: &dyn Rig, salt: &str) -> Result<usize, String> {
    checks!(
        rig,
        salt,
        coord_basics::keys_are_written_read_and_removed,
        coord_basics::a_write_needs_the_version_it_names,
        coord_basics::one_of_many_writers_wins,
        coord_basics::of_equal_writers_one_wins,
        coord_basics::no_increment_is_lost,
        coord_basics::what_one_wrote_all_see,
        coord_basics::a_transaction_happens_whole_or_not_at_all,
        coord_basics::of_many_transactions_one_wins,
        coord_basics::lists_follow_byte_order,
        coord_basics::values_up_to_the_limit_come_back,
        coord_basics::what_breaks_a_rule_is_refused,
        coord_watch::a_watch_begins_with_everything,
        coord_watch::a_watch_never_misses_the_last_value,
        coord_watch::a_watch_sees_removals,
        coord_watch::watches_keep_to_their_prefix,
        coord_faults::an_engine_that_is_away_is_said_to_be,
    )
}

/// Runs every check of the mail. Answers how many there are. The engine is stopped and started once, at the end.
///
/// # Errors
/// `"<number> <name>: <what went wrong>"` of the first promise that is not kept.
pub async fn bus(rig: &dyn Rig, salt: &str) -> Result<usize, String> {
    checks!(
        rig,
        salt,
        bus_basics::letters_arrive_and_settled_ones_stay_away,
        bus_basics::letters_wait_for_a_reader,
        bus_basics::an_unsettled_letter_comes_again,
        bus_basics::the_next_consumer_gets_what_was_not_settled,
        bus_basics::repeats_are_dropped_where_promised,
        bus_basics::the_depth_is_known,
        bus_basics::boxes_do_not_mix,
        bus_basics::letters_up_to_the_limit_arrive,
        bus_basics::blobs_come_back_whole_and_go,
        bus_faults::a_burst_arrives_whole,
        bus_faults::an_engine_that_is_away_is_said_to_be,
    )
}

/// Runs the checks of the mail that need no box kept for a later reader and no engine between the two ends, for mail
/// that goes from one gateway to the other directly. Answers how many there are. Nothing is stopped.
///
/// # Errors
/// As [`bus`].
pub async fn bus_to_a_reader(rig: &dyn Rig, salt: &str) -> Result<usize, String> {
    checks!(
        rig,
        salt,
        bus_basics::letters_arrive_and_settled_ones_stay_away,
        bus_basics::an_unsettled_letter_comes_again,
        bus_basics::the_next_consumer_gets_what_was_not_settled,
        bus_basics::repeats_are_dropped_where_promised,
        bus_basics::boxes_do_not_mix,
        bus_basics::letters_up_to_the_limit_arrive,
        bus_faults::a_burst_arrives_whole,
    )
}

/// Looks again and again until `look` has something to show.
async fn until<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn text(err: impl std::fmt::Display) -> String {
    err.to_string()
}

/// The next thing a watch tells.
async fn told(watch: &mut BoxStream<'static, Change>, within: Duration) -> Result<Change, String> {
    match timeout(within, watch.next()).await {
        Ok(Some(change)) => Ok(change),
        Ok(None) => Err("a watch ended".into()),
        Err(_) => Err(format!("a watch told nothing within {within:?}")),
    }
}

fn unit(place: &str, name: &str) -> MailBox {
    // Units have no slashes and need not be long.
    MailBox::Unit(format!("{}.{name}", place.replace('/', "-")))
}

fn letter(id: &str, attempt: u32, body: &[u8]) -> Sealed {
    Sealed { message_id: id.to_owned(), attempt, bytes: body.to_vec().into() }
}

/// Hands a letter over, waiting as the engine asks.
async fn send(bus: &dyn Bus, to: &MailBox, letter: &Sealed) -> Result<Published, String> {
    let end = Instant::now() + BACK_WITHIN;
    loop {
        match bus.publish(to, letter).await.map_err(text)? {
            Published::Busy(pause) if Instant::now() < end => tokio::time::sleep(pause).await,
            Published::Busy(pause) => return Err(format!("still busy after {BACK_WITHIN:?}, says to wait {pause:?}")),
            done => return Ok(done),
        }
    }
}

/// The next letter.
async fn next(mail: &mut BoxStream<'static, Result<Delivery, BusError>>, within: Duration) -> Result<Delivery, String> {
    match timeout(within, mail.next()).await {
        Ok(Some(delivery)) => delivery.map_err(text),
        Ok(None) => Err("a subscription ended".into()),
        Err(_) => Err(format!("no letter within {within:?}")),
    }
}

/// Settles everything that comes until nothing has come for a while. Answers what it was.
async fn drain(mail: &mut BoxStream<'static, Result<Delivery, BusError>>) -> Result<Vec<Vec<u8>>, String> {
    let mut seen = Vec::new();
    while let Ok(item) = timeout(QUIET, mail.next()).await {
        let delivery = item.ok_or("a subscription ended")?.map_err(text)?;
        seen.push(delivery.raw.to_vec());
        delivery.settle.done().await.map_err(text)?;
    }
    Ok(seen)
}
