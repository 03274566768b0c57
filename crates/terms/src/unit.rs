use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AccountId, AgentId, ChannelId};

/// Something that must run in one place only: the unit of ownership, fencing and take-over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Unit {
    /// An agent with its sessions, transcripts, cron jobs, runs, inbox and outbox.
    Agent(AgentId),
    /// A channel account with its cursor, credentials and delivery queue.
    Account(ChannelId, AccountId),
    /// What belongs to the whole gateway or farm: pairings, devices, approvals, cron clock.
    Global,
    /// What belongs to one gateway of a farm, by its name, on a store that the farm shares: letters and programs of its
    /// hub, health of models, what it took over. Code of a gateway says [`Self::Global`]; the shared store knows.
    House(String),
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(id) => write!(f, "agent.{id}"),
            Self::Account(channel, account) => write!(f, "chan.{channel}.{account}"),
            Self::Global => f.write_str("global"),
            Self::House(gateway) => write!(f, "gateway.{gateway}"),
        }
    }
}

impl Unit {
    /// Reads the text form that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "global" {
            return Some(Self::Global);
        }
        if let Some(id) = text.strip_prefix("agent.") {
            return AgentId::parse(id).ok().map(Self::Agent);
        }
        if let Some(gateway) = text.strip_prefix("gateway.") {
            return (!gateway.is_empty()).then(|| Self::House(gateway.to_owned()));
        }
        let (channel, account) = text.strip_prefix("chan.")?.split_once('.')?;
        Some(Self::Account(channel.into(), account.into()))
    }
}

/// The right to write for a unit: a number that only grows, with its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Grows by one with every change of owner or incarnation.
    pub epoch: u64,
    /// The gateway that holds it.
    pub owner: String,
    /// Bumped at each start of that gateway.
    pub incarnation: u64,
}

#[cfg(test)]
mod tests {
    use super::Unit;
    use crate::AgentId;

    #[test]
    fn text_and_back() {
        let units = [Unit::Agent(AgentId::normalise("jerry")), Unit::Account("slack".into(), "a.b".into()), Unit::Global, Unit::House("jerry-gateway".into())];
        for unit in units {
            assert_eq!(Unit::parse(&unit.to_string()), Some(unit));
        }
        assert_eq!(Unit::parse("gateway."), None);
        assert_eq!(Unit::parse("house"), None);
    }
}
