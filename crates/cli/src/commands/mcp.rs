//! `openclaw mcp serve`: the hub of a running gateway (`farm.hub`), for MCP clients that start a program and speak over
//! its standard input and output. Nothing but MCP is written to standard output.

use std::{io::BufRead as _, path::PathBuf, sync::Arc};

use clap::Subcommand;
use clawstead_config::Config;
use clawstead_world::{HttpRequest, NetPolicy, World};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Outcome;
use crate::{cx::Cx, fail::Fail, local, print};

/// Requests that wait for the gateway at the same time.
const CALLS_MAX: usize = 32;
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The JSON-RPC code of a request that did not reach the hub.
const UNREACHABLE: i32 = -32000;

/// Let MCP clients join the gateway's hub.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Speak MCP over standard input and output, for the hub of the running gateway
    Serve(ServeArgs),
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Speak MCP over standard input and output.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  openclaw mcp serve --peer laptop\n  openclaw mcp serve --url https://jerry.example.net/mcp --token-file ~/.hub-token")]
struct ServeArgs {
    /// The hub's address; default that of the local gateway
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Take the token of this peer from the local config; not needed when there is one peer
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// The peer's token
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the peer's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Serve(args) => serve(&args, cx),
        Verb::Other(words) => {
            let name = words.first().map_or("", String::as_str);
            Err(Fail::new(format!("openclaw mcp {name} is not available here. MCP servers are set in the config: openclaw config get mcp.servers."))
                .hint("openclaw mcp serve --help"))
        }
    }
}

fn serve(args: &ServeArgs, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    let token = token(args, &config)?;
    let url = args.url.clone().unwrap_or_else(|| {
        let port = local::running(cx).map_or(config.gateway.port, |holder| holder.port);
        format!("http://127.0.0.1:{port}/mcp")
    });
    let world = World::real().map_err(|err| Fail::new(err.to_string()))?;
    cx.block_on(Bridge { world, url, token, version: None }.run())
}

fn token(args: &ServeArgs, config: &Arc<Config>) -> Result<String, Fail> {
    if let Some(token) = &args.token {
        return Ok(token.clone());
    }
    if let Some(file) = &args.token_file {
        let text = std::fs::read_to_string(file).map_err(|err| Fail::new(format!("{} cannot be read: {err}", file.display())))?;
        return Ok(text.trim().to_owned());
    }
    let hint = "give --token-file, or --peer with a name of farm.hub.peers";
    let peers = config.farm.as_ref().map(|farm| farm.hub.peers.as_slice()).unwrap_or_default();
    let found: Vec<_> = peers.iter().filter(|peer| args.peer.as_ref().is_none_or(|name| *name == peer.name)).collect();
    // The newest token of a peer stands last.
    let one = found.last().filter(|last| found.iter().all(|peer| peer.name == last.name));
    let one = one.ok_or_else(|| Fail::new("Which peer of the hub is this? The config does not say.").hint(hint))?;
    let token = one.token.as_ref().ok_or_else(|| Fail::new(format!("The token of peer \"{}\" has no value here.", one.name)).hint(hint))?;
    Ok(token.expose().to_owned())
}

struct Bridge {
    world: World,
    url: String,
    token: String,
    /// What client and hub agreed on.
    version: Option<String>,
}

impl Bridge {
    async fn run(mut self) -> Result<u8, Fail> {
        let (heard, mut lines) = mpsc::channel::<String>(CALLS_MAX);
        // A thread, not a task: a read of the terminal cannot be taken back when we are told to stop.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { return };
                if heard.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let (mut waiting, mut open) = (FuturesUnordered::new(), true);
        while open || !waiting.is_empty() {
            tokio::select! {
                biased;
                Some(answer) = waiting.next(), if !waiting.is_empty() => self.tell(answer),
                line = lines.recv(), if open && waiting.len() < CALLS_MAX => match line {
                    None => open = false,
                    Some(line) if line.trim().is_empty() => {}
                    Some(line) => match serde_json::from_str::<Value>(&line) {
                        Ok(message) => waiting.push(ask(self.world.clone(), self.request(&message, line)?, message)),
                        Err(err) => print::json_line(&failure(&Value::Null, -32700, &format!("this is no JSON: {err}"))),
                    },
                },
            }
        }
        Ok(0)
    }

    fn tell(&mut self, answer: Option<Value>) {
        let Some(answer) = answer else { return };
        if let Some(version) = answer.pointer("/result/protocolVersion").and_then(Value::as_str) {
            self.version = Some(version.to_owned());
        }
        print::json_line(&answer);
    }

    /// The message as a request, with the headers that name what is in it.
    fn request(&self, message: &Value, text: String) -> Result<HttpRequest, Fail> {
        let wrong = |what: &str| Fail::new(format!("{what} cannot be sent in a header"));
        let method = "POST".parse().map_err(|_| wrong("POST"))?;
        let mut request = HttpRequest::new(method, &self.url, NetPolicy::Trusted);
        let headers = &mut request.headers;
        headers.insert("authorization", format!("Bearer {}", self.token).parse().map_err(|_| wrong("the token"))?);
        headers.insert("content-type", "application/json".parse().map_err(|_| wrong("the type"))?);
        headers.insert("accept", "application/json, text/event-stream".parse().map_err(|_| wrong("the type"))?);
        let at = |path: &str| message.pointer(path).and_then(Value::as_str);
        let version = at("/params/_meta/io.modelcontextprotocol~1protocolVersion").or(self.version.as_deref());
        for (name, value) in [("mcp-protocol-version", version), ("mcp-method", at("/method")), ("mcp-name", at("/params/name"))] {
            if let Some(Ok(value)) = value.map(str::parse) {
                headers.insert(name, value);
            }
        }
        request.body = Some(text.into());
        Ok(request)
    }
}

/// Sends a message; the answer, unless there is none to give.
async fn ask(world: World, request: HttpRequest, message: Value) -> Option<Value> {
    let id = message.get("id").cloned().unwrap_or(Value::Null);
    let answered = async {
        let response = world.http.send(request).await.map_err(|err| err.to_string())?;
        let status = response.status;
        let (body, cut) = response.read(ANSWER_BYTES_MAX).await.map_err(|err| err.to_string())?;
        if body.is_empty() && status.is_success() {
            return Ok(None);
        }
        match serde_json::from_slice::<Value>(&body) {
            Ok(answer) if !cut => Ok(Some(answer)),
            _ if status.as_u16() == 404 => Err("no hub is served there: set farm.hub.enabled in the gateway's config".to_owned()),
            _ => Err(format!("the gateway answered with status {status} and no JSON")),
        }
    };
    match answered.await {
        // A notification has no answer, whatever happened to it.
        _ if id.is_null() => None,
        Ok(Some(mut answer)) => {
            if answer.get("id").is_none_or(Value::is_null) {
                answer["id"] = id;
            }
            Some(answer)
        }
        Ok(None) => None,
        Err(why) => Some(failure(&id, UNREACHABLE, &why)),
    }
}

fn failure(id: &Value, code: i32, why: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": why } })
}
