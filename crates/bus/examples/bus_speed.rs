//! How fast an engine carries mail: `cargo run -p clawstead-bus --example bus_speed -- <address> [letters] [bytes]`.
//!
//! The address decides the engine: `redis://..`, `nats://..` (a comma between the servers of a cluster; three and more
//! keep three copies), or `embedded`. Two clients, one box: the time from before `publish` to after `settle`, one
//! letter at a time; then letters per second with 64 in flight from `publish` to `settle`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clawstead_bus::{
    Bus, MailBox, Published, Sealed,
    memory::Memory,
    nats::{NatsBus, NatsConfig},
    redis::{RedisBus, RedisConfig},
};
use clawstead_world::{Rng as _, SystemClock, SystemRng};
use futures_util::{StreamExt as _, stream};
use tokio::sync::oneshot;

/// Letters between `publish` and `settle` at once.
const IN_FLIGHT: usize = 64;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn bus(address: &str, memory: &Memory) -> Result<Arc<dyn Bus>, Failure> {
    let servers: Vec<String> = address.split(',').map(str::to_owned).collect();
    let replicas = if servers.len() >= 3 { 3 } else { 1 };
    Ok(match address.split("://").next() {
        Some("redis" | "rediss") => Arc::new(RedisBus::new(RedisConfig::new("speed", servers), Arc::new(SystemClock))?),
        Some("nats" | "tls") => Arc::new(NatsBus::new(NatsConfig { replicas, ..NatsConfig::new("speed", servers) }, Arc::new(SystemClock))?),
        Some("embedded") => memory.bus("speed"),
        _ => return Err(format!("{address} is no address of an engine: redis://.., nats://.. or embedded").into()),
    })
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("which engine? redis://host:port, nats://host:port or embedded")?;
    let letters: u32 = arguments.next().map_or(Ok(2_000), |text| text.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(1_200), |text| text.parse())?;
    let memory = Memory::new();
    let (sender, receiver) = (bus(&address, &memory)?, bus(&address, &memory)?);
    let run = SystemRng.uuid();
    let to = MailBox::Unit(format!("speed-{run}"));

    // Every letter begins with its number; whoever waits for it is in the table.
    let waiting: Arc<Mutex<BTreeMap<u32, oneshot::Sender<()>>>> = Arc::default();
    let reader = tokio::spawn({
        let waiting = waiting.clone();
        let mail = receiver.subscribe(&to, "speed.1");
        mail.for_each_concurrent(IN_FLIGHT, move |item| {
            let waiting = waiting.clone();
            async move {
                match item {
                    Ok(delivery) => {
                        let number = delivery.raw.get(..4).and_then(|head| head.try_into().ok()).map(u32::from_be_bytes);
                        if let Err(error) = delivery.settle.done().await {
                            eprintln!("settling: {error}");
                        }
                        let known = number.and_then(|number| waiting.lock().ok()?.remove(&number));
                        if let Some(known) = known {
                            let _ = known.send(());
                        }
                    }
                    Err(error) => eprintln!("reading: {error}"),
                }
            }
        })
    });

    let round = async |number: u32| -> Result<Duration, Failure> {
        let (give, settled) = oneshot::channel();
        waiting.lock().map_err(|error| error.to_string())?.insert(number, give);
        let mut body = number.to_be_bytes().to_vec();
        body.resize(bytes.max(4), b'x');
        let letter = Sealed { message_id: format!("{run}-{number}"), attempt: 0, bytes: body.into() };
        let began = Instant::now();
        match sender.publish(&to, &letter).await? {
            Published::Accepted => {}
            other => return Err(format!("letter {number}: {other:?}").into()),
        }
        settled.await?;
        Ok(began.elapsed())
    };
    // The first letters make streams, groups and connections.
    for number in 0..20 {
        round(number).await?;
    }
    let alone = letters / 4;
    let mut times = Vec::new();
    for number in 20..20 + alone {
        times.push(round(number).await?);
    }
    report("one at a time", &mut times);
    let began = Instant::now();
    let from = 20 + alone;
    let rounds: Vec<Result<Duration, Failure>> = stream::iter(from..from + letters).map(round).buffer_unordered(IN_FLIGHT).collect().await;
    let took = began.elapsed();
    let mut times = rounds.into_iter().collect::<Result<Vec<_>, _>>()?;
    report("64 in flight", &mut times);
    println!("{:.0} letters/s of {bytes} bytes over {} ({letters} letters)", f64::from(letters) / took.as_secs_f64(), sender.engine());
    reader.abort();
    Ok(())
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default().as_secs_f64() * 1000.0;
    println!("{what}: publish to settled p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms", at(50), at(95), at(99));
}
