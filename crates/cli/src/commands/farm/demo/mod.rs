//! `farm demo`: a farm on this machine, in a folder of its own, that shows a letter's life and a gateway's death.
//!
//! Nothing is staged: the gateways are this program, the coordination store is a real one, and what bobby answers is a
//! word of this run that lies in a file of his workspace only. The model is the built-in demo model, which calls the
//! tools that a text names, so nothing leaves the machine.

mod stage;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::enroll::new_secret;
use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    format::{list, number, text},
    print,
};
use stage::{LOOK_EVERY, Stage, free_port, program};

/// Agents, each with a gateway of its own.
const AGENTS: [&str; 5] = ["jerry", "bobby", "billy", "macbook", "octant"];
/// All gateways know each other within this time.
const TOGETHER_WITHIN: Duration = Duration::from_secs(60);
/// The silence of a killed gateway is noticed within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);
/// A question is answered within this time, the wait for a gateway that comes back included.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);
/// Jerry waits so long for bobby, seconds.
const JERRY_WAITS_S: u64 = 90;

/// Show a farm on this machine: letters, the death of a gateway, its return.
#[derive(clap::Args)]
#[command(
    after_help = "Needs Consul: on PATH, named by CLAWSTEAD_CONSUL, or running somewhere (--coord-addr). NATS and Redis likewise, when\nletters go over them (CLAWSTEAD_NATS_SERVER, CLAWSTEAD_REDIS_SERVER, --bus-addr). No model, no account, no internet.\nEverything lies in one temporary folder and is removed at the end, with Ctrl-C too."
)]
pub struct Args {
    /// What carries letters
    #[arg(long, value_name = "ENGINE", default_value = "consul", value_parser = PossibleValuesParser::new(["consul", "peer", "nats", "redis"]))]
    bus: String,
    /// A Consul that runs already and holds no farm, for example `http://127.0.0.1:8500`
    #[arg(long, value_name = "ADDR")]
    coord_addr: Option<String>,
    /// A NATS or Redis that runs already
    #[arg(long, value_name = "ADDR")]
    bus_addr: Option<String>,
    /// Gateways, each with one agent
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=5))]
    gateways: u8,
    /// Leave it running, and say how to look around
    #[arg(long)]
    keep: bool,
    /// One line of JSON for each step
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let engines = Engines::find(args)?;
    cx.block_on(async {
        let (secret, words) = (hex::encode(new_secret()), hex::encode(new_secret()));
        let mut play = Play { stage: Stage::new(&secret)?, agents: AGENTS[..usize::from(args.gateways)].to_vec(), began: Instant::now(), args };
        play.act(&engines, &words[..8], &words[8..16]).await
    })?;
    Ok(0)
}

/// Where the programs are. Looked for before anything is started.
struct Engines {
    consul: Option<std::path::PathBuf>,
    bus: Option<std::path::PathBuf>,
}

impl Engines {
    fn find(args: &Args) -> Result<Self, Fail> {
        let find = |given: &Option<String>, variable: &str, name: &str, words: &str, flag: &str| {
            if given.is_some() {
                return Ok(None);
            }
            program(variable, name).map(Some).ok_or_else(|| {
                Fail::new(format!("The demo needs {words}, and there is no program \"{name}\" on PATH. Gateways are processes of their own; they meet there."))
                    .hint(format!("install {words}, set {variable}=<its program>, or name one that runs: {flag}"))
            })
        };
        let consul =
            find(&args.coord_addr, "CLAWSTEAD_CONSUL", "consul", "Consul (https://developer.hashicorp.com/consul/install)", "--coord-addr http://<host>:8500")?;
        let bus = match args.bus.as_str() {
            "nats" => find(&args.bus_addr, "CLAWSTEAD_NATS_SERVER", "nats-server", "NATS (https://nats.io/download)", "--bus-addr nats://<host>:4222")?,
            "redis" => find(&args.bus_addr, "CLAWSTEAD_REDIS_SERVER", "redis-server", "Redis (https://redis.io/downloads)", "--bus-addr redis://<host>:6379")?,
            _ => None,
        };
        Ok(Self { consul, bus })
    }
}

struct Play<'a> {
    stage: Stage,
    agents: Vec<&'static str>,
    began: Instant,
    args: &'a Args,
}

impl Play<'_> {
    /// A step: for people a line with the time since the start, for programs an object.
    fn say(&self, step: &str, words: &str, more: Value) {
        let at = self.began.elapsed();
        if self.args.json {
            let mut line = json!({"atMs": u64::try_from(at.as_millis()).unwrap_or(u64::MAX), "step": step, "text": words});
            if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
                line.extend(more);
            }
            print::json_line(&line);
        } else {
            print::line(&format!("{:7.2} s  {words}", at.as_secs_f64()));
        }
    }

    /// What a command printed, below the step.
    fn show(&self, said: &str) {
        if !self.args.json {
            said.lines().for_each(|line| print::line(&format!("           │ {line}")));
        }
    }

    async fn act(&mut self, engines: &Engines, first: &str, second: &str) -> Result<(), Fail> {
        let (coord, bus) = self.engines(engines).await?;
        self.found(&coord, bus.as_deref()).await?;
        for agent in self.agents.clone() {
            self.stage.gateway(agent).await?;
            self.say("gateway.ready", &format!("{agent}-gateway is ready"), json!({"gateway": format!("{agent}-gateway")}));
        }
        timeout(TOGETHER_WITHIN, self.healthy(None)).await.unwrap_or_else(|_| Err(Fail::new("The gateways do not find each other.")))?;
        self.say("together", "All gateways know each other: openclaw farm status", json!({"gateways": self.agents.len()}));
        self.show(&self.stage.run("jerry", &["farm", "status"]).await?);

        self.report(first)?;
        self.say("asked", "A question to jerry: \"ask bobby what the Nomad report says\". Only bobby's gateway has the report.", json!({}));
        let letter = self.question(first, None).await?;
        self.say("letter", &format!("The letter's life: openclaw farm letter {letter}"), json!({"letter": letter}));
        self.show(&self.stage.run("jerry", &["farm", "letter", &letter]).await?);

        self.stage.kill("bobby");
        self.say("killed", "kill -9 of bobby-gateway; the same question again, about a new report", json!({"gateway": "bobby-gateway"}));
        self.report(second)?;
        let letter = self.question(second, Some("bobby")).await?;
        self.say("letter", &format!("It waited, and was done once: openclaw farm letter {letter}"), json!({"letter": letter}));
        self.show(&self.stage.run("jerry", &["farm", "letter", &letter]).await?);
        self.end()
    }

    /// Starts what is to be started; answers the addresses of the coordination store and, where it has one, of the bus.
    async fn engines(&mut self, engines: &Engines) -> Result<(String, Option<String>), Fail> {
        let coord = match (&self.args.coord_addr, &engines.consul) {
            (Some(addr), _) => addr.clone(),
            (None, Some(program)) => {
                let (http, server, serf) = (free_port()?, free_port()?, free_port()?);
                let other = format!(
                    "ports {{ http = {http} server = {server} serf_lan = {serf} serf_wan = -1 dns = -1 grpc = -1 }} performance {{ raft_multiplier = 1 }} disable_update_check = true"
                );
                let args = ["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-hcl", &other].map(str::to_owned);
                self.stage.engine("consul", program, &args, http, Some("/v1/status/leader")).await?;
                format!("http://127.0.0.1:{http}")
            }
            (None, None) => return Err(Fail::new("No Consul was found.")),
        };
        self.say("coord", &format!("Consul answers at {coord}"), json!({"coord": coord}));
        let Some(program) = &engines.bus else { return Ok((coord, self.args.bus_addr.clone())) };
        let port = free_port()?;
        let (bus, number) = (self.args.bus.as_str(), port.to_string());
        let args: &[&str] = match bus {
            "nats" => &["-js", "-a", "127.0.0.1", "-p", &number, "-sd", "."],
            _ => &["--port", &number, "--bind", "127.0.0.1", "--appendonly", "yes"],
        };
        self.stage.engine(bus, program, &args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>(), port, None).await?;
        self.say("bus", &format!("{bus} listens at 127.0.0.1:{port}"), json!({"bus": bus}));
        Ok((coord, Some(format!("{bus}://127.0.0.1:{port}"))))
    }

    /// Makes the farm as its operator would: init on the first node; enrol and approve for each further one.
    async fn found(&mut self, coord: &str, bus: Option<&str>) -> Result<(), Fail> {
        let agents = self.agents.clone();
        let mut root = String::new();
        for agent in &agents {
            self.stage.furnish(agent)?;
            let (gateway, listen) = (format!("{agent}-gateway"), format!("127.0.0.1:{}", free_port()?));
            let verb = if root.is_empty() { "init" } else { "enroll" };
            let mut args = vec!["farm", verb, "--id", "demo", "--gateway", &gateway, "--coord", "consul", "--coord-addr", coord];
            args.extend(["--peer-listen", &listen, "--bus", &self.args.bus, "--yes", "--json"]);
            for other in agents.iter().filter(|other| *other != agent) {
                args.extend(["--agent", other]);
            }
            if let Some(addr) = bus {
                args.extend(["--bus-addr", addr]);
            }
            if !root.is_empty() {
                args.extend(["--root", &root]);
            }
            let made = self.stage.ask(agent, &args).await?;
            if root.is_empty() {
                root = text(&made["root"], "pin").to_owned();
                self.say("init", &format!("{gateway} made the farm \"demo\" (openclaw farm init)"), json!({"gateway": gateway}));
            } else {
                self.stage.ask("jerry", &["farm", "approve", &gateway, "--kid", text(&made, "kid"), "--json"]).await?;
                self.say("joined", &format!("{gateway} was let in (openclaw farm enroll, openclaw farm approve)"), json!({"gateway": gateway}));
            }
        }
        Ok(())
    }

    /// Until jerry's gateway sees every agent as healthy, but `except` as silent.
    async fn healthy(&self, except: Option<&str>) -> Result<(), Fail> {
        loop {
            let status = self.stage.ask("jerry", &["farm", "status", "--json"]).await?;
            let found = list(&status, "agents");
            let fits = |agent: &&&str| found.iter().any(|known| known["id"] == **agent && (known["healthy"] == true) == (Some(**agent) != except));
            if self.agents.iter().filter(fits).count() == self.agents.len() {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What only bobby can read.
    fn report(&self, word: &str) -> Result<(), Fail> {
        std::fs::write(self.stage.workspace("bobby").join("nomad.txt"), format!("All seven Nomad jobs are running (report {word})."))?;
        Ok(())
    }

    /// Asks jerry, tells what happens to the letter meanwhile, and wants `word` in the answer. Answers the letter's id.
    async fn question(&mut self, word: &str, away: Option<&str>) -> Result<String, Fail> {
        let inner = "What does the Nomad report say?\nuse tool read {\"path\": \"nomad.txt\"}";
        let send = json!({"agentId": "bobby", "message": inner, "timeoutSeconds": JERRY_WAITS_S});
        let asked = format!("Ask bobby what the Nomad report says.\nuse tool sessions_send {send}");
        let before = self.letters().await?;
        let answer = async {
            let mut watched = Watched { before, seen: BTreeMap::new(), id: None };
            let asking = self.stage.detached("jerry", &["agent", "--agent", "jerry", "--message", &asked])?;
            tokio::pin!(asking);
            let mut waits = away;
            loop {
                tokio::select! {
                    biased;
                    said = &mut asking => {
                        let said = said?;
                        self.watch(&mut watched).await?;
                        return Ok::<_, Fail>((said, watched));
                    }
                    () = sleep(LOOK_EVERY) => {}
                }
                self.watch(&mut watched).await?;
                if let (Some(agent), Some(id)) = (waits, watched.id.clone()) {
                    timeout(NOTICED_WITHIN, self.healthy(Some(agent))).await.unwrap_or_else(|_| Err(Fail::new("Nobody notices that the gateway is dead.")))?;
                    self.watch(&mut watched).await?;
                    let state = watched.seen.get(&id).map(|stand| stand.state.clone()).unwrap_or_default();
                    if matches!(state.as_str(), "acked" | "delivered") {
                        return Err(Fail::new(format!("The letter {id} is {state}, and nobody is there to take it.")));
                    }
                    self.say("waits", &format!("The farm has noticed; the letter waits ({state}): openclaw farm map"), json!({"letter": id, "state": state}));
                    self.show(&self.stage.run("jerry", &["farm", "map"]).await?);
                    self.stage.gateway(agent).await?;
                    self.say("gateway.ready", &format!("{agent}-gateway is back"), json!({"gateway": format!("{agent}-gateway")}));
                    waits = None;
                }
            }
        };
        let (said, mut watched) = timeout(ANSWERED_WITHIN, answer).await.unwrap_or_else(|_| Err(Fail::new("There is no answer.")))?;
        if !said.contains(word) {
            return Err(Fail::new(format!("The answer is not bobby's: {}", said.trim())));
        }
        self.say("answer", "jerry says:", json!({"answer": said.trim()}));
        self.show(said.trim());
        let acked = async {
            while !watched.seen.values().all(|stand| stand.state == "acked") {
                sleep(LOOK_EVERY).await;
                self.watch(&mut watched).await?;
            }
            Ok::<_, Fail>(())
        };
        timeout(TOGETHER_WITHIN, acked).await.unwrap_or_else(|_| Err(Fail::new("A letter is not settled.")))?;
        watched.id.ok_or_else(|| Fail::new("Jerry wrote no letter."))
    }

    async fn letters(&self) -> Result<Vec<Value>, Fail> {
        let found = self.stage.ask("jerry", &["farm", "letters", "--json", "--limit", "50"]).await?;
        Ok(list(&found, "letters").to_vec())
    }

    /// Tells what changed with letters of this question.
    async fn watch(&self, watched: &mut Watched) -> Result<(), Fail> {
        for letter in self.letters().await? {
            let (id, kind) = (text(&letter, "messageId"), text(&letter, "kind"));
            let tries = number(&letter, "attempts").unwrap_or(0);
            let state = Stand { state: text(&letter, "state").to_owned(), tries };
            if watched.before.iter().any(|old| text(old, "messageId") == id) || watched.seen.get(id) == Some(&state) {
                continue;
            }
            let mut word = state.state.clone();
            if letter["direction"] == "in" {
                word.push_str(" here");
            } else if kind == "request" {
                watched.id.get_or_insert_with(|| id.to_owned());
            }
            if state.state == "queued" && tries > 0 {
                word = format!("{word}, no answer to attempt {tries} yet");
            }
            watched.seen.insert(id.to_owned(), state.clone());
            let short: String = id.chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect();
            let words = format!("  letter …{short}  {} → {}  {kind}: {word}", text(&letter, "from"), text(&letter, "to"));
            self.say("letter.state", &words, json!({"letter": id, "kind": kind, "state": state.state, "tries": tries, "direction": letter["direction"]}));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fail> {
        if !self.args.keep {
            self.say("ok", "Done. Both questions were answered, each once; everything is stopped and removed.", json!({"ok": true}));
            return Ok(());
        }
        let pids = self.stage.keep().iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let folder = self.stage.folder().display().to_string();
        let look = ["farm status", "farm map", "farm letters", "dashboard --no-open", "tui"].map(|command| self.stage.typed("jerry", command));
        let urls: Vec<String> = self.agents.iter().map(|agent| format!("{agent}  {}", self.stage.dashboard(agent))).collect();
        let stop = format!("kill {pids}; rm -r {folder}");
        self.say("ok", "Done. The farm is left running.", json!({"ok": true, "folder": folder, "dashboards": urls, "look": look, "stop": stop}));
        if !self.args.json {
            print::line("Dashboards:");
            urls.iter().for_each(|line| print::line(&format!("  {line}")));
            print::line("Look around:");
            look.iter().for_each(|line| print::line(&format!("  {line}")));
            print::line("Stop it:");
            print::line(&format!("  {stop}"));
        }
        Ok(())
    }
}

/// Where a letter stands.
#[derive(Clone, PartialEq, Eq)]
struct Stand {
    state: String,
    tries: i64,
}

/// Letters since a question.
struct Watched {
    before: Vec<Value>,
    /// By id.
    seen: BTreeMap<String, Stand>,
    /// The request to bobby.
    id: Option<String>,
}
