//! The store as the gateway's rooms use it; see [`clawstead_state::keeper`].

pub use clawstead_state::keeper::{Claims, Keeper, sort};
