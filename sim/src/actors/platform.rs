//! A chat platform with two accounts: `once` shows everything it is sent, `idem` knows repeats by the effect id.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use clawstead_channels::{Outbound, Outlet, Sent};
use clawstead_terms::{EffectClass, Failure, Outcome, Part};

use crate::{
    dice::Dice,
    outside::{Arrival, Effect, Outside},
};

/// The platform's id.
pub const CHANNEL: &str = "simchat";
/// Its accounts.
pub const ACCOUNTS: [&str; 2] = ["once", "idem"];

/// Our way to it.
pub struct Phone {
    /// What everybody shares.
    pub outside: Arc<Outside>,
    /// The life of the gateway that sends.
    pub life: u64,
    /// `once` or `idem`.
    pub account: &'static str,
}

impl Phone {
    fn arrive(&self, message: &Outbound) {
        let text: Vec<&str> = message.body.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
        let mut seen = self.outside.seen();
        let known = seen.arrivals.iter().any(|a| a.account == self.account && a.effect_id == message.effect_id);
        let shown = !(known && self.account == "idem");
        let arrival =
            Arrival { account: self.account.into(), to: message.target.to.clone(), effect_id: message.effect_id.clone(), text: text.join("\n"), shown };
        seen.arrivals.push(arrival.clone());
        drop(seen);
        self.outside.tell("arrival", format!("{}/{} {} shown={shown} {:?}", self.account, arrival.to, arrival.effect_id, arrival.text));
    }
}

#[async_trait]
impl Outlet for Phone {
    async fn send(&self, message: &Outbound) -> Sent {
        let tries = {
            let mut seen = self.outside.seen();
            let tries = seen.asks.entry(format!("send {}", message.effect_id)).or_default();
            *tries += 1;
            *tries
        };
        let mut dice = Dice::of(self.outside.seed, &format!("send {} {tries}", message.effect_id));
        let answer = |outcome| Sent { outcome, message_id: None };
        self.outside.alive(self.life).await;
        let effect = Effect { life: self.life, agent: None, effect_id: message.effect_id.clone(), began_ms: self.outside.now_ms() };
        self.outside.seen().effects.push(effect);
        tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
        self.outside.alive(self.life).await;
        let down =
            self.outside.down.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(self.account).is_some_and(|until| *until > self.outside.now_ms());
        if down {
            self.outside.tell("refused", format!("{} {}", self.account, message.effect_id));
            return answer(Outcome::Failed(Failure::unavailable("simulated 503", 1_000)));
        }
        let fate = if self.outside.is_healed() { 1_000 } else { dice.below(1_000) };
        match fate {
            0..40 => {
                self.outside.tell("refused", format!("{} {}", self.account, message.effect_id));
                return answer(Outcome::Failed(Failure::unavailable("simulated 429", dice.below(5_000))));
            }
            40..50 => {
                self.outside.tell("rejected", format!("{} {}", self.account, message.effect_id));
                return answer(Outcome::Failed(Failure::invalid("simulated: no such chat")));
            }
            50..75 => {
                self.outside.tell("lost", format!("{} {}", self.account, message.effect_id));
                return answer(Outcome::Unknown);
            }
            _ => {}
        }
        self.arrive(message);
        tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
        self.outside.alive(self.life).await;
        if (75..100).contains(&fate) {
            return answer(Outcome::Unknown);
        }
        Sent { outcome: Outcome::Done, message_id: Some(format!("p-{}", message.effect_id)) }
    }

    fn class(&self) -> EffectClass {
        if self.account == "idem" { EffectClass::Idempotent } else { EffectClass::Once }
    }
}
