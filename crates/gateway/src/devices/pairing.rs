//! Who may connect with a device, and what happens when it may not yet.

use serde_json::{Value, json};

use clawstead_state::{Batch, Table, TxError};
use clawstead_terms::Unit;
use clawstead_wire::{
    ErrorShape,
    connect::{ClientInfo, Refusal},
    event::{PairDecision, PairRequest, PairResolved},
    scope::covers,
};

use super::{DeviceToken, Devices, IssuedToken, PENDING_MAX, PENDING_MS, PairedDevice, common::changing};

/// A device that proved its key and asks to come in.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Its id.
    pub device_id: &'a str,
    /// Its raw key, base64url.
    pub public_key: &'a str,
    /// What it says of itself.
    pub client: &'a ClientInfo,
    /// The role it wants.
    pub role: &'a str,
    /// The scopes it wants.
    pub scopes: &'a [String],
    /// Its address, when not local.
    pub remote_ip: Option<String>,
}

/// Whether a pairing may be approved without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// It comes from here, with the shared secret: yes.
    Silent,
    /// An owner must say yes.
    ByOwner,
}

/// Why a device needs an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is new.
    NotPaired,
    /// It wants another role.
    Role,
    /// It wants more scopes.
    Scope,
    /// It says it is something else than before.
    Metadata,
}

impl Need {
    const fn reason(self) -> &'static str {
        match self {
            Self::NotPaired => "not-paired",
            Self::Role => "role-upgrade",
            Self::Scope => "scope-upgrade",
            Self::Metadata => "metadata-upgrade",
        }
    }

    const fn tail(self) -> &'static str {
        match self {
            Self::NotPaired => "device is not approved yet",
            Self::Role => "device is asking for a higher role than currently approved",
            Self::Scope => "device is asking for more scopes than currently approved",
            Self::Metadata => "device identity changed and must be re-approved",
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::NotPaired => "Approve this device from the pending pairing requests.",
            Self::Role => "Review the requested role upgrade, then approve the pending request.",
            Self::Scope => "Review the requested scopes, then approve the pending upgrade.",
            Self::Metadata => "Review the refreshed device details, then approve the pending request.",
        }
    }
}

/// What comes of a claim.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once for each connection")]
pub enum Verdict {
    /// Come in, with this token for the next time. `resolved` is there when this connect approved it.
    Admitted {
        /// The token.
        token: IssuedToken,
        /// To be broadcast.
        resolved: Option<PairResolved>,
    },
    /// Not yet.
    Refused {
        /// The answer.
        refusal: Refusal,
        /// To be broadcast, when the request is new.
        requested: Option<PairRequest>,
    },
}

/// What an owner says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Approve,
    /// No.
    Reject,
}

fn normal(text: Option<&str>) -> Option<String> {
    text.map(|t| t.trim().to_ascii_lowercase()).filter(|t| !t.is_empty())
}

/// What a device still needs.
#[must_use]
pub fn need(device: Option<&PairedDevice>, claim: &Claim<'_>) -> Option<Need> {
    let Some(device) = device else { return Some(Need::NotPaired) };
    if device.public_key != claim.public_key {
        return Some(Need::NotPaired);
    }
    // Only what was pinned at the approval can change; a device that told nothing then may tell it now.
    let changed = |pinned: &Option<String>, now: Option<&str>| normal(pinned.as_deref()).is_some_and(|pinned| normal(now) != Some(pinned));
    if changed(&device.platform, Some(&claim.client.platform)) || changed(&device.device_family, claim.client.device_family.as_deref()) {
        return Some(Need::Metadata);
    }
    if !device.roles.iter().any(|role| role == claim.role) {
        return Some(Need::Role);
    }
    let no_token = device.tokens.get(claim.role).is_none_or(|token| token.revoked_at_ms.is_some());
    if no_token || !covers(&device.scopes, claim.scopes) {
        return Some(Need::Scope);
    }
    None
}

impl Devices {
    /// Decides about a device whose key and credentials were checked.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn admit(&self, claim: &Claim<'_>, grant: Grant) -> Result<Verdict, TxError> {
        if let Some(admitted) = self.admit_known(claim) {
            return Ok(admitted);
        }
        changing!(self, {
            let device = self.find(claim.device_id);
            let Some(need) = need(device.as_ref(), claim) else {
                // Approved while we waited.
                return Ok(self.admit_known(claim).unwrap_or_else(|| Verdict::Refused { refusal: internal(), requested: None }));
            };
            if grant == Grant::Silent && need != Need::Metadata {
                let now = self.now();
                let (approved, token) = self.approved(device, &self.request(claim, need), "silent", now);
                self.write_device(approved, None).await?;
                let resolved =
                    PairResolved { request_id: self.world.rng.uuid(), device_id: claim.device_id.to_owned(), decision: PairDecision::Approved, ts: self.now() };
                return Ok(Verdict::Admitted { token, resolved: Some(resolved) });
            }
            let (request, is_new) = self.pend(self.request(claim, need)).await?;
            let refusal = refusal(need, &request, device.as_ref());
            Ok(Verdict::Refused { refusal, requested: is_new.then_some(request) })
        })
    }

    fn admit_known(&self, claim: &Claim<'_>) -> Option<Verdict> {
        let device = self.find(claim.device_id)?;
        if need(Some(&device), claim).is_some() {
            return None;
        }
        let held = device.tokens.get(claim.role)?;
        let token = IssuedToken { token: held.token.clone(), issued_at_ms: held.issued_at_ms(), scopes: held.scopes.clone() };
        Some(Verdict::Admitted { token, resolved: None })
    }

    fn request(&self, claim: &Claim<'_>, need: Need) -> PairRequest {
        PairRequest {
            request_id: self.world.rng.uuid(),
            device_id: claim.device_id.to_owned(),
            public_key: claim.public_key.to_owned(),
            platform: Some(claim.client.platform.clone()),
            device_family: claim.client.device_family.clone(),
            client_id: claim.client.id.as_str().to_owned(),
            client_mode: claim.client.mode.as_str().to_owned(),
            role: claim.role.to_owned(),
            roles: vec![claim.role.to_owned()],
            scopes: claim.scopes.to_vec(),
            remote_ip: claim.remote_ip.clone(),
            silent: false,
            is_repair: (need != Need::NotPaired).then_some(true),
            ts: self.now(),
        }
    }

    /// A paired device asks for more scopes. Nothing is pending (`None`) when it has them already.
    ///
    /// # Errors
    /// When the device is not paired, or the store cannot be written.
    pub async fn ask_for_scopes(&self, device_id: &str, scopes: &[String]) -> Result<(Option<PairRequest>, bool), ErrorShape> {
        let asked = self.ask_again(device_id, scopes).await.map_err(|err| store_error(&err))?;
        asked.ok_or_else(|| ErrorShape::invalid("unknown deviceId"))
    }

    /// As [`Self::ask_for_scopes`]; none for a device that is not paired.
    async fn ask_again(&self, device_id: &str, scopes: &[String]) -> Result<Option<(Option<PairRequest>, bool)>, TxError> {
        changing!(self, {
            let Some(device) = self.find(device_id) else { return Ok(None) };
            if covers(&device.scopes, scopes) {
                return Ok(Some((None, false)));
            }
            let fresh = PairRequest {
                request_id: self.world.rng.uuid(),
                device_id: device.device_id,
                public_key: device.public_key,
                platform: device.platform,
                device_family: device.device_family,
                client_id: device.client_id,
                client_mode: device.client_mode,
                role: "operator".into(),
                roles: vec!["operator".into()],
                scopes: scopes.to_vec(),
                remote_ip: None,
                silent: false,
                is_repair: Some(true),
                ts: self.now(),
            };
            self.pend(fresh).await.map(|(request, is_new)| Some((Some(request), is_new)))
        })
    }

    /// Stores a request, or finds the same one that waits already.
    async fn pend(&self, fresh: PairRequest) -> Result<(PairRequest, bool), TxError> {
        let same = |old: &PairRequest| {
            old.device_id == fresh.device_id
                && old.role == fresh.role
                && old.scopes == fresh.scopes
                && old.platform == fresh.platform
                && old.device_family == fresh.device_family
        };
        let waiting = self.pending();
        if let Some(old) = waiting.iter().find(|old| same(old)) {
            return Ok((old.clone(), false));
        }
        let mut batch = Batch::new(Unit::Global).put_json(Table::Devices, format!("pending/{}", fresh.request_id), &fresh)?;
        let mut gone: Vec<String> = {
            let index = self.lock();
            // Expired ones, and older requests of the same device: the newest counts.
            index.pending.values().filter(|old| fresh.ts - old.ts >= PENDING_MS || old.device_id == fresh.device_id).map(|old| old.request_id.clone()).collect()
        };
        gone.extend(waiting.iter().skip(PENDING_MAX - 1).map(|old| old.request_id.clone()));
        for request in &gone {
            batch = batch.delete(Table::Devices, format!("pending/{request}"));
        }
        self.commit(batch).await?;
        let mut index = self.lock();
        index.pending.retain(|id, _| !gone.contains(id));
        index.pending.insert(fresh.request_id.clone(), fresh.clone());
        Ok((fresh, true))
    }

    /// The device as it is after an approval, with a new token for the role asked for.
    fn approved(&self, device: Option<PairedDevice>, request: &PairRequest, via: &str, now: i64) -> (PairedDevice, IssuedToken) {
        let mut device = device.filter(|d| d.public_key == request.public_key).unwrap_or_else(|| PairedDevice {
            device_id: request.device_id.clone(),
            public_key: request.public_key.clone(),
            display_name: None,
            platform: None,
            device_family: None,
            client_id: request.client_id.clone(),
            client_mode: request.client_mode.clone(),
            role: request.role.clone(),
            roles: Vec::new(),
            scopes: Vec::new(),
            approved_via: via.to_owned(),
            created_at_ms: now,
            approved_at_ms: now,
            last_seen_at_ms: request.ts,
            tokens: std::collections::BTreeMap::new(),
        });
        device.platform.clone_from(&request.platform);
        device.device_family.clone_from(&request.device_family);
        device.client_id.clone_from(&request.client_id);
        device.client_mode.clone_from(&request.client_mode);
        device.role.clone_from(&request.role);
        device.approved_via = via.to_owned();
        device.approved_at_ms = now;
        if !device.roles.contains(&request.role) {
            device.roles.push(request.role.clone());
        }
        for scope in &request.scopes {
            if !device.scopes.contains(scope) {
                device.scopes.push(scope.clone());
            }
        }
        let old = device.tokens.get(&request.role);
        let mut scopes: Vec<String> = if request.role == "operator" { device.scopes.clone() } else { Vec::new() };
        scopes.sort();
        let token = DeviceToken {
            token: self.new_token(),
            role: request.role.clone(),
            scopes,
            created_at_ms: old.map_or(now, |t| t.created_at_ms),
            rotated_at_ms: old.map(|_| now),
            revoked_at_ms: None,
        };
        let issued = IssuedToken { token: token.token.clone(), issued_at_ms: now, scopes: token.scopes.clone() };
        device.tokens.insert(request.role.clone(), token);
        (device, issued)
    }

    /// Decides about a pending request. `approver` are the scopes of whoever decides: nobody can give away what
    /// he does not have.
    ///
    /// # Errors
    /// When there is no such request, the approver may not, or the store cannot be written.
    pub async fn decide(&self, request_id: &str, decision: Decision, approver: &[String]) -> Result<(PairRequest, Option<PairedDevice>), ErrorShape> {
        let decided = self.decide_now(request_id, decision, approver).await;
        decided.map_err(|err| store_error(&err))?
    }

    /// As [`Self::decide`]; the inner error says why it may not be decided so.
    async fn decide_now(
        &self,
        request_id: &str,
        decision: Decision,
        approver: &[String],
    ) -> Result<Result<(PairRequest, Option<PairedDevice>), ErrorShape>, TxError> {
        changing!(self, {
            let Some(request) = self.pending().into_iter().find(|request| request.request_id == request_id) else {
                return Ok(Err(ErrorShape::invalid("unknown requestId")));
            };
            match decision {
                Decision::Approve => {
                    if let Some(scope) = request.scopes.iter().find(|scope| !covers(approver, &[scope.as_str()])) {
                        return Ok(Err(ErrorShape::missing_scope(scope)));
                    }
                    let (device, _) = self.approved(self.find(&request.device_id), &request, "owner", self.now());
                    self.write_device(device.clone(), Some(request_id)).await?;
                    Ok(Ok((request, Some(device))))
                }
                Decision::Reject => {
                    self.commit(Batch::new(Unit::Global).delete(Table::Devices, format!("pending/{request_id}"))).await?;
                    self.lock().pending.remove(request_id);
                    Ok(Ok((request, None)))
                }
            }
        })
    }
}

/// What a store that cannot be written says to a client.
#[must_use]
pub fn store_error(err: &TxError) -> ErrorShape {
    ErrorShape::retry(format!("the device register could not be written: {err}"), 1000)
}

fn internal() -> Refusal {
    Refusal::policy(ErrorShape::retry("the device changed while it connected; try again", 500))
}

fn refusal(need: Need, request: &PairRequest, device: Option<&PairedDevice>) -> Refusal {
    let message = format!("pairing required: {}", need.tail());
    let mut details = json!({
        "code": "PAIRING_REQUIRED",
        "reason": need.reason(),
        "requestId": request.request_id,
        "remediationHint": need.hint(),
        "deviceId": request.device_id,
        "requestedRole": request.role,
        "requestedScopes": request.scopes,
    });
    if let Some(device) = device {
        details["approvedRoles"] = json!(device.roles);
        let mut scopes = device.scopes.clone();
        scopes.sort();
        details["approvedScopes"] = json!(scopes);
    }
    if request.client_id == "openclaw-control-ui" {
        details["recommendedNextStep"] = Value::from("wait_then_retry");
        details["retryable"] = true.into();
        details["pauseReconnect"] = false.into();
    }
    let close_reason = format!("{message} (requestId: {})", request.request_id);
    Refusal { error: ErrorShape::new("NOT_PAIRED", message).with_details(details), close_code: clawstead_wire::limits::close::POLICY, close_reason }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawstead_state::{MemoryStore, claim_next};
    use clawstead_terms::Unit;
    use clawstead_wire::connect::{ClientId, ClientInfo, ClientMode};
    use clawstead_world::World;

    use super::{Claim, Decision, Devices, Grant, Verdict};

    async fn register() -> (Arc<MemoryStore>, Devices) {
        let store = Arc::new(MemoryStore::new());
        let fence = claim_next(&*store, &Unit::Global, "test", 1).await.unwrap();
        let devices = Devices::load(store.clone(), fence, World::simulated(1)).await.unwrap();
        (store, devices)
    }

    fn client(platform: &str) -> ClientInfo {
        ClientInfo {
            id: ClientId::Cli,
            display_name: None,
            version: "1".into(),
            build_id: None,
            platform: platform.into(),
            device_family: None,
            model_identifier: None,
            time_zone: None,
            mode: ClientMode::Cli,
            instance_id: None,
        }
    }

    async fn ask(devices: &Devices, platform: &str, scopes: &[&str], grant: Grant) -> Result<super::IssuedToken, serde_json::Value> {
        let (client, scopes) = (client(platform), scopes.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let claim = Claim { device_id: "d", public_key: "k", client: &client, role: "operator", scopes: &scopes, remote_ip: None };
        match devices.admit(&claim, grant).await.unwrap() {
            Verdict::Admitted { token, .. } => Ok(token),
            Verdict::Refused { refusal, .. } => Err(refusal.error.details.unwrap()),
        }
    }

    #[tokio::test]
    async fn a_local_device_is_paired_silently_and_keeps_its_token() {
        let (store, devices) = register().await;
        let first = ask(&devices, "linux", &["operator.read"], Grant::Silent).await.ok().unwrap();
        let again = ask(&devices, "linux", &["operator.read"], Grant::ByOwner).await.ok().unwrap();
        assert!(first == again);
        let more = ask(&devices, "linux", &["operator.write"], Grant::Silent).await.ok().unwrap();
        assert!(more.token != first.token && more.scopes == ["operator.read", "operator.write"]);
        assert!(devices.check_token("d", "operator", &more.token).is_some() && devices.check_token("d", "operator", &first.token).is_none());
        // A restart finds everything again.
        let fence = claim_next(&*store, &Unit::Global, "test", 2).await.unwrap();
        let after = Devices::load(store, fence, World::simulated(2)).await.unwrap();
        assert!(after.check_token("d", "operator", &more.token).is_some());
    }

    #[tokio::test]
    async fn a_change_of_platform_waits_for_the_owner() {
        let (_store, devices) = register().await;
        assert!(ask(&devices, "linux", &["operator.read"], Grant::Silent).await.is_ok());
        let details = ask(&devices, "darwin", &["operator.read"], Grant::Silent).await.err().unwrap();
        assert_eq!((details["reason"].as_str(), details["approvedScopes"][0].as_str()), (Some("metadata-upgrade"), Some("operator.read")));
        let same = ask(&devices, "darwin", &["operator.read"], Grant::Silent).await.err().unwrap();
        assert_eq!(same["requestId"], details["requestId"]);
        let request = details["requestId"].as_str().unwrap();
        let err = devices.decide(request, Decision::Approve, &["operator.pairing".into()]).await.unwrap_err();
        assert_eq!(err.message, "missing scope: operator.read");
        assert!(devices.decide(request, Decision::Approve, &["operator.admin".into()]).await.is_ok());
        assert!(ask(&devices, "darwin", &["operator.read"], Grant::ByOwner).await.is_ok());
        assert!(devices.decide(request, Decision::Reject, &["operator.admin".into()]).await.is_err());
    }

    #[tokio::test]
    async fn a_remote_device_waits_and_a_revoked_token_needs_a_new_approval() {
        let (_store, devices) = register().await;
        let details = ask(&devices, "linux", &["operator.read"], Grant::ByOwner).await.err().unwrap();
        assert_eq!(details["reason"], "not-paired");
        devices.decide(details["requestId"].as_str().unwrap(), Decision::Approve, &["operator.admin".into()]).await.unwrap();
        let token = ask(&devices, "linux", &["operator.read"], Grant::ByOwner).await.ok().unwrap();
        assert!(devices.revoke("d", "operator").await.unwrap().is_some());
        assert!(devices.check_token("d", "operator", &token.token).is_none());
        assert!(ask(&devices, "linux", &["operator.read"], Grant::ByOwner).await.is_err());
        assert!(devices.rotate("d", "operator", None).await.unwrap().is_some());
        assert!(ask(&devices, "linux", &["operator.read"], Grant::ByOwner).await.is_ok());
        assert!(devices.remove("d").await.unwrap() && !devices.remove("d").await.unwrap());
    }
}
