//! Schedules of skills: `schedule:` (and `agent:`) in the front matter of a SKILL.md becomes a cron job, declared under
//! `skill:<agent>:<name>`. A job whose skill is gone is removed; a job that a person switched off stays off.

use clawstead_agent::skills::Skills;
use clawstead_terms::{AgentId, Failure};
use clawstead_world::World;

use crate::cron::{
    Cron,
    job::{Job, JobState, Payload, Schedule},
    schedule,
};

/// Makes the jobs of an agent agree with its skills.
///
/// # Errors
/// When the store cannot be written.
pub async fn sync(cron: &Cron, agent: &AgentId, skills: &Skills, world: &World) -> Result<(), Failure> {
    let prefix = format!("skill:{agent}:");
    let now = world.clock.now();
    let mut kept = Vec::new();
    for skill in skills.skills.values() {
        let Some(expr) = &skill.schedule else { continue };
        let key = format!("{prefix}{}", skill.name);
        let wanted = Schedule::Cron { expr: expr.clone(), tz: None, stagger_ms: None };
        if let Err(why) = schedule::check(wanted.clone(), now) {
            tracing::warn!(skill = %skill.name, file = %skill.file.display(), why, "the schedule of this skill cannot be read");
            continue;
        }
        kept.push(key.clone());
        let old = cron.jobs().into_iter().find(|job| job.declaration_key.as_ref() == Some(&key));
        let target = skill.agent.as_deref().map_or_else(|| agent.clone(), AgentId::normalise);
        if old.as_ref().is_some_and(|job| job.schedule == wanted && job.agent_id.as_deref() == Some(target.as_str())) {
            continue;
        }
        let job = Job {
            id: old.as_ref().map_or_else(|| world.rng.uuid(), |job| job.id.clone()),
            declaration_key: Some(key),
            display_name: None,
            agent_id: Some(target.to_string()),
            session_key: None,
            name: skill.name.clone(),
            description: Some(format!("schedule of the skill in {}", skill.file.display())),
            enabled: old.as_ref().is_none_or(|job| job.enabled),
            delete_after_run: None,
            created_at_ms: old.as_ref().map_or(now.0, |job| job.created_at_ms),
            updated_at_ms: now.0,
            schedule: wanted,
            session_target: "isolated".into(),
            wake_mode: "now".into(),
            payload: Payload::AgentTurn {
                message: format!("Run the skill \"{}\": read {} and follow it.", skill.name, skill.file.display()),
                model: None,
                fallbacks: None,
                thinking: None,
                timeout_seconds: None,
                light_context: None,
                allow_unsafe_external_content: None,
                tools_allow: Some(vec!["*".into()]),
            },
            delivery: None,
            failure_alert: None,
            state: old.map_or_else(JobState::default, |job| job.state),
            scheduled_tool_policy: None,
        };
        if let Err(failure) = cron.put(job).await {
            tracing::warn!(skill = %skill.name, err = %failure, "the schedule of this skill was not taken");
        }
    }
    for job in cron.jobs() {
        if job.declaration_key.as_ref().is_some_and(|key| key.starts_with(&prefix) && !kept.contains(key)) {
            cron.remove(&job.id).await?;
        }
    }
    Ok(())
}
