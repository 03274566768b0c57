//! What operators want, written where every gateway sees it: an order gives one unit to a gateway, a drain empties one.

use clawstead_bus::{CasError, Coord, CoordError};
use clawstead_terms::{Millis, Unit};
use serde::{Deserialize, Serialize};

/// Where orders lie, one for each unit.
pub const ORDERS: &str = "openclaw/farm/v1/orders/";
/// Where drains lie, one for each gateway.
pub const DRAINS: &str = "openclaw/farm/v1/drains/";

/// A unit is to go to a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The gateway.
    pub to: String,
    /// When it was wanted.
    pub at: Millis,
    /// The gateway whose operator wanted it.
    pub by: String,
}

/// A gateway is to have nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when.
    pub at: Millis,
    /// The gateway whose operator wanted it.
    pub by: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Where the order for a unit lies.
pub(super) fn order_key(unit: &Unit) -> String {
    format!("{ORDERS}{unit}")
}

/// Removes a key, whatever it is.
pub(super) async fn delete(coord: &dyn Coord, key: &str) -> Result<(), CoordError> {
    match coord.delete(key, None).await {
        Ok(()) | Err(CasError::Conflict { .. }) => Ok(()),
        Err(CasError::Unknown(err) | CasError::Coord(err)) => Err(err),
    }
}
