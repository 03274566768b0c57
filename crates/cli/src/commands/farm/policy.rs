use std::collections::BTreeSet;

use clap::Subcommand;
use clawstead_cluster::{
    directory::AGENTS,
    envelope::TTL_DEFAULT_MS,
    policy::{Decision, Effect, Limits, Party, Policy, Rule, Subject},
};
use clawstead_config::{Edit, FarmConfig, MapWrite};
use serde_json::{Value, json};

use super::{
    facts::{rule_value, starter},
    site::{Site, no_farm},
};
use crate::{
    commands::{Outcome, config},
    cx::Cx,
    fail::Fail,
    print,
};

/// Who may ask what of whom.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "The gateway of the one who is asked decides, with the rules of its own config; the first rule that fits. Between agents of\none gateway tools.agentToAgent decides instead.\n\nExamples:\n  openclaw farm policy show\n  openclaw farm policy explain --from jerry --to bobby --capability infra.query\n  openclaw farm policy starter --write"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The rules, in order
    Show {
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Which rule decides about a letter, and how
    Explain(ExplainArgs),
    /// The starter policy for all agents that are known now
    Starter {
        /// A further agent of the farm
        #[arg(long, value_name = "ID")]
        agent: Vec<String>,
        /// Add what is missing to farm.policy, behind the rules that are there
        #[arg(long)]
        write: bool,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct ExplainArgs {
    /// Agent that asks, or chan.<channel>.<account>
    #[arg(long, value_name = "ID")]
    from: String,
    /// Gateway that signs for it [default: this one]
    #[arg(long, value_name = "NAME")]
    from_gateway: Option<String>,
    /// Agent that is asked
    #[arg(long, value_name = "ID")]
    to: String,
    /// What is asked, for example sessions.send
    #[arg(long, value_name = "NAME")]
    capability: String,
    /// Time to live of the letter, milliseconds
    #[arg(long, value_name = "MS", default_value_t = TTL_DEFAULT_MS)]
    ttl: u64,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Show { json } => show(cx, json),
        Verb::Explain(args) => explain(&args, cx),
        Verb::Starter { agent, write, json } => starter_rules(cx, &agent, write, json),
    }
}

fn farm(cx: &Cx) -> Result<FarmConfig, Fail> {
    let (_, loaded) = cx.loaded()?;
    loaded.config.farm.clone().ok_or_else(no_farm)
}

/// The rules of the config, as the deciding function takes them.
///
/// # Errors
/// When one of them says nothing that can be decided by.
pub fn of(farm: &FarmConfig) -> Result<Policy, Fail> {
    clawstead_farm::policy_of(farm).map_err(|why| Fail::new(format!("{why}.")).hint("openclaw config get farm.policy"))
}

fn show(cx: &Cx, json: bool) -> Outcome {
    let policy = of(&farm(cx)?)?;
    if json {
        print::json(&json!({"rules": policy.rules().iter().map(rule_value).collect::<Vec<_>>(), "otherwise": "deny"}));
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = policy
        .rules()
        .iter()
        .enumerate()
        .map(|(at, rule)| {
            vec![at.to_string(), effect(rule.effect).into(), party(&rule.from), party(&rule.to), rule.capabilities.join(", "), limits(&rule.limits)]
        })
        .collect();
    if !rows.is_empty() {
        print::columns(&["#", "", "From", "To", "What", "Limits"], &rows);
    }
    print::line("Everything else from other gateways is refused.");
    Ok(0)
}

const fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    }
}

fn party(party: &Party) -> String {
    let agent = party.agent.as_deref().unwrap_or("*");
    party.gateway.as_ref().map_or_else(|| agent.to_owned(), |gateway| format!("{agent} on {gateway}"))
}

fn limits(limits: &Limits) -> String {
    let mut said = Vec::new();
    said.extend(limits.per_minute.map(|n| format!("{n} a minute")));
    said.extend(limits.max_ttl.map(|ms| format!("lives {ms} ms at most")));
    said.join(", ")
}

fn explain(args: &ExplainArgs, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let farm = loaded.config.farm.as_ref().ok_or_else(no_farm)?;
    let policy = of(farm)?;
    let gateway = args.from_gateway.clone().or_else(|| farm.gateway.clone()).unwrap_or_default();
    let subject = Subject { gateway: &gateway, from: &args.from, to: &args.to, capability: &args.capability, ttl_ms: args.ttl };
    let decision = policy.explain(subject);
    let notes = notes(args, &loaded.config, &decision);
    let decided = decision.rule.and_then(|at| policy.rules().get(at));
    if args.json {
        print::json(&json!({
            "allowed": decision.allowed(), "rule": decision.rule, "decidedBy": decided.map(rule_value),
            "why": decision.refusal.as_ref().map(ToString::to_string), "fromGateway": gateway, "notes": notes,
        }));
        return Ok(0);
    }
    let who = format!("{} on {gateway} asks {} of {}", args.from, args.capability, args.to);
    match (&decision.refusal, decision.rule) {
        (None, at) => print::line(&format!("Allowed: {who}{}", at.map(|at| format!(" (farm.policy[{at}])")).unwrap_or_default())),
        (Some(why), _) => print::line(&format!("Refused: {who}; {why}")),
    }
    if let Some(rule) = decided {
        print::line(&format!("Rule     {}", rule_value(rule)));
    }
    for note in &notes {
        print::line(&format!("Note     {note}"));
    }
    Ok(0)
}

fn notes(args: &ExplainArgs, config: &clawstead_config::Config, decision: &Decision) -> Vec<String> {
    let here = |id: &str| config.agents.get(id).is_some();
    let mut notes = Vec::new();
    if here(&args.from) && here(&args.to) && args.from_gateway.is_none() {
        notes.push("both agents live on this gateway: between them tools.agentToAgent decides, not farm.policy".into());
    }
    if !here(&args.to) {
        notes.push(format!("{} does not live here: the policy of its own gateway decides in the end", args.to));
    }
    if decision.allowed() && args.capability.starts_with("sessions.") {
        notes.push(format!("an answer comes back only when {} may ask \"reply\" of {}, by the policy of the other gateway", args.to, args.from));
    }
    notes
}

fn starter_rules(cx: &Cx, further: &[String], write: bool, json: bool) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let farm = loaded.config.farm.as_ref().ok_or_else(no_farm)?;
    let mut others: BTreeSet<String> = further.iter().cloned().collect();
    // A farm that does not answer is no reason to say nothing of the agents here.
    let (known, away) = match cx.block_on(async { Ok(Site::of(cx)?.coord.list(AGENTS).await?) }) {
        Ok(entries) => (entries, None),
        Err(fail) if fail.said => return Err(fail),
        Err(fail) => (Vec::new(), Some(fail.message)),
    };
    others.extend(known.iter().filter_map(|entry| entry.key.strip_prefix(AGENTS)?.split_once('/').map(|(id, _)| id.to_owned())));
    let others: Vec<String> = others.into_iter().collect();
    let made = starter(&loaded.config, &others);
    let policy = of(farm)?;
    let missing: Vec<&Rule> = made.iter().filter(|rule| !policy.rules().contains(rule)).collect();
    let written = write && !missing.is_empty();
    if written {
        let mut value = snapshot.get(&["farm".into(), "policy".into()]).and_then(Value::as_array).cloned().unwrap_or_default();
        value.extend(missing.iter().map(|rule| rule_value(rule)));
        let edit = Edit::Set { path: vec!["farm".into(), "policy".into()], value: Value::Array(value), mode: MapWrite::Merge };
        config::apply(cx, &snapshot, &[edit], false)?;
    }
    if json {
        let rules = |list: &[&Rule]| list.iter().map(|rule| rule_value(rule)).collect::<Vec<_>>();
        print::json(&json!({"rules": rules(&made.iter().collect::<Vec<_>>()), "missing": rules(&missing), "written": written, "store": away}));
        return Ok(0);
    }
    if let Some(why) = away {
        print::line(&format!("Only the agents of this gateway are known: {why}"));
    }
    for rule in &missing {
        print::line(&rule_value(rule).to_string());
    }
    match (missing.len(), written) {
        (0, _) => print::line("farm.policy has the whole starter policy."),
        (n, true) => print::line(&format!("{n} rules are added to farm.policy. Next: openclaw gateway restart")),
        (n, false) => print::line(&format!("{n} rules are missing in farm.policy; --write adds them.")),
    }
    Ok(0)
}
