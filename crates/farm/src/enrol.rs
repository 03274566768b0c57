//! How a gateway becomes one of the farm: it writes a request, the operator who has the farm's root approves it, and the
//! record of its key is what everybody believes from then on.
//!
//! A request proves nothing by itself: whoever may write to the store can make one. The operator compares the key's name
//! (`kid`), or an invitation vouches for it.

use bytes::Bytes;
use clawstead_bus::{CasError, Coord, CoordError};
use clawstead_cluster::keys::{
    ApprovedKey, FarmRoot, GatewayKey, JoinClaim, JoinError, KeyRecord, KeyStatus, kid_of, read_join_token, read_public, write_public,
};
use clawstead_terms::Millis;
use serde::{Deserialize, Serialize};

/// Where requests lie.
pub const REQUESTS: &str = "openclaw/farm/v1/enrol/";
/// Where key records lie.
pub const KEYS: &str = "openclaw/farm/v1/keys/";
/// Where the four signed stages of each approved key lie, for the stages to come.
pub const APPROVED: &str = "openclaw/farm/v1/approved/";

/// A gateway that asks to be one of the farm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The farm.
    pub farm: String,
    /// The gateway.
    pub gateway: String,
    /// The name of its key; what the operator compares.
    pub kid: String,
    /// The key, 32 bytes, base64url.
    #[serde(rename = "pub")]
    pub public: String,
    /// When it asked.
    pub at: Millis,
    /// An invitation, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
}

/// Why an enrolment does not go on.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The store.
    #[error(transparent)]
    Coord(#[from] CoordError),
    /// Somebody else wrote at the same time, or it is not known whether the write happened.
    #[error("{0}; try again")]
    Cas(#[from] CasError),
    /// No such request.
    #[error("no gateway named {gateway} asks to join{waiting}")]
    NoRequest {
        /// The gateway.
        gateway: String,
        /// Those that ask.
        waiting: String,
    },
    /// What lies in the store is not what it should be.
    #[error("{key} in the store cannot be read: {why}")]
    Unreadable {
        /// The key.
        key: String,
        /// Why.
        why: String,
    },
    /// The request is for another farm, or its key does not fit its name.
    #[error("the request of {gateway} is refused: {why}")]
    Refused {
        /// The gateway.
        gateway: String,
        /// Why.
        why: String,
    },
    /// The invitation is not good.
    #[error("the invitation of {gateway} is refused: {why}")]
    Invitation {
        /// The gateway.
        gateway: String,
        /// Why.
        why: JoinError,
    },
    /// The key's life does not allow it.
    #[error("{0}")]
    Stage(String),
}

/// Asks to be one of the farm. Asking again replaces the earlier request of this gateway.
///
/// # Errors
/// When the store does not take it.
pub async fn ask(coord: &dyn Coord, farm: &str, key: &GatewayKey, at: Millis, invitation: Option<String>) -> Result<Request, EnrolError> {
    let request =
        Request { farm: farm.to_owned(), gateway: key.gateway().to_owned(), kid: key.kid().to_owned(), public: write_public(&key.public()), at, invitation };
    coord.put(&format!("{REQUESTS}{}", request.gateway), json(&request)).await?;
    Ok(request)
}

/// Who asks, by name.
///
/// # Errors
/// When the store does not answer.
pub async fn requests(coord: &dyn Coord) -> Result<Vec<Request>, EnrolError> {
    let entries = coord.list(REQUESTS).await?;
    Ok(entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect())
}

/// The request of one gateway.
///
/// # Errors
/// When there is none or the store does not answer.
pub async fn request_of(coord: &dyn Coord, gateway: &str) -> Result<Request, EnrolError> {
    let key = format!("{REQUESTS}{gateway}");
    match coord.get(&key).await? {
        Some(entry) => serde_json::from_slice(&entry.value).map_err(|why| EnrolError::Unreadable { key, why: why.to_string() }),
        None => {
            let names: Vec<String> = requests(coord).await?.into_iter().map(|request| request.gateway).collect();
            let waiting = if names.is_empty() { "; run `openclaw farm enroll` there first".to_owned() } else { format!("; these do: {}", names.join(", ")) };
            Err(EnrolError::NoRequest { gateway: gateway.to_owned(), waiting })
        }
    }
}

/// Vouches for the key of a request: publishes its record, keeps its later stages, removes the request.
///
/// The first key of a gateway is active at once; a later one begins as `next`, and takes its turn in a rotation.
///
/// # Errors
/// When the request does not fit this farm, or the store does not take it.
pub async fn approve(coord: &dyn Coord, farm: &str, root: &FarmRoot, request: &Request, from: Millis, until: Millis) -> Result<KeyRecord, EnrolError> {
    let refused = |why: &str| EnrolError::Refused { gateway: request.gateway.clone(), why: why.to_owned() };
    if request.farm != farm {
        return Err(refused(&format!("it is for the farm {}", request.farm)));
    }
    let public = read_public(&request.public).map_err(|why| refused(&why.to_string()))?;
    if kid_of(&request.gateway, &public) != request.kid {
        return Err(refused("its key and the key's name do not fit"));
    }
    let approved = root.approve(&request.gateway, &public, from, until);
    let earlier = records_of(coord, &request.gateway).await?;
    let first = earlier.iter().all(|record| matches!(record.status, KeyStatus::Revoked | KeyStatus::Retiring));
    let record = approved.stage(if first { KeyStatus::Active } else { KeyStatus::Next }).clone();
    coord.put(&format!("{APPROVED}{}/{}", request.gateway, request.kid), json(&approved)).await?;
    coord.put(&record.store_key(), json(&record)).await?;
    coord.delete(&format!("{REQUESTS}{}", request.gateway), None).await?;
    Ok(record)
}

/// Checks the invitation of a request, and that it was not used before. After this the request may be approved.
///
/// # Errors
/// When it is not one, too old, for somebody else, or used.
pub async fn accept_invitation(coord: &dyn Coord, secret: &[u8; 32], farm: &str, request: &Request, now: Millis) -> Result<JoinClaim, EnrolError> {
    let refused = |why| EnrolError::Invitation { gateway: request.gateway.clone(), why };
    let token = request.invitation.as_deref().ok_or_else(|| refused(JoinError::Invalid))?;
    let claim = read_join_token(secret, farm, &request.gateway, token, now).map_err(refused)?;
    match coord.put_if(&claim.spent_key(), json(&request.kid), None).await {
        Ok(_) => Ok(claim),
        Err(CasError::Conflict { .. }) => Err(refused(JoinError::Spent)),
        Err(other) => Err(other.into()),
    }
}

/// The records of a gateway's keys.
///
/// # Errors
/// When the store does not answer.
pub async fn records_of(coord: &dyn Coord, gateway: &str) -> Result<Vec<KeyRecord>, EnrolError> {
    let entries = coord.list(&format!("{KEYS}{gateway}/")).await?;
    Ok(entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect())
}

/// All key records of the farm.
///
/// # Errors
/// When the store does not answer.
pub async fn all_records(coord: &dyn Coord) -> Result<Vec<KeyRecord>, EnrolError> {
    let entries = coord.list(KEYS).await?;
    Ok(entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect())
}

/// Publishes the next stage of an approved key. Stages only go forward.
///
/// # Errors
/// When the key was never approved, the stage is behind it, or the store does not take it.
pub async fn advance(coord: &dyn Coord, gateway: &str, kid: &str, to: KeyStatus) -> Result<KeyRecord, EnrolError> {
    let place = format!("{APPROVED}{gateway}/{kid}");
    let stored = coord.get(&place).await?.ok_or_else(|| EnrolError::Stage(format!("{kid} was never approved by the farm's root")))?;
    let approved: ApprovedKey = serde_json::from_slice(&stored.value).map_err(|why| EnrolError::Unreadable { key: place, why: why.to_string() })?;
    let record = approved.stage(to).clone();
    let key = record.store_key();
    let now = coord.get(&key).await?;
    if let Some(entry) = &now
        && let Ok(before) = serde_json::from_slice::<KeyRecord>(&entry.value)
    {
        if before.status == to {
            return Ok(before);
        }
        if before.status > to {
            return Err(EnrolError::Stage(format!("{kid} is {:?} already; a key never goes back", before.status)));
        }
    }
    coord.put_if(&key, json(&record), now.map(|entry| entry.version)).await?;
    Ok(record)
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use clawstead_bus::memory::Memory;
    use clawstead_cluster::keys::{FarmRoot, GatewayKey, KeyStatus, issue_join_token, write_public};
    use clawstead_terms::Millis;
    use clawstead_world::SeededRng;

    use super::{EnrolError, accept_invitation, advance, approve, ask, records_of, request_of, requests};

    const NOW: Millis = Millis(1_000_000);
    const LATER: Millis = Millis(9_000_000_000);

    #[tokio::test]
    async fn a_request_is_approved_once_and_its_key_only_goes_forward() {
        let (coord, rng) = (Memory::new().coord("test"), SeededRng::new(1));
        let (root, key) = (FarmRoot::generate(&rng), GatewayKey::generate("jerry-gateway", &rng).unwrap());
        assert!(request_of(&*coord, "jerry-gateway").await.unwrap_err().to_string().contains("farm enroll"));
        let request = ask(&*coord, "octant", &key, NOW, None).await.unwrap();
        assert!(request_of(&*coord, "bobby").await.unwrap_err().to_string().contains("these do: jerry-gateway"));
        let record = approve(&*coord, "octant", &root, &request, NOW, LATER).await.unwrap();
        assert_eq!((record.status, record.kid.as_str()), (KeyStatus::Active, key.kid()));
        assert!(requests(&*coord).await.unwrap().is_empty());

        // The second key waits for its turn.
        let second = GatewayKey::generate("jerry-gateway", &rng).unwrap();
        let request = ask(&*coord, "octant", &second, NOW, None).await.unwrap();
        assert_eq!(approve(&*coord, "octant", &root, &request, NOW, LATER).await.unwrap().status, KeyStatus::Next);
        assert_eq!(advance(&*coord, "jerry-gateway", key.kid(), KeyStatus::Retiring).await.unwrap().status, KeyStatus::Retiring);
        assert!(matches!(advance(&*coord, "jerry-gateway", key.kid(), KeyStatus::Active).await, Err(EnrolError::Stage(_))));
        assert_eq!(records_of(&*coord, "jerry-gateway").await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_request_for_another_farm_or_with_another_key_is_refused() {
        let (coord, rng) = (Memory::new().coord("test"), SeededRng::new(2));
        let (root, key) = (FarmRoot::generate(&rng), GatewayKey::generate("jerry-gateway", &rng).unwrap());
        let request = ask(&*coord, "octant", &key, NOW, None).await.unwrap();
        assert!(approve(&*coord, "other", &root, &request, NOW, LATER).await.is_err());
        let mut forged = request.clone();
        forged.public = write_public(&GatewayKey::generate("jerry-gateway", &rng).unwrap().public());
        assert!(approve(&*coord, "octant", &root, &forged, NOW, LATER).await.unwrap_err().to_string().contains("do not fit"));
        assert!(records_of(&*coord, "jerry-gateway").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_invitation_is_good_once() {
        let (coord, rng, secret) = (Memory::new().coord("test"), SeededRng::new(3), [7; 32]);
        let key = GatewayKey::generate("jerry-gateway", &rng).unwrap();
        let token = issue_join_token(&secret, "octant", "jerry-gateway", NOW, &rng);
        let request = ask(&*coord, "octant", &key, NOW, Some(token)).await.unwrap();
        assert!(accept_invitation(&*coord, &secret, "octant", &request, NOW).await.is_ok());
        let again = accept_invitation(&*coord, &secret, "octant", &request, NOW).await.unwrap_err();
        assert!(again.to_string().contains("refused"), "{again}");
        assert!(accept_invitation(&*coord, &[8; 32], "octant", &request, NOW).await.is_err());
    }
}
