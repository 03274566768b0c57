//! The certificates of links between gateways.
//!
//! A gateway issues its certificate itself, with its own key. What makes it worth anything is the key record that the
//! farm's root signed when the key was approved: a certificate is believed exactly when its public key is a key of that
//! gateway in the [`KeyRing`] (`next`, `active` or `retiring`, within the record's times, and the ring not too old), it
//! is signed with that key, and its own seven days hold. The root cannot issue certificates that live for days, because
//! it is kept offline; its signature on the record takes the place of an issuer's, and a revoked record ends the
//! certificate with it, without a revocation list.
//!
//! Nothing here runs on a timer: the certificate is looked at when a handshake asks for it and renewed there, once two
//! thirds of its life are over.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clawstead_cluster::{
    Now,
    envelope::Refusal,
    keys::{GatewayKey, KeyRing, kid_of},
};
use clawstead_terms::Millis;
use clawstead_world::{Clock, Rng};
use ed25519_dalek::VerifyingKey;
use rustls::{
    Error as TlsError, SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, Signer, SigningKey},
};
use thiserror::Error;

/// How long a certificate is valid, ms: seven days.
pub const CERTIFICATE_LIFE_MS: i64 = 7 * 86_400_000;
/// Age at which the next one is made, ms: two thirds of its life.
pub const CERTIFICATE_RENEW_MS: i64 = CERTIFICATE_LIFE_MS / 3 * 2;
/// How far the clocks of two gateways may be apart, ms; the same bound as for letters.
pub const SKEW_MS: i64 = clawstead_cluster::envelope::SKEW_MAX_MS.cast_signed();
/// What the names in certificates end with.
const DOMAIN: &str = ".openclaw.internal";
/// Public key info of Ed25519 as DER, without the key.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a certificate is not issued or not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// It could not be made; names or key do not fit.
    #[error("no certificate for {name}: {why}")]
    Issue {
        /// The name it was for.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// It is not one of a gateway.
    #[error("the certificate is none of a gateway: {0}")]
    Foreign(String),
    /// Another gateway answered.
    #[error("the certificate is for {theirs}, and {wanted} was called: does the directory give the right address?")]
    OtherGateway {
        /// Who was wanted.
        wanted: String,
        /// Whose it is.
        theirs: String,
    },
    /// The key ring does not know the key, or knows that it is over.
    #[error("the certificate of {gateway} is not believed: {why}")]
    Key {
        /// Whose it says it is.
        gateway: String,
        /// What the key ring says.
        why: String,
    },
    /// The key ring is too old to be asked.
    #[error("the certificate of {gateway} cannot be judged: {why}")]
    Stale {
        /// Whose it says it is.
        gateway: String,
        /// What the key ring says.
        why: String,
    },
    /// Its signature or its times do not hold.
    #[error("the certificate of {gateway} does not hold: {why}; compare the clocks")]
    Invalid {
        /// Whose it says it is.
        gateway: String,
        /// What is wrong.
        why: String,
    },
}

/// What is known of keys and time, whenever a certificate is looked at.
pub trait Keys: Send + Sync {
    /// The key ring as it is now.
    fn ring(&self) -> Arc<KeyRing>;
    /// The times as they are now.
    fn now(&self) -> Now;
}

/// The name in the certificate of a gateway.
#[must_use]
pub fn certificate_name(gateway: &str, farm: &str) -> String {
    format!("{gateway}.{farm}{DOMAIN}")
}

/// Whose a certificate says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The gateway.
    pub gateway: String,
    /// Its farm, as it says; the key decides whether it belongs to ours.
    pub farm: String,
    /// The key.
    pub key: VerifyingKey,
    /// The certificate's number, hex.
    pub serial: String,
}

impl Presented {
    /// Reads a certificate, believing nothing.
    ///
    /// # Errors
    /// [`CertificateError::Foreign`] when it is none of a gateway.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let foreign = |why: &str| CertificateError::Foreign(why.to_owned());
        let read = webpki::EndEntityCert::try_from(certificate).map_err(|err| foreign(&err.to_string()))?;
        let mut names = read.valid_dns_names();
        let (Some(name), None) = (names.next(), names.next()) else { return Err(foreign("it has not exactly one name")) };
        let labels = name.strip_suffix(DOMAIN).and_then(|rest| rest.split_once('.'));
        let Some((gateway, farm)) = labels.filter(|(gateway, farm)| is_label(gateway) && is_label(farm)) else {
            return Err(foreign("its name is not like <gateway>.<farm>.openclaw.internal"));
        };
        let info = read.subject_public_key_info();
        let key = info.as_ref().strip_prefix(&SPKI).and_then(|raw| <[u8; 32]>::try_from(raw).ok());
        let key = key.and_then(|raw| VerifyingKey::from_bytes(&raw).ok()).ok_or_else(|| foreign("its key is no Ed25519 key"))?;
        let serial = read.serial().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { gateway: gateway.to_owned(), farm: farm.to_owned(), key, serial })
    }

    /// Does the key ring vouch for this key?
    ///
    /// # Errors
    /// [`CertificateError::Key`] with what the ring says; [`CertificateError::Stale`] when it is too old.
    pub fn check_key(&self, keys: &dyn Keys) -> Result<(), CertificateError> {
        let refused = |why: String| CertificateError::Key { gateway: self.gateway.clone(), why };
        let (ring, kid) = (keys.ring(), kid_of(&self.gateway, &self.key));
        let known = ring.key(&kid, &self.gateway, keys.now()).map_err(|err| match err {
            Refusal::KeysStale { .. } => CertificateError::Stale { gateway: self.gateway.clone(), why: err.to_string() },
            other => refused(other.to_string()),
        })?;
        // The name of a key holds only a part of its hash.
        if *known == self.key { Ok(()) } else { Err(refused(format!("the key {kid} is another one"))) }
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The key it is for and signed with.
    pub kid: String,
    /// Its number, hex.
    pub serial: String,
    /// When it was made.
    pub not_before: Millis,
    /// When it ends.
    pub not_after: Millis,
}

/// This gateway's key and the certificate it has at the moment.
pub struct Identity {
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    name: String,
    held: Mutex<Held>,
}

struct Held {
    key: GatewayKey,
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).field("validity", &self.validity()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes the first certificate.
    ///
    /// # Errors
    /// [`CertificateError::Issue`] when the names do not fit into one.
    pub fn new(farm: &str, key: GatewayKey, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Result<Self, CertificateError> {
        let name = certificate_name(key.gateway(), farm);
        let held = Mutex::new(issue(&name, key, clock.now(), &*rng)?);
        Ok(Self { clock, rng, name, held })
    }

    /// Signs with another key from the next handshake on.
    ///
    /// # Errors
    /// When it is another gateway's, or no certificate can be made; the old one stays then.
    pub fn set_key(&self, key: GatewayKey) -> Result<(), CertificateError> {
        let mut held = self.lock();
        if key.gateway() != held.key.gateway() {
            return Err(CertificateError::OtherGateway { wanted: held.key.gateway().to_owned(), theirs: key.gateway().to_owned() });
        }
        *held = issue(&self.name, key, self.clock.now(), &*self.rng)?;
        Ok(())
    }

    /// What is shown to peers now.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.lock().validity.clone()
    }

    /// The certificate for a handshake, renewed when it is due. A clock that was set back makes a new one as well.
    fn current(&self) -> Arc<CertifiedKey> {
        let mut held = self.lock();
        let (now, made) = (self.clock.now(), held.validity.not_before);
        if now.0 - made.0 >= CERTIFICATE_RENEW_MS || now < made.plus(-SKEW_MS) {
            match issue(&self.name, held.key.clone(), now, &*self.rng) {
                Ok(next) => {
                    tracing::info!(kid = %next.validity.kid, serial = %next.validity.serial, "the certificate for links was renewed");
                    *held = next;
                }
                Err(err) => tracing::error!(%err, "the certificate for links could not be renewed; the old one is shown"),
            }
        }
        held.certified.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _root_hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        schemes.contains(&SignatureScheme::ED25519).then(|| self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn issue(name: &str, key: GatewayKey, now: Millis, rng: &dyn Rng) -> Result<Held, CertificateError> {
    let failed = |why: rcgen::Error| CertificateError::Issue { name: name.to_owned(), why: why.to_string() };
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    let date = |at: Millis| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(at.0 / 1000).unwrap_or(0));
    let not_after = now.plus(CERTIFICATE_LIFE_MS);
    (params.not_before, params.not_after) = (date(now), date(not_after));
    let mut serial = [0; 16];
    rng.fill(&mut serial);
    // Positive and not beginning with zero.
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, key.kid());
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let signing = Signing { public: key.public(), key: key.clone() };
    let certificate = params.self_signed(&signing).map_err(failed)?;
    let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    let validity = Validity { kid: key.kid().to_owned(), serial, not_before: now, not_after };
    Ok(Held { key, certified: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], Arc::new(signing))), validity })
}

/// The gateway's key as TLS and the certificate's maker use it; the secret never leaves it.
#[derive(Clone, Debug)]
struct Signing {
    public: VerifyingKey,
    key: GatewayKey,
}

impl Signing {
    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(self.key.sign(message)).ok()
    }
}

impl rcgen::PublicKeyData for Signing {
    fn der_bytes(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).ok_or(rcgen::Error::RemoteKeyError)
    }
}

impl SigningKey for Signing {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TlsError> {
        self.signature(message).ok_or_else(|| TlsError::General("the gateway's key does not sign".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}
