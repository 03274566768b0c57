//! One life of a gateway: a runtime with paused time that ends with everything that ran in it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::Notify;

use clawstead_state::{Image, MemoryStore};

use crate::{
    actors::{clients::Town, clock::WallClock, store::Death},
    house::{House, Site},
    outside::Outside,
    scenario::{LifePlan, Plan},
};

/// How long a healed gateway may take until nothing is left to do.
const REST_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// What a life leaves.
pub struct End {
    /// The disk.
    pub image: Image,
    /// True time.
    pub now_ms: i64,
}

/// Lives one life; none of `life` is the last, healed one.
pub fn live(
    plan: &Plan,
    outside: &Arc<Outside>,
    life: Option<LifePlan>,
    image: Image,
    began_ms: i64,
    done: &Arc<Mutex<BTreeSet<usize>>>,
    config: &Arc<Mutex<u64>>,
) -> End {
    // No I/O driver: nothing here may talk to the system.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() {
        Ok(runtime) => runtime,
        Err(err) => {
            outside.violation(format!("no runtime: {err}"));
            return End { image, now_ms: began_ms };
        }
    };
    let memory = MemoryStore::on(image).with_sync_time(Duration::from_millis(life.map_or(0, |life| life.sync_ms)));
    let now_ms = runtime.block_on(async {
        let clock = WallClock::of_life(began_ms, Arc::clone(&outside.skew_ms));
        let number = outside.begin_life(clock.clone());
        outside.tell("life", format!("{number} {life:?}"));
        let died = Arc::new(Notify::new());
        let variant = *config.lock().unwrap_or_else(PoisonError::into_inner);
        let site = Site {
            outside,
            plan,
            life: number,
            clock: &clock,
            memory: memory.clone(),
            name: "gateway-a",
            death: life.map_or(Death::Never, |life| life.death),
            died: Arc::clone(&died),
            read_ms: life.map_or(0, |life| life.read_ms),
            config: variant,
        };
        let body = async {
            let house = match House::raise(site).await {
                Ok(house) => Arc::new(house),
                Err(failure) => {
                    outside.tell("not-raised", failure.to_string());
                    if life.is_none() {
                        outside.violation(format!("drains: a healed gateway does not start: {failure}"));
                    }
                    return;
                }
            };
            outside.tell("raised", house.building.notices.join("; "));
            let town = Arc::new(Town {
                outside: Arc::clone(outside),
                plan: plan.clone(),
                life: number,
                clock: clock.clone(),
                house: RwLock::new(Arc::clone(&house)),
                zombie: Mutex::default(),
                died: Arc::clone(&died),
                done: Arc::clone(done),
                config: Arc::clone(config),
            });
            town.wake_up();
            match life {
                None => rest(&town).await,
                Some(life) => {
                    let restart = house.process.restart.clone();
                    let asked = tokio::select! { biased;
                        () = restart.cancelled() => true,
                        () = tokio::time::sleep(Duration::from_millis(life.length_ms)) => false,
                    };
                    if life.in_order || asked {
                        outside.tell("stop", "in order");
                        let current = Arc::clone(&town.house.read().unwrap_or_else(PoisonError::into_inner));
                        current.stop().await;
                    } else {
                        outside.tell("kill", "now");
                    }
                }
            }
        };
        tokio::select! { biased;
            () = died.notified() => {}
            () = body => {}
        }
        // Inside the runtime: outside of it time is not paused.
        outside.end_life()
    });
    if let Some(life) = life {
        memory.crash(life.crash);
    }
    // Everything that ran dies here, without another word to the store.
    drop(runtime);
    End { image: memory.image(), now_ms }
}

/// The healed gateway comes to rest.
async fn rest(town: &Arc<Town>) {
    let outside = &town.outside;
    let house = || Arc::clone(&town.house.read().unwrap_or_else(PoisonError::into_inner));
    // Everybody's business first, then a while in which the clock's instants come up.
    let all = town.plan.events.len();
    let until = tokio::time::Instant::now() + REST_LIMIT;
    loop {
        let over = town.done.lock().unwrap_or_else(PoisonError::into_inner).len();
        if over == all {
            break;
        }
        if tokio::time::Instant::now() > until {
            return outside.violation(format!("drains: {} of {all} events are not over", all - over));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(130)).await;
    if let Err(failure) = town.jobs_off().await {
        outside.violation(format!("drains: jobs cannot be switched off: {failure}"));
    }
    quiet(town, until).await;
    town.last_questions().await;
    quiet(town, until).await;
    outside.tell("rest", "nothing is left to do");
    house().stop().await;
}

async fn quiet(town: &Arc<Town>, until: tokio::time::Instant) {
    loop {
        let house = Arc::clone(&town.house.read().unwrap_or_else(PoisonError::into_inner));
        let left = match house.unfinished().await {
            Ok(None) => return,
            Ok(Some(left)) => left,
            Err(failure) => failure.to_string(),
        };
        if tokio::time::Instant::now() > until {
            return town.outside.violation(format!("drains: {left}"));
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}
