//! The farm: several gateways that act as one.

use serde_json::Value;

use super::system::Nothing;
use crate::method::{methods, params};

params! {
    /// For lists of letters.
    FarmLettersParams { agent?: text, limit?: int(1..) }
    /// One letter.
    FarmLetterRef { id: text }
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
        /// Letters between gateways, newest first, without their bodies.
        Letters: "farm.letters" => fn letters(FarmLettersParams) -> Value, scope: Read;
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
