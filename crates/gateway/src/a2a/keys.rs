//! What signs agent cards: the key of the farm, else that of the device, and the files of `a2a.signing.keys`.

use std::{path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use clawstead_a2a::{
    server::KEYS_PATH,
    sign::{Algorithm, CardKey, CardPublicKey},
};
use clawstead_cluster::keys::{GatewayKey, kid_of};
use clawstead_config::A2aSigning;
use clawstead_farm::Farm;
use clawstead_terms::Failure;

/// Keys from files.
///
/// # Errors
/// When a file cannot be read or is no key: cards that others cannot check are not served as if they could.
pub(super) fn of_files(signing: &A2aSigning, public_url: &str) -> Result<Vec<Arc<CardKey>>, Failure> {
    let read = |key: &clawstead_config::A2aSigningKey| {
        let wrong = |path: &Path, why: String| Failure::invalid(format!("a2a.signing: {}: {why}", path.display()));
        let text = std::fs::read_to_string(&key.file).map_err(|err| wrong(&key.file, err.to_string()))?;
        let made = CardKey::from_pem(key.kid.as_deref(), &text).map_err(|err| wrong(&key.file, err.to_string()))?;
        Ok(Arc::new(made.published_at(format!("{}{KEYS_PATH}", public_url.trim_end_matches('/')))))
    };
    signing.keys.iter().map(read).collect()
}

/// The gateway's key in the farm as a key of cards; as it is now, since it rotates.
pub(super) fn of_farm(farm: &Farm, public_url: &str) -> Arc<CardKey> {
    let key: Arc<GatewayKey> = farm.key();
    let (kid, public) = (key.kid().to_owned(), key.public().to_bytes());
    // What is signed begins with a JOSE header, letters of the farm with their own words: neither passes for the other.
    let sign = move |bytes: &[u8]| URL_SAFE_NO_PAD.decode(key.sign(bytes)).unwrap_or_default();
    Arc::new(CardKey::lent(kid, public, Arc::new(sign)).published_at(format!("{}{KEYS_PATH}", public_url.trim_end_matches('/'))))
}

/// The keys of all gateways that the farm's root vouches for: a card that one of them signed is checked with the keys
/// that any of them shows.
pub(super) fn known_to(farm: &Farm) -> Vec<CardPublicKey> {
    let now = farm.membership.now();
    let ring = farm.membership.ring();
    let ring = ring.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let of = |gateway: &str| ring.keys_of(gateway, now).unwrap_or_default().into_iter().map(|key| (kid_of(gateway, key), key.to_bytes())).collect::<Vec<_>>();
    let names = farm.membership.gateways().into_iter().map(|gateway| gateway.name);
    names.flat_map(|name| of(&name)).map(|(kid, bytes)| CardPublicKey { kid, algorithm: Algorithm::EdDsa, bytes: bytes.to_vec() }).collect()
}
