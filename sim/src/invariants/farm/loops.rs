//! I8: no letter passes more gateways than it may, and none twice.

use crate::farm::ledger::Carried;

pub fn carried(carried: &Carried<'_>) -> Vec<String> {
    let letter = carried.envelope;
    let hops = &letter.hop.hops;
    let mut faults = Vec::new();
    if hops.len() > letter.max_hops() {
        faults.push(format!("{} sent {} on after {} gateways of {}", carried.by, letter.message_id, hops.len(), letter.max_hops()));
    }
    if hops.iter().enumerate().any(|(at, gateway)| hops[..at].contains(gateway)) {
        faults.push(format!("{} sent {} in a ring: {hops:?}", carried.by, letter.message_id));
    }
    faults
}
