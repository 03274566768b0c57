use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Limiter;
use crate::{
    envelope::{CAPABILITY_MAX, Envelope, Refusal},
    names::glob,
};

/// Rules of one policy at most.
pub const RULES_MAX: usize = 1000;
const PATTERN_MAX: usize = 128;
const PATTERNS_MAX: usize = 64;

/// What a rule does with letters that fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// They may pass.
    Allow,
    /// They may not.
    Deny,
}

/// Somebody, by patterns; what is absent is `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gateway: Option<String>,
    /// The agent or channel account.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<String>,
}

/// Bounds of what a rule allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Letters a minute from one agent to one agent, 1 to 1,000,000; none means no bound.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub per_minute: Option<u32>,
    /// Longest time to live, ms; none means the format's own bound.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_ttl: Option<u64>,
}

/// One line of `farm.policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Who writes.
    #[serde(default)]
    pub from: Party,
    /// To whom. Its gateway is not looked at: where an agent lives now decides nothing.
    #[serde(default)]
    pub to: Party,
    /// What is asked; `infra.*` is everything that begins so.
    pub capabilities: Vec<String>,
    /// Allow or deny.
    pub effect: Effect,
    /// Bounds of an allowance.
    #[serde(default)]
    pub limits: Limits,
}

/// Why a policy is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Too many rules.
    #[error("farm.policy has {0} rules, {RULES_MAX} is the limit")]
    Rules(usize),
    /// Something in a rule is wrong.
    #[error("farm.policy[{index}]: {why}")]
    Rule {
        /// Its place, from 0.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// What a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The gateway that signed.
    pub gateway: &'a str,
    /// Who writes.
    pub from: &'a str,
    /// To whom.
    pub to: &'a str,
    /// What is asked.
    pub capability: &'a str,
    /// Time to live, ms.
    pub ttl_ms: u64,
}

impl<'a> Subject<'a> {
    /// What a letter asks.
    #[must_use]
    pub fn of(letter: &'a Envelope) -> Self {
        Self { gateway: &letter.source_gateway, from: &letter.source_agent, to: &letter.target_agent, capability: &letter.capability, ttl_ms: letter.ttl_ms() }
    }
}

/// What a policy says, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rule that decided, from 0; none means that no rule fits.
    pub rule: Option<usize>,
    /// Why the letter may not pass; none means that it may.
    pub refusal: Option<Refusal>,
}

impl Decision {
    /// True when the letter may pass.
    #[must_use]
    pub const fn allowed(&self) -> bool {
        self.refusal.is_none()
    }

    fn refused(rule: Option<usize>, refusal: Refusal) -> Self {
        Self { rule, refusal: Some(refusal) }
    }
}

/// Rules in order, checked once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy(Vec<Rule>);

impl Policy {
    /// Takes rules from the config. No rules at all is a policy too: it refuses everything.
    ///
    /// # Errors
    /// When there are too many, or a rule has no capability, an empty or long pattern, or a limit of 0.
    pub fn new(rules: Vec<Rule>) -> Result<Self, PolicyError> {
        if rules.len() > RULES_MAX {
            return Err(PolicyError::Rules(rules.len()));
        }
        for (index, rule) in rules.iter().enumerate() {
            rule.check().map_err(|why| PolicyError::Rule { index, why })?;
        }
        Ok(Self(rules))
    }

    /// The rules, in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Asks without counting: for the sender, and for `farm policy explain`.
    #[must_use]
    pub fn explain(&self, subject: Subject<'_>) -> Decision {
        let Some((index, rule)) = self.0.iter().enumerate().find(|(_, rule)| rule.fits(subject)) else {
            let why = format!("no rule lets {} ask {} of {}; add one to farm.policy", subject.from, subject.capability, subject.to);
            return Decision::refused(None, Refusal::Forbidden { why });
        };
        if rule.effect == Effect::Deny {
            return Decision::refused(Some(index), Refusal::Forbidden { why: format!("farm.policy[{index}] denies it") });
        }
        if let Some(max) = rule.limits.max_ttl.filter(|max| subject.ttl_ms > *max) {
            let why = format!("farm.policy[{index}] allows letters that live {max} ms at most, this one lives {} ms", subject.ttl_ms);
            return Decision::refused(Some(index), Refusal::Forbidden { why });
        }
        Decision { rule: Some(index), refusal: None }
    }

    /// Asks and counts: where the target lives, once for each letter that is not a repeat.
    pub fn decide(&self, subject: Subject<'_>, limiter: &mut Limiter, mono_ms: u64) -> Decision {
        let decision = self.explain(subject);
        let Some(index) = decision.rule.filter(|_| decision.allowed()) else { return decision };
        let Some(per_minute) = self.0.get(index).and_then(|rule| rule.limits.per_minute) else { return decision };
        match limiter.take(&format!("{index}\u{1f}{}\u{1f}{}", subject.from, subject.to), per_minute, mono_ms) {
            Ok(()) => decision,
            Err(wait_ms) => Decision::refused(Some(index), Refusal::RateLimited { per_minute, wait_ms }),
        }
    }
}

impl Rule {
    fn fits(&self, subject: Subject<'_>) -> bool {
        let fits = |pattern: &Option<String>, text: &str| pattern.as_deref().is_none_or(|pattern| glob(pattern, text));
        fits(&self.from.gateway, subject.gateway)
            && fits(&self.from.agent, subject.from)
            && fits(&self.to.agent, subject.to)
            && self.capabilities.iter().any(|pattern| glob(pattern, subject.capability))
    }

    fn check(&self) -> Result<(), &'static str> {
        let pattern = |text: &str, max: usize| (1..=max).contains(&text.len()) && text.bytes().filter(|b| *b == b'*').count() <= 8;
        let parties = [&self.from.gateway, &self.from.agent, &self.to.gateway, &self.to.agent];
        if parties.into_iter().flatten().any(|text| !pattern(text, PATTERN_MAX)) {
            return Err("a pattern must have 1 to 128 bytes and at most 8 stars");
        }
        if self.capabilities.is_empty() || self.capabilities.len() > PATTERNS_MAX {
            return Err("name 1 to 64 capabilities, or \"*\"");
        }
        if self.capabilities.iter().any(|text| !pattern(text, CAPABILITY_MAX)) {
            return Err("a capability must have 1 to 64 bytes and at most 8 stars");
        }
        if self.limits.per_minute.is_some_and(|n| n == 0 || n > 1_000_000) {
            return Err("limits.per_minute must be 1 to 1000000; to forbid, use effect \"deny\"");
        }
        if self.limits.max_ttl == Some(0) {
            return Err("limits.max_ttl must be more than 0 ms");
        }
        Ok(())
    }
}

/// What clients of another gateway (people, programs, webhooks) need to read about an agent: sessions, histories, runs.
pub const CLIENTS_READ: &str = "clients.read";
/// What clients of another gateway need for everything else about an agent: to write to it, to stop its runs.
pub const CLIENTS_WRITE: &str = "clients.write";
/// Who they are in a rule: `client.<user or device>`. No agent has a dot in its name.
pub const CLIENT_PREFIX: &str = "client.";

/// What `farm init` writes: the farm's own agents may write to each other, hear of each other and answer, at most 120
/// times a minute from one to another; one rule for each agent, so that taking one out is taking a line out. Letters of
/// channel accounts to these agents pass, and so do the calls that the farm's other gateways pass on for their clients.
/// Everything else needs a rule that somebody writes.
#[must_use]
pub fn starter_policy<'a>(agents: impl IntoIterator<Item = &'a str>) -> Vec<Rule> {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut names: Vec<&str> = agents.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let mut rules = Vec::new();
    for to in &names {
        for from in names.iter().filter(|from| from != &to) {
            rules.push(Rule {
                from: Party { agent: Some((*from).into()), ..Party::default() },
                to: Party { agent: Some((*to).into()), ..Party::default() },
                capabilities: list(&["sessions.*", "reply"]),
                effect: Effect::Allow,
                limits: Limits { per_minute: Some(120), max_ttl: None },
            });
        }
        rules.push(Rule {
            from: Party { agent: Some("chan.*".into()), ..Party::default() },
            to: Party { agent: Some((*to).into()), ..Party::default() },
            capabilities: list(&["channel.deliver"]),
            effect: Effect::Allow,
            limits: Limits::default(),
        });
        rules.push(Rule {
            from: Party { agent: Some(format!("{CLIENT_PREFIX}*")), ..Party::default() },
            to: Party { agent: Some((*to).into()), ..Party::default() },
            capabilities: list(&[CLIENTS_READ, CLIENTS_WRITE]),
            effect: Effect::Allow,
            limits: Limits::default(),
        });
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(rules: serde_json::Value) -> Policy {
        Policy::new(serde_json::from_value(rules).unwrap()).unwrap()
    }

    fn ask<'a>(from: &'a str, to: &'a str, capability: &'a str) -> Subject<'a> {
        Subject { gateway: "jerry-gateway", from, to, capability, ttl_ms: 300_000 }
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_says_so() {
        let policy = policy(json!([
            {"from": {"agent": "jerry"}, "to": {"agent": "bobby"}, "capabilities": ["infra.destroy"], "effect": "deny"},
            {"from": {"gateway": "*", "agent": "jerry"}, "to": {"agent": "bobby"}, "capabilities": ["infra.*"], "effect": "allow",
             "limits": {"per_minute": 60, "max_ttl": 600_000}},
            {"from": {"gateway": "mac*"}, "capabilities": ["*"], "effect": "deny"},
            {"from": {"agent": "billy"}, "to": {"agent": "*"}, "capabilities": ["sessions.send", "reply"], "effect": "allow"},
        ]));
        for (subject, rule, allowed) in [
            (ask("jerry", "bobby", "infra.query"), Some(1), true),
            (ask("jerry", "bobby", "infra.destroy"), Some(0), false),
            (ask("jerry", "billy", "infra.query"), None, false),
            (ask("jerry", "bobby", "infra"), None, false),
            (ask("billy", "bobby", "reply"), Some(3), true),
            (Subject { gateway: "macbook", ..ask("billy", "bobby", "reply") }, Some(2), false),
            (Subject { ttl_ms: 600_001, ..ask("jerry", "bobby", "infra.query") }, Some(1), false),
        ] {
            let decision = policy.explain(subject);
            assert_eq!((decision.rule, decision.allowed()), (rule, allowed), "{subject:?}");
        }
        let none = policy.explain(ask("eve", "bobby", "x")).refusal.unwrap();
        assert_eq!(none.to_string(), "not allowed: no rule lets eve ask x of bobby; add one to farm.policy");
        assert!(!Policy::default().explain(ask("jerry", "bobby", "infra.query")).allowed());
    }

    #[test]
    fn letters_a_minute_are_counted_for_each_pair() {
        let policy = policy(json!([{"capabilities": ["*"], "effect": "allow", "limits": {"per_minute": 2}}]));
        let mut limiter = Limiter::default();
        let mut go = |from, ms| policy.decide(ask(from, "bobby", "x"), &mut limiter, ms).refusal;
        assert_eq!((go("jerry", 0), go("jerry", 30_000)), (None, None));
        assert_eq!(go("jerry", 59_999), Some(Refusal::RateLimited { per_minute: 2, wait_ms: 1 }));
        assert_eq!(go("billy", 59_999), None);
        assert_eq!(go("jerry", 60_000), None);
        assert_eq!(go("jerry", 60_000), Some(Refusal::RateLimited { per_minute: 2, wait_ms: 30_000 }));
    }

    #[test]
    fn a_wrong_rule_is_named() {
        let wrong = |rule: serde_json::Value| Policy::new(vec![serde_json::from_value(rule).unwrap()]).unwrap_err().to_string();
        assert_eq!(wrong(json!({"capabilities": [], "effect": "allow"})), "farm.policy[0]: name 1 to 64 capabilities, or \"*\"");
        assert!(wrong(json!({"from": {"agent": ""}, "capabilities": ["*"], "effect": "allow"})).contains("pattern"));
        assert!(wrong(json!({"capabilities": ["*********"], "effect": "allow"})).contains("stars"));
        assert!(wrong(json!({"capabilities": ["*"], "effect": "allow", "limits": {"per_minute": 0}})).contains("deny"));
        assert!(serde_json::from_value::<Rule>(json!({"capabilities": ["*"], "effect": "allow", "to": {"agents": "x"}})).is_err());
    }

    #[test]
    fn the_starter_policy_lets_the_farms_own_agents_talk_and_nobody_else() {
        let policy = Policy::new(starter_policy(["jerry", "bobby", "billy", "bobby"])).unwrap();
        assert!(policy.explain(ask("jerry", "bobby", "sessions.send")).allowed());
        assert!(policy.explain(ask("bobby", "jerry", "reply")).allowed());
        assert!(policy.explain(ask("chan.slack.default", "bobby", "channel.deliver")).allowed());
        assert!(policy.explain(ask("client.anna", "bobby", super::CLIENTS_READ)).allowed());
        assert!(policy.explain(ask("client.anna", "bobby", super::CLIENTS_WRITE)).allowed());
        for (from, to, capability) in [
            ("eve", "bobby", "sessions.send"),
            ("jerry", "eve", "sessions.send"),
            ("jerry", "bobby", "infra.query"),
            ("jerry", "bobby", "hook.deliver"),
            ("jerry", "bobby", super::CLIENTS_WRITE),
            ("client.anna", "eve", super::CLIENTS_READ),
            ("client.anna", "bobby", "sessions.send"),
        ] {
            assert!(!policy.explain(ask(from, to, capability)).allowed(), "{from} {to} {capability}");
        }
    }
}
