//! Sub-agents: sessions that a session starts for a task. Their result comes back as a letter.

use std::sync::Arc;

use clawstead_terms::{Address, AgentId, Envelope, EnvelopeKind, Failure, FailureCode, Millis, Origin, Part, RunId, SessionKey, TurnOptions};
use clawstead_world::Accepted;

use crate::{SessionRow, lanes::Lanes, turn};

/// A wish for a sub-agent.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// The session that wants it; gets the result.
    pub parent: SessionKey,
    /// Which agent; none means the parent's.
    pub agent: Option<AgentId>,
    /// What to do.
    pub task: String,
    /// A name for lists.
    pub label: Option<String>,
    /// `provider/model`.
    pub model: Option<String>,
    /// Thinking level.
    pub thinking: Option<String>,
    /// Time limit of its turn, ms.
    pub timeout_ms: Option<u64>,
    /// The key of the effect: the same wish twice makes one sub-agent.
    pub effect_id: String,
    /// Whether the result is announced to the parent.
    pub announce: Announce,
}

/// Whether a result is announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Announce {
    /// As a letter that starts a turn of the parent.
    #[default]
    ToParent,
    /// The parent looks itself.
    No,
}

/// A sub-agent that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spawned {
    /// Its session.
    pub session: SessionKey,
    /// Its run.
    pub run_id: RunId,
}

impl Lanes {
    /// Starts a sub-agent. The agent must be on this gateway; for another gateway's the caller sends a letter.
    ///
    /// # Errors
    /// `Forbidden` when the depth, the number of children or the agent is not allowed; as [`Self::accept`].
    pub async fn spawn(&self, wish: Spawn) -> Result<Spawned, Failure> {
        let parent_room = self.room(&wish.parent.agent())?;
        let settings = self.settings(&parent_room.agent)?;
        let limits = &settings.subagents;
        let agent = wish.agent.clone().unwrap_or_else(|| parent_room.agent.clone());
        let allowed = agent == parent_room.agent || limits.allow_agents.iter().any(|name| name == "*" || *name == agent.as_str());
        if !allowed {
            return Err(Failure::new(FailureCode::Forbidden, format!("agent {} may not spawn agent {agent}", parent_room.agent))
                .with_hint("agents.*.subagents.allowAgents lists those it may"));
        }
        let depth = parent_room.row(&wish.parent).map_or(0, |row| row.spawn_depth) + 1;
        if depth > limits.spawn_depth_max {
            return Err(Failure::new(FailureCode::Forbidden, format!("sub-agents may be nested {} deep at most", limits.spawn_depth_max)));
        }
        let room = self.room(&agent)?;
        let key = SessionKey::of(&agent, &format!("subagent:{}", wish.effect_id));
        let run_id = RunId::from(turn::effect_id(&RunId::from(wish.effect_id.as_str()), 0, 0));
        let known = room.row(&key).is_some();
        let children =
            self.rooms().iter().flat_map(|room| room.rows()).filter(|row| row.spawned_by.as_ref() == Some(&wish.parent) && row.has_active_run()).count();
        if !known && children >= limits.children_max {
            return Err(Failure::busy(format!("{children} sub-agents of this session are running; at most {} may", limits.children_max), 5_000));
        }
        let now = self.now();
        if !known {
            let (lanes, room, key, wish) = (self.clone(), Arc::clone(&room), key.clone(), wish.clone());
            let (model, thinking) = (wish.model.clone().or_else(|| limits.model.clone()), wish.thinking.clone().or_else(|| limits.thinking.clone()));
            self.shielded(async move {
                let (session, mut desk) = lanes.desk(&room, &key).await?;
                let row = &mut desk.row;
                row.label.clone_from(&wish.label);
                row.parent_session_key = Some(wish.parent.clone());
                row.spawned_by = Some(wish.parent.clone());
                row.spawn_depth = depth;
                row.created_via = Some("spawn".into());
                row.model_override = model;
                row.model_override_source = row.model_override.as_ref().map(|_| "auto".into());
                row.thinking_level = thinking;
                session.commit(&room, &*lanes.parts.store, &mut desk, crate::session::Write::default(), now).await.map_err(Failure::from)?;
                lanes.changed(&key, "create", Some(&desk.row));
                Ok(())
            })
            .await?;
        }
        let letter = Envelope {
            id: self.parts.world.rng.uuid_v7(now).into(),
            run_id: run_id.clone(),
            kind: EnvelopeKind::Request,
            from: Origin::Agent { agent: parent_room.agent.clone(), session: wish.parent.clone() },
            to: Address { agent, session: key.clone() },
            reply_to: (wish.announce == Announce::ToParent).then(|| Address { agent: parent_room.agent.clone(), session: wish.parent.clone() }),
            cause: None,
            body: vec![Part::text(wish.task)],
            options: TurnOptions { light_context: true, timeout_ms: wish.timeout_ms, ..TurnOptions::default() },
            path: Vec::new(),
            at: now,
            expires: None,
            traceparent: None,
        };
        match self.accept(letter).await? {
            Accepted::Stored | Accepted::Duplicate(_) => Ok(Spawned { session: key, run_id }),
        }
    }

    /// Archives sub-agent sessions whose time is over. Called once a minute or so; answers how many.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn tidy_subagents(&self, agent: &AgentId) -> Result<usize, Failure> {
        let room = self.room(agent)?;
        let minutes = self.settings(agent)?.subagents.archive_after_minutes;
        if minutes == 0 {
            return Ok(0);
        }
        let limit = i64::try_from(minutes).unwrap_or(i64::MAX).saturating_mul(60_000);
        let now = self.now();
        let old: Vec<SessionKey> = room
            .rows()
            .iter()
            .filter(|row| row.key.is_subagent() && row.archived_at.is_none() && !row.has_active_run() && row.ended_at.is_some_and(|at| now.since(at) >= limit))
            .map(|row| row.key.clone())
            .collect();
        for key in &old {
            self.patch(key, crate::SessionPatch { archived: Some(true), ..crate::SessionPatch::default() }).await?;
        }
        Ok(old.len())
    }
}

/// A letter for events that no letter started.
pub(crate) fn bare_letter(row: &SessionRow, run_id: &RunId, now: Millis) -> Envelope {
    Envelope {
        id: run_id.as_str().into(),
        run_id: run_id.clone(),
        kind: EnvelopeKind::Event,
        from: Origin::Hook { name: "gateway".into() },
        to: Address { agent: row.agent_id.clone(), session: row.key.clone() },
        reply_to: None,
        cause: None,
        body: Vec::new(),
        options: TurnOptions::default(),
        path: Vec::new(),
        at: now,
        expires: None,
        traceparent: None,
    }
}
