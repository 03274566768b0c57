//! The farm: several gateways that act as one.

use serde_json::Value;

use super::system::Nothing;
use crate::method::{methods, params};

params! {
    /// For lists of letters.
    FarmLettersParams { agent?: text, limit?: int(1..) }
    /// For events: those after number `after`, or the newest.
    FarmEventsParams { after?: int(0..), limit?: int(1..) }
    /// One letter.
    FarmLetterRef { id: text }
    /// A unit (an agent's id, `chan.<channel>.<account>`) and the gateway it is to go to.
    FarmMoveParams { unit: text, to: text }
    /// A unit: an agent's id, or `chan.<channel>.<account>`.
    FarmUnitRef { unit: text }
    /// A gateway that is to have nothing; with `undo` it may have units again.
    FarmDrainParams { gateway: text, undo?: bool, why?: String }
}

methods! {
    /// The farm: several gateways that act as one.
    trait FarmApi {
        /// Engines, gateways, agents, letters and problems at a glance.
        Status: "farm.status" => fn status(Nothing) -> Value, scope: Read;
        /// Gateways, who of them is healthy and since when.
        Gateways: "farm.gateways" => fn gateways(Nothing) -> Value, scope: Read;
        /// Agents of all gateways.
        Agents: "farm.agents" => fn agents(Nothing) -> Value, scope: Read;
        /// Which gateway owns what, under which epoch; what is drained, what needs an operator.
        Shards: "farm.shards" => fn shards(Nothing) -> Value, scope: Read;
        /// Gives an agent or a channel account to a gateway in order: running turns end first.
        Move: "farm.move" => fn move_unit(FarmMoveParams) -> Value, scope: Admin;
        /// Gives a unit a new ownership record that nobody owns, for a coordination store that lost records.
        Repair: "farm.repair" => fn repair(FarmUnitRef) -> Value, scope: Admin;
        /// Empties a gateway in order, for maintenance, or lets it have units again.
        Drain: "farm.drain" => fn drain(FarmDrainParams) -> Value, scope: Admin;
        /// Letters between gateways, newest first, without their bodies.
        Letters: "farm.letters" => fn letters(FarmLettersParams) -> Value, scope: Read;
        /// What happened: events of letters, members, keys and shards, oldest first, and the number of the newest.
        Events: "farm.events" => fn events(FarmEventsParams) -> Value, scope: Read;
        /// One letter with its life.
        Letter: "farm.letter" => fn letter(FarmLetterRef) -> Value, scope: Read;
        /// Letters that were given up, newest first.
        DlqList: "farm.dlq.list" => fn dlq_list(FarmLettersParams) -> Value, scope: Read;
        /// One of them with its body.
        DlqShow: "farm.dlq.show" => fn dlq_show(FarmLetterRef) -> Value, scope: Admin;
        /// Sends a new letter in its place.
        DlqReplay: "farm.dlq.replay" => fn dlq_replay(FarmLetterRef) -> Value, scope: Admin;
        /// Removes it for good.
        DlqDrop: "farm.dlq.drop" => fn dlq_drop(FarmLetterRef) -> Value, scope: Admin;
    }
}
