//! People who write to agents at the gateway where they live, and go on until it has said yes or no.

use std::time::Duration;

use clawstead_terms::{
    Address, AgentId, DeliveryTarget, Envelope, EnvelopeKind, Failure, FailureCode, Millis, Origin, Part, Retry, RunId, SessionKey, TurnOptions,
};
use clawstead_world::{Accepted, Clock as _, Post as _};

use super::{land::Land, plan::ChatPlan};
use crate::{actors::platform::CHANNEL, outside::Taken};

/// Tries of one message before its writer gives up.
const TRIES_MAX: u32 = 2_000;
/// How long an answer is waited for after the heal.
const ANSWER_LIMIT: Duration = Duration::from_secs(900);

fn envelope(chat: &ChatPlan, at: Millis) -> Envelope {
    let agent = AgentId::normalise(chat.agent);
    Envelope {
        id: format!("letter-{}", chat.run_id).into(),
        run_id: chat.run_id.as_str().into(),
        kind: EnvelopeKind::Request,
        from: Origin::Client { client_id: "sim".into(), device_id: None, owner: true },
        to: Address { session: SessionKey::of(&agent, &chat.session), agent },
        reply_to: None,
        cause: None,
        body: vec![Part::text(chat.text.clone())],
        options: TurnOptions {
            deliver_to: chat.deliver_to.as_ref().map(|(account, to)| DeliveryTarget {
                channel: CHANNEL.into(),
                account: (*account).into(),
                to: to.clone(),
                thread_id: None,
                reply_to: None,
            }),
            ..TurnOptions::default()
        },
        path: Vec::new(),
        at,
        expires: None,
        traceparent: None,
    }
}

/// One message, from its moment to its answer at the door.
pub async fn chat(land: &Land, plan: &ChatPlan) {
    land.until(plan.at_ms).await;
    say(land, plan).await;
}

/// Hands a message in. True when it was taken.
async fn say(land: &Land, plan: &ChatPlan) -> bool {
    let Some(node) = land.home(plan.agent) else { return false };
    let letter = envelope(plan, node.clock.now());
    let mut pause = 50;
    for _ in 0..TRIES_MAX {
        let Some(node) = land.home(plan.agent) else { return false };
        let handed = letter.clone();
        let answer = node.call(|raised| async move { raised.building.post.deliver(handed).await }).await;
        land.outside.tell("chat", format!("{} to {} {:?}: {answer:?}", plan.run_id, letter.to.session, plan.text));
        match answer {
            Some(Ok(Accepted::Stored | Accepted::Duplicate(_))) => {
                land.outside.seen().taken.push(Taken { agent: plan.agent.to_owned(), run_id: plan.run_id.clone() });
                return true;
            }
            Some(Err(failure)) if failure.retry == Retry::Never && !passing(&failure) => return false,
            // It may be stored: the same run id is tried again.
            Some(Err(_)) | None => {}
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        pause = (pause * 2).min(5_000);
    }
    land.outside.violation(format!("drains: nobody takes {}", plan.run_id));
    false
}

fn passing(failure: &Failure) -> bool {
    matches!(failure.code, FailureCode::Busy | FailureCode::Unavailable | FailureCode::Fenced | FailureCode::Timeout)
}

/// Every agent is asked to ask another one, and both must answer.
pub async fn last_questions(land: &Land) {
    let agents = land.plan.agents();
    for (number, agent) in agents.iter().enumerate() {
        let other = agents[(number + 1) % agents.len()];
        let run = format!("last-{number}");
        let text = format!("#last{number} @ask:{other}");
        let plan = ChatPlan { at_ms: 0, run_id: run.clone(), agent, session: "main".into(), text, deliver_to: None };
        if !say(land, &plan).await {
            land.outside.violation(format!("drains: {agent} does not take its last question"));
            continue;
        }
        let Some(node) = land.home(agent) else { continue };
        let waited = RunId::from(run.as_str());
        let end = node.call(|raised| async move { raised.building.lanes.wait(&waited, ANSWER_LIMIT).await }).await;
        match end {
            Some(Ok(Some(row))) if row.text.as_deref().is_some_and(|text| text.contains(&format!("#last{number}"))) => {}
            other => land.outside.violation(format!("drains: {agent} does not answer its last question: {other:?}")),
        }
    }
}
